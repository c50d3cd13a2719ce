// SPDX-License-Identifier: Apache-2.0
#include <doctest/doctest.h>
#include <support/captures.hpp>
#include <support/cuda_encode_checks.hpp>
#include <support/cuda_encode_pages.hpp>

using namespace sluice;
namespace checks = cuda_encode_checks;

namespace {
constexpr std::uint64_t seed = 20251129;
}

TEST_CASE("encode kernels: the frame of a real cache is that of a CPU") {
  const captures::memory cache = captures::load(captures::sample);
  const checks::comparison c = checks::both(captures::known(), cache.view);
  MESSAGE(checks::to_string(c));
  CHECK(c.equal == c.tiles);
}

TEST_CASE("encode kernels: frames of any integers, shapes, classes and levels are those of a CPU") {
  MESSAGE("seed ", seed);
  using six_levels = checks::watched::with_quantizer<embedded<5>>;
  checks::comparison c = checks::any_integers<six_levels::with_grouping<tile_tokens<16>>>(seed, 40, 70);
  c += checks::any_integers<checks::watched>(seed + 1000, 40, 300);
  c += checks::any_integers<six_levels::with_grouping<tile_tokens<1024>>>(seed + 2000, 20, 1100);
  MESSAGE(checks::to_string(c));
}

TEST_CASE("encode kernels: frames that fit, frames that do not, and their neighbours") { checks::limits(seed); }

TEST_CASE("encode kernels: what earlier stages refuse is said, and nothing is written") { checks::refusals(seed); }

TEST_CASE("encode: pages to frames") {
  const captures::memory cache = captures::load(captures::sample);
  MESSAGE(checks::to_string(checks::pages<codec::standard>(captures::known(), {&cache.view, 1}, 1.002, 1.001)));
  for (const bool calibrated : {true, false}) MESSAGE(checks::to_string(checks::pages_of_engines(seed, calibrated)));
}
