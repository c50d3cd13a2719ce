// SPDX-License-Identifier: Apache-2.0
// Kernels that make frames of integers, on the emulator.
#include <cuda_on_host.hpp>

#include <doctest/doctest.h>
#include <sluice/codec/instances.hpp>
#include <support/captures.hpp>
#include <support/cuda_encode_checks.hpp>
#include <support/cuda_encode_pages.hpp>

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

using namespace sluice;
namespace checks = cuda_encode_checks;

namespace {

constexpr std::uint64_t seed = 20251129;

#if defined(__SANITIZE_THREAD__)
constexpr int fewer = 5;  // it is twenty times slower, and one case meets as many barriers as many do
#else
constexpr int fewer = 1;
#endif

}  // namespace

TEST_CASE("encode tables: codes, reciprocals and classes are those of the tables that decoders have") {
  const auto t = std::make_unique<cuda::encode_tables>();
  cuda::pack_encode_tables(t.get());
  for (unsigned f = 1; f <= 256; ++f) {
    const cuda::encode_code c = cuda::encode_code::of(0, f);
    for (std::uint32_t x = 0; x < 256 * f; ++x)
      if (x * c.reciprocal >> 24 != x / f) FAIL("f ", f, " x ", x);
  }
  for (int c = 0; c < 256; ++c) {
    const auto cls = std::uint8_t(c);
    const detail::class_tables& of = detail::class_table[c];
    const auto slots = [](const cuda::encode_code& e) { return 256 - (e.word >> 24); };
    const auto bits = [&](const cuda::encode_code& e) { return detail::count_bits[slots(e)]; };
    unsigned sum = 0, digits[2] = {};
    const int symbols = detail::base_symbols(of);
    CHECK(symbols % 2 == 1);  // as many above zero as below: whatever is within the limit has a code
    for (int s = 0; s < symbols; ++s) {
      CHECK((t->base[s][c].word & 255) == sum);
      sum += slots(t->base[s][c]);
      CHECK(bits(t->base[s][c]) == detail::symbol_bits(of.base, 15, s));
    }
    CHECK(sum == 256);
    CHECK(t->limit[c] == detail::clip_limit(cls, 0));
    for (int row = 0; row < cuda::encode_digit_rows && of.zero[0] != 255; ++row) {
      CHECK(bits(t->digit[row][c]) == detail::bits_ternary(cls, 0, row / 3, row % 3 - 1));
      digits[row / 3] += slots(t->digit[row][c]);
    }
    CHECK((of.zero[0] == 255) == !detail::live(cls, 0));
    CHECK((of.zero[0] == 255 || (digits[0] == 256 && digits[1] == 256)));
    for (int back = 0; back < max_passes; ++back) {
      CHECK(cuda::class_in_pass(cls, back) == detail::class_at(cls, back));
      if (back) CHECK(detail::live(cls, back) <= detail::live(cls, back - 1));  // once alive, always
    }
  }
  std::mt19937_64 random(seed);
  for (int i = 0; i < 100000; ++i) {
    const float sigma = i < 64 ? t->edge[i] : std::exp2(float(random() % 40000) / 1000 - 10);
    const auto w = std::size_t(std::upper_bound(t->edge, t->edge + 64, sigma) - t->edge - 1);
    if (i > 1) CHECK(std::max<std::size_t>(w, 1) == detail::class_of(sigma, 0));
  }
  for (int n = 0; n < max_passes; ++n) {
    const cuda::encode_third third = cuda::encode_third::of(n);
    CHECK(cuda::power3(n) == detail::power_of_3(n));
    for (int v = -32768; v <= 32768; ++v) {
      int by_steps = v;
      for (int k = 0; k < n; ++k) by_steps = detail::coarser(by_steps);
      const auto product = std::int64_t{4 * v + third.offset} * third.magic;
      if (int(product >> 32) != by_steps) FAIL("n ", n, " v ", v);
    }
  }
}

TEST_CASE("encode kernels, emulated: the frame of a real cache is that of a CPU") {
  const captures::memory cache = captures::load(captures::sample);
  const profile p = captures::known();
  const checks::comparison c = checks::both(p, cache.view);
  MESSAGE(checks::to_string(c));
  CHECK((c.deltas > 30 && c.exceptions[0] > 10));
  CHECK(c.equal == c.tiles);
}

TEST_CASE("encode kernels, emulated: frames of any integers, shapes, classes and levels are those of a CPU") {
  MESSAGE("seed ", seed);
  using six_levels = checks::watched::with_quantizer<embedded<5>>;
  cuda_on_host::the_machine.how = cuda_on_host::order::random;
  checks::comparison c = checks::any_integers<six_levels::with_grouping<tile_tokens<16>>>(seed, 20 / fewer, 70);
  cuda_on_host::the_machine.how = cuda_on_host::order::down;
  c += checks::any_integers<checks::watched>(seed + 1000, 20 / fewer, 300);
  c += checks::any_integers<six_levels::with_grouping<tile_tokens<1024>>>(seed + 2000, 10 / fewer, 1100);
  cuda_on_host::the_machine.how = cuda_on_host::order::up;
  MESSAGE(checks::to_string(c));
  for (const int n : {c.kept, c.deltas, c.classes, c.exceptions[0], c.exceptions[1], c.parts})
    CHECK((n > 5 || fewer > 1));
}

TEST_CASE("encode kernels, emulated: frames that fit, frames that do not, and their neighbours") {
  MESSAGE("seed ", seed);
  checks::limits(seed);
}

TEST_CASE("encode kernels, emulated: what earlier stages refuse is said, and nothing is written") {
  MESSAGE("seed ", seed);
  checks::refusals(seed);
}

TEST_CASE("encode, emulated: pages of a real cache to a frame") {
  if (fewer > 1) return;
  const captures::memory cache = captures::load(captures::sample);
  const checks::comparison c = checks::pages<codec::standard>(captures::known(), {&cache.view, 1}, 1.002, 1.001);
  MESSAGE(checks::to_string(c));
}

TEST_CASE("encode, emulated: pages of engines to frames") {
  MESSAGE("seed ", seed);
  for (const bool calibrated : {true, false}) MESSAGE(checks::to_string(checks::pages_of_engines(seed, calibrated)));
}
