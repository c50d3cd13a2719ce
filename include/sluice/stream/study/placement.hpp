// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/placement.hpp>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace sluice::stream {

/// What a request for a chunk cost. Not kept = computed, without loss.
struct placement_outcome {
  bool hit = false;    ///< read; false = computed
  int tier = -1;       ///< slowest one that was read; -1 = none
  int level = -1;      ///< finest one that was read; -1 = none
  double seconds = 0;  ///< of reading or computing
  double loss = 0;     ///< nats
};

/// What all accesses together cost, beside what was decided.
struct placement_totals : placement_moves {
  double seconds = 0;  ///< of all accesses
  double loss = 0;     ///< nats, of all accesses
  double price = 0;    ///< of what was stored, see storage_tier
};

/// Requests for chunks, and what a placement makes of them where reading and computing take as long as is said.
template <placement_policy Policy>
class placement_simulator {
 public:
  /// Empty tiers, the fastest first.
  placement_simulator(std::vector<storage_tier> tiers, const placement_options& options = {}, Policy policy = {})
      : placement_(std::move(tiers), options, std::move(policy)) {}

  /// A request for chunk `id` at this time (never before an earlier one). What is not kept is computed, and kept from then on.
  /// Errors: those of placement::check().
  result<placement_outcome> access(std::int64_t id, const placed_item& item, double now) {
    if (const status s = placement_.check(item); s != status::ok) return s;
    const std::vector<storage_tier>& tiers = placement_.state().tiers();
    for (std::size_t t = 0; t < tiers.size(); ++t)
      totals_.price += used_bytes(int(t)) * tiers[t].price_per_byte_second * std::max(now - now_, 0.0);
    now_ = std::max(now_, now);
    placement_outcome o{false, -1, -1, item.recompute_seconds, 0};
    int n = 0;
    if (const kept_chunk* c = placement_.find(id)) {
      const storage_state& s = placement_.state();
      s.cost_seconds(*c, c->tier, &n);
      if (n > 0)
        o = {true, c->tier[std::size_t(n) - 1], n - 1, s.delay_seconds(*c, c->tier, n),
             c->item.loss[std::size_t(n) - 1]};
      else  // computing is quicker than reading: it is whole again
        o.seconds = c->item.recompute_seconds;
    }
    if (o.hit)
      placement_.use(id, n, now);
    else if (const status s = placement_.keep(id, item, now); s != status::ok)
      return s;
    placement_.changed();
    totals_.seconds += o.seconds;
    totals_.loss += o.loss;
    static_cast<placement_moves&>(totals_) = placement_.moves();
    return o;
  }

  /// What all accesses together cost.
  const placement_totals& totals() const noexcept { return totals_; }
  /// Bytes that a tier holds.
  double used_bytes(int tier) const noexcept { return placement_.used_bytes(tier); }

 private:
  placement<Policy> placement_;
  placement_totals totals_;
  double now_ = 0;
};

}  // namespace sluice::stream
