// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/section.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/cuda/convert.cuh>
#include <sluice/cuda/rope_angles.cuh>
#include <sluice/cuda/store/basis.hpp>
#include <sluice/cuda/strand.hpp>
#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

// What all kernels that end in pages share: which token a row is and where it lies, its rotation, and runs of channels on
// their way out. A token that the view lacks has no place.

namespace sluice::cuda {

inline constexpr std::int64_t no_place = INT64_MIN;  ///< offset of a token that the view does not show

/// Says that an address, not null, is one of global memory, where a compiler cannot see it.
template <class T>
__device__ __forceinline__ T* in_global(T* p) {
#if defined(__CUDA_ARCH__)
  __builtin_assume(__isGlobal(p));
#endif
  return p;
}

/// The elements of a strand's group in one layer and plane of a view.
struct page_target {
  std::byte* base;  ///< of the first head of the group
  std::int64_t head_stride;
  std::int64_t element_stride;
  dtype type;
  std::int32_t size;        ///< of an element
  std::uint32_t unaligned;  ///< bits of an address that runs of eight may not have to be written at once; all = never

  __device__ __forceinline__ std::int64_t offset(const column_run& c) const {
    return c.head * head_stride + c.dim * element_stride;
  }
};

__device__ __forceinline__ const plane_view& plane_of(const open_request& r, const group_model& g) {
  return g.plane ? r.asked.cache.v : r.asked.cache.k;
}

__device__ __forceinline__ page_target target_of(const open_request& r, const strand& s, const group_model& g) {
  const plane_view& p = plane_of(r, g);
  const int size = size_of(p.type);
  return {r.asked.cache.layer_base(p, s.slot) + g.first_head * p.head_stride,
          p.head_stride,
          p.element_stride,
          p.type,
          size,
          p.element_stride != size ? ~0u
          : size == 1              ? 7u
                                   : 15u};
}

/// Whether a strand has something that this launch is to store.
__device__ __forceinline__ bool is_shown(const strand& s) { return s.state == status::ok && s.slot >= 0; }

/// First token of a strand, counted from the frame's first.
__device__ __forceinline__ int first_token(const open_request& r, const strand& s) {
  return s.tile * static_cast<int>(r.asked.tile_tokens) + s.first;
}

/// Where a token of the frame lies in a plane: bytes from the layer's base, or no_place.
__device__ __forceinline__ std::int64_t place_of(const open_request& r, const plane_view& p, int frame_token) {
  const kv_view& v = r.asked.cache;
  const std::int64_t token = r.position + frame_token - v.position;
  if (token < 0 || token >= v.tokens) return no_place;
  if (v.mode != addressing::pages) return v.token_offset(p, token);
  const auto t = static_cast<std::uint64_t>(v.first + token), size = static_cast<std::uint64_t>(v.page_size);
  std::uint64_t page = 0, rest = t;
  if ((t | size) >> 32 == 0) {  // a division of 64 bits costs as much as all other arithmetic of a row
    page = static_cast<std::uint32_t>(t) / static_cast<std::uint32_t>(size);
    rest = t - page * size;
  } else if (t >= size) {  // by hand, since no view is that long: the machine's own would be a call
    rest = 0;
    for (int bit = 63; bit >= 0; --bit) {
      rest = rest << 1 | (t >> bit & 1u);
      page <<= 1;
      if (rest >= size) rest -= size, ++page;
    }
  }
  return std::int64_t{v.indices[page]} * p.page_stride + static_cast<std::int64_t>(rest) * p.token_stride;
}

/// Token `i` of a strand's exact ones, counted from its first.
__device__ __forceinline__ int exact_token(const std::byte* frame, const strand& s, int i) {
  return sluice::detail::load_as<std::uint16_t>(frame + s.exact_index.at + 2 * static_cast<unsigned>(i));
}

/// Token of a coded row of a strand, counted from its first: rows are the tokens between the exact ones.
__device__ __forceinline__ int coded_token(const std::byte* frame, const strand& s, int row) {
  int low = 0, high = s.exact;  // exact tokens before the row's
  while (low < high) {
    const int middle = (low + high) / 2;
    if (exact_token(frame, s, middle) - middle <= row)
      low = middle + 1;
    else
      high = middle;
  }
  return row + low;
}

/// The rotary embedding that values of a group are coded without; null where there is none.
__device__ __forceinline__ const rope_model* rope_of(const decode_state& d, const group_model& g) {
  const bool unrotated = static_cast<value_domain>(head_of(d.image).domain) == value_domain::unrotated;
  const int rope = unrotated ? plane_of(d.image, g.layer, g.plane).rope : -1;
  return rope < 0 ? nullptr : in_image<rope_model>(d.image, head_of(d.image).ropes_at) + rope;
}

/// The channels of a group as pairs of runs.
__device__ __forceinline__ column_plan columns_of(const decode_state& d, const group_model& g) {
  const rope_model* rope = rope_of(d, g);
  return {g.heads, plane_of(d.image, g.layer, g.plane).head_dim, rope ? rope->pairs : 0,
          rope ? static_cast<rope_pairing>(rope->pairing) : rope_pairing::none};
}

struct alignas(16) four_words {
  std::uint32_t w[4];
};
struct alignas(8) two_words {
  std::uint32_t w[2];
};
struct alignas(16) four_floats {
  float v[4];
};

__device__ __forceinline__ void turn_pair(float cosine, float sine, float& a, float& b) {
  const float x = a, y = b;
  a = x * cosine - y * sine;
  b = y * cosine + x * sine;
}
/// Turns two whole runs whose elements are pairs; `table`, a multiple of 16, says by what.
__device__ __forceinline__ void turn_whole(const rope_entry* table, float (&a)[8], float (&b)[8]) {
#pragma unroll
  for (int i = 0; i < 8; i += 2) {
    const four_floats t = reinterpret_cast<const four_floats*>(table)[i / 2];
    turn_pair(t.v[0], t.v[1], a[i], b[i]);
    turn_pair(t.v[2], t.v[3], a[i + 1], b[i + 1]);
  }
}
/// Turns the pairs within a run.
__device__ __forceinline__ void turn_adjoining(const rope_entry* table, const column_run& run, float (&v)[8]) {
  if (run.turn != column_turn::adjoining) return;
  table += run.pair;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (2 * i >= run.count) break;
    turn_pair(table[i].cosine, table[i].sine, v[2 * i], v[2 * i + 1]);
  }
}
/// Turns two runs of a row; `table` is its rope_row().
__device__ __forceinline__ void turn(const column_pair& c, const rope_entry* table, float (&a)[8], float (&b)[8]) {
  if (c.run[0].turn == column_turn::halves) {
    table += c.run[0].pair;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i >= c.run[0].count) break;
      turn_pair(table[i].cosine, table[i].sine, a[i], b[i]);
    }
  } else {
    turn_adjoining(table, c.run[0], a);
    turn_adjoining(table, c.run[1], b);
  }
}

/// The rope_row() of a token of the frame, or null where nothing turns.
__device__ __forceinline__ const rope_entry* entries_of(const decode_state& d, const open_request& r,
                                                        const rope_model* rope, int frame_token) {
  return rope ? reinterpret_cast<const rope_entry*>(rope_row(d, r, *rope, frame_token)) : nullptr;
}

/// Copies a row of elements as they are, by a whole warp; neither side need be aligned.
__device__ __forceinline__ void copy_row(const page_target& t, std::byte* to, const std::byte* from, int heads,
                                         int head_dim) {
  const int lane = static_cast<int>(threadIdx.x % 32), size = t.size;
  const std::int64_t head = std::int64_t{head_dim} * size;
  if (t.element_stride != size) {
    for (int h = 0; h < heads; ++h, to += t.head_stride, from += head)
      for (int i = lane; i < head_dim; i += 32)
        for (int b = 0; b < size; ++b) to[i * t.element_stride + b] = from[i * size + b];
    return;
  }
  const bool one_run = t.head_stride == head;
  const std::int64_t n = one_run ? heads * head : head;
  const auto odd = reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from) |
                   static_cast<std::uintptr_t>(n) | static_cast<std::uintptr_t>(t.head_stride);
  const auto copy = [&](auto unit) {
    using type = decltype(unit);
    for (int h = 0; h < (one_run ? 1 : heads); ++h)
      for (std::int64_t i = lane * std::int64_t{sizeof unit}; i < n; i += 32 * sizeof unit)
        *reinterpret_cast<type*>(to + h * t.head_stride + i) = *reinterpret_cast<const type*>(from + h * head + i);
  };
  if ((odd & 15) == 0)
    copy(four_words{});
  else if ((odd & 3) == 0)
    copy(std::uint32_t{});
  else if ((odd & 1) == 0)
    copy(std::uint16_t{});
  else
    copy(std::uint8_t{});
}

/// Writes `count` elements one by one, packed from the lowest byte of the first word on.
template <class Element, int Words>
__device__ __forceinline__ void put_elements(std::byte* to, std::int64_t stride, int count, std::uint32_t (&w)[Words]) {
#pragma unroll 1
  for (int i = 0; i < count; ++i, to += stride) {
    const auto x = static_cast<Element>(w[0]);
    if ((reinterpret_cast<std::uintptr_t>(to) & (sizeof x - 1)) == 0)
      *reinterpret_cast<Element*>(to) = x;
    else
      sluice::detail::store_as(to, x);
#pragma unroll
    for (int j = 0; j < Words - 1; ++j) w[j] = __funnelshift_rc(w[j], w[j + 1], 8 * sizeof x);
    w[Words - 1] >>= 4 * sizeof x, w[Words - 1] >>= 4 * sizeof x;
  }
}

/// Writes a run to where its first channel lies in a row.
__device__ __forceinline__ void put_run(const page_target& t, std::byte* to, int count, const float (&v)[8]) {
  const bool whole =
      count == 8 && (static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(to)) & t.unaligned) == 0;
  if (t.size == 2) {
    std::uint32_t w[4];
    if (t.type == dtype::bf16)
      pack_16<dtype::bf16>(v, w);
    else
      pack_16<dtype::f16>(v, w);
    if (whole)
      *reinterpret_cast<four_words*>(to) = {{w[0], w[1], w[2], w[3]}};
    else
      put_elements<std::uint16_t>(to, t.element_stride, count, w);
  } else if (t.size == 1) {
    std::uint32_t w[2];
    pack_8(t.type, v, w);
    if (whole)
      *reinterpret_cast<two_words*>(to) = {{w[0], w[1]}};
    else
      put_elements<std::uint8_t>(to, t.element_stride, count, w);
  } else {
    std::uint32_t w[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) w[i] = sluice::detail::float_bits(v[i]);
    if (whole) {
      *reinterpret_cast<four_words*>(to) = {{w[0], w[1], w[2], w[3]}};
      *reinterpret_cast<four_words*>(to + 16) = {{w[4], w[5], w[6], w[7]}};
    } else {
      put_elements<std::uint32_t>(to, t.element_stride, count, w);
    }
  }
}

/// Where two runs lie in a row.
struct pair_offsets {
  std::int64_t run[2];
};
__device__ __forceinline__ pair_offsets offsets_of(const page_target& t, const column_pair& c) {
  return {{t.offset(c.run[0]), t.offset(c.run[1])}};
}

/// Two whole runs of elements of 16 bits.
__device__ __forceinline__ void put_whole(dtype type, std::byte* to_a, std::byte* to_b, const float (&a)[8],
                                          const float (&b)[8]) {
  four_words x, y;
  if (type == dtype::bf16)
    pack_16<dtype::bf16>(a, x.w), pack_16<dtype::bf16>(b, y.w);
  else
    pack_16<dtype::f16>(a, x.w), pack_16<dtype::f16>(b, y.w);
  *reinterpret_cast<four_words*>(to_a) = x;
  *reinterpret_cast<four_words*>(to_b) = y;
}

/// Two runs of floats to a row: rotation, conversion, pages. `row` is the row's place, `table` its rope_row(), null
/// where it does not turn.
__device__ __forceinline__ void put_pair(const page_target& t, const column_pair& c, const pair_offsets& at,
                                         std::byte* row, const rope_entry* table, float (&a)[8], float (&b)[8]) {
  if (table) turn(c, in_global(table), a, b);
  if (c.run[0].count) put_run(t, row + at.run[0], c.run[0].count, a);
  if (c.run[1].count) put_run(t, row + at.run[1], c.run[1].count, b);
}

/// Calls f(row, coefficient, value) for the exceptions of all passes up to the strand's level that stand in rows
/// [first, first + rows), in the order of the frame, with the values in units of the strand's level. By a whole warp,
/// of which every lane gets every call.
template <class F>
__device__ __forceinline__ void for_exceptions(const strand& s, const std::byte* frame, int first, int rows, F f) {
  const unsigned lane = threadIdx.x % 32;
#pragma unroll 1
  for (int p = 0; p <= s.level; ++p) {
    const std::byte* list = frame + s.exceptions[p].at;
    const unsigned n = s.exceptions[p].size / sizeof(exception);
    const auto unit = static_cast<float>(power3(s.level - p));
#pragma unroll 1
    for (unsigned begin = 0; begin < n; begin += 32) {
      exception e{};
      bool here = false;
      if (begin + lane < n) {
        std::memcpy(&e, list + sizeof e * std::size_t{begin + lane}, sizeof e);
        here = static_cast<unsigned>(e.row - first) < static_cast<unsigned>(rows);
      }
      for (unsigned all = __ballot_sync(~0u, here); all; all &= all - 1) {
        const int from = __ffs(static_cast<int>(all)) - 1;
        const unsigned at = __shfl_sync(~0u, static_cast<unsigned>(e.row) << 16 | e.coefficient, from);
        const int correction = __shfl_sync(~0u, e.correction, from);
        f(static_cast<int>(at >> 16) - first, static_cast<int>(at & 0xffffu), static_cast<float>(correction) * unit);
      }
    }
  }
}

/// Whether rows [first, first + rows) have exceptions. By a whole warp.
__device__ __forceinline__ bool has_exceptions(const strand& s, const std::byte* frame, int first, int rows) {
  bool any = false;
#pragma unroll 1
  for (int p = 0; p <= s.level; ++p) {
    const unsigned n = s.exceptions[p].size / sizeof(exception);
#pragma unroll 1
    for (unsigned i = threadIdx.x % 32; i < n; i += 32) {
      const unsigned row = sluice::detail::load_as<std::uint16_t>(frame + s.exceptions[p].at + sizeof(exception) * i);
      any |= row - static_cast<unsigned>(first) < static_cast<unsigned>(rows);
    }
  }
  return __any_sync(~0u, any);
}

}  // namespace sluice::cuda
