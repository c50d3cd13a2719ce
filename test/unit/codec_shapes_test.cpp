// SPDX-License-Identifier: Apache-2.0
// Shapes, sizes and values at the corners: every width, any number of tokens, several views, numbers that are none.
#include <sluice/calibrate/preset_sections.hpp>
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/prediction.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using caches::engine;
using caches::make_cache;

constexpr std::uint64_t seed = 77001;

// Encodes, checks the bound, decodes; returns the relative error.
template <class Codec = codec::standard>
double round_trip(const profile& p, const caches::cache& source, const model_shape& shape,
                  std::size_t* size = nullptr) {
  encoder<Codec> e(p);
  const kv_view& v = source.view();
  const std::size_t most = e.max_size(v);
  std::vector<std::byte> out(most);
  const result<std::size_t> n = e.encode(v, out);
  REQUIRE(n.status() == status::ok);
  CHECK(*n <= most);
  if (size) *size = *n;
  CHECK(e.encode(v, std::span(out).first(*n)).status() == status::ok);
  CHECK(e.encode(v, std::span(out).first(*n - 1)).status() == status::output_too_small);
  REQUIRE(e.encode(v, out));
  caches::cache back(shape.layers.front(), caches::all_layers(shape), v.tokens, v.k.type, engine::vllm_nhd, v.position,
                     5);
  std::vector<status> pages(std::size_t(v.tokens + 15) / 16, status::io_error);
  const page_status done = caches::decode<Codec>(p, std::span(out).first(*n), back.view(), {.pages = pages});
  CHECK(done.worst == status::ok);
  for (status s : pages) CHECK(s == status::ok);
  return caches::relative_error(v, back.view());
}

}  // namespace

TEST_CASE("codec shapes: any number of tokens") {
  CAPTURE(seed);
  const model_shape shape = model_shape::uniform(1, 2, 32);
  caches::cache all = make_cache(shape, 300, dtype::f16);
  caches::fill(all.view(), shape, seed);
  const profile calibrated = caches::make_profile(shape, {&all.view(), 1}), uncalibrated = profile::uncalibrated(shape);
  for (int tokens = 1; tokens <= 300; tokens += tokens < 20 || (tokens > 250 && tokens < 262) ? 1 : 7) {
    CAPTURE(tokens);
    caches::cache source = make_cache(shape, tokens, dtype::f16, engine::dense, tokens % 3 * 100);
    caches::fill(source.view(), shape, seed);
    CHECK(round_trip(calibrated, source, shape) < 0.1);
    CHECK(round_trip(uncalibrated, source, shape) < 0.1);
    CHECK(round_trip<codec::fixed<5>>(calibrated, source, shape) < 0.15);
    CHECK(round_trip<codec::fixed<5>>(uncalibrated, source, shape) < 0.15);
    CHECK(round_trip<codec::plain<7>>(uncalibrated, source, shape) < 0.02);
    CHECK(round_trip<codec::exact>(uncalibrated, source, shape) == 0);
    CHECK(round_trip<codec::uncompressed>(uncalibrated, source, shape) == 0);
  }
}

TEST_CASE("codec shapes: tiles of 16 to 4096 tokens; any decoder of the codec reads them") {
  const model_shape shape = model_shape::uniform(1, 2, 64);
  caches::cache source = make_cache(shape, 700, dtype::f16);
  caches::fill(source.view(), shape, seed);
  const profile p = caches::make_profile(shape, {&source.view(), 1});
  const auto check = [&]<int Tokens>() {
    using tiled = codec::standard::with_grouping<tile_tokens<Tokens>>;
    CHECK(round_trip<tiled>(p, source, shape) < 0.05);
    CHECK(round_trip<typename codec::exact::template with_grouping<tile_tokens<Tokens>>>(p, source, shape) == 0);
    const auto frame = caches::encode<tiled>(p, source.view());
    frame_index index;
    REQUIRE(index.parse(frame) == status::ok);
    CHECK(index.header().tile_tokens == Tokens);
    CHECK(index.token_tiles() == (700 + Tokens - 1) / Tokens);
    caches::cache back = make_cache(shape, 700);
    CHECK(caches::decode(p, frame, back.view()).worst == status::ok);
    CHECK(caches::relative_error(source.view(), back.view()) < 0.05);
  };
  check.operator()<16>();
  check.operator()<128>();
  check.operator()<512>();
  check.operator()<4096>();
}

TEST_CASE("codec shapes: heads and head sizes") {
  CAPTURE(seed);
  const struct {
    int heads, k, v;
  } shapes[] = {{1, 1, 1},   {1, 2, 3},   {3, 33, 31},   {2, 80, 80},  {5, 96, 96},  {8, 128, 128}, {2, 256, 256},
                {7, 64, 64}, {1, 576, 0}, {1, 576, 512}, {2, 1024, 8}, {1, 1056, 0}, {4, 192, 128}, {1, 2048, 33}};
  for (const auto& s : shapes) {
    CAPTURE(s.heads);
    CAPTURE(s.k);
    CAPTURE(s.v);
    model_shape shape = model_shape::uniform(1, s.heads, s.k);
    shape.layers[0].head_dim_v = s.v;
    if (s.k % 2) shape.ropes[0].pairing = rope_pairing::none;
    caches::cache source = make_cache(shape, 40, dtype::f16);
    caches::fill(source.view(), shape, seed);
    const profile uncalibrated = profile::uncalibrated(shape);
    std::size_t size = 0;
    CHECK(round_trip(uncalibrated, source, shape, &size) < 0.1);
    const std::size_t elements = caches::floats(source.view()).size();
    if (elements > 20000) CHECK(size < elements * 3 / 2);  // it pays, also where a code has several parts
    CHECK(round_trip<codec::fixed<6>>(uncalibrated, source, shape) < 0.1);
    CHECK(round_trip<codec::plain<6>>(uncalibrated, source, shape) < 0.1);
    CHECK(round_trip<codec::exact>(uncalibrated, source, shape) == 0);
    CHECK(round_trip<codec::uncompressed>(uncalibrated, source, shape) == 0);
    for (int heads_per_basis : {0, 1, 2, 4}) {
      CAPTURE(heads_per_basis);
      if (heads_per_basis ? heads_per_basis * s.k > 256 : s.k > 576) continue;  // inverting large ones takes seconds
      const profile p = caches::make_profile(shape, {&source.view(), 1}, heads_per_basis);
      REQUIRE(validate(p) == status::ok);
      CHECK(round_trip(p, source, shape) < 0.1);
      if (s.k > 256) continue;
      CHECK(round_trip<codec::fixed<6>>(p, source, shape) < 0.1);
      CHECK(round_trip<codec::exact>(p, source, shape) == 0);
    }
  }
}

TEST_CASE("codec shapes: heads per basis are the profile's or the encoder says no") {
  const model_shape shape = model_shape::uniform(1, 4, 64);
  caches::cache source = make_cache(shape, 40, dtype::f16);
  caches::fill(source.view(), shape, seed);
  const auto check = [&]<int Heads>() {
    using grouped = codec::standard::with_grouping<tile_tokens<256, Heads>>;
    for (int made : {1, 2, 4}) {
      const profile p = caches::make_profile(shape, {&source.view(), 1}, made);
      encoder<grouped> e(p);
      std::vector<std::byte> out(e.max_size(source.view()));
      CHECK(e.encode(source.view(), out).status() == (made == Heads ? status::ok : status::wrong_profile));
    }
  };
  check.operator()<1>();
  check.operator()<2>();
  check.operator()<4>();
}

TEST_CASE("codec shapes: several groups of layers, one with a sliding window") {
  CAPTURE(seed);
  model_shape shape = model_shape::uniform(4, 2, 64);
  shape.ropes.push_back({.base = 1e6});
  shape.layers[1] = shape.layers[2] = {1, 128, 96, 1, 128};
  const std::int64_t window_start = 170;
  caches::cache full(shape.layers[0], {0, 3}, 300, dtype::f16);
  caches::cache window(shape.layers[1], {1, 2}, 130, dtype::f16, engine::dense, window_start);
  caches::fill(full.view(), shape, seed);
  caches::fill(window.view(), shape, seed + 1);
  const kv_view views[] = {full.view(), window.view()};
  const profile calibrated = caches::make_profile(shape, views), uncalibrated = profile::uncalibrated(shape);

  const auto check = [&]<class Codec>(const profile& p, double error) {
    using tiled = typename Codec::template with_grouping<tile_tokens<64>>;
    const auto frame = caches::encode<tiled>(p, views);
    REQUIRE(!frame.empty());
    caches::cache a(shape.layers[0], {0, 3}, 300, dtype::f16, engine::vllm_nhd);
    caches::cache b(shape.layers[1], {1, 2}, 130, dtype::f16, engine::vllm_hnd, window_start);
    const kv_view back[] = {a.view(), b.view()};
    decoder<tiled> d(p);
    CHECK(d.decode(frame, back).worst == status::ok);
    CHECK(caches::relative_error(full.view(), a.view()) <= error);
    CHECK(caches::relative_error(window.view(), b.view()) <= error);

    // One group alone; the order of views means nothing.
    b.wipe();
    CHECK(d.decode(frame, b.view()).worst == status::ok);
    CHECK(caches::relative_error(window.view(), b.view()) <= error);
    const kv_view swapped[] = {b.view(), a.view()};
    CHECK(d.decode(frame, swapped).worst == status::ok);

    // A view that shows more than the frame holds of its layers keeps what lies outside of the window, and is told which
    // pages are missing where a sequence ends early enough to need them.
    caches::cache wide(shape.layers[1], {1, 2}, 300, dtype::f16, engine::vllm_nhd);
    std::vector<status> pages(20, status::io_error);
    const page_status whole = d.decode(frame, wide.view(), {.pages = pages});
    CHECK(whole.worst == status::ok);
    CHECK(whole.outside == 2 * 2 * 3);  // of two layers, K and V: tokens 0 to 169 in tiles of 64
    for (std::size_t i = 0; i < 19; ++i) CHECK(pages[i] == status::ok);
    const page_status done = d.decode(frame, wide.view(), {.sequence_end = 100, .pages = pages});
    CHECK(done.worst == status::absent);
    for (std::size_t i = 0; i < 19; ++i) CHECK(pages[i] == (i < 11 ? status::absent : status::ok));
    CHECK(pages[19] == status::absent);  // beyond the view
    CHECK(caches::relative_error(window.view(), wide.view().slice(window_start, 300)) <= error);
    caches::for_each_element(wide.view().slice(0, window_start),
                             [&](plane, auto, auto, auto, auto, const std::byte* at) {
                               if (*at != caches::cache::untouched) FAIL("a token that the frame lacks was written");
                             });

    // Two views of one layer, a layer that the model lacks.
    const kv_view twice[] = {a.view(), a.view()};
    CHECK(d.decode(frame, twice).worst == status::invalid_view);
    const std::int32_t odd[] = {0, 4};
    kv_view foreign = a.view();
    foreign.layer_ids = odd;
    CHECK(d.decode(frame, foreign).worst == status::wrong_shape);
    CHECK(d.decode(frame, std::span<const kv_view>()).worst == status::invalid_argument);
  };
  check.operator()<codec::standard>(calibrated, 0.06);
  check.operator()<codec::standard>(uncalibrated, 0.06);
  check.operator()<codec::fixed<6>>(calibrated, 0.06);
  check.operator()<codec::exact>(uncalibrated, 0);
}

TEST_CASE("codec shapes: layers that no view showed are absent") {
  const model_shape shape = model_shape::uniform(3, 2, 32);
  caches::cache source(shape.layers[0], {2, 0}, 30, dtype::f16);
  caches::fill(source.view(), shape, seed);
  const profile p = profile::uncalibrated(shape);
  const auto frame = caches::encode(p, source.view());
  caches::cache back(shape.layers[0], {2, 0}, 30, dtype::f16);
  CHECK(caches::decode(p, frame, back.view()).worst == status::ok);
  caches::cache all = make_cache(shape, 30);
  const page_status done = caches::decode(p, frame, all.view());
  CHECK(done.worst == status::absent);
  CHECK(done.damaged == 4);
  caches::for_each_element(all.view(), [&](plane, int l, auto, auto, auto, const std::byte* at) {
    if (l == 1 && *at != caches::cache::untouched) FAIL("written");
  });
  CHECK(caches::decode(p, frame, all.view(), {.layers = {2, 3}}).worst == status::ok);
  CHECK(caches::decode(p, frame, all.view(), {.layers = {1, 2}}).worst == status::absent);
}

TEST_CASE("codec shapes: layer ranges and windows on the destination touch nothing else") {
  CAPTURE(seed);
  const model_shape shape = model_shape::uniform(5, 2, 32);
  caches::cache source = make_cache(shape, 200, dtype::f16, engine::dense, 1000);
  caches::fill(source.view(), shape, seed);
  const profile p = caches::make_profile(shape, {&source.view(), 1});
  const auto frame = caches::encode<codec::standard::with_grouping<tile_tokens<64>>>(p, source.view());
  caches::cache reference = make_cache(shape, 200, dtype::f16, engine::dense, 1000);
  REQUIRE(caches::decode(p, frame, reference.view()).worst == status::ok);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; ++round) {
    const int first = int(random() % 6), last = int(random() % 7);
    const auto begin = std::int64_t(random() % 200),
               end = begin + 1 + std::int64_t(random() % std::uint64_t(200 - begin));
    CAPTURE(first);
    CAPTURE(last);
    CAPTURE(begin);
    CAPTURE(end);
    caches::cache back = make_cache(shape, 200, dtype::f16, engine::vllm_nhd, 1000, std::uint64_t(round));
    std::vector<status> pages(16, status::io_error);
    const kv_view some = back.view().slice(begin, end);
    const page_status done = caches::decode(p, frame, some, {.layers = {first, last}, .pages = pages});
    CHECK(done.worst == status::ok);
    bool right = true;
    caches::for_each_element(back.view(), [&](plane which, int l, std::int64_t t, int h, int d, const std::byte* at) {
      const bool inside = l >= first && l < last && t >= begin && t < end;
      const std::byte untouched[2] = {caches::cache::untouched, caches::cache::untouched};
      right &= std::memcmp(at, inside ? reference.view().at(which, l, t, h, d) : untouched, 2) == 0;
    });
    CHECK(right);
    for (std::size_t i = 0; i < pages.size(); ++i)
      CHECK(pages[i] == (std::int64_t(i) <= (end - 1) / 16 - begin / 16 ? status::ok : status::absent));
  }
  // A view that only overlaps the frame.
  caches::cache shifted = make_cache(shape, 200, dtype::f16, engine::dense, 1150);
  std::vector<status> tokens(200);
  CHECK(caches::decode(p, frame, shifted.view(), {.pages = tokens}).worst == status::ok);
  CHECK(caches::elements(shifted.view().slice(0, 50)) == caches::elements(reference.view().slice(150, 200)));
  for (std::size_t t = 0; t < 200; ++t) CHECK(tokens[t] == (t < 50 ? status::ok : status::absent));
  caches::cache elsewhere = make_cache(shape, 200, dtype::f16, engine::dense, 1200);
  CHECK(caches::decode(p, frame, elsewhere.view(), {.pages = tokens}).worst == status::wrong_positions);
  for (status s : tokens) CHECK(s == status::wrong_positions);
}

TEST_CASE("codec shapes: tokens that are no numbers stay as they are and poison nobody") {
  CAPTURE(seed);
  const model_shape shape = model_shape::uniform(1, 4, 64);
  for (dtype type : {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2}) {
    CAPTURE(to_string(type));
    caches::cache clean = make_cache(shape, 300, type), source = make_cache(shape, 300, type);
    caches::fill(clean.view(), shape, seed);
    caches::fill(source.view(), shape, seed);
    const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
    const float odd = type == dtype::e4m3 ? nan : infinity;
    caches::set(source.view(), plane::key, 0, 17, 1, 5, nan);
    caches::set(source.view(), plane::key, 0, 18, 0, 0, odd);
    caches::set(source.view(), plane::value, 0, 100, 3, 63, -odd);
    caches::set(source.view(), plane::value, 0, 299, 2, 7, nan);
    if (type == dtype::f16)
      frames::store<std::uint16_t>({source.view().at(plane::key, 0, 40, 2, 2), 2}, 0, 0xfdab);  // a payload
    const auto check = [&]<class Codec>(const profile& p) {
      const auto frame = caches::encode<Codec>(p, source.view()), other = caches::encode<Codec>(p, clean.view());
      caches::cache back = make_cache(shape, 300, type), same = make_cache(shape, 300, type);
      CHECK(caches::decode<Codec>(p, frame, back.view()).worst == status::ok);
      CHECK(caches::decode<Codec>(p, other, same.view()).worst == status::ok);
      double error = 0, power = 0;
      std::size_t specials = 0;
      caches::for_each_element(source.view(), [&](plane w, int l, std::int64_t t, int h, int d, const std::byte* at) {
        const float x = load_element(at, type), y = load_element(back.view().at(w, l, t, h, d), type);
        if (std::isfinite(x)) {
          error += double(x - y) * double(x - y), power += double(x) * double(x);
        } else {
          ++specials;
          CHECK(std::memcmp(at, back.view().at(w, l, t, h, d), std::size_t(size_of(type))) == 0);
        }
      });
      CHECK(specials == (type == dtype::f16 ? 5 : 4));
      CHECK(std::sqrt(error / power) < caches::relative_error(clean.view(), same.view()) * 1.1);
    };
    const profile calibrated = caches::make_profile(shape, {&clean.view(), 1}),
                  uncalibrated = profile::uncalibrated(shape);
    check.operator()<codec::standard>(calibrated);
    check.operator()<codec::standard>(uncalibrated);
    check.operator()<codec::fixed<6>>(calibrated);
    check.operator()<codec::fixed<6>>(uncalibrated);
    check.operator()<codec::plain<6>>(uncalibrated);
  }
}

TEST_CASE("codec shapes: nothing but tokens that are no numbers") {
  const model_shape shape = model_shape::uniform(1, 2, 64);
  caches::cache source = make_cache(shape, 20);
  caches::for_each_element(source.view(), [](plane, auto, auto, auto, auto, std::byte* at) {
    store_element(at, dtype::f16, std::numeric_limits<float>::quiet_NaN());
  });
  caches::cache good = make_cache(shape, 20);
  caches::fill(good.view(), shape, seed);
  for (const profile& p : {caches::make_profile(shape, {&good.view(), 1}), profile::uncalibrated(shape)}) {
    const auto check = [&]<class Codec>() {
      const auto frame = caches::encode<Codec>(p, source.view());
      caches::cache back = make_cache(shape, 20);
      CHECK(caches::decode<Codec>(p, frame, back.view()).worst == status::ok);
      CHECK(caches::elements(back.view()) == caches::elements(source.view()));
    };
    check.operator()<codec::standard>();
    check.operator()<codec::fixed<4>>();
    check.operator()<codec::plain<4>>();
  }
}

TEST_CASE("codec shapes: values no profile expects") {
  CAPTURE(seed);
  const model_shape shape = model_shape::uniform(1, 4, 64);
  caches::cache usual = make_cache(shape, 300);
  caches::fill(usual.view(), shape, seed);
  const profile calibrated = caches::make_profile(shape, {&usual.view(), 1}),
                uncalibrated = profile::uncalibrated(shape);

  const auto each = [&](const char* name, auto change, double calibrated_error, double uncalibrated_error) {
    CAPTURE(std::string(name));
    caches::cache source = make_cache(shape, 300);
    caches::fill(source.view(), shape, seed + 1);
    change(source.view());
    CHECK(round_trip(calibrated, source, shape) <= calibrated_error);
    CHECK(round_trip(uncalibrated, source, shape) <= uncalibrated_error);
    round_trip<codec::fixed<4>>(calibrated, source, shape);
    round_trip<codec::fixed<4>>(uncalibrated, source, shape);
    round_trip<codec::plain<4>>(uncalibrated, source, shape);
    for (float x : caches::floats(source.view()))
      if (!std::isfinite(x)) return;
    CHECK(round_trip<codec::exact>(uncalibrated, source, shape) == 0);
  };
  const auto all = [](auto value) {
    return [value](const kv_view& v) {
      caches::for_each_element(v, [&](plane p, int l, std::int64_t t, int h, int d, std::byte* at) {
        store_element(at, v[p].type, value(p, l, t, h, d));
      });
    };
  };
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  each(
      "outliers",
      [](const kv_view& v) {
        for (int t = 7; t < 300; t += 50)
          caches::set(v, plane::key, 0, t, t % 4, t % 64, 1e4f), caches::set(v, plane::value, 0, t + 1, 1, 3, -1e4f);
      },
      2e-3, 0.1);
  each(
      "largest",
      [](const kv_view& v) {
        caches::set(v, plane::key, 0, 9, 1, 1, 65504.f), caches::set(v, plane::value, 0, 9, 1, 1, -65504.f);
      },
      1e-3, 0.1);
  each("all largest", all([](auto, auto, auto, auto, int d) { return d % 2 ? 65504.f : -65504.f; }), 0.01, 0.1);
  each("random signs", all([&](auto...) { return random() % 2 ? 65504.f : -65504.f; }), 0.01, 0.1);
  each("constant", all([](auto...) { return 1.25f; }), 0.1, 0.03);
  each("channels", all([](auto, auto, auto, int h, int d) { return float(100 * h - d); }), 0.01, 0.03);
  each("zero", all([](auto...) { return 0.f; }), 1e9, 1e9);
  each("minus zero", all([](auto...) { return -0.f; }), 1e9, 1e9);
  each("tiny", all([&](auto...) { return 6e-8f * float(int(random() % 9) - 4); }), 1e9, 0.2);
  each("wide noise", all([&](auto...) { return 100 * normal(random); }), 0.01, 0.1);
  each("narrow noise", all([&](auto...) { return 1e-3f * normal(random); }), 1e9, 0.1);
  each(
      "all bits", [](const kv_view& v) { caches::fill_with_noise(v, seed); }, 1e9, 1e9);

  // A plane of zeros comes back as zeros where nothing is added and taken away again.
  caches::cache source = make_cache(shape, 300), back = make_cache(shape, 300);
  all([](auto...) { return 0.f; })(source.view());
  REQUIRE(caches::decode(uncalibrated, caches::encode(uncalibrated, source.view()), back.view()).worst == status::ok);
  for (float x : caches::floats(back.view())) CHECK(x == 0);
}

TEST_CASE("codec shapes: max_size is a bound for every preset and any input") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 16; ++round) {
    const auto tokens = std::int64_t(1 + random() % 80);
    model_shape shape =
        model_shape::uniform(1 + int(random() % 3), 1 + int(random() % 4), 2 * (1 + int(random() % 70)));
    shape.layers[0].head_dim_v = random() % 4 ? shape.layers[0].head_dim_k : 0;
    for (layer_shape& l : shape.layers) l = shape.layers[0];
    const dtype type = dtype(random() % 5);
    CAPTURE(round);
    CAPTURE(tokens);
    caches::cache source = make_cache(shape, tokens, type);
    caches::fill(source.view(), shape, seed);
    profile calibrated = caches::make_profile(shape, {&source.view(), 1}), uncalibrated = profile::uncalibrated(shape);
    for (profile* p : {&calibrated, &uncalibrated}) REQUIRE(calibrate_presets(*p, {&source.view(), 1}) == status::ok);
    caches::add_prediction(calibrated, seed);
    const std::vector<std::int32_t> ids = caches::token_ids(tokens);
    if (random() % 2) caches::fill_with_noise(source.view(), random());
    for (const char* name : codec::preset_names)
      codec::with_preset(name, [&]<class Codec>() {
        for (const profile* p : {&calibrated, &uncalibrated}) {
          encoder<Codec> e(*p);
          const std::size_t most = e.max_size(source.view());
          std::vector<std::byte> out(2 * most + 100000);
          const auto n = e.encode(source.view(), out, {.side = {ids}});
          if (n.status() == status::missing_section && p == &uncalibrated) continue;
          REQUIRE(n);
          CHECK(*n <= most);
        }
      });
  }

  // Wide rows of few tokens, where what a strip of columns costs has least to hide behind.
  for (const dtype type : {dtype::f32, dtype::f16, dtype::e4m3, dtype::bytes})
    for (const int tokens : {1, 2, 9}) {
      model_shape shape = model_shape::uniform(1, 2, 4094, {.pairing = rope_pairing::none});
      caches::cache source = make_cache(shape, tokens, type);
      caches::fill_with_noise(source.view(), seed);
      const profile p = profile::uncalibrated(shape);
      const auto check = [&]<class Codec>() {
        encoder<Codec> e(p);
        std::vector<std::byte> out(1 << 20);
        const auto n = e.encode(source.view(), out);
        REQUIRE(n);
        CHECK(*n <= e.max_size(source.view()));
      };
      check.operator()<codec::exact>();
      if (type != dtype::bytes) check.operator()<codec::standard>();
    }
}
