// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <set>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sluice::stream {

/// A place where frames are kept. The first is the fastest.
struct storage_tier {
  double capacity_bytes = 0;         ///< of all that is kept there
  double bytes_per_second = 1;       ///< of a read
  double latency_seconds = 0;        ///< to the first byte of a read
  double price_per_byte_second = 0;  ///< of what is stored, in any currency; reported, not optimised
};

/// A chunk that can be kept: cumulative bytes and loss per level, and the seconds that computing it anew takes.
struct placed_item {
  std::vector<std::uint64_t> bytes;  ///< [levels], those of the levels below included
  std::vector<double> loss;          ///< [levels] nats of the request that uses it
  double recompute_seconds = 0;      ///< of the engine
  int depth = 0;                     ///< chunks before it in its context
};

/// What a placement weighs, whatever the policy.
struct placement_options {
  double alpha_seconds_per_nat = 10;        ///< what a nat is worth: utility = frequency * (alpha * quality - delay)
  double half_life_seconds = 600;           ///< of an access, in the frequency
  double transcode_bytes_per_second = 1e9;  ///< of policies that must decode and encode to lower a level
  int reoptimise_every = 2000;              ///< accesses (evicpress)
};

/// What a placement decided since it was made.
struct placement_moves {
  std::uint64_t accesses = 0;    ///< requests for a chunk
  std::uint64_t hits = 0;        ///< of these, read from a tier
  std::uint64_t dropped = 0;     ///< moves off the last tier
  std::uint64_t demoted = 0;     ///< moves to a slower tier
  std::uint64_t truncated = 0;   ///< moves that took a level away
  double transcode_seconds = 0;  ///< decoding and encoding done to lower levels
  double moved_bytes = 0;        ///< between tiers
};

/// One chunk as it is kept now.
struct kept_chunk {
  static constexpr std::size_t max_levels = 8;               ///< that an item can have
  using tier_of_pass = std::array<std::int8_t, max_levels>;  ///< -1 = not kept

  placed_item item;         ///< without the levels that were given up by encoding anew
  tier_of_pass tier{};      ///< of each pass; -1 = not kept. A later pass is never on a faster tier
  double last_seconds = 0;  ///< of the last access
  double weight = 0;        ///< accesses, decayed to that time
  /// Passes that are kept.
  int passes() const { return passes_of(tier); }
  /// Passes that would be kept if they lay on these tiers.
  int passes_of(const tier_of_pass& at) const {
    int n = 0;
    while (n < int(item.bytes.size()) && at[std::size_t(n)] >= 0) ++n;
    return n;
  }
  /// Bytes of one pass.
  double pass_bytes(int p) const {
    return double(item.bytes[std::size_t(p)] - (p ? item.bytes[std::size_t(p) - 1] : 0));
  }
};

/// What frees bytes of a tier: passes [first_pass, end_pass) of a chunk go to tier `to`, or for -1 away with all behind them.
struct placement_move {
  int first_pass = 0;        ///< that moves
  int end_pass = 0;          ///< behind the last one that moves
  int to = -1;               ///< tier, or -1
  bool shortens = false;     ///< a level less; decoded and encoded anew where passes are not kept apart
  double lost_per_byte = 0;  ///< of what one request costs
};

/// What a placement policy may look at.
class storage_state {
 public:
  /// `in_place` as the policy has it.
  storage_state(std::vector<storage_tier> tiers, const placement_options& options, bool in_place)
      : tiers_(std::move(tiers)), options_(options), in_place_(in_place) {}

  /// The tiers, the fastest first.
  const std::vector<storage_tier>& tiers() const noexcept { return tiers_; }
  /// What is weighed.
  const placement_options& options() const noexcept { return options_; }
  /// The tier below, -1 = there is none.
  int next_tier(int tier) const noexcept { return tier + 1 < int(tiers_.size()) ? tier + 1 : -1; }

  /// Seconds to read passes [0, n) where these tiers hold them.
  double delay_seconds(const kept_chunk& c, const kept_chunk::tier_of_pass& at, int n) const {
    double sum = 0;
    for (int p = 0; p < n; ++p) {
      const storage_tier& t = tiers_[std::size_t(at[std::size_t(p)])];
      if (p == 0 || at[std::size_t(p)] != at[std::size_t(p) - 1]) sum += t.latency_seconds;
      sum += c.pass_bytes(p) / t.bytes_per_second;
    }
    return sum;
  }
  /// The best that one request can make of what is kept, in seconds: as many passes as are worth their delay, or computing.
  /// Where a level is an object of its own it is read whole.
  double cost_seconds(const kept_chunk& c, const kept_chunk::tier_of_pass& at, int* best_passes = nullptr) const {
    double best = c.item.recompute_seconds;
    int n = 0;
    const int all = c.passes_of(at);
    for (int p = in_place_ ? 1 : all; p <= all && p > 0; ++p) {
      const double x = delay_seconds(c, at, p) + options_.alpha_seconds_per_nat * c.item.loss[std::size_t(p) - 1];
      if (x < best) {
        best = x;
        n = p;
      }
    }
    if (best_passes) *best_passes = n;
    return best;
  }
  /// The passes of a chunk that stand on a tier: [first, second), which is empty where none does.
  std::pair<int, int> passes_on(const kept_chunk& c, int tier) const {
    int first = 0, end = 0;
    for (int p = 0; p < c.passes(); ++p)
      if (c.tier[std::size_t(p)] == tier) {
        if (end == 0) first = p;
        end = p + 1;
      }
    return {first, end};
  }
  /// Everything of the chunk leaves the tier for the next, from the last for good.
  placement_move leave(const kept_chunk& c, int tier) const {
    const auto [first, end] = passes_on(c, tier);
    return priced(c, {first, end, next_tier(tier), false, 0});
  }
  /// The move with what it loses per byte that it frees.
  placement_move priced(const kept_chunk& c, placement_move m) const {
    kept_chunk::tier_of_pass after = c.tier;
    double freed = 0;
    for (int p = m.first_pass; p < m.end_pass; ++p) freed += c.pass_bytes(p);
    for (int p = m.first_pass; p < int(kept_chunk::max_levels); ++p)
      if (p < m.end_pass || m.to < 0) after[std::size_t(p)] = std::int8_t(m.to);
    if (!(freed > 0)) freed = 1e-9;
    m.lost_per_byte = std::max(cost_seconds(c, after) - cost_seconds(c, c.tier), 0.0) / freed;
    return m;
  }
  /// Frequencies decay alike, so their order at any time is that of weight * 2^(last / half life): its logarithm.
  double log_frequency(const kept_chunk& c) const {
    return std::log2(c.weight) + c.last_seconds / options_.half_life_seconds;
  }

 private:
  std::vector<storage_tier> tiers_;
  placement_options options_;
  bool in_place_;
};

/// What a placement policy is: it says what a full tier does to a chunk, and which chunk comes first.
/// - name: in reports.
/// - in_place: whether passes are kept apart, so that a level down is a truncation and a request may read fewer than are kept.
/// - move(chunk, tier, state): how this chunk would free bytes of a tier on which it has some.
/// - worth(chunk, move, state): of that move; the least is made first. It must follow from its arguments alone: it is asked
///   for when the chunk is touched or moved, and kept until then.
/// Optional:
/// - worth_at(chunk, now): used instead of worth(), over all chunks of a tier, which then frees 5 % at a time.
/// - density(chunk, state): every `reoptimise_every` accesses everything is placed anew, the densest on the fastest tier.
template <class P>
concept placement_policy = requires(const P policy, const kept_chunk& c, const placement_move& m,
                                    const storage_state& s, int tier) {
  { P::name } -> std::convertible_to<std::string_view>;
  { P::in_place } -> std::convertible_to<bool>;
  { policy.move(c, tier, s) } -> std::same_as<placement_move>;
  { policy.worth(c, m, s) } -> std::same_as<double>;
};

/// Decides what is kept where and at which level: the one state that simulations (study/placement.hpp) and stores
/// (store/sources/tiered.hpp) share. Deterministic; every change costs O(log items), but for the looks at everything that a
/// policy asks for. Times are never before earlier ones.
template <placement_policy Policy>
class placement {
 public:
  /// Empty tiers, the fastest first.
  placement(std::vector<storage_tier> tiers, const placement_options& options = {}, Policy policy = {})
      : state_(std::move(tiers), options, Policy::in_place), policy_(std::move(policy)) {
    used_.resize(state_.tiers().size());
    order_.resize(state_.tiers().size());
  }

  /// Errors: invalid_argument (no levels, lengths that differ, figures that are negative or not finite).
  status check(const placed_item& item) const {
    if (item.bytes.empty() || item.bytes.size() > kept_chunk::max_levels || item.bytes.size() != item.loss.size() ||
        state_.tiers().empty())
      return status::invalid_argument;
    for (std::size_t i = 0; i < item.bytes.size(); ++i)
      if ((i && item.bytes[i] < item.bytes[i - 1]) || !(item.loss[i] >= 0) || !std::isfinite(item.loss[i]))
        return status::invalid_argument;
    return item.recompute_seconds >= 0 && std::isfinite(item.recompute_seconds) ? status::ok : status::invalid_argument;
  }

  /// A chunk that was computed: all of it is on the first tier from now on, as far as there is room. Errors: those of check().
  status keep(std::int64_t id, const placed_item& item, double now) {
    if (const status s = check(item); s != status::ok) return s;
    entry& e = entries_[id];
    forget(e);
    for (int p = e.passes() - 1; p >= 0; --p) {
      if (e.tier[std::size_t(p)] > 0) moves_.moved_bytes += e.pass_bytes(p);
      leave(e, p, -1);
    }
    touch(e, now);
    e.item = item;
    e.tier.fill(-1);
    for (std::size_t p = 0; p < item.bytes.size(); ++p) leave(e, int(p), 0);
    ++moves_.accesses;
    placed(id, e, now);
    return status::ok;
  }
  /// A chunk that is kept was read, its first `passes` passes: they come back to the first tier. Where a level is an object of
  /// its own all of it does. 0 = looked at. `again`: by the request that was counted before.
  void use(std::int64_t id, int passes, double now, bool again = false) {
    const auto it = entries_.find(id);
    if (it == entries_.end()) return;
    entry& e = it->second;
    forget(e);
    if (!again) {
      ++moves_.hits;
      ++moves_.accesses;
      touch(e, now);
    }
    const int kept = e.passes(), n = Policy::in_place || passes <= 0 ? std::min(passes, kept) : kept;
    for (int p = 0; p < n; ++p) {
      if (e.tier[std::size_t(p)] > 0) moves_.moved_bytes += e.pass_bytes(p);
      leave(e, p, 0);
    }
    placed(id, e, now);
  }
  /// A chunk that was found on these tiers, as kept_chunk::tier has them: nobody has asked for it. Errors: those of check();
  /// invalid_argument where a later pass is on a faster tier or on none that there is.
  status find_again(std::int64_t id, const placed_item& item, const kept_chunk::tier_of_pass& at, double now) {
    if (const status s = check(item); s != status::ok) return s;
    kept_chunk c;
    c.item = item;
    c.tier = at;
    for (int p = 0; p < c.passes(); ++p)
      if (at[std::size_t(p)] >= int(used_.size()) || (p && at[std::size_t(p)] < at[std::size_t(p) - 1]))
        return status::invalid_argument;
    if (c.passes() == 0 || entries_.contains(id)) return status::invalid_argument;
    entry& e = entries_[id];
    e.item = item;
    e.tier.fill(-1);
    touch(e, now);
    for (int p = 0; p < c.passes(); ++p) leave(e, p, at[std::size_t(p)]);
    remember(id, e);
    changed_.push_back(id);
    for (std::size_t t = 0; t < used_.size(); ++t) make_room(int(t), now);
    return status::ok;
  }
  /// What came of it is not what was decided: passes from `first` on that were to be on a faster tier are on this one, or for
  /// -1 they are all gone.
  void correct(std::int64_t id, int first, int tier, double now) {
    const auto it = entries_.find(id);
    if (it == entries_.end()) return;
    entry& e = it->second;
    forget(e);
    for (int p = e.passes() - 1; p >= first; --p)
      if (tier < 0 || e.tier[std::size_t(p)] < tier) leave(e, p, tier);
    changed_.push_back(id);
    if (e.passes() == 0)
      entries_.erase(it);
    else
      remember(id, e);
    for (std::size_t t = 0; t < used_.size(); ++t) make_room(int(t), now);
  }

  /// Where a chunk is to be; null = nowhere.
  const kept_chunk* find(std::int64_t id) const {
    const auto it = entries_.find(id);
    return it == entries_.end() ? nullptr : &it->second;
  }
  /// The chunks whose places may have changed since this was asked last, some of them more than once.
  std::vector<std::int64_t> changed() { return std::exchange(changed_, {}); }
  /// The tiers, and what they cost.
  const storage_state& state() const noexcept { return state_; }
  /// What was decided.
  const placement_moves& moves() const noexcept { return moves_; }
  /// Bytes that a tier holds, or is to hold.
  double used_bytes(int tier) const noexcept { return used_[std::size_t(tier)]; }

 private:
  static constexpr bool looks_at_all = requires(const Policy& p, const kept_chunk& c, double now) {
    { p.worth_at(c, now) } -> std::same_as<double>;
  };
  static constexpr bool places_anew = requires(const Policy& p, const kept_chunk& c, const storage_state& s) {
    { p.density(c, s) } -> std::same_as<double>;
  };

  struct entry : kept_chunk {
    std::vector<std::pair<int, std::pair<double, std::int64_t>>> keys;  // where it stands in order_
  };

  void touch(entry& e, double now) {
    e.weight = e.weight * std::exp2((e.last_seconds - now) / state_.options().half_life_seconds) + 1;
    e.last_seconds = now;
  }
  // A pass goes to another tier, -1 = nowhere.
  void leave(entry& e, int p, int to) {
    std::int8_t& t = e.tier[std::size_t(p)];
    if (t >= 0) used_[std::size_t(t)] -= e.pass_bytes(p);
    if (to >= 0) used_[std::size_t(to)] += e.pass_bytes(p);
    t = std::int8_t(to);
  }
  void placed(std::int64_t id, entry& e, double now) {
    remember(id, e);
    changed_.push_back(id);
    for (std::size_t t = 0; t < used_.size(); ++t) make_room(int(t), now);
    if constexpr (places_anew)
      if (moves_.accesses % std::uint64_t(std::max(state_.options().reoptimise_every, 1)) == 0) reassign(now);
  }

  void remember(std::int64_t id, entry& e) {
    for (std::size_t t = 0; t < used_.size(); ++t)
      if (std::find(e.tier.begin(), e.tier.begin() + e.passes(), int(t)) != e.tier.begin() + e.passes()) {
        const std::pair<double, std::int64_t> key{policy_.worth(e, move_of(e, int(t)), state_), id};
        order_[t].insert(key);
        e.keys.push_back({int(t), key});
      }
  }
  void forget(entry& e) {
    for (const auto& [t, key] : e.keys) order_[std::size_t(t)].erase(key);
    e.keys.clear();
  }

  void make_room(int tier, double now) {
    const double capacity = state_.tiers()[std::size_t(tier)].capacity_bytes;
    if (used_[std::size_t(tier)] <= capacity) return;
    if constexpr (looks_at_all) return free_share(tier, now);
    while (used_[std::size_t(tier)] > capacity && !order_[std::size_t(tier)].empty()) {
      const std::int64_t id = order_[std::size_t(tier)].begin()->second;
      carry_out(id, move_of(entries_[id], tier));
    }
  }
  // What the policy says, or, where that would free nothing of the tier, all of the chunk.
  placement_move move_of(const entry& e, int tier) const {
    const placement_move m = policy_.move(e, tier, state_);
    const int passes = e.passes();
    const bool within = m.first_pass >= 0 && m.first_pass < m.end_pass && m.end_pass <= passes;
    const bool down = m.to == -1 || (m.to > tier && m.to < int(used_.size()));
    if (!within || !down || e.tier[std::size_t(m.first_pass)] != tier) return state_.leave(e, tier);
    // A later pass is never on a faster tier.
    if (m.to >= 0 && m.end_pass < passes && e.tier[std::size_t(m.end_pass)] < m.to) return state_.leave(e, tier);
    return m;
  }
  void carry_out(std::int64_t id, const placement_move& m) {
    entry& e = entries_[id];
    forget(e);
    const int had = e.passes();
    for (int p = m.first_pass; p < had; ++p) {
      if (p >= m.end_pass && m.to >= 0) continue;
      leave(e, p, m.to);
      if (m.to >= 0) moves_.moved_bytes += e.pass_bytes(p);
    }
    changed_.push_back(id);
    if (m.shortens) {
      ++moves_.truncated;
      if (!Policy::in_place) {
        moves_.transcode_seconds +=
            double(e.item.bytes[std::size_t(had) - 1]) / state_.options().transcode_bytes_per_second;
        e.item.bytes.resize(std::size_t(had) -
                            1);  // a shorter object now: the fine one is gone until it is computed again
        e.item.loss.resize(std::size_t(had) - 1);
      }
    } else {
      ++(m.to >= 0 ? moves_.demoted : moves_.dropped);
    }
    if (e.passes() == 0)
      entries_.erase(id);
    else
      remember(id, e);
  }

  // One look at everything serves many requests.
  void free_share(int tier, double now) {
    std::vector<std::pair<double, std::int64_t>> all;
    for (const auto& [key, id] : order_[std::size_t(tier)]) all.push_back({policy_.worth_at(entries_[id], now), id});
    std::sort(all.begin(), all.end());
    const double target = 0.95 * state_.tiers()[std::size_t(tier)].capacity_bytes;
    for (const auto& [value, id] : all) {
      if (used_[std::size_t(tier)] <= target) break;
      carry_out(id, move_of(entries_[id], tier));
    }
  }

  // Everything that is kept is placed anew, the densest on the fastest tier.
  void reassign(double now) {
    std::vector<std::pair<double, std::int64_t>> all;
    for (auto& [id, e] : entries_) all.push_back({-policy_.density(e, state_), id});
    std::sort(all.begin(), all.end());
    std::vector<double> room;
    for (const storage_tier& t : state_.tiers()) room.push_back(t.capacity_bytes);
    for (const auto& [key, id] : all) {
      entry& e = entries_[id];
      const double bytes = double(e.item.bytes[std::size_t(e.passes()) - 1]);
      std::size_t t = 0;
      while (t + 1 < room.size() && room[t] < bytes) ++t;
      room[t] -= bytes;
      if (e.tier[0] == int(t)) continue;
      forget(e);
      for (int p = 0, n = e.passes(); p < n; ++p) {
        leave(e, p, int(t));
        moves_.moved_bytes += e.pass_bytes(p);
      }
      changed_.push_back(id);
      remember(id, e);
    }
    for (std::size_t t = 0; t < used_.size(); ++t) make_room(int(t), now);
  }

  storage_state state_;
  Policy policy_;
  std::vector<double> used_;  // bytes, by tier
  std::unordered_map<std::int64_t, entry> entries_;
  std::vector<std::set<std::pair<double, std::int64_t>>> order_;
  std::vector<std::int64_t> changed_;
  placement_moves moves_;
};

}  // namespace sluice::stream
