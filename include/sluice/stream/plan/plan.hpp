// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/numeric.hpp>
#include <sluice/status.hpp>
#include <sluice/stream/plan/cost.hpp>
#include <sluice/stream/plan/link.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sluice::stream {

/// How a chunk comes: from the store, computed by the engine while the link does something else, as text that is computed
/// when its turn comes (CacheGen), or the computing that a fetched chunk still needs (cost_model::patch_seconds).
enum class action : std::uint8_t { none, fetch, recompute, text, patch };

/// One step of a plan; plain data. A fetch sends what is missing between the level already asked for and `level`. Text costs
/// the link nothing (the engine has the token ids): carrying it out is to set chunk_progress::text.
struct step {
  int chunk = -1;              ///< -1 = none
  layer_range layers{};        ///< policies of the library name all of them
  action what = action::none;  ///< none = there is nothing to do
  int level = -1;              ///< of a fetch, cost_model::exact_level() for the exact copy; else -1
  std::uint32_t order = 0;     ///< in the plan, from 0 on
  /// Of a recompute: what the chunk's pages miss, the rest being sound; who computes all of the chunk does no harm. Empty: all.
  gap missing{};
  /// Whether there is anything to do.
  explicit operator bool() const noexcept { return what != action::none; }
  bool operator==(const step&) const = default;
};

/// Where one chunk stands. Levels as in cost_model; -1 = none.
struct chunk_progress {
  std::int8_t requested = -1;  ///< best level asked for: in flight or here
  std::int8_t arrived = -1;    ///< best level whose bytes are all here
  std::int8_t ready = -1;      ///< best level decoded into the engine's pages
  bool text = false;           ///< was chosen as text: is computed when everything before it is usable
  bool lost = false;           ///< cannot be fetched (damaged, gone): must be computed
  bool late = false;      ///< the link has been silent too long about it: may be computed, is used if it comes first
  bool patched = false;   ///< its action::patch is done, on what is ready
  bool computed = false;  ///< by the engine: exact
  gap missing{};          ///< of a lost chunk that is not ready: the part that is damaged. Empty: all of it
};

/// The state of one request; seconds on any one clock. The executor (or simulator) keeps it, a planner only reads it.
struct request_progress {
  double start_seconds = 0;                ///< when the request began
  double now_seconds = 0;                  ///< not before it
  double deadline_seconds = 0;             ///< when the cache is to be handed over
  std::span<const chunk_progress> chunks;  ///< [cost_model::num_chunks()], borrowed
  std::uint64_t bytes_in_flight = 0;       ///< asked for, not arrived and not late
  int fetches_in_flight = 0;               ///< the same
  bool hold = false;                       ///< the link is silent and was probed: nothing more is asked of it now
  int computing = -1;                      ///< chunk that the engine works on
  double compute_free_seconds = 0;         ///< when it will be done with it
  double decode_free_seconds = 0;          ///< when everything that has arrived will be decoded
  int sharing = 1;                         ///< requests that use the link in turns, this one included
  std::uint64_t bytes_before = 0;          ///< of other requests, that a scheduler sends first
  double engine_before_seconds = 0;        ///< computing of other requests that a scheduler does first
  /// Seconds until the deadline; negative when it has passed.
  double left() const noexcept { return deadline_seconds - now_seconds; }
  /// Bytes that the link passes before whatever is asked for next.
  std::uint64_t bytes_due() const noexcept { return bytes_in_flight + bytes_before; }
  /// When the engine will be free for this request.
  double engine_free_seconds() const noexcept {
    return (computing < 0 ? now_seconds : compute_free_seconds) + engine_before_seconds;
  }
};

/// Whether the engine can run on this chunk as it is.
inline bool usable(const cost_model& cost, const request_progress& p, int c) noexcept {
  const chunk_progress& s = p.chunks[std::size_t(c)];
  return s.computed || (s.ready >= 0 && (s.patched || cost.patch_seconds(c) <= 0));
}
/// Whether a planner may ask the store for it.
inline bool can_fetch(const cost_model& cost, const request_progress& p, int c) noexcept {
  const chunk_progress& s = p.chunks[std::size_t(c)];
  return cost.stored(c) && !s.lost && !s.text && !s.computed && p.computing != c;
}
/// Whether nothing has been done about it yet.
inline bool untouched(const request_progress& p, int c) noexcept {
  const chunk_progress& s = p.chunks[std::size_t(c)];
  return s.requested < 0 && !s.text && !s.computed && p.computing != c;
}
/// The first chunk that is not usable; num_chunks() where all are.
inline int first_missing(const cost_model& cost, const request_progress& p) noexcept {
  int c = 0;
  while (c < cost.num_chunks() && usable(cost, p, c)) ++c;
  return c;
}
/// Whether the link deserves another request: two are always in flight, more where latency would leave the link idle.
inline bool link_wants_more(const cost_model& cost, const link_history& link, const request_progress& p) noexcept {
  constexpr int most = 64;
  if (p.hold) return false;
  const double latency = detail::max(cost.rates().latency_seconds, link.least_round_trip_seconds());
  return p.fetches_in_flight < 2 ||
         (p.fetches_in_flight < most && double(p.bytes_in_flight) < 1.5 * harmonic_mean{}(link)*latency);
}
/// The step that fetches all layers of a chunk up to `level`.
inline step fetch(const cost_model& cost, int c, int level) noexcept {
  return {c, cost.all_layers(), action::fetch, level};
}
/// The step that has the engine compute a whole chunk.
inline step recompute(const cost_model& cost, int c) noexcept { return {c, cost.all_layers(), action::recompute, -1}; }
/// Whether the engine, while it carries out a step, may read or write the pages of a chunk: of its own and, but for a
/// projection of hidden states, of those before it.
inline bool touches(const cost_model& cost, const step& s, int c) noexcept {
  if (!s) return false;
  return s.what == action::patch && !cost.patch_needs_prefix(s.chunk) ? c == s.chunk : c <= s.chunk;
}
/// Seconds of the engine that a step takes.
inline double engine_seconds(const cost_model& cost, const step& s) noexcept {
  return s.what == action::patch ? cost.patch_seconds(s.chunk) : cost.recompute_seconds(s.chunk, s.missing);
}

/// Bytes per second that this request may expect, by an estimator, of the next `bytes` bytes; 0 = unknown. Requests that
/// share a link take turns chunk by chunk, so each of N gets an Nth (CacheGen's delay of concurrent requests).
template <class Estimator>
double expected_rate(const Estimator& estimate, const link_history& link, const request_progress& p,
                     std::uint64_t bytes) noexcept {
  return estimate(link, bytes) / detail::max(p.sharing, 1);
}

/// What to do next: one request for the link and one computation for the engine; finished = every chunk is usable and the
/// policy wants no more, or the deadline has come: hand the cache over, and drop what is in flight.
struct decision {
  step link;              ///< the next request for the store (or a chunk to take as text); none = the link rests
  step compute;           ///< the next work for the engine; none = it rests, or is busy
  bool finished = false;  ///< see above
};

/// What a policy is: two pure functions of the same inputs, asked whenever the link or the engine could take work. A policy
/// with `refines = true` improves chunks that are usable already; without, a request ends when all its chunks are usable.
/// - `name`: in reports and on command lines.
/// - `link(cost, link, progress)`: the next fetch, or a chunk to take as action::text; an empty step = nothing now. It
///   is carried out when link_wants_more(), and asked for anew in every turn.
/// - `compute(cost, link, progress)`: the next action::recompute, asked for when the engine is idle and nothing is due
///   that only it can do; an empty step = nothing now.
/// Neither may throw, allocate, or look at a clock.
template <class P>
concept planner_policy = requires(const P policy, const cost_model& cost, const link_history& link,
                                  const request_progress& p) {
  { policy.link(cost, link, p) } -> std::same_as<step>;
  { policy.compute(cost, link, p) } -> std::same_as<step>;
  { P::name } -> std::convertible_to<const char*>;
};

/// A policy that goes on improving chunks which are usable.
template <class P>
concept refining_policy = planner_policy<P> && P::refines;

/// Asks a policy, and does what holds for all of them: computing that fetched chunks still need, chunks that only
/// computing can bring (text, lost, never stored) or that the link keeps waiting, the end. Pure; allocates nothing in next().
template <planner_policy Policy>
class planner {
 public:
  /// For one request, whose cost model is borrowed.
  explicit planner(const cost_model& cost, Policy policy = {}) : cost_(&cost), policy_(std::move(policy)) {}

  /// What the request costs.
  const cost_model& cost() const noexcept { return *cost_; }
  /// The policy that is asked.
  const Policy& policy() const noexcept { return policy_; }

  /// What to do in this state; `p.chunks` has an entry for each chunk of cost().
  decision next(const link_history& link, const request_progress& p) const noexcept {
    decision d;
    const int missing = first_missing(*cost_, p);
    // Nobody waits for the exact form of a chunk that is here at the finest level.
    bool complete = true;
    bool settled = p.computing < 0 || p.chunks[std::size_t(p.computing)].ready >= cost_->num_levels() - 1 ||
                   p.compute_free_seconds > p.deadline_seconds;
    for (int c = 0; c < cost_->num_chunks(); ++c) {
      const chunk_progress& s = p.chunks[std::size_t(c)];
      complete = complete && usable(*cost_, p, c);
      settled = settled && (s.computed || s.requested == s.ready || (s.late && s.arrived == s.ready) || too_late(p, c));
    }
    if (complete && p.now_seconds >= p.deadline_seconds) {
      d.finished = true;
      return d;
    }
    d.link = policy_.link(*cost_, link, p);
    if (p.computing < 0) {
      d.compute = due(p, missing);
      if (!d.compute) d.compute = policy_.compute(*cost_, link, p);
      if (d.compute.what == action::recompute) d.compute.missing = p.chunks[std::size_t(d.compute.chunk)].missing;
    }
    if constexpr (refining_policy<Policy>)
      d.finished = complete && settled && (!d.link || p.chunks[std::size_t(d.link.chunk)].late) && !d.compute;
    else
      d.finished = complete;
    return d;
  }

  /// The whole plan from here on as it unfolds on a link of constant rate, decoding being free: what next() would say if
  /// everything went as estimated. Errors: invalid_argument (no rate is known and none is given; the policy gets stuck).
  result<std::vector<step>> plan(const link_history& link, const request_progress& from,
                                 double bytes_per_second = 0) const;

 private:
  // Whether what a chunk waits for cannot be decoded in time any more, and so will not be.
  bool too_late(const request_progress& p, int c) const noexcept {
    const chunk_progress& s = p.chunks[std::size_t(c)];
    const double seconds = cost_->decode_seconds(c, s.requested, cost_->bytes_between(c, s.ready, s.requested));
    return p.now_seconds + seconds + cost_->patch_again_seconds(c) > p.deadline_seconds;
  }
  // Work for the engine that no policy has a choice about.
  step due(const request_progress& p, int missing) const noexcept {
    for (int c = 0; c < cost_->num_chunks(); ++c) {
      const chunk_progress& s = p.chunks[std::size_t(c)];
      if (s.computed) continue;
      if (s.ready >= 0 && !s.patched && cost_->patch_seconds(c) > 0) {
        if (c <= missing || !cost_->patch_needs_prefix(c)) return {c, cost_->all_layers(), action::patch, -1};
      } else if (c == missing && (s.text || s.lost || !cost_->stored(c) || (s.late && s.arrived < 0))) {
        return recompute(*cost_, c);
      }
    }
    return {};
  }

  const cost_model* cost_;
  Policy policy_;
};

template <planner_policy Policy>
result<std::vector<step>> planner<Policy>::plan(const link_history& link, const request_progress& from,
                                                double rate) const {
  if (!(rate > 0)) rate = harmonic_mean{}(link);
  if (!(rate > 0) || from.chunks.size() != std::size_t(cost_->num_chunks())) return status::invalid_argument;
  std::vector<chunk_progress> chunks(from.chunks.begin(), from.chunks.end());
  for (chunk_progress& c : chunks) c.arrived = c.ready = c.requested;
  request_progress p = from;
  p.chunks = chunks;
  p.bytes_in_flight = 0;
  p.fetches_in_flight = 0;
  std::vector<step> steps;
  step sending, computing;
  if (p.computing >= 0) computing = recompute(*cost_, p.computing);
  double link_free = p.now_seconds;
  const std::size_t limit = (std::size_t(cost_->num_levels()) + 4) * chunks.size() + 4;
  while (true) {
    const decision d = next(link, p);
    if (d.finished) return steps;
    if (d.link && !sending) {
      steps.push_back(d.link);
      steps.back().order = std::uint32_t(steps.size() - 1);
      chunk_progress& c = chunks[std::size_t(d.link.chunk)];
      if (d.link.what == action::text) {
        c.text = true;
        if (steps.size() > limit) return status::invalid_argument;
        continue;
      }
      sending = d.link;
      const std::uint64_t bytes = cost_->bytes_between(sending.chunk, c.requested, sending.level);
      link_free = p.now_seconds + double(bytes) / rate;
      c.requested = std::int8_t(sending.level);
      p.fetches_in_flight = 1;
      p.bytes_in_flight = bytes;
    }
    if (d.compute && p.computing < 0) {
      computing = d.compute;
      p.computing = computing.chunk;
      p.compute_free_seconds = p.now_seconds + engine_seconds(*cost_, computing);
      steps.push_back(computing);
      steps.back().order = std::uint32_t(steps.size() - 1);
    }
    if (steps.size() > limit) return status::invalid_argument;
    if (!sending && p.computing < 0) {
      if (p.now_seconds >= p.deadline_seconds) return status::invalid_argument;
      p.now_seconds = p.deadline_seconds;  // nothing to do before it passes
      continue;
    }
    const bool link_first = sending && (p.computing < 0 || link_free <= p.compute_free_seconds);
    p.now_seconds = link_first ? link_free : p.compute_free_seconds;
    if (link_first) {
      chunk_progress& c = chunks[std::size_t(sending.chunk)];
      c.arrived = c.ready = c.requested;
      if (cost_->patch_again_seconds(sending.chunk) > 0) c.patched = false;
      sending = {};
      p.fetches_in_flight = 0;
      p.bytes_in_flight = 0;
    } else {
      chunk_progress& c = chunks[std::size_t(p.computing)];
      (computing.what == action::patch ? c.patched : c.computed) = true;
      p.computing = -1;
    }
  }
}

}  // namespace sluice::stream
