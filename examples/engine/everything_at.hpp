// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/plan.hpp>

namespace engine {

/// The policy of who has no deadline: every chunk at one level, in order.
struct everything_at {
  static constexpr const char* name = "everything";
  static constexpr bool refines = false;
  int level = 0;

  sluice::stream::step link(const sluice::stream::cost_model& cost, const sluice::stream::link_history&,
                            const sluice::stream::request_progress& p) const noexcept {
    for (int c = 0; c < cost.num_chunks(); ++c)
      if (p.chunks[std::size_t(c)].requested < 0 && can_fetch(cost, p, c)) return sluice::stream::fetch(cost, c, level);
    return {};
  }
  sluice::stream::step compute(const sluice::stream::cost_model&, const sluice::stream::link_history&,
                               const sluice::stream::request_progress&) const noexcept {
    return {};
  }
};

}  // namespace engine
