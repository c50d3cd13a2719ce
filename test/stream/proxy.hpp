// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <stream/servers.hpp>

#include <poll.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

/// A TCP proxy between a test and a real server that does what bad networks and bad servers do.
class proxy {
 public:
  enum class verdict { pass, stall, reset, close };
  /// What passes from the server: may change the bytes, and decides. `before`: bytes of this connection so far;
  /// `connection` counts from 0.
  using rule = std::function<verdict(std::string& bytes, std::size_t before, int connection)>;

  explicit proxy(int server_port)
      : server_(server_port), listener_(servers::listen_somewhere(port_)), thread_([this] { run(); }) {}
  proxy(const proxy&) = delete;
  proxy& operator=(const proxy&) = delete;
  ~proxy() {
    end_ = true;
    thread_.join();
    for (link& l : links_) l.close();
    ::close(listener_);
  }
  int port() const { return port_; }
  void set(rule r) {
    const std::lock_guard lock(mutex_);
    rule_ = std::move(r);
    connections_ = 0;
  }
  /// The same for what passes to the server.
  void set_upward(rule r) {
    const std::lock_guard lock(mutex_);
    upward_ = std::move(r);
    connections_ = 0;
  }
  /// What connections made from now on carry each way; 0 = as much as there is. Buffers are small, so that senders notice.
  void throttle(double bytes_per_second) {
    const int buffer = bytes_per_second > 0 ? 16 << 10 : 4 << 20;
    ::setsockopt(listener_, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
    rate_ = bytes_per_second;
  }
  int connections() const { return connections_; }
  /// From now on what the server sends takes `delay` seconds longer, and nothing passes for `outage` seconds that begin `after`
  /// seconds after the first byte would have.
  void slow(double delay, double after = 0, double outage = 0) {
    const std::lock_guard lock(mutex_);
    slow_ = true;
    delay_ = delay;
    after_ = after;
    outage_ = outage;
    outage_begins_ = -1;
  }

  // --- rules ---
  static rule honest() {
    return [](std::string&, std::size_t, int) { return verdict::pass; };
  }
  /// Passes `bytes` of every connection (of the first `connections`), then does what is asked.
  static rule after(std::size_t bytes, verdict what, int connections = 1 << 30) {
    return [=](std::string& s, std::size_t before, int connection) {
      if (connection >= connections || before + s.size() <= bytes) return verdict::pass;
      s.resize(bytes > before ? bytes - before : 0);
      return what;
    };
  }
  /// Changes one byte of every connection.
  static rule flip(std::size_t at) {
    return [=](std::string& s, std::size_t before, int) {
      if (at >= before && at < before + s.size()) s[at - before] = char(s[at - before] ^ 0x10);
      return verdict::pass;
    };
  }
  /// Writes `to` over what follows `from` wherever that appears.
  static rule overwrite(std::string from, std::string to) {
    return [=](std::string& s, std::size_t, int) {
      for (std::size_t at = 0; (at = s.find(from, at)) != s.npos; at += from.size())
        for (std::size_t i = 0; i < to.size() && at + from.size() + i < s.size(); ++i) s[at + from.size() + i] = to[i];
      return verdict::pass;
    };
  }

 private:
  struct link {
    int client, server;
    std::size_t passed = 0;
    int number = 0;
    std::size_t passed_up = 0;
    double up_from = 0, down_from = 0;  // when more may pass
    bool stalled = false, closed = false;
    std::deque<std::pair<double, std::string>> late = {};  // bytes on their way, and when they come
    void close() {
      if (client >= 0) ::close(client);
      if (server >= 0) ::close(server);
      client = server = -1;
      closed = true;
    }
  };

  void run() {
    while (!end_) {
      std::vector<pollfd> fds{{listener_, POLLIN, 0}};
      const double t = now();
      for (const link& l : links_) {
        fds.push_back({t < l.up_from ? -1 : l.client, POLLIN, 0});
        fds.push_back({l.stalled || t < l.down_from ? -1 : l.server, POLLIN, 0});
      }
      bool waiting = false;
      for (link& l : links_) waiting = deliver(l) || waiting;
      if (::poll(fds.data(), nfds_t(fds.size()), waiting ? 1 : rate_ > 0 ? 2 : 20) <= 0) continue;
      for (std::size_t i = 0; i < links_.size(); ++i) {
        if (links_[i].closed) continue;
        if (fds[1 + 2 * i].revents) up(links_[i]);
        if (!links_[i].closed && fds[2 + 2 * i].revents) down(links_[i]);
      }
      if (fds[0].revents) {
        const int client = ::accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (client >= 0) links_.push_back({client, servers::connect_to(server_), 0, connections_++});
        if (!links_.empty() && links_.back().server < 0) links_.back().close();
      }
      std::erase_if(links_, [](const link& l) { return l.closed; });
    }
  }
  static double now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  // Receives what may pass now, and says from when on more may.
  ssize_t take(int from, std::string& s, double& next) {
    const double rate = rate_;
    s.resize(rate > 0 ? std::size_t(std::clamp(rate / 50, 1.0, 65536.0)) : 65536);
    const ssize_t n = ::recv(from, s.data(), s.size(), MSG_DONTWAIT);
    s.resize(n > 0 ? std::size_t(n) : 0);
    if (rate > 0 && n > 0) next = std::max(next, now() - 0.02) + double(n) / rate;
    return n;
  }
  static bool send_all(int to, const std::string& s) {
    for (std::size_t at = 0; at < s.size();) {
      const ssize_t n = ::send(to, s.data() + at, s.size() - at, MSG_NOSIGNAL | MSG_DONTWAIT);
      if (n < 0 && errno != EAGAIN) return false;
      if (n < 0) {
        pollfd p{to, POLLOUT, 0};
        if (::poll(&p, 1, 2000) <= 0) return false;
      } else {
        at += std::size_t(n);
      }
    }
    return true;
  }
  // Keeps bytes for as long as the link is slow. False where it is not.
  bool hold_back(link& l, std::string& s) {
    const std::lock_guard lock(mutex_);
    if (!slow_) return false;
    double due = now() + delay_;
    if (outage_begins_ < 0) outage_begins_ = due + after_;
    if (due >= outage_begins_) due = std::max(due, outage_begins_ + outage_);
    l.late.emplace_back(due, std::move(s));
    return true;
  }
  // Passes on what has come by now. Returns whether there is more.
  static bool deliver(link& l) {
    while (!l.closed && !l.late.empty() && l.late.front().first <= now()) {
      if (!send_all(l.client, l.late.front().second)) return l.close(), false;
      l.late.pop_front();
    }
    return !l.closed && !l.late.empty();
  }
  void up(link& l) {
    std::string s;
    if (take(l.client, s, l.up_from) <= 0) return l.close();
    const std::size_t before = l.passed_up;
    l.passed_up += s.size();
    verdict v = verdict::pass;
    {
      const std::lock_guard lock(mutex_);
      v = upward_(s, before, l.number);
    }
    if (!send_all(l.server, s)) return l.close();
    end(l, v);
  }
  void down(link& l) {
    std::string s;
    if (take(l.server, s, l.down_from) <= 0) return l.close();
    const std::size_t before = l.passed;
    l.passed += s.size();
    verdict v = verdict::pass;
    {
      const std::lock_guard lock(mutex_);
      v = rule_(s, before, l.number);
    }
    if (hold_back(l, s)) return;
    if (!send_all(l.client, s)) return l.close();
    end(l, v);
  }
  static void end(link& l, verdict v) {
    if (v == verdict::stall) l.stalled = true;
    if (v == verdict::reset) {
      const linger hard{1, 0};
      ::setsockopt(l.client, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    }
    if (v == verdict::reset || v == verdict::close) l.close();
  }

  int server_, port_ = 0, listener_;
  std::atomic<bool> end_{false};
  std::atomic<int> connections_{0};
  std::mutex mutex_;
  rule rule_ = honest(), upward_ = honest();
  std::atomic<double> rate_{0};
  bool slow_ = false;
  double delay_ = 0, after_ = 0, outage_ = 0, outage_begins_ = -1;
  std::vector<link> links_;
  std::thread thread_;
};
