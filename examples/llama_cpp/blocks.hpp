// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/tensor/half.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

// Rows of q8_0: blocks of 32 values, an f16 scale and 32 signed bytes each; and the Hadamard matrices that llama.cpp turns
// heads with before it quantises them (src/llama-kv-cache.cpp, attn_rot_k and attn_rot_v; LLAMA_ATTN_ROT_DISABLE).

namespace slot::detail {

/// The size of the Hadamard matrix that heads of this many elements are turned with; 0 = none.
constexpr int hadamard_size(int head_dim, bool key) noexcept {
  if (head_dim <= 0 || head_dim % 64) return 0;
  int n = 64;
  while (key && head_dim % (2 * n) == 0) n *= 2;
  return n;
}

/// Turns each `n` of `count` values, n a power of two; doing it twice changes nothing.
inline void hadamard(float* x, int count, int n) noexcept {
  const float scale = 1 / std::sqrt(float(n));
  for (float* const end = x + count; x < end; x += n) {
    for (int h = 1; h < n; h *= 2)
      for (int i = 0; i < n; i += 2 * h)
        for (int j = i; j < i + h; ++j) {
          const float a = x[j], b = x[j + h];
          x[j] = a + b, x[j + h] = a - b;
        }
    for (int i = 0; i < n; ++i) x[i] *= scale;
  }
}

/// `count` values, a multiple of 32, of a row of q8_0.
inline void load_q8_0(const std::byte* from, float* to, int count) noexcept {
  for (int b = 0; b < count; b += 32, from += 34) {
    std::uint16_t bits;
    std::int8_t q[32];
    std::memcpy(&bits, from, 2);
    std::memcpy(q, from + 2, 32);
    const float d = sluice::to_float(sluice::f16{bits});
    for (int i = 0; i < 32; ++i) to[b + i] = d * float(q[i]);
  }
}

/// The same back, rounded as ggml does (quantize_row_q8_0).
inline void store_q8_0(const float* from, std::byte* to, int count) noexcept {
  for (int b = 0; b < count; b += 32, to += 34) {
    float most = 0;
    for (int i = 0; i < 32; ++i) most = std::max(most, std::abs(from[b + i]));  // a NaN is never more
    const float d = most / 127, inverse = d > 0 ? 1 / d : 0;
    const std::uint16_t bits = sluice::from_float<sluice::f16>(d).bits;
    std::int8_t q[32];
    for (int i = 0; i < 32; ++i) {
      float y = from[b + i] * inverse;
      y = y < 127 ? y : 127;  // and what is no number
      y = y > -127 ? y : -127;
      q[i] = std::int8_t(y + (y < 0 ? -0.5f : 0.5f));
    }
    std::memcpy(to, &bits, 2);
    std::memcpy(to + 2, q, 32);
  }
}

}  // namespace slot::detail
