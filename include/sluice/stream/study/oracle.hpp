// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/policy/cake.hpp>
#include <sluice/stream/study/trace.hpp>

#include <algorithm>
#include <vector>

namespace sluice::stream::policy {

/// What nobody who obeys the link can beat: the soonest that every chunk is usable, and the least loss at the deadline.
struct oracle_bound {
  double soonest_seconds = 0;  ///< after the start
  double loss = 0;             ///< nats, at the deadline or (where that cannot be met) at the soonest
};

namespace detail_oracle {

// Chunks that the engine can have computed from the front `seconds` after the start.
inline int computable(const cost_model& cost, double seconds) {
  int n = 0;
  while (n < cost.num_chunks() && cost.recompute_seconds(0, n + 1) <= seconds * (1 + 1e-12)) ++n;
  return n;
}
inline double latency(const cost_model& cost, const link_trace& trace, double start) {
  return std::max(trace.latency_at(start), cost.rates().latency_seconds);
}
// The sum over all but the `free` largest.
inline double sum_without(std::vector<double>& x, int free) {
  const std::size_t keep = x.size() - std::min(std::size_t(free), x.size());
  std::nth_element(x.begin(), x.begin() + std::ptrdiff_t(keep), x.end());
  double sum = 0;
  for (std::size_t i = 0; i < keep; ++i) sum += x[i];
  return sum;
}
// Seconds for the m cheapest chunks, for every m.
inline std::vector<double> cheapest(const cost_model& cost) {
  std::vector<double> x;
  for (int c = 0; c < cost.num_chunks(); ++c) x.push_back(cost.recompute_seconds(c));
  std::sort(x.begin(), x.end());
  x.insert(x.begin(), 0.0);
  for (std::size_t i = 1; i < x.size(); ++i) x[i] += x[i - 1];
  return x;
}
// Least bytes that leave only `free` chunks to the engine.
inline double least_bytes(const cost_model& cost, int free) {
  std::vector<double> x;
  for (int c = 0; c < cost.num_chunks(); ++c) {
    double least = double(cost.bytes(c, 0));
    for (int l = 1; l <= cost.exact_level(); ++l) least = std::min(least, double(cost.bytes(c, l)));
    x.push_back(least);
  }
  return sum_without(x, free);
}

}  // namespace detail_oracle

/// A proven bound: decoding is free, chunks may be split over time at will, any set of as many chunks as the engine can compute
/// needs no bytes; the loss is the Lagrangian dual of the knapsack of levels, maximised over the price of a byte.
/// All chunks must be stored as kv, without tokens to compute anew.
inline oracle_bound bound(const cost_model& cost, const link_trace& trace, double start, double deadline_seconds) {
  using namespace detail_oracle;
  const double first = start + latency(cost, trace, start);
  // Soonest: for each number of chunks left to the engine, whichever of link and engine is done last.
  double soonest = std::numeric_limits<double>::infinity();
  const std::vector<double> engine = cheapest(cost);
  for (int m = 0; m <= cost.num_chunks(); ++m) {
    const double bytes = least_bytes(cost, m);
    const double linked = bytes > 0 ? trace.finish_time(first, bytes) - start : 0;
    soonest = std::min(soonest, std::max(engine[std::size_t(m)], linked));
  }
  oracle_bound b{soonest, 0};
  const double until = std::max(deadline_seconds, soonest);
  int free = 0;
  while (free < cost.num_chunks() && engine[std::size_t(free) + 1] <= until * (1 + 1e-12)) ++free;
  const double budget = trace.bytes_between(first, start + until);
  const auto dual = [&](double price) {
    std::vector<double> x;
    for (int c = 0; c < cost.num_chunks(); ++c) {
      double least = detail::infinity;
      for (int l = 0; l <= cost.exact_level(); ++l)
        least = std::min(least, cost.loss(c, l) + price * double(cost.bytes(c, l)));
      x.push_back(least);
    }
    return sum_without(x, free) - price * budget;
  };
  // Concave in the price: ternary search on its logarithm.
  double low = -120, high = 5;
  for (int i = 0; i < 60; ++i) {
    const double a = low + (high - low) / 3, z = high - (high - low) / 3;
    if (dual(std::exp(a)) < dual(std::exp(z)))
      low = a;
    else
      high = z;
  }
  b.loss = std::max(0.0, dual(std::exp((low + high) / 2)));
  return b;
}

/// Knows what the link will do: made for one request and one start, it leaves to the engine what that can compute by the
/// deadline (or by the soonest end, where that is later) and fetches every other chunk once, at a level chosen so that the
/// bytes which the link will carry by then remove the most loss (greedy by loss per byte; within one step of the bound).
struct oracle {
  static constexpr const char* name = "oracle";
  static constexpr bool refines = true;  // computing goes on after the last chunk is usable
  const link_trace* trace_ = nullptr;    ///< what the link will do, borrowed
  double end_seconds = 0;                ///< when everything is to be here
  int front = 0;                         ///< the engine computes what is before it
  std::vector<int> levels;               ///< of each chunk; those before `front` do not count

  oracle() = default;
  /// `trace` is borrowed.
  oracle(const cost_model& cost, const link_trace& trace, double start, double deadline_seconds) : trace_(&trace) {
    const int n = cost.num_chunks();
    const double first = start + detail_oracle::latency(cost, trace, start);
    const auto base_done = [&](int m) {
      double bytes = 0, decode = 0;
      for (int c = m; c < n; ++c) bytes += double(cost.bytes(c, 0));
      if (m < n) decode = cost.decode_seconds(m, 0, cost.bytes(m, 0));
      return m < n ? trace.finish_time(first, bytes) - start + decode : 0;
    };
    double until = deadline_seconds;
    front = detail_oracle::computable(cost, until);
    if (base_done(front) > until) {  // late whatever is done: as soon as possible
      until = std::numeric_limits<double>::infinity();
      for (int m = 0; m <= n; ++m) {
        const double done = std::max(base_done(m), cost.recompute_seconds(0, m));
        if (done < until) {
          until = done;
          front = m;
        }
      }
    }
    end_seconds = start + until;
    levels.assign(std::size_t(n), 0);
    double budget = trace.bytes_between(first, start + until);
    double slowest = 0;
    for (int c = front; c < n; ++c) {
      budget -= double(cost.bytes(c, 0));
      const double d = cost.decode_seconds(c, cost.num_levels() - 1, cost.bytes(c, cost.num_levels() - 1));
      slowest = std::max(slowest, d);
    }
    if (front < n && until < 1e9)
      budget -= trace.bytes_between(start + until - std::min(slowest, until), start + until);
    for (const refinement& r : cost.refinements()) {
      const double bytes = double(cost.bytes_between(r.chunk, r.from, r.to));
      if (r.chunk < front || levels[std::size_t(r.chunk)] != r.from || bytes > budget) continue;
      budget -= bytes;
      levels[std::size_t(r.chunk)] = r.to;
    }
    for (int c = n - 1; c >= front; --c) {
      int& level = levels[std::size_t(c)];
      const double bytes = double(cost.bytes(c, cost.exact_level())) - double(cost.bytes(c, level));
      if (bytes > budget) continue;
      budget -= bytes;
      level = cost.exact_level();
    }
  }

  // The plan leaves no time for what bounds do not know (turns on the link, the last chunk's decoding): where it falls
  // behind, a chunk takes a lower level.
  step link(const cost_model& cost, const link_history&, const request_progress& p) const noexcept {
    int next = -1;
    double planned = double(p.bytes_in_flight);
    for (int c = cost.num_chunks() - 1; c >= front; --c) {
      if (!untouched(p, c) || !can_fetch(cost, p, c)) continue;
      if (next < 0)
        next = c;
      else
        planned += double(cost.bytes(c, levels[std::size_t(c)]));
    }
    if (next < 0) return {};
    int level = levels[std::size_t(next)];
    const auto here = [&] {
      const std::uint64_t bytes = cost.bytes(next, level);
      return trace_->finish_time(p.now_seconds, planned + double(bytes)) + cost.decode_seconds(next, level, bytes) +
             2 * cost.rates().latency_seconds;  // the link runs dry for as long now and then
    };
    while (level > 0 && here() > end_seconds) --level;
    return fetch(cost, next, level);
  }
  step compute(const cost_model& cost, const link_history&, const request_progress& p) const noexcept {
    const int c = first_missing(cost, p);
    return c < front ? recompute(cost, c) : step{};
  }
};

}  // namespace sluice::stream::policy
