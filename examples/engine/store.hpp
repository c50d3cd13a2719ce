// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>
#include <sluice/stream/source.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace engine {

/// Any source behind one type, so that the commands are compiled once; a sluice::stream::byte_source itself.
class store {
 public:
  virtual ~store() = default;
  virtual sluice::result<std::uint64_t> size(std::string_view key) = 0;
  virtual sluice::status put(std::string_view key, std::span<const std::byte> bytes) = 0;
  virtual sluice::stream::ticket submit(const sluice::stream::read_request& request) = 0;
  virtual std::size_t poll(std::span<sluice::stream::completion> done, double seconds) = 0;
  virtual std::size_t arrived(sluice::stream::ticket t) = 0;
  virtual std::size_t cancel(sluice::stream::ticket t) = 0;
  virtual std::string_view detail() const = 0;
};

/// A source as a store. Borrows it.
template <sluice::stream::byte_source Source>
class store_of final : public store {
 public:
  explicit store_of(Source& source) : source_(&source) {}
  sluice::result<std::uint64_t> size(std::string_view key) override { return source_->size(key); }
  sluice::status put(std::string_view key, std::span<const std::byte> bytes) override {
    return source_->put(key, bytes);
  }
  sluice::stream::ticket submit(const sluice::stream::read_request& r) override { return source_->submit(r); }
  std::size_t poll(std::span<sluice::stream::completion> done, double seconds) override {
    return source_->poll(done, seconds);
  }
  std::size_t arrived(sluice::stream::ticket t) override { return source_->arrived(t); }
  std::size_t cancel(sluice::stream::ticket t) override { return source_->cancel(t); }
  std::string_view detail() const override { return source_->detail(); }

 private:
  Source* source_;
};

/// A read that may end early: what it got, and why it is not more.
struct piece {
  std::string_view key;
  std::uint64_t offset = 0;
  std::size_t most = 0;
  std::vector<std::byte> bytes{};
  sluice::status state = sluice::status::timed_out;
};

/// Reads all pieces at once, for at most `seconds`. An object that ends before a piece does is no error.
inline void read_all(store& from, std::span<piece> pieces, double seconds) {
  std::vector<sluice::stream::ticket> tickets;
  for (piece& p : pieces) {
    p.bytes.resize(p.most);
    tickets.push_back(from.submit({p.key, p.offset, p.bytes}));
  }
  std::size_t left = pieces.size();
  while (left > 0) {
    sluice::stream::completion done[64];
    const std::size_t n = from.poll(done, seconds);
    if (n == 0) break;
    for (std::size_t d = 0; d < n; ++d)
      for (std::size_t i = 0; i < tickets.size(); ++i) {
        if (tickets[i] != done[d].which) continue;
        pieces[i].state = done[d].state == sluice::status::wrong_length ? sluice::status::ok : done[d].state;
        pieces[i].bytes.resize(done[d].bytes);
        tickets[i] = 0;
        --left;
      }
  }
  for (std::size_t i = 0; i < tickets.size(); ++i)
    if (tickets[i] != 0) pieces[i].bytes.resize(from.cancel(tickets[i]));
}

}  // namespace engine
