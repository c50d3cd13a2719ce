// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/entropy/split_exponent/lossless.hpp>
#include <sluice/format/checksum.hpp>
#include <sluice/tensor/half.hpp>

#include <doctest/doctest.h>
#include <support/isas.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

using sluice::dtype;
using sluice::isa;
using sluice::status;
using bytes = std::vector<std::byte>;

constexpr dtype all_types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2, dtype::bytes};

constexpr int raw_size(dtype t, int rows, int n) { return rows * n * sluice::size_of(t); }

bytes encode(dtype t, int rows, int n, const bytes& elements, isa on = isa::best) {
  bytes workspace, out(sluice::lossless_max_size(t, rows, n), std::byte{0xcd});
  const auto row = static_cast<std::size_t>(raw_size(t, 1, n));
  out.resize(sluice::lossless_encode(t, rows, n, elements.data(), row, out, workspace, on));
  out.shrink_to_fit();  // the sanitizer sees what is read beyond the end
  return out;
}

// Encodes and decodes on every instruction set; returns the size.
std::size_t round_trip(dtype t, int rows, int n, const bytes& elements) {
  REQUIRE(elements.size() == static_cast<std::size_t>(raw_size(t, rows, n)));
  const bytes coded = encode(t, rows, n, elements);
  if (rows > 0 && n > 0) REQUIRE(!coded.empty());
  REQUIRE(coded.size() <= sluice::lossless_max_size(t, rows, n));
  for (const isa on : isas::all) {
    if (on != isa::best) REQUIRE(encode(t, rows, n, elements, on) == coded);
    bytes workspace, back(elements.size(), std::byte{0xee});
    REQUIRE(sluice::lossless_decode(t, rows, n, coded, back.data(), static_cast<std::size_t>(raw_size(t, 1, n)),
                                    workspace, on) == status::ok);
    REQUIRE(back == elements);
  }
  return coded.size();
}

bytes random_bytes(std::size_t size, std::mt19937_64& random) {
  bytes b(size);
  for (auto& x : b) x = static_cast<std::byte>(random());
  return b;
}

// Channels as caches have them: a scale each, some with a mean far from zero.
bytes channels(dtype t, int rows, int n, std::mt19937_64& random, float outliers = 0.f) {
  std::normal_distribution<float> normal;
  std::vector<float> scale(static_cast<std::size_t>(n)), mean = scale;
  for (int c = 0; c < n; ++c) {
    scale[static_cast<std::size_t>(c)] = std::exp2(1.5f * normal(random));
    mean[static_cast<std::size_t>(c)] = c % 8 == 5 ? 12.f * scale[static_cast<std::size_t>(c)] : 0.f;
  }
  bytes b(static_cast<std::size_t>(raw_size(t, rows, n)));
  for (int r = 0; r < rows; ++r)
    for (int c = 0; c < n; ++c) {
      float x = mean[static_cast<std::size_t>(c)] + scale[static_cast<std::size_t>(c)] * normal(random);
      if (outliers > 0 && std::uniform_real_distribution<float>()(random) < outliers)
        x = std::ldexp(x, static_cast<int>(random() % 40) - 30);
      std::byte* const to = b.data() + raw_size(t, r, n) + raw_size(t, 1, c);
      if (t == dtype::bytes)
        *to = static_cast<std::byte>(static_cast<int>(std::lround(x * 4)));
      else
        sluice::store_element(to, t, x);
    }
  return b;
}

const char* name(dtype t) { return sluice::to_string(t); }

}  // namespace

TEST_CASE("lossless: random bits of every type in many shapes") {
  const std::uint64_t seed = 3;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  for (const dtype t : all_types)
    for (const int rows : {1, 2, 7, 33, 256})
      for (const int n : {1, 3, 31, 32, 33, 64, 129, 256, 257, 530}) {
        CAPTURE(std::string(name(t)));
        CAPTURE(rows);
        CAPTURE(n);
        const auto size = round_trip(t, rows, n, random_bytes(static_cast<std::size_t>(raw_size(t, rows, n)), random));
        const int strips = (n + (t == dtype::bytes ? 127 : 255)) / (t == dtype::bytes ? 128 : 256);
        if (raw_size(t, rows, n) >= 64 * strips)
          REQUIRE(size <= static_cast<std::size_t>(raw_size(t, rows, n)) * 65 / 64);
      }
}

TEST_CASE("lossless: channels of every type, in many shapes, with and without rare values") {
  const std::uint64_t seed = 5;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  for (const dtype t : all_types)
    for (const int rows : {16, 100, 256})
      for (const int n : {5, 64, 192, 300})
        for (const float outliers : {0.f, 0.002f, 0.05f, 0.5f}) {
          CAPTURE(std::string(name(t)));
          CAPTURE(rows);
          CAPTURE(n);
          CAPTURE(outliers);
          const auto size = round_trip(t, rows, n, channels(t, rows, n, random, outliers));
          if (rows == 256 && n == 192 && outliers == 0) {
            const double ratio = raw_size(t, rows, n) / static_cast<double>(size);
            MESSAGE(std::string(name(t)) << ": " << ratio);
            CHECK(ratio > (t == dtype::f32 ? 1.18 : t == dtype::bf16 ? 1.5 : t == dtype::f16 ? 1.18 : 1.15));
          }
        }
}

TEST_CASE("lossless: every pattern of 16 and 8 bits, in orders that no model expects") {
  const std::uint64_t seed = 9;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  std::vector<std::uint16_t> all(65536);
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint16_t>(i);
  for (int order = 0; order < 3; ++order) {
    bytes b(131072);
    std::memcpy(b.data(), all.data(), b.size());
    for (const dtype t : {dtype::f16, dtype::bf16}) {
      round_trip(t, 256, 256, b);
      round_trip(t, 65536 / 32, 32, b);
      round_trip(t, 32, 2048, b);
    }
    for (const dtype t : {dtype::e4m3, dtype::e5m2, dtype::bytes}) round_trip(t, 512, 256, b);
    round_trip(dtype::f32, 256, 128, b);
    if (order == 0)
      for (auto& x : all) x = static_cast<std::uint16_t>(x << 8 | x >> 8);  // columns of one exponent
    else
      std::shuffle(all.begin(), all.end(), random);
  }
}

TEST_CASE("lossless: NaN payloads, infinities, zeros of both signs and subnormals beside ordinary values") {
  const std::uint64_t seed = 10;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  const std::uint32_t specials[6][8] = {
      {0x7fc00000, 0xffc12345, 0x7f800001, 0x7f800000, 0xff800000, 0x80000000, 0x00000001, 0x807fffff},
      {0x7e00, 0xfe01, 0x7c01, 0x7c00, 0xfc00, 0x8000, 0x0001, 0x83ff},
      {0x7fc0, 0xffc1, 0x7f81, 0x7f80, 0xff80, 0x8000, 0x0001, 0x807f},
      {0x7f, 0xff, 0x00, 0x7e, 0xfe, 0x80, 0x01, 0x87},
      {0x7e, 0xfe, 0x7d, 0x7c, 0xfc, 0x80, 0x01, 0x83},
      {0x00, 0xff, 0x80, 0x7f, 0x01, 0xf0, 0x0f, 0x55}};
  for (const dtype t : all_types)
    for (const int every : {1, 3, 50, 5000}) {
      bytes b = channels(t, 128, 70, random);
      for (std::size_t i = 0; i * static_cast<std::size_t>(sluice::size_of(t)) < b.size(); ++i)
        if (random() % static_cast<unsigned>(every) == 0)
          std::memcpy(b.data() + i * static_cast<std::size_t>(sluice::size_of(t)),
                      &specials[static_cast<int>(t)][random() % 8], static_cast<std::size_t>(sluice::size_of(t)));
      round_trip(t, 128, 70, b);
    }
}

TEST_CASE("lossless: columns of a few values, mostly one, of both signs") {
  const std::uint64_t seed = 11;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 400; ++i) {
    const dtype t = all_types[i % 6];
    const auto size = static_cast<std::size_t>(sluice::size_of(t));
    const int rows = 1 + static_cast<int>(random() % 90), n = 1 + static_cast<int>(random() % 40);
    const bytes palette = random_bytes(64 * size, random);
    const unsigned kinds = 1u << random() % 7, common = static_cast<unsigned>(random() % 20);
    const bool near = random() % 2;  // values that differ in their low bits
    bytes b(static_cast<std::size_t>(raw_size(t, rows, n)));
    for (std::size_t at = 0; at < b.size(); at += size) {
      const std::size_t which = random() % 20 < common ? 0 : random() % kinds;
      std::memcpy(&b[at], &palette[near && random() % 30 ? 0 : which * size], size);
      if (near) b[at] ^= static_cast<std::byte>(which);
    }
    round_trip(t, rows, n, b);
  }
}

TEST_CASE("lossless: one number of the other sign, wherever it comes round to") {
  for (const dtype t : {dtype::e4m3, dtype::e5m2, dtype::f16, dtype::bf16, dtype::f32})
    for (const std::uint32_t spread : {2u, 6u, 40u, 200u})
      for (const std::uint32_t negative : {0u, 1u})
        for (std::uint32_t c = 0; c < 40; ++c) {
          // Alone in its tile: beside other columns a symbol that was not foreseen may have a frequency from them.
          const int bits = 8 * sluice::size_of(t), rows = 300;
          const std::uint32_t sign = 1u << (bits - 1);
          bytes b(static_cast<std::size_t>(raw_size(t, rows, 1)));
          for (std::uint32_t r = 0; r < 300; ++r) {
            const std::uint32_t v =
                (r == 7 ? sign | (c < 20 ? c : sign - 1 - (c - 20)) : r * r * 7 % spread) ^ negative * sign;
            std::memcpy(&b[r * static_cast<unsigned>(bits / 8)], &v, static_cast<std::size_t>(bits / 8));
          }
          round_trip(t, rows, 1, b);
        }
}

TEST_CASE("lossless: what is alike costs next to nothing") {
  for (const dtype t : all_types) {
    CAPTURE(std::string(name(t)));
    bytes b(static_cast<std::size_t>(raw_size(t, 256, 192)));
    CHECK(round_trip(t, 256, 192, b) < 1200);  // zeros
    for (std::size_t i = 0; i < b.size(); ++i)
      b[i] = static_cast<std::byte>(i % static_cast<std::size_t>(raw_size(t, 1, 192)) * 37);
    CHECK(round_trip(t, 256, 192, b) < 2000);  // each column its own constant
    b[77] ^= std::byte{0x10};
    CHECK(round_trip(t, 256, 192, b) < 2200);  // but for one element
  }
}

TEST_CASE("lossless: a wider type is seen through") {
  const std::uint64_t seed = 12;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  const bytes narrow = channels(dtype::bf16, 256, 96, random);
  bytes wide(2 * narrow.size());
  for (std::size_t i = 0; i < narrow.size() / 2; ++i)
    sluice::store_element(wide.data() + 4 * i, dtype::f32, sluice::load_element(narrow.data() + 2 * i, dtype::bf16));
  CHECK(round_trip(dtype::f32, 256, 96, wide) < round_trip(dtype::bf16, 256, 96, narrow) + 100);
  for (std::size_t i = 0; i < narrow.size() / 2; ++i)
    sluice::store_element(wide.data() + 4 * i, dtype::f32, std::ldexp(1.f, static_cast<int>(i % 7)));
  CHECK(round_trip(dtype::f32, 256, 96, wide) < wide.size() / 5);
}

TEST_CASE("lossless: packed four-bit codes and eight-bit integers around zero") {
  const std::uint64_t seed = 14;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  bytes eight(256 * 128), four(256 * 128);
  for (std::size_t i = 0; i < eight.size(); ++i) {
    eight[i] = static_cast<std::byte>(static_cast<int>(std::lround(12 * normal(random))));
    const int low = static_cast<int>(std::lround(1.2f * normal(random))),
              high = static_cast<int>(std::lround(1.2f * normal(random)));
    four[i] = static_cast<std::byte>((low & 15) | (high & 15) << 4);
  }
  CHECK(round_trip(dtype::bytes, 256, 128, eight) < eight.size() * 74 / 100);
  CHECK(round_trip(dtype::bytes, 256, 128, four) < four.size() * 66 / 100);
}

TEST_CASE("lossless: rows apart from one another, on both sides") {
  const std::uint64_t seed = 15;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  for (const dtype t : all_types) {
    constexpr int rows = 64, n = 71;
    const bytes dense = channels(t, rows, n, random);
    const auto row = static_cast<std::size_t>(raw_size(t, 1, n));
    const std::size_t pitch = row + 9;  // elements need no alignment
    bytes apart(pitch * rows, std::byte{0x77}), workspace;
    for (std::size_t r = 0; r < rows; ++r) std::memcpy(&apart[r * pitch], &dense[r * row], row);
    bytes out(sluice::lossless_max_size(t, rows, n));
    for (const isa on : isas::all) {
      const std::size_t size = sluice::lossless_encode(t, rows, n, apart.data(), pitch, out, workspace, on);
      REQUIRE(bytes(out.begin(), out.begin() + static_cast<std::ptrdiff_t>(size)) == encode(t, rows, n, dense));
      bytes back(pitch * rows, std::byte{0x77});
      REQUIRE(sluice::lossless_decode(t, rows, n, std::span(out).first(size), back.data(), pitch, workspace, on) ==
              status::ok);
      REQUIRE(back == apart);
    }
  }
}

TEST_CASE("lossless: arguments") {
  bytes workspace, in(64), out(1000);
  CHECK(sluice::lossless_max_size(dtype::f16, 0, 5) == 0);
  CHECK(sluice::lossless_max_size(dtype::f16, 10, 256) == 5121);
  CHECK(sluice::lossless_max_size(dtype::f16, 10, 257) == 5142);
  CHECK(sluice::lossless_max_size(dtype::bytes, 10, 129) == 1292);
  CHECK(sluice::lossless_encode(dtype::f16, 0, 5, in.data(), 10, out, workspace) == 0);
  CHECK(sluice::lossless_encode(dtype::f16, 40000, 5, in.data(), 10, out, workspace) == 0);
  CHECK(sluice::lossless_encode(dtype::f16, 2, 16, in.data(), 32, std::span(out).first(64), workspace) == 0);
  CHECK(sluice::lossless_encode(dtype::f16, 2, 16, in.data(), 32, std::span(out).first(65), workspace) > 0);
  CHECK(sluice::lossless_decode(dtype::f16, -1, 16, {}, out.data(), 32, workspace) == status::invalid_argument);
  CHECK(sluice::lossless_decode(dtype::f16, 0, 16, {}, out.data(), 32, workspace) == status::ok);
  CHECK(sluice::lossless_decode(dtype::f16, 0, 16, in, out.data(), 32, workspace) == status::corrupt_tile);
  CHECK(sluice::lossless_decode(dtype::f16, 2, 16, {}, out.data(), 32, workspace) == status::truncated);
}

TEST_CASE("lossless: every truncation is refused, every other byte does no harm") {
  const std::uint64_t seed = 16;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  for (const dtype t : all_types) {
    CAPTURE(std::string(name(t)));
    const int rows = 40, n = t == dtype::bytes ? 150 : 40;
    const bytes coded = encode(t, rows, n, channels(t, rows, n, random, 0.01f));
    bytes workspace, back(static_cast<std::size_t>(raw_size(t, rows, n)));
    const auto row = static_cast<std::size_t>(raw_size(t, 1, n));
    for (std::size_t size = 0; size < coded.size(); ++size) {
      const bytes cut(coded.begin(), coded.begin() + static_cast<std::ptrdiff_t>(size));
      REQUIRE(sluice::lossless_decode(t, rows, n, cut, back.data(), row, workspace) != status::ok);
    }
    bytes longer = coded;
    longer.push_back(std::byte{0});
    REQUIRE(sluice::lossless_decode(t, rows, n, longer, back.data(), row, workspace) == status::corrupt_tile);
    for (std::size_t at = 0; at < coded.size(); ++at)
      for (const unsigned flip : {1u, 0x80u, 0xffu, static_cast<unsigned>(random() % 255 + 1)})
        for (const isa on : isas::all) {
          bytes wrong = coded;
          wrong[at] ^= static_cast<std::byte>(flip);
          const status s = sluice::lossless_decode(t, rows, n, wrong, back.data(), row, workspace, on);
          REQUIRE((s == status::ok || s == status::truncated || s == status::corrupt_tile));
        }
  }
}

TEST_CASE("lossless: instruction sets agree on damaged bytes too") {
  const std::uint64_t seed = 17;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 600; ++i) {
    const dtype t = all_types[random() % 6];
    const int rows = 1 + static_cast<int>(random() % 40), n = 1 + static_cast<int>(random() % 300);
    bytes coded = encode(t, rows, n, channels(t, rows, n, random, 0.01f));
    for (int k = 0; k < 2; ++k)
      coded[random() % std::min<std::size_t>(coded.size(), k ? coded.size() : 400)] = static_cast<std::byte>(random());
    status first = status::absent;
    bytes expected;
    for (const isa on : isas::all) {
      bytes workspace, back(static_cast<std::size_t>(raw_size(t, rows, n)));
      const status s = sluice::lossless_decode(t, rows, n, coded, back.data(),
                                               static_cast<std::size_t>(raw_size(t, 1, n)), workspace, on);
      if (on == isas::all[0]) first = s, expected = back;
      REQUIRE(s == first);
      if (s == status::ok) REQUIRE(back == expected);
    }
  }
}

TEST_CASE("lossless: the bytes stay what they are") {
  // What an encoder writes may change with a better one; what these bytes mean may not.
  constexpr unsigned char golden[] = {
      1,   15,  0,   0,   207, 0,   0,   0,   0,   0,   0,   0,   0,  0,   0,   0,   32,  0,   0,   0,   0,   0,   13,
      25,  21,  43,  100, 1,   8,   7,   8,   4,   7,   14,  30,  12, 240, 1,   3,   5,   7,   9,   11,  13,  15,  17,
      19,  21,  23,  25,  27,  29,  31,  1,   3,   5,   7,   9,   11, 13,  15,  17,  19,  21,  23,  25,  27,  29,  31,
      1,   3,   5,   7,   9,   11,  13,  15,  17,  19,  21,  23,  25, 27,  29,  31,  0,   1,   185, 3,   192, 56,  39,
      1,   245, 23,  0,   1,   0,   1,   0,   1,   0,   1,   0,   1,  0,   1,   0,   1,   0,   1,   0,   1,   0,   1,
      0,   1,   0,   1,   0,   1,   0,   1,   0,   1,   0,   1,   0,  1,   0,   1,   0,   1,   0,   1,   0,   1,   0,
      1,   0,   1,   0,   1,   0,   1,   0,   1,   0,   1,   3,   49, 79,  245, 176, 192, 245, 79,  59,  245, 79,  192,
      245, 42,  245, 79,  192, 220, 245, 79,  252, 192, 49,  152, 79, 176, 79,  192, 196, 59,  79,  192, 42,  182, 79,
      217, 192, 79,  70,  228, 79,  189, 211, 79,  98,  233, 51,  80, 126, 27,  47,  71,  120, 203, 1,   88,  119, 43};
  bytes tile(48 * 5), back(tile.size()), workspace;
  for (unsigned r = 0; r < 48; ++r) {
    const unsigned row[5] = {7, r % 3, 20 * (r % 2) + 3, 2u - r * r % 5, r};
    for (unsigned c = 0; c < 5; ++c) tile[r * 5 + c] = static_cast<std::byte>(row[c]);
  }
  for (const isa on : isas::all) {
    REQUIRE(sluice::lossless_decode(dtype::bytes, 48, 5, std::as_bytes(std::span(golden)), back.data(), 5, workspace,
                                    on) == status::ok);
    REQUIRE(back == tile);
  }

  // The encoder as it is: size and checksum for every type.
  constexpr struct {
    std::size_t size;
    std::uint32_t checksum;
  } encoded[] = {{27687, 1107369896u}, {14871, 345890295u}, {11962, 990167077u},
                 {7546, 1882833999u},  {6987, 948086824u},  {4962, 1019839570u}};
  std::mt19937 random(1);  // the engine's sequence is part of the standard
  for (const dtype t : all_types) {
    bytes b(static_cast<std::size_t>(raw_size(t, 96, 80)));
    for (std::size_t i = 0; i < b.size() / static_cast<std::size_t>(sluice::size_of(t)); ++i) {
      const auto x = static_cast<std::uint32_t>(random());
      const float value = std::ldexp(static_cast<float>(x & 0xffff) + 1.f, -static_cast<int>(x >> 20 & x >> 24 & 15)) *
                          (x >> 16 & 1 ? 1.f : -1.f);
      if (t == dtype::bytes)
        b[i] = static_cast<std::byte>((x & 15) + (x >> 8 & 15));
      else
        sluice::store_element(b.data() + i * static_cast<std::size_t>(sluice::size_of(t)), t,
                              value * (i % 80 < 40 ? 0.001f : 0.02f));
    }
    const bytes c = encode(t, 96, 80, b);
    CHECK(c.size() == encoded[static_cast<int>(t)].size);
    CHECK(sluice::checksum(c.data(), c.size(), 0) == encoded[static_cast<int>(t)].checksum);
  }
}
