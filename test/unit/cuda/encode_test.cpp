// SPDX-License-Identifier: Apache-2.0
// Kernels that make frames of integers, on the emulator.
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <support/captures.hpp>
#include <support/cuda_encode_checks.hpp>

#include <vector>

using namespace sluice;
namespace checks = cuda_encode_checks;

TEST_CASE("encode kernels, emulated: the frame of a real cache is that of a CPU") {
  const captures::memory cache = captures::load(captures::sample);
  const profile p = captures::known();
  const checks::made_frame cpu = checks::on_cpu(p, cache.view);
  const checks::asked_frame asked{&cpu, cache.view};
  const checks::run_result got = checks::on_device(p, {&asked, 1});
  REQUIRE(got.frames[0].what.state == status::ok);
  const checks::comparison c = checks::compare(p, cache.view, cpu.bytes, got.frames[0].bytes);
  MESSAGE(c.equal, " of ", c.tiles, " tiles are equal, ", c.bytes[1], " bytes instead of ", c.bytes[0]);
  CHECK(c.equal == c.tiles);
}
