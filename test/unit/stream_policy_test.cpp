// SPDX-License-Identifier: Apache-2.0
// Each policy on examples worked by hand from the description in its paper; what all policies must do.
#include <sluice/stream/plan/policy/bola.hpp>
#include <sluice/stream/plan/policy/cachegen.hpp>
#include <sluice/stream/plan/policy/cachegen_released.hpp>
#include <sluice/stream/plan/policy/cake.hpp>
#include <sluice/stream/plan/policy/control.hpp>
#include <sluice/stream/plan/policy/kvserve.hpp>
#include <sluice/stream/plan/policy/progressive.hpp>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/plan/policy/robust_mpc.hpp>
#include <sluice/stream/study/oracle.hpp>
#include <sluice/stream/study/plan_text.hpp>
#include <sluice/stream/study/replay.hpp>

#include <doctest/doctest.h>

#include <support/streams.hpp>

#include <chrono>
#include <cmath>
#include <cstring>
#include <random>
#include <string_view>

using namespace sluice;
using namespace sluice::stream;
using test::equal_chunks;
using test::fresh_request;

namespace {

const std::vector<std::uint64_t> ladder = {100, 200, 400, 1600};  // levels 0, 1, 2, raw
const std::vector<double> losses = {0.08, 0.02, 0.004};

cost_rates engine(double seconds_per_token, double growth = 0) {
  cost_rates r;
  r.recompute_seconds_per_token = seconds_per_token;
  r.recompute_seconds_per_token_position = growth;
  return r;
}
link_history seen(double rate, int times = 1) {
  link_history h;
  for (int i = 0; i < times; ++i) h.observe(std::uint64_t(1000 * rate), 1000);
  return h;
}

template <class F>
void for_each_policy(F&& f) {
  f(policy::always_raw{});
  f(policy::always_recompute{});
  f(policy::fixed_level<0>{});
  f(policy::fixed_level<2>{});
  f(policy::cachegen{});
  f(policy::cachegen_released{});
  f(policy::cake{});
  f(policy::cake_levels{});
  f(policy::kvserve{});
  f(policy::robust_mpc{});
  f(policy::bola{});
  f(policy::progressive{});
  f(policy::progressive_cake{});
}

}  // namespace

TEST_CASE("cachegen, algorithm 1: text if it meets the deadline, else the best level whose rest fits") {
  policy::cachegen p;
  p.text_below_tokens = 0;
  // Ten chunks of 1,500 tokens, half a second of computing each.
  const cost_model m = equal_chunks(10, 1500, ladder, losses, engine(0.5 / 1500));
  fresh_request r(m, 4);                          // 5 s of computing do not fit into 4
  CHECK(p.link(m, {}, r.now) == fetch(m, 0, 1));  // no history: medium
  // 10 chunks: 4000 bytes at level 2, 2000 at 1, 1000 at 0.
  CHECK(p.link(m, seen(1000), r.now) == fetch(m, 0, 2));
  CHECK(p.link(m, seen(999), r.now) == fetch(m, 0, 1));
  CHECK(p.link(m, seen(499), r.now) == fetch(m, 0, 0));
  CHECK(p.link(m, seen(1), r.now) == fetch(m, 0, 0));  // nothing fits: the smallest
  // Only the last chunk's throughput counts.
  link_history h = seen(1e6, 20);
  h.observe(499, 1);
  CHECK(p.link(m, h, r.now) == fetch(m, 0, 0));
  // Two chunks are here, one second has passed: 8 chunks in 3 s; computing needs 4.
  r.fetched(0, 1);
  r.fetched(1, 1);
  r.now.now_seconds = 1;
  CHECK(p.link(m, seen(1067), r.now) == fetch(m, 2, 2));
  CHECK(p.link(m, seen(1066), r.now) == fetch(m, 2, 1));
  // Computing the rest fits: text, although the link is fast.
  r.now.deadline_seconds = 5;
  CHECK(p.link(m, seen(1e9), r.now).what == action::text);
  CHECK(p.link(m, seen(1e9), r.now).chunk == 2);
  r.now.deadline_seconds = 4.999;
  CHECK(p.link(m, seen(1e9), r.now) == fetch(m, 2, 2));
  // Four requests share the link: each chunk takes four times as long.
  r.now.sharing = 4;
  CHECK(p.link(m, seen(8 * 400 / 3.999), r.now) == fetch(m, 2, 0));
  CHECK(p.link(m, seen(4 * 8 * 400 / 3.999 + 1), r.now) == fetch(m, 2, 2));
  // Contexts under 1K tokens come as text.
  const cost_model brief = equal_chunks(2, 400, ladder, losses, engine(1));
  CHECK(policy::cachegen{}.link(brief, seen(1e9), fresh_request(brief, 1e-3).now).what == action::text);
}

TEST_CASE("cachegen_released: equal slices of the deadline, nothing carried over") {
  const policy::cachegen_released p;
  const cost_model m = equal_chunks(10, 1500, ladder, losses, engine(0.02 / 1500));
  fresh_request r(m, 0.5);  // 50 ms a chunk
  CHECK(p.link(m, {}, r.now) == fetch(m, 0, 1));
  CHECK(p.link(m, seen(8001), r.now) == fetch(m, 0, 2));
  CHECK(p.link(m, seen(8000), r.now) == fetch(m, 0, 1));  // must be less than the slice
  CHECK(p.link(m, seen(2001), r.now) == fetch(m, 0, 0));
  CHECK(p.link(m, seen(2000), r.now).what == action::text);
  r.now.now_seconds = 0.49;  // time that is lost or gained changes nothing
  CHECK(p.link(m, seen(8001), r.now) == fetch(m, 0, 2));
}

TEST_CASE("cake: the engine from the front, the link from the back, until they meet") {
  const policy::cake p;
  const cost_model m = equal_chunks(4, 512, ladder, losses, engine(1.0 / 512));
  fresh_request r(m);
  CHECK(p.link(m, {}, r.now) == fetch(m, 3, 3));
  CHECK(p.compute(m, {}, r.now) == recompute(m, 0));
  r[0].computed = true;
  r.fetched(3, 3);
  r.now.computing = 1;
  CHECK(p.link(m, {}, r.now) == fetch(m, 2, 3));
  r[2].requested = 3;  // on its way; the engine has come to it and does not wait
  r[1].computed = true;
  r.now.computing = -1;
  CHECK(p.compute(m, {}, r.now) == recompute(m, 2));
  r[2].arrived = 3;  // it has been loaded: stop
  CHECK_FALSE(p.compute(m, {}, r.now));
  CHECK_FALSE(p.link(m, {}, r.now));
  r[2].ready = 3;
  CHECK(planner<policy::cake>(m).next({}, r.now).finished);
  // The link takes the chunk that the engine has begun if it will be there sooner.
  fresh_request last(m);
  for (int c : {1, 2, 3}) last.fetched(c, 3);
  last.now.computing = 0;
  last.now.compute_free_seconds = 2;
  CHECK(p.link(m, seen(801), last.now) == fetch(m, 0, 3));
  CHECK_FALSE(p.link(m, seen(799), last.now));
}

TEST_CASE("cake_levels: the finest level that does not move the finish") {
  // The link needs 1 s for a level-0 chunk of 100 bytes at 100 B/s, the engine 1 s for the one chunk that is left to it.
  policy::cake_levels p;
  const cost_model slow_engine = equal_chunks(2, 100, ladder, losses, engine(4.0 / 100));
  // Engine: chunk 0 at 4 s. Link: chunk 1 at 1, 2, 4, 16 s by level; then chunk 0 sooner than the engine at 2 (level 0).
  fresh_request r(slow_engine);
  CHECK(policy::cake_levels::finish(slow_engine, r.now, 100, 0) == doctest::Approx(2));
  CHECK(policy::cake_levels::finish(slow_engine, r.now, 100, 1) == doctest::Approx(4));
  CHECK(p.link(slow_engine, seen(100), r.now) == fetch(slow_engine, 1, 0));
  // A slow decoder: 5 s a chunk whatever the level, so the finest lossy level costs nothing.
  cost_rates rates = engine(100);
  rates.decode_seconds_per_value = 5.0 / 1000;
  rates.exact_decode_seconds_per_value = 6.0 / 1000;
  const cost_model slow_decoder = equal_chunks(2, 100, {100, 100, 100, 1600}, losses, rates, 1000);
  fresh_request s(slow_decoder);
  CHECK(p.link(slow_decoder, seen(100), s.now) == fetch(slow_decoder, 1, 2));
}

TEST_CASE("kvserve: the least decode plus transfer time among profiles that keep the loss within bounds") {
  policy::kvserve p;
  cost_rates rates;
  rates.decode_seconds_per_value = 1.0 / 1000;
  const cost_model m = equal_chunks(2, 100, ladder, losses, rates, 1000);  // 2 s of decoding, none for raw
  p.max_loss = 0.05;                                                       // level 0 loses 0.16, level 1 0.04
  fresh_request r(m);
  // Level 1: 2 + 400 / B, level 2: 2 + 800 / B, raw: 3200 / B. Raw wins above B = 1400.
  CHECK(p.link(m, seen(1401), r.now) == fetch(m, 0, 3));
  CHECK(p.link(m, seen(1399), r.now) == fetch(m, 0, 1));
  p.max_loss = 0.01;
  CHECK(p.link(m, seen(1000), r.now) == fetch(m, 0, 2));
  p.max_loss = 1;
  CHECK(p.link(m, seen(1000), r.now) == fetch(m, 0, 0));
  CHECK(p.link(m, {}, r.now) == fetch(m, 0, 0));
  // Residuals: 100 B/s was predicted, 50 seen: the mean says 1/66.7 s per byte and another 1/100 is expected on top.
  link_history h;
  h.observe(100, 1);
  h.observe(100, 2);
  CHECK(p.seconds_per_byte(h) == doctest::Approx(0.015 + 0.01));
}

TEST_CASE("robust_mpc: a knapsack over what remains at the lower bound of the rate") {
  const policy::robust_mpc p;
  const cost_model m = equal_chunks(3, 100, ladder, losses, engine(1));
  fresh_request r(m, 1);
  CHECK(p.link(m, {}, r.now) == fetch(m, 0, 0));
  // 300 bytes of bases; steps of 100 bytes (0-1, gain 0.06 each; the last chunk first) and of 200 (1-2, gain 0.016).
  CHECK(p.link(m, seen(301, 6), r.now) == fetch(m, 0, 0));
  CHECK(p.link(m, seen(599, 6), r.now) == fetch(m, 0, 0));
  CHECK(p.link(m, seen(601, 6), r.now) == fetch(m, 0, 1));
  CHECK(p.link(m, seen(1199, 6), r.now) == fetch(m, 0, 1));
  CHECK(p.link(m, seen(1201, 6), r.now) == fetch(m, 0, 2));
  // The same rate after an error of 100 % counts half.
  link_history h;
  h.observe(700, 1);
  h.observe(1400, 1);
  CHECK(robust_harmonic_mean{}(h) == doctest::Approx(2 / (1 / 700.0 + 1 / 1400.0) / 1.5));
  CHECK(p.link(m, h, r.now) == fetch(m, 0, 1));
  // Text where computing is quicker than the transfer.
  const cost_model quick = equal_chunks(3, 100, ladder, losses, engine(0.4 / 100));
  CHECK(p.link(quick, seen(601, 6), r.now) == fetch(quick, 0, 1));  // 0.33 s
  CHECK(p.link(quick, seen(499, 6), r.now) == fetch(quick, 0, 0));  // 0.2 s
  CHECK(p.link(quick, seen(249, 6), r.now).what == action::text);
}

TEST_CASE("bola: the smallest level without slack, the finest with all of it") {
  const policy::bola p;
  const cost_model m = equal_chunks(10, 100, ladder, losses, engine(1000));
  fresh_request r(m, 1);
  CHECK(p.link(m, {}, r.now) == fetch(m, 0, 0));
  // In chunk times: at 1000 B/s the smallest level just fits (slack 0), at 4000 the finest (slack 30 = high).
  CHECK(p.link(m, seen(1000), r.now) == fetch(m, 0, 0));
  CHECK(p.link(m, seen(4001), r.now) == fetch(m, 0, 2));
  int before = 0;
  for (double rate = 500; rate < 5000; rate += 50) {  // more slack never gives less
    const step s = p.link(m, seen(rate), r.now);
    CHECK(s.level >= before);
    before = s.level;
  }
  CHECK(before == 2);
  // Utilities 0, 0.75, 0.95; high = 30, low = 1. The smallest two tie at Q = V (gp - 0.75 * 100 / 100) = 1 and the finest is
  // worth nothing at Q = V (0.95 + gp) = 30: V = 29 / 1.7 = 17.06, gp = 0.8086. Levels 1 and 2 tie where
  // (V (0.75 + gp) - Q) / 200 = (V (0.95 + gp) - Q) / 400, Q = V (0.75 + gp) - 0.2 V = 23.18.
  for (const auto& [slack, level] : {std::pair(0.99, 0), {1.01, 1}, {23.1, 1}, {23.3, 2}})
    CHECK(p.link(m, seen(1000 + 100 * slack), r.now) == fetch(m, 0, level));
  // Text is a candidate whose size is what the link would carry while the engine computes.
  const cost_model quick = equal_chunks(10, 100, ladder, losses, engine(1e-5));
  CHECK(p.link(quick, seen(1000), r.now).what == action::text);
}

TEST_CASE("progressive: bases of everything first, then refinements by loss per byte until the deadline") {
  const policy::progressive p;
  const cost_model m = equal_chunks(3, 100, ladder, losses);
  fresh_request r(m, 1);
  std::vector<int> levels;
  for (int i = 0; i < 3; ++i) {
    const step s = p.link(m, seen(700), r.now);
    CHECK(s.level == 0);
    r.fetched(s.chunk, 0);
  }
  for (int level : {1, 2})
    for (int i = 0; i < 3; ++i) {
      const step s = p.link(m, seen(700), r.now);
      REQUIRE(s.what == action::fetch);
      CHECK(s.level == level);
      CHECK(r[s.chunk].requested == level - 1);
      r.fetched(s.chunk, level);
    }
  CHECK_FALSE(p.link(m, seen(700), r.now));
  CHECK(planner<policy::progressive>(m).next(seen(700), r.now).finished);
  // A refinement that would come too late is not asked for; a smaller one that fits is.
  fresh_request late(m, 1);
  late.fetched(0, 1);
  late.fetched(1, 1);
  late.fetched(2, 0);
  late.now.now_seconds = 0.8;
  CHECK(p.link(m, seen(501), late.now) == fetch(m, 2, 1));
  CHECK_FALSE(p.link(m, seen(499), late.now));
  CHECK(planner<policy::progressive>(m).next(seen(499), late.now).finished);
  // Everything fits four times over at level 1: the first pass is cut there.
  fresh_request fast(m, 1);
  CHECK(p.link(m, seen(2401), fast.now) == fetch(m, 2, 1));
  CHECK(p.link(m, seen(2399), fast.now) == fetch(m, 2, 0));
  // While others are not usable yet they are not kept waiting for more than bases.
  fast.now.bytes_before = 1;
  CHECK(p.link(m, seen(1e5), fast.now) == fetch(m, 2, 0));
  fast.now.bytes_before = 0;
  fast.now.engine_before_seconds = 0.01;
  CHECK(p.link(m, seen(1e5), fast.now) == fetch(m, 2, 0));
}

TEST_CASE("progressive_cake: what the engine will have by the deadline is fetched last") {
  const policy::progressive_cake p;
  const cost_model m = equal_chunks(4, 100, ladder, losses, engine(0.4 / 100));
  fresh_request r(m, 1);  // two chunks of computing fit
  CHECK(policy::progressive_cake::reach(m, r.now, 1e6) == 2);
  const link_history h = seen(590);
  for (int c : {3, 2}) {
    CHECK(p.link(m, h, r.now) == fetch(m, c, 0));
    r.fetched(c, 0);
  }
  CHECK(p.compute(m, h, r.now) == recompute(m, 0));
  r.now.computing = 0;
  r.now.compute_free_seconds = 0.4;
  r.now.now_seconds = 0.3;
  for (int c : {3, 2}) {
    CHECK(p.link(m, h, r.now) == fetch(m, c, 1));
    r.fetched(c, 1);
  }
  // No time for another refinement, or none left: the link goes on towards the engine.
  r.now.bytes_in_flight = 400;
  r.now.fetches_in_flight = 2;
  CHECK(p.link(m, h, r.now) == fetch(m, 1, 2));
  r.now.bytes_in_flight = 0;
  r.now.fetches_in_flight = 0;
  r.fetched(2, 2);
  r.fetched(3, 2);
  CHECK(p.link(m, seen(900), r.now) == fetch(m, 1, 2));
  // They meet: the link tries the engine's chunk as well if it will be there sooner.
  r[1].computed = true;
  CHECK(p.link(m, seen(4001), r.now) == fetch(m, 0, 2));
  CHECK_FALSE(p.link(m, seen(3999), r.now));
  // Late: only the soonest end counts, base levels from the back.
  fresh_request late(m, 0.1);
  CHECK(policy::progressive_cake::reach(m, late.now, 500) == 0);
  CHECK(p.link(m, h, late.now) == fetch(m, 3, 0));
  // Everything is usable and time is left: the engine replaces what loses most.
  fresh_request full(m, 1);
  full.fetched(0, 1);
  full.fetched(1, 0);
  full.fetched(2, 0);
  full.fetched(3, 2);
  CHECK(p.compute(m, h, full.now) == recompute(m, 1));
  full.now.now_seconds = 0.7;
  CHECK_FALSE(p.compute(m, h, full.now));
  // A decoder slower than the raw copy's transfer: raw.
  cost_rates rates = engine(10);
  rates.decode_seconds_per_value = 1e-3;
  const cost_model slow = equal_chunks(4, 100, ladder, losses, rates, 1000);
  CHECK(p.link(slow, seen(1700), fresh_request(slow, 10).now) == fetch(slow, 3, 3));
  CHECK(p.link(slow, seen(1000), fresh_request(slow, 10).now).level < 3);
}

TEST_CASE("what only computing can bring is computed, whatever the policy") {
  for_each_policy([](auto p) {
    CAPTURE(std::string_view(p.name));
    const cost_model m = equal_chunks(3, 2000, ladder, losses, engine(1e-3));
    fresh_request r(m, 0.5);
    r[1].lost = true;
    const planner<decltype(p)> plan(m, p);
    for (int c : {0, 2}) r.fetched(c, m.exact_level());
    const decision d = plan.next(seen(1000), r.now);
    CHECK(d.compute == recompute(m, 1));
    CHECK_FALSE(d.link);
    r[1].computed = true;
    CHECK(plan.next(seen(1000), r.now).finished);
  });
}

TEST_CASE("a fetched chunk is patched before it counts") {
  cost_rates rates = engine(1e-3);
  rates.token_fraction = 0.2;
  const cost_model m = equal_chunks(2, 100, ladder, losses, rates);
  const planner<policy::fixed_level<0>> plan(m);
  fresh_request r(m);
  r.fetched(1, 0);
  CHECK_FALSE(plan.next({}, r.now).compute);  // it attends to chunk 0
  r.fetched(0, 0);
  CHECK(plan.next({}, r.now).compute.what == action::patch);
  CHECK(plan.next({}, r.now).compute.chunk == 0);
  CHECK_FALSE(plan.next({}, r.now).finished);
  r[0].patched = true;
  CHECK(plan.next({}, r.now).compute.chunk == 1);
  r[1].patched = true;
  CHECK(plan.next({}, r.now).finished);
}

TEST_CASE("hidden states are projected in any order, and again when a finer level has come") {
  cost_rates rates = engine(1e-3);
  rates.project_seconds_per_token = 1e-4;
  std::vector<chunk_cost> chunks;
  for (int i = 0; i < 2; ++i) chunks.push_back({100 * i, 100, 0, {100, 200, 300, 1000}, {4, 2, 1}, {payload::hidden}});
  const cost_model m = cost_model::make(chunks, rates, 3).value();
  const planner<policy::progressive> plan(m);
  fresh_request r(m);
  r.fetched(1, 0);
  const step projection{1, m.all_layers(), action::patch, -1};
  CHECK(plan.next(seen(1e6), r.now).compute == projection);  // chunk 0 is not there
  CHECK(engine_seconds(m, projection) == doctest::Approx(0.01));
  CHECK(touches(m, projection, 1));
  CHECK_FALSE(touches(m, projection, 0));
  CHECK(touches(m, recompute(m, 1), 0));
  CHECK_FALSE(touches(m, step{}, 0));
  // The whole plan has a projection behind each time that a chunk comes.
  fresh_request fresh(m, 10);
  const auto steps = plan.plan({}, fresh.now, 1e4);
  REQUIRE(steps);
  int fetched[2] = {}, patched[2] = {};
  for (const step& s : *steps) {
    if (s.what == action::fetch) ++fetched[s.chunk];
    if (s.what == action::patch) ++patched[s.chunk];
  }
  for (int c = 0; c < 2; ++c) {
    CHECK(fetched[c] >= 2);
    CHECK(patched[c] >= 1);
    CHECK(patched[c] <= fetched[c]);
  }
  CHECK(steps->back().what == action::patch);
}

TEST_CASE("decisions are pure, and plans cover every chunk") {
  for (unsigned seed = 0; seed < 100; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const cost_model m = test::random_chunks(rng);
    const double deadline = std::uniform_real_distribution<double>(0.001, 5)(rng);
    const double rate = std::exp(std::uniform_real_distribution<double>(std::log(10), std::log(1e7))(rng));
    for_each_policy([&](auto p) {
      CAPTURE(std::string_view(p.name));
      const planner<decltype(p)> plan(m, p);
      fresh_request r(m, deadline);
      const link_history h = seed % 2 ? seen(rate, 3) : link_history();
      const decision a = plan.next(h, r.now), b = planner<decltype(p)>(m, p).next(h, r.now);
      CHECK(a.link == b.link);
      CHECK(a.compute == b.compute);
      const auto steps = plan.plan(h, r.now, rate);
      REQUIRE(steps.has_value());
      CHECK(*steps == *plan.plan(h, r.now, rate));
      std::vector<int> level(std::size_t(m.num_chunks()), -1), computed(level);
      for (std::size_t i = 0; i < steps->size(); ++i) {
        const step& s = (*steps)[i];
        CHECK(s.order == i);
        REQUIRE(s.chunk >= 0);
        REQUIRE(s.chunk < m.num_chunks());
        CHECK(s.layers == m.all_layers());
        if (s.what == action::fetch) {
          CHECK(s.level > level[std::size_t(s.chunk)]);
          CHECK(s.level <= m.exact_level());
          level[std::size_t(s.chunk)] = s.level;
        }
        if (s.what == action::recompute) {
          CHECK(computed[std::size_t(s.chunk)] < 0);
          computed[std::size_t(s.chunk)] = 1;
        }
      }
      for (int c = 0; c < m.num_chunks(); ++c) CHECK((level[std::size_t(c)] >= 0 || computed[std::size_t(c)] > 0));
      // The plan as text and back, and played again.
      const std::vector<char> text = to_text(*steps);
      CHECK(*parse_plan(text) == *steps);
      const planner<policy::replay> again(m, policy::replay{*steps});
      const auto replayed = again.plan(h, r.now, rate);
      REQUIRE(replayed.has_value());
      for (const step& s : *replayed) CHECK(s.chunk >= 0);
    });
  }
}

TEST_CASE("plans from hostile text are refused or harmless") {
  const auto parse = [](std::string_view s) { return parse_plan({s.data(), s.size()}).status(); };
  CHECK(parse("sluice-plan 1\n") == status::ok);
  CHECK(parse("sluice-plan 1\n0 fetch 3 0:4 1\n1 text 2 0:4 -1") == status::ok);
  for (const char* bad :
       {"", "sluice-plan 2\n", "sluice-plan 1\n\n", "sluice-plan 1\nx", "sluice-plan 1\n0 fetch 3 4:0 1",
        "sluice-plan 1\n0 none 3 0:4 1", "sluice-plan 1\n0 fetch 99999999999 0:4 1", "sluice-plan 1\n0 fetch 3 0:4 1 ",
        "sluice-plan 1\n0 fetch -3 0:4 1", "sluice-plan 1\n0 fetch 3 0:4 101", "sluice-plan 1\n0 fetch 3 04 1",
        "sluice-plan 1\n- fetch 3 0:4 1", "sluice-plan 1\n0 fetc 3 0:4 1", "sluice-plan 1\n0 fetchh 3 0:4 1"})
    CHECK(parse(bad) == status::parse_error);
  const cost_model m = equal_chunks(2, 10, ladder, losses, engine(1));
  const std::vector<step> good = {{0, {0, 1}, action::fetch, 1, 0}, {1, {0, 1}, action::recompute, -1, 1}};
  for (unsigned seed = 0; seed < 2000; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    std::vector<char> text = to_text(good);
    for (int i = 0; i < 3; ++i) text[rng() % text.size()] = char(rng());
    if (seed % 4 == 0) text.resize(rng() % text.size());
    const auto plan = parse_plan(text);
    if (!plan) {
      CHECK(plan.status() == status::parse_error);
      continue;
    }
    fresh_request r(m);  // a plan for another request: it runs, or says that it leads nowhere
    const auto steps = planner<policy::replay>(m, policy::replay{*plan}).plan(seen(10), r.now);
    CHECK((steps.has_value() || steps.status() == status::invalid_argument));
  }
}

TEST_CASE("a decision over 1,000 chunks and 5 levels, timed") {
  const cost_model m =
      equal_chunks(1000, 256, {100, 200, 300, 400, 500, 1600}, {0.1, 0.05, 0.02, 0.01, 0.001}, engine(1e-4));
  fresh_request r(m, 5);
  for (int c = 500; c < 1000; ++c) r.fetched(c, c % 5);
  for_each_policy([&](auto p) {
    const planner<decltype(p)> plan(m, p);
    const link_history h = seen(50000, 20);
    double best = 1e9;
    for (int i = 0; i < 20; ++i) {
      const auto from = std::chrono::steady_clock::now();
      const decision d = plan.next(h, r.now);
      best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count());
      CHECK_FALSE(d.finished);
    }
    MESSAGE(std::string_view(p.name) << ": " << best * 1e6 << " microseconds");  // reported, not asserted
  });
}
