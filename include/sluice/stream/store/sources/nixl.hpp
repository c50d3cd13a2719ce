// SPDX-License-Identifier: Apache-2.0
#pragma once

// Object storage through NIXL (ai-dynamo/nixl). Empty where <nixl.h> is not found. Run with the libraries of nixl-cu12 1.5.1
// and its OBJ backend against an S3 server (test/stream/nixl_test.cpp).
#if defined(__has_include)
#if __has_include(<nixl.h>)

#include <sluice/stream/store/source.hpp>

#include <nixl.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <string>
#include <thread>
#include <vector>

namespace sluice::stream {

/// Objects behind an OBJ backend (S3, Azure) of an agent, by their keys. Borrows the agent, whose name is `agent_name`.
///
/// What this makes good, as NIXL 1.5 does not say it:
/// - A read beyond an object's end succeeds there. Every read asks for its last byte a second time, by itself, which an
///   object that ends too early does not have: wrong_length.
/// - All trouble is NIXL_ERR_BACKEND. After a failure it is asked whether the object exists, and for the last byte again:
///   not_found, wrong_length, or io_error for all else; a store's own words are in NIXL's log. This waits within poll().
///   Its S3 client tries a store that is gone for 25 s, or three times where AWS_RETRY_MODE is "standard".
/// - Nothing tells sizes: size() finds the first byte that is not there, with two reads of one byte where the object is as
///   long as the one last put, and with about a hundred else. The executor never asks.
/// - A transfer that is released goes on writing to its memory. So transfers have memory of their own, and keep it until they
///   have ended; the destructor waits for them.
class nixl_source {
 public:
  /// `timeout_seconds` is for puts and for what is asked after a failure.
  nixl_source(nixlAgent& agent, std::string agent_name, nixlBackendH* backend, double timeout_seconds = 10)
      : agent_(&agent), name_(std::move(agent_name)), timeout_seconds_(timeout_seconds) {
    options_.backends.push_back(backend);
  }
  nixl_source(const nixl_source&) = delete;
  nixl_source& operator=(const nixl_source&) = delete;
  ~nixl_source() {
    for (auto& t : transfers_) abandoned_.push_back(std::move(t));
    for (transfers_.clear(); sweep(); std::this_thread::sleep_for(pause)) continue;
  }

  result<std::uint64_t> size(std::string_view key) {
    detail_.clear();
    if (const status s = exists(key); s != status::ok) return s;
    // Bytes before `low` are there, those from `high` on are not.
    std::uint64_t low = 0, high = std::uint64_t{1} << 48;
    std::vector<std::uint64_t> places{last_put_ ? last_put_ - 1 : 0, last_put_};
    for (bool first = true; low < high; first = false) {
      const std::vector<there> found = look(key, places);
      for (std::size_t i = 0; i < places.size(); ++i) {
        if (found[i] == there::unknown) return no_size("the store has not answered in time");
        if (found[i] == there::yes) low = std::max(low, places[i] + 1);
        if (found[i] == there::no) high = std::min(high, places[i]);
      }
      if (low > high) return no_size("the store answers for some bytes and not for those before them");
      places.clear();
      if (first)
        for (int bit = 0; bit < 48; bit += 4) places.push_back((std::uint64_t{1} << bit) - 1);
      const std::uint64_t step = (high - low + 15) / 16;
      if (!first)
        for (std::uint64_t at = low + step - 1; step && at < high; at += step) places.push_back(at);
    }
    // A store that went away in between has no byte anywhere.
    if (low ? look(key, {low - 1})[0] != there::yes : exists(key) != status::ok)
      return no_size("the store has gone away");
    return low;
  }

  status put(std::string_view key, std::span<const std::byte> bytes) {
    detail_.clear();
    completion done;
    const ticket t = begin(key, 0, bytes.size(), NIXL_WRITE, bytes.data()).which;
    if (!finish(t, done)) {
      cancel(t);
      detail_ = "the transfer has not ended, and may yet";
      return status::timed_out;
    }
    if (done.state == status::ok) last_put_ = bytes.size();
    return done.state;
  }

  std::string_view detail() const noexcept { return detail_; }

  ticket submit(const read_request& request) {
    transfer& t = begin(request.key, request.offset, request.buffer.size(), NIXL_READ, nullptr);
    t.buffer = request.buffer.data();
    return t.which;
  }
  /// A transfer shows nothing before its end.
  std::size_t arrived(ticket) const noexcept { return 0; }
  std::size_t cancel(ticket which) {
    for (auto t = transfers_.begin(); t != transfers_.end(); ++t)
      if ((*t)->which == which) {
        abandoned_.push_back(std::move(*t));
        transfers_.erase(t);
        break;
      }
    sweep();
    return 0;
  }
  std::size_t poll(std::span<completion> done, double seconds) {
    const double until = now() + seconds;
    sweep();
    while (true) {
      std::size_t n = 0;
      for (std::size_t i = 0; i < transfers_.size() && n < done.size();) {
        if (!ended(*transfers_[i])) {
          ++i;
          continue;
        }
        const std::unique_ptr<transfer> t = std::move(transfers_[i]);
        transfers_.erase(transfers_.begin() + std::ptrdiff_t(i));
        done[n++] = outcome(*t);
        release(*t);
      }
      if (n || transfers_.empty() || now() >= until) return n;
      std::this_thread::sleep_for(pause);
    }
  }

 private:
  static constexpr std::chrono::microseconds pause{100};
  enum class there { yes, no, unknown };
  struct transfer {
    ticket which = 0;
    std::string key;
    std::uint64_t offset = 0;
    std::size_t size = 0;
    std::byte* buffer = nullptr;  // where a read goes
    std::vector<std::byte> data;  // what NIXL works on
    bool reads = false, has_memory = false, has_object = false;
    nixl_reg_dlist_t memory{DRAM_SEG}, object{OBJ_SEG};
    nixlXferReqH* handle = nullptr;
    nixl_status_t state = NIXL_ERR_NOT_POSTED;
  };

  static double now() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  // Backends know registered objects by a number alone, whoever registers them.
  static std::uint64_t next_device() noexcept {
    static std::atomic<std::uint64_t> last{std::uint64_t{0x51} << 56};
    return ++last;
  }

  transfer& begin(std::string_view key, std::uint64_t offset, std::size_t size, nixl_xfer_op_t direction,
                  const std::byte* from) {
    sweep();
    transfers_.push_back(std::make_unique<transfer>());
    transfer& t = *transfers_.back();
    t.which = ++last_;
    t.key = key;
    t.offset = offset;
    t.size = size;
    t.reads = direction == NIXL_READ;
    t.data.resize(size + 1);
    if (from && size) std::memcpy(t.data.data(), from, size);
    if (t.reads && size == 0) return t.state = NIXL_SUCCESS, t;  // whether it exists is asked at the end
    const auto memory = reinterpret_cast<std::uintptr_t>(t.data.data());
    const std::uint64_t device = next_device();
    t.memory.addDesc(nixlBlobDesc(memory, t.data.size(), 0, nixl_blob_t()));
    t.object.addDesc(nixlBlobDesc(0, offset + size, device, t.key));
    nixl_xfer_dlist_t local(DRAM_SEG), remote(OBJ_SEG);
    local.addDesc(nixlBasicDesc(memory, size, 0));
    remote.addDesc(nixlBasicDesc(std::uintptr_t(offset), size, device));
    if (t.reads && size > 1) {  // the last byte once more
      local.addDesc(nixlBasicDesc(memory + size, 1, 0));
      remote.addDesc(nixlBasicDesc(std::uintptr_t(offset + size - 1), 1, device));
    }
    t.state = agent_->registerMem(t.memory, &options_);
    t.has_memory = t.state == NIXL_SUCCESS;
    if (t.has_memory) t.state = agent_->registerMem(t.object, &options_);
    t.has_object = t.has_memory && t.state == NIXL_SUCCESS;
    if (t.has_object) t.state = agent_->createXferReq(direction, local, remote, name_, t.handle, &options_);
    if (t.has_object && t.state == NIXL_SUCCESS) t.state = agent_->postXferReq(t.handle);
    return t;
  }
  bool ended(transfer& t) {
    if (t.state == NIXL_IN_PROG) t.state = agent_->getXferStatus(t.handle);
    return t.state != NIXL_IN_PROG;
  }
  void release(transfer& t) {
    if (t.handle) (void)agent_->releaseXferReq(t.handle);
    if (t.has_object) (void)agent_->deregisterMem(t.object, &options_);
    if (t.has_memory) (void)agent_->deregisterMem(t.memory, &options_);
  }
  // Releases what nobody waits for and what has ended; how many have not.
  std::size_t sweep() {
    std::erase_if(abandoned_, [&](const auto& t) { return ended(*t) && (release(*t), true); });
    return abandoned_.size();
  }
  bool finish(ticket which, completion& c) {
    for (const double until = now() + timeout_seconds_; now() < until; std::this_thread::sleep_for(pause))
      for (std::size_t i = 0; i < transfers_.size(); ++i)
        if (transfers_[i]->which == which && ended(*transfers_[i])) {
          c = outcome(*transfers_[i]);
          release(*transfers_[i]);
          transfers_.erase(transfers_.begin() + std::ptrdiff_t(i));
          return true;
        }
    return false;
  }

  completion outcome(const transfer& t) {
    completion c{t.which, status_of(t.state)};
    if (t.state != NIXL_SUCCESS) c.detail = nixlEnumStrings::statusStr(t.state);
    if (t.reads && (t.size == 0 || t.state == NIXL_ERR_BACKEND || t.state == NIXL_ERR_NOT_FOUND)) {
      detail_ = c.detail;
      c.state = exists(t.key);
      if (c.state == status::ok && t.size) {
        const there last = look(t.key, {t.offset + t.size - 1})[0];
        c.state = last == there::no ? status::wrong_length : status::io_error;
        if (last == there::no) detail_ = "the object ends before byte " + std::to_string(t.offset + t.size);
      }
      c.detail = detail_;
    }
    if (t.reads && c.state == status::ok && t.size) {
      std::memcpy(t.buffer, t.data.data(), t.size);
      c.bytes = t.size;
    }
    if (c.state != status::ok) detail_ = c.detail;
    return c;
  }
  // ok, not_found, or what keeps the backend from knowing.
  status exists(std::string_view key) {
    nixl_reg_dlist_t object(OBJ_SEG);
    object.addDesc(nixlBlobDesc(0, 0, next_device(), nixl_blob_t(key)));
    std::vector<nixl_query_resp_t> answers;
    const nixl_status_t s = agent_->queryMem(object, answers, &options_);
    if (s == NIXL_SUCCESS && answers.size() == 1) {
      if (answers[0]) return status::ok;
      return detail_ = "there is no such object", status::not_found;
    }
    detail_ = nixlEnumStrings::statusStr(s) + ", also when asked whether the object exists";
    return s == NIXL_SUCCESS ? status::io_error : status_of(s);
  }
  // Whether an object has these bytes.
  std::vector<there> look(std::string_view key, const std::vector<std::uint64_t>& places) {
    std::vector<ticket> tickets;
    for (const std::uint64_t at : places) tickets.push_back(begin(key, at, 1, NIXL_READ, nullptr).which);
    std::vector<there> found(places.size(), there::unknown);
    const double until = now() + timeout_seconds_;
    for (std::size_t open = places.size(); open && now() < until; std::this_thread::sleep_for(pause))
      for (auto& t : transfers_)
        for (std::size_t i = 0; i < tickets.size(); ++i)
          if (t->which == tickets[i] && found[i] == there::unknown && ended(*t)) {
            found[i] = t->state == NIXL_SUCCESS ? there::yes : there::no;
            --open;
          }
    for (const ticket t : tickets) cancel(t);
    return found;
  }
  status no_size(const char* why) { return detail_ = why, status::io_error; }
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
  std::vector<std::unique_ptr<transfer>> transfers_, abandoned_;
  std::uint64_t last_put_ = 0;
  ticket last_ = 0;
};

static_assert(byte_source<nixl_source>);

}  // namespace sluice::stream

#endif
#endif
