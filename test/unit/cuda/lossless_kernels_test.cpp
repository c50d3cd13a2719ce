// SPDX-License-Identifier: Apache-2.0
// The lossless kernels on the emulator.
// races: *
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <support/lossless_kernel_checks.hpp>

namespace {
constexpr unsigned seed = 20261122;
}

TEST_CASE("lossless kernels, emulated: elements of every type") {
  MESSAGE("seed ", seed);
  lossless_checks::every_type(seed);
}
TEST_CASE("lossless kernels, emulated: the passes of the encoder") {
  MESSAGE("seed ", seed + 2);
  lossless_checks::passes(seed + 2);
}
TEST_CASE("lossless kernels, emulated: damaged bytes are refused where the host refuses them") {
  MESSAGE("seed ", seed + 1);
  lossless_checks::damage(seed + 1);
}
