// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <guarded.hpp>

#include <csignal>
#include <cstddef>
#include <cstdint>

namespace cuda_on_host {

/// Tells of accesses to pages that nobody may touch, while a kernel runs.
class fault_watch {
 public:
  explicit fault_watch(void (*handler)(int, siginfo_t*, void*)) {
    // Of its own stack: the thread's may be what is full.
    static char stack[64 * 1024];
    stack_t mine{};
    mine.ss_sp = stack;
    mine.ss_size = sizeof stack;
    sigaltstack(&mine, &stack_before_);
    struct sigaction action {};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &before_);
  }
  ~fault_watch() {
    sigaction(SIGSEGV, &before_, nullptr);
    sigaltstack(&stack_before_, nullptr);
  }
  fault_watch(const fault_watch&) = delete;
  fault_watch& operator=(const fault_watch&) = delete;

 private:
  struct sigaction before_ {};
  stack_t stack_before_{};
};

}  // namespace cuda_on_host
