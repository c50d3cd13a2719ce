// SPDX-License-Identifier: Apache-2.0
// Models whose layers differ in what they keep: types of their own for K and V, nothing at all, or only what lies inside of a
// sliding window.
#include <sluice/codec/presets.hpp>
#include <sluice/stream/run/page_decoder.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/reference_decoder.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using caches::layer_kind;
using caches::mixed_cache;

using bytes = std::vector<std::byte>;
using tiled = codec::standard::with_grouping<tile_tokens<16>>;
using tiled_exact = codec::exact::with_grouping<tile_tokens<16>>;

constexpr dtype floats[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2};

void fill(const mixed_cache& c, const model_shape& shape, std::uint64_t seed) {
  for (const kv_view& v : c.views()) caches::fill(v, shape, seed + std::uint64_t(v.layer_id(0)));
}

// Relative error of one plane of one layer.
double error_of(const kv_view& a, const kv_view& b, plane p) {
  kv_view x = a, y = b;
  (p == plane::key ? x.v : x.k) = {};
  (p == plane::key ? y.v : y.k) = {};
  return caches::relative_error(x, y);
}

// What rounding to a type costs on top of level 3.
double tolerance(dtype type) { return type == dtype::e5m2 ? 0.15 : type == dtype::e4m3 ? 0.1 : 0.06; }

bool untouched(const kv_view& v) {
  bool all = true;
  caches::for_each_element(v, [&](plane p, auto, auto, auto, auto, const std::byte* at) {
    for (int i = 0; i < size_of(v[p].type); ++i) all &= at[i] == caches::cache::untouched;
  });
  return all;
}

std::vector<kv_view> slices(std::span<const kv_view> views, std::int64_t begin, std::int64_t end) {
  std::vector<kv_view> out;
  for (const kv_view& v : views) out.push_back(v.slice(begin, end));
  return out;
}

// Every element that the document's decoder finds stands in the view as the library put it there; what it does not find is
// as it was.
void compare_with_reference(const profile& p, const bytes& frame, const mixed_cache& back) {
  const bytes file = p.serialize();
  const auto plain = [](const bytes& b) {
    return reference::bytes{reinterpret_cast<const std::uint8_t*>(b.data()), b.size()};
  };
  const reference::frame r = reference::decode(plain(frame), reference::read_profile(plain(file)), max_passes);
  std::size_t wrong = 0;
  for (const kv_view& v : back.views())
    caches::for_each_element(v, [&](plane which, int, std::int64_t t, int h, int d, const std::byte* at) {
      const reference::plane_values& x = r.planes[std::size_t(2 * v.layer_id(0) + int(which))];
      const std::int64_t token = v.position + t - r.position;
      const std::size_t cell = std::size_t(token * x.width + h * v[which].head_dim + d);
      const auto size = std::size_t(size_of(v[which].type));
      if (token < 0 || token >= r.tokens || !x.held[cell])
        wrong += *at != caches::cache::untouched;
      else if (x.exact[cell] && dtype(x.type) == v[which].type)
        wrong += std::memcmp(at, &x.stored[cell * size], size) != 0;
    });
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("layers: any mixture of types, bit for bit and within tolerance") {
  const std::uint64_t seed = std::random_device{}();
  INFO("seed ", seed);
  std::mt19937_64 random(seed);
  const auto one_of = [&](const auto& list) { return list[random() % std::size(list)]; };
  for (int round = 0; round < 40; ++round) {
    CAPTURE(round);
    const int dims[] = {8, 24, 64};
    model_shape shape = model_shape::uniform(2 + int(random() % 5), 1 + int(random() % 3), one_of(dims));
    for (layer_shape& l : shape.layers) {
      l.head_dim_v = random() % 6 ? one_of(dims) : 0;
      if (random() % 5 == 0) l = {};
    }
    shape.layers[random() % 2] = {2, 64, 24, 0, 0};  // one at least keeps something
    const std::int64_t tokens = 1 + std::int64_t(random() % 70), position = std::int64_t(random() % 2 * 1000);
    std::vector<layer_kind> kinds, others;
    for (std::size_t l = 0; l < shape.layers.size(); ++l) {
      kinds.push_back({one_of(floats), one_of(floats), position, tokens});
      others.push_back({one_of(floats), one_of(floats), position, tokens});
    }
    const mixed_cache source(shape, kinds, random());
    fill(source, shape, seed);
    const profile plain = profile::uncalibrated(shape), tuned = caches::make_profile(shape, source.views());

    const bytes exact = caches::encode<tiled_exact>(plain, source.views());
    REQUIRE(!exact.empty());
    frame_index index;
    REQUIRE(index.parse(exact) == status::ok);
    for (const kv_view& v : source.views())
      for (plane p : caches::planes)
        if (v[p].present()) CHECK(index.type(v.layer_id(0), p) == v[p].type);
    const mixed_cache same(shape, kinds, random());
    CHECK(caches::decode<codec::exact>(plain, exact, same.views()).worst == status::ok);
    for (std::size_t i = 0; i < source.views().size(); ++i)
      CHECK(caches::elements(source.views()[i]) == caches::elements(same.views()[i]));
    compare_with_reference(plain, exact, same);

    // One layer of another type is refused before any is written.
    std::vector<layer_kind> odd = kinds;
    const auto at = std::size_t(one_of(source.views()).layer_id(0));
    odd[at].k = odd[at].k == dtype::f32 ? dtype::bf16 : dtype::f32;
    const mixed_cache wrong(shape, odd);
    CHECK(caches::decode<codec::exact>(plain, exact, wrong.views()).worst == status::unsupported_type);
    for (const kv_view& v : wrong.views()) CHECK(untouched(v));

    for (const profile* p : {&plain, &tuned}) {
      CAPTURE(p->calibrated());
      encoder<tiled> e(*p);
      bytes frame(e.max_size(source.views()));
      const auto n = e.encode(source.views(), frame);
      REQUIRE(n);
      frame.resize(*n);
      for (const auto& into : {kinds, others}) {
        const mixed_cache back(shape, into, random());
        CHECK(caches::decode(*p, frame, back.views()).worst == status::ok);
        compare_with_reference(*p, frame, back);
        for (std::size_t i = 0; i < source.views().size(); ++i)
          for (plane which : caches::planes) {
            if (!back.views()[i][which].present()) continue;
            CAPTURE(to_string(source.views()[i][which].type));
            CAPTURE(to_string(back.views()[i][which].type));
            CHECK(error_of(source.views()[i], back.views()[i], which) < tolerance(back.views()[i][which].type));
          }
      }
    }
  }
}

TEST_CASE("layers: a run of the index is a run of one type") {
  const model_shape shape = model_shape::uniform(6, 1, 8);
  const dtype a = dtype::f16, b = dtype::bf16;
  const layer_kind kinds[] = {{a, a, 0, 5}, {a, a, 0, 5}, {a, b, 0, 5}, {b, b, 0, 5}, {b, b, 0, 5}, {a, a, 0, 5}};
  const mixed_cache source(shape, kinds);
  fill(source, shape, 1);
  const profile p = profile::uncalibrated(shape);
  encoder<codec::exact> e(p);
  const auto runs = [&](std::span<const kv_view> views) {
    bytes frame(e.max_size(views));
    frame_index index;
    REQUIRE(e.encode(views, frame));
    REQUIRE(index.parse(frame) == status::ok);
    std::vector<int> lengths;
    for (const shape_run& r : index.runs()) lengths.push_back(r.layers);
    return lengths;
  };
  CHECK(runs(source.views()) == std::vector<int>{2, 1, 2, 1});
  CHECK(runs(source.views().first(2)) ==
        std::vector<int>{6});  // the same encoder; layers that nobody shows split nothing
  CHECK(runs(source.views().last(1)) == std::vector<int>{6});
  // Nobody can decode what was not shown, of whatever type: it is absent.
  const bytes frame = caches::encode<codec::exact>(p, source.views().first(2));
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  CHECK(index.holds(1, plane::key));
  CHECK_FALSE(index.holds(2, plane::key));
  const mixed_cache back(shape, kinds);
  const page_status done = caches::decode<codec::exact>(p, frame, back.views());
  CHECK(done.worst == status::absent);
  CHECK(done.damaged == 8);
  CHECK(done.outside == 0);
}

TEST_CASE("layers: opaque bytes beside floats are for lossless codecs") {
  const model_shape shape = model_shape::uniform(2, 2, 16);
  const layer_kind kinds[] = {{dtype::bytes, dtype::f16, 0, 20}, {dtype::bf16, dtype::bytes, 0, 20}};
  const mixed_cache source(shape, kinds), back(shape, kinds);
  for (const kv_view& v : source.views()) caches::fill_with_noise(v, 5);
  const profile p = profile::uncalibrated(shape);
  for (const char* name : {"exact", "raw"})
    codec::with_preset(name, [&]<class Codec>() {
      const bytes frame = caches::encode<Codec>(p, source.views());
      CHECK(caches::decode<Codec>(p, frame, back.views()).worst == status::ok);
      for (std::size_t i = 0; i < 2; ++i)
        CHECK(caches::elements(source.views()[i]) == caches::elements(back.views()[i]));
    });
  encoder<> e(p);
  bytes out(100000);
  CHECK(e.encode(source.views(), out).status() == status::unsupported_type);
}

TEST_CASE("layers: absent ones keep their numbers, wherever they stand") {
  for (unsigned absent = 1; absent < 31; ++absent) {  // of five layers
    CAPTURE(absent);
    model_shape shape = model_shape::uniform(5, 2, 16);
    std::vector<layer_kind> kinds;
    for (unsigned l = 0; l < 5; ++l) {
      if (absent >> l & 1) shape.layers[l] = {};
      CHECK(shape.layers[l].absent() == bool(absent >> l & 1));
      kinds.push_back({l % 2 ? dtype::f16 : dtype::bf16, dtype::f16, 0, 40});
    }
    const mixed_cache source(shape, kinds);
    fill(source, shape, 9);
    const profile tuned = caches::make_profile(shape, source.views()), plain = profile::uncalibrated(shape);
    for (const profile* made : {&plain, &tuned}) {
      const result<profile> p = profile::parse(made->serialize());
      REQUIRE(p);
      CHECK(p->shape == shape);
      CHECK(p->fingerprint() == made->fingerprint());
      const auto check = [&]<class Codec>(double error) {
        bytes frame = caches::encode<Codec>(*p, source.views());
        REQUIRE(!frame.empty());
        frame_index index;
        REQUIRE(index.parse(frame) == status::ok);
        CHECK(index.header().layers == 5);
        for (int l = 0; l < 5; ++l) CHECK(index.holds(l, plane::value) == !(absent >> l & 1));
        const mixed_cache back(shape, kinds, 3), coarse(shape, kinds, 4), cut(shape, kinds, 5);
        CHECK(caches::decode<Codec>(*p, frame, back.views()).worst == status::ok);
        compare_with_reference(*p, frame, back);
        CHECK(caches::decode<Codec>(*p, frame, coarse.views(), {.level = 0}).worst == status::ok);
        const result<std::size_t> size = truncate(frame, 0);
        REQUIRE(size);
        frame.resize(*size);
        CHECK(caches::decode<Codec>(*p, frame, cut.views()).worst == status::ok);
        for (std::size_t i = 0; i < source.views().size(); ++i) {
          CHECK(caches::relative_error(source.views()[i], back.views()[i]) <= error);
          CHECK(caches::elements(coarse.views()[i]) == caches::elements(cut.views()[i]));
        }
      };
      check.operator()<codec::standard>(0.06);
      check.operator()<codec::exact>(0);
    }

    // A view that shows such a layer shows another model; so does a model in which the layer is there.
    const model_shape full = model_shape::uniform(5, 2, 16);
    const caches::cache all = caches::make_cache(full, 40);
    const bytes frame = caches::encode<codec::exact>(plain, source.views());
    CHECK(caches::decode<codec::exact>(plain, frame, all.view()).worst == status::wrong_shape);
    CHECK(caches::decode<codec::exact>(profile::uncalibrated(full), frame, all.view()).worst == status::wrong_shape);
    bytes out(100000);
    CHECK(encoder<>(plain).encode(all.view(), out).status() == status::wrong_shape);
  }
}

TEST_CASE("layers: a model that keeps nothing has a profile and no frames") {
  const model_shape nothing{{{}, {}, {}}, {}};
  const profile p = profile::uncalibrated(nothing);
  REQUIRE(validate(p) == status::ok);
  CHECK(profile::parse(p.serialize()).has_value());
  const caches::cache one = caches::make_cache(model_shape::uniform(1, 1, 8), 4);
  bytes out(10000);
  encoder<> e(p);
  CHECK(e.encode(one.view(), out).status() == status::wrong_shape);
  CHECK(e.encode(std::span<const kv_view>(), out).status() == status::invalid_argument);
}

namespace {

// A model of two full layers and one with a window of 128, a cache of 600 tokens, and its frames of 256.
struct sliding {
  model_shape shape{{{2, 32, 32, 0, 0}, {2, 32, 32, 0, 128}, {2, 32, 32, 0, 0}}, {{}}};
  std::vector<layer_kind> all, last;  // tokens of each layer: every one, and what an engine keeps
  mixed_cache source;
  profile p;
  std::vector<bytes> frames, exact;

  explicit sliding(std::int64_t start)
      : all(3, {dtype::f16, dtype::bf16, start, 600}),
        last{all[0], {dtype::f16, dtype::bf16, start + 473, 127}, all[2]},
        source(shape, last) {
    fill(source, shape, 21);
    p = caches::make_profile(shape, source.views());
    for (std::int64_t at = start; at < start + 600; at += 256) {
      const auto part = source.between(at, std::min(at + 256, start + 600));
      frames.push_back(caches::encode<codec::standard::with_grouping<tile_tokens<64>>>(p, part));
      exact.push_back(caches::encode<codec::exact>(p, part));
      REQUIRE(!frames.back().empty());
      REQUIRE(!exact.back().empty());
    }
  }
};

}  // namespace

TEST_CASE("layers: of a sliding layer frames hold what lies inside of the window, and that is whole") {
  for (const std::int64_t start : {0, 100000}) {
    CAPTURE(start);
    const sliding s(start);
    frame_index index;
    for (std::size_t i = 0; i < 3; ++i) {
      REQUIRE(index.parse(s.frames[i]) == status::ok);
      CHECK(index.holds(0, plane::key));
      CHECK(index.holds(1, plane::key) == (i > 0));  // 473 to 599
      CHECK(index.type(1, plane::value) == dtype::bf16);
    }

    // (a) Into a cache that shows what is held, (b) into one that shows all tokens of every layer.
    for (const bool wide : {false, true}) {
      CAPTURE(wide);
      const auto check = [&]<class Codec>(const std::vector<bytes>& frames, double error, std::int64_t tile) {
        const mixed_cache back(s.shape, wide ? s.all : s.last, 8);
        std::uint32_t outside = 0;
        for (std::size_t i = 0; i < 3; ++i) {
          std::vector<status> pages(40, status::io_error);  // of layer 0, which shows all
          const page_status done = caches::decode<Codec>(s.p, frames[i], back.views(), {.pages = pages});
          CHECK(done.worst == status::ok);
          CHECK(done.damaged == 0);
          CHECK(done.degraded == 0);
          CHECK(std::count(pages.begin(), pages.end(), status::absent) +
                    std::count(pages.begin(), pages.end(), status::ok) ==
                40);
          outside += done.outside;
        }
        // K and V of one group each; tiles that begin before 473.
        CHECK(outside == (wide ? 2 * ((473 + tile - 1) / tile) : 0));
        for (std::size_t l : {0, 2}) CHECK(caches::relative_error(s.source.views()[l], back.views()[l]) <= error);
        const kv_view window = wide ? back.views()[1].slice(473, 600) : back.views()[1];
        CHECK(caches::relative_error(s.source.views()[1], window) <= error);
        if (wide) CHECK(untouched(back.views()[1].slice(0, 473)));
      };
      check.operator()<codec::standard>(s.frames, 0.06, 64);
      check.operator()<codec::exact>(s.exact, 0, 256);
    }
  }
}

TEST_CASE("layers: tokens inside of a window that no frame holds are missing") {
  const sliding s(0);
  // The sequence goes on to 600; somebody lost the last chunk's tokens of the sliding layer, or kept too few.
  for (const std::int64_t lost : {1, 40, 127}) {
    CAPTURE(lost);
    std::vector<layer_kind> kept = s.last;
    kept[1].position += lost;
    kept[1].tokens -= lost;
    const mixed_cache source(s.shape, kept), back(s.shape, s.all), tight(s.shape, s.last);
    fill(source, s.shape, 21);
    std::uint32_t outside = 0, damaged = 0, tight_damaged = 0;
    for (std::int64_t at = 0; at < 600; at += 256) {
      const bytes frame = caches::encode<codec::standard::with_grouping<tile_tokens<64>>>(
          s.p, source.between(at, std::min<std::int64_t>(at + 256, 600)));
      const page_status done = caches::decode(s.p, frame, back.views());
      outside += done.outside;
      damaged += done.damaged;
      const std::int64_t first_lost = 473, end_lost = 473 + lost;
      const bool hit = at < end_lost && first_lost < at + 256;
      CHECK(done.worst == (hit ? status::absent : status::ok));
      tight_damaged += caches::decode(s.p, frame, tight.views()).damaged;
    }
    const auto tiles = [](std::int64_t end) { return std::uint32_t((end + 63) / 64); };
    CHECK(outside == 2 * tiles(473));
    CHECK(damaged == 2 * (tiles(473 + lost) - 473 / 64));
    CHECK(tight_damaged == damaged);
  }

  // Whose pages are marked: tokens 473 to 599 of the sliding layer, shown first.
  const mixed_cache back(s.shape, s.all);
  const kv_view alone[] = {back.views()[1]};
  const bytes without = caches::encode(s.p, s.source.views().first(1));  // layer 0 only
  std::vector<status> pages(38);
  kv_view v = alone[0];
  v.first = 0;  // pages begin with the first token
  const page_status done = caches::decode(s.p, without, v, {.pages = pages});
  CHECK(done.worst == status::absent);
  for (std::size_t i = 0; i < pages.size(); ++i) CHECK(pages[i] == (i < 473 / 16 ? status::ok : status::absent));

  // A chunk in the middle says nothing of where the sequence ends: its caller does.
  const auto part = slices(back.views(), 256, 512);
  CHECK(caches::decode(s.p, s.frames[1], part).worst == status::absent);
  const page_status told = caches::decode(s.p, s.frames[1], part, {.sequence_end = 600});
  CHECK(told.worst == status::ok);
  CHECK(told.outside > 0);
  CHECK(caches::decode(s.p, s.frames[1], part, {.sequence_end = 599}).worst == status::absent);  // 472 would be needed
  CHECK(caches::decode(s.p, s.frames[1], part, {.sequence_end = INT64_MAX}).worst == status::ok);
  CHECK(caches::decode(s.p, s.frames[1], part, {.sequence_end = 0}).worst == status::absent);
}

TEST_CASE("layers: a frame of several token tiles holds what frames of each hold") {
  for (const std::int64_t start : {0, 100000}) {
    CAPTURE(start);
    // Without rotary embeddings: angles are added up from a frame's first token, in single precision.
    const model_shape shape{{{2, 32, 32, 0, 0}, {2, 32, 32, 0, 128}, {2, 32, 32, 0, 0}},
                            {rope{.pairing = rope_pairing::none}}};
    std::vector<layer_kind> kinds(3, {dtype::f16, dtype::bf16, start, 600});
    kinds[1] = {dtype::f16, dtype::bf16, start + 473, 127};
    const mixed_cache source(shape, kinds);
    fill(source, shape, 21);
    const profile tuned = caches::make_profile(shape, source.views()), plain = profile::uncalibrated(shape);
    const auto check = [&]<class Codec>(const profile& p) {
      using by64 = typename Codec::template with_grouping<tile_tokens<64>>;
      const bytes whole = caches::encode<by64>(p, source.views());
      frame_index all, one;
      REQUIRE(all.parse(whole) == status::ok);
      REQUIRE(all.token_tiles() == 10);
      std::size_t shared = 0, wrong = 0;
      for (int tile = 0; tile < 10; ++tile) {
        const bytes part =
            caches::encode<by64>(p, source.between(start + 64 * tile, std::min(start + 64 * (tile + 1), start + 600)));
        REQUIRE(one.parse(part) == status::ok);
        REQUIRE(one.token_tiles() == 1);
        for (int pass = 0; pass < all.header().passes; ++pass)
          for (int layer = 0; layer < 3; ++layer)
            for (plane which : caches::planes)
              for (int g = 0; g < all.shape_of(layer).groups(int(which)); ++g) {
                const byte_range a = all.range(all.ordinal(pass, {layer, which, tile, g})),
                                 b = one.range(one.ordinal(pass, {layer, which, 0, g}));
                shared += std::size_t(a.size());
                wrong +=
                    a.size() != b.size() || std::memcmp(&whole[a.begin], &part[b.begin], std::size_t(a.size())) != 0;
              }
      }
      CHECK(wrong == 0);
      CHECK(shared == whole.size() - all.payload_offset());
    };
    check.operator()<codec::standard>(tuned);
    check.operator()<codec::standard>(plain);
    check.operator()<codec::standard::with_transform<identity_transform>>(plain);
    check.operator()<codec::fixed<4>>(tuned);
    check.operator()<codec::exact>(plain);
  }
}

TEST_CASE("layers: windows do not excuse damage") {
  const sliding s(0);
  std::vector<layer_kind> kinds = s.all;
  const mixed_cache full(s.shape, kinds), back(s.shape, kinds);
  fill(full, s.shape, 3);
  // All tokens are held, so that the first chunk lies outside of the window and is there nevertheless.
  bytes frame = caches::encode(s.p, full.between(0, 256));
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  const byte_range tile = index.range(index.ordinal(0, {1, plane::key, 0, 0}));
  REQUIRE(tile.size() > 0);
  CHECK(caches::decode(s.p, frame, back.views()).worst == status::ok);
  frame[tile.begin] ^= std::byte{1};
  const page_status done = caches::decode(s.p, frame, back.views());
  CHECK(done.worst == status::corrupt_tile);
  CHECK(done.damaged == 1);
  CHECK(done.outside == 0);
}

TEST_CASE("layers: chunks through a page decoder know where the cache ends") {
  const sliding s(0);
  std::vector<stream::chunk_cost> chunks;
  for (std::int64_t at = 0; at < 600; at += 256)
    chunks.push_back({at, int(std::min<std::int64_t>(256, 600 - at)), 1, {100, 200, 300, 400, 500}, {4, 3, 2, 1}, {}});
  const auto cost = stream::cost_model::make(chunks, {}, 4);
  REQUIRE(cost);
  for (const bool wide : {false, true}) {
    CAPTURE(wide);
    const mixed_cache back(s.shape, wide ? s.all : s.last);
    stream::page_decoder<> pages(s.p, *cost, back.views());
    for (int i = 0; i < 3; ++i) {
      CHECK(pages.decode(i, 3, s.frames[std::size_t(i)]).worst == status::ok);
      CHECK(pages.decode(i, 4, s.exact[std::size_t(i)]).worst == status::ok);
    }
    CHECK(caches::elements(s.source.views()[0]) == caches::elements(back.views()[0]));
    CHECK(caches::elements(s.source.views()[1]) ==
          caches::elements(wide ? back.views()[1].slice(473, 600) : back.views()[1]));
  }
}
