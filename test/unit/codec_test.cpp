// SPDX-License-Identifier: Apache-2.0
// Encoder and decoder as a whole: presets, levels, exactness, layouts, positions.
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/isas.hpp>

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using namespace sluice;
using caches::engine;
using caches::make_cache;

constexpr std::uint64_t seed = 20240607;

model_shape small_model() { return model_shape::uniform(2, 3, 64); }

// A filled cache, a profile calibrated on another one of the same statistics, and one without calibration.
struct setup {
  model_shape shape;
  caches::cache source;
  profile calibrated, uncalibrated;

  explicit setup(const model_shape& s = small_model(), std::int64_t tokens = 300, dtype type = dtype::f16,
                 std::int64_t position = 0, int heads_per_basis = 0, int passes = 4)
      : shape(s), source(make_cache(s, tokens, type, engine::dense, position)) {
    caches::fill(source.view(), s, seed);
    calibrated = caches::make_profile(s, {&source.view(), 1}, heads_per_basis, passes);
    uncalibrated = profile::uncalibrated(s, passes);
  }
};

}  // namespace

TEST_CASE("codec: every preset gives back what it took, within its means") {
  CAPTURE(seed);
  const setup s;
  const struct {
    const char* name;
    double calibrated, uncalibrated;  // largest relative error
  } expected[] = {{"standard", 0.04, 0.04}, {"exact", 0, 0},        {"raw", 0, 0},
                  {"fixed4", 0.1, 0.1},     {"plain8", 0.02, 0.02}, {"plain4", 0.15, 0.15}};
  for (const auto& e : expected)
    for (const profile* p : {&s.calibrated, &s.uncalibrated}) {
      CAPTURE(e.name);
      CAPTURE(p->calibrated());
      const bool known = codec::with_preset(e.name, [&]<class Codec>() {
        const auto frame = caches::encode<Codec>(*p, s.source.view());
        REQUIRE(!frame.empty());
        CHECK(frame == caches::encode<Codec>(*p, s.source.view()));  // the same bytes every time
        caches::cache back = make_cache(s.shape, 300);
        const page_status done = caches::decode<Codec>(*p, frame, back.view());
        CHECK(done.worst == status::ok);
        CHECK(done.damaged == 0);
        CHECK(done.degraded == 0);
        CHECK(done.tiles > 0);
        const double error = caches::relative_error(s.source.view(), back.view());
        const double most = p->calibrated() ? e.calibrated : e.uncalibrated;
        CHECK(error <= most);
        if (most == 0) CHECK(caches::elements(s.source.view()) == caches::elements(back.view()));
      });
      CHECK(known);
    }
  CHECK_FALSE(codec::with_preset("standar", []<class>() {}));
  CHECK_FALSE(codec::with_preset("standard2", []<class>() {}));
}

TEST_CASE("codec: levels are prefixes, finer ones err less, sinks are exact at all") {
  CAPTURE(seed);
  const setup s;
  for (const profile* p : {&s.calibrated, &s.uncalibrated}) {
    CAPTURE(p->calibrated());
    const auto frame = caches::encode(*p, s.source.view());
    frame_index index;
    REQUIRE(index.parse(frame) == status::ok);
    REQUIRE(index.header().passes == 4);
    CHECK(index.size() == frame.size());
    double last = 2;
    for (int level = 0; level < 4; ++level) {
      CAPTURE(level);
      caches::cache full = make_cache(s.shape, 300), cut = make_cache(s.shape, 300), raw_cut = make_cache(s.shape, 300);
      const page_status a = caches::decode(*p, frame, full.view(), {.level = level});
      CHECK(a.worst == status::ok);

      auto shorter = frame;
      const result<std::size_t> size = truncate(shorter, level);
      REQUIRE(size);
      CHECK(*size == index.size_at(level));
      shorter.resize(*size);
      const page_status b = caches::decode(*p, shorter, cut.view());
      CHECK(b.worst == status::ok);
      CHECK(full.bytes() == cut.bytes());

      // A tail that is cut without saying so gives the same pages, and is reported.
      const page_status c = caches::decode(*p, std::span(frame).first(*size), raw_cut.view());
      CHECK(c.worst == (level == 3 ? status::ok : status::degraded));
      CHECK(c.degraded == (level == 3 ? 0 : c.tiles));
      CHECK(full.bytes() == raw_cut.bytes());

      const double error = caches::relative_error(s.source.view(), full.view());
      CHECK(error < last * 0.5);
      last = error;
      for (plane which : caches::planes)
        for (int t = 0; t < 4; ++t)
          for (int d = 0; d < 64; ++d)
            CHECK(std::memcmp(full.view().at(which, 1, t, 2, d), s.source.view().at(which, 1, t, 2, d), 2) == 0);
    }
    auto shorter = frame;
    CHECK(truncate(shorter, 4).status() == status::level_not_present);
    CHECK(truncate(shorter, -1).status() == status::level_not_present);
    REQUIRE(truncate(shorter, 1));
    CHECK(*truncate(shorter, 3) == index.size_at(1));  // fewer are there: left as it is
    caches::cache back = make_cache(s.shape, 300);
    CHECK(caches::decode(*p, frame, back.view(), {.level = -1}).worst == status::level_not_present);
  }
}

TEST_CASE("codec: a frame may be made with fewer levels") {
  const setup s;
  for (const profile* p : {&s.calibrated, &s.uncalibrated}) {
    const auto all = caches::encode(*p, s.source.view());
    for (int levels = 1; levels <= 6; ++levels) {
      CAPTURE(levels);
      const auto frame = caches::encode(*p, s.source.view(), {.levels = levels});
      frame_index index;
      REQUIRE(index.parse(frame) == status::ok);
      CHECK(index.header().passes == std::min(levels, 4));
      caches::cache back = make_cache(s.shape, 300), same = make_cache(s.shape, 300);
      CHECK(caches::decode(*p, frame, back.view()).worst == status::ok);
      CHECK(caches::decode(*p, all, same.view(), {.level = levels - 1}).worst == status::ok);
      if (p->calibrated()) CHECK(caches::relative_error(same.view(), back.view()) < 1e-3);
    }
    std::vector<std::byte> out(1 << 20);
    encoder<> e(*p);
    CHECK(e.encode(s.source.view(), out, {.levels = 0}).status() == status::invalid_argument);
  }
}

TEST_CASE("codec: profiles of one to six passes") {
  for (int passes = 1; passes <= max_passes; ++passes) {
    CAPTURE(passes);
    const setup s(small_model(), 100, dtype::f16, 0, 0, passes);
    for (const profile* p : {&s.calibrated, &s.uncalibrated}) {
      using six = codec::standard::with_quantizer<embedded<5>>;
      const auto frame = caches::encode<six>(*p, s.source.view());
      frame_index index;
      REQUIRE(index.parse(frame) == status::ok);
      CHECK(index.header().passes == passes);
      caches::cache back = make_cache(s.shape, 100);
      double last = 10;
      for (int level = 0; level < passes; ++level) {
        CHECK(caches::decode<six>(*p, frame, back.view(), {.level = level}).worst == status::ok);
        const double error = caches::relative_error(s.source.view(), back.view());
        CHECK(error < last * 0.5);
        last = error;
      }
    }
  }
}

TEST_CASE("codec: lossless presets keep every bit pattern of every type") {
  CAPTURE(seed);
  for (dtype type : {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2, dtype::bytes})
    for (const std::int64_t tokens : {1, 17, 256, 300}) {
      CAPTURE(to_string(type));
      CAPTURE(tokens);
      const model_shape shape = model_shape::uniform(2, 2, 40);
      caches::cache noise = make_cache(shape, tokens, type);
      caches::fill_with_noise(noise.view(), seed + std::uint64_t(tokens));
      caches::cache smooth = make_cache(shape, tokens, type);
      caches::fill(smooth.view(), shape, seed);
      const profile p = profile::uncalibrated(shape);
      for (const caches::cache* source : {&noise, &smooth})
        for (const char* name : {"exact", "raw"}) {
          CAPTURE(name);
          codec::with_preset(name, [&]<class Codec>() {
            const auto frame = caches::encode<Codec>(p, source->view());
            REQUIRE(!frame.empty());
            caches::cache back = make_cache(shape, tokens, type, engine::vllm_nhd);
            CHECK(caches::decode<Codec>(p, frame, back.view()).worst == status::ok);
            CHECK(caches::elements(back.view()) == caches::elements(source->view()));
            // They can do no more: another type, another place.
            caches::cache other = make_cache(shape, tokens, type == dtype::f16 ? dtype::bf16 : dtype::f16);
            CHECK(caches::decode<Codec>(p, frame, other.view()).worst == status::unsupported_type);
            kv_view moved = back.view();
            moved.position = 5;
            CHECK(caches::decode<Codec>(p, frame, moved, {.position = 5}).worst == status::wrong_positions);
          });
        }
    }
}

TEST_CASE("codec: a lossless frame needs the model's shape, not the profile it was made with") {
  const setup s;
  const auto frame = caches::encode<codec::exact>(s.calibrated, s.source.view());
  caches::cache back = make_cache(s.shape, 300);
  CHECK(caches::decode<codec::exact>(s.uncalibrated, frame, back.view()).worst == status::ok);
  CHECK(caches::elements(back.view()) == caches::elements(s.source.view()));
  const profile other = profile::uncalibrated(model_shape::uniform(2, 4, 64));
  caches::cache wrong = make_cache(other.shape, 300);
  CHECK(caches::decode<codec::exact>(other, frame, wrong.view()).worst == status::wrong_shape);
}

TEST_CASE("codec: any engine's layout to any other's") {
  CAPTURE(seed);
  const model_shape shape = model_shape::uniform(2, 2, 64);
  caches::cache reference = make_cache(shape, 75, dtype::f16);
  caches::fill(reference.view(), shape, seed);
  const profile p = caches::make_profile(shape, {&reference.view(), 1});
  const auto frame = caches::encode(p, reference.view());
  REQUIRE(!frame.empty());
  caches::cache expected = make_cache(shape, 75, dtype::f16);
  REQUIRE(caches::decode(p, frame, expected.view()).worst == status::ok);
  const auto values = caches::elements(expected.view());

  for (engine how : caches::engines) {
    CAPTURE(int(how));
    caches::cache source = make_cache(shape, 75, dtype::f16, how, 0, 3);
    REQUIRE(validate(source.view()) == status::ok);
    caches::fill(source.view(), shape, seed);
    CHECK(caches::encode(p, source.view()) == frame);
    const auto untouched = source.bytes();
    caches::cache back = make_cache(shape, 75, dtype::f16, how, 0, 4);
    CHECK(caches::decode(p, frame, back.view()).worst == status::ok);
    CHECK(caches::elements(back.view()) == values);
    // What is outside the view's elements stays as it was.
    std::size_t written = 0;
    caches::for_each_element(back.view(), [&](plane, auto, auto, auto, auto, std::byte* at) {
      std::memset(at, int(caches::cache::untouched), 2);
      written += 2;
    });
    CHECK(std::size_t(std::count(back.bytes().begin(), back.bytes().end(), caches::cache::untouched)) ==
          back.bytes().size());
    CHECK(written == values.size());
  }
}

TEST_CASE("codec: into pages of another type") {
  const setup s;
  const auto frame = caches::encode(s.calibrated, s.source.view());
  caches::cache reference = make_cache(s.shape, 300, dtype::f32);
  REQUIRE(caches::decode(s.calibrated, frame, reference.view()).worst == status::ok);
  const auto exact = caches::floats(reference.view());
  for (dtype type : {dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2}) {
    CAPTURE(to_string(type));
    for (engine how : {engine::vllm_nhd, engine::llama_cpp}) {
      caches::cache back = make_cache(s.shape, 300, type, how);
      CHECK(caches::decode(s.calibrated, frame, back.view()).worst == status::ok);
      const auto got = caches::floats(back.view());
      REQUIRE(got.size() == exact.size());
      std::size_t wrong = 0;
      for (std::size_t i = 0; i < got.size(); ++i) {
        std::byte rounded[4];
        store_element(rounded, type, exact[i]);
        wrong += load_element(rounded, type) != got[i];
      }
      CHECK(wrong == 0);
    }
  }
  caches::cache opaque = make_cache(s.shape, 300, dtype::bytes);
  CHECK(caches::decode(s.calibrated, frame, opaque.view()).worst == status::unsupported_type);
  std::vector<std::byte> out(1 << 20);
  encoder<> e(s.calibrated);
  CHECK(e.encode(opaque.view(), out).status() == status::unsupported_type);
}

TEST_CASE("codec: from caches of every type") {
  for (dtype type : {dtype::f32, dtype::bf16, dtype::e4m3, dtype::e5m2}) {
    CAPTURE(to_string(type));
    const setup s(small_model(), 64, type);
    for (const profile* p : {&s.calibrated, &s.uncalibrated}) {
      const auto frame = caches::encode(*p, s.source.view());
      caches::cache back = make_cache(s.shape, 64, dtype::f32);
      CHECK(caches::decode(*p, frame, back.view()).worst == status::ok);
      CHECK(caches::relative_error(s.source.view(), back.view()) < 0.04);
      caches::cache same = make_cache(s.shape, 64, type);
      CHECK(caches::decode(*p, frame, same.view()).worst == status::ok);
      for (int t = 0; t < 4; ++t)
        CHECK(std::memcmp(same.view().at(plane::key, 0, t, 0, 0), s.source.view().at(plane::key, 0, t, 0, 0),
                          std::size_t(64 * size_of(type))) == 0);
    }
  }
}

TEST_CASE("codec: instruction sets agree on bytes decoded") {
  CAPTURE(seed);
  const setup s;
  const auto check = [&]<class Codec>() {
    for (const profile* p : {&s.calibrated, &s.uncalibrated})
      for (isa made : isas::all) {
        const auto frame = caches::encode<Codec>(*p, s.source.view(), {}, made);
        caches::cache first = make_cache(s.shape, 300);
        REQUIRE(caches::decode<Codec>(*p, frame, first.view(), {}, isa::portable).worst == status::ok);
        CHECK(caches::relative_error(s.source.view(), first.view()) < 0.15);
        for (isa used : isas::wide) {
          CAPTURE(to_string(made));
          CAPTURE(to_string(used));
          caches::cache other = make_cache(s.shape, 300);
          CHECK(caches::decode<Codec>(*p, frame, other.view(), {}, used).worst == status::ok);
          CHECK(caches::worst_ulps(first.view(), other.view()) <= 1);
        }
      }
  };
  check.operator()<codec::standard>();
  check.operator()<codec::fixed<4>>();
  check.operator()<codec::plain<4>>();
  check.operator()<codec::exact>();
}

TEST_CASE("codec: frames can go to other positions") {
  CAPTURE(seed);
  const rope kinds[] = {
      {},
      {.pairing = rope_pairing::interleaved},
      {.rotary_dims = 32, .base = 500000},
      {.scaling = rope_scaling::linear, .factor = 4},
      {.scaling = rope_scaling::ntk, .factor = 4},
      {.scaling = rope_scaling::yarn,
       .factor = 8,
       .low_freq = 1,
       .high_freq = 32,
       .original_context = 4096,
       .attention_factor = 1.2079},
      {.scaling = rope_scaling::yarn_untruncated,
       .factor = 8,
       .low_freq = 1,
       .high_freq = 32,
       .original_context = 4096,
       .attention_factor = 1.2079},
      {.scaling = rope_scaling::llama3,
       .base = 500000,
       .factor = 8,
       .low_freq = 1,
       .high_freq = 4,
       .original_context = 8192},
      {.pairing = rope_pairing::none},
  };
  for (const rope& r : kinds) {
    CAPTURE(int(r.pairing));
    CAPTURE(int(r.scaling));
    CAPTURE(r.rotary_dims);
    const model_shape shape = model_shape::uniform(1, 2, 64, r);
    caches::cache source = make_cache(shape, 40, dtype::f32, engine::dense, 0);
    caches::fill(source.view(), shape, seed);
    profile p = caches::make_profile(shape, {&source.view(), 1}, 0, 5, 4, 3);
    using fine = codec::standard::with_quantizer<embedded<4>>;
    const auto frame = caches::encode<fine>(p, source.view());
    std::vector<double> frequency(std::size_t(rotary_dims(r, 64)) / 2);
    rope_frequencies(r, 64, frequency);

    for (std::int64_t position : {std::int64_t{0}, std::int64_t{1}, std::int64_t{4097}, std::int64_t{1} << 20}) {
      CAPTURE(position);
      caches::cache expected = make_cache(shape, 40, dtype::f32, engine::dense, 0);
      for (std::size_t i = 0; i < expected.bytes().size(); ++i) expected.bytes()[i] = source.bytes()[i];
      for (std::int64_t t = 0; t < 40; ++t)
        for (int h = 0; h < 2; ++h) {
          auto* row = reinterpret_cast<float*>(expected.view().at(plane::key, 0, t, h, 0));
          rotate(row, r, frequency, t, rotation::inverse);
          rotate(row, r, frequency, position + t);
        }
      caches::cache moved = make_cache(shape, 40, dtype::f32, engine::vllm_hnd, position);
      const page_status done = caches::decode<fine>(p, frame, moved.view(), {.position = position});
      CHECK(done.worst == status::ok);
      CHECK(caches::relative_error(expected.view(), moved.view()) < 0.01);
      // Exact tokens: nothing but rounding.
      CHECK(caches::relative_error(expected.view().slice(0, 4), moved.view().slice(0, 4)) < 2e-6);
      // Nowhere near the view, and beyond all positions.
      CHECK(caches::decode<fine>(p, frame, moved.view(), {.position = position + 40}).worst == status::wrong_positions);
      CHECK(caches::decode<fine>(p, frame, moved.view(), {.position = INT64_MAX - 3}).worst ==
            status::invalid_argument);
    }
  }
}

TEST_CASE("codec: a rope shared by layers of two head sizes turns each by its own frequencies") {
  model_shape shape = model_shape::uniform(2, 2, 64);
  shape.layers[1].head_dim_k = shape.layers[1].head_dim_v = 128;
  caches::cache a(shape.layers[0], {0}, 50, dtype::f16), b(shape.layers[1], {1}, 50, dtype::f16);
  caches::fill(a.view(), shape, seed);
  caches::fill(b.view(), shape, seed + 1);
  const kv_view views[] = {a.view(), b.view()};
  const profile p = caches::make_profile(shape, views);
  const auto frame = caches::encode(p, views);
  caches::cache c(shape.layers[0], {0}, 50, dtype::f16), d(shape.layers[1], {1}, 50, dtype::f16);
  const kv_view back[] = {c.view(), d.view()};
  CHECK(decoder<>(p).decode(frame, back).worst == status::ok);
  CHECK(caches::relative_error(a.view(), c.view()) < 0.05);
  CHECK(caches::relative_error(b.view(), d.view()) < 0.05);
  // Rotated by the wrong frequencies the statistics of the profile would not fit, and the bytes would tell.
  const auto bytes_at_level = [&](const profile& q, const kv_view& v) {
    return caches::encode(q, v, {.levels = 2}).size();
  };
  const profile alone = caches::make_profile(shape, std::span(views).last(1));
  CHECK(double(bytes_at_level(alone, views[1])) < 1.02 * double(bytes_at_level(p, views[1])));
}
