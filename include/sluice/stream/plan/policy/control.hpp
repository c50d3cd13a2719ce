// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/plan.hpp>

namespace sluice::stream::policy {

/// The first chunk that nobody has touched and that can be fetched; -1 = none.
inline int next_in_order(const cost_model& cost, const request_progress& p) noexcept {
  for (int c = 0; c < cost.num_chunks(); ++c)
    if (untouched(p, c) && can_fetch(cost, p, c)) return c;
  return -1;
}
/// The last one.
inline int next_from_back(const cost_model& cost, const request_progress& p) noexcept {
  for (int c = cost.num_chunks() - 1; c >= 0; --c)
    if (untouched(p, c) && can_fetch(cost, p, c)) return c;
  return -1;
}

/// Seconds of computing that no transfer can replace: chunks that are not stored, are lost, or were chosen as text.
inline double forced_seconds(const cost_model& cost, const request_progress& p) noexcept {
  double sum = 0;
  for (int c = 0; c < cost.num_chunks(); ++c)
    if (!usable(cost, p, c) && p.computing != c && !can_fetch(cost, p, c))
      sum += cost.recompute_seconds(c, p.chunks[std::size_t(c)].missing);
  return sum;
}

/// Seconds after which the engine has done what it works on and all that is forced upon it.
inline double engine_backlog(const cost_model& cost, const request_progress& p) noexcept {
  return forced_seconds(cost, p) + (p.computing < 0 ? 0 : detail::max(p.compute_free_seconds - p.now_seconds, 0.0));
}

/// When everything that has been asked for will be decoded, were all of it here now.
inline double decoder_free_seconds(const cost_model& cost, const request_progress& p) noexcept {
  double free = detail::max(p.now_seconds, p.decode_free_seconds);
  for (int c = 0; c < cost.num_chunks(); ++c) {
    const chunk_progress& s = p.chunks[std::size_t(c)];
    if (s.requested > s.arrived && !s.computed && !s.late)
      free += cost.decode_seconds(c, s.requested, cost.bytes_between(c, s.arrived, s.requested));
  }
  return free;
}

/// Control: every chunk raw, in order.
struct always_raw {
  static constexpr const char* name = "always_raw";
  step link(const cost_model& cost, const link_history&, const request_progress& p) const noexcept {
    const int c = next_in_order(cost, p);
    return c < 0 ? step{} : fetch(cost, c, cost.exact_level());
  }
  step compute(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }
};

/// Control: the store is not used.
struct always_recompute {
  static constexpr const char* name = "always_recompute";
  step link(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }
  step compute(const cost_model& cost, const link_history&, const request_progress& p) const noexcept {
    const int c = first_missing(cost, p);
    return c < cost.num_chunks() ? recompute(cost, c) : step{};
  }
};

/// Control: every chunk at one level, in order.
template <int Level>
struct fixed_level {
  static_assert(Level >= 0 && Level < 10);
  /// The characters of `name`.
  static constexpr char text[] = {'f', 'i', 'x', 'e', 'd', '_', 'l', 'e', 'v', 'e', 'l', '_', char('0' + Level), 0};
  static constexpr const char* name = text;
  step link(const cost_model& cost, const link_history&, const request_progress& p) const noexcept {
    const int c = next_in_order(cost, p);
    return c < 0 ? step{} : fetch(cost, c, detail::min(Level, cost.num_levels() - 1));
  }
  step compute(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }
};

}  // namespace sluice::stream::policy
