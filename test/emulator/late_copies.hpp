// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fiber.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace cuda_on_host {

/// A thread's cp.async copies that it has not waited for: nothing of them is there yet.
class late_copies {
 public:
  struct copy {
    unsigned char* to;
    const void* from;
    std::uint32_t bytes;  // of 16; the rest becomes zero
    std::uint32_t group;
  };

  void add(unsigned char* to, const void* from, std::uint32_t bytes) { list_.push_back({to, from, bytes, group_}); }
  void commit() { ++group_; }
  /// Takes one out that is not of the last `groups` groups, nor of one that was not committed.
  bool take(std::uint32_t groups, copy& c) {
    if (first_ == list_.size() || list_[first_].group + groups >= group_) return false;
    c = list_[first_++];
    if (first_ == list_.size()) list_.clear(), first_ = 0;
    return true;
  }
  void forget() {
    list_.clear();
    first_ = group_ = 0;
  }

 private:
  std::vector<copy> list_;
  std::size_t first_ = 0;
  std::uint32_t group_ = 0;
};

}  // namespace cuda_on_host
