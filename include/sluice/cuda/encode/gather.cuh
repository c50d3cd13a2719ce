// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/tile_codec.hpp>
#include <sluice/cuda/convert.cuh>
#include <sluice/cuda/encode/forward.hpp>
#include <sluice/cuda/encode_strand.hpp>
#include <sluice/cuda/ptx.cuh>

#include <cstddef>
#include <cstdint>

// From an engine's pages to rows of a strand, by all threads of a block: as floats in shared memory, where the rotation of
// keys is undone, or as elements. Loads are of 16 bytes wherever elements adjoin. Engine memory is aligned to its elements.

namespace sluice::cuda {

struct alignas(16) floats4 {
  float x, y, z, w;
};

/// K or V of one layer of a view, as a strand sees it: some heads, and tokens from the first shown.
struct strand_source {
  const kv_view* view;
  const plane_view* plane;
  const std::byte* base;  ///< of the layer, at the first of the heads
  std::int64_t token;     ///< of the view: the first
  std::int64_t head_stride, element_stride;
  std::int32_t heads, head_dim, size;
  dtype type;

  __device__ strand_source(const encode_state& d, const encode_strand& s, int which, int first_head, int num_heads)
      : view(&d.requests[s.request].asked.cache),
        plane(&(*view)[which ? sluice::plane::value : sluice::plane::key]),
        base(view->layer_base(*plane, s.slot) + first_head * plane->head_stride),
        token(d.requests[s.request].asked.position + std::int64_t{s.tile} * d.tile_tokens + s.first - view->position),
        head_stride(plane->head_stride),
        element_stride(plane->element_stride),
        heads(num_heads),
        head_dim(plane->head_dim),
        size(size_of(plane->type)),
        type(plane->type) {}
  __device__ int width() const { return heads * head_dim; }
  /// Bytes from `base` to a token's first element.
  __device__ std::int64_t place(int row) const { return view->token_offset(*plane, token + row); }
};

/// Rows in shared memory.
struct row_space {
  unsigned char* memory;
  forward_shared at;

  __device__ float* row(int r) const { return reinterpret_cast<float*>(memory + r * at.stride); }
  __device__ std::int64_t* places() const { return reinterpret_cast<std::int64_t*>(memory + at.places); }
  __device__ float* scales() const { return reinterpret_cast<float*>(memory + at.scales); }
  __device__ std::uint32_t* flags() const { return reinterpret_cast<std::uint32_t*>(memory + at.flags); }
  /// Returns whether it was not flagged before.
  __device__ bool flag(int token) const {
    return (atomicOr(flags() + token / 32, 1u << token % 32) >> token % 32 & 1u) == 0;
  }
  __device__ bool flagged(int token) const { return (flags()[token / 32] >> token % 32 & 1u) != 0; }
  __device__ static void put(float* to, const float (&x)[8]) {
    reinterpret_cast<floats4*>(to)[0] = {x[0], x[1], x[2], x[3]};
    reinterpret_cast<floats4*>(to)[1] = {x[4], x[5], x[6], x[7]};
  }
};

/// Calls f(item, first row, step) so that each item meets each row in exactly one thread, and neighbouring threads have
/// neighbouring items.
template <class F>
__device__ __forceinline__ void share_items(int items, F f) {
  const int threads = static_cast<int>(blockDim.x), t = static_cast<int>(threadIdx.x);
  if (items <= threads) {
    const int rows = threads / items;
    if (t < rows * items) f(t % items, t / items, rows);
  } else {
    for (int i = t; i < items; i += threads) f(i, 0, 1);
  }
}

/// An element, from its bits.
template <dtype T>
__device__ __forceinline__ float widen(std::uint32_t bits) {
  if constexpr (T == dtype::f32) {
    return __uint_as_float(bits);
  } else if constexpr (T == dtype::f16) {
    return float_of_half(bits & 0xffffu);
  } else if constexpr (T == dtype::bf16) {
    return __uint_as_float(bits << 16);
  } else if constexpr (T == dtype::e5m2) {  // the upper byte of an f16
    return float_of_half(bits << 8 & 0xff00u);
  } else {  // e4m3: an f16 with the exponent off by 8, except that its only NaN is all ones
    const float x = __fmul_rn(float_of_half((bits << 8 & 0x8000u) | (bits << 7 & 0x3f80u)), 256.0f);
    return (bits & 0x7fu) == 0x7fu ? __uint_as_float(0x7fc00000u) : x;
  }
}

template <dtype T>
__device__ __forceinline__ std::uint32_t load_bits(const std::byte* p) {
  if constexpr (size_of(T) == 4)
    return *reinterpret_cast<const std::uint32_t*>(p);
  else if constexpr (size_of(T) == 2)
    return *reinterpret_cast<const std::uint16_t*>(p);
  else
    return *reinterpret_cast<const std::uint8_t*>(p);
}

/// Eight adjoining elements at a multiple of their size, or of 16.
template <dtype T>
struct chunk {
  static constexpr int words = 2 * size_of(T), per_word = 4 / size_of(T), bits = 8 * size_of(T);
  static constexpr int alignment = words == 2 ? 8 : 16;
  std::uint32_t word[words];

  __device__ __forceinline__ void load(const std::byte* p) {
    if constexpr (words == 2) {
      const ptx::pair a = ptx::load_global_pair(p);
      word[0] = a.x, word[1] = a.y;
    } else {
#pragma unroll
      for (int i = 0; i < words; i += 4) {
        const ptx::quad a = ptx::load_global(p + 4 * i);
        word[i] = a.x, word[i + 1] = a.y, word[i + 2] = a.z, word[i + 3] = a.w;
      }
    }
  }
  __device__ __forceinline__ void floats(float (&x)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = widen<T>(word[i / per_word] >> (i % per_word * bits));
  }
};

/// Heads of whole chunks: a thread has a chunk of every so many rows, some loads at once.
template <dtype T>
__device__ __forceinline__ void load_chunks(const strand_source& from, const row_space& to, int n, int ld) {
  share_items(ld / 8, [&](int c, int first, int step) {
    constexpr int at_once = size_of(T) == 4 ? 2 : 4;
    const bool there = 8 * c < from.width();
    const std::byte* const p =
        from.base + 8 * c / from.head_dim * from.head_stride + 8 * c % from.head_dim * size_of(T);
    for (int r = first; r < n; r += at_once * step) {
      chunk<T> raw[at_once] = {};
#pragma unroll
      for (int u = 0; u < at_once; ++u)
        if (there && r + u * step < n) raw[u].load(p + to.places()[r + u * step]);
#pragma unroll
      for (int u = 0; u < at_once; ++u) {
        if (r + u * step >= n) break;
        float x[8] = {};
        if (there) raw[u].floats(x);
        row_space::put(to.row(r + u * step) + 8 * c, x);
      }
    }
  });
}

/// Any strides and alignment. Lanes are rows, since elements of a token may lie apart and those of its neighbours adjoin.
template <dtype T>
__device__ __forceinline__ void load_elements(const strand_source& from, const row_space& to, int n, int ld) {
  const bool whole = from.head_dim % 8 == 0;
  for (int c = static_cast<int>(threadIdx.x / 32); c < ld / 8; c += static_cast<int>(blockDim.x / 32))
    for (int r = static_cast<int>(threadIdx.x % 32); r < n; r += 32) {
      float* const row = to.row(r) + 8 * c;
      const std::byte* const p = from.base + to.places()[r];
      if (whole) {
        const std::byte* const q =
            p + 8 * c / from.head_dim * from.head_stride + 8 * c % from.head_dim * from.element_stride;
        float x[8] = {};
        if (8 * c < from.width()) {
#pragma unroll
          for (int i = 0; i < 8; ++i) x[i] = widen<T>(load_bits<T>(q + i * from.element_stride));
        }
        row_space::put(row, x);
      } else {
#pragma unroll 1
        for (int i = 0; i < 8; ++i) {
          const int channel = 8 * c + i, head = channel / from.head_dim, e = channel % from.head_dim;
          row[i] = channel < from.width()
                       ? widen<T>(load_bits<T>(p + head * from.head_stride + e * from.element_stride))
                       : 0.0f;
        }
      }
    }
}

template <dtype T>
__device__ __forceinline__ void load_rows_of(const strand_source& from, const row_space& to, int n, int ld,
                                             bool aligned) {
  if (aligned && from.element_stride == size_of(T) && from.head_dim % 8 == 0)
    load_chunks<T>(from, to, n, ld);
  else
    load_elements<T>(from, to, n, ld);
}

/// Tokens [begin, begin + n) as floats, zeros behind the width. Ends with a barrier.
__device__ inline void load_rows(const strand_source& from, const row_space& to, int begin, int n, int ld) {
  std::uintptr_t low = reinterpret_cast<std::uintptr_t>(from.base) | static_cast<std::uintptr_t>(from.head_stride);
  for (int r = static_cast<int>(threadIdx.x); r < n; r += static_cast<int>(blockDim.x)) {
    const std::int64_t place = from.place(begin + r);
    to.places()[r] = place;
    low |= static_cast<std::uintptr_t>(place);
  }
  const bool aligned = __syncthreads_and(low % (from.size == 1 ? 8 : 16) == 0) != 0;
  switch (from.type) {
    case dtype::f32: load_rows_of<dtype::f32>(from, to, n, ld, aligned); break;
    case dtype::f16: load_rows_of<dtype::f16>(from, to, n, ld, aligned); break;
    case dtype::bf16: load_rows_of<dtype::bf16>(from, to, n, ld, aligned); break;
    case dtype::e4m3: load_rows_of<dtype::e4m3>(from, to, n, ld, aligned); break;
    case dtype::e5m2: load_rows_of<dtype::e5m2>(from, to, n, ld, aligned); break;
    case dtype::bytes: break;
  }
  __syncthreads();
}

__device__ __forceinline__ void rotate_pair(float& a, float& b, float c, float s) {
  const float p = __fmaf_rn(b, -s, __fmul_rn(a, c)), q = __fmaf_rn(a, s, __fmul_rn(b, c));
  a = p, b = q;
}

/// Turns all heads of rows by the angles of their tokens: `table` is float2[pairs] of the first row's. Ends with a barrier.
__device__ inline void rotate_rows(const row_space& x, int n, int heads, int head_dim, const rope_model& rope,
                                   const float* table) {
  const int pairs = rope.pairs;
  const bool half = rope.pairing == static_cast<int>(rope_pairing::half);
  const bool aligned = reinterpret_cast<std::uintptr_t>(table) % 16 == 0 && pairs % 4 == 0 && head_dim % 4 == 0;
  share_items(heads * pairs / (aligned ? 4 : 1), [&](int item, int first, int step) {
    const int each = aligned ? pairs / 4 : pairs, head = item / each, i = item % each * (aligned ? 4 : 1);
    const int a_at = head * head_dim + (half ? i : 2 * i), b_at = half ? a_at + pairs : a_at + (aligned ? 4 : 1);
    for (int r = first; r < n; r += step) {
      const float* const t = table + 2 * (std::ptrdiff_t{r} * pairs + i);
      float* const row = x.row(r);
      if (!aligned) {
        rotate_pair(row[a_at], row[b_at], t[0], t[1]);
        continue;
      }
      const ptx::quad u = ptx::load_global(t), v = ptx::load_global(t + 4);
      const float c[4] = {__uint_as_float(u.x), __uint_as_float(u.z), __uint_as_float(v.x), __uint_as_float(v.z)};
      const float s[4] = {__uint_as_float(u.y), __uint_as_float(u.w), __uint_as_float(v.y), __uint_as_float(v.w)};
      floats4& f = *reinterpret_cast<floats4*>(row + a_at);
      floats4& g = *reinterpret_cast<floats4*>(row + b_at);
      floats4 a = f, b = g;
      if (half) {
        rotate_pair(a.x, b.x, c[0], s[0]), rotate_pair(a.y, b.y, c[1], s[1]);
        rotate_pair(a.z, b.z, c[2], s[2]), rotate_pair(a.w, b.w, c[3], s[3]);
      } else {
        rotate_pair(a.x, a.y, c[0], s[0]), rotate_pair(a.z, a.w, c[1], s[1]);
        rotate_pair(b.x, b.y, c[2], s[2]), rotate_pair(b.z, b.w, c[3], s[3]);
      }
      f = a, g = b;
    }
  });
  __syncthreads();
}

/// A strand's tokens [begin, begin + n) in the codec's domain. Ends with a barrier. What it needs of the strand it reads
/// itself, each time: kept from call to call it would take the registers of what is done in between.
__device__ inline void load_values(const encode_state& d, const encode_strand& s, const row_space& to, int begin,
                                   int n) {
  const group_model& g = group_of(d.image, s.group);
  const strand_source from(d, s, g.plane, g.first_head, g.heads);
  load_rows(from, to, begin, n, g.ld);
  const plane_model& p = plane_of(d.image, g.layer, g.plane);
  const model_head& h = head_of(d.image);
  if (g.plane != 0 || p.rope < 0 || h.domain != static_cast<int>(value_domain::unrotated)) return;
  const rope_model& rope = in_image<rope_model>(d.image, h.ropes_at)[p.rope];
  const std::int64_t token = std::int64_t{s.tile} * d.tile_tokens + s.first + begin;
  rotate_rows(to, n, g.heads, p.head_dim, rope, rope_row(d, d.requests[s.request], rope, token));
}

/// One head of one token as it stands, by lanes of a warp; `to` may be anywhere.
__device__ inline void copy_head(const strand_source& from, std::int64_t place, int head, std::byte* to, int lane) {
  const std::byte* const p = from.base + place + head * from.head_stride;
  const int bytes = from.head_dim * from.size;
  if (from.element_stride != from.size) {
    for (int i = lane; i < bytes; i += 32) to[i] = p[i / from.size * from.element_stride + i % from.size];
  } else if ((reinterpret_cast<std::uintptr_t>(p) | reinterpret_cast<std::uintptr_t>(to) |
              static_cast<std::uintptr_t>(bytes)) %
                 16 ==
             0) {
    for (int i = lane; i < bytes / 16; i += 32)
      reinterpret_cast<floats4*>(to)[i] = reinterpret_cast<const floats4*>(p)[i];
  } else {
    for (int i = lane; i < bytes; i += 32) to[i] = p[i];
  }
}

}  // namespace sluice::cuda
