// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/cake.hpp>

namespace sluice::stream::policy {

/// Ours: base passes of everything first, then refinements in the order of loss removed per byte until the deadline. At every
/// instant the cache is the best that the bytes so far allow, and nothing sent is wasted when the link drops. Least loss by the
/// deadline is the objective unless `enough_loss` (least time at a bound of loss) or `nats_per_second` (a price) is set.
template <class Estimator = harmonic_mean>
struct progressive_with {
  static constexpr const char* name = "progressive";
  static constexpr bool refines = true;
  Estimator estimate{};  ///< of the link, bytes per second
  /// The first pass is cut finer than the base only where everything fits at that level into this share of the time left; it
  /// saves requests and decoding, never the base of another chunk.
  double first_pass_share = 0.25;
  /// Nats of the request: when what has been asked for loses no more, nothing is refined. 0 = whatever is gained in time.
  double enough_loss = 0;
  /// What a second is worth: nothing is refined that removes less in the time it takes. 0 = time before the deadline is free.
  double nats_per_second = 0;

  step link(const cost_model& cost, const link_history& h, const request_progress& p) const noexcept {
    return link_from(cost, h, p, 0);
  }
  step compute(const cost_model&, const link_history&, const request_progress&) const noexcept { return {}; }

  /// The next request when everything before chunk `reach` will come from the engine.
  step link_from(const cost_model& cost, const link_history& h, const request_progress& p, int reach) const noexcept {
    const double rate = expected_rate(estimate, h, p, 0);
    const int c = next_from_back(cost, p);
    if (c >= reach) {
      const int level = detail::max(first_pass(cost, p, rate, reach), beside_decoder(cost, p, rate, reach, c));
      return fetch(cost, c, detail::min(level, worth(cost, rate, c)));
    }
    if (enough(cost, p)) return {};
    for (const refinement& r : cost.refinements()) {
      if (r.loss_per_byte * rate < nats_per_second) break;  // those behind remove less
      const chunk_progress& s = p.chunks[std::size_t(r.chunk)];
      if (r.chunk < reach || s.requested < r.from || s.requested >= r.to || !can_fetch(cost, p, r.chunk)) continue;
      if (in_time(cost, p, rate, r.chunk, r.to)) return fetch(cost, r.chunk, r.to);
    }
    return {};
  }

  /// Whether what has been asked for, and what is computed, loses no more than enough_loss.
  bool enough(const cost_model& cost, const request_progress& p) const noexcept {
    if (!(enough_loss > 0)) return false;
    double loss = 0;
    for (int c = 0; c < cost.num_chunks(); ++c)
      if (!p.chunks[std::size_t(c)].computed && p.computing != c)
        loss += cost.loss(c, detail::max<int>(p.chunks[std::size_t(c)].requested, 0));
    return loss <= enough_loss;
  }
  /// The level at which a chunk is worth fetching in one go, by the objective; the finest where only the deadline counts.
  int worth(const cost_model& cost, double rate, int c) const noexcept {
    int level = cost.num_levels() - 1;
    for (; level > 0; --level) {
      const bool loses_too_much = enough_loss > 0 ? cost.total_loss(level - 1) > enough_loss : !(nats_per_second > 0);
      const double gain = cost.loss(c, level - 1) - cost.loss(c, level);
      const double seconds = double(cost.bytes_between(c, level - 1, level)) / rate;
      if (loses_too_much || (nats_per_second > 0 && rate > 0 && gain >= nats_per_second * seconds)) break;
    }
    return level;
  }

  /// Whether a chunk would be here and decoded at `level` before the deadline.
  static bool in_time(const cost_model& cost, const request_progress& p, double rate, int c, int level) noexcept {
    const int have = p.chunks[std::size_t(c)].requested;
    const std::uint64_t bytes = cost.bytes_between(c, have, level);
    const double arrival = p.now_seconds + (rate > 0 ? double(p.bytes_due() + bytes) / rate : 0) +
                           (p.fetches_in_flight ? 0 : cost.rates().latency_seconds);
    return detail::max(arrival, p.decode_free_seconds) + cost.decode_seconds(c, level, bytes) <= p.deadline_seconds;
  }

  /// The level of a first pass over what is missing behind `reach`, and over what the engine works on: the base as long as
  /// other requests need link or engine to be usable, since what they wait for is worth more.
  int first_pass(const cost_model& cost, const request_progress& p, double rate, int reach) const noexcept {
    if (!(rate > 0) || p.bytes_before > 0 || p.engine_before_seconds > 0) return 0;
    const double budget = first_pass_share * rate * p.left() - double(p.bytes_due());
    int level = 0;
    for (; level + 1 < cost.num_levels(); ++level) {
      std::uint64_t bytes = 0;
      for (int i = reach; i < cost.num_chunks(); ++i)
        if (can_fetch(cost, p, i) || (i == p.computing && p.chunks[std::size_t(i)].requested < 0))
          bytes += cost.bytes_between(i, p.chunks[std::size_t(i)].requested, level + 1);
      if (double(bytes) > budget) break;
    }
    return level;
  }

 private:
  // Where the decoder lags behind the link, a chunk may come finer while what is here is decoded: it costs no time now and is
  // decoded once. Only as far as the base of all others would still be here in time on a link of a fourth of the rate.
  static int beside_decoder(const cost_model& cost, const request_progress& p, double rate, int reach, int c) noexcept {
    if (!(rate > 0)) return 0;
    double others = double(p.bytes_due()), decode = 0;
    for (int i = reach; i < cost.num_chunks(); ++i) {
      if (!can_fetch(cost, p, i) || p.chunks[std::size_t(i)].requested >= 0) continue;
      if (i != c) others += double(cost.bytes(i, 0));
      decode += cost.decode_seconds(i, 0, cost.bytes(i, 0));
    }
    int level = 0;
    for (; level + 1 < cost.num_levels(); ++level) {
      const double bytes = double(cost.bytes(c, level + 1));
      const bool hidden = p.now_seconds + (double(p.bytes_due()) + bytes) / rate <= p.decode_free_seconds;
      const double slow = p.now_seconds + 4 * (others + bytes) / rate;
      if (!hidden || slow > p.deadline_seconds ||
          detail::max(p.decode_free_seconds, p.now_seconds) + decode > p.deadline_seconds)
        break;
    }
    return level;
  }
};
/// With the harmonic mean of the last transfers as estimate.
using progressive = progressive_with<>;

}  // namespace sluice::stream::policy
