// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/config.hpp>
#include <sluice/numeric.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

// What class_rans's encoder looks up on a device: codes of symbols with the reciprocals of their frequencies, and lengths
// of symbols by which classes are chosen. The same for every model: an image holds them once (model_head). Rows are
// symbols and columns classes, since neighbouring coefficients have neighbouring classes, which lie in other banks.

namespace sluice::cuda {

/// A symbol of f slots out of 256 from the slot s on. A state x below 256 f becomes 256 (x / f) + x % f + s, which is
/// x + (256 - f) (x / f) + s; x / f is the highest byte of x * reciprocal, for every such x.
struct alignas(8) encode_code {
  std::uint32_t reciprocal;  ///< 2^24 / f, rounded up
  std::uint32_t word;        ///< byte 0: s, byte 3: 256 - f, the others 0
  /// The code of so many slots, at least 1, from the first on.
  SLUICE_HD static constexpr encode_code of(unsigned first, unsigned slots) noexcept {
    return {((1u << 24) + slots - 1) / slots, (256 - slots) << 24 | first};
  }
};

/// Symbols of a base pass and of a digit, as encoders number them.
inline constexpr int encode_base_rows = 15;
/// Digits under a parent of 0, then under another one.
inline constexpr int encode_digit_rows = 6;
/// Base values beyond +-reach count as that when classes are chosen.
inline constexpr int encode_reach = 40;
/// Base values that are counted.
inline constexpr int encode_histogram = 2 * encode_reach + 1;

/// In an image. Classes are those of the pass at hand, see class_at(); what a dead class is given to code costs nothing.
struct encode_tables {
  encode_code base[encode_base_rows][256];  ///< [symbol]: values 0, -1, 1, -2, 2, ...
  /// Digits: [0 .. 2] under a parent of 0: -1, 0, 1; [3 .. 5] under another one: towards 0, same, away from 0.
  encode_code digit[encode_digit_rows][256];
  std::uint8_t digits[256];  ///< ternary digits below a base symbol
  std::uint8_t alive[256];   ///< whether a class has more than one symbol
  std::int16_t limit[256];   ///< largest magnitude that the base pass expresses
  float edge[64];            ///< [w]: least deviation whose class, in units of the finest step, is w or more
  float base_bits[encode_histogram][256];    ///< [value + encode_reach], exceptions included
  float digit_bits[encode_digit_rows][256];  ///< rows as in `digit`, but 0, -1, 1 and same, inward, outward
};

/// Bytes at model_head::encode_tables_at.
inline constexpr std::size_t encode_tables_bytes = sizeof(encode_tables);
/// Of these, what coders copy into shared memory.
inline constexpr std::size_t encode_codes_bytes = offsetof(encode_tables, alive);
static_assert(encode_codes_bytes % 16 == 0 && encode_tables_bytes % 16 == 0);

/// Fills the tables; `to` has encode_tables_bytes.
inline void pack_encode_tables(void* to) {
  using namespace sluice::detail;
  constexpr encode_code nothing = encode_code::of(0, 256);
  auto* const out = static_cast<encode_tables*>(to);
  for (int c = 0; c < 256; ++c) {
    const auto cls = std::uint8_t(c);
    const class_tables& t = class_table[c];
    // The code of symbol s under last slots; what never occurs gets a code that does nothing.
    const auto code = [&](const std::uint8_t* last, int n, int s) {
      const int begin = s == 0 ? 0 : last[s - 1] + 1, end = s == n ? 256 : last[s] + 1;
      return begin < end ? encode_code::of(unsigned(begin), unsigned(end - begin)) : nothing;
    };
    for (int s = 0; s < encode_base_rows; ++s) out->base[s][c] = code(t.base, 15, s);
    for (int r = -1; r <= 1; ++r) {
      const int s = r == 0 ? 0 : r < 0 ? 1 : 2;
      out->digit[r + 1][c] = code(t.zero, 2, s);
      out->digit[r + 4][c] = code(t.nonzero, 2, s);
      out->digit_bits[s][c] = bits_ternary(cls, 0, 0, r);
      out->digit_bits[s + 3][c] = bits_ternary(cls, 0, 1, r);
    }
    out->digits[c] = t.digits;
    out->alive[c] = live(cls, 0);
    out->limit[c] = std::int16_t(min(clip_limit(cls, 0), 32767));
    for (int v = -encode_reach; v <= encode_reach; ++v) out->base_bits[v + encode_reach][c] = bits_base(cls, 0, v);
  }
  // By halving, between numbers that are positive: their bits are in their order.
  out->edge[0] = out->edge[1] = 0;
  for (int w = 2; w < class_widths; ++w) {
    std::uint32_t below = 0, from = std::bit_cast<std::uint32_t>(1e6f);
    while (from - below > 1) {
      const std::uint32_t middle = below + (from - below) / 2;
      (class_of(std::bit_cast<float>(middle), 0) < w ? below : from) = middle;
    }
    out->edge[w] = std::bit_cast<float>(from);
  }
}

}  // namespace sluice::cuda
