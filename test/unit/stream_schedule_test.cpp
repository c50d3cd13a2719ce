// SPDX-License-Identifier: Apache-2.0
// Many requests on one link and one engine: whose turn it is, and what that does to deadlines.
#include <sluice/stream/plan/policy/control.hpp>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/plan/schedule.hpp>
#include <sluice/stream/study/simulator.hpp>

#include <doctest/doctest.h>

#include <support/streams.hpp>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

using namespace sluice;
using namespace sluice::stream;
using test::equal_chunks;
using test::fresh_request;

namespace {

using policy::progressive_cake;

// Requests as a scheduler sees them.
struct crowd {
  template <class... Model>
  explicit crowd(const Model&... costs) {
    (add(costs), ...);
  }
  void add(const cost_model& cost) {
    plans.push_back(std::make_unique<planner<progressive_cake>>(cost));
    states.push_back(std::make_unique<fresh_request>(cost));
  }
  turn_of next(const link_history& link, double engine_free = 0) {
    std::vector<contender<progressive_cake>> all;
    for (std::size_t i = 0; i < plans.size(); ++i) all.push_back({plans[i].get(), states[i]->now});
    const turn_of t = schedule.next(link, all, engine_free);
    CHECK(schedule.next(link, all, engine_free).what.link == t.what.link);  // asked twice, it says the same
    return t;
  }
  fresh_request& operator[](int i) { return *states[std::size_t(i)]; }

  std::vector<std::unique_ptr<planner<progressive_cake>>> plans;
  std::vector<std::unique_ptr<fresh_request>> states;
  scheduler<progressive_cake> schedule;
};

const std::vector<std::uint64_t> ladder = {100, 200, 400, 1600};
const std::vector<double> losses = {0.08, 0.02, 0.004};

cost_rates engine(double seconds_per_token) {
  cost_rates r;
  r.recompute_seconds_per_token = seconds_per_token;
  return r;
}
link_history seen(double rate) {
  link_history h;
  h.observe(std::uint64_t(1000 * rate), 1000);
  return h;
}

}  // namespace

TEST_CASE("schedule: what makes requests usable goes by deadline, and before what makes others better") {
  const cost_model m = equal_chunks(4, 100, ladder, losses, engine(1));
  crowd c(m, m, m);
  c[0].now.deadline_seconds = 3;
  c[1].now.deadline_seconds = 2;
  c[2].now.deadline_seconds = 9;
  CHECK(c.next(seen(1000)).link == 1);
  for (int i = 0; i < 4; ++i) c[1].fetched(i, 0);
  CHECK(c.next(seen(1000)).link == 0);  // although its refinements are due sooner
  for (int i = 0; i < 4; ++i) c[0].fetched(i, 1), c[2].fetched(i, 1);
  const turn_of t = c.next(seen(1000));
  CHECK(t.link == 1);  // from 0.08 on: most nats per byte
  CHECK(t.what.link.level == 1);
}

TEST_CASE("schedule: where not all can be in time, the one that costs most gives way") {
  const cost_model small = equal_chunks(4, 100, ladder, losses, engine(1)),
                   large = equal_chunks(40, 100, ladder, losses, engine(1));
  crowd c(large, small, small);
  c[0].now.deadline_seconds = 4.1;  // 4,000 bytes at 1,000 a second: alone it would be in time
  c[1].now.deadline_seconds = 4.2;
  c[2].now.deadline_seconds = 4.3;
  CHECK(c.next(seen(1000)).link == 1);
  CHECK(c.next(seen(10000)).link == 0);  // there is time for all
  CHECK(c.next(link_history()).link == 0);
  for (int r : {1, 2})
    for (int i = 0; i < 4; ++i) c[r].fetched(i, 0);
  CHECK(c.next(seen(1000)).link == 0);  // late, but before what others want for the better
}

TEST_CASE("schedule: the engine does what only it can do, for the first that needs it") {
  std::vector<chunk_cost> chunks;
  for (int i = 0; i < 2; ++i) chunks.push_back({100 * i, 100, 0, ladder, losses, {}});
  const cost_model all = cost_model::make(chunks, engine(0.001), 3).value();
  for (std::uint64_t& b : chunks[1].bytes) b = 0;
  chunks[1].kinds = {payload::absent};
  const cost_model part = cost_model::make(chunks, engine(0.001), 3).value();
  crowd c(all, part);
  c[0].now.deadline_seconds = 1;
  c[1].now.deadline_seconds = 2;
  CHECK(c.next(seen(1e6)).compute == 0);  // it has nothing else to do than to compute a front
  c[1].fetched(0, 0);
  CHECK(c.next(seen(1e6)).compute == 1);
  CHECK(c.next(seen(1e6)).what.compute == recompute(part, 1));
  CHECK(c.next(seen(1e6), 0.5).compute == -1);  // it is busy
}

TEST_CASE("schedule: with engines of their own, one that gives way on the link gives the others no time to compute") {
  const auto with_question = [](int stored, double seconds) {  // whose tokens no store has
    std::vector<chunk_cost> chunks;
    for (int i = 0; i <= stored; ++i) chunks.push_back({100 * i, 100, 0, ladder, losses, {}});
    chunks.back().kinds = {payload::absent};
    return cost_model::make(chunks, engine(seconds / 100), 3).value();
  };
  const cost_model large = with_question(10, 0.9), slow = with_question(2, 1.5), quick = with_question(2, 0.1);
  crowd c(large, slow, quick);
  c[0].now.deadline_seconds = 1.05;
  c[1].now.deadline_seconds = 1.15;  // its own engine is late, whoever gives way
  c[2].now.deadline_seconds = 1.3;
  CHECK(c.next(seen(1000), -1).link == 2);
}

TEST_CASE("schedule: a request that is alone goes as it goes without a scheduler") {
  const unsigned seed = 20261130;
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int i = 0; i < 200; ++i) {
    CAPTURE(i);
    const cost_model m = test::random_chunks(random);
    std::vector<link_segment> segments;
    for (int k = 0; k < 8; ++k)
      segments.push_back({0.05 + double(random() % 100) / 100, random() % 6 ? 1e3 * double(1 + random() % 400) : 0, 0});
    segments.push_back({1, 5e4, 0});
    const link_trace link = link_trace::make(segments).value();
    const simulated_request r{double(random() % 100) / 50, 0.05 + double(random() % 100) / 50, &m};
    simulation_options o;
    o.keep_steps = true;
    const outcome alone = simulate<progressive_cake>({&r, 1}, link, {}, o).value()[0];
    o.scheduled = true;
    o.one_engine = random() % 2;
    const outcome scheduled = simulate<progressive_cake>({&r, 1}, link, {}, o).value()[0];
    CHECK(alone.steps == scheduled.steps);
    CHECK(alone.seconds == scheduled.seconds);
    CHECK(alone.loss == scheduled.loss);
    CHECK(alone.bytes == scheduled.bytes);
  }
}

TEST_CASE("schedule: a crowd misses fewer deadlines than where whoever comes first is served first") {
  const unsigned seed = 20261201;
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  std::vector<cost_model> costs;
  for (int i = 0; i < 150; ++i) {
    std::vector<chunk_cost> chunks;
    const int n = 2 + int(random() % 12);
    for (int c = 0; c < n; ++c) {
      chunks.push_back({100 * c, 100, 0, {1000, 2000, 4000, 16000}, losses, {}});
      if (c + 1 == n) chunks.back().kinds = {payload::absent};  // the question is always new
    }
    costs.push_back(cost_model::make(chunks, engine(0.0003), 3).value());
  }
  std::vector<simulated_request> requests;
  double at = 0;
  for (const cost_model& m : costs) {
    requests.push_back({at, 0.5, &m});
    at += double(random() % 100) / 1000;
  }
  for (const double rate : {2e4, 1e5, 4e5}) {
    CAPTURE(rate);
    const link_trace link = link_trace::constant(rate);
    int missed[2] = {};
    double worst[2] = {};
    for (const bool scheduled : {false, true}) {
      simulation_options o;
      o.one_engine = true;
      o.scheduled = scheduled;
      for (const outcome& r : simulate<progressive_cake>(requests, link, {}, o).value()) {
        missed[scheduled] += !r.met;
        worst[scheduled] = std::max(worst[scheduled], r.seconds);
      }
    }
    MESSAGE(rate, " bytes a second: ", missed[0], " of 150 missed, scheduled ", missed[1]);
    CHECK(missed[1] <= missed[0]);
    CHECK(std::isfinite(worst[1]));  // and nobody waits for ever
    if (rate == 1e5) CHECK(missed[1] < missed[0]);
  }
}
