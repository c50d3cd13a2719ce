// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gguf.hpp"

#include <sluice/tensor/half.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__F16C__) || defined(__AVX2__)
#include <immintrin.h>
#endif

// Block formats of ggml, as ggml-quants.c defines them. Whatever the packing, 32 neighbouring weights are small unsigned
// integers q with x = scale * q + min; only Q6_K changes scale and min half way. The "k" formats keep the scales of 8 or
// 16 such runs in one super-block of 256.

namespace engine {

// Vectors of the compiler, on any processor.
typedef std::uint8_t bytes16 __attribute__((vector_size(16)));
typedef std::uint8_t bytes32 __attribute__((vector_size(32)));

/// 32 weights: x[i] = scale[i / 16] * q[i] + min[i / 16].
struct affine_run {
  alignas(32) std::uint8_t q[32];
  float scale[2], min[2];

  void set(float s, float m) noexcept { scale[0] = scale[1] = s, min[0] = min[1] = m; }

  void floats(float* to) const noexcept {
#if defined(__AVX512F__)
    for (int i = 0; i < 32; i += 16) {
      const __m128i x = _mm_load_si128(reinterpret_cast<const __m128i*>(q + i));
      const __m512 s = _mm512_set1_ps(scale[i / 16]), m = _mm512_set1_ps(min[i / 16]);
      _mm512_storeu_ps(to + i, _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(x)), s, m));
    }
#elif defined(__AVX2__) && defined(__FMA__)
    for (int i = 0; i < 32; i += 8) {
      const __m128i x = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(q + i));
      const __m256 s = _mm256_set1_ps(scale[i / 16]), m = _mm256_set1_ps(min[i / 16]);
      _mm256_storeu_ps(to + i, _mm256_fmadd_ps(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(x)), s, m));
    }
#else
    // Two loops and not one nested: g++ 12.2 at -O2 takes the nested one, inlined, for code without effect.
    for (int i = 0; i < 16; ++i) to[i] = scale[0] * float(q[i]) + min[0];
    for (int i = 16; i < 32; ++i) to[i] = scale[1] * float(q[i]) + min[1];
#endif
  }
};

namespace detail {

inline float half_at(const std::uint8_t* p) noexcept {
  std::uint16_t bits;
  std::memcpy(&bits, p, 2);
#if defined(__F16C__)
  return _cvtsh_ss(bits);
#else
  return sluice::to_float(sluice::f16{bits});
#endif
}

// Two halves of 16 in the low and high nibbles of 16 bytes.
inline void nibbles(const std::uint8_t* from, std::uint8_t* q) noexcept {
  bytes16 x;
  std::memcpy(&x, from, sizeof x);
  const bytes16 y[2] = {x & 15, x >> 4};
  std::memcpy(q, y, sizeof y);
}

// The fifth bits of 32 elements stand in 4 bytes, element i's at bit i % 8 of byte i / 8.
inline void fifth_bits(const std::uint8_t* from, std::uint8_t* q) noexcept {
  std::uint64_t copies[4], masks[4];
  for (int i = 0; i < 4; ++i) copies[i] = from[i] * 0x0101010101010101u, masks[i] = 0x8040201008040201u;
  bytes32 x, mask, to;
  std::memcpy(&x, copies, sizeof x);
  std::memcpy(&mask, masks, sizeof mask);
  std::memcpy(&to, q, sizeof to);
  to |= reinterpret_cast<bytes32>((x & mask) == mask) & 16;
  std::memcpy(q, &to, sizeof to);
}

// Adds ((from[i] >> shift) & mask) << up to 32 bytes whose bits there are zero.
inline void add_bits(const std::uint8_t* from, int shift, int mask, int up, std::uint8_t* q) noexcept {
  for (int i = 0; i < 32; i += 16) {
    bytes16 x, y;
    std::memcpy(&x, from + i, sizeof x);
    std::memcpy(&y, q + i, sizeof y);
    y |= ((x >> std::uint8_t(shift)) & std::uint8_t(mask)) << std::uint8_t(up);
    std::memcpy(q + i, &y, sizeof y);
  }
}

// Of Q4_K and Q5_K: eight 6-bit scales and eight 6-bit minima in 12 bytes.
inline void set_k_scales(affine_run& r, const std::uint8_t* block, int run) noexcept {
  const std::uint8_t* s = block + 4;
  const int scale = run < 4 ? s[run] & 63 : (s[run + 4] & 15) | (s[run - 4] >> 6) << 4;
  const int min = run < 4 ? s[run + 4] & 63 : (s[run + 4] >> 4) | (s[run] >> 6) << 4;
  r.set(half_at(block) * float(scale), -half_at(block + 2) * float(min));
}

// Run `run` of a block.
inline void unpack(tensor_type type, const std::uint8_t* b, int run, affine_run& r) noexcept {
  const int shift = run % 2 * 4;  // in Q4_K and Q5_K neighbouring runs share 32 bytes
  switch (type) {
    case tensor_type::q4_0:
      nibbles(b + 2, r.q);
      r.set(half_at(b), -8 * half_at(b));
      break;
    case tensor_type::q4_1:
      nibbles(b + 4, r.q);
      r.set(half_at(b), half_at(b + 2));
      break;
    case tensor_type::q5_0:
      nibbles(b + 6, r.q);
      fifth_bits(b + 2, r.q);
      r.set(half_at(b), -16 * half_at(b));
      break;
    case tensor_type::q5_1:
      nibbles(b + 8, r.q);
      fifth_bits(b + 4, r.q);
      r.set(half_at(b), half_at(b + 2));
      break;
    case tensor_type::q8_0:
      for (int i = 0; i < 32; ++i) r.q[i] = b[2 + i] ^ 0x80;  // two's complement plus 128
      r.set(half_at(b), -128 * half_at(b));
      break;
    case tensor_type::q4_k:
      std::memset(r.q, 0, sizeof r.q);
      add_bits(b + 16 + run / 2 * 32, shift, 15, 0, r.q);
      set_k_scales(r, b, run);
      break;
    case tensor_type::q5_k:
      std::memset(r.q, 0, sizeof r.q);
      add_bits(b + 48 + run / 2 * 32, shift, 15, 0, r.q);
      add_bits(b + 16, run, 1, 4, r.q);
      set_k_scales(r, b, run);
      break;
    case tensor_type::q6_k: {
      // Each half of the super-block has 64 bytes of low nibbles, 32 of high bit pairs, and 8 scales.
      const int half = run / 4, part = run % 4;
      std::memset(r.q, 0, sizeof r.q);
      add_bits(b + 64 * half + 32 * (part % 2), part / 2 * 4, 15, 0, r.q);
      add_bits(b + 128 + 32 * half, 2 * part, 3, 4, r.q);
      for (int i = 0; i < 2; ++i) {
        r.scale[i] = half_at(b + 208) * float(std::int8_t(b[192 + 2 * run + i]));
        r.min[i] = -32 * r.scale[i];
      }
      break;
    }
    case tensor_type::f32:
    case tensor_type::f16:
    case tensor_type::bf16: break;
  }
}

template <tensor_type Type>
void dequantize_runs(const std::uint8_t* from, float* to, std::size_t n) noexcept {
  constexpr block_size size = block_of(Type);
  for (std::size_t i = 0; i < n; i += size.elements, from += size.bytes)
    for (int run = 0; run < int(size.elements / 32); ++run) {
      affine_run r;
      unpack(Type, from, run, r);
      r.floats(to + i + std::size_t(run) * 32);
    }
}

}  // namespace detail

constexpr bool is_quantized(tensor_type t) noexcept { return block_of(t).elements > 1; }

/// Elements [32 i, 32 i + 32) of a quantised row.
inline affine_run unpack_run(tensor_type type, const std::byte* row, std::size_t i) noexcept {
  const block_size size = block_of(type);
  const std::size_t runs = size.elements / 32;
  affine_run r;
  detail::unpack(type, reinterpret_cast<const std::uint8_t*>(row) + i / runs * size.bytes, int(i % runs), r);
  return r;
}

/// `n` elements of `type`, whole blocks, as floats.
inline void dequantize(tensor_type type, const std::byte* bytes, float* to, std::size_t n) noexcept {
  const auto* from = reinterpret_cast<const std::uint8_t*>(bytes);
  switch (type) {
    case tensor_type::f32: std::memcpy(to, from, 4 * n); break;
    case tensor_type::f16:
      for (std::size_t i = 0; i < n; ++i) to[i] = detail::half_at(from + 2 * i);
      break;
    case tensor_type::bf16:
      for (std::size_t i = 0; i < n; ++i) to[i] = sluice::load_element(bytes + 2 * i, sluice::dtype::bf16);
      break;
    case tensor_type::q4_0: detail::dequantize_runs<tensor_type::q4_0>(from, to, n); break;
    case tensor_type::q4_1: detail::dequantize_runs<tensor_type::q4_1>(from, to, n); break;
    case tensor_type::q5_0: detail::dequantize_runs<tensor_type::q5_0>(from, to, n); break;
    case tensor_type::q5_1: detail::dequantize_runs<tensor_type::q5_1>(from, to, n); break;
    case tensor_type::q8_0: detail::dequantize_runs<tensor_type::q8_0>(from, to, n); break;
    case tensor_type::q4_k: detail::dequantize_runs<tensor_type::q4_k>(from, to, n); break;
    case tensor_type::q5_k: detail::dequantize_runs<tensor_type::q5_k>(from, to, n); break;
    case tensor_type::q6_k: detail::dequantize_runs<tensor_type::q6_k>(from, to, n); break;
  }
}

/// Row `r` of a tensor as floats.
inline void dequantize_row(const tensor& t, std::size_t r, float* to) noexcept {
  dequantize(t.type, t.row(r), to, std::size_t(t.cols));
}

}  // namespace engine
