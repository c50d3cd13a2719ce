// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/numeric.hpp>

#include <cstddef>
#include <cstdint>

namespace sluice::stream {

/// One finished transfer: seconds are those in which its bytes arrived, without waiting for the first of them.
struct transfer {
  std::uint64_t bytes = 0;  ///< that arrived
  double seconds = 0;       ///< in which they did
  /// Bytes per second; 0 where no time passed.
  double rate() const noexcept { return seconds > 0 ? double(bytes) / seconds : 0; }
};

/// What is known about a link: the last transfers, fed by whoever makes them. Plain data without a clock.
class link_history {
 public:
  static constexpr int capacity = 64;  ///< transfers that are remembered

  link_history() = default;
  /// A link of which only a rate is known in bytes per second, from earlier requests or a measurement; 0 = nothing.
  explicit link_history(double assumed_bytes_per_second) : assumed_(assumed_bytes_per_second) {}

  /// A transfer has ended; one without bytes or time is ignored.
  void observe(std::uint64_t bytes, double seconds) noexcept {
    if (bytes == 0 || !(seconds > 0)) return;
    ring_[count_ % capacity] = {bytes, seconds};
    ++count_;
  }
  /// The first byte of a read came so many seconds after it was asked for, and nothing else came in between.
  void observe_round_trip(double seconds) noexcept {
    if (!(seconds >= 0)) return;
    if (round_trips_++ == 0) {  // RFC 6298, section 2
      least_round_trip_ = round_trip_ = seconds;
      deviation_ = seconds / 2;
      return;
    }
    least_round_trip_ = detail::min(least_round_trip_, seconds);
    deviation_ += (detail::abs(round_trip_ - seconds) - deviation_) / 4;
    round_trip_ += (seconds - round_trip_) / 8;
  }
  /// Transfers that are remembered.
  int size() const noexcept { return int(detail::min(count_, std::uint64_t{capacity})); }
  /// i = 0 is the last.
  const transfer& recent(int i) const noexcept { return ring_[(count_ - 1 - std::uint64_t(i)) % capacity]; }
  /// The rate that was known beforehand; 0 = none.
  double assumed_bytes_per_second() const noexcept { return assumed_; }
  /// Smoothed time to the first byte; 0 = not seen yet.
  double round_trip_seconds() const noexcept { return round_trip_; }
  /// Its smoothed mean deviation; 0 = not seen yet.
  double round_trip_deviation_seconds() const noexcept { return deviation_; }
  /// The least time to a first byte; 0 = not seen yet.
  double least_round_trip_seconds() const noexcept { return least_round_trip_; }

 private:
  transfer ring_[capacity] = {};
  std::uint64_t count_ = 0, round_trips_ = 0;
  double assumed_ = 0;
  double round_trip_ = 0, deviation_ = 0, least_round_trip_ = 0;
};

/// Makes observations of transfers that overlap: one lasts from the end of the one before, or from when its first byte could
/// be there.
class transfer_meter {
 public:
  /// A transfer that was asked for at `asked` has ended; `latency_seconds` as far as it is known beforehand.
  void ended(link_history& link, std::uint64_t bytes, double asked, double now, double latency_seconds) noexcept {
    const double latency = detail::max(latency_seconds, link.least_round_trip_seconds());
    const double from = detail::max(until_, asked + latency);
    bytes_ += bytes;
    if (!(now - from > 1e-6)) return;  // came in the same moment: counts with the next
    link.observe(bytes_, now - from);
    bytes_ = 0;
    until_ = now;
  }

 private:
  std::uint64_t bytes_ = 0;
  double until_ = 0;
};

/// An estimator turns a history into bytes per second for the next `bytes` bytes; 0 = unknown. Policies take one as a
/// parameter. This one: what the last chunk saw (CacheGen).
struct last_chunk {
  /// Bytes per second; 0 = unknown.
  double operator()(const link_history& h, std::uint64_t = 0) const noexcept {
    return h.size() ? h.recent(0).rate() : h.assumed_bytes_per_second();
  }
};

/// Harmonic mean of the last transfers, beginning `skip` transfers ago.
struct harmonic_mean {
  int window = 5;  ///< transfers, at most link_history::capacity
  /// Bytes per second; 0 = unknown.
  double operator()(const link_history& h, std::uint64_t = 0) const noexcept { return at(h, 0); }
  /// The same as it was `skip` transfers ago.
  double at(const link_history& h, int skip) const noexcept {
    const int n = detail::min(window, h.size() - skip);
    if (n <= 0) return h.assumed_bytes_per_second();
    double sum = 0;
    for (int i = 0; i < n; ++i) sum += 1 / h.recent(skip + i).rate();
    return n / sum;
  }
};

/// Harmonic mean divided by 1 + the largest relative error it made over the same window (RobustMPC; Yin et al.,
/// SIGCOMM 2015, section 4.3): a lower bound wherever errors stay as they were.
struct robust_harmonic_mean {
  int window = 5;  ///< transfers, at most link_history::capacity
  /// Bytes per second; 0 = unknown.
  double operator()(const link_history& h, std::uint64_t = 0) const noexcept {
    const harmonic_mean mean{window};
    double worst = 0;
    for (int i = 0; i < window && i + 1 < h.size(); ++i)
      worst = detail::max(worst, detail::abs(mean.at(h, i + 1) - h.recent(i).rate()) / h.recent(i).rate());
    return mean.at(h, 0) / (1 + worst);
  }
};

/// The rate that a share of 1 - q of all remembered transfers of about this size exceeded; sizes are put into buckets of a
/// factor of four, and all sizes count where a bucket holds too few. After Fugu (Yan et al., NSDI 2020), with counts in place of a network.
struct size_quantile {
  double q = 0.25;  ///< share of transfers that may be slower, 0 to 1
  int enough = 8;   ///< transfers in a bucket from which on it counts alone
  /// Bytes per second for a transfer of `bytes` (0 = of any size); 0 = unknown.
  double operator()(const link_history& h, std::uint64_t bytes = 0) const noexcept {
    double rates[link_history::capacity];
    int n = collect(h, bytes, rates);
    if (bytes == 0 || n < enough) n = collect(h, 0, rates);
    if (n == 0) return h.assumed_bytes_per_second();
    const int rank = detail::clamp(int(q * n), 0, n - 1);
    detail::sort(rates, std::size_t(n), [](double a, double b) { return a < b; });
    return rates[rank];
  }

 private:
  static int bucket(std::uint64_t bytes) noexcept { return bytes ? (63 - __builtin_clzll(bytes)) / 2 : -1; }
  static int collect(const link_history& h, std::uint64_t bytes, double* rates) noexcept {
    int n = 0;
    for (int i = 0; i < h.size(); ++i)
      if (bytes == 0 || bucket(h.recent(i).bytes) == bucket(bytes)) rates[n++] = h.recent(i).rate();
    return n;
  }
};

}  // namespace sluice::stream
