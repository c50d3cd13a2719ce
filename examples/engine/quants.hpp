// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gguf.hpp"

#include <sluice/tensor/half.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__F16C__)
#include <immintrin.h>
#endif

// Block formats of ggml, as ggml-quants.c defines them. Whatever the packing, 32 neighbouring weights are small unsigned
// integers q with x = scale * q + min; only Q6_K changes scale and min half way. The "k" formats keep the scales of 8 or
// 16 such runs in one super-block of 256.

namespace engine {

/// 32 weights: x[i] = scale[i / 16] * q[i] + min[i / 16].
struct affine_run {
  std::uint8_t q[32];
  float scale[2], min[2];

  void set(float s, float m) noexcept { scale[0] = scale[1] = s, min[0] = min[1] = m; }

  // Two loops and not one nested: g++ 12.2 at -O2 takes the nested one, inlined, for code without effect.
  void floats(float* to) const noexcept {
    for (int i = 0; i < 16; ++i) to[i] = scale[0] * float(q[i]) + min[0];
    for (int i = 16; i < 32; ++i) to[i] = scale[1] * float(q[i]) + min[1];
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
  for (int i = 0; i < 16; ++i) q[i] = from[i] & 15;
  for (int i = 0; i < 16; ++i) q[16 + i] = from[i] >> 4;
}

// The fifth bits of 32 elements stand in one word, element i's at bit i.
inline void fifth_bits(const std::uint8_t* from, std::uint8_t* q) noexcept {
  std::uint32_t bits;
  std::memcpy(&bits, from, 4);
  for (int i = 0; i < 32; ++i) q[i] = std::uint8_t(q[i] | (bits >> i & 1) << 4);
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
      for (int i = 0; i < 32; ++i) r.q[i] = b[16 + run / 2 * 32 + i] >> shift & 15;
      set_k_scales(r, b, run);
      break;
    case tensor_type::q5_k:
      for (int i = 0; i < 32; ++i)
        r.q[i] = std::uint8_t((b[48 + run / 2 * 32 + i] >> shift & 15) | (b[16 + i] >> run & 1) << 4);
      set_k_scales(r, b, run);
      break;
    case tensor_type::q6_k: {
      // Each half of the super-block has 64 bytes of low nibbles, 32 of high bit pairs, and 8 scales.
      const int half = run / 4, part = run % 4;
      const std::uint8_t *low = b + 64 * half + 32 * (part % 2), *high = b + 128 + 32 * half;
      for (int i = 0; i < 32; ++i)
        r.q[i] = std::uint8_t((low[i] >> (part / 2 * 4) & 15) | (high[i] >> (2 * part) & 3) << 4);
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
