// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/schedule.hpp>
#include <sluice/stream/run/executor.hpp>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

// Many requests on one link and one engine at the same time: a scheduler says whose turn it is, an executor each does it.

namespace sluice::stream {

/// What is to be done now for the requests of a group, by their numbers. Decodes of different requests may run beside each
/// other and beside the computation.
struct group_turn {
  /// Work for one request.
  struct work {
    int request = -1;  ///< as add() named it
    job what{};        ///< for its sink
  };
  std::vector<work> decode;     ///< at most one of each request; say decoded() when it is done
  work compute;                 ///< at most one of all; say computed() when it is done
  bool stop_computing = false;  ///< as in turn
  std::vector<int> finished;    ///< requests that have ended since the last turn: see result(), then remove() them
  bool idle = false;            ///< nothing will happen by itself before `wait_seconds` have passed
  double wait_seconds = 0;      ///< until the group has to be asked again at the latest
};

/// Requests that share a source and an engine, and one bound of memory (executor_options::memory_bytes, of all together; one
/// fetch is always allowed). What is asked of the source at a time is what one request alone would ask of it, however many
/// there are. Source and link history are borrowed. Starts no thread; everything is called on one. A request is named by the
/// number that add() gave, until it is removed.
template <planner_policy Policy, byte_source Source, class Clock = steady_clock_seconds>
class request_group {
 public:
  /// Without requests. `link` may know the link from before.
  request_group(Source& source, link_history& link, const executor_options& options = {}, Clock clock = {})
      : source_(&source), link_(&link), options_(options), clock_(clock) {
    ear_.patience = patience(options.patience);
  }
  request_group(const request_group&) = delete;
  request_group& operator=(const request_group&) = delete;

  /// A request that begins now, as an executor takes it. Plan and chunks are borrowed until it is removed.
  int add(const planner<Policy>& plan, std::span<const stored_chunk> chunks, double deadline_seconds) {
    members_.push_back({++last_, {}, false});
    members_.back().run.reset(
        new executor_t(plan, *source_, chunks, *link_, deadline_seconds, options_, clock_, &ear_));
    return last_;
  }
  /// Requests that have not been removed.
  int size() const noexcept { return int(members_.size()); }
  /// What became of a request.
  const report& result(int request) const { return find(request)->result(); }
  /// Where a request stands, as planners see it.
  const request_progress& state(int request) const { return find(request)->state(); }
  /// Forgets a request that has ended.
  void remove(int request) {
    std::erase_if(members_, [&](const member& m) { return m.number == request && m.told; });
  }
  /// Ends a request as it is; a turn says when nothing of it is out any more.
  void cancel(int request) { find(request)->cancel(); }

  /// Moves bytes, for at most `wait_seconds` where there is nothing else to do, and says what is to be done.
  group_turn next(double wait_seconds) {
    group_turn t;
    decide();
    hand_out(t);
    const bool busy = !t.decode.empty() || t.compute.request >= 0 || !t.finished.empty();
    if (listening()) {
      receive(busy ? 0 : std::min(wait_seconds, until_event()));
      decide();
      hand_out(t);
    }
    t.idle = t.decode.empty() && t.compute.request < 0 && t.finished.empty() && !listening();
    t.wait_seconds = until_event();
    return t;
  }
  /// The decode that was handed out for a request is done.
  void decoded(int request, const page_status& s) { find(request)->decoded(s); }
  /// The computation that was handed out last is done; status::cancelled as in executor::computed().
  void computed(status s) { find(std::exchange(engine_user_, -1))->computed(s); }

 private:
  using executor_t = executor<Policy, Source, Clock>;
  struct member {
    int number = 0;
    std::unique_ptr<executor_t> run;
    bool told = false;  // that it has finished
  };

  executor_t* find(int request) const {
    for (const member& m : members_)
      if (m.number == request) return m.run.get();
    return nullptr;
  }
  bool listening() const noexcept {
    return std::any_of(members_.begin(), members_.end(), [](const member& m) { return m.run->in_flight(); });
  }
  double until_event() const noexcept {
    double wait = options_.patience.ceiling_seconds;
    for (const member& m : members_)
      if (!m.run->done_) wait = std::min(wait, m.run->until_event());
    return wait;
  }

  // What all have in flight counts for each; memory that others use is not there for it.
  void update() {
    fetches_.clear();
    std::size_t used = 0;
    for (const member& m : members_) {
      used += m.run->used_;
      for (const auto& f : m.run->fetches_)
        if (!f.whole) fetches_.push_back({f.asked, f.heard});
    }
    std::uint64_t bytes = 0;
    int in_flight = 0;
    for (const member& m : members_) {
      executor_t& e = *m.run;
      e.others_ = fetches_;
      const std::size_t others = used - e.used_;
      e.options_.memory_bytes = options_.memory_bytes > others ? options_.memory_bytes - others : 0;
      if (e.done_) continue;
      e.update();
      bytes += e.now_.bytes_in_flight;
      in_flight += e.now_.fetches_in_flight;
    }
    contenders_.clear();
    contending_.clear();
    const executor_t* const user = engine_user_ < 0 ? nullptr : find(engine_user_);
    for (const member& m : members_) {
      executor_t& e = *m.run;
      if (e.done_) continue;
      e.now_.bytes_in_flight = bytes;
      e.now_.fetches_in_flight = in_flight;
      if (user && user != &e) e.now_.compute_free_seconds = user->now_.compute_free_seconds;
      contenders_.push_back({e.plan_, e.now_});
      contending_.push_back(m.run.get());
    }
  }
  void decide() {
    for (bool acted = true; acted;) {
      update();
      acted = false;
      if (contenders_.empty()) return;
      const executor_t* const user = engine_user_ < 0 ? nullptr : find(engine_user_);
      // An engine that takes longer than was expected is still not free.
      const double engine_free = user ? std::max(user->now_.compute_free_seconds, clock_() + 1e-6) : 0;
      const turn_of t = schedule_.next(*link_, contenders_, engine_free);
      for (executor_t* e : contending_) ++e->report_.decisions;
      if (t.finished >= 0) {
        contending_[std::size_t(t.finished)]->finish(status::ok);
        acted = true;
        continue;
      }
      if (t.link >= 0) acted = send(*contending_[std::size_t(t.link)], t.what.link);
      if (t.compute >= 0) acted = compute(*contending_[std::size_t(t.compute)], t.what.compute) || acted;
      // Nothing is under way for anybody: if nobody wants anything, computing always works.
      const bool stuck = engine_user_ < 0 && std::all_of(contending_.begin(), contending_.end(),
                                                         [](const executor_t* e) { return e->stuck(); });
      if (!acted && stuck && !listening())
        acted = compute(*contending_[0],
                        recompute(contending_[0]->cost(), first_missing(contending_[0]->cost(), contending_[0]->now_)));
    }
  }
  // Where memory is short, what others keep for refinements goes first.
  bool send(executor_t& e, const step& what) {
    if (e.send(what)) return true;
    std::size_t freed = 0;
    for (const member& m : members_) {
      const std::size_t before = m.run->used_;
      if (m.run.get() != &e) m.run->release_idle();
      freed += before - m.run->used_;
    }
    e.options_.memory_bytes += freed;
    return freed > 0 && e.send(what);
  }
  bool compute(executor_t& e, const step& what) {
    if (engine_user_ >= 0 || !e.start_computing(what)) return false;
    for (const member& m : members_)
      if (m.run.get() == &e) engine_user_ = m.number;
    return true;
  }
  // Decodes by deadline; whatever the scheduler has started.
  void hand_out(group_turn& t) {
    const auto deadline = [](const member& m) { return m.run->now_.deadline_seconds; };
    std::stable_sort(members_.begin(), members_.end(),
                     [&](const member& a, const member& b) { return deadline(a) < deadline(b); });
    for (member& m : members_) {
      if (m.told) continue;
      turn one;
      m.run->hand_out(one);
      if (one.decode) t.decode.push_back({m.number, one.decode});
      if (one.compute) t.compute = {m.number, one.compute};
      t.stop_computing |= one.stop_computing && m.number == engine_user_;
      if (!one.finished) continue;
      m.told = true;
      t.finished.push_back(m.number);
      if (m.number == engine_user_) engine_user_ = -1;  // was never handed out
    }
  }
  void receive(double wait) {
    completion done[64];
    double now = 0;
    const std::size_t n = ear_.poll(*source_, clock_, *link_, done, wait, now);
    for (const member& m : members_) m.run->now_.now_seconds = now;
    for (std::size_t i = 0; i < n; ++i)
      for (const member& m : members_) m.run->take(done[i]);
    for (const member& m : members_) m.run->look_at_arrivals();
    if (listening()) ear_.patience.look(*link_, ear_.listened);
  }

  Source* source_;
  link_history* link_;
  executor_options options_;
  Clock clock_;
  sluice::detail::listening ear_;
  std::vector<member> members_;
  std::vector<std::pair<double, double>> fetches_;
  scheduler<Policy> schedule_;
  std::vector<contender<Policy>> contenders_;
  std::vector<executor_t*> contending_;
  int last_ = 0, engine_user_ = -1;
};

}  // namespace sluice::stream
