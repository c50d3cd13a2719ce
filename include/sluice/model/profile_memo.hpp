// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

namespace sluice::detail {

/// What is derived from a profile and costs so much that its users share it, one thing of each type. Copies of a profile
/// share it too, each finding its own by a key over what it was derived from; it is no part of a profile's value.
class profile_memo {
 public:
  profile_memo() : state_(std::make_shared<state>()) {}
  profile_memo(const profile_memo&) = default;  // and no move: what was moved from can be used on
  profile_memo& operator=(const profile_memo&) = default;

  /// What make() returned for this key; other threads that ask meanwhile wait. make() must not ask the memo.
  template <class T, class Make>
  std::shared_ptr<const T> get(std::uint64_t key, Make make) const {
    const lock held(state_->busy);
    entry* e = nullptr;
    for (entry& known : state_->entries)
      if (known.type == &type_of<T>) e = &known;
    if (!e) e = &state_->entries.emplace_back(entry{&type_of<T>, 0, nullptr});
    if (!e->value || e->key != key) e->value = make(), e->key = key;
    return std::static_pointer_cast<const T>(e->value);
  }

 private:
  struct lock {
    explicit lock(std::atomic_flag& f) : flag(f) {
      while (flag.test_and_set(std::memory_order_acquire)) flag.wait(true, std::memory_order_relaxed);
    }
    ~lock() {
      flag.clear(std::memory_order_release);
      flag.notify_one();
    }
    lock(const lock&) = delete;
    lock& operator=(const lock&) = delete;
    std::atomic_flag& flag;
  };
  template <class T>
  static constexpr char type_of = 0;  // an address for each type
  struct entry {
    const char* type;
    std::uint64_t key;
    std::shared_ptr<const void> value;
  };
  struct state {
    std::atomic_flag busy;
    std::vector<entry> entries;
  };
  std::shared_ptr<state> state_;
};

}  // namespace sluice::detail
