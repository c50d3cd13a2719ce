// SPDX-License-Identifier: Apache-2.0
// Lossless tiles opened and joined by kernels, their streams decoded by the host: the same elements, bit for bit.
#include <sluice/cuda/lossless.cuh>
#include <sluice/tensor/half.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

using namespace sluice;

namespace {

constexpr unsigned seed = 20261122;

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

// Channels of a cache; `what`: 0 ordinary, 1 with rare values, 2 random bits, 3 four-bit codes.
std::vector<std::byte> elements_of(dtype t, int rows, int n, int what, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<std::byte> b(static_cast<std::size_t>(rows * n * size_of(t)));
  for (int i = 0; i < rows * n; ++i) {
    float x = std::ldexp(normal(random), i % n % 9 - 4) + (i % n % 8 == 5 ? 40.f : 0.f);
    if (what == 1 && random() % 50 == 0) x = std::ldexp(x, -static_cast<int>(random() % 20));
    std::byte* const to = b.data() + i * size_of(t);
    if (what == 2)
      for (int k = 0; k < size_of(t); ++k) to[k] = static_cast<std::byte>(random());
    else if (t == dtype::bytes)
      *to = what == 3
                ? static_cast<std::byte>((std::lround(normal(random)) & 15) | (std::lround(normal(random)) & 15) << 4)
                : static_cast<std::byte>(std::lround(x * 8));
    else
      store_element(to, t, x);
  }
  return b;
}

struct decoded {
  std::vector<std::byte> elements;
  status state = status::ok;
};

decoded decode_with_kernels(dtype t, int rows, int n, const std::vector<std::byte>& coded) {
  const int strips = cuda::lossless_strips(t, n);
  const std::size_t plane = static_cast<std::size_t>(rows) * detail::strip_lanes;
  const std::size_t size = static_cast<std::size_t>(rows * n * size_of(t));
  shared_array<std::byte> in(coded.size()), elements(size);
  shared_array<std::uint8_t> planes(2 * plane * static_cast<std::size_t>(strips));
  shared_array<cuda::lossless_strip> strip(static_cast<std::size_t>(strips));
  shared_array<detail::stream_job> stream(static_cast<std::size_t>(strips));
  if (!coded.empty()) std::memcpy(in.p, coded.data(), coded.size());
  for (int i = 0; i < strips; ++i) {
    strip.p[i].symbols = planes.p + 2 * plane * static_cast<std::size_t>(i);
    strip.p[i].nibbles = strip.p[i].symbols + plane;
  }
  const cuda::lossless_tile tile{t,       rows,    n, in.p, coded.size(), elements.p, std::ptrdiff_t{n} * size_of(t),
                                 strip.p, stream.p};
  cuda::open_strips_kernel<><<<static_cast<unsigned>(strips), 32>>>(tile);
  finish();
  detail::decode_symbols({stream.p, static_cast<std::size_t>(strips)});
  cuda::join_strips_kernel<><<<static_cast<unsigned>(strips), 32>>>(tile);
  finish();
  decoded d{{elements.p, elements.p + size}};
  for (int i = strips; i-- > 0;)
    if (strip.p[i].state != status::ok) d.state = strip.p[i].state;
  return d;
}

}  // namespace

TEST_CASE("lossless kernels: elements of every type") {
  std::mt19937 random(seed);
  MESSAGE("seed " << seed);
  for (const dtype t : {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2, dtype::bytes})
    for (const int rows : {3, 64, 130})
      for (const int n : {5, 64, 300})
        for (int what = 0; what < 4; ++what) {
          const auto elements = elements_of(t, rows, n, what, random);
          std::vector<std::byte> coded(lossless_max_size(t, rows, n)), workspace;
          coded.resize(
              lossless_encode(t, rows, n, elements.data(), static_cast<std::size_t>(n * size_of(t)), coded, workspace));
          const decoded d = decode_with_kernels(t, rows, n, coded);
          CHECK(d.state == status::ok);
          CHECK(d.elements == elements);
        }
}

TEST_CASE("lossless kernels: damaged bytes are refused where the host refuses them") {
  std::mt19937 random(seed + 1);
  MESSAGE("seed " << seed + 1);
  for (const dtype t : {dtype::f16, dtype::e5m2, dtype::bytes})
    for (int i = 0; i < 60; ++i) {
      constexpr int rows = 40, n = 270;
      const auto elements = elements_of(t, rows, n, 1, random);
      std::vector<std::byte> coded(lossless_max_size(t, rows, n)), workspace, out(elements.size());
      coded.resize(
          lossless_encode(t, rows, n, elements.data(), static_cast<std::size_t>(n * size_of(t)), coded, workspace));
      if (i % 3 == 0)
        coded.resize(random() % coded.size());
      else
        coded[random() % (i % 3 == 1 ? 600 : coded.size())] ^= static_cast<std::byte>(1 + random() % 255);
      const status expected =
          lossless_decode(t, rows, n, coded, out.data(), static_cast<std::size_t>(n * size_of(t)), workspace);
      const decoded d = decode_with_kernels(t, rows, n, coded);
      CHECK((d.state == status::ok) == (expected == status::ok));
      if (expected == status::ok) CHECK(d.elements == out);
    }
}
