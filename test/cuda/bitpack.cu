// SPDX-License-Identifier: Apache-2.0
// The packing kernels against the host: the same bytes, codes and floats.
#include <sluice/cuda/bitpack.cuh>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

using namespace sluice;

namespace {

constexpr unsigned seed = 20261121;

// Memory that both sides see.
template <class T>
struct shared_array {
  T* p = nullptr;
  std::size_t n = 0;
  explicit shared_array(std::size_t count) : n(count) {
    REQUIRE(cudaMallocManaged(&p, (count + 1) * sizeof(T)) == cudaSuccess);
    std::memset(static_cast<void*>(p), 0, (count + 1) * sizeof(T));
  }
  ~shared_array() { cudaFree(p); }
  shared_array(const shared_array&) = delete;
  shared_array& operator=(const shared_array&) = delete;
};

void finish() {
  REQUIRE(cudaGetLastError() == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

unsigned blocks_of_warps(std::int64_t warps) { return static_cast<unsigned>((warps + 7) / 8); }

template <int Width>
void codes_of(std::mt19937& random) {
  for (const int rows : {1, 8, 21, 64})
    for (const int blocks : {1, 3}) {
      const int stride = 32 * blocks + 4;
      const std::size_t size = packed_size(Width, rows, blocks), count = static_cast<std::size_t>(stride * rows);
      shared_array<std::uint8_t> values(count), back(count), packed(size);
      for (std::size_t i = 0; i < count; ++i) values.p[i] = static_cast<std::uint8_t>(random());
      std::vector<std::byte> expected(size);
      REQUIRE(pack_bits(Width, values.p, stride, rows, blocks, expected) == status::ok);
      detail::bitpack_job job;
      job.packed = packed.p;
      job.values = values.p;
      job.stride = stride;
      job.rows = rows;
      job.blocks = blocks;
      const unsigned grid = blocks_of_warps(cuda::bitpack_items(job));
      cuda::bitpack_kernel<cuda::bitpack_task::pack, Width><<<grid, 256>>>(job);
      finish();
      CHECK(std::memcmp(packed.p, expected.data(), size) == 0);
      job.values = back.p;
      cuda::bitpack_kernel<cuda::bitpack_task::unpack, Width><<<grid, 256>>>(job);
      finish();
      std::vector<std::uint8_t> unpacked(count);
      REQUIRE(unpack_bits(Width, expected, unpacked.data(), stride, rows, blocks) == status::ok);
      CHECK(std::memcmp(back.p, unpacked.data(), count) == 0);
    }
}

template <int Width>
void groups_of(std::mt19937& random) {
  std::normal_distribution<float> normal;
  for (const int rows : {1, 21, 64, 100})
    for (const int group_rows : {8, 32}) {
      constexpr int blocks = 2, stride = 70;
      const std::size_t size = quantized_size(Width, group_rows, rows, blocks);
      const std::size_t scales = size - packed_size(Width, rows, blocks),
                        count = static_cast<std::size_t>(stride * rows);
      shared_array<float> x(count), back(count);
      shared_array<std::uint8_t> bytes(size);
      shared_array<int> refused(1);
      for (std::size_t i = 0; i < count; ++i)
        x.p[i] = (i % 7 == 0 ? 100.f : 0.f) + std::ldexp(normal(random), static_cast<int>(i % 70 % 20) - 15);
      for (std::size_t i = 5; i < count; i += stride) x.p[i] = 0.f;
      std::vector<std::byte> expected(size);
      REQUIRE(quantize_groups(Width, group_rows, x.p, stride, rows, blocks, expected) == status::ok);
      detail::bitpack_job job;
      job.packed = bytes.p + scales;
      job.scales = bytes.p;
      job.floats = x.p;
      job.stride = stride;
      job.rows = rows;
      job.blocks = blocks;
      job.group_rows = group_rows;
      const unsigned grid = blocks_of_warps(cuda::bitpack_items(job));
      cuda::measure_groups_kernel<><<<grid, 256>>>(job, (1 << Width) - 1, refused.p);
      cuda::bitpack_kernel<cuda::bitpack_task::quantize, Width><<<grid, 256>>>(job);
      finish();
      CHECK(*refused.p == 0);
      CHECK(std::memcmp(bytes.p, expected.data(), size) == 0);
      job.floats = back.p;
      cuda::bitpack_kernel<cuda::bitpack_task::dequantize, Width><<<grid, 256>>>(job);
      finish();
      std::vector<float> decoded(count);
      REQUIRE(dequantize_groups(Width, group_rows, expected, decoded.data(), stride, rows, blocks) == status::ok);
      CHECK(std::memcmp(back.p, decoded.data(), count * sizeof(float)) == 0);
      x.p[3] = 1e9f;
      job.floats = x.p;
      cuda::measure_groups_kernel<><<<grid, 256>>>(job, (1 << Width) - 1, refused.p);
      finish();
      CHECK(*refused.p == 1);
    }
}

template <int... Widths>
void all(std::integer_sequence<int, Widths...>) {
  std::mt19937 random(seed);
  (codes_of<Widths + 1>(random), ...);
  (groups_of<Widths + 1>(random), ...);
}

}  // namespace

TEST_CASE("packing kernels: every width") {
  MESSAGE("seed " << seed);
  all(std::make_integer_sequence<int, 8>{});
}
