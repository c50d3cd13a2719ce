// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

// Storage types of 16 and 8 bits, and their conversions in integer arithmetic: the same bits on every host and device,
// in constant expressions, whatever the rounding mode and fast-math flags. This is the scalar reference.
//
//            largest    smallest   beyond the largest        infinity       NaN
//   f16      65504      2^-24      infinity                  kept           kept
//   bf16     3.39e38    2^-133     infinity                  kept           kept
//   e4m3     448        2^-9       saturates                 becomes 448    kept
//   e5m2     57344      2^-16      saturates                 kept           kept
//
// Rounding is to nearest, ties to even. The 8-bit types saturate because engines do when they fill a cache: CUDA's
// cvt.rn.satfinite (vLLM), a clamp before the cast, and torch's own e4m3fn cast since 2.12. Two departures from other
// casts: satfinite turns an infinite input into 57344 for e5m2, where this keeps the infinity; torch's e5m2 cast gives
// an infinity on overflow. A NaN stays a NaN of the same sign; its payload is not promised.

namespace sluice {

/// IEEE binary16.
struct f16 {
  std::uint16_t bits;                           ///< sign, 5 bits of exponent, 10 of mantissa
  bool operator==(const f16&) const = default;  ///< same bits, so NaN == NaN and -0 != 0
};

/// bfloat16: the upper half of a float.
struct bf16 {
  std::uint16_t bits;  ///< sign, 8 bits of exponent, 7 of mantissa
  bool operator==(const bf16&) const = default;
};

/// OCP FP8 E4M3 ("e4m3fn"): no infinity; NaN is 0x7f and 0xff.
struct e4m3 {
  std::uint8_t bits;  ///< sign, 4 bits of exponent, 3 of mantissa
  bool operator==(const e4m3&) const = default;
};

/// OCP FP8 E5M2: a binary16 with two mantissa bits.
struct e5m2 {
  std::uint8_t bits;  ///< sign, 5 bits of exponent, 2 of mantissa
  bool operator==(const e5m2&) const = default;
};

namespace detail {

SLUICE_HD constexpr std::uint32_t float_bits(float x) noexcept { return __builtin_bit_cast(std::uint32_t, x); }
SLUICE_HD constexpr float bits_float(std::uint32_t x) noexcept { return __builtin_bit_cast(float, x); }

// Magnitude bits (no sign) of a format with an IEEE-like exponent to those of a float; specials are the caller's.
template <int ExponentBits, int MantissaBits>
SLUICE_HD constexpr std::uint32_t widen(std::uint32_t magnitude) noexcept {
  constexpr int shift = 23 - MantissaBits;
  constexpr std::uint32_t bias = (1u << (ExponentBits - 1)) - 1;
  if (magnitude >> MantissaBits) return (magnitude << shift) + ((127 - bias) << 23);
  if (magnitude == 0) return 0;
  // A subnormal is a normal float: shift its leading bit up to where the hidden one belongs.
  std::uint32_t exponent = 127 - bias + 1;
  for (; !(magnitude >> MantissaBits); magnitude <<= 1) --exponent;
  return (exponent << 23) + ((magnitude << shift) & 0x7fffff);
}

// Magnitude bits of a finite float, rounded; may exceed the format's largest, which the caller compares.
template <int ExponentBits, int MantissaBits>
SLUICE_HD constexpr std::uint32_t narrow(std::uint32_t magnitude) noexcept {
  constexpr int shift = 23 - MantissaBits;
  constexpr std::uint32_t bias = (1u << (ExponentBits - 1)) - 1;
  const std::uint32_t exponent = magnitude >> 23;
  if (exponent > 127 - bias) {
    const std::uint32_t tie_to_even = (magnitude >> shift) & 1;
    return (magnitude - ((127 - bias) << 23) + (1u << (shift - 1)) - 1 + tie_to_even) >> shift;
  }
  const std::uint32_t drop = shift + (127 - bias + 1) - exponent;
  if (drop > 24) return 0;  // below half of the smallest subnormal
  const std::uint32_t mantissa = (magnitude & 0x7fffff) | 0x800000;
  const std::uint32_t tie_to_even = (mantissa >> drop) & 1;
  return (mantissa + (1u << (drop - 1)) - 1 + tie_to_even) >> drop;
}

inline constexpr std::uint32_t float_infinity = 0x7f800000;

}  // namespace detail

/// @name From storage types.
/// @{

/// The value of a stored element; exact.
SLUICE_HD constexpr float to_float(f16 x) noexcept {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00) return detail::bits_float(sign | detail::float_infinity | (magnitude & 0x3ff) << 13);
  return detail::bits_float(sign | detail::widen<5, 10>(magnitude));
}

SLUICE_HD constexpr float to_float(bf16 x) noexcept { return detail::bits_float(std::uint32_t{x.bits} << 16); }

SLUICE_HD constexpr float to_float(e4m3 x) noexcept {
  const std::uint32_t sign = (x.bits & 0x80u) << 24, magnitude = x.bits & 0x7fu;
  if (magnitude == 0x7f) return detail::bits_float(sign | 0x7fc00000);
  return detail::bits_float(sign | detail::widen<4, 3>(magnitude));
}

SLUICE_HD constexpr float to_float(e5m2 x) noexcept { return to_float(f16{static_cast<std::uint16_t>(x.bits << 8)}); }
/// @}

/// @name To storage types.
/// @{

/// The nearest value of a storage type, ties to even; overflow as in the table above.
template <class T>
SLUICE_HD constexpr T from_float(float x) noexcept = delete;

template <>
SLUICE_HD constexpr f16 from_float<f16>(float x) noexcept {
  const std::uint32_t bits = detail::float_bits(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  std::uint32_t r = 0x7c00;
  if (magnitude > detail::float_infinity)
    r = 0x7e00 | (magnitude >> 13 & 0x3ff);
  else if (magnitude < 0x47800000)  // 65536; from 65520 on narrow() itself rounds up to the infinity
    r = detail::narrow<5, 10>(magnitude);
  return {static_cast<std::uint16_t>(sign | r)};
}

template <>
SLUICE_HD constexpr bf16 from_float<bf16>(float x) noexcept {
  const std::uint32_t bits = detail::float_bits(x);
  if ((bits & 0x7fffffff) > detail::float_infinity) return {static_cast<std::uint16_t>(bits >> 16 | 0x40)};
  return {static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

template <>
SLUICE_HD constexpr e4m3 from_float<e4m3>(float x) noexcept {
  const std::uint32_t bits = detail::float_bits(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  std::uint32_t r = 0x7e;
  if (magnitude > detail::float_infinity)
    r = 0x7f;
  else if (magnitude < 0x43e00000)  // 448
    r = detail::narrow<4, 3>(magnitude);
  return {static_cast<std::uint8_t>(sign | r)};
}

template <>
SLUICE_HD constexpr e5m2 from_float<e5m2>(float x) noexcept {
  const std::uint32_t bits = detail::float_bits(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
  std::uint32_t r = 0x7b;
  if (magnitude > detail::float_infinity)
    r = 0x7e | (magnitude >> 21 & 0x3);
  else if (magnitude == detail::float_infinity)
    r = 0x7c;
  else if (magnitude < 0x47600000)  // 57344
    r = detail::narrow<5, 2>(magnitude);
  return {static_cast<std::uint8_t>(sign | r)};
}
/// @}

namespace detail {

template <class T>
SLUICE_HD inline T load_as(const std::byte* from) noexcept {
  T x;
  std::memcpy(&x, from, sizeof(T));
  return x;
}

template <class T>
SLUICE_HD inline void store_as(std::byte* to, T x) noexcept {
  std::memcpy(to, &x, sizeof(T));
}

}  // namespace detail

/// One element in memory as a float, at any alignment; `dtype::bytes` is opaque and reads as 0.
SLUICE_HD inline float load_element(const std::byte* from, dtype type) noexcept {
  switch (type) {
    case dtype::f32: return detail::load_as<float>(from);
    case dtype::f16: return to_float(detail::load_as<f16>(from));
    case dtype::bf16: return to_float(detail::load_as<bf16>(from));
    case dtype::e4m3: return to_float(detail::load_as<e4m3>(from));
    case dtype::e5m2: return to_float(detail::load_as<e5m2>(from));
    case dtype::bytes: break;
  }
  return 0;
}

/// Stores a float as an element, at any alignment; stores nothing for `dtype::bytes`.
SLUICE_HD inline void store_element(std::byte* to, dtype type, float x) noexcept {
  switch (type) {
    case dtype::f32: return detail::store_as(to, x);
    case dtype::f16: return detail::store_as(to, from_float<f16>(x));
    case dtype::bf16: return detail::store_as(to, from_float<bf16>(x));
    case dtype::e4m3: return detail::store_as(to, from_float<e4m3>(x));
    case dtype::e5m2: return detail::store_as(to, from_float<e5m2>(x));
    case dtype::bytes: return;
  }
}

}  // namespace sluice
