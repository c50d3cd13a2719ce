// SPDX-License-Identifier: Apache-2.0
#pragma once

// Mooncake Store (kvcache-ai/Mooncake) through its C interface (mooncake-store/include/store_c.h, the same in 0.3.12 and in
// August 2026), which is loaded when it is first needed: building takes no header and no library of Mooncake's. Run against
// mooncake_master 0.3.12.post1 over TCP (test/stream/mooncake_test.cpp).

#include <sluice/stream/store/source.hpp>
#include <sluice/stream/store/sources/connection.hpp>

#include <dlfcn.h>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace sluice::stream {

/// Where a Mooncake Store is, and what this process lends to it.
struct mooncake_options {
  std::string library = "libmooncake_store.so";  ///< built with WITH_STORE_C_SHARED; a name or a path
  std::string master = "127.0.0.1:50051";        ///< host:port of mooncake_master
  std::string metadata = "P2PHANDSHAKE";         ///< URL of its metadata server
  std::string hostname = "127.0.0.1";            ///< under which others reach this process: host or host:port
  std::string protocol = "tcp";                  ///< or rdma
  std::string device = {};                       ///< names of RDMA devices
  std::uint64_t segment_bytes = 0;               ///< of this process's memory, for everybody's objects
  std::uint64_t buffer_bytes = 16 << 20;         ///< for Mooncake's own use
};

/// Objects of a Mooncake Store, by their keys. Connects at the first call, and again after a failure to; this takes about a
/// second, so call exists() before a request that counts.
///
/// - An object that is there stays as it is, and its put is acknowledged: right for names that follow from contents.
/// - A master that needs room drops objects: not_found. Mooncake knows no empty ones: refused.
/// - Its C interface has no ranges and no calls that come back early: a read fetches the whole object within poll(), which
///   then serves all further ranges of it until another object is read or it is put.
/// - Time limits are Mooncake's own. It writes a log to stderr.
class mooncake_source {
 public:
  /// Neither loads nor connects yet.
  explicit mooncake_source(mooncake_options options) : options_(std::move(options)) {}
  mooncake_source(const mooncake_source&) = delete;
  mooncake_source& operator=(const mooncake_source&) = delete;
  ~mooncake_source() {
    if (store_) api_.destroy(store_);
  }

  /// Whether an object is there. Errors: those of a completion.
  result<bool> exists(std::string_view key) {
    if (const status s = connect(); s != status::ok) return s;
    const int found = api_.is_exist(store_, std::string(key).c_str());
    if (found < 0) return failed(found);
    return found > 0;
  }

  result<std::uint64_t> size(std::string_view key) {
    if (const status s = connect(); s != status::ok) return s;
    const std::int64_t n = api_.get_size(store_, std::string(key).c_str());
    if (n < 0) return failed(n);
    return std::uint64_t(n);
  }

  status put(std::string_view key, std::span<const std::byte> bytes) {
    if (const status s = connect(); s != status::ok) return s;
    if (bytes.empty()) return detail_ = "Mooncake holds no empty objects", status::refused;
    if (key == object_key_) forget();
    void* const data = const_cast<std::byte*>(bytes.data());  // the interface does not say that it is only read
    const registration memory(*this, data, bytes.size());
    if (memory.state != 0) return failed(memory.state);
    const int done = api_.put_from(store_, std::string(key).c_str(), data, bytes.size(), nullptr);
    return done == 0 || done == already_exists ? status::ok : failed(done);
  }

  ticket submit(const read_request& request) { return reads_.push(request); }
  std::string_view detail() const noexcept { return detail_; }
  std::size_t arrived(ticket t) noexcept { return reads_.arrived(t); }
  std::size_t cancel(ticket t) { return reads_.cancel(t); }

  std::size_t poll(std::span<completion> done, double) {
    std::size_t n = 0;
    for (; n < done.size() && !reads_.empty(); reads_.pop(), ++n) {
      const auto& r = reads_.front();
      const status here = r.request.key == object_key_ ? status::ok : n ? status::cancelled : fetch(r.request.key);
      if (here == status::cancelled) break;  // one object at a time
      done[n] = {r.which, here};
      if (here == status::ok) serve(r.request, done[n]);
      if (done[n].state != status::ok) done[n].detail = detail_;
    }
    return n;
  }

 private:
  static constexpr std::int64_t already_exists = -705;

  // As store_c.h declares them.
  struct functions {
    void* (*create)() = nullptr;
    void (*destroy)(void*) = nullptr;
    int (*setup)(void*, const char* hostname, const char* metadata, std::uint64_t segment, std::uint64_t buffer,
                 const char* protocol, const char* device, const char* master) = nullptr;
    int (*put_from)(void*, const char* key, void*, std::size_t, const void* config) = nullptr;
    std::int64_t (*get_into)(void*, const char* key, void*, std::size_t) = nullptr;
    int (*is_exist)(void*, const char* key) = nullptr;
    std::int64_t (*get_size)(void*, const char* key) = nullptr;
    int (*register_buffer)(void*, void*, std::size_t) = nullptr;
    int (*unregister_buffer)(void*, void*) = nullptr;
  };

  // Memory that the transfer engine may use, as long as this lives.
  struct registration {
    mooncake_source& source;
    void* data;
    int state;
    registration(mooncake_source& s, void* p, std::size_t n)
        : source(s), data(p), state(s.api_.register_buffer(s.store_, p, n)) {}
    registration(const registration&) = delete;
    registration& operator=(const registration&) = delete;
    ~registration() {
      if (state == 0) (void)source.api_.unregister_buffer(source.store_, data);
    }
  };

  status connect() {
    detail_.clear();
    if (store_) return status::ok;
    if (const status s = load(); s != status::ok) return s;
    if (const status s = look(); s != status::ok) return s;
    void* const store = api_.create();
    const auto& o = options_;
    const int done = !store ? -1
                            : api_.setup(store, o.hostname.c_str(), o.metadata.c_str(), o.segment_bytes, o.buffer_bytes,
                                         o.protocol.c_str(), o.device.c_str(), o.master.c_str());
    if (done == 0) return store_ = store, status::ok;
    if (store) api_.destroy(store);
    (void)failed(done);
    detail_ = "no connection to the Mooncake master at " + o.master + ": " + detail_;
    return status::connection_lost;
  }
  // Whether anybody listens where the master is to be: Mooncake would try for a minute and a half.
  status look() {
    const std::string& m = options_.master;
    const std::size_t colon = m.rfind(':');
    if (m.find("://") != m.npos || colon == m.npos) return status::ok;  // an address of another kind
    std::string host = m.substr(0, colon);
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    sluice::detail::connection c({.host = host, .port = std::atoi(m.c_str() + colon + 1)});
    for (bool going = c.start(5); going && c.now_in() == sluice::detail::connection::phase::opening;
         going = c.advance())
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    if (c.state() != status::ok) detail_ = c.words();
    return c.state();
  }
  status load() {
    if (api_.unregister_buffer) return status::ok;
    // It has threads, so it stays for good.
    void* const library = ::dlopen(options_.library.c_str(), RTLD_NOW | RTLD_LOCAL);
    const auto find = [&](auto& function, const char* name) {
      const std::string symbol = std::string("mooncake_store_") + name;
      void* const address = library ? ::dlsym(library, symbol.c_str()) : nullptr;
      std::memcpy(&function, &address, sizeof address);
      return address != nullptr;
    };
    if (find(api_.create, "create") && find(api_.destroy, "destroy") && find(api_.setup, "setup") &&
        find(api_.put_from, "put_from") && find(api_.get_into, "get_into") && find(api_.is_exist, "is_exist") &&
        find(api_.get_size, "get_size") && find(api_.register_buffer, "register_buffer") &&
        find(api_.unregister_buffer, "unregister_buffer"))
      return status::ok;
    const char* const why = ::dlerror();
    detail_ = std::string("Mooncake's library cannot be used: ") + (why ? why : "a function is missing");
    return status::refused;
  }

  void forget() {
    object_key_.clear();
    object_ = {};
  }
  status fetch(std::string_view name) {
    forget();
    const std::string key(name);
    const result<std::uint64_t> bytes = size(key);
    if (!bytes) return bytes.status();
    std::vector<std::byte> object(static_cast<std::size_t>(*bytes));
    if (object.empty()) return detail_ = "the object is empty", status::wrong_length;
    {
      const registration memory(*this, object.data(), object.size());
      if (memory.state != 0) return failed(memory.state);
      const std::int64_t n = api_.get_into(store_, key.c_str(), object.data(), object.size());
      if (n < 0) return failed(n);
      if (std::uint64_t(n) != *bytes) {
        detail_ = std::to_string(n) + " of " + std::to_string(*bytes) + " bytes came";
        return status::wrong_length;
      }
    }
    object_ = std::move(object);
    object_key_ = key;
    return status::ok;
  }
  void serve(const read_request& r, completion& c) {
    const std::uint64_t offset = r.offset < object_.size() ? r.offset : object_.size();
    const std::size_t left = object_.size() - std::size_t(offset), wanted = r.buffer.size();
    c.bytes = left < wanted ? left : wanted;
    if (c.bytes) std::memcpy(r.buffer.data(), object_.data() + offset, c.bytes);
    if (left >= wanted) return;
    c.state = status::wrong_length;
    detail_ = "the object ends " + std::to_string(wanted - left) + " bytes too early";
  }

  // Numbers of mooncake-store/include/types.h.
  status failed(std::int64_t code) {
    const auto because = [&](status s, const char* words) {
      detail_ = std::string("Mooncake: ") + words + " (" + std::to_string(code) + ")";
      return s;
    };
    switch (code) {
      case -10: return because(status::io_error, "buffer overflow");
      case -101: return because(status::no_space, "nobody lends memory for objects");
      case -200: return because(status::no_space, "no memory left for the object");
      case -400: return because(status::invalid_argument, "invalid key");
      case -500: return because(status::io_error, "write failed");
      case -600: return because(status::invalid_argument, "invalid parameters");
      case -703: return because(status::not_found, "the object is not whole yet");
      case -704: return because(status::not_found, "there is no such object");
      case -707: return because(status::timed_out, "the lease ended before the transfer did");
      case -710:
      case -712: return because(status::not_found, "no copy of the object is left");
      case -800: return because(status::connection_lost, "the transfer failed");
      case -900: return because(status::connection_lost, "the master does not answer");
      case -901: return because(status::timed_out, "the master does not answer in time");
      case -1010:
      case -1011: return because(status::refused, "not in the master's present state");
      case -1700:
      case -1701: return because(status::no_space, "the tenant's quota");
      default: return because(status::io_error, "error");
    }
  }

  mooncake_options options_;
  functions api_;
  void* store_ = nullptr;
  std::string detail_, object_key_;
  std::vector<std::byte> object_;  // the one last read
  sluice::detail::read_queue reads_;
};

static_assert(byte_source<mooncake_source>);

}  // namespace sluice::stream
