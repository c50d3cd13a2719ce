// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/rans/rans.hpp>

#include <benchmark/benchmark.h>
#include <time.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <vector>

// Tiles of 256 tokens of 192 coefficients, drawn from the tables that code them. items_per_second counts symbols,
// bytes_per_second the cache's bytes at f16.
namespace {

using namespace sluice::detail;
using sluice::isa;

constexpr int rows = 256, blocks = 6, n = 32 * blocks, cells = rows * n;
constexpr unsigned seed = 7;

// A two-sided geometric distribution of as many symbols, every lane a little wider than the next.
std::vector<std::uint16_t> geometric(int symbols, double decay) {
  std::vector<double> weight(static_cast<std::size_t>(symbols));
  double sum = 0;
  for (int k = 0; k < symbols; ++k)
    sum += weight[static_cast<std::size_t>(k)] = std::pow(decay, (k + 1) / 2) * (k == 0 ? 2 : 1);
  std::vector<std::uint16_t> f;
  int left = 256;
  for (double w : weight) {
    f.push_back(static_cast<std::uint16_t>(std::max(1.0, std::floor(w / sum * 256))));
    left -= f.back();
  }
  f[0] = static_cast<std::uint16_t>(f[0] + left);
  return f;
}

struct tile {
  std::vector<base_block> base{blocks};
  std::vector<ternary_block> ternary{blocks};
  std::vector<std::int16_t> values = std::vector<std::int16_t>(cells), parents = std::vector<std::int16_t>(cells);
  std::vector<std::int8_t> digits = std::vector<std::int8_t>(cells);
  std::vector<std::uint8_t> scratch = std::vector<std::uint8_t>(encoded_bound(blocks, rows, rans_max_digits));

  // symbols = 0: a ternary refinement.
  explicit tile(int symbols) {
    std::mt19937 random(seed);
    for (int b = 0; b < blocks; ++b) {
      base_block& t = base[static_cast<std::size_t>(b)];
      set_dead(t);
      for (int lane = 0; lane < 32; ++lane) {
        if (symbols > 0) set_lane(t, lane, geometric(symbols, 1 - 1.7 / (symbols - 1) - lane * 0.002));
        const std::uint16_t zero[] = {156, 50, 50}, nonzero[] = {100, 86, 70};
        set_lane(ternary[static_cast<std::size_t>(b)], lane, zero, nonzero);
      }
    }
    for (std::size_t i = 0; i < cells; ++i) {
      const int lane = static_cast<int>(i % 32), slot = static_cast<int>(random() % 256);
      const std::size_t b = i / 32 % blocks;
      parents[i] = static_cast<std::int16_t>(static_cast<int>(random() % 3) - 1);
      const auto& t = parents[i] == 0 ? ternary[b].zero : ternary[b].nonzero;
      const int digit = slot > t[1][lane] ? 1 : slot > t[0][lane] ? -1 : 0;
      digits[i] = static_cast<std::int8_t>(parents[i] < 0 ? -digit : digit);
      int s = 0;
      for (const auto& row : base[b].threshold) s += slot > row[lane];
      values[i] = static_cast<std::int16_t>((s >> 1) ^ -(s & 1));
    }
  }

  encode_job encoder(bool is_ternary) {
    encode_job j;
    j.tables = is_ternary ? static_cast<const void*>(ternary.data()) : base.data();
    j.blocks = blocks, j.rows = rows, j.stride = n;
    j.values = is_ternary ? parents.data() : values.data();
    j.digits = digits.data();
    j.scratch = scratch.data(), j.capacity = scratch.size();
    return j;
  }
};

void run(std::span<encode_job> jobs, bool ternary, isa on) {
  ternary ? encode_ternary(jobs, on) : encode_base(jobs, on);
}
void run(std::span<decode_job> jobs, bool ternary, isa on) {
  ternary ? decode_ternary(jobs, on) : decode_base(jobs, on);
}

void finish(benchmark::State& state, std::int64_t streams, std::uint32_t size) {
  state.SetItemsProcessed(state.iterations() * streams * cells);
  state.SetBytesProcessed(state.iterations() * streams * cells * 2);
  state.counters["bits_per_value"] = 8.0 * size / cells;
}

// Of this thread: other programs on the machine do not count.
double cpu_seconds() {
  timespec t{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

template <isa On>
void rans_decode(benchmark::State& state) {
  if (sluice::usable_isa(On) != On) return state.SkipWithError("this processor lacks the instruction set");
  const bool ternary = state.range(0) == 0;
  const auto streams = static_cast<std::size_t>(state.range(1));
  tile t(static_cast<int>(state.range(0)));
  encode_job e = t.encoder(ternary);
  run({&e, 1}, ternary, On);
  std::vector<std::vector<std::int16_t>> out(streams, t.parents);
  std::vector<decode_job> jobs(streams);
  for (std::size_t i = 0; i < streams; ++i) {
    jobs[i].tables = e.tables;
    jobs[i].bytes = e.bytes, jobs[i].size = e.size;
    jobs[i].blocks = blocks, jobs[i].rows = rows, jobs[i].stride = n;
    jobs[i].values = out[i].data();
  }
  for (auto _ : state) {
    if (ternary)  // values replace their parents
      for (auto& o : out) std::memcpy(o.data(), t.parents.data(), 2 * cells);
    const double start = cpu_seconds();
    run(jobs, ternary, On);
    state.SetIterationTime(cpu_seconds() - start);
  }
  for (const decode_job& j : jobs)
    if (!j.ok) state.SkipWithError("the stream does not decode");
  finish(state, state.range(1), e.size);
}

template <isa On>
void rans_encode(benchmark::State& state) {
  if (sluice::usable_isa(On) != On) return state.SkipWithError("this processor lacks the instruction set");
  const bool ternary = state.range(0) == 0;
  tile t(static_cast<int>(state.range(0)));
  encode_job e = t.encoder(ternary);
  for (auto _ : state) {
    run({&e, 1}, ternary, On);
    benchmark::ClobberMemory();
  }
  if (!e.ok) state.SkipWithError("the values do not encode");
  finish(state, 1, e.size);
}

void rans_rival_memcpy(benchmark::State& state) {
  std::vector<std::int16_t> from(cells, 1), to(cells);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), 2 * cells);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * cells);
  state.SetBytesProcessed(state.iterations() * cells * 2);
}

#define SLUICE_BENCH_RANS(on)                      \
  BENCHMARK(rans_decode<isa::on>)                  \
      ->ArgNames({"symbols", "streams"})           \
      ->ArgsProduct({{0, 3, 5, 9, 15}, {1, 2, 4}}) \
      ->UseManualTime();                           \
  BENCHMARK(rans_encode<isa::on>)->ArgNames({"symbols"})->ArgsProduct({{0, 3, 5, 9, 15}})
SLUICE_BENCH_RANS(portable);
SLUICE_BENCH_RANS(avx2);
SLUICE_BENCH_RANS(avx512);
BENCHMARK(rans_rival_memcpy);

}  // namespace
