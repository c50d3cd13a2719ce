// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/control.hpp>

namespace sluice::stream::policy {

/// Ours, for units of layers (unit_of()) whose engine begins with the first layers while others are on their way: everything
/// in order and once, since what an engine may be reading is not refined, each unit at the finest level at which all that
/// is missing would be here by the deadline at a cautious estimate of the link. Nothing is computed that can be had.
template <class Estimator = robust_harmonic_mean>
struct layerwise_with {
  static constexpr const char* name = "layerwise";
  Estimator estimate{};  ///< of the link, bytes per second

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    const int c = next_in_order(cost, p), last = cost.num_chunks() - 1;
    if (c < 0) return {};
    const double rate = expected_rate(estimate, h, p, 0);
    if (!(rate > 0)) return fetch(cost, c, detail::min(1, cost.num_levels() - 1));
    int level = cost.num_levels() - 1;
    for (; level > 0; --level) {
      double bytes = double(p.bytes_due());
      for (int i = c; i <= last; ++i)
        if (untouched(p, i) && can_fetch(cost, p, i)) bytes += double(cost.bytes(i, level));
      const double arrival = detail::max(p.now_seconds + bytes / rate, p.decode_free_seconds);
      if (arrival + cost.decode_seconds(last, level, cost.bytes(last, level)) <= p.deadline_seconds) break;
    }
    return fetch(cost, c, level);
  }
  step compute(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }
};
/// With RobustMPC's lower bound as estimate.
using layerwise = layerwise_with<>;

}  // namespace sluice::stream::policy
