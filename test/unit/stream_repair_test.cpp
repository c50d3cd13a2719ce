// SPDX-License-Identifier: Apache-2.0
// Chunks of several tiles, some of them damaged: what is computed is what is missing, and the rest stays.
#include <doctest/doctest.h>
#include <sluice/stream/plan/policy/cachegen.hpp>
#include <sluice/stream/plan/policy/cake.hpp>
#include <sluice/stream/plan/policy/progressive.hpp>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/run/group.hpp>
#include <sluice/stream/store/sources/memory.hpp>
#include <stream/context.hpp>
#include <support/virtual_link.hpp>

#include <map>
#include <random>

namespace {

using namespace sluice;
using namespace sluice::stream;

constexpr int per_tile = 32, chunk_tokens = 128, num_chunks = 2, num_layers = 30, row = 384;
using tiled = codec::standard::with_grouping<tile_tokens<per_tile>>;

// The capture's 256 tokens as two chunks of four token tiles.
struct stored_context {
  const context::capture& sample = context::sample();
  std::vector<frame_index> index;
  std::vector<chunk_cost> costs;
  std::vector<stored_chunk> names;
  std::vector<context::object> objects;
  std::vector<context::pages> levels;

  stored_context() : index(num_chunks) {
    const context_loss loss{std::vector<double>(std::size_t(sample.model.passes), 0.01), 256};
    for (int level = 0; level < sample.model.passes; ++level) levels.push_back(sample.empty());
    for (int c = 0; c < num_chunks; ++c) {
      const kv_view part = sample.truth.view.slice(c * chunk_tokens, (c + 1) * chunk_tokens);
      stored_chunk name;
      name.key[0] = std::byte(c + 1);
      encoder<tiled> e(sample.model);
      std::vector<std::byte> bytes(sizeof(object_header) + e.max_size(part));
      bytes.resize(sizeof(object_header) + e.encode(part, std::span(bytes).subspan(sizeof(object_header))).value());
      const object_header h = make_object_header(name.key);
      std::memcpy(bytes.data(), &h, sizeof h);
      const auto frame = std::span<const std::byte>(bytes).subspan(sizeof h);
      REQUIRE(index[std::size_t(c)].parse(frame) == status::ok);
      costs.push_back(chunk_of(index[std::size_t(c)], 0, loss));
      for (int level = 0; level < sample.model.passes; ++level)
        REQUIRE(decoder<tiled>(sample.model).decode(frame, levels[std::size_t(level)].view, {.level = level}));
      names.push_back(name);
      objects.push_back({to_hex(name.key), std::move(bytes)});
    }
  }
  cost_model cost(double seconds_per_token) const {
    return cost_model::make(costs, {.recompute_seconds_per_token = seconds_per_token, .decode_seconds_per_value = 1e-9},
                            sample.model.passes)
        .value();
  }
  // Where a tile's first byte lies in its object.
  std::size_t at(int chunk, int pass, const tile_key& key) const {
    const frame_index& i = index[std::size_t(chunk)];
    return sizeof(object_header) + std::size_t(i.range(i.ordinal(pass, key)).begin);
  }
};

const stored_context& stored() {
  static const stored_context c;
  return c;
}

// Pages, and an engine that computes nothing but what it is told to, where all before that is there.
struct engine {
  const cost_model& cost;
  context::pages cache = context::sample().empty();
  page_decoder<tiled> decoder{context::sample().model, cost, {&cache.view, 1}};
  std::atomic<int> computations{0}, too_early{0};

  page_status decode(int chunk, int level, std::span<const std::byte> frame) {
    return decoder.decode(chunk, level, frame);
  }
  status compute(const step& what, std::stop_token) {
    const chunk_cost& c = cost.chunk(what.chunk);
    const gap all{c.position, c.tokens, num_layers};
    const gap& g = what.missing ? what.missing : all;
    for (int l = 0; l < g.end_layer; ++l)
      if (g.position > 0 && !std::memcmp(token(cache, l, g.position - 1), token(context::sample().empty(), l, 0), row))
        ++too_early;
    each(g, [&](const std::byte* from, std::byte* to) { std::memcpy(to, from, row); });
    ++computations;
    return status::ok;
  }
  static std::byte* token(const context::pages& p, int l, std::int64_t t) {
    return const_cast<std::byte*>(p.memory[std::size_t(2 * l)].data()) + t * row;
  }
  template <class F>
  void each(const gap& g, F f) {
    for (int l = 0; l < g.end_layer; ++l)
      for (int side : {0, 1})
        for (std::int64_t t = g.position; t < g.position + g.tokens; ++t)
          f(&context::sample().truth.memory[std::size_t(2 * l + side)][std::size_t(t * row)],
            &cache.memory[std::size_t(2 * l + side)][std::size_t(t * row)]);
  }
  // What was computed is the capture's, the rest is what its level decodes to.
  void check(const report& r) const {
    REQUIRE(r.outcome == status::ok);
    CHECK(too_early == 0);
    std::int64_t computed = 0;
    for (int c = 0; c < num_chunks; ++c) {
      CAPTURE(c);
      const chunk_report& k = r.chunks[std::size_t(c)];
      REQUIRE((k.computed || k.level >= 0));
      CHECK_FALSE((k.computed && k.repaired));
      computed += k.computed ? chunk_tokens : k.repaired.tokens;
      int wrong = 0;
      for (int l = 0; l < num_layers; ++l)
        for (int side : {0, 1})
          for (std::int64_t t = c * chunk_tokens; t < (c + 1) * chunk_tokens; ++t) {
            const auto same = [&](const context::pages& p) {
              const std::size_t plane = std::size_t(2 * l + side), at = std::size_t(t * row);
              return !std::memcmp(&cache.memory[plane][at], &p.memory[plane][at], row);
            };
            const gap& g = k.repaired;
            const bool inside = t >= g.position && t < g.position + g.tokens && l < g.end_layer;
            bool ok =
                k.computed || inside ? same(context::sample().truth) : same(stored().levels[std::size_t(k.level)]);
            for (const context::pages& level : stored().levels)
              ok = ok || (k.state == status::degraded && !inside && same(level));
            wrong += !ok;
          }
      CHECK(wrong == 0);
    }
    CHECK(r.recomputed_tokens == computed);
  }
};

memory_source store(const std::vector<context::object>& objects) {
  memory_source s;
  for (const context::object& o : objects) REQUIRE(s.put(o.name, o.bytes) == status::ok);
  return s;
}

}  // namespace

TEST_CASE("repair: of a chunk with a damaged tile that tile's tokens are computed, as far up as it lies") {
  const cost_model cost = stored().cost(1e-6);
  const planner<policy::fixed_level<1>> plan(cost);
  struct damage {
    int chunk;
    std::vector<tile_key> tiles;
    gap expected;
  };
  const std::vector<damage> all = {
      {0, {{0, plane::key, 0, 0}}, {0, per_tile, 1, 1.0 / num_layers}},
      {1, {{7, plane::value, 2, 0}}, {chunk_tokens + 2 * per_tile, per_tile, 8, 8.0 / num_layers}},
      {1, {{29, plane::key, 3, 0}}, {chunk_tokens + 3 * per_tile, per_tile, 30, 1}},
      {0, {{4, plane::key, 1, 0}, {20, plane::value, 2, 0}}, {per_tile, 2 * per_tile, 21, 21.0 / num_layers}},
  };
  for (const damage& d : all) {
    CAPTURE(d.expected.position);
    std::vector<context::object> objects = stored().objects;
    for (const tile_key& key : d.tiles)
      objects[std::size_t(d.chunk)].bytes[stored().at(d.chunk, 0, key)] ^= std::byte{8};
    memory_source source = store(objects);
    engine e{cost};
    link_history link;
    executor run_as(plan, source, stored().names, link, 10);
    const report& r = run(run_as, e);
    e.check(r);
    const chunk_report& k = r.chunks[std::size_t(d.chunk)];
    CHECK(k.repaired == d.expected);
    CHECK(k.level == 1);
    CHECK(k.state == status::ok);
    CHECK_FALSE(k.computed);
    CHECK(r.recomputed_tokens == d.expected.tokens);
    CHECK(context::names(r, status::corrupt_tile, d.chunk));
    CHECK(e.computations == 1);
  }
}

TEST_CASE("repair: waits for what stands before it, and stays away from chunks that are lost in whole") {
  const cost_model cost = stored().cost(1e-6);
  std::vector<context::object> objects = stored().objects;
  objects[1].bytes[stored().at(1, 0, {3, plane::key, 0, 0})] ^= std::byte{1};
  memory_source source = store(objects);
  REQUIRE(source.erase(objects[0].name) == status::ok);
  for (const bool threads : {false, true}) {
    engine e{cost};
    link_history link;
    const planner<policy::fixed_level<2>> plan(cost);
    executor run_as(plan, source, stored().names, link, 10);
    const report& r = threads ? run_threaded(run_as, e) : run(run_as, e);
    e.check(r);
    CHECK(r.chunks[0].computed);
    CHECK(r.recomputed_tokens == chunk_tokens + per_tile);
    std::vector<int> order;
    for (const step& s : r.steps)
      if (s.what == action::recompute) order.push_back(s.chunk);
    CHECK(order == std::vector<int>{0, 1});
  }
}

TEST_CASE_TEMPLATE("repair: whatever is damaged, pages hold what the report says", Policy, policy::fixed_level<0>,
                   policy::fixed_level<3>, policy::cachegen, policy::cake, policy::progressive,
                   policy::progressive_cake) {
  const cost_model cost = stored().cost(3e-6);
  Policy plan_as;
  if constexpr (requires { plan_as.level; }) plan_as.level = 1;
  const planner<Policy> plan(cost, plan_as);
  for (unsigned seed = 0; seed < 12; ++seed) {
    INFO("seed " << seed);
    std::mt19937 random(seed);
    std::vector<context::object> objects = stored().objects;
    for (int i = 0, n = 1 + int(random() % 3); i < n; ++i) {
      context::object& o = objects[random() % num_chunks];
      // In whichever pass, but behind header and index.
      const std::size_t begin = stored().at(0, 0, {0, plane::key, 0, 0});
      o.bytes[begin + random() % (o.bytes.size() - begin)] ^= std::byte(1 + random() % 255);
    }
    memory_source source = store(objects);
    for (const bool threads : {false, true}) {
      CAPTURE(threads);
      engine e{cost};
      link_history link;
      executor run_as(plan, source, stored().names, link, 0.5);
      e.check(threads ? run_threaded(run_as, e) : run(run_as, e));
    }
    link_history link;
    request_group<Policy, memory_source> group(source, link);
    std::map<int, engine> engines;
    for (int i = 0; i < 2; ++i) engines.try_emplace(group.add(plan, stored().names, 0.5), cost);
    run_group(
        group, [&](int request) -> engine& { return engines.at(request); },
        [&](int request) { engines.at(request).check(group.result(request)); });
  }
}

TEST_CASE("repair: takes the seconds that the cost model says, and a refining request ends") {
  std::mt19937 rng(3);
  for (int i = 0; i < 20; ++i) {
    const cost_model cost = test::random_context(rng);
    const int c = int(rng() % unsigned(cost.num_chunks()));
    const chunk_cost& k = cost.chunk(c);
    const gap part{k.position + 1, k.tokens / 2, 5, 0.5};
    const auto decoded = [&](int chunk, int) {
      return chunk == c ? page_status{.worst = status::corrupt_tile, .missing = part} : page_status{};
    };
    const link_trace link = link_trace::constant(1e5);
    const double deadline = 1e4;
    const report sound = test::run_virtually(cost, link, policy::fixed_level<0>{}, 0, deadline);
    const report r = test::run_virtually(cost, link, policy::fixed_level<0>{}, 0, deadline, {}, {}, decoded);
    CHECK(r.chunks[std::size_t(c)].repaired == part);
    CHECK(r.recomputed_tokens == sound.recomputed_tokens + part.tokens);
    CHECK(r.usable_seconds >= cost.recompute_seconds(c, part));
    CHECK(r.usable_seconds <= sound.usable_seconds + cost.recompute_seconds(c, part) + 1e-9);
    const double share = cost.recompute_seconds(c, part) / cost.recompute_seconds(c);
    CHECK(share < 0.3);
    const report refined = test::run_virtually(cost, link, policy::progressive{}, 0, deadline, {}, {}, decoded);
    CHECK(refined.chunks[std::size_t(c)].repaired == part);
    CHECK(refined.seconds < deadline / 2);  // nobody waits for what cannot be refined
  }
}
