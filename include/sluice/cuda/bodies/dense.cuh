// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/quantize/ternary.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/ptx.cuh>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/rotate.hpp>
#include <sluice/tensor/rows.hpp>

#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

// The float side of the codec on a GPU: the host's bodies with a lane as a column, under thin kernels. A warp works on
// a row or on a tile of rows; block sizes are multiples of 32. Engine memory is aligned to its elements.

#pragma push_macro("SLUICE_BODY_FN")
#pragma push_macro("SLUICE_UNROLL")
#undef SLUICE_BODY_FN
#undef SLUICE_UNROLL
#define SLUICE_BODY_FN __device__ __forceinline__
#if defined(__CUDA_ARCH__)
#define SLUICE_UNROLL _Pragma("unroll")
#else
#define SLUICE_UNROLL
#endif
#define SLUICE_TARGET_CUDA 1

namespace sluice::cuda {

#include <sluice/warp/floats.inl>

#include <sluice/codec/quantize/ternary_body.inl>
#include <sluice/codec/transform/product_body.inl>
#include <sluice/tensor/rotate_body.inl>
#include <sluice/tensor/rows_body.inl>

}  // namespace sluice::cuda

#undef SLUICE_TARGET_CUDA
#pragma pop_macro("SLUICE_UNROLL")
#pragma pop_macro("SLUICE_BODY_FN")

namespace sluice::cuda {

__device__ inline int warp_in_grid() { return static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32); }
__device__ inline int warp_in_block() { return static_cast<int>(threadIdx.x / 32); }
__device__ inline int warps_in_block() { return static_cast<int>(blockDim.x / 32); }

/// detail::load_rows; a warp per row.
template <dtype T>
__global__ void load_rows_kernel(const std::byte* base, detail::row_layout at, int rows, float* to, std::ptrdiff_t ld,
                                 std::uint8_t* not_finite_rows) {
  const int r = warp_in_grid();
  if (r >= rows) return;
  const std::byte* row = base + at.offsets[r] + at.first_head * at.head_stride;
  bool bad = false;
  for (int h = 0; h < at.num_heads; ++h) {
    const std::byte* head = row + h * at.head_stride;
    float* out = to + r * ld + std::ptrdiff_t{h} * at.head_dim;
    if (at.element_stride == size_of(T)) {
      bad |= load_run<T>(head, at.head_dim, out);
    } else {
      floats::mask apart = floats::none();
      for (int d = floats::lane(); d < at.head_dim; d += floats::width) {
        out[d] = load_element(head + d * at.element_stride, T);
        apart = floats::either(apart, not_finite(out[d]));
      }
      bad |= floats::any(apart);
    }
  }
  if (bad && not_finite_rows) raise(not_finite_rows + r);
}

template <dtype T, bool Finite>
__device__ __forceinline__ void store_heads(const float* from, std::byte* row, const detail::row_layout& at) {
  for (int h = 0; h < at.num_heads; ++h) {
    std::byte* head = row + h * at.head_stride;
    const float* in = from + std::ptrdiff_t{h} * at.head_dim;
    if (at.element_stride == size_of(T))
      store_run<T, Finite>(in, at.head_dim, head);
    else
      for (int d = floats::lane(); d < at.head_dim; d += floats::width)
        store_element(head + d * at.element_stride, T, within_f16<Finite>(in[d]));
  }
}

/// detail::store_rows; a warp per row.
template <dtype T>
__global__ void store_rows_kernel(const float* from, std::ptrdiff_t ld, int rows, std::byte* base,
                                  detail::row_layout at) {
  const int r = warp_in_grid();
  if (r >= rows) return;
  std::byte* row = base + at.offsets[r] + at.first_head * at.head_stride;
  if constexpr (T == dtype::f16)
    if (at.finite) return store_heads<T, true>(from + r * ld, row, at);
  store_heads<T, false>(from + r * ld, row, at);
}

/// detail::rotate_rows; a warp per row.
template <rope_pairing Pairing>
__global__ void rotate_rows_kernel(float* x, std::ptrdiff_t ldx, int rows, int heads, int head_dim, int rotary_dims,
                                   const float* cosine, const float* sine, std::ptrdiff_t ldt) {
  const int r = warp_in_grid();
  if (r >= rows) return;
  for (int h = 0; h < heads; ++h)
    rotate_head<Pairing == rope_pairing::half>(x + r * ldx + std::ptrdiff_t{h} * head_dim, rotary_dims / 2,
                                               cosine + r * ldt, sine + r * ldt);
}

inline constexpr int dense_tile_rows = 8, dense_tile_vectors = 2;

/// Dynamic shared memory of the two products; `inner` is k for the inverse, n for the forward one.
constexpr std::size_t dense_shared_bytes(int inner) noexcept {
  return sizeof(float) * dense_tile_rows * static_cast<std::size_t>(detail::dense_round_up(inner));
}
/// Largest `inner` of a kernel that has not been given more shared memory by allow_shared().
inline constexpr int dense_most_inner = 49152 / (sizeof(float) * dense_tile_rows);
/// Largest `inner` of one that has.
inline constexpr int dense_most_inner_allowed = max_shared_sm80 / (sizeof(float) * dense_tile_rows);

struct f16_columns {  // of a row-major matrix, from its first column on
  const std::uint16_t* m;
  std::ptrdiff_t ld;
  int columns;
  __device__ __forceinline__ floats::vec operator()(int k, int j) const {
    const int at = j * floats::width;
    return floats::load_f16(m + k * ld + at, columns - at);
  }
};

struct f32_columns {
  const float* m;
  std::ptrdiff_t ld;
  int columns;
  __device__ __forceinline__ floats::vec operator()(int k, int j) const {
    const int at = j * floats::width;
    return floats::load(m + k * ld + at, columns - at);
  }
};

/// detail::inverse_transform; a block per dense_tile_rows rows, dense_shared_bytes(k) of shared memory. Corrections are
/// added in their order, whatever order threads come in.
/// A template only so that the header may be included anywhere.
template <int Rows = dense_tile_rows, int Vectors = dense_tile_vectors>
__global__ void __launch_bounds__(256) inverse_transform_kernel(detail::inverse_job job) {
  auto* const left = reinterpret_cast<float*>(ptx::dynamic_shared());
  const int r0 = static_cast<int>(blockIdx.x) * Rows, rows = job.rows - r0 < Rows ? job.rows - r0 : Rows;
  const int n = job.n, k = job.k, lda = detail::dense_round_up(k);
  for (int r = warp_in_block(); r < Rows; r += warps_in_block())
    widen_row(job.c + (r0 + r) * job.ldc, r < rows ? k : 0, left + r * lda);
  __syncwarp();
  for (std::size_t i = 0; i < job.num_corrections; ++i) {  // each row belongs to one warp, each column to one lane
    const detail::coefficient_correction e = job.corrections[i];
    if (e.row >= r0 && e.row < r0 + rows && (e.row - r0) % warps_in_block() == warp_in_block() && e.coefficient >= 0 &&
        e.coefficient < k && e.coefficient % floats::width == floats::lane())
      left[(e.row - r0) * lda + e.coefficient] += e.value;
  }
  __syncthreads();
  constexpr int panel = Vectors * floats::width;
  for (int c0 = warp_in_block() * panel; c0 < n; c0 += warps_in_block() * panel)
    multiply_tile<Rows, Vectors>(
        left, lda, k, f16_columns{job.matrix + c0, n, n - c0},
        reconstruct_sink{job.x + r0 * job.ldx + c0, job.ldx, job.mean ? job.mean + c0 : nullptr, job.scale, rows,
                         n - c0, job.row_scale ? job.row_scale + r0 : nullptr});
  __syncthreads();
  for (std::size_t i = 0; i < job.num_corrections; ++i) {
    const detail::coefficient_correction e = job.corrections[i];
    if (e.row >= r0 && e.row < r0 + rows && (e.row - r0) % warps_in_block() == warp_in_block() && e.coefficient >= k &&
        e.coefficient < job.matrix_rows)
      add_scaled_row(job.x + e.row * job.ldx, job.scale * (job.row_scale ? job.row_scale[e.row] : 1.0f) * e.value,
                     job.matrix + std::ptrdiff_t{e.coefficient} * n, n);
  }
}

/// detail::forward_transform; a block per dense_tile_rows rows, dense_shared_bytes(n) of shared memory.
template <int Rows = dense_tile_rows, int Vectors = dense_tile_vectors>
__global__ void __launch_bounds__(256) forward_transform_kernel(detail::forward_job job) {
  auto* const left = reinterpret_cast<float*>(ptx::dynamic_shared());
  const int r0 = static_cast<int>(blockIdx.x) * Rows, rows = job.rows - r0 < Rows ? job.rows - r0 : Rows;
  const int n = job.n, k = job.k, lda = detail::dense_round_up(n);
  for (int r = warp_in_block(); r < Rows; r += warps_in_block())
    centre_row(job.x + (r0 + r) * job.ldx, job.mean, job.row_scale && r < rows ? job.row_scale[r0 + r] : 1.0f,
               r < rows ? n : 0, left + r * lda);
  __syncthreads();
  constexpr int panel = Vectors * floats::width;
  for (int c0 = warp_in_block() * panel; c0 < k; c0 += warps_in_block() * panel)
    multiply_tile<Rows, Vectors>(
        left, lda, n, f32_columns{job.matrix + c0, job.ldm, k - c0},
        quantize_sink{job.c + r0 * job.ldc + c0, job.ldc, job.beyond ? job.beyond + r0 : nullptr, rows, k - c0});
}

/// detail::dequantize_rows; a warp per row.
template <class = void>
__global__ void dequantize_rows_kernel(const std::int16_t* c, std::ptrdiff_t ldc, int rows, int k, float step,
                                       const float* mean, int n, float* x, std::ptrdiff_t ldx) {
  const int r = warp_in_grid();
  if (r < rows) dequantize_row(c + r * ldc, k, step, mean, n, x + r * ldx);
}

/// detail::quantize_rows; a warp per row.
template <class = void>
__global__ void quantize_rows_kernel(const float* x, std::ptrdiff_t ldx, int rows, const float* mean,
                                     float inverse_step, int n, std::int16_t* c, std::ptrdiff_t ldc,
                                     std::uint8_t* beyond) {
  const int r = warp_in_grid();
  if (r < rows && quantize_row(x + r * ldx, mean, inverse_step, n, c + r * ldc) && beyond) raise(beyond + r);
}

/// detail::split_levels of one step; a warp per 1,024 values.
template <class Digit>
__global__ void split3_kernel(const std::int16_t* f, std::int16_t* c, Digit* r, int count) {
  const int at = warp_in_grid() * 1024;
  if (at < count) split3_run(f + at, c + at, r + at, count - at < 1024 ? count - at : 1024);
}

}  // namespace sluice::cuda
