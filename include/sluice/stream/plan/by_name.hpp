// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/bola.hpp>
#include <sluice/stream/plan/policy/cachegen.hpp>
#include <sluice/stream/plan/policy/cachegen_released.hpp>
#include <sluice/stream/plan/policy/cake.hpp>
#include <sluice/stream/plan/policy/control.hpp>
#include <sluice/stream/plan/policy/kvserve.hpp>
#include <sluice/stream/plan/policy/layerwise.hpp>
#include <sluice/stream/plan/policy/progressive.hpp>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/plan/policy/robust_mpc.hpp>

#include <string_view>

namespace sluice::stream {

/// The policies that need nothing but what a planner knows, ours last.
inline constexpr std::string_view policy_names[] = {
    "always_raw",    "always_recompute", "fixed_level_0",     "fixed_level_1",
    "fixed_level_2", "cachegen",         "cachegen_released", "cake",
    "cake_levels",   "kvserve",          "robust_mpc",        "bola",
    "layerwise",     "progressive",      "progressive_cake"};

/// Calls f(policy) for the policy of this name. Returns false where there is none.
template <class F>
bool with_policy(std::string_view name, F&& f) {
  const auto is = [&](auto p) {
    if (name != p.name) return false;
    f(p);
    return true;
  };
  using namespace policy;
  return is(always_raw{}) || is(always_recompute{}) || is(fixed_level<0>{}) || is(fixed_level<1>{}) ||
         is(fixed_level<2>{}) || is(cachegen{}) || is(cachegen_released{}) || is(cake{}) || is(cake_levels{}) ||
         is(kvserve{}) || is(robust_mpc{}) || is(bola{}) || is(layerwise{}) || is(progressive{}) ||
         is(progressive_cake{});
}

}  // namespace sluice::stream
