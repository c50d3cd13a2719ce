// SPDX-License-Identifier: Apache-2.0
// The float side of the codec beside Eigen (products) and memcpy (everything that moves rows). Bytes are those read and
// written in the engine's memory or as floats, whichever is named; a multiply-add counts as two operations.
#include <sluice/codec/quantize/ternary.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/rotate.hpp>
#include <sluice/tensor/rows.hpp>

#include <benchmark/benchmark.h>

#include <cstring>
#include <random>
#include <vector>

#include "dense_eigen.hpp"

namespace {

using namespace sluice;
using namespace sluice::detail;

constexpr int rows = 256;

bool lacking(benchmark::State& state, isa on) {
  if (usable_isa(on) == on) return false;
  state.SkipWithError("this processor lacks the instruction set");
  return true;
}

std::vector<float> random_floats(std::size_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  std::vector<float> v(n);
  for (float& x : v) x = normal(random);
  return v;
}

void count_operations(benchmark::State& state, double m, double k, double n) {
  state.counters["FLOP/s"] = benchmark::Counter(2 * m * k * n, benchmark::Counter::kIsIterationInvariantRate);
}

void product_eigen(benchmark::State& state) {
  const int n = static_cast<int>(state.range(0)), k = static_cast<int>(state.range(1));
  const auto a = random_floats(static_cast<std::size_t>(rows * k)), b = random_floats(static_cast<std::size_t>(k * n));
  std::vector<float> c(static_cast<std::size_t>(rows * n));
  for (auto _ : state) {
    dense_rival::multiply(a.data(), b.data(), c.data(), rows, k, n);
    benchmark::ClobberMemory();
  }
  state.SetLabel(dense_rival::instruction_sets());
  count_operations(state, rows, k, n);
}

void inverse(benchmark::State& state, isa on) {
  if (lacking(state, on)) return;
  const int n = static_cast<int>(state.range(0)), k = static_cast<int>(state.range(1));
  std::vector<std::int16_t> c(static_cast<std::size_t>(rows * n));
  for (std::size_t i = 0; i < c.size(); ++i) c[i] = static_cast<std::int16_t>(i % 7);
  std::vector<std::uint16_t> matrix(static_cast<std::size_t>(k * n));
  for (std::size_t i = 0; i < matrix.size(); ++i) matrix[i] = from_float<f16>(static_cast<float>(i % 13) - 6).bits;
  const auto mean = random_floats(static_cast<std::size_t>(n));
  std::vector<float> x(static_cast<std::size_t>(rows * n)), workspace(dense_workspace(rows, k, n));
  const inverse_job job{.c = c.data(),
                        .ldc = n,
                        .matrix = matrix.data(),
                        .mean = mean.data(),
                        .scale = 0.1f,
                        .x = x.data(),
                        .ldx = n,
                        .rows = rows,
                        .k = k,
                        .n = n,
                        .matrix_rows = k};
  for (auto _ : state) {
    inverse_transform(on, job, workspace.data());
    benchmark::ClobberMemory();
  }
  count_operations(state, rows, k, n);
}

void forward(benchmark::State& state, isa on) {
  if (lacking(state, on)) return;
  const int n = static_cast<int>(state.range(0)), k = static_cast<int>(state.range(1));
  const auto x = random_floats(static_cast<std::size_t>(rows * n)), mean = random_floats(static_cast<std::size_t>(n));
  const auto matrix = random_floats(static_cast<std::size_t>(n * n));
  std::vector<std::int16_t> c(static_cast<std::size_t>(rows * k));
  std::vector<std::uint8_t> beyond(rows);
  std::vector<float> workspace(dense_workspace(rows, n, k));
  const forward_job job{.x = x.data(),
                        .ldx = n,
                        .mean = mean.data(),
                        .matrix = matrix.data(),
                        .ldm = n,
                        .c = c.data(),
                        .ldc = k,
                        .beyond = beyond.data(),
                        .rows = rows,
                        .n = n,
                        .k = k};
  for (auto _ : state) {
    forward_transform(on, job, workspace.data());
    benchmark::ClobberMemory();
  }
  count_operations(state, rows, k, n);
}

enum class layout { nhd, transposed };

struct engine_rows {
  static constexpr int heads = 4, head_dim = 64, width = heads * head_dim;
  std::vector<std::byte> memory;
  std::vector<std::int64_t> offsets;
  row_layout at;

  engine_rows(layout l, dtype t) : memory(static_cast<std::size_t>(rows * width * size_of(t))), offsets(rows) {
    const std::int64_t e = size_of(t);
    for (int r = 0; r < rows; ++r) offsets[static_cast<std::size_t>(r)] = r * (l == layout::nhd ? width : 1) * e;
    at = l == layout::nhd ? row_layout{offsets.data(), head_dim * e, e, 0, heads, head_dim, t}
                          : row_layout{offsets.data(), head_dim * rows * e, rows * e, 0, heads, head_dim, t};
    for (std::size_t i = 0; i < memory.size(); ++i) memory[i] = static_cast<std::byte>(i * 37 & 0x3f);
  }
};

void load(benchmark::State& state, isa on, layout l, dtype t) {
  if (lacking(state, on)) return;
  engine_rows e(l, t);
  std::vector<float> x(rows * engine_rows::width);
  std::vector<std::uint8_t> bad(rows);
  for (auto _ : state) {
    load_rows(on, e.memory.data(), e.at, rows, x.data(), engine_rows::width, bad.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(e.memory.size()));
}

void store(benchmark::State& state, isa on, layout l, dtype t) {
  if (lacking(state, on)) return;
  engine_rows e(l, t);
  const auto x = random_floats(rows * engine_rows::width);
  for (auto _ : state) {
    store_rows(on, x.data(), engine_rows::width, rows, e.memory.data(), e.at);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(e.memory.size()));
}

void rotate(benchmark::State& state, isa on, rope_pairing pairing) {
  if (lacking(state, on)) return;
  constexpr int heads = 4, head_dim = 64, half = head_dim / 2;
  auto x = random_floats(rows * heads * head_dim);
  const std::vector<float> cosine(rows * half, 0.8f), sine(rows * half, 0.6f);
  for (auto _ : state) {
    rotate_rows(on, x.data(), heads * head_dim, rows, heads, head_dim, pairing, head_dim, cosine.data(), sine.data(),
                half);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * rows * heads * head_dim * 4);
}

void dequantize(benchmark::State& state, isa on) {
  if (lacking(state, on)) return;
  constexpr int n = 256;
  const std::vector<std::int16_t> c(rows * n, 3);
  const auto mean = random_floats(n);
  std::vector<float> x(rows * n);
  for (auto _ : state) {
    dequantize_rows(on, c.data(), n, rows, n, 0.1f, mean.data(), n, x.data(), n);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * rows * n * 4);
}

void quantize(benchmark::State& state, isa on) {
  if (lacking(state, on)) return;
  constexpr int n = 256;
  const auto mean = random_floats(n), x = random_floats(rows * n);
  std::vector<std::int16_t> c(rows * n);
  std::vector<std::uint8_t> beyond(rows);
  for (auto _ : state) {
    quantize_rows(on, x.data(), n, rows, mean.data(), 10.0f, n, c.data(), n, beyond.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * rows * n * 4);
}

void split(benchmark::State& state, isa on) {
  if (lacking(state, on)) return;
  std::vector<std::int16_t> f(rows * 256), c(f.size());
  std::vector<std::int8_t> r(f.size());
  for (std::size_t i = 0; i < f.size(); ++i) f[i] = static_cast<std::int16_t>(i % 31);
  for (auto _ : state) {
    std::int8_t* const digits[] = {nullptr, r.data()};
    split_levels(on, f.data(), c.data(), digits, 2, 2, static_cast<int>(f.size()));
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(f.size()) * 2);
}

void scan(benchmark::State& state, isa on) {
  if (lacking(state, on)) return;
  const std::vector<std::int16_t> v(rows * 256, 3), limit(256, 7);
  coefficient_place found[4];
  for (auto _ : state) benchmark::DoNotOptimize(scan_limits(on, v.data(), 256, rows, 256, limit.data(), found, 4));
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(v.size()) * 2);
}

void rival_memcpy(benchmark::State& state) {
  std::vector<std::byte> from(rows * 256 * 4), to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(from.size()));
}

void products(benchmark::internal::Benchmark* b) {
  for (int n : {64, 96, 128, 192, 256, 576, 1024}) b->Args({n, n});
  b->Args({192, 120});  // live coefficients only
}

const bool registered = [] {
  using benchmark::RegisterBenchmark;
  RegisterBenchmark("dense_rival_eigen", product_eigen)->Apply(products);
  for (isa i : {isa::avx512, isa::avx2, isa::portable}) {
    const std::string at = to_string(i);
    RegisterBenchmark(("dense_inverse_" + at).c_str(), inverse, i)->Apply(products);
    RegisterBenchmark(("dense_forward_" + at).c_str(), forward, i)->Apply(products);
  }
  RegisterBenchmark("dense_rival_memcpy", rival_memcpy);
  for (isa i : {isa::avx512, isa::avx2, isa::portable}) {
    const std::string at = to_string(i);
    for (dtype t : {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2}) {
      const std::string type = std::string("_") + to_string(t);
      RegisterBenchmark(("dense_load_" + at + type).c_str(), load, i, layout::nhd, t);
      RegisterBenchmark(("dense_store_" + at + type).c_str(), store, i, layout::nhd, t);
    }
    RegisterBenchmark(("dense_load_" + at + "_f16_transposed").c_str(), load, i, layout::transposed, dtype::f16);
    RegisterBenchmark(("dense_store_" + at + "_f16_transposed").c_str(), store, i, layout::transposed, dtype::f16);
    RegisterBenchmark(("dense_rotate_" + at + "_half").c_str(), rotate, i, rope_pairing::half);
    RegisterBenchmark(("dense_rotate_" + at + "_interleaved").c_str(), rotate, i, rope_pairing::interleaved);
    RegisterBenchmark(("dense_dequantize_" + at).c_str(), dequantize, i);
    RegisterBenchmark(("dense_quantize_" + at).c_str(), quantize, i);
    RegisterBenchmark(("dense_split3_" + at).c_str(), split, i);
    RegisterBenchmark(("dense_scan_limits_" + at).c_str(), scan, i);
  }
  return true;
}();

}  // namespace
