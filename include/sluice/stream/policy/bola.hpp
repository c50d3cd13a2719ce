// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/policy/control.hpp>

namespace sluice::stream::policy {

/// BOLA (Spiteri, Urgaonkar, Sitaraman, INFOCOM 2016): the choice with the largest (V * (utility + gp) - Q) / size. The buffer Q is
/// the slack in chunk times: what is left beyond the time that the remaining chunks take at the smallest level. Utility is
/// the logarithm of the loss saved; text is a choice whose size is what the link would carry while the engine computes. V and
/// gp are such that the smallest level wins below one chunk time and the finest where the rest fits at the finest.
struct bola {
  static constexpr const char* name = "bola";
  harmonic_mean estimate{};

  step link(const cost_model& cost, const link_history& h, const progress& p) const noexcept {
    const int c = next_in_order(cost, p), n = cost.num_chunks(), top = cost.num_levels() - 1;
    if (c < 0) return {};
    const double rate = expected_rate(estimate, h, p, 0);
    if (!(rate > 0)) return fetch(cost, c, 0);
    double smallest = 0, finest = 0;
    for (int i = c; i < n; ++i) {
      smallest += double(cost.bytes(i, 0));
      finest += double(cost.bytes(i, top));
    }
    if (!(smallest > 0) || !(cost.loss(c, 0) > 0)) return fetch(cost, c, 0);
    const double chunk_bytes = smallest / (n - c);
    const double slack = (rate * p.left() - double(p.bytes_in_flight) - smallest) / chunk_bytes;
    const double low = 1, high = detail::max((finest - smallest) / chunk_bytes, 2.0);
    const auto utility = [&](int level) {  // the exact copy counts as a thousandth of the loss at the base
      const double floor = cost.loss(c, 0) / 1000;
      return detail::log((cost.loss(c, 0) + floor) / (cost.loss(c, level) + floor));
    };
    const double v = (high - low) / detail::max(utility(top), 1e-9), gp = low / v;
    step best = fetch(cost, c, 0);
    double score = -detail::infinity;
    for (int level = 0; level <= top; ++level) {
      const double s = (v * (utility(level) + gp) - slack) / detail::max(double(cost.bytes(c, level)), 1.0);
      if (s <= score) continue;
      score = s;
      best = fetch(cost, c, level);
    }
    const double text_size = cost.recompute_seconds(c) * rate;
    if (text_size > 0 && (v * (utility(cost.exact_level()) + gp) - slack) / text_size > score)
      best = {c, cost.all_layers(), action::text, -1};
    return best;
  }
  step compute(const cost_model&, const link_history&, const progress&) const noexcept { return {}; }
};

}  // namespace sluice::stream::policy
