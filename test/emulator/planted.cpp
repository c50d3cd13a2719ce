// SPDX-License-Identifier: Apache-2.0
// What the thread sanitizer must find on the emulator, and what it must not. `planted 0` has all barriers, `planted N`
// lacks the Nth; test/emulator/races.cmake runs them all.
#include <cuda_on_host.hpp>

#include <sluice/cuda/launch.cuh>
#include <support/device.hpp>

#include <cstdio>
#include <cstdlib>

using namespace sluice;

namespace {

constexpr int barriers = 8;

__global__ void between_lanes(int missing, unsigned* out) {
  auto* const shared = reinterpret_cast<volatile unsigned*>(cuda::ptx::dynamic_shared());
  const unsigned lane = threadIdx.x;
  shared[lane] = lane;
  if (missing != 1) __syncwarp();
  unsigned v = shared[lane ^ 1];
  if (missing != 2) __syncwarp();
  shared[lane ^ 2] = v;  // before others have read
  // A vote is no barrier of memory, nor is a shuffle.
  v += __ballot_sync(0xffffffffu, v & 1);
  v += __shfl_sync(0xffffffffu, v, 3);
  if (missing != 3) __syncwarp();
  out[lane] = v + shared[lane];
}

__global__ void between_warps(int missing, unsigned* out) {
  auto* const shared = reinterpret_cast<volatile unsigned*>(cuda::ptx::dynamic_shared());
  const unsigned me = threadIdx.x, n = blockDim.x;
  shared[me] = me;
  __syncwarp();
  if (missing != 4) __syncthreads();
  const unsigned v = shared[(me + 32) % n];
  // Lanes that go ahead of others must not make these see what came after the barrier.
  if (missing != 5) __syncthreads();
  if (me == 0) shared[n - 1] = v;
  __syncthreads();
  out[me] = shared[n - 1 - me];
}

__global__ void copied(int missing, const unsigned* in, unsigned* out) {
  auto* const shared = reinterpret_cast<volatile unsigned*>(cuda::ptx::dynamic_shared());
  const unsigned lane = threadIdx.x;
  if (lane < 8)
    cuda::ptx::copy_async(cuda::ptx::shared_address(cuda::ptx::dynamic_shared()) + 16 * lane, in + 4 * lane);
  cuda::ptx::copy_commit();
  cuda::ptx::copy_wait<0>();
  if (missing != 6) __syncwarp();
  out[lane] = shared[31 - lane];
}

// Blocks of a launch are ordered by nothing but what they do themselves.
__global__ void between_blocks(int missing, unsigned* out) {
  auto* const shared = reinterpret_cast<volatile unsigned*>(cuda::ptx::dynamic_shared());
  shared[threadIdx.x ^ 1] = 1;  // its own, though at the same place
  if (threadIdx.x == blockIdx.x) {
    if (missing == 7)
      *static_cast<volatile unsigned*>(out) = *static_cast<volatile unsigned*>(out) + 1;
    else
      atomicAdd(out, 1u);
  }
  // What the first block wrote is the last one's to read only behind a fence.
  if (blockIdx.x == 0 && threadIdx.x == 5) {
    static_cast<volatile unsigned*>(out)[1] = 7;
    if (missing != 8) __threadfence();
    atomicExch(out + 2, 1u);
  }
  if (blockIdx.x == 1 && threadIdx.x == 6 && atomicAdd(out + 2, 0u) == 1) {
    if (missing != 8) __threadfence();
    static_cast<volatile unsigned*>(out)[3] = static_cast<volatile unsigned*>(out)[1];
  }
}

void must(status s) {
  if (s != status::ok) std::abort();
}

}  // namespace

int main(int argc, char** argv) {
  const int missing = argc > 1 ? std::atoi(argv[1]) : -1;
  if (missing < 0 || missing > barriers) return std::puts("planted 0..8: which barrier is missing"), 2;
  const device_buffer<unsigned> out(256), in(64);
  for (const auto how : {cuda_on_host::order::up, cuda_on_host::order::down, cuda_on_host::order::random}) {
    cuda_on_host::the_machine.how = how;
    must(cuda::launch(between_lanes, 1, 32, 128, nullptr, missing, out.data()));
    must(cuda::launch(between_warps, 2, 96, 384, nullptr, missing, out.data()));
    must(cuda::launch(copied, 1, 32, 128, nullptr, missing, in.data(), out.data()));
    cuda_on_host::the_machine.blocks_race = true;
    must(cuda::launch(between_blocks, 8, 32, 128, nullptr, missing, out.data()));
    cuda_on_host::the_machine.blocks_race = false;
  }
}
