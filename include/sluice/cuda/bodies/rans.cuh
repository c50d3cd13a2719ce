// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/rans.hpp>
#include <sluice/cuda/bodies/warp.cuh>
#include <sluice/cuda/ptx.cuh>

#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

// The coder on a GPU: the host's body on cuda::warp, a warp a code, its tables in shared memory.

#pragma push_macro("SLUICE_BODY_FN")
#pragma push_macro("SLUICE_BODY_INLINE")
#undef SLUICE_BODY_FN
#undef SLUICE_BODY_INLINE
#define SLUICE_BODY_FN __device__ __forceinline__
#define SLUICE_BODY_INLINE __device__ __forceinline__
#define SLUICE_TARGET_CUDA 1

namespace sluice::cuda {

#include <sluice/codec/rans/rans_body.inl>

}  // namespace sluice::cuda

#undef SLUICE_TARGET_CUDA
#pragma pop_macro("SLUICE_BODY_INLINE")
#pragma pop_macro("SLUICE_BODY_FN")

namespace sluice::cuda {

/// Shared memory for the plans of a block of threads. Rows are those of the largest tables that will come by.
struct plan_memory {
  std::uint32_t bytes = 0;  ///< of one plan, a multiple of 16
  std::uint32_t rows = 0;

  constexpr std::size_t of_block(int warps) const noexcept {
    return std::size_t{bytes} * static_cast<std::size_t>(warps);
  }
};

/// Rows that a table takes in a decoder's plan.
constexpr int decode_rows(alphabet a, std::span<const base_block> tables) noexcept {
  int rows = 0;
  for (const base_block& b : tables) {
    const int n = b.symbols - 1;
    rows += n <= 0 && a == alphabet::values ? 1 : n <= 1 ? 2 : n <= 3 ? 4 : n <= 7 ? 8 : 16;
    rows += a == alphabet::values ? 6 * b.digits : 0;
  }
  return rows;
}
constexpr int decode_rows(std::span<const ternary_block> tables) noexcept {
  return 6 * static_cast<int>(tables.size());
}

/// Rows that a table takes in an encoder's plan.
constexpr int encode_rows(alphabet a, std::span<const base_block> tables) noexcept {
  int rows = 0;
  for (const base_block& b : tables) rows += b.symbols + (a == alphabet::values ? 6 * b.digits : 0);
  return rows;
}
constexpr int encode_rows(std::span<const ternary_block> tables) noexcept {
  return 6 * static_cast<int>(tables.size());
}

template <class Plan>
constexpr plan_memory plan_of(int rows) noexcept {
  constexpr std::size_t row = sizeof(Plan{}.rows[0]), fixed = sizeof(Plan) - sizeof(Plan{}.rows);
  const std::size_t bytes = fixed + static_cast<std::size_t>(rows) * row;
  return {static_cast<std::uint32_t>((bytes + 15) / 16 * 16), static_cast<std::uint32_t>(rows)};
}
/// Shared memory that decode_kernel<A> needs for tables of so many rows.
template <alphabet A>
constexpr plan_memory decode_memory(int rows) noexcept {
  return plan_of<rans::decode_plan<A>>(rows);
}
/// Shared memory that encode_kernel<A> needs for tables of so many rows.
template <alphabet A>
constexpr plan_memory encode_memory(int rows) noexcept {
  return plan_of<rans::encode_plan<A>>(rows);
}

/// The plan that a warp works by, in its part of the block's memory.
template <class Plan>
__device__ __forceinline__ Plan& shared_plan(const plan_memory& m) {
  return *reinterpret_cast<Plan*>(ptx::dynamic_shared() + threadIdx.x / 32 * m.bytes);
}

/// detail::decode_codes, a warp a job; blocks of whole warps, m.of_block(warps) bytes of dynamic shared memory.
template <alphabet A>
__global__ void decode_kernel(decode_job* jobs, int count, plan_memory m) {
  const warp w = warp::make();
  const int mine = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  if (mine >= count) return;
  const decode_job job = jobs[mine];
  auto& plan = shared_plan<rans::decode_plan<A>>(m);
  const int rows = static_cast<int>(m.rows);
  bool ok = false;
  rans::decode_cursor<A> c;
  if (rans::make_plan(w, plan, run_of(job, 0).tables, job.blocks, rows) &&
      rans::decode_begin(w, c, job, plan, nullptr)) {
    do
      for (; c.steps > 0; --c.steps) rans::decode_step(w, c);
    while (rans::decode_more(w, c, job, plan, rows));
    ok = rans::decode_end(w, c, job);
  }
  w.sync();  // others may still read the job
  if (w.leads()) jobs[mine].ok = ok;
}

/// detail::encode_codes, a warp a job; memory as for decode_kernel.
template <alphabet A>
__global__ void encode_kernel(encode_job* jobs, int count, plan_memory m) {
  const warp w = warp::make();
  const int mine = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / 32);
  if (mine >= count) return;
  encode_job job = jobs[mine];
  rans::encode_stream(w, job, shared_plan<rans::encode_plan<A>>(m), static_cast<int>(m.rows));
  w.sync();
  if (w.leads()) {
    jobs[mine].bytes = job.bytes;
    jobs[mine].size = job.size;
    jobs[mine].ok = job.ok;
  }
}

}  // namespace sluice::cuda
