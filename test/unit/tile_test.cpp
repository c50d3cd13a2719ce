// SPDX-License-Identifier: Apache-2.0
// The envelope of a tile: what is written is read again, and bytes that lie about it are refused before they are followed.
#include <sluice/codec/entropy/class_rans/section.hpp>
#include <sluice/format/tile.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

namespace {

using namespace sluice;

using bytes = std::vector<std::uint8_t>;

constexpr int tokens = 40;
constexpr std::size_t row_bytes = 6;
constexpr unsigned seed = 1789;

// Covers tokens 3 to 32 of a token tile, three of them exact; sections 1, 3 and 7, and 3 alone in the refinement.
struct written {
  tile_writer w;
  std::vector<std::uint16_t> exact{0, 7, 29};
  bytes rows, base, refinement;

  written() {
    for (std::size_t i = 0; i < exact.size() * row_bytes; ++i) rows.push_back(std::uint8_t(100 + i));
    w.put_bytes(0, section::transform, "mean", 4);
    w.put(0, section::entropy, std::uint16_t{0xabcd});
    w.put(0, section::other7, std::uint8_t{9});
    w.put_bytes(1, section::entropy, "refined", 7);
    w.finish(0, 3, 30, exact, rows, base);
    w.finish(1, 3, 30, exact, rows, refinement);
  }
};

// What the parser says of bytes that end where a sanitizer sees it; checks that all it gives back lies inside of them.
status verdict(const bytes& b, tile_envelope& t, int of = tokens) {
  const bytes exact(b);
  const status s = parse_tile(exact, of, row_bytes, t);
  if (s != status::ok) return s;
  const auto inside = [&](std::span<const std::uint8_t> part) {
    return part.empty() || (part.data() >= exact.data() && part.data() + part.size() <= exact.data() + exact.size());
  };
  CHECK(t.count >= 1);
  CHECK(t.first + t.count <= of);
  CHECK(t.rows() >= 0);
  CHECK(inside(t.exact_index));
  CHECK(inside(t.exact_rows));
  const std::uint8_t* end = exact.data();
  for (const auto& part : t.base.bytes) {
    CHECK(inside(part));
    if (part.empty()) continue;
    CHECK(part.data() >= end);  // sections do not overlap
    end = part.data() + part.size();
  }
  for (int i = 0; i < t.exact; ++i) CHECK(t.exact_token(i) < t.count);
  t = {};  // its bytes end here
  return s;
}
status verdict(const bytes& b) {
  tile_envelope t;
  return verdict(b, t);
}

template <class T>
bytes with(bytes b, std::size_t at, T value) {
  std::memcpy(b.data() + at, &value, sizeof value);
  return b;
}

}  // namespace

TEST_CASE("tile: an envelope holds what was put in") {
  const written f;
  CHECK(f.base.size() == 46);
  CHECK(f.refinement.size() == 8);
  CHECK(f.base.size() + f.refinement.size() == f.w.size(2, 3, row_bytes));
  tile_envelope t;
  REQUIRE(parse_tile(f.base, tokens, row_bytes, t) == status::ok);
  CHECK(t.first == 3);
  CHECK(t.count == 30);
  CHECK(t.exact == 3);
  CHECK(t.rows() == 27);
  for (int i = 0; i < 3; ++i) CHECK(t.exact_token(i) == f.exact[std::size_t(i)]);
  CHECK(bytes(t.exact_rows.begin(), t.exact_rows.end()) == f.rows);
  CHECK(t.base[section::predictor].empty());
  CHECK(t.base[section::transform].size() == 4);
  CHECK(t.base[section::entropy].size() == 2);
  CHECK(t.base[section::entropy][0] == 0xcd);
  CHECK(t.base[section::other7][0] == 9);

  tile_sections r;
  REQUIRE(parse_refinement(f.refinement, r) == status::ok);
  CHECK(std::memcmp(r[section::entropy].data(), "refined", 7) == 0);
  REQUIRE(parse_refinement({}, r) == status::ok);  // nothing was coded in this pass
  CHECK(r[section::entropy].empty());

  // A refinement without sections takes no bytes, a base tile without any still says what it covers.
  const tile_writer none;
  bytes out;
  none.finish(1, 3, 30, {}, {}, out);
  CHECK(out.empty());
  none.finish(0, 3, 30, f.exact, f.rows, out);
  REQUIRE(parse_tile(out, tokens, row_bytes, t) == status::ok);
  for (const auto& part : t.base.bytes) CHECK(part.empty());
  CHECK(tile_writer::stored_size(3, row_bytes) == out.size());
}

TEST_CASE("tile: envelopes that lie are refused") {
  const written f;
  REQUIRE(verdict(f.base) == status::ok);
  // u16 cover, first, exact; u8 mask; u32 sizes of sections 1 and 3, 7 has the rest; u16 exact[3]
  constexpr std::uint16_t first = 1 << 13, exact = 1 << 14;
  CHECK(verdict(with(f.base, 2, std::uint16_t{11})) == status::corrupt_tile);  // beyond the token tile
  CHECK(verdict(with(f.base, 2, std::uint16_t{65535})) == status::corrupt_tile);
  CHECK(verdict(with(f.base, 2, std::uint16_t{10})) == status::ok);
  CHECK(verdict(with(f.base, 2, std::uint16_t{0})) == status::corrupt_tile);  // is not said
  CHECK(verdict(with(f.base, 0, std::uint16_t(first | exact))) == status::corrupt_tile);
  CHECK(verdict(with(f.base, 0, std::uint16_t(first | exact | 38))) == status::corrupt_tile);
  CHECK(verdict(with(f.base, 0, std::uint16_t(first | exact | 29))) == status::corrupt_tile);  // an exact one beyond
  CHECK(verdict(with(f.base, 0, std::uint16_t(first | exact | 0x8000 | 30))) == status::corrupt_tile);
  CHECK(verdict(with(f.base, 4, std::uint16_t{31})) == status::corrupt_tile);
  CHECK(verdict(with(f.base, 4, std::uint16_t{0})) == status::corrupt_tile);
  CHECK(verdict(with(f.base, 6, std::uint8_t{0})) == status::corrupt_tile);  // bytes of no section
  for (std::size_t size : {7, 11}) {
    CHECK(verdict(with(f.base, size, std::uint32_t{0})) == status::corrupt_tile);  // an empty section is not listed
    for (std::uint32_t lie : {100u, 0x7fffffffu, 0xffffffffu, 0xfffffff0u})
      CHECK(verdict(with(f.base, size, lie)) == status::corrupt_tile);
  }
  CHECK(verdict(with(f.base, 7, std::uint32_t{5})) == status::corrupt_tile);  // nothing is left for the last one
  CHECK(verdict(with(f.base, 7, std::uint32_t{3})) == status::ok);
  // Sizes that add up to what is there by wrapping round.
  CHECK(verdict(with(with(f.base, 7, std::uint32_t{0xffffffff}), 11, std::uint32_t{7})) == status::corrupt_tile);
  for (const auto& order : {std::array<std::uint16_t, 3>{7, 0, 29}, {0, 0, 29}, {0, 29, 29}, {0, 7, 30}, {0, 7, 65535}})
    CHECK(verdict(with(f.base, 15, order)) == status::corrupt_tile);
  for (std::size_t n = 0; n < f.base.size(); ++n)
    CHECK(verdict(bytes(f.base.begin(), f.base.begin() + std::ptrdiff_t(n))) == status::corrupt_tile);

  tile_sections r;
  REQUIRE(parse_refinement(f.refinement, r) == status::ok);
  CHECK(parse_refinement(with(f.refinement, 0, std::uint8_t{0}), r) == status::corrupt_tile);
  CHECK(parse_refinement(bytes{8}, r) == status::corrupt_tile);
  const bytes two{10, 3, 0, 0, 0, 1, 2, 3, 4};
  REQUIRE(parse_refinement(two, r) == status::ok);
  CHECK(r[section::transform].size() == 3);
  CHECK(r[section::entropy].size() == 1);
  for (std::uint32_t lie : {0u, 4u, 5u, 0xffffffffu})
    CHECK(parse_refinement(with(two, 1, lie), r) == status::corrupt_tile);
  CHECK(parse_refinement(bytes{10, 3, 0, 0}, r) == status::corrupt_tile);
}

TEST_CASE("tile: nothing outside of hostile bytes is read") {
  CAPTURE(seed);
  const written f;
  std::mt19937_64 random(seed);
  int sound = 0, refused = 0;
  for (int round = 0; round < 200000; ++round) {
    bytes b = f.base;
    for (std::uint64_t n = 1 + random() % 3; n > 0; --n)
      b[random() % std::min<std::size_t>(b.size(), 21)] = std::uint8_t(random() >> random() % 32);
    if (random() % 4 == 0) b.resize(random() % (b.size() + 17));
    ++(verdict(b) == status::ok ? sound : refused);
  }
  CHECK(sound > 1000);
  CHECK(refused > 1000);
}

TEST_CASE("tile: the section of class_rans is read as it was written, and refused where it cannot be one") {
  const std::uint8_t nibbles[32] = {0x21, 0xf0}, classes[70] = {5, 6, 7}, code[] = {1, 2, 3, 4, 5};
  const exception list[] = {{3, 69, -100000}, {9, 0, 7}};
  class_section c;
  c.delta_blocks = 5;  // blocks 0 and 2 of three
  c.deltas = nibbles;
  c.exceptions = {reinterpret_cast<const std::uint8_t*>(list), sizeof list};
  c.code = code;
  bytes b;
  c.write(b);
  class_section r;
  REQUIRE(r.parse(b, 0, 10, 70));
  CHECK(r.delta_blocks == 5);
  CHECK(std::memcmp(r.deltas.data(), nibbles, 32) == 0);
  CHECK(r.classes.empty());
  REQUIRE(r.num_exceptions() == 2);
  CHECK(r.exception_at(0).correction == -100000);
  CHECK(r.exception_at(1).row == 9);
  CHECK(bytes(r.code.begin(), r.code.end()) == bytes(code, code + 5));
  CHECK_FALSE(r.parse(b, 1, 10, 70));  // deltas stand in the base pass
  CHECK_FALSE(r.parse(b, 0, 9, 70));   // a row that is not there
  CHECK_FALSE(r.parse(b, 0, 10, 69));
  CHECK_FALSE(r.parse(b, 0, 10, 64));                                 // a block that is not there
  CHECK_FALSE(r.parse(b, 0, 10, 33 * 32));                            // more blocks than the mask has bits
  CHECK_FALSE(r.parse(with(b, 0, std::uint8_t{16 | 5}), 0, 10, 70));  // a part that nobody knows
  CHECK_FALSE(r.goes_on);
  REQUIRE(r.parse(with(b, 0, std::uint8_t{8 | 5}), 0, 10, 70));
  CHECK(r.goes_on);
  CHECK_FALSE(r.parse(with(b, 1, std::uint32_t{0}), 0, 10, 70));       // deltas of no block
  CHECK_FALSE(r.parse(with(b, 37, std::uint16_t{0}), 0, 10, 70));      // exceptions, but none
  CHECK_FALSE(r.parse(with(b, 37, std::uint16_t{65535}), 0, 10, 70));  // more than there are bytes
  for (std::size_t n = 1; n < b.size() - 5; ++n) {
    const bytes cut(b.begin(), b.begin() + std::ptrdiff_t(n));
    CHECK_FALSE(r.parse(cut, 0, 10, 70));
  }

  class_section own;
  own.classes = classes;
  b.clear();
  own.write(b);
  CHECK(b.size() == 71);
  REQUIRE(r.parse(b, 0, 10, 70));
  CHECK(r.classes.size() == 70);
  CHECK(r.code.empty());
  CHECK_FALSE(r.parse(b, 1, 10, 70));
  b.clear();
  class_section{}.write(b);
  CHECK(b.empty());
  CHECK(r.parse(b, 3, 0, 70));
}

TEST_CASE("tile: states of a code are the same after they were packed; packed ones are never read beyond") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 2000; ++round) {
    std::uint8_t states[detail::rans_state_bytes], back[detail::rans_state_bytes];
    std::size_t bits = 0;
    for (std::size_t lane = 0; lane < 32; ++lane) {
      const std::uint64_t length = round == 0 ? 0 : round == 1 ? 7 : random() % 8;
      const std::uint64_t x = (256 << length) | (random() & ((256u << length) - 1));
      states[2 * lane] = std::uint8_t(x);
      states[2 * lane + 1] = std::uint8_t(x >> 8);
      bits += 8 + length;
    }
    bytes packed{1, 2, 3};
    detail::pack_states(states, packed);
    packed.erase(packed.begin(), packed.begin() + 3);
    CHECK(packed.size() == 12 + (bits + 7) / 8);
    CHECK(detail::unpack_states(packed, back) == packed.size());
    CHECK(std::memcmp(states, back, sizeof back) == 0);
    const std::size_t whole = packed.size();
    packed.push_back(std::uint8_t(random()));
    CHECK(detail::unpack_states(packed, back) == whole);
    for (std::size_t n : {std::size_t{0}, std::size_t{11}, random() % whole, whole - 1})
      CHECK(detail::unpack_states(bytes(packed.begin(), packed.begin() + std::ptrdiff_t(n)), back) == 0);
    for (std::uint8_t& b : packed) b = std::uint8_t(random());
    packed.resize(80);
    REQUIRE(detail::unpack_states(packed, back) > 0);
    for (std::size_t lane = 0; lane < 32; ++lane) CHECK(back[2 * lane + 1] > 0);
  }
}
