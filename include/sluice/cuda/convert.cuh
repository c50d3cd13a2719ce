// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/ptx.cuh>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstdint>

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
/// Four floats, e5m2 where it is `wide`, else e4m3.
__device__ __forceinline__ std::uint32_t pack_fp8(bool wide, const float* v) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
  std::uint16_t low, high;
  if (wide) {
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(low) : "f"(v[1]), "f"(v[0]));
    asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(high) : "f"(v[3]), "f"(v[2]));
  } else {
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(low) : "f"(v[1]), "f"(v[0]));
    asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(high) : "f"(v[3]), "f"(v[2]));
  }
  return low | std::uint32_t{high} << 16;
#else
  const std::uint32_t most = wide ? 0x47600000u : 0x43e00000u;  // 57344, 448
  const std::uint32_t bias = wide ? 15 : 7, mantissa = wide ? 2 : 3, shift = 23 - mantissa;
  const std::uint32_t magic = (151 - bias - mantissa) << 23;  // its last place is that of the smallest numbers
  std::uint32_t all = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const std::uint32_t bits = sluice::detail::float_bits(v[i]), size = bits & 0x7fffffffu;
    const std::uint32_t m = size < most ? size : most;
    const std::uint32_t small =
        sluice::detail::float_bits(sluice::detail::bits_float(m) + sluice::detail::bits_float(magic)) - magic;
    const std::uint32_t normal = (m - ((127 - bias) << 23) + (1u << (shift - 1)) - 1 + (m >> shift & 1)) >> shift;
    std::uint32_t r = m >> 23 < 128 - bias ? small : normal;
    if (size > sluice::detail::float_infinity) r = 0x7f;
    all |= (r | (bits >> 24 & 0x80u)) << 8 * i;
  }
  return all;
#endif
}

}  // namespace detail

/// Eight floats as elements of 16 bits, f16 or bf16.
template <dtype Type>
__device__ __forceinline__ void pack_16(const float (&v)[8], std::uint32_t (&to)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
    to[i] = Type == dtype::bf16 ? detail::pack_finite_bf16(v[2 * i], v[2 * i + 1])
                                : detail::pack_finite_f16(v[2 * i], v[2 * i + 1]);
}
/// Eight floats as elements of 8 bits, e4m3 or e5m2.
__device__ __forceinline__ void pack_8(dtype type, const float (&v)[8], std::uint32_t (&to)[2]) {
  to[0] = detail::pack_fp8(type == dtype::e5m2, v);
  to[1] = detail::pack_fp8(type == dtype::e5m2, v + 4);
}

}  // namespace sluice::cuda
