// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/bodies/rans.cuh>
#include <sluice/cuda/launch.cuh>

#include <doctest/doctest.h>
#include <support/device.hpp>
#include <support/rans_checks.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <type_traits>
#include <vector>

// The checks of the coder on its kernels: on a GPU, or on the emulator's threads.
namespace rans_checks {

inline void finish() {
  REQUIRE(cudaGetLastError() == cudaSuccess);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
}

// Memory of the device, handed out in pieces that lie apart.
class arena {
 public:
  arena() = default;
  ~arena() {
    for (void* p : pieces_) REQUIRE(cudaFree(p) == cudaSuccess);
  }
  arena(const arena&) = delete;
  arena& operator=(const arena&) = delete;
  template <class T>
  T* copy(const T* from, std::int64_t n) {
    T* to = nullptr;
    const auto bytes = static_cast<std::size_t>(std::max<std::int64_t>(n, 0)) * sizeof(T);
    REQUIRE(cudaMalloc(&to, bytes > 0 ? bytes : 1) == cudaSuccess);
    pieces_.push_back(to);
    if (bytes > 0) REQUIRE(cudaMemcpy(to, from, bytes, cudaMemcpyHostToDevice) == cudaSuccess);
    return to;
  }
  template <class T>
  void get(T* to, const T* from, std::int64_t n) const {
    if (n > 0)
      REQUIRE(cudaMemcpy(to, from, static_cast<std::size_t>(n) * sizeof(T), cudaMemcpyDeviceToHost) == cudaSuccess);
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

// A warp a job; `jobs` point to memory of the device.
template <class Job>
void launch(void (*kernel)(Job*, int, sluice::cuda::plan_memory), std::vector<Job>& jobs, unsigned warps,
            sluice::cuda::plan_memory plans) {
  const std::size_t shared = plans.of_block(static_cast<int>(warps));
  const auto blocks = static_cast<std::int64_t>((jobs.size() + warps - 1) / warps);
  device_buffer<Job> on_device(jobs);
  REQUIRE(sluice::cuda::allow_shared(kernel, shared) == sluice::status::ok);
  REQUIRE(sluice::cuda::launch(kernel, blocks, static_cast<int>(32 * warps), shared, nullptr, on_device.data(),
                               static_cast<int>(jobs.size()), plans) == sluice::status::ok);
  finish();
  jobs = on_device.download();
}

// Host memory in, host memory out.
struct device_coder {
  const char* name() const { return "cuda"; }

  template <alphabet A>
  void decode(std::span<decode_job> jobs) const {
    if (jobs.empty()) return;
    arena memory;
    std::vector<decode_job> theirs(jobs.begin(), jobs.end());
    int rows = 0;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const decode_job& j = jobs[i];
      decode_job& d = theirs[i];
      const int blocks = j.blocks > rans_max_blocks ? 0 : std::max(j.blocks, 0);
      const auto* tables = static_cast<const block_of<A>*>(j.tables);
      rows = std::max(rows, decode_rows_of<A>({tables, static_cast<std::size_t>(blocks)}));
      d.tables = memory.copy(tables, blocks);
      d.bytes = memory.copy(j.bytes, j.size);
      d.values = memory.copy(j.values, cells(j.rows, blocks, j.stride));
      d.symbols = memory.copy(j.symbols, cells(j.rows, blocks, j.stride));
      d.states = memory.copy(j.states, j.states ? rans_state_bytes : 0);
    }
    launch(&sluice::cuda::decode_kernel<A>, theirs, 2, sluice::cuda::decode_memory<A>(std::min(rows, 340)));
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      decode_job& j = jobs[i];
      const decode_job& d = theirs[i];
      const std::int64_t n = cells(j.rows, j.blocks > rans_max_blocks ? 0 : j.blocks, j.stride);
      j.ok = d.ok;
      if (j.states) memory.get(j.states, d.states, rans_state_bytes);
      memory.get(j.values, d.values, n);
      memory.get(j.symbols, d.symbols, n);
    }
  }

  template <alphabet A>
  void encode(std::span<encode_job> jobs) const {
    if (jobs.empty()) return;
    arena memory;
    std::vector<encode_job> theirs(jobs.begin(), jobs.end());
    int rows = 0;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      const encode_job& j = jobs[i];
      encode_job& d = theirs[i];
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
    launch(&sluice::cuda::encode_kernel<A>, theirs, 2, sluice::cuda::encode_memory<A>(std::min(rows, 340)));
    for (std::size_t i = 0; i < jobs.size(); ++i) {
      encode_job& j = jobs[i];
      const encode_job& d = theirs[i];
      memory.get(j.scratch, d.scratch, static_cast<std::int64_t>(j.capacity));
      if (j.states) memory.get(j.states, d.states, rans_state_bytes);
      j.ok = d.ok;
      j.size = d.size;
      j.bytes = d.bytes == nullptr ? nullptr : j.scratch + (d.bytes - d.scratch);
    }
  }
};

// Codes of a block have tables of their own, and room for them or none.
inline void plans_of_a_block(unsigned seed) {
  std::mt19937 random(seed);
  const stream<alphabet::values> s(random, 3, 40), other(random, 3, 7);
  const int rows = sluice::cuda::decode_rows(alphabet::values, s.tables),
            other_rows = sluice::cuda::decode_rows(alphabet::values, other.tables);
  REQUIRE(other_rows != rows);
  for (const int room : {std::max(rows, other_rows), std::max(rows, other_rows) - 1}) {
    arena memory;
    constexpr int count = 11;
    std::vector<decode_job> jobs(count);
    for (int i = 0; i < count; ++i) {
      const stream<alphabet::values>& mine = i == 6 ? other : s;
      decode_job& j = jobs[static_cast<std::size_t>(i)];
      j.tables = memory.copy(mine.tables.data(), 3);
      j.bytes = memory.copy(mine.bytes.data(), static_cast<std::int64_t>(mine.bytes.size()));
      j.size = static_cast<std::uint32_t>(mine.bytes.size());
      j.blocks = 3, j.rows = mine.rows, j.stride = mine.stride;
      const std::vector<std::int16_t> none(mine.values.size(), 77);
      j.values = memory.copy(none.data(), static_cast<std::int64_t>(none.size()));
    }
    launch(&sluice::cuda::decode_kernel<alphabet::values>, jobs, 4,
           sluice::cuda::decode_memory<alphabet::values>(room));
    for (int i = 0; i < count; ++i) {
      const stream<alphabet::values>& mine = i == 6 ? other : s;
      const decode_job& j = jobs[static_cast<std::size_t>(i)];
      CHECK(j.ok == ((i == 6 ? other_rows : rows) <= room));
      std::vector<std::int16_t> values(mine.values.size());
      memory.get(values.data(), j.values, static_cast<std::int64_t>(values.size()));
      int wrong = 0;
      for (int row = 0; row < mine.rows; ++row)
        for (int k = 0; k < 96; ++k) {
          const auto at = static_cast<std::size_t>(row * mine.stride + k);
          wrong += values[at] != (j.ok ? mine.values[at] : 77);
        }
      CHECK(wrong == 0);
    }
  }
}

}  // namespace rans_checks
