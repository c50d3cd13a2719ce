// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

// The few functions of <algorithm> and <cmath> that the umbrella needs. Those two headers cost every translation unit of
// every user 14,000 preprocessed lines, as much as all of sluice.

namespace sluice::detail {

template <class T>
constexpr const T& min(const T& a, const T& b) noexcept {
  return b < a ? b : a;
}
template <class T>
constexpr const T& max(const T& a, const T& b) noexcept {
  return a < b ? b : a;
}
template <class T>
constexpr const T& clamp(const T& x, const T& low, const T& high) noexcept {
  return x < low ? low : high < x ? high : x;
}
template <class In, class Out>
constexpr Out copy(In first, In last, Out to) {
  for (; first != last; ++first, ++to) *to = *first;
  return to;
}

/// Heapsort of v[0, n): the library's only sort. Equals may change places.
template <class T, class Less>
constexpr void sort(T* v, std::size_t n, Less less) {
  const auto exchange = [v](std::size_t a, std::size_t b) {
    const T t = v[a];
    v[a] = v[b];
    v[b] = t;
  };
  for (std::size_t first = n / 2, end = n; end > 1;) {
    first > 0 ? void(--first) : exchange(0, --end);
    for (std::size_t at = first, child = 2 * at + 1; child < end; at = child, child = 2 * at + 1) {
      if (child + 1 < end && less(v[child], v[child + 1])) ++child;
      if (!less(v[at], v[child])) break;
      exchange(at, child);
    }
  }
}

inline constexpr double pi = 3.14159265358979323846;
inline constexpr double infinity = __builtin_inf();

inline float sqrt(float x) noexcept { return __builtin_sqrtf(x); }
inline double sqrt(double x) noexcept { return __builtin_sqrt(x); }
inline float log2(float x) noexcept { return __builtin_log2f(x); }
inline double log2(double x) noexcept { return __builtin_log2(x); }
inline double log(double x) noexcept { return __builtin_log(x); }
inline double cos(double x) noexcept { return __builtin_cos(x); }
inline double sin(double x) noexcept { return __builtin_sin(x); }
inline double pow(double x, double y) noexcept { return __builtin_pow(x, y); }
inline double floor(double x) noexcept { return __builtin_floor(x); }
inline double ceil(double x) noexcept { return __builtin_ceil(x); }
constexpr int abs(int x) noexcept { return x < 0 ? -x : x; }
inline float abs(float x) noexcept { return __builtin_fabsf(x); }
inline double abs(double x) noexcept { return __builtin_fabs(x); }
inline long lrint(float x) noexcept { return __builtin_lrintf(x); }
// By their bits: under -ffast-math every comparison may be taken to be between numbers.
constexpr bool isfinite(float x) noexcept { return (__builtin_bit_cast(unsigned, x) & 0x7f800000u) != 0x7f800000u; }
constexpr bool isfinite(double x) noexcept {
  return (__builtin_bit_cast(unsigned long long, x) & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

}  // namespace sluice::detail
