// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <set>
#include <string_view>
#include <type_traits>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sluice::stream {

/// A place where frames are kept. The first is the fastest.
struct storage_tier {
  double capacity_bytes = 0;
  double bytes_per_second = 1;
  double latency_seconds = 0;
  double price_per_byte_second = 0;  ///< of what is stored, in any currency; reported, not optimised
};

/// A chunk that can be kept: cumulative bytes and loss per level, and the seconds that computing it anew takes.
struct placed_item {
  std::vector<std::uint64_t> bytes;
  std::vector<double> loss;
  double recompute_seconds = 0;
  int depth = 0;  ///< chunks before it in its context
};

/// What a request for a chunk cost. Not kept = computed, without loss.
struct placement_outcome {
  bool hit = false;
  int tier = -1, level = -1;
  double seconds = 0, loss = 0;
};

struct placement_options {
  double alpha_seconds_per_nat = 10;        ///< what a nat is worth: utility = frequency * (alpha * quality - delay)
  double half_life_seconds = 600;           ///< of an access, in the frequency
  double transcode_bytes_per_second = 1e9;  ///< of policies that must decode and encode to lower a level
  int reoptimise_every = 2000;              ///< accesses (evicpress)
};

struct placement_totals {
  std::uint64_t accesses = 0, hits = 0, dropped = 0, demoted = 0, truncated = 0;
  double seconds = 0, loss = 0;
  double transcode_seconds = 0;  ///< decoding and encoding done to lower levels
  double moved_bytes = 0;        ///< between tiers
  double price = 0;
};

namespace placement_policy {
/// Least recently used leaves its tier for the next, from the last for good.
struct lru {
  static constexpr std::string_view name = "lru";
};
/// AdaptCache (BigMem 2025): whatever loses least utility per byte freed, of {leave, one level down}; a level down is decoded
/// and encoded anew and cannot be undone.
struct adaptcache {
  static constexpr std::string_view name = "adaptcache";
};
/// EVICPRESS (2512.14946): the same choices, and every so often a joint assignment of everything kept to tiers.
struct evicpress {
  static constexpr std::string_view name = "evicpress";
};
/// Pensieve (EuroSys 2025): full quality; chunks with the least recompute seconds per second since their last use leave
/// first, so the front of old contexts goes and is computed anew.
struct pensieve {
  static constexpr std::string_view name = "pensieve";
};
/// Ours: a level down is a truncation in place (no decoding, no original); the passes cut off move to the next tier and leave
/// it first, so quality comes back where there is room.
struct truncating {
  static constexpr std::string_view name = "truncating";
};
}  // namespace placement_policy

/// Decides what is kept where and at which level. Deterministic; every change costs O(log items) (pensieve and the joint
/// assignment of evicpress look at everything, rarely).
template <class Policy>
class placement {
 public:
  placement(std::vector<storage_tier> tiers, const placement_options& options = {})
      : tiers_(std::move(tiers)), options_(options) {
    used_.resize(tiers_.size());
    order_.resize(tiers_.size());
  }

  /// Errors: invalid_argument (no levels, lengths that differ, figures that are negative or not finite).
  status check(const placed_item& item) const {
    if (item.bytes.empty() || item.bytes.size() > max_levels || item.bytes.size() != item.loss.size() || tiers_.empty())
      return status::invalid_argument;
    for (std::size_t i = 0; i < item.bytes.size(); ++i)
      if ((i && item.bytes[i] < item.bytes[i - 1]) || !(item.loss[i] >= 0) || !std::isfinite(item.loss[i]))
        return status::invalid_argument;
    return item.recompute_seconds >= 0 && std::isfinite(item.recompute_seconds) ? status::ok : status::invalid_argument;
  }

  /// A request for chunk `id` at this time (never before an earlier one). What is not kept is computed, and kept from then on.
  result<placement_outcome> access(std::int64_t id, const placed_item& item, double now) {
    if (const status s = check(item); s != status::ok) return s;
    pay(now);
    placement_outcome o;
    ++totals_.accesses;
    auto [it, is_new] = entries_.try_emplace(id);
    entry& e = it->second;
    if (is_new || e.passes() == 0) {
      o.seconds = item.recompute_seconds;
      e.item = item;
      e.tier.fill(-1);
      forget(e);
      touch(e, now);
      for (std::size_t p = 0; p < item.bytes.size(); ++p) e.tier[p] = 0;
      used_[0] += double(item.bytes.back());
    } else {
      forget(e);
      o = read(e);
      totals_.hits += o.hit;
      touch(e, now);
      if (!o.hit) e.item = item;  // computing was quicker than reading: it is whole again
      promote(e, o);
    }
    remember(id, e);
    for (std::size_t t = 0; t < tiers_.size(); ++t) make_room(int(t), now);
    if constexpr (std::is_same_v<Policy, placement_policy::evicpress>)
      if (totals_.accesses % std::uint64_t(std::max(options_.reoptimise_every, 1)) == 0) reassign();
    totals_.seconds += o.seconds;
    totals_.loss += o.loss;
    return o;
  }

  const placement_totals& totals() const noexcept { return totals_; }
  double used_bytes(int tier) const noexcept { return used_[std::size_t(tier)]; }

 private:
  static constexpr std::size_t max_levels = 8;
  static constexpr bool in_place = std::is_same_v<Policy, placement_policy::truncating>;
  static constexpr bool by_utility = in_place || std::is_same_v<Policy, placement_policy::adaptcache> ||
                                     std::is_same_v<Policy, placement_policy::evicpress>;

  using tier_of_pass = std::array<std::int8_t, max_levels>;

  struct entry {
    placed_item item;
    tier_of_pass tier{};          ///< -1 = not kept; a later pass is never on a faster tier
    double last = 0, weight = 0;  ///< decayed accesses at `last`
    std::vector<std::pair<int, std::pair<double, std::int64_t>>> keys;  ///< where it stands in order_
    int passes() const { return passes_of(tier); }
    int passes_of(const tier_of_pass& at) const {
      int n = 0;
      while (n < int(item.bytes.size()) && at[std::size_t(n)] >= 0) ++n;
      return n;
    }
    double pass_bytes(int p) const {
      return double(item.bytes[std::size_t(p)] - (p ? item.bytes[std::size_t(p) - 1] : 0));
    }
  };

  // Reading passes [0, n).
  double delay(const entry& e, const tier_of_pass& at, int n) const {
    double sum = 0;
    for (int p = 0; p < n; ++p) {
      const storage_tier& t = tiers_[std::size_t(at[std::size_t(p)])];
      if (p == 0 || at[std::size_t(p)] != at[std::size_t(p) - 1]) sum += t.latency_seconds;
      sum += e.pass_bytes(p) / t.bytes_per_second;
    }
    return sum;
  }
  // The best that one request can make of what is kept: as many passes as are worth their delay, or computing. Where a
  // level is an object of its own it is read whole.
  double cost(const entry& e, const tier_of_pass& at, int* best_passes = nullptr) const {
    double best = e.item.recompute_seconds;
    int n = 0;
    const int all = e.passes_of(at);
    for (int p = in_place ? 1 : all; p <= all && p > 0; ++p) {
      const double c = delay(e, at, p) + options_.alpha_seconds_per_nat * e.item.loss[std::size_t(p) - 1];
      if (c < best) {
        best = c;
        n = p;
      }
    }
    if (best_passes) *best_passes = n;
    return best;
  }
  placement_outcome read(const entry& e) const {
    placement_outcome o;
    int n = 0;
    cost(e, e.tier, &n);
    if (n == 0) {
      o.seconds = e.item.recompute_seconds;
      return o;
    }
    o.hit = true;
    o.tier = e.tier[std::size_t(n) - 1];
    o.level = n - 1;
    o.seconds = delay(e, e.tier, n);
    o.loss = e.item.loss[std::size_t(n) - 1];
    return o;
  }

  void touch(entry& e, double now) {
    e.weight = e.weight * std::exp2((e.last - now) / options_.half_life_seconds) + 1;
    e.last = now;
  }
  // What has been used comes back to the first tier; what was computed is whole again.
  void promote(entry& e, const placement_outcome& o) {
    const int n = o.hit ? e.passes() : int(e.item.bytes.size());
    for (int p = 0; p < n; ++p) {
      std::int8_t& t = e.tier[std::size_t(p)];
      if (in_place && o.hit && p > o.level) break;  // passes that were not read stay where they are
      if (t > 0) totals_.moved_bytes += e.pass_bytes(p);
      if (t >= 0) used_[std::size_t(t)] -= e.pass_bytes(p);
      t = 0;
      used_[0] += e.pass_bytes(p);
    }
  }

  // What a tier does next to an entry to free bytes: its last pass on the tier, or all its bytes there, go to the next tier or away.
  struct move {
    int first_pass = 0, end_pass = 0, to = -1;
    bool shortens = false;  ///< the last pass of a single object: decoded and encoded anew, except in place
    double lost_per_byte = 0;
  };
  move cheapest_move(const entry& e, int tier) const {
    int first = 0, end = 0;
    for (int p = 0; p < e.passes(); ++p)
      if (e.tier[std::size_t(p)] == tier) {
        if (end == 0) first = p;
        end = p + 1;
      }
    const int next = tier + 1 < int(tiers_.size()) ? tier + 1 : -1;
    move best{0, 0, -1, false, std::numeric_limits<double>::infinity()};
    const double now = cost(e, e.tier);
    const auto consider = [&](move m) {
      tier_of_pass after = e.tier;
      double freed = 0;
      for (int p = m.first_pass; p < m.end_pass; ++p) freed += e.pass_bytes(p);
      for (int p = m.first_pass; p < int(max_levels); ++p)
        if (p < m.end_pass || m.to < 0) after[std::size_t(p)] = std::int8_t(m.to);
      if (!(freed > 0)) freed = 1e-9;
      m.lost_per_byte = std::max(cost(e, after) - now, 0.0) / freed;
      if (m.lost_per_byte < best.lost_per_byte) best = m;
    };
    consider({first, end, next, false, 0});
    if constexpr (by_utility) {
      if (end - first >= 1 && end > 1 && end == e.passes()) consider({end - 1, end, -1, true, 0});
      if constexpr (in_place) {
        if (next >= 0)
          for (int p = end - 1; p > first; --p) consider({p, end, next, false, 0});
      }
    }
    return best;
  }

  // Frequencies decay alike, so their order at any time is that of weight * 2^(last / half life).
  double key_of(const entry& e, int tier) const {
    if constexpr (by_utility)
      return std::log2(std::max(cheapest_move(e, tier).lost_per_byte, 1e-300)) + std::log2(e.weight) +
             e.last / options_.half_life_seconds;
    return e.last;
  }
  void remember(std::int64_t id, entry& e) {
    for (std::size_t t = 0; t < tiers_.size(); ++t)
      if (std::find(e.tier.begin(), e.tier.begin() + e.passes(), int(t)) != e.tier.begin() + e.passes()) {
        const std::pair<double, std::int64_t> key{key_of(e, int(t)), id};
        order_[t].insert(key);
        e.keys.push_back({int(t), key});
      }
  }
  void forget(entry& e) {
    for (const auto& [t, key] : e.keys) order_[std::size_t(t)].erase(key);
    e.keys.clear();
  }

  void make_room(int tier, double now) {
    const double capacity = tiers_[std::size_t(tier)].capacity_bytes;
    if (used_[std::size_t(tier)] <= capacity) return;
    if constexpr (std::is_same_v<Policy, placement_policy::pensieve>) {
      evict_front(tier, now);
      return;
    }
    while (used_[std::size_t(tier)] > capacity && !order_[std::size_t(tier)].empty()) {
      const std::int64_t id = order_[std::size_t(tier)].begin()->second;
      carry_out(id, cheapest_move(entries_[id], tier));
    }
  }
  void carry_out(std::int64_t id, const move& m) {
    entry& e = entries_[id];
    forget(e);
    const int had = e.passes();
    for (int p = m.first_pass; p < had; ++p) {
      if (p >= m.end_pass && m.to >= 0) continue;
      std::int8_t& t = e.tier[std::size_t(p)];
      used_[std::size_t(t)] -= e.pass_bytes(p);
      t = std::int8_t(m.to);
      if (m.to >= 0) {
        used_[std::size_t(m.to)] += e.pass_bytes(p);
        totals_.moved_bytes += e.pass_bytes(p);
      }
    }
    if (m.shortens) {
      ++totals_.truncated;
      if (!in_place) {
        totals_.transcode_seconds += double(e.item.bytes[std::size_t(had) - 1]) / options_.transcode_bytes_per_second;
        e.item.bytes.resize(std::size_t(had) -
                            1);  // a shorter object now: the fine one is gone until it is computed again
        e.item.loss.resize(std::size_t(had) - 1);
      }
    } else {
      ++(m.to >= 0 ? totals_.demoted : totals_.dropped);
    }
    if (e.passes() == 0)
      entries_.erase(id);
    else
      remember(id, e);
  }

  // Pensieve frees a share at a time, ahead of need: one look at everything serves many requests.
  void evict_front(int tier, double now) {
    std::vector<std::pair<double, std::int64_t>> all;
    for (const auto& [key, id] : order_[std::size_t(tier)])
      all.push_back({entries_[id].item.recompute_seconds / std::max(now - entries_[id].last, 1e-3), id});
    std::sort(all.begin(), all.end());
    const double target = 0.95 * tiers_[std::size_t(tier)].capacity_bytes;
    for (const auto& [value, id] : all) {
      if (used_[std::size_t(tier)] <= target) break;
      carry_out(id, cheapest_move(entries_[id], tier));
    }
  }

  // EVICPRESS: everything that is kept is placed anew, the densest utility on the fastest tier.
  void reassign() {
    std::vector<std::pair<double, std::int64_t>> all;
    for (auto& [id, e] : entries_) {
      const double density = e.item.recompute_seconds / double(std::max<std::uint64_t>(e.item.bytes.back(), 1));
      all.push_back(
          {-(std::log2(std::max(density, 1e-300)) + std::log2(e.weight) + e.last / options_.half_life_seconds), id});
    }
    std::sort(all.begin(), all.end());
    std::vector<double> room;
    for (const storage_tier& t : tiers_) room.push_back(t.capacity_bytes);
    for (const auto& [key, id] : all) {
      entry& e = entries_[id];
      const double bytes = double(e.item.bytes[std::size_t(e.passes()) - 1]);
      std::size_t t = 0;
      while (t + 1 < tiers_.size() && room[t] < bytes) ++t;
      room[t] -= bytes;
      if (e.tier[0] == int(t)) continue;
      forget(e);
      for (int p = 0, n = e.passes(); p < n; ++p) {
        used_[std::size_t(e.tier[std::size_t(p)])] -= e.pass_bytes(p);
        e.tier[std::size_t(p)] = std::int8_t(t);
        used_[t] += e.pass_bytes(p);
        totals_.moved_bytes += e.pass_bytes(p);
      }
      remember(id, e);
    }
    for (std::size_t t = 0; t < tiers_.size(); ++t) make_room(int(t), 0);
  }

  void pay(double now) {
    for (std::size_t t = 0; t < tiers_.size(); ++t)
      totals_.price += used_[t] * tiers_[t].price_per_byte_second * std::max(now - now_, 0.0);
    now_ = std::max(now_, now);
  }

  std::vector<storage_tier> tiers_;
  placement_options options_;
  std::vector<double> used_;
  std::unordered_map<std::int64_t, entry> entries_;
  std::vector<std::set<std::pair<double, std::int64_t>>> order_;
  placement_totals totals_;
  double now_ = 0;
};

/// Calls f.operator()<Policy>() for every placement policy.
template <class F>
void for_each_placement_policy(F&& f) {
  f.template operator()<placement_policy::lru>();
  f.template operator()<placement_policy::adaptcache>();
  f.template operator()<placement_policy::evicpress>();
  f.template operator()<placement_policy::pensieve>();
  f.template operator()<placement_policy::truncating>();
}

}  // namespace sluice::stream
