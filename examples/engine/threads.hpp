// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <vector>

namespace engine {

/// A few threads that run one loop at a time together with the caller.
class thread_pool {
 public:
  explicit thread_pool(int threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
  }
  thread_pool(const thread_pool&) = delete;
  thread_pool& operator=(const thread_pool&) = delete;
  ~thread_pool() {
    stop_ = true;
    wake();
    for (std::thread& t : workers_) t.join();
  }

  int size() const noexcept { return int(workers_.size()) + 1; }

  /// body(i, worker) for every i in [0, n), in any order; returns when all are done. `worker` is below size().
  template <class Body>
  void parallel_for(int n, Body&& body) {
    if (n <= 1 || workers_.empty()) {
      for (int i = 0; i < n; ++i) body(i, 0);
      return;
    }
    call_ = [](void* b, int i, int worker) { (*static_cast<std::remove_reference_t<Body>*>(b))(i, worker); };
    body_ = &body;
    end_ = n;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(int(workers_.size()), std::memory_order_relaxed);
    wake();
    drain(0);
    wait_while(busy_, [](int b) { return b != 0; });
  }

 private:
  // A loop of a decode step lasts some ten microseconds, a sleep and its wake-up longer: look a while before sleeping.
  template <class Pending>
  static int wait_while(std::atomic<int>& value, Pending pending) {
    for (int spins = 0;; ++spins) {
      const int x = value.load(std::memory_order_acquire);
      if (!pending(x)) return x;
      if (spins < 2000) {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
      } else {
        value.wait(x, std::memory_order_acquire);
      }
    }
  }

  void wake() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }

  void drain(int worker) {
    for (int i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < end_;) call_(body_, i, worker);
  }

  void work(int worker) {
    for (int seen = 0;;) {
      seen = wait_while(round_, [seen](int r) { return r == seen; });
      if (stop_) return;
      drain(worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  void (*call_)(void*, int, int) = nullptr;
  void* body_ = nullptr;
  int end_ = 0;
  std::atomic<int> next_{0}, busy_{0}, round_{0};
  std::atomic<bool> stop_{false};
};

}  // namespace engine
