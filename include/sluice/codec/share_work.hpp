// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/options.hpp>
#include <sluice/numeric.hpp>

#include <atomic>
#include <cstdint>

namespace sluice::detail {

// How many workers share so many items.
inline int workers_for(const parallel_for& p, std::int64_t items) noexcept {
  return p.run ? int(clamp<std::int64_t>(p.workers, 1, max<std::int64_t>(items, 1))) : 1;
}

// Calls each(worker, item) for all items; a worker takes the next one when it is done with one, in ascending order, and
// stops where each() returns false.
template <class Each>
void share_work(const parallel_for& p, int workers, std::int64_t items, Each each) {
  if (workers <= 1) {
    for (std::int64_t i = 0; i < items && each(0, i); ++i) {
    }
    return;
  }
  struct shared {
    Each& each;
    std::int64_t items;
    std::atomic<std::int64_t> next{0};
  } all{each, items};
  p.run(
      p.pool, workers,
      [](void* context, int worker) {
        shared& s = *static_cast<shared*>(context);
        for (std::int64_t i; (i = s.next.fetch_add(1, std::memory_order_relaxed)) < s.items && s.each(worker, i);) {
        }
      },
      &all);
}

}  // namespace sluice::detail
