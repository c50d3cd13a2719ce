// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/entropy/bitpack/bitpack.hpp>

#include <doctest/doctest.h>
#include <support/isas.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace {

using sluice::isa;
using sluice::status;

// The layout as its text has it, one bit at a time.
std::vector<std::byte> pack_by_the_book(int width, const std::vector<std::uint8_t>& values, int stride, int rows,
                                        int blocks) {
  std::vector<std::byte> out;
  for (int first = 0; first < rows; first += 8)
    for (int block = 0; block < blocks; ++block) {
      const int count = std::min(8, rows - first);
      int below = 0;
      for (int part = 8; part >= 1; part /= 2) {
        if (!(width & part)) continue;
        const std::size_t begin = out.size();
        out.resize(begin + static_cast<std::size_t>((count * part + 7) / 8) * 32);
        for (int j = 0; j < count; ++j)
          for (int lane = 0; lane < 32; ++lane) {
            const int code = values[static_cast<std::size_t>((first + j) * stride + 32 * block + lane)];
            const int field = code >> below & ((1 << part) - 1);
            const int plane = j / (8 / part), shift = part * (j % (8 / part));
            out[begin + static_cast<std::size_t>(32 * plane + lane)] |= static_cast<std::byte>(field << shift);
          }
        below += part;
      }
    }
  return out;
}

float f16_at(const std::vector<std::byte>& bytes, std::size_t at) {
  return sluice::load_element(bytes.data() + at, sluice::dtype::f16);
}

}  // namespace

TEST_CASE("bitpack: every width, many shapes, all instruction sets, against the text") {
  const std::uint64_t seed = 7;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  for (int width = 1; width <= 8; ++width)
    for (int rows = 0; rows <= 35; ++rows)
      for (int blocks = 1; blocks <= 3; ++blocks) {
        const int stride = 32 * blocks + 5;
        std::vector<std::uint8_t> values(static_cast<std::size_t>(stride * rows) + 32), codes = values;
        for (auto& v : values) v = static_cast<std::uint8_t>(random());
        std::transform(values.begin(), values.end(), codes.begin(),
                       [&](std::uint8_t v) { return static_cast<std::uint8_t>(v & ((1 << width) - 1)); });
        const auto expected = pack_by_the_book(width, codes, stride, rows, blocks);
        REQUIRE(sluice::packed_size(width, rows, blocks) == expected.size());
        for (const isa on : isas::all) {
          std::vector<std::byte> packed(expected.size() + 1, std::byte{0xa5});
          REQUIRE(sluice::pack_bits(width, values.data(), stride, rows, blocks, packed, on) == status::ok);
          REQUIRE(packed.back() == std::byte{0xa5});
          packed.pop_back();
          REQUIRE(packed == expected);
          std::vector<std::uint8_t> back(values.size(), 0xee);
          REQUIRE(sluice::unpack_bits(width, packed, back.data(), stride, rows, blocks, on) == status::ok);
          for (int r = 0; r < rows; ++r)
            for (int i = 0; i < stride; ++i) {
              const auto at = static_cast<std::size_t>(r * stride + i);
              REQUIRE(back[at] == (i < 32 * blocks ? codes[at] : 0xee));
            }

          // The same as 16 bits, of which the low ones are packed.
          std::vector<std::int16_t> wide(values.size()), wide_back(values.size(), -1);
          std::transform(values.begin(), values.end(), wide.begin(),
                         [](std::uint8_t v) { return static_cast<std::int16_t>(v | 0x5a00); });
          std::vector<std::byte> again(expected.size() + 1, std::byte{0xa5});
          REQUIRE(sluice::pack_bits(width, wide.data(), stride, rows, blocks, again, on) == status::ok);
          REQUIRE(again.back() == std::byte{0xa5});
          again.pop_back();
          REQUIRE(again == expected);
          REQUIRE(sluice::unpack_bits(width, again, wide_back.data(), stride, rows, blocks, on) == status::ok);
          for (int r = 0; r < rows; ++r)
            for (int i = 0; i < stride; ++i) {
              const auto at = static_cast<std::size_t>(r * stride + i);
              REQUIRE(wide_back[at] == (i < 32 * blocks ? codes[at] : -1));
            }
        }
      }
}

TEST_CASE("bitpack: golden bytes") {
  std::vector<std::uint8_t> values(10 * 32);
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint8_t>((i % 32 + 3 * (i / 32)) % 8);
  std::vector<std::byte> packed(sluice::packed_size(3, 10, 1));
  REQUIRE(packed.size() == 32 * (3 + 2));
  REQUIRE(sluice::pack_bits(3, values.data(), 32, 10, 1, packed) == status::ok);
  // lane 1 holds 1 4 7 2 5 0 3 6 | 1 4: low two bits 1 0 3 2 | 1 0 3 2 | 1 0, high bits 0 1 1 0 1 0 0 1 | 0 1
  CHECK(packed[1] == std::byte{0b10'11'00'01});
  CHECK(packed[33] == std::byte{0b10'11'00'01});
  CHECK(packed[65] == std::byte{0b10010110});
  CHECK(packed[97] == std::byte{0b00'01});
  CHECK(packed[129] == std::byte{0b10});
}

TEST_CASE("bitpack: arguments and sizes are checked") {
  std::vector<std::uint8_t> values(64);
  std::vector<std::byte> bytes(sluice::packed_size(4, 2, 1));
  CHECK(sluice::pack_bits(0, values.data(), 32, 2, 1, bytes) == status::invalid_argument);
  CHECK(sluice::pack_bits(9, values.data(), 32, 2, 1, bytes) == status::invalid_argument);
  CHECK(sluice::pack_bits(4, values.data(), 31, 2, 1, bytes) == status::invalid_argument);
  CHECK(sluice::pack_bits(4, values.data(), 32, -1, 1, bytes) == status::invalid_argument);
  CHECK(sluice::pack_bits(5, values.data(), 32, 2, 1, bytes) == status::output_too_small);
  CHECK(sluice::unpack_bits(5, bytes, values.data(), 32, 2, 1) == status::truncated);
  CHECK(sluice::unpack_bits(2, bytes, values.data(), 32, 2, 1) ==
        status::ok);  // two rows of 2 bits fill no plane either
  CHECK(sluice::unpack_bits(4, bytes, values.data(), 32, 1, 1) == status::ok);
  CHECK(sluice::unpack_bits(1, bytes, values.data(), 32, 0, 1) == status::corrupt_tile);
  float x[64] = {};
  CHECK(sluice::quantize_groups(4, 12, x, 32, 2, 1, bytes) == status::invalid_argument);
  CHECK(sluice::quantize_groups(4, 0, x, 32, 2, 1, bytes) == status::invalid_argument);
  CHECK(sluice::quantize_groups(4, 8, x, 32, 2, 1, bytes) == status::output_too_small);
  CHECK(sluice::dequantize_groups(4, 8, bytes, x, 32, 2, 1) == status::truncated);
  CHECK(sluice::packed_size(0, 1, 1) == 0);
  CHECK(sluice::quantized_size(4, 8, 0, 1) == 0);
}

TEST_CASE("bitpack: group scales reach both ends and round outwards") {
  const std::uint64_t seed = 11;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  sluice::f16 step, zero;
  for (int i = 0; i < 200000; ++i) {
    const float a = std::ldexp(static_cast<float>(random()) / 1.8e19f - 0.5f, static_cast<int>(random() % 40) - 24);
    const float b =
        i % 5 ? std::ldexp(static_cast<float>(random()) / 1.8e19f - 0.5f, static_cast<int>(random() % 40) - 24) : a;
    const float low = std::min(a, b), high = std::max(a, b);
    const int levels = (2 << random() % 8) - 1;
    if (!sluice::detail::group_scale(low, high, levels, step, zero)) {
      REQUIRE(std::max(std::abs(low), (high - low) / static_cast<float>(levels)) > 65000.f);
      continue;
    }
    const float s = sluice::to_float(step), z = sluice::to_float(zero);
    REQUIRE(z <= low);
    REQUIRE(sluice::to_float(sluice::detail::next_above(zero)) > low);
    REQUIRE(std::isfinite(s));
    REQUIRE(double(z) + double(levels) * s >= double(high) - 1e-6 * (std::abs(low) + std::abs(high)));
    REQUIRE((s > 0 || z == high));
  }
  CHECK_FALSE(sluice::detail::group_scale(-65520.f, 0, 15, step, zero));
  CHECK_FALSE(sluice::detail::group_scale(-65504.f, 65504.f, 1, step, zero));
  CHECK(sluice::detail::group_scale(-65504.f, 65504.f, 3, step, zero));
  CHECK(sluice::detail::group_scale(70000.f, 70000.f, 3, step, zero));
  CHECK_FALSE(sluice::detail::group_scale(0, INFINITY, 255, step, zero));
  CHECK_FALSE(sluice::detail::group_scale(-INFINITY, 0, 255, step, zero));
  CHECK_FALSE(sluice::detail::group_scale(NAN, NAN, 255, step, zero));
}

TEST_CASE("bitpack: quantised groups are within half a step on all instruction sets, bit for bit alike") {
  const std::uint64_t seed = 13;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (int width = 1; width <= 8; ++width)
    for (const int group_rows : {8, 32, 64})
      for (const int rows : {1, 7, 8, 30, 64, 77})
        for (const int blocks : {1, 2}) {
          const int stride = 32 * blocks + 3;
          std::vector<float> x(static_cast<std::size_t>(stride * rows));
          for (int r = 0; r < rows; ++r)
            for (int i = 0; i < stride; ++i) {
              // means from outlier channels to nothing, spreads down to none
              const float mean = i % 7 == 0 ? 150.f : i % 7 == 1 ? -3.f : 0.f;
              const float spread = i % 11 == 0 ? 0.f : std::ldexp(1.f, i % 24 - 16);
              x[static_cast<std::size_t>(r * stride + i)] = i % 13 == 0 ? 0.f : mean + spread * normal(random);
            }
          std::vector<std::byte> first;
          std::vector<float> decoded;
          for (const isa on : isas::all) {
            std::vector<std::byte> bytes(sluice::quantized_size(width, group_rows, rows, blocks));
            REQUIRE(sluice::quantize_groups(width, group_rows, x.data(), stride, rows, blocks, bytes, on) ==
                    status::ok);
            std::vector<float> y(x.size(), -7.f);
            REQUIRE(sluice::dequantize_groups(width, group_rows, bytes, y.data(), stride, rows, blocks, on) ==
                    status::ok);
            if (first.empty()) {
              first = bytes;
              decoded = y;
            }
            REQUIRE(bytes == first);
            REQUIRE(std::memcmp(y.data(), decoded.data(), 4 * y.size()) == 0);
          }
          for (int r = 0; r < rows; ++r) {
            for (int i = 0; i < 32 * blocks; ++i) {
              const auto scale = static_cast<std::size_t>(128 * (r / group_rows * blocks + i / 32) + 2 * (i % 32));
              const float step = f16_at(first, scale), zero = f16_at(first, scale + 64);
              const auto at = static_cast<std::size_t>(r * stride + i);
              REQUIRE(std::abs(decoded[at] - x[at]) <= 0.501f * step + 1e-6f * std::abs(x[at]));
              REQUIRE(zero <= x[at]);
            }
            REQUIRE(decoded[static_cast<std::size_t>(r * stride + 32 * blocks)] == -7.f);
          }
        }
}

TEST_CASE("bitpack: constants, zeros and ranges beyond f16") {
  std::vector<float> x(32 * 16, 0.f), y(x.size());
  std::vector<std::byte> bytes(sluice::quantized_size(4, 16, 16, 1));
  const auto both_ways = [&] {
    REQUIRE(sluice::quantize_groups(4, 16, x.data(), 32, 16, 1, bytes) == status::ok);
    REQUIRE(sluice::dequantize_groups(4, 16, bytes, y.data(), 32, 16, 1) == status::ok);
  };
  both_ways();
  CHECK(x == y);
  for (auto& v : x) v = -2.75f;
  both_ways();
  CHECK(x == y);
  for (auto& v : x) v = 0.1f;  // not an f16: zero lies below and the step is an f16 subnormal or little more
  both_ways();
  for (const float v : y) CHECK(std::abs(v - 0.1f) < 1e-5f);
  x[5] = 1e6f;
  CHECK(sluice::quantize_groups(4, 16, x.data(), 32, 16, 1, bytes) == status::too_large);
  x[5] = -65535.f;
  CHECK(sluice::quantize_groups(4, 16, x.data(), 32, 16, 1, bytes) == status::too_large);
  x[5] = 65504.f;
  both_ways();
  CHECK(std::abs(y[5] - 65504.f) <= 4400 * 0.5f);
  for (const float special : {NAN, INFINITY, -INFINITY}) {  // some code or a refusal, no harm
    x[5] = special;
    for (const isa on : isas::all) (void)sluice::quantize_groups(4, 16, x.data(), 32, 16, 1, bytes, on);
  }
  for (auto& b : bytes) b = std::byte{0xff};
  CHECK(sluice::dequantize_groups(4, 16, bytes, y.data(), 32, 16, 1) == status::ok);
}
