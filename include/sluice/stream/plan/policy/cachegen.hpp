// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/control.hpp>

namespace sluice::stream::policy {

/// CacheGen's adaptation (Liu et al., SIGCOMM 2024, section 5.3 and algorithm 1): a chunk comes as text if computing all that
/// remains still meets the deadline, else at the best level at which all that remains fits at the last chunk's rate,
/// else at the smallest; without history at a medium level. Short contexts come as text altogether. The next chunk is asked for
/// while one is on its way, which the paper's loop does not do, and which serves it better wherever a round trip takes time.
template <class Estimator = last_chunk>
struct cachegen_with {
  static constexpr const char* name = "cachegen";
  Estimator estimate{};          ///< of the link, bytes per second
  int text_below_tokens = 1000;  ///< contexts shorter than this come as text

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    const int c = next_in_order(cost, p), n = cost.num_chunks();
    if (c < 0) return {};
    const auto tokens = cost.chunk(n - 1).position + cost.chunk(n - 1).tokens - cost.chunk(0).position;
    const double rate = expected_rate(estimate, h, p, 0);
    // What the paper's sequential loop does not have: transfers under way come first, and the last chunk is decoded.
    const double sending = rate > 0 ? double(p.bytes_in_flight) / rate : 0;
    const double left = p.left() - sending - cost.decode_seconds(c, 0, cost.bytes(c, 0));
    if (tokens < text_below_tokens || cost.recompute_seconds(c, n) <= left)
      return {c, cost.all_layers(), action::text, -1};
    if (!(rate > 0)) return fetch(cost, c, cost.num_levels() / 2);
    int level = cost.num_levels() - 1;
    for (; level > 0; --level) {
      std::uint64_t bytes = 0;
      for (int i = c; i < n; ++i) bytes += cost.bytes(i, level);
      if (double(bytes) <= rate * left) break;
    }
    return fetch(cost, c, level);
  }
  step compute(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }
};
/// With the rate of the last chunk as estimate, as in the paper.
using cachegen = cachegen_with<>;

}  // namespace sluice::stream::policy
