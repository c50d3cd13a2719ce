// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>
#include <sluice/stream/store/sources/any.hpp>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace engine {

/// Any source behind one type, so that the commands are compiled once.
using store = sluice::stream::any_source;
using sluice::stream::source_of;

/// Where a command keeps its chunks: in one store, in one with a second behind it, or in tiers.
struct store_options {
  std::string store;               ///< a URL
  std::string second;              ///< of a store of the same objects: what is late at the first is asked of it
  std::vector<std::string> tiers;  ///< instead: URL,BYTES with K, M or G behind the number, the fastest first
};

/// Opens it and returns f(store); with `create`, what holds the objects is made where it is missing.
/// Errors: throws what with_store() of store_url.hpp throws, usage_error where what is named is not one of the three, and a
/// data_error where nothing can be made or a store cannot be a tier.
int open_store(const store_options& where, bool create, const std::function<int(store&)>& f);

/// What went wrong, as a person is told: the status and the store's own words, where it has some.
inline std::string in_words(sluice::status s, std::string_view detail) {
  return detail.empty() ? to_string(s) : to_string(s) + (": " + std::string(detail));
}

/// A read that may end early: what it got, and why it is not more.
struct piece {
  std::string_view key;
  std::uint64_t offset = 0;
  std::size_t most = 0;
  std::vector<std::byte> bytes{};
  sluice::status state = sluice::status::timed_out;
  std::string detail{};
};

/// How long reads may take: in all, and without a byte of any of them.
struct patience {
  double seconds = std::numeric_limits<double>::infinity();
  double silent_seconds = 30;
};

/// Reads all pieces at once. An object that ends before a piece does is no error; a piece that has not come in time keeps
/// what came of it, with status::timed_out.
inline void read_all(store& from, std::span<piece> pieces, const patience& wait = {}) {
  using clock = std::chrono::steady_clock;
  const auto since = [](clock::time_point t) { return std::chrono::duration<double>(clock::now() - t).count(); };
  std::vector<sluice::stream::ticket> tickets;
  for (piece& p : pieces) {
    p.bytes.resize(p.most);
    tickets.push_back(from.submit({p.key, p.offset, p.bytes}));
  }
  const clock::time_point begin = clock::now();
  clock::time_point heard = begin;
  std::size_t left = pieces.size(), before = 0;
  while (left > 0) {
    const double rest = std::min(wait.seconds - since(begin), wait.silent_seconds - since(heard));
    sluice::stream::completion done[64];
    const std::size_t n = from.poll(done, std::clamp(rest, 0.0, 1.0));
    std::size_t bytes = 0;
    for (const sluice::stream::ticket t : tickets) bytes += t ? from.arrived(t) : 0;
    if (n > 0 || bytes > before) heard = clock::now();
    for (std::size_t d = 0; d < n; ++d)
      for (std::size_t i = 0; i < tickets.size(); ++i) {
        if (tickets[i] != done[d].which) continue;
        pieces[i].state = done[d].state == sluice::status::wrong_length ? sluice::status::ok : done[d].state;
        pieces[i].bytes.resize(done[d].bytes);
        pieces[i].detail = done[d].detail;
        tickets[i] = 0;
        --left;
      }
    before = bytes;
    if (n == 0 && rest <= 0) break;
  }
  // What the source goes on trying in spite of, if it tells.
  std::string words = left > 0 ? std::string(from.detail()) : "";
  if (words.empty()) words = "no answer within " + std::to_string(since(begin)).substr(0, 5) + " s";
  for (std::size_t i = 0; i < tickets.size(); ++i)
    if (tickets[i] != 0) {
      pieces[i].bytes.resize(from.cancel(tickets[i]));
      pieces[i].detail = words;
    }
}

}  // namespace engine
