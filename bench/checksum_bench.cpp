// SPDX-License-Identifier: Apache-2.0
#include <sluice/format/checksum.hpp>

#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

namespace {

void run(benchmark::State& state, sluice::isa on) {
  if (sluice::usable_isa(on) != on) return state.SkipWithError("this processor lacks the instruction set");
  std::vector<unsigned char> bytes(static_cast<std::size_t>(state.range(0)), 0x5a);
  for (auto _ : state) benchmark::DoNotOptimize(sluice::checksum(bytes.data(), bytes.size(), 1, on));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

void checksum_portable(benchmark::State& state) { run(state, sluice::isa::portable); }
void checksum_avx2(benchmark::State& state) { run(state, sluice::isa::avx2); }
void checksum_avx512(benchmark::State& state) { run(state, sluice::isa::avx512); }

void checksum_rival_memcpy(benchmark::State& state) {
  std::vector<unsigned char> from(static_cast<std::size_t>(state.range(0)), 0x5a), to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

}  // namespace

BENCHMARK(checksum_portable)->Arg(1 << 12)->Arg(1 << 16);
BENCHMARK(checksum_avx2)->Arg(1 << 12)->Arg(1 << 16);
BENCHMARK(checksum_avx512)->Arg(1 << 12)->Arg(1 << 16);
BENCHMARK(checksum_rival_memcpy)->Arg(1 << 12)->Arg(1 << 16);
