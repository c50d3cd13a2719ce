// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/bodies/bitpack.cuh>

#include <doctest/doctest.h>
#include <support/dense_kernel_checks.hpp>
#include <support/device.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

// The packing kernels against the host: the same bytes, codes and floats.
namespace bitpack_checks {

using namespace sluice;
using dense_checks::run_warps;

template <int Width>
void codes_of(std::mt19937& random) {
  for (const int rows : {1, 8, 21, 64})
    for (const int blocks : {1, 3}) {
      const int stride = 32 * blocks + 4;
      const std::size_t size = packed_size(Width, rows, blocks), count = static_cast<std::size_t>(stride * rows);
      std::vector<std::uint8_t> values(count), unpacked(count, 0x7f);
      for (auto& v : values) v = static_cast<std::uint8_t>(random());
      std::vector<std::byte> expected(size);
      REQUIRE(pack_bits(Width, values.data(), stride, rows, blocks, expected) == status::ok);
      REQUIRE(unpack_bits(Width, expected, unpacked.data(), stride, rows, blocks) == status::ok);
      const device_buffer<std::uint8_t> values_there(values), back(count), packed(size);
      detail::bitpack_job job;
      job.packed = packed.data();
      job.values = values_there.data();
      job.stride = stride;
      job.rows = rows;
      job.blocks = blocks;
      run_warps(cuda::bitpack_kernel<cuda::bitpack_task::pack, Width>, cuda::bitpack_items(job), job);
      CHECK(std::memcmp(packed.download().data(), expected.data(), size) == 0);
      job.values = back.data();
      run_warps(cuda::bitpack_kernel<cuda::bitpack_task::unpack, Width>, cuda::bitpack_items(job), job);
      CHECK(back.download() == unpacked);
    }
}

template <int Width>
void groups_of(std::mt19937& random) {
  std::normal_distribution<float> normal;
  for (const int rows : {1, 21, 64, 100})
    for (const int group_rows : {8, 32}) {
      constexpr int blocks = 2, stride = 70, levels = (1 << Width) - 1;
      const std::size_t size = quantized_size(Width, group_rows, rows, blocks);
      const std::size_t scales = size - packed_size(Width, rows, blocks),
                        count = static_cast<std::size_t>(stride * rows);
      std::vector<float> x(count), decoded(count);
      for (std::size_t i = 0; i < count; ++i)
        x[i] = (i % 7 == 0 ? 100.f : 0.f) + std::ldexp(normal(random), static_cast<int>(i % 70 % 20) - 15);
      for (std::size_t i = 5; i < count; i += stride) x[i] = 0.f;
      std::vector<std::byte> expected(size);
      REQUIRE(quantize_groups(Width, group_rows, x.data(), stride, rows, blocks, expected) == status::ok);
      REQUIRE(dequantize_groups(Width, group_rows, expected, decoded.data(), stride, rows, blocks) == status::ok);
      device_buffer<float> floats(x);
      device_buffer<float> back(count);
      const device_buffer<std::uint8_t> bytes(size);
      const device_buffer<int> refused(std::vector<int>{0});
      back.fill(0);
      detail::bitpack_job job;
      job.packed = bytes.data() + scales;
      job.scales = bytes.data();
      job.floats = floats.data();
      job.stride = stride;
      job.rows = rows;
      job.blocks = blocks;
      job.group_rows = group_rows;
      const std::int64_t items = cuda::bitpack_items(job);
      run_warps(cuda::measure_groups_kernel<>, items, job, levels, refused.data());
      run_warps(cuda::bitpack_kernel<cuda::bitpack_task::quantize, Width>, items, job);
      CHECK(refused.download()[0] == 0);
      CHECK(std::memcmp(bytes.download().data(), expected.data(), size) == 0);
      job.floats = back.data();
      run_warps(cuda::bitpack_kernel<cuda::bitpack_task::dequantize, Width>, items, job);
      CHECK(std::memcmp(back.download().data(), decoded.data(), count * sizeof(float)) == 0);
      x[3] = 1e9f;
      floats.upload(x);
      job.floats = floats.data();
      run_warps(cuda::measure_groups_kernel<>, items, job, levels, refused.data());
      CHECK(refused.download()[0] == 1);
    }
}

template <int... Widths>
void every_width(std::mt19937& random, std::integer_sequence<int, Widths...>) {
  (codes_of<Widths + 1>(random), ...);
  (groups_of<Widths + 1>(random), ...);
}
inline void every_width(unsigned seed) {
  std::mt19937 random(seed);
  every_width(random, std::make_integer_sequence<int, 8>{});
}

/// Jobs without rows or blocks touch nothing, however many warps look at them.
inline void nothing_to_do() {
  const device_buffer<int> refused(std::vector<int>{0});
  for (const auto& [rows, blocks] : {std::pair{8, 0}, std::pair{0, 3}, std::pair{0, 0}}) {
    detail::bitpack_job job;
    job.rows = rows, job.blocks = blocks;
    CHECK(cuda::bitpack_items(job) == 0);
    run_warps(cuda::bitpack_kernel<cuda::bitpack_task::pack, 4>, 3, job);
    run_warps(cuda::bitpack_kernel<cuda::bitpack_task::unpack, 4>, 3, job);
    run_warps(cuda::bitpack_kernel<cuda::bitpack_task::quantize, 4>, 3, job);
    run_warps(cuda::bitpack_kernel<cuda::bitpack_task::dequantize, 4>, 3, job);
    run_warps(cuda::measure_groups_kernel<>, 3, job, 15, refused.data());
  }
  CHECK(refused.download()[0] == 0);
}

}  // namespace bitpack_checks
