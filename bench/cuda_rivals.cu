// SPDX-License-Identifier: Apache-2.0
// What else could be done with the same bytes on the same GPU in the same run: a copy, and nvCOMP's batched coders.
#include "cuda_memory.cuh"
#include "cuda_model.hpp"
#include "cuda_timing.cuh"

#include <numeric>
#include <tuple>
#include <vector>

#ifdef SLUICE_WITH_NVCOMP
#include <nvcomp/ans.h>
#include <nvcomp/gdeflate.h>
#include <nvcomp/lz4.h>
#include <nvcomp/zstd.h>
#endif

namespace cuda_bench {
namespace {

// The bf16 cache of an 8B, as often as fills half a gigabyte.
device_bytes raw_cache() {
  const auto& one = model_of(sizes[1]).bytes();
  const auto n = static_cast<std::size_t>(frames_for(one.size()));
  device_bytes all(n * one.size());
  for (std::size_t i = 0; i < n; ++i) all.put(one, i * one.size());
  return all;
}

void copy(benchmark::State& state, share s) {
  const device_bytes from = raw_cache();
  device_bytes to(from.size());
  measure(state, s, from.size(), [&](cudaStream_t stream) {
    return cudaMemcpyAsync(to.data(), from.data(), from.size(), cudaMemcpyDeviceToDevice, stream) == cudaSuccess;
  });
  if (state.error_occurred()) return;
  if (!same(from, to)) state.SkipWithError("the copy differs");
}

void fill_all(benchmark::State& state, share s) {
  device_bytes to(std::size_t{1} << 29);
  measure(state, s, to.size(), [&](cudaStream_t stream) {
    fill(to, std::byte{7}, stream);
    return cudaPeekAtLastError() == cudaSuccess;
  });
}

#ifdef SLUICE_WITH_NVCOMP

// nvCOMP's functions of one coder, all of one form.
#define SLUICE_NVCOMP(coder)                                                                      \
  nvcompBatched##coder##CompressGetTempSize, nvcompBatched##coder##CompressGetMaxOutputChunkSize, \
      nvcompBatched##coder##CompressAsync, nvcompBatched##coder##DecompressGetTempSize,           \
      nvcompBatched##coder##DecompressAsync, nvcompBatched##coder##CompressDefaultOpts,           \
      nvcompBatched##coder##DecompressDefaultOpts

enum class direction { compress, decompress };

// In chunks of 64 KiB, as nvCOMP's documentation recommends for speed.
constexpr std::size_t chunk_size = 65536;

// Addresses of chunks that lie `stride` bytes apart.
device_array<void*> addresses(device_bytes& bytes, std::size_t stride, std::size_t n) {
  std::vector<void*> p(n);
  for (std::size_t i = 0; i < n; ++i) p[i] = bytes.data() + i * stride;
  return device_array<void*>(std::span<void* const>(p));
}

template <class... F>
void nvcomp(benchmark::State& state, share s, direction d, F... of) {
  const auto [compress_temp, most_of_chunk, compress, decompress_temp, decompress, compress_options,
              decompress_options] = std::tuple(of...);
  device_bytes raw = raw_cache();
  const std::size_t n = (raw.size() + chunk_size - 1) / chunk_size;
  std::vector<std::size_t> sizes(n, chunk_size);
  sizes.back() = raw.size() - (n - 1) * chunk_size;
  device_array<std::size_t> sizes_in{std::span<const std::size_t>(sizes)}, sizes_coded(n), sizes_out(n);
  std::size_t most = 0, temp[2] = {};
  const cudaStream_t stream = part_of(s).stream;
  if (most_of_chunk(chunk_size, compress_options, &most) != nvcompSuccess ||
      compress_temp(n, chunk_size, compress_options, &temp[0], raw.size(), stream) != nvcompSuccess ||
      decompress_temp(n, chunk_size, decompress_options, &temp[1], raw.size(), stream) != nvcompSuccess)
    return state.SkipWithError("nvCOMP refuses these sizes");
  most = (most + 255) / 256 * 256;
  device_bytes coded(n * most), back(raw.size()), workspace(std::max(temp[0], temp[1]) + 16);
  device_array<nvcompStatus_t> states(n);
  auto at_raw = addresses(raw, chunk_size, n), at_coded = addresses(coded, most, n);
  auto at_back = addresses(back, chunk_size, n);
  const auto run_compress = [&](cudaStream_t on) {
    return compress(at_raw.data(), sizes_in.data(), chunk_size, n, workspace.data(), temp[0], at_coded.data(),
                    sizes_coded.data(), compress_options, states.data(), on) == nvcompSuccess;
  };
  const auto run_decompress = [&](cudaStream_t on) {
    return decompress(at_coded.data(), sizes_coded.data(), sizes_in.data(), sizes_out.data(), n, workspace.data(),
                      temp[1], at_back.data(), decompress_options, states.data(), on) == nvcompSuccess;
  };
  if (d == direction::compress) {
    measure(state, s, raw.size(), run_compress);
  } else {
    if (!run_compress(stream)) return state.SkipWithError("nvCOMP does not compress");
    measure(state, s, raw.size(), run_decompress);
  }
  if (state.error_occurred()) return;
  run_decompress(stream);
  cudaStreamSynchronize(stream);
  if (!same(raw, back)) state.SkipWithError("what nvCOMP gives back differs");
  const std::vector<std::size_t> coded_sizes = sizes_coded.get();
  state.counters["bits_per_value"] =
      16 * static_cast<double>(std::accumulate(coded_sizes.begin(), coded_sizes.end(), std::size_t{0})) /
      static_cast<double>(raw.size());
}

template <class... F>
void add_nvcomp(const std::string& name, F... of) {
  for (const share s : {share::all, share::eighth}) {
    const std::string suffix = "/8B/" + std::string(to_string(s));
    add("nvcomp_" + name + "/decompress" + suffix,
        [=](benchmark::State& state) { nvcomp(state, s, direction::decompress, of...); });
    add("nvcomp_" + name + "/compress" + suffix,
        [=](benchmark::State& state) { nvcomp(state, s, direction::compress, of...); });
  }
}

#endif

const bool registered = [] {
  for (const share s : shares) {
    add(std::string("memcpy/") + to_string(s), [=](benchmark::State& state) { copy(state, s); });
    add(std::string("fill/") + to_string(s), [=](benchmark::State& state) { fill_all(state, s); });
  }
#ifdef SLUICE_WITH_NVCOMP
  add_nvcomp("ans", SLUICE_NVCOMP(ANS));
  auto halves = nvcompBatchedANSCompressDefaultOpts;
  halves.data_type = NVCOMP_TYPE_FLOAT16;  // any two-byte type
  add_nvcomp("ans_halves", nvcompBatchedANSCompressGetTempSize, nvcompBatchedANSCompressGetMaxOutputChunkSize,
             nvcompBatchedANSCompressAsync, nvcompBatchedANSDecompressGetTempSize, nvcompBatchedANSDecompressAsync,
             halves, nvcompBatchedANSDecompressDefaultOpts);
  add_nvcomp("lz4", SLUICE_NVCOMP(LZ4));
  add_nvcomp("zstd", SLUICE_NVCOMP(Zstd));
  add_nvcomp("gdeflate", SLUICE_NVCOMP(Gdeflate));
#endif
  return true;
}();

}  // namespace
}  // namespace cuda_bench
