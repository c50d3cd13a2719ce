// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/placement.hpp>
#include <sluice/stream/plan/placement_policies.hpp>
#include <sluice/stream/store/levels.hpp>
#include <sluice/stream/store/sources/any.hpp>
#include <sluice/stream/store/sources/pieces.hpp>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace sluice::stream {

/// What a tiered_source weighs, and how patient it is.
struct tiered_options {
  placement_options placement{};    ///< see placement_options
  object_worth worth{};             ///< of what is put
  double same_request_seconds = 1;  ///< reads of an object within so long count as one request
  double down_seconds = 5;          ///< a tier that failed for the link's sake is not asked for so long
  double silent_seconds = 10;       ///< without a byte, and the read of a move has failed
};

/// Tiers of real sources as one source, run by a placement policy: put() and reads are its accesses, and what it decides is
/// carried out. Each pass of a frame is a piece of its own (pieces.hpp), so levels leave a tier without anything being written
/// anew, and passes of one object may lie on several tiers, a later one never on a faster tier. Readers see one object, cut to
/// the levels that are there: its header says so, as if it had been truncated.
/// - What does not fit moves or goes at once in put(), and in settle(), where reads have made something worth moving. Reads are
///   never held up by moves; objects with reads in flight wait. A piece that moves lies on both tiers meanwhile; other than that no
///   tier holds more than its capacity.
/// - A piece is written to its new place before the old one goes, coarse ones before fine ones: a process that dies leaves every
///   object whole or coarser, and open() finds it again.
/// - A tier that fails is a miss: what lies on it is not there until it answers again. What one has lost is forgotten with
///   everything above it.
template <placement_policy Policy = placement_policies::truncating, tier_source Source = any_source,
          class Clock = steady_clock_seconds>
class tiered_source {
 public:
  /// The fastest tier first. Nothing else may write to them. Forgets nothing that lies there: see open().
  explicit tiered_source(std::vector<tier<Source>> tiers, const tiered_options& options = {}, Policy policy = {},
                         Clock clock = {})
      : options_(options),
        clock_(clock),
        tiers_(tiers, options.down_seconds, clock),
        placement_(facts(tiers), options.placement, std::move(policy)) {}
  tiered_source(const tiered_source&) = delete;
  tiered_source& operator=(const tiered_source&) = delete;
  ~tiered_source() {
    for (read& r : reads_) stop(r);
  }

  /// Finds what lies in the tiers, before anything else is asked; waits. Pieces of nothing are erased. Errors: the first of a tier
  /// whose objects cannot be listed; they are not there then, and open() may be called again.
  status open() {
    std::vector<std::vector<std::string>> names(tiers_.size());
    status worst = status::ok;
    for (std::size_t t = 0; t < tiers_.size(); ++t) {
      result<std::vector<std::string>> keys = tiers_.source(t).keys();
      if (keys) {
        names[t] = *std::move(keys);
      } else {
        detail_ = tiers_.source(t).detail();
        tiers_.failed(t, keys.status());
        if (worst == status::ok) worst = keys.status();
      }
    }
    const std::string why = detail_;
    found_pieces found(names);
    for (const auto& [id, o] : objects_)
      for (std::size_t p = 0; p < o.item.bytes.size(); ++p)
        if (o.at[p] >= 0) found.use(std::size_t(o.at[p]), piece_name::make(o.key, o.header, int(p)));
    for (const auto& [key, places] : found.objects())
      if (!ids_.contains(key)) find_again(key, places, found);
    for (const auto& [t, name] : found.unused()) tiers_.erase(t, name);
    settle();
    detail_ = why;
    return worst;
  }

  /// Of the levels that can be read now.
  result<std::uint64_t> size(std::string_view key) {
    detail_.clear();
    const object* o = find(key);
    const int n = o ? visible(*o) : 0;
    if (n > 0) return o->item.bytes[std::size_t(n) - 1];
    if (o) detail_ = "it lies on a tier that does not answer";
    return status::not_found;
  }

  /// Errors: no_space where the policy keeps none of it or no tier has room; invalid_argument for names that pieces have. What
  /// was there before under another content is gone then.
  status put(std::string_view key, std::span<const std::byte> bytes) {
    detail_.clear();
    if (piece_name::of(key)) return detail_ = "pieces of objects have such names", status::invalid_argument;
    object_levels levels = levels_of(bytes, bytes.size(), options_.worth);
    if (levels.item.bytes.size() > kept_chunk::max_levels)
      levels = {{{bytes.size()}, {0}, levels.item.recompute_seconds, 0}, {}};
    object* o = find(key);
    if (o && (o->header.header_checksum != levels.header.header_checksum || o->item.bytes != levels.item.bytes ||
              !o->header.magic)) {
      lose(o->id, 0);
      o = nullptr;
    }
    if (!o) {
      const std::int64_t id = ++last_id_;
      o = &objects_[id];
      ids_[std::string(key)] = id;
      o->id = id;
      o->key = key;
      o->item = levels.item;
      o->header = levels.header;
      o->at.fill(-1);
    }
    const std::int64_t id = o->id;
    o->asked = clock_();
    o->looked_at = int(o->item.bytes.size());
    if (const status s = placement_.keep(id, o->item, o->asked); s != status::ok) return s;
    ++o->reads;  // whatever moves now is others'
    settle();
    if (!objects_.contains(id)) return put(key, bytes);  // a read of it that had been under way found it gone
    status why = status::no_space;
    for (std::size_t p = 0; p < o->item.bytes.size(); ++p) {
      const int to = wanted(id, p);
      if (to < 0 || o->at[p] >= 0) {
        if (to < 0) break;
        continue;  // it is there already, and moves like any other
      }
      why = write_somewhere(*o, p, to, piece_of(bytes, *o, p));
      if (why != status::ok) break;
    }
    --o->reads;
    const bool kept = o->at[0] >= 0;
    settle();
    return kept ? status::ok : why;
  }

  std::string_view detail() const noexcept { return detail_; }

  ticket submit(const read_request& request) {
    reads_.push_back({++last_, 0, request.offset, request.buffer});
    read& r = reads_.back();
    object* o = find(request.key);
    if (!o || visible(*o) == 0) {
      ended_.push({r.which, status::not_found, 0, o ? "it lies on a tier that does not answer" : ""});
      reads_.pop_back();
      return last_;
    }
    r.object = o->id;
    r.levels = visible(*o);
    r.header = o->header;
    r.cut = r.levels < int(o->item.bytes.size());
    ++o->reads;
    std::uint64_t at = request.offset;
    const std::uint64_t end = request.offset + request.buffer.size();
    int whole = 0;
    for (int p = 0; p < r.levels; ++p) {
      const std::uint64_t first = begin_of(*o, p), last = o->item.bytes[std::size_t(p)];
      if (end >= last) whole = p + 1;
      if (at >= last || at >= end) continue;
      const std::size_t n = std::size_t(std::min(end, last) - at);
      part x{p, o->at[std::size_t(p)], 0, n};
      const std::string name = piece_name::make(o->key, o->header, p);
      x.which = source(x.tier).submit({name, at - first, request.buffer.subspan(std::size_t(at - request.offset), n)});
      r.parts.push_back(std::move(x));
      at += n;
    }
    r.open = r.parts.size();
    r.missing = std::size_t(end > at ? end - at : 0);
    look(*o, whole);
    if (r.open == 0) finish(reads_.size() - 1);
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
        read& r = reads_[i];
        stop(r);
        const std::size_t bytes = here(r);
        say_levels(r, bytes);
        forget(i);
        return bytes;
      }
    return ended_.cancel(t);
  }
  std::size_t poll(std::span<completion> done, double seconds) {
    return ended_.poll(done, seconds, detail_, reads_, clock_,
                       [&](double until) { listen(std::max(until - clock_(), 0.0)); });
  }

  /// Carries out what has been decided since, but for objects with reads in flight; waits.
  void settle() {
    tiers_.erase_leftovers();
    for (std::vector<std::int64_t> more; more = placement_.changed(), !more.empty();) {
      changed_.insert(changed_.end(), more.begin(), more.end());
      std::sort(changed_.begin(), changed_.end());
      changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
      carry_out();
    }
    if (!changed_.empty()) carry_out();
  }

  /// How many levels of an object can be read.
  int levels(std::string_view key) {
    const object* o = find(key);
    return o ? visible(*o) : 0;
  }
  /// The tier that a level lies on, -1 = on none.
  int tier_of(std::string_view key, int level) {
    const object* o = find(key);
    return o && level >= 0 && level < int(o->item.bytes.size()) ? o->at[std::size_t(level)] : -1;
  }
  /// The level that a request should read, by what the policy's costs say: -1 = it had better be computed.
  int best_level(std::string_view key) {
    const object* o = find(key);
    int n = 0;
    if (const kept_chunk* c = o ? placement_.find(o->id) : nullptr) {
      placement_.state().cost_seconds(*c, c->tier, &n);
      n = std::min(n, visible(*o));
    }
    return n - 1;
  }
  /// Bytes that lie on a tier.
  double used_bytes(int t) const noexcept { return tiers_.used(std::size_t(t)); }
  /// What was decided.
  const placement_moves& moves() const noexcept { return placement_.moves(); }

 private:
  static constexpr double slice_seconds = 0.001;  // of waiting for one tier while others may answer

  struct object {
    std::int64_t id = 0;
    std::string key;
    placed_item item;
    frame_header header{};
    kept_chunk::tier_of_pass at{};  // where it lies, which is not yet where it is to lie
    int reads = 0;                  // in flight
    double asked = -1e300;          // when the request that reads it began
    int looked_at = 0;              // passes that this has read
  };
  struct part {
    int pass;
    int tier;
    ticket which;  // 0: not in flight any more
    std::size_t size, bytes = 0;
    status state = status::ok;
    std::string detail{};
  };
  struct read {
    ticket which;
    std::int64_t object;
    std::uint64_t offset;
    std::span<std::byte> buffer;
    int levels = 0;
    bool cut = false;
    frame_header header{};
    std::vector<part> parts{};
    std::size_t open = 0, missing = 0;
  };
  struct move {
    std::int64_t id;
    int pass, to;
  };
  static std::vector<storage_tier> facts(const std::vector<tier<Source>>& tiers) {
    std::vector<storage_tier> all;
    for (const tier<Source>& t : tiers) all.push_back(t.facts);
    return all;
  }
  Source& source(int t) { return tiers_.source(std::size_t(t)); }
  object* find(std::string_view key) {
    const auto id = ids_.find(std::string(key));
    return id == ids_.end() ? nullptr : &objects_.at(id->second);
  }
  static std::uint64_t begin_of(const object& o, int p) { return p ? o.item.bytes[std::size_t(p) - 1] : 0; }
  static std::size_t size_of(const object& o, std::size_t p) {
    return std::size_t(o.item.bytes[p] - begin_of(o, int(p)));
  }
  static std::span<const std::byte> piece_of(std::span<const std::byte> bytes, const object& o, std::size_t p) {
    return bytes.subspan(std::size_t(begin_of(o, int(p))), size_of(o, p));
  }
  // Passes without a gap whose tiers answer.
  int visible(const object& o) {
    int n = 0;
    while (n < int(o.item.bytes.size()) && o.at[std::size_t(n)] >= 0 && tiers_.is_up(std::size_t(o.at[std::size_t(n)])))
      ++n;
    return n;
  }
  int wanted(std::int64_t id, std::size_t p) const {
    const kept_chunk* c = placement_.find(id);
    return c && int(p) < c->passes() ? c->tier[p] : -1;
  }
  // Reads that follow each other are one request.
  void look(object& o, int passes) {
    const double now = clock_();
    const bool again = now - o.asked < options_.same_request_seconds;
    if (!again) o.looked_at = 0;
    if (again && passes <= o.looked_at) return;
    if (!again) o.asked = now;
    o.looked_at = std::max(o.looked_at, passes);
    placement_.use(o.id, passes, now, again);
  }

  // --- reading ---

  void listen(double left) {
    std::vector<std::size_t> owing;
    for (std::size_t t = 0; t < tiers_.size(); ++t)
      if (std::any_of(reads_.begin(), reads_.end(), [&](const read& r) {
            return std::any_of(r.parts.begin(), r.parts.end(),
                               [&](const part& x) { return x.which && x.tier == int(t); });
          }))
        owing.push_back(t);
    ++turn_;
    for (std::size_t i = 0; i < owing.size(); ++i) {
      const bool waits = ended_.empty() && i == turn_ % owing.size();
      completion done[16];
      const std::size_t n = tiers_.source(owing[i]).poll(done, !waits             ? 0
                                                               : owing.size() > 1 ? std::min(left, slice_seconds)
                                                                                  : left);
      for (std::size_t k = 0; k < n; ++k) part_ended(owing[i], done[k]);
    }
  }
  void part_ended(std::size_t t, const completion& c) {
    for (std::size_t i = 0; i < reads_.size(); ++i)
      for (part& x : reads_[i].parts) {
        if (x.which != c.which || x.tier != int(t)) continue;
        x.which = 0;
        x.bytes = c.bytes;
        x.state = c.state;
        x.detail = c.detail;
        if (c.state != status::ok) tiers_.failed(t, c.state);
        if (--reads_[i].open == 0) finish(i);
        return;
      }
  }
  // All parts have ended. What a tier has not any more is forgotten.
  void finish(std::size_t i) {
    read& r = reads_[i];
    completion c{r.which, status::ok, here(r)};
    int lost = -1;
    for (const part& x : r.parts) {
      if (x.state == status::ok) continue;
      c.state = x.state;
      c.detail = x.detail;
      if (x.state == status::not_found || x.state == status::wrong_length) lost = x.pass;
      if (x.state == status::not_found && x.pass > 0) c.state = status::wrong_length;
      break;
    }
    if (c.state == status::ok && r.missing > 0) {
      c.state = status::wrong_length;
      c.detail = "the object ends " + std::to_string(r.missing) + " bytes too early";
    }
    say_levels(r, c.bytes);
    ended_.push(std::move(c));
    const std::int64_t id = r.object;
    forget(i);
    if (lost >= 0) lose(id, std::size_t(lost));
  }
  void forget(std::size_t i) {
    if (const auto o = objects_.find(reads_[i].object); o != objects_.end()) --o->second.reads;
    reads_.erase(reads_.begin() + std::ptrdiff_t(i));
  }
  void stop(read& r) {
    for (part& x : r.parts)
      if (x.which) x.bytes = source(x.tier).cancel(std::exchange(x.which, 0));
  }
  std::size_t here(const read& r) {
    std::size_t n = 0;
    for (const part& x : r.parts) {
      const std::size_t bytes = x.which ? source(x.tier).arrived(x.which) : x.bytes;
      n += bytes;
      if (bytes < x.size) break;
    }
    return n;
  }
  // The header of an object that lacks levels says so, as far as it was read.
  static void say_levels(const read& r, std::size_t bytes) {
    if (!r.cut || !r.header.magic) return;
    frame_header h = r.header;
    h.levels_present = std::uint8_t(r.levels);
    h.header_checksum = header_checksum(h);
    const std::uint64_t at = sizeof(object_header), end = at + sizeof h;
    const std::uint64_t from = std::max(r.offset, at), to = std::min(r.offset + bytes, end);
    if (from >= to) return;
    std::memcpy(r.buffer.data() + (from - r.offset), reinterpret_cast<const std::byte*>(&h) + (from - at),
                std::size_t(to - from));
  }

  // --- moving ---

  void carry_out() {
    std::vector<std::int64_t> later;
    std::vector<move> moves;
    for (const std::int64_t id : std::exchange(changed_, {})) {
      const auto found = objects_.find(id);
      if (found == objects_.end()) continue;
      object& o = found->second;
      if (o.reads > 0) {
        later.push_back(id);
        continue;
      }
      for (std::size_t p = o.item.bytes.size(); p-- > 0;) {
        const int to = wanted(id, p);
        if (to < 0 && o.at[p] >= 0) erase_piece(o, p);
        if (to >= 0 && o.at[p] >= 0 && o.at[p] != to) moves.push_back({id, int(p), to});
      }
      if (o.at[0] < 0) forget_object(id);
    }
    // What there is most room for comes first, so that what lies on two tiers at once is little.
    while (!moves.empty()) {
      auto next = moves.end();
      double most = 0;
      for (auto m = moves.begin(); m != moves.end(); ++m) {
        const auto o = objects_.find(m->id);
        if (o != objects_.end() && !in_order(o->second, *m)) continue;
        const double bytes = o == objects_.end() ? 0 : double(size_of(o->second, std::size_t(m->pass)));
        if (const double room = tiers_.room(std::size_t(m->to)) - bytes; next == moves.end() || room > most) {
          most = room;
          next = m;
        }
        if (most >= 0) break;
      }
      if (next == moves.end()) break;
      const move m = *next;
      moves.erase(next);
      if (const auto o = objects_.find(m.id); o != objects_.end()) carry(o->second, m);
    }
    changed_.insert(changed_.end(), later.begin(), later.end());
  }
  // A later pass is never on a faster tier.
  static bool in_order(const object& o, const move& m) {
    const std::size_t p = std::size_t(m.pass);
    return (p == 0 || o.at[p - 1] <= m.to) && (p + 1 >= o.item.bytes.size() || o.at[p + 1] < 0 || o.at[p + 1] >= m.to);
  }
  // One piece from one tier to another. What cannot come up stays; what cannot go down is gone.
  void carry(object& o, const move& m) {
    const std::size_t p = std::size_t(m.pass);
    const int from = o.at[p];
    if (from < 0 || from == m.to || wanted(o.id, p) != m.to) return;  // meanwhile that was corrected
    const std::int64_t id = o.id;
    std::vector<std::byte> bytes(size_of(o, p));
    status s = tiers_.is_up(std::size_t(from)) ? status::ok : status::connection_lost;
    if (s == status::ok) s = fetch(std::size_t(from), piece_name::make(o.key, o.header, int(p)), bytes);
    if (s == status::ok) {
      const std::string old = piece_name::make(o.key, o.header, int(p));
      s = write_piece(o, p, std::size_t(m.to), bytes);
      if (s == status::ok) return tiers_.erase(std::size_t(from), old, double(bytes.size()));
    }
    if (m.to < from && s != status::not_found && s != status::wrong_length)
      return placement_.correct(id, int(p), from, clock_());
    lose(id, p);
  }
  // A read beside those of callers, whose ends are kept for them.
  status fetch(std::size_t t, const std::string& name, std::span<std::byte> to) {
    Source& s = tiers_.source(t);
    const ticket mine = s.submit({name, 0, to});
    std::size_t bytes = 0;
    for (double until = clock_() + options_.silent_seconds;;) {
      completion done;
      if (s.poll({&done, 1}, std::clamp(until - clock_(), 0.0, 1.0))) {
        if (done.which != mine) {
          part_ended(t, done);
          continue;
        }
        if (done.state != status::ok) tiers_.failed(t, done.state);
        return done.state;
      }
      if (const std::size_t n = s.arrived(mine); n != bytes) {
        bytes = n;
        until = clock_() + options_.silent_seconds;
      } else if (clock_() >= until) {
        s.cancel(mine);
        tiers_.failed(t, status::timed_out);
        return status::timed_out;
      }
    }
  }
  status write_piece(object& o, std::size_t p, std::size_t t, std::span<const std::byte> bytes) {
    const status s = tiers_.write(t, piece_name::make(o.key, o.header, int(p)), bytes, detail_);
    if (s == status::ok) o.at[p] = std::int8_t(t);
    return s;
  }
  // On that tier, or where it fails on the next slower one that has room.
  status write_somewhere(object& o, std::size_t p, int to, std::span<const std::byte> bytes) {
    status first = status::ok;
    for (std::size_t t = std::size_t(to); t < tiers_.size(); ++t) {
      if (t != std::size_t(to) && tiers_.room(t) < double(bytes.size())) continue;
      const status s = write_piece(o, p, t, bytes);
      if (first == status::ok) first = s;
      if (s != status::ok) continue;
      if (t != std::size_t(to)) placement_.correct(o.id, int(p), int(t), clock_());
      return status::ok;
    }
    placement_.correct(o.id, int(p), -1, clock_());
    return first;
  }

  // --- losing ---

  void erase_piece(object& o, std::size_t p) {
    tiers_.erase(std::size_t(o.at[p]), piece_name::make(o.key, o.header, int(p)), double(size_of(o, p)));
    o.at[p] = -1;
  }
  void lose(std::int64_t id, std::size_t first) {
    const auto found = objects_.find(id);
    if (found == objects_.end()) return;
    for (std::size_t p = found->second.item.bytes.size(); p-- > first;)
      if (found->second.at[p] >= 0) erase_piece(found->second, p);
    placement_.correct(id, int(first), -1, clock_());
    if (first == 0) forget_object(id);
  }
  void forget_object(std::int64_t id) {
    const auto found = objects_.find(id);
    ids_.erase(found->second.key);
    objects_.erase(found);
  }

  // --- finding again ---

  // The first piece is taken from the fastest tier that has it, later ones as they follow.
  void find_again(const std::string& key, const std::vector<std::size_t>& places, found_pieces& found) {
    for (const std::size_t t : places) {
      object o;
      o.key = key;
      o.at.fill(-1);
      if (!read_front(t, o)) continue;
      found.use(t, key);
      o.at[0] = std::int8_t(t);
      tiers_.used(t) += double(size_of(o, 0));
      for (std::size_t p = 1; p < o.item.bytes.size(); ++p) {
        const std::string name = piece_name::make(key, o.header, int(p));
        for (std::size_t at = std::size_t(o.at[p - 1]); at < tiers_.size() && o.at[p] < 0; ++at)
          if (found.has(at, name)) {
            const result<std::uint64_t> size = tiers_.source(at).size(name);
            if (!size || *size != size_of(o, p)) continue;
            found.use(at, name);
            o.at[p] = std::int8_t(at);
            tiers_.used(at) += double(size_of(o, p));
          }
        if (o.at[p] < 0) break;
      }
      o.id = ++last_id_;
      ids_[key] = o.id;
      const object& kept = objects_[o.id] = std::move(o);
      if (placement_.find_again(kept.id, kept.item, kept.at, clock_()) != status::ok) lose(kept.id, 0);
      return;
    }
  }
  // What the first piece says of an object; it holds all of one that is no frame.
  bool read_front(std::size_t t, object& o) {
    Source& s = tiers_.source(t);
    const result<std::uint64_t> size = s.size(o.key);
    if (!size) return false;
    o.item = {{*size}, {0}, options_.worth.other_seconds, 0};
    std::vector<std::byte> front(std::min<std::size_t>(*size, sizeof(object_header) + sizeof(frame_header)));
    if (!front.empty() && fetch(t, o.key, front) != status::ok) return false;
    const std::size_t whole = front_bytes(front);
    if (whole == 0 || whole > *size) return true;
    front.resize(whole);
    if (fetch(t, o.key, front) != status::ok) return false;
    frame_index index;
    const auto frame = std::span(front).subspan(sizeof(object_header));
    if (index.parse(frame) != status::ok) return true;
    object_levels levels = levels_of(front, sizeof(object_header) + index.size(), options_.worth);
    if (!levels.header.magic || levels.item.bytes.size() > kept_chunk::max_levels || levels.item.bytes[0] != *size)
      return true;
    o.item = std::move(levels.item);
    o.header = levels.header;
    return true;
  }

  tiered_options options_;
  Clock clock_;
  sluice::detail::tiers_of_pieces<Source, Clock> tiers_;
  placement<Policy> placement_;
  std::unordered_map<std::string, std::int64_t> ids_;
  std::unordered_map<std::int64_t, object> objects_;
  std::vector<std::int64_t> changed_;  // whose places are not yet what was decided
  std::vector<read> reads_;
  sluice::detail::ended_reads ended_;
  std::string detail_;
  std::size_t turn_ = 0;
  std::int64_t last_id_ = 0;
  ticket last_ = 0;
};

}  // namespace sluice::stream
