// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/placement.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string_view>

namespace sluice::stream::placement_policies {

/// Least recently used leaves its tier for the next, from the last for good.
struct lru {
  static constexpr std::string_view name = "lru";
  static constexpr bool in_place = false;
  placement_move move(const kept_chunk& c, int tier, const storage_state& s) const { return s.leave(c, tier); }
  double worth(const kept_chunk& c, const placement_move&, const storage_state&) const { return c.last_seconds; }
};

/// The same order, one level at a time: what was used least recently gets coarser before it goes.
struct lru_levels : lru {
  static constexpr std::string_view name = "lru_levels";
  static constexpr bool in_place = true;
  placement_move move(const kept_chunk& c, int tier, const storage_state& s) const {
    const int end = s.passes_on(c, tier).second, next = s.next_tier(tier);
    return s.priced(c, {end - 1, end, next, next < 0, 0});
  }
};

/// Pensieve (EuroSys 2025): full quality; chunks with the least recompute seconds per second since their last use leave
/// first, so the front of old contexts goes and is computed anew.
struct pensieve : lru {
  static constexpr std::string_view name = "pensieve";
  double worth_at(const kept_chunk& c, double now) const {
    return c.item.recompute_seconds / std::max(now - c.last_seconds, 1e-3);
  }
};

/// AdaptCache (BigMem 2025): whatever loses least utility per byte freed, of {leave, one level down}; a level down is decoded
/// and encoded anew and cannot be undone.
struct adaptcache {
  static constexpr std::string_view name = "adaptcache";
  static constexpr bool in_place = false;
  placement_move move(const kept_chunk& c, int tier, const storage_state& s) const {
    const auto [first, end] = s.passes_on(c, tier);
    const placement_move whole = s.leave(c, tier);
    if (end == first || end < 2 || end != c.passes()) return whole;  // a chunk keeps its base
    const placement_move down = s.priced(c, {end - 1, end, -1, true, 0});
    return down.lost_per_byte < whole.lost_per_byte ? down : whole;
  }
  double worth(const kept_chunk& c, const placement_move& m, const storage_state& s) const {
    return std::log2(std::max(m.lost_per_byte, 1e-300)) + s.log_frequency(c);
  }
};

/// EVICPRESS (2512.14946): the same choices, and every so often a joint assignment of everything kept to tiers.
struct evicpress : adaptcache {
  static constexpr std::string_view name = "evicpress";
  double density(const kept_chunk& c, const storage_state& s) const {
    const double seconds = c.item.recompute_seconds / double(std::max<std::uint64_t>(c.item.bytes.back(), 1));
    return std::log2(std::max(seconds, 1e-300)) + s.log_frequency(c);
  }
};

/// Ours: a level down is a truncation in place (no decoding, no original); the passes cut off move to the next tier and leave
/// it first, so quality comes back where there is room.
struct truncating : adaptcache {
  static constexpr std::string_view name = "truncating";
  static constexpr bool in_place = true;
  placement_move move(const kept_chunk& c, int tier, const storage_state& s) const {
    placement_move best = adaptcache::move(c, tier, s);
    const auto [first, end] = s.passes_on(c, tier);
    const int next = s.next_tier(tier);
    for (int p = end - 1; next >= 0 && p > first; --p)
      if (const placement_move m = s.priced(c, {p, end, next, false, 0}); m.lost_per_byte < best.lost_per_byte)
        best = m;
    return best;
  }
};

/// Calls `f.operator()<Policy>()` for every policy of this file.
template <class F>
void for_each(F&& f) {
  f.template operator()<lru>();
  f.template operator()<lru_levels>();
  f.template operator()<adaptcache>();
  f.template operator()<evicpress>();
  f.template operator()<pensieve>();
  f.template operator()<truncating>();
}

}  // namespace sluice::stream::placement_policies
