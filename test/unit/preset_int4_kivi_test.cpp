// SPDX-License-Identifier: Apache-2.0
// int4 and KIVI on the KV cache of a real model, against their arithmetic written out here a second time.
#include <sluice/codec/preset/int4.hpp>
#include <sluice/codec/preset/kivi.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <safetensors.hpp>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using codec::int4;
using kivi2 = codec::kivi<2>;
using uneven = codec::kivi<4, 48, 10>;  // groups that neither heads nor tokens are a multiple of

constexpr int tokens = 256, heads = 3, dim = 64, layers = 30;

// The capture in test/data, copied into a cache.
struct capture {
  model_shape shape = model_shape::uniform(layers, heads, dim);
  profile plain = profile::uncalibrated(shape);
  caches::cache source = caches::make_cache(shape, tokens);

  capture() {
    safetensors::file file;
    REQUIRE_FALSE(bool(file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")));
    for (int l = 0; l < layers; ++l)
      for (plane which : caches::planes) {
        const safetensors::tensor* t = file.find((which == plane::key ? "k." : "v.") + std::to_string(l));
        REQUIRE(t);
        REQUIRE(t->shape == std::vector<std::int64_t>{tokens, heads, dim});
        const std::byte* from = file.bytes(*t).data();
        for (int i = 0; i < tokens; ++i)
          std::memcpy(at(source.view(), l, which, i, 0, 0), from + i * heads * dim * 2, heads * dim * 2);
      }
  }

  static std::byte* at(const kv_view& v, int layer, plane which, int token, int head, int d) {
    const plane_view& p = v[which];
    return v.layer_base(p, layer) + v.token_offset(p, token) + head * p.head_stride + d * p.element_stride;
  }
  static std::uint16_t bits(const kv_view& v, int layer, plane which, int token, int head, int d) {
    std::uint16_t x;
    std::memcpy(&x, at(v, layer, which, token, head, d), 2);
    return x;
  }
  static float value(const kv_view& v, int layer, plane which, int token, int head, int d) {
    return to_float(f16{bits(v, layer, which, token, head, d)});
  }
};

// What came back must be what `expect(values of a group)` says, bit for bit, and within half of its step.
struct expected {
  std::vector<float> x;
  float step;
};

expected symmetric(const std::vector<float>& in) {
  float most = 0;
  for (float x : in) most = std::max(most, std::fabs(x));
  expected e{in, to_float(from_float<f16>(most / 7))};
  for (float& x : e.x) x = e.step > 0 ? std::clamp(std::floor(x * (1 / e.step) + 8.5f) - 8, -7.f, 7.f) * e.step : 0;
  return e;
}

expected by_range(const std::vector<float>& in, int levels) {
  const float low = *std::min_element(in.begin(), in.end()), high = *std::max_element(in.begin(), in.end());
  f16 up = from_float<f16>((high - low) / float(levels));  // f16 elements: the lowest is its own zero
  if (to_float(up) < (high - low) / float(levels)) ++up.bits;
  expected e{in, to_float(up)};
  for (float& x : e.x)
    x = e.step > 0 ? std::min(std::nearbyint((x - low) * (1 / e.step)), float(levels)) * e.step + low : low;
  return e;
}

struct counts {
  std::size_t values = 0, wrong = 0, far = 0;
};

// Compares one group: `place(i)` gives token, head and dimension of its i-th value.
template <class Place, class Rule>
void compare(counts& c, const kv_view& in, const kv_view& out, int l, plane which, int n, Place place, Rule rule) {
  std::vector<float> x(std::size_t(n), 0.f);
  for (int i = 0; i < n; ++i) {
    const auto [t, h, d] = place(i);
    x[std::size_t(i)] = capture::value(in, l, which, t, h, d);
  }
  const expected e = rule(x);
  for (int i = 0; i < n; ++i) {
    const auto [t, h, d] = place(i);
    const float got = capture::value(out, l, which, t, h, d), was = x[std::size_t(i)];
    ++c.values;
    c.wrong += capture::bits(out, l, which, t, h, d) != from_float<f16>(e.x[std::size_t(i)]).bits;
    c.far += std::fabs(got - was) > e.step * 0.5005f + std::fabs(was) * 0.0005f;
  }
}

struct place_of_value {
  int token, head, d;
};

counts check_int4(const kv_view& in, const kv_view& out) {
  counts c;
  for (int l = 0; l < layers; ++l)
    for (plane which : caches::planes)
      for (int t = 0; t < tokens; ++t)
        for (int h = 0; h < heads; ++h)
          compare(
              c, in, out, l, which, dim,
              [&](int i) {
                return place_of_value{t, h, i};
              },
              symmetric);
  return c;
}

counts check_kivi(const kv_view& in, const kv_view& out, int bits, int group, int residual) {
  counts c;
  const int coded = tokens - residual, levels = (1 << bits) - 1;
  const auto rule = [&](const std::vector<float>& x) { return by_range(x, levels); };
  for (int l = 0; l < layers; ++l)
    for (int h = 0; h < heads; ++h) {
      for (int d = 0; d < dim; ++d)
        for (int t = 0; t < coded; t += group)
          compare(
              c, in, out, l, plane::key, std::min(group, coded - t),
              [&](int i) {
                return place_of_value{t + i, h, d};
              },
              rule);
      for (int t = 0; t < coded; ++t)
        for (int d = 0; d < dim; d += group)
          compare(
              c, in, out, l, plane::value, std::min(group, dim - d),
              [&](int i) {
                return place_of_value{t, h, d + i};
              },
              rule);
    }
  for (int l = 0; l < layers; ++l)
    for (plane which : caches::planes)
      for (int t = coded; t < tokens; ++t)
        for (int h = 0; h < heads; ++h)
          for (int d = 0; d < dim; ++d) {
            ++c.values;
            c.wrong += capture::bits(in, l, which, t, h, d) != capture::bits(out, l, which, t, h, d);
          }
  return c;
}

template <class Codec>
std::vector<std::byte> encoded(const capture& c) {
  auto frame = caches::encode<Codec>(c.plain, c.source.view());
  REQUIRE(!frame.empty());
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  CHECK(index.header().codec == Codec::id);
  CHECK(index.header().fingerprint == 0);
  return frame;
}

template <class Codec, class Check>
void round_trip(double bits_per_value, Check check) {
  const capture c;
  const auto frame = encoded<Codec>(c);
  constexpr std::size_t values = 2 * std::size_t(layers * tokens * heads * dim);
  CHECK(8 * double(frame.size()) / double(values) == doctest::Approx(bits_per_value).epsilon(0.03));
  caches::cache back = caches::make_cache(c.shape, tokens);
  REQUIRE(caches::decode<Codec>(c.plain, frame, back.view()).worst == status::ok);
  const counts n = check(c.source.view(), back.view());
  CHECK(n.values == values);
  CHECK(n.wrong == 0);
  CHECK(n.far == 0);
}

// Damage in one tile: it is named, and every other tile comes back as if nothing had happened.
template <class Codec>
void damage(std::uint64_t seed) {
  const capture c;
  const auto frame = encoded<Codec>(c);
  caches::cache sound = caches::make_cache(c.shape, tokens), back = caches::make_cache(c.shape, tokens);
  REQUIRE(caches::decode<Codec>(c.plain, frame, sound.view()).worst == status::ok);
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  std::mt19937_64 random(seed);
  CAPTURE(seed);
  // A profile without calibration has a tile for every head.
  const auto same_but = [&](const tile_key& key) {
    std::size_t wrong = 0;
    for (int l = 0; l < layers; ++l)
      for (plane p : caches::planes)
        for (int h = 0; h < heads; ++h)
          if (l != key.layer || p != key.plane || h != key.group)
            for (int t = 0; t < tokens; ++t)
              wrong += std::memcmp(capture::at(sound.view(), l, p, t, h, 0), capture::at(back.view(), l, p, t, h, 0),
                                   dim * 2) != 0;
    return wrong;
  };
  for (int round = 0; round < 40; ++round) {
    const tile_key key{int(random() % layers), random() % 2 ? plane::key : plane::value, 0, int(random() % heads)};
    const byte_range r = index.range(index.ordinal(0, key));
    auto bad = frame;
    // Every second time behind the checksums, and there mostly in the heads, where the sizes are.
    const bool forged = round % 2;
    const std::size_t reach = forged && round % 4 == 1 ? 32 : std::size_t(r.size());
    bad[std::size_t(r.begin) + random() % reach] ^= std::byte(1 + random() % 255);
    if (forged) frames::fix_checksums(bad);
    back.wipe();
    const page_status s = caches::decode<Codec>(c.plain, bad, back.view());
    CAPTURE(round);
    if (forged)
      CHECK((s.worst == status::ok || s.worst == status::corrupt_tile || s.worst == status::absent));
    else
      CHECK((s.worst == status::corrupt_tile && s.damaged == 1));
    CHECK(same_but(key) == 0);
  }

  // What the quantiser's section may not say: its bits, and steps that are no numbers.
  const tile_key key{7, plane::value, 0, 1};
  const byte_range r = index.range(index.ordinal(0, key));
  tile_envelope t;
  REQUIRE(parse_tile({reinterpret_cast<const std::uint8_t*>(frame.data()) + r.begin, std::size_t(r.size())}, tokens,
                     dim * 2, t) == status::ok);
  const auto section_at =
      std::size_t(reinterpret_cast<const std::byte*>(t.base[section::quantizer].data()) - frame.data());
  const auto refused = [&](std::size_t offset, std::uint16_t value, std::size_t bytes) {
    auto bad = frame;
    std::memcpy(bad.data() + section_at + offset, &value, bytes);
    frames::fix_checksums(bad);
    back.wipe();
    const page_status s = caches::decode<Codec>(c.plain, bad, back.view());
    CHECK(s.worst == status::corrupt_tile);
    CHECK(s.damaged == 1);
    CHECK(same_but(key) == 0);
  };
  for (int bits : {0, 1, 3, 8, 9, 255}) refused(0, std::uint16_t(bits), 1);  // sizes no longer fit, or no such width
  refused(1, 0x7c00, 2);
  refused(1, 0x7e01, 2);
}

}  // namespace

TEST_CASE("int4 and kivi: what stands in the frame") {
  static_assert(int4::id.method == stage_id::of(0, 256 | 1 << 13));
  static_assert(int4::id.transform == stage_id::of(0));
  static_assert(int4::id.quantizer == stage_id::of(3, 0));
  static_assert(int4::id.bit_widths == stage_id::of(1, 4));
  static_assert(int4::id.entropy == stage_id::of(2));
  static_assert(kivi2::id.method == stage_id::of(0, 256 | 129 << 13));
  static_assert(kivi2::id.quantizer == stage_id::of(2, 0 | 1 << 1 | 32 << 2 | 32 << 13));
  static_assert(kivi2::id.bit_widths == stage_id::of(1, 2));
  static_assert(kivi2::domain == value_domain::rotated && kivi2::span == 0);
  // Widths and windows are the encoder's choice; groups are the decoder's business too.
  static_assert(kivi2::id.decodes(codec::kivi<4>::id) && kivi2::id.decodes(codec::kivi<2, 32, 64>::id));
  static_assert(!(kivi2::id == codec::kivi<2, 32, 64>::id) && !kivi2::id.decodes(codec::kivi<2, 64>::id));
  static_assert(!int4::id.decodes(kivi2::id));
  const profile p = profile::uncalibrated(model_shape::uniform(1, 1, 64));
  CHECK_FALSE(int4::uses(p));
  CHECK_FALSE(kivi2::uses(p));
  CHECK(kivi2::keeps_exact(p, 872, 1000));
  CHECK_FALSE(kivi2::keeps_exact(p, 871, 1000));
  CHECK_FALSE(kivi2::keeps_exact(p, 0, 1000));
  CHECK_FALSE(int4::keeps_exact(p, 999, 1000));
}

TEST_CASE("int4: a real cache, bit for bit") { round_trip<int4>(4.25, check_int4); }

TEST_CASE("kivi: a real cache, bit for bit, its window untouched") {
  round_trip<kivi2>(0.5 * 3 + 0.5 * 16, [](auto& in, auto& out) { return check_kivi(in, out, 2, 32, 128); });
}

TEST_CASE("kivi: groups that do not divide heads and tokens") {
  const double coded = 4 + 0.5 * 32 * (6 / 246. + 2 / 64.);
  round_trip<uneven>((246 * coded + 10 * 16) / 256, [](auto& in, auto& out) { return check_kivi(in, out, 4, 48, 10); });
}

TEST_CASE("int4 and kivi: damaged tiles") {
  damage<int4>(11);
  damage<kivi2>(12);
}

TEST_CASE("kivi: a sequence shorter than its window is kept as it is") {
  const model_shape shape = model_shape::uniform(2, 2, 32);
  const profile p = profile::uncalibrated(shape);
  caches::cache source = caches::make_cache(shape, 100), back = caches::make_cache(shape, 100);
  caches::fill(source.view(), shape, 5);
  const auto frame = caches::encode<kivi2>(p, source.view());
  REQUIRE(caches::decode<kivi2>(p, frame, back.view()).worst == status::ok);
  CHECK(source.bytes() == back.bytes());
}

TEST_CASE("int4 and kivi: values beyond the scales' type are kept as they are") {
  const model_shape shape = model_shape::uniform(1, 1, 64);
  const profile p = profile::uncalibrated(shape);
  const auto keeps = [&]<class Codec>() {
    caches::cache source = caches::make_cache(shape, 20, dtype::f32), back = caches::make_cache(shape, 20, dtype::f32);
    caches::fill(source.view(), shape, 6);
    const float huge = 1e9f, none = std::numeric_limits<float>::quiet_NaN();
    std::memcpy(capture::at(source.view(), 0, plane::key, 3, 0, 5), &huge, 4);
    std::memcpy(capture::at(source.view(), 0, plane::value, 4, 0, 6), &none, 4);
    const auto frame = caches::encode<Codec>(p, source.view());
    REQUIRE(caches::decode<Codec>(p, frame, back.view()).worst == status::ok);
    const auto row = [&](const caches::cache& c, plane which, int t) {
      return capture::at(c.view(), 0, which, t, 0, 0);
    };
    CHECK(std::memcmp(row(source, plane::key, 3), row(back, plane::key, 3), 64 * 4) == 0);
    CHECK(std::memcmp(row(source, plane::value, 4), row(back, plane::value, 4), 64 * 4) == 0);
    CHECK(std::memcmp(row(source, plane::value, 5), row(back, plane::value, 5), 64 * 4) != 0);
  };
  keeps.operator()<int4>();
  keeps.operator()<codec::kivi<2, 32, 0>>();
}
