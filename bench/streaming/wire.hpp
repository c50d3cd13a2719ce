// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/study/trace.hpp>

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <deque>
#include <fstream>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

// A network link between two namespaces of one machine, as netem would make it where a kernel has it: packets of real TCP
// connections, of 1,500 bytes and less, pass through this process, which delays, spaces and loses them.

namespace wire {

inline double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Moves this process into a new network namespace that has this address on a tun device. Returns the device, or -1 with why
/// not in errno: it takes root, or `unshare -Ur`. Servers that are started next live there.
inline int enter(const char* address) {
  if (::unshare(CLONE_NEWNET) != 0) return -1;
  const int tun = ::open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
  const int s = ::socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  const auto device = [](const char* name) {
    ifreq r{};
    std::strcpy(r.ifr_name, name);
    return r;
  };
  const auto set = [&](unsigned long what, const char* of) {
    ifreq r = device("wire");
    sockaddr_in a{};
    a.sin_family = AF_INET;
    a.sin_addr.s_addr = ::inet_addr(of);
    std::memcpy(&r.ifr_addr, &a, sizeof a);
    return ::ioctl(s, what, &r) == 0;
  };
  const auto up = [&](const char* name) {
    ifreq r = device(name);
    r.ifr_flags = IFF_UP | IFF_RUNNING;
    return ::ioctl(s, SIOCSIFFLAGS, &r) == 0;
  };
  if (!up("lo")) return -1;
  ifreq made = device("wire"), length = device("wire");
  made.ifr_flags = IFF_TUN | IFF_NO_PI;
  length.ifr_qlen = 10'000;
  const bool done = tun >= 0 && ::ioctl(tun, TUNSETIFF, &made) == 0 && set(SIOCSIFADDR, address) &&
                    set(SIOCSIFNETMASK, "255.255.255.0") && ::ioctl(s, SIOCSIFTXQLEN, &length) == 0 && up("wire");
  ::close(s);
  if (!done) return -1;
  // A connection keeps what it has learned of the link while it rests, and none learns from another.
  std::ofstream("/proc/sys/net/ipv4/tcp_slow_start_after_idle") << 0;
  std::ofstream("/proc/sys/net/ipv4/tcp_no_metrics_save") << 1;
  return tun;
}

/// The congestion control of connections that this namespace will accept. False where the kernel does not have it.
inline bool congestion_control(const std::string& name) {
  std::ofstream file("/proc/sys/net/ipv4/tcp_congestion_control");
  return bool((file << name).flush());
}

/// What lies between two devices of enter(). One thread.
class link {
 public:
  static constexpr double packet_bytes = 1500, payload_bytes = 1448;  // of TCP over IPv4 with timestamps
  static constexpr std::size_t longest_queue = 1000;                  // packets, as netem has it

  link(int near, int far) : near_(near), far_(far), thread_([this] { run(); }) {}
  ~link() {
    stop_ = true;
    thread_.join();
  }
  link(const link&) = delete;
  link& operator=(const link&) = delete;

  /// From now on packets towards the near end take this trace, whose time begins now: rates are those of the packets, the
  /// latency is that of a round trip. A share of all packets is lost, and where nothing passes every packet is lost, or waits.
  void begin(const sluice::stream::link_trace& trace, double loss = 0, bool outages_lose = false) {
    const std::lock_guard lock(mutex_);
    trace_ = trace;
    loss_ = loss;
    outages_lose_ = outages_lose;
    origin_ = seconds();
    free_ = 0;
  }

 private:
  struct packet {
    double due;
    std::vector<char> bytes;
  };

  void run() {
    std::deque<packet> ways[2];  // to the near end, to the far end
    while (!stop_) {
      double next = seconds() + 0.01;
      for (const auto& way : ways)
        if (!way.empty()) next = std::min(next, way.front().due);
      const double wait = std::max(0.0, next - seconds());
      timespec t{std::time_t(wait), long((wait - double(std::time_t(wait))) * 1e9)};
      pollfd ready[2] = {{near_, POLLIN, 0}, {far_, POLLIN, 0}};
      ::ppoll(ready, 2, &t, nullptr);
      if (ready[1].revents) take(far_, ways[0], true);
      if (ready[0].revents) take(near_, ways[1], false);
      for (int to : {0, 1})
        for (auto& way = ways[to]; !way.empty() && way.front().due <= seconds(); way.pop_front())
          if (::write(to == 0 ? near_ : far_, way.front().bytes.data(), way.front().bytes.size()) < 0) continue;
    }
  }
  void take(int from, std::deque<packet>& way, bool slow) {
    char bytes[2048];
    const std::lock_guard lock(mutex_);
    for (ssize_t n; (n = ::read(from, bytes, sizeof bytes)) > 0;) {
      const double now = seconds() - origin_;
      const double passes = trace_.next_moment(now, true);
      const bool lost = std::uniform_real_distribution<>()(random_) < loss_ || (outages_lose_ && passes > now);
      if (lost || way.size() >= longest_queue) continue;
      double passed = passes;
      if (slow) passed = free_ = trace_.finish_time(std::max(now, free_), double(n));
      way.push_back({origin_ + passed + trace_.latency_at(now) / 2, {bytes, bytes + n}});
    }
  }

  int near_, far_;
  std::mutex mutex_;
  sluice::stream::link_trace trace_ = sluice::stream::link_trace::make({{1, 1e9, 0}}).value();
  bool outages_lose_ = false;
  double loss_ = 0, origin_ = 0, free_ = 0;  // free_: when the last packet will have passed
  std::mt19937 random_{1};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

}  // namespace wire
