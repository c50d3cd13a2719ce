// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/run/executor.hpp>

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
/// - compute(step, stop): action::recompute, the whole chunk, everything before it being usable; or action::patch. Errors end
///   the request. May give up with status::cancelled when `stop` is requested.
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

inline void rest(const stream::turn& t) {
  if (t.idle) std::this_thread::sleep_for(std::chrono::duration<double>(detail::min(t.wait_seconds, longest_wait)));
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
    }
  }

  std::mutex mutex_;
  std::condition_variable_any wake_;
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
    detail::rest(t);
    page_status pages;
    if (decoder.take(pages)) e.decoded(pages);
    status s = status::ok;
    if (engine.take(s)) e.computed(s);
  }
}

}  // namespace sluice::stream
