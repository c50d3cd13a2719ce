// SPDX-License-Identifier: Apache-2.0
#pragma once

// A planner policy from outside of the library: installed headers only.

#include <sluice/stream/plan/plan.hpp>

namespace mine {

/// A reader looks most at the beginning of a text and at its end. The ends are fetched first and at the finest level, the middle
/// follows at the base; once all of it is here, the middle is refined from the ends inwards while the deadline allows.
struct ends_first {
  static constexpr const char* name = "ends_first";
  static constexpr bool refines = true;  // goes on when every chunk is usable
  int ends = 1;                          ///< chunks at each end

  sluice::stream::step link(const sluice::stream::cost_model& cost, const sluice::stream::link_history& history,
                            const sluice::stream::request_progress& p) const noexcept {
    const int n = cost.num_chunks(), top = cost.num_levels() - 1;
    for (const bool middle : {false, true})
      for (int i = 0; i < n; ++i) {
        const int c = i % 2 ? n - 1 - i / 2 : i / 2;  // 0, n - 1, 1, n - 2, ...
        if (is_end(c, n) != middle && untouched(p, c) && can_fetch(cost, p, c)) return fetch(cost, c, middle ? 0 : top);
      }
    const double rate = expected_rate(sluice::stream::last_chunk{}, history, p, 0);
    for (int i = 0; i < n; ++i) {
      const int c = i % 2 ? n - 1 - i / 2 : i / 2, have = p.chunks[std::size_t(c)].requested;
      if (have < 0 || have >= top || !can_fetch(cost, p, c)) continue;
      const double bytes = double(p.bytes_in_flight + cost.bytes_between(c, have, have + 1));
      if (rate > 0 && bytes / rate < p.left()) return fetch(cost, c, have + 1);
    }
    return {};
  }

  /// The engine is left alone.
  sluice::stream::step compute(const sluice::stream::cost_model&, const sluice::stream::link_history&,
                               const sluice::stream::request_progress&) const noexcept {
    return {};
  }

 private:
  bool is_end(int c, int n) const noexcept { return c < ends || c >= n - ends; }
};

static_assert(sluice::stream::planner_policy<ends_first>);

}  // namespace mine
