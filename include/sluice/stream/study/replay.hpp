// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/control.hpp>

namespace sluice::stream::policy {

/// Does what a plan says, in its order: a plan that was printed, stored or made by hand can be run again.
struct replay {
  static constexpr const char* name = "replay";
  std::span<const step> plan{};  ///< borrowed; steps that fit no chunk are passed over

  step link(const cost_model& cost, const link_history&, const request_progress& p) const noexcept {
    for (const step& s : plan) {
      if (s.chunk < 0 || s.chunk >= cost.num_chunks() || s.level > cost.exact_level() || !can_fetch(cost, p, s.chunk))
        continue;
      if (s.what == action::text && p.chunks[std::size_t(s.chunk)].requested < 0) return s;
      if (s.what == action::fetch && s.level > p.chunks[std::size_t(s.chunk)].requested) return s;
    }
    return {};
  }
  step compute(const cost_model& cost, const link_history&, const request_progress& p) const noexcept {
    const int missing = first_missing(cost, p);
    for (const step& s : plan)
      if (s.what == action::recompute && s.chunk >= 0 && s.chunk <= missing && s.chunk < cost.num_chunks() &&
          !p.chunks[std::size_t(s.chunk)].computed)
        return s;
    return {};
  }
  static constexpr bool refines = true;  // a plan may refine; it ends when all of it is done
};

}  // namespace sluice::stream::policy
