// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/split_exponent/format.hpp>
#include <sluice/cuda/entropy/byte_ring.cuh>
#include <sluice/cuda/entropy/rans_steps.cuh>

#include <cstddef>
#include <cstdint>

// A coded strip of a lossless tile (FORMAT.md section 6.4) in the hands of a warp: head, columns and tables, from untrusted
// bytes, into shared memory.

namespace sluice::cuda {

/// A column as a lane sees it. With `fields` the 32 bits of the row from bit first - 32 on, an element is
///   base + symbol * cell + (fields & ~cell, from bit `dropped` on) + its sign, moved up,
/// but for the bits above its own.
struct strip_column {
  std::uint32_t base, cell;
  std::uint32_t first;  ///< bit 31: it is a split column, whose fields have a sign at bit `mantissa`
  std::uint32_t table;  ///< number of its table, as many as there are = none; bit 8: its last symbol is an escape
};

/// Where a coded strip is, and where its elements go.
struct strip_source {
  const std::uint8_t* bytes;
  std::byte* to;
  std::uint32_t size, stride;  ///< of the strip, which it must fill; from row to row of elements, bytes
  int rows, columns;
  dtype type;
  sluice::detail::strip_kind kind;

  __device__ bool halves() const { return kind == sluice::detail::strip_kind::nibbles; }
};

/// What all lanes know of it.
struct coded_strip {
  int rows, columns, blocks, symbols, tables, dropped, mantissa, stretch;
  bool escapes_in_use;  ///< whether the last symbol is an escape in some column
  std::uint32_t row_bytes, escapes, code_size;
  const std::uint8_t *freq, *fields, *escaped, *code;
};

/// Shared memory of a warp that decodes a strip. Columns make room for tables.
struct alignas(16) strip_memory {
  static constexpr int most_tables = 8;  // of a strip with more, symbols are looked up in the frame
  static constexpr int all_columns = sluice::detail::rans_max_blocks * sluice::detail::rans_lanes;
  using code_ring = byte_ring<1024, 256>;   // a row takes up to 32 bytes for each block
  using field_ring = byte_ring<2048, 784>;  // a row has up to 24 bits for each column, and a load 8 bytes

  union {
    std::uint32_t tables[(most_tables + 1) * 256];  // the last one in use: of lanes without a symbol
    strip_column columns[all_columns];
  };
  alignas(16) unsigned char codes[code_ring::bytes];
  alignas(16) unsigned char before_fields[16];
  unsigned char fields[field_ring::bytes];
  strip_source source;
  coded_strip strip;
  std::uint32_t escapes;  // taken so far
  code_ring from_code;
  field_ring from_fields;
};

/// Sum of a number of this lane and of those before it.
__device__ __forceinline__ std::uint32_t sum_up_to(std::uint32_t v, unsigned lane) {
  for (unsigned step = 1; step < 32; step *= 2) {
    const std::uint32_t before = __shfl_up_sync(whole_warp, v, step);
    if (lane >= step) v += before;
  }
  return v;
}

/// Reads head and columns of a strip of 12 bytes at least; false where parse_strip refuses.
__device__ inline bool open_strip(strip_memory& m, unsigned lane) {
  using namespace sluice::detail;
  const std::uint8_t* const p = m.source.bytes;
  const std::uint32_t size = m.source.size;
  const element_format f = format_of(m.source.type, m.source.kind);
  const int columns = m.source.columns;
  coded_strip s;
  s.rows = m.source.rows;
  s.columns = columns;
  s.blocks = (columns + rans_lanes - 1) / rans_lanes;
  s.symbols = (p[1] & 15) + 1;
  s.tables = (p[1] >> 4) + 1;
  s.dropped = p[2];
  s.mantissa = f.mantissa;
  s.stretch = f.bits - 1 - f.mantissa;
  s.escapes = p[8] | std::uint32_t{p[9]} << 8 | std::uint32_t{p[10]} << 16 | std::uint32_t{p[11]} << 24;
  if (p[3] != 0 || s.symbols < 2 || s.dropped > (f.has_sign ? f.mantissa : 0)) return false;
  std::uint32_t at = sizeof(strip_head);
  s.freq = p + at;
  at += static_cast<std::uint32_t>(s.tables * (s.symbols - 1));
  const std::uint8_t* const modes = p + at;
  at += static_cast<std::uint32_t>(columns);
  if (at > size) return false;

  const int mantissa = f.mantissa - s.dropped;
  std::uint32_t bits = 0;
  bool sound = true, escapes = false;
#pragma unroll 1
  for (int column = static_cast<int>(lane); column < strip_memory::all_columns; column += rans_lanes) {
    const bool here = column < columns;
    const int what = here ? modes[column] : mode_constant, mode = what & 15;
    const bool split = mode == mode_split, constant = mode == mode_constant;
    int shift = mode_shift(mode, mantissa);
    sound = sound && (what >> 4) < s.tables && shift >= 0 && (!split || f.has_sign);
    shift = shift < 0 ? 0 : shift;
    const std::uint32_t width = constant ? 0 : static_cast<std::uint32_t>(shift + split);
    const std::uint32_t bytes = !here ? 0 : split ? 1 : static_cast<std::uint32_t>(f.size);
    const std::uint32_t until = sum_up_to(bytes << 16 | width, lane), all = __shfl_sync(whole_warp, until, 31);
    const std::uint32_t base_at = at + (until >> 16) - bytes;
    std::uint32_t base = 0;
    for (std::uint32_t i = 0; i < bytes && base_at + i < size; ++i) base |= std::uint32_t{p[base_at + i]} << 8 * i;
    const int cell_bits = f.bits - s.dropped - shift - split;
    const bool escape = !constant && (cell_bits > 4 || 1 << cell_bits > s.symbols);
    escapes = escapes || escape;
    strip_column& c = m.columns[column];
    c.base = (split ? base << shift : base) << s.dropped;
    c.cell = 0u - (1u << (shift + s.dropped));
    c.first = (bits + (until & 0xffff) - width + 32 - static_cast<std::uint32_t>(s.dropped)) |
              static_cast<std::uint32_t>(split) << 31;
    c.table = static_cast<std::uint32_t>(constant ? s.tables : what >> 4) | static_cast<std::uint32_t>(escape) << 8;
    at += all >> 16;
    bits += all & 0xffff;
  }
  if (__any_sync(whole_warp, !sound) || at > size) return false;

  s.escapes_in_use = __any_sync(whole_warp, escapes) != 0;
  s.row_bytes = (bits + 7) / 8;
  const std::uint64_t fields = std::uint64_t{s.row_bytes} * static_cast<unsigned>(s.rows);
  const std::uint64_t escaped = std::uint64_t{s.escapes} * static_cast<unsigned>(f.size);
  if (size - at < fields + escaped + rans_state_bytes) return false;
  s.fields = p + at;
  s.escaped = s.fields + fields;
  s.code = s.escaped + escaped;
  s.code_size = size - at - static_cast<std::uint32_t>(fields + escaped);
  if (lane == 0) m.strip = s;
  __syncwarp();
  return true;
}

/// Frequencies of a table: each lane's symbol and the slots before it; false where they are more than 256.
__device__ inline bool strip_frequencies(const coded_strip& s, int table, unsigned lane, std::uint32_t& frequency,
                                         std::uint32_t& start) {
  const auto last = static_cast<unsigned>(s.symbols - 1);
  frequency = lane < last ? s.freq[table * (s.symbols - 1) + static_cast<int>(lane)] + std::uint32_t{lane == 0} : 0;
  const std::uint32_t until = sum_up_to(frequency, lane), all = __shfl_sync(whole_warp, until, 31);
  start = until - frequency;
  if (lane == last) frequency = 256 - all;
  return all <= 256;
}

/// Whether the frequencies of all tables fit.
__device__ inline bool sound_frequencies(const coded_strip& s, unsigned lane) {
  bool sound = true;
  for (int t = static_cast<int>(lane); t < s.tables; t += 32) {
    std::uint32_t sum = 1;
    for (int k = 0; k < s.symbols - 1; ++k) sum += s.freq[t * (s.symbols - 1) + k];
    sound = sound && sum <= 256;
  }
  return __all_sync(whole_warp, sound) != 0;
}

/// What a slot stands for: byte 0 the frequency of its symbol less 1, byte 1 the slot less the symbol's first, byte 2 the
/// symbol, bit 31 whether that is an escape in some column.
__device__ __forceinline__ std::uint32_t slot_word(const coded_strip& s, std::uint32_t symbol, std::uint32_t frequency,
                                                   std::uint32_t within) {
  const bool escape = s.escapes_in_use && static_cast<int>(symbol) == s.symbols - 1;
  return static_cast<std::uint32_t>(escape) << 31 | symbol << 16 | within << 8 | ((frequency - 1) & 255);
}
__device__ __forceinline__ std::uint32_t dead_word(std::uint32_t slot) { return 255 | slot << 8; }

/// Fills the tables of a strip, most_tables at most, whose frequencies are sound.
__device__ inline void fill_tables(const coded_strip& s, unsigned lane, std::uint32_t* words) {
  const int tables = s.tables, symbols = s.symbols;
#pragma unroll 1
  for (int t = 0; t < tables; ++t, words += 256) {
    std::uint32_t frequency, start;
    strip_frequencies(s, t, lane, frequency, start);
    const std::uint32_t word = slot_word(s, lane, frequency, 0);
#pragma unroll 1
    for (int k = 0; k < symbols; ++k) {
      const std::uint32_t n = __shfl_sync(whole_warp, frequency, k), first = __shfl_sync(whole_warp, start, k);
      const std::uint32_t of_symbol = __shfl_sync(whole_warp, word, k);
      for (std::uint32_t i = lane; i < n; i += 32) words[first + i] = of_symbol | i << 8;
    }
  }
  for (std::uint32_t i = lane; i < 256; i += 32) words[i] = dead_word(i);
  __syncwarp();
}

/// A slot's word from the frequencies themselves.
__device__ inline std::uint32_t find_symbol(const coded_strip& s, std::uint32_t table, std::uint32_t slot) {
  if (static_cast<int>(table) == s.tables) return dead_word(slot);
  const auto last = static_cast<std::uint32_t>(s.symbols - 1);
  const std::uint8_t* const freq = s.freq + table * last;
  std::uint32_t start = 0, n = freq[0] + 1u, k = 0;
  while (k < last && slot >= start + n) {
    start += n;
    n = ++k < last ? freq[k] : 256 - start;
  }
  return slot_word(s, k, n, slot - start);
}

}  // namespace sluice::cuda
