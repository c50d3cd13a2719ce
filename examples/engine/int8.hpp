// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "quants.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <vector>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

// The fast path's product. Weights are unsigned bytes with a scale and a minimum for each run of 32 along the row, which is
// what quantised files hold (quants.hpp), so those lose nothing; activations are signed bytes with a scale per run:
//   sum over runs of  scale_a * (scale_w * dot(q_w, q_a) + min_w * sum(q_a))
// The CPU's dot product (vpdpbusd; vpmaddubsw before it) multiplies unsigned by signed bytes and adds neighbouring fours.
// So a panel holds `lanes` rows, and each of its vectors holds 4 columns of every row of the panel.

namespace engine::int8 {

inline constexpr int block = 32;

#if defined(__AVX512VNNI__)
inline constexpr int lanes = 16, weight_max = 255, tile_tokens = 6;
#elif defined(__AVX2__)
inline constexpr int lanes = 8, weight_max = 127, tile_tokens = 3;  // vpmaddubsw saturates: two products fit 16 bits
#else
inline constexpr int lanes = 4, weight_max = 255, tile_tokens = 3;
#endif

/// Whether there are instructions for this; without them floats are faster.
#if defined(__AVX512VNNI__) || defined(__AVX2__)
inline constexpr bool accelerated = true;
#else
inline constexpr bool accelerated = false;
#endif

typedef float vfloat __attribute__((vector_size(4 * lanes)));
typedef std::int32_t vint __attribute__((vector_size(4 * lanes)));

template <class T>
struct aligned_allocator {
  using value_type = T;
  aligned_allocator() = default;
  template <class U>
  aligned_allocator(const aligned_allocator<U>&) noexcept {}
  T* allocate(std::size_t n) { return static_cast<T*>(::operator new (n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, std::size_t) noexcept { ::operator delete (p, std::align_val_t{64}); }
  bool operator==(const aligned_allocator&) const = default;
};
template <class T>
using aligned_vector = std::vector<T, aligned_allocator<T>>;

/// Weights: rows in panels of `lanes`, columns in blocks of 32; columns beyond a row's end have scale and minimum 0.
struct packed {
  int rows = 0, panels = 0, blocks = 0;
  aligned_vector<std::uint8_t> q;    ///< [panel][block][8][lane][4]
  aligned_vector<float> scale, min;  ///< [panel][block][lane]

  void resize(int r, int cols) {
    rows = r;
    panels = (r + lanes - 1) / lanes;
    blocks = (cols + block - 1) / block;
    const std::size_t n = std::size_t(panels) * std::size_t(blocks) * lanes;
    q.resize(n * block);
    scale.resize(n);
    min.resize(n);
  }

  std::size_t index(int panel, int b) const noexcept {
    return (std::size_t(panel) * std::size_t(blocks) + std::size_t(b)) * lanes;
  }

  /// Sets block `b` of a row; rows may be set from several threads.
  void set(int row, int b, affine_run r) noexcept {
    if (r.scale[0] != r.scale[1] || r.min[0] != r.min[1] || *std::max_element(r.q, r.q + block) > weight_max) {
      float x[block];
      r.floats(x);
      r = quantize(x, block);
    }
    const std::size_t at = index(row / lanes, b);
    const std::size_t lane = std::size_t(row % lanes);
    for (std::size_t g = 0; g < block / 4; ++g)
      std::memcpy(q.data() + at * block + (g * lanes + lane) * 4, r.q + 4 * g, 4);
    scale[at + lane] = r.scale[0];
    min[at + lane] = r.min[0];
  }

  /// The nearest run of weights for `n` (at most 32) floats; the rest are as good as zero.
  static affine_run quantize(const float* x, int n) noexcept {
    const float low = *std::min_element(x, x + n), high = *std::max_element(x, x + n);
    const float step = (high - low) / float(weight_max);
    affine_run r{};
    for (int i = 0; i < n && step > 0; ++i) r.q[i] = std::uint8_t(std::lrint((x[i] - low) / step));
    r.set(step, low);
    return r;
  }
};

/// Activations: one row per token, a scale and a sum per block.
struct activations {
  int tokens = 0, blocks = 0;
  aligned_vector<std::int8_t> q;     ///< [token][block][32]
  aligned_vector<float> scale, sum;  ///< [token][block]; sum of q, times the scale

  void resize(int t, int cols) {
    tokens = t;
    blocks = (cols + block - 1) / block;
    const std::size_t n = std::size_t(t) * std::size_t(blocks);
    q.resize(n * block);
    scale.resize(n);
    sum.resize(n);
  }

  void set_row(int t, const float* x, int cols) noexcept {
    const int whole = cols / block;
    for (int b = 0; b < whole; ++b) set(t, b, x + b * block);
    if (whole == blocks) return;
    float last[block] = {};
    std::memcpy(last, x + whole * block, sizeof(float) * std::size_t(cols - whole * block));
    set(t, whole, last);
  }

 private:
  void set(int t, int b, const float* x) noexcept {
    float part[16];  // a tree of maxima: the compiler may not make one out of a chain
    for (int i = 0; i < 16; ++i) part[i] = std::max(std::fabs(x[i]), std::fabs(x[i + 16]));
    for (int n = 8; n > 0; n /= 2)
      for (int i = 0; i < n; ++i) part[i] = std::max(part[i], part[i + n]);
    const float largest = part[0];
    const float inverse = largest > 0 ? 127.f / largest : 0;
    const std::size_t at = std::size_t(t) * std::size_t(blocks) + std::size_t(b);
    std::int32_t rounded[block], total = 0;
    for (int i = 0; i < block; ++i) {
      const float y = x[i] * inverse;
      rounded[i] = std::int32_t(y + std::copysign(0.5f, y));
      total += rounded[i];
    }
    std::int8_t* to = q.data() + at * block;
    for (int i = 0; i < block; ++i) to[i] = std::int8_t(rounded[i]);
    scale[at] = largest / 127.f;
    sum[at] = float(total) * scale[at];
  }
};

namespace detail {

// Adds to each lane the product of its 4 bytes of w and the 4 bytes of a.
inline vint dot4(vint sum, const std::uint8_t* w, std::int32_t a) noexcept {
#if defined(__AVX512VNNI__)
  return (vint)_mm512_dpbusd_epi32((__m512i)sum, _mm512_load_si512(w), _mm512_set1_epi32(a));
#elif defined(__AVX2__)
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(w)), _mm256_set1_epi32(a));
  return sum + (vint)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#else
  std::int8_t four[4];
  std::memcpy(four, &a, 4);
  for (int lane = 0; lane < lanes; ++lane)
    for (int i = 0; i < 4; ++i) sum[lane] += w[4 * lane + i] * four[i];
  return sum;
#endif
}

// T tokens times P panels, whose sums stay in registers.
template <int T, int P>
void tile(const packed& w, int panel, const activations& a, int token, float* y, std::ptrdiff_t y_stride) noexcept {
  vfloat sum[T][P] = {};
  const std::size_t row = std::size_t(token) * std::size_t(a.blocks);
  const std::size_t stride = std::size_t(a.blocks);
  for (int b = 0; b < w.blocks; ++b) {
    const std::size_t at = row + std::size_t(b);
    vint dot[T][P] = {};
    const std::uint8_t* wq[P];
    for (int p = 0; p < P; ++p) wq[p] = w.q.data() + w.index(panel + p, b) * block;
#pragma GCC unroll 8
    for (int g = 0; g < block / 4; ++g) {
      for (int t = 0; t < T; ++t) {
        std::int32_t four;
        std::memcpy(&four, a.q.data() + (at + std::size_t(t) * stride) * block + 4 * g, 4);
        for (int p = 0; p < P; ++p) dot[t][p] = dot4(dot[t][p], wq[p] + 4 * lanes * g, four);
      }
    }
    for (int p = 0; p < P; ++p) {
      vfloat scale, min;
      std::memcpy(&scale, w.scale.data() + w.index(panel + p, b), sizeof scale);
      std::memcpy(&min, w.min.data() + w.index(panel + p, b), sizeof min);
      for (int t = 0; t < T; ++t) {
        const std::size_t i = at + std::size_t(t) * stride;
        sum[t][p] += __builtin_convertvector(dot[t][p], vfloat) * (scale * a.scale[i]);
        sum[t][p] += min * a.sum[i];
      }
    }
  }
  for (int t = 0; t < T; ++t)
    for (int p = 0; p < P; ++p) {
      const int first = (panel + p) * lanes, n = std::min(lanes, w.rows - first);
      float* to = y + t * y_stride + first;
      if (n == lanes)
        std::memcpy(to, &sum[t][p], sizeof sum[t][p]);
      else
        std::memcpy(to, &sum[t][p], sizeof(float) * std::size_t(n));
    }
}

template <int P>
void columns(const packed& w, int panel, const activations& a, float* y, std::ptrdiff_t y_stride) noexcept {
  int t = 0;
  for (; t + tile_tokens <= a.tokens; t += tile_tokens)
    tile<tile_tokens, P>(w, panel, a, t, y + t * y_stride, y_stride);
  for (; t + 2 <= a.tokens; t += 2) tile<2, P>(w, panel, a, t, y + t * y_stride, y_stride);
  if (t < a.tokens) tile<1, P>(w, panel, a, t, y + t * y_stride, y_stride);
}

}  // namespace detail

/// y[token][row] for the rows of panels [begin, end).
inline void multiply(const packed& w, int begin, int end, const activations& a, float* y,
                     std::ptrdiff_t y_stride) noexcept {
  int p = begin;
  if (a.tokens == 1)  // nothing is reused but the chain of sums is long: more panels at once hide its latency
    for (; p + 4 <= end; p += 4) detail::tile<1, 4>(w, p, a, 0, y, y_stride);
  for (; p + 2 <= end; p += 2) detail::columns<2>(w, p, a, y, y_stride);
  for (; p < end; ++p) detail::columns<1>(w, p, a, y, y_stride);
}

}  // namespace engine::int8
