// SPDX-License-Identifier: Apache-2.0
#include "cuda_memory.cuh"

#include <thrust/equal.h>
#include <thrust/execution_policy.h>
#include <thrust/fill.h>

namespace cuda_bench {

namespace {

struct nearly {
  float tolerance;
  static __host__ __device__ float value(std::uint16_t bits) {
    union {
      std::uint32_t u;
      float f;
    } x{static_cast<std::uint32_t>(bits) << 16};
    return x.f;
  }
  __host__ __device__ bool operator()(std::uint16_t a, std::uint16_t b) const {
    if (a == b) return true;
    const float x = value(a), y = value(b), d = x < y ? y - x : x - y, size = y < 0 ? -y : y;
    return d <= tolerance * (size > 1 ? size : 1);
  }
};

}  // namespace

bool same(const device_bytes& a, const device_bytes& b) {
  return a.size() == b.size() && thrust::equal(thrust::device, a.data(), a.data() + a.size(), b.data());
}

bool nearly_same(const device_array<std::uint16_t>& expected, const std::uint16_t* got, float tolerance) {
  return thrust::equal(thrust::device, expected.data(), expected.data() + expected.size(), got, nearly{tolerance});
}

void fill(device_bytes& to, std::byte with, cudaStream_t stream) {
  thrust::fill(thrust::cuda::par_nosync.on(stream), to.data(), to.data() + to.size(), with);
}

}  // namespace cuda_bench
