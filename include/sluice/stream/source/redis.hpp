// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/source.hpp>

#include <hiredis/hiredis.h>
#include <poll.h>
#include <chrono>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sluice::stream {

/// Where a Redis (or Valkey) server is, and how patient to be with it.
struct redis_options {
  std::string host = "127.0.0.1";
  int port = 6379;
  int database = 0;
  std::string password = {};
  double timeout_seconds = 5;             ///< of size() and put()
  std::size_t piece_bytes = 1 << 20;      ///< a range is asked for in pieces of this size
  std::size_t bytes_in_flight = 8 << 20;  ///< asked for and not yet here; bounds what a cancelled read wastes
  int reconnects = 1;                     ///< lost connections that a read survives
};

/// Objects as string values of a Redis server, read by pipelined GETRANGE over one connection and written by SET.
/// GETRANGE answers a missing key and a range behind the end alike: both are not_found.
class redis_source {
 public:
  explicit redis_source(redis_options options = {}) : options_(std::move(options)) {}
  redis_source(const redis_source&) = delete;
  redis_source& operator=(const redis_source&) = delete;
  ~redis_source() { disconnect(); }

  result<std::uint64_t> size(std::string_view key) {
    const answer a = command({"STRLEN", key});
    if (a.state != status::ok) return a.state;
    if (a.number <= 0) return status::not_found;
    return std::uint64_t(a.number);
  }
  status put(std::string_view key, std::span<const std::byte> bytes) {
    return command({"SET", key, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}}).state;
  }

  std::string_view detail() const noexcept { return {}; }

  ticket submit(const read_request& request) {
    reads_.push_back({++last_, std::string(request.key), request.offset, request.buffer, 0, 0, options_.reconnects});
    if (request.buffer.empty()) finish(reads_.back().which, status::ok);
    return last_;
  }

  std::size_t arrived(ticket t) noexcept {
    for (const read& r : reads_)
      if (r.which == t) return r.bytes + partial(t).size();
    return 0;
  }

  /// Closes the connection if the server owes bytes of this read: they would keep the line busy. Others ask again.
  std::size_t cancel(ticket t) {
    for (std::size_t i = 0; i < reads_.size(); ++i) {
      read& r = reads_[i];
      if (r.which != t) continue;
      const std::span<const char> rest = partial(t);
      if (!rest.empty()) std::memcpy(r.buffer.data() + r.bytes, rest.data(), rest.size());
      const std::size_t bytes = r.bytes + rest.size();
      const bool under_way = r.asked > r.bytes;
      reads_.erase(reads_.begin() + std::ptrdiff_t(i));
      if (under_way) disconnect();
      return bytes;
    }
    for (std::size_t i = 0; i < done_.size(); ++i)
      if (done_[i].which == t) {
        const std::size_t bytes = done_[i].bytes;
        done_.erase(done_.begin() + std::ptrdiff_t(i));
        return bytes;
      }
    return 0;
  }

  std::size_t poll(std::span<completion> done, double seconds) {
    const double until = now() + seconds;
    do {
      if (done_.empty() && !reads_.empty()) pump(until - now());
    } while (done_.empty() && !reads_.empty() && now() < until);
    std::size_t n = 0;
    for (; n < done.size() && !done_.empty(); ++n) {
      done[n] = done_.front();
      done_.pop_front();
    }
    return n;
  }

 private:
  struct read {
    ticket which;
    std::string key;
    std::uint64_t offset;
    std::span<std::byte> buffer;
    std::size_t bytes, asked;  // both from the buffer's first byte on
    int reconnects;
  };
  struct answer {
    status state = status::timed_out;
    long long number = 0;
  };
  // What the server owes, in order: a piece of a read, or (which = 0) the answer to a command.
  struct owed {
    ticket which = 0;
    std::size_t bytes = 0;
  };

  static double now() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  status connect() {
    context_.reset(::redisConnectNonBlock(options_.host.c_str(), options_.port));
    if (!context_ || context_->err) return disconnect(), status::connection_lost;
    // Answers go from the connection's buffer straight to where they belong; hiredis would make a copy of each.
    static redisReplyObjectFunctions functions{[](const redisReadTask* t, char* s, std::size_t n) {
                                                 return self(t).text(t, {s, n});
                                               },
                                               [](const redisReadTask* t, int) {
                                                 return self(t).settle({status::parse_error, 0}, t);
                                               },
                                               [](const redisReadTask* t, long long x) {
                                                 return self(t).settle({status::ok, x}, t);
                                               },
                                               [](const redisReadTask* t) {
                                                 return self(t).settle({status::not_found, 0}, t);
                                               },
                                               [](void*) {}};
    context_->reader->fn = &functions;
    context_->reader->privdata = this;
    context_->reader->maxbuf = 0;  // keep the buffer between pieces
    if (!options_.password.empty()) append({"AUTH", options_.password});
    if (options_.database) append({"SELECT", std::to_string(options_.database)});
    return status::ok;
  }
  void disconnect() noexcept {
    context_.reset();
    owed_.clear();
    in_flight_ = 0;
    for (read& r : reads_) r.asked = r.bytes;
  }
  // The connection is gone, or what it says makes no sense: reads that have reconnects left go on with a new one.
  void lose(status why) {
    disconnect();
    command_ = {why, 0};
    for (std::size_t i = reads_.size(); i-- > 0;)
      if (reads_[i].reconnects-- <= 0) finish(reads_[i].which, why);
  }
  void finish(ticket t, status s) {
    for (std::size_t i = 0; i < reads_.size(); ++i)
      if (reads_[i].which == t) {
        done_.push_back({t, s, reads_[i].bytes});
        reads_.erase(reads_.begin() + std::ptrdiff_t(i));
        return;
      }
  }

  void append(std::initializer_list<std::string_view> words) {
    const char* text[4];
    std::size_t length[4];
    int n = 0;
    for (const std::string_view w : words) text[n] = w.data(), length[n++] = w.size();
    if (::redisAppendCommandArgv(context_.get(), n, text, length) == REDIS_OK) owed_.push_back({});
  }

  // Asks for pieces, oldest read first, as long as there is room in flight.
  void ask() {
    for (read& r : reads_)
      while (r.asked < r.buffer.size()) {
        if (in_flight_ >= options_.bytes_in_flight) return;
        const std::size_t left = r.buffer.size() - r.asked;
        const std::size_t n = left < options_.piece_bytes ? left : options_.piece_bytes;
        const std::string first = std::to_string(r.offset + r.asked), last = std::to_string(r.offset + r.asked + n - 1);
        append({"GETRANGE", r.key, first, last});
        owed_.back() = {r.which, n};
        r.asked += n;
        in_flight_ += n;
      }
  }

  // One round: write what is to be written, wait for the socket, read what has come.
  void pump(double seconds) {
    if (!context_ && connect() != status::ok) return lose(status::connection_lost);
    ask();
    int written = 0;
    if (::redisBufferWrite(context_.get(), &written) != REDIS_OK) return lose(status::connection_lost);
    pollfd p{context_->fd, short(written ? POLLIN : POLLIN | POLLOUT), 0};
    const double wait = seconds < 0 ? 0 : seconds > 60 ? 60 : seconds;
    if (::poll(&p, 1, int(wait * 1000 + 0.999)) <= 0 || !(p.revents & (POLLIN | POLLERR | POLLHUP))) return;
    // As long as bytes lie ready and a piece is not whole; then the caller has its turn.
    const std::size_t owed_before = owed_.size();
    do {
      const std::size_t before = context_->reader->len;
      if (::redisBufferRead(context_.get()) != REDIS_OK) return lose(status::connection_lost);
      const bool drained = context_->reader->len == before;
      if (drained) return;
      if (context_->reader->len - context_->reader->pos > options_.piece_bytes + (64u << 10))
        return lose(status::wrong_length);
      if (!take()) return;
    } while (owed_.size() == owed_before);
  }
  // Hands on whole answers. False when the connection is gone.
  bool take() {
    for (void* reply = this; reply;) {
      if (::redisReaderGetReply(context_->reader, &reply) != REDIS_OK) return lose(status::parse_error), false;
      if (reply && bad_ != status::ok) return lose(std::exchange(bad_, status::ok)), false;
    }
    return true;
  }

  static redis_source& self(const redisReadTask* t) noexcept { return *static_cast<redis_source*>(t->privdata); }
  void* text(const redisReadTask* t, std::span<const char> s) {
    if (t->type != REDIS_REPLY_ERROR) return settle({status::ok, 0}, t, s);
    const std::string_view words(s.data(), s.size());
    return settle({words.starts_with("OOM") || words.starts_with("MISCONF") ? status::no_space : status::refused, 0},
                  t);
  }
  // The answer to what is owed first. Called by hiredis in the middle of parsing: nothing here may touch the connection.
  void* settle(answer a, const redisReadTask* t, std::span<const char> s = {}) {
    if (owed_.empty() || t->parent) return bad_ = status::parse_error, this;
    const owed o = owed_.front();
    owed_.pop_front();
    if (o.which == 0) {
      if (command_.state == status::ok || command_.state == status::timed_out)
        command_ = a;  // AUTH, SELECT: errors stay
      return this;
    }
    in_flight_ -= o.bytes;
    for (read& r : reads_) {
      if (r.which != o.which) continue;
      if (a.state == status::ok && t->type != REDIS_REPLY_STRING) a.state = status::parse_error;
      if (a.state == status::ok && s.empty()) a.state = status::not_found;
      const std::size_t n = s.size() < o.bytes ? s.size() : o.bytes;
      if (a.state == status::ok) {
        std::memcpy(r.buffer.data() + r.bytes, s.data(), n);
        r.bytes += n;
        if (s.size() != o.bytes) a.state = status::wrong_length;
      }
      if (a.state != status::ok || r.bytes == r.buffer.size()) finish(o.which, a.state);
      break;
    }
    return this;
  }

  // What has come of a piece that is not whole: hiredis keeps it behind the line with its length.
  std::span<const char> partial(ticket t) const noexcept {
    if (!context_ || owed_.empty() || owed_.front().which != t) return {};
    const redisReader& in = *context_->reader;
    std::string_view left(in.buf + in.pos, in.len - in.pos);
    if (left.starts_with('$')) left.remove_prefix(1);  // stands there until hiredis has seen it
    const std::size_t line = left.substr(0, 32).find("\r\n");
    if (line == left.npos || left.find_first_not_of("0123456789") != line) return {};
    const std::string_view bytes = left.substr(line + 2, owed_.front().bytes);
    return {bytes.data(), bytes.size()};
  }

  answer command(std::initializer_list<std::string_view> words) {
    const double until = now() + options_.timeout_seconds;
    for (int attempt = 0; attempt <= options_.reconnects; ++attempt) {
      command_ = {status::connection_lost, 0};
      if (!context_ && connect() != status::ok) continue;
      command_ = {};
      append(words);
      while (now() < until && context_ && !settled()) pump(until - now());
      if (command_.state != status::connection_lost) break;
    }
    if (command_.state == status::timed_out) disconnect();
    return command_;
  }
  bool settled() const noexcept {
    for (const owed& o : owed_)
      if (o.which == 0) return false;
    return true;
  }

  struct free_context {
    void operator()(redisContext* c) const noexcept { ::redisFree(c); }
  };
  redis_options options_;
  std::unique_ptr<redisContext, free_context> context_;
  std::vector<read> reads_;
  std::deque<owed> owed_;
  std::deque<completion> done_;
  answer command_;
  status bad_ = status::ok;
  std::size_t in_flight_ = 0;
  ticket last_ = 0;
};

static_assert(byte_source<redis_source>);

}  // namespace sluice::stream
