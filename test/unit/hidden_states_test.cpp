// SPDX-License-Identifier: Apache-2.0
// Hidden states as a cache of K alone, and the decoder that hands them to a projection. Rows are K and V of a real capture
// side by side: what layers take in is no part of it, and the engine's tests have that.
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/hidden_decoder.hpp>
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <support/frames.hpp>
#include <support/real_cache.hpp>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

namespace {

using namespace sluice;

constexpr int tokens = 256, layers = 30, dim = 384, kv_dim = 96, position = 1000;

struct states {
  model_shape kv = model_shape::uniform(layers, 3, 64);
  profile plain = profile::uncalibrated(hidden_shape(kv, dim));
  std::vector<f16> rows = std::vector<f16>(std::size_t(layers * tokens * dim));

  states() {
    const real_cache real;
    for (int l = 0; l < layers; ++l)
      for (int t = 0; t < tokens; ++t) {
        std::memcpy(row(l, t), real.view.at(plane::key, l, t, 0, 0), dim);
        std::memcpy(row(l, t) + dim / 2, real.view.at(plane::value, l, t, 0, 0), dim);
      }
  }
  f16* row(int l, int t) { return rows.data() + (std::ptrdiff_t(l) * tokens + t) * dim; }
  kv_view view() {
    return layouts::hidden(reinterpret_cast<std::byte*>(rows.data()), {layers, dim, tokens}, tokens, position);
  }
  template <class Codec>
  std::vector<std::byte> encode() {
    encoder<Codec> e(plain);
    std::vector<std::byte> out(e.max_size(view()));
    out.resize(e.encode(view(), out).value());
    return out;
  }
};

states& known() {
  static states s;
  return s;
}

// A stranger's engine: K and V of a token are its row times a matrix of the layer's own.
struct projection {
  std::vector<float> weights = std::vector<float>(std::size_t(2 * kv_dim * dim));
  std::vector<float> kv = std::vector<float>(std::size_t(layers * tokens * 2 * kv_dim), untouched);
  std::vector<char> done = std::vector<char>(std::size_t(layers * tokens));
  static constexpr float untouched = -12345;

  projection() {
    std::mt19937_64 random(7);
    for (float& w : weights) w = float(int(random() % 2001) - 1000) / 1000;
  }
  void operator()(int layer, std::int64_t at, int n, const float* rows, std::ptrdiff_t ld) {
    for (int t = 0; t < n; ++t) {
      const std::size_t place = std::size_t(layer * tokens) + std::size_t(at - position + t);
      REQUIRE(place < done.size());
      CHECK_FALSE(done[place]);
      done[place] = 1;
      project(layer, rows + t * ld, kv.data() + place * 2 * kv_dim);
    }
  }
  void project(int layer, const float* row, float* to) const {
    for (int i = 0; i < 2 * kv_dim; ++i) {
      float sum = 0;
      for (int d = 0; d < dim; d += 16) sum += row[d] * weights[std::size_t(i * dim + (d + layer) % dim)];
      to[i] = sum;
    }
  }
};

// What comes of the frame decoded in whole.
projection expected(const std::vector<float>& rows) {
  projection p;
  for (int l = 0; l < layers; ++l) p(l, position, tokens, rows.data() + std::ptrdiff_t(l) * tokens * dim, dim);
  return p;
}

template <class Codec>
std::vector<float> decoded(const std::vector<std::byte>& frame) {
  std::vector<float> rows(std::size_t(layers * tokens * dim));
  if constexpr (Codec::domain == value_domain::stored) {
    for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = to_float(known().rows[i]);
    return rows;
  }
  const kv_view to =
      layouts::hidden(reinterpret_cast<std::byte*>(rows.data()), {layers, dim, tokens, dtype::f32}, tokens, position);
  REQUIRE(decoder<Codec>(known().plain).decode(frame, to).worst == status::ok);
  return rows;
}

// 64-token tiles, so that a frame has four.
using in_tiles = codec::standard::with_grouping<tile_tokens<64>>;

// Flips a byte in the middle of a tile.
void damage(std::vector<std::byte>& frame, int pass, int layer, int tile) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  const byte_range r = index.range(index.ordinal(pass, {layer, plane::key, tile, 0}));
  REQUIRE(r.size() > 0);
  frame[std::size_t(r.begin + r.size() / 2)] ^= std::byte{1};
}

}  // namespace

TEST_CASE("hidden states: shapes and views") {
  CHECK(hidden_head_dim(576) == 64);
  CHECK(hidden_head_dim(896) == 64);
  CHECK(hidden_head_dim(100) == 100);
  CHECK(hidden_head_dim(200) == 100);
  CHECK(hidden_head_dim(257) == 1);
  CHECK(hidden_head_dim(0) == 0);
  CHECK(hidden_head_dim(-64) == 0);
  model_shape kv = model_shape::uniform(3, 2, 128);
  kv.layers[1] = {};
  kv.layers[2].window = 512;
  const model_shape shape = hidden_shape(kv, 1536);
  REQUIRE(shape.num_layers() == 3);
  CHECK(shape.layers[0] == layer_shape{24, 64, 0, 0, 0});
  CHECK(shape.layers[1].absent());
  CHECK(shape.layers[2] == layer_shape{24, 64, 0, 0, 512});
  CHECK(shape.ropes.empty());
  CHECK(hidden_shape(kv, 0).num_layers() == 0);
  CHECK(hidden_shape(kv, max_kv_heads * 64 + 64).num_layers() == 0);
  CHECK(hidden_shape(kv, max_kv_heads * 64).num_layers() == 3);
  CHECK(validate(profile::uncalibrated(shape)) == status::ok);

  std::vector<std::byte> memory(2 * 5 * 128 * 4);
  const kv_view one = layouts::hidden(memory.data(), {2, 128, 5, dtype::f32}, 4, 9);
  REQUIRE(validate(one) == status::ok);
  CHECK(one.position == 9);
  CHECK(one.at(plane::key, 1, 3, 1, 5) == memory.data() + ((1 * 5 + 3) * 128 + 64 + 5) * 4);
  CHECK_FALSE(one.v.present());
  std::byte* const bases[] = {memory.data() + 2560, memory.data()};
  const kv_view apart =
      layouts::hidden(bases, {.dim = 128, .max_tokens = 2, .type = dtype::f32, .token_stride = 640}, 2);
  REQUIRE(validate(apart) == status::ok);
  CHECK(apart.at(plane::key, 0, 1, 0, 0) == memory.data() + 2560 + 640);
  CHECK(validate(layouts::hidden(memory.data(), {2, 128, 5}, 6)) == status::page_out_of_range);
  CHECK(validate(layouts::hidden(static_cast<std::byte*>(nullptr), {2, 128, 5}, 5)) != status::ok);
  CHECK(validate(layouts::hidden(memory.data(), {2, 0, 5}, 5)) != status::ok);
}

TEST_CASE_TEMPLATE("hidden states: every codec hands on what it would have put into memory", Codec, codec::exact,
                   codec::uncompressed, codec::int4, codec::kivi<2>, codec::standard, codec::balanced, in_tiles) {
  const std::vector<std::byte> frame = known().encode<Codec>();
  CHECK(frame.size() < known().rows.size() * 2 + (1 << 16));
  const projection want = expected(decoded<Codec>(frame));
  projection got;
  hidden_decoder<Codec> d(known().plain);
  std::vector<status> pages(tokens, status::io_error);
  const page_status s = d.project(frame, got, {.pages = pages});
  CHECK(s.worst == status::ok);
  CHECK(s.damaged == 0);
  CHECK_FALSE(s.missing);
  CHECK(std::count(pages.begin(), pages.end(), status::ok) == tokens);
  CHECK(got.kv == want.kv);
}

TEST_CASE("hidden states: layers and positions as asked for") {
  const std::vector<std::byte> frame = known().encode<codec::int4>();
  hidden_decoder<codec::int4> d(known().plain);
  int calls = 0, next = 3;
  const page_status s = d.project(frame,
                                  [&](int layer, std::int64_t at, int n, const float*, std::ptrdiff_t ld) {
                                    ++calls;
                                    CHECK(layer == next++);
                                    CHECK(at == position);
                                    CHECK(n == tokens);
                                    CHECK(ld == dim);
                                  },
                                  {.layers = {3, 5}});
  CHECK(s.worst == status::ok);
  CHECK(calls == 2);
  // Rows know no position, but a codec of rotated values does not say so.
  const std::vector<std::byte> plain = known().encode<codec::standard>();
  hidden_decoder<> moved(known().plain);
  std::int64_t where = -1;
  CHECK(
      moved
          .project(plain, [&](int, std::int64_t at, int, const float*, std::ptrdiff_t) { where = at; }, {.position = 5})
          .worst == status::ok);
  CHECK(where == 5);
}

TEST_CASE("hidden states: a damaged tile leaves its tokens to the engine") {
  const std::vector<std::byte> sound = known().encode<in_tiles>();
  const projection want = expected(decoded<in_tiles>(sound));
  std::vector<std::byte> frame = sound;
  damage(frame, 0, 7, 2);
  projection got;
  hidden_decoder<in_tiles> d(known().plain);
  std::vector<status> pages(tokens);
  const page_status s = d.project(frame, got, {.pages = pages});
  CHECK(s.worst == status::corrupt_tile);
  CHECK(s.damaged == 1);
  CHECK(s.missing == gap{position + 128, 64, 8, 8.0 / layers});
  for (int l = 0; l < layers; ++l)
    for (int t = 0; t < tokens; ++t) {
      const bool lost = l == 7 && t >= 128 && t < 192;
      const std::size_t place = std::size_t(l * tokens + t);
      CHECK(got.done[place] == !lost);
      const auto at = std::ptrdiff_t(place) * 2 * kv_dim;
      if (lost)
        CHECK(got.kv[std::size_t(at)] == projection::untouched);
      else
        REQUIRE(std::equal(got.kv.begin() + at, got.kv.begin() + at + 2 * kv_dim, want.kv.begin() + at));
    }
  for (int t = 0; t < tokens; ++t)
    CHECK(pages[std::size_t(t)] == (t >= 128 && t < 192 ? status::corrupt_tile : status::ok));

  // A refinement: the tokens come at the level below.
  frame = sound;
  damage(frame, 2, 7, 2);
  projection coarse;
  const page_status c = d.project(frame, coarse, {.pages = pages});
  CHECK(c.worst == status::degraded);
  CHECK(c.degraded == 1);
  CHECK_FALSE(c.missing);
  CHECK(std::count(coarse.done.begin(), coarse.done.end(), char(1)) == layers * tokens);
  CHECK(pages[130] == status::degraded);
  CHECK(coarse.kv != want.kv);

  // Cut in its base: layers from some one on are missing.
  frame_index index;
  REQUIRE(index.parse(sound) == status::ok);
  frame.assign(sound.begin(), sound.begin() + std::ptrdiff_t(index.range(0, 0, 10).end));
  projection cut;
  const page_status t = d.project(frame, cut, {.level = 0});
  CHECK(t.worst == status::truncated);
  CHECK(t.missing == gap{position, tokens, layers, 1});
  CHECK(std::count(cut.done.begin(), cut.done.end(), char(1)) == 10 * tokens);
}

TEST_CASE("hidden states: tokens outside of a window that nobody stored are not handed on") {
  constexpr int wide = 10;  // layers that see all
  model_shape kv = model_shape::uniform(layers, 3, 64);
  for (int l = wide; l < layers; ++l) kv.layers[std::size_t(l)].window = 100;
  const profile p = profile::uncalibrated(hidden_shape(kv, dim));
  std::vector<std::int32_t> ids(layers);
  std::iota(ids.begin(), ids.end(), 0);
  kv_view all = known().view(), late = known().view().slice(tokens - 99, tokens);
  all.num_layers = wide;
  late.num_layers = layers - wide;
  late.layer_ids = ids.data() + wide;
  late.k.base += wide * late.k.layer_stride;
  const kv_view shown[] = {all, late};
  encoder<codec::int4> e(p);
  std::vector<std::byte> frame(e.max_size(shown));
  frame.resize(e.encode(shown, frame).value());
  hidden_decoder<codec::int4> d(p);
  const auto run = [&](std::int64_t sequence_end, status worst, std::uint32_t outside) {
    std::vector<int> counts(layers);
    const page_status s = d.project(frame,
                                    [&](int layer, std::int64_t at, int n, const float*, std::ptrdiff_t) {
                                      counts[std::size_t(layer)] += n;
                                      CHECK(at + n == position + tokens);
                                    },
                                    {.sequence_end = sequence_end});
    CHECK(s.worst == worst);
    CHECK(s.outside == outside);
    for (int l = 0; l < layers; ++l) CHECK(counts[std::size_t(l)] == (l < wide ? tokens : 99));
  };
  constexpr int groups = dim / 64;  // each is a tile of its own
  run(-1, status::ok, groups * (layers - wide));
  // A sequence that ends before its last token looks at one that is not there.
  run(position + tokens - 1, status::absent, groups * (layers - wide));
}

TEST_CASE("hidden states: what is no frame of hidden states is refused before anything is handed on") {
  const auto refuse = [](const profile& p, const std::vector<std::byte>& frame, status why) {
    std::vector<status> pages(3);
    hidden_decoder<codec::int4> d(p);
    const page_status s = d.project(
        frame, [](int, std::int64_t, int, const float*, std::ptrdiff_t) { FAIL("nothing is to be handed on"); },
        {.pages = pages});
    CHECK(s.worst == why);
    for (const status at : pages) CHECK(at == why);
  };
  const std::vector<std::byte> frame = known().encode<codec::int4>();
  refuse(profile::uncalibrated(known().kv), frame, status::wrong_shape);
  model_shape rotates = known().plain.shape;
  rotates.ropes = {rope{}};
  refuse(profile::uncalibrated(rotates), frame, status::wrong_shape);
  refuse(profile::uncalibrated(hidden_shape(known().kv, 320)), frame, status::wrong_shape);
  refuse(profile::uncalibrated(hidden_shape(model_shape::uniform(29, 3, 64), dim)), frame, status::wrong_shape);
  refuse(known().plain, known().encode<codec::kivi<2>>(), status::wrong_codec);
  refuse(known().plain, {frame.begin(), frame.begin() + 20}, status::truncated);
  refuse(known().plain, std::vector<std::byte>(2000), status::not_a_frame);
}
