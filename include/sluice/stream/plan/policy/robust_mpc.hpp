// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/control.hpp>

namespace sluice::stream::policy {

/// RobustMPC (Yin et al., SIGCOMM 2015) on chunks of a cache: the rate is a lower bound, the horizon is all that remains (its
/// sizes are known), and since losses add up the best levels for it are a knapsack: smallest levels first, then steps up by
/// loss per byte while they fit. Only the next chunk is acted on; everything is solved anew after it. A chunk comes as text
/// where the engine would be done with it no later than the link.
struct robust_mpc {
  static constexpr const char* name = "robust_mpc";
  robust_harmonic_mean estimate{};  ///< of the link, bytes per second

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    const int c = next_in_order(cost, p), n = cost.num_chunks();
    if (c < 0) return {};
    const double rate = expected_rate(estimate, h, p, 0);
    if (!(rate > 0)) return fetch(cost, c, 0);
    double left = rate * (p.left() - cost.decode_seconds(c, 0, cost.bytes(c, 0))) - double(p.bytes_in_flight);
    for (int i = c; i < n; ++i) left -= double(cost.bytes(i, 0));
    int level = 0;
    for (const refinement& r : cost.refinements()) {
      if (left <= 0) break;
      const double bytes = double(cost.bytes_between(r.chunk, r.from, r.to));
      if (r.chunk < c || bytes > left || (r.chunk == c && level != r.from)) continue;
      left -= bytes;
      if (r.chunk == c) level = r.to;
    }
    if (engine_backlog(cost, p) + cost.recompute_seconds(c) <= double(p.bytes_in_flight + cost.bytes(c, level)) / rate)
      return {c, cost.all_layers(), action::text, -1};
    return fetch(cost, c, level);
  }
  step compute(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }
};

}  // namespace sluice::stream::policy
