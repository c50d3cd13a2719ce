// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/split_exponent/lossless.hpp>
#include <sluice/cuda/bodies/dense.cuh>

#include <cstddef>
#include <cstdint>

// Lossless tiles on a GPU, a warp per strip: open_strips_kernel reads the heads, the coder's kernel decodes the codes'
// symbols, join_strips_kernel puts the elements together. All pointers are the device's; elements lie at their alignment.

#pragma push_macro("SLUICE_BODY_FN")
#undef SLUICE_BODY_FN
#define SLUICE_BODY_FN __device__ __forceinline__
#define SLUICE_TARGET_CUDA 1

namespace sluice::cuda {

using detail::column_fact_table;
using detail::rans_lanes;
using detail::rans_max_blocks;
using detail::strip_job;
using detail::strip_lanes;
using detail::strip_lanes_table;
using detail::symbol_counts;

#include <sluice/codec/entropy/split_exponent/lossless_body.inl>

}  // namespace sluice::cuda

#undef SLUICE_TARGET_CUDA
#pragma pop_macro("SLUICE_BODY_FN")

namespace sluice::cuda {

enum class lossless_task : std::uint8_t { facts, cut, count, pack };

/// One task of a strip (T as wide as its elements), one warp for all of it: the encoder's passes, or joining alone.
/// `result` is what the task wants, zeroed for count; packed rows are zeroed too, whole words of them. Sets *failed where
/// the list of escapes is full or does not fit.
template <lossless_task Task, class T>
__global__ void __launch_bounds__(32) strip_kernel(detail::strip_job job, void* result, int* failed) {
  if constexpr (Task == lossless_task::facts) lossless::column_facts<T>(job, *static_cast<column_fact_table*>(result));
  if constexpr (Task == lossless_task::cut)
    if (!lossless::cut_symbols<T>(job, static_cast<std::uint32_t*>(result)) && floats::lane() == 0) *failed = 1;
  if constexpr (Task == lossless_task::count) lossless::count_symbols(job, static_cast<symbol_counts*>(result));
  if constexpr (Task == lossless_task::pack) lossless::pack_fields<T>(job);
}

/// One strip in flight: `symbols` (and for opaque bytes `nibbles`) are given, rows x 256 bytes each; the rest is made.
struct lossless_strip {
  std::uint8_t* symbols = nullptr;
  std::uint8_t* nibbles = nullptr;
  detail::strip_kind kind = detail::strip_kind::stored;
  const std::byte* stored = nullptr;
  detail::strip_job job;
  status state = status::ok;
  detail::strip_tables tables;
};

/// A tile to decode: strips[i] and streams[i] for each of its lossless_strips(). A code whose strip has none (stored
/// or refused) has no rows and no blocks, and its `ok` is not asked for.
struct lossless_tile {
  dtype type = dtype::f16;
  std::int32_t rows = 0, n = 0;
  const std::byte* in = nullptr;
  std::size_t size = 0;
  std::byte* elements = nullptr;
  std::ptrdiff_t stride = 0;
  lossless_strip* strips = nullptr;
  detail::decode_job* streams = nullptr;
};

SLUICE_HD constexpr int lossless_strips(dtype type, int n) noexcept {
  return (n + detail::strip_columns(type) - 1) / detail::strip_columns(type);
}

/// Bytes that a strip takes which begins `left` bytes before the end of the tile; 0 where it cannot be.
__device__ inline std::size_t strip_size(const std::byte* in, std::size_t left, std::size_t raw) {
  if (left == 0) return 0;
  detail::strip_head h;
  if (static_cast<detail::strip_kind>(in[0]) == detail::strip_kind::stored) return raw < left ? 1 + raw : 0;
  if (left < sizeof h) return 0;
  memcpy(&h, in, sizeof h);
  return h.size >= sizeof h && h.size <= left ? h.size : 0;
}

/// A warp per strip of the tile.
template <int = 0>
__global__ void __launch_bounds__(32) open_strips_kernel(lossless_tile tile) {
  const int index = static_cast<int>(blockIdx.x), lane = floats::lane(), most = detail::strip_columns(tile.type);
  const int strips = lossless_strips(tile.type, tile.n), size = size_of(tile.type);
  lossless_strip& s = tile.strips[index];
  const std::byte* in = tile.in;
  std::size_t left = tile.size, used = 0;
  int columns = 0;
  for (int i = 0; i <= index; ++i) {
    in += used;
    left -= used;
    columns = tile.n - i * most < most ? tile.n - i * most : most;
    used = strip_size(in, left, static_cast<std::size_t>(tile.rows) * static_cast<std::size_t>(columns * size));
    if (used == 0) break;
  }
  const auto kind = used ? static_cast<detail::strip_kind>(in[0]) : detail::strip_kind::stored;
  const bool halves = kind == detail::strip_kind::nibbles, coded = halves || kind == detail::strip_kind::coded;
  bool ok = used != 0 && (index + 1 < strips || used == left) && (coded || kind == detail::strip_kind::stored) &&
            (!halves || tile.type == dtype::bytes);
  const detail::element_format f = detail::format_of(tile.type, kind);
  std::byte* const to = tile.elements + std::ptrdiff_t{index} * most * size;
  __shared__ detail::strip_view view;
  if (coded && ok) {
    if (lane == 0) {
      s.job = halves ? detail::job_of(f, reinterpret_cast<std::byte*>(s.nibbles), 2 * columns, tile.rows, 2 * columns,
                                      s.symbols)
                     : detail::job_of(f, to, tile.stride, tile.rows, columns, s.symbols);
      ok = detail::parse_strip(reinterpret_cast<const std::uint8_t*>(in), used, f, tile.rows, s.job.columns, view,
                               s.tables.lanes);
    }
    ok = __shfl_sync(0xffffffffu, ok, 0);
    __syncwarp();  // the view is there: a shuffle is no barrier of memory
    if (ok)
      for (int c = lane; c < view.blocks * rans_lanes; c += 32)
        detail::strip_thresholds(view, c, s.tables.blocks[c / rans_lanes]);
  }
  if (lane == 0) {
    s.kind = kind;
    s.state = ok ? status::ok : used ? status::corrupt_tile : status::truncated;
    s.stored = in + 1;
    detail::decode_job& stream = tile.streams[index];
    stream = {};
    if (coded && ok)
      detail::set_jobs(view, s.tables, s.job, stream);
    else
      s.job = detail::job_of(f, to, tile.stride, tile.rows, columns, s.symbols);
  }
}

/// A warp per strip of the tile, after its code has been decoded; strips[i].state says how it went.
template <int = 0>
__global__ void __launch_bounds__(32) join_strips_kernel(lossless_tile tile) {
  const int index = static_cast<int>(blockIdx.x), lane = floats::lane(), size = size_of(tile.type);
  lossless_strip& s = tile.strips[index];
  if (s.state != status::ok) return;
  std::byte* const to = tile.elements + std::ptrdiff_t{index} * detail::strip_columns(tile.type) * size;
  if (s.kind == detail::strip_kind::stored) {
    const int row = s.job.columns * size;
    for (int r = 0; r < tile.rows; ++r)
      for (int i = lane; i < row; i += 32) to[r * tile.stride + i] = s.stored[static_cast<std::ptrdiff_t>(r) * row + i];
    return;
  }
  const detail::strip_job job = s.job;
  bool ok = tile.streams[index].ok;
  if (ok)
    ok = size == 1   ? lossless::join_strip<std::uint8_t>(job)
         : size == 2 ? lossless::join_strip<std::uint16_t>(job)
                     : lossless::join_strip<std::uint32_t>(job);
  if (s.kind == detail::strip_kind::nibbles && ok) {
    __syncwarp();
    for (int r = 0; r < tile.rows; ++r)
      for (int c = lane; c < job.columns / 2; c += 32) {
        const std::uint8_t* pair = s.nibbles + r * job.columns + 2 * c;
        to[r * tile.stride + c] = static_cast<std::byte>((pair[0] & 15) | pair[1] << 4);
      }
  }
  __syncwarp();  // others may still read the state
  if (lane == 0 && !ok) s.state = status::corrupt_tile;
}

}  // namespace sluice::cuda
