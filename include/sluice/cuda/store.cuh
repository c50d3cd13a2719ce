// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/basis.hpp>
#include <sluice/cuda/convert.cuh>
#include <sluice/cuda/exact.cuh>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/pages.cuh>
#include <sluice/cuda/plain.cuh>
#include <sluice/cuda/ptx.cuh>
#include <sluice/cuda/strand.hpp>

#include <cstddef>
#include <cstdint>

// The last stage of a decode that says something about values: integers times a basis, on tensor cores, and into pages.
// A block takes a strand, a warp 16 coded rows at a time. Rows stay in shared memory as halves while the basis passes by
// in stages of 128 coefficients by 64 columns, the next of them on its way while one is multiplied.

namespace sluice::cuda {

inline constexpr int store_warps = 8, slab_rows = 16, stage_rows = 128;
inline constexpr int stage_ld = chunk_columns + 8;  ///< halves; eight more than needed put rows into other banks
inline constexpr std::size_t stage_bytes = std::size_t{2} * stage_rows * stage_ld;

namespace detail {

/// Where a row goes, and how it turns; null = it has no place.
struct row_target {
  std::byte* to;
  const rope_entry* table;
};

/// What all warps of a block know of their strand; in shared memory, since registers are for sums.
struct alignas(16) product_block {
  page_target target;
  const std::byte* basis;
  const column_pair* runs;
  std::int32_t ld;
  float scale;
  row_target rows[store_warps][slab_rows];
};

}  // namespace detail

/// Halves from row to row of a slab of so many columns.
SLUICE_HD constexpr int slab_ld(int columns) noexcept { return columns + 8; }

/// Shared memory of a block whose slabs have so many columns.
constexpr std::size_t store_shared(int columns) noexcept {
  return 2 * stage_bytes + sizeof(detail::product_block) +
         std::size_t{2} * store_warps * slab_rows * static_cast<std::size_t>(slab_ld(columns));
}

/// How a decode of groups of at most `max_width` channels is stored on a device.
struct store_plan {
  std::int32_t columns = 0;  ///< of a slab; wider rows are put there stage by stage, again for every 64 columns
  std::size_t shared = 0;    ///< bytes of a block
};
/// See model_head::max_width; `limit`: max_shared, or max_shared_sm80 for an A100.
constexpr store_plan plan_store(int max_width, std::size_t limit = max_shared) noexcept {
  const int padded = max_width > stage_rows ? (max_width + 31) / 32 * 32 : stage_rows;
  const int columns = store_shared(padded) <= limit ? padded : stage_rows;
  return {columns, store_shared(columns)};
}
static_assert(plan_store(256).columns == 256 && plan_store(256, max_shared_sm80).shared <= 113 * 1024);  // two blocks
static_assert(plan_store(480, max_shared_sm80).columns == 480 && plan_store(736).columns == 736);
static_assert(plan_store(1024).shared <= max_shared && plan_store(1024, max_shared_sm80).shared <= max_shared_sm80);

namespace detail {

/// The rows of a warp as the tensor cores take them.
struct slab {
  const std::int16_t* values;  ///< of its first row
  std::ptrdiff_t ld;
  int rows;               ///< that exist, of 16; none = the warp has nothing to do
  unsigned char* shared;  ///< [16][halves]
  int halves;             ///< from row to row there

  /// Puts columns [first, first + n), n a multiple of 16, into shared memory. Where some integer is beyond 2^11, all are
  /// without what they are modulo 32, and the answer is true.
  __device__ __forceinline__ bool load(int first, int n) const {
    const int row = static_cast<int>(threadIdx.x % 16), column = static_cast<int>(threadIdx.x % 32 / 16) * 8;
    __syncwarp();  // until no lane reads what was there before
    for (std::uint32_t keep = ~0u;; keep = 0xffe0ffe0u) {
      const std::int16_t* from = values + row * ld + first + column;
      unsigned char* to = shared + 2 * (row * halves + column);
      std::uint32_t all = 0;
      for (int i = 0; i < n; i += 16, from += 16, to += 32) {
        four_words v{};
        if (row < rows) v = *reinterpret_cast<const four_words*>(from);
        std::uint32_t spread = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) spread |= spread_of(v.w[j]);
        all |= spread;
        if ((spread & not_small) == 0) {
#pragma unroll
          for (int j = 0; j < 4; ++j) v.w[j] = small_halves_of(v.w[j] & keep);
        } else {
#pragma unroll
          for (int j = 0; j < 4; ++j) v.w[j] = halves_of(v.w[j] & keep);
        }
        *reinterpret_cast<four_words*>(to) = v;
      }
      __syncwarp();
      if (keep != ~0u) return true;
      if (!__any_sync(~0u, (all & not_half) != 0)) return false;
    }
  }
};

/// Begins to copy rows [128 * part, live) of a chunk, at most 128, to a stage. By all threads of a block.
__device__ __forceinline__ void fetch(const product_block& block, int chunk, int part, int live, std::uint32_t stage) {
  const int row = static_cast<int>(threadIdx.x / 8), piece = static_cast<int>(threadIdx.x % 8) * 16;
  const int first = part * stage_rows;
  const std::byte* from =
      block.basis + static_cast<std::size_t>(chunk) * chunk_bytes(block.ld) + 2 * chunk_columns * (first + row) + piece;
  std::uint32_t to = stage + static_cast<std::uint32_t>(2 * stage_ld * row + piece);
#pragma unroll
  for (int i = 0; i < stage_rows; i += 4 * store_warps) {
    if (first + row + i < live) ptx::copy_async(to + 2 * stage_ld * static_cast<unsigned>(i), from);
    from += 2 * chunk_columns * 4 * store_warps;
  }
  ptx::copy_commit();
}

/// Adds 16 rows times a stage of the basis, `steps` times 16 coefficients.
__device__ __forceinline__ void multiply(float (&sum)[8][4], std::uint32_t rows, std::uint32_t basis, int steps) {
#pragma unroll 2
  for (int k = 0; k < steps; ++k, rows += 32, basis += 32 * stage_ld) {
    std::uint32_t a[4];
    ptx::load_matrices(a, rows);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t b[4];
      ptx::load_matrices_transposed(b, basis + 32 * static_cast<unsigned>(j));
      ptx::multiply_add(sum[2 * j], a, b[0], b[1]);
      ptx::multiply_add(sum[2 * j + 1], a, b[2], b[3]);
    }
  }
}

/// The same for what slab::load() has left out of coefficients from `first` on; few rows are that wide, so these go
/// without shared memory.
__device__ __forceinline__ void multiply_rest(float (&sum)[8][4], const slab& s, int first, std::uint32_t basis,
                                              int steps) {
  const int row = static_cast<int>(threadIdx.x % 32 / 4);
  const std::int16_t* from = s.values + row * s.ld + first + 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll 1
  for (int k = 0; k < steps; ++k, from += 16, basis += 32 * stage_ld) {
    std::uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i] = 0;
      if (row + i % 2 * 8 >= s.rows) continue;
      const auto two = *reinterpret_cast<const std::uint32_t*>(from + i % 2 * 8 * s.ld + i / 2 * 8);
      a[i] = halves_of(two & 0x001f001fu);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t b[4];
      ptx::load_matrices_transposed(b, basis + 32 * static_cast<unsigned>(j));
      ptx::multiply_add(sum[2 * j], a, b[0], b[1]);
      ptx::multiply_add(sum[2 * j + 1], a, b[2], b[3]);
    }
  }
}

/// Adds what the symbols of a slab could not say to its sums; `row` is coefficient 0 of the chunk of the basis.
__device__ __forceinline__ void correct(float (&sum)[8][4], const strand& s, const std::byte* frame, int first,
                                        int rows, const std::byte* row) {
  const int own = static_cast<int>(threadIdx.x % 32 / 4);
  const std::byte* column = row + 4 * (threadIdx.x % 4);
  for_exceptions(s, frame, first, rows, [&](int at, int k, float value) {
    if (at % 8 != own) return;
    const auto* m = reinterpret_cast<const std::uint32_t*>(column + 2 * chunk_columns * k);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
      const float x = float_of_half(m[4 * j] & 0xffffu), y = float_of_half(m[4 * j] >> 16);
      if (at < 8)
        sum[j][0] += value * x, sum[j][1] += value * y;
      else
        sum[j][2] += value * x, sum[j][3] += value * y;
    }
  });
}

/// Two rows of sums to pages. `chunk`: coefficient 0 of the chunk of the basis, behind which the means stand.
__device__ __forceinline__ void put_sums(const float (&sum)[8][4], const product_block& block, const std::byte* chunk,
                                         const column_pair& c, const row_target* rows) {
  const float scale = block.scale;
  const page_target target = block.target;
  const auto* mean = reinterpret_cast<const float*>(chunk + 2 * chunk_columns * block.ld) + 16 * (threadIdx.x % 4);
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const row_target row = rows[threadIdx.x % 32 / 4 + 8 * static_cast<unsigned>(h)];
    if (!row.to) continue;
    float v[2][8];
#pragma unroll
    for (int i = 0; i < 16; ++i) v[i / 8][i % 8] = __fmaf_rn(sum[i / 2][2 * h + i % 2], scale, mean[i]);
    put_pair(target, c, row.to, row.table, v[0], v[1]);
  }
}

}  // namespace detail

/// Groups with a basis; a block a strand. `columns`: see store_plan. A template only so that the header may be included
/// anywhere.
template <int = 0>
__global__ void __maxnreg__(96) store_products(const decode_state d, const int columns) {
  const strand& s = d.strands[blockIdx.x];
  if (!is_shown(s)) return;
  const group_model& g = group_of(d.image, s.group);
  const int rows = s.rows(), ld = g.ld;
  if (g.basis_at == 0 || rows == 0) return;
  const open_request& r = d.requests[s.request];
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  unsigned char* shared = ptx::dynamic_shared();
  auto& block = *reinterpret_cast<detail::product_block*>(shared + 2 * stage_bytes);
  if (thread == 0) {
    block.target = target_of(r, s, g);
    block.basis = d.image + g.basis_at;
    block.runs = in_image<column_pair>(d.image, g.columns_at);
    block.ld = ld;
    block.scale = plane_of(d.image, g.layer, g.plane).scale * s.scale;
  }
  __syncthreads();

  const int live = ((s.live < g.width ? s.live : g.width) + 15) / 16 * 16;  // coefficients that are not all zero
  const int parts = live > stage_rows ? (live + stage_rows - 1) / stage_rows : 1, chunks = columns_of(d, g).chunks();
  const std::uint32_t stages = ptx::shared_address(shared);
  detail::slab slab;
  slab.ld = ld;
  slab.halves = slab_ld(columns);
  slab.shared = shared + 2 * stage_bytes + sizeof block + 2 * warp * slab_rows * slab.halves;
  const std::uint32_t a =
      ptx::shared_address(slab.shared) + 2 * static_cast<std::uint32_t>(lane % 16 * slab.halves + lane / 16 * 8);
  const std::uint32_t b = 2 * static_cast<std::uint32_t>(lane % 16 * stage_ld + lane / 16 * 8);

  detail::fetch(block, 0, 0, live, stages);
  int buffer = 0;
  for (int first = warp * slab_rows; first - warp * slab_rows < rows; first += store_warps * slab_rows) {
    slab.values = reinterpret_cast<const std::int16_t*>(d.workspace + s.values_at) + std::ptrdiff_t{first} * ld;
    slab.rows = first >= rows ? 0 : rows - first < slab_rows ? rows - first : slab_rows;
    bool exceptions = false, wide = false;
    if (slab.rows) {
      __syncwarp();  // until no lane reads where the rows before went
      if (lane < slab_rows) {
        detail::row_target row{};
        if (lane < slab.rows) {
          const int token = first_token(r, s) + coded_token(r.asked.frame, s, first + lane);
          const std::int64_t place = place_of(r, plane_of(r, g), token);
          if (place != no_place) row = {block.target.base + place, entries_of(d, r, rope_of(d, g), token)};
        }
        block.rows[warp][lane] = row;
      }
      exceptions = has_exceptions(s, r.asked.frame, first, slab.rows);
    }
    for (int chunk = 0; chunk < chunks; ++chunk) {
      float sum[8][4] = {};
      for (int part = 0; part < parts; ++part, buffer ^= 1) {
        ptx::copy_wait<0>();
        __syncthreads();  // the stage is here, and nobody reads the one before
        const std::uint32_t next = stages + static_cast<std::uint32_t>(stage_bytes) * static_cast<unsigned>(buffer ^ 1);
        const bool last_part = part + 1 == parts, last = last_part && chunk + 1 == chunks;
        if (!last || first - warp * slab_rows + store_warps * slab_rows < rows)
          detail::fetch(block, last ? 0 : chunk + last_part, last_part ? 0 : part + 1, live, next);
        if (slab.rows == 0) continue;
        const int k = part * stage_rows, n = live - k < stage_rows ? live - k : stage_rows;
        const bool resident = ld <= columns;
        if (!resident || chunk + part == 0) wide = slab.load(k, resident ? live : n);
        const std::uint32_t stage =
            stages + static_cast<std::uint32_t>(stage_bytes) * static_cast<unsigned>(buffer) + b;
        detail::multiply(sum, a + (resident ? 2 * static_cast<std::uint32_t>(k) : 0), stage, n / 16);
        if (wide) detail::multiply_rest(sum, slab, k, stage, n / 16);
      }
      if (slab.rows == 0) continue;
      const std::byte* rows_of_chunk = block.basis + static_cast<std::size_t>(chunk) * chunk_bytes(block.ld);
      if (exceptions) detail::correct(sum, s, r.asked.frame, first, slab.rows, rows_of_chunk);
      detail::put_sums(sum, block, rows_of_chunk, block.runs[chunk * chunk_pairs + lane % 4], block.rows[warp]);
    }
  }
}

/// What kernels need before the first launch, once for each device. Errors: cuda_error.
inline status allow_store(const store_plan& plan) { return allow_shared(store_products<>, plan.shared); }

/// Integers of all strands to pages, and their exact tokens. Errors: cuda_error.
inline status store_rows(const decode_state& d, const store_plan& plan, cudaStream_t stream) {
  if (const status s = launch(store_products<>, d.num_strands, 32 * store_warps, plan.shared, stream, d, plan.columns);
      s != status::ok)
    return s;
  if (const status s = store_floats<coefficient_source>(d, stream); s != status::ok) return s;
  return store_exact(d, stream);
}

}  // namespace sluice::cuda
