// SPDX-License-Identifier: Apache-2.0
// The executor on real objects in memory: what ends up in the pages, whatever the objects are like.
#include <doctest/doctest.h>
#include <sluice/stream/plan/policy/cachegen.hpp>
#include <sluice/stream/plan/policy/cake.hpp>
#include <sluice/stream/plan/policy/progressive.hpp>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/store/sources/memory.hpp>
#include <sluice/stream/store/sources/shaped.hpp>
#include <stream/context.hpp>

namespace {

using namespace sluice;
using namespace sluice::stream;

template <class Policy, byte_source Source, chunk_sink Engine>
report run(Policy policy, Source& source, Engine& engine, double deadline, executor_options options = {},
           bool threads = false) {
  link_history link;
  const planner<Policy> plan(engine.cost, policy);
  executor<Policy, Source> e(plan, source, context::sample().names, link, deadline, options);
  return threads ? run_threaded(e, engine) : run(e, engine);
}

memory_source stored() {
  memory_source s;
  context::store(s);
  return s;
}

}  // namespace

TEST_CASE_TEMPLATE("every policy fills the pages with what it reports", Policy, policy::always_raw,
                   policy::always_recompute, policy::fixed_level<1>, policy::cachegen, policy::cake,
                   policy::progressive, policy::progressive_cake) {
  memory_source source = stored();
  const cost_model cost = context::sample().cost(1e-4);
  for (bool threads : {false, true}) {
    CAPTURE(threads);
    context::engine engine(cost);
    const report r = run(Policy{}, source, engine, 0.5, {.range_bytes = 10'000}, threads);
    engine.check(r);
    CHECK(r.faults.empty());
    CHECK(r.usable_seconds >= 0);
    CHECK(r.steps.size() >= std::size_t(cost.num_chunks()));
  }
}

TEST_CASE("a damaged object is computed instead, and the report says which and why") {
  const auto& objects = context::sample().objects;
  const cost_model cost = context::sample().cost(1e-4);
  struct damage {
    const char* what;
    status expected;
    std::vector<std::byte> bytes;
  };
  std::vector<damage> all;
  const auto changed = [&](std::size_t at) {
    auto b = objects[6].bytes;
    b[at] ^= std::byte{1};
    return b;
  };
  const std::size_t envelope = sizeof(object_header);
  all.push_back({"envelope", status::corrupt_header, changed(12)});
  all.push_back({"frame header", status::corrupt_header, changed(envelope + 24)});
  all.push_back({"index", status::corrupt_index, changed(envelope + 100)});
  auto other = objects[8].bytes;
  other.resize(std::max(other.size(), objects[6].bytes.size()));
  all.push_back({"of another chunk", status::wrong_key, other});
  all.push_back({"of another chunk under this name", status::wrong_positions, other});
  const object_header forged = make_object_header(context::sample().names[3].key);
  std::memcpy(all.back().bytes.data(), &forged, sizeof forged);
  all.push_back({"cut in the base", status::wrong_length, {objects[6].bytes.begin(), objects[6].bytes.begin() + 5000}});
  all.push_back({"empty", status::wrong_length, {}});
  for (const damage& d : all) {
    CAPTURE(d.what);
    memory_source source = stored();
    REQUIRE(source.put(objects[6].name, d.bytes) == status::ok);
    context::engine engine(cost);
    const report r = run(policy::fixed_level<1>{}, source, engine, 1);
    engine.check(r);
    CHECK(r.chunks[3].computed);
    CHECK(context::names(r, d.expected, 3));
    CHECK(r.faults.size() == 1);
    CHECK(engine.computations == 1);
    CHECK(r.recomputed_tokens == context::chunk_tokens);
  }
}

TEST_CASE("a damaged refinement leaves the levels before it") {
  const auto& o = context::sample().objects[6];
  const cost_model cost = context::sample().cost(1e-3);
  memory_source source = stored();
  auto bytes = o.bytes;
  for (std::size_t i = std::size_t(cost.bytes(3, 0)); i < std::size_t(cost.bytes(3, 1)); ++i) bytes[i] = std::byte{0};
  REQUIRE(source.put(o.name, bytes) == status::ok);
  SUBCASE("zeros") {
    context::engine engine(cost);
    const report r = run(policy::fixed_level<1>{}, source, engine, 1);
    engine.check(r);
    CHECK(r.chunks[3].state == status::degraded);
    CHECK(context::names(r, status::degraded, 3));
    CHECK(r.state_of(cost, 96, 32) == status::degraded);
    CHECK(r.state_of(cost, 0, 96) == status::ok);
    CHECK(engine.computations == 0);
  }
  SUBCASE("missing") {
    bytes.resize(std::size_t(cost.bytes(3, 0)) + 10);
    REQUIRE(source.put(o.name, bytes) == status::ok);
    context::engine engine(cost);
    const report r = run(policy::fixed_level<1>{}, source, engine, 1, {.range_bytes = 7000});
    engine.check(r);
    CHECK(r.chunks[3].level == 0);  // what had come of the answer was a whole level
    CHECK_FALSE(r.chunks[3].computed);
    CHECK(context::names(r, status::wrong_length, 3));
  }
}

TEST_CASE("objects that are gone are computed") {
  memory_source source = stored();
  for (std::size_t c : {0u, 3u, 7u}) REQUIRE(source.erase(context::sample().objects[2 * c].name) == status::ok);
  const cost_model cost = context::sample().cost(1e-4);
  context::engine engine(cost);
  const report r = run(policy::fixed_level<2>{}, source, engine, 1);
  engine.check(r);
  for (int c = 0; c < 8; ++c) CHECK(r.chunks[std::size_t(c)].computed == (c == 0 || c == 3 || c == 7));
  CHECK(r.faults.size() == 3);
  CHECK(context::names(r, status::not_found, 7));
}

TEST_CASE("an exact copy that was never stored is not asked for") {
  memory_source source = stored();
  std::vector<chunk_cost> chunks = context::sample().chunks;
  for (std::size_t c : {1u, 5u}) chunks[c].bytes.back() = bytes_of_no_copy;
  const cost_model cost =
      cost_model::make(chunks, {.recompute_seconds_per_token = 1e-4}, context::sample().model.passes).value();
  context::engine engine(cost);
  const report r = run(policy::always_raw{}, source, engine, 1);
  engine.check(r);
  for (int c = 0; c < 8; ++c) CHECK(r.chunks[std::size_t(c)].computed == (c == 1 || c == 5));
  CHECK(r.faults.size() == 2);
  CHECK(context::names(r, status::not_found, 5));
}

// An engine that notes what was ready when a chunk was patched.
struct patching : context::engine {
  using context::engine::engine;
  std::vector<int> level = std::vector<int>(std::size_t(cost.num_chunks()), -1), patched_at = level;
  std::atomic<int> decoding{-1}, patching_now{-1}, patches{0};
  std::atomic<bool> met{false};

  page_status decode(int chunk, int at, std::span<const std::byte> frame) {
    decoding = chunk;
    met = met || patching_now == chunk;
    const page_status s = decoder.decode(chunk, at, frame);
    level[std::size_t(chunk)] = at;
    decoding = -1;
    return s;
  }
  status compute(const step& what, std::stop_token) {
    if (what.what != action::patch) return status::invalid_argument;
    patching_now = what.chunk;
    met = met || decoding == what.chunk;
    std::this_thread::sleep_for(std::chrono::duration<double>(cost.patch_seconds(what.chunk)));
    patched_at[std::size_t(what.chunk)] = level[std::size_t(what.chunk)];
    ++patches;
    patching_now = -1;
    return status::ok;
  }
};

TEST_CASE("what was projected is projected again when a finer level has come") {
  memory_source source = stored();
  std::vector<chunk_cost> chunks = context::sample().chunks;
  for (chunk_cost& c : chunks) c.kinds = {payload::hidden};
  cost_rates rates;
  rates.recompute_seconds_per_token = 1;  // nobody computes
  rates.project_seconds_per_token = 1e-5;
  const cost_model cost = cost_model::make(chunks, rates, context::sample().model.passes).value();
  for (const bool threads : {false, true}) {
    CAPTURE(threads);
    patching engine(cost);
    const report r = run(policy::progressive{}, source, engine, 30, {}, threads);
    CHECK(r.outcome == status::ok);
    CHECK_FALSE(engine.met);
    CHECK(engine.patches >= cost.num_chunks());
    int refined = 0;
    for (int c = 0; c < cost.num_chunks(); ++c) {
      CAPTURE(c);
      CHECK(r.chunks[std::size_t(c)].level == cost.num_levels() - 1);
      CHECK(engine.level[std::size_t(c)] == cost.num_levels() - 1);
      CHECK(engine.patched_at[std::size_t(c)] == engine.level[std::size_t(c)]);
      for (const step& s : r.steps) refined += s.chunk == c && s.what == action::fetch;
    }
    CHECK(refined > cost.num_chunks());  // or this test would show nothing
  }
}

TEST_CASE("an empty store costs the computing and nothing else") {
  memory_source source;
  const cost_model cost = context::sample().cost(1e-4);
  context::engine engine(cost);
  const report r = run(policy::progressive_cake{}, source, engine, 1);
  engine.check(r);
  CHECK(engine.computations == 8);
  CHECK(engine.decodes == 0);
  CHECK(r.bytes == 0);
}

TEST_CASE("memory stays within its bound, and what was dropped comes again") {
  memory_source source = stored();
  const cost_model cost = context::sample().cost(10);  // computing is out of the question
  for (std::size_t bound : {std::size_t{1}, std::size_t{60'000}, std::size_t{200'000}}) {
    CAPTURE(bound);
    context::engine engine(cost);
    const report r = run(policy::progressive{}, source, engine, 0.4, {.memory_bytes = bound});
    engine.check(r);
    CHECK(r.faults.empty());
  }
}

TEST_CASE("a cancelled request leaves no unverified byte") {
  memory_source source = stored();
  const cost_model cost = context::sample().cost(1e-3);
  for (int turns : {1, 2, 3, 5, 9, 14}) {
    CAPTURE(turns);
    context::engine engine(cost);
    link_history link;
    const planner<policy::progressive> plan(cost);
    executor<policy::progressive, memory_source> e(plan, source, context::sample().names, link, 1.0,
                                                   {.range_bytes = 5000});
    for (int i = 0; i < turns; ++i) {
      const turn t = e.next(0.001);
      if (t.decode) e.decoded(engine.decode(t.decode.what.chunk, t.decode.what.level, t.decode.frame));
      if (t.compute) e.computed(engine.compute(t.compute.what, {}));
    }
    e.cancel();
    const turn t = e.next(0);
    CHECK(t.finished);
    CHECK(e.result().outcome == status::cancelled);
    CHECK_FALSE(e.result().met);
    for (int c = 0; c < 8; ++c) CHECK(engine.sound(c));
    completion none[4];
    CHECK(source.poll(none, 0) == 0);  // nothing is left with the source
  }
}

TEST_CASE("an engine that fails ends the request with its reason") {
  memory_source source;
  const cost_model cost = context::sample().cost(1e-5);
  struct broken : context::engine {
    using engine::engine;
    status compute(const step& s, std::stop_token t) {
      return s.chunk == 2 ? status::cuda_error : engine::compute(s, t);
    }
  } engine(cost);
  link_history link;
  const planner<policy::always_recompute> plan(cost);
  executor<policy::always_recompute, memory_source> e(plan, source, context::sample().names, link, 1.0);
  const report& r = run(e, engine);
  CHECK(r.outcome == status::cuda_error);
  CHECK(r.faults.size() == 1);
  CHECK(r.chunks[1].computed);
  CHECK(r.chunks[2].state == status::absent);
  CHECK(r.state_of(cost, 64, 32) != status::ok);
}

TEST_CASE("a link that dies in the middle makes chunks late, and computing takes over") {
  memory_source source = stored();
  const cost_model cost = context::sample().cost(1e-4);
  const double rate = double(cost.bytes(0, 1)) / 0.02;  // a chunk in 20 ms, then nothing
  shaped_source<memory_source> link(source, link_trace::make({{0.05, rate, 0}, {1000, 0, 0}}).value());
  context::engine engine(cost);
  const report r = run(policy::fixed_level<1>{}, link, engine, 2, {.patience = {.floor_seconds = 0.1}});
  engine.check(r);
  CHECK(r.met);
  CHECK(context::names(r, status::timed_out));
  CHECK(r.chunks[0].level == 1);
  CHECK(r.chunks[7].computed);
}

TEST_CASE("too few names are refused") {
  memory_source source;
  const cost_model cost = context::sample().cost(1e-4);
  link_history link;
  const planner<policy::progressive> plan(cost);
  executor<policy::progressive, memory_source> e(plan, source, std::span(context::sample().names).first(3), link, 1.0);
  CHECK(e.next(0).finished);
  CHECK(e.result().outcome == status::invalid_argument);
}
