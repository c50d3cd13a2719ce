// SPDX-License-Identifier: Apache-2.0
// The dense kernels against the host's portable bodies: the same text, so integers must be equal and floats nearly so.
#include <sluice/cuda/dense.cuh>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

using namespace sluice;

namespace {

constexpr unsigned seed = 20250711;

// Memory that both sides see.
template <class T>
struct shared_array {
  T* p = nullptr;
  std::size_t n = 0;
  explicit shared_array(std::size_t count) : n(count) {
    REQUIRE(cudaMallocManaged(&p, (count + 1) * sizeof(T)) == cudaSuccess);
    std::memset(static_cast<void*>(p), 0, (count + 1) * sizeof(T));
  }
  explicit shared_array(const std::vector<T>& v) : shared_array(v.size()) {
    if (!v.empty()) std::memcpy(static_cast<void*>(p), v.data(), v.size() * sizeof(T));
  }
  ~shared_array() { cudaFree(p); }
  shared_array(const shared_array&) = delete;
  shared_array& operator=(const shared_array&) = delete;
  std::vector<T> values() const { return std::vector<T>(p, p + n); }
};

void finish() {
  REQUIRE(cudaGetLastError() == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

unsigned blocks_of_warps(int warps) { return static_cast<unsigned>((warps + 7) / 8); }

std::vector<float> random_floats(std::mt19937& random, int n, float deviation) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> v(static_cast<std::size_t>(n));
  for (float& x : v) x = normal(random);
  return v;
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

template <dtype T>
void rows_of(std::mt19937& random) {
  constexpr int rows = 37, heads = 3, head_dim = 80, e = size_of(T);
  for (bool transposed : {false, true}) {
    shared_array<std::int64_t> offsets(rows);
    for (int r = 0; r < rows; ++r) offsets.p[r] = transposed ? r * e : r * heads * head_dim * e;
    const detail::row_layout at{
        offsets.p, transposed ? head_dim * rows * e : head_dim * e, transposed ? rows * e : e, 1, 2, head_dim, T};
    std::vector<std::byte> bytes(rows * heads * head_dim * e);
    for (auto& b : bytes) b = static_cast<std::byte>(random() & 0xff);
    shared_array<std::byte> memory(bytes);
    shared_array<float> x(rows * 2 * head_dim);
    shared_array<std::uint8_t> bad(rows);
    cuda::load_rows_kernel<T><<<blocks_of_warps(rows), 256>>>(memory.p, at, rows, x.p, 2 * head_dim, bad.p);
    finish();
    std::vector<float> want(x.n);
    std::vector<std::uint8_t> want_bad(rows, 0);
    detail::load_rows(isa::portable, bytes.data(), at, rows, want.data(), 2 * head_dim, want_bad.data());
    int wrong = 0;
    for (std::size_t i = 0; i < x.n; ++i) wrong += !same_bits(x.p[i], want[i]);
    CHECK(wrong == 0);
    CHECK(bad.values() == want_bad);

    const auto from = random_floats(random, rows * 2 * head_dim, 30);
    shared_array<float> y(from);
    cuda::store_rows_kernel<T><<<blocks_of_warps(rows), 256>>>(y.p, 2 * head_dim, rows, memory.p, at);
    finish();
    detail::store_rows(isa::portable, from.data(), 2 * head_dim, rows, bytes.data(), at);
    CHECK(memory.values() == bytes);
  }
}

}  // namespace

TEST_CASE("dense kernels: rows of every type in and out of memory") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  rows_of<dtype::f32>(random);
  rows_of<dtype::f16>(random);
  rows_of<dtype::bf16>(random);
  rows_of<dtype::e4m3>(random);
  rows_of<dtype::e5m2>(random);
}

TEST_CASE("dense kernels: rotation") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  constexpr int rows = 19, heads = 3, head_dim = 80, dims = 72;
  for (rope_pairing pairing : {rope_pairing::half, rope_pairing::interleaved}) {
    auto want = random_floats(random, rows * heads * head_dim, 3);
    shared_array<float> x(want);
    const auto cosine = random_floats(random, rows * dims / 2, 1), sine = random_floats(random, rows * dims / 2, 1);
    shared_array<float> c(cosine), s(sine);
    if (pairing == rope_pairing::half)
      cuda::rotate_rows_kernel<rope_pairing::half>
          <<<blocks_of_warps(rows), 256>>>(x.p, heads * head_dim, rows, heads, head_dim, dims, c.p, s.p, dims / 2);
    else
      cuda::rotate_rows_kernel<rope_pairing::interleaved>
          <<<blocks_of_warps(rows), 256>>>(x.p, heads * head_dim, rows, heads, head_dim, dims, c.p, s.p, dims / 2);
    finish();
    detail::rotate_rows(isa::portable, want.data(), heads * head_dim, rows, heads, head_dim, pairing, dims,
                        cosine.data(), sine.data(), dims / 2);
    int wrong = 0;
    for (std::size_t i = 0; i < want.size(); ++i) wrong += !(std::abs(x.p[i] - want[i]) < 1e-5f);
    CHECK(wrong == 0);
  }
}

TEST_CASE("dense kernels: both products") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int n : {32, 80, 192, 576})
    for (int k : {n / 2, n})
      for (int rows : {1, 5, 61}) {
        std::vector<std::int16_t> c(static_cast<std::size_t>(rows * k));
        for (auto& v : c) v = static_cast<std::int16_t>(static_cast<int>(random() % 19) - 9);
        const auto m = random_floats(random, n * n, 0.3f), mean = random_floats(random, n, 10);
        std::vector<std::uint16_t> matrix(m.size());
        for (std::size_t i = 0; i < m.size(); ++i) matrix[i] = from_float<f16>(m[i]).bits;
        const std::vector<detail::coefficient_correction> extra{
            {rows - 1, 0, 50}, {rows - 1, n - 1, -70}, {0, n - 1, 20}, {0, n, 1e9f}, {rows, 0, 1e9f}, {-1, -1, 1e9f}};
        shared_array<std::int16_t> cs(c);
        shared_array<std::uint16_t> ms(matrix);
        shared_array<float> means(mean), x(static_cast<std::size_t>(rows * n));
        shared_array<detail::coefficient_correction> extras(extra);
        detail::inverse_job job{.c = cs.p,
                                .ldc = k,
                                .matrix = ms.p,
                                .mean = means.p,
                                .scale = 0.25f,
                                .x = x.p,
                                .ldx = n,
                                .rows = rows,
                                .k = k,
                                .n = n,
                                .matrix_rows = n,
                                .corrections = extras.p,
                                .num_corrections = extras.n};
        const auto grid = static_cast<unsigned>((rows + cuda::dense_tile_rows - 1) / cuda::dense_tile_rows);
        cuda::inverse_transform_kernel<><<<grid, 128, cuda::dense_shared_bytes(k)>>>(job);
        finish();
        std::vector<float> want(x.n), workspace(detail::dense_workspace(rows, n, n));
        job.x = want.data();
        detail::inverse_transform(isa::portable, job, workspace.data());
        int wrong = 0;
        for (std::size_t i = 0; i < want.size(); ++i) wrong += !(std::abs(x.p[i] - want[i]) < 1e-4f);
        CHECK(wrong == 0);

        auto y = random_floats(random, rows * n, 4);
        if (rows > 4) y[0] = HUGE_VALF, y[static_cast<std::size_t>(2 * n)] = NAN;
        shared_array<float> ys(y), fs(m);
        shared_array<std::int16_t> q(static_cast<std::size_t>(rows * k));
        shared_array<std::uint8_t> beyond(static_cast<std::size_t>(rows));
        detail::forward_job forward{.x = ys.p,
                                    .ldx = n,
                                    .mean = means.p,
                                    .matrix = fs.p,
                                    .ldm = n,
                                    .c = q.p,
                                    .ldc = k,
                                    .beyond = beyond.p,
                                    .rows = rows,
                                    .n = n,
                                    .k = k};
        cuda::forward_transform_kernel<><<<grid, 128, cuda::dense_shared_bytes(n)>>>(forward);
        finish();
        std::vector<std::int16_t> want_q(q.n);
        std::vector<std::uint8_t> want_beyond(beyond.n, 0);
        forward.c = want_q.data();
        forward.beyond = want_beyond.data();
        detail::forward_transform(isa::portable, forward, workspace.data());
        int far = 0, off = 0;
        for (std::size_t i = 0; i < want_q.size(); ++i) {
          if (want_beyond[i / static_cast<std::size_t>(k)]) continue;
          far += std::abs(want_q[i] - q.p[i]) > 1;
          off += want_q[i] != q.p[i];  // sums a hair apart, on either side of a tie
        }
        CHECK(far == 0);
        CHECK(off <= static_cast<int>(want_q.size() / 1000 + 1));
        CHECK(beyond.values() == want_beyond);
      }
}

TEST_CASE("dense kernels: the identity transform and split3") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  constexpr int rows = 21, n = 67, k = 40;
  const auto mean = random_floats(random, n, 1);
  shared_array<std::int16_t> c(rows * n), q(rows * n);
  for (std::size_t i = 0; i < c.n; ++i) c.p[i] = static_cast<std::int16_t>(static_cast<int>(random() % 2001) - 1000);
  shared_array<float> means(mean), x(rows * n);
  shared_array<std::uint8_t> beyond(rows);
  cuda::dequantize_rows_kernel<><<<blocks_of_warps(rows), 256>>>(c.p, n, rows, k, 0.25f, means.p, n, x.p, n);
  cuda::quantize_rows_kernel<><<<blocks_of_warps(rows), 256>>>(x.p, n, rows, means.p, 4.0f, n, q.p, n, beyond.p);
  finish();
  int wrong = 0;
  for (int i = 0; i < rows * n; ++i) wrong += q.p[i] != (i % n < k ? c.p[i] : 0);
  CHECK(wrong == 0);

  std::vector<std::int16_t> all(65536), want_c(65536);
  for (int v = 0; v < 65536; ++v) all[static_cast<std::size_t>(v)] = static_cast<std::int16_t>(v - 32768);
  std::vector<std::int8_t> want_r(65536);
  detail::split3(isa::portable, all.data(), want_c.data(), want_r.data(), 65536);
  shared_array<std::int16_t> f(all), quotient(65536), wide(65536);
  shared_array<std::int8_t> digit(65536);
  cuda::split3_kernel<<<8, 256>>>(f.p, quotient.p, digit.p, 65536);
  cuda::split3_kernel<<<8, 256>>>(f.p, quotient.p, wide.p, 65535);
  finish();
  CHECK(quotient.values() == want_c);
  CHECK(digit.values() == want_r);
}
