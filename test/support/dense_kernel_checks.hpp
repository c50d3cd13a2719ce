// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/bodies/dense.cuh>
#include <sluice/cuda/launch.cuh>

#include <doctest/doctest.h>
#include <support/device.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

// The dense kernels against the host's portable bodies: the same text, so integers must be equal and floats nearly so.
namespace dense_checks {

using namespace sluice;

/// Launches a kernel and waits for it.
template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), std::int64_t blocks, int threads, std::size_t shared,
         const Arguments&... arguments) {
  REQUIRE(cuda::launch(kernel, blocks, threads, shared, nullptr, arguments...) == status::ok);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}
/// A warp per item, eight to a block.
template <class... Parameters, class... Arguments>
void run_warps(void (*kernel)(Parameters...), std::int64_t warps, const Arguments&... arguments) {
  run(kernel, (warps + 7) / 8, 256, 0, arguments...);
}

inline std::vector<float> random_floats(std::mt19937& random, int n, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> v(static_cast<std::size_t>(n));
  for (float& x : v) x = normal(random);
  return v;
}

inline bool same_bits(float a, float b) {
  return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

template <dtype T>
void rows_of(std::mt19937& random) {
  constexpr int rows = 37, heads = 3, head_dim = 80, e = size_of(T);
  for (bool transposed : {false, true}) {
    std::vector<std::int64_t> offsets(rows);
    for (int r = 0; r < rows; ++r) offsets[static_cast<std::size_t>(r)] = transposed ? r * e : r * heads * head_dim * e;
    const device_buffer<std::int64_t> offsets_there(offsets);
    const detail::row_layout at{
        offsets.data(), transposed ? head_dim * rows * e : head_dim * e, transposed ? rows * e : e, 1, 2, head_dim, T};
    detail::row_layout there = at;
    there.offsets = offsets_there.data();
    std::vector<std::byte> bytes(rows * heads * head_dim * e);
    for (auto& b : bytes) b = static_cast<std::byte>(random() & 0xff);
    const device_buffer<std::byte> memory(bytes);
    const device_buffer<float> x(rows * 2 * head_dim);
    const device_buffer<std::uint8_t> bad(std::vector<std::uint8_t>(rows, 0));
    run_warps(cuda::load_rows_kernel<T>, rows, memory.data(), there, rows, x.data(), 2 * head_dim, bad.data());
    std::vector<float> want(x.size());
    std::vector<std::uint8_t> want_bad(rows, 0);
    detail::load_rows(isa::portable, bytes.data(), at, rows, want.data(), 2 * head_dim, want_bad.data());
    const auto got = x.download();
    int wrong = 0;
    for (std::size_t i = 0; i < got.size(); ++i) wrong += !same_bits(got[i], want[i]);
    CHECK(wrong == 0);
    CHECK(bad.download() == want_bad);

    auto from = random_floats(random, rows * 2 * head_dim, 30);
    for (const float rare : {1e6f, -1e6f, 65504.f, 65519.f, 65520.f, 1e-9f, -1e-7f, HUGE_VALF, -HUGE_VALF})
      from[random() % from.size()] = rare;
    const device_buffer<float> y(from);
    for (const bool finite : {false, true}) {
      detail::row_layout to = at;
      to.finite = there.finite = finite;
      run_warps(cuda::store_rows_kernel<T>, rows, y.data(), 2 * head_dim, rows, memory.data(), there);
      detail::store_rows(isa::portable, from.data(), 2 * head_dim, rows, bytes.data(), to);
      CHECK(memory.download() == bytes);
    }
  }
}

inline void rows(unsigned seed) {
  std::mt19937 random(seed);
  rows_of<dtype::f32>(random);
  rows_of<dtype::f16>(random);
  rows_of<dtype::bf16>(random);
  rows_of<dtype::e4m3>(random);
  rows_of<dtype::e5m2>(random);
}

inline void rotation(unsigned seed) {
  std::mt19937 random(seed);
  constexpr int rows = 19, heads = 3, head_dim = 80, dims = 72;
  for (rope_pairing pairing : {rope_pairing::half, rope_pairing::interleaved}) {
    auto want = random_floats(random, rows * heads * head_dim, 3);
    const device_buffer<float> x(want);
    const auto cosine = random_floats(random, rows * dims / 2, 1), sine = random_floats(random, rows * dims / 2, 1);
    const device_buffer<float> c(cosine), s(sine);
    run_warps(pairing == rope_pairing::half ? cuda::rotate_rows_kernel<rope_pairing::half>
                                            : cuda::rotate_rows_kernel<rope_pairing::interleaved>,
              rows, x.data(), heads * head_dim, rows, heads, head_dim, dims, c.data(), s.data(), dims / 2);
    detail::rotate_rows(isa::portable, want.data(), heads * head_dim, rows, heads, head_dim, pairing, dims,
                        cosine.data(), sine.data(), dims / 2);
    const auto got = x.download();
    int wrong = 0;
    for (std::size_t i = 0; i < want.size(); ++i) wrong += !(std::abs(got[i] - want[i]) < 1e-5f);
    CHECK(wrong == 0);
  }
}

inline void inverse_product(std::mt19937& random, int rows, int k, int n) {
  std::vector<std::int16_t> c(static_cast<std::size_t>(rows * k));
  for (auto& v : c) v = static_cast<std::int16_t>(static_cast<int>(random() % 19) - 9);
  const auto m = random_floats(random, n * n, 0.3f), mean = random_floats(random, n, 10);
  std::vector<std::uint16_t> matrix(m.size());
  for (std::size_t i = 0; i < m.size(); ++i) matrix[i] = from_float<f16>(m[i]).bits;
  const std::vector<detail::coefficient_correction> extra{{rows - 1, 0, 50}, {rows - 1, n - 1, -70}, {0, n - 1, 20},
                                                          {0, n, 1e9f},      {rows, 0, 1e9f},        {-1, -1, 1e9f}};
  const device_buffer<std::int16_t> c_there(c);
  const device_buffer<std::uint16_t> matrix_there(matrix);
  const device_buffer<float> mean_there(mean), x(static_cast<std::size_t>(rows * n));
  const device_buffer<detail::coefficient_correction> extra_there(extra);
  detail::inverse_job job{.c = c.data(),
                          .ldc = k,
                          .matrix = matrix.data(),
                          .mean = mean.data(),
                          .scale = 0.25f,
                          .x = nullptr,
                          .ldx = n,
                          .rows = rows,
                          .k = k,
                          .n = n,
                          .matrix_rows = n,
                          .corrections = extra.data(),
                          .num_corrections = extra.size()};
  std::vector<float> want(x.size()), workspace(detail::dense_workspace(rows, n, n));
  job.x = want.data();
  detail::inverse_transform(isa::portable, job, workspace.data());
  job.c = c_there.data(), job.matrix = matrix_there.data(), job.mean = mean_there.data(), job.x = x.data();
  job.corrections = extra_there.data();
  run(cuda::inverse_transform_kernel<>, (rows + cuda::dense_tile_rows - 1) / cuda::dense_tile_rows, 128,
      cuda::dense_shared_bytes(k), job);
  const auto got = x.download();
  int wrong = 0;
  for (std::size_t i = 0; i < want.size(); ++i) wrong += !(std::abs(got[i] - want[i]) < 1e-4f);
  CHECK(wrong == 0);
}

inline void forward_product(std::mt19937& random, int rows, int n, int k) {
  auto y = random_floats(random, rows * n, 4);
  if (rows > 4) y[0] = HUGE_VALF, y[static_cast<std::size_t>(2 * n)] = NAN;
  const auto matrix = random_floats(random, n * k, 0.3f), mean = random_floats(random, n, 10);
  const device_buffer<float> y_there(y), matrix_there(matrix), mean_there(mean);
  const device_buffer<std::int16_t> c(static_cast<std::size_t>(rows * k));
  const device_buffer<std::uint8_t> beyond(std::vector<std::uint8_t>(static_cast<std::size_t>(rows), 0));
  std::vector<std::int16_t> want(c.size());
  std::vector<std::uint8_t> want_beyond(beyond.size(), 0);
  std::vector<float> workspace(detail::dense_workspace(rows, n, n));
  detail::forward_job job{.x = y.data(),
                          .ldx = n,
                          .mean = mean.data(),
                          .matrix = matrix.data(),
                          .ldm = k,
                          .c = want.data(),
                          .ldc = k,
                          .beyond = want_beyond.data(),
                          .rows = rows,
                          .n = n,
                          .k = k};
  detail::forward_transform(isa::portable, job, workspace.data());
  job.x = y_there.data(), job.mean = mean_there.data(), job.matrix = matrix_there.data();
  job.c = c.data(), job.beyond = beyond.data();
  run(cuda::forward_transform_kernel<>, (rows + cuda::dense_tile_rows - 1) / cuda::dense_tile_rows, 128,
      cuda::dense_shared_bytes(n), job);
  const auto got = c.download();
  int far = 0, off = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (want_beyond[i / static_cast<std::size_t>(k)]) continue;
    far += std::abs(want[i] - got[i]) > 1;
    off += want[i] != got[i];  // sums a hair apart, on either side of a tie
  }
  CHECK(far == 0);
  CHECK(off <= static_cast<int>(want.size() / 1000 + 1));
  CHECK(beyond.download() == want_beyond);
}

inline void products(unsigned seed) {
  std::mt19937 random(seed);
  for (int n : {32, 80, 192, 576})
    for (int k : {n / 2, n})
      for (int rows : {1, 5, 61}) {
        if (n > 192 && rows > 5) continue;
        inverse_product(random, rows, k, n);
        forward_product(random, rows, n, k);
      }
}

/// Wide groups of heads: more shared memory than a kernel has unless it is let have it.
inline void wide_products(unsigned seed) {
  std::mt19937 random(seed);
  constexpr int n = 1600;
  static_assert(n > cuda::dense_most_inner && n <= cuda::dense_most_inner_allowed);
  REQUIRE(cuda::allow_shared(cuda::forward_transform_kernel<>, cuda::dense_shared_bytes(n)) == status::ok);
  forward_product(random, 3, n, 40);
  forward_product(random, 3, cuda::dense_most_inner, 40);
}

/// The corrections of one coefficient are added in their order: 1 is lost in 1e8, or is not.
inline void corrections_in_order() {
  constexpr int rows = 9, n = 64;
  const std::vector<std::int16_t> c(rows * n, 0);
  std::vector<std::uint16_t> matrix(n * n, 0);
  for (std::size_t i = 0; i < n; ++i) matrix[i * n + i] = from_float<f16>(1.f).bits;
  std::vector<detail::coefficient_correction> extra;
  for (int row = 0; row < rows; ++row)
    for (const float v : {1e8f, 1.f, -1e8f, 0.5f, 3e7f, -3e7f}) extra.push_back({row, 5 * row, v});
  const device_buffer<std::int16_t> c_there(c);
  const device_buffer<std::uint16_t> matrix_there(matrix);
  const device_buffer<float> x(rows * n);
  const device_buffer<detail::coefficient_correction> extra_there(extra);
  const detail::inverse_job job{.c = c_there.data(),
                                .ldc = n,
                                .matrix = matrix_there.data(),
                                .mean = nullptr,
                                .scale = 1,
                                .x = x.data(),
                                .ldx = n,
                                .rows = rows,
                                .k = n,
                                .n = n,
                                .matrix_rows = n,
                                .corrections = extra_there.data(),
                                .num_corrections = extra.size()};
  run(cuda::inverse_transform_kernel<>, 2, 128, cuda::dense_shared_bytes(n), job);
  const auto got = x.download();
  float want = 0;
  for (std::size_t i = 0; i < 6; ++i) want += extra[i].value;
  int wrong = 0;
  for (int row = 0; row < rows; ++row)
    for (int i = 0; i < n; ++i) wrong += got[static_cast<std::size_t>(row * n + i)] != (i == 5 * row ? want : 0);
  CHECK(wrong == 0);
}

inline void identity_and_split(unsigned seed) {
  std::mt19937 random(seed);
  constexpr int rows = 21, n = 67, k = 40;
  const auto mean = random_floats(random, n, 1);
  std::vector<std::int16_t> c(rows * n);
  for (auto& v : c) v = static_cast<std::int16_t>(static_cast<int>(random() % 2001) - 1000);
  const device_buffer<std::int16_t> c_there(c), q(rows * n);
  const device_buffer<float> mean_there(mean), x(rows * n);
  const device_buffer<std::uint8_t> beyond(std::vector<std::uint8_t>(rows, 0));
  run_warps(cuda::dequantize_rows_kernel<>, rows, c_there.data(), n, rows, k, 0.25f, mean_there.data(), n, x.data(), n);
  run_warps(cuda::quantize_rows_kernel<>, rows, x.data(), n, rows, mean_there.data(), 4.0f, n, q.data(), n,
            beyond.data());
  const auto got = q.download();
  int wrong = 0;
  for (std::size_t i = 0; i < c.size(); ++i) wrong += got[i] != (i % n < k ? c[i] : 0);
  CHECK(wrong == 0);

  std::vector<std::int16_t> all(65536), want_c(65536);
  for (int v = 0; v < 65536; ++v) all[static_cast<std::size_t>(v)] = static_cast<std::int16_t>(v - 32768);
  std::vector<std::int8_t> want_r(65536);
  std::int8_t* const digits[] = {nullptr, want_r.data()};
  detail::split_levels(isa::portable, all.data(), want_c.data(), digits, 2, 2, 65536);
  const device_buffer<std::int16_t> f(all), quotient(65536), wide(65536);
  const device_buffer<std::int8_t> digit(65536);
  run_warps(cuda::split3_kernel<std::int8_t>, 64, f.data(), quotient.data(), digit.data(), 65536);
  run_warps(cuda::split3_kernel<std::int16_t>, 64, f.data(), quotient.data(), wide.data(), 65535);
  CHECK(quotient.download() == want_c);
  CHECK(digit.download() == want_r);
}

}  // namespace dense_checks
