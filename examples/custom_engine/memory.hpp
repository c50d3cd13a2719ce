// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#if CUSTOM_ENGINE_GPU
#include <cuda_runtime.h>

#include <cstdio>
#include <cstdlib>
#endif

// Memory and streams of the device that the engine runs on: a GPU where gpu.cu includes this, else the CPU. The rest of
// the engine does not know which.

namespace custom_engine {

#if CUSTOM_ENGINE_GPU

inline constexpr bool on_gpu = true;

inline void check(cudaError_t e) {
  if (e == cudaSuccess) return;
  std::fprintf(stderr, "CUDA: %s\n", cudaGetErrorString(e));
  std::exit(1);
}

/// Work that is done in order.
class stream {
 public:
  stream() { check(cudaStreamCreate(&s_)); }
  ~stream() { cudaStreamDestroy(s_); }
  stream(const stream&) = delete;
  operator cudaStream_t() const noexcept { return s_; }
  void wait() const { check(cudaStreamSynchronize(s_)); }

 private:
  cudaStream_t s_ = nullptr;
};

/// An array on the device.
template <class T>
class memory {
 public:
  explicit memory(std::size_t n) : size_(n) { check(cudaMalloc(&p_, (n ? n : 1) * sizeof(T))); }
  memory(std::span<const T> from, const stream& s) : memory(from.size()) {
    check(cudaMemcpyAsync(p_, from.data(), from.size_bytes(), cudaMemcpyHostToDevice, s));
  }
  ~memory() { cudaFree(p_); }
  memory(const memory&) = delete;

  T* data() const noexcept { return p_; }
  std::size_t size() const noexcept { return size_; }
  /// A copy on the host, after all that the stream was given before.
  std::vector<T> read(const stream& s) const {
    std::vector<T> to(size_);
    check(cudaMemcpyAsync(to.data(), p_, size_ * sizeof(T), cudaMemcpyDeviceToHost, s));
    s.wait();
    return to;
  }

 private:
  T* p_ = nullptr;
  std::size_t size_;
};

#else

inline constexpr bool on_gpu = false;

/// Work that is done in order: at once.
class stream {
 public:
  void wait() const noexcept {}
};

/// An array in main memory.
template <class T>
class memory {
 public:
  explicit memory(std::size_t n) : own_(n) {}
  memory(std::span<const T> from, const stream&) : own_(from.begin(), from.end()) {}
  memory(const memory&) = delete;

  T* data() const noexcept { return const_cast<T*>(own_.data()); }
  std::size_t size() const noexcept { return own_.size(); }
  std::vector<T> read(const stream&) const { return own_; }

 private:
  std::vector<T> own_;
};

#endif

}  // namespace custom_engine
