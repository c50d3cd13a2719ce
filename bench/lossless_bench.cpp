// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/entropy/split_exponent/lossless.hpp>
#include <sluice/tensor/half.hpp>

#include <benchmark/benchmark.h>
#include <zstd.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

// One tile of 256 tokens and 192 channels with scales of their own, some with a mean. bytes_per_second counts raw bytes.
namespace {

using sluice::dtype;
using sluice::isa;

constexpr int rows = 256, n = 192;

std::vector<std::byte> tile(dtype t) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  std::vector<std::byte> b(static_cast<std::size_t>(rows * n * sluice::size_of(t)));
  std::vector<float> scale(n);
  for (auto& s : scale) s = std::exp2(1.5f * normal(random));
  for (int i = 0; i < rows * n; ++i) {
    const float x = scale[static_cast<std::size_t>(i % n)] * (normal(random) + (i % 8 == 5 ? 6.f : 0.f));
    std::byte* const to = b.data() + i * sluice::size_of(t);
    if (t == dtype::bytes)
      *to = static_cast<std::byte>(static_cast<int>(std::lround(16 * x)));
    else
      sluice::store_element(to, t, x);
  }
  return b;
}

void finish(benchmark::State& state, std::size_t raw, std::size_t coded) {
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(raw));
  state.counters["ratio"] = static_cast<double>(raw) / static_cast<double>(coded);
  state.counters["bits_per_value"] = 8.0 * static_cast<double>(coded) / (rows * n);
}

template <isa On>
void lossless_encode(benchmark::State& state) {
  if (sluice::usable_isa(On) != On) return state.SkipWithError("this processor lacks the instruction set");
  const auto t = static_cast<dtype>(state.range(0));
  const auto raw = tile(t);
  std::vector<std::byte> out(sluice::lossless_max_size(t, rows, n)), workspace;
  std::size_t size = 0;
  for (auto _ : state) size = sluice::lossless_encode(t, rows, n, raw.data(), raw.size() / rows, out, workspace, On);
  finish(state, raw.size(), size);
  state.SetLabel(sluice::to_string(t));
}

template <isa On>
void lossless_decode(benchmark::State& state) {
  if (sluice::usable_isa(On) != On) return state.SkipWithError("this processor lacks the instruction set");
  const auto t = static_cast<dtype>(state.range(0));
  auto raw = tile(t);
  std::vector<std::byte> out(sluice::lossless_max_size(t, rows, n)), workspace;
  out.resize(sluice::lossless_encode(t, rows, n, raw.data(), raw.size() / rows, out, workspace));
  for (auto _ : state) {
    if (sluice::lossless_decode(t, rows, n, out, raw.data(), raw.size() / rows, workspace, On) != sluice::status::ok)
      return state.SkipWithError("does not decode");
    benchmark::ClobberMemory();
  }
  finish(state, raw.size(), out.size());
  state.SetLabel(sluice::to_string(t));
}

void lossless_rival_zstd_encode(benchmark::State& state) {
  const auto raw = tile(dtype::f16);
  std::vector<std::byte> out(ZSTD_compressBound(raw.size()));
  std::size_t size = 0;
  for (auto _ : state)
    size = ZSTD_compress(out.data(), out.size(), raw.data(), raw.size(), static_cast<int>(state.range(0)));
  finish(state, raw.size(), size);
}

void lossless_rival_zstd_decode(benchmark::State& state) {
  auto raw = tile(dtype::f16);
  std::vector<std::byte> out(ZSTD_compressBound(raw.size()));
  out.resize(ZSTD_compress(out.data(), out.size(), raw.data(), raw.size(), static_cast<int>(state.range(0))));
  for (auto _ : state) {
    benchmark::DoNotOptimize(ZSTD_decompress(raw.data(), raw.size(), out.data(), out.size()));
    benchmark::ClobberMemory();
  }
  finish(state, raw.size(), out.size());
}

void lossless_rival_memcpy(benchmark::State& state) {
  const auto raw = tile(dtype::f16);
  auto to = raw;
  for (auto _ : state) {
    std::memcpy(to.data(), raw.data(), raw.size());
    benchmark::ClobberMemory();
  }
  finish(state, raw.size(), raw.size());
}

}  // namespace

BENCHMARK(lossless_encode<isa::portable>)->DenseRange(0, 5);
BENCHMARK(lossless_encode<isa::avx2>)->DenseRange(0, 5);
BENCHMARK(lossless_encode<isa::avx512>)->DenseRange(0, 5);
BENCHMARK(lossless_decode<isa::portable>)->DenseRange(0, 5);
BENCHMARK(lossless_decode<isa::avx2>)->DenseRange(0, 5);
BENCHMARK(lossless_decode<isa::avx512>)->DenseRange(0, 5);
BENCHMARK(lossless_rival_zstd_encode)->Arg(1)->Arg(3);
BENCHMARK(lossless_rival_zstd_decode)->Arg(1)->Arg(3);
BENCHMARK(lossless_rival_memcpy);
