// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/run/executor.hpp>

#include <atomic>
#include <concepts>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>

namespace sluice::stream {

/// Where chunks go: an engine's pages and the engine.
/// - decode(chunk, level, frame): writes the frame, which is cut after `level`, into the pages. What a page_status calls worst
///   decides; tokens that the model keeps nowhere (outside of a window) are the sink's to tolerate.
/// - compute(step, stop): action::recompute, the whole chunk, or what step::missing names of it, everything before that being
///   usable; or action::patch. Errors end the request. May give up with status::cancelled when `stop` is requested.
template <class S>
concept chunk_sink = requires(S& s, int chunk, int level, std::span<const std::byte> frame, const step& what,
                              std::stop_token stop) {
  { s.decode(chunk, level, frame) } -> std::same_as<page_status>;
  { s.compute(what, stop) } -> std::same_as<status>;
};

}  // namespace sluice::stream

namespace sluice::detail {

// Seconds that a loop waits for bytes, or for a thread, before it looks again.
inline constexpr double longest_wait = 1e-3;

inline double resting(const auto& t) { return t.idle ? detail::min(t.wait_seconds, longest_wait) : 0; }
inline void rest(const auto& t) {
  if (t.idle) std::this_thread::sleep_for(std::chrono::duration<double>(resting(t)));
}

// A thread that does one thing after the other, one at a time.
template <class Result>
class worker {
 public:
  template <class Work>
  explicit worker(Work work) : thread_([this, work](std::stop_token end) { loop(end, work); }) {}

  void give(const stream::job& j) {
    const std::lock_guard lock(mutex_);
    job_ = j;
    stop_ = {};
    wake_.notify_one();
  }
  // Until what was given is done, for at most so many seconds.
  void wait(double seconds) {
    std::unique_lock lock(mutex_);
    if (seconds > 0) ended_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return done_; });
  }
  bool take(Result& r) {
    const std::lock_guard lock(mutex_);
    if (!done_) return false;
    r = result_;
    done_ = false;
    return true;
  }
  void stop() {
    const std::lock_guard lock(mutex_);
    stop_.request_stop();
  }

 private:
  template <class Work>
  void loop(const std::stop_token& end, Work work) {
    std::unique_lock lock(mutex_);
    while (wake_.wait(lock, end, [this] { return bool(job_); })) {
      const stream::job j = std::exchange(job_, stream::job{});
      const std::stop_token stop = stop_.get_token();
      lock.unlock();
      const Result r = work(j, stop);
      lock.lock();
      result_ = r;
      done_ = true;
      ended_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any wake_;
  std::condition_variable ended_;
  stream::job job_;
  std::stop_source stop_;
  Result result_{};
  bool done_ = false;
  std::jthread thread_;  // last: it uses the others
};

}  // namespace sluice::detail

namespace sluice::stream {

/// Runs a request on the caller's thread: bytes that come during a decode or a computation wait in the system's buffers.
template <class Executor, chunk_sink Sink>
const report& run(Executor& e, Sink& sink) {
  while (true) {
    const turn t = e.next(detail::longest_wait);
    if (t.finished) return e.result();
    if (t.decode) e.decoded(sink.decode(t.decode.what.chunk, t.decode.what.level, t.decode.frame));
    if (t.compute) e.computed(sink.compute(t.compute.what, {}));
    detail::rest(t);
  }
}

/// The same with one thread that decodes and one that computes, while the caller's moves bytes. The sink's two functions
/// run beside each other, never for the same chunk.
template <class Executor, chunk_sink Sink>
const report& run_threaded(Executor& e, Sink& sink) {
  detail::worker<page_status> decoder(
      [&sink](const job& j, const std::stop_token&) { return sink.decode(j.what.chunk, j.what.level, j.frame); });
  detail::worker<status> engine(
      [&sink](const job& j, const std::stop_token& stop) { return sink.compute(j.what, stop); });
  while (true) {
    const turn t = e.next(detail::longest_wait);
    if (t.finished) return e.result();
    if (t.decode) decoder.give(t.decode);
    if (t.compute) engine.give(t.compute);
    if (t.stop_computing) engine.stop();
    decoder.wait(detail::resting(t));  // the next decode waits for this one
    page_status pages;
    if (decoder.take(pages)) e.decoded(pages);
    status s = status::ok;
    if (engine.take(s)) e.computed(s);
  }
}

/// Runs all requests of a request_group to their ends on the caller's thread. `sink_of(request)` gives a request's
/// chunk_sink, `ended(request)` is called with each that has ended, before it is removed; it may add others.
template <class Group, class SinkOf, class Ended>
void run_group(Group& group, SinkOf&& sink_of, Ended&& ended) {
  while (group.size() > 0) {
    const auto t = group.next(sluice::detail::longest_wait);
    for (const auto& w : t.decode)
      group.decoded(w.request, sink_of(w.request).decode(w.what.what.chunk, w.what.what.level, w.what.frame));
    if (t.compute.request >= 0) group.computed(sink_of(t.compute.request).compute(t.compute.what.what, {}));
    for (const int request : t.finished) {
      ended(request);
      group.remove(request);
    }
    sluice::detail::rest(t);
  }
}

/// Whether decoding takes cores from the engine.
enum class decoder_cores {
  apart,   ///< no: the engine computes on a GPU, or leaves a core free
  shared,  ///< yes: the engine is begun when the decoder waits for the link, or is done
};

/// A request whose chunks are units of layers, beside an engine that already works on the first ones: bytes are moved and
/// decoded by threads of its own, and what the store fails to give is computed on the engine's, in wait_for(). Borrows
/// executor and sink. One thread calls wait_for() and finish().
template <class Executor, chunk_sink Sink>
class layer_run {
  static_assert(!refining_policy<typename Executor::policy_type>,
                "a layer that the engine may be reading is not refined");

 public:
  /// Starts.
  layer_run(Executor& e, Sink& sink, decoder_cores cores = decoder_cores::apart)
      : executor_(&e), sink_(&sink), begun_(cores == decoder_cores::apart) {
    mover_ = std::jthread([this] { move(); });
  }
  layer_run(const layer_run&) = delete;
  layer_run& operator=(const layer_run&) = delete;
  /// Cancels what is not finished.
  ~layer_run() { cancelled_ = true; }

  /// Returns when every layer up to this one holds all tokens, and the first time, where cores are shared, when the decoder
  /// has nothing to do. Errors: how the request has ended without them.
  status wait_for(int layer) {
    const cost_model& cost = executor_->cost();
    int needed = 0;  // units, from the first on
    while (needed < cost.num_chunks() && cost.chunk(needed).layers.begin <= layer) ++needed;
    // Beside a decoder that never rests an engine would gain nothing, and wait for the slower of its threads.
    const auto begins = [&] { return begun_ || starved_ || usable_ == cost.num_chunks(); };
    if (!work_until([&] { return usable_ >= needed && begins(); })) return executor_->result().outcome;
    begun_ = true;
    return status::ok;
  }
  /// Returns when the request has ended.
  const report& finish() {
    work_until([] { return false; });
    return executor_->result();
  }

 private:
  // On the engine's thread: computes what is asked for until it is enough, or until the end. Returns whether it was.
  template <class Enough>
  bool work_until(Enough enough) {
    std::unique_lock lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return ended_ || job_ || enough(); });
      if (enough()) return true;
      if (ended_) return false;
      const step what = std::exchange(job_, job{}).what;
      const std::stop_token stop = stop_.get_token();
      lock.unlock();
      const status s = sink_->compute(what, stop);
      lock.lock();
      computed_ = s;
      has_computed_ = true;
    }
  }
  void move() {
    sluice::detail::worker<page_status> decoder(
        [this](const job& j, const std::stop_token&) { return sink_->decode(j.what.chunk, j.what.level, j.frame); });
    bool decoding = false;
    for (turn t; !t.finished;) {
      if (cancelled_) executor_->cancel();
      t = executor_->next(sluice::detail::longest_wait);
      if (t.decode) decoder.give(t.decode), decoding = true;
      if (!t.compute) decoder.wait(sluice::detail::resting(t));
      {
        const std::lock_guard lock(mutex_);
        if (t.compute) job_ = t.compute, stop_ = {};
        if (t.stop_computing && job_) {  // has not been begun
          job_ = {};
          computed_ = status::cancelled;
          has_computed_ = true;
        } else if (t.stop_computing) {
          stop_.request_stop();
        }
        if (std::exchange(has_computed_, false)) executor_->computed(computed_);
        starved_ = !decoding;
        page_status pages;
        if (decoder.take(pages)) executor_->decoded(pages), decoding = false;
        if (!executor_->state().chunks.empty()) usable_ = first_missing(executor_->cost(), executor_->state());
        ended_ = t.finished;
      }
      wake_.notify_all();
    }
  }

  Executor* executor_;
  Sink* sink_;
  std::mutex mutex_;
  std::condition_variable wake_;
  job job_;  // for the engine's thread
  std::stop_source stop_;
  status computed_ = status::ok;
  int usable_ = 0;  // units, from the first on without a gap
  bool has_computed_ = false, ended_ = false;
  bool starved_ = true;  // the decoder waits for bytes
  bool begun_;           // the engine's thread only
  std::atomic<bool> cancelled_{false};
  std::jthread mover_;  // last: it uses the others
};

}  // namespace sluice::stream
