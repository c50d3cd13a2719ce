// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/model/profile.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace sluice;

using bytes = std::vector<std::byte>;

// Two ropes, a layer without V; calibrated.
profile small_profile() {
  model_shape shape = model_shape::uniform(3, 2, 8);
  shape.ropes.push_back({.pairing = rope_pairing::interleaved,
                         .scaling = rope_scaling::yarn_untruncated,
                         .rotary_dims = 4,
                         .base = 150000,
                         .factor = 32,
                         .low_freq = 1,
                         .high_freq = 32,
                         .original_context = 4096,
                         .attention_factor = 1.3466});
  shape.layers[1].rope_index = 1;
  shape.layers[1].window = 128;
  shape.layers[2] = {1, 12, 0, 0, 0};
  caches::cache a({2, 8, 8, 0, 0}, {0, 1}, 20, dtype::f16), b(shape.layers[2], {2}, 20, dtype::f16);
  caches::fill(a.view(), shape, 1);
  caches::fill(b.view(), shape, 2);
  const kv_view views[] = {a.view(), b.view()};
  profile p = caches::make_profile(shape, views, 1);
  p.set_name("made up");
  return p;
}

// Where things stand in the file form: a head of 88 bytes, then sections, each with a head of 8.
constexpr std::size_t section_head = 8, first_section = 88, model = first_section + section_head;
constexpr std::size_t ropes = model + 8, rope_size = 56, layers = ropes + 2 * rope_size, layer_size = 20;
constexpr std::size_t group_widths = layers + 3 * layer_size, transform = group_widths + 6 * 4 + section_head;
constexpr std::size_t body = model;

}  // namespace

TEST_CASE("profile: what is written is read again") {
  const profile p = small_profile();
  CHECK(validate(p) == status::ok);
  CHECK(p.calibrated());
  const bytes file = p.serialize();
  const result<profile> q = profile::parse(file);
  REQUIRE(q);
  CHECK(q->shape == p.shape);
  CHECK(q->passes == p.passes);
  CHECK(q->sinks == p.sinks);
  CHECK(q->planes == p.planes);
  CHECK(q->name == p.name);
  CHECK(q->fingerprint() == p.fingerprint());
  CHECK(q->serialize() == file);

  const profile plain = profile::uncalibrated(p.shape, 6, 255);
  CHECK_FALSE(plain.calibrated());
  const result<profile> r = profile::parse(plain.serialize());
  REQUIRE(r);
  CHECK(r->planes == plain.planes);
  CHECK(r->passes == 6);
  CHECK(r->sinks == 255);
  const result<profile> nothing = profile::parse(profile::uncalibrated({}).serialize());
  REQUIRE(nothing);
  CHECK(nothing->shape.layers.empty());
}

TEST_CASE("profile: the identity is that of everything decoding depends on, and not of the name") {
  const profile p = small_profile();
  const auto changed = [&](auto change) {
    profile q = p;
    change(q);
    return q.fingerprint() != p.fingerprint();
  };
  CHECK_FALSE(changed([](profile& q) { q.set_name("another"); }));
  CHECK(changed([](profile& q) { ++q.passes; }));
  CHECK(changed([](profile& q) { ++q.sinks; }));
  CHECK(changed([](profile& q) { q.shape.ropes[1].base *= 2; }));
  CHECK(changed([](profile& q) { q.shape.ropes[0].scaling = rope_scaling::linear; }));
  CHECK(changed([](profile& q) { q.shape.layers[1].rope_index = 0; }));
  CHECK(changed([](profile& q) { ++q.planes[3].classes[5]; }));
  CHECK(changed([](profile& q) { q.planes[0].mean[0] ^= 1; }));
  CHECK(changed([](profile& q) { q.planes[4].matrix.back() ^= 1; }));
  CHECK(changed([](profile& q) { q.planes[2].scale *= 1.5f; }));
}

TEST_CASE("profile: a name is cut to fit and always ends") {
  profile p = profile::uncalibrated({});
  p.set_name(std::string(200, 'x').c_str());
  CHECK(std::string(p.name.data()) == std::string(63, 'x'));
  p.set_name("short");
  CHECK(std::string(p.name.data()) == "short");
}

TEST_CASE("profile: save and load") {
  const std::string path = (std::filesystem::temp_directory_path() / "sluice_profile_test").string();
  const profile p = small_profile();
  REQUIRE(p.save(path.c_str()) == status::ok);
  const result<profile> q = profile::load(path.c_str());
  REQUIRE(q);
  CHECK(q->planes == p.planes);
  std::filesystem::remove(path);
  CHECK(profile::load(path.c_str()).status() == status::io_error);
  CHECK(profile::load("/").status() == status::io_error);
  CHECK(p.save("/no/such/folder/x") == status::io_error);
}

TEST_CASE("profile: every single-byte corruption and every cut is refused by name") {
  const bytes file = small_profile().serialize();
  bytes b = file;
  std::size_t wrong = 0;
  for (std::size_t at = 0; at < b.size(); ++at)
    for (const unsigned flip : {0x01u, 0x80u, 0xffu, 0x24u}) {
      b[at] ^= std::byte(flip);
      const status expected = at < 4 ? status::not_a_profile : at < 6 ? status::wrong_version : status::corrupt_profile;
      wrong += profile::parse(b).status() != expected;
      b[at] ^= std::byte(flip);
    }
  CHECK(wrong == 0);
  for (std::size_t n = 0; n < file.size(); ++n) {
    const bytes cut(file.begin(), file.begin() + std::ptrdiff_t(n));
    wrong += profile::parse(cut).status() != (n < 4   ? status::not_a_profile
                                              : n < 6 ? status::wrong_version
                                                      : status::corrupt_profile);
    if (n < 100) continue;
    bytes fixed = cut;  // a shorter file with right checksums
    frames::fix_profile(fixed);
    wrong += profile::parse(fixed).status() != status::corrupt_profile;
  }
  CHECK(wrong == 0);
  bytes longer = file;
  longer.push_back(std::byte{0});
  CHECK(profile::parse(longer).status() == status::corrupt_profile);
  frames::fix_profile(longer);
  CHECK(profile::parse(longer).status() == status::corrupt_profile);
}

TEST_CASE("profile: right checksums do not make nonsense right") {
  const bytes file = small_profile().serialize();
  const auto verdict = [&](std::size_t at, const auto& value) {
    bytes b = file;
    frames::store(b, at, value);
    frames::fix_profile(b);
    return profile::parse(b).status();
  };
  const double infinity = std::numeric_limits<double>::infinity(), nan = std::nan("");
  REQUIRE(frames::load<std::uint16_t>(file, model + 2) == 2);
  REQUIRE(frames::load<std::uint32_t>(file, model + 4) == 3);
  REQUIRE(frames::load<std::int32_t>(file, layers + 4) == 8);
  REQUIRE(frames::load<std::int32_t>(file, group_widths) == 8);
  REQUIRE(frames::load<std::uint32_t>(file, transform + 4) == 1);
  const std::size_t transform_size = frames::load<std::uint32_t>(file, transform - 4);
  const std::size_t quantizer = transform + transform_size + section_head;
  const std::size_t entropy = quantizer + frames::load<std::uint32_t>(file, quantizer - 4) + section_head;
  REQUIRE(frames::load<std::uint32_t>(file, quantizer) == 4);
  REQUIRE(frames::load<std::uint32_t>(file, entropy) == 1);
  REQUIRE(verdict(quantizer, std::uint32_t{3}) == status::ok);
  for (std::uint32_t passes : {0u, 7u, 0x104u, 0xffffffffu})
    CHECK(verdict(quantizer, passes) == status::corrupt_profile);
  CHECK(verdict(model, std::uint8_t{255}) == status::ok);  // sinks
  CHECK(verdict(model + 1, std::uint8_t{1}) == status::corrupt_profile);
  CHECK(verdict(model + 2, std::uint16_t{65}) == status::corrupt_profile);  // ropes
  CHECK(verdict(model + 2, std::uint16_t{0}) == status::corrupt_profile);
  for (std::uint32_t n : {2u, 4u, 4097u, 0xffffffffu})
    CHECK(verdict(model + 4, n) == status::corrupt_profile);          // layers
  CHECK(verdict(ropes, std::uint8_t{3}) == status::corrupt_profile);  // pairing
  CHECK(verdict(ropes, std::uint8_t{255}) == status::corrupt_profile);
  CHECK(verdict(ropes + 1, std::uint8_t{1}) == status::ok);              // scaling: linear
  CHECK(verdict(ropes + rope_size + 1, std::uint8_t{3}) == status::ok);  // yarn
  CHECK(verdict(ropes + 1, std::uint8_t{6}) == status::corrupt_profile);
  CHECK(verdict(ropes + 1, std::uint8_t{4}) == status::corrupt_profile);   // llama3 without its numbers
  CHECK(verdict(ropes + 2, std::uint16_t{1}) == status::corrupt_profile);  // reserved
  CHECK(verdict(ropes + 4, std::int32_t{3}) == status::corrupt_profile);  // rotary dims: odd, too many, fewer than none
  CHECK(verdict(ropes + 4, std::int32_t{10}) == status::corrupt_profile);
  CHECK(verdict(ropes + 4, std::int32_t{-2}) == status::corrupt_profile);
  for (std::size_t field = 0; field < 6; ++field)
    for (double x : {infinity, -infinity, nan}) CHECK(verdict(ropes + 8 + 8 * field, x) == status::corrupt_profile);
  for (std::size_t field : {0, 1, 5}) CHECK(verdict(ropes + 8 + 8 * field, 0.0) == status::corrupt_profile);
  CHECK(verdict(layers, std::int32_t{0}) == status::corrupt_profile);  // heads
  CHECK(verdict(layers, std::int32_t{-1}) == status::corrupt_profile);
  CHECK(verdict(layers, std::int32_t{4097}) == status::corrupt_profile);
  CHECK(verdict(layers, std::int32_t{3}) == status::corrupt_profile);          // not what the sections hold
  CHECK(verdict(layers + 4, std::int32_t{16385}) == status::corrupt_profile);  // head size of K and V
  CHECK(verdict(layers + 4, std::int32_t{INT32_MIN}) == status::corrupt_profile);
  CHECK(verdict(layers + 8, std::int32_t{-8}) == status::corrupt_profile);
  CHECK(verdict(layers + 8, std::int32_t{0}) == status::corrupt_profile);
  CHECK(verdict(layers + 12, std::int32_t{2}) == status::corrupt_profile);  // rope index
  CHECK(verdict(layers + 12, std::int32_t{-1}) == status::corrupt_profile);
  CHECK(verdict(layers + 16, std::int32_t{-1}) == status::corrupt_profile);  // window
  for (std::int32_t group : {0, -8, 4, 12, 20, 2048, INT32_MAX})             // group width
    CHECK(verdict(group_widths, group) == status::corrupt_profile);
  for (float x : {NAN, INFINITY, -INFINITY}) {
    CHECK(verdict(transform, x) == status::corrupt_profile);      // scale
    CHECK(verdict(quantizer + 4, x) == status::corrupt_profile);  // step
    CHECK(verdict(quantizer + 8, x) == status::corrupt_profile);  // loss
    CHECK(verdict(quantizer + 8 + 20, x) == status::corrupt_profile);
  }
  CHECK(verdict(transform, 0.f) == status::corrupt_profile);
  CHECK(verdict(transform, -1.f) == status::corrupt_profile);
  for (std::uint32_t calibrated : {0u, 2u, 0x101u, 0xffffffffu}) {
    CHECK(verdict(transform + 4, calibrated) == status::corrupt_profile);
    CHECK(verdict(entropy, calibrated) == status::corrupt_profile);
  }
  const std::size_t mean = transform + 8, matrix = mean + 32;
  CHECK(verdict(entropy + 4, std::uint8_t{255}) == status::ok);  // any byte is a class
  for (const std::uint16_t h : {std::uint16_t{0x7c00}, std::uint16_t{0xfc00}, std::uint16_t{0x7e00}}) {
    CHECK(verdict(mean, h) == status::corrupt_profile);
    CHECK(verdict(matrix, h) == status::corrupt_profile);
  }
  CHECK(verdict(mean, std::uint16_t{0x7bff}) == status::ok);
  // Heads of sections: stage, id, flags, size.
  for (const std::size_t at : {first_section, transform - 8, quantizer - 8, entropy - 8}) {
    CHECK(verdict(at, std::uint8_t{7}) == status::corrupt_profile);
    CHECK(verdict(at + 1, std::uint8_t{200}) == status::corrupt_profile);
    for (const int flags : {1, 2, 256}) CHECK(verdict(at + 2, std::uint16_t(flags)) == status::corrupt_profile);
    for (int by : {-1, 1, 4, 1 << 30})
      CHECK(verdict(at + 4, frames::load<std::uint32_t>(file, at + 4) + std::uint32_t(by)) == status::corrupt_profile);
  }
}

TEST_CASE("profile: sections of other stages are kept, skipped or refused") {
  const auto section = [](int stage, int id, bool optional, std::size_t size) {
    return profile_section{std::uint8_t(stage), std::uint8_t(id), optional, std::vector<std::byte>(size, std::byte{7})};
  };
  const profile plain = small_profile();
  profile p = plain;
  p.set_section(section(5, 130, true, 1000));
  p.set_section(section(1, 5, true, 0));
  p.set_section(section(5, 130, true, 33));  // in the place of the first
  REQUIRE(p.sections.size() == 2);
  CHECK(p.fingerprint() == plain.fingerprint());
  CHECK(p.fingerprint(profile_stage::entropy, 130) != p.fingerprint());
  CHECK(p.fingerprint(profile_stage::entropy, 131) == 0);
  const result<profile> q = profile::parse(p.serialize());
  REQUIRE(q);
  CHECK(q->sections == p.sections);
  CHECK(q->fingerprint(profile_stage::entropy, 130) == p.fingerprint(profile_stage::entropy, 130));
  p.sections[0].bytes[3] = std::byte{8};
  CHECK(q->fingerprint(profile_stage::entropy, 130) != p.fingerprint(profile_stage::entropy, 130));

  // What is not optional is part of the identity, and only for who knows it.
  p.set_section(section(2, 128, false, 5));
  CHECK(p.fingerprint() != plain.fingerprint());
  CHECK(profile::parse(p.serialize()).status() == status::missing_section);
  const std::uint16_t known[] = {2 * 256 + 128};
  const result<profile> r = profile::parse(p.serialize(), known);
  REQUIRE(r);
  CHECK(r->sections == p.sections);

  // Twice the same, or too many, is no profile.
  bytes twice = q->serialize();
  const std::size_t at = twice.size() - 4 - 2 * section_head - 33;
  const bytes copy(twice.begin() + std::ptrdiff_t(at), twice.begin() + std::ptrdiff_t(at + section_head + 33));
  twice.insert(twice.end() - 4, copy.begin(), copy.end());
  frames::fix_profile(twice);
  CHECK(profile::parse(twice).status() == status::corrupt_profile);
  profile many = plain;
  for (int i = 0; i < 64; ++i) many.set_section(section(4, i, true, 1));
  CHECK(validate(many) == status::ok);
  CHECK(profile::parse(many.serialize()).status() == status::ok);
  many.set_section(section(3, 1 + 128, true, 1));
  CHECK(validate(many) == status::corrupt_profile);
  CHECK(profile::parse(many.serialize()).status() == status::corrupt_profile);
}

TEST_CASE("profile: a few bytes cannot ask for gigabytes") {
  // Uncalibrated planes name their sizes and carry nothing: 4096 layers of 4096 heads, each a group of its own.
  model_shape huge = model_shape::uniform(4096, 4096, 16384);
  bytes file = profile::uncalibrated(huge).serialize();
  CHECK(profile::parse(file).status() == status::corrupt_profile);
  const profile large = profile::uncalibrated(model_shape::uniform(128, 128, 128));
  CHECK(profile::parse(large.serialize()).status() == status::ok);
  CHECK(validate(profile::uncalibrated(huge)) == status::corrupt_profile);
}

TEST_CASE("profile: random bytes behind right checksums") {
  const std::uint64_t seed = 99;
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const bytes file = small_profile().serialize();
  std::size_t accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    bytes b = file;
    for (std::uint64_t n = 1 + random() % 3; n > 0; --n) {
      const std::size_t at = body + std::size_t(random() % (random() % 2 ? 200 : b.size() - body - 8));
      if (random() % 2)
        b[at] = std::byte(random());
      else
        frames::store(b, at, std::uint32_t(random() >> random() % 33));
    }
    frames::fix_profile(b);
    const result<profile> p = profile::parse(b);
    if (!p) {
      CHECK(p.status() == status::corrupt_profile);
      continue;
    }
    ++accepted;
    CHECK(validate(*p) == status::ok);
    CHECK(p->serialize() == b);
  }
  CHECK(accepted > 100);
}

TEST_CASE("profile: encoder and decoder refuse what cannot be used") {
  const model_shape shape = model_shape::uniform(1, 2, 8);
  caches::cache c = caches::make_cache(shape, 20);
  caches::fill(c.view(), shape, 1);
  const profile good = caches::make_profile(shape, {&c.view(), 1});
  const bytes frame = caches::encode(good, c.view());
  REQUIRE(!frame.empty());
  bytes out(10000);
  const auto refused = [&](auto change) {
    profile p = good;
    change(p);
    encoder<> e(p);
    CHECK(e.max_size(c.view()) == 0);
    CHECK(e.encode(c.view(), out).status() == status::corrupt_profile);
    CHECK(decoder<>(p).decode(frame, c.view()).worst == status::corrupt_profile);
    encoder<codec::uncompressed> r(p);
    CHECK(r.encode(c.view(), out).status() == status::corrupt_profile);
  };
  refused([](profile& p) { p.passes = 0; });
  refused([](profile& p) { p.passes = 7; });
  refused([](profile& p) { p.sinks = -1; });
  refused([](profile& p) { p.planes.pop_back(); });
  refused([](profile& p) { p.planes[0].classes.pop_back(); });
  refused([](profile& p) { p.planes[1].matrix.clear(); });
  refused([](profile& p) { p.planes[1].mean[3] = 0x7c00; });
  refused([](profile& p) { p.planes[0].group_width = 12; });
  refused([](profile& p) { p.shape.ropes.clear(), p.shape.layers[0].rope_index = 1; });
  refused([](profile& p) { p.shape.layers.push_back(p.shape.layers[0]); });

  // A basis without an inverse: nothing can be encoded, what others encoded can be decoded.
  for (int kind = 0; kind < 3; ++kind) {
    profile singular = good;
    auto& m = singular.planes[1].matrix;
    for (std::size_t i = 0; i < 16; ++i) m[5 * 16 + i] = kind == 0 ? 0 : kind == 1 ? m[3 * 16 + i] : m[i];
    if (kind == 2)
      for (std::size_t r = 0; r < 16; ++r) m[r * 16 + 2] = 0;
    REQUIRE(validate(singular) == status::ok);
    encoder<> e(singular);
    CHECK(e.encode(c.view(), out).status() == status::corrupt_profile);
    profile usable = singular;
    bytes foreign = frame;
    frame_header h = frames::load<frame_header>(foreign, 0);
    h.fingerprint = usable.fingerprint();
    frames::store(foreign, 0, h);
    frames::fix_checksums(foreign);
    caches::cache back = caches::make_cache(shape, 20);
    CHECK(decoder<>(usable).decode(foreign, back.view()).worst == status::ok);
  }
  CHECK(caches::encode(profile::uncalibrated(shape), c.view()).size() > 0);
}
