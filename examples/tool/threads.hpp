// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <thread>
#include <vector>

/// What --threads is where nothing is said: those of the machine.
inline int default_threads() { return int(std::clamp(std::thread::hardware_concurrency(), 1u, 256u)); }

/// Runs tasks side by side, one on the calling thread: what encoders and decoders are given for --threads.
struct side_by_side {
  template <class Task>
  void operator()(int n, Task task) const {
    std::vector<std::thread> others;
    for (int i = 1; i < n; ++i) others.emplace_back(task, i);
    task(0);
    for (std::thread& t : others) t.join();
  }
};
