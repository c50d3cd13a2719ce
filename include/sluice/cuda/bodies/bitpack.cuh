// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/bitpack/bitpack.hpp>
#include <sluice/cuda/bodies/dense.cuh>

#include <cstdint>

// Fixed-width codes on a GPU: the host's bodies with a lane as a thread. A warp packs or unpacks one item, eight rows of
// one block of 32 lanes; block sizes are multiples of 32. The pointers of a job are the device's.

#pragma push_macro("SLUICE_BODY_FN")
#undef SLUICE_BODY_FN
#define SLUICE_BODY_FN __device__ __forceinline__
#define SLUICE_TARGET_CUDA 1

namespace sluice::cuda {

using detail::bitpack_job;
using detail::group_scale;

#include <sluice/codec/entropy/bitpack/bitpack_body.inl>

}  // namespace sluice::cuda

#undef SLUICE_TARGET_CUDA
#pragma pop_macro("SLUICE_BODY_FN")

namespace sluice::cuda {

/// Warps that a bitpack kernel wants.
SLUICE_HD constexpr std::int64_t bitpack_items(const detail::bitpack_job& job) noexcept {
  return (std::int64_t{job.rows} + 7) / 8 * job.blocks;
}

enum class bitpack_task : std::uint8_t { pack, unpack, quantize, dequantize };

/// What pack_bits, unpack_bits, quantize_groups (its codes) and dequantize_groups do; a warp per item.
template <bitpack_task Task, int Width>
__global__ void __launch_bounds__(256) bitpack_kernel(detail::bitpack_job job) {
  const int item = warp_in_grid();
  if (item >= bitpack_items(job)) return;
  const int row = item / job.blocks * 8, block = item % job.blocks;
  if constexpr (Task == bitpack_task::pack) packing::pack_codes<Width>(job, job.values, row, block);
  if constexpr (Task == bitpack_task::unpack) packing::unpack_codes<Width>(job, job.values, row, block);
  if constexpr (Task == bitpack_task::quantize) packing::quantize_codes<Width>(job, row, block);
  if constexpr (Task == bitpack_task::dequantize) packing::dequantize_codes<Width>(job, row, block);
}

/// Steps and zeros, before the codes of quantize_groups; a warp per row group and block. Sets *refused where a range
/// does not fit f16. A template only so that the header may be included anywhere.
template <int = 0>
__global__ void __launch_bounds__(256) measure_groups_kernel(detail::bitpack_job job, int levels, int* refused) {
  const int item = warp_in_grid();
  if (job.blocks <= 0) return;
  const std::int64_t row = std::int64_t{item / job.blocks} * job.group_rows;
  if (row >= job.rows) return;
  if (!packing::measure_group(job, levels, static_cast<int>(row), item % job.blocks)) atomicOr(refused, 1);
}

}  // namespace sluice::cuda
