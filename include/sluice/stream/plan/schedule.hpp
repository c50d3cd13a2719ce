// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/numeric.hpp>
#include <sluice/stream/plan/plan.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice::stream {

/// One of the requests that share a link and an engine.
template <planner_policy Policy>
struct contender {
  const planner<Policy>* plan = nullptr;  ///< borrowed
  request_progress now;  ///< what is in flight is that of all requests; the scheduler says what goes before
};

/// What is done next for whom; -1 = nothing.
struct turn_of {
  int finished = -1;  ///< this request is over; then nothing else is said
  int link = -1;      ///< whose request for the store is sent, or whose chunk is taken as text
  int compute = -1;   ///< whose work the engine takes
  decision what;      ///< its members are those of the requests above
};

/// Many requests on one link and one engine: first what makes requests usable, by earliest deadline, as long as the deadline
/// can be met; then that of requests which will be late; then refinements of all, the most nats per byte first. So quality
/// gives way before a deadline does. Where not all can be in time, the one that costs the link, or the engine, most gives
/// way (Moore, "An n job, one machine sequencing algorithm", 1968). A pure function but for memory that it uses again.
template <planner_policy Policy>
class scheduler {
 public:
  /// `requests` in any order; asked whenever the link or the engine could take work. `engine_free_seconds`: when the engine
  /// that all share is done with what it works on; negative = each has its own.
  turn_of next(const link_history& link, std::span<contender<Policy>> requests, double engine_free_seconds);

 private:
  // What a request needs before it is usable, and when.
  enum resource { of_link, of_engine };
  struct need {
    int request = 0;
    double deadline = 0;
    std::uint64_t bytes = 0;  // base passes that nobody has asked for
    double seconds[2] = {};   // of the link for them; of computing that nothing can replace
    bool late = false;        // will not be in time
  };

  static need need_of(const contender<Policy>& r, int i, double rate) noexcept;
  void find_late(double link_free, double engine_free, bool one_engine);

  std::vector<need> needs_;
};

template <planner_policy Policy>
auto scheduler<Policy>::need_of(const contender<Policy>& r, int i, double rate) noexcept -> need {
  const cost_model& cost = r.plan->cost();
  need n{i, r.now.deadline_seconds};
  for (int c = 0; c < cost.num_chunks(); ++c) {
    const chunk_progress& s = r.now.chunks[std::size_t(c)];
    if (usable(cost, r.now, c) || r.now.computing == c) continue;
    if (!can_fetch(cost, r.now, c))
      n.seconds[of_engine] += cost.recompute_seconds(c, s.missing);
    else if (s.requested < 0)
      n.bytes += cost.bytes(c, 0);
  }
  if (rate > 0) n.seconds[of_link] = double(n.bytes) / rate;
  return n;
}

// Those that give way: by deadline, and where one cannot be met, of all up to there the one that takes most.
template <planner_policy Policy>
void scheduler<Policy>::find_late(double link_free, double engine_free, bool one_engine) {
  double until[2] = {link_free, engine_free};
  for (std::size_t i = 0; i < needs_.size(); ++i) {
    need& n = needs_[i];
    if (!one_engine) until[of_engine] = engine_free;
    for (int r : {of_link, of_engine}) until[r] += n.seconds[r];
    for (int r : {of_link, of_engine})
      while (!n.late && until[r] > n.deadline) {
        std::size_t most = i;
        if (r == of_link || one_engine)
          for (std::size_t k = 0; k < i; ++k)
            if (!needs_[k].late && needs_[k].seconds[r] > needs_[most].seconds[r]) most = k;
        needs_[most].late = true;
        until[of_link] -= needs_[most].seconds[of_link];
        if (one_engine) until[of_engine] -= needs_[most].seconds[of_engine];
      }
  }
}

template <planner_policy Policy>
turn_of scheduler<Policy>::next(const link_history& link, std::span<contender<Policy>> requests,
                                double engine_free_seconds) {
  turn_of t;
  if (requests.empty()) return t;
  const request_progress& any = requests[0].now;
  const double rate = harmonic_mean{}(link);
  const bool one_engine = engine_free_seconds >= 0, engine_free = engine_free_seconds <= any.now_seconds;
  needs_.clear();
  for (std::size_t i = 0; i < requests.size(); ++i) needs_.push_back(need_of(requests[i], int(i), rate));
  detail::sort(needs_.data(), needs_.size(), [](const need& a, const need& b) {
    return a.deadline != b.deadline ? a.deadline < b.deadline : a.request < b.request;
  });
  find_late(any.now_seconds + (rate > 0 ? double(any.bytes_in_flight) / rate : 0),
            detail::max(any.now_seconds, engine_free_seconds), one_engine);

  std::uint64_t bytes = 0;
  double engine = 0, best = -1;
  for (const need& n : needs_) bytes += n.bytes, engine += n.seconds[of_engine];
  enum { usable_in_time, usable_late, better, nothing };
  const bool wants_link = link_wants_more(requests[0].plan->cost(), link, any);
  int link_rank = nothing, compute_rank = nothing;
  for (const bool late : {false, true})
    for (const need& n : needs_) {
      if (n.late != late) continue;
      contender<Policy>& r = requests[std::size_t(n.request)];
      // Whatever a request does beyond becoming usable waits for the others to be.
      r.now.bytes_before = bytes - n.bytes;
      r.now.engine_before_seconds = one_engine ? engine - n.seconds[of_engine] : 0;
      const decision d = r.plan->next(link, r.now);
      if (d.finished || d.link.what == action::text)
        return {d.finished ? n.request : -1, d.finished ? -1 : n.request, -1, d};
      const int usable = late ? usable_late : usable_in_time;
      const cost_model& cost = r.plan->cost();
      if (d.link && wants_link) {
        const int from = r.now.chunks[std::size_t(d.link.chunk)].requested;
        const int rank = from < 0 ? usable : better;
        const double gain = rank != better ? 0
                                           : (cost.loss(d.link.chunk, from) - cost.loss(d.link.chunk, d.link.level)) /
                                                 double(cost.bytes_between(d.link.chunk, from, d.link.level) + 1);
        if (rank < link_rank || (rank == better && link_rank == better && gain > best)) {
          link_rank = rank;
          best = gain;
          t.link = n.request;
          t.what.link = d.link;
        }
      }
      if (d.compute && engine_free) {
        const bool needed = d.compute.what == action::patch || !can_fetch(cost, r.now, d.compute.chunk);
        if (const int rank = needed ? usable : better; rank < compute_rank) {
          compute_rank = rank;
          t.compute = n.request;
          t.what.compute = d.compute;
        }
      }
      // Those behind have later deadlines.
      if ((!wants_link || link_rank == usable_in_time) && (!engine_free || compute_rank == usable_in_time) &&
          (t.link >= 0 || t.compute >= 0))
        return t;
    }
  return t;
}

}  // namespace sluice::stream
