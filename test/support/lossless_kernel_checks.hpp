// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/bodies/lossless.cuh>
#include <sluice/cuda/bodies/rans.cuh>
#include <sluice/tensor/half.hpp>

#include <doctest/doctest.h>
#include <support/dense_kernel_checks.hpp>
#include <support/device.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

// Lossless tiles in and out of the kernels: the same elements, bit for bit.
namespace lossless_checks {

using namespace sluice;
using dense_checks::run;

// Channels of a cache; `what`: 0 ordinary, 1 with rare values, 2 random bits, 3 four-bit codes.
inline std::vector<std::byte> elements_of(dtype t, int rows, int n, int what, std::mt19937& random) {
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

inline decoded decode_with_kernels(dtype t, int rows, int n, const std::vector<std::byte>& coded) {
  const int strips = cuda::lossless_strips(t, n);
  const std::size_t plane = static_cast<std::size_t>(rows) * detail::strip_lanes;
  const device_buffer<std::byte> in(coded), elements(static_cast<std::size_t>(rows * n * size_of(t)));
  const device_buffer<std::uint8_t> planes(2 * plane * static_cast<std::size_t>(strips));
  std::vector<cuda::lossless_strip> strip(static_cast<std::size_t>(strips));
  for (std::size_t i = 0; i < strip.size(); ++i) {
    strip[i].symbols = planes.data() + 2 * plane * i;
    strip[i].nibbles = strip[i].symbols + plane;
  }
  const device_buffer<cuda::lossless_strip> strip_there(strip);
  const device_buffer<detail::decode_job> stream(static_cast<std::size_t>(strips));
  const cuda::lossless_tile tile{t,
                                 rows,
                                 n,
                                 in.data(),
                                 coded.size(),
                                 elements.data(),
                                 std::ptrdiff_t{n} * size_of(t),
                                 strip_there.data(),
                                 stream.data()};
  run(cuda::open_strips_kernel<>, strips, 32, 0, tile);
  const auto memory = cuda::decode_memory<detail::alphabet::symbols>(16 * detail::rans_max_blocks);
  constexpr auto decode = cuda::decode_kernel<detail::alphabet::symbols>;
  REQUIRE(cuda::allow_shared(decode, memory.of_block(1)) == status::ok);
  run(decode, strips, 32, memory.of_block(1), stream.data(), strips, memory);
  run(cuda::join_strips_kernel<>, strips, 32, 0, tile);
  decoded d{elements.download()};
  strip = strip_there.download();
  for (std::size_t i = strip.size(); i-- > 0;)
    if (strip[i].state != status::ok) d.state = strip[i].state;
  return d;
}

inline void every_type(unsigned seed) {
  std::mt19937 random(seed);
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

// Modes by turns, whether they suit the elements or not: the passes must agree on any.
inline void lanes_of(dtype t, int columns, const detail::element_format& f, detail::strip_lanes_table& lanes) {
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
  std::vector<detail::strip_lanes_table> lanes(1);
  lanes_of(t, columns, f, lanes[0]);
  detail::strip_job host =
      detail::job_of(f, const_cast<std::byte*>(elements.data()), columns * size_of(t), rows, columns, nullptr);
  const auto symbol_count = static_cast<std::size_t>(rows * host.blocks * 32);
  host.lanes = lanes.data();
  host.bits = f.bits;
  host.alphabet = 9;
  host.escape_limit = rows * columns;
  host.row_bytes = lanes[0].first_bit[columns - 1] / 8 + 5;
  const std::size_t packed_bytes = host.row_bytes * rows;
  std::vector<std::uint8_t> symbols(symbol_count), packed(packed_bytes + 64);
  std::vector<std::byte> escapes(elements.size());
  std::vector<detail::symbol_counts> counts(detail::strip_lanes);
  detail::column_fact_table facts{};
  std::uint32_t listed = 0;

  const device_buffer<std::byte> in(elements), escapes_there(elements.size());
  const device_buffer<detail::strip_lanes_table> lanes_there(lanes);
  const device_buffer<std::uint8_t> symbols_there(symbol_count), packed_there(packed);
  const device_buffer<detail::symbol_counts> counts_there(counts);
  const device_buffer<detail::column_fact_table> facts_there(1);
  const device_buffer<std::uint32_t> listed_there(1);
  const device_buffer<int> failed(std::vector<int>{0});
  detail::strip_job job = detail::job_of(f, in.data(), columns * size_of(t), rows, columns, symbols_there.data());
  job.lanes = lanes_there.data();
  job.bits = host.bits, job.alphabet = host.alphabet;
  job.escape_limit = host.escape_limit, job.row_bytes = host.row_bytes;
  job.escapes = escapes_there.data();
  job.packed = packed_there.data();
  using cuda::lossless_task;
  run(cuda::strip_kernel<lossless_task::facts, T>, 1, 32, 0, job, facts_there.data(), failed.data());
  run(cuda::strip_kernel<lossless_task::cut, T>, 1, 32, 0, job, listed_there.data(), failed.data());
  run(cuda::strip_kernel<lossless_task::count, T>, 1, 32, 0, job, counts_there.data(), failed.data());
  run(cuda::strip_kernel<lossless_task::pack, T>, 1, 32, 0, job, nullptr, failed.data());
  CHECK(failed.download()[0] == 0);

  host.symbols = symbols.data();
  host.packed = packed.data();
  host.escapes = escapes.data();
  detail::strip_facts(isa::portable, f.size, host, facts);
  REQUIRE(detail::cut_strip(isa::portable, f.size, host, &listed));
  detail::count_strip(isa::portable, host, counts.data());
  detail::pack_strip(isa::portable, f.size, host);
  CHECK(listed_there.download()[0] == listed);
  CHECK(std::memcmp(escapes_there.download().data(), escapes.data(), listed * sizeof(T)) == 0);
  CHECK(symbols_there.download() == symbols);
  CHECK(std::memcmp(counts_there.download().data(), counts.data(), columns * sizeof(detail::symbol_counts)) == 0);
  CHECK(std::memcmp(packed_there.download().data(), packed.data(), packed_bytes) == 0);
  const auto found = facts_there.download();
  for (int c = 0; c < columns; ++c) {
    CHECK(found[0].any[c] == facts.any[c]);
    CHECK(found[0].varies[c] == facts.varies[c]);
    CHECK(found[0].largest[c] == facts.largest[c]);
    CHECK(found[0].negative[c] == facts.negative[c]);
  }
  job.escape_limit = 1;
  run(cuda::strip_kernel<lossless_task::cut, T>, 1, 32, 0, job, listed_there.data(), failed.data());
  CHECK(failed.download()[0] == (listed > 1));
}

inline void passes(unsigned seed) {
  std::mt19937 random(seed);
  passes_of<std::uint32_t>(dtype::f32, random);
  passes_of<std::uint16_t>(dtype::f16, random);
  passes_of<std::uint16_t>(dtype::bf16, random);
  passes_of<std::uint8_t>(dtype::e4m3, random);
  passes_of<std::uint8_t>(dtype::e5m2, random);
  passes_of<std::uint8_t>(dtype::bytes, random);
}

inline void damage(unsigned seed) {
  std::mt19937 random(seed);
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

}  // namespace lossless_checks
