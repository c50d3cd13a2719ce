// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>

// Halves as the hardware converts them.

namespace cuda_on_host {

inline float widened(std::uint16_t h) {
  static const auto table = [] {
    auto t = std::make_unique<float[]>(65536);
    for (unsigned i = 0; i < 65536; ++i) {
      const int exponent = static_cast<int>(i >> 10 & 31), mantissa = static_cast<int>(i & 1023);
      const float sign = i & 0x8000 ? -1.0f : 1.0f;
      if (exponent == 31)
        t[i] = std::bit_cast<float>((i & 0x8000) << 16 | 0x7f800000u | static_cast<unsigned>(mantissa) << 13);
      else
        t[i] = sign * std::ldexp(static_cast<float>(mantissa + (exponent ? 1024 : 0)), (exponent ? exponent : 1) - 25);
    }
    return t;
  }();
  return table[h];
}

/// To nearest even.
inline std::uint16_t narrowed(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v), magnitude = bits & 0x7fffffffu;
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000u);
  std::uint32_t half;
  if (magnitude > 0x7f800000u)
    return 0x7fff;  // the hardware has one NaN
  else if (magnitude >= 0x477ff000u)
    half = 0x7c00;
  else if (magnitude < 0x38800000u)  // below 2^-14: adding 0.5 leaves the number in the low bits
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  else
    half = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
  return static_cast<std::uint16_t>(sign | half);
}
/// The same for bfloat16.
inline std::uint16_t narrowed_bf16(float v) {
  const auto bits = std::bit_cast<std::uint32_t>(v);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace cuda_on_host
