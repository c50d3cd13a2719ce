// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/control.hpp>

namespace sluice::stream::policy {

/// KVServe's analytic choice: of all profiles (levels and the exact copy) whose loss is within bounds, the one with the least
/// T_model + V / s_codec + V / (B * ratio) for what remains; B comes from a window of transfers and is corrected by what it
/// mispredicted there, in seconds per byte.
struct kvserve {
  static constexpr const char* name = "kvserve";
  double max_loss = 0.01;    ///< nats of the whole request: the floor of quality
  double model_seconds = 0;  ///< T_model: whatever every profile costs alike
  harmonic_mean estimate{};  ///< of the link, bytes per second

  /// Seconds per byte of the link, with the mean residual of the predictions in the window added.
  double seconds_per_byte(const link_history& h) const noexcept {
    const double rate = estimate(h);
    if (!(rate > 0)) return 0;
    double residual = 0;
    int n = 0;
    for (; n < estimate.window && n + 1 < h.size(); ++n) residual += 1 / h.recent(n).rate() - 1 / estimate.at(h, n + 1);
    return detail::max(1 / rate + (n ? residual / n : 0), 0.1 / rate);
  }

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    const int c = next_in_order(cost, p), n = cost.num_chunks();
    if (c < 0) return {};
    const double per_byte = seconds_per_byte(h) * detail::max(p.sharing, 1);
    int best = -1;
    double least = detail::infinity;
    for (int level = 0; level <= cost.exact_level(); ++level) {
      if (cost.total_loss(level) > max_loss) continue;
      double bytes = 0, decode = 0;
      for (int i = c; i < n; ++i) {
        bytes += double(cost.bytes(i, level));
        decode += cost.decode_seconds(i, level, cost.bytes(i, level));
      }
      // Without a rate the smallest profile wins: its time on any link is the least.
      const double seconds = per_byte > 0 ? model_seconds + decode + bytes * per_byte : bytes;
      if (seconds < least) {
        least = seconds;
        best = level;
      }
    }
    return fetch(cost, c, best);
  }
  step compute(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }
};

}  // namespace sluice::stream::policy
