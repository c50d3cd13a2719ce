// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <utility>
#include <vector>

namespace cuda_bench {

/// Memory of the device, zero at first; throws std::bad_alloc where there is not as much.
template <class T>
class device_array {
 public:
  device_array() = default;
  explicit device_array(std::size_t n) { resize(n); }
  explicit device_array(std::span<const T> from) : device_array(from.size()) { put(from); }
  device_array(device_array&& o) noexcept : p_(std::exchange(o.p_, nullptr)), n_(std::exchange(o.n_, 0)) {}
  device_array& operator=(device_array&& o) noexcept {
    std::swap(p_, o.p_);
    std::swap(n_, o.n_);
    return *this;
  }
  ~device_array() { cudaFree(p_); }

  T* data() noexcept { return p_; }
  const T* data() const noexcept { return p_; }
  std::size_t size() const noexcept { return n_; }
  /// Other memory: what was there is lost.
  void resize(std::size_t n) {
    cudaFree(std::exchange(p_, nullptr));
    n_ = 0;
    if (n == 0) return;
    if (cudaMalloc(&p_, n * sizeof(T)) != cudaSuccess || cudaMemset(p_, 0, n * sizeof(T)) != cudaSuccess)
      throw std::bad_alloc();
    n_ = n;
  }

  void put(std::span<const T> from, std::size_t at = 0) {
    cudaMemcpy(p_ + at, from.data(), from.size_bytes(), cudaMemcpyHostToDevice);
  }
  std::vector<T> get() const {
    std::vector<T> v(n_);
    cudaMemcpy(v.data(), p_, n_ * sizeof(T), cudaMemcpyDeviceToHost);
    return v;
  }

 private:
  T* p_ = nullptr;
  std::size_t n_ = 0;
};

using device_bytes = device_array<std::byte>;

// What is done with it, in cuda_memory.cu: Thrust takes nvcc longer than all that is measured.

bool same(const device_bytes& a, const device_bytes& b);
/// Whether bf16 agree but for what a sum in another order may change: `tolerance` is relative, and of one where values
/// are small; 0 = the same bits.
bool nearly_same(const device_array<std::uint16_t>& expected, const std::uint16_t* got, float tolerance);
void fill(device_bytes& to, std::byte with, cudaStream_t stream);

}  // namespace cuda_bench
