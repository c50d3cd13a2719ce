// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/source.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice::stream {

/// Any source behind one type, for programs that know their stores at run time: a byte_source and a tier_source itself. What a
/// source cannot do is refused.
class any_source {
 public:
  virtual ~any_source() = default;
  virtual result<std::uint64_t> size(std::string_view key) = 0;
  virtual status put(std::string_view key, std::span<const std::byte> bytes) = 0;
  virtual ticket submit(const read_request& request) = 0;
  virtual std::size_t poll(std::span<completion> done, double seconds) = 0;
  virtual std::size_t arrived(ticket t) = 0;
  virtual std::size_t cancel(ticket t) = 0;
  virtual std::string_view detail() const = 0;
  virtual status erase(std::string_view) { return status::refused; }
  virtual result<std::vector<std::string>> keys() { return status::refused; }
};

/// A source as any_source. Borrows it.
template <byte_source Source>
class source_of final : public any_source {
 public:
  /// Of this one.
  explicit source_of(Source& source) : source_(&source) {}
  result<std::uint64_t> size(std::string_view key) override { return source_->size(key); }
  status put(std::string_view key, std::span<const std::byte> bytes) override { return source_->put(key, bytes); }
  ticket submit(const read_request& r) override { return source_->submit(r); }
  std::size_t poll(std::span<completion> done, double seconds) override { return source_->poll(done, seconds); }
  std::size_t arrived(ticket t) override { return source_->arrived(t); }
  std::size_t cancel(ticket t) override { return source_->cancel(t); }
  std::string_view detail() const override { return source_->detail(); }
  status erase(std::string_view key) override {
    if constexpr (tier_source<Source>) return source_->erase(key);
    return status::refused;
  }
  result<std::vector<std::string>> keys() override {
    if constexpr (tier_source<Source>) return source_->keys();
    return status::refused;
  }

 private:
  Source* source_;
};

}  // namespace sluice::stream
