// SPDX-License-Identifier: Apache-2.0
// Profiles for engines that lay out rotary pairs in another order.
#include <sluice/calibrate/cachegen.hpp>
#include <sluice/codec/preset/cachegen_paper.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/model/pairs.hpp>

#include <doctest/doctest.h>
#include <support/cachegen_model.hpp>
#include <support/caches.hpp>
#include <support/captures.hpp>

#include <cmath>
#include <cstdio>
#include <random>
#include <safetensors.hpp>
#include <vector>

namespace {

using namespace sluice;
using captures::known;
using captures::memory;

template <class Codec = codec::standard>
std::vector<std::size_t> sizes(const profile& p, const kv_view& v) {
  const std::vector<std::byte> frame = caches::encode<Codec>(p, v);
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  std::vector<std::size_t> all;
  for (int level = 0; level < index.header().levels_present; ++level) all.push_back(index.size_at(level));
  return all;
}

}  // namespace

TEST_CASE("with_pairs: there and back gives the same bytes") {
  const profile p = known();
  const result<profile> there = with_pairs(p, rope_pairing::interleaved);
  REQUIRE(there.has_value());
  CHECK(there->shape.ropes[0].pairing == rope_pairing::interleaved);
  CHECK(there->fingerprint() != p.fingerprint());
  CHECK(validate(*there) == status::ok);
  const result<profile> back = with_pairs(*there, rope_pairing::half);
  REQUIRE(back.has_value());
  CHECK(back->serialize() == p.serialize());
  CHECK(with_pairs(p, rope_pairing::half)->serialize() == p.serialize());
  CHECK(profile::parse(there->serialize())->fingerprint() == there->fingerprint());

  // Channel c of the interleaved head is channel c / 2, or that plus half of the head, of the other.
  const plane_profile &a = p.of(7, plane::key), &b = there->of(7, plane::key);
  for (std::size_t c = 0; c < 192; ++c) {
    const std::size_t from = c / 64 * 64 + c % 2 * 32 + c % 64 / 2;
    CHECK(b.mean[c] == a.mean[from]);
    CHECK(b.matrix[5 * 192 + c] == a.matrix[5 * 192 + from]);
  }
  CHECK(b.classes == a.classes);
  CHECK(there->of(7, plane::value) == p.of(7, plane::value));

  // Dims behind the rotary ones stay; so do layers without rotation, and models without any.
  profile part = p;
  part.shape.ropes = {p.shape.ropes[0], {rope_pairing::none}};
  part.shape.ropes[0].rotary_dims = 16;
  part.shape.layers[3].rope_index = 1;
  const profile moved = *with_pairs(part, rope_pairing::interleaved);
  CHECK(moved.planes[6] == part.planes[6]);
  CHECK(moved.planes[8].mean[1] == part.planes[8].mean[8]);
  CHECK(moved.planes[8].mean[15] == part.planes[8].mean[15]);
  CHECK(moved.planes[8].mean[14] == part.planes[8].mean[7]);
  CHECK(moved.planes[8].mean[16] == part.planes[8].mean[16]);
  CHECK(with_pairs(moved, rope_pairing::half)->serialize() == part.serialize());
  part.shape.ropes.clear();
  for (layer_shape& l : part.shape.layers) l.rope_index = 0;
  CHECK(with_pairs(part, rope_pairing::interleaved)->serialize() == part.serialize());
  const profile plain = profile::uncalibrated(p.shape);
  CHECK(with_pairs(plain, rope_pairing::interleaved)->shape.ropes[0].pairing == rope_pairing::interleaved);

  CHECK(with_pairs(p, rope_pairing::none).status() == status::invalid_argument);
  profile broken = p;
  broken.planes.pop_back();
  CHECK(with_pairs(broken, rope_pairing::interleaved).status() == status::corrupt_profile);
}

TEST_CASE("with_pairs: a cache in another order has frames of the same size and error") {
  const memory half = captures::load(captures::sample);
  const profile p = known(), q = *with_pairs(p, rope_pairing::interleaved);
  const memory pairs = captures::rotated(half, q.shape.ropes);
  const auto a = sizes(p, half.view), b = sizes(q, pairs.view), wrong = sizes(p, pairs.view);
  REQUIRE(a.size() == 4);
  for (std::size_t level = 0; level < 4; ++level) {
    // Sums over channels in another order round otherwise now and then.
    CHECK(std::fabs(double(b[level]) / double(a[level]) - 1) < 0.0005);
    CHECK(double(wrong[level]) > 1.4 * double(a[level]));
    std::printf("level %zu: half %zu, interleaved %zu, order unknown %zu bytes\n", level, a[level], b[level],
                wrong[level]);
  }
  // Steps of tokens are what they were: what guesses them has moved with the channels.
  const auto c = sizes<codec::balanced>(p, half.view), d = sizes<codec::balanced>(q, pairs.view);
  for (std::size_t level = 0; level < 4; ++level) CHECK(std::fabs(double(d[level]) / double(c[level]) - 1) < 0.001);

  memory x(half.shape, half.view.tokens), y(pairs.shape, pairs.view.tokens);
  REQUIRE(caches::decode(p, caches::encode(p, half.view), x.view, {.level = 1}).worst == status::ok);
  REQUIRE(caches::decode(q, caches::encode(q, pairs.view), y.view, {.level = 1}).worst == status::ok);
  const double e = caches::relative_error(half.view, x.view), f = caches::relative_error(pairs.view, y.view);
  CHECK(std::fabs(f / e - 1) < 0.005);
}

TEST_CASE("with_pairs: CacheGen's tables move with the channels") {
  using codec_t = codec::cachegen_paper<>;
  const memory half = captures::load(captures::sample);
  profile p = known();
  const kv_view few = half.view.slice(0, 64);
  const auto section = calibrate_cachegen(p, {&few, 1}, {100});
  REQUIRE(section.has_value());
  p.set_section(*section);
  profile q = *with_pairs(p, rope_pairing::interleaved);
  CHECK_FALSE(q.find(profile_stage::entropy, detail::cachegen::section_id));
  const memory pairs = captures::rotated(half, q.shape.ropes);
  CHECK(encoder<codec_t>(q).encode(pairs.view, {}).status() == status::missing_section);
  const auto moved = cachegen_with_pairs(p, rope_pairing::interleaved);
  REQUIRE(moved.has_value());
  CHECK(moved->bytes != section->bytes);
  q.set_section(*moved);
  CHECK(*cachegen_with_pairs(q, rope_pairing::half) == *section);
  CHECK(*cachegen_with_pairs(p, rope_pairing::half) == *section);
  // K is coded as it is cached, rotated, so that what is permuted has frames of equal size.
  const auto a = sizes<codec_t>(p, half.view), b = sizes<codec_t>(q, pairs.view);
  CHECK(std::fabs(double(b[0]) / double(a[0]) - 1) < 0.0005);
  q.set_section(*section);
  CHECK(double(sizes<codec_t>(q, pairs.view)[0]) > 1.02 * double(a[0]));

  CHECK(cachegen_with_pairs(p, rope_pairing::none).status() == status::invalid_argument);
  CHECK(cachegen_with_pairs(known(), rope_pairing::half).status() == status::missing_section);
  std::mt19937_64 random(1);
  for (int i = 0; i < 2000; ++i) {  // whatever the bytes say, nothing is read or written outside
    profile hostile = cachegen::small_model();
    hostile.shape.layers[0] = {1, 4, 4, 0, 0};
    profile_section s = *hostile.find(profile_stage::entropy, detail::cachegen::section_id);
    s.bytes.resize(random() % (s.bytes.size() + 1));
    for (int k = 0; k < 3 && !s.bytes.empty(); ++k) s.bytes[random() % s.bytes.size()] = std::byte(random());
    hostile.set_section(s);
    const auto r = cachegen_with_pairs(hostile, rope_pairing::interleaved);
    if (r) CHECK(r->bytes.size() == s.bytes.size());
  }
}
