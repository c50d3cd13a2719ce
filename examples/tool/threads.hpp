// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <thread>
#include <vector>

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
