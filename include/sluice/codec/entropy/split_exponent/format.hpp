// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/tables.hpp>
#include <sluice/config.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

// The bytes of a lossless tile (normative text: FORMAT.md). A tile of rows x n elements is cut into strips of columns.
// An element is taken as an unsigned number v, without the trailing zero bits that all of the strip have in common. A
// column c of a strip turns v into a symbol and a field of raw bits:
//
//     v = base[c] - (symbol << shift[c]) + field, the field's sign bit moved up to the element's      modulo 2^bits
//
// `split` columns: base is the largest exponent of the column, so the symbol counts octaves down from it; the field is
// the mantissa and, above it, the sign. Others have no sign bit in the field. `window` columns: v lies in a few
// cells of 2^shift numbers below base, as where a channel has one sign or hardly moves. `constant` columns: v = base.
// The last symbol of the alphabet is an escape in columns that have more cells than symbols: the element stands in a
// list instead. Symbols go through 32-lane rANS under a few tables; a column names its table.

namespace sluice::detail {

inline constexpr int lossless_max_rows = 32767;
inline constexpr int lossless_max_tables = 16;

/// How elements are cut; `bits` as a number, `mantissa` the split point and finest window.
struct element_format {
  int bits;
  int mantissa;
  int size;  // bytes, in bases and escapes
  bool has_sign;
};

enum class strip_kind : std::uint8_t { stored = 0, coded = 1, nibbles = 2 };

SLUICE_HD constexpr element_format format_of(dtype t, strip_kind kind = strip_kind::coded) noexcept {
  switch (t) {
    case dtype::f32: return {32, 23, 4, true};
    case dtype::f16: return {16, 10, 2, true};
    case dtype::bf16: return {16, 7, 2, true};
    case dtype::e4m3: return {8, 3, 1, true};
    case dtype::e5m2: return {8, 2, 1, true};
    case dtype::bytes: break;
  }
  return kind == strip_kind::nibbles ? element_format{4, 2, 1, false} : element_format{8, 5, 1, false};
}

/// Columns of a strip; nibbles count twice, and all columns of a strip share one code of at most eight blocks.
SLUICE_HD constexpr int strip_columns(dtype t) noexcept { return t == dtype::bytes ? 128 : 256; }
inline constexpr int strip_lanes = rans_max_blocks * rans_lanes;

/// What stands before the sections of a coded strip: tables, modes, bases, rows, escapes, code.
struct strip_head {
  std::uint8_t kind;
  std::uint8_t counts;    // symbols - 1, and tables - 1 in the upper half
  std::uint8_t dropped;   // trailing zero bits left out
  std::uint8_t reserved;  // zero
  std::uint32_t size;     // of the whole strip
  std::uint32_t escapes;
};
static_assert(sizeof(strip_head) == 12);

// A column's mode: split, constant, or window with ever finer cells.
inline constexpr int mode_split = 0, mode_constant = 1, mode_window = 2;

/// Field bits of a symbol's cell; negative where there is no such mode. `mantissa` is what is left of it.
SLUICE_HD constexpr int mode_shift(int mode, int mantissa) noexcept {
  return mode == mode_split ? mantissa : mode == mode_constant ? 0 : mantissa + 3 - mode;
}

/// The columns of a strip as lanes see them; the machine's loops read whole vectors of it.
struct strip_lanes_table {
  alignas(64) std::uint32_t base[strip_lanes];
  std::uint32_t shift[strip_lanes];
  std::uint32_t mask[strip_lanes];       // of the field
  std::uint32_t sign[strip_lanes];       // the field's sign bit, or 0
  std::uint32_t first_bit[strip_lanes];  // of the field within a packed row
  std::uint8_t escape[strip_lanes];      // the symbol that escapes; 255 = none does

  /// Sets a lane and returns the bits of its field.
  SLUICE_HD constexpr int set(int lane, int mode, std::uint32_t lane_base, const element_format& f, int dropped,
                              int symbols, int first) noexcept {
    const int mantissa = f.mantissa - dropped, step = mode_shift(mode, mantissa);
    const int width = mode == mode_constant ? 0 : step + (mode == mode_split);
    const int cell_bits = f.bits - dropped - step - (mode == mode_split);
    base[lane] = mode == mode_split ? lane_base << step : lane_base;
    shift[lane] = static_cast<std::uint32_t>(step);
    mask[lane] = (1u << width) - 1;
    sign[lane] = mode == mode_split ? 1u << step : 0u;
    first_bit[lane] = static_cast<std::uint32_t>(first);
    const bool escapes = mode != mode_constant && (cell_bits > 4 || 1 << cell_bits > symbols);
    escape[lane] = static_cast<std::uint8_t>(escapes ? symbols - 1 : 255);
    return width;
  }
  /// A lane without a column.
  SLUICE_HD constexpr void set_unused(int lane, int first) noexcept {
    base[lane] = shift[lane] = mask[lane] = sign[lane] = 0;
    first_bit[lane] = static_cast<std::uint32_t>(first);
    escape[lane] = 255;
  }
};

/// A coded strip, its sections as pointers into the bytes.
struct strip_view {
  int symbols = 0, tables = 0, dropped = 0, columns = 0, blocks = 0;
  std::uint32_t escape_count = 0, stream_size = 0;
  std::size_t row_bytes = 0;
  const std::uint8_t *freq = nullptr, *modes = nullptr, *rows = nullptr, *escapes = nullptr, *stream = nullptr;
};

/// Reads head and columns of a coded strip of `size` bytes, which it must fill; checks every count. The code's 64
/// bytes of states follow the rows, so a vector that starts within a packed row may read that far beyond it.
SLUICE_HD inline bool parse_strip(const std::uint8_t* p, std::size_t size, const element_format& f, int rows,
                                  int columns, strip_view& s, strip_lanes_table& lanes) noexcept {
  strip_head h;
  if (size < sizeof h) return false;
  std::memcpy(&h, p, sizeof h);
  s.symbols = (h.counts & 15) + 1;
  s.tables = (h.counts >> 4) + 1;
  s.dropped = h.dropped;
  s.columns = columns;
  s.blocks = (columns + rans_lanes - 1) / rans_lanes;
  s.escape_count = h.escapes;
  if (h.size != size || h.reserved != 0 || s.symbols < 2 || h.dropped > (f.has_sign ? f.mantissa : 0)) return false;
  std::size_t at = sizeof h;
  s.freq = p + at;
  at += static_cast<std::size_t>(s.tables * (s.symbols - 1));
  s.modes = p + at;
  at += static_cast<std::size_t>(columns);
  if (at > size) return false;
  int first = 0;
  for (int c = 0; c < columns; ++c) {
    const int mode = s.modes[c] & 15, bytes = mode == mode_split ? 1 : f.size;
    if (s.modes[c] >> 4 >= s.tables || mode_shift(mode, f.mantissa - h.dropped) < 0 ||
        (mode == mode_split && !f.has_sign))
      return false;
    if (size - at < static_cast<std::size_t>(bytes)) return false;
    std::uint32_t base = 0;
    for (int b = 0; b < bytes; ++b) base |= static_cast<std::uint32_t>(p[at++]) << 8 * b;
    first += lanes.set(c, mode, base, f, h.dropped, s.symbols, first);
  }
  for (int c = columns; c < s.blocks * rans_lanes; ++c) lanes.set_unused(c, first);
  s.row_bytes = static_cast<std::size_t>(first + 7) / 8;
  s.rows = p + at;
  const std::size_t packed = s.row_bytes * static_cast<std::size_t>(rows);
  const std::size_t escaped = static_cast<std::size_t>(h.escapes) * static_cast<std::size_t>(f.size);
  if (size - at < packed || size - at - packed < escaped || size - at - packed - escaped < rans_state_bytes)
    return false;
  s.escapes = s.rows + packed;
  s.stream = s.escapes + escaped;
  s.stream_size = static_cast<std::uint32_t>(size - at - packed - escaped);
  for (int t = 0; t < s.tables; ++t) {
    int sum = 1;  // the first frequency is stored less one, the last is what remains
    for (int k = 0; k + 1 < s.symbols; ++k) sum += s.freq[t * (s.symbols - 1) + k];
    if (sum > 256) return false;
  }
  return true;
}

/// Thresholds of one lane (tables.hpp) of a parsed strip; a constant or absent column is dead.
SLUICE_HD inline void strip_thresholds(const strip_view& s, int column, base_block& block) noexcept {
  const bool dead = column >= s.columns || (s.modes[column] & 15) == mode_constant;
  const std::uint8_t* freq = dead ? nullptr : s.freq + (s.modes[column] >> 4) * (s.symbols - 1);
  unsigned next = 0;
  for (int k = 0; k < rans_max_symbols - 1; ++k) {
    if (!dead && k + 1 < s.symbols) next += freq[k];
    block.threshold[k][column % rans_lanes] = static_cast<std::uint8_t>(dead || k + 1 >= s.symbols ? 255u : next);
  }
}

}  // namespace sluice::detail
