// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/entropy/integer_stages.cuh>
#include <sluice/cuda/image.hpp>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/open/open.cuh>
#include <sluice/cuda/open/report.cuh>
#include <sluice/cuda/stages.cuh>
#include <sluice/cuda/strand.hpp>
#include <sluice/cuda/workspace.hpp>
#include <sluice/status.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

// Frames to pages on a device, without a word to the host in between:
//   cuda::model<codec::standard> packed(profile);           // once for a profile; copy packed.image() to the device
//   const auto model = packed.at(copy, cuda::limits_of_device().value());
//   cuda::init(model);                                      // once for a device
//   cuda::decode_workspace_bytes(model, requests);          // memory of the caller's, used again from call to call
//   cuda::decode_async(model, requests, workspace, bytes, stream);
// Other presets than the default one have their kernels in cuda/presets.cuh.

namespace sluice::cuda {

/// Asks the runtime what the current device has. Errors: cuda_error.
inline result<device_limits> limits_of_device() {
  int device = 0, block = 0, multiprocessor = 0;
  if (cudaGetDevice(&device) != cudaSuccess ||
      cudaDeviceGetAttribute(&block, cudaDevAttrMaxSharedMemoryPerBlockOptin, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&multiprocessor, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device) != cudaSuccess)
    return status::cuda_error;
  return device_limits{static_cast<std::size_t>(block), static_cast<std::size_t>(multiprocessor)};
}

/// Lets the kernels of a model's decodes have the shared memory they want; once for each device and model, outside of a
/// capture. Errors: cuda_error.
template <class Codec>
status init(const device_model<Codec>& m) {
  return codec_stages<Codec>::init(m.sizes, m.limits);
}

/// Bytes of device memory that decode_async() needs for these requests; fewer requests, or smaller ones, need no more.
/// Errors: invalid_argument (more strands than 2^31, or bytes than 2^62).
template <class Codec>
result<std::size_t> decode_workspace_bytes(const device_model<Codec>& m, std::span<const request> requests) noexcept {
  const workspace_layout l = lay_out_workspace(
      m.sizes, requests, [&](std::int32_t strands) { return codec_stages<Codec>::bytes(m.sizes, strands); });
  if (l.too_large) return status::invalid_argument;
  return static_cast<std::size_t>(l.bytes);
}

/// Puts the decoding of frames into pages into a stream. Frames, pages, tables of views, words and reports are device
/// memory, which the caller leaves alone until the stream is past it; `requests` are read before this returns. Legal while
/// a stream is captured: nothing is allocated, asked of the device or waited for.
/// What becomes of each request is said in its words and its report, as decoder::decode would say it; frames of a codec
/// that does not use the profile must be grouped as in the profile, else they are refused with wrong_shape.
/// `workspace` lies at a multiple of 128. Errors: invalid_argument, workspace_too_small, cuda_error.
template <class Codec>
status decode_async(const device_model<Codec>& m, std::span<const request> requests, std::byte* workspace,
                    std::size_t bytes, cudaStream_t stream) {
  using stages = codec_stages<Codec>;
  if (requests.empty()) return status::ok;
  if (!m.image || !workspace || reinterpret_cast<std::uintptr_t>(m.image) % 16 != 0 ||
      reinterpret_cast<std::uintptr_t>(workspace) % 128 != 0)
    return status::invalid_argument;
  const workspace_layout l =
      lay_out_workspace(m.sizes, requests, [&](std::int32_t strands) { return stages::bytes(m.sizes, strands); });
  if (l.too_large) return status::invalid_argument;
  if (l.bytes > bytes) return status::workspace_too_small;
  const auto n = static_cast<std::int32_t>(requests.size());
  const decode_state d{m.image,
                       workspace,
                       reinterpret_cast<open_request*>(workspace + l.requests_at),
                       reinterpret_cast<strand*>(workspace + l.strands_at),
                       n,
                       l.strands,
                       l.stages_at};
  workspace_cursor parts(m.sizes, l.parts_at);
  for (std::int32_t first = 0; first < n; first += requests_per_launch) {
    request_batch batch{first, sluice::detail::min(n - first, requests_per_launch), {}};
    for (std::int32_t i = 0; i < batch.count; ++i)
      batch.items[i] = parts.place(requests[static_cast<std::size_t>(first + i)]);
    if (const status s = launch(&open_requests<>, 1, 32, 0, stream, d, batch); s != status::ok) return s;
  }
  if (const status s = launch(&open_frames<>, n, open_threads, 0, stream, d); s != status::ok) return s;
  const std::int64_t blocks = strand_blocks(l.strands);
  constexpr int threads = 32 * strands_per_block;
  if (const status s = launch(&open_strands<Codec>, blocks, threads, 0, stream, d); s != status::ok) return s;
  if (m.sizes.rope_pairs != 0)
    if (const status s = launch(&fill_ropes<>, blocks, threads, 0, stream, d); s != status::ok) return s;
  if (const status s = stages::decode(d, m.sizes, m.limits, stream); s != status::ok) return s;
  return launch(&report_strands<>, report_blocks(l.strands), report_threads, 0, stream, d);
}

}  // namespace sluice::cuda
