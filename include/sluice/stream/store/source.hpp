// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// Where stored objects come from. A source keeps several ranges in flight without a thread of its own: whoever waits for
// bytes calls poll(), and everything happens in there.

namespace sluice::stream {

/// One range of one object: `buffer.size()` bytes from `offset` on. The buffer belongs to the source until the read is
/// completed or cancelled; the key is copied.
struct read_request {
  std::string_view key;         ///< of the object; need not outlive submit()
  std::uint64_t offset = 0;     ///< bytes from the object's first to the range's
  std::span<std::byte> buffer;  ///< where the range goes; its size is the range's
};

/// Names one read in flight; never 0.
using ticket = std::uint64_t;

/// The end of a read. The first `bytes` bytes of its buffer are what the store sent, also where `state` is not ok.
/// States: not_found, timed_out, connection_lost, wrong_length (the object ends before the range does, or the answer has
/// another length than it claims), refused, io_error.
/// `detail` says in words why it is not ok, where more is known than the state tells: a server's own words, the system's
/// text of an error. One line, never a secret.
struct completion {
  ticket which = 0;           ///< the read that has ended
  status state = status::ok;  ///< ok: all of the range is here
  std::size_t bytes = 0;      ///< from the buffer's first on
  std::string detail = {};    ///< words for people; empty where there are none
};

/// A store of byte objects that is read by ranges.
///
/// - size(key): bytes of an object; waits. put(key, bytes): all of it under that name, or nothing changes; waits.
///   Errors: those of a completion; no_space.
/// - submit(request): starts a read and returns at once. All trouble comes as its completion.
/// - poll(done, seconds): moves bytes; waits up to `seconds` until at least one read ends; returns how many it wrote to `done`.
/// - arrived(ticket): bytes so far, from the first of the buffer on.
/// - cancel(ticket): gives the buffer back; no completion follows. Returns what arrived() was.
/// - detail(): why the last call or completion that was not ok was not, as in completion::detail; empty where the status
///   says it all. Valid until the next call.
template <class S>
concept byte_source = requires(S& s, std::string_view key, const read_request& request, std::span<completion> done,
                               double seconds, ticket t, std::span<const std::byte> bytes) {
  { s.size(key) } -> std::same_as<result<std::uint64_t>>;
  { s.submit(request) } -> std::same_as<ticket>;
  { s.poll(done, seconds) } -> std::same_as<std::size_t>;
  { s.arrived(t) } -> std::same_as<std::size_t>;
  { s.cancel(t) } -> std::same_as<std::size_t>;
  { s.put(key, bytes) } -> std::same_as<status>;
  { s.detail() } -> std::convertible_to<std::string_view>;
};

/// A source that forgets objects when told to, and says which it has: what a tier must be.
/// - erase(key): the object is gone; waits. Errors: not_found, and those of put().
/// - keys(): of all objects, in any order; waits. Errors: those of size().
template <class S>
concept tier_source = byte_source<S> && requires(S& s, std::string_view key) {
  { s.erase(key) } -> std::same_as<status>;
  { s.keys() } -> std::same_as<result<std::vector<std::string>>>;
};

/// Seconds of a monotonic clock.
struct steady_clock_seconds {
  /// Seconds since some fixed moment.
  double operator()() const noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
};

/// Reads one range and waits for it, however long it takes, but for at most `seconds` without a byte. Uses a source that
/// has nothing else in flight. Errors: those of a completion.
template <byte_source Source>
status read(Source& source, const read_request& request, double seconds) {
  constexpr steady_clock_seconds now;
  const ticket t = source.submit(request);
  completion done;
  std::size_t bytes = 0;
  for (double until = now() + seconds; source.poll({&done, 1}, std::clamp(until - now(), 0.0, 1.0)) == 0;) {
    if (const std::size_t n = source.arrived(t); n != bytes) {
      bytes = n;
      until = now() + seconds;
    } else if (now() >= until) {
      source.cancel(t);
      return status::timed_out;
    }
  }
  return done.state;
}

/// Reads a whole object and waits for it. Errors: those of size() and of a completion; too_large.
template <byte_source Source>
result<std::vector<std::byte>> read_object(Source& source, std::string_view key, double seconds,
                                           std::uint64_t most = std::uint64_t{1} << 32) {
  const result<std::uint64_t> size = source.size(key);
  if (!size) return size.status();
  if (*size > most) return status::too_large;
  std::vector<std::byte> bytes(static_cast<std::size_t>(*size));
  if (bytes.empty()) return bytes;
  if (const status s = read(source, {key, 0, bytes}, seconds); s != status::ok) return s;
  return bytes;
}

/// Puts an object and reads it back: what a store says it has kept is believed when it is there, and not before. Reading
/// gives up after `seconds` without a byte. Errors: those of put() and read_object(); wrong_length and not_kept where
/// something else is read back than was put. `why` says more, also where the source's own detail() would.
template <byte_source Source>
status put_checked(Source& source, std::string_view key, std::span<const std::byte> bytes, double seconds,
                   std::string* why = nullptr) {
  const auto because = [&](status s, std::string_view words) {
    if (why) *why = std::string(words) + (source.detail().empty() ? "" : ": ") + std::string(source.detail());
    return s;
  };
  if (const status s = source.put(key, bytes); s != status::ok) {
    if (why) *why = source.detail();
    return s;
  }
  std::vector<std::byte> back(bytes.size());
  const result<std::uint64_t> size = source.size(key);
  if (!size) {
    if (size.status() == status::not_found)
      return because(status::not_kept, "the put was acknowledged, yet there is no such object");
    return because(size.status(), "put, but its size cannot be read back");
  }
  if (*size != bytes.size()) {
    if (why) *why = std::to_string(bytes.size()) + " bytes were put and " + std::to_string(*size) + " are there";
    return status::wrong_length;
  }
  if (const status s = read(source, {key, 0, back}, seconds); s != status::ok)
    return because(s, "put, but it cannot be read back");
  if (std::equal(bytes.begin(), bytes.end(), back.begin())) return status::ok;
  if (why) *why = "other bytes were read back than were put";
  return status::not_kept;
}

}  // namespace sluice::stream

namespace sluice::detail {

// Takes a read out of a list of them; its bytes, 0 where it is not there.
template <class List>
std::size_t forget_read(List& all, stream::ticket t) {
  for (auto r = all.begin(); r != all.end(); ++r)
    if (r->which == t) {
      const std::size_t bytes = r->bytes;
      all.erase(r);
      return bytes;
    }
  return 0;
}

/// Reads of a source that fills a buffer within one call (memory, local disk), first come, first served.
class read_queue {
 public:
  using ticket = stream::ticket;
  using read_request = stream::read_request;
  struct entry {
    ticket which = 0;
    read_request request;
    std::vector<char> key;
    std::size_t bytes = 0;
  };

  ticket push(const read_request& request) {
    entries_.push_back({++last_, request, {request.key.begin(), request.key.end()}, 0});
    entry& e = entries_.back();
    e.request.key = {e.key.data(), e.key.size()};
    return last_;
  }
  bool empty() const noexcept { return entries_.empty(); }
  entry& front() noexcept { return entries_.front(); }
  void pop() { entries_.erase(entries_.begin()); }
  entry* find(ticket t) noexcept {
    for (entry& e : entries_)
      if (e.which == t) return &e;
    return nullptr;
  }
  std::size_t arrived(ticket t) noexcept {
    const entry* e = find(t);
    return e ? e->bytes : 0;
  }
  std::size_t cancel(ticket t) { return forget_read(entries_, t); }

 private:
  std::vector<entry> entries_;
  ticket last_ = 0;
};

// Reads that have ended and that nobody has been told of.
class ended_reads {
 public:
  void push(stream::completion c) { all_.push_back(std::move(c)); }
  bool empty() const noexcept { return all_.empty(); }
  // Forgets a read; its bytes, 0 where it is not here.
  std::size_t cancel(stream::ticket t) { return forget_read(all_, t); }
  // Listens, until a moment of the clock, as long as `reads` are in flight and none has ended; then as take().
  template <class Reads, class Clock, class Listen>
  std::size_t poll(std::span<stream::completion> done, double seconds, std::string& detail, const Reads& reads,
                   const Clock& clock, const Listen& listen) {
    const double until = clock() + seconds;
    do {
      if (all_.empty() && !reads.empty()) listen(until);
    } while (all_.empty() && !reads.empty() && clock() < until);
    return take(done, detail);
  }
  // Hands over as many as there is room for; `detail` becomes the words of the last one that failed.
  std::size_t take(std::span<stream::completion> done, std::string& detail) {
    std::size_t n = 0;
    for (; n < done.size() && !all_.empty(); ++n) {
      done[n] = std::move(all_.front());
      all_.pop_front();
      if (done[n].state != status::ok) detail = done[n].detail;
    }
    return n;
  }

 private:
  std::deque<stream::completion> all_;
};

}  // namespace sluice::detail
