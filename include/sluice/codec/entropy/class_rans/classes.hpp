// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/tables.hpp>
#include <sluice/config.hpp>
#include <sluice/numeric.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

// The distribution classes of coefficients and their static probability tables. A class is one byte, shape * 64 + w:
//   w      quarter-octave index of the standard deviation over the FINEST step, 2^((w-16)/4); 0 = dead in every pass
//   shape  family: a Gaussian whose scale wanders log-normally by 0, 0.25, 0.4 or 0.8 nats; every byte is a class
// A pass whose step is 3^back times the finest uses the tables of w - class_shift[back], so one byte serves all passes.
// The tables are normative integers (made once by bench/classes.py); on the coefficients of three real models they cost
// 0.6-0.9 % more than each coefficient's own histogram.

namespace sluice::detail {

/// Tables of one class at its own step: thresholds T_k - 1 with 255 for "no such symbol" (codec/rans/tables.hpp).
struct class_tables {
  std::uint8_t base[15];
  std::uint8_t digits;  ///< ternary digits below the base symbol, which then codes the value over 3^digits
  std::uint8_t zero[2];
  std::uint8_t nonzero[2];
};

inline constexpr class_tables class_table[256] = {
#include <sluice/codec/entropy/class_rans/classes_data.inl>
};

inline constexpr int class_widths = 64;
inline constexpr int class_shapes = 4;

/// Quarter octaves of a factor 3^back, rounded.
inline constexpr int class_shift[6] = {0, 6, 13, 19, 25, 32};

/// What an exception costs: the entry that corrects a value which the symbols of its class cannot express.
inline constexpr float exception_bits = 64;

/// The class whose tables code `cls` in a pass that has `back` refinements after it.
SLUICE_HD constexpr std::uint8_t class_at(std::uint8_t cls, int back) noexcept {
  constexpr int shift[6] = {0, 6, 13, 19, 25, 32};
  const int w = cls % class_widths - shift[back < 5 ? back : 5];
  return static_cast<std::uint8_t>(cls - cls % class_widths + (w > 0 ? w : 0));
}

/// The class `delta` quarter octaves wider; w stays within 1..63, and 0 stays 0 (a lane without a coefficient).
SLUICE_HD constexpr std::uint8_t shift_class(std::uint8_t cls, int delta) noexcept {
  const int w = cls % class_widths;
  if (w == 0) return cls;
  const int moved = w + delta < 1 ? 1 : w + delta > class_widths - 1 ? class_widths - 1 : w + delta;
  return static_cast<std::uint8_t>(cls - w + moved);
}

/// The class of a standard deviation in units of the finest step; never 0, so that a delta can wake a quiet coefficient.
inline std::uint8_t class_of(float sigma, int shape = 1) noexcept {
  const float w = 16 + 4 * detail::log2(sigma > 0.05f ? (sigma < 1e6f ? sigma : 1e6f) : 0.05f);
  const int rounded = static_cast<int>(w + 0.5f);
  return static_cast<std::uint8_t>(shape * class_widths + (rounded < 1 ? 1 : rounded > 63 ? 63 : rounded));
}

/// Whether a coefficient is coded at all in a pass.
constexpr bool live(std::uint8_t cls, int back) noexcept { return class_table[class_at(cls, back)].base[0] != 255; }

/// Blocks of 32 coefficients up to and including the last live one.
constexpr int live_blocks(std::span<const std::uint8_t> classes, int back) noexcept {
  std::size_t n = classes.size();
  while (n > 0 && !live(classes[n - 1], back)) --n;
  return static_cast<int>((n + 31) / 32);
}

/// Base symbols of a class at its own step, 1 where it is dead.
constexpr int base_symbols(const class_tables& t) noexcept {
  int n = 1;
  while (n < 16 && t.base[n - 1] != 255) ++n;
  return n;
}

/// Largest magnitude that a lane expresses in the base pass; 0 where it is dead. Beyond lie exceptions.
constexpr int clip_limit(std::uint8_t cls, int back) noexcept {
  const class_tables& t = class_table[class_at(cls, back)];
  const int scale = power_of_3(t.digits);
  return base_symbols(t) / 2 * scale + (scale - 1) / 2;
}

/// Parent of a value in the next coarser pass; the rest, value - 3 * parent, is -1, 0 or 1.
SLUICE_HD constexpr int coarser(int value) noexcept { return (value + 1 - (value + 1 < 0 ? 2 : 0)) / 3; }

/// Fills the tables of one block from its 32 classes; lanes without a coefficient have class 0.
constexpr void build_base_block(const std::uint8_t* classes, int back, base_block& out) noexcept {
  std::uint8_t at[32] = {};
  int symbols = 1, digits = 0;
  for (int lane = 0; lane < 32; ++lane) {
    at[lane] = class_at(classes[lane], back);
    const class_tables& t = class_table[at[lane]];
    out.lane_digits[lane] = t.digits;
    while (symbols < 16 && t.base[symbols - 1] != 255) ++symbols;
    digits = t.digits > digits ? t.digits : digits;
  }
  for (int s = 0; s < 15; ++s)
    for (int lane = 0; lane < 32; ++lane)
      out.threshold[s][lane] = s < symbols - 1 ? class_table[at[lane]].base[s] : 255;
  for (int k = 0; k < 4; ++k)
    for (int lane = 0; lane < 32; ++lane) {
      const class_tables* d = k < digits && k < out.lane_digits[lane] ? &class_table[class_at(at[lane], k)] : nullptr;
      for (int s = 0; s < 2; ++s) {
        out.digit[k].zero[s][lane] = d ? d->zero[s] : std::uint8_t{255};
        out.digit[k].nonzero[s][lane] = d ? d->nonzero[s] : std::uint8_t{255};
      }
    }
  out.symbols = static_cast<std::uint8_t>(symbols);
  out.digits = static_cast<std::uint8_t>(digits);
}

/// The same for a refinement pass.
constexpr void build_ternary_block(const std::uint8_t* classes, int back, ternary_block& out) noexcept {
  for (int lane = 0; lane < 32; ++lane) {
    const class_tables& t = class_table[class_at(classes[lane], back)];
    for (int s = 0; s < 2; ++s) {
      out.zero[s][lane] = t.zero[s];
      out.nonzero[s][lane] = t.nonzero[s];
    }
  }
}

// 8 - log2(f), by squaring: detail::log2 is not constexpr everywhere.
constexpr float bits_of_count(int f) noexcept {
  double x = f, log = 0, bit = 1;
  for (; x >= 2; x /= 2) log += 1;
  for (int i = 0; i < 24; ++i) {
    bit /= 2;
    x *= x;
    if (x >= 2) {
      x /= 2;
      log += bit;
    }
  }
  return static_cast<float>(8 - log);
}

inline constexpr std::array<float, 257> count_bits = [] {
  std::array<float, 257> t{};
  for (int f = 1; f <= 256; ++f) t[static_cast<std::size_t>(f)] = bits_of_count(f);
  return t;
}();

/// Length of symbol s under thresholds t[0..n).
constexpr float symbol_bits(const std::uint8_t* t, int n, int s) noexcept {
  const int begin = s == 0 ? 0 : t[s - 1] + 1;
  const int end = s == n || t[s] == 255 ? 256 : t[s] + 1;
  return count_bits[static_cast<std::size_t>(end - begin)];
}

/// The symbol of the digit r in -1..1 below a parent value: 0, -1, 1 below zero, else 0, inward, outward.
constexpr int digit_symbol(int parent, int r) noexcept { return r == 0 ? 0 : (parent < 0 ? -r : r) < 0 ? 1 : 2; }

/// Bits of the digit r in -1..1 below the coded parent value, at the class's own step.
constexpr float digit_bits(const class_tables& t, int parent, int r) noexcept {
  if (t.zero[0] == 255) return r == 0 ? 0.0f : exception_bits;
  return symbol_bits(parent == 0 ? t.zero : t.nonzero, 2, digit_symbol(parent, r));
}

/// Bits of a refinement digit; an estimate for encoders, with exception_bits for what a dead lane cannot say.
constexpr float bits_ternary(std::uint8_t cls, int back, int parent, int r) noexcept {
  return digit_bits(class_table[class_at(cls, back)], parent, r);
}

/// Bits of a value in the base pass with its digits; beyond clip_limit it is clipped and pays for an exception.
constexpr float bits_base(std::uint8_t cls, int back, int value) noexcept {
  const std::uint8_t at = class_at(cls, back);
  const class_tables& t = class_table[at];
  const int limit = clip_limit(at, 0);
  float bits = 0;
  if (value > limit || value < -limit) {
    bits = exception_bits;
    value = value > 0 ? limit : -limit;
  }
  for (int k = 0; k < t.digits; ++k) {
    const int parent = coarser(value);
    bits += digit_bits(class_table[class_at(at, k)], parent, value - 3 * parent);
    value = parent;
  }
  return bits + symbol_bits(t.base, 15, value < 0 ? -2 * value - 1 : 2 * value);
}

/// Bits of everything that a class codes at its own step, for who compares many classes.
struct code_lengths {
  static constexpr int reach = 128;  ///< values of the base pass beyond it count as this
  float base[256][2 * reach + 1];    ///< [class][reach + value], as bits_base()
  float digit[256][2][3];            ///< [class][parent != 0][digit_symbol()]

  code_lengths() {
    for (int c = 0; c < 256; ++c) {
      const auto cls = static_cast<std::uint8_t>(c);
      for (int v = -reach; v <= reach; ++v) base[c][v + reach] = bits_base(cls, 0, v);
      for (int parent = 0; parent < 2; ++parent)
        for (int s = 0; s < 3; ++s) digit[c][parent][s] = bits_ternary(cls, 0, parent, s == 0 ? 0 : s == 1 ? -1 : 1);
    }
  }
  static const code_lengths& all() {
    static const code_lengths lengths;
    return lengths;
  }
  const float* base_of(std::uint8_t cls, int back) const noexcept { return &base[class_at(cls, back)][reach]; }
  const float (*digit_of(std::uint8_t cls, int back) const noexcept)[3] { return digit[class_at(cls, back)]; }
};

}  // namespace sluice::detail
