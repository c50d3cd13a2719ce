// SPDX-License-Identifier: Apache-2.0
// When silence makes reads late; and an executor in virtual time, which must do what the simulator says of the same link.
#include <sluice/stream/plan/any_policy.hpp>
#include <sluice/stream/plan/by_name.hpp>
#include <sluice/stream/study/simulator.hpp>

#include <doctest/doctest.h>

#include <support/virtual_link.hpp>

#include <cmath>
#include <random>
#include <string_view>

using namespace sluice;
using namespace sluice::stream;

namespace {

double raw_bytes(const cost_model& cost) {
  double bytes = 0;
  for (int c = 0; c < cost.num_chunks(); ++c) bytes += double(cost.bytes(c, cost.exact_level()));
  return bytes;
}
outcome simulated(const cost_model& cost, const link_trace& link, auto policy, double deadline) {
  const simulated_request r{0, deadline, &cost};
  return simulate({&r, 1}, link, policy, {.keep_steps = true}).value().at(0);
}

}  // namespace

TEST_CASE("patience: a second, or the mean round trip and four deviations, and it doubles between probes") {
  link_history link;
  patience p;
  CHECK(p.seconds(link) == 1);
  link.observe_round_trip(0.1);
  CHECK(p.seconds(link) == 1);
  link_history slow;
  slow.observe_round_trip(2);  // RFC 6298: mean 2, deviation 1
  CHECK(p.seconds(slow) == doctest::Approx(6));
  for (int i = 0; i < 100; ++i) slow.observe_round_trip(2);
  CHECK(p.seconds(slow) == doctest::Approx(2).epsilon(0.01));
  CHECK(slow.least_round_trip_seconds() == 2);
  slow.observe_round_trip(1e6);
  CHECK(p.seconds(slow) == 60);

  p.begin(5);
  CHECK_FALSE(p.look(link, 5.99));
  CHECK(p.may_ask(5.99));
  CHECK(p.look(link, 6));
  for (double wait : {1.0, 2.0, 4.0, 8.0}) {
    const double now = 10;
    CHECK(p.silent());
    p.asked(link, now);
    CHECK_FALSE(p.may_ask(now + 0.99 * wait));
    CHECK(p.ask_at_seconds() == now + wait);
    p.begin(100);  // a probe is no sign of life
    CHECK(p.silent());
  }
  p.heard(200);
  CHECK_FALSE(p.silent());
  CHECK(p.may_ask(200));
  CHECK_FALSE(p.look(link, 200.5));

  p.broke(199, 300);  // asked for before something was heard: not the link
  CHECK_FALSE(p.silent());
  p.broke(200, 300);
  CHECK(p.silent());
  CHECK(p.ask_at_seconds() == 300.125);
}

TEST_CASE("a trace says when it stops and goes on") {
  const link_trace t = link_trace::make({{1, 0, 0}, {1, 5, 0}, {1, 0, 0}, {1, 0, 0}}).value();
  CHECK(t.next_moment(0.5, true) == 1);
  CHECK(t.next_moment(1.5, true) == 1.5);
  CHECK(t.next_moment(1.5, false) == 2);
  CHECK(t.next_moment(2.5, true) == 5);
  CHECK(t.next_moment(40, true) == 41);
  CHECK(link_trace::constant(1).next_moment(3, false) == std::numeric_limits<double>::infinity());
  CHECK(link_trace::make({{1, 0, 0}}).value().next_moment(3, true) == std::numeric_limits<double>::infinity());
}

TEST_CASE("an executor does what the simulator says, over latencies and outages, whatever the policy") {
  int late = 0, met = 0, missed = 0;
  for (std::string_view name : policy_names)
    for (unsigned seed = 0; seed < 60; ++seed) {
      CAPTURE(name);
      CAPTURE(seed);
      std::mt19937 rng(seed);
      const cost_model cost = test::random_context(rng);
      const link_trace link = test::random_link(rng, raw_bytes(cost) / 2);
      const double deadline = std::exp(std::uniform_real_distribution<double>(-2, 2)(rng));
      with_policy(name, [&](auto policy) {
        const outcome o = simulated(cost, link, erased(policy), deadline);
        const report r = test::run_virtually(cost, link, erased(policy), 0, deadline);
        CHECK(r.outcome == status::ok);
        CHECK(r.met == o.met);
        // A byte is heard when it is whole; decisions that hang by it may fall the other way.
        CHECK(r.seconds == doctest::Approx(o.seconds).epsilon(0.01));
        CHECK(std::abs(double(r.recomputed_tokens - o.recomputed_tokens)) <= 0.01 * double(o.recomputed_tokens));
        for (const fault& f : r.faults) late += f.what == status::timed_out;
        (o.met ? met : missed) += 1;
      });
    }
  CHECK(late > 50);
  CHECK(met > 100);
  CHECK(missed > 100);
}

TEST_CASE("silence costs what it lasts: first bytes after 150 to 600 ms, an outage of 0.4 s") {
  std::vector<chunk_cost> chunks;
  for (int i = 0; i < 8; ++i)
    chunks.push_back({32 * i, 32, 0, {30'000, 60'000, 120'000, 500'000}, {0.1, 0.01, 0.001}, {}});
  cost_rates rates;
  rates.recompute_seconds_per_token = 17.0 / 256;  // 17 s for all
  const cost_model cost = cost_model::make(chunks, rates, 3).value();
  const auto both = [&](const link_trace& link, double deadline) {
    const outcome o = simulated(cost, link, policy::progressive_cake{}, deadline);
    const report r = test::run_virtually(cost, link, policy::progressive_cake{}, 0, deadline);
    CHECK(r.met);
    CHECK(o.met);
    CHECK(r.recomputed_tokens == 0);
    CHECK(r.seconds == doctest::Approx(o.seconds).epsilon(0.01));
  };
  both(link_trace::constant(1e8, 0.15), 0.55);
  both(link_trace::constant(1e8, 0.15), 1);
  both(link_trace::constant(1e8, 0.3), 1);
  both(link_trace::constant(1e8, 0.6), 2);
  both(link_trace::make({{0.001, 1e8, 0}, {0.4, 0, 0}, {100, 1e8, 0}}).value(), 1);
  // Longer than patience, under a policy that never computes: the engine works on the first chunk until the link is back.
  const link_trace pause = link_trace::make({{0.001, 1e8, 0}, {1.6, 0, 0}, {100, 1e8, 0}}).value();
  const outcome o = simulated(cost, pause, policy::fixed_level<1>{}, 3);
  const report r = test::run_virtually(cost, pause, policy::fixed_level<1>{}, 0, 3);
  CHECK(o.met);
  CHECK(r.met);
  CHECK(r.recomputed_tokens == 0);
  CHECK(r.seconds == doctest::Approx(1.607).epsilon(0.01));
  REQUIRE_FALSE(r.faults.empty());
  CHECK(r.faults[0].what == status::timed_out);
  CHECK(r.faults[0].detail == "nothing came for 1.0 s");
  CHECK(r.faults[0].seconds == doctest::Approx(1.001).epsilon(0.01));
  // For good: all is computed after a second of patience.
  const link_trace dead = link_trace::make({{0.001, 1e8, 0}, {1e6, 0, 0}}).value();
  CHECK(test::run_virtually(cost, dead, policy::fixed_level<1>{}, 0, 3).seconds == doctest::Approx(18).epsilon(0.15));
  CHECK(test::run_virtually(cost, dead, policy::progressive_cake{}, 0, 1).outcome == status::ok);
}
