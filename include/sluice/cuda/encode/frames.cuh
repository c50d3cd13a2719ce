// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/encode/encode_work.hpp>
#include <sluice/cuda/encode/tiles.cuh>
#include <sluice/format/frame.hpp>
#include <sluice/version.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

// Frames of an encode: how many levels fit, where every tile goes, header and index. A block of threads for each request
// before its tiles are written, a warp after.

namespace sluice::cuda {

namespace detail::encoding {

inline constexpr int place_threads = 256;

/// Sum of this thread's number and those of all threads before; of all of them in `total`.
__device__ __forceinline__ std::uint64_t sum_before(std::uint64_t x, std::uint64_t* of_warps, std::uint64_t& total) {
  for (unsigned d = 1; d < 32; d *= 2) {
    const std::uint64_t other = __shfl_up_sync(everyone, x, d);
    if (lane() >= static_cast<int>(d)) x += other;
  }
  const unsigned warp = threadIdx.x / 32u;
  if (lane() == 31) of_warps[warp] = x;
  __syncthreads();
  total = 0;
  for (unsigned w = 0; w < place_threads / 32; ++w) {
    if (w < warp) x += of_warps[w];
    total += of_warps[w];
  }
  __syncthreads();
  return x;
}

/// sluice::detail::front_size.
SLUICE_HD constexpr std::uint64_t front_size(std::uint64_t shape_runs, std::uint64_t tiles,
                                             std::uint64_t passes) noexcept {
  return (sizeof(frame_header) + shape_runs * sizeof(shape_run) + tiles * passes * sizeof(tile_entry) + 15) / 16 * 16;
}

/// A layer alone, as an index lists it. The view shows all layers in one type; so the others have that.
__device__ __forceinline__ shape_run run_of(const code_job& j, const kv_view& v, int layer) {
  shape_run run{};
  run.layers = 1;
  for (int i = 0; i < 2; ++i) {
    const plane_model& p = plane_of(j.in.image, layer, i);
    if (p.heads == 0) continue;
    const plane_view& shown = i ? v.v : v.k;
    run.num_kv_heads = static_cast<std::uint16_t>(p.heads);
    run.head_dim[i] = static_cast<std::uint16_t>(p.head_dim);
    run.group_width[i] = static_cast<std::uint16_t>(p.group_width);
    run.type[i] = static_cast<std::uint8_t>(shown.present() ? shown.type : dtype::f16);
  }
  return run;
}
__device__ __forceinline__ bool same_run(const shape_run& a, const shape_run& b) {
  // Without branches: a lane each would take its own.
  return ((a.num_kv_heads ^ b.num_kv_heads) | (a.head_dim[0] ^ b.head_dim[0]) | (a.head_dim[1] ^ b.head_dim[1]) |
          (a.group_width[0] ^ b.group_width[0]) | (a.group_width[1] ^ b.group_width[1]) | (a.type[0] ^ b.type[0]) |
          (a.type[1] ^ b.type[1])) == 0;
}

}  // namespace detail::encoding

/// Chooses levels and places tiles; a block of threads for each request.
template <class = void>
__global__ void __launch_bounds__(detail::encoding::place_threads) place_tiles_kernel(code_job j) {
  using namespace detail::encoding;
  __shared__ std::uint64_t of_warps[place_threads / 32];
  __shared__ int first_bad;
  const int me = static_cast<int>(threadIdx.x);
  const open_encode& r = j.in.requests[blockIdx.x];
  encode_frame& f = j.frames[blockIdx.x];
  if (me == 0) first_bad = r.strands;
  __syncthreads();
  status state = r.state;
  if (state == status::ok && reinterpret_cast<std::uintptr_t>(r.asked.frame) % alignof(frame_header) != 0)
    state = status::invalid_argument;
  if (state == status::ok)
    for (int i = me; i < r.strands; i += place_threads) {
      const status s = j.in.strands[r.first_strand + i].state;
      if (s != status::ok && s != status::absent) atomicMin(&first_bad, i);
    }
  __syncthreads();
  if (state == status::ok && first_bad < r.strands) state = j.in.strands[r.first_strand + first_bad].state;
  if (state != status::ok) {
    if (me == 0) f = {state, 0, 0, 0, 0};
    return;
  }

  const int layers = head_of(j.in.image).layers;
  const kv_view& v = r.asked.cache;
  const auto begins = [&](int l) {  // without branches, which each lane would take for itself
    const int here = l < layers ? l : layers - 1, before = here > 0 ? here - 1 : 0;
    return static_cast<std::uint64_t>((l == 0) | !same_run(run_of(j, v, here), run_of(j, v, before))) & (l < layers);
  };
  std::uint64_t runs = 0, total;
  for (int from = 0; from < layers; from += place_threads) {
    sum_before(begins(from + me), of_warps, total);
    runs += total;
  }
  const std::int64_t first = j.entry(r, 0, 0);
  const auto tiles = static_cast<std::uint64_t>(r.strands);
  int passes = 0;
  std::uint64_t size = 0, front = 0, up_to = 0;  // bytes of tiles in so many passes
  for (int p = 1; p <= r.passes; ++p) {
    std::uint64_t mine = 0;
    for (int i = me; i < r.strands; i += place_threads) mine += j.sizes[first + std::int64_t{p - 1} * r.strands + i];
    sum_before(mine, of_warps, total);
    up_to += total;
    const std::uint64_t of_front = front_size(runs, tiles, static_cast<std::uint64_t>(p));
    if (of_front + up_to <= r.asked.max_bytes) passes = p, front = of_front, size = of_front + up_to;
  }
  if (front > UINT32_MAX) state = status::too_large;
  if (passes == 0 || size > r.asked.capacity) state = status::output_too_small;
  if (me == 0) f = {state, passes, static_cast<std::uint32_t>(runs), front, size};
  if (state != status::ok) {
    if (me == 0 && state == status::output_too_small && j.overflow.count)
      j.overflow.requests[atomicAdd(j.overflow.count, 1)] = static_cast<std::int32_t>(blockIdx.x);
    return;
  }

  std::uint64_t at = front;
  const std::uint64_t entries = tiles * static_cast<std::uint64_t>(passes);
  for (std::uint64_t from = 0; from < entries; from += place_threads) {
    const std::uint64_t k = from + static_cast<std::uint64_t>(me);
    const std::uint32_t mine = k < entries ? j.sizes[first + static_cast<std::int64_t>(k)] : 0;
    const std::uint64_t end = sum_before(mine, of_warps, total);
    if (k < entries) j.offsets[first + static_cast<std::int64_t>(k)] = at + end - mine;
    at += total;
  }
  auto* const index = reinterpret_cast<shape_run*>(r.asked.frame + sizeof(frame_header));
  // Runs by their first layers, then by how many they have.
  std::uint64_t listed = 0;
  for (int from = 0; from < layers; from += place_threads) {
    const int l = from + me;
    const std::uint64_t begin = begins(l);
    const std::uint64_t number = listed + sum_before(begin, of_warps, total);
    listed += total;
    if (begin) {
      shape_run run = run_of(j, v, l);
      run.layers = static_cast<std::uint16_t>(l);
      index[number - 1] = run;
    }
  }
  __syncthreads();
  for (std::uint64_t from = 0; from < runs; from += place_threads) {
    const std::uint64_t i = from + static_cast<std::uint64_t>(me);
    const int begin = i < runs ? index[i].layers : 0, end = i + 1 < runs ? index[i + 1].layers : layers;
    __syncthreads();
    if (i < runs) index[i].layers = static_cast<std::uint16_t>(end - begin);
  }
  for (std::uint64_t i = sizeof(frame_header) + runs * sizeof(shape_run) + entries * sizeof(tile_entry) +
                         static_cast<std::uint64_t>(me);
       i < front; i += place_threads)
    r.asked.frame[i] = std::byte{0};
}

/// Checksums and the header, when the tiles are there; a warp, which is a block of threads, for each request.
template <class = void>
__global__ void __launch_bounds__(32) seal_frames_kernel(code_job j) {
  using namespace detail::encoding;
  const int request = static_cast<int>(blockIdx.x);
  const open_encode& r = j.in.requests[request];
  const encode_frame& f = j.frames[request];
  if (f.state == status::ok) {
    auto* const bytes = reinterpret_cast<unsigned char*>(r.asked.frame);
    const std::uint64_t index_size = f.front - sizeof(frame_header);
    const std::uint32_t of_index = checksum_of(bytes + sizeof(frame_header), index_size, frame_magic);
    auto& h = *reinterpret_cast<frame_header*>(bytes);
    if (lane() == 0) {
      frame_header made{};
      made.magic = frame_magic;
      made.version_major = SLUICE_FORMAT_VERSION_MAJOR;
      made.version_minor = SLUICE_FORMAT_VERSION_MINOR;
      made.header_size = sizeof made;
      made.fingerprint = j.fingerprint;
      made.position = r.asked.begin();
      made.frame_size = f.size;
      made.tokens = static_cast<std::uint32_t>(r.asked.size());
      made.tile_tokens = static_cast<std::uint32_t>(j.in.tile_tokens);
      made.index_size = static_cast<std::uint32_t>(index_size);
      made.index_checksum = of_index;
      made.layers = static_cast<std::uint16_t>(head_of(j.in.image).layers);
      made.shape_runs = static_cast<std::uint16_t>(f.shape_runs);
      made.passes = made.levels_present = static_cast<std::uint8_t>(f.passes);
      made.codec = j.codec;
      h = made;
    }
    __syncwarp();
    const std::uint32_t of_header = checksum_of(bytes, offsetof(frame_header, header_checksum), frame_magic);
    if (lane() == 0) h.header_checksum = of_header;
  }
  if (lane() == 0 && r.asked.out) *r.asked.out = {f.state == status::ok ? f.size : 0, f.state};
}

}  // namespace sluice::cuda
