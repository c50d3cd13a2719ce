// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/request.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <memory>

// Kernels that were compiled already, in sluice::cuda_kernels: presets by name, behind one virtual call a decode. For engines
// that are built without nvcc, or as C++17, which is enough for this file and what it includes. Who compiles kernels into a
// program of its own includes cuda/decode.cuh.

struct CUstream_st;

namespace sluice::cuda {

/// The kernels of one preset for one profile.
class any_model {
 public:
  any_model() = default;
  any_model(const any_model&) = delete;
  any_model& operator=(const any_model&) = delete;
  virtual ~any_model() = default;

  /// Bytes that are to be copied to the device once, to a multiple of 16, and stay there: bases, tables.
  virtual std::size_t image_size() const noexcept = 0;
  /// These bytes, in host memory.
  virtual const std::byte* image() const noexcept = 0;
  /// Lets kernels have the shared memory that they need; once for each device, outside of a capture. Errors: cuda_error.
  virtual status prepare() const = 0;
  /// Device memory that decode_async() needs for `n` requests.
  virtual std::size_t workspace_size(const request* requests, std::size_t n) const noexcept = 0;
  /// Puts a decode into a stream, as cuda::decode_async(). `image`: on the device.
  virtual status decode_async(const std::byte* image, const request* requests, std::size_t n, void* workspace,
                              std::size_t workspace_size, CUstream_st* stream) const = 0;
};

/// The model of a profile, which is given as the bytes of its file, for a preset of this name (codec/presets.hpp).
/// Errors: not_found (no such preset, or one without kernels), and what profile::parse() and the codec say of the profile.
result<std::unique_ptr<any_model>> make_model(const char* preset, const void* profile, std::size_t size);

/// Fills in what a request says of its frame from the frame's first bytes, in host memory: tokens, tile_tokens.
/// Errors: not_a_frame, wrong_version, truncated (96 bytes are enough), corrupt_header.
status read_header(const void* frame, std::size_t size, request& r);

}  // namespace sluice::cuda
