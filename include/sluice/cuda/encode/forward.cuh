// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/encode/forward.hpp>
#include <sluice/cuda/encode/gather.cuh>
#include <sluice/cuda/encode_strand.hpp>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/ptx.cuh>

#include <cstddef>
#include <cstdint>

// The forward stage of an encode: pages -> finest integers of the tokens that are coded; which are kept exact. A block is
// a strand. Rows lie in shared memory as floats, are centred, scaled to the range of f16 and split in hi and lo where they
// lie; then a warp multiplies 32 rows by a panel of 32 columns on tensor cores. Groups without a matrix: measure.cuh.

namespace sluice::cuda {

/// Which tokens are exact before anything is computed: those of the request's ranges, and those with a number that is not
/// finite in another group of the plane (find_not_finite_kernel). Ends with a barrier.
__device__ inline void first_flags(const encode_state& d, const encode_strand& s, const row_space& space) {
  const group_model& g = group_of(d.image, s.group);
  const plane_model& p = plane_of(d.image, g.layer, g.plane);
  const encode_request& r = d.requests[s.request].asked;
  const std::int64_t position = r.position + std::int64_t{s.tile} * d.tile_tokens + s.first;
  const std::int64_t before = r.exact_before - position, from = r.exact_from - position;
  const int tokens = static_cast<int>(s.count), words = (d.tile_tokens + 31) / 32;
  const bool others = p.groups > 1 && head_of(d.image).domain != static_cast<int>(value_domain::stored);
  const std::int64_t strand = &s - d.strands - (s.group - p.first_group);
  const std::byte* const found = d.workspace + d.flags_at + strand * d.tile_tokens;
  for (int w = static_cast<int>(threadIdx.x); w < words; w += static_cast<int>(blockDim.x)) {
    std::uint32_t word = 0;
#pragma unroll 1
    for (int i = 0; i < 32; ++i) {
      const int t = 32 * w + i;
      if (t < tokens && (t < before || t >= from || (others && found[t] != std::byte{0}))) word |= 1u << i;
    }
    space.flags()[w] = word;
  }
  __syncthreads();
}

/// Lists coded and exact tokens and counts them. By one warp; flags are behind a barrier.
__device__ inline void list_tokens(const encode_state& d, encode_strand& s, const row_space& space) {
  if (threadIdx.x >= 32) return;
  auto* const coded = reinterpret_cast<std::uint16_t*>(d.workspace + s.coded_at);
  auto* const exact = reinterpret_cast<std::uint16_t*>(d.workspace + s.exact_at);
  const std::uint32_t before = ptx::lanes_before();
  int kept_exact = 0;
  for (int at = 0; at < s.count; at += 32) {
    const std::uint32_t word = space.flags()[at / 32];
    const int token = at + static_cast<int>(threadIdx.x), before_here = kept_exact + __popc(word & before);
    if (token < s.count) {
      if (space.flagged(token))
        exact[before_here] = static_cast<std::uint16_t>(token);
      else
        coded[token - before_here] = static_cast<std::uint16_t>(token);
    }
    kept_exact += __popc(word);
  }
  if (threadIdx.x == 0) {
    s.exact = static_cast<std::uint16_t>(kept_exact);
    s.rows = static_cast<std::uint16_t>(s.count - kept_exact);
  }
}

/// Coded rows of integers close ranks. A thread moves its 8 columns of all rows, eight rows at once.
__device__ inline void close_ranks(std::int16_t* values, int tokens, int ld, const row_space& space) {
  constexpr int at_once = 8;
  floats4* const at = reinterpret_cast<floats4*>(values);
  for (int c = static_cast<int>(threadIdx.x); c < ld / 8; c += static_cast<int>(blockDim.x)) {
    int to = 0;
    for (int from = 0; from < tokens; from += at_once) {
      const std::uint32_t exact = space.flags()[from / 32] >> from % 32 & 0xffu;
      if (exact == 0 && to == from) {
        to += at_once;
        continue;
      }
      floats4 moved[at_once] = {};
#pragma unroll
      for (int i = 0; i < at_once; ++i)
        if (from + i < tokens) moved[i] = at[(from + i) * (ld / 8) + c];
#pragma unroll
      for (int i = 0; i < at_once; ++i)
        if (from + i < tokens && (exact >> i & 1u) == 0) at[to++ * (ld / 8) + c] = moved[i];
    }
  }
}

/// Bits that are all set in an element that is no number, and in no other.
__device__ __forceinline__ std::uint32_t not_finite_bits(dtype type) {
  return type == dtype::f32    ? 0x7f800000u
         : type == dtype::f16  ? 0x7c00u
         : type == dtype::bf16 ? 0x7f80u
         : type == dtype::e4m3 ? 0x7fu
                               : 0x7cu;
}
/// Whether a lane's share of one head has such an element.
__device__ __forceinline__ bool not_finite(const strand_source& from, const std::byte* p, int lane) {
  const std::uint32_t bits = not_finite_bits(from.type);
  const int bytes = from.head_dim * from.size;
  bool bad = false;
  if (from.element_stride == from.size &&
      (reinterpret_cast<std::uintptr_t>(p) | static_cast<unsigned>(bytes)) % 4 == 0) {
    for (int i = 4 * lane; i < bytes; i += 128) {
      const std::uint32_t word = load_bits<dtype::f32>(p + i);
      for (int at = 0; at < 32; at += 8 * from.size) bad = bad || (word >> at & bits) == bits;
    }
    return bad;
  }
  for (int e = lane; e < from.head_dim; e += 32) {
    const std::byte* const q = p + e * from.element_stride;
    const std::uint32_t word = from.size == 4   ? load_bits<dtype::f32>(q)
                               : from.size == 2 ? load_bits<dtype::f16>(q)
                                                : load_bits<dtype::e4m3>(q);
    bad = bad || (word & bits) == bits;
  }
  return bad;
}

/// What all groups but the first of a plane must know of the others: tokens with a number that is not finite. A block a
/// strand; of planes with one group nothing is looked at.
template <int Threads = forward_threads>
__global__ void __launch_bounds__(Threads, 4) find_not_finite_kernel(encode_state d) {
  const encode_strand& s = d.strands[blockIdx.x];
  if (s.state != status::ok) return;
  const group_model& g = group_of(d.image, s.group);
  const plane_model& p = plane_of(d.image, g.layer, g.plane);
  if (p.groups <= 1 || s.group != p.first_group) return;
  const strand_source from(d, s, g.plane, 0, p.heads);
  std::byte* const found = d.workspace + d.flags_at + std::int64_t{blockIdx.x} * d.tile_tokens;
  for (int t = static_cast<int>(threadIdx.x / 32); t < s.count; t += Threads / 32) {
    const std::byte* const at = from.base + from.place(t);
    bool bad = false;
    for (int h = 0; h < from.heads; ++h)
      bad = bad || not_finite(from, at + h * from.head_stride, static_cast<int>(threadIdx.x % 32));
    bad = __any_sync(~0u, bad) != 0;
    if (threadIdx.x % 32 == 0) found[t] = std::byte{bad};
  }
}

/// x and y as halves: hi, and what is left of them.
__device__ __forceinline__ void split_pair(float x, float y, std::uint32_t& hi, std::uint32_t& lo) {
  hi = ptx::pack_f16(x, y);
  lo = ptx::pack_f16(__fsub_rn(x, float_of_half(hi & 0xffffu)), __fsub_rn(y, float_of_half(hi >> 16)));
}

__device__ __forceinline__ floats4 centred(const floats4& x, const float* mean) {
  const ptx::quad m = ptx::load_global(mean);
  return {__fsub_rn(x.x, __uint_as_float(m.x)), __fsub_rn(x.y, __uint_as_float(m.y)),
          __fsub_rn(x.z, __uint_as_float(m.z)), __fsub_rn(x.w, __uint_as_float(m.w))};
}
/// The larger of `most` and four magnitudes, as bits: what is no number is larger than any number.
__device__ __forceinline__ std::uint32_t magnitude(std::uint32_t most, const floats4& v) {
  most = max(max(most, __float_as_uint(v.x) & 0x7fffffffu), __float_as_uint(v.y) & 0x7fffffffu);
  return max(max(most, __float_as_uint(v.z) & 0x7fffffffu), __float_as_uint(v.w) & 0x7fffffffu);
}
/// Eight floats become as many hi, then as many lo, times a power of two.
__device__ __forceinline__ void split_chunk(float* to, const floats4& a, const floats4& b, float up) {
  std::uint32_t hi[4], lo[4];
  split_pair(__fmul_rn(a.x, up), __fmul_rn(a.y, up), hi[0], lo[0]);
  split_pair(__fmul_rn(a.z, up), __fmul_rn(a.w, up), hi[1], lo[1]);
  split_pair(__fmul_rn(b.x, up), __fmul_rn(b.y, up), hi[2], lo[2]);
  split_pair(__fmul_rn(b.z, up), __fmul_rn(b.w, up), hi[3], lo[3]);
  reinterpret_cast<ptx::quad*>(to)[0] = {hi[0], hi[1], hi[2], hi[3]};
  reinterpret_cast<ptx::quad*>(to)[1] = {lo[0], lo[1], lo[2], lo[3]};
}

/// Rows that are floats become halves where they lie. As many lanes a row as it has chunks of eight channels, of a power
/// of two; rows behind the last become zero up to whole 32, as do those without numbers, which are flagged.
__device__ inline void split_rows(const row_space& space, int begin, int n, int ld, const float* mean) {
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), chunks = ld / 8;
  const int lanes = chunks > 16 ? 32 : chunks > 8 ? 16 : chunks > 4 ? 8 : 4, at_once = 32 / lanes;
  const bool whole = chunks <= 32;  // a lane keeps its chunk in registers
  for (int base = warp * at_once; base < (n + 31) / 32 * 32; base += forward_threads / 32 * at_once) {
    const int r = base + lane / lanes, own = lane % lanes;
    float* const row = space.row(r);
    floats4 a{}, b{};
    std::uint32_t most = 0;
    for (int c = own; r < n && c < chunks; c += lanes) {
      floats4* const x = reinterpret_cast<floats4*>(row + 8 * c);
      a = centred(x[0], mean + 8 * c), b = centred(x[1], mean + 8 * c + 4);
      most = magnitude(magnitude(most, a), b);
      if (!whole) x[0] = a, x[1] = b;
    }
    for (int apart = lanes / 2; apart > 0; apart /= 2) most = max(most, __shfl_xor_sync(~0u, most, apart));
    const bool live = r < n && most < 0x7f800000u;
    // To [2^14, 2^15), by a power of two that has an inverse.
    const std::uint32_t exponent = most >> 23 < 41 ? 227 : 268 - (most >> 23);
    const float up = __uint_as_float(exponent << 23);
    if (own == 0) {
      space.scales()[r] = __uint_as_float((254 - exponent) << 23);
      if (r < n && !live) space.flag(begin + r);
    }
    for (int c = own; c < chunks; c += lanes) {
      floats4* const x = reinterpret_cast<floats4*>(row + 8 * c);
      if (!whole) a = x[0], b = x[1];
      if (!live) a = {}, b = {};
      split_chunk(row + 8 * c, a, b, up);
    }
  }
}

/// Sums of 32 rows and a panel: [16 rows][product of 8 columns][fragment d of m16n8k16].
using panel_sums = float[2][4][4];

/// hi * hi + lo * hi + hi * lo over all channels, of the rows from `first` on.
__device__ __forceinline__ void multiply_panel(const row_space& space, int first, int ld, const std::byte* matrix,
                                               int panel, panel_sums& sum) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  std::uint32_t row = ptx::shared_address(space.row(first + lane % 16)) + static_cast<std::uint32_t>(lane / 16 * 32);
  const std::uint32_t second = static_cast<std::uint32_t>(16 * space.at.stride);
  const std::byte* part = matrix + forward_part(ld, panel, 0, 0, lane);
  constexpr int from_part = 512, from_step = 4 * from_part;
  ptx::quad b[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) b[i] = ptx::load_global(part + i * from_part);
#pragma unroll 1
  for (int step = ld / 16; step > 0; --step) {
    std::uint32_t hi[2][4], lo[2][4];
    ptx::load_matrices(hi[0], row);
    ptx::load_matrices(hi[1], row + second);
    ptx::load_matrices(lo[0], row + 16);
    ptx::load_matrices(lo[1], row + second + 16);
    row += 64;
    part += step > 1 ? from_step : 0;
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        ptx::multiply_add(sum[m][2 * j], hi[m], b[j].x, b[j].y);
        ptx::multiply_add(sum[m][2 * j + 1], hi[m], b[j].z, b[j].w);
      }
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        ptx::multiply_add(sum[m][2 * j], lo[m], b[j].x, b[j].y);
        ptx::multiply_add(sum[m][2 * j + 1], lo[m], b[j].z, b[j].w);
      }
    b[0] = ptx::load_global(part);  // of the next step, while this one's lo is multiplied
    b[1] = ptx::load_global(part + from_part);
#pragma unroll
    for (int m = 0; m < 2; ++m)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        ptx::multiply_add(sum[m][2 * j], hi[m], b[2 + j].x, b[2 + j].y);
        ptx::multiply_add(sum[m][2 * j + 1], hi[m], b[2 + j].z, b[2 + j].w);
      }
    b[2] = ptx::load_global(part + 2 * from_part);
    b[3] = ptx::load_global(part + 3 * from_part);
  }
}

/// The low halves of two floats to which 3 * 2^22 was added: the nearest integers to what they were.
inline constexpr float round_to_integer = 12582912.0f;
__device__ __forceinline__ std::uint32_t rounded_pair(float a, float b) {
  return __byte_perm(__float_as_uint(a), __float_as_uint(b), 0x5410);
}

/// Sums to integers, a thread's eight columns at once; flags tokens that leave the range.
__device__ __forceinline__ void round_panel(const row_space& space, int first, int begin, int n, int ld,
                                            const float* column_scales, int panel, const panel_sums& sum,
                                            std::int16_t* values) {
  const int lane = static_cast<int>(threadIdx.x % 32), column = 32 * panel + lane % 4 * 8;
  const ptx::quad u = ptx::load_global(column_scales + column), v = ptx::load_global(column_scales + column + 4);
  const float scale[8] = {__uint_as_float(u.x), __uint_as_float(u.y), __uint_as_float(u.z), __uint_as_float(u.w),
                          __uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w)};
  std::int16_t* to = values + (begin + first + lane / 4) * ld + column;
#pragma unroll
  for (int i = 0; i < 4; ++i, to += 8 * ld) {
    const int r = first + 8 * i + lane / 4;
    if (r >= n) break;
    const float back = space.scales()[r];
    float y[8], most = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float t = __fmul_rn(sum[i / 2][k / 2][i % 2 * 2 + k % 2], scale[k]);
      most = fmaxf(most, fabsf(t));
      y[k] = __fmaf_rn(t, back, round_to_integer);
    }
    if (__fmul_rn(most, back) > 32000.0f) space.flag(begin + r);  // and what it is rounded to is nobody's
    *reinterpret_cast<ptx::quad*>(to) = {rounded_pair(y[0], y[1]), rounded_pair(y[2], y[3]), rounded_pair(y[4], y[5]),
                                         rounded_pair(y[6], y[7])};
  }
}

/// Groups with a matrix: a block a strand, forward_shared_size() bytes of shared memory.
template <int Threads = forward_threads>
__global__ void __launch_bounds__(Threads, 3) forward_kernel(encode_state d) {
  encode_strand& s = d.strands[blockIdx.x];
  if (s.state != status::ok) return;
  const group_model& g = group_of(d.image, s.group);
  if (g.matrix_at == 0) return;
  if (g.forward_at == 0 || g.mean_at == 0) {  // an image for decoders
    if (threadIdx.x == 0) s.state = status::corrupt_profile;
    return;
  }
  const int ld = g.ld, tokens = s.count;
  const row_space space{ptx::dynamic_shared(), forward_shared_of(ld, d.tile_tokens, false)};
  std::int16_t* const values = reinterpret_cast<std::int16_t*>(d.workspace + s.values_at);
  const std::byte* const matrix = d.image + g.forward_at;
  first_flags(d, s, space);
#pragma unroll 1
  for (int begin = 0; begin < tokens; begin += space.at.rows) {
    const int n = tokens - begin < space.at.rows ? tokens - begin : space.at.rows;
    load_values(d, s, space, begin, n);
    split_rows(space, begin, n, ld, in_image<float>(d.image, g.mean_at));
    __syncthreads();
    // Warps of one panel are neighbours: they read the same part of the matrix at about the same time.
    constexpr int warps = Threads / 32;
    const int warp = static_cast<int>(threadIdx.x / 32), groups = (n + 31) / 32;
    int panel = warp / groups, group = warp % groups;
#pragma unroll 1
    while (panel < ld / 32) {
      panel_sums sum = {};
      multiply_panel(space, 32 * group, ld, matrix, panel, sum);
      round_panel(space, 32 * group, begin, n, ld, reinterpret_cast<const float*>(matrix), panel, sum, values);
      panel += warps / groups;
      group += warps % groups;
      if (group >= groups) group -= groups, ++panel;
    }
    __syncthreads();
  }
  list_tokens(d, s, space);
  close_ranks(values, tokens, ld, space);
  if (threadIdx.x == 0) s.calibrated = true;
}

/// Codecs of elements: as they stand, [rows][row_bytes], the exact ones left out. A block a strand, 8 * tile_tokens bytes
/// of shared memory and those of forward_shared_of().flags.
template <int Threads = forward_threads>
__global__ void __launch_bounds__(Threads, 4) elements_kernel(encode_state d) {
  encode_strand& s = d.strands[blockIdx.x];
  if (s.state != status::ok) return;
  const group_model& g = group_of(d.image, s.group);
  const strand_source from(d, s, g.plane, g.first_head, g.heads);
  row_space space{ptx::dynamic_shared(), {}};
  space.at.flags = 8 * d.tile_tokens;
  first_flags(d, s, space);
  list_tokens(d, s, space);
  for (int t = static_cast<int>(threadIdx.x); t < s.count; t += Threads) space.places()[t] = from.place(t);
  __syncthreads();
  const auto* const coded = reinterpret_cast<const std::uint16_t*>(d.workspace + s.coded_at);
  std::byte* const to = d.workspace + s.values_at;
  const std::int64_t head_bytes = std::int64_t{from.head_dim} * from.size;
  for (int i = static_cast<int>(threadIdx.x / 32); i < s.rows * from.heads; i += Threads / 32)
    copy_head(from, space.places()[coded[i / from.heads]], i % from.heads, to + i * head_bytes,
              static_cast<int>(threadIdx.x % 32));
}

}  // namespace sluice::cuda
