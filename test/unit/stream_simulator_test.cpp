// SPDX-License-Identifier: Apache-2.0
// The simulator against closed forms, and what must hold on any link.
#include <sluice/stream/plan/policy/bola.hpp>
#include <sluice/stream/plan/policy/cachegen.hpp>
#include <sluice/stream/plan/policy/cachegen_released.hpp>
#include <sluice/stream/plan/policy/kvserve.hpp>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/plan/policy/robust_mpc.hpp>
#include <sluice/stream/study/oracle.hpp>
#include <sluice/stream/study/replay.hpp>
#include <sluice/stream/study/simulator.hpp>

#include <doctest/doctest.h>

#include <support/streams.hpp>

#include <cmath>
#include <random>
#include <string>
#include <string_view>
#include <tuple>

using namespace sluice;
using namespace sluice::stream;
using test::equal_chunks;

namespace {

constexpr double never = std::numeric_limits<double>::infinity();

template <class Policy>
outcome run(const cost_model& cost, const link_trace& trace, Policy p, double deadline, double start = 0) {
  const simulated_request r{start, deadline, &cost};
  simulation_options o;
  o.keep_steps = true;
  return simulate(std::span(&r, 1), trace, p, o).value()[0];
}
auto near(double x) { return doctest::Approx(x).epsilon(1e-3); }

cost_rates engine(double seconds_per_token, double growth = 0) {
  cost_rates r;
  r.recompute_seconds_per_token = seconds_per_token;
  r.recompute_seconds_per_token_position = growth;
  return r;
}

link_trace random_trace(std::mt19937& rng, double low, double high) {
  std::vector<link_segment> s;
  const auto log_uniform = [&](double a, double b) {
    return std::exp(std::uniform_real_distribution<double>(std::log(a), std::log(b))(rng));
  };
  const int n = 1 + int(rng() % 20);
  for (int i = 0; i < n; ++i) s.push_back({log_uniform(0.01, 2), rng() % 8 ? log_uniform(low, high) : 0, 0});
  s.push_back({0.5, log_uniform(low, high), 0});
  return link_trace::make(std::move(s)).value();
}

}  // namespace

TEST_CASE("a trace says what passes when") {
  const link_trace t = link_trace::make({{2, 10, 0.1}, {1, 0, 0}, {1, 40, 0.2}}).value();
  CHECK(t.seconds() == 4);
  CHECK(t.mean_bytes_per_second() == 15);
  CHECK(t.bytes_until(0) == 0);
  CHECK(t.bytes_until(2.5) == 20);
  CHECK(t.bytes_until(3.5) == 40);
  CHECK(t.bytes_until(9) == 130);
  CHECK(t.finish_time(0, 0) == 0);
  CHECK(t.finish_time(0, 20) == 2);
  CHECK(t.finish_time(0, 21) == doctest::Approx(3.025));
  CHECK(t.finish_time(2.5, 40) == 4);
  CHECK(t.finish_time(2.5, 41) == doctest::Approx(4.1));
  CHECK(t.finish_time(1, 10 + 40 + 60 + 5) == doctest::Approx(8.5));
  CHECK(t.latency_at(5) == 0.1);
  CHECK(t.latency_at(3) == 0.2);
  CHECK(t.scaled(2).bytes_until(4) == 120);
  CHECK(link_trace::make({{1, 0, 0}}).value().finish_time(0, 1) == never);
  CHECK(link_trace::make({}).status() == status::invalid_argument);
  for (double bad : {-1.0, std::nan(""), never}) {
    CHECK(link_trace::make({{bad, 1, 0}}).status() == status::invalid_argument);
    CHECK(link_trace::make({{1, bad, 0}}).status() == status::invalid_argument);
    CHECK(link_trace::make({{1, 1, bad}}).status() == status::invalid_argument);
  }
  CHECK(link_trace::make({{0, 1, 0}}).status() == status::invalid_argument);
  for (unsigned seed = 0; seed < 500; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const link_trace r = random_trace(rng, 1, 1e9);
    const double start = std::uniform_real_distribution<double>(0, 100)(rng);
    const double bytes = std::exp(std::uniform_real_distribution<double>(0, 25)(rng));
    const double end = r.finish_time(start, bytes);
    CHECK(end >= start);
    CHECK(r.bytes_between(start, end) == doctest::Approx(bytes).epsilon(1e-6));
  }
}

TEST_CASE("link traces from text: good ones, and named errors with their lines") {
  const char* good = "duration_s,bandwidth_bps,latency_s\n0.5,8000,0.02\r\n\n1,0,0\n";
  const link_trace t = parse_link_trace(good).value();
  REQUIRE(t.segments().size() == 2);
  CHECK(t.segments()[0].bytes_per_second == 1000);
  CHECK(t.segments()[0].latency_seconds == 0.02);
  const std::string head = "duration_s,bandwidth_bps,latency_s\n";
  const std::tuple<std::string, int, std::string_view> bad[] = {
      {"", 1, "no header duration_s,bandwidth_bps,latency_s"},
      {"1,2,3\n", 1, "no header duration_s,bandwidth_bps,latency_s"},
      {head, 1, "no segments"},
      {head + "1,2,3\nx,2,3\n", 3, "not a number"},
      {head + "1,2\n", 2, "not three columns"},
      {head + "1,2,3,4\n", 2, "not three columns"},
      {head + "nan,2,3\n", 2, "not a number"},
      {head + "1,inf,3\n", 2, "not a number"},
      {head + "1,1e999,3\n", 2, "not a number"},
      {head + "0,2,3\n", 2, "duration out of range"},
      {head + "-1,2,3\n", 2, "duration out of range"},
      {head + "1,-2,3\n", 2, "bandwidth out of range"},
      {head + "1,1e300,3\n", 2, "bandwidth out of range"},
      {head + "1,2,-3\n", 2, "latency out of range"},
  };
  for (const auto& row : bad) {
    const std::string& text = std::get<0>(row);
    const int line = std::get<1>(row);
    const std::string_view what = std::get<2>(row);
    CAPTURE(text);
    trace_error e;
    CHECK(parse_link_trace(text, &e).status() == status::parse_error);
    CHECK(e.line == line);
    CHECK(std::string_view(e.what) == what);
  }
  for (unsigned seed = 0; seed < 3000; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    std::string text = good;
    for (int i = 0; i < 4; ++i) text[rng() % text.size()] = char(rng());
    text.resize(rng() % (text.size() + 1));
    const auto r = parse_link_trace(text);
    if (r)
      CHECK(r->seconds() > 0);
    else
      CHECK(r.status() == status::parse_error);
  }
}

TEST_CASE("synthetic links are the same everywhere") {
  const link_trace a = synthetic_link(1001).cachegen();  // seed and figures as in the shared trace synthetic_cachegen_a
  REQUIRE(a.segments().size() == 10);
  CHECK(a.seconds() == doctest::Approx(5.807));
  CHECK(a.mean_bytes_per_second() * 8 == doctest::Approx(5746307803).epsilon(1e-9));
  CHECK(synthetic_link(1101).share(25, 8).mean_bytes_per_second() * 8 == doctest::Approx(9234714802).epsilon(1e-9));
  CHECK(synthetic_link(1201).bucket(10, 1.25, 60).mean_bytes_per_second() * 8 ==
        doctest::Approx(5423504829).epsilon(1e-9));
  CHECK(synthetic_link(1301).lognorm(5, 0.8, 0.8).mean_bytes_per_second() * 8 ==
        doctest::Approx(6748296709).epsilon(1e-6));
  CHECK(synthetic_link(1401).incast(25, 0.1, 0.1, 1).mean_bytes_per_second() * 8 ==
        doctest::Approx(22121259816).epsilon(1e-9));
}

TEST_CASE("closed forms: a constant link, the engine alone, a slow decoder, latency") {
  const cost_model m = equal_chunks(100, 512, {1000, 2000, 8000}, {0.01, 0.001}, engine(1e-4, 1e-8));
  const link_trace link = link_trace::constant(1e5);
  const outcome raw = run(m, link, policy::always_raw{}, 10);
  CHECK(raw.seconds == near(100 * 8000 / 1e5));
  CHECK(raw.met);
  CHECK(raw.bytes == 800000);
  CHECK(raw.loss == 0);
  CHECK_FALSE(run(m, link, policy::always_raw{}, 7.9).met);
  const outcome level = run(m, link, policy::fixed_level<1>{}, 10);
  CHECK(level.seconds == near(100 * 2000 / 1e5));
  CHECK(level.loss == near(0.1));
  // Sum of t (a + b (p + t / 2)) over all positions: T a + b T^2 / 2.
  const double tokens = 51200;
  const outcome computed = run(m, link, policy::always_recompute{}, 10);
  CHECK(computed.seconds == near(tokens * 1e-4 + 1e-8 * tokens * tokens / 2));
  CHECK(computed.recomputed_tokens == 51200);
  CHECK(computed.bytes == 0);

  cost_rates slow = engine(1);
  slow.decode_seconds_per_value = 1e-4;  // 0.1 s a chunk; the link needs 0.01
  const cost_model d = equal_chunks(100, 512, {1000, 2000, 8000}, {0.01, 0.001}, slow, 1000);
  CHECK(run(d, link, policy::fixed_level<0>{}, 100).seconds == near(0.01 + 100 * 0.1));
  slow.decode_seconds_per_value = 1e-6;  // 1 ms: hidden behind the link but for the last
  const cost_model q = equal_chunks(100, 512, {1000, 2000, 8000}, {0.01, 0.001}, slow, 1000);
  CHECK(run(q, link, policy::fixed_level<0>{}, 100).seconds == near(100 * 0.01 + 0.001));

  cost_rates far = engine(1);
  far.latency_seconds = 0.5;
  const cost_model f = equal_chunks(100, 512, {1000, 2000, 8000}, {0.01, 0.001}, far);
  // Two are in flight until a rate is known; from then on latency is hidden.
  CHECK(run(f, link, policy::always_raw{}, 100).seconds <= 100 * 0.08 + 3 * 0.5);
  CHECK(run(f, link, policy::always_raw{}, 100).seconds >= 100 * 0.08 + 0.5);
}

TEST_CASE("closed forms: computing that fetched chunks still need") {
  const link_trace link = link_trace::constant(1e5);
  cost_rates blend = engine(1e-3);
  blend.token_fraction = 0.2;  // 20 ms of computing for a chunk that takes 10 ms to fetch: the engine is the slower
  const cost_model b = equal_chunks(50, 100, {1000, 2000, 8000}, {0.01, 0.001}, blend);
  const outcome o = run(b, link, policy::fixed_level<0>{}, 10);
  CHECK(o.seconds == near(0.01 + 50 * 0.02));
  CHECK(o.recomputed_tokens == 50 * 20);
  blend.token_fraction = 0.05;  // 5 ms: hidden but for the last
  const cost_model h = equal_chunks(50, 100, {1000, 2000, 8000}, {0.01, 0.001}, blend);
  CHECK(run(h, link, policy::fixed_level<0>{}, 10).seconds == near(50 * 0.01 + 0.005));
  // DroidSpeak: half of the layers are computed (50 ms), the other half is fetched (5 ms).
  std::vector<chunk_cost> chunks;
  for (int i = 0; i < 50; ++i)
    chunks.push_back({i * 100, 100, 0, {500, 500, 4000, 4000}, {0.01}, {payload::absent, payload::kv}});
  const cost_model d = cost_model::make(chunks, engine(1e-3), 1, 2).value();
  CHECK(run(d, link, policy::fixed_level<0>{}, 10).seconds == near(0.005 + 50 * 0.05));
  CHECK(run(d, link, policy::fixed_level<0>{}, 10).bytes == 50 * 500);
  // HCache: all layers as hidden states; projecting needs no earlier chunk, so loading from the back hides it as well.
  cost_rates project = engine(1);
  project.project_seconds_per_token = 5e-5;
  for (chunk_cost& c : chunks) c.kinds = {payload::hidden, payload::hidden};
  const cost_model p = cost_model::make(chunks, project, 1, 2).value();
  CHECK(run(p, link, policy::fixed_level<0>{}, 10).seconds == near(50 * 0.01 + 0.005));
  CHECK(run(p, link, policy::progressive{}, 10).seconds == near(50 * 0.01 + 0.005));
}

TEST_CASE("cake meets where the engine's seconds are the link's") {
  // Computing chunk i takes a + b i, loading l: m with sum of a + b i below m = (n - m) l, as in the paper.
  const int n = 2000;
  const cost_model m = equal_chunks(n, 100, {500, 1000, 4000}, {0.01, 0.001}, engine(1e-4, 1e-9));
  for (double rate : {1e5, 4e5, 1e6}) {
    CAPTURE(rate);
    const double l = 4000 / rate, a = 100 * (1e-4 + 1e-9 * 50), b = 100 * 1e-9 * 100;
    const double p = a - b / 2 + l;  // b m^2 / 2 + p m - n l = 0
    const double meet = (-p + std::sqrt(p * p + 2 * b * n * l)) / b;
    const outcome o = run(m, link_trace::constant(rate), policy::cake{}, 100);
    CHECK(o.seconds == near((n - meet) * l));
    CHECK(double(o.recomputed_tokens) == near(meet * 100));
  }
}

TEST_CASE("cake is at least as fast as either end alone from 16 chunks on, and faster where they are comparable") {
  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const int n = 16 + int(rng() % 100);
    const double load = std::exp(std::uniform_real_distribution<double>(-3, 3)(rng));  // seconds a chunk; computing: 1
    const cost_model m = equal_chunks(n, 256, {50, 100, 1000}, {0.01, 0.001}, engine(1.0 / 256));
    const link_trace link = link_trace::constant(1000 / load);
    const double cake = run(m, link, policy::cake{}, 1).seconds, raw = run(m, link, policy::always_raw{}, 1).seconds;
    const double computed = run(m, link, policy::always_recompute{}, 1).seconds;
    CHECK(cake <= std::min(raw, computed) * (1 + 1e-9));
    if (load > 0.2 && load < 5) CHECK(cake < std::min(raw, computed));
  }
}

TEST_CASE("cake and progressive_cake are never slower than the better of raw and recompute by more than one chunk") {
  double worst = 0;
  for (unsigned seed = 0; seed < 2000; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const cost_model m = test::random_chunks(rng);
    const link_trace link = random_trace(rng, 100, 1e7);
    const double deadline = std::exp(std::uniform_real_distribution<double>(-4, 3)(rng));
    const double raw = run(m, link, policy::always_raw{}, deadline).seconds;
    const double best = std::min(raw, run(m, link, policy::always_recompute{}, deadline).seconds);
    // One chunk: the longest that the engine, the decoder or the link needs for one.
    double chunk = 0;
    for (int c = 0; c < m.num_chunks(); ++c) {
      double longest = m.recompute_seconds(c);
      for (int l = 0; l <= m.exact_level(); ++l) longest = std::max(longest, m.decode_seconds(c, l, m.bytes(c, l)));
      longest = std::max(longest, link.finish_time(best, double(m.bytes(c, m.exact_level()))) - best);
      chunk = std::max(chunk, longest + m.rates().latency_seconds);
    }
    for (double seconds :
         {run(m, link, policy::cake{}, deadline).seconds, run(m, link, policy::progressive_cake{}, deadline).seconds}) {
      CHECK(seconds <= best + chunk + 1e-9);
      if (chunk > 0) worst = std::max(worst, (seconds - best) / chunk);
    }
  }
  MESSAGE("worst case: " << worst << " chunks");
}

TEST_CASE(
    "progressive_cake: a bound of loss is kept where it can be, in less time; a price of time costs loss and saves "
    "time") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const int n = 4 + int(rng() % 40);
    const auto log_uniform = [&](double a, double b) {
      return std::exp(std::uniform_real_distribution<double>(std::log(a), std::log(b))(rng));
    };
    const cost_model m = equal_chunks(n, 256, {100, 200, 300, 1600}, {0.03 / n, 0.004 / n, 0.0005 / n}, engine(0.01));
    const link_trace link = link_trace::constant(log_uniform(100, 1e5));
    const double deadline = log_uniform(0.2, 20);
    const outcome plain = run(m, link, policy::progressive_cake{}, deadline);
    policy::progressive_cake bounded;
    bounded.fetcher.enough_loss = 0.01;
    const outcome b = run(m, link, bounded, deadline);
    CHECK(b.loss <= std::max(0.01, plain.loss) * (1 + 1e-9));
    CHECK(b.met == plain.met);
    CHECK(b.seconds <= plain.seconds + m.recompute_seconds(0));  // chunks are not divided
    double loss = 0;
    for (const double price : {0.001, 0.1, 10.0}) {
      policy::progressive_cake priced;
      priced.fetcher.nats_per_second = price;
      const outcome p = run(m, link, priced, deadline);
      CHECK(p.met == plain.met);
      CHECK(p.seconds <= plain.seconds + m.recompute_seconds(0));
      CHECK(p.loss >= loss * (1 - 1e-9));
      loss = p.loss;
    }
  }
}

TEST_CASE("nobody beats the oracle's bound") {
  for (unsigned seed = 0; seed < 300; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const cost_model m = test::random_chunks(rng);
    const link_trace link = random_trace(rng, 100, 1e7);
    const double deadline = std::exp(std::uniform_real_distribution<double>(-4, 3)(rng));
    const policy::oracle_bound b = policy::bound(m, link, 0, deadline);
    const auto check = [&](auto p) {
      CAPTURE(std::string_view(p.name));
      const outcome o = run(m, link, p, deadline);
      CHECK(o.seconds >= b.soonest_seconds * (1 - 1e-9));
      if (o.met) CHECK(o.loss >= b.loss - 1e-9);
      CHECK(o.met == (o.seconds <= deadline * (1 + 1e-12)));
    };
    check(policy::always_raw{});
    check(policy::cachegen{});
    check(policy::cachegen_released{});
    check(policy::cake_levels{});
    check(policy::kvserve{});
    check(policy::robust_mpc{});
    check(policy::bola{});
    check(policy::progressive{});
    check(policy::progressive_cake{});
    check(policy::oracle(m, link, 0, deadline));
  }
}

TEST_CASE("the oracle's plan reaches its bound on a hand-made link") {
  // 4 chunks, one of which the engine can have by 1 s; 500 bytes pass: bases 300, two steps of 100.
  const cost_model m = equal_chunks(4, 100, {100, 200, 800}, {0.04, 0.01}, engine(0.9 / 100));
  const link_trace link = link_trace::make({{0.5, 200, 0}, {0.25, 0, 0}, {0.25, 1600, 0}}).value();
  const policy::oracle_bound b = policy::bound(m, link, 0, 1);
  CHECK(b.soonest_seconds == doctest::Approx(0.75 + 200 / 1600.0).epsilon(0.1));
  CHECK(b.loss == doctest::Approx(2 * 0.01 + 0.04).epsilon(0.01));
  const outcome o = run(m, link, policy::oracle(m, link, 0, 1), 1);
  CHECK(o.met);
  CHECK(o.loss == doctest::Approx(0.06));
}

TEST_CASE("runs repeat exactly, and their steps can be replayed") {
  for (unsigned seed = 0; seed < 50; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const cost_model m = test::random_chunks(rng);
    const link_trace link = random_trace(rng, 1e3, 1e6);
    const outcome a = run(m, link, policy::progressive_cake{}, 0.5), b = run(m, link, policy::progressive_cake{}, 0.5);
    CHECK(a.seconds == b.seconds);
    CHECK(a.loss == b.loss);
    CHECK(a.steps == b.steps);
    const outcome again = run(m, link, policy::replay{a.steps}, 0.5);
    CHECK(again.seconds < never);
    CHECK(again.loss <= m.total_loss(0) + 1e-9);
  }
}

TEST_CASE("many requests share one link and take turns; batches start together") {
  const cost_model m = equal_chunks(20, 100, {500, 1000, 4000}, {0.01, 0.001}, engine(1));
  const std::vector<simulated_request> four(4, {0, 10, &m});
  const link_trace link = link_trace::constant(1e5);
  const auto together = simulate(four, link, policy::always_raw{}).value();
  for (const outcome& o : together) CHECK(o.seconds == doctest::Approx(4 * 0.8).epsilon(0.1));  // all end at the end
  const auto one = run(m, link, policy::always_raw{}, 10);
  CHECK(one.seconds == near(0.8));
  // CacheGen knows that four share: alone level 1 takes 0.2 s, for four it takes 0.8 and level 0 0.4.
  const std::vector<simulated_request> tight(4, {0, 0.5, &m});
  CHECK(run(m, link, policy::cachegen{}, 0.5).loss == near(20 * 0.001));
  const auto shared = simulate(tight, link, policy::cachegen{}).value();
  for (const outcome& o : shared) {
    CHECK(o.loss > 10 * 0.01);
    CHECK(o.met);
  }
  const std::vector<double> arrivals = {0, 0.25, 0.5, 2, 4, 4.25};
  CHECK(batch_starts(arrivals, 0, 8) == arrivals);
  CHECK(batch_starts(arrivals, 0.5, 8) == std::vector<double>{0.5, 0.5, 0.5, 2.5, 4.5, 4.5});
  CHECK(batch_starts(arrivals, 0.5, 2) == std::vector<double>{0.25, 0.25, 1, 2.5, 4.25, 4.25});
  // One engine: computing takes turns too.
  simulation_options o;
  o.one_engine = true;
  const std::vector<simulated_request> two(2, {0, 100, &m});
  const auto turns = simulate(two, link, policy::always_recompute{}, o).value();
  CHECK(turns[0].seconds == near(20 * 100 * 2 - 100));
  CHECK(turns[1].seconds == near(20 * 100 * 2));
  const auto apart = simulate(two, link, policy::always_recompute{}).value();
  CHECK(apart[1].seconds == near(20 * 100));
}

TEST_CASE("a link that dies, a context that is not stored, requests that cannot be") {
  const cost_model m = equal_chunks(4, 10, {500, 1000, 4000}, {0.01, 0.001}, engine(0.01));
  const link_trace dead = link_trace::make({{1, 0, 0}}).value();
  CHECK(run(m, dead, policy::always_raw{}, 1).seconds == near(1.4));  // nothing came for a second: late, so computed
  CHECK_FALSE(run(m, dead, policy::always_raw{}, 1).met);
  CHECK(run(m, dead, policy::cake{}, 1).seconds == near(0.4));
  CHECK(run(m, dead, policy::progressive_cake{}, 1).seconds == near(0.4));
  CHECK(run(m, dead, policy::progressive_cake{}, 0.1).seconds == near(0.4));
  std::vector<chunk_cost> chunks;
  for (int i = 0; i < 4; ++i) {
    chunk_cost c = m.chunk(i);
    if (i % 2) c.kinds = {payload::absent};
    chunks.push_back(c);
  }
  const cost_model holes = cost_model::make(chunks, engine(0.01), 2).value();
  const link_trace fast = link_trace::constant(1e9);
  CHECK(run(holes, fast, policy::always_raw{}, 1).seconds == near(0.2));
  CHECK(run(holes, fast, policy::cachegen{}, 1).seconds < never);
  CHECK(run(holes, fast, policy::progressive_cake{}, 1).recomputed_tokens >= 20);
  const simulated_request bad[] = {{0, 1, nullptr}, {-1, 1, &m}, {0, std::nan(""), &m}, {never, 1, &m}};
  for (const simulated_request& r : bad)
    CHECK(simulate(std::span(&r, 1), fast, policy::cake{}).status() == status::invalid_argument);
  const simulated_request backwards[] = {{1, 1, &m}, {0, 1, &m}};
  CHECK(simulate(std::span(backwards), fast, policy::cake{}).status() == status::invalid_argument);
  CHECK(simulate(std::span(backwards), link_trace(), policy::cake{}).status() == status::invalid_argument);
  const cost_model none = cost_model::make({}, {}, 1).value();
  CHECK(run(none, fast, policy::cake{}, 1).seconds == 0);
}
