// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/control.hpp>

namespace sluice::stream::policy {

/// The front of a two-ended plan: the first chunk that the engine neither has nor works on.
inline int next_to_compute(const cost_model& cost, const request_progress& p) noexcept {
  const int c = first_missing(cost, p);
  return c == p.computing ? c + 1 : c;
}

/// Cake (Jin et al., ICML 2025, algorithm 1): the engine computes from the front while the link loads from the back, until they
/// meet. No estimate is needed. The last chunk is contested: whoever is idle tries it too, so neither end waits for a slow other.
struct cake {
  static constexpr const char* name = "cake";
  int level = -1;  ///< what is loaded; -1 = the exact copy, as published

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    const int what = level < 0 ? cost.exact_level() : detail::min(level, cost.num_levels() - 1);
    if (const int c = next_from_back(cost, p); c >= 0) return fetch(cost, c, what);
    return contested(cost, h, p, what);
  }
  step compute(const cost_model& cost, const link_history&, const request_progress& p) const noexcept {
    const int c = first_missing(cost, p);
    return c < cost.num_chunks() && p.chunks[std::size_t(c)].arrived < 0 ? recompute(cost, c) : step{};
  }

  /// The chunk that the engine works on, if the link would have it sooner.
  static step contested(const cost_model& cost, const link_history& h, const request_progress& p, int what) noexcept {
    const int c = p.computing;
    if (c < 0 || !cost.stored(c) || p.chunks[std::size_t(c)].lost || p.chunks[std::size_t(c)].requested >= 0) return {};
    return fetched_seconds(cost, expected_rate(harmonic_mean{}, h, p, 0), p, c, what) < p.compute_free_seconds
               ? fetch(cost, c, what)
               : step{};
  }
  /// When a chunk that nothing is here of would be decoded if it was asked for now; 0 on a link of unknown rate.
  static double fetched_seconds(const cost_model& cost, double rate, const request_progress& p, int c,
                                int what) noexcept {
    if (!(rate > 0)) return 0;
    const std::uint64_t bytes = cost.bytes(c, what);
    const double wait = detail::max(cost.rates().latency_seconds, double(p.bytes_due()) / rate);
    const double arrival = p.now_seconds + wait + double(bytes) / rate;
    return detail::max(arrival, decoder_free_seconds(cost, p)) + cost.decode_seconds(c, what, bytes);
  }
};

/// Cake with a choice of levels: the finest at which loading what remains finishes no later than at the coarsest, so that
/// quality is taken where it is free (the link waits for the engine or for the decoder anyway).
template <class Estimator = harmonic_mean>
struct cake_levels_with {
  static constexpr const char* name = "cake_levels";
  Estimator estimate{};     ///< of the link, bytes per second
  double tolerance = 1e-3;  ///< share of the finish time

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    const int c = next_from_back(cost, p);
    int level = 0;
    const double rate = expected_rate(estimate, h, p, 0);
    if (rate > 0 && c >= 0) {
      const double soonest = finish(cost, p, rate, 0);
      const double limit = soonest + tolerance * (soonest - p.now_seconds);
      for (int l = cost.exact_level(); l > 0 && level == 0; --l)
        if (finish(cost, p, rate, l, limit) <= limit) level = l;
    }
    return c >= 0 ? fetch(cost, c, level) : cake::contested(cost, h, p, level);
  }
  step compute(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    return cake{}.compute(cost, h, p);
  }

  /// When the two ends have met, if everything untouched is loaded at `level`; some time after `limit` if they meet after it.
  static double finish(const cost_model& cost, const request_progress& p, double rate, int level,
                       double limit = detail::infinity) noexcept {
    const double forced = forced_seconds(cost, p);
    double engine = p.engine_free_seconds() + forced;
    double link = p.now_seconds + double(p.bytes_due()) / rate,
           decoded = detail::max(decoder_free_seconds(cost, p), link);
    bool contested = p.computing >= 0 && forced <= 0 && p.engine_before_seconds <= 0 && cost.stored(p.computing) &&
                     !p.chunks[std::size_t(p.computing)].lost && p.chunks[std::size_t(p.computing)].requested < 0;
    int front = next_to_compute(cost, p), back = cost.num_chunks() - 1;
    while (true) {
      while (front <= back && !(untouched(p, front) && can_fetch(cost, p, front))) ++front;
      while (back >= front && !(untouched(p, back) && can_fetch(cost, p, back))) --back;
      if (front > back && contested) {  // what the engine works on may come from the link as well, and sooner
        const std::uint64_t bytes = cost.bytes(p.computing, level);
        const double loaded = detail::max(decoded, link + double(bytes) / rate);
        engine = detail::min(engine, loaded + cost.decode_seconds(p.computing, level, bytes));
      }
      if (front > back || decoded > limit || (engine > limit && !contested)) return detail::max(engine, decoded);
      const double computed = engine + cost.recompute_seconds(front);
      const double loaded = link + double(cost.bytes(back, level)) / rate;
      const double usable = detail::max(decoded, loaded) + cost.decode_seconds(back, level, cost.bytes(back, level));
      if (computed <= (front < back ? loaded : usable)) {  // whoever is done first takes the next chunk
        engine = computed;
        contested = false;
        ++front;
        continue;
      }
      link = loaded;
      decoded = usable;
      --back;
    }
  }
};
/// With the harmonic mean of the last transfers as estimate.
using cake_levels = cake_levels_with<>;

}  // namespace sluice::stream::policy
