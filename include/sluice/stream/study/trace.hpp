// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <string_view>
#include <vector>

namespace sluice::stream {

/// Some seconds of a link.
struct link_segment {
  double seconds = 0;           ///< how long it lasts
  double bytes_per_second = 0;  ///< 0 = nothing passes
  double latency_seconds = 0;   ///< from a request to its first byte
};

/// What a link did over time; begins anew when it has ended. All answers are exact for piecewise constant rates.
class link_trace {
 public:
  link_trace() = default;
  /// Errors: invalid_argument (nothing, or a figure that is negative, not finite or absurd; no time at all).
  static result<link_trace> make(std::vector<link_segment> segments) {
    link_trace t;
    t.begins_.assign(1, 0);
    t.bytes_.assign(1, 0);
    for (const link_segment& s : segments) {
      for (double x : {s.seconds, s.bytes_per_second, s.latency_seconds})
        if (!(x >= 0) || !(x < 1e15)) return status::invalid_argument;
      if (!(s.seconds > 0)) return status::invalid_argument;
      t.begins_.push_back(t.begins_.back() + s.seconds);
      t.bytes_.push_back(t.bytes_.back() + s.seconds * s.bytes_per_second);
    }
    if (segments.empty()) return status::invalid_argument;
    t.segments_ = std::move(segments);
    return t;
  }
  /// The same rate for ever. Figures that make() refuses are a mistake of the caller's: value() fails.
  static link_trace constant(double bytes_per_second, double latency_seconds = 0) {
    return make({{1, bytes_per_second, latency_seconds}}).value();
  }

  /// What make() was given.
  const std::vector<link_segment>& segments() const noexcept { return segments_; }
  /// How long it lasts until it begins anew.
  double seconds() const noexcept { return begins_.back(); }
  /// Over that time.
  double mean_bytes_per_second() const noexcept { return bytes_.back() / begins_.back(); }
  /// The same link with every rate multiplied.
  link_trace scaled(double factor) const {
    std::vector<link_segment> s = segments_;
    for (link_segment& x : s) x.bytes_per_second *= factor;
    return make(std::move(s)).value();
  }

  /// Seconds from a request at time t to its first byte.
  double latency_at(double t) const noexcept { return segments_[segment_at(std::fmod(t, seconds()))].latency_seconds; }
  /// Bytes that pass from time 0 to t.
  double bytes_until(double t) const noexcept {
    const double rounds = std::floor(t / seconds()), in = t - rounds * seconds();
    const std::size_t i = segment_at(in);
    return rounds * bytes_.back() + bytes_[i] + (in - begins_[i]) * segments_[i].bytes_per_second;
  }
  /// Bytes that pass between two times; 0 where the second is not later.
  double bytes_between(double from, double to) const noexcept {
    return to > from ? bytes_until(to) - bytes_until(from) : 0;
  }
  /// When bytes that begin to be sent at `start` have passed; infinity on a dead link.
  double finish_time(double start, double bytes) const noexcept {
    if (!(bytes > 0)) return start;
    if (!(bytes_.back() > 0)) return std::numeric_limits<double>::infinity();
    const double round = std::floor(start / seconds()), in = start - round * seconds();
    const std::size_t i = segment_at(in);
    const double rest = (begins_[i + 1] - in) * segments_[i].bytes_per_second;
    if (bytes <= rest) return start + bytes / segments_[i].bytes_per_second;  // most transfers: no sum that could round
    const double target = bytes_[i + 1] - rest + bytes;
    double rounds = std::floor(target / bytes_.back()), left = target - rounds * bytes_.back();
    if (!(left > 0)) {
      left = bytes_.back();
      rounds -= 1;
    }
    std::size_t k = std::size_t(std::lower_bound(bytes_.begin() + 1, bytes_.end(), left) - bytes_.begin());
    k = std::min(k, segments_.size());
    const double within = (left - bytes_[k - 1]) / segments_[k - 1].bytes_per_second;
    return std::max(start, (round + rounds) * seconds() + begins_[k - 1] + within);
  }
  /// The first moment from `t` on in which bytes pass (or, with `pass` false, in which none do); infinity where there is none.
  double next_moment(double t, bool pass) const noexcept {
    double round = std::floor(t / seconds());
    const double in = t - round * seconds() + 1e-12 * (1 + t);  // the end of a segment, however rounded, is not in it
    std::size_t i = in < seconds() ? segment_at(in) : 0;
    if (in >= seconds()) round += 1;
    if ((segments_[i].bytes_per_second > 0) == pass) return t;
    for (std::size_t n = 1; n <= segments_.size(); ++n) {
      if (++i == segments_.size()) {
        i = 0;
        round += 1;
      }
      if ((segments_[i].bytes_per_second > 0) == pass) return std::max(t, round * seconds() + begins_[i]);
    }
    return std::numeric_limits<double>::infinity();
  }

 private:
  std::size_t segment_at(double in) const noexcept {
    const auto it = std::upper_bound(begins_.begin(), begins_.end(), in);
    const std::ptrdiff_t i = it - begins_.begin() - 1;
    return std::size_t(std::clamp<std::ptrdiff_t>(i, 0, std::ptrdiff_t(segments_.size()) - 1));
  }

  std::vector<link_segment> segments_;
  std::vector<double> begins_ = {0}, bytes_ = {0};
};

/// Why a text was refused, and in which line (from 1).
struct trace_error {
  int line = 0;           ///< 1 is the header; 0 = nothing was refused
  const char* what = "";  ///< in words; not owned
};

/// Reads `duration_s,bandwidth_bps,latency_s` lines under that header, from a source that is not trusted.
/// Errors: parse_error; `error`, if given, says where and why.
inline result<link_trace> parse_link_trace(std::string_view text, trace_error* error = nullptr) {
  int line = 0;
  const auto fail = [&](const char* what) -> result<link_trace> {
    if (error) *error = {line, what};
    return status::parse_error;
  };
  const auto next_line = [&] {
    ++line;
    const std::size_t end = std::min(text.find('\n'), text.size());
    std::string_view s = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!s.empty() && s.back() == '\r') s.remove_suffix(1);
    return s;
  };
  if (next_line() != "duration_s,bandwidth_bps,latency_s") return fail("no header duration_s,bandwidth_bps,latency_s");
  std::vector<link_segment> segments;
  while (!text.empty()) {
    std::string_view s = next_line();
    if (s.empty()) continue;
    double x[3];
    for (int i = 0; i < 3; ++i) {
      const auto [end, code] = std::from_chars(s.data(), s.data() + s.size(), x[i]);
      if (code != std::errc{} || !std::isfinite(x[i])) return fail("not a number");
      s.remove_prefix(std::size_t(end - s.data()));
      if (i < 2 && (s.empty() || s[0] != ',')) return fail("not three columns");
      if (i < 2) s.remove_prefix(1);
    }
    if (!s.empty()) return fail("not three columns");
    if (!(x[0] > 0) || x[0] > 1e9) return fail("duration out of range");
    if (!(x[1] >= 0) || x[1] > 1e15) return fail("bandwidth out of range");
    if (!(x[2] >= 0) || x[2] > 1e6) return fail("latency out of range");
    if (segments.size() >= 10'000'000) return fail("too many segments");
    segments.push_back({x[0], x[1] / 8, x[2]});
  }
  if (segments.empty()) return fail("no segments");
  return link_trace::make(std::move(segments));
}

/// Made-up links of a datacentre, for machines without recorded ones; the same seed gives the same link everywhere. Rates in
/// Gbit/s between 0.1 and 100, segments of 0.1 to 1 s.
class synthetic_link {
 public:
  /// The links that are asked for one after the other follow from the seed and from those before.
  explicit synthetic_link(std::uint64_t seed) : state_(seed) {}

  /// Ten chunks' worth of rates as CacheGen's adaptation script draws them.
  link_trace cachegen() {
    for (int i = 0; i < 10; ++i) {
      const double d = step();
      add(d, uniform(0.1, 10));
    }
    return done();
  }
  /// A share of a link of C that up to `most` other flows join and leave.
  link_trace share(double c, int most) {
    int k = int(next() % std::uint64_t(most + 1));
    while (seconds_ < 60) {
      const double d = step();
      add(d, c / (1 + k) * uniform(0.9, 1));
      const double x = unit();
      k = std::clamp(x < 0.35 ? k + 1 : x < 0.7 ? k - 1 : k, 0, most);
    }
    return done();
  }
  /// A token bucket: rate `burst` while credit (Gbit) lasts, then `base`.
  link_trace bucket(double burst, double base, double cap) {
    double credit = cap;
    while (seconds_ < 60) {
      const double d = step();
      double rate = burst;
      if (credit > 0) {
        credit -= (burst - base) * d;
      } else {
        rate = base;
        if (unit() < 0.08) credit = cap * uniform(0.2, 1);
      }
      add(d, rate * uniform(0.92, 1));
    }
    return done();
  }
  /// Log-normal rates around m with a memory.
  link_trace lognorm(double m, double s, double rho) {
    double x = s * normal();
    while (seconds_ < 60) {
      const double d = step();
      add(d, m * std::exp(x));
      x = rho * x + std::sqrt(1 - rho * rho) * s * normal();
    }
    return done();
  }
  /// A link of C that others' bursts press down to [low, high] with probability p.
  link_trace incast(double c, double p, double low, double high) {
    while (seconds_ < 60) {
      if (unit() < p) {
        const double d = milliseconds(uniform(0.1, 0.5));
        add(d, uniform(low, high));
      } else {
        const double d = step();
        add(d, c * uniform(0.85, 1));
      }
    }
    return done();
  }

 private:
  std::uint64_t next() {  // splitmix64
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double unit() { return double(next() >> 11) * 0x1p-53; }
  double uniform(double a, double b) { return a + (b - a) * unit(); }
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - unit()));
    return radius * std::cos(2 * std::numbers::pi * unit());
  }
  static double milliseconds(double s) { return std::round(s * 1000) / 1000; }
  double step() { return milliseconds(uniform(0.1, 1)); }
  void add(double seconds, double gbit) {
    segments_.push_back({seconds, std::round(std::clamp(gbit, 0.1, 100.0) * 1e9) / 8, 0});
    seconds_ += seconds;
  }
  link_trace done() {
    seconds_ = 0;
    return link_trace::make(std::exchange(segments_, {})).value();
  }

  std::uint64_t state_;
  double seconds_ = 0;
  std::vector<link_segment> segments_;
};

}  // namespace sluice::stream
