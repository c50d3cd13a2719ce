// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/control.hpp>

namespace sluice::stream::policy {

/// What CacheGen's public adaptation script does (UChi-JCL/CacheGen @ 6bed34c, run_adaptation.py), which is not the paper's
/// algorithm: every chunk has an equal slice of the deadline and takes the best level that fits it, else text; nothing is
/// carried over. The script looks up the true rate of each chunk; a planner has only the last one. First chunk as in the paper.
template <class Estimator = last_chunk>
struct cachegen_released_with {
  static constexpr const char* name = "cachegen_released";
  Estimator estimate{};  ///< of the link, bytes per second

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    const int c = next_in_order(cost, p);
    if (c < 0) return {};
    const double slice = (p.deadline_seconds - p.start_seconds) / cost.num_chunks();
    for (int level = cost.num_levels() - 1; level >= 0; --level) {
      const double rate = expected_rate(estimate, h, p, cost.bytes(c, level));
      if (!(rate > 0)) return fetch(cost, c, cost.num_levels() / 2);
      if (double(cost.bytes(c, level)) < rate * slice) return fetch(cost, c, level);
    }
    return {c, cost.all_layers(), action::text, -1};
  }
  step compute(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }
};
/// With the rate of the last chunk as estimate.
using cachegen_released = cachegen_released_with<>;

}  // namespace sluice::stream::policy
