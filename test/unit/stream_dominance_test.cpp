// SPDX-License-Identifier: Apache-2.0
// Whether choices of the default policy are beaten in time and in loss by another of the same inputs: links of 1 Mbit/s to
// 400 Gbit/s whose rate is known, decoders of 0.2 to 1,000 GB/s, 1 to 200 chunks.
#include <doctest/doctest.h>
#include <sluice/stream/plan/any_policy.hpp>
#include <sluice/stream/plan/by_name.hpp>
#include <sluice/stream/study/simulator.hpp>

#include <cmath>
#include <random>
#include <string>

namespace {

using namespace sluice::stream;

struct situation {
  cost_model cost;
  double bytes_per_second, deadline;
};

situation random_situation(std::uint32_t seed) {
  std::mt19937 random(seed);
  const auto uniform = [&](double a, double b) { return a + (b - a) * (double(random()) / 4294967296.0); };
  const auto log_uniform = [&](double a, double b) { return std::exp(uniform(std::log(a), std::log(b))); };
  const int chunks = int(log_uniform(1, 200));
  const double values_per_token = log_uniform(1e4, 3e5);
  std::vector<chunk_cost> costs;
  for (int c = 0; c < chunks; ++c) {
    chunk_cost k{256 * std::int64_t{c}, 256, std::uint64_t(256 * values_per_token), {}, {}};
    for (const double bits : {1.05, 2.12, 3.5, 5.0, 16.0})
      k.bytes.push_back(std::uint64_t(double(k.values) * bits / 8));
    for (const double nats : {0.0677, 0.0093, 0.00097, 0.0001}) k.loss.push_back(nats / chunks);
    costs.push_back(k);
  }
  cost_rates r;
  r.decode_seconds_per_value = 2 / log_uniform(0.2e9, 1000e9);
  r.exact_decode_seconds_per_value = r.decode_seconds_per_value / log_uniform(1, 10);
  r.recompute_seconds_per_token = log_uniform(1e-5, 2e-3);
  r.latency_seconds = uniform(0, 1) < 0.5 ? 0 : log_uniform(1e-4, 0.1);
  const double rate = log_uniform(1e6, 400e9) / 8, deadline = log_uniform(0.05, 4);
  return {cost_model::make(std::move(costs), r, 4).value(), rate, deadline};
}

outcome run(const situation& s, const auto& policy) {
  const simulated_request r{0, s.deadline, &s.cost};
  simulation_options options;
  options.assumed_bytes_per_second = s.bytes_per_second;
  return simulate({&r, 1}, link_trace::constant(s.bytes_per_second), policy, options).value()[0];
}

}  // namespace

TEST_CASE(
    "the default policy meets what any meets, and is hardly ever beaten in time and loss, where the link is known") {
  constexpr int situations = 500;
  int dominated = 0;
  for (std::uint32_t seed = 1; seed <= situations; ++seed) {
    const situation s = random_situation(seed);
    const policy::progressive_cake our_policy;
    const outcome ours = run(s, erased(our_policy));
    bool worse = false;
    for (const std::string_view name : policy_names)
      with_policy(name, [&](const auto& policy) {
        const outcome other = run(s, erased(policy));
        INFO("seed ", seed, ", ", std::string(name));
        CHECK((ours.met || !other.met));
        worse |=
            other.seconds < 0.98 * ours.seconds && other.loss <= ours.loss * (1 + 1e-9) && (other.met || !ours.met);
      });
    if (worse) MESSAGE("beaten in time and loss: seed ", seed);
    dominated += worse;
  }
  // What is left is the price of having the base of every chunk before more of any (where a decoder is slow, chunks are then
  // decoded twice), and of going on to ask a link that is slower than the engine.
  CHECK(dominated <= situations * 3 / 100);
}
