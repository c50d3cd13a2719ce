// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/split_exponent/format.hpp>
#include <sluice/numeric.hpp>

#include <array>
#include <bit>
#include <cstdint>
#include <span>

// The choices of a lossless encoder, in integers throughout: bytes do not depend on the instruction set.

namespace sluice::detail {

// <algorithm> would double what the umbrella header costs to compile.
template <class T>
constexpr T smaller(T a, T b) noexcept {
  return a < b ? a : b;
}

/// How often a column has each symbol.
struct symbol_counts {
  alignas(32) std::uint16_t of[rans_max_symbols];
};

/// What each symbol of a table costs, in 64ths of a bit.
struct symbol_costs {
  alignas(32) std::uint16_t of[rans_max_symbols];
};

struct column_fact_table {
  alignas(64) std::uint32_t any[strip_lanes];  // bits set in some element
  std::uint32_t varies[strip_lanes];           // 0 = all elements are equal
  std::uint32_t largest[strip_lanes];          // magnitude
  std::uint32_t negative[strip_lanes];         // elements with the sign bit
};

// log2(1 + i / 256) in 4096ths.
inline constexpr std::array<std::uint16_t, 256> log2_fractions = [] {
  std::array<std::uint16_t, 256> table{};
  for (unsigned i = 0; i < 256; ++i) {
    std::uint64_t x = std::uint64_t{256 + i} << 22;  // 2.30 fixed point; squaring yields a binary digit
    unsigned log = 0;
    for (int digit = 0; digit < 13; ++digit) {
      x = x * x >> 30;
      log = log << 1 | (x >> 31 & 1u);
      if (x >> 31) x >>= 1;
    }
    table[i] = static_cast<std::uint16_t>((log + 1) / 2);
  }
  return table;
}();

/// 4096 log2 n, for n >= 1.
constexpr std::uint32_t log2_q12(std::uint32_t n) noexcept {
  const auto whole = static_cast<unsigned>(std::bit_width(n)) - 1;
  const std::uint32_t top = whole >= 8 ? n >> (whole - 8) : n << (8 - whole);
  return whole * 4096 + log2_fractions[top & 255];
}

/// Sum of n log2 n parts of an ideal code length in 4096ths of a bit: weight(total) - sum of weight(count).
constexpr std::uint64_t log_weight(std::uint32_t n) noexcept { return n ? std::uint64_t{n} * log2_q12(n) : 0; }

using frequencies = std::array<std::uint16_t, rans_max_symbols>;

/// Frequencies of sum 256; whatever occurs has one, and so has symbol 0.
inline frequencies normalize(std::span<const std::uint32_t> counts) noexcept {
  frequencies f{};
  std::uint64_t total = 0;
  for (const std::uint32_t c : counts) total += c;
  int left = 256;
  for (std::size_t k = 0; k < counts.size(); ++k) {
    const std::uint64_t share = total ? (counts[k] * std::uint64_t{256} + total / 2) / total : 0;
    f[k] = static_cast<std::uint16_t>(share ? share : (counts[k] || k == 0) ? 1 : 0);
    left -= f[k];
  }
  // One at a time to where it gains most or costs least: count / freq is the derivative of the code length.
  for (; left != 0; left += left < 0 ? 1 : -1) {
    const int step = left < 0 ? -1 : 1;
    std::size_t best = counts.size();
    for (std::size_t k = 0; k < counts.size(); ++k) {
      if (f[k] == 0 || (step < 0 && f[k] == 1)) continue;
      const auto middle = [&](std::size_t i) { return static_cast<std::uint64_t>(2 * f[i] + step); };
      const bool more = best == counts.size() || (counts[k] * middle(best) > counts[best] * middle(k)) == (step > 0);
      if (more) best = k;
    }
    f[best] = static_cast<std::uint16_t>(f[best] + step);
  }
  return f;
}

inline symbol_costs costs_of(const frequencies& f) noexcept {
  symbol_costs c{};
  for (std::size_t k = 0; k < f.size(); ++k)
    c.of[k] = static_cast<std::uint16_t>(f[k] ? (8 * 4096 - log2_q12(f[k]) + 32) / 64 : 24 * 64);
  return c;
}

/// Symbols from `symbols` - 1 on become the escape.
inline void fold_tail(symbol_counts& c, int symbols) noexcept {
  for (int k = symbols; k < rans_max_symbols; ++k) {
    c.of[symbols - 1] = static_cast<std::uint16_t>(c.of[symbols - 1] + c.of[k]);
    c.of[k] = 0;
  }
}

/// The alphabet that codes the octaves of all columns in the fewest bits, escapes included. Sizes beyond 9 are those
/// that a decoder searches without waste.
inline int choose_alphabet(std::span<const symbol_counts> columns, int cells, int escape_bits) noexcept {
  std::uint32_t sum[rans_max_symbols] = {};
  for (const symbol_counts& c : columns)
    for (int k = 0; k < rans_max_symbols; ++k) sum[k] += c.of[k];
  int best = rans_max_symbols;
  std::uint64_t best_cost = ~std::uint64_t{0};
  for (const int symbols : {16, 13, 11, 9, 8, 7, 6, 5, 4, 3, 2}) {
    std::uint32_t folded[rans_max_symbols] = {};
    for (int k = 0; k < rans_max_symbols; ++k) folded[smaller(k, symbols - 1)] += sum[k];
    const symbol_costs cost = costs_of(normalize(std::span(folded).first(static_cast<std::size_t>(symbols))));
    std::uint64_t total =
        cells > symbols ? std::uint64_t{folded[symbols - 1]} * static_cast<unsigned>(64 * escape_bits) : 0;
    for (int k = 0; k < symbols; ++k) total += std::uint64_t{folded[k]} * cost.of[k];
    if (total < best_cost) best_cost = total, best = symbols;
  }
  return best;
}

/// A column's mode, its symbols, and its cost in 4096ths of a bit: symbols under a table of its own, and the rest.
struct column_choice {
  int mode = mode_split;
  std::uint32_t base = 0;
  symbol_counts counts{};
  std::uint64_t symbol_cost = std::uint64_t{1} << 62;
  std::uint64_t other_cost = 0;

  /// Takes the mode if it is cheaper. Of what is not a symbol, a base has `base_bytes` and an escape the element's.
  void offer(int new_mode, std::uint32_t new_base, const symbol_counts& c, int rows, int field_bits, int base_bytes,
             std::uint32_t escapes, int size) noexcept {
    const std::uint64_t bits = static_cast<std::uint64_t>(rows) * static_cast<unsigned>(field_bits) +
                               static_cast<unsigned>(8 * base_bytes) +
                               std::uint64_t{escapes} * static_cast<unsigned>(8 * size);
    std::uint64_t symbols = log_weight(static_cast<std::uint32_t>(rows));
    for (const std::uint16_t n : c.of) symbols -= log_weight(n);
    if (symbols + (bits << 12) >= symbol_cost + other_cost) return;
    mode = new_mode;
    base = new_base;
    counts = c;
    symbol_cost = symbols;
    other_cost = bits << 12;
  }
};

/// Looks for a window of `symbols` cells (the last one an escape, unless the cells cover all numbers) over one column;
/// replaces `best` where that is cheaper. Without a sign the numbers are a circle. `values` holds `rows` elements.
inline void choose_window(const std::uint32_t* values, int rows, const element_format& f, int dropped, int symbols,
                          column_choice& best) noexcept {
  const int bits = f.bits - dropped, mantissa = f.mantissa - dropped, coarsest = mode_shift(mode_window, mantissa);
  const std::uint32_t all = bits == 32 ? ~0u : (1u << bits) - 1, sign = f.has_sign ? 1u << (bits - 1) : 0;
  // Distances below the highest number with the majority's sign: at most 256 fine cells hold the majority.
  std::uint32_t high = all, majority = 0;
  int finest = 0;
  if (sign) {
    int negative = 0;
    for (int r = 0; r < rows; ++r) negative += (values[r] & sign) != 0;
    majority = 2 * negative > rows ? sign : 0;
    high = 0;
    std::uint32_t low = all;
    for (int r = 0; r < rows; ++r)
      if ((values[r] & sign) == majority) high = values[r] > high ? values[r] : high, low = smaller(low, values[r]);
    while ((high - low) >> finest >= 256) ++finest;
  }
  // Level by level, cells of twice the size; a window that misses much is no better with finer ones. Numbers of the other
  // sign may come round modulo 2^bits and lie in these cells too. The 16 coarsest hold a window and what is beside it,
  // so that a symbol within the window is counted as such wherever it comes from.
  std::uint32_t levels[512] = {};
  for (int r = 0; r < rows; ++r)
    if (const std::uint32_t cell = ((high - values[r]) & all) >> finest; cell < 256) ++levels[256 + cell];
  for (int i = 255; i > 0; --i) levels[i] = levels[2 * i] + levels[2 * i + 1];
  const bool circle = !f.has_sign;
  const int finest_count = circle ? static_cast<int>(all) + 1 : 256;
  std::uint32_t missed = 0;
  for (int shift = smaller(coarsest, finest + (circle ? 8 : 4));
       shift >= finest && missed <= static_cast<std::uint32_t>(rows) / 4; --shift) {
    const int mode = mantissa + 3 - shift, count = finest_count >> (shift - finest);
    if (mode > 15 || (sign && 1u << smaller(bits - shift, 5) <= static_cast<unsigned>(symbols))) continue;
    const std::uint32_t* cells = levels + (256 >> (shift - finest));
    const bool whole = circle && count <= symbols;
    const int window = smaller(count, symbols - (whole ? 0 : 1));
    std::uint32_t covered = 0;
    for (int i = 0; i < window; ++i) covered += cells[i];
    std::uint32_t most = covered;
    int start = 0;
    const int starts = whole ? 0 : circle ? count : count - window;
    for (int i = 0; i < starts; ++i) {
      covered += cells[(i + window) & (count - 1)] - cells[i];
      if (covered > most) most = covered, start = i + 1;
    }
    missed = static_cast<std::uint32_t>(rows) - most;
    symbol_counts counts{};
    for (int i = 0; i < window; ++i) counts.of[i] = static_cast<std::uint16_t>(cells[(start + i) & (count - 1)]);
    if (!whole) counts.of[symbols - 1] = static_cast<std::uint16_t>(missed);
    best.offer(mode, (high - (static_cast<std::uint32_t>(start) << shift) - ((1u << shift) - 1)) & all, counts, rows,
               shift, f.size, whole ? 0 : missed, f.size);
  }
}

/// A few tables for all columns.
struct table_choice {
  int tables = 1;
  std::uint64_t cost = 0;  // of all symbols, in 64ths of a bit
  std::array<frequencies, lossless_max_tables> freq{};
  std::array<std::uint8_t, strip_lanes> chosen{};
};

/// k-means with code length as the distance, from columns in the order of their mean symbol; a table for every 4,096
/// symbols, up to 8: more were never worth their bytes. `assign(costs, tables, chosen)` gives each column its best
/// table and returns the sum of the costs.
template <class Assign>
inline table_choice choose_tables_of(std::span<const symbol_counts> columns, int rows, int symbols,
                                     Assign assign) noexcept {
  const int count = static_cast<int>(columns.size());
  std::array<std::uint32_t, strip_lanes> order{};  // mean and column
  for (int c = 0; c < count; ++c) {
    std::uint32_t mean = 0;
    for (int k = 0; k < symbols; ++k)
      mean += static_cast<std::uint32_t>(k) * columns[static_cast<std::size_t>(c)].of[k];
    order[static_cast<std::size_t>(c)] = mean << 8 | static_cast<std::uint32_t>(c);
  }
  sort(order.data(), static_cast<std::size_t>(count), [](std::uint32_t a, std::uint32_t b) { return a < b; });
  table_choice t;
  t.tables =
      smaller(8, static_cast<int>(std::bit_floor(static_cast<unsigned>(rows * count / 4096 + (rows * count < 4096)))));
  for (int i = 0; i < count; ++i)
    t.chosen[order[static_cast<std::size_t>(i)] & 255] = static_cast<std::uint8_t>(i * t.tables / count);
  symbol_costs costs[lossless_max_tables];
  for (int round = t.tables == 1 ? 2 : 0;; ++round) {
    std::uint32_t sum[lossless_max_tables][rans_max_symbols] = {};
    for (int c = 0; c < count; ++c) {
      std::uint32_t* const s = sum[t.chosen[static_cast<std::size_t>(c)]];
      for (int k = 0; k < rans_max_symbols; ++k) s[k] += columns[static_cast<std::size_t>(c)].of[k];
    }
    for (int i = 0; i < t.tables; ++i) {
      frequencies& f = t.freq[static_cast<std::size_t>(i)];
      f = normalize(std::span(sum[i]).first(static_cast<std::size_t>(symbols)));
      costs[i] = costs_of(f);
    }
    if (round == 3) return t;  // what is sent fits what was chosen
    t.cost = assign(costs, t.tables, t.chosen.data());
  }
}

}  // namespace sluice::detail
