// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/instances.hpp>
#include <sluice/format/frame.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/rival_model.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

/// What every published method with a section of its own must do.
namespace rivals {

/// What a real cache comes to.
struct outcome {
  double bits = 0, error = 0;  ///< of a value; relative to its root mean square
};

/// A real cache there and back: exact tokens as they were, a part as with all of it. `name` is for the log.
template <class Codec>
outcome round_trip(const profile& p, const char* name) {
  const capture& c = known();
  const auto frame = caches::encode<Codec>(p, c.view);
  REQUIRE(!frame.empty());
  caches::cache back = caches::make_cache(c.shape, 256, dtype::f16, caches::engine::vllm_nhd);
  REQUIRE(caches::decode<Codec>(p, frame, back.view()).worst == status::ok);
  int exact = 0;
  for (std::int64_t t = 0; t < 256; ++t) {
    if (!Codec::keeps_exact(p, t, 256)) continue;
    ++exact;
    CHECK(caches::elements(back.view().slice(t, t + 1)) == caches::elements(c.view.slice(t, t + 1)));
  }
  CHECK(exact < 256);
  caches::cache part = caches::make_cache(c.shape, 37, dtype::f16, caches::engine::dense, 45);
  REQUIRE(caches::decode<Codec>(p, frame, part.view()).worst == status::ok);
  CHECK(caches::elements(part.view()) == caches::elements(back.view().slice(45, 82)));
  const outcome o{8 * double(frame.size()) / (2.0 * 256 * 192 * 30), caches::relative_error(c.view, back.view())};
  std::printf("%s: %.3f bits a value with %d exact tokens of 256, relative error %.4f\n", name, o.bits, exact, o.error);
  return o;
}

/// Profiles without the section, or with another one, are refused by name; the file form keeps it.
template <class Codec>
void refusals(const profile& p, const profile& without) {
  const capture& c = known();
  constexpr auto stage = profile_stage::entropy;
  std::vector<std::byte> out(1 << 22);
  const kv_view few = c.view.slice(0, 20);
  CHECK(encoder<Codec>(without).encode(few, out).status() == status::missing_section);
  const auto frame = caches::encode<Codec>(p, few);
  REQUIRE(!frame.empty());
  caches::cache back = caches::make_cache(c.shape, 20);
  CHECK(caches::decode<Codec>(without, frame, back.view()).worst == status::missing_section);
  CHECK(caches::decode<codec::standard>(p, frame, back.view()).worst == status::wrong_codec);
  CHECK(caches::decode<Codec>(p, frame, back.view()).worst == status::ok);
  const auto again = profile::parse(p.serialize());
  REQUIRE(again);
  CHECK(caches::decode<Codec>(*again, frame, back.view()).worst == status::ok);
  CHECK(p.fingerprint() == without.fingerprint());
  profile other = p;
  profile_section changed = *p.find(stage, Codec::section_id);
  changed.bytes.push_back(std::byte{1});
  other.set_section(changed);
  CHECK(caches::decode<Codec>(other, frame, back.view()).worst != status::ok);
}

/// Sections are untrusted: encoder and decoder serve alike or refuse alike, and what is decoded are numbers.
template <class Codec>
void hostile_sections(const profile& good, unsigned seed, int rounds) {
  MESSAGE("seed ", seed);
  caches::cache source = caches::make_cache(good.shape, 20);
  caches::fill(source.view(), good.shape, 3);
  std::vector<std::byte> out(1 << 20);
  REQUIRE(encoder<Codec>(good).encode(source.view(), out));
  std::mt19937 random(seed);
  int served = 0, refused = 0;
  for (int i = 0; i < rounds; ++i) {
    profile p = good;
    profile_section s = *p.find(profile_stage::entropy, Codec::section_id);
    if (i % 5 == 0) s.bytes.resize(random() % s.bytes.size());
    for (int n = 1 + int(random() % 3); n > 0 && !s.bytes.empty(); --n) {
      const std::size_t front = i % 2 ? s.bytes.size() : std::min<std::size_t>(s.bytes.size(), 24);
      s.bytes[random() % front] = std::byte(random());
    }
    p.set_section(s);
    const auto n = encoder<Codec>(p).encode(source.view(), out);
    caches::cache back = caches::make_cache(good.shape, 20);
    const status d =
        caches::decode<Codec>(p, n ? std::vector<std::byte>(out.begin(), out.begin() + std::ptrdiff_t(*n)) : out,
                              back.view())
            .worst;
    if (n) {
      ++served;
      CHECK(d == status::ok);
      for (const float x : caches::floats(back.view())) CHECK(std::isfinite(x));
    } else {
      ++refused;
      CHECK((n.status() == status::corrupt_profile || n.status() == status::missing_section));
      CHECK(d == n.status());
    }
  }
  CHECK(served > 0);
  CHECK(refused > 0);
}

/// Damage is named, stays in its tile, and never gives what is no number.
template <class Codec>
void damage(const profile& p, unsigned seed, int rounds) {
  MESSAGE("seed ", seed);
  const capture& c = known();
  const kv_view source = c.view.slice(0, 160);
  const auto frame = caches::encode<Codec>(p, source);
  caches::cache whole = caches::make_cache(c.shape, 160);
  REQUIRE(caches::decode<Codec>(p, frame, whole.view()).worst == status::ok);
  const auto a = caches::floats(whole.view());
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  decoder<Codec> d(p);
  std::mt19937 random(seed);
  int caught = 0;
  for (int i = 0; i < rounds; ++i) {
    const byte_range r = index.range(random() % index.tiles_per_pass());
    auto damaged = frame;
    damaged[r.begin + random() % r.size()] ^= std::byte(1 + random() % 255);
    caches::cache back = caches::make_cache(c.shape, 160);
    const page_status first = d.decode(damaged, back.view());
    CHECK(first.worst == status::corrupt_tile);
    CHECK(first.damaged == 1);
    frames::fix_checksums(damaged);  // what the checksum would have caught
    const page_status second = d.decode(damaged, back.view());
    CHECK(second.damaged <= 1);
    caught += second.damaged == 1;
    const auto b = caches::floats(back.view());
    std::size_t differs = 0;
    for (std::size_t k = 0; k < a.size(); ++k) differs += !(a[k] == b[k]);
    CHECK(differs <= 160 * 192);
  }
  std::printf("%d of %d changes were caught behind the checksum\n", caught, rounds);
}

/// What is no number, or beyond what the method can say, is kept as it is.
template <class Codec>
void outliers(const profile& p) {
  const capture& c = known();
  caches::cache source = caches::make_cache(c.shape, 200, dtype::f32),
                back = caches::make_cache(c.shape, 200, dtype::f32);
  for (const plane which : caches::planes)
    for (int l = 0; l < 30; ++l)
      for (std::int64_t t = 0; t < 200; ++t)
        for (int h = 0; h < 3; ++h)
          for (int d = 0; d < 64; ++d)
            caches::set(source.view(), which, l, t, h, d, load_element(c.view.at(which, l, t, h, d), dtype::f16));
  caches::set(source.view(), plane::key, 3, 21, 1, 5, 1e30f);
  caches::set(source.view(), plane::value, 4, 22, 2, 6, -3e9f);
  caches::set(source.view(), plane::value, 7, 23, 0, 7, std::nanf(""));
  const auto frame = caches::encode<Codec>(p, source.view());
  REQUIRE(caches::decode<Codec>(p, frame, back.view()).worst == status::ok);
  CHECK(load_element(back.view().at(plane::key, 3, 21, 1, 5), dtype::f32) == 1e30f);
  CHECK(load_element(back.view().at(plane::value, 4, 22, 2, 6), dtype::f32) == -3e9f);
  CHECK(std::isnan(load_element(back.view().at(plane::value, 7, 23, 0, 7), dtype::f32)));
  CHECK(load_element(back.view().at(plane::value, 7, 24, 0, 7), dtype::f32) ==
        doctest::Approx(load_element(source.view().at(plane::value, 7, 24, 0, 7), dtype::f32)).epsilon(1).scale(1));
}

/// Keys are coded without their rotation: a frame decodes at another position to what the rotation there makes of it.
template <class Codec>
void moves(const profile& p) {
  const capture& c = known();
  const kv_view source = c.view.slice(0, 60);
  const auto frame = caches::encode<Codec>(p, source);
  caches::cache here = caches::make_cache(c.shape, 60),
                there = caches::make_cache(c.shape, 60, dtype::f16, caches::engine::dense, 700);
  REQUIRE(caches::decode<Codec>(p, frame, here.view()).worst == status::ok);
  REQUIRE(caches::decode<Codec>(p, frame, there.view(), {.position = 700}).worst == status::ok);
  // The norm of every head stays, and V is the same.
  for (std::int64_t t = 0; t < 60; t += 7)
    for (int l = 0; l < 30; l += 9) {
      double a = 0, b = 0;
      for (int d = 0; d < 64; ++d) {
        const auto x = double(load_element(here.view().at(plane::key, l, t, 1, d), dtype::f16));
        const auto y = double(load_element(there.view().at(plane::key, l, t, 1, d), dtype::f16));
        a += x * x;
        b += y * y;
        CHECK(load_element(here.view().at(plane::value, l, t, 1, d), dtype::f16) ==
              load_element(there.view().at(plane::value, l, t, 1, d), dtype::f16));
      }
      CHECK(a == doctest::Approx(b).epsilon(0.01));
    }
}

}  // namespace rivals
