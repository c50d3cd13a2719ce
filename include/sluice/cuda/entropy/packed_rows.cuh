// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/entropy/groups.cuh>
#include <sluice/cuda/entropy/packed_codes.cuh>
#include <sluice/cuda/store/pages.cuh>

#include <cstddef>
#include <cstdint>
#include <new>

// Packed codes from the frame to pages with nothing in between: values that were coded as they stand in the cache. A thread
// takes eight channels of eight rows, which are whole bytes of the packed codes.

namespace sluice::cuda {

inline constexpr int packed_threads = 128;  ///< of a block, and rows of a round

/// Eight neighbouring bytes of packed codes. All of a strand lie alike within words; the last ones of all may be the last of
/// the frame, behind which nothing is read.
__device__ __forceinline__ two_words load_octet(const std::uint8_t* at, const std::uint8_t* end) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  const auto* const words = reinterpret_cast<const std::uint32_t*>(address & ~std::uintptr_t{3});
  const std::uint32_t odd = 8 * static_cast<std::uint32_t>(address & 3);
  if (odd == 0) return {{words[0], words[1]}};
  if (end - at < 11) {
    two_words all{};
    for (int i = 0; i < 8; ++i) all.w[i / 4] |= std::uint32_t{at[i]} << 8 * (i % 4);
    return all;
  }
  const std::uint32_t middle = words[1];
  return {{__funnelshift_r(words[0], middle, odd), __funnelshift_r(middle, words[2], odd)}};
}

/// Whether a thread's eight channels share what it looks up: a head, a block of codes, groups along channels; and its
/// eight rows a group along tokens.
__device__ __forceinline__ bool in_octets(const tile_groups& t, int bits) {
  const bool one_part = bits == 2 || bits == 4 || bits == 8;
  return one_part && t.head_dim % 8 == 0 &&
         (t.length % 8 == 0 || (t.along_tokens ? static_cast<int>(t.runs) : t.of_head) == 1);
}

/// What all threads of a block know of their strand; in shared memory, since registers are for codes.
template <class Codec>
struct packed_block {
  group_source<Codec> source;
  page_target target;
  std::byte* to[packed_threads];  ///< where the rows of a round go
  float scratch[group_source<Codec>::most_kept];
};

/// Rows [first, first + here) of a strand whose codes have Bits bits, a part of them in one piece.
template <class Codec, int Bits>
__device__ __forceinline__ void store_octets(const packed_block<Codec>& block, int first, int here, int width) {
  const group_source<Codec>& source = block.source;
  const page_target& target = block.target;
  const tile_groups& groups = source.groups();
  const packed_codes& codes = source.codes();
  const int octets = width / 8;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < (here + 7) / 8 * octets; i += packed_threads) {
    const int eight = i / octets, channel = 8 * (i - eight * octets), row = 8 * eight;
    const int rows = here - row < 8 ? here - row : 8, planes = (rows * Bits + 7) / 8;
    const std::uint8_t* const at = codes.bytes + 32 * (std::int64_t{(first + row) / 8} * Bits * codes.blocks) +
                                   32 * (channel / 32 * planes) + channel % 32;
    const int head = static_cast<int>(__umulhi(static_cast<unsigned>(channel), groups.per_head));
    const int dim = channel - head * groups.head_dim;
    const std::int64_t offset = head * target.head_stride + dim * target.element_stride;
    scale_pair scale[8];
    if (groups.along_tokens) {
#pragma unroll
      for (int c = 0; c < 8; ++c) scale[c] = source.scale_of(first + row, channel + c);
    }
    two_words plane = load_octet(at, codes.end);
#pragma unroll 1
    for (int r = 0; r < rows; ++r) {
      const int bit = r * Bits % 8;
      if (bit == 0 && r != 0) plane = load_octet(at + 32 * (r * Bits / 8), codes.end);
      std::byte* const place = block.to[row + r];
      if (!place) continue;
      if (!groups.along_tokens) {
        const scale_pair one = source.scale_of(first + row + r, head, dim);
#pragma unroll
        for (int c = 0; c < 8; ++c) scale[c] = one;
      }
      constexpr std::uint32_t mask = ((1u << Bits) - 1) * 0x01010101u;
      float v[8];
#pragma unroll
      for (int c = 0; c < 8; ++c) {
        const std::uint32_t four = plane.w[c / 4] >> bit & mask;
        v[c] = __fmaf_rn(static_cast<float>(four >> 8 * (c % 4) & 255), scale[c].step, scale[c].zero);
      }
      put_run(target, place + offset, 8, v);
    }
  }
}

/// The same of any width, heads and groups.
template <class Codec>
__device__ __forceinline__ void store_runs(const packed_block<Codec>& block, int first, int here, int heads) {
  const int head_dim = block.source.groups().head_dim, runs = (head_dim + 7) / 8, of_row = heads * runs;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < here * of_row; i += packed_threads) {
    const int row = i / of_row, head = (i - row * of_row) / runs, dim = 8 * (i - row * of_row - head * runs);
    const int count = head_dim - dim < 8 ? head_dim - dim : 8;
    if (!block.to[row]) continue;
    float v[8];
    block.source(first + row, head * head_dim + dim, count, v);
    put_run(block.target, block.to[row] + head * block.target.head_stride + dim * block.target.element_stride, count,
            v);
  }
}

/// Rows of strands without a transform; a block a strand, sizeof(packed_block) bytes of shared memory.
template <class Codec>
__global__ void __launch_bounds__(packed_threads, 5) store_packed_rows(const decode_state d) {
  const strand& s = d.strands[blockIdx.x];
  if (!is_shown(s)) return;
  const group_model& g = group_of(d.image, s.group);
  const int rows = s.rows(), thread = static_cast<int>(threadIdx.x);
  if (rows == 0) return;
  const open_request& r = d.requests[s.request];
  auto& block = *reinterpret_cast<packed_block<Codec>*>(ptx::dynamic_shared());
  if (thread == 0) {
    new (&block.source) group_source<Codec>(d, r, s, g, nullptr);
    block.target = target_of(r, s, g);
  }
  __syncthreads();
  if (block.source.keeps(g.width)) {
    block.source.fill(block.scratch, g.width);
    __syncthreads();
    if (thread == 0) block.source.keep(block.scratch);
  }
#pragma unroll 1
  for (int first = 0; first < rows; first += packed_threads) {
    const int here = rows - first < packed_threads ? rows - first : packed_threads;
    __syncthreads();
    if (thread < here) {
      const int token = first_token(r, s) + coded_token(r.asked.frame, s, first + thread);
      const std::int64_t place = place_of(r, plane_of(r, g), token);
      block.to[thread] = place == no_place ? nullptr : block.target.base + place;
    }
    __syncthreads();
    const int bits = in_octets(block.source.groups(), s.bits) ? s.bits : 0;
    if (bits == 2)
      store_octets<Codec, 2>(block, first, here, g.width);
    else if (bits == 4)
      store_octets<Codec, 4>(block, first, here, g.width);
    else if (bits == 8)
      store_octets<Codec, 8>(block, first, here, g.width);
    else
      store_runs(block, first, here, g.heads);
  }
}

}  // namespace sluice::cuda
