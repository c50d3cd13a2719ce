// SPDX-License-Identifier: Apache-2.0
// Lossless tiles decoded by kernels: the same elements, bit for bit.
#include <sluice/cuda/lossless.cuh>
#include <sluice/cuda/rans.cuh>
#include <sluice/tensor/half.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <utility>
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
  shared_array<detail::decode_job> stream(static_cast<std::size_t>(strips));
  if (!coded.empty()) std::memcpy(in.p, coded.data(), coded.size());
  for (int i = 0; i < strips; ++i) {
    strip.p[i].symbols = planes.p + 2 * plane * static_cast<std::size_t>(i);
    strip.p[i].nibbles = strip.p[i].symbols + plane;
  }
  const cuda::lossless_tile tile{t,       rows,    n, in.p, coded.size(), elements.p, std::ptrdiff_t{n} * size_of(t),
                                 strip.p, stream.p};
  cuda::open_strips_kernel<><<<static_cast<unsigned>(strips), 32>>>(tile);
  finish();
  const auto memory = cuda::decode_memory<detail::alphabet::symbols>(16 * detail::rans_max_blocks);
  cuda::decode_kernel<detail::alphabet::symbols>
      <<<static_cast<unsigned>(strips), 32, memory.of_block(1)>>>(stream.p, strips, memory);
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

namespace {

// Modes by turns, whether they suit the elements or not: the passes must agree on any.
void lanes_of(dtype t, int columns, const detail::element_format& f, detail::strip_lanes_table& lanes) {
  int first = 0;
  for (int c = 0; c < (columns + 31) / 32 * 32; ++c)
    if (c >= columns)
      lanes.set_unused(c, first);
    else if (t != dtype::bytes && c % 3 == 0)
      first +=
          lanes.set(c, detail::mode_split, 0x82u >> (f.bits == 32 ? 0 : 8 - (f.bits - 1 - f.mantissa)), f, 0, 9, first);
    else
      first += lanes.set(c, detail::mode_window + c % 3, 0x3a51u * static_cast<unsigned>(c), f, 0, 9, first);
}

template <class T>
void passes_of(dtype t, std::mt19937& random) {
  constexpr int rows = 50, columns = 135;
  const detail::element_format f = detail::format_of(t);
  const auto elements = elements_of(t, rows, columns, 1, random);
  shared_array<std::byte> in(elements.size()), escapes(elements.size());
  std::memcpy(in.p, elements.data(), elements.size());
  shared_array<detail::strip_lanes_table> lanes(1);
  lanes_of(t, columns, f, *lanes.p);
  detail::strip_job job = detail::job_of(f, in.p, columns * size_of(t), rows, columns, nullptr);
  const auto symbol_count = static_cast<std::size_t>(rows * job.blocks * 32);
  shared_array<std::uint8_t> symbols(symbol_count);
  job.symbols = symbols.p;
  job.lanes = lanes.p;
  job.bits = f.bits;
  job.alphabet = 9;
  job.escapes = escapes.p;
  job.escape_limit = rows * columns;
  job.row_bytes = lanes.p->first_bit[columns - 1] / 8 + 5;
  const std::size_t packed_bytes = job.row_bytes * rows;
  shared_array<std::uint8_t> packed(packed_bytes + 64);
  job.packed = packed.p;
  shared_array<detail::column_fact_table> facts(1);
  shared_array<detail::symbol_counts> counts(detail::strip_lanes);
  shared_array<std::uint32_t> listed(1);
  shared_array<int> failed(1);
  using cuda::lossless_task;
  cuda::strip_kernel<lossless_task::facts, T><<<1, 32>>>(job, facts.p, failed.p);
  cuda::strip_kernel<lossless_task::cut, T><<<1, 32>>>(job, listed.p, failed.p);
  cuda::strip_kernel<lossless_task::count, T><<<1, 32>>>(job, counts.p, failed.p);
  cuda::strip_kernel<lossless_task::pack, T><<<1, 32>>>(job, nullptr, failed.p);
  finish();
  CHECK(*failed.p == 0);

  std::vector<std::uint8_t> host_symbols(symbol_count), host_packed(packed_bytes + 64);
  std::vector<std::byte> host_escapes(elements.size());
  std::vector<detail::symbol_counts> host_counts(detail::strip_lanes);
  detail::column_fact_table host_facts{};
  std::uint32_t host_listed = 0;
  detail::strip_job host = job;
  host.symbols = host_symbols.data();
  host.packed = host_packed.data();
  host.escapes = host_escapes.data();
  detail::strip_facts(isa::portable, f.size, host, host_facts);
  REQUIRE(detail::cut_strip(isa::portable, f.size, host, &host_listed));
  detail::count_strip(isa::portable, host, host_counts.data());
  detail::pack_strip(isa::portable, f.size, host);
  CHECK(*listed.p == host_listed);
  CHECK(std::memcmp(escapes.p, host_escapes.data(), host_listed * sizeof(T)) == 0);
  CHECK(std::memcmp(symbols.p, host_symbols.data(), symbol_count) == 0);
  CHECK(std::memcmp(counts.p, host_counts.data(), columns * sizeof(detail::symbol_counts)) == 0);
  CHECK(std::memcmp(packed.p, host_packed.data(), packed_bytes) == 0);
  for (int c = 0; c < columns; ++c) {
    CHECK(facts.p->any[c] == host_facts.any[c]);
    CHECK(facts.p->varies[c] == host_facts.varies[c]);
    CHECK(facts.p->largest[c] == host_facts.largest[c]);
    CHECK(facts.p->negative[c] == host_facts.negative[c]);
  }
  job.escape_limit = 1;
  cuda::strip_kernel<lossless_task::cut, T><<<1, 32>>>(job, listed.p, failed.p);
  finish();
  CHECK(*failed.p == (host_listed > 1));
}

}  // namespace

TEST_CASE("lossless kernels: the passes of the encoder") {
  std::mt19937 random(seed + 2);
  MESSAGE("seed " << seed + 2);
  passes_of<std::uint32_t>(dtype::f32, random);
  passes_of<std::uint16_t>(dtype::f16, random);
  passes_of<std::uint16_t>(dtype::bf16, random);
  passes_of<std::uint8_t>(dtype::e4m3, random);
  passes_of<std::uint8_t>(dtype::e5m2, random);
  passes_of<std::uint8_t>(dtype::bytes, random);
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
