// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

/// Memory of the device: on a GPU, or bounded on both sides by the emulator. It begins as 0x7f in every byte unless it is
/// given something, so that what nobody wrote is not taken for zeros.
template <class T>
class device_buffer {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  device_buffer() = default;
  explicit device_buffer(std::size_t n) : n_(n) {
    must(cudaMalloc(&p_, n_ * sizeof(T)));
    if (n_ > 0) must(cudaMemset(p_, 0x7f, n_ * sizeof(T)));
  }
  explicit device_buffer(std::span<const T> from) : device_buffer(from.size()) { upload(from); }
  explicit device_buffer(const std::vector<T>& from) : device_buffer(std::span<const T>(from)) {}
  device_buffer(device_buffer&& other) noexcept
      : p_(std::exchange(other.p_, nullptr)), n_(std::exchange(other.n_, 0)) {}
  device_buffer& operator=(device_buffer&& other) noexcept {
    std::swap(p_, other.p_);
    std::swap(n_, other.n_);
    return *this;
  }
  ~device_buffer() { must(cudaFree(p_)); }

  /// For kernels only; null where there are no elements.
  T* data() const { return p_; }
  std::size_t size() const { return n_; }

  /// Elements from the `first` on.
  void upload(std::span<const T> from, std::size_t first = 0) {
    if (first > n_ || from.size() > n_ - first) stop("upload beyond a buffer");
    if (!from.empty()) must(cudaMemcpy(p_ + first, from.data(), from.size_bytes(), cudaMemcpyHostToDevice));
  }
  /// Bytes, all alike.
  void fill(int byte) {
    if (n_ > 0) must(cudaMemset(p_, byte, n_ * sizeof(T)));
  }
  std::vector<T> download() const {
    std::vector<T> to(n_);
    if (n_ > 0) must(cudaMemcpy(to.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return to;
  }

 private:
  [[noreturn]] static void stop(const char* why) {
    std::fprintf(stderr, "device_buffer: %s\n", why);
    std::abort();
  }
  static void must(cudaError_t e) {
    if (e != cudaSuccess) stop(cudaGetErrorString(e));
  }

  T* p_ = nullptr;
  std::size_t n_ = 0;
};
