// SPDX-License-Identifier: Apache-2.0
// Steps of tokens as documented: by what an engine has seen, by what it asks for, by what the profile guesses.
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/prediction.hpp>

#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

namespace {

using namespace sluice;

using bytes = std::vector<std::byte>;
using tiled = codec::balanced::with_grouping<tile_tokens<64>>;

constexpr std::uint64_t seed = 77;
constexpr int layers = 2, tokens = 128, sinks = 2;

struct model {
  model_shape shape = model_shape::uniform(layers, 2, 32);
  caches::cache source = caches::make_cache(shape, tokens);
  profile without, with;  // without and with a section of token_steps
  model() {
    caches::fill(source.view(), shape, seed);
    without = with = caches::make_profile(shape, {&source.view(), 1}, 0, 4, sinks);
    caches::add_token_steps(with, seed);
  }
};

// Steps of all rows of a plane, token after token; 99 where a token has none.
std::vector<int> steps_of(const model& m, const bytes& frame, int layer, plane which) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  std::vector<int> out(tokens, 99);
  for (int k = 0; k < index.token_tiles(); ++k) {
    tile t;
    const tile_key key{layer, which, k, 0};
    const byte_range r = index.range(index.ordinal(0, key));
    const std::span<const std::uint8_t> payload(reinterpret_cast<const std::uint8_t*>(&frame[r.begin]), r.size());
    REQUIRE(parse_tile(payload, index.tokens_of(k), index.row_bytes(key), t.envelope) == status::ok);
    t.place = place_of(m.shape, m.with.of(layer, which).group_width, layer, which, 0);
    row_classes c;
    REQUIRE(c.parse(t.section(0, section::steps), t.rows()));
    std::vector<std::uint16_t> rows;
    t.coded_tokens(rows);
    for (std::size_t i = 0; i < rows.size(); ++i)
      out[std::size_t(64 * k + rows[i])] = c.empty() ? 0 : c.classes()[std::size_t(c.of(int(i)))].step;
  }
  return out;
}

void check_steps(const model& m, const bytes& frame, const std::function<int(int token)>& wanted) {
  for (int l = 0; l < layers; ++l)
    for (const plane which : caches::planes) {
      const std::vector<int> steps = steps_of(m, frame, l, which);
      for (int t = sinks; t < tokens; ++t) {
        CAPTURE(t);
        CHECK(steps[std::size_t(t)] == wanted(t));
      }
      for (int t = 0; t < sinks; ++t) CHECK(steps[std::size_t(t)] <= wanted(sinks));
    }
}

}  // namespace

TEST_CASE("balanced: steps follow attention and importance as they are said to") {
  const model m;
  const auto encode = [&](const encode_options& o) {
    const bytes frame = caches::encode<tiled>(m.without, m.source.view(), o);
    REQUIRE(!frame.empty());
    caches::cache back = caches::make_cache(m.shape, tokens);
    CHECK(caches::decode<tiled>(m.without, frame, back.view()).worst == status::ok);
    return frame;
  };
  check_steps(m, encode({}), [](int) { return 0; });
  check_steps(m, encode({.coarser = 5}), [](int) { return 5; });

  // Sixteen times the attention is twice the logarithm of four around the mean: half an octave either way, for 0.7 of one.
  std::vector<float> attention(std::size_t(layers * tokens));
  for (std::size_t i = 0; i < attention.size(); ++i) attention[i] = i % 2 ? 1e-3f : 16e-3f;
  check_steps(m, encode({.weights = {.attention = attention}}), [](int t) { return t % 2 ? 2 : -2; });

  std::vector<float> importance(tokens, 1.f);
  for (std::size_t t = 0; t < tokens; t += 2) importance[t] = 4;
  check_steps(m, encode({.weights = {.importance = importance}}), [](int t) { return t % 2 ? 0 : -2; });
  check_steps(m, encode({.weights = {attention, importance}}), [](int t) { return t % 2 ? 2 : -6; });
  for (std::size_t t = 0; t < tokens; t += 4) importance[t] = 0;
  check_steps(m, encode({.weights = {.importance = importance}}), [](int t) {
    return t % 2 ? 0 : t % 4 ? -2 : max_row_step;
  });
}

TEST_CASE("balanced: tokens of no importance take almost no bytes") {
  const model m;
  std::vector<float> importance(tokens, 1.f);
  std::fill(importance.begin() + 64, importance.end(), 0.f);
  for (const profile* p : {&m.without, &m.with}) {
    const bytes all = caches::encode<tiled>(*p, m.source.view());
    const bytes half = caches::encode<tiled>(*p, m.source.view(), {.weights = {.importance = importance}});
    frame_index a, b;
    REQUIRE(a.parse(all) == status::ok);
    REQUIRE(b.parse(half) == status::ok);
    for (int l = 0; l < layers; ++l)
      for (const plane which : caches::planes) {
        std::size_t usual[2] = {}, now[2] = {};
        for (int pass = 0; pass < a.header().passes; ++pass)
          for (int k : {0, 1}) {
            usual[k] += a.range(a.ordinal(pass, {l, which, k, 0})).size();
            now[k] += b.range(b.ordinal(pass, {l, which, k, 0})).size();
          }
        CHECK(now[0] == usual[0]);
        CHECK(now[1] * 10 < usual[1]);
      }
  }
}

TEST_CASE("balanced: weights of another size are refused") {
  const model m;
  encoder<tiled> e(m.with);
  bytes out(e.max_size(m.source.view()), std::byte{0x5a});
  const std::vector<float> some(std::size_t(layers * tokens + 1), 1.f);
  for (const std::size_t n : {1, tokens, layers * tokens - 1, layers * tokens + 1})
    CHECK(e.encode(m.source.view(), out, {.weights = {.attention = std::span(some).first(n)}}).status() ==
          status::invalid_argument);
  for (const std::size_t n : {1, tokens - 1, tokens + 1})
    CHECK(e.encode(m.source.view(), out, {.weights = {.importance = std::span(some).first(n)}}).status() ==
          status::invalid_argument);
  for (const std::byte b : out) REQUIRE(b == std::byte{0x5a});
  for (const float coarser : {-49.f, 48.5f, std::numeric_limits<float>::quiet_NaN()})
    CHECK(e.encode(m.source.view(), out, {.coarser = coarser}).status() == status::invalid_argument);
}

TEST_CASE("balanced: a reader needs no section, and weights of any size decode") {
  const model m;
  REQUIRE(detail::token_weight_model::of(m.with));
  const auto& w = detail::token_weight_model::of(m.with)->layers;
  REQUIRE(w.size() == std::size_t(layers));
  for (const detail::layer_weights& l : w) {
    CHECK(l.direction.size() == 64);
  }
  const bytes frame = caches::encode<tiled>(m.with, m.source.view());
  CHECK(frame != caches::encode<tiled>(m.without, m.source.view()));
  for (const int level : {0, 1, 3}) {
    caches::cache a = caches::make_cache(m.shape, tokens), b = caches::make_cache(m.shape, tokens);
    CHECK(caches::decode<tiled>(m.with, frame, a.view(), {.level = level}).worst == status::ok);
    CHECK(caches::decode<tiled>(m.without, frame, b.view(), {.level = level}).worst == status::ok);
    CHECK(caches::elements(a.view()) == caches::elements(b.view()));
  }
  // What an engine has seen may be anything.
  std::vector<float> attention(std::size_t(layers * tokens));
  std::vector<float> importance(tokens, 1.f);
  for (const float x : {0.f, -1.f, 1e-40f, 1e30f, INFINITY, NAN}) {
    CAPTURE(x);
    for (std::size_t i = 0; i < attention.size(); ++i) attention[i] = i % 3 ? 1.f : x;
    for (std::size_t i = 1; i < tokens; i += 5) importance[i] = x;
    const bytes odd = caches::encode<tiled>(m.with, m.source.view(), {.weights = {attention, importance}});
    REQUIRE(!odd.empty());
    caches::cache a = caches::make_cache(m.shape, tokens);
    CHECK(caches::decode<tiled>(m.without, odd, a.view()).worst == status::ok);
  }
}
