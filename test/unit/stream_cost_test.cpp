// SPDX-License-Identifier: Apache-2.0
#include <sluice/stream/plan/cost.hpp>
#include <sluice/stream/plan/link.hpp>
#include <sluice/stream/run/verify.hpp>

#include <doctest/doctest.h>

#include <support/streams.hpp>

#include <cmath>
#include <limits>
#include <random>

using namespace sluice;
using namespace sluice::stream;

TEST_CASE("costs of a chunk are what its index and the engine's rates say") {
  cost_rates r;
  r.recompute_seconds_per_token = 1e-3;
  r.recompute_seconds_per_token_position = 1e-6;
  r.decode_seconds_per_byte = 1e-6;
  r.decode_seconds_per_value = 1e-7;
  // two layers: rows of level 0, level 1, raw
  std::vector<chunk_cost> chunks = {{0, 100, 5000, {10, 20, 30, 50, 400, 600}, {0.5, 0.1}, {}},
                                    {100, 50, 2500, {5, 10, 15, 25, 200, 300}, {0.2, 0.05}, {}}};
  const cost_model m = cost_model::make(chunks, r, 2, 2).value();
  CHECK(m.num_chunks() == 2);
  CHECK(m.exact_level() == 2);
  CHECK(m.bytes(0, -1) == 0);
  CHECK(m.bytes(0, 0) == 30);
  CHECK(m.bytes(0, 1) == 80);
  CHECK(m.bytes(0, 2) == 1000);
  CHECK(m.bytes(0, {1, 2}, 1) == 50);
  CHECK(m.bytes(1, {0, 2}, 2) == 500);
  CHECK(m.bytes_between(0, 0, 1) == 50);
  CHECK(m.bytes_between(0, 1, 1) == 0);
  CHECK(m.bytes_between(0, 1, 2) == 1000);  // the raw copy shares no bytes with a level
  CHECK(m.loss(0, 0) == 0.5);
  CHECK(m.loss(0, 2) == 0);
  CHECK(m.total_loss(0) == doctest::Approx(0.7));
  CHECK(m.recompute_seconds(0) == doctest::Approx(100 * (1e-3 + 1e-6 * 50)));
  CHECK(m.recompute_seconds(1) == doctest::Approx(50 * (1e-3 + 1e-6 * 125)));
  CHECK(m.recompute_seconds(0, 2) == doctest::Approx(m.recompute_seconds(0) + m.recompute_seconds(1)));
  CHECK(m.decode_seconds(0, 1, 80) == doctest::Approx(80e-6 + 5000e-7));
  CHECK(m.decode_seconds(0, 2, 1000) == doctest::Approx(1000e-6));
  CHECK(m.patch_seconds(0) == 0);
}

TEST_CASE("masks and payload kinds become bytes that are not sent and seconds that the engine needs") {
  cost_rates r;
  r.recompute_seconds_per_token = 1e-3;
  r.project_seconds_per_token = 1e-4;
  const std::vector<std::uint64_t> bytes = {10, 10, 10, 10, 100, 100, 100, 100};
  using enum payload;
  std::vector<chunk_cost> chunks = {
      {0, 10, 0, bytes, {1}, {}},
      {10, 10, 0, bytes, {1}, {kv, absent, absent, kv}},  // DroidSpeak: layers 1 and 2 computed
      {20, 10, 0, bytes, {1}, {hidden, hidden, kv, kv}},  // HCache
      {30, 10, 0, bytes, {1}, {absent, absent, absent, absent}}};
  const cost_model plain = cost_model::make(chunks, r, 1, 4).value();
  CHECK(plain.bytes(0, 0) == 40);
  CHECK(plain.bytes(1, 0) == 20);
  CHECK(plain.bytes(1, {0, 2}, 0) == 10);
  CHECK(plain.patch_seconds(1) == doctest::Approx(10e-3 * 2 / 4));
  CHECK(plain.patch_needs_prefix(1));
  CHECK(plain.patch_seconds(2) == doctest::Approx(10e-4 * 2 / 4));
  CHECK_FALSE(plain.patch_needs_prefix(2));
  CHECK(plain.patch_again_seconds(1) == 0);  // what is computed from the text stays when more is fetched
  CHECK(plain.patch_again_seconds(2) == plain.patch_seconds(2));
  CHECK_FALSE(plain.stored(3));
  CHECK(plain.bytes(3, 1) == 0);
  for (const refinement& step : plain.refinements()) CHECK(step.chunk != 3);

  r.token_fraction = 0.15;  // CacheBlend
  const cost_model blend = cost_model::make(chunks, r, 1, 4).value();
  CHECK(blend.patch_seconds(0) == doctest::Approx(0.15 * 10e-3));
  CHECK(blend.patch_seconds(1) == doctest::Approx(10e-3 * (2 + 0.15 * 2) / 4));
  CHECK(blend.patch_again_seconds(1) == blend.patch_seconds(1));

  // Units of layers: projecting takes their share.
  std::vector<chunk_cost> units = {{0, 10, 0, {10, 100}, {1}, {hidden}, {0, 1}},
                                   {0, 10, 0, {10, 100}, {1}, {hidden}, {1, 4}}};
  const cost_model parts = cost_model::make(units, r, 1).value();
  CHECK(parts.patch_seconds(0) == doctest::Approx(10e-4 / 4));
  CHECK(parts.patch_seconds(1) == doctest::Approx(10e-4 * 3 / 4));
}

TEST_CASE("refinements come by loss removed per byte, of one chunk in ladder order") {
  // Chunk 0: step 0-1 gains 4 for 4 bytes, 1-2 gains 3 for 1 byte: together 7 for 5, a hull's one step. Chunk 1: 5 for 5, 1 for 5.
  std::vector<chunk_cost> chunks = {{0, 1, 0, {1, 5, 6, 100}, {8, 4, 1}, {}},
                                    {1, 1, 0, {5, 10, 15, 100}, {7, 2, 1}, {}}};
  const cost_model m = cost_model::make(chunks, {}, 3).value();
  REQUIRE(m.refinements().size() == 3);
  CHECK(m.refinements()[0].chunk == 0);
  CHECK(m.refinements()[0].from == 0);
  CHECK(m.refinements()[0].to == 2);
  CHECK(m.refinements()[0].loss_per_byte == doctest::Approx(7.0 / 5));
  CHECK(m.refinements()[1].chunk == 1);
  CHECK(m.refinements()[1].to == 1);
  CHECK(m.refinements()[2].loss_per_byte == doctest::Approx(0.2));

  for (unsigned seed = 0; seed < 200; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    const cost_model random = test::random_chunks(rng);
    std::vector<int> level(std::size_t(random.num_chunks()), 0);
    double before = detail::infinity;
    for (const refinement& step : random.refinements()) {
      CHECK(step.loss_per_byte <= before);
      before = step.loss_per_byte;
      CHECK(level[std::size_t(step.chunk)] == step.from);
      CHECK(step.to > step.from);
      level[std::size_t(step.chunk)] = step.to;
    }
  }
}

TEST_CASE("a cost model refuses what cannot be") {
  const chunk_cost good{0, 10, 0, {1, 2, 3}, {0.5, 0.1}, {}};
  const auto make = [](chunk_cost c, cost_rates r = {}, int levels = 2) {
    return cost_model::make({c}, r, levels).status();
  };
  CHECK(make(good) == status::ok);
  chunk_cost c = good;
  c.tokens = 0;
  CHECK(make(c) == status::invalid_argument);
  c = good;
  c.bytes = {2, 1, 3};
  CHECK(make(c) == status::invalid_argument);
  c = good;
  c.bytes.pop_back();
  CHECK(make(c) == status::invalid_argument);
  c = good;
  c.bytes[2] = ~std::uint64_t{0};
  CHECK(make(c) == status::invalid_argument);
  for (double x : {-1.0, std::nan(""), std::numeric_limits<double>::infinity()}) {
    c = good;
    c.loss[0] = x;
    CHECK(make(c) == status::invalid_argument);
    cost_rates r;
    r.recompute_seconds_per_token = x;
    CHECK(make(good, r) == status::invalid_argument);
  }
  CHECK(make(good, {}, 0) == status::invalid_argument);
  CHECK(make(good, {}, 1) == status::invalid_argument);
  CHECK(cost_model::make({good, good}, {}, 2).status() == status::invalid_argument);  // overlapping positions
  CHECK(cost_model::make({}, {}, 2).has_value());
}

TEST_CASE("link estimates, by hand") {
  link_history h;
  CHECK(last_chunk{}(h) == 0);
  CHECK(size_quantile{}(h, 10) == 0);
  CHECK(harmonic_mean{}(link_history(7)) == 7);
  h.observe(100, 1);  // 100
  h.observe(100, 2);  // 50
  h.observe(400, 2);  // 200
  h.observe(5, 0);    // not a measurement
  CHECK(h.size() == 3);
  CHECK(last_chunk{}(h) == 200);
  CHECK(harmonic_mean{}(h) == doctest::Approx(3 / (1 / 100.0 + 1 / 50.0 + 1 / 200.0)));
  CHECK(harmonic_mean{2}(h) == doctest::Approx(80));
  // Predictions made before: of 200 harmonic(100, 50) = 66.7, off by 0.667; of 50 it was 100, off by 1.
  CHECK(robust_harmonic_mean{}(h) == doctest::Approx(harmonic_mean{}(h) / 2));
  for (int i = 0; i < 100; ++i) h.observe(1000, 1000.0 / (i + 1));  // rates 1 .. 100
  CHECK(h.size() == link_history::capacity);                        // 37 .. 100 are remembered
  CHECK(size_quantile{0.25}(h) == doctest::Approx(37 + 16));
  for (int i = 0; i < 10; ++i) h.observe(1'000'000, 1'000'000 / 3.0);
  CHECK(size_quantile{0.25}(h, 1'000'000) == doctest::Approx(3));
  CHECK(size_quantile{0.25}(h, 1000) > 40);  // big transfers say nothing about small ones
}

TEST_CASE("verification commits what the fine cache says") {
  using tokens = std::vector<std::int32_t>;
  const tokens draft = {5, 6, 7, 8};
  CHECK(verify(draft, tokens{5, 6, 9, 8, 1}).value().accepted == 2);
  CHECK(verify(draft, tokens{5, 6, 9, 8, 1}).value().token == 9);
  CHECK(verify(draft, tokens{4, 6, 7, 8, 1}).value().committed() == 1);
  const verified all = verify(draft, tokens{5, 6, 7, 8, 1}).value();
  CHECK(all.all);
  CHECK(all.token == 1);
  CHECK(all.committed() == 5);
  CHECK(verify(tokens{}, tokens{3}).value().token == 3);
  CHECK(verify(draft, draft).status() == status::invalid_argument);

  const cost_model m = test::equal_chunks(4, 10, {100, 300, 2000}, {0.1, 0.01});
  test::fresh_request r(m);
  CHECK_FALSE(all_at(m, r.now, 0));
  for (int c = 0; c < 4; ++c) r.fetched(c, 0);
  CHECK(all_at(m, r.now, 0));
  CHECK_FALSE(all_at(m, r.now, 1));
  CHECK(draft_tokens(m, r.now, 1, 800, 0.1, 100) == 10);  // 4 * 200 bytes at 800 a second: a second of drafting
  CHECK(draft_tokens(m, r.now, 1, 800, 0.1, 4) == 4);
  CHECK(draft_tokens(m, r.now, 1, 0, 0.1, 4) == 1);
  r[2].computed = true;
  CHECK(draft_tokens(m, r.now, 1, 800, 0.1, 100) == 8);
  for (int c : {0, 1, 3}) r.fetched(c, 1);
  CHECK(all_at(m, r.now, 1));
}
