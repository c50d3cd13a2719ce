// SPDX-License-Identifier: Apache-2.0
// Whether a profile suits a cache: right ones do, and every way to get it wrong is told apart.
#include <sluice/calibrate/calibrate.hpp>
#include <sluice/codec/fit.hpp>
#include <sluice/model/pairs.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/captures.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <safetensors.hpp>
#include <vector>

namespace {

using namespace sluice;
using captures::known;
using captures::memory;

double ratio(const kv_view& v, const profile& p) {
  const result<fit_report> r = fit(v, p);
  REQUIRE(r.status() == status::ok);
  return r->ratio();
}

// Chunks from `begin` on, all of which the profile suits, or none.
void all(const char* what, const memory& m, const profile& p, bool suits, std::int64_t begin = 0,
         std::int64_t least = 16) {
  for (const std::int64_t n : {16, 64, 256}) {
    double low = 1e9, high = 0;
    if (n < least) continue;
    for (std::int64_t at = begin; at + n <= m.view.tokens; at += n) {
      CAPTURE(what);
      CAPTURE(n);
      CAPTURE(at);
      const kv_view chunk = m.view.slice(at, at + n);
      const double r = ratio(chunk, p);
      low = std::min(low, r), high = std::max(high, r);
      CHECK(check_fit(chunk, p) == (suits ? status::ok : status::profile_does_not_fit));
    }
    if (n == 64) std::printf("%-32s %.2f - %.2f\n", what, low, high);
  }
}

// Everything that can be wrong with the profile of a cache that it suits.
void every_error(const memory& m, const profile& p, std::int64_t begin) {
  all("right", m, p, true, begin);
  const profile pairs = *with_pairs(p, rope_pairing::interleaved);
  all("pairs half, not interleaved", captures::rotated(m, pairs.shape.ropes), p, false, begin);
  all("pairs interleaved, not half", m, pairs, false, begin);
  all("right, pairs interleaved", captures::rotated(m, pairs.shape.ropes), pairs, true, begin);
  profile flag = p;
  flag.shape.ropes[0].pairing = rope_pairing::interleaved;
  all("only the flag interleaved", m, flag, false, begin);

  for (const double factor : {0.1, 10.0}) {
    profile base = p;
    base.shape.ropes[0].base *= factor;
    all(factor < 1 ? "a tenth of the base" : "ten times the base", m, base, false, begin + 64);
  }
  rope none;
  none.pairing = rope_pairing::none;
  all("K never rotated", captures::rotated(m, {none}), p, false, begin);
  profile still = p;
  still.shape.ropes = {none};
  all("right, no rotation", captures::rotated(m, {none}), still, true, begin);
  all("K rotated, profile without", m, still, false, begin);
  for (const int off : {8, 256, 65536}) {
    memory moved = captures::rotated(m, p.shape.ropes, m.view.position);
    moved.view.position += off;
    all("wrong position", moved, p, false, begin, 64);
  }

  profile other = p;  // another model of the same shape
  std::rotate(other.planes.begin(), other.planes.begin() + 2, other.planes.end());
  all("layers in another order", m, other, false, begin);
  kv_view mirrored = m.view;
  for (plane_view* q : {&mirrored.k, &mirrored.v}) {
    q->layer_offset += (mirrored.num_kv_heads - 1) * q->head_stride;
    q->head_stride = -q->head_stride;
  }
  CHECK(check_fit(mirrored, p) == status::profile_does_not_fit);
  for (int l = 0; l < p.shape.num_layers(); ++l) std::swap(other.of(l, plane::key), other.of(l, plane::value));
  all("K and V confused", m, other, false, begin);
}

}  // namespace

TEST_CASE("fit: a real cache, and all that can be wrong with its profile") {
  every_error(captures::load(captures::sample), known(), 0);
}

TEST_CASE("fit: the other captures") {
  for (const char* path : {captures::smol_1024, captures::qwen_1024}) {
    if (!captures::there(path)) continue;
    const memory m = captures::load(path);
    if (path == captures::smol_1024) {
      every_error(m, known(), 512);
      continue;
    }
    // Of a model without a profile: one of its first half. So few tokens make classes that are a little too narrow.
    const capture c{m.view.slice(0, 512), {}, 0, 0};
    const result<profile> p = calibrate(m.shape, {&c, 1});
    REQUIRE(p.has_value());
    every_error(m, *p, 512);
  }
}

TEST_CASE("fit: what it says of planes, and what it does not look at") {
  const memory m = captures::load(captures::sample);
  const profile p = known();
  const fit_report r = *fit(m.view, p);
  REQUIRE(r.planes.size() == p.planes.size());
  CHECK(r.tokens == 8);
  CHECK(r.ratio() == std::max(r.keys.ratio(), r.values.ratio()));
  double expected = 0;
  for (const fit_bits& b : r.planes) {
    CHECK(b.expected > 0);
    CHECK(b.ratio() > 0.5);
    CHECK(b.ratio() < 1.6);
    expected += b.expected;
  }
  CHECK(std::fabs(expected / (r.keys.expected + r.values.expected) - 1) < 1e-9);

  // One wrong layer is seen in its planes.
  profile one = p;
  std::swap(one.of(3, plane::key), one.of(17, plane::key));
  const fit_report s = *fit(m.view, one);
  for (int l = 0; l < 30; ++l) CHECK((s.planes[2 * std::size_t(l)].ratio() > 1.6) == (l == 3 || l == 17));

  // Other types, and layers in several views.
  CHECK(check_fit(captures::rotated(m, p.shape.ropes, 0, dtype::f32).view, p) == status::ok);
  CHECK(check_fit(captures::rotated(m, p.shape.ropes, 5000, dtype::bf16).view, p) == status::ok);
  const std::int32_t ids[] = {15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29};
  kv_view halves[] = {m.view.slice(0, 100), m.view.slice(60, 100)};
  for (kv_view& v : halves) v.num_layers = 15;
  halves[1].layer_ids = ids;
  halves[1].k.base = m.view.at(plane::key, 15, 0, 0, 0);
  halves[1].v.base = m.view.at(plane::value, 15, 0, 0, 0);
  CHECK(check_fit(halves, p) == status::ok);
  const const_kv_view readable[] = {halves[0], halves[1]};
  CHECK(check_fit(readable, p) == status::ok);
  CHECK(fit(readable, p)->keys.measured == fit(halves, p)->keys.measured);
  CHECK(check_fit(const_kv_view(halves[0]), p) == status::ok);

  // Sinks are kept exact; nothing else is there.
  CHECK(fit(m.view.slice(0, 4), p)->tokens == 0);
  CHECK(check_fit(m.view.slice(0, 4), p) == status::ok);
  CHECK(fit(m.view.slice(0, 6), p)->tokens == 2);
  CHECK(check_fit(m.view.slice(9, 9), p) == status::ok);
  CHECK(check_fit(m.view, profile::uncalibrated(p.shape)) == status::ok);
  // A token that is no number is left out; if all are, nothing is compared.
  memory damaged = captures::load(captures::sample);
  for (int l = 0; l < 30; ++l)
    for (std::int64_t t = 0; t < 256; t += 2) damaged.set(plane::key, l, t, 2, 11, std::nanf(""));
  CHECK(check_fit(damaged.view, p) == status::ok);
  damaged.fill([](plane, int, std::int64_t, int, int) { return HUGE_VALF; });
  CHECK(check_fit(damaged.view, p) == status::ok);

  // Noise of any size, and nothing at all.
  std::mt19937_64 random(1);
  for (const float size : {0.1f, 1.f, 100.f, 60000.f}) {
    std::normal_distribution<float> normal(0, size);
    damaged.fill([&](plane, int, std::int64_t, int, int) { return std::clamp(normal(random), -65504.f, 65504.f); });
    CHECK(check_fit(damaged.view, p) == status::profile_does_not_fit);
  }
  CHECK(check_fit(m.view, p, 0.5) == status::profile_does_not_fit);
  CHECK(check_fit(m.view, *with_pairs(p, rope_pairing::interleaved), 5) == status::ok);

  kv_view opaque = m.view;
  opaque.k.type = dtype::bytes;
  CHECK(fit(opaque, p).status() == status::unsupported_type);
  CHECK(check_fit(m.view.heads(0, 2), p) == status::wrong_shape);
  CHECK(check_fit(m.view.slice(0, 1000), p) == status::invalid_view);
  const kv_view twice[] = {m.view, m.view};
  CHECK(check_fit(twice, p) == status::invalid_view);
  profile broken = p;
  std::fill(broken.of(2, plane::key).matrix.begin(), broken.of(2, plane::key).matrix.end(), std::uint16_t{0});
  CHECK(check_fit(m.view, broken) == status::corrupt_profile);
  broken = p;
  broken.of(2, plane::key).matrix[77] = 0x7e00;  // NaN
  CHECK(check_fit(m.view, broken) == status::corrupt_profile);
  broken.planes.pop_back();
  CHECK(check_fit(m.view, broken) == status::corrupt_profile);
}

TEST_CASE("status: what profiles and positions are refused for has words") {
  CHECK(std::string(to_string(status::position_not_found)) == "the keys do not tell their position");
  CHECK(std::string(to_string(status::profile_does_not_fit)) == "the profile does not fit this cache");
}
