// SPDX-License-Identifier: Apache-2.0
// Where chunks of real caches stand, found from their keys.
#include <sluice/calibrate/calibrate.hpp>
#include <sluice/model/pairs.hpp>
#include <sluice/model/position.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/captures.hpp>

#include <cmath>
#include <random>
#include <safetensors.hpp>
#include <vector>

namespace {

using namespace sluice;
using captures::known;
using captures::memory;

// A profile of the first tokens of a capture.
profile learnt(const memory& m, std::int64_t tokens) {
  const capture c{m.view.slice(0, tokens), {}, 0, 0};
  result<profile> p = calibrate(m.shape, {&c, 1});
  REQUIRE(p.has_value());
  return std::move(*p);
}

// Every chunk from `begin` on, among all candidates.
void find_all(const memory& m, const profile& p, std::int64_t begin, const position_search& range = {}) {
  for (const std::int64_t n : {16, 64, 256})
    for (std::int64_t at = begin; at + n <= m.view.tokens; at += n) {
      CAPTURE(n);
      CAPTURE(at);
      kv_view chunk = m.view.slice(at, at + n);
      const std::int64_t right = chunk.position;
      chunk.position = 0;
      const result<std::int64_t> found = find_position(chunk, p, range);
      CHECK(found.status() == status::ok);
      CHECK(*found == right);
    }
}

}  // namespace

TEST_CASE("find_position: every chunk of a real cache among 131,072 positions") {
  const memory m = captures::load(captures::sample);
  find_all(m, known(), 0);
}

TEST_CASE("find_position: the other captures, with a profile of their first half") {
  for (const char* path : {captures::smol_1024, captures::qwen_1024}) {
    if (!captures::there(path)) continue;
    const memory m = captures::load(path);
    find_all(m, path == captures::smol_1024 ? known() : learnt(m, 512), 512, {0, 8191, 1});
  }
}

TEST_CASE("find_position: far out, other types, other pairings, partial rotation, scaled frequencies") {
  const memory m = captures::load(captures::sample);
  const profile p = known();
  const profile interleaved = *with_pairs(p, rope_pairing::interleaved);
  find_all(captures::rotated(m, interleaved.shape.ropes, 100000, dtype::f32), interleaved, 0);
  find_all(captures::rotated(m, p.shape.ropes, 70001, dtype::bf16), p, 64);

  // A model of two kinds of layers: their frequencies, not the order of their channels, are told apart.
  profile two = p;
  rope slow = p.shape.ropes[0], scaled = p.shape.ropes[0];
  slow.base = 10000;
  scaled.scaling = rope_scaling::yarn;
  scaled.factor = 4, scaled.high_freq = 32, scaled.low_freq = 1, scaled.original_context = 8192;
  scaled.attention_factor = yarn_attention_factor(4);
  two.shape.ropes = {slow, scaled};
  memory source = captures::load(captures::sample);
  for (std::size_t l = 0; l < two.shape.layers.size(); ++l) {
    two.shape.layers[l].rope_index = l % 3 == 0;
    source.shape.layers[l].rope_index = l % 3 == 0;
  }
  source.shape.ropes = {p.shape.ropes[0], p.shape.ropes[0]};
  find_all(captures::rotated(source, two.shape.ropes, 30000), two, 0);

  // Half of every head rotates. Means of channels that do not are no help and no harm.
  profile part = p;
  part.shape.ropes[0].rotary_dims = 32;
  part.shape.ropes[0].pairing = rope_pairing::interleaved;
  find_all(captures::rotated(m, part.shape.ropes, 500), learnt(captures::rotated(m, part.shape.ropes), 256), 0,
           {0, 8191, 1});
}

TEST_CASE("find_position: several views, steps, and the ends of the range") {
  const memory m = captures::load(captures::sample);
  const profile p = known();
  std::vector<std::int32_t> first(15), last(15);
  for (std::int32_t l = 0; l < 15; ++l) first[std::size_t(l)] = l, last[std::size_t(l)] = 15 + l;
  kv_view a = m.view, b = m.view;
  a.num_layers = b.num_layers = 15;
  a.layer_ids = first.data();
  b.layer_ids = last.data();
  b.k.base = m.view.at(plane::key, 15, 0, 0, 0);
  b.v.base = m.view.at(plane::value, 15, 0, 0, 0);
  // As with sliding windows: the layers of one view begin later than those of the other.
  const kv_view views[] = {b.slice(100, 140), a.slice(60, 140)};
  CHECK(find_position(views, p).value() == 60);
  const const_kv_view readable[] = {views[0], views[1]};
  CHECK(find_position(readable, p).value() == 60);
  CHECK(find_position(const_kv_view(views[0]), p).value() == 100);

  const kv_view chunk = m.view.slice(96, 128);
  CHECK(find_position(chunk, p, {96, 131071, 1}).value() == 96);
  CHECK(find_position(chunk, p, {0, 96, 1}).value() == 96);
  CHECK(find_position(chunk, p, {0, 131071, 32}).value() == 96);
  CHECK(find_position(chunk, p, {96, 96, 1}).value() == 96);
  // Where the right one is no candidate, none is.
  CHECK(find_position(chunk, p, {1000, 1000, 1}).status() == status::position_not_found);

  kv_view keys = chunk;
  keys.v = {};
  CHECK(find_position(keys, p).value() == 96);
  CHECK(find_position(chunk, p, {-1, 10, 1}).status() == status::invalid_argument);
  CHECK(find_position(chunk, p, {10, 9, 1}).status() == status::invalid_argument);
  CHECK(find_position(chunk, p, {0, 10, 0}).status() == status::invalid_argument);
  CHECK(find_position(chunk.slice(0, 0), p).status() == status::invalid_argument);
  CHECK(find_position(chunk.slice(-1, 0), p).status() == status::invalid_argument);
  CHECK(find_position(chunk.heads(0, 2), p).status() == status::wrong_shape);
  CHECK(find_position(std::span<const kv_view>(), p).status() == status::invalid_argument);
  kv_view opaque = chunk;
  opaque.k.type = dtype::bytes, opaque.k.head_dim = 64;
  CHECK(find_position(opaque, p).status() == status::unsupported_type);
  CHECK(find_position(chunk, profile::uncalibrated(p.shape)).status() == status::position_not_found);
  profile still = p;
  still.shape.ropes[0].pairing = rope_pairing::none;
  CHECK(find_position(chunk, still).status() == status::position_not_found);
  profile broken = p;
  broken.planes.pop_back();
  CHECK(find_position(chunk, broken).status() == status::corrupt_profile);
}

TEST_CASE("find_position: what is not this model's is refused") {
  const profile p = known();
  for (const std::uint64_t seed : {1, 2, 3})
    for (const int n : {16, 64}) {
      CAPTURE(seed);
      memory noise(p.shape, n);
      std::mt19937_64 random(seed);
      std::normal_distribution<float> normal(0, 3);
      noise.fill([&](plane, int, std::int64_t, int, int) { return normal(random); });
      CHECK(find_position(noise.view, p).status() == status::position_not_found);
      noise.fill([&](plane, int, std::int64_t, int, int) { return 0.f; });
      CHECK(find_position(noise.view, p).status() == status::position_not_found);
      caches::fill(noise.view, p.shape, seed);  // another model: channels with means of their own
      CHECK(find_position(noise.view, p).status() == status::position_not_found);
      caches::fill_with_noise(noise.view, seed);  // NaN and infinities among them
      CHECK(find_position(noise.view, p).status() == status::position_not_found);
    }
  // The trap of another order of channels.
  const memory m = captures::load(captures::sample);
  const profile interleaved = *with_pairs(p, rope_pairing::interleaved);
  for (const std::int64_t at : {0, 16, 100, 200})
    CHECK(find_position(m.view.slice(at, at + 16), interleaved).status() == status::position_not_found);
  // A token that is no number is left out.
  memory damaged = captures::load(captures::sample);
  damaged.set(plane::key, 3, 130, 1, 7, std::nanf(""));
  CHECK(find_position(damaged.view.slice(128, 144), p).value() == 128);
}
