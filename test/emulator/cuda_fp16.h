// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <half_bits.hpp>

#include <cstdint>

// NOLINTBEGIN(bugprone-reserved-identifier): these are CUDA's names.
struct __half {
  std::uint16_t bits;
};
struct alignas(4) __half2 {
  __half x, y;
};
inline __half __float2half_rn(float v) { return {cuda_on_host::narrowed(v)}; }
inline __half __float2half(float v) { return __float2half_rn(v); }
inline float __half2float(__half h) { return cuda_on_host::widened(h.bits); }
inline __half __ushort_as_half(std::uint16_t v) { return {v}; }
inline std::uint16_t __half_as_ushort(__half h) { return h.bits; }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline __half2 __floats2half2_rn(float a, float b) { return {__float2half_rn(a), __float2half_rn(b)}; }
inline __half __low2half(__half2 h) { return h.x; }
inline __half __high2half(__half2 h) { return h.y; }
inline float __low2float(__half2 h) { return __half2float(h.x); }
inline float __high2float(__half2 h) { return __half2float(h.y); }
// NOLINTEND(bugprone-reserved-identifier)
