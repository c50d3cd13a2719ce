// SPDX-License-Identifier: Apache-2.0
// Many requests on one source and one engine: every request's pages, what is in flight, memory, and who gives way.
#include <doctest/doctest.h>
#include <sluice/stream/plan/policy/cachegen.hpp>
#include <sluice/stream/plan/policy/progressive.hpp>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/run/group.hpp>
#include <sluice/stream/store/sources/memory.hpp>
#include <sluice/stream/store/sources/shaped.hpp>
#include <sluice/stream/study/simulator.hpp>
#include <stream/context.hpp>
#include <support/virtual_link.hpp>

#include <map>

namespace {

using namespace sluice;
using namespace sluice::stream;

memory_source stored() {
  memory_source s;
  context::store(s);
  return s;
}

// Counts what is in flight.
struct counting_source {
  memory_source* inner;
  std::size_t open = 0, most_open = 0, bytes = 0, most_bytes = 0;
  std::map<ticket, std::size_t> sizes{};

  result<std::uint64_t> size(std::string_view key) { return inner->size(key); }
  status put(std::string_view key, std::span<const std::byte> b) { return inner->put(key, b); }
  std::string_view detail() const { return inner->detail(); }
  ticket submit(const read_request& r) {
    most_open = std::max(most_open, ++open);
    most_bytes = std::max(most_bytes, bytes += r.buffer.size());
    const ticket t = inner->submit(r);
    sizes[t] = r.buffer.size();
    return t;
  }
  std::size_t poll(std::span<completion> done, double seconds) {
    const std::size_t n = inner->poll(done, seconds);
    for (std::size_t i = 0; i < n; ++i) close(done[i].which);
    return n;
  }
  std::size_t arrived(ticket t) { return inner->arrived(t); }
  std::size_t cancel(ticket t) {
    close(t);
    return inner->cancel(t);
  }
  void close(ticket t) {
    --open;
    bytes -= sizes[t];
    sizes.erase(t);
  }
};

}  // namespace

TEST_CASE_TEMPLATE("group: every request's pages hold what its report says", Policy, policy::fixed_level<1>,
                   policy::cachegen, policy::progressive, policy::progressive_cake) {
  memory_source memory = stored();
  for (const std::size_t object : {2 * 5, 2 * 5 + 1})  // one chunk has to be computed
    REQUIRE(memory.erase(context::sample().objects[object].name) == status::ok);
  const cost_model cost = context::sample().cost(1e-5);
  const planner<Policy> plan(cost);
  for (const std::size_t bound : {SIZE_MAX, std::size_t{200'000}}) {
    CAPTURE(bound);
    counting_source source{&memory};
    link_history link;
    request_group<Policy, counting_source> group(source, link, {.memory_bytes = bound});
    std::map<int, context::engine> engines;
    for (int i = 0; i < 5; ++i) {
      const int request = group.add(plan, context::sample().names, 0.3 + 0.05 * (5 - i));
      engines.try_emplace(request, cost);
    }
    int ended = 0;
    run_group(
        group, [&](int request) -> context::engine& { return engines.at(request); },
        [&](int request) {
          ++ended;
          const report& r = group.result(request);
          engines.at(request).check(r);
          CHECK(r.chunks[5].computed);
          // The fault is that of the object; computing may have come first.
          for (const fault& f : r.faults) CHECK(f.what == status::not_found);
        });
    CHECK(ended == 5);
    CHECK(source.open == 0);
    CHECK(source.most_open <= 2);  // as one request alone
  }
}

TEST_CASE("group: one that is alone does what an executor does") {
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const cost_model cost = test::random_context(rng);
    const link_trace link = test::random_link(rng, 20'000);
    const double deadline = std::exp(std::uniform_real_distribution<double>(-2, 2)(rng));
    const report alone = test::run_virtually(cost, link, policy::progressive_cake{}, 0, deadline);
    const simulated_request request{0, deadline, &cost};
    const report r = test::run_virtually({&request, 1}, link, policy::progressive_cake{}).at(0);
    CHECK(r.seconds == doctest::Approx(alone.seconds).epsilon(1e-6));
    CHECK(r.met == alone.met);
    CHECK(r.bytes == alone.bytes);
    CHECK(r.recomputed_tokens == alone.recomputed_tokens);
    for (std::size_t c = 0; c < r.chunks.size(); ++c) CHECK(r.chunks[c].level == alone.chunks[c].level);
  }
}

TEST_CASE("group: what becomes of many requests is what the simulator says") {
  int missed = 0, met = 0, otherwise = 0;
  double seconds = 0, simulated_seconds = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const auto uniform = [&](double a, double b) { return std::uniform_real_distribution<double>(a, b)(rng); };
    std::vector<cost_model> costs;
    for (unsigned i = 0, n = unsigned(2 + rng() % 6); i < n; ++i) costs.push_back(test::random_context(rng));
    std::vector<simulated_request> requests;
    double at = 0;
    for (const cost_model& cost : costs) {
      requests.push_back({at, uniform(0.1, 2), &cost});
      at += uniform(0, 0.2);
    }
    const link_trace link = link_trace::constant(std::exp(uniform(std::log(1e4), std::log(1e6))));
    simulation_options options;
    options.one_engine = options.scheduled = true;
    const auto expected = simulate<policy::progressive_cake>(requests, link, {}, options).value();
    const auto reports = test::run_virtually(requests, link, policy::progressive_cake{});
    for (std::size_t i = 0; i < requests.size(); ++i) {
      CHECK(reports[i].outcome == status::ok);
      (expected[i].met ? met : missed) += 1;
      otherwise += reports[i].met != expected[i].met;
      seconds += reports[i].seconds;
      simulated_seconds += expected[i].seconds;
    }
  }
  MESSAGE(met, " met, ", missed, " missed, ", otherwise, " otherwise; ", seconds, " s for ", simulated_seconds);
  CHECK(met > 50);
  CHECK(missed > 50);
  CHECK(otherwise <= (met + missed) / 50);
  CHECK(seconds == doctest::Approx(simulated_seconds).epsilon(0.01));
}

TEST_CASE("group: requests come and go while others run, and a cancelled one leaves nothing behind") {
  memory_source memory = stored();
  const cost_model cost = context::sample().cost(1e-3);
  const planner<policy::progressive_cake> plan(cost);
  shaped_source source(memory, link_trace::constant(4e6));
  link_history link;
  request_group<policy::progressive_cake, decltype(source)> group(source, link);
  std::map<int, context::engine> engines;
  const auto add = [&](double deadline) {
    const int request = group.add(plan, context::sample().names, deadline);
    engines.try_emplace(request, cost);
    return request;
  };
  const int first = add(0.2), second = add(0.3);
  for (int i = 0; i < 3; ++i) {
    const group_turn t = group.next(1e-3);
    for (const group_turn::work& w : t.decode)
      group.decoded(w.request, engines.at(w.request).decode(w.what.what.chunk, w.what.what.level, w.what.frame));
    if (t.compute.request >= 0) group.computed(engines.at(t.compute.request).compute(t.compute.what.what, {}));
  }
  group.cancel(second);
  std::map<int, status> ended;
  int added = 0;
  run_group(
      group, [&](int request) -> context::engine& { return engines.at(request); },
      [&](int request) {
        ended[request] = group.result(request).outcome;
        if (request != second) engines.at(request).check(group.result(request));
        if (added++ < 2) add(0.2);
      });
  CHECK(ended.size() == 4);
  CHECK(ended[first] == status::ok);
  CHECK(ended[second] == status::cancelled);
  for (int c = 0; c < 8; ++c) CHECK(engines.at(second).sound(c));
  completion none[4];
  CHECK(source.poll(none, 0) == 0);
}
