// SPDX-License-Identifier: Apache-2.0
#include <sluice/tensor/half.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

// binary16 in the compiler is the reference where it exists on plain x86-64 (clang has it from 15 on).
#if defined(__FLT16_MANT_DIG__) && (!defined(__clang__) || __clang_major__ >= 15) && defined(__SSE2__)
#define SLUICE_TEST_HAS_FLOAT16 1
#endif

using namespace sluice;

namespace {

struct limits {
  double largest;
  double smallest;
  bool has_infinity;
  bool saturates;
};

template <class T>
constexpr limits limits_of = {};
template <>
constexpr limits limits_of<f16> = {65504, 0x1p-24, true, false};
template <>
constexpr limits limits_of<bf16> = {0x1.fep127, 0x1p-133, true, false};
template <>
constexpr limits limits_of<e4m3> = {448, 0x1p-9, false, true};
template <>
constexpr limits limits_of<e5m2> = {57344, 0x1p-16, true, true};

template <class T>
constexpr int pattern_count = 1 << (8 * sizeof(T));

template <class T>
T pattern(int i) {
  return T{static_cast<decltype(T::bits)>(i)};
}

// What the formats' definitions say, in double, sharing no code with the conversions: sign, exponent, mantissa.
double defined_value(int bits, int exponent_bits, int mantissa_bits, bool ieee_specials) {
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const int exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1);
  const double sign = bits >> (exponent_bits + mantissa_bits) & 1 ? -1.0 : 1.0;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  if (exponent == (1 << exponent_bits) - 1) {
    if (ieee_specials) return mantissa ? std::nan("") : sign * std::numeric_limits<double>::infinity();
    if (mantissa == (1 << mantissa_bits) - 1) return std::nan("");
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

template <class T>
double defined_value(T x) {
  if constexpr (std::is_same_v<T, f16>) return defined_value(x.bits, 5, 10, true);
  if constexpr (std::is_same_v<T, bf16>) return defined_value(x.bits, 8, 7, true);
  if constexpr (std::is_same_v<T, e4m3>) return defined_value(x.bits, 4, 3, false);
  return defined_value(x.bits, 5, 2, true);
}

// All finite non-negative values of a format in rising order, by position = bits.
template <class T>
std::vector<double> finite_values() {
  std::vector<double> v;
  for (int i = 0; i < pattern_count<T> / 2 && std::isfinite(defined_value(pattern<T>(i))); ++i)
    v.push_back(defined_value(pattern<T>(i)));
  return v;
}

// Nearest, ties to even, by search: the independent reference for every format.
template <class T>
int nearest(const std::vector<double>& values, float x) {
  const int sign = std::signbit(x) ? pattern_count<T> / 2 : 0;
  const double m = std::fabs(static_cast<double>(x));
  const auto above = std::lower_bound(values.begin(), values.end(), m);
  if (above == values.end()) {
    // The next value the exponent range would allow, were it larger, decides where rounding leaves the format.
    const double step = values.back() - values[values.size() - 2];
    const bool inside = m < values.back() + step / 2;
    const bool stay = inside || (limits_of<T>.saturates && !(limits_of<T>.has_infinity && std::isinf(x)));
    return sign + static_cast<int>(values.size()) - (stay ? 1 : 0);
  }
  const int hi = static_cast<int>(above - values.begin());
  if (*above == m) return sign + hi;
  const double below = m - values[static_cast<std::size_t>(hi) - 1], over = *above - m;
  const int r = below < over ? hi - 1 : below > over ? hi : hi % 2 ? hi - 1 : hi;
  return sign + r;
}

}  // namespace

TEST_CASE_TEMPLATE("storage types are bits and nothing else", T, f16, bf16, e4m3, e5m2) {
  static_assert(std::is_trivially_copyable_v<T> && std::is_standard_layout_v<T> && std::is_trivial_v<T>);
  static_assert(sizeof(T) == sizeof(decltype(T::bits)));
  static_assert(to_float(from_float<T>(1.5f)) == 1.5f);
  static_assert(from_float<T>(-0.0f).bits != from_float<T>(0.0f).bits);
}

TEST_CASE_TEMPLATE("every pattern converts to the value its definition gives, and back to itself", T, f16, bf16, e4m3,
                   e5m2) {
  int wrong = 0;
  for (int i = 0; i < pattern_count<T>; ++i) {
    const T x = pattern<T>(i);
    const double want = defined_value(x);
    const float got = to_float(x);
    if (std::isnan(want)) {
      const T back = from_float<T>(got);
      wrong += !std::isnan(got) || !std::isnan(to_float(back)) || std::signbit(got) != (i >= pattern_count<T> / 2) ||
               std::signbit(to_float(back)) != std::signbit(got);
    } else {
      wrong += static_cast<double>(got) != want || std::signbit(got) != std::signbit(want) || from_float<T>(got) != x;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("rounding is to nearest, ties to even, between every two neighbours", T, f16, bf16, e4m3, e5m2) {
  const std::vector<double> values = finite_values<T>();
  CHECK(values.back() == limits_of<T>.largest);
  CHECK(values[1] == limits_of<T>.smallest);
  int wrong = 0;
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    const float tie = static_cast<float>((values[i] + values[i + 1]) / 2);  // exact: 24 bits hold any midpoint
    for (const float x : {tie, std::nextafter(tie, 0.0f), std::nextafter(tie, std::numeric_limits<float>::infinity())})
      for (const float y : {x, -x}) wrong += from_float<T>(y).bits != nearest<T>(values, y);
  }
  CHECK(wrong == 0);
}

TEST_CASE_TEMPLATE("rounding agrees with a search on random floats of every magnitude", T, f16, bf16, e4m3, e5m2) {
  const std::vector<double> values = finite_values<T>();
  const unsigned seed = 20261121;
  INFO("seed " << seed);
  std::mt19937 random(seed);
  int wrong = 0;
  for (int i = 0; i < 300000; ++i) {
    const float any = detail::bits_float(static_cast<std::uint32_t>(random()));
    const float near_range =
        std::ldexp(std::uniform_real_distribution<float>(-1, 1)(random), static_cast<int>(random() % 48) - 28);
    for (const float x : {any, near_range})
      wrong += std::isnan(x) ? !std::isnan(to_float(from_float<T>(x)))
                             : static_cast<int>(from_float<T>(x).bits) != nearest<T>(values, x);
  }
  CHECK(wrong == 0);
}

TEST_CASE("what lies beyond the largest value is documented") {
  const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
  const float huge = std::numeric_limits<float>::max(), tiny = std::numeric_limits<float>::denorm_min();
  CHECK(from_float<f16>(65519.996f).bits == 0x7bff);
  CHECK(from_float<f16>(65520.0f).bits == 0x7c00);
  CHECK(from_float<f16>(-huge).bits == 0xfc00);
  CHECK(from_float<f16>(inf).bits == 0x7c00);
  CHECK(from_float<bf16>(huge).bits == 0x7f80);
  CHECK(from_float<bf16>(-inf).bits == 0xff80);
  CHECK(from_float<e4m3>(464.0f).bits == 0x7e);
  CHECK(from_float<e4m3>(465.0f).bits == 0x7e);
  CHECK(from_float<e4m3>(-huge).bits == 0xfe);
  CHECK(from_float<e4m3>(inf).bits == 0x7e);
  CHECK(from_float<e5m2>(61439.0f).bits == 0x7b);
  CHECK(from_float<e5m2>(61440.0f).bits == 0x7b);
  CHECK(from_float<e5m2>(huge).bits == 0x7b);
  CHECK(from_float<e5m2>(-inf).bits == 0xfc);
  CHECK(from_float<e4m3>(nan).bits == 0x7f);
  CHECK(from_float<e4m3>(-nan).bits == 0xff);
  CHECK(std::isnan(to_float(from_float<e5m2>(nan))));
  CHECK(from_float<f16>(tiny).bits == 0);
  CHECK(from_float<e4m3>(-tiny).bits == 0x80);
  CHECK(from_float<bf16>(tiny).bits == 0);
  // A signalling NaN whose payload lies wholly in the bits that are dropped must not become an infinity.
  CHECK(std::isnan(to_float(from_float<f16>(detail::bits_float(0x7f800001)))));
  CHECK(std::isnan(to_float(from_float<bf16>(detail::bits_float(0xff800001)))));
  CHECK(std::isnan(to_float(from_float<e5m2>(detail::bits_float(0x7f800001)))));
}

#if defined(SLUICE_TEST_HAS_FLOAT16)
TEST_CASE("binary16 agrees with the compiler's own") {
  int wrong = 0;
  for (int i = 0; i < 65536; ++i) {
    const f16 x = pattern<f16>(i);
    const float want = static_cast<float>(__builtin_bit_cast(_Float16, x));
    wrong += std::isnan(want) ? !std::isnan(to_float(x)) : detail::float_bits(to_float(x)) != detail::float_bits(want);
  }
  CHECK(wrong == 0);
  // 2^32 floats in strides of a prime: every exponent, and mantissas without a pattern.
  for (std::uint64_t i = 0; i < (std::uint64_t{1} << 32); i += 1021) {
    const float x = detail::bits_float(static_cast<std::uint32_t>(i));
    if (std::isnan(x)) continue;
    wrong += from_float<f16>(x) != __builtin_bit_cast(f16, static_cast<_Float16>(x));
  }
  CHECK(wrong == 0);
}
#endif

TEST_CASE("elements load and store at any alignment") {
  std::byte memory[8] = {};
  for (const dtype t : {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2}) {
    store_element(memory + 1, t, -1.75f);
    CHECK(load_element(memory + 1, t) == -1.75f);
    CHECK(memory[0] == std::byte{0});
    CHECK(memory[1 + size_of(t)] == std::byte{0});
    for (std::byte& b : memory) b = std::byte{0};
  }
  store_element(memory, dtype::bytes, 3.0f);
  CHECK(memory[0] == std::byte{0});
  CHECK(load_element(memory, dtype::bytes) == 0.0f);
}
