// SPDX-License-Identifier: Apache-2.0
#pragma once

// Object storage through NIXL (ai-dynamo/nixl, checked against the headers of 1.5.1). Empty where <nixl.h> is not found.
// It compiles against those headers; it has not been run with a NIXL backend.
#if defined(__has_include)
#if __has_include(<nixl.h>)

#include <sluice/stream/store/source.hpp>

#include <nixl.h>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace sluice::stream {

/// Objects behind an OBJ backend (S3, Azure) of an agent, by their keys. Borrows the agent, whose name is `agent_name`.
/// Such a backend does not tell sizes: size() is always refused, which the executor does not need.
class nixl_source {
 public:
  nixl_source(nixlAgent& agent, std::string agent_name, nixlBackendH* backend, double timeout_seconds = 10)
      : agent_(&agent), name_(std::move(agent_name)), timeout_seconds_(timeout_seconds) {
    options_.backends.push_back(backend);
  }
  nixl_source(const nixl_source&) = delete;
  nixl_source& operator=(const nixl_source&) = delete;
  ~nixl_source() {
    while (!transfers_.empty()) drop(0);
  }

  result<std::uint64_t> size(std::string_view) {
    detail_ = "object backends of NIXL do not tell sizes";
    return status::refused;
  }
  status put(std::string_view key, std::span<const std::byte> bytes) {
    // NIXL takes one kind of descriptor for both directions; a write does not change the buffer.
    const read_request whole{key, 0, {const_cast<std::byte*>(bytes.data()), bytes.size()}};
    const ticket t = begin(whole, NIXL_WRITE);
    completion done;
    if (finish(t, done, timeout_seconds_)) return done.state;
    cancel(t);
    detail_ = "the transfer has not ended";
    return status::timed_out;
  }

  std::string_view detail() const noexcept { return detail_; }

  ticket submit(const read_request& request) { return begin(request, NIXL_READ); }
  /// A transfer shows nothing before its end.
  std::size_t arrived(ticket) const noexcept { return 0; }
  /// NIXL aborts an active transfer when its handle is released.
  std::size_t cancel(ticket t) {
    for (std::size_t i = 0; i < transfers_.size(); ++i)
      if (transfers_[i]->which == t) {
        drop(i);
        break;
      }
    return 0;
  }
  std::size_t poll(std::span<completion> done, double seconds) {
    const double until = now() + seconds;
    std::size_t n = 0;
    while (true) {
      for (std::size_t i = 0; i < transfers_.size() && n < done.size();) {
        if (settled(*transfers_[i], done[n])) {
          drop(i);
          ++n;
        } else {
          ++i;
        }
      }
      if (n || transfers_.empty() || now() >= until) return n;
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
  }

 private:
  struct transfer {
    ticket which = 0;
    std::size_t size = 0;
    nixl_reg_dlist_t memory{DRAM_SEG}, object{OBJ_SEG};
    bool has_memory = false, has_object = false;
    nixlXferReqH* handle = nullptr;
    nixl_status_t state = NIXL_ERR_NOT_POSTED;
  };

  static double now() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  ticket begin(const read_request& r, nixl_xfer_op_t direction) {
    detail_.clear();
    transfers_.push_back(std::make_unique<transfer>());
    transfer& t = *transfers_.back();
    t.which = ++last_;
    t.size = r.buffer.size();
    const auto address = reinterpret_cast<std::uintptr_t>(r.buffer.data());
    t.memory.addDesc(nixlBlobDesc(address, t.size, 0, nixl_blob_t()));
    t.object.addDesc(nixlBlobDesc(std::uintptr_t(r.offset), t.size, t.which, nixl_blob_t(r.key)));
    t.state = agent_->registerMem(t.memory, &options_);
    t.has_memory = t.state == NIXL_SUCCESS;
    if (t.has_memory) t.state = agent_->registerMem(t.object, &options_);
    t.has_object = t.has_memory && t.state == NIXL_SUCCESS;
    if (t.has_object)
      t.state = agent_->createXferReq(direction, t.memory.trim(), t.object.trim(), name_, t.handle, &options_);
    if (t.has_object && t.state == NIXL_SUCCESS) t.state = agent_->postXferReq(t.handle);
    return t.which;
  }
  bool settled(transfer& t, completion& c) {
    if (t.state == NIXL_IN_PROG) t.state = agent_->getXferStatus(t.handle);
    if (t.state == NIXL_IN_PROG) return false;
    c = {t.which, status_of(t.state), t.state == NIXL_SUCCESS ? t.size : 0};
    if (t.state != NIXL_SUCCESS) detail_ = c.detail = nixlEnumStrings::statusStr(t.state);
    return true;
  }
  bool finish(ticket which, completion& c, double seconds) {
    for (const double until = now() + seconds; now() < until;
         std::this_thread::sleep_for(std::chrono::microseconds(100)))
      for (std::size_t i = 0; i < transfers_.size(); ++i)
        if (transfers_[i]->which == which && settled(*transfers_[i], c)) {
          drop(i);
          return true;
        }
    return false;
  }
  void drop(std::size_t i) {
    transfer& t = *transfers_[i];
    if (t.handle) (void)agent_->releaseXferReq(t.handle);
    if (t.has_object) (void)agent_->deregisterMem(t.object, &options_);
    if (t.has_memory) (void)agent_->deregisterMem(t.memory, &options_);
    transfers_.erase(transfers_.begin() + std::ptrdiff_t(i));
  }
  static status status_of(nixl_status_t s) noexcept {
    switch (s) {
      case NIXL_SUCCESS: return status::ok;
      case NIXL_ERR_NOT_FOUND: return status::not_found;
      case NIXL_ERR_INVALID_PARAM: return status::invalid_argument;
      case NIXL_ERR_NOT_ALLOWED:
      case NIXL_ERR_NOT_SUPPORTED: return status::refused;
      case NIXL_ERR_REMOTE_DISCONNECT: return status::connection_lost;
      case NIXL_ERR_CANCELED: return status::cancelled;
      default: return status::io_error;
    }
  }

  nixlAgent* agent_;
  std::string name_, detail_;
  double timeout_seconds_;
  nixl_opt_args_t options_;
  std::vector<std::unique_ptr<transfer>> transfers_;
  ticket last_ = 0;
};

static_assert(byte_source<nixl_source>);

}  // namespace sluice::stream

#endif
#endif
