// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <utility>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CUDA_ON_HOST_TSAN 1
#endif
#if __has_feature(address_sanitizer)
#define CUDA_ON_HOST_ASAN 1
#endif
#endif
#if defined(__SANITIZE_THREAD__)
#define CUDA_ON_HOST_TSAN 1
#endif
#if defined(__SANITIZE_ADDRESS__)
#define CUDA_ON_HOST_ASAN 1
#endif
#if !defined(CUDA_ON_HOST_TSAN)
#define CUDA_ON_HOST_TSAN 0
#endif
#if !defined(CUDA_ON_HOST_ASAN)
#define CUDA_ON_HOST_ASAN 0
#endif

#if CUDA_ON_HOST_TSAN
#include <sanitizer/tsan_interface.h>
#endif
#if CUDA_ON_HOST_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__) || defined(CUDA_ON_HOST_UCONTEXT)
#include <ucontext.h>
#endif

// Threads of a block are contexts that take turns on one stack each; sanitizers are told of every change.

/// Of functions that a sanitizer must not see: they move between stacks, or are the machine's own memory.
#define CUDA_ON_HOST_UNSEEN __attribute__((no_sanitize("thread"), no_sanitize("address")))

namespace cuda_on_host {

/// Stacks of all threads of a block, with a page between them that nobody may touch. Kept from launch to launch.
class stacks {
 public:
  static constexpr std::size_t bytes = 256 * 1024, guard = 4096, most = 1024;

  /// Where a thread's begins, from above. Tops at the same place of their pages would share a few lines of a cache.
  static char* top(unsigned thread) { return of(thread) + bytes - thread % 32 * 512 - thread / 32 % 8 * 64; }
  /// Its lowest byte.
  static char* of(unsigned thread) {
    static char* const all = map();
    return all + thread * (bytes + guard) + guard;
  }
  /// Whether an address is in a page between two stacks.
  static bool overflown(const void* address) {
    const auto at = static_cast<std::size_t>(static_cast<const char*>(address) - (of(0) - guard));
    return at < most * (bytes + guard) && at % (bytes + guard) < guard;
  }

 private:
  static char* map() {
    void* const p = mmap(nullptr, most * (bytes + guard), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) std::perror("cuda_on_host: stacks"), std::abort();
    for (std::size_t i = 0; i < most; ++i) mprotect(static_cast<char*>(p) + i * (bytes + guard), guard, PROT_NONE);
    return static_cast<char*>(p);
  }
};

#if defined(__x86_64__) && !defined(CUDA_ON_HOST_UCONTEXT)

// Puts what a function must keep on the stack, changes stacks, takes it back: 20 times faster than swapcontext, which
// asks the kernel for the signal mask.
__attribute__((naked, noinline)) inline void switch_stack(void** /*save*/, void* /*load*/) {
  asm volatile(
      "pushq %rbp\n pushq %rbx\n pushq %r12\n pushq %r13\n pushq %r14\n pushq %r15\n"
      "movq %rsp, (%rdi)\n movq %rsi, %rsp\n"
      "popq %r15\n popq %r14\n popq %r13\n popq %r12\n popq %rbx\n popq %rbp\n ret\n");
}

struct context {
  void* at = nullptr;

  void prepare(unsigned thread, void (*enter)()) {
    auto** top = reinterpret_cast<void**>(stacks::top(thread)) - 2;
    *--top = nullptr;  // where enter() would return to
    *--top = reinterpret_cast<void*>(enter);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    at = top;
  }
  CUDA_ON_HOST_UNSEEN static void change(context& from, context& to) {
    switch_stack(&from.at, to.at);
    asm volatile("" ::: "memory");
  }
};

#else

struct context {
  ucontext_t at;

  void prepare(unsigned thread, void (*enter)()) {
    getcontext(&at);
    at.uc_stack.ss_sp = stacks::of(thread);
    at.uc_stack.ss_size = static_cast<std::size_t>(stacks::top(thread) - stacks::of(thread));
    at.uc_link = nullptr;
    makecontext(&at, enter, 0);
  }
  CUDA_ON_HOST_UNSEEN static void change(context& from, context& to) { swapcontext(&from.at, &to.at); }
};

#endif

/// A context, and what the sanitizers know it by.
struct fiber {
  context where;
  const void* stack = nullptr;  // its lowest byte; of the main one: found out when it is left
  std::size_t size = stacks::bytes;
  void* tsan = nullptr;
  void* asan = nullptr;

  /// Leaves `from`, which `ends` if nobody will come back to it.
  CUDA_ON_HOST_UNSEEN static void change(fiber& from, fiber& to, [[maybe_unused]] bool ends) {
#if CUDA_ON_HOST_TSAN
    __tsan_switch_to_fiber(to.tsan, __tsan_switch_to_fiber_no_sync);
#endif
#if CUDA_ON_HOST_ASAN
    __sanitizer_start_switch_fiber(ends ? nullptr : &from.asan, to.stack, to.size);
#endif
    context::change(from.where, to.where);
#if CUDA_ON_HOST_ASAN
    __sanitizer_finish_switch_fiber(from.asan, nullptr, nullptr);
#endif
  }
};

}  // namespace cuda_on_host
