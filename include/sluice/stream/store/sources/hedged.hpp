// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/source.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sluice::stream {

/// When a second source is asked as well, and what that may take.
struct hedge_options {
  double quantile = 0.95;        ///< of the silences before a first byte: a read that waits longer is late
  double floor_seconds = 0.002;  ///< nothing is late before
  double start_seconds = 0.05;   ///< late, as long as few silences are known
  std::size_t memory_bytes = std::size_t{32} << 20;  ///< of late reads' second answers; one is always allowed
  bool put_both = true;  ///< puts go to both sources; else to the primary, and the second is filled by somebody else
};

/// What asking twice did since the source was made.
struct hedge_totals {
  std::uint64_t reads = 0;         ///< submitted
  std::uint64_t hedged = 0;        ///< of these, asked of the second as well because they were late
  std::uint64_t failed_over = 0;   ///< of these, asked of the second because the primary had failed
  std::uint64_t second_won = 0;    ///< of these, answered by the second
  std::uint64_t unused_bytes = 0;  ///< that came and were not needed
};

/// Two sources of the same objects (a replica, another tier, the same store over another connection) as one: a read that is
/// late at the primary is asked of the second as well, and whichever is whole first is the answer; the other is cancelled.
/// The second answers into memory of this source's, so that no two write to a caller's buffer, and all bytes of a read come
/// from one of them. What one fails to give is asked of the other; where both fail, the status is the primary's and the words
/// are both's.
/// Silence is counted while somebody polls, from when a read was asked for or, if that is later, the last byte of a read
/// before it. A read that the second wins counts as one that was late by a hair: stalls of the primary do not teach patience,
/// slow answers do. Where more reads than 1 - quantile stall, that share is asked twice.
/// J. Dean and L. A. Barroso, The Tail at Scale, CACM 56(2), 2013: hedged requests.
template <byte_source Primary, byte_source Second = Primary, class Clock = steady_clock_seconds>
class hedged_source {
 public:
  /// Borrows both, whose reads must all be made here.
  hedged_source(Primary& primary, Second& second, const hedge_options& options = {}, Clock clock = {})
      : primary_(&primary), second_(&second), options_(options), clock_(clock), late_(options.start_seconds) {}
  hedged_source(const hedged_source&) = delete;
  hedged_source& operator=(const hedged_source&) = delete;
  ~hedged_source() {
    for (read& r : reads_) stop(r);
  }

  /// The primary's answer, or the second's where the primary fails. One that is silent right now is asked last.
  result<std::uint64_t> size(std::string_view key) {
    if (silent_)
      if (const result<std::uint64_t> s = second_->size(key)) return s;
    const result<std::uint64_t> p = primary_->size(key);
    if (p) return p;
    const std::string words(primary_->detail());
    const result<std::uint64_t> s = second_->size(key);
    if (s) return s;
    detail_ = both(p.status(), words, s.status(), second_->detail());
    return p.status();
  }
  /// To both, and ok where both have it: what one lacks costs every read of it a question more. After an error one of them
  /// may have it.
  status put(std::string_view key, std::span<const std::byte> bytes) {
    const status p = primary_->put(key, bytes);
    detail_ = primary_->detail();
    if (!options_.put_both) return p;
    const status s = second_->put(key, bytes);
    if (s != status::ok) detail_ = both(p, detail_, s, second_->detail());
    return p != status::ok ? p : s;
  }
  std::string_view detail() const noexcept { return detail_; }

  ticket submit(const read_request& request) {
    ++totals_.reads;
    reads_.push_back({++last_, std::string(request.key), request.offset, request.buffer});
    read& r = reads_.back();
    r.asked = r.heard = listened_;
    r.at_primary = primary_->submit(request);
    return last_;
  }
  std::size_t arrived(ticket t) {
    for (const read& r : reads_)
      if (r.which == t) return here(r);
    return 0;
  }
  std::size_t cancel(ticket t) {
    for (std::size_t i = 0; i < reads_.size(); ++i)
      if (reads_[i].which == t) {
        const std::size_t bytes = here(reads_[i]);
        stop(reads_[i]);
        reads_.erase(reads_.begin() + std::ptrdiff_t(i));
        return bytes;
      }
    return ended_.cancel(t);
  }
  std::size_t poll(std::span<completion> done, double seconds) {
    return ended_.poll(done, seconds, detail_, reads_, clock_,
                       [&](double until) { listen(std::max(until - clock_(), 0.0)); });
  }

  /// Seconds of silence after which a read is late.
  double late_seconds() const noexcept { return late_; }
  /// What asking twice did.
  const hedge_totals& totals() const noexcept { return totals_; }

 private:
  static constexpr std::size_t remembered = 64, few = 8;  // silences
  static constexpr double slice_seconds = 0.001;          // of waiting for one while the other may answer

  struct read {
    ticket which = 0;
    std::string key;
    std::uint64_t offset = 0;
    std::span<std::byte> buffer;
    ticket at_primary = 0, at_second = 0;    // in flight there; 0 = not, or not any more
    completion primary_end{}, second_end{};  // which is 0 until it has failed there
    std::unique_ptr<std::byte[]> copy{};     // what the second answers into while the buffer is not free
    double asked = 0, heard = 0;             // the same for the primary's last byte, both in seconds spent listening
    std::size_t bytes = 0;                   // of the primary, when it was last looked at
    bool answered = false;                   // by the primary, with a byte or an error of the store's
  };

  // Both sources get their turn; the one that waits is not the same twice while both owe something.
  void listen(double left) {
    ask_second();
    bool primary = false, second = false;
    for (const read& r : reads_) {
      primary = primary || r.at_primary;
      second = second || r.at_second;
    }
    double wait = left;
    if (primary) wait = std::min(wait, std::max(late_ / 8, slice_seconds / 8));
    if (primary && second) wait = std::min(wait, slice_seconds);
    const bool second_waits = second && (!primary || (turn_ = !turn_));
    completion p[16], s[16];
    const double begin = clock_();
    const std::size_t np = primary ? primary_->poll(p, second_waits ? 0 : wait) : 0;
    const std::size_t ns = second ? second_->poll(s, second_waits && np == 0 ? wait : 0) : 0;
    listened_ += clock_() - begin;
    for (std::size_t i = 0; i < np; ++i) primary_ended(std::move(p[i]));
    for (std::size_t i = 0; i < reads_.size(); ++i)
      if (read& r = reads_[i]; r.at_primary)
        if (const std::size_t n = primary_->arrived(r.at_primary); n != r.bytes) {
          if (n > r.bytes) hear(i);
          r.bytes = n;
        }
    for (std::size_t i = 0; i < ns; ++i) second_ended(std::move(s[i]));
  }

  void ask_second() {
    double heard = 0;
    for (read& r : reads_) {
      heard = std::max(heard, r.heard);
      if (r.at_second || r.second_end.which) continue;
      const bool failed = r.primary_end.which, late = !failed && listened_ - heard >= late_;
      if (late) silent_ = true;
      if (!failed && !late) continue;
      const bool free = failed && r.primary_end.bytes == 0;
      const std::size_t n = r.buffer.size();
      if (!free) {
        if (used_ && used_ + n > options_.memory_bytes) continue;
        r.copy.reset(new std::byte[n + 1]);
        used_ += n;
      }
      ++(failed ? totals_.failed_over : totals_.hedged);
      r.at_second = second_->submit({r.key, r.offset, free ? r.buffer : std::span(r.copy.get(), n)});
    }
  }

  // Something has come of a read. What it waited for tells of the primary if nothing else came since it was asked for.
  void hear(std::size_t i) {
    read& r = reads_[i];
    double heard = 0;
    for (std::size_t k = 0; k <= i; ++k) heard = std::max(heard, reads_[k].heard);
    if (!std::exchange(r.answered, true) && heard <= r.asked) note(listened_ - r.asked);
    r.heard = listened_;
    silent_ = false;
  }
  void note(double silence) {
    if (silences_.size() < remembered)
      silences_.push_back(silence);
    else
      silences_[next_++ % remembered] = silence;
    if (silences_.size() < few) return;
    std::vector<double> sorted = silences_;
    std::sort(sorted.begin(), sorted.end());
    const double at = std::ceil(std::clamp(options_.quantile, 0.0, 1.0) * double(sorted.size()));
    late_ = std::max(sorted[std::size_t(std::max(at, 1.0)) - 1], options_.floor_seconds);
  }

  void primary_ended(completion c) {
    for (std::size_t i = 0; i < reads_.size(); ++i) {
      read& r = reads_[i];
      if (r.at_primary != c.which) continue;
      r.at_primary = 0;
      if (c.bytes > r.bytes || (c.state != status::timed_out && c.state != status::connection_lost)) hear(i);
      for (std::size_t k = i + 1; k < reads_.size(); ++k) reads_[k].heard = std::max(reads_[k].heard, r.heard);
      if (c.state == status::ok) return end(i, std::move(c));
      r.primary_end = std::move(c);
      if (r.second_end.which) fail(i);
      return;
    }
  }
  void second_ended(completion c) {
    for (std::size_t i = 0; i < reads_.size(); ++i) {
      read& r = reads_[i];
      if (r.at_second != c.which) continue;
      r.at_second = 0;
      if (c.state != status::ok) {
        r.second_end = std::move(c);
        if (r.primary_end.which) return fail(i);
        r.second_end.bytes = 0;  // the primary is still at work, and has the buffer
        return drop_copy(r);
      }
      ++totals_.second_won;
      if (!r.answered && r.at_primary) note(late_);
      if (r.at_primary) totals_.unused_bytes += primary_->cancel(std::exchange(r.at_primary, 0));
      if (r.primary_end.which) totals_.unused_bytes += r.primary_end.bytes;
      if (r.copy && c.bytes) std::memcpy(r.buffer.data(), r.copy.get(), c.bytes);
      return end(i, std::move(c));
    }
  }
  // Both have failed: the longer answer is kept, the rest is the primary's.
  void fail(std::size_t i) {
    read& r = reads_[i];
    completion c = std::move(r.primary_end);
    c.detail = both(c.state, c.detail, r.second_end.state, r.second_end.detail);
    if (r.second_end.bytes > c.bytes) {
      c.bytes = r.second_end.bytes;
      if (r.copy) std::memcpy(r.buffer.data(), r.copy.get(), c.bytes);
    }
    end(i, std::move(c));
  }
  void end(std::size_t i, completion c) {
    read& r = reads_[i];
    c.which = r.which;
    stop(r);
    ended_.push(std::move(c));
    reads_.erase(reads_.begin() + std::ptrdiff_t(i));
  }
  // Whatever is in flight of a read is not any more.
  void stop(read& r) {
    if (r.at_primary) totals_.unused_bytes += primary_->cancel(std::exchange(r.at_primary, 0));
    if (r.at_second) totals_.unused_bytes += second_->cancel(std::exchange(r.at_second, 0));
    drop_copy(r);
  }
  void drop_copy(read& r) {
    if (r.copy) used_ -= r.buffer.size();
    r.copy.reset();
  }
  std::size_t here(const read& r) {
    if (r.at_primary) return primary_->arrived(r.at_primary);
    return r.at_second && !r.copy ? second_->arrived(r.at_second) : r.primary_end.bytes;
  }

  static std::string both(status p, std::string_view primary, status s, std::string_view second) {
    if (p == s && primary.empty() && second.empty()) return {};
    std::string words(primary.empty() ? to_string(p) : primary);
    words += "; the second: ";
    words += to_string(s);
    if (!second.empty()) (words += ": ") += second;
    return words;
  }

  Primary* primary_;
  Second* second_;
  hedge_options options_;
  Clock clock_;
  std::vector<read> reads_;  // in the order of asking
  sluice::detail::ended_reads ended_;
  std::vector<double> silences_;
  std::size_t next_ = 0, used_ = 0;
  double late_, listened_ = 0;
  bool silent_ = false, turn_ = false;
  hedge_totals totals_;
  std::string detail_;
  ticket last_ = 0;
};

}  // namespace sluice::stream
