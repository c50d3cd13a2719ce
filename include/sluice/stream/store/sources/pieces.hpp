// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/stream/plan/placement.hpp>
#include <sluice/stream/store/sources/any.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace sluice::stream {

/// A tier of a tiered_source: a source that belongs to it alone, and what it holds and costs.
template <tier_source Source = any_source>
struct tier {
  Source* source = nullptr;  ///< borrowed
  storage_tier facts{};      ///< see storage_tier
};

/// Names of an object's pieces in the tiers of a tiered_source. The first, which holds envelope, header, index and base pass, has
/// the object's own name. Those of later passes add the checksum of its header, which covers every tile: pieces of two
/// contents of one key never mix.
struct piece_name {
  /// Of pass `p`; `h` is the header as it was put.
  static std::string make(std::string_view key, const frame_header& h, int p) {
    std::string name(key);
    if (p == 0) return name;
    char tail[16];
    std::snprintf(tail, sizeof tail, ".%08x.%d", unsigned(h.header_checksum), p);
    return name += tail;
  }
  /// Whether a name is that of a later pass.
  static bool of(std::string_view name) noexcept {
    constexpr std::size_t tail = 11;  // .0123abcd.1
    if (name.size() <= tail) return false;
    name.remove_prefix(name.size() - tail);
    if (name[0] != '.' || name[9] != '.' || name[10] < '1' || name[10] > '9') return false;
    return name.substr(1, 8).find_first_not_of("0123456789abcdef") == name.npos;
  }
};

/// What was found in tiers, and what of it nobody needs.
class found_pieces {
 public:
  /// All names, tier by tier, the fastest first.
  explicit found_pieces(const std::vector<std::vector<std::string>>& names) : unused_(names.size()) {
    for (std::size_t t = 0; t < names.size(); ++t)
      for (const std::string& name : names[t]) {
        unused_[t].insert(name);
        if (!piece_name::of(name)) objects_[name].push_back(t);
      }
  }
  /// Objects by key, and the tiers that have their first piece.
  const std::map<std::string, std::vector<std::size_t>>& objects() const noexcept { return objects_; }
  /// Whether a tier has it, and nobody uses it.
  bool has(std::size_t t, const std::string& name) const { return unused_[t].contains(name); }
  /// It is needed.
  void use(std::size_t t, const std::string& name) { unused_[t].erase(name); }
  /// The rest.
  std::vector<std::pair<std::size_t, std::string>> unused() const {
    std::vector<std::pair<std::size_t, std::string>> all;
    for (std::size_t t = 0; t < unused_.size(); ++t)
      for (const std::string& name : unused_[t]) all.emplace_back(t, name);
    return all;
  }

 private:
  std::map<std::string, std::vector<std::size_t>> objects_;
  std::vector<std::set<std::string>> unused_;
};

}  // namespace sluice::stream

namespace sluice::detail {

// Tiers as they are now: what lies there, which of them answer, and what is still to be erased where one did not.
template <class Source, class Clock>
class tiers_of_pieces {
 public:
  tiers_of_pieces(const std::vector<stream::tier<Source>>& tiers, double down_seconds, Clock clock)
      : down_seconds_(down_seconds), clock_(clock) {
    for (const stream::tier<Source>& t : tiers) tiers_.push_back({t.source, t.facts.capacity_bytes});
  }
  std::size_t size() const noexcept { return tiers_.size(); }
  Source& source(std::size_t t) const noexcept { return *tiers_[t].source; }
  double& used(std::size_t t) noexcept { return tiers_[t].used; }
  double used(std::size_t t) const noexcept { return tiers_[t].used; }
  double room(std::size_t t) const noexcept { return tiers_[t].capacity - tiers_[t].used; }

  bool is_up(std::size_t t) const { return clock_() >= tiers_[t].down_until; }
  // Whatever is not about one piece is about the tier.
  void failed(std::size_t t, status why) {
    for (const status s :
         {status::not_found, status::wrong_length, status::no_space, status::too_large, status::invalid_argument})
      if (why == s) return;
    tiers_[t].down_until = clock_() + down_seconds_;
  }

  status write(std::size_t t, const std::string& name, std::span<const std::byte> bytes, std::string& words) {
    if (!is_up(t)) return status::connection_lost;
    if (const status s = source(t).put(name, bytes); s != status::ok) {
      words = source(t).detail();
      failed(t, s);
      return s;
    }
    std::erase_if(leftovers_, [&](const leftover& l) {
      const bool same = l.tier == t && l.name == name;
      if (same) tiers_[t].used -= l.bytes;
      return same;
    });
    tiers_[t].used += double(bytes.size());
    return status::ok;
  }
  // What cannot be erased now is erased when its tier answers again.
  void erase(std::size_t t, const std::string& name, double bytes = 0) {
    if (is_up(t) && gone(t, name))
      tiers_[t].used -= bytes;
    else
      leftovers_.push_back({t, name, bytes});
  }
  void erase_leftovers() {
    std::erase_if(leftovers_, [&](const leftover& l) {
      const bool now = is_up(l.tier) && gone(l.tier, l.name);
      if (now) tiers_[l.tier].used -= l.bytes;
      return now;
    });
  }

 private:
  struct real_tier {
    Source* source;
    double capacity, used = 0, down_until = 0;
  };
  struct leftover {
    std::size_t tier;
    std::string name;
    double bytes;
  };
  bool gone(std::size_t t, const std::string& name) {
    const status s = source(t).erase(name);
    if (s != status::ok && s != status::not_found) failed(t, s);
    return s == status::ok || s == status::not_found;
  }

  std::vector<real_tier> tiers_;
  std::vector<leftover> leftovers_;
  double down_seconds_;
  Clock clock_;
};

}  // namespace sluice::detail
