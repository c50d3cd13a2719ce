// SPDX-License-Identifier: Apache-2.0
// Units of layers: what they cost, what ends up in the pages, and when an engine may go on to the next layer.
#include <doctest/doctest.h>
#include <sluice/stream/plan/policy/cachegen.hpp>
#include <sluice/stream/plan/policy/cake.hpp>
#include <sluice/stream/plan/policy/layerwise.hpp>
#include <sluice/stream/plan/policy/robust_mpc.hpp>
#include <sluice/stream/store/sources/memory.hpp>
#include <sluice/stream/store/sources/shaped.hpp>
#include <stream/context.hpp>

namespace {

using namespace sluice;
using namespace sluice::stream;

constexpr int num_chunks = 8, num_layers = 30;

// The capture's chunks, cut into units.
struct units {
  std::vector<frame_index> index;
  std::vector<layer_range> parts;
  std::vector<chunk_cost> costs;
  std::vector<stored_chunk> names;

  explicit units(int num_parts) : index(num_chunks) {
    const context::capture& sample = context::sample();
    for (int i = 0; i < num_parts; ++i) parts.push_back({i * num_layers / num_parts, (i + 1) * num_layers / num_parts});
    for (std::size_t c = 0; c < num_chunks; ++c) REQUIRE(index[c].parse(frame(c)) == status::ok);
    for (const layer_range& part : parts)
      for (std::size_t c = 0; c < num_chunks; ++c) {
        costs.push_back(unit_of(index[c], part, sample.model, 256));
        const std::size_t head = sizeof(object_header) + std::size_t(index[c].payload_offset());
        names.push_back({sample.names[c].key, sample.names[c].exact_key,
                         std::span(sample.objects[2 * c].bytes).first(head), parts_of(index[c], part)});
      }
  }
  static std::span<const std::byte> frame(std::size_t c) {
    return std::span(context::sample().objects[2 * c].bytes).subspan(sizeof(object_header));
  }
  cost_model cost(double seconds_per_token) const {
    return cost_model::make(costs, {.recompute_seconds_per_token = seconds_per_token, .decode_seconds_per_value = 2e-9},
                            context::sample().model.passes)
        .value();
  }
};

// Pages, and an engine that computes units as the capture has them.
struct layer_engine {
  const cost_model& cost;
  context::pages cache = context::sample().empty();
  page_decoder<> decoder{context::sample().model, cost, {&cache.view, 1}};
  std::atomic<int> computations{0};

  page_status decode(int unit, int level, std::span<const std::byte> frame) {
    return decoder.decode(unit, level, frame);
  }
  status compute(const step& what, std::stop_token stop) {
    const auto until = steady_clock_seconds{}() + cost.recompute_seconds(what.chunk);
    while (steady_clock_seconds{}() < until)
      if (stop.stop_requested()) return status::cancelled;
    each_plane(what.chunk, [&](std::size_t plane, std::size_t at, std::size_t n) {
      std::memcpy(&cache.memory[plane][at], &context::sample().truth.memory[plane][at], n);
    });
    ++computations;
    return status::ok;
  }
  template <class F>
  void each_plane(int unit, F f) const {
    const chunk_cost& c = cost.chunk(unit);
    for (int l = c.layers.begin; l < c.layers.end; ++l)
      for (int side : {0, 1}) f(std::size_t(2 * l + side), std::size_t(c.position) * 384, std::size_t(c.tokens) * 384);
  }
  bool same(int unit, const context::pages& as) const {
    bool equal = true;
    each_plane(unit, [&](std::size_t plane, std::size_t at, std::size_t n) {
      equal = equal && !std::memcmp(&cache.memory[plane][at], &as.memory[plane][at], n);
    });
    return equal;
  }
  // Whether it holds one of the copies that are whole.
  bool whole(int unit) const {
    bool any = same(unit, context::sample().truth);
    for (const context::pages& level : context::sample().levels) any = any || same(unit, level);
    return any;
  }
  void check(const report& r) const {
    CHECK(r.outcome == status::ok);
    for (int u = 0; u < cost.num_chunks(); ++u) {
      CAPTURE(u);
      const chunk_report& k = r.chunks[std::size_t(u)];
      REQUIRE((k.computed || k.level >= 0));
      if (k.state == status::degraded) continue;
      CHECK(k.state == status::ok);
      CHECK(same(u, k.computed ? context::sample().truth : context::sample().levels[std::size_t(k.level)]));
    }
  }
};

memory_source stored() {
  memory_source s;
  context::store(s);
  return s;
}

}  // namespace

TEST_CASE("units together cost what their chunks cost") {
  const context::capture& sample = context::sample();
  const context_loss whole = context_loss::of(sample.model, 256);
  for (int num_parts : {1, 4, 7, 30}) {
    CAPTURE(num_parts);
    const units u(num_parts);
    const cost_model cost = u.cost(0.01);
    REQUIRE(cost.num_chunks() == num_parts * num_chunks);
    for (int c = 0; c < num_chunks; ++c) {
      const chunk_cost chunk = chunk_of(u.index[std::size_t(c)], 0, whole);
      double seconds = 0;
      std::uint64_t values = 0;
      std::vector<double> loss(chunk.loss.size());
      std::vector<std::uint64_t> bytes(chunk.loss.size());
      for (int i = c; i < cost.num_chunks(); i += num_chunks) {
        seconds += cost.recompute_seconds(i);
        values += cost.chunk(i).values;
        for (std::size_t l = 0; l < loss.size(); ++l) {
          loss[l] += cost.loss(i, int(l));
          bytes[l] += cost.bytes(i, int(l));
        }
      }
      CHECK(seconds == doctest::Approx(0.01 * context::chunk_tokens));
      CHECK(values == chunk.values);
      for (std::size_t l = 0; l < loss.size(); ++l) {
        CHECK(loss[l] == doctest::Approx(chunk.loss[l]));
        CHECK(bytes[l] == chunk.bytes[l] - sizeof(object_header) - u.index[std::size_t(c)].payload_offset());
      }
    }
  }
}

TEST_CASE("units that are out of order, overlap or leave layers out are refused") {
  const units u(3);
  const auto made = [&](auto change) {
    std::vector<chunk_cost> costs = u.costs;
    change(costs);
    return cost_model::make(std::move(costs), {}, context::sample().model.passes).status();
  };
  CHECK(made([](auto&) {}) == status::ok);
  CHECK(made([](auto& c) { std::swap(c[0], c[1]); }) == status::invalid_argument);
  CHECK(made([](auto& c) { std::swap(c[7], c[8]); }) == status::invalid_argument);
  CHECK(made([](auto& c) { c[9].layers.begin = 9; }) == status::invalid_argument);
  CHECK(made([](auto& c) { c[9].layers = {}; }) == status::invalid_argument);
  CHECK(made([](auto& c) { c.erase(c.begin(), c.begin() + 8); }) == status::invalid_argument);
  CHECK(made([](auto& c) { c.erase(c.begin() + 8, c.begin() + 16); }) == status::invalid_argument);
  CHECK(made([](auto& c) { c[0].layers = {0, -4}; }) == status::invalid_argument);
}

TEST_CASE_TEMPLATE("units fill the pages with what is reported, whoever plans", Policy, policy::fixed_level<0>,
                   policy::fixed_level<2>, policy::cachegen, policy::robust_mpc, policy::cake, policy::layerwise) {
  memory_source source = stored();
  Policy plan_as;
  if constexpr (requires { plan_as.level; }) plan_as.level = 1;  // there are no exact copies by layers
  for (int num_parts : {1, 4, 30}) {
    CAPTURE(num_parts);
    const units u(num_parts);
    const cost_model cost = u.cost(1e-4);
    for (bool beside : {false, true}) {
      CAPTURE(beside);
      layer_engine engine{cost};
      link_history link;
      const planner<Policy> plan(cost, plan_as);
      executor e(plan, source, u.names, link, 2, {.range_bytes = 3000});
      if (beside) {
        layer_run run(e, engine);
        for (int l = 0; l < num_layers; ++l) {
          REQUIRE(run.wait_for(l) == status::ok);
          for (int unit = 0; unit < cost.num_chunks() && cost.chunk(unit).layers.begin <= l; ++unit)
            CHECK(engine.whole(unit));
        }
        engine.check(run.finish());
      } else {
        engine.check(run_threaded(e, engine));
      }
      CHECK(e.result().faults.empty());
    }
  }
}

namespace {

// Delivers so many reads, and the others once it is opened.
struct gated_source {
  memory_source* inner;
  int reads;
  std::atomic<bool> open{false};
  struct held {
    std::string key;
    read_request request;
    ticket mine, theirs = 0;
  };
  std::vector<held> all{};

  result<std::uint64_t> size(std::string_view key) { return inner->size(key); }
  status put(std::string_view key, std::span<const std::byte> b) { return inner->put(key, b); }
  std::string_view detail() const { return inner->detail(); }
  ticket submit(const read_request& r) {
    all.push_back({std::string(r.key), r, ticket(all.size() + 1)});
    return all.back().mine;
  }
  std::size_t poll(std::span<completion> done, double seconds) {
    for (held& h : all)
      if (h.theirs == 0 && (open || int(h.mine) <= reads))
        h.theirs = inner->submit({h.key, h.request.offset, h.request.buffer});
    const std::size_t n = inner->poll(done, 0);
    for (std::size_t i = 0; i < n; ++i)
      for (const held& h : all)
        if (h.theirs == done[i].which) {
          done[i].which = h.mine;
          break;
        }
    if (n == 0) std::this_thread::sleep_for(std::chrono::duration<double>(std::min(seconds, 1e-3)));
    return n;
  }
  std::size_t arrived(ticket) { return 0; }
  std::size_t cancel(ticket t) { return all[t - 1].theirs ? inner->cancel(all[t - 1].theirs) : 0; }
};

}  // namespace

TEST_CASE("the first layers are there before anything of the last has come") {
  memory_source memory = stored();
  const units u(10);
  const cost_model cost = u.cost(10);
  gated_source source{&memory, 2 * num_chunks};  // two levels of each chunk's first layers
  layer_engine engine{cost};
  link_history link;
  const planner<policy::fixed_level<1>> plan(cost);
  executor e(plan, source, u.names, link, 600, executor_options{.patience = {.floor_seconds = 600}});
  layer_run run(e, engine);
  REQUIRE(run.wait_for(0) == status::ok);
  for (int unit = 0; unit < num_chunks; ++unit) CHECK(engine.same(unit, context::sample().levels[1]));
  CHECK(engine.same(cost.num_chunks() - 1, context::sample().empty()));
  source.open = true;
  REQUIRE(run.wait_for(num_layers - 1) == status::ok);
  engine.check(run.finish());
  CHECK(engine.computations == 0);
}

TEST_CASE("an engine that shares its cores with the decoder begins when that waits for the link") {
  memory_source memory = stored();
  const units u(10);
  const cost_model cost = u.cost(10);
  struct slow_engine : layer_engine {
    std::atomic<int> decoded{0};
    page_status decode(int unit, int level, std::span<const std::byte> frame) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
      const page_status s = layer_engine::decode(unit, level, frame);
      ++decoded;
      return s;
    }
  } engine{{cost}};
  link_history link;
  const planner<policy::fixed_level<1>> plan(cost);
  SUBCASE("a link that stops after the first layers") {
    gated_source source{&memory, 2 * num_chunks};
    executor e(plan, source, u.names, link, 600, executor_options{.patience = {.floor_seconds = 600}});
    layer_run run(e, engine, decoder_cores::shared);
    REQUIRE(run.wait_for(0) == status::ok);
    CHECK(engine.decoded == num_chunks);
    source.open = true;
    engine.check(run.finish());
  }
  SUBCASE("a link that is faster than the decoder") {
    executor e(plan, memory, u.names, link, 600);
    layer_run run(e, engine, decoder_cores::shared);
    REQUIRE(run.wait_for(0) == status::ok);
    CHECK(engine.decoded == cost.num_chunks());
    engine.check(run.finish());
  }
}

TEST_CASE("damage in some layers of an object costs computing those, a lost object all of its layers") {
  const units u(5);
  const cost_model cost = u.cost(1e-4);
  const auto& object = context::sample().objects[2 * 3];
  memory_source source = stored();
  bool lost = false;
  SUBCASE("damage") {
    auto bytes = object.bytes;
    bytes[std::size_t(parts_of(u.index[3], u.parts[2])[0].end) - 10] ^= std::byte{1};
    REQUIRE(source.put(object.name, bytes) == status::ok);
  }
  SUBCASE("gone after its head was read") {
    lost = true;
    REQUIRE(source.erase(object.name) == status::ok);
  }
  SUBCASE("another object under its name") {
    lost = true;
    REQUIRE(source.put(object.name, context::sample().objects[2 * 4].bytes) == status::ok);
  }
  layer_engine engine{cost};
  link_history link;
  const planner<policy::fixed_level<1>> plan(cost);
  executor e(plan, source, u.names, link, 10);
  layer_run run(e, engine);
  for (int l = 0; l < num_layers; ++l) REQUIRE(run.wait_for(l) == status::ok);
  const report& r = run.finish();
  engine.check(r);
  for (int unit = 0; unit < cost.num_chunks(); ++unit) {
    CAPTURE(unit);
    CHECK(r.chunks[std::size_t(unit)].computed == (unit % num_chunks == 3 && (lost || unit / num_chunks == 2)));
  }
  CHECK(engine.computations == (lost ? 5 : 1));
}

TEST_CASE("who goes away in the middle cancels the rest, and what the engine refuses ends the request") {
  const units u(6);
  memory_source source = stored();
  SUBCASE("away") {
    const cost_model cost = u.cost(10);
    shaped_source slow(source, link_trace::constant(100'000));
    layer_engine engine{cost};
    link_history link;
    const planner<policy::layerwise> plan(cost);
    executor e(plan, slow, u.names, link, 60);
    { const layer_run run(e, engine); }
    CHECK(e.result().outcome == status::cancelled);
    completion none[4];
    CHECK(slow.poll(none, 0) == 0);
  }
  SUBCASE("refused") {
    struct broken : layer_engine {
      status compute(const step&, std::stop_token) { return status::out_of_memory; }
    };
    REQUIRE(source.erase(context::sample().objects[4].name) == status::ok);
    const cost_model cost = u.cost(1e-4);
    broken engine{{cost}};
    link_history link;
    const planner<policy::layerwise> plan(cost);
    executor e(plan, source, u.names, link, 60);
    layer_run run(e, engine);
    CHECK(run.wait_for(0) == status::out_of_memory);
    CHECK(run.finish().outcome == status::out_of_memory);
  }
}

TEST_CASE("layerwise spends the time it has on levels, and not more") {
  const units u(6);
  const cost_model cost = u.cost(10);
  std::vector<chunk_progress> chunks(std::size_t(cost.num_chunks()));
  const policy::layerwise p;
  for (int level = 0; level < cost.num_levels(); ++level) {
    CAPTURE(level);
    double bytes = 0;
    for (int i = 0; i < cost.num_chunks(); ++i) bytes += double(cost.bytes(i, level));
    const link_history link(1e6);
    const double enough = bytes / 1e6 + cost.decode_seconds(cost.num_chunks() - 1, level, 0);
    CHECK(p.link(cost, link, {.deadline_seconds = enough * 1.001, .chunks = chunks}).level == level);
    CHECK(p.link(cost, link, {.deadline_seconds = enough * 0.999, .chunks = chunks}).level == std::max(level - 1, 0));
  }
  CHECK(p.link(cost, link_history(), {.deadline_seconds = 1, .chunks = chunks}).level == 1);
  for (chunk_progress& c : chunks) c.requested = c.arrived = c.ready = 0;
  CHECK_FALSE(p.link(cost, link_history(1e9), {.deadline_seconds = 1, .chunks = chunks}));
}
