// SPDX-License-Identifier: Apache-2.0
#pragma once

// Mooncake Store (kvcache-ai/Mooncake, written to the headers of August 2026). Empty where <client_service.h> is not found.
// Neither compiled against the whole of Mooncake nor run with a Mooncake cluster here.
#if defined(__has_include)
#if __has_include(<client_service.h>)

#include <sluice/stream/store/source.hpp>

#include <client_buffer.h>
#include <client_service.h>
#include <string>
#include <utility>
#include <vector>

namespace sluice::stream {

/// Objects of a Mooncake Store, by their keys; borrows the client. A read blocks within poll(): the client has no call that
/// starts one and comes back.
class mooncake_source {
 public:
  explicit mooncake_source(mooncake::Client& client, mooncake::ReplicateConfig config = {})
      : client_(&client), config_(std::move(config)) {}

  result<std::uint64_t> size(std::string_view key) {
    detail_.clear();
    const auto found = client_->Query(std::string(key));
    if (!found) return of(found.error());
    for (const auto& replica : found->replicas) return std::uint64_t(mooncake::calculate_total_size(replica));
    return status::not_found;
  }

  /// Objects are immutable: one that is there already stays as it is, which is right for names that follow from contents.
  status put(std::string_view key, std::span<const std::byte> bytes) {
    detail_.clear();
    void* const data = const_cast<std::byte*>(bytes.data());  // a slice does not say that it is only read
    const registration memory(*client_, data, bytes.size());
    if (!memory.ok) return not_registered();
    std::vector<mooncake::Slice> slices = cut(data, bytes.size());
    const auto done = client_->Put(std::string(key), slices, config_);
    if (done || done.error() == mooncake::ErrorCode::OBJECT_ALREADY_EXISTS) return status::ok;
    return of(done.error());
  }

  ticket submit(const read_request& request) { return reads_.push(request); }
  std::string_view detail() const noexcept { return detail_; }
  std::size_t arrived(ticket t) noexcept { return reads_.arrived(t); }
  std::size_t cancel(ticket t) { return reads_.cancel(t); }

  std::size_t poll(std::span<completion> done, double) {
    if (done.empty() || reads_.empty()) return 0;
    const auto& r = reads_.front();
    done[0] = {r.which, get(r.request), 0};
    if (done[0].state != status::ok) done[0].detail = detail_;
    if (done[0].state == status::ok) done[0].bytes = r.request.buffer.size();
    reads_.pop();
    return 1;
  }

 private:
  // Memory that the transfer engine may write to, as long as this lives.
  struct registration {
    mooncake::Client* client;
    void* data;
    bool ok;
    registration(mooncake::Client& c, void* p, std::size_t n)
        : client(&c), data(p), ok(bool(c.RegisterLocalMemory(p, n, "cpu:0", false, false))) {}
    registration(const registration&) = delete;
    registration& operator=(const registration&) = delete;
    ~registration() {
      if (ok) (void)client->unregisterLocalMemory(data, false);
    }
  };

  status not_registered() {
    detail_ = "the memory cannot be registered with the transfer engine";
    return status::io_error;
  }
  status get(const read_request& r) {
    const std::string key(r.key);
    detail_.clear();
    const auto found = client_->Query(key);
    if (!found) return of(found.error());
    if (found->replicas.empty()) return status::not_found;
    if (r.offset + r.buffer.size() > mooncake::calculate_total_size(found->replicas.front()))
      return status::wrong_length;
    const registration memory(*client_, r.buffer.data(), r.buffer.size());
    if (!memory.ok) return not_registered();
    std::vector<mooncake::Slice> slices = cut(r.buffer.data(), r.buffer.size());
    const auto done = client_->Get(key, *found, slices, r.offset);
    return done ? status::ok : of(done.error());
  }
  // Slices have a largest size.
  static std::vector<mooncake::Slice> cut(void* data, std::size_t size) {
    std::vector<mooncake::Slice> slices;
    for (std::size_t at = 0; at < size; at += mooncake::kMaxSliceSize) {
      const std::size_t left = size - at;
      slices.push_back(
          {static_cast<std::byte*>(data) + at, left < mooncake::kMaxSliceSize ? left : mooncake::kMaxSliceSize});
    }
    return slices;
  }
  status of(mooncake::ErrorCode e) {
    detail_ = mooncake::toString(e);
    switch (e) {
      case mooncake::ErrorCode::OK: return status::ok;
      case mooncake::ErrorCode::OBJECT_NOT_FOUND:
      case mooncake::ErrorCode::REPLICA_NOT_FOUND: return status::not_found;
      case mooncake::ErrorCode::NO_AVAILABLE_HANDLE: return status::no_space;
      case mooncake::ErrorCode::REPLICA_IS_NOT_READY: return status::refused;
      case mooncake::ErrorCode::INVALID_KEY:
      case mooncake::ErrorCode::INVALID_PARAMS: return status::invalid_argument;
      case mooncake::ErrorCode::LEASE_EXPIRED: return status::timed_out;
      default: return status::io_error;
    }
  }

  mooncake::Client* client_;
  mooncake::ReplicateConfig config_;
  std::string detail_;
  sluice::detail::read_queue reads_;
};

static_assert(byte_source<mooncake_source>);

}  // namespace sluice::stream

#endif
#endif
