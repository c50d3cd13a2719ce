// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <doctest/doctest.h>
#include <sluice/codec/instances.hpp>
#include <sluice/stream/plan/plan.hpp>
#include <sluice/stream/plan/policy/control.hpp>
#include <sluice/stream/run/loops.hpp>
#include <sluice/stream/run/page_decoder.hpp>
#include <sluice/stream/store/chunk.hpp>
#include <sluice/stream/store/object.hpp>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <safetensors.hpp>
#include <string>
#include <thread>
#include <vector>

/// The committed capture as a stored context: its chunks as objects, what each level decodes to, and an engine whose
/// computing takes as long as the cost model says and gives back what the capture holds.
namespace context {

using namespace sluice;

inline constexpr int chunk_tokens = 32;
inline constexpr std::byte untouched{0xA5};

/// Memory of the capture's shape, contiguous tokens.
struct pages {
  std::vector<std::vector<std::byte>> memory;
  std::vector<std::byte*> k, v;
  kv_view view;
};

struct object {
  std::string name;
  std::vector<std::byte> bytes;
};

struct capture {
  safetensors::file file;
  profile model;
  pages truth;
  std::vector<stream::chunk_cost> chunks;
  std::vector<stream::stored_chunk> names;
  std::vector<object> objects;  // chunk by chunk: levels, then the exact copy
  std::vector<pages> levels;    // what the decoder makes of each level

  capture() {
    REQUIRE_FALSE(bool(file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")));
    model = profile::load(SLUICE_TEST_DATA "/smollm2.profile").value();
    truth = empty();
    for (int l = 0; l < model.shape.num_layers(); ++l)
      for (const char* p : {"k.", "v."}) {
        const auto bytes = file.bytes(*file.find(p + std::to_string(l)));
        auto& to = truth.memory[std::size_t(2 * l + (p[0] == 'v'))];
        REQUIRE(bytes.size() == to.size());
        std::memcpy(to.data(), bytes.data(), to.size());
      }
    stream::context_loss loss{{0.4, 0.1, 0.02, 0.005}, chunk_tokens};  // nats a chunk: a test wants losses that count
    loss.nats.resize(std::size_t(model.passes), 0.005);
    std::vector<std::int32_t> ids(256);
    for (int i = 0; i < 256; ++i) ids[std::size_t(i)] = i;
    stream::chunk_keys keys({}, model.fingerprint(), codec::standard::id), exact_keys({}, 0, codec::exact::id);
    for (int t = 0; t < 256; t += chunk_tokens) {
      const auto tokens = std::span(ids).subspan(std::size_t(t), chunk_tokens);
      names.push_back({keys.next(tokens), exact_keys.next(tokens)});
      const frame_index index = add<codec::standard>(t, names.back().key);
      add<codec::exact>(t, names.back().exact_key);
      chunks.push_back(stream::chunk_of(index, objects.back().bytes.size(), loss));
    }
    for (int level = 0; level < model.passes; ++level) {
      levels.push_back(empty());
      decoder<> d(model);
      for (std::size_t i = 0; i < objects.size(); i += 2)
        REQUIRE(d.decode(std::span(objects[i].bytes).subspan(sizeof(stream::object_header)), levels.back().view,
                         {.level = level})
                    .worst == status::ok);
    }
  }

  pages empty() const {
    pages p;
    const std::size_t n = std::size_t(model.shape.num_layers());
    p.memory.assign(2 * n, std::vector<std::byte>(std::size_t{256} * 192 * 2, untouched));
    for (std::size_t l = 0; l < n; ++l) {
      p.k.push_back(p.memory[2 * l].data());
      p.v.push_back(p.memory[2 * l + 1].data());
    }
    p.view.num_layers = model.shape.num_layers();
    p.view.num_kv_heads = 3;
    p.view.tokens = p.view.capacity = 256;
    for (plane_view* q : {&p.view.k, &p.view.v}) {
      q->head_dim = 64;
      q->element_stride = 2;
      q->head_stride = 128;
      q->token_stride = 384;
    }
    p.view.k.layer_bases = p.k.data();
    p.view.v.layer_bases = p.v.data();
    return p;
  }

  stream::cost_model cost(double seconds_per_token) const {
    stream::cost_rates r;
    r.recompute_seconds_per_token = seconds_per_token;
    r.decode_seconds_per_value = 2e-9;
    r.exact_decode_seconds_per_value = 1e-9;
    return stream::cost_model::make(chunks, r, model.passes).value();
  }

 private:
  template <class Codec>
  frame_index add(int t, const digest& key) {
    const kv_view part = truth.view.slice(t, t + chunk_tokens);
    encoder<Codec> e(model);
    std::vector<std::byte> bytes(sizeof(stream::object_header) + e.max_size(part));
    const std::size_t n = e.encode(part, std::span(bytes).subspan(sizeof(stream::object_header))).value();
    bytes.resize(sizeof(stream::object_header) + n);
    const stream::object_header h = stream::make_object_header(key);
    std::memcpy(bytes.data(), &h, sizeof h);
    frame_index index;
    REQUIRE(index.parse(std::span(bytes).subspan(sizeof h)) == status::ok);
    objects.push_back({stream::to_hex(key), std::move(bytes)});
    return index;
  }
};

inline const capture& sample() {
  static const capture c;
  return c;
}

/// The sink of a request: pages that begin untouched, and an engine.
struct engine {
  const stream::cost_model& cost;
  pages cache = sample().empty();
  stream::page_decoder<> decoder{sample().model, cost, {&cache.view, 1}};
  std::atomic<int> decodes{0}, computations{0}, stopped{0};
  std::atomic<int> working_on[2] = {-1, -1};
  std::atomic<bool> collided{false};

  explicit engine(const stream::cost_model& c) : cost(c) {}

  page_status decode(int chunk, int level, std::span<const std::byte> frame) {
    working_on[0] = chunk;
    if (working_on[1] >= chunk) collided = true;
    const page_status s = decoder.decode(chunk, level, frame);
    ++decodes;
    working_on[0] = -1;
    return s;
  }
  status compute(const stream::step& what, std::stop_token stop) {
    working_on[1] = what.chunk;
    const int other = working_on[0];
    if (other >= 0 && other <= what.chunk) collided = true;
    const auto until =
        std::chrono::steady_clock::now() + std::chrono::duration<double>(cost.recompute_seconds(what.chunk));
    while (std::chrono::steady_clock::now() < until) {
      if (stop.stop_requested()) {
        ++stopped;
        working_on[1] = -1;
        return status::cancelled;
      }
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
    for (std::size_t p = 0; p < cache.memory.size(); ++p) copy_chunk(sample().truth, p, what.chunk);
    ++computations;
    working_on[1] = -1;
    return status::ok;
  }

  /// Whether the pages of a chunk hold exactly what the report says they do.
  bool holds(int chunk, const stream::chunk_report& r) const {
    if (r.computed || r.level == cost.exact_level()) return same(sample().truth, chunk);
    // This engine computes all of a chunk when a part is asked for; one that does not leaves the rest at its level.
    if (r.level >= 0 && r.repaired) return made_of(chunk, {&sample().truth, &sample().levels[std::size_t(r.level)]});
    if (r.level >= 0) return same(sample().levels[std::size_t(r.level)], chunk);
    return true;
  }
  /// Whether every element of a chunk's pages is untouched or comes from one of the sound copies.
  bool sound(int chunk) const {
    const pages untouched_ones = sample().empty();
    std::vector<const pages*> sources{&untouched_ones, &sample().truth};
    for (const pages& l : sample().levels) sources.push_back(&l);
    return made_of(chunk, sources);
  }
  /// After a request that went well: all chunks hold what the report says.
  void check(const stream::report& r) const {
    CHECK(r.outcome == status::ok);
    CHECK_FALSE(collided);
    for (int c = 0; c < cost.num_chunks(); ++c) {
      CAPTURE(c);
      const stream::chunk_report& k = r.chunks[std::size_t(c)];
      CHECK((k.computed || k.level >= 0));
      CHECK((k.state == status::ok || k.state == status::degraded));
      CHECK((k.state == status::ok ? holds(c, k) : sound(c)));
    }
  }

 private:
  void copy_chunk(const pages& from, std::size_t p, int chunk) {
    const std::size_t at = std::size_t(chunk) * chunk_tokens * 384;
    std::memcpy(cache.memory[p].data() + at, from.memory[p].data() + at, chunk_tokens * 384);
  }
  // Whether every element of a chunk's pages is that of one of these.
  bool made_of(int chunk, const std::vector<const pages*>& sources) const {
    const std::size_t begin = std::size_t(chunk) * chunk_tokens * 384, n = chunk_tokens * 384;
    for (std::size_t p = 0; p < cache.memory.size(); ++p)
      for (std::size_t i = begin; i < begin + n; i += 2)
        if (std::none_of(sources.begin(), sources.end(),
                         [&](const pages* o) { return !std::memcmp(&cache.memory[p][i], &o->memory[p][i], 2); }))
          return false;
    return true;
  }
  bool same(const pages& o, int chunk) const {
    const std::size_t at = std::size_t(chunk) * chunk_tokens * 384;
    for (std::size_t p = 0; p < cache.memory.size(); ++p)
      if (std::memcmp(cache.memory[p].data() + at, o.memory[p].data() + at, chunk_tokens * 384) != 0) return false;
    return true;
  }
};

/// Puts all objects into a store.
template <stream::byte_source Source>
void store(Source& s) {
  for (const object& o : sample().objects) REQUIRE(s.put(o.name, o.bytes) == status::ok);
}

/// Fetches the whole context at level 2 through an executor: in time, without a fault, nothing computed.
template <class Source>
void fetch_all(Source& s) {
  const stream::cost_model cost = sample().cost(1e-4);
  engine engine(cost);
  stream::link_history link;
  const stream::planner<stream::policy::fixed_level<2>> plan(cost);
  stream::executor e(plan, s, sample().names, link, 60, stream::executor_options{.patience = {.floor_seconds = 10}});
  const stream::report& r = stream::run(e, engine);
  engine.check(r);
  CHECK(r.met);
  for (const stream::fault& f : r.faults) MESSAGE(to_string(f.what), " ", f.detail);
  CHECK(r.faults.empty());
  CHECK(engine.computations == 0);
}

/// Whether the report names this fault, for this chunk where one is given.
inline bool names(const stream::report& r, status what, int chunk = -1) {
  for (const stream::fault& f : r.faults)
    if (f.what == what && (chunk < 0 || f.chunk == chunk)) return true;
  return false;
}

}  // namespace context
