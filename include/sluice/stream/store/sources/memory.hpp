// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/source.hpp>

#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace sluice::stream {

/// Objects in this process's memory: a tier of its own, and the simplest source there is.
class memory_source {
 public:
  /// `capacity` in bytes of all objects together; a put beyond it is refused with no_space.
  explicit memory_source(std::uint64_t capacity = UINT64_MAX) : capacity_(capacity) {}

  result<std::uint64_t> size(std::string_view key) {
    const auto found = objects_.find(key);
    if (found == objects_.end()) return detail_.clear(), status::not_found;
    return std::uint64_t{found->second.size()};
  }

  status put(std::string_view key, std::span<const std::byte> bytes) {
    const auto old = objects_.find(key);
    const std::uint64_t kept = used_ - (old == objects_.end() ? 0 : old->second.size());
    if (bytes.size() > capacity_ - kept) {
      detail_ = std::to_string(bytes.size()) + " bytes do not fit: " + std::to_string(kept) + " of " +
                std::to_string(capacity_) + " are taken";
      return status::no_space;
    }
    objects_.insert_or_assign(std::string(key), std::vector<std::byte>(bytes.begin(), bytes.end()));
    used_ = kept + bytes.size();
    return status::ok;
  }
  status erase(std::string_view key) {
    const auto found = objects_.find(key);
    if (found == objects_.end()) return detail_.clear(), status::not_found;
    used_ -= found->second.size();
    objects_.erase(found);
    return status::ok;
  }

  result<std::vector<std::string>> keys() const {
    std::vector<std::string> all;
    for (const auto& [key, bytes] : objects_) all.push_back(key);
    return all;
  }

  ticket submit(const read_request& request) { return reads_.push(request); }
  std::string_view detail() const noexcept { return detail_; }
  std::size_t arrived(ticket t) noexcept { return reads_.arrived(t); }
  std::size_t cancel(ticket t) { return reads_.cancel(t); }

  std::size_t poll(std::span<completion> done, double) {
    std::size_t n = 0;
    for (; n < done.size() && !reads_.empty(); reads_.pop(), ++n) {
      const auto& r = reads_.front();
      detail_.clear();
      done[n] = {r.which, status::not_found, 0};
      const auto found = objects_.find(r.request.key);
      if (found == objects_.end()) continue;
      const std::span<const std::byte> object = found->second;
      const std::uint64_t offset = r.request.offset < object.size() ? r.request.offset : object.size();
      const std::size_t left = object.size() - std::size_t(offset), wanted = r.request.buffer.size();
      done[n].bytes = left < wanted ? left : wanted;
      done[n].state = left < wanted ? status::wrong_length : status::ok;
      if (left < wanted)
        done[n].detail = detail_ = "the object ends " + std::to_string(wanted - left) + " bytes too early";
      if (done[n].bytes) std::memcpy(r.request.buffer.data(), object.data() + offset, done[n].bytes);
    }
    return n;
  }

 private:
  std::map<std::string, std::vector<std::byte>, std::less<>> objects_;
  std::uint64_t capacity_, used_ = 0;
  std::string detail_;
  sluice::detail::read_queue reads_;
};

static_assert(tier_source<memory_source>);

}  // namespace sluice::stream
