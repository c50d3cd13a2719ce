// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/convert.cuh>
#include <sluice/cuda/entropy/row_steps.cuh>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/ptx.cuh>
#include <sluice/cuda/store/basis.hpp>
#include <sluice/cuda/store/exact.cuh>
#include <sluice/cuda/store/pages.cuh>
#include <sluice/cuda/store/plain.cuh>
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
  const cuda::strand* strand;
  const open_request* request;
  const plane_view* plane;
  const rope_model* rope;
  page_target target;
  const std::byte* basis;
  const column_pair* runs;
  const std::int16_t* values;
  std::int32_t rows;
  std::int32_t ld;      ///< of values and basis
  std::uint32_t chunk;  ///< bytes of one of the basis
  std::uint32_t skip;   ///< from the last stage of a chunk to the first of the next
  std::int32_t live;    ///< coefficients that are not all zero, whole steps of 16
  std::int32_t parts;   ///< stages of a chunk
  std::int32_t chunks;
  std::int32_t partner;  ///< bytes from a run to the one that it turns with, where elements adjoin
  float scale;
  row_target places[store_warps][slab_rows];
  float row_scales[store_warps][slab_rows];  ///< where rows have steps of their own
  bool exceptions[store_warps];              ///< of the rows of a warp
  bool whole[store_warps];                   ///< all rows begin where runs of eight elements of 16 bits may
  bool wide[store_warps];                    ///< coefficients beyond 2^11 among them
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

/// Finds the places of rows [first, first + rows), at most 16, and whether some have exceptions. By a whole warp.
template <bool Steps>
__device__ __forceinline__ void find_rows(const decode_state& d, product_block& block, int first, int rows, int warp) {
  const cuda::strand& s = *in_global(block.strand);
  const open_request& r = *in_global(block.request);
  const int lane = static_cast<int>(threadIdx.x % 32);
  __syncwarp();  // until no lane reads where the rows before went
  bool whole = block.target.size == 2 && (block.target.head_stride & block.target.unaligned) == 0;
  if (lane < slab_rows) {
    row_target place{};
    if (lane < rows) {
      const int token = first_token(r, s) + coded_token(r.asked.frame, s, first + lane);
      const std::int64_t at = place_of(r, *in_global(block.plane), token);
      if (at != no_place) place = {block.target.base + at, entries_of(d, r, block.rope, token)};
    }
    whole &= (reinterpret_cast<std::uintptr_t>(place.to) & block.target.unaligned) == 0 &&
             reinterpret_cast<std::uintptr_t>(place.table) % alignof(four_floats) == 0;
    block.places[warp][lane] = place;
    if constexpr (Steps) {
      const auto* frame = reinterpret_cast<const std::uint8_t*>(r.asked.frame);
      if (lane < rows) block.row_scales[warp][lane] = steps_of(frame, s.steps).scale(first + lane);
    }
  }
  whole = __all_sync(~0u, whole);
  const bool exceptions = has_exceptions(s, r.asked.frame, first, rows);
  if (lane == 0) block.exceptions[warp] = exceptions, block.whole[warp] = whole;
  __syncwarp();
}

/// Puts `n` columns, a multiple of 16, of `rows` rows, at most 16, into a slab. Where some integer is
/// beyond 2^11, all are without what they are modulo 32, and the answer is true. By a whole warp.
__device__ __forceinline__ bool load_slab(const std::int16_t* values, int ld, int rows, int n, unsigned char* slab,
                                          int halves) {
  const int row = static_cast<int>(threadIdx.x % 16), column = static_cast<int>(threadIdx.x % 32 / 16) * 8;
  values += std::ptrdiff_t{row} * ld + column;
  slab += 2 * (row * halves + column);
  __syncwarp();  // until no lane reads what was there before
  for (std::uint32_t keep = ~0u;; keep = 0xffe0ffe0u) {
    const std::int16_t* from = values;
    std::uint32_t all = 0;
    for (int i = 0; i < n; i += 16, from += 16) {
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
      *reinterpret_cast<four_words*>(slab + 2 * i) = v;
    }
    __syncwarp();
    if (keep != ~0u) return true;
    if (!__any_sync(~0u, (all & not_half) != 0)) return false;
  }
}

/// Begins to copy rows of the basis from 128 * part on, at most 128, to a stage; `at`: where they are, bytes from the
/// first chunk. By all threads of a block.
__device__ __forceinline__ void fetch(const product_block& block, std::uint32_t at, int part, std::uint32_t stage) {
  constexpr int rows_at_once = 4 * store_warps;
  const int row = static_cast<int>(threadIdx.x / 8), left = block.live - part * stage_rows - row;
  const std::byte* from = in_global(block.basis) + at + 16 * threadIdx.x;  // 8 threads a row
  const std::uint32_t to = stage + 2 * stage_ld * static_cast<unsigned>(row) + 16 * (threadIdx.x % 8);
  const auto copy = [&](int i) {
    ptx::copy_async(to + 2 * stage_ld * static_cast<unsigned>(i), from + 2 * chunk_columns * i);
  };
  if (left + row >= stage_rows) {  // what most stages are
#pragma unroll
    for (int i = 0; i < stage_rows; i += rows_at_once) copy(i);
  } else {
#pragma unroll 1
    for (int i = 0; i < left; i += rows_at_once) copy(i);
  }
  ptx::copy_commit();
}

/// Adds 16 rows times a stage of the basis, `steps` times 16 coefficients.
__device__ __forceinline__ void multiply(float (&sum)[8][4], std::uint32_t rows, std::uint32_t basis, unsigned steps) {
#pragma unroll 8
  for (unsigned k = 0; k < steps; ++k, rows += 32, basis += 32 * stage_ld) {
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

/// The same for what load_slab() has left out of `rows` rows; few are that wide, so these go without shared memory.
__device__ __forceinline__ void multiply_rest(float (&sum)[8][4], const std::int16_t* values, int ld, int rows,
                                              std::uint32_t basis, unsigned steps) {
  const int row = static_cast<int>(threadIdx.x % 32 / 4);
  const std::int16_t* from = values + std::ptrdiff_t{row} * ld + 2 * static_cast<int>(threadIdx.x % 4);
#pragma unroll 1
  for (unsigned k = 0; k < steps; ++k, from += 16, basis += 32 * stage_ld) {
    std::uint32_t a[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[i] = 0;
      if (row + i % 2 * 8 >= rows) continue;
      const auto two = *reinterpret_cast<const std::uint32_t*>(from + i % 2 * 8 * ld + i / 2 * 8);
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

/// Coefficient 0 of a chunk of the basis.
__device__ __forceinline__ const std::byte* chunk_of(const product_block& block, int chunk) {
  return in_global(block.basis) + static_cast<unsigned>(chunk) * block.chunk;
}

/// Adds what the symbols of rows from `first` on could not say to their sums in a chunk.
__device__ __forceinline__ void correct(float (&sum)[8][4], const product_block& block, int first, int rows,
                                        int chunk) {
  const int own = static_cast<int>(threadIdx.x % 32 / 4);
  const std::byte* column = chunk_of(block, chunk) + 4 * (threadIdx.x % 4);
  for_exceptions(*block.strand, block.request->asked.frame, first, rows, [&](int at, int k, float value) {
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

/// What a run is but for its place: channels and turn.
__device__ __forceinline__ unsigned kind_of(const column_run& r) {
  return r.count | static_cast<unsigned>(r.turn) << 8;
}

/// The runs that a lane has in a chunk.
__device__ __forceinline__ column_pair pair_of(const product_block& block, int chunk) {
  const auto* runs = reinterpret_cast<const four_words*>(in_global(block.runs));  // in one load
  return __builtin_bit_cast(column_pair, runs[static_cast<unsigned>(chunk * chunk_pairs) + threadIdx.x % 4]);
}

/// Two rows of sums to pages.
template <bool Steps>
__device__ __forceinline__ void put_sums(const float (&sum)[8][4], const product_block& block, int chunk) {
  const unsigned lane = threadIdx.x % 32;
  const column_pair c = pair_of(block, chunk);
  const std::byte* means = chunk_of(block, chunk) + (block.chunk - sizeof(float) * chunk_columns);
  const auto* mean = reinterpret_cast<const four_floats*>(means) + 4 * (lane % 4);
  const row_target* places = block.places[threadIdx.x / 32] + lane / 4;

  float v[2][8];
  const auto values = [&](int h) {
    float scale = block.scale;
    if constexpr (Steps) scale *= block.row_scales[threadIdx.x / 32][lane / 4 + static_cast<unsigned>(8 * h)];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const four_floats m = mean[i];
#pragma unroll
      for (int j = 0; j < 4; ++j) v[i / 2][i % 2 * 4 + j] = __fmaf_rn(sum[2 * i + j / 2][2 * h + j % 2], scale, m.v[j]);
    }
  };
  const bool whole = block.whole[threadIdx.x / 32] && (c.run[0].dim | c.run[1].dim) % 8 == 0;
  constexpr unsigned plain = 8, halves = 8 | static_cast<unsigned>(column_turn::halves) << 8;
  const unsigned kind = kind_of(c.run[0]);
  // What most keys and most values are stands alone: no register is two things, nothing is asked twice.
  if (whole && kind == halves && kind_of(c.run[1]) == halves) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (!places[8 * h].table) continue;
      values(h);
      turn_whole(in_global(places[8 * h].table) + c.run[0].pair, v[0], v[1]);
      std::byte* to = in_global(places[8 * h].to) + block.target.offset(c.run[0]);
      put_whole(block.target.type, to, to + block.partner, v[0], v[1]);
    }
  } else if (whole && kind == plain && kind_of(c.run[1]) == plain) {
    const pair_offsets at = offsets_of(block.target, c);
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      std::byte* to = places[8 * h].to;
      if (!to) continue;
      values(h);
      put_whole(block.target.type, in_global(to) + at.run[0], in_global(to) + at.run[1], v[0], v[1]);
    }
  } else {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      if (!places[8 * h].to) continue;
      values(h);
      const column_pair own = pair_of(block, chunk);  // again, rather than in registers meanwhile
      put_pair(block.target, own, offsets_of(block.target, own), in_global(places[8 * h].to), places[8 * h].table, v[0],
               v[1]);
    }
  }
}

}  // namespace detail

/// Groups with a basis; a block a strand. `columns`: see store_plan. Steps: whether rows have their own.
template <bool Steps>
__global__ void __maxnreg__(96) store_products(const decode_state d, const int columns) {
  const strand& s = d.strands[blockIdx.x];
  if (!is_shown(s)) return;
  const group_model& g = group_of(d.image, s.group);
  if (g.basis_at == 0 || s.rows() == 0) return;
  const open_request& r = d.requests[s.request];
  unsigned char* shared = ptx::dynamic_shared();
  auto& block = *reinterpret_cast<detail::product_block*>(shared + 2 * stage_bytes);
  if (threadIdx.x == 0) {
    block.strand = &s, block.request = &r;
    block.plane = &plane_of(r, g), block.rope = rope_of(d, g);
    block.target = target_of(r, s, g);
    block.basis = d.image + g.basis_at;
    block.runs = in_image<column_pair>(d.image, g.columns_at);
    block.values = reinterpret_cast<const std::int16_t*>(d.workspace + s.values_at);
    block.rows = s.rows();
    block.ld = g.ld;
    block.chunk = static_cast<std::uint32_t>(chunk_bytes(g.ld));
    block.live = ((s.live < g.width ? s.live : g.width) + 15) / 16 * 16;
    block.parts = block.live > stage_rows ? (block.live + stage_rows - 1) / stage_rows : 1;
    block.skip = block.chunk - static_cast<std::uint32_t>((block.parts - 1) * 2 * chunk_columns * stage_rows);
    block.chunks = columns_of(d, g).chunks();
    block.partner = block.rope ? block.rope->pairs * block.target.size : 0;
    block.scale = plane_of(d.image, g.layer, g.plane).scale * s.scale;
  }
  __syncthreads();
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32);
  const int halves = slab_ld(columns);
  unsigned char* slab = shared + 2 * stage_bytes + sizeof block + 2 * warp * slab_rows * halves;
  const std::uint32_t stages = ptx::shared_address(shared);
  detail::fetch(block, 0, 0, stages);
  std::uint32_t at = 0;     // of the stage on its way
  std::uint32_t stage = 0;  // bytes from the first
  for (int first = warp * slab_rows; first - warp * slab_rows < block.rows; first += store_warps * slab_rows) {
    const int rows = max(0, min(slab_rows, block.rows - first));
    if (rows) detail::find_rows<Steps>(d, block, first, rows, warp);
    for (int chunk = 0; chunk < block.chunks; ++chunk) {
      float sum[8][4] = {};
      for (int part = 0; part < block.parts; ++part, stage ^= static_cast<std::uint32_t>(stage_bytes)) {
        ptx::copy_wait<0>();
        __syncthreads();  // the stage is here, and nobody reads the one before
        const bool last_part = part + 1 == block.parts;
        at += last_part ? block.skip : 2 * chunk_columns * stage_rows;
        if (last_part && chunk + 1 == block.chunks) at = 0;
        if (!last_part || chunk + 1 < block.chunks || first - warp * slab_rows + store_warps * slab_rows < block.rows)
          detail::fetch(block, at, last_part ? 0 : part + 1,
                        stages + (stage ^ static_cast<std::uint32_t>(stage_bytes)));
        if (rows == 0) continue;
        const int k = part * stage_rows, n = block.live - k < stage_rows ? block.live - k : stage_rows;
        const bool resident = block.ld <= columns;
        const auto values = [&](int column) {
          return in_global(block.values) + std::ptrdiff_t{first} * block.ld + column;
        };
        if (!resident || chunk + part == 0) {
          const bool wide =
              detail::load_slab(values(resident ? 0 : k), block.ld, rows, resident ? block.live : n, slab, halves);
          if (lane == 0) block.wide[warp] = wide;
          __syncwarp();
        }
        const unsigned steps = static_cast<unsigned>(n) / 16;
        const std::uint32_t basis =
            stages + stage + 2 * static_cast<std::uint32_t>(lane % 16 * stage_ld + lane / 16 * 8);
        detail::multiply(sum,
                         ptx::shared_address(slab) +
                             2 * static_cast<std::uint32_t>(lane % 16 * halves + lane / 16 * 8 + (resident ? k : 0)),
                         basis, steps);
        if (block.wide[warp]) detail::multiply_rest(sum, values(k), block.ld, rows, basis, steps);
      }
      if (rows == 0) continue;
      if (block.exceptions[warp]) {
        detail::correct(sum, block, first, rows, chunk);
        __syncwarp();
      }
      detail::put_sums<Steps>(sum, block, chunk);
    }
  }
}

/// What kernels need before the first launch, once for each device. Errors: cuda_error.
template <bool Steps = false>
status allow_store(const store_plan& plan) {
  return allow_shared(store_products<Steps>, plan.shared);
}

/// Integers of all strands to pages, and their exact tokens. Errors: cuda_error.
template <bool Steps = false>
status store_rows(const decode_state& d, const store_plan& plan, cudaStream_t stream) {
  if (const status s =
          launch(store_products<Steps>, d.num_strands, 32 * store_warps, plan.shared, stream, d, plan.columns);
      s != status::ok)
    return s;
  if (const status s = store_floats<coefficient_source>(d, stream); s != status::ok) return s;
  return store_exact(d, stream);
}

}  // namespace sluice::cuda
