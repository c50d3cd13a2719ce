// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/study/trace.hpp>

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <utility>
#include <vector>

// Links that mislead whoever extrapolates: what they did tells little, or the wrong thing, of what they will do. Ten of
// every family, ten seconds each, from fixed seeds; rates are relative, the mean over a trace is 1 byte a second.

namespace hostile {

using sluice::stream::link_segment;
using sluice::stream::link_trace;

class maker {
 public:
  explicit maker(std::uint32_t seed) : random_(seed) {}
  double uniform(double a, double b) { return a + (b - a) * (double(random_()) / 4294967296.0); }
  // Rates by a function of time, a segment every 20 ms.
  template <class Rate>
  link_trace sampled(Rate rate, double latency = 0) {
    std::vector<link_segment> s;
    for (int i = 0; i < 500; ++i) s.push_back({0.02, double(rate(0.02 * i)), latency});
    const link_trace t = link_trace::make(std::move(s)).value();
    return t.scaled(1 / t.mean_bytes_per_second());
  }

 private:
  std::mt19937 random_;
};

struct family {
  std::string name;
  std::function<link_trace(maker&)> make;
};

inline std::vector<family> families() {
  return {
      {"fast start",
       [](maker& m) {
         const double until = m.uniform(0.04, 0.5), then = m.uniform(0.1, 0.5);
         return m.sampled([&](double t) { return t < until ? 1 : then; });
       }},
      {"slow start",
       [](maker& m) {
         const double until = m.uniform(0.04, 0.5), before = m.uniform(0.05, 0.5);
         return m.sampled([&](double t) { return t < until ? before : 1; });
       }},
      {"outage",
       [](maker& m) {
         const double begin = m.uniform(0.05, 0.6), lasts = m.uniform(0.1, 0.6), every = m.uniform(1.2, 2.5);
         return m.sampled([&](double t) {
           const double x = std::fmod(t, every);
           return x >= begin && x < begin + lasts ? 0 : 1;
         });
       }},
      {"sawtooth",
       [](maker& m) {
         const double period = m.uniform(0.2, 1.0), phase = m.uniform(0, 1), low = m.uniform(0.05, 0.3);
         return m.sampled([&](double t) { return low + (1 - low) * std::fmod(t / period + phase, 1); });
       }},
      {"round trips",
       [](maker& m) {
         const double latency = m.uniform(0.02, 0.2), dip = m.uniform(0.3, 1);
         return m.sampled([&](double t) { return std::fmod(t, 0.4) < 0.2 ? 1 : dip; }, latency);
       }},
      {"token bucket",
       [](maker& m) {
         const double burst = m.uniform(2, 6), cap = m.uniform(0.1, 0.8);
         double credit = cap;
         return m.sampled([&](double) {
           const double rate = credit > 0 ? burst : 1;
           credit -= (rate - 1) * 0.02;
           return rate;
         });
       }},
      {"fade",
       [](maker& m) {
         const double half = m.uniform(0.1, 1.0), floor = m.uniform(0.05, 0.3);
         return m.sampled([&](double t) { return floor + std::exp2(-t / half); });
       }},
      {"coin",
       [](maker& m) {
         const double low = m.uniform(0.05, 0.4), every = m.uniform(0.03, 0.2);
         double rate = 1, until = 0;
         return m.sampled([&](double t) {
           if (t >= until) rate = m.uniform(0, 1) < 0.5 ? low : 1, until = t + every;
           return rate;
         });
       }},
  };
}

inline constexpr int links_of_family = 10;

/// The link of a family, 0 <= number < links_of_family.
inline link_trace make(const family& f, int number) {
  std::uint32_t seed = 2166136261u;
  for (const char c : f.name) seed = (seed ^ std::uint32_t(static_cast<unsigned char>(c))) * 16777619u;
  maker m(seed + std::uint32_t(number));
  return f.make(m);
}

}  // namespace hostile
