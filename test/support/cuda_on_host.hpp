// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ucontext.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

// Enough of CUDA for the kernels of cuda/*.cuh to run, thread by thread, on machines without a GPU: threads are
// contexts that take turns at every operation of a warp or a block. Include it before any of those headers.

// NOLINTBEGIN(bugprone-reserved-identifier): these are CUDA's names.
#define __device__
#define __host__
#define __global__
#define __shared__
#define __forceinline__ inline
#define __align__(n) __attribute__((aligned(n)))

namespace cuda_on_host {

struct index {
  unsigned x = 0;
};
inline index threadIdx, blockIdx, blockDim;

enum class waits_for { nothing, ballot, all, warp, block };

struct thread {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  waits_for state = waits_for::nothing;
  bool done = false;
  bool vote = false;
  unsigned result = 0;
};

class machine {
 public:
  template <class F>
  void run(unsigned blocks, unsigned threads, F& body) {
    call_ = [](void* f) { (*static_cast<F*>(f))(); };
    body_ = &body;
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x) run_block(threads);
  }

  unsigned wait(waits_for what, bool vote) {
    const unsigned me = threadIdx.x;
    threads_[me].state = what;
    threads_[me].vote = vote;
    swapcontext(&threads_[me].context, &scheduler_);
    return threads_[me].result;
  }

 private:
  static constexpr std::size_t stack_bytes = 256 * 1024;

  static machine*& current() {
    static machine* m = nullptr;
    return m;
  }
  static void enter() {
    machine& m = *current();
    m.call_(m.body_);
    m.threads_[threadIdx.x].done = true;
  }

  void run_block(unsigned count) {
    current() = this;
    threads_ = std::vector<thread>(count);
    for (thread& t : threads_) {
      t.stack.reset(new char[stack_bytes]);
      getcontext(&t.context);
      t.context.uc_stack.ss_sp = t.stack.get();
      t.context.uc_stack.ss_size = stack_bytes;
      t.context.uc_link = &scheduler_;
      makecontext(&t.context, enter, 0);
    }
    for (bool moved = true; moved;) {
      moved = false;
      for (unsigned i = 0; i < count; ++i)
        if (!threads_[i].done && threads_[i].state == waits_for::nothing) {
          threadIdx.x = i;
          swapcontext(&scheduler_, &threads_[i].context);
          moved = true;
        }
      for (unsigned first = 0; first < count; first += 32)
        if (threads_[first].state != waits_for::block) moved |= release(first, 32);
      if (threads_[0].state == waits_for::block) moved |= release(0, count);
    }
    for (const thread& t : threads_)
      if (!t.done) {
        std::printf("threads of a warp or a block wait for each other in different places\n");
        std::abort();
      }
  }

  // Lets threads go on that have all arrived at the same operation.
  bool release(unsigned first, unsigned count) {
    const waits_for what = threads_[first].state;
    unsigned votes = 0;
    bool all = true;
    for (unsigned i = 0; i < count; ++i) {
      const thread& t = threads_[first + i];
      if (t.done || t.state != what || what == waits_for::nothing) return false;
      if (i < 32) votes |= (t.vote ? 1u : 0u) << i;
      all &= t.vote;
    }
    for (unsigned i = 0; i < count; ++i) {
      threads_[first + i].result = what == waits_for::ballot ? votes : all ? 1u : 0u;
      threads_[first + i].state = waits_for::nothing;
    }
    return true;
  }

  std::vector<thread> threads_;
  ucontext_t scheduler_{};
  void (*call_)(void*) = nullptr;
  void* body_ = nullptr;
};

inline machine the_machine;

/// What kernel<<<blocks, threads>>>(...) does; `body` calls the kernel.
template <class F>
void run(unsigned blocks, unsigned threads, F body) {
  the_machine.run(blocks, threads, body);
}

}  // namespace cuda_on_host

using cuda_on_host::blockDim;
using cuda_on_host::blockIdx;
using cuda_on_host::threadIdx;

inline unsigned __ballot_sync(unsigned, bool vote) {
  return cuda_on_host::the_machine.wait(cuda_on_host::waits_for::ballot, vote);
}
inline int __all_sync(unsigned, bool vote) {
  return static_cast<int>(cuda_on_host::the_machine.wait(cuda_on_host::waits_for::all, vote));
}
inline void __syncwarp() { cuda_on_host::the_machine.wait(cuda_on_host::waits_for::warp, true); }
inline int __syncthreads_and(int vote) {
  return static_cast<int>(cuda_on_host::the_machine.wait(cuda_on_host::waits_for::block, vote != 0));
}
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline float __uint2float_rn(unsigned v) { return static_cast<float>(v); }
inline unsigned __float2uint_rz(float v) { return v < 0 ? 0u : static_cast<unsigned>(v); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __frcp_rn(float a) { return 1 / a; }
constexpr unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }

enum cudaError_t { cudaSuccess };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
template <class T>
cudaError_t cudaMallocManaged(T** p, std::size_t bytes) {
  *p = static_cast<T*>(std::malloc(bytes));
  return cudaSuccess;
}
inline cudaError_t cudaFree(void* p) {
  std::free(p);
  return cudaSuccess;
}
template <class F>
cudaError_t cudaFuncSetAttribute(F*, cudaFuncAttribute, int) {
  return cudaSuccess;
}
// NOLINTEND(bugprone-reserved-identifier)

// Dynamic shared memory, by the names that kernels give it; as much as a block can have.
namespace sluice::cuda {
alignas(16) inline unsigned char sluice_plans[227 * 1024];
}
