// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <benchmark/benchmark.h>
#include <cuda.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <string>

namespace cuda_bench {

/// How much of the GPU a measurement may use.
enum class share { all, eighth, smallest };
inline constexpr share shares[] = {share::all, share::eighth, share::smallest};
inline const char* to_string(share s) {
  return s == share::all ? "all_SMs" : s == share::eighth ? "eighth_of_SMs" : "fewest_SMs";
}

/// A stream whose kernels run on so many SMs and no others: a green context, whose smallest is what the driver allows
/// (two SMs on sm_90). `sms` 0 = the driver has no green contexts.
struct gpu_part {
  cudaStream_t stream = nullptr;
  int sms = 0;

  explicit gpu_part(share s) {
    int all = 0;
    cudaDeviceGetAttribute(&all, cudaDevAttrMultiProcessorCount, 0);
    if (s == share::all) {
      if (cudaStreamCreate(&stream) == cudaSuccess) sms = all;
    } else {
      cudaFree(nullptr);  // the primary context, whose memory green ones share
      split(s == share::eighth ? static_cast<unsigned>(all) / 8 : 1);
    }
  }

 private:
  // The driver's functions by name: no program links libcuda for them.
  template <class F>
  static bool find(const char* name, F& f) {
    void* p = nullptr;
    cudaDriverEntryPointQueryResult found{};
    if (cudaGetDriverEntryPointByVersion(name, &p, 12050, cudaEnableDefault, &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
      return false;
    f = reinterpret_cast<F>(p);
    return true;
  }
  void split(unsigned count) {
    decltype(&cuDeviceGetDevResource) resource_of;
    decltype(&cuDevSmResourceSplitByCount) split_by_count;
    decltype(&cuDevResourceGenerateDesc) describe;
    decltype(&cuGreenCtxCreate) create;
    decltype(&cuGreenCtxStreamCreate) create_stream;
    if (!find("cuDeviceGetDevResource", resource_of) || !find("cuDevSmResourceSplitByCount", split_by_count) ||
        !find("cuDevResourceGenerateDesc", describe) || !find("cuGreenCtxCreate", create) ||
        !find("cuGreenCtxStreamCreate", create_stream))
      return;
    CUdevResource all{}, part{};
    CUdevResourceDesc description{};
    CUgreenCtx context{};
    CUstream s{};
    unsigned groups = 1;
    if (resource_of(0, &all, CU_DEV_RESOURCE_TYPE_SM) == CUDA_SUCCESS &&
        split_by_count(&part, &groups, &all, nullptr, CU_DEV_SM_RESOURCE_SPLIT_IGNORE_SM_COSCHEDULING, count) ==
            CUDA_SUCCESS &&
        describe(&description, &part, 1) == CUDA_SUCCESS &&
        create(&context, description, 0, CU_GREEN_CTX_DEFAULT_STREAM) == CUDA_SUCCESS &&
        create_stream(&s, context, CU_STREAM_NON_BLOCKING, 0) == CUDA_SUCCESS) {
      stream = s;
      sms = static_cast<int>(part.sm.smCount);
    }
  }
};

/// One for each share, made once.
inline const gpu_part& part_of(share s) {
  static const gpu_part parts[] = {gpu_part(share::all), gpu_part(share::eighth), gpu_part(share::smallest)};
  return parts[static_cast<int>(s)];
}

/// Measures what `work(stream)` puts into a stream of that share, by events of the device; it says whether it could.
/// `bytes` are those of the uncompressed cache, read or written.
template <class F>
void measure(benchmark::State& state, share s, std::size_t bytes, F&& work) {
  const gpu_part& part = part_of(s);
  if (part.sms == 0) return state.SkipWithError("the driver gives no part of the GPU");
  cudaEvent_t begin{}, end{};
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  const auto once = [&](float& ms) {
    return cudaEventRecord(begin, part.stream) == cudaSuccess && work(part.stream) &&
           cudaEventRecord(end, part.stream) == cudaSuccess && cudaEventSynchronize(end) == cudaSuccess &&
           cudaEventElapsedTime(&ms, begin, end) == cudaSuccess;
  };
  float ms = 0;
  bool works = once(ms) && once(ms);  // the first ones load modules
  for (auto _ : state) {
    if (works) works = once(ms);
    if (!works) {
      state.SkipWithError(cudaGetErrorString(cudaGetLastError()));
      break;
    }
    state.SetIterationTime(ms / 1e3);
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(bytes));
  state.counters["SMs"] = part.sms;
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

/// A measurement of that name; what it throws, say for want of memory, is its error.
template <class F>
void add(const std::string& name, F f) {
  const auto safe = [f](benchmark::State& state) {
    try {
      f(state);
    } catch (const std::exception& e) {
      state.SkipWithError(e.what());
    }
  };
  benchmark::RegisterBenchmark(name.c_str(), safe)->UseManualTime()->Unit(benchmark::kMillisecond);
}

/// Tokens of a measurement: as many frames of the sample's 256 as make at least half a gigabyte, so that nothing stays in
/// the L2 cache from one to the next.
inline int frames_for(std::size_t bytes_of_one) {
  return static_cast<int>(std::max<std::size_t>(1, ((std::size_t{1} << 29) + bytes_of_one - 1) / bytes_of_one));
}

}  // namespace cuda_bench
