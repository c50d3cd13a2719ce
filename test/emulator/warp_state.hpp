// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fiber.hpp>

#include <cstdint>

// What is known of a thread, and of the 32 of a warp.

namespace cuda_on_host {

#if CUDA_ON_HOST_TSAN
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
/// While it lives the thread's accesses are the machine's own.
struct quiet {
  quiet() { AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0); }
  ~quiet() { AnnotateIgnoreReadsEnd("", 0), AnnotateIgnoreWritesEnd("", 0); }
  quiet(const quiet&) = delete;
  quiet& operator=(const quiet&) = delete;
};
inline void happens_before(void* what) { __tsan_release(what); }
inline void happens_after(void* what) { __tsan_acquire(what); }
#else
struct quiet {
  quiet() {}
  ~quiet() {}
};
inline void happens_before(void*) {}
inline void happens_after(void*) {}
#endif

/// A special register.
struct special {
  unsigned value = 0;
  CUDA_ON_HOST_UNSEEN operator unsigned() const { return value; }
};
struct special3 {
  special x, y, z;
};
inline special3 threadIdx, blockIdx, blockDim, gridDim;

enum class operation : std::uint8_t {
  syncwarp,
  ballot,
  all,
  any,
  shfl,
  match_any,
  reduce,
  ldmatrix,
  mma,
  syncthreads,
  syncthreads_and,
  syncthreads_or,
  syncthreads_count,
};
inline const char* name_of(operation o) {
  constexpr const char* names[] = {
      "__syncwarp",        "__ballot_sync",    "__all_sync",         "__any_sync", "__shfl_sync",
      "__match_any_sync",  "__reduce_sync",    "ldmatrix",           "mma",        "__syncthreads",
      "__syncthreads_and", "__syncthreads_or", "__syncthreads_count"};
  return names[static_cast<int>(o)];
}

/// A place in a kernel: default arguments of CUDA's names make it that of the call.
struct site {
  const char* file;
  int line;
};

/// A warp's registers as far as lanes show them to each other, and where they wait.
struct warp_state {
  std::uint32_t alive = 0;  // lanes that have not ended
  std::uint32_t ready = 0;  // of these, those that wait for nobody
  std::uint32_t here = 0;   // of these, those that wait in a warp operation
  std::uint32_t mask[32];   // who is to come
  operation what[32];
  site where[32];
  void (*combine[32])(warp_state&, std::uint32_t);
  std::uint32_t in[12][32], out[4][32];
  std::uint8_t meeting[32];  // of __syncwarp: which of the addresses of `met`
  std::uint8_t meetings = 0;
  char met[64];
};

/// What becomes of what the lanes show: `in` to `out` for all of them.
using combination = void(warp_state& w, std::uint32_t lanes);

}  // namespace cuda_on_host
