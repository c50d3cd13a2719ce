// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/encode/encode_open.cuh>
#include <sluice/cuda/encode/encode_work.hpp>
#include <sluice/cuda/encode/forward.cuh>
#include <sluice/cuda/encode/make_frames.cuh>
#include <sluice/cuda/encode/measure.cuh>
#include <sluice/cuda/encode_image.hpp>
#include <sluice/status.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <span>

// Pages to frames on a device, without a word to the host in between.

namespace sluice::cuda {

/// Whether a device encodes with a codec: basic_codec's with steps and bases of a profile, and class_rans.
template <class Codec>
inline constexpr bool encodes_on_device = requires {
  requires Codec::domain == value_domain::unrotated&& Codec::span == 0 && Codec::id.entropy.id == 1 &&
      Codec::id.method.id == 0;
};

namespace detail {

/// The job of an encode in a workspace, which may be null where only its size is asked for.
template <class Codec>
std::uint64_t place_job(const device_encoder<Codec>& m, std::span<const encode_request> requests, std::byte* workspace,
                        code_job& j) noexcept {
  const encode_room room = room_for(m.head, requests, Codec::tile_tokens, false);
  if (workspace) {
    j.in = place_encode(m.head, requests, Codec::tile_tokens, m.head.passes, false, m.image, workspace);
  } else {
    j.in.num_requests = static_cast<std::int32_t>(requests.size());
    j.in.num_strands = static_cast<std::int32_t>(room.strands / sizeof(encode_strand));
    j.in.tile_tokens = Codec::tile_tokens;
    j.in.passes = m.head.passes;
  }
  j.codec = Codec::id;
  j.fingerprint = m.head.fingerprint;
  return room.size() + place_encode_job(j, m.head, workspace ? workspace + room.size() : nullptr);
}

/// Whether numbers of strands and blocks of threads have 31 bits.
template <class Codec>
bool countable(const device_encoder<Codec>& m, std::span<const encode_request> requests) noexcept {
  std::int64_t strands = 0;
  const std::int64_t most = INT32_MAX / (encode_max_blocks * max_passes);
  for (const encode_request& r : requests)
    if ((strands += strands_of(r, m.head, Codec::tile_tokens)) > most) return false;
  return static_cast<std::int64_t>(requests.size()) <= most;
}

}  // namespace detail

/// Lets the kernels of an encode have the shared memory that they want; once for each device and model, outside of a
/// capture. Errors: cuda_error, too_large (a group that is wider than kernels take).
template <class Codec>
status init(const device_encoder<Codec>& m) {
  const status s = allow_forward(m.head, Codec::tile_tokens);
  return s == status::ok ? prepare_encode() : s;
}

/// Bytes of device memory that encode_async() needs for these requests; fewer requests, or smaller ones, need no more.
/// Errors: invalid_argument (more strands than numbers reach).
template <class Codec>
result<std::size_t> encode_workspace_bytes(const device_encoder<Codec>& m,
                                           std::span<const encode_request> requests) noexcept {
  code_job j{};
  if (!detail::countable(m, requests)) return status::invalid_argument;
  return static_cast<std::size_t>(detail::place_job(m, requests, nullptr, j));
}

/// Puts the encoding of pages into frames into a stream. Pages, tables of views, frames and answers are device memory, which
/// the caller leaves alone until the stream is past it; `requests` are read before this returns. Legal while a stream is
/// captured: nothing is allocated, asked of the device or waited for.
/// What becomes of each request is said in its `out`; frames lie at multiples of 8. A request whose frame is larger than its
/// memory, or whose base than its limit, is output_too_small, is listed in `overflow` and leaves its memory alone.
/// `workspace` lies at a multiple of 16. Errors: invalid_argument, workspace_too_small, too_large (a group that is wider
/// than kernels take), cuda_error.
template <class Codec>
status encode_async(const device_encoder<Codec>& m, std::span<const encode_request> requests, std::byte* workspace,
                    std::size_t bytes, cudaStream_t stream, const encode_overflow& overflow = {}) {
  static_assert(encodes_on_device<Codec>, "sluice::cuda: kernels encode with a profile's basis and class_rans only");
  if (requests.empty()) return status::ok;
  if (!m.image || !workspace || reinterpret_cast<std::uintptr_t>(m.image) % 16 != 0 ||
      reinterpret_cast<std::uintptr_t>(workspace) % 16 != 0 || !detail::countable(m, requests))
    return status::invalid_argument;
  code_job j{};
  if (detail::place_job(m, requests, workspace, j) > bytes) return status::workspace_too_small;
  j.overflow = overflow;
  status s = open_encodes(j.in, m.head, requests, false, stream, m.sinks);
  if (s == status::ok) s = forward(j.in, m.head, stream);
  return s == status::ok ? make_frames_async(j, stream) : s;
}

}  // namespace sluice::cuda
