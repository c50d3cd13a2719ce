// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/source.hpp>
#include <sluice/stream/study/trace.hpp>

#include <algorithm>
#include <chrono>
#include <deque>
#include <thread>
#include <utility>

namespace sluice::stream {

/// A source behind a slower link: bytes of reads arrive one read after the other, each after the link's latency, not
/// before the trace has let them pass nor before the source itself has them. Time 0 of the trace is the first read.
template <byte_source Source>
class shaped_source {
 public:
  /// Borrows the source, whose reads must all be made here.
  shaped_source(Source& source, link_trace trace) : source_(&source), trace_(std::move(trace)) {}

  result<std::uint64_t> size(std::string_view key) { return source_->size(key); }
  status put(std::string_view key, std::span<const std::byte> bytes) { return source_->put(key, bytes); }
  std::string_view detail() const { return source_->detail(); }

  ticket submit(const read_request& request) {
    if (origin_ < 0) origin_ = seconds();
    const double sent = seconds() - origin_;
    const ticket t = source_->submit(request);
    reads_.push_back({{t, status::ok, 0}, false, request.buffer.size(), sent + trace_.latency_at(sent)});
    return t;
  }
  std::size_t arrived(ticket t) {
    for (const read& r : reads_)
      if (r.end.which == t) return std::min(passed(r), r.here ? r.end.bytes : source_->arrived(t));
    return 0;
  }
  std::size_t cancel(ticket t) {
    const std::size_t bytes = arrived(t);
    for (std::size_t i = 0; i < reads_.size(); ++i)
      if (reads_[i].end.which == t) {
        if (!reads_[i].here) source_->cancel(t);
        if (i == 0) free_ = std::max(free_, seconds() - origin_);
        reads_.erase(reads_.begin() + std::ptrdiff_t(i));
        break;
      }
    return bytes;
  }

  std::size_t poll(std::span<completion> done, double wait) {
    const double until = seconds() + wait;
    std::size_t n = 0;
    while (n == 0 && !reads_.empty()) {
      collect(0);
      for (; n < done.size() && !reads_.empty() && reads_[0].here && due() <= seconds() - origin_; ++n) {
        free_ = due();
        done[n] = reads_[0].end;
        reads_.pop_front();
      }
      const double left = until - seconds();
      if (n || left <= 0) break;
      if (reads_[0].here)
        std::this_thread::sleep_for(
            std::chrono::duration<double>(std::min(left, std::max(due() - seconds() + origin_, 0.0))));
      else
        collect(left);
    }
    return n;
  }

 private:
  struct read {
    completion end;
    bool here;  // the source has completed it
    std::size_t size;
    double ready;  // when its first byte may begin to pass
  };

  static double seconds() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  double due() const noexcept {
    const read& r = reads_[0];
    return trace_.finish_time(std::max(free_, r.ready), double(r.end.state == status::ok ? r.size : r.end.bytes));
  }
  std::size_t passed(const read& r) const noexcept {
    if (&r != &reads_[0]) return 0;
    return std::size_t(trace_.bytes_between(std::max(free_, r.ready), seconds() - origin_));
  }
  void collect(double wait) {
    completion ends[16];
    const std::size_t n = source_->poll(ends, wait);
    for (std::size_t i = 0; i < n; ++i)
      for (read& r : reads_)
        if (r.end.which == ends[i].which) r.end = ends[i], r.here = true;
  }

  Source* source_;
  link_trace trace_;
  std::deque<read> reads_;
  double origin_ = -1;
  double free_ = 0;  // when the link has passed everything before the first read
};

}  // namespace sluice::stream
