// SPDX-License-Identifier: Apache-2.0
// Format policies: what they write into a frame, that they do what they say, and that one stage is changed at a time.
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>

#include <cstdint>
#include <iterator>
#include <string>
#include <type_traits>
#include <vector>

namespace {

using namespace sluice;
using caches::make_cache;

constexpr std::uint64_t seed = 31337;

}  // namespace

TEST_CASE("policies: rebinding changes one stage") {
  using s = codec::standard;
  static_assert(std::is_same_v<s::with_grouping<tile_tokens<128>>::grouping, tile_tokens<128>>);
  static_assert(std::is_same_v<s::with_grouping<tile_tokens<128>>::entropy, class_rans>);
  static_assert(std::is_same_v<s::with_quantizer<embedded<1>>::quantizer, embedded<1>>);
  static_assert(std::is_same_v<s::with_bit_widths<uniform_bits<3>>::bit_widths, uniform_bits<3>>);
  static_assert(std::is_same_v<s::with_predictor<no_prediction>, s>);
  static_assert(std::is_same_v<codec::fixed<4>::with_transform<identity_transform>, codec::plain<4>>);
  static_assert(std::is_same_v<codec::exact::with_entropy<raw>, codec::uncompressed>);

  const auto id = [](std::uint32_t tokens, stage_id transform, stage_id quantizer, stage_id widths, stage_id entropy) {
    return codec_id{stage_id::of(0, tokens), {}, transform, quantizer, widths, entropy};
  };
  const stage_id none{}, basis = stage_id::of(1), embedded3 = stage_id::of(1, 3), by_tokens = stage_id::of(2, 0);
  CHECK(s::id == id(256, basis, embedded3, none, stage_id::of(1)));
  CHECK(s::with_grouping<tile_tokens<64>>::id == id(64, basis, embedded3, none, stage_id::of(1)));
  CHECK(codec::fixed<4>::id == id(256, basis, by_tokens, stage_id::of(1, 4), stage_id::of(2)));
  CHECK(codec::plain<4>::id == id(256, none, by_tokens, stage_id::of(1, 4), stage_id::of(2)));
  CHECK(codec::exact::id == codec_id{stage_id::of(1, 256), {}, {}, {}, {}, stage_id::of(3)});
  CHECK(codec::uncompressed::id == codec_id{stage_id::of(1, 256), {}, {}, {}, {}, stage_id::of(4)});
  CHECK(s::with_bit_widths<layer_bits<4, 2>>::id.bit_widths.id == 2);
  CHECK(layer_bits<4, 3, 2>::bits(0, plane::key, 5) == 4);
  CHECK(layer_bits<4, 3, 2>::bits(1, plane::key, 5) == 3);
  CHECK(layer_bits<4, 3, 2>::bits(2, plane::value, 5) == 2);
  CHECK(layer_bits<4, 3, 2>::bits(99, plane::key, 100) == 2);
}

TEST_CASE("policies: every preset is found by its name, and by the id in its frames") {
  for (const char* name : codec::preset_names) {
    CAPTURE(std::string(name));
    int calls = 0;
    CHECK(codec::with_preset(name, [&]<class Codec>() {
      ++calls;
      const bool found = codec::with_codec(Codec::id, [&]<class Other>() {
        ++calls;
        CHECK(Other::id.decodes(Codec::id));
      });
      CHECK(found);
    }));
    CHECK(calls == 2);
  }
  for (stage_id codec_id::*stage : {&codec_id::method, &codec_id::predictor, &codec_id::transform, &codec_id::quantizer,
                                    &codec_id::bit_widths, &codec_id::entropy}) {
    codec_id unknown = codec::standard::id;
    (unknown.*stage).id = 130;  // one of a user's
    CHECK_FALSE(codec::with_codec(unknown, []<class>() {}));
  }
  CHECK_FALSE(codec::with_codec({}, []<class>() {}));
}

TEST_CASE("policies: widths") {
  CAPTURE(seed);
  const model_shape shape = model_shape::uniform(3, 2, 64);
  caches::cache source = make_cache(shape, 200);
  caches::fill(source.view(), shape, seed);
  const profile calibrated = caches::make_profile(shape, {&source.view(), 1}, 0, 4, 4, 8);
  const profile uncalibrated = profile::uncalibrated(shape);

  // Bytes per value and error of a codec.
  struct outcome {
    double bits, error;
  };
  const auto measure = [&]<class Codec>(const profile& p, int layer = -1) {
    const auto frame = caches::encode<Codec>(p, source.view());
    REQUIRE(!frame.empty());
    caches::cache back = make_cache(shape, 200);
    CHECK(caches::decode<Codec>(p, frame, back.view()).worst == status::ok);
    frame_index index;
    REQUIRE(index.parse(frame) == status::ok);
    const std::int32_t only[] = {layer};
    kv_view a = source.view(), b = back.view();
    std::uint64_t size = frame.size();
    double values = 3 * 2 * 200 * 128;
    if (layer >= 0) {
      size = 0;
      for (int pass = 0; pass < index.header().passes; ++pass) size += index.range(pass, layer, layer + 1).size();
      values /= 3;
      for (kv_view* v : {&a, &b}) {
        v->k.base += layer * v->k.layer_stride;
        v->v.base += layer * v->v.layer_stride;
        v->num_layers = 1;
        v->layer_ids = only;
      }
    }
    return outcome{double(size) * 8 / values, caches::relative_error(a, b)};
  };
  for (const profile* p : {&calibrated, &uncalibrated}) {
    CAPTURE(p->calibrated());
    const auto grows = [&]<template <int> class With>() {
      const outcome two = measure.template operator()<With<2>>(*p), four = measure.template operator()<With<4>>(*p),
                    eight = measure.template operator()<With<8>>(*p);
      CHECK(two.bits < four.bits);
      CHECK(four.bits < eight.bits);
      CHECK(four.error < two.error / 2);
      CHECK(eight.error < four.error / 2);
      return four;
    };
    CHECK(grows.operator()<codec::fixed>().bits < 5.2);
  }

  // With rANS the width sets the levels, the coder the bytes: fewer than a code of that width takes.
  using coded4 = codec::standard::with_quantizer<single_level>::with_bit_widths<uniform_bits<4>>;
  using coded6 = codec::standard::with_quantizer<single_level>::with_bit_widths<uniform_bits<6>>;
  for (const profile* p : {&calibrated, &uncalibrated}) {
    const outcome four = measure.operator()<coded4>(*p), six = measure.operator()<coded6>(*p);
    CHECK(four.bits < 4.2);
    CHECK(six.bits < 6.2);
    CHECK(six.error < four.error / 2);
  }

  // One width for each layer.
  using tiers = codec::fixed<1>::with_bit_widths<layer_bits<6, 4, 2>>;
  const outcome high = measure.operator()<tiers>(calibrated, 0), middle = measure.operator()<tiers>(calibrated, 1),
                low = measure.operator()<tiers>(calibrated, 2);
  CHECK(low.bits < middle.bits - 1);
  CHECK(middle.bits < high.bits - 1);
  CHECK(high.error < middle.error / 2);
  CHECK(middle.error < low.error / 2);
  using coded_tiers = codec::standard::with_quantizer<single_level>::with_bit_widths<layer_bits<6, 4, 2>>;
  CHECK(measure.operator()<coded_tiers>(calibrated, 0).error <
        measure.operator()<coded_tiers>(calibrated, 1).error / 2);
  CHECK(measure.operator()<coded_tiers>(calibrated, 1).error <
        measure.operator()<coded_tiers>(calibrated, 2).error / 2);
}

TEST_CASE("policies: what changes bytes stands in the id, and a decoder reads what may differ") {
  using s = codec::standard;
  const codec_id ids[] = {s::id,
                          s::with_grouping<tile_tokens<128>>::id,
                          s::with_bit_widths<uniform_bits<3>>::id,
                          s::with_bit_widths<uniform_bits<4>>::id,
                          s::with_bit_widths<layer_bits<4, 2>>::id,
                          s::with_bit_widths<layer_bits<2, 4>>::id,
                          s::with_quantizer<embedded<2>>::id,
                          s::with_quantizer<single_level>::id,
                          s::with_transform<identity_transform>::id,
                          codec::fixed<3>::id,
                          codec::fixed<4>::id,
                          codec::plain<4>::id,
                          codec::plain<8>::id,
                          codec::plain<8>::with_quantizer<ranged<range_along::tokens, 32>>::id,
                          codec::plain<8>::with_quantizer<ranged<range_along::tokens, 0, range_along::channels>>::id,
                          codec::plain<8>::with_quantizer<ranged<range_along::channels, 0, range_along::tokens>>::id,
                          codec::plain<8>::with_quantizer<ranged<range_along::channels, 32>>::id,
                          codec::plain<8>::with_quantizer<ranged<range_along::channels, 32, range_along::channels>>::id,
                          codec::plain<8>::with_entropy<class_rans>::id,
                          codec::exact::id,
                          codec::exact::with_grouping<tile_tokens<64>>::id,
                          codec::uncompressed::id};
  std::size_t same = 0, read = 0;
  for (const codec_id& a : ids)
    for (const codec_id& b : ids) {
      same += a == b;
      read += a.decodes(b);
      CHECK(a.decodes(b) == b.decodes(a));
    }
  // Two of the list are one codec written in two ways. Tile sizes, widths and lists of widths can be read by another's
  // decoder: (0, 1), (2, 3), (4, 5), (9, 10), (11, 12), (19, 20), either way round.
  CHECK(same == std::size(ids) + 2);
  CHECK(read == std::size(ids) + 2 + 12);
  CHECK(codec::fixed<3>::id.decodes(codec::fixed<8>::id));
  CHECK_FALSE(codec::fixed<3>::id.decodes(codec::plain<3>::id));
}

TEST_CASE("policies: an entropy model between a quantiser and its decoder changes nothing but bytes") {
  CAPTURE(seed);
  const model_shape shape = model_shape::uniform(2, 2, 32);
  caches::cache source = make_cache(shape, 90), packed = make_cache(shape, 90), coded = make_cache(shape, 90);
  caches::fill(source.view(), shape, seed);
  // Codes that a class cannot express: an outlier where all others are alike.
  caches::for_each_element(source.view(), [](plane p, int, std::int64_t t, int, int d, std::byte* at) {
    if (d % 4 == 1) store_element(at, dtype::f16, p == plane::key && t % 30 == 7 ? 500.f : 0.f);
  });
  const auto check = [&]<class Packed>(const profile& p) {
    using rans = typename Packed::template with_entropy<class_rans>;
    const auto frame = caches::encode<Packed>(p, source.view()), smaller = caches::encode<rans>(p, source.view());
    REQUIRE(!smaller.empty());
    CHECK(smaller.size() != frame.size());
    CHECK(caches::decode<Packed>(p, frame, packed.view()).worst == status::ok);
    CHECK(caches::decode<rans>(p, smaller, coded.view()).worst == status::ok);
    CHECK(caches::elements(packed.view()) == caches::elements(coded.view()));
    CHECK(caches::decode<Packed>(p, smaller, packed.view()).worst == status::wrong_codec);
  };
  const profile plain = profile::uncalibrated(shape), tuned = caches::make_profile(shape, {&source.view(), 1});
  check.operator()<codec::plain<8>>(plain);
  check.operator()<codec::plain<8>::with_quantizer<ranged<range_along::channels, 16>>>(plain);
  check.operator()<codec::fixed<6>>(plain);
  check.operator()<codec::fixed<6>>(tuned);
}

TEST_CASE("policies: a decoder reads what another width wrote, and refuses another stage") {
  const model_shape shape = model_shape::uniform(1, 2, 32);
  caches::cache source = make_cache(shape, 50), a = make_cache(shape, 50), b = make_cache(shape, 50);
  caches::fill(source.view(), shape, seed);
  const profile p = profile::uncalibrated(shape);
  const auto frame = caches::encode<codec::fixed<3>>(p, source.view());
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  CHECK(index.header().codec == codec::fixed<3>::id);
  CHECK(index.header().codec != codec::fixed<8>::id);
  CHECK(caches::decode<codec::fixed<3>>(p, frame, a.view()).worst == status::ok);
  CHECK(caches::decode<codec::fixed<8>>(p, frame, b.view()).worst == status::ok);  // widths stand in the tiles
  CHECK(a.bytes() == b.bytes());
  CHECK(caches::decode<codec::plain<3>>(p, frame, b.view()).worst == status::wrong_codec);
  CHECK(caches::decode<codec::standard>(p, frame, b.view()).worst == status::wrong_codec);
}

TEST_CASE("policies: levels with widths of their own") {
  const model_shape shape = model_shape::uniform(2, 2, 64);
  caches::cache source = make_cache(shape, 200);
  caches::fill(source.view(), shape, seed);
  for (const profile& p : {caches::make_profile(shape, {&source.view(), 1}), profile::uncalibrated(shape)}) {
    using levels = codec::standard::with_bit_widths<uniform_bits<3>>;
    const auto frame = caches::encode<levels>(p, source.view());
    double last = 10;
    for (int level = 0; level < 4; ++level) {
      caches::cache back = make_cache(shape, 200);
      CHECK(caches::decode<levels>(p, frame, back.view(), {.level = level}).worst == status::ok);
      const double error = caches::relative_error(source.view(), back.view());
      CHECK(error < last * 0.6);
      last = error;
    }
  }
}
