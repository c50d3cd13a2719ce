// SPDX-License-Identifier: Apache-2.0
// The codec on the KV cache of a real model.
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/isas.hpp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <safetensors.hpp>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using caches::engine;

// The capture in test/data, all of its tokens in memory as [tokens, heads, head_dim] for each layer.
struct capture {
  safetensors::file file;
  model_shape shape;
  std::vector<std::byte*> k, v;
  kv_view view;

  capture() {
    REQUIRE_FALSE(bool(file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")));
    std::int64_t tokens = 0;
    for (int l = 0; const safetensors::tensor* t = file.find("k." + std::to_string(l)); ++l) {
      tokens = t->shape.at(0);
      rope r;
      r.base = std::strtod(file.meta().at("rope_base." + std::to_string(l)).c_str(), nullptr);
      if (shape.ropes.empty()) shape.ropes.push_back(r);
      REQUIRE(shape.ropes[0] == r);
      shape.layers.push_back(
          {std::int32_t(t->shape.at(1)), std::int32_t(t->shape.at(2)), std::int32_t(t->shape.at(2)), 0, 0});
      k.push_back(file.bytes(*t).data());
      v.push_back(file.bytes(*file.find("v." + std::to_string(l))).data());
    }
    REQUIRE(shape.layers.size() == 30);
    view.num_layers = shape.num_layers();
    view.num_kv_heads = shape.layers[0].num_kv_heads;
    view.tokens = view.capacity = tokens;
    for (plane_view* p : {&view.k, &view.v}) {
      p->head_dim = shape.layers[0].head_dim_k;
      p->element_stride = 2;
      p->head_stride = 2 * p->head_dim;
      p->token_stride = p->head_stride * view.num_kv_heads;
    }
    view.k.layer_bases = k.data();
    view.v.layer_bases = v.data();
    REQUIRE(validate(view) == status::ok);
  }

  std::size_t raw_bytes() const { return 2 * 2 * std::size_t(view.tokens) * 192 * shape.layers.size(); }
};

// The calibrated profile beside it, where there is one.
std::optional<profile> calibrated() {
  result<profile> p = profile::load(SLUICE_TEST_DATA "/smollm2.profile");
  if (!p) return std::nullopt;
  return std::move(*p);
}

}  // namespace

TEST_CASE("capture: levels of a real cache, calibrated and not") {
  const capture c;
  const profile plain = profile::uncalibrated(c.shape);
  const std::optional<profile> tuned = calibrated();
  const struct {
    const profile* p;
    double most_bits[4];   // a value
    double most_error[4];  // relative
  } cases[] = {{&plain, {1.1, 2.6, 4.2, 5.8}, {0.45, 0.17, 0.06, 0.02}},
               {tuned ? &*tuned : nullptr, {0.95, 1.9, 3.3, 4.8}, {0.45, 0.25, 0.12, 0.05}}};
  for (const auto& e : cases) {
    if (!e.p) continue;
    CAPTURE(e.p->calibrated());
    REQUIRE(e.p->shape == c.shape);
    const auto frame = caches::encode(*e.p, c.view);
    REQUIRE(!frame.empty());
    frame_index index;
    REQUIRE(index.parse(frame) == status::ok);
    for (int level = 0; level < 4; ++level) {
      CAPTURE(level);
      const double bits = double(index.size_at(level)) * 16 / double(c.raw_bytes());
      caches::cache pages = caches::make_cache(c.shape, c.view.tokens, dtype::f16, engine::vllm_nhd);
      const page_status done = caches::decode(*e.p, frame, pages.view(), {.level = level});
      CHECK(done.worst == status::ok);
      const double error = caches::relative_error(c.view, pages.view());
      std::printf("%s level %d: %.3f bits a value, relative error %.4f\n",
                  e.p->calibrated() ? "calibrated" : "uncalibrated", level, bits, error);
      CHECK(bits < e.most_bits[level]);
      CHECK(error < e.most_error[level]);
      CHECK(caches::elements(c.view.slice(0, e.p->sinks)) == caches::elements(pages.view().slice(0, e.p->sinks)));

      auto shorter = frame;
      shorter.resize(*truncate(shorter, level));
      caches::cache same = caches::make_cache(c.shape, c.view.tokens, dtype::f16, engine::vllm_nhd);
      CHECK(caches::decode(*e.p, shorter, same.view()).worst == status::ok);
      CHECK(pages.bytes() == same.bytes());
    }
  }
}

TEST_CASE("capture: levels of a real cache as it stands, keys under their rotation") {
  using as_it_stands = codec::standard::with_transform<identity_transform>;
  const capture c;
  for (const profile& p : {profile::uncalibrated(c.shape), calibrated().value_or(profile::uncalibrated(c.shape))}) {
    CAPTURE(p.calibrated());
    auto frame = caches::encode<as_it_stands>(p, c.view);
    REQUIRE(!frame.empty());
    frame_index index;
    REQUIRE(index.parse(frame) == status::ok);
    CHECK(index.header().codec == as_it_stands::id);
    const double most_error[] = {0.75, 0.3, 0.1, 0.035}, most_bits[] = {0.9, 2.3, 3.8, 5.5};
    for (int level = 3; level >= 0; --level) {
      CAPTURE(level);
      caches::cache pages = caches::make_cache(c.shape, c.view.tokens, dtype::f16, engine::vllm_nhd);
      CHECK(caches::decode<as_it_stands>(p, frame, pages.view(), {.level = level}).worst == status::ok);
      const double error = caches::relative_error(c.view, pages.view()),
                   bits = double(index.size_at(level)) * 16 / double(c.raw_bytes());
      std::printf("as it stands, level %d: %.3f bits a value, relative error %.4f\n", level, bits, error);
      CHECK(error < most_error[level]);
      CHECK(bits < most_bits[level]);
      CHECK(caches::elements(c.view.slice(0, p.sinks)) == caches::elements(pages.view().slice(0, p.sinks)));
      frame.resize(*truncate(frame, level));
      caches::cache same = caches::make_cache(c.shape, c.view.tokens, dtype::f16, engine::vllm_nhd);
      CHECK(caches::decode<as_it_stands>(p, frame, same.view()).worst == status::ok);
      CHECK(pages.bytes() == same.bytes());
    }
    caches::cache moved = caches::make_cache(c.shape, c.view.tokens, dtype::f16, engine::dense, 500);
    CHECK(caches::decode<as_it_stands>(p, frame, moved.view(), {.position = 500}).worst == status::wrong_positions);
    CHECK(caches::decode(p, frame, moved.view(), {.position = 500}).worst == status::wrong_codec);
  }
}

TEST_CASE("capture: chunks of a sequence decode alone and anywhere") {
  const capture c;
  std::optional<profile> p = calibrated();
  if (!p) p = profile::uncalibrated(c.shape);
  encoder<> e(*p);
  decoder<> d(*p);
  caches::cache pages = caches::make_cache(c.shape, c.view.tokens, dtype::f16, engine::llama_cpp);
  std::vector<std::byte> out(e.max_size(c.view));
  for (const auto& [begin, end] : {std::pair<int, int>{192, 256}, {0, 100}, {100, 192}}) {
    const auto n = e.encode(c.view.slice(begin, end), out);
    REQUIRE(n);
    CHECK(d.decode(std::span(out).first(*n), pages.view()).worst == status::ok);
  }
  CHECK(caches::relative_error(c.view, pages.view()) < 0.05);

  // Moved by 1,000 positions and back again: K is turned twice more and rounded to f16 once more.
  const auto n = e.encode(c.view.slice(64, 128), out);
  REQUIRE(n);
  caches::cache here = caches::make_cache(c.shape, 64, dtype::f16, engine::dense, 64);
  caches::cache there = caches::make_cache(c.shape, 64, dtype::f16, engine::dense, 1064);
  CHECK(d.decode(std::span(out).first(*n), here.view()).worst == status::ok);
  CHECK(d.decode(std::span(out).first(*n), there.view(), {.position = 1064}).worst == status::ok);
  std::vector<double> frequency(32);
  rope_frequencies(c.shape.ropes[0], 64, frequency);
  const auto moved = caches::floats(there.view()), kept = caches::floats(here.view());
  double error = 0, power = 0;
  for (std::size_t row = 0; row < moved.size() / 2 / 64; ++row) {
    std::vector<float> x(moved.begin() + std::ptrdiff_t(row * 64), moved.begin() + std::ptrdiff_t(row * 64 + 64));
    rotate(x.data(), c.shape.ropes[0], frequency, 1000, rotation::inverse);
    for (std::size_t i = 0; i < 64; ++i) {
      const double d1 = double(x[i]) - double(kept[row * 64 + i]);
      error += d1 * d1;
      power += double(kept[row * 64 + i]) * double(kept[row * 64 + i]);
    }
  }
  CHECK(std::sqrt(error / power) < 5e-4);
}

TEST_CASE("capture: lossless on a real cache, as f16, bf16 and 8-bit floats") {
  const capture c;
  const profile p = profile::uncalibrated(c.shape);
  for (dtype type : {dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2, dtype::f32}) {
    CAPTURE(to_string(type));
    caches::cache source = caches::make_cache(c.shape, c.view.tokens, type);
    caches::for_each_element(source.view(), [&](plane which, int l, std::int64_t t, int h, int d, std::byte* at) {
      store_element(at, type, load_element(c.view.at(which, l, t, h, d), dtype::f16));
    });
    for (const char* name : {"exact", "raw"})
      codec::with_preset(name, [&]<class Codec>() {
        const auto frame = caches::encode<Codec>(p, source.view());
        REQUIRE(!frame.empty());
        caches::cache back = caches::make_cache(c.shape, c.view.tokens, type, engine::vllm_hnd);
        CHECK(caches::decode<Codec>(p, frame, back.view()).worst == status::ok);
        CHECK(caches::elements(back.view()) == caches::elements(source.view()));
        const double raw = double(c.raw_bytes()) / 2 * size_of(type);
        std::printf("%s %s: %.4f of the bytes\n", name, to_string(type), double(frame.size()) / raw);
        CHECK(double(frame.size()) < raw * (std::string(name) == "raw" ? 1.01 : 0.95));
      });
  }
}

TEST_CASE("capture: instruction sets agree") {
  const capture c;
  std::optional<profile> tuned = calibrated();
  const profile p = tuned ? *tuned : profile::uncalibrated(c.shape);
  for (isa made : {isa::portable, isa::best}) {
    const auto frame = caches::encode(p, c.view.slice(0, 64), {}, made);
    caches::cache first = caches::make_cache(c.shape, 64);
    REQUIRE(caches::decode(p, frame, first.view(), {}, isa::portable).worst == status::ok);
    for (isa used : isas::wide) {
      caches::cache other = caches::make_cache(c.shape, 64);
      CHECK(caches::decode(p, frame, other.view(), {}, used).worst == status::ok);
      CHECK(caches::worst_ulps(first.view(), other.view()) <= 1);
    }
  }
}

TEST_CASE("capture: a hybrid model's cache: types by layer, layers that keep nothing, sliding windows") {
  const capture c;
  const std::optional<profile> tuned = calibrated();
  profile p = tuned ? *tuned : profile::uncalibrated(c.shape);
  const dtype types[] = {dtype::f16, dtype::bf16, dtype::f32, dtype::e4m3};
  const std::int64_t tokens = c.view.tokens, window = 64, chunk = 100;
  std::vector<caches::layer_kind> kept, shown;
  for (std::size_t l = 0; l < 30; ++l) {
    if (l == 0 || l == 14 || l == 29) p.shape.layers[l] = {}, p.planes[2 * l] = p.planes[2 * l + 1] = {};
    if (l % 2 && l != 29) p.shape.layers[l].window = std::int32_t(window);
    shown.push_back({types[l % 4], types[l / 2 % 4], 0, tokens});
    kept.push_back(shown.back());
    if (p.shape.layers[l].window) kept.back().position = tokens - window + 1, kept.back().tokens = window - 1;
  }
  REQUIRE(validate(p) == status::ok);
  const caches::mixed_cache source(p.shape, kept);
  for (const kv_view& v : source.views())
    caches::for_each_element(v, [&](plane which, int, std::int64_t t, int h, int d, std::byte* at) {
      store_element(at, v[which].type, load_element(c.view.at(which, v.layer_id(0), v.position + t, h, d), dtype::f16));
    });

  for (const bool exact : {true, false})
    for (const bool wide : {false, true}) {
      CAPTURE(exact);
      CAPTURE(wide);
      const caches::mixed_cache back(p.shape, wide ? shown : kept, 5);
      std::uint32_t outside = 0;
      for (std::int64_t at = 0; at < tokens; at += chunk) {
        const auto part = source.between(at, std::min(at + chunk, tokens));
        const auto frame = exact ? caches::encode<codec::exact>(p, part) : caches::encode(p, part);
        const page_status done =
            exact ? caches::decode<codec::exact>(p, frame, back.views()) : caches::decode(p, frame, back.views());
        CHECK(done.worst == status::ok);
        CHECK(done.damaged == 0);
        outside += done.outside;
      }
      CHECK((outside > 0) == wide);
      for (std::size_t i = 0; i < source.views().size(); ++i) {
        const kv_view& from = source.views()[i];
        const kv_view to = back.views()[i].slice(back.views()[i].tokens - from.tokens, back.views()[i].tokens);
        CAPTURE(from.layer_id(0));
        if (exact)
          CHECK(caches::elements(from) == caches::elements(to));
        else
          CHECK(caches::relative_error(from, to) < 0.1);
      }
    }
}
