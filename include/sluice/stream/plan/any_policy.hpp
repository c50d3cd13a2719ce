// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/plan.hpp>

namespace sluice::stream {

/// Any policy behind one type, so that an executor or a simulator is compiled for those that refine and for those that do
/// not, and not for each. Borrows the policy. One indirect call a decision.
template <bool Refines>
class any_policy {
 public:
  static constexpr const char* name = "any";  ///< whatever the policy's own is
  static constexpr bool refines = Refines;    ///< see planner_policy

  /// Of a policy that refines or not, as the type says.
  template <planner_policy Policy>
  static any_policy of(const Policy& p) noexcept {
    static_assert(refining_policy<Policy> == Refines,
                  "any_policy<true> is for policies that refine, and only for them");
    any_policy any;
    any.policy_ = &p;
    any.link_ = [](const void* self, const cost_model& cost, const link_history& link, const request_progress& now) {
      return static_cast<const Policy*>(self)->link(cost, link, now);
    };
    any.compute_ = [](const void* self, const cost_model& cost, const link_history& link, const request_progress& now) {
      return static_cast<const Policy*>(self)->compute(cost, link, now);
    };
    return any;
  }

  /// What the policy says of the link.
  step link(const cost_model& cost, const link_history& link, const request_progress& now) const {
    return link_(policy_, cost, link, now);
  }
  /// What the policy says of the engine.
  step compute(const cost_model& cost, const link_history& link, const request_progress& now) const {
    return compute_(policy_, cost, link, now);
  }

 private:
  using asked = step (*)(const void*, const cost_model&, const link_history&, const request_progress&);
  any_policy() = default;

  const void* policy_ = nullptr;
  asked link_ = nullptr, compute_ = nullptr;
};

/// A policy as any_policy, which borrows it.
template <planner_policy Policy>
any_policy<refining_policy<Policy>> erased(const Policy& p) noexcept {
  return any_policy<refining_policy<Policy>>::of(p);
}
template <planner_policy Policy>
void erased(const Policy&&) = delete;  // it must outlive the other

}  // namespace sluice::stream
