// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/entropy/bitpack/bitpack.hpp>

#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

// One tile: 256 tokens of 192 coefficients. bytes_per_second counts the cache's bytes at f16.
namespace {

constexpr int rows = 256, blocks = 6, n = 32 * blocks;

struct tile {
  std::vector<std::uint8_t> codes = std::vector<std::uint8_t>(rows * n);
  std::vector<float> x = std::vector<float>(rows * n);
  std::vector<std::byte> bytes;
  explicit tile(std::size_t size) : bytes(size) {
    for (std::size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<std::uint8_t>(i * 2654435761u >> 13);
      x[i] = static_cast<float>(codes[i]) * 0.1f - 3.f;
    }
  }
};

void finish(benchmark::State& state, std::size_t size) {
  state.SetBytesProcessed(state.iterations() * rows * n * 2);
  state.counters["bits_per_value"] = 8.0 * static_cast<double>(size) / (rows * n);
}

template <sluice::isa On>
void unpack_bits(benchmark::State& state) {
  if (sluice::usable_isa(On) != On) return state.SkipWithError("this processor lacks the instruction set");
  const int width = static_cast<int>(state.range(0));
  tile t(sluice::packed_size(width, rows, blocks));
  for (auto _ : state) {
    benchmark::DoNotOptimize(sluice::unpack_bits(width, t.bytes, t.codes.data(), n, rows, blocks, On));
    benchmark::ClobberMemory();
  }
  finish(state, t.bytes.size());
}

template <sluice::isa On>
void quantize(benchmark::State& state) {
  if (sluice::usable_isa(On) != On) return state.SkipWithError("this processor lacks the instruction set");
  const int width = static_cast<int>(state.range(0));
  tile t(sluice::quantized_size(width, 64, rows, blocks));
  for (auto _ : state) {
    benchmark::DoNotOptimize(sluice::quantize_groups(width, 64, t.x.data(), n, rows, blocks, t.bytes, On));
    benchmark::ClobberMemory();
  }
  finish(state, t.bytes.size());
}

template <sluice::isa On>
void dequantize(benchmark::State& state) {
  if (sluice::usable_isa(On) != On) return state.SkipWithError("this processor lacks the instruction set");
  const int width = static_cast<int>(state.range(0));
  tile t(sluice::quantized_size(width, 64, rows, blocks));
  (void)sluice::quantize_groups(width, 64, t.x.data(), n, rows, blocks, t.bytes);
  for (auto _ : state) {
    benchmark::DoNotOptimize(sluice::dequantize_groups(width, 64, t.bytes, t.x.data(), n, rows, blocks, On));
    benchmark::ClobberMemory();
  }
  finish(state, t.bytes.size());
}

// A plain bit reader, one code after the other: what a fixed rate costs without lanes.
void unpack_rival_bitreader(benchmark::State& state) {
  const unsigned width = static_cast<unsigned>(state.range(0));
  tile t(rows * n + 8);
  for (auto _ : state) {
    std::size_t at = 0;
    for (auto& code : t.codes) {
      std::uint32_t window;
      std::memcpy(&window, t.bytes.data() + at / 8, 4);
      code = static_cast<std::uint8_t>(window >> at % 8 & ((1u << width) - 1));
      at += width;
    }
    benchmark::ClobberMemory();
  }
  finish(state, rows * n * width / 8);
}

}  // namespace

#define SLUICE_BENCH(f)                                                \
  BENCHMARK(f<sluice::isa::portable>)->Arg(2)->Arg(3)->Arg(4)->Arg(8); \
  BENCHMARK(f<sluice::isa::avx2>)->Arg(2)->Arg(3)->Arg(4)->Arg(8);     \
  BENCHMARK(f<sluice::isa::avx512>)->Arg(2)->Arg(3)->Arg(4)->Arg(8)
SLUICE_BENCH(unpack_bits);
SLUICE_BENCH(dequantize);
SLUICE_BENCH(quantize);
#undef SLUICE_BENCH
BENCHMARK(unpack_rival_bitreader)->Arg(4);
