// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>

// The few functions of <algorithm> and <cmath> that the umbrella needs. Those two headers cost every translation unit of
// every user 14,000 preprocessed lines, as much as all of sluice.

namespace sluice::detail {

template <class T>
SLUICE_HD constexpr const T& min(const T& a, const T& b) noexcept {
  return b < a ? b : a;
}
template <class T>
SLUICE_HD constexpr const T& max(const T& a, const T& b) noexcept {
  return a < b ? b : a;
}
template <class T>
SLUICE_HD constexpr const T& clamp(const T& x, const T& low, const T& high) noexcept {
  return x < low ? low : high < x ? high : x;
}
template <class In, class Out>
constexpr Out copy(In first, In last, Out to) {
  for (; first != last; ++first, ++to) *to = *first;
  return to;
}

SLUICE_HD constexpr int power_of_3(int n) noexcept { return n <= 0 ? 1 : 3 * power_of_3(n - 1); }

/// Puts x[0 .. n) in the order of `before`; equal ones in any. In place, n log n whatever comes (heapsort).
template <class T, class Before>
constexpr void sort(T* x, decltype(sizeof(0)) n, Before before) {
  const auto sink = [&](auto at, auto end) {
    const T value = x[at];
    for (auto child = 2 * at + 1; child < end; at = child, child = 2 * at + 1) {
      if (child + 1 < end && before(x[child], x[child + 1])) ++child;
      if (!before(value, x[child])) break;
      x[at] = x[child];
    }
    x[at] = value;
  };
  for (auto i = n / 2; i-- > 0;) sink(i, n);
  for (auto end = n; end-- > 1;) {
    const T last = x[end];
    x[end] = x[0];
    x[0] = last;
    sink(decltype(n){0}, end);
  }
}

inline constexpr double pi = 3.14159265358979323846;
inline constexpr double infinity = __builtin_inf();
inline constexpr float infinity_f = __builtin_inff();

inline float sqrt(float x) noexcept { return __builtin_sqrtf(x); }
inline double sqrt(double x) noexcept { return __builtin_sqrt(x); }
inline float log2(float x) noexcept { return __builtin_log2f(x); }
inline double log2(double x) noexcept { return __builtin_log2(x); }
inline double exp2(double x) noexcept { return __builtin_exp2(x); }
inline double log(double x) noexcept { return __builtin_log(x); }
inline double cos(double x) noexcept { return __builtin_cos(x); }
inline double sin(double x) noexcept { return __builtin_sin(x); }
inline double pow(double x, double y) noexcept { return __builtin_pow(x, y); }
inline double floor(double x) noexcept { return __builtin_floor(x); }
inline double ceil(double x) noexcept { return __builtin_ceil(x); }
SLUICE_HD constexpr int abs(int x) noexcept { return x < 0 ? -x : x; }
inline float abs(float x) noexcept { return __builtin_fabsf(x); }
inline double abs(double x) noexcept { return __builtin_fabs(x); }
inline long lrint(float x) noexcept { return __builtin_lrintf(x); }
// By their bits: under -ffast-math every comparison may be taken to be between numbers.
constexpr bool isfinite(float x) noexcept { return (__builtin_bit_cast(unsigned, x) & 0x7f800000u) != 0x7f800000u; }
constexpr bool isfinite(double x) noexcept {
  return (__builtin_bit_cast(unsigned long long, x) & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

}  // namespace sluice::detail
