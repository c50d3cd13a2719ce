// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <ctime>
#include <functional>
#include <vector>

/// Times several pieces of work in turns, so that no rival has a quieter machine than another. Counts processor time of
/// the calling thread: what else runs on the machine disturbs caches and clocks but is not charged.
class race {
 public:
  /// Enters a piece of work and returns its number.
  std::size_t enter(std::function<void()> work) {
    runners_.push_back({std::move(work), {}});
    return runners_.size() - 1;
  }

  /// One round to warm up, then rounds until `seconds` are spent, five at least.
  void run(double seconds) {
    for (runner& r : runners_) r.work();
    const double begin = now();
    for (int round = 0; round < 5 || now() - begin < seconds; ++round)
      for (runner& r : runners_) {
        const double start = now();
        r.work();
        r.times.push_back(now() - start);
      }
  }

  /// Seconds of one call.
  double median(std::size_t number) const {
    std::vector<double> t = runners_[number].times;
    std::nth_element(t.begin(), t.begin() + std::ptrdiff_t(t.size() / 2), t.end());
    return t[t.size() / 2];
  }

 private:
  struct runner {
    std::function<void()> work;
    std::vector<double> times;
  };
  static double now() {
    std::timespec t{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return double(t.tv_sec) + 1e-9 * double(t.tv_nsec);
  }
  std::vector<runner> runners_;
};
