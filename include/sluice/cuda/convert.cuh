// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/ptx.cuh>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstdint>
#include <type_traits>

// Numbers on their way into tensor cores and into pages, several at a time. What is beyond a type's largest number
// becomes that number. The machine has words for most of it; a host, and a device without, does the same in integers.

namespace sluice::cuda {

/// Two 16-bit integers as halves; exact up to 2^11, and for multiples of 32.
__device__ __forceinline__ std::uint32_t halves_of(std::uint32_t two) {
  return ptx::pack_f16(static_cast<float>(static_cast<std::int16_t>(two & 0xffffu)),
                       static_cast<float>(static_cast<std::int16_t>(two >> 16)));
}

/// The same of integers from -512 to 511, without a conversion: the bits of 1536 + c are those of c beside an exponent.
__device__ __forceinline__ std::uint32_t small_halves_of(std::uint32_t two) {
#if defined(__CUDA_ARCH__)
  std::uint32_t r;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"((two & 0x03ff03ffu) ^ 0x66006600u), "r"(0x66006600u));
  return r;
#else
  return halves_of(two);
#endif
}
/// One half as a float.
__device__ __forceinline__ float float_of_half(std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(static_cast<std::uint16_t>(bits)));
  return r;
#else
  return to_float(f16{static_cast<std::uint16_t>(bits)});
#endif
}

/// Bits that are set where one of two integers is not that small, among others: see not_small.
__device__ __forceinline__ std::uint32_t spread_of(std::uint32_t two) { return two ^ (two + two); }
inline constexpr std::uint32_t not_small = 0xfc00fc00u;  ///< of spread_of(): beyond -512 .. 511
inline constexpr std::uint32_t not_half = 0xf000f000u;   ///< beyond -2048 .. 2047, which halves hold exactly

namespace detail {

__device__ __forceinline__ std::uint32_t pack_finite_f16(float a, float b) {
#if defined(__CUDA_ARCH__)
  std::uint32_t r;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
  return r;
#else
  const auto of = [](float x) {
    return std::uint32_t{from_float<f16>(x > 65504.f ? 65504.f : x < -65504.f ? -65504.f : x).bits};
  };
  return of(a) | of(b) << 16;
#endif
}
__device__ __forceinline__ std::uint32_t pack_finite_bf16(float a, float b) {
#if defined(__CUDA_ARCH__)
  std::uint32_t r;
  asm("cvt.rn.satfinite.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
  return r;
#else
  constexpr float most = 3.38953139e38f;
  const auto of = [](float x) { return std::uint32_t{from_float<bf16>(x > most ? most : x < -most ? -most : x).bits}; };
  return of(a) | of(b) << 16;
#endif
}
template <class T>
__device__ __forceinline__ std::uint32_t pack_fp8(float a, float b) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  std::uint16_t r;
  if constexpr (std::is_same_v<T, e4m3>)
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(r) : "f"(b), "f"(a));
  else
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(r) : "f"(b), "f"(a));
  return r;
#else
  return std::uint32_t{from_float<T>(a).bits} | std::uint32_t{from_float<T>(b).bits} << 8;
#endif
}

}  // namespace detail

/// Eight floats as elements, packed from the lowest byte of the first word on; leaves words behind them alone.
__device__ __forceinline__ void pack_elements(dtype type, const float (&v)[8], std::uint32_t (&to)[8]) {
  if (type == dtype::bf16) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = detail::pack_finite_bf16(v[2 * i], v[2 * i + 1]);
  } else if (type == dtype::f16) {
#pragma unroll
    for (int i = 0; i < 4; ++i) to[i] = detail::pack_finite_f16(v[2 * i], v[2 * i + 1]);
  } else if (type == dtype::f32) {
#pragma unroll
    for (int i = 0; i < 8; ++i) to[i] = sluice::detail::float_bits(v[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      if (type == dtype::e4m3)
        to[i] = detail::pack_fp8<e4m3>(v[4 * i], v[4 * i + 1]) | detail::pack_fp8<e4m3>(v[4 * i + 2], v[4 * i + 3]) << 16;
      else
        to[i] = detail::pack_fp8<e5m2>(v[4 * i], v[4 * i + 1]) | detail::pack_fp8<e5m2>(v[4 * i + 2], v[4 * i + 3]) << 16;
    }
  }
}

}  // namespace sluice::cuda
