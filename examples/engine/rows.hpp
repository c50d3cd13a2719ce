// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/tensor/half.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstddef>
#include <cstring>

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

// Rows of floats in and out of the storage types of a KV cache: sluice/tensor/half.hpp with the CPU's own instructions.

namespace engine {

inline void load_row(const std::byte* from, sluice::dtype type, float* to, int n) noexcept {
  int i = 0;
  if (type == sluice::dtype::f32) {
    std::memcpy(to, from, sizeof(float) * std::size_t(n));
    return;
  }
#if defined(__AVX512F__)
  for (; i + 16 <= n; i += 16) {
    const __m256i x = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 2 * i));
    _mm512_storeu_ps(to + i, type == sluice::dtype::f16
                                 ? _mm512_cvtph_ps(x)
                                 : _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16)));
  }
#elif defined(__F16C__) && defined(__AVX2__)
  for (; i + 8 <= n; i += 8) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i));
    _mm256_storeu_ps(to + i, type == sluice::dtype::f16
                                 ? _mm256_cvtph_ps(x)
                                 : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16)));
  }
#endif
  for (; i < n; ++i) to[i] = sluice::load_element(from + 2 * i, type);
}

inline void store_row(const float* from, sluice::dtype type, std::byte* to, int n) noexcept {
  int i = 0;
  if (type == sluice::dtype::f32) {
    std::memcpy(to, from, sizeof(float) * std::size_t(n));
    return;
  }
#if defined(__F16C__)
  if (type == sluice::dtype::f16)
    for (; i + 8 <= n; i += 8)
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i),
                       _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
#endif
  for (; i < n; ++i) sluice::store_element(to + 2 * i, type, from[i]);
}

}  // namespace engine
