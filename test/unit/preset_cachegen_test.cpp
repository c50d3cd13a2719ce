// SPDX-License-Identifier: Apache-2.0
// codec::cachegen_paper on the KV cache of a real model, and what it does with bytes and profiles that are wrong.
#include <sluice/calibrate/cachegen.hpp>
#include <sluice/codec/preset/cachegen_paper.hpp>

#include <doctest/doctest.h>
#include <support/cachegen_model.hpp>
#include <support/caches.hpp>
#include <support/frames.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <safetensors.hpp>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using cachegen::small_model;

// The capture in test/data, all of its tokens, and tables from its first half.
struct capture {
  safetensors::file file;
  model_shape shape = model_shape::uniform(30, 3, 64);
  std::vector<std::byte*> k, v;
  kv_view view;
  profile plain, tuned;

  capture() {
    REQUIRE_FALSE(bool(file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")));
    for (int l = 0; l < 30; ++l) {
      k.push_back(file.bytes(*file.find("k." + std::to_string(l))).data());
      v.push_back(file.bytes(*file.find("v." + std::to_string(l))).data());
    }
    view.num_layers = 30;
    view.num_kv_heads = 3;
    view.tokens = view.capacity = 256;
    for (plane_view* p : {&view.k, &view.v}) {
      p->head_dim = 64;
      p->element_stride = 2;
      p->head_stride = 128;
      p->token_stride = 384;
    }
    view.k.layer_bases = k.data();
    view.v.layer_bases = v.data();
    REQUIRE(validate(view) == status::ok);
    plain = profile::uncalibrated(shape);
    for (plane_profile& q : plain.planes) q.group_width = q.width;
    tuned = plain;
    const kv_view half = view.slice(0, 128);
    const auto section = calibrate_cachegen(plain, {&half, 1});
    REQUIRE(section);
    tuned.set_section(*section);
  }
};

const capture& known() {
  static const capture c;
  return c;
}

// Largest difference over half a bin of the layer, anchors apart.
template <int Percent>
void check_errors(const kv_view& source, const kv_view& back) {
  for (plane which : caches::planes)
    for (int l = 0; l < source.num_layers; ++l) {
      const double bin = 0.5 * (1 + l / (source.num_layers / 3)) * Percent / 100;
      for (std::int64_t t = 0; t < source.tokens; ++t) {
        double most = 0, high = 0;
        for (int h = 0; h < source.num_kv_heads; ++h)
          for (int d = 0; d < source[which].head_dim; ++d) {
            const double x = double(load_element(source.at(which, l, t, h, d), dtype::f16));
            const double y = double(load_element(back.at(which, l, t, h, d), dtype::f16));
            high = std::max(high, std::fabs(x));
            most = std::max(most, std::fabs(x - y));
          }
        // Half a bin, the rounding of the anchor's scale and of the result to f16.
        const double allowed = (t % 10 ? bin / 2 : high / 254 * 1.001) + high / 1024;
        CHECK_MESSAGE(most <= allowed, l, " ", t, " ", most, " ", allowed);
      }
    }
}

template <int Percent>
std::size_t round_trip() {
  const capture& c = known();
  using codec_t = codec::cachegen_paper<Percent>;
  const auto frame = caches::encode<codec_t>(c.tuned, c.view);
  REQUIRE(!frame.empty());
  caches::cache back = caches::make_cache(c.shape, 256, dtype::f16, caches::engine::vllm_nhd);
  REQUIRE(caches::decode<codec_t>(c.tuned, frame, back.view()).worst == status::ok);
  check_errors<Percent>(c.view, back.view());
  std::printf("cachegen_paper at %d %%: %.3f bits a value, relative error %.4f\n", Percent,
              8 * double(frame.size()) / (2.0 * 256 * 192 * 30), caches::relative_error(c.view, back.view()));
  // A part of the tokens comes out as it does with all of them.
  caches::cache part = caches::make_cache(c.shape, 37, dtype::f16, caches::engine::dense, 45);
  REQUIRE(caches::decode<codec_t>(c.tuned, frame, part.view()).worst == status::ok);
  CHECK(caches::elements(part.view()) == caches::elements(back.view().slice(45, 82)));
  return frame.size();
}

}  // namespace

TEST_CASE("cachegen_paper: a real cache comes back within its bins, and coarser levels are smaller") {
  const std::size_t fine = round_trip<50>(), middle = round_trip<100>(), coarse = round_trip<200>();
  CHECK(fine > middle);
  CHECK(middle > coarse);
  CHECK(middle < 2 * 2 * 256 * 192 * 30 / 4);
}

TEST_CASE("cachegen_paper: a profile without tables, or with others, is refused by name") {
  const capture& c = known();
  std::vector<std::byte> out(1 << 22);
  CHECK(encoder<codec::cachegen_paper<>>(c.plain).encode(c.view, out).status() == status::missing_section);
  CHECK(encoder<codec::cachegen_paper<70>>(c.tuned).encode(c.view, out).status() == status::missing_section);
  const auto frame = caches::encode<codec::cachegen_paper<>>(c.tuned, c.view.slice(0, 20));
  caches::cache back = caches::make_cache(c.shape, 20);
  CHECK(caches::decode<codec::cachegen_paper<>>(c.plain, frame, back.view()).worst == status::missing_section);
  CHECK(caches::decode<codec::cachegen_paper<200>>(c.tuned, frame, back.view()).worst == status::wrong_codec);
  CHECK(caches::decode<codec::cachegen_paper<>>(c.tuned, frame, back.view(), {.position = 7}).worst ==
        status::wrong_positions);
  profile other = c.tuned;
  const auto section = calibrate_cachegen(c.plain, {&c.view, 1});
  other.set_section(*section);
  CHECK(caches::decode<codec::cachegen_paper<>>(other, frame, back.view()).worst == status::wrong_profile);
  // The file form keeps the tables; profiles of other codecs do not change by them.
  const auto again = profile::parse(c.tuned.serialize());
  REQUIRE(again);
  CHECK(caches::decode<codec::cachegen_paper<>>(*again, frame, back.view()).worst == status::ok);
  CHECK(c.tuned.fingerprint() == c.plain.fingerprint());
}

TEST_CASE("cachegen_paper: tables are untrusted") {
  const profile good = small_model();
  caches::cache source = caches::make_cache(good.shape, 20);
  caches::fill(source.view(), good.shape, 3);
  std::vector<std::byte> out(1 << 16);
  REQUIRE(encoder<codec::cachegen_paper<>>(good).encode(source.view(), out));
  const auto refused = [&](auto change, status expected) {
    profile p = good;
    change(p.sections[0].bytes);
    CHECK(encoder<codec::cachegen_paper<>>(p).encode(source.view(), out).status() == expected);
    CHECK(caches::decode<codec::cachegen_paper<>>(p, out, source.view()).worst == expected);
  };
  using bytes = std::vector<std::byte>;
  refused([](bytes& b) { b.clear(); }, status::missing_section);
  refused([](bytes& b) { b.resize(72); }, status::missing_section);
  refused([](bytes& b) { b.pop_back(); }, status::corrupt_profile);
  refused([](bytes& b) { b.push_back(std::byte{}); }, status::corrupt_profile);
  refused([](bytes& b) { b[2] = std::byte{1}; }, status::corrupt_profile);    // reserved
  refused([](bytes& b) { b[4] = std::byte{56}; }, status::corrupt_profile);   // a block that ends early
  refused([](bytes& b) { b[8] = std::byte{129}; }, status::corrupt_profile);  // a window that ends before it begins
  refused([](bytes& b) { b[9] = std::byte{255}; }, status::corrupt_profile);  // one that reads the next table
  refused([](bytes& b) { b[10] = b[11] = std::byte{}; }, status::corrupt_profile);  // a symbol without slots
  refused([](bytes& b) { b[10] ^= std::byte{1}; }, status::corrupt_profile);        // slots that do not add up
  refused([](bytes& b) { b[72] = std::byte{}; }, status::corrupt_profile);          // anchors twice
  std::mt19937 random(5);
  for (int i = 0; i < 2000; ++i) {
    profile p = good;
    bytes& b = p.sections[0].bytes;
    for (int n = 1 + int(random() % 3); n > 0; --n) b[random() % b.size()] = std::byte(random());
    const status s = encoder<codec::cachegen_paper<>>(p).encode(source.view(), out).status();
    CHECK((s == status::ok || s == status::corrupt_profile || s == status::missing_section));
  }
}

TEST_CASE("cachegen_paper: what no table has seen is coded all the same") {
  const profile p = small_model();
  caches::cache source = caches::make_cache(p.shape, 40), back = caches::make_cache(p.shape, 40);
  for (plane which : caches::planes)
    for (std::int64_t t = 0; t < 40; ++t)
      for (int d = 0; d < 4; ++d)
        caches::set(source.view(), which, 0, t, 0, d, d == 0 ? 1900.f * float(t % 7 - 3) : float(t * d) * 0.3f);
  caches::set(source.view(), plane::key, 0, 13, 0, 1, 40000.f);          // beyond what differences can hold
  caches::set(source.view(), plane::value, 0, 20, 0, 2, std::nanf(""));  // an anchor that is no number
  const auto frame = caches::encode<codec::cachegen_paper<>>(p, source.view());
  REQUIRE(caches::decode<codec::cachegen_paper<>>(p, frame, back.view()).worst == status::ok);
  CHECK(load_element(back.view().at(plane::key, 0, 13, 0, 1), dtype::f16) == 40000.f);
  CHECK(std::isnan(load_element(back.view().at(plane::value, 0, 20, 0, 2), dtype::f16)));
  for (std::int64_t t = 0; t < 40; ++t)
    for (int d = 0; d < 4; ++d) {
      const float x = load_element(source.view().at(plane::key, 0, t, 0, d), dtype::f16);
      const float y = load_element(back.view().at(plane::key, 0, t, 0, d), dtype::f16);
      CHECK(std::fabs(x - y) <= 40.f);
    }
}

TEST_CASE("cachegen_paper: damage is named and stays in its tile") {
  const capture& c = known();
  using codec_t = codec::cachegen_paper<>;
  const kv_view source = c.view.slice(0, 32);
  const auto frame = caches::encode<codec_t>(c.tuned, source);
  caches::cache whole = caches::make_cache(c.shape, 32);
  REQUIRE(caches::decode<codec_t>(c.tuned, frame, whole.view()).worst == status::ok);
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  decoder<codec_t> d(c.tuned);
  std::mt19937 random(9);
  for (int i = 0; i < 60; ++i) {
    const byte_range r = index.range(random() % index.tiles_per_pass());
    auto damaged = frame;
    damaged[r.begin + random() % r.size()] ^= std::byte(1 + random() % 255);
    caches::cache back = caches::make_cache(c.shape, 32);
    const page_status first = d.decode(damaged, back.view());
    CHECK(first.worst == status::corrupt_tile);
    CHECK(first.damaged == 1);
    frames::fix_checksums(damaged);  // what the checksum would have caught
    const page_status second = d.decode(damaged, back.view());
    CHECK(second.damaged <= 1);
    const auto a = caches::floats(whole.view()), b = caches::floats(back.view());
    std::size_t differs = 0;
    for (std::size_t k = 0; k < a.size(); ++k) differs += a[k] != b[k];
    CHECK(differs <= 32 * 192);
  }
}

TEST_CASE("cachegen_paper: a frame that never changes") {
  const profile p = small_model();
  caches::cache source = caches::make_cache(p.shape, 23);
  for (plane which : caches::planes)
    for (std::int64_t t = 0; t < 23; ++t)
      for (int d = 0; d < 4; ++d)
        caches::set(source.view(), which, 0, t, 0, d, float((t * 7 + d * 5 + int(which)) % 16 - 8) * 0.25f);
  const auto frame = caches::encode<codec::cachegen_paper<>>(p, source.view());
  CHECK(frame.size() == 442);
  CHECK(checksum(frame.data(), frame.size(), 0) == 2303434787);
}
