// SPDX-License-Identifier: Apache-2.0
// Links that are slow to answer, pause or die, under the default options and the default policy: silence makes chunks late,
// not lost, and what the simulator says of the same link comes true.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/study/simulator.hpp>
#include <stream/main.hpp>
#include <stream/proxy.hpp>
#include <stream/stores.hpp>

#include <string>
#include <thread>

namespace {

using namespace sluice;
using namespace sluice::stream;

constexpr double slow_engine = 11.0 / 256;  // seconds a token: computing everything takes 11 s
constexpr double quick_engine = 2.0 / 256;

// One request with default options; `Policy` decides.
template <class Policy = policy::progressive_cake, byte_source Source>
report request(Source& source, double seconds_per_token, double deadline) {
  const cost_model cost = context::sample().cost(seconds_per_token);
  context::engine engine(cost);
  link_history link;
  const planner<Policy> plan(cost);
  executor<Policy, Source> e(plan, source, context::sample().names, link, deadline);
  const report r = run_threaded(e, engine);
  engine.check(r);
  return r;
}
template <class Policy = policy::progressive_cake>
outcome simulated(const link_trace& link, double deadline, double seconds_per_token = slow_engine) {
  const cost_model cost = context::sample().cost(seconds_per_token);
  const simulated_request r{0, deadline, &cost};
  return simulate({&r, 1}, link, Policy{}).value().at(0);
}
int computed(const report& r) {
  int n = 0;
  for (const chunk_report& c : r.chunks) n += c.computed;
  return n;
}

}  // namespace

TEST_CASE("a store that is slow to answer: met where the simulator meets it") {
  for (const auto& [delay, deadline] : {std::pair(0.15, 0.55), {0.15, 1.0}, {0.3, 1.0}, {0.6, 1.0}, {0.6, 2.0}}) {
    CAPTURE(delay);
    CAPTURE(deadline);
    const outcome o = simulated(link_trace::constant(1e8, delay), deadline);
    proxy redis(stores::all().redis.port()), http(stores::all().nginx.port());
    redis.slow(delay);
    http.slow(delay);
    redis_source r({.port = redis.port()});
    http_source h({.url = stores::url(http.port())});
    for (const report& got : {request(r, slow_engine, deadline), request(h, slow_engine, deadline)}) {
      if (o.seconds + 0.2 < deadline) CHECK(got.met);
      CHECK(got.usable_seconds < o.seconds + 0.5);
      CHECK(got.recomputed_tokens <= o.recomputed_tokens + context::chunk_tokens);
    }
  }
}

TEST_CASE("an engine that overtakes the link before its first byte does not keep it from ever coming") {
  // A chunk takes it 0.25 s: what is asked for of that chunk is taken back before anything has come.
  const outcome o = simulated(link_trace::constant(1e8, 0.3), 2, quick_engine);
  proxy redis(stores::all().redis.port()), http(stores::all().nginx.port());
  redis.slow(0.3);
  http.slow(0.3);
  redis_source r({.port = redis.port()});
  http_source h({.url = stores::url(http.port())});
  for (const report& got : {request(r, quick_engine, 2), request(h, quick_engine, 2)}) {
    CHECK(got.usable_seconds < o.seconds + 0.5);
    CHECK(got.recomputed_tokens <= o.recomputed_tokens + context::chunk_tokens);
  }
}

TEST_CASE("a pause of 0.4 s in the middle costs 0.4 s") {
  const outcome o = simulated(link_trace::make({{0.002, 1e8, 0}, {0.4, 0, 0}, {100, 1e8, 0}}).value(), 1);
  REQUIRE(o.met);
  proxy redis(stores::all().redis.port()), http(stores::all().nginx.port());
  redis.slow(0, 0.001, 0.4);
  http.slow(0, 0.001, 0.4);
  redis_source r({.port = redis.port()});
  http_source h({.url = stores::url(http.port())});
  for (const report& got : {request(r, slow_engine, 1), request(h, slow_engine, 1)}) {
    CHECK(got.met);
    CHECK(computed(got) == 0);
    CHECK(got.faults.empty());
  }
}

TEST_CASE("a pause longer than patience: what comes late is used") {
  proxy redis(stores::all().redis.port());
  redis.slow(0, 0, 1.6);
  redis_source r({.port = redis.port()});
  const report got = request<policy::fixed_level<1>>(r, slow_engine, 3);
  CHECK(got.met);
  CHECK(context::names(got, status::timed_out));  // was late
  CHECK(computed(got) <= 1);
}

TEST_CASE("a server that is stopped, and goes on after half a second") {
  redis_source r({.port = stores::all().redis.port()});
  REQUIRE(r.size(context::sample().objects[0].name).has_value());
  stores::all().redis.signal(SIGSTOP);
  std::thread later([] {
    std::this_thread::sleep_for(std::chrono::milliseconds(500));
    stores::all().redis.signal(SIGCONT);
  });
  const report got = request(r, slow_engine, 1);
  later.join();
  CHECK(got.met);
  CHECK(computed(got) == 0);
}

TEST_CASE("a server that is stopped for good: everything is computed, and the report says why") {
  const std::size_t descriptors = servers::open_descriptors();
  const auto check = [](const report& got) {
    CHECK(computed(got) == 8);
    CHECK(got.usable_seconds <
          6);  // 2 s of computing, and a second of patience where the policy leaves it to the planner
    REQUIRE(context::names(got, status::timed_out));
    for (const fault& f : got.faults) CHECK(f.detail.starts_with("nothing came for"));
  };
  {
    redis_source r({.port = stores::all().redis.port()}), s({.port = stores::all().redis.port()});
    REQUIRE(r.size(context::sample().objects[0].name).has_value());
    stores::all().redis.signal(SIGSTOP);
    check(request(r, quick_engine, 1));
    check(request<policy::fixed_level<1>>(s, quick_engine, 10));
  }
  stores::all().redis.signal(SIGCONT);
  CHECK(servers::open_descriptors() <= descriptors);
}

TEST_CASE("every connection is reset at first: the link is asked again and used") {
  proxy redis(stores::all().redis.port());
  const double until = steady_clock_seconds{}() + 0.5;
  redis.set([until](std::string& s, std::size_t, int) {
    if (steady_clock_seconds{}() > until) return proxy::verdict::pass;
    s.clear();
    return proxy::verdict::reset;
  });
  redis_source r({.port = redis.port(), .retries = 0});  // or the source itself may outlast it
  const report got = request(r, slow_engine, 4);
  CHECK(context::names(got, status::connection_lost));
  CHECK(got.met);
  CHECK(computed(got) < 8);
}

int main(int argc, char** argv) { return servers::run_tests(argc, argv, {"redis-server", "nginx"}); }
