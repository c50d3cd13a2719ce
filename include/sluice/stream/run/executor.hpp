// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/decoder.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/stream/plan/plan.hpp>
#include <sluice/stream/run/listening.hpp>
#include <sluice/stream/run/report.hpp>
#include <sluice/stream/store/object.hpp>
#include <sluice/stream/store/source.hpp>

#include <algorithm>
#include <cstdio>
#include <deque>
#include <memory>
#include <utility>
#include <vector>

// Fetches, decodes and computes the chunks of one request at the same time, as its planner says. The executor owns no
// thread: next() moves bytes and hands out work, decoded() and computed() say how it went. loops.hpp holds loops around it.

namespace sluice::stream {

template <planner_policy Policy, byte_source Source, class Clock>
class request_group;

/// One request. Borrows planner, source, chunks and link history, which collects what the link did for later requests.
/// At most one decode and one computation are out at a time. They never touch the same chunk, and a chunk that the engine
/// may be reading is not refined, so both may run beside each other and beside next() on threads of the caller's.
/// Silence makes chunks late, not lost (patience.hpp): the engine may compute them, and what comes first is used.
/// Of a chunk with damaged tiles, step::missing says what is to be computed; the rest stays at its level (chunk_report::repaired).
/// Units of layers are computed in whole.
/// Chunks may be units of some layers each (unit_of()): their objects' heads have been read, and all of an object lies where it
/// does in a frame, with holes.
template <planner_policy Policy, byte_source Source, class Clock = steady_clock_seconds>
class executor {
 public:
  using policy_type = Policy;  ///< who plans

  /// `deadline_seconds` count from now. `chunks` are those of the planner's cost model, in its order; with fewer the
  /// request ends at once with invalid_argument.
  executor(const planner<Policy>& plan, Source& source, std::span<const stored_chunk> chunks, link_history& link,
           double deadline_seconds, executor_options options = {}, Clock clock = {})
      : executor(plan, source, chunks, link, deadline_seconds, options, clock, nullptr) {}
  executor(const executor&) = delete;
  executor& operator=(const executor&) = delete;
  ~executor() { drop_all(); }

  /// Moves bytes, for at most `wait_seconds` where there is nothing else to do, and says what is to be done.
  turn next(double wait_seconds) {
    turn t;
    decide();
    t.decode = next_decode();
    const bool busy = t.decode || next_compute_;
    if (in_flight()) receive(busy || done_ ? 0 : std::min(wait_seconds, until_event()));
    if (!t.decode) t.decode = next_decode();  // what is here comes before what might be computed
    if (!done_) decide();
    hand_out(t);
    return t;
  }

  /// The decode handed out last is done.
  void decoded(const page_status& s) {
    const int c = std::exchange(decoding_, step{}).chunk, level = decoding_level_;
    chunk_progress& p = progress_[std::size_t(c)];
    if (s.worst == status::ok || s.worst == status::degraded) {
      p.ready = std::max(p.ready, std::int8_t(level));
      if (cost().patch_again_seconds(c) > 0) p.patched = false;
      report_.chunks[std::size_t(c)].state = s.worst;
      if (s.worst == status::degraded) lose(c, level, s.worst);  // what is here is sound; more would build on damage
      if (p.arrived <= p.ready && (p.ready >= cost().num_levels() - 1 || p.lost)) release(c);
      return;
    }
    if (p.ready < 0 && is_part(c, s.missing)) {
      p.missing = s.missing;
      damaged_[std::size_t(c)] = {std::int8_t(level), s.degraded > 0};
    }
    lose(c, level, s.worst);
  }

  /// The computation handed out last is done; status::cancelled: it was stopped and what it wrote is not whole.
  void computed(status s) {
    const step what = std::exchange(out_, step{});
    now_.computing = -1;
    chunk_progress& p = progress_[std::size_t(what.chunk)];
    if (s == status::cancelled) return;
    if (s != status::ok) {
      note(what.chunk, -1, what.what, s);
      return finish(s);
    }
    const chunk_cost& k = cost().chunk(what.chunk);
    if (what.what == action::patch) {
      p.patched = true;
      report_.recomputed_tokens += std::int64_t(cost().rates().token_fraction * k.tokens);
      return;
    }
    drop(what.chunk, -1);
    chunk_report& r = report_.chunks[std::size_t(what.chunk)];
    r.state = status::ok;
    if (what.missing) {
      const damage& d = damaged_[std::size_t(what.chunk)];
      p.requested = p.arrived = p.ready = d.level;
      if (d.degraded) r.state = status::degraded;
      r.repaired = std::exchange(p.missing, {});
    }
    p.computed = !what.missing;
    report_.recomputed_tokens += what.missing ? what.missing.tokens : k.tokens;
    release(what.chunk);
  }

  /// Ends the request as it is; next() says when nothing is out any more.
  void cancel() {
    if (!done_) finish(status::cancelled);
  }

  /// What became of the request; complete once a turn says `finished`.
  const report& result() const noexcept { return report_; }
  /// Where it stands, as planners see it.
  const request_progress& state() const noexcept { return now_; }
  /// What the request costs.
  const cost_model& cost() const noexcept { return plan_->cost(); }

 private:
  friend class request_group<Policy, Source, Clock>;

  executor(const planner<Policy>& plan, Source& source, std::span<const stored_chunk> chunks, link_history& link,
           double deadline_seconds, executor_options options, Clock clock, sluice::detail::listening* shared)
      : plan_(&plan),
        source_(&source),
        names_(chunks),
        link_(&link),
        options_(options),
        clock_(clock),
        own_{patience(options.patience), {}, 0, 0, 0},
        ear_(shared ? shared : &own_) {
    progress_.resize(std::size_t(cost().num_chunks()));
    buffers_.resize(progress_.size());
    failures_.resize(progress_.size());
    damaged_.resize(progress_.size());
    report_.chunks.resize(progress_.size());
    now_.start_seconds = now_.now_seconds = clock_();
    now_.deadline_seconds = now_.start_seconds + deadline_seconds;
    if (names_.size() < progress_.size()) finish(status::invalid_argument);
  }

  // One range of a fetch.
  struct piece {
    ticket which = 0;
    std::size_t size = 0, bytes = 0;
    bool done = false;
  };
  struct fetch_state {
    step what;
    int from = -1;  // level that the buffer held, or will hold, before
    std::uint64_t begin = 0, bytes = 0;
    double sent = 0;              // by the clock
    double asked = 0, heard = 0;  // the same, and the last byte, in seconds spent listening
    std::vector<piece> pieces;
    bool whole = false;  // but a level before it is still missing
    bool late = false;   // has been called so
    std::uint64_t received() const noexcept {
      std::uint64_t n = 0;
      for (const piece& p : pieces) n += p.bytes;
      return n;
    }
    // Bytes without a gap.
    std::uint64_t prefix() const noexcept {
      std::uint64_t n = 0;
      for (const piece& p : pieces) {
        n += p.bytes;
        if (p.bytes < p.size) break;
      }
      return n;
    }
  };
  struct buffer {
    std::unique_ptr<std::byte[]> bytes[2];  // embedded levels, exact copy
    std::size_t used = 0;
    bool dropped = false;  // memory was short: the levels before have to be fetched again
  };

  bool exact(int level) const noexcept { return level == cost().exact_level(); }
  bool in_flight() const noexcept { return in_flight_ > 0; }
  // Seconds until the deadline, until a read turns late, or until a silent link may be asked again.
  double until_event() const noexcept {
    const double left = now_.deadline_seconds - now_.now_seconds, patient = ear_->patience.seconds(*link_);
    double wait = left > 0 ? left : patient;
    if (const double ask = ear_->patience.ask_at_seconds() - now_.now_seconds; ask > 0) wait = std::min(wait, ask);
    double heard = 0;
    for (const fetch_state& f : fetches_) {
      heard = f.whole ? heard : std::max(heard, f.heard);
      if (!f.whole && !f.late) wait = std::min(wait, std::max(heard + patient - ear_->listened, 0.0));
    }
    return wait;
  }

  void note(int chunk, int level, action during, status what, std::string detail = {}) {
    report_.faults.push_back({chunk, level, during, what, clock_() - now_.start_seconds, std::move(detail)});
  }

  void hand_out(turn& t) {
    if (!t.decode) t.decode = next_decode();
    t.compute.what = std::exchange(next_compute_, step{});
    t.stop_computing = now_.computing >= 0 && (done_ || wasted(now_.computing));
    t.finished = done_ && !decoding_ && !out_;
    if (t.finished) sum_up();
    t.idle = !t.decode && !t.compute && !t.finished && !in_flight();
    t.wait_seconds = until_event();
  }

  // --- deciding: the same calls in the same situations as in the simulator ---

  void decide() {
    while (!done_) {
      update();
      const decision d = plan_->next(*link_, now_);
      ++report_.decisions;
      if (d.finished) return finish(status::ok);
      bool acted = false;
      if (d.link && link_wants_more(cost(), *link_, now_)) acted = send(d.link);
      if (d.compute && now_.computing < 0) acted = start_computing(d.compute) || acted;
      if (!acted && (d.compute || !stuck() || !start_computing(recompute(cost(), first_missing(cost(), now_))))) return;
    }
  }
  // Nothing is under way: if the policy wants nothing, computing always works.
  bool stuck() const noexcept {
    return !in_flight() && !decoding_ && to_decode_.empty() && !out_ &&
           first_missing(cost(), now_) < cost().num_chunks();
  }
  void update() {
    now_.now_seconds = clock_();
    now_.chunks = progress_;
    count_late();
    now_.decode_free_seconds = decoding_ ? std::max(decode_until_, now_.now_seconds) : now_.now_seconds;
    for (int c : to_decode_) now_.decode_free_seconds += decode_seconds(c);
    now_.compute_free_seconds = std::max(compute_until_, now_.now_seconds);
    if (report_.usable_seconds < 0 && first_missing(cost(), now_) == cost().num_chunks())
      report_.usable_seconds = now_.now_seconds - now_.start_seconds;
  }
  double decode_seconds(int c) const noexcept {
    const chunk_progress& p = progress_[std::size_t(c)];
    return cost().decode_seconds(c, p.arrived, cost().bytes_between(c, p.ready, p.arrived));
  }

  bool start_computing(const step& what) {
    const chunk_progress& p = progress_[std::size_t(what.chunk)];
    // Bytes that are here are decoded first, and what is being decoded is not for the engine to read.
    if (what.what == action::recompute && p.arrived > p.ready) return false;
    if (decoding_ && touches(cost(), what, decoding_.chunk)) return false;
    keep(what);
    out_ = next_compute_ = what;
    now_.computing = what.chunk;
    compute_until_ = now_.now_seconds + engine_seconds(cost(), what);
    return true;
  }
  // A copy of what is being computed has come first.
  bool wasted(int c) const noexcept {
    const chunk_progress& p = progress_[std::size_t(c)];
    return out_.what == action::recompute && p.arrived > p.ready;
  }
  void keep(step what) {
    what.order = std::uint32_t(report_.steps.size());
    report_.steps.push_back(what);
  }

  // What is late is not in flight as far as plans are concerned. Of reads that are answered one after the other, the later ones
  // wait for the earlier: silence is that of all up to there.
  void count_late() {
    const bool silent = ear_->patience.silent();
    const double patient = ear_->patience.seconds(*link_);
    now_.hold = !ear_->patience.may_ask(now_.now_seconds);
    now_.bytes_in_flight = 0;
    now_.fetches_in_flight = 0;
    for (chunk_progress& p : progress_) p.late = silent && !p.computed;
    double heard = 0;
    for (fetch_state& f : fetches_) {
      if (f.whole) continue;
      heard = std::max(heard, f.heard);
      for (const auto& [asked, last] : others_)
        if (asked <= f.asked) heard = std::max(heard, last);
      const bool overdue = ear_->listened >= heard + patient;
      if (!silent && !overdue) {
        f.late = false;
        now_.bytes_in_flight += f.bytes;
        ++now_.fetches_in_flight;
        continue;
      }
      progress_[std::size_t(f.what.chunk)].late = true;
      if (!overdue || std::exchange(f.late, true)) continue;
      char words[64];
      std::snprintf(words, sizeof words, "nothing came for %.1f s", ear_->listened - heard);
      note(f.what.chunk, f.what.level, action::fetch, status::timed_out, words);
    }
  }

  // --- fetching ---

  bool send(const step& what) {
    chunk_progress& p = progress_[std::size_t(what.chunk)];
    if (what.what == action::text) {
      keep(what);
      return p.text = true;
    }
    if (cost().bytes(what.chunk, what.level) >= bytes_of_no_copy) {
      lose(what.chunk, what.level, status::not_found, "there is no exact copy");
      return true;
    }
    buffer& b = buffers_[std::size_t(what.chunk)];
    fetch_state f;
    f.what = what;
    f.from = exact(what.level) || b.dropped ? -1 : p.requested;
    f.begin = cost().bytes(what.chunk, f.from);
    f.bytes = cost().bytes(what.chunk, what.level) - f.begin;
    if (!make_room(what.chunk, f.bytes)) return false;
    const stored_chunk& name = names_[std::size_t(what.chunk)];
    auto& bytes = b.bytes[exact(what.level)];
    if (!bytes) {
      // Room for all levels at once: what is not fetched is never touched, and bytes in flight must not move.
      bytes.reset(
          new std::byte[object_bytes(what.chunk, exact(what.level) ? what.level : cost().num_levels() - 1) + 1]);
      if (!name.parts.empty()) std::memcpy(bytes.get(), name.head.data(), name.head.size());
    }
    b.used += std::size_t(f.bytes);
    used_ += std::size_t(f.bytes);
    b.dropped = false;
    keep(what);
    f.sent = now_.now_seconds;
    f.asked = f.heard = ear_->listened;
    if (!in_flight() && others_.empty()) ear_->patience.begin(ear_->listened);
    ear_->patience.asked(*link_, now_.now_seconds);
    const std::string key = to_hex(exact(what.level) ? name.exact_key : name.key);
    for (std::uint64_t at = 0; at < f.bytes;) {
      const byte_range there = place(what.chunk, what.level, f.begin + at);
      const std::size_t n = std::size_t(std::min<std::uint64_t>({f.bytes - at, there.size(), options_.range_bytes}));
      f.pieces.push_back({source_->submit({key, there.begin, {bytes.get() + there.begin, n}}), n});
      at += n;
    }
    p.requested = std::int8_t(what.level);
    ++in_flight_;
    fetches_.push_back(std::move(f));
    if (fetches_.back().pieces.empty()) complete(fetches_.size() - 1);
    return true;
  }

  // Where byte `at` of what a chunk's levels take lies in its object, to where that goes on without a gap.
  byte_range place(int c, int level, std::uint64_t at) const noexcept {
    const std::vector<byte_range>& parts = names_[std::size_t(c)].parts;
    for (int l = 0; !exact(level) && l < int(parts.size()); ++l)
      if (at < cost().bytes(c, l))
        return {parts[std::size_t(l)].begin + (at - cost().bytes(c, l - 1)), parts[std::size_t(l)].end};
    return {at, UINT64_MAX};
  }
  // Bytes of an object, to the last of a level.
  std::size_t object_bytes(int c, int level) const noexcept {
    const stored_chunk& name = names_[std::size_t(c)];
    std::size_t end = name.head.size();
    for (const byte_range& r : name.parts) end = std::max(end, std::size_t(r.end));
    return exact(level) || name.parts.empty() ? std::size_t(cost().bytes(c, level)) : end;
  }

  void receive(double wait) {
    completion done[16];
    const std::size_t n = ear_->poll(*source_, clock_, *link_, done, wait, now_.now_seconds);
    for (std::size_t i = 0; i < n; ++i) take(done[i]);
    look_at_arrivals();
    if (in_flight()) ear_->patience.look(*link_, ear_->listened);
  }
  void look_at_arrivals() {
    for (fetch_state& f : fetches_)
      for (piece& p : f.pieces) {
        if (p.done) continue;
        const std::size_t bytes = source_->arrived(p.which);
        if (bytes > p.bytes) hear(f);
        p.bytes = bytes;
      }
  }
  // Something has come of a fetch. Its first byte tells of a round trip if nothing else came since it was asked for, and if
  // somebody listened.
  void hear(fetch_state& f) {
    if (f.received() == 0 && f.asked >= ear_->patience.heard_seconds() &&
        ear_->looked_at - f.sent <= 2 * (ear_->looked - f.asked) + 1e-3)
      link_->observe_round_trip(ear_->looked - f.asked);
    f.heard = ear_->listened;
    ear_->patience.heard(ear_->listened);
  }
  void take(const completion& done) {
    for (std::size_t i = 0; i < fetches_.size(); ++i)
      for (piece& p : fetches_[i].pieces) {
        if (p.which != done.which || p.done) continue;
        const bool answered = done.state != status::timed_out && done.state != status::connection_lost;
        if (answered || done.bytes > p.bytes) hear(fetches_[i]);
        p.bytes = done.bytes;
        p.done = true;
        if (done.state != status::ok) return fail(i, done.state, done.detail);
        for (const piece& other : fetches_[i].pieces)
          if (!other.done) return;
        return complete(i);
      }
  }
  // All bytes of a fetch are here.
  void complete(std::size_t i) {
    fetch_state& f = fetches_[i];
    f.whole = true;
    for (std::size_t k = i; k < fetches_.size(); ++k)
      fetches_[k].heard = ear_->listened;  // their turn has come only now
    ear_->meter.ended(*link_, f.bytes, f.sent, now_.now_seconds, cost().rates().latency_seconds);
    leave_link(f);
    const int c = f.what.chunk;
    chunk_progress& p = progress_[std::size_t(c)];
    bool more = false;
    for (std::size_t k = 0; k < fetches_.size();) {  // levels in order; one that came too early has waited for this one
      const fetch_state& g = fetches_[k];
      const bool next = g.whole && g.what.chunk == c && (exact(g.what.level) || g.from <= p.arrived);
      if (!next) {
        ++k;
        continue;
      }
      p.arrived = std::max(p.arrived, std::int8_t(g.what.level));
      more = true;
      fetches_.erase(fetches_.begin() + std::ptrdiff_t(k));
      k = 0;
    }
    if (more) enqueue(c);
  }
  void enqueue(int c) {
    if (std::find(to_decode_.begin(), to_decode_.end(), c) == to_decode_.end()) to_decode_.push_back(c);
  }
  void leave_link(const fetch_state& f) {
    report_.bytes += f.received();
    --in_flight_;
  }

  // A fetch has failed: levels that are whole are kept. The rest may be asked for again if it was for the link's sake, else
  // it is lost.
  void fail(std::size_t i, status why, const std::string& detail) {
    fetch_state& f = fetches_[i];
    stop(f);
    const step what = f.what;
    chunk_progress& p = progress_[std::size_t(what.chunk)];
    if (!exact(what.level) && f.from <= p.arrived)
      for (int level = f.from + 1; level < what.level; ++level)
        if (cost().bytes(what.chunk, level) <= f.begin + f.prefix() && level > p.arrived) {
          p.arrived = std::int8_t(level);
          enqueue(what.chunk);
        }
    if (why != status::connection_lost && why != status::timed_out) return lose(what.chunk, what.level, why, detail);
    ear_->patience.broke(f.asked, now_.now_seconds);
    if (failures_[std::size_t(what.chunk)]++ >= ear_->patience.retries())
      return lose(what.chunk, what.level, why, detail);
    note(what.chunk, what.level, action::fetch, why, detail);
    drop(what.chunk, p.arrived);
    p.requested = p.arrived;
  }
  // Whether this is a part of a chunk that can be computed while the rest stays. Units of layers are computed in whole, as the
  // engine goes from one to the next; chunks that are patched as well are not told apart.
  bool is_part(int c, const gap& missing) const noexcept {
    const chunk_cost& k = cost().chunk(c);
    const bool all = missing.tokens >= k.tokens && missing.depth >= 1;
    return missing && !all && k.layers == layer_range{} && !(cost().patch_seconds(c) > 0) &&
           missing.position >= k.position && missing.position + missing.tokens <= k.position + k.tokens;
  }
  // No more can be had of this chunk than is here.
  void lose(int c, int level, status why, const std::string& detail = {}) {
    note(c, level, action::fetch, why, detail);
    chunk_progress& p = progress_[std::size_t(c)];
    const bool damaged = why != status::degraded && p.arrived >= level;
    if (damaged) p.arrived = p.ready;  // its bytes are here, but no good
    drop(c, p.arrived);
    p.requested = p.arrived;
    p.lost = true;
    if (p.ready < 0 && p.arrived < 0) report_.chunks[std::size_t(c)].state = why;
    if (p.arrived <= p.ready) release(c);
  }
  // Cancels what is in flight of a chunk.
  void drop(int c, int arrived) {
    for (std::size_t i = fetches_.size(); i-- > 0;)
      if (fetches_[i].what.chunk == c) {
        stop(fetches_[i]);
        if (!fetches_[i].whole) leave_link(fetches_[i]);
        const fetch_state& f = fetches_[i];
        const std::uint64_t kept = exact(f.what.level) ? 0 : cost().bytes(c, arrived);
        const std::size_t freed =
            std::size_t(f.bytes - std::clamp<std::uint64_t>(kept, f.begin, f.begin + f.bytes) + f.begin);
        buffers_[std::size_t(c)].used -= freed;
        used_ -= freed;
        for (std::size_t k = i + 1; k < fetches_.size(); ++k) fetches_[k].heard = std::max(fetches_[k].heard, f.heard);
        fetches_.erase(fetches_.begin() + std::ptrdiff_t(i));
      }
    if (arrived < 0) std::erase(to_decode_, c);
  }
  void stop(fetch_state& f) {
    for (piece& p : f.pieces)
      if (!p.done) {
        p.bytes = source_->cancel(p.which);
        p.done = true;
      }
  }

  // --- decoding ---

  job next_decode() {
    if (done_ || decoding_) return {};
    for (std::size_t i = 0; i < to_decode_.size();) {
      const int c = to_decode_[i];
      const chunk_progress& p = progress_[std::size_t(c)];
      // A refinement that would not be done by the deadline is left alone: no page is half written when that comes.
      const double seconds = decode_seconds(c), end = now_.now_seconds + seconds + cost().patch_again_seconds(c);
      if (p.computed || p.arrived <= p.ready || (p.ready >= 0 && end > now_.deadline_seconds)) {
        to_decode_.erase(to_decode_.begin() + std::ptrdiff_t(i));
        continue;
      }
      if (touches(cost(), out_, c)) {  // the engine writes it, or may read it
        ++i;
        continue;
      }
      to_decode_.erase(to_decode_.begin() + std::ptrdiff_t(i));
      const int level = p.arrived;
      const std::span<const std::byte> object{buffers_[std::size_t(c)].bytes[exact(level)].get(),
                                              object_bytes(c, level)};
      const sluice::result<std::span<const std::byte>> frame = check(c, level, object);
      if (!frame) {
        lose(c, level, frame.status());
        decide();
        i = 0;
        continue;
      }
      decoding_ = {c, cost().all_layers(), action::fetch, level};
      decoding_level_ = level;
      decode_until_ = now_.now_seconds + seconds;
      return {decoding_, *frame};
    }
    return {};
  }
  // Is this the object that was asked for? Its tiles are checked as they are decoded.
  sluice::result<std::span<const std::byte>> check(int c, int level, std::span<const std::byte> object) const {
    const stored_chunk& name = names_[std::size_t(c)];
    const sluice::result<std::span<const std::byte>> frame =
        open_object(object, exact(level) ? name.exact_key : name.key);
    if (!frame) return frame;
    frame_header h;
    if (frame->size() < sizeof h) return status::truncated;
    std::memcpy(&h, frame->data(), sizeof h);
    if (h.magic != frame_magic) return status::not_a_frame;
    if (h.position != (name.position < 0 ? cost().chunk(c).position : name.position) ||
        h.tokens != std::uint32_t(cost().chunk(c).tokens))
      return status::wrong_positions;
    return frame;
  }

  // --- memory, the end ---

  bool make_room(int chunk, std::uint64_t bytes) {
    if (used_ + bytes <= options_.memory_bytes) return true;
    release_idle(chunk, bytes);
    return used_ + bytes <= options_.memory_bytes ||
           (used_ == buffers_[std::size_t(chunk)].used && !in_flight() && others_.empty());
  }
  // Drops what waits for refinements, but of one chunk, until there is room for so many bytes.
  void release_idle(int but = -1, std::uint64_t bytes = SIZE_MAX / 2) {
    for (std::size_t c = 0; c < buffers_.size() && used_ + bytes > options_.memory_bytes; ++c) {
      const chunk_progress& p = progress_[c];
      if (int(c) != but && buffers_[c].used && p.requested == p.ready && decoding_.chunk != int(c)) release(int(c));
    }
  }
  void release(int c) {
    buffer& b = buffers_[std::size_t(c)];
    if (decoding_ && decoding_.chunk == c) return;
    used_ -= b.used;
    b = {};
    b.dropped = true;
  }
  void drop_all() {
    for (fetch_state& f : fetches_) {
      stop(f);
      if (!f.whole) leave_link(f);
    }
    fetches_.clear();
  }
  void finish(status outcome) {
    done_ = true;
    drop_all();
    to_decode_.clear();
    if (next_compute_) {  // never handed out
      next_compute_ = out_ = {};
      now_.computing = -1;
    }
    report_.outcome = outcome;
  }
  void sum_up() {
    report_.seconds = clock_() - now_.start_seconds;
    report_.met = report_.outcome == status::ok && now_.start_seconds + report_.usable_seconds <= now_.deadline_seconds;
    for (std::size_t c = 0; c < progress_.size(); ++c) {
      report_.chunks[c].level = progress_[c].ready;
      report_.chunks[c].computed = progress_[c].computed;
    }
  }

  const planner<Policy>* plan_;
  Source* source_;
  std::span<const stored_chunk> names_;
  link_history* link_;
  executor_options options_;
  Clock clock_;
  std::vector<chunk_progress> progress_;
  std::vector<buffer> buffers_;
  std::vector<fetch_state> fetches_;  // in the order of sending
  std::deque<int> to_decode_;
  std::vector<int> failures_;  // by chunk, for the link's sake
  struct damage {
    std::int8_t level = -1;
    bool degraded = false;
  };
  std::vector<damage> damaged_;  // by chunk: what it will be when its missing part has been computed
  request_progress now_;
  report report_;
  sluice::detail::listening own_, *ear_;  // ear_: what it listens with, its own or a group's
  step decoding_, out_, next_compute_;    // out_: with the engine, or about to be
  int decoding_level_ = -1;
  double decode_until_ = 0, compute_until_ = 0;
  int in_flight_ = 0;  // fetches that are not whole, late ones too
  std::size_t used_ = 0;
  bool done_ = false;
  std::span<const std::pair<double, double>> others_;  // in a group: when each fetch was asked for, and heard of
};

}  // namespace sluice::stream
