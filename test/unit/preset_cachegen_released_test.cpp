// SPDX-License-Identifier: Apache-2.0
// codec::cachegen_released on the KV cache of a real model: its arithmetic written out a second time, what its frames spend
// on other things than symbols, and what it does with bytes that are wrong.
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/preset/cachegen_released.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/real_cache.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>
#include <map>
#include <random>
#include <vector>

namespace {

using namespace sluice;
using codec::cachegen_released;
using codec::cachegen_released_1024;

using bytes = std::vector<std::byte>;

constexpr int tokens = 256, heads = 3, dim = 64, layers = 30, width = heads * dim;
constexpr std::uint64_t seed = 20261201;

float value(const kv_view& v, plane which, int l, std::int64_t t, int c) {
  const int d = v[which].head_dim;
  return load_element(v.at(which, l, t, c / d, c % d), v[which].type);
}

// What a row must come back as: the integers and the values.
std::vector<int> integers_of(const kv_view& v, plane which, int l, std::int64_t t, int half, float& most) {
  const int n = v.num_kv_heads * v[which].head_dim;
  most = 0;
  for (int c = 0; c < n; ++c) most = std::max(most, std::fabs(value(v, which, l, t, c)));
  std::vector<int> q(std::size_t(n), half);
  for (int c = 0; c < n && most > 0; ++c)
    q[std::size_t(c)] = int(std::nearbyint(value(v, which, l, t, c) * (float(half) / most))) + half;
  return q;
}

// LMCache's table for any model, and the levels of the repository's Mistral.
int half_of(int level, plane which, int l) {
  int bins = 32;
  if (level == 2) bins = l < (which == plane::key ? 10 : 2) ? 32 : 16;
  if (level == 1) bins = l < (which == plane::key ? 20 : 2) ? 16 : 12;
  return bins / 2 - 1;
}

template <int Level>
std::size_t round_trip(const real_cache& c) {
  using codec_t = cachegen_released<Level>;
  const profile plain = profile::uncalibrated(c.model.shape);
  const bytes frame = caches::encode<codec_t>(plain, c.view);
  caches::cache back = caches::make_cache(c.model.shape, tokens);
  REQUIRE(caches::decode<codec_t>(plain, frame, back.view()).worst == status::ok);
  std::size_t wrong = 0;
  for (int l = 0; l < layers; ++l)
    for (plane which : caches::planes) {
      const int half = half_of(Level, which, l);
      for (int t = 0; t < tokens; ++t) {
        float most = 0;
        const std::vector<int> q = integers_of(c.view, which, l, t, half, most);
        for (int i = 0; i < width; ++i) {
          const float x = float(q[std::size_t(i)] - half) / float(half) * most;
          wrong += from_float<f16>(x).bits != from_float<f16>(value(back.view(), which, l, t, i)).bits;
        }
      }
    }
  CHECK(wrong == 0);
  // Groups of the profile are of no matter, and a part of the tokens comes out as it does with all of them.
  CHECK(caches::encode<codec_t>(c.model, c.view) == frame);
  caches::cache part = caches::make_cache(c.model.shape, 37, dtype::f16, caches::engine::dense, 45);
  REQUIRE(caches::decode<codec_t>(c.model, frame, part.view()).worst == status::ok);
  CHECK(caches::elements(part.view()) == caches::elements(back.view().slice(45, 82)));
  std::printf("cachegen_released, level %d: %.3f bits a value, relative error %.4f\n", Level,
              8 * double(frame.size()) / double(2 * layers * tokens * width),
              caches::relative_error(c.view, back.view()));
  return frame.size();
}

// Heads of the capture side by side, as a model of 16 heads has them, and runs of its tokens one after the other.
caches::cache wide(const real_cache& c, const model_shape& shape, int runs) {
  caches::cache out = caches::make_cache(shape, tokens * runs);
  int from = 0;  // head of the capture
  for (int l = 0; l < shape.num_layers(); ++l)
    for (int run = 0; run < runs; ++run)
      for (int h = 0; h < 16; ++h, ++from)
        for (plane which : caches::planes)
          for (int t = 0; t < tokens; ++t)
            for (int d = 0; d < dim; ++d)
              caches::set(out.view(), which, l, run * tokens + t, h, d,
                          value(c.view, which, from / heads, t, from % heads * dim + d));
  REQUIRE(from <= layers * heads);
  return out;
}

// Bits a value of a frame beyond the entropy of each channel's integers under their own distribution in each tile.
template <class Codec>
double overhead(const real_cache& c, int runs) {
  const model_shape shape = model_shape::uniform(runs == 1 ? 5 : 1, 16, dim);
  const profile plain = profile::uncalibrated(shape);
  const caches::cache source = wide(c, shape, runs);
  const kv_view& v = source.view();
  const bytes frame = caches::encode<Codec>(plain, v);
  double entropy = 0;
  for (int l = 0; l < shape.num_layers(); ++l)
    for (plane which : caches::planes)
      for (std::int64_t first = 0; first < v.tokens; first += Codec::tile_tokens) {
        const std::int64_t n = std::min<std::int64_t>(Codec::tile_tokens, v.tokens - first);
        std::vector<std::map<int, int>> counts(16 * dim);
        for (std::int64_t t = first; t < first + n; ++t) {
          float most;
          const std::vector<int> q = integers_of(v, which, l, t, half_of(2, plane::key, 0), most);
          for (std::size_t i = 0; i < q.size(); ++i) ++counts[i][q[i]];
        }
        for (const auto& channel : counts)
          for (const auto& [q, k] : channel) entropy -= k * std::log2(double(k) / double(n));
      }
  const double values = double(2 * shape.num_layers() * v.tokens * 16 * dim);
  return (8 * double(frame.size()) - entropy) / values;
}

template <class Change>
void refused(const bytes& sound, const profile& p, std::size_t at, Change change) {
  bytes b = sound;
  change(&b[at]);
  frames::fix_checksums(b);
  caches::cache back = caches::make_cache(p.shape, 80);
  const page_status s = caches::decode<cachegen_released<>>(p, b, back.view());
  CHECK(s.worst == status::corrupt_tile);
  CHECK(s.damaged == 1);
}

}  // namespace

TEST_CASE("cachegen_released: what stands in the frame") {
  static_assert(cachegen_released<>::id.method == stage_id::of(3, 256 | 1 << 13));
  static_assert(cachegen_released<1>::id.bit_widths == stage_id::of(2, 1));
  static_assert(cachegen_released<1>::id.decodes(cachegen_released<3>::id));
  static_assert(cachegen_released<>::id.decodes(cachegen_released_1024::id));
  static_assert(!(cachegen_released<>::id == cachegen_released_1024::id));
  CHECK_FALSE(cachegen_released<>::uses(profile{}));
  CHECK_FALSE(cachegen_released<>::keeps_exact(profile{}, 0, 1));
  using detail::cachegen_released::bins_of;
  CHECK(bins_of(2, 9, plane::key, 10) == 32);
  CHECK(bins_of(2, 10, plane::key, 11) == 16);
  CHECK(bins_of(2, 8, plane::value, 9) == 32);  // models of fewer than ten layers are fine all over
  CHECK(bins_of(2, 2, plane::value, 10) == 16);
  CHECK(bins_of(1, 19, plane::key, 32) == 16);
  CHECK(bins_of(1, 20, plane::key, 32) == 12);
  CHECK(bins_of(1, 1, plane::value, 32) == 16);
  CHECK(bins_of(1, 2, plane::value, 32) == 12);
}

TEST_CASE("cachegen_released: a real cache, bit for bit, at all levels") {
  const real_cache c;
  const std::size_t fine = round_trip<3>(c), middle = round_trip<2>(c), coarse = round_trip<1>(c);
  CHECK(fine > middle);
  CHECK(middle > coarse);
}

TEST_CASE("cachegen_released: frames spend on tables, lengths, maxima and ends of codes what the public code does") {
  const real_cache c;
  const double at_256 = overhead<cachegen_released<3>>(c, 1), at_1024 = overhead<cachegen_released_1024>(c, 4);
  std::printf("cachegen_released: %.4f bits a value beside the symbols, %.4f with tables of 1,024 tokens\n", at_256,
              at_1024);
  // 33 counts of 2 bytes a channel and table, 4 bytes a code of 256 tokens, 2 bytes a token over 1,024 channels; and what
  // a code takes to end: two bits, what they leave of a byte, less what the last symbol had not used.
  const double fixed_256 = 8 * (66. / 256 + 4. / 256 + 2. / 1024), fixed_1024 = 8 * (66. / 1024 + 4. / 256 + 2. / 1024);
  CHECK(at_256 == doctest::Approx(2.24).epsilon(0.01));
  CHECK(at_256 > fixed_256 + 4. / 256);
  CHECK(at_256 < fixed_256 + 9. / 256);
  CHECK(at_1024 > fixed_1024 + 4. / 256);
  CHECK(at_1024 < fixed_1024 + 9. / 256);
}

TEST_CASE("cachegen_released: bytes that no encoder makes are refused") {
  const model_shape shape = model_shape::uniform(1, 1, 16);
  const profile p = profile::uncalibrated(shape);
  caches::cache source = caches::make_cache(shape, 80);
  caches::fill(source.view(), shape, seed);
  const bytes frame = caches::encode<cachegen_released<>>(p, source.view());
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  const byte_range r = index.range(0);
  tile_envelope t;
  REQUIRE(parse_tile({reinterpret_cast<const std::uint8_t*>(frame.data()) + r.begin, std::size_t(r.size())}, 80, 32,
                     t) == status::ok);
  REQUIRE(t.rows() == 80);
  const auto at = [&](section s) {
    return std::size_t(reinterpret_cast<const std::byte*>(t.base[s].data()) - frame.data());
  };
  const std::size_t scales = at(section::quantizer), tables = at(section::entropy), sizes = tables + 16 * 66,
                    codes = sizes + 16 * 4;
  REQUIRE(t.base[section::quantizer].size() == 1 + 160);
  for (int bins : {0, 3, 33, 255}) refused(frame, p, scales, [&](std::byte* b) { *b = std::byte(bins); });
  for (int high : {0x7c, 0x7e, 0x80, 0xfc}) refused(frame, p, scales + 2, [&](std::byte* b) { *b = std::byte(high); });
  refused(frame, p, tables, [](std::byte* b) { b[0] = std::byte{1}; });                       // does not begin with 0
  refused(frame, p, tables + 66 * 7 + 20, [](std::byte* b) { b[0] = b[-2], b[1] = b[-1]; });  // does not rise
  refused(frame, p, tables + 66 * 16 - 2, [](std::byte* b) { b[0] = b[1] = std::byte{}; });
  refused(frame, p, sizes, [](std::byte* b) { b[0] ^= std::byte{1}; });
  refused(frame, p, sizes + 3, [](std::byte* b) { b[0] = std::byte{0xff}; });
  refused(frame, p, sizes, [](std::byte* b) {  // a code that takes a byte of the next one
    b[0] = std::byte(int(b[0]) + 1), b[4] = std::byte(int(b[4]) - 1);
  });
  refused(frame, p, std::size_t(r.end) - 1, [](std::byte* b) { *b ^= std::byte{1}; });  // the padding of the last code
  refused(frame, p, codes, [](std::byte* b) { std::memset(b, 0xff, 8); });
}

TEST_CASE("cachegen_released: damage is named and stays in its tile") {
  const real_cache c;
  const kv_view source = c.view.slice(0, 96);
  const bytes frame = caches::encode<cachegen_released<>>(c.model, source);
  caches::cache whole = caches::make_cache(c.model.shape, 96);
  REQUIRE(caches::decode<cachegen_released<>>(c.model, frame, whole.view()).worst == status::ok);
  const auto wanted = caches::floats(whole.view());
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  REQUIRE(index.tiles_per_pass() == 2 * layers);  // one for all heads of K or V
  decoder<cachegen_released<>> d(c.model);
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 60; ++i) {
    const byte_range r = index.range(random() % index.tiles_per_pass());
    bytes damaged = frame;
    damaged[std::size_t(r.begin + random() % r.size())] ^= std::byte(1 + random() % 255);
    caches::cache back = caches::make_cache(c.model.shape, 96);
    const page_status first = d.decode(damaged, back.view());
    CHECK((first.worst == status::corrupt_tile && first.damaged == 1));
    frames::fix_checksums(damaged);  // what the checksum would have caught
    const page_status second = d.decode(damaged, back.view());
    CHECK((second.worst == status::ok || second.worst == status::corrupt_tile || second.worst == status::absent));
    CHECK(second.damaged <= 1);
    const auto got = caches::floats(back.view());
    std::size_t differs = 0;
    for (std::size_t k = 0; k < got.size(); ++k) differs += got[k] != wanted[k];
    CHECK(differs <= 96 * width);
  }
}

TEST_CASE("cachegen_released: what f16 cannot say is kept, and zeros are zeros") {
  const model_shape shape = model_shape::uniform(1, 2, 64);
  const profile p = profile::uncalibrated(shape);
  caches::cache source = caches::make_cache(shape, 100, dtype::f32), back = caches::make_cache(shape, 100, dtype::f32);
  caches::fill(source.view(), shape, 6);
  caches::set(source.view(), plane::key, 0, 3, 1, 5, 1e9f);
  caches::set(source.view(), plane::value, 0, 4, 0, 6, std::numeric_limits<float>::quiet_NaN());
  for (int h = 0; h < 2; ++h)
    for (int d = 0; d < 64; ++d) caches::set(source.view(), plane::key, 0, 7, h, d, h ? 0.f : 1e-30f);
  const bytes frame = caches::encode<cachegen_released<>>(p, source.view());
  REQUIRE(caches::decode<cachegen_released<>>(p, frame, back.view()).worst == status::ok);
  const auto same = [&](plane which, int t) {
    bool all = true;
    for (int h = 0; h < 2; ++h)
      all &= std::memcmp(source.view().at(which, 0, t, h, 0), back.view().at(which, 0, t, h, 0), 64 * 4) == 0;
    return all;
  };
  CHECK(same(plane::key, 3));
  CHECK(same(plane::value, 4));
  CHECK_FALSE(same(plane::key, 4));
  for (int c = 0; c < 128; ++c) CHECK(value(back.view(), plane::key, 0, 7, c) == 0);
}

TEST_CASE("cachegen_released: planes wider than a frame can say are several groups, each with its own maxima") {
  const model_shape shape{{{5, 16384, 8}}, {rope{.pairing = rope_pairing::none}}};
  const profile p = profile::uncalibrated(shape);
  caches::cache source = caches::make_cache(shape, 48, dtype::f32), back = caches::make_cache(shape, 48, dtype::f32);
  for (plane which : caches::planes)
    for (int t = 0; t < 48; ++t)
      for (int h = 0; h < 5; ++h)
        for (int d = 0; d < source.view()[which].head_dim; ++d)
          caches::set(source.view(), which, 0, t, h, d,
                      float((t * 7 + d * 5 + h) % 31 - 15) * (which == plane::key && h >= 3 ? 0.25f : 1.f));
  const bytes frame = caches::encode<cachegen_released<>>(p, source.view());
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  CHECK(index.tiles_per_pass() == 2 + 1);
  CHECK(index.shape_of(0).group_width[0] == 3 * 16384);
  REQUIRE(caches::decode<cachegen_released<>>(p, frame, back.view()).worst == status::ok);
  CHECK(caches::relative_error(source.view(), back.view()) < 1e-6);  // 31 integers are enough
}
