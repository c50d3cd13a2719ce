// SPDX-License-Identifier: Apache-2.0
// The benchmarks of the CUDA half. Exits 77 where no GPU answers; lists and helps without one.
#include <benchmark/benchmark.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <string_view>

int main(int argc, char** argv) {
  bool only_asks = false;
  for (int i = 1; i < argc; ++i) {
    const std::string_view a = argv[i];
    only_asks |= a == "--help" || a.starts_with("--benchmark_list_tests");
  }
  int devices = 0;
  const cudaError_t e = only_asks ? cudaSuccess : cudaGetDeviceCount(&devices);
  if (!only_asks && (e != cudaSuccess || devices == 0)) {
    std::printf("skipped: no GPU answers (%s)\n", cudaGetErrorString(e));
    return 77;
  }
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  cudaDeviceProp device{};
  if (!only_asks && cudaGetDeviceProperties(&device, 0) == cudaSuccess) {
    benchmark::AddCustomContext("gpu", device.name);
    benchmark::AddCustomContext("SMs", std::to_string(device.multiProcessorCount));
  }
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
