// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/encode_request.hpp>
#include <sluice/cuda/request.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <memory>

// Kernels that were compiled already, in sluice::cuda_kernels: presets by name, one virtual call a decode or encode. For engines
// that are built without nvcc, or as C++17, which is enough for this file and what it includes. Who compiles kernels into a
// program of its own includes cuda/presets.cuh.

struct CUstream_st;  // what a cudaStream_t points to

namespace sluice::cuda {

/// A preset and a profile, for devices of one kind: what decodes and encodes have in common.
class model_base {
 public:
  model_base() = default;
  model_base(const model_base&) = delete;
  model_base& operator=(const model_base&) = delete;
  virtual ~model_base() = default;

  /// Bytes that are to be copied to the device once, to a multiple of 16, and stay there: bases and tables.
  virtual std::size_t image_size() const noexcept = 0;
  /// These bytes, in host memory.
  virtual const std::byte* image() const noexcept = 0;
  /// Asks the current device what it has and lets kernels have the shared memory that they want; before
  /// anything is asked of it, once for each device and outside of a capture. Errors: cuda_error.
  virtual status init() = 0;
};

/// Decodes with the kernels of one preset for one profile.
class any_model : public model_base {
 public:
  /// As cuda::decode_workspace_bytes().
  virtual result<std::size_t> decode_workspace_bytes(const request* requests, std::size_t n) const noexcept = 0;
  /// As cuda::decode_async(). `image`: on the device.
  virtual status decode_async(const std::byte* image, const request* requests, std::size_t n, std::byte* workspace,
                              std::size_t bytes, CUstream_st* stream) const = 0;
};

/// Encodes with them.
class any_encoder_model : public model_base {
 public:
  /// As cuda::max_frame_size().
  virtual std::size_t max_frame_size(const encode_request& r) const noexcept = 0;
  /// As cuda::encode_workspace_bytes().
  virtual result<std::size_t> encode_workspace_bytes(const encode_request* requests, std::size_t n) const noexcept = 0;
  /// As cuda::encode_async(). `image`: on the device.
  virtual status encode_async(const std::byte* image, const encode_request* requests, std::size_t n,
                              std::byte* workspace, std::size_t bytes, CUstream_st* stream) const = 0;
};

/// The model of a profile, which is given as the bytes of its file, for a preset of this name (codec/presets.hpp).
/// Errors: not_found (no such preset, or none that the library has kernels of), those of profile::parse(), and what the
/// codec says of the profile.
result<std::unique_ptr<any_model>> make_model(const char* preset, const void* profile, std::size_t size);

/// The same for encodes, which fewer presets have kernels of.
result<std::unique_ptr<any_encoder_model>> make_encoder_model(const char* preset, const void* profile,
                                                              std::size_t size);

/// Fills in what a request says of its frame's sizes from the frame's first 88 bytes, in host memory.
/// Errors: not_a_frame, truncated, wrong_version, corrupt_header, too_large.
status read_sizes(const void* frame, std::size_t size, request& r) noexcept;

}  // namespace sluice::cuda
