// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/progressive.hpp>

namespace sluice::stream::policy {

/// Ours, the default: progressive, while the engine computes the front exactly. What the engine will have computed by the
/// deadline is not fetched until everything behind it is as good as the levels get; then the ends meet as in Cake. Where the
/// raw copy would be there no later than the finest level (a slow decoder on a fast link), the raw copy is loaded.
template <class Estimator = harmonic_mean>
struct progressive_cake_with {
  static constexpr const char* name = "progressive_cake";
  static constexpr bool refines = true;
  progressive_with<Estimator> fetcher{};  ///< chooses among the chunks that the engine will not compute in time

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    const double rate = expected_rate(fetcher.estimate, h, p, 0);
    const int c = next_from_back(cost, p), front = reach(cost, p, rate), exact = cost.exact_level();
    int whole = cost.num_levels() - 1;  // what a chunk is fetched as where it is fetched once and for all
    if (c >= 0 && rate > 0) {
      const double raw = cake_levels::finish(cost, p, rate, exact);
      const bool late = raw > p.deadline_seconds;  // then only the soonest end counts
      const double coded = cake_levels::finish(cost, p, rate, late ? 0 : whole);
      // Where nothing is won in time, because the engine is later than both, the link must be trusted less, and nobody else's.
      const bool alone = p.sharing <= 1 && p.bytes_before == 0 && p.engine_before_seconds <= 0;
      if (raw < coded || (!late && raw == coded && alone && cake_levels::finish(cost, p, rate / 2, exact) == raw))
        whole = exact;
      if (engine_sooner(cost, p, rate, c, 0) && engine_sooner(cost, p, rate, c, exact))
        return fetcher.link_from(cost, h, p, c + 1);
    } else if (p.computing >= 0 && rate > 0 &&
               cake::fetched_seconds(cost, rate, p, p.computing, exact) <=
                   cake::fetched_seconds(cost, rate, p, p.computing, whole)) {
      whole = exact;
    }
    if (c >= front && whole == exact) return fetch(cost, c, whole);
    if (c < front && p.computing >= 0 &&
        p.compute_free_seconds > p.deadline_seconds)  // the engine will be late with this one
      if (const step s = cake::contested(cost, h, p, whole == exact ? whole : fetcher.first_pass(cost, p, rate, front)))
        return s;
    if (const step s = fetcher.link_from(cost, h, p, front)) return s;
    // Nothing behind the front is left to improve in time: shorten the front, as Cake does.
    if (c >= 0) {
      const int level = whole == exact ? exact : fetcher.worth(cost, rate, c);
      return engine_sooner(cost, p, rate, c, level) ? step{} : fetch(cost, c, level);
    }
    if (const step s = fetcher.link_from(cost, h, p, 0)) return s;
    return cake::contested(cost, h, p, whole);
  }

  step compute(const cost_model& cost, const link_history&, const request_progress& p) const noexcept {
    const int missing = first_missing(cost, p), top = cost.num_levels() - 1;
    if (missing < cost.num_chunks())
      return p.chunks[std::size_t(missing)].arrived < 0 ? recompute(cost, missing) : step{};
    if (fetcher.enough(cost, p)) return {};
    int best = -1;  // everything is usable: compute where it removes most loss a second, if it is done in time
    double gain = fetcher.nats_per_second;
    for (int c = 0; c < cost.num_chunks(); ++c) {
      const chunk_progress& s = p.chunks[std::size_t(c)];
      if (s.computed || s.requested >= top || p.now_seconds + cost.recompute_seconds(c) > p.deadline_seconds) continue;
      const double g = cost.loss(c, s.requested) / cost.recompute_seconds(c);
      if (g <= gain) continue;
      gain = g;
      best = c;
    }
    return best < 0 ? step{} : recompute(cost, best);
  }

  /// Whether the engine would have a chunk, and all before it that nobody has touched, before link and decoder. Of the
  /// decoder alone, where it would take longer than one chunk: a link that is not asked cannot tell that it has become faster.
  static bool engine_sooner(const cost_model& cost, const request_progress& p, double rate, int c, int level) noexcept {
    double engine = p.engine_free_seconds() + forced_seconds(cost, p);
    for (int i = 0; i <= c; ++i)
      if (untouched(p, i) && can_fetch(cost, p, i)) engine += cost.recompute_seconds(i);
    const double decoded = decoder_free_seconds(cost, p) + cost.decode_seconds(c, level, cost.bytes(c, level));
    const bool last = engine - p.now_seconds <= cost.recompute_seconds(c) * (1 + 1e-9);
    return engine <= (last ? cake::fetched_seconds(cost, rate, p, c, level) : decoded);
  }

  /// The first chunk that the engine will not have computed by the deadline, with time kept to fetch one base pass should
  /// the engine be late.
  static int reach(const cost_model& cost, const request_progress& p, double rate) noexcept {
    double engine = p.engine_free_seconds();
    const double deadline = p.deadline_seconds - forced_seconds(cost, p);
    int c = 0;
    for (; c < cost.num_chunks(); ++c) {
      const chunk_progress& s = p.chunks[std::size_t(c)];
      if (!can_fetch(cost, p, c) || s.requested >= cost.num_levels() - 1) continue;
      const std::uint64_t base = cost.bytes(c, 0);
      engine += cost.recompute_seconds(c);
      const double reserve = s.requested >= 0
                                 ? 0
                                 : detail::min((rate > 0 ? double(base) / rate : 0) + cost.rates().latency_seconds +
                                                   cost.decode_seconds(c, 0, base),
                                               0.1 * (engine - p.now_seconds));
      if (engine + reserve > deadline) break;
    }
    return c;
  }
};
/// With the harmonic mean of the last transfers as estimate.
using progressive_cake = progressive_cake_with<>;

}  // namespace sluice::stream::policy
