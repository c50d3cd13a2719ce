// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/patience.hpp>
#include <sluice/stream/plan/plan.hpp>
#include <sluice/stream/plan/schedule.hpp>
#include <sluice/stream/study/trace.hpp>

#include <algorithm>
#include <deque>
#include <limits>
#include <queue>
#include <span>
#include <vector>

namespace sluice::stream {

/// One request of a simulation. Its cost model is borrowed.
struct simulated_request {
  double arrival_seconds = 0;        ///< in the time of the trace
  double deadline_seconds = 0;       ///< after arrival
  const cost_model* cost = nullptr;  ///< must not be null
};

/// A step as it was carried out. Seconds count from the request's arrival; of a fetch from its first byte to its last.
struct activity {
  step what;                 ///< as it was asked for
  double begin_seconds = 0;  ///< from arrival
  double end_seconds = 0;    ///< from arrival
};

/// What became of it. Seconds count from arrival.
struct outcome {
  double seconds = std::numeric_limits<double>::infinity();  ///< until the cache was handed over; infinity = never
  bool met = false;                                          ///< not after the deadline
  double loss = 0;                                           ///< nats; 0 if never
  double bytes = 0;                                          ///< that passed the link, cancelled ones included
  std::int64_t recomputed_tokens = 0;                        ///< by the engine, in whole or in part
  std::uint32_t decisions = 0;                               ///< times the planner was asked
  std::vector<step> steps;                                   ///< what was asked for, if kept
  std::vector<activity> activities;                          ///< what was done and when, decoding left out, if kept
};

/// What all requests of a simulation share.
struct simulation_options {
  bool one_engine = false;   ///< all requests compute on one engine, chunk by chunk in turns; else each has its own
  bool scheduled = false;    ///< whose turn it is says a scheduler; else requests come first, are served first
  double batch_seconds = 0;  ///< CacheGen's batching: requests of a window start together, chunk indices aligned ...
  int batch_size = 1;        ///< ... up to so many
  double assumed_bytes_per_second = 0;  ///< what is known about the link before the first transfer
  patience_options patience = {};       ///< when the link's silence makes chunks late
  bool keep_steps = false;              ///< fills outcome::steps and outcome::activities
};

/// When requests that arrive at these times (ascending) may start, if those within `window` seconds of the first wait for each
/// other, up to `most` of them (CacheGen, section 5.3): chunk i of all of them then takes its turn before chunk i + 1 of any.
inline std::vector<double> batch_starts(std::span<const double> arrivals, double window, int most) {
  std::vector<double> starts(arrivals.begin(), arrivals.end());
  if (!(window > 0) || most < 2) return starts;
  for (std::size_t i = 0; i < starts.size();) {
    std::size_t end = i + 1;
    while (end < starts.size() && end - i < std::size_t(most) && arrivals[end] <= arrivals[i] + window) ++end;
    const double start = end - i == std::size_t(most) ? arrivals[end - 1] : arrivals[i] + window;
    std::fill(starts.begin() + std::ptrdiff_t(i), starts.begin() + std::ptrdiff_t(end),
              std::max(start, arrivals[end - 1]));
    i = end;
  }
  return starts;
}

namespace detail_simulator {

enum class event_kind : std::uint8_t { start, deadline, flows, stops, silent, probe, arrived, decoded, computed };

struct event {
  double time;
  std::uint64_t order;  // ties in the order of scheduling: the run is deterministic
  event_kind kind;
  int request;
  std::uint64_t tag;  // stale events are told by it
  bool operator<(const event& o) const { return time != o.time ? time > o.time : order > o.order; }
};

}  // namespace detail_simulator

/// Discrete events: one link that all requests share (one transfer at a time, in the order asked for, latency overlapping with
/// the transfers before), a decoder for each request, an engine for each or for all. Decisions come from the planner that
/// an executor uses. Deterministic: no clock, no randomness.
template <planner_policy Policy>
class simulator {
 public:
  /// Borrows the trace, which is not empty. simulate() checks what this takes for granted.
  simulator(const link_trace& trace, const simulation_options& options)
      : trace_(&trace), options_(options), patience_(options.patience) {
    link_ = link_history(options.assumed_bytes_per_second);
  }

  /// A request that starts at `start`, not before its arrival.
  void add(const simulated_request& r, double start, Policy policy) {
    state s(r, planner<Policy>(*r.cost, std::move(policy)));
    s.chunks.resize(std::size_t(r.cost->num_chunks()));
    s.now.start_seconds = start;
    s.now.deadline_seconds = r.arrival_seconds + r.deadline_seconds;
    requests_.push_back(std::move(s));
    const int i = int(requests_.size()) - 1;
    schedule(start, kind::start, i);
    schedule(std::max(start, requests_.back().now.deadline_seconds), kind::deadline, i);
  }

  /// Runs until nothing happens any more; outcomes in the order of add(). Once.
  std::vector<outcome> run() {
    engine_user_.assign(options_.one_engine ? 1 : requests_.size(), -1);
    while (!events_.empty()) {
      const detail_simulator::event e = events_.top();
      events_.pop();
      now_ = e.time;
      handle(e);
    }
    std::vector<outcome> all;
    for (state& s : requests_) all.push_back(std::move(s.result));
    return all;
  }

 private:
  using kind = detail_simulator::event_kind;

  struct state {
    state(const simulated_request& r, planner<Policy> p) : request(r), plan(std::move(p)) {}
    simulated_request request;
    planner<Policy> plan;
    std::vector<chunk_progress> chunks;
    request_progress now;
    outcome result;
    std::deque<int> to_decode;
    int decoding = -1, decoding_level = -1;
    double decoding_until = 0, computing_from = 0;
    std::uint64_t bytes_in_flight = 0;  // late ones too
    int fetches_in_flight = 0;
    step computing{};
    bool started = false, done = false, waits_for_engine = false;
    std::uint64_t computation = 0;
  };
  struct transmission {
    int request = -1;
    step what{};
    std::uint64_t bytes = 0;
    double issued = 0;
  };

  void schedule(double time, kind k, int request, std::uint64_t tag = 0) {
    if (time < std::numeric_limits<double>::infinity()) events_.push({time, order_++, k, request, tag});
  }
  state& of(int r) { return requests_[std::size_t(r)]; }
  int& engine_of(int r) { return engine_user_[options_.one_engine ? 0 : std::size_t(r)]; }

  void handle(const detail_simulator::event& e) {
    state& s = of(e.request);
    switch (e.kind) {
      case kind::start:
        s.started = true;
        for (chunk_progress& c : s.chunks) c.late = patience_.silent();
        break;
      case kind::deadline: break;
      case kind::flows:
      case kind::stops:
      case kind::silent:
        if (e.tag == transmission_) listen(e.kind);
        return;
      case kind::probe: return pump_all();
      case kind::arrived:
        if (e.tag != transmission_) return;  // cancelled
        arrive(s);
        break;
      case kind::decoded: {
        if (s.done) return;
        chunk_progress& c = s.chunks[std::size_t(s.decoding)];
        c.ready = std::max(c.ready, std::int8_t(s.decoding_level));
        if (s.plan.cost().patch_again_seconds(s.decoding) > 0) c.patched = false;
        s.decoding = -1;
        break;
      }
      case kind::computed:
        if (s.done || e.tag != s.computation) return;
        finish_computing(e.request);
        break;
    }
    step_on(e.request);
    wake();
  }
  void step_on(int r) {
    decode(r);
    decide(r);
    serve();
  }
  void decide(int r) {
    if (options_.scheduled)
      take_turns(r);
    else
      pump(r);
  }
  // What a scheduler says, until it says nothing any more. Where neither link nor engine takes anything, only the request to
  // which something has happened can have come to its end.
  void take_turns(int changed) {
    while (true) {
      std::uint64_t bytes = 0;
      int fetches = 0;
      for (const state& s : requests_)
        if (!s.done) bytes += s.bytes_in_flight, fetches += s.fetches_in_flight;
      contenders_.clear();
      contending_.clear();
      const auto contend = [&](int r) {
        state& s = of(r);
        if (!s.started || s.done) return;
        update(s, r);
        s.now.sharing = 1;
        s.now.fetches_in_flight = patience_.silent() ? 0 : fetches;
        s.now.bytes_in_flight = patience_.silent() ? 0 : bytes;
        contenders_.push_back({&s.plan, s.now});
        contending_.push_back(r);
        ++s.result.decisions;
      };
      contend(changed);
      const int user = options_.one_engine ? engine_user_[0] : -1;
      const double engine_free = !options_.one_engine ? -1 : user < 0 ? now_ : of(user).now.compute_free_seconds;
      if (contenders_.empty() || engine_free <= now_ ||
          link_wants_more(contenders_[0].plan->cost(), link_, contenders_[0].now))
        for (int r = 0; r < int(requests_.size()); ++r)
          if (r != changed) contend(r);
      const turn_of t = schedule_.next(link_, contenders_, engine_free);
      const auto who = [&](int i) { return contending_[std::size_t(i)]; };
      bool acted = false;
      if (t.finished >= 0) {
        finish(of(who(t.finished)), who(t.finished));
        continue;
      }
      if (t.link >= 0) {
        send(of(who(t.link)), who(t.link), t.what.link);
        acted = true;
      }
      if (t.compute >= 0 && engine_of(who(t.compute)) < 0 && may_compute(of(who(t.compute)), t.what.compute)) {
        start_computing(of(who(t.compute)), who(t.compute), t.what.compute);
        acted = true;
      }
      if (!acted) return;
    }
  }
  void pump_all() {
    for (std::size_t r = 0; r < requests_.size(); ++r)
      if (requests_[r].started && !requests_[r].done) step_on(int(r));
    wake();
  }

  // --- silence: the link is heard while bytes pass, whomever they are for ---

  void listen(kind k) {
    const bool was = patience_.silent();
    bool learned = false;
    if (k == kind::silent)
      patience_.look(link_, now_);
    else
      learned = heard();
    if (k == kind::flows) {
      const double stop = trace_->next_moment(now_, false);
      if (stop < sending_until_) schedule(stop, kind::stops, sending_.request, transmission_);
    }
    if (k == kind::stops) wait_for_bytes(trace_->next_moment(now_, true));
    if (was != patience_.silent())
      all_late();
    else if (learned)
      step_on(sending_.request);
  }
  // Bytes of what is being sent pass from `flow` on.
  void wait_for_bytes(double flow) {
    const double silent = patience_.silent_at(link_);
    if (!patience_.silent() && silent < flow)
      schedule(std::max(now_, silent), kind::silent, sending_.request, transmission_);
    schedule(flow, kind::flows, sending_.request, transmission_);
  }
  // Returns whether a round trip was longer than what is known of the store.
  bool heard() {
    const bool alone = !first_byte_ && sending_.issued >= patience_.heard_seconds();
    first_byte_ = true;
    patience_.heard(now_);
    if (!alone) return false;
    link_.observe_round_trip(now_ - sending_.issued);
    return now_ - sending_.issued > of(sending_.request).plan.cost().rates().latency_seconds * (1 + 1e-9);
  }
  void all_late() {
    for (state& s : requests_)
      for (chunk_progress& c : s.chunks) c.late = patience_.silent();
    pump_all();
  }

  // The link's head has arrived.
  void arrive(state& s) {
    const bool was = patience_.silent();
    heard();
    const transmission t = sending_;
    sending_ = {};
    chunk_progress& c = s.chunks[std::size_t(t.what.chunk)];
    meter_.ended(link_, t.bytes, t.issued, now_, s.plan.cost().rates().latency_seconds);
    s.result.bytes += double(t.bytes);
    keep(s, t.what, sent_from_);
    leave_link(s, t);
    c.arrived = std::max(c.arrived, std::int8_t(t.what.level));
    if (std::find(s.to_decode.begin(), s.to_decode.end(), t.what.chunk) == s.to_decode.end())
      s.to_decode.push_back(t.what.chunk);
    if (was) all_late();
    if (s.computing.what == action::recompute && s.computing.chunk == t.what.chunk) {  // it has come first
      decide(t.request);  // the engine is told to stop with the decision that sees the chunk here
      if (!s.done) release_engine(s, t.request);
    }
  }
  void leave_link(state& s, const transmission& t) {
    s.bytes_in_flight -= t.bytes;
    if (--s.fetches_in_flight == 0) --on_link_;
  }

  // The next chunk that waits for the decoder. A refinement that would not be done by the deadline is left alone, so that no
  // page is half written when the cache is handed over.
  void decode(int r) {
    state& s = of(r);
    for (std::size_t i = 0; s.decoding < 0 && !s.done && i < s.to_decode.size();) {
      const int c = s.to_decode[i];
      if (touches(s.plan.cost(), s.computing, c)) {  // the engine writes it, or may read it
        ++i;
        continue;
      }
      s.to_decode.erase(s.to_decode.begin() + std::ptrdiff_t(i));
      chunk_progress& p = s.chunks[std::size_t(c)];
      const double seconds = decode_seconds(s, c), end = now_ + seconds + s.plan.cost().patch_again_seconds(c);
      if (p.computed || (p.ready >= 0 && end > s.now.deadline_seconds)) continue;
      s.decoding = c;
      s.decoding_level = p.arrived;
      s.decoding_until = now_ + seconds;
      schedule(s.decoding_until, kind::decoded, r);
    }
  }
  static double decode_seconds(const state& s, int c) {
    const chunk_progress& p = s.chunks[std::size_t(c)];
    const cost_model& cost = s.plan.cost();
    return cost.decode_seconds(c, p.arrived, cost.bytes_between(c, p.ready, p.arrived));
  }

  void finish_computing(int r) {
    state& s = of(r);
    keep(s, s.computing, s.computing_from);
    chunk_progress& c = s.chunks[std::size_t(s.computing.chunk)];
    if (s.computing.what == action::patch) {
      c.patched = true;
      s.result.recomputed_tokens +=
          std::int64_t(s.plan.cost().rates().token_fraction * s.plan.cost().chunk(s.computing.chunk).tokens);
    } else {
      c.computed = true;
      s.result.recomputed_tokens += s.plan.cost().chunk(s.computing.chunk).tokens;
      if (sending_.request == r && sending_.what.chunk == s.computing.chunk) cancel_transmission(s);
    }
    release_engine(s, r);
  }
  void release_engine(state& s, int r) {
    s.computing = {};
    s.now.computing = -1;
    ++s.computation;
    engine_of(r) = -1;
  }

  void pump(int r) {
    state& s = of(r);
    while (s.started && !s.done) {
      update(s, r);
      const decision d = s.plan.next(link_, s.now);
      ++s.result.decisions;
      if (d.finished) return finish(s, r);
      bool acted = false;
      if (d.link && link_wants_more(s.plan.cost(), link_, s.now)) {
        send(s, r, d.link);
        acted = true;
      }
      if (d.compute && may_compute(s, d.compute)) {
        if (engine_of(r) < 0 && (waiting_.empty() || turn_ == r)) {
          start_computing(s, r, d.compute);
          acted = true;
        } else if (!s.waits_for_engine && engine_of(r) != r) {
          s.waits_for_engine = true;
          waiting_.push_back(r);
        }
      }
      if (!acted) return;
    }
  }
  // Bytes that are here are decoded first, and what is being decoded is not for the engine to read.
  static bool may_compute(const state& s, const step& what) {
    const chunk_progress& p = s.chunks[std::size_t(what.chunk)];
    return !(what.what == action::recompute && p.arrived > p.ready) &&
           !(s.decoding >= 0 && touches(s.plan.cost(), what, s.decoding));
  }
  void update(state& s, int r) {
    s.now.now_seconds = now_;
    s.now.chunks = s.chunks;
    s.now.hold = !patience_.may_ask(now_);
    s.now.fetches_in_flight = patience_.silent() ? 0 : s.fetches_in_flight;
    s.now.bytes_in_flight = patience_.silent() ? 0 : s.bytes_in_flight;
    s.now.sharing = on_link_ + (s.fetches_in_flight == 0 ? 1 : 0);
    s.now.decode_free_seconds = s.decoding < 0 ? now_ : s.decoding_until;
    for (int c : s.to_decode) s.now.decode_free_seconds += decode_seconds(s, c);
    if (s.now.computing < 0) {
      const int user = engine_of(r);
      s.now.compute_free_seconds = user < 0 ? now_ : of(user).now.compute_free_seconds;
    }
  }

  void send(state& s, int r, const step& what) {
    keep(s, what);
    chunk_progress& c = s.chunks[std::size_t(what.chunk)];
    if (what.what == action::text) {
      c.text = true;
      return;
    }
    const std::uint64_t bytes = s.plan.cost().bytes_between(what.chunk, c.requested, what.level);
    c.requested = std::int8_t(what.level);
    if (on_link_ == 0) patience_.begin(now_);
    if (s.fetches_in_flight++ == 0) ++on_link_;
    s.bytes_in_flight += bytes;
    patience_.asked(link_, now_);
    if (patience_.silent()) schedule(patience_.ask_at_seconds(), kind::probe, r);
    queue_.push_back({r, what, bytes, now_});
  }
  void start_computing(state& s, int r, const step& what) {
    keep(s, what);
    s.computing = what;
    s.computing_from = now_;
    s.now.computing = what.chunk;
    engine_of(r) = r;
    s.now.compute_free_seconds = now_ + engine_seconds(s.plan.cost(), what);
    schedule(s.now.compute_free_seconds, kind::computed, r, s.computation);
  }
  void keep(state& s, step what) {
    what.order = std::uint32_t(s.result.steps.size());
    if (options_.keep_steps) s.result.steps.push_back(what);
  }
  void keep(state& s, const step& what, double begin) {
    const double arrival = s.request.arrival_seconds;
    if (options_.keep_steps) s.result.activities.push_back({what, begin - arrival, now_ - arrival});
  }

  // Starts the next transfer if the link is free.
  void serve() {
    while (sending_.request < 0 && !queue_.empty()) {
      const transmission t = queue_.front();
      queue_.pop_front();
      state& s = of(t.request);
      if (s.done) continue;
      const chunk_progress& c = s.chunks[std::size_t(t.what.chunk)];
      if (c.computed) {  // the engine was faster
        leave_link(s, t);
        continue;
      }
      sending_ = t;
      sent_from_ =
          std::max(now_, t.issued + std::max(trace_->latency_at(t.issued), s.plan.cost().rates().latency_seconds));
      sending_until_ = trace_->finish_time(sent_from_, double(t.bytes));
      first_byte_ = false;
      schedule(sending_until_, kind::arrived, t.request, ++transmission_);
      const double flow = trace_->next_moment(sent_from_, true);
      if (flow > now_)
        wait_for_bytes(flow);
      else
        listen(kind::flows);
    }
  }
  // Gives a free engine to those who wait for it, in turns.
  void wake() {
    while (!waiting_.empty() && engine_of(waiting_.front()) < 0) {
      const int r = waiting_.front();
      waiting_.pop_front();
      of(r).waits_for_engine = false;
      turn_ = r;
      pump(r);
      turn_ = -1;
      serve();
    }
  }

  void cancel_transmission(state& s) {
    s.result.bytes += std::min(double(sending_.bytes), trace_->bytes_between(sent_from_, now_));
    if (sent_from_ < now_) keep(s, sending_.what, sent_from_);
    leave_link(s, sending_);
    sending_ = {};
    ++transmission_;
  }

  void finish(state& s, int r) {
    s.done = true;
    s.result.seconds = now_ - s.request.arrival_seconds;
    s.result.met = now_ <= s.now.deadline_seconds * (1 + 1e-12);
    const cost_model& cost = s.plan.cost();
    for (int c = 0; c < cost.num_chunks(); ++c)
      if (!s.chunks[std::size_t(c)].computed) s.result.loss += cost.loss(c, s.chunks[std::size_t(c)].ready);
    if (sending_.request == r) cancel_transmission(s);  // the connection is closed
    if (s.fetches_in_flight > 0) --on_link_;
    if (s.now.computing >= 0) release_engine(s, r);
    std::vector<chunk_progress>().swap(s.chunks);
  }

  const link_trace* trace_;
  simulation_options options_;
  link_history link_;
  std::vector<state> requests_;
  scheduler<Policy> schedule_;
  std::vector<contender<Policy>> contenders_;
  std::vector<int> contending_;  // their numbers
  std::priority_queue<detail_simulator::event> events_;
  std::deque<transmission> queue_;
  transmission sending_{};
  bool first_byte_ = false;  // of it has come
  patience patience_;
  transfer_meter meter_;
  double sent_from_ = 0, sending_until_ = 0, now_ = 0;
  std::uint64_t transmission_ = 0, order_ = 0;
  int on_link_ = 0;  // requests with something in flight
  std::vector<int> engine_user_;
  std::deque<int> waiting_;
  int turn_ = -1;  // who may have the engine although others wait
};

/// Runs requests (by ascending arrival) over one link. `policy_of(i)` gives the policy of request i.
/// Errors: invalid_argument (no cost model, arrivals that descend, figures that are not finite).
template <class PolicyOf>
result<std::vector<outcome>> simulate_each(std::span<const simulated_request> requests, const link_trace& trace,
                                           PolicyOf&& policy_of, const simulation_options& options = {}) {
  std::vector<double> arrivals;
  for (const simulated_request& r : requests) {
    if (!r.cost || !std::isfinite(r.arrival_seconds) || r.arrival_seconds < 0 || !std::isfinite(r.deadline_seconds) ||
        r.deadline_seconds < 0 || (!arrivals.empty() && r.arrival_seconds < arrivals.back()))
      return status::invalid_argument;
    arrivals.push_back(r.arrival_seconds);
  }
  if (trace.segments().empty()) return status::invalid_argument;
  const std::vector<double> starts = batch_starts(arrivals, options.batch_seconds, options.batch_size);
  simulator<std::remove_cvref_t<decltype(policy_of(std::size_t{0}))>> s(trace, options);
  for (std::size_t i = 0; i < requests.size(); ++i) s.add(requests[i], starts[i], policy_of(i));
  return s.run();
}
/// The same with one policy for all requests.
template <planner_policy Policy>
result<std::vector<outcome>> simulate(std::span<const simulated_request> requests, const link_trace& trace,
                                      Policy policy = {}, const simulation_options& options = {}) {
  return simulate_each(
      requests, trace, [&](std::size_t) { return policy; }, options);
}

}  // namespace sluice::stream
