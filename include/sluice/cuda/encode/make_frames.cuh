// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/encode/encode_classes.cuh>
#include <sluice/cuda/encode/encode_rans.cuh>
#include <sluice/cuda/encode/encode_work.hpp>
#include <sluice/cuda/encode/frames.cuh>
#include <sluice/cuda/encode/tiles.cuh>
#include <sluice/cuda/launch.cuh>
#include <sluice/status.hpp>

#include <cuda_runtime.h>

#include <cstdint>

// From finest integers to frames: the launches of an encode after its forward stage.

namespace sluice::cuda {

/// Lets the kernels have the shared memory that they want; once for each device, before the first encode and outside of
/// a capture. Errors: cuda_error.
inline status prepare_encode() { return allow_shared(encode_codes_kernel<>, encode_codes_shared); }

/// Makes frames of integers; `job` was filled by place_encode_job(). Nothing is waited for. Errors: cuda_error; what
/// became of each request is said in its `out`.
inline status make_frames_async(const code_job& job, cudaStream_t stream) {
  const auto groups = [](std::int64_t items, int each) { return (items + each - 1) / each; };
  const std::int64_t strands = job.in.num_strands, requests = job.in.num_requests;
  status s =
      launch(choose_classes_kernel<>, strands * job.max_blocks, 32, detail::encoding::histogram_bytes, stream, job);
  if (s == status::ok) s = launch(plan_codes_kernel<>, strands, 32, 0, stream, job);
  if (s == status::ok)
    s = launch(encode_codes_kernel<>,
               groups(encode_codes_items(job.in.num_strands, job.max_parts, job.passes), encode_codes_warps),
               32 * encode_codes_warps, encode_codes_shared, stream, job);
  if (s == status::ok)
    s = launch(tile_sizes_kernel<>, groups(strands, encode_sizes_threads), encode_sizes_threads, 0, stream, job);
  if (s == status::ok) s = launch(place_tiles_kernel<>, requests, detail::encoding::place_threads, 0, stream, job);
  if (s == status::ok) s = launch(write_tiles_kernel<>, strands * job.passes, 32, 0, stream, job);
  if (s == status::ok) s = launch(seal_frames_kernel<>, requests, 32, 0, stream, job);
  return s;
}

}  // namespace sluice::cuda
