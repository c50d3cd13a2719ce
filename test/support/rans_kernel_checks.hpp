// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/rans.cuh>

#include <doctest/doctest.h>
#include <support/rans_checks.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

// The checks of the coder on its kernels: on a GPU, or wherever cuda_on_host.hpp was included first.
namespace rans_checks {

inline void finish() {
  REQUIRE(cudaGetLastError() == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

// Memory that both sides see, handed out in pieces that lie apart.
class arena {
 public:
  ~arena() {
    for (void* p : pieces_) cudaFree(p);
  }
  template <class T>
  T* copy(const T* from, std::int64_t n) {
    T* to = nullptr;
    const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(n, 0)) * sizeof(T);
    REQUIRE(cudaMallocManaged(&to, bytes > 0 ? bytes : 1) == cudaSuccess);
    pieces_.push_back(to);
    if (bytes > 0) std::memcpy(static_cast<void*>(to), from, bytes);
    return to;
  }

 private:
  std::vector<void*> pieces_;
};

// Values from the first of a row of codes to the last, as far as a job says.
inline std::int64_t cells(std::int64_t rows, std::int64_t blocks, std::int64_t stride) {
  return rows > 0 && blocks > 0 ? (rows - 1) * stride + 32 * blocks : 0;
}

template <alphabet A>
using block_of = std::conditional_t<A == alphabet::digits, ternary_block, base_block>;

template <alphabet A>
int decode_rows_of(std::span<const block_of<A>> tables) {
  if constexpr (A == alphabet::digits)
    return sluice::cuda::decode_rows(tables);
  else
    return sluice::cuda::decode_rows(A, tables);
}
template <alphabet A>
int encode_rows_of(std::span<const block_of<A>> tables) {
  if constexpr (A == alphabet::digits)
    return sluice::cuda::encode_rows(tables);
  else
    return sluice::cuda::encode_rows(A, tables);
}

// A warp a job.
template <class Job>
void launch(void (*kernel)(Job*, int, sluice::cuda::plan_memory), Job* jobs, std::size_t count, unsigned warps,
            sluice::cuda::plan_memory plans) {
  const std::size_t shared = plans.of_block(static_cast<int>(warps));
  const auto blocks = static_cast<unsigned>((count + warps - 1) / warps);
  REQUIRE(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared)) ==
          cudaSuccess);
#if defined(__CUDACC__)
  kernel<<<blocks, 32 * warps, shared>>>(jobs, static_cast<int>(count), plans);
#else
  cuda_on_host::run(blocks, 32 * warps, [&] { kernel(jobs, static_cast<int>(count), plans); });
#endif
  finish();
}

// Host memory in, host memory out.
struct device_coder {
  const char* name() const { return "cuda"; }

  template <alphabet A>
  void decode(std::span<decode_job> jobs) const {
    if (jobs.empty()) return;
    arena memory;
    decode_job* on_device = memory.copy(jobs.data(), static_cast<std::int64_t>(jobs.size()));
    int rows = 0;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const decode_job& j = jobs[i];
      decode_job& d = on_device[i];
      const int blocks = j.blocks > rans_max_blocks ? 0 : std::max(j.blocks, 0);
      const auto* tables = static_cast<const block_of<A>*>(j.tables);
      rows = std::max(rows, decode_rows_of<A>({tables, static_cast<std::size_t>(blocks)}));
      d.tables = memory.copy(tables, blocks);
      d.bytes = memory.copy(j.bytes, j.size);
      d.values = memory.copy(j.values, cells(j.rows, blocks, j.stride));
      d.symbols = memory.copy(j.symbols, cells(j.rows, blocks, j.stride));
      d.states = memory.copy(j.states, j.states ? rans_state_bytes : 0);
    }
    const auto plans = sluice::cuda::decode_memory<A>(std::min(rows, 340));
    launch(&sluice::cuda::decode_kernel<A>, on_device, jobs.size(), 2, plans);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      decode_job& j = jobs[i];
      j.ok = on_device[i].ok;
      if (j.states) std::memcpy(j.states, on_device[i].states, rans_state_bytes);
      const auto n = static_cast<std::size_t>(cells(j.rows, j.blocks > rans_max_blocks ? 0 : j.blocks, j.stride));
      if (n > 0) {
        std::memcpy(j.values, on_device[i].values, 2 * n);
        std::memcpy(j.symbols, on_device[i].symbols, n);
      }
    }
  }

  template <alphabet A>
  void encode(std::span<encode_job> jobs) const {
    if (jobs.empty()) return;
    arena memory;
    encode_job* on_device = memory.copy(jobs.data(), static_cast<std::int64_t>(jobs.size()));
    int rows = 0;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const encode_job& j = jobs[i];
      encode_job& d = on_device[i];
      const int blocks = j.blocks > rans_max_blocks ? 0 : std::max(j.blocks, 0);
      const std::int64_t n = cells(j.rows, blocks, j.stride);
      const auto* tables = static_cast<const block_of<A>*>(j.tables);
      rows = std::max(rows, encode_rows_of<A>({tables, static_cast<std::size_t>(blocks)}));
      d.tables = memory.copy(tables, blocks);
      d.values = memory.copy(j.values, n);
      d.digits = memory.copy(j.digits, n);
      d.symbols = memory.copy(j.symbols, n);
      d.scratch = memory.copy(j.scratch, static_cast<std::int64_t>(j.capacity));
      d.states = memory.copy(j.states, j.states ? rans_state_bytes : 0);
    }
    const auto plans = sluice::cuda::encode_memory<A>(std::min(rows, 340));
    launch(&sluice::cuda::encode_kernel<A>, on_device, jobs.size(), 2, plans);
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      encode_job& j = jobs[i];
      const encode_job& d = on_device[i];
      std::memcpy(j.scratch, d.scratch, j.capacity);
      j.ok = d.ok;
      if (j.states) std::memcpy(j.states, d.states, rans_state_bytes);
      j.size = d.size;
      j.bytes = d.bytes == nullptr ? nullptr : j.scratch + (d.bytes - d.scratch);
    }
  }
};

// One plan serves the codes of a block, but none with other tables.
inline void shared_plans(unsigned seed) {
  std::mt19937 random(seed);
  const stream<alphabet::values> s(random, 3, 40), other(random, 3, 7);
  arena memory;
  constexpr int count = 11;
  std::vector<decode_job> jobs(count);
  decode_job* on_device = memory.copy(jobs.data(), count);
  const auto* tables = memory.copy(s.tables.data(), 3);
  const auto* other_tables = memory.copy(other.tables.data(), 3);
  for (int i = 0; i < count; ++i) {
    const stream<alphabet::values>& mine = i == 6 ? other : s;
    decode_job& j = on_device[i];
    j.tables = i == 6 ? other_tables : tables;
    j.bytes = memory.copy(mine.bytes.data(), static_cast<std::int64_t>(mine.bytes.size()));
    j.size = static_cast<std::uint32_t>(mine.bytes.size());
    j.blocks = 3, j.rows = mine.rows, j.stride = mine.stride;
    j.values = memory.copy(mine.values.data(), static_cast<std::int64_t>(mine.values.size()));
    for (std::size_t k = 0; k < mine.values.size(); ++k) j.values[k] = 77;
  }
  const int rows = sluice::cuda::decode_rows(alphabet::values, s.tables);
  for (bool enough : {true, false}) {
    const auto plan = sluice::cuda::decode_memory<alphabet::values>(enough ? rows : rows - 1, true);
    launch(&sluice::cuda::decode_kernel<alphabet::values>, on_device, count, 4, plan);
    for (int i = 0; i < count; ++i) {
      CHECK(on_device[i].ok == (enough && i != 6));
      int wrong = 0;
      for (int row = 0; row < s.rows && i != 6; ++row)
        for (int k = 0; k < 96; ++k)
          wrong += on_device[i].values[row * s.stride + k] != s.values[static_cast<std::size_t>(row * s.stride + k)];
      CHECK(wrong == 0);
    }
  }
}

}  // namespace rans_checks
