// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/control.hpp>

namespace sluice::stream::policy {

/// BOLA (Spiteri, Urgaonkar, Sitaraman, INFOCOM 2016): the choice with the largest (V * (utility + gp) - Q) / size. The buffer Q is
/// the slack in chunk times: what is left beyond the time that the remaining chunks take at the smallest level. Utility is the
/// share of the base's loss that is removed; text is a choice whose size is what the link would carry until the engine
/// is done with it. V and gp are such that the smallest level wins below one chunk time, and that nothing but the finest is worth its
/// bytes where all that remains fits at the finest.
struct bola {
  static constexpr const char* name = "bola";
  harmonic_mean estimate{};  ///< of the link, bytes per second

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
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
    const double slack =
        (rate * (p.left() - cost.decode_seconds(c, 0, cost.bytes(c, 0))) - double(p.bytes_in_flight) - smallest) /
        chunk_bytes;
    const auto size = [&](int level) { return detail::max(double(cost.bytes(c, level)), 1.0); };
    const auto utility = [&](int level) { return 1 - cost.loss(c, level) / cost.loss(c, 0); };
    const double low = 1, high = detail::max((finest - smallest) / chunk_bytes, 2.0);
    const double bend = top > 0 ? utility(1) * size(0) / detail::max(size(1) - size(0), 1.0) : 0;
    const double v = (high - low) / detail::max(utility(top) + bend, 1e-9), gp = high / v - utility(top);
    step best = fetch(cost, c, 0);
    double score = -detail::infinity;
    for (int level = 0; level <= top; ++level) {
      const double x = (v * (utility(level) + gp) - slack) / size(level);
      if (x <= score) continue;
      score = x;
      best = fetch(cost, c, level);
    }
    const double text_size =
        detail::max((engine_backlog(cost, p) + cost.recompute_seconds(c)) * rate - double(p.bytes_in_flight), 1.0);
    if (text_size < size(top) && (v * (1 + gp) - slack) / text_size > score)
      best = {c, cost.all_layers(), action::text, -1};
    return best;
  }
  step compute(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }
};

}  // namespace sluice::stream::policy
