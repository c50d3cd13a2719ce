// SPDX-License-Identifier: Apache-2.0
// int8, fp8 and TurboQuant on the KV cache of a real model, against their arithmetic written out here a second time, and
// what their parts promise: a rotation, levels that are Lloyd's and Max's, the numbers of e4m3.
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/preset/fp8.hpp>
#include <sluice/codec/preset/int4.hpp>
#include <sluice/codec/preset/turboquant.hpp>

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
#include <random>
#include <vector>

namespace {

using namespace sluice;
using codec::fp8;
using codec::int8;
using codec::turboquant;

using bytes = std::vector<std::byte>;

constexpr int tokens = 256, heads = 3, dim = 64, layers = 30;
constexpr std::uint64_t seed = 20261202;

std::vector<float> head_of(const kv_view& v, plane which, int l, int t, int h) {
  std::vector<float> x;
  for (int d = 0; d < v[which].head_dim; ++d) x.push_back(load_element(v.at(which, l, t, h, d), v[which].type));
  return x;
}

// Every head of a token must come back as `expect` says, bit for bit; returns the frame.
template <class Codec, class Expect>
bytes round_trip(double bits_per_value, Expect expect) {
  const real_cache c;
  const profile plain = profile::uncalibrated(c.model.shape);
  const bytes frame = caches::encode<Codec>(plain, c.view);
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  CHECK(index.header().codec == Codec::id);
  CHECK(index.header().fingerprint == 0);
  const double rate = 8 * double(frame.size()) / double(2 * layers * tokens * heads * dim);
  CHECK(rate == doctest::Approx(bits_per_value).epsilon(0.01));
  caches::cache back = caches::make_cache(c.model.shape, tokens);
  REQUIRE(caches::decode<Codec>(plain, frame, back.view()).worst == status::ok);
  std::size_t wrong = 0;
  for (int l = 0; l < layers; ++l)
    for (plane which : caches::planes)
      for (int t = 0; t < tokens; ++t)
        for (int h = 0; h < heads; ++h) {
          const std::vector<float> x = expect(head_of(c.view, which, l, t, h)),
                                   y = head_of(back.view(), which, l, t, h);
          for (int d = 0; d < dim; ++d)
            wrong += from_float<f16>(x[std::size_t(d)]).bits != from_float<f16>(y[std::size_t(d)]).bits;
        }
  CHECK(wrong == 0);
  std::printf("%.3f bits a value, relative error %.4f\n", rate, caches::relative_error(c.view, back.view()));
  return frame;
}

std::vector<float> by_absmax(const std::vector<float>& in) {
  float most = 0;
  for (float x : in) most = std::max(most, std::fabs(x));
  const float step = to_float(from_float<f16>(most / 127));
  std::vector<float> out = in;
  for (float& x : out) x = step > 0 ? std::clamp(std::floor(x * (1 / step) + 128.5f) - 128, -127.f, 127.f) * step : 0;
  return out;
}

std::vector<float> by_cast(const std::vector<float>& in) {
  std::vector<float> out = in;
  for (float& x : out) {
    int exponent;
    std::frexp(x, &exponent);
    const double unit = std::ldexp(1, std::max(exponent - 1, -6) - 3);
    x = float(std::clamp(std::nearbyint(double(x) / unit) * unit, -448.0, 448.0));
  }
  return out;
}

// Signs and a Hadamard matrix of 64, element by element.
void turn(std::vector<double>& x, bool back) {
  std::uint32_t z = 1;
  std::vector<double> sign(x.size()), y(x.size());
  for (double& s : sign) s = (z = z * 1664525 + 1013904223) >> 31 ? -1 : 1;
  for (std::size_t k = 0; k < x.size(); ++k)
    for (std::size_t i = 0; i < x.size(); ++i)
      y[k] += (__builtin_popcountll(i & k) % 2 ? -x[i] : x[i]) * (back ? 1 : sign[i]);
  for (std::size_t k = 0; k < x.size(); ++k) x[k] = y[k] / std::sqrt(double(x.size())) * (back ? sign[k] : 1);
}

// Errors of TurboQuant on one head, as parts of its energy.
double error_of(const std::vector<double>& x, const std::vector<double>& y) {
  double e = 0, all = 0;
  for (std::size_t i = 0; i < x.size(); ++i) e += (x[i] - y[i]) * (x[i] - y[i]), all += x[i] * x[i];
  return all > 0 ? e / all : 0;
}

// What TurboQuant makes of a head, in doubles. Its floats may land on the other side of a threshold, so values are compared
// where no coordinate is near one.
template <int Bits>
void check_turboquant() {
  const real_cache c;
  const profile plain = profile::uncalibrated(c.model.shape);
  const bytes frame = caches::encode<turboquant<Bits>>(plain, c.view);
  caches::cache back = caches::make_cache(c.model.shape, tokens, dtype::f32);
  REQUIRE(caches::decode<turboquant<Bits>>(plain, frame, back.view()).worst == status::ok);
  CHECK(8 * double(frame.size()) / double(2 * layers * tokens * heads * dim) ==
        doctest::Approx(Bits + 16. / dim).epsilon(0.01));
  const auto levels = detail::normal_levels::of(Bits);
  std::size_t compared = 0, near = 0, wrong = 0;
  double error = 0, energy_lost = 0;
  for (int l = 0; l < layers; ++l)
    for (plane which : caches::planes)
      for (int t = 0; t < tokens; ++t)
        for (int h = 0; h < heads; ++h) {
          const std::vector<float> in = head_of(c.view, which, l, t, h), out = head_of(back.view(), which, l, t, h);
          const std::vector<double> was(in.begin(), in.end()), got(out.begin(), out.end());
          std::vector<double> y = was;
          turn(y, false);
          double squares = 0, of_levels = 0;
          for (const double v : y) squares += v * v;
          const double rms = std::sqrt(squares / dim);
          bool sure = true;
          for (double& v : y) {
            std::size_t k = 0;
            for (std::size_t i = 1; i < levels.size(); ++i) {
              const double threshold = 0.5 * (double(levels[i]) + double(levels[i - 1]));
              k += v / rms >= threshold;
              sure &= std::fabs(v / rms - threshold) > 1e-5;
            }
            v = double(levels[k]);
            of_levels += v * v;
          }
          const double scale = double(to_float(from_float<f16>(float(std::sqrt(squares / of_levels)))));
          for (double& v : y) v *= scale;
          turn(y, true);
          ++(sure ? compared : near);
          double norm = 0;
          for (std::size_t i = 0; i < got.size(); ++i) {
            wrong += sure && !(std::fabs(got[i] - y[i]) <= 1e-5 * rms + 1e-6);
            norm += got[i] * got[i];
          }
          error += error_of(was, got);
          energy_lost += std::fabs(norm / squares - 1);
        }
  CHECK(wrong == 0);
  CHECK(near < compared / 20);
  const double n = double(compared + near);
  // Lloyd and Max: 0.009497 and 0.03454 of the variance, a little more since norms stay and heads are not quite normal.
  const double due = Bits == 4 ? 0.009497 : 0.03454;
  std::printf("turboquant%d: error %.5f of the energy\n", Bits, error / n);
  CHECK(error / n == doctest::Approx(due).epsilon(0.1));
  CHECK(energy_lost / n < 1e-3);  // an f16 rounds the norm
}

// Damage in one tile: it is named, and every other tile comes back as if nothing had happened.
template <class Codec>
void damage() {
  const real_cache c;
  const kv_view source = c.view.slice(0, 64);
  const profile plain = profile::uncalibrated(c.model.shape);
  const bytes frame = caches::encode<Codec>(plain, source);
  caches::cache sound = caches::make_cache(plain.shape, 64), back = caches::make_cache(plain.shape, 64);
  REQUIRE(caches::decode<Codec>(plain, frame, sound.view()).worst == status::ok);
  const auto wanted = caches::floats(sound.view());
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; ++round) {
    CAPTURE(round);
    const byte_range r = index.range(random() % index.tiles_per_pass());
    bytes bad = frame;
    // Every second time behind the checksums, and there mostly in the heads, where the sizes are.
    const bool forged = round % 2;
    const std::size_t reach = forged && round % 4 == 1 ? 32 : std::size_t(r.size());
    bad[std::size_t(r.begin) + random() % reach] ^= std::byte(1 + random() % 255);
    if (forged) frames::fix_checksums(bad);
    back.wipe();
    const page_status s = caches::decode<Codec>(plain, bad, back.view());
    if (forged)
      CHECK((s.worst == status::ok || s.worst == status::corrupt_tile || s.worst == status::absent));
    else
      CHECK((s.worst == status::corrupt_tile && s.damaged == 1));
    const auto got = caches::floats(back.view());
    std::size_t differs = 0;
    for (std::size_t k = 0; k < got.size(); ++k) differs += got[k] != wanted[k];
    CHECK(differs <= 64 * dim);
  }
}

}  // namespace

TEST_CASE("fp8, int8 and turboquant: what stands in the frame") {
  static_assert(int8::id.quantizer == stage_id::of(3, 0) && int8::id.bit_widths == stage_id::of(1, 8));
  static_assert(int8::id.decodes(codec::int4::id));
  static_assert(fp8::id.method == stage_id::of(0, 256 | 1 << 13) && fp8::id.transform == stage_id::of(0));
  static_assert(fp8::id.quantizer == stage_id::of(4) && fp8::id.entropy == stage_id::of(2));
  static_assert(turboquant<4>::id.transform == stage_id::of(2, 1) && turboquant<4>::id.quantizer == stage_id::of(5));
  static_assert(turboquant<4>::id.decodes(turboquant<3>::id) && !(turboquant<4>::id == turboquant<3>::id));
  static_assert(turboquant<4>::domain == value_domain::rotated);
  CHECK_FALSE(fp8::keeps_exact(profile{}, 0, 1));
  CHECK_FALSE(turboquant<4>::uses(profile{}));
  CHECK_FALSE(fp8::uses(profile{}));
}

TEST_CASE("int8: a real cache, bit for bit") { round_trip<int8>(8 + 16. / dim, by_absmax); }

TEST_CASE("fp8: a real cache, bit for bit") { round_trip<fp8>(8, by_cast); }

TEST_CASE("fp8: every number of the type comes back, and what is beyond it becomes its largest") {
  const model_shape shape = model_shape::uniform(1, 1, 254, {.pairing = rope_pairing::none});
  const profile p = profile::uncalibrated(shape);
  caches::cache source = caches::make_cache(shape, 40, dtype::f32), back = caches::make_cache(shape, 40, dtype::f32);
  const float beyond[] = {448, 449, 464, 1e6f, -3e38f};
  for (plane which : caches::planes)
    for (int t = 0; t < 40; ++t)
      for (int i = 0; i < 254; ++i) {
        const float x = to_float(e4m3{std::uint8_t(i < 127 ? i : i + 1)});
        caches::set(source.view(), which, 0, t, 0, i, t == 0 && i < 5 ? beyond[i] : x);
      }
  const bytes frame = caches::encode<fp8>(p, source.view());
  REQUIRE(caches::decode<fp8>(p, frame, back.view()).worst == status::ok);
  for (int i = 0; i < 5; ++i)
    CHECK(load_element(back.view().at(plane::key, 0, 0, 0, i), dtype::f32) == (beyond[i] < 0 ? -448.f : 448.f));
  for (int t = 1; t < 40; ++t)
    CHECK(std::memcmp(source.view().at(plane::key, 0, t, 0, 0), back.view().at(plane::key, 0, t, 0, 0), 254 * 4) == 0);
}

TEST_CASE("turboquant: a real cache, as its definition says, with the error that is due") {
  check_turboquant<4>();
  check_turboquant<3>();
}

TEST_CASE("lloyd_max: levels are the means of what is nearest to them in a normal distribution") {
  const auto density = [](double x) { return std::exp(-x * x / 2) / std::sqrt(2 * detail::pi); };
  const auto above = [](double x) { return std::erfc(x / std::sqrt(2)) / 2; };
  for (int bits = 1; bits <= 4; ++bits) {
    const auto levels = detail::normal_levels::of(bits);
    REQUIRE(levels.size() == std::size_t(1) << bits);
    for (std::size_t i = 0; i < levels.size(); ++i) {
      CHECK(levels[i] == -levels[levels.size() - 1 - i]);
      const double low = i ? (double(levels[i - 1]) + double(levels[i])) / 2 : -40;
      const double high = i + 1 < levels.size() ? (double(levels[i]) + double(levels[i + 1])) / 2 : 40;
      const double mean = (density(low) - density(high)) / (above(low) - above(high));
      CHECK(std::fabs(mean - double(levels[i])) < 1e-6);
    }
  }
  for (int bits : {0, 5, 8, 255}) CHECK(detail::normal_levels::of(bits).empty());
}

TEST_CASE("random_rotation: turns heads of any size, keeps norms, and leaves no channel alone") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (int d : {1, 2, 3, 7, 16, 36, 40, 64, 80, 96, 112, 127, 128, 192, 256, 300, 576}) {
    CAPTURE(d);
    detail::hadamard_rotation r(d, 1), other(d, 2);
    std::vector<float> x(std::size_t(d), 0.f);
    for (float& v : x) v = normal(random);
    std::vector<float> y = x, z = x;
    r.forward(y.data());
    other.forward(z.data());
    if (d > 7) CHECK(y != z);
    double before = 0, after = 0, worst = 0;
    for (std::size_t i = 0; i < x.size(); ++i) before += double(x[i] * x[i]), after += double(y[i] * y[i]);
    CHECK(after == doctest::Approx(before).epsilon(1e-5));
    r.inverse(y.data());
    for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::fabs(double(x[i] - y[i])));
    CHECK(worst < 1e-5);
    // A single loud channel: no coordinate keeps much of it, and they are all of about one size.
    for (int loud = 0; loud < d && d > 7; loud += 1 + d / 40) {
      std::vector<float> one(std::size_t(d), 0.f);
      one[std::size_t(loud)] = 1;
      r.forward(one.data());
      float most = 0;
      for (const float v : one) most = std::max(most, std::fabs(v));
      CHECK(most * most * float(d) < 2 * std::log(float(d)) + 14);  // a matrix of chance: 2 ln d and a few
    }
  }
}

TEST_CASE("turboquant: heads of other sizes, of types and layouts, zeros, and what f16 cannot say") {
  const model_shape shape{{{2, 36, 80}, {3, 96, 0}}, {rope{}}};
  const profile p = profile::uncalibrated(shape);
  for (const dtype type : {dtype::f32, dtype::bf16}) {
    const std::vector<caches::layer_kind> kinds(2, {type, type, 10, 50});
    const caches::mixed_cache source(shape, kinds), back(shape, kinds);
    for (const kv_view& v : source.views()) {
      caches::fill(v, shape, seed);
      for (int d = 0; d < v.k.head_dim; ++d) caches::set(v, plane::key, 0, 7, 1, d, 0.f);
      caches::set(v, plane::key, 0, 5, 0, 3, std::numeric_limits<float>::quiet_NaN());
    }
    const bytes frame = caches::encode<turboquant<4>>(p, source.views());
    REQUIRE(caches::decode<turboquant<4>>(p, frame, back.views()).worst == status::ok);
    for (std::size_t i = 0; i < source.views().size(); ++i) {
      const kv_view &a = source.views()[i], &b = back.views()[i];
      CHECK(std::memcmp(a.at(plane::key, 0, 5, 0, 0), b.at(plane::key, 0, 5, 0, 0), std::size_t(size_of(type)) * 36) ==
            0);
      CHECK(caches::relative_error(a.slice(8, 40), b.slice(8, 40)) < 0.13);
      for (int d = 0; d < a.k.head_dim; ++d) CHECK(load_element(b.at(plane::key, 0, 7, 1, d), type) == 0);
    }
  }
  caches::cache huge = caches::make_cache(model_shape::uniform(1, 1, 64), 20, dtype::f32);
  const profile q = profile::uncalibrated(model_shape::uniform(1, 1, 64));
  caches::fill(huge.view(), q.shape, seed);
  caches::set(huge.view(), plane::key, 0, 3, 0, 5, 1e9f);
  caches::cache same = caches::make_cache(q.shape, 20, dtype::f32);
  const bytes frame = caches::encode<turboquant<4>>(q, huge.view());
  REQUIRE(caches::decode<turboquant<4>>(q, frame, same.view()).worst == status::ok);
  CHECK(std::memcmp(huge.view().at(plane::key, 0, 3, 0, 0), same.view().at(plane::key, 0, 3, 0, 0), 64 * 4) == 0);
}

TEST_CASE("fp8, int8 and turboquant: damaged tiles") {
  damage<int8>();
  damage<fp8>();
  damage<turboquant<3>>();
}

TEST_CASE("turboquant: scales that are no numbers and widths without levels are refused") {
  const model_shape shape = model_shape::uniform(1, 2, 32);
  const profile p = profile::uncalibrated(shape);
  caches::cache source = caches::make_cache(shape, 30), back = caches::make_cache(shape, 30);
  caches::fill(source.view(), shape, seed);
  const bytes frame = caches::encode<turboquant<4>>(p, source.view());
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  const byte_range r = index.range(1);
  tile_envelope t;
  REQUIRE(parse_tile({reinterpret_cast<const std::uint8_t*>(frame.data()) + r.begin, std::size_t(r.size())}, 30, 64,
                     t) == status::ok);
  const auto at = std::size_t(reinterpret_cast<const std::byte*>(t.base[section::quantizer].data()) - frame.data());
  REQUIRE(t.base[section::quantizer].size() == 1 + 2 * 30);
  const auto refused = [&](std::size_t offset, std::uint16_t value, std::size_t n) {
    bytes bad = frame;
    std::memcpy(bad.data() + at + offset, &value, n);
    frames::fix_checksums(bad);
    const page_status s = caches::decode<turboquant<4>>(p, bad, back.view());
    CHECK((s.worst == status::corrupt_tile && s.damaged == 1));
  };
  for (int bits : {0, 1, 3, 5, 8, 255}) refused(0, std::uint16_t(bits), 1);
  refused(1, 0x7c00, 2);
  refused(59, 0xfe01, 2);
  // Widths that have no levels are refused by the encoder.
  using wide = codec::basic_codec<tile_tokens<>, no_prediction, random_rotation<>, lloyd_max, uniform_bits<5>, bitpack>;
  using narrow =
      codec::basic_codec<tile_tokens<>, no_prediction, identity_transform, fp8_cast, uniform_bits<7>, bitpack>;
  bytes out(1 << 16);
  CHECK(encoder<wide>(p).encode(source.view(), out).status() == status::invalid_argument);
  CHECK(encoder<narrow>(p).encode(source.view(), out).status() == status::invalid_argument);
}
