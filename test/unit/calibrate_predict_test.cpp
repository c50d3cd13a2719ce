// SPDX-License-Identifier: Apache-2.0
// Predictors fitted to the first half of a real capture, asked about the second.
#include <sluice/calibrate/calibrate.hpp>
#include <sluice/codec/predict/predicted_from.hpp>

#include <doctest/doctest.h>
#include <support/real_cache.hpp>

#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

namespace {

using namespace sluice;

constexpr int rank = 8, half = 128;
using from_layers = predicted_from<previous_layer<>, same_layer_k_for_v>;
using from_all = predicted_from<token_embedding<rank>, previous_layer<>, same_layer_k_for_v>;

// The capture with the ids of its tokens, and embeddings that say a little of them.
struct half_known {
  real_cache real;
  std::vector<std::int32_t> ids;
  capture first;
  calibration_options options;

  explicit half_known(prediction_kind kind) {
    const auto* at = real.file.find("ids");
    REQUIRE(at);
    const auto* values = reinterpret_cast<const std::int32_t*>(real.file.bytes(*at).data());
    ids.assign(values, values + real.view.tokens);
    first.cache = real.view;
    first.cache.tokens = half;
    first.tokens = ids.data();
    options.prediction.kind = kind;
    if (kind.rank) {
      options.prediction.embeddings.vocab = 49152;
      options.prediction.embeddings.dim = 16;
      options.prediction.embeddings.row = [](std::int32_t token, float* row) {
        for (int i = 0; i < 16; ++i) row[i] = std::sin(float(token % 97) * float(i + 1));
      };
    }
  }
};

// Energy of rows of the second half beside that of their deviations from what is expected, over all K and all V.
template <class P>
void judge(const half_known& known, const profile& p, double (&mean)[2], double (&left)[2]) {
  const kv_view& v = known.real.view;
  P policy(p);
  policy.forget();
  const std::shared_ptr<const profile> residual = P::residual(p);
  REQUIRE(residual);
  std::vector<double> frequencies(std::size_t(v.k.head_dim / 2));
  rope_frequencies(p.shape.ropes[0], v.k.head_dim, frequencies);
  std::vector<std::uint16_t> rows;
  for (int i = 0; i < int(v.tokens) - half; ++i) rows.push_back(std::uint16_t(i));
  const tile_tokens_range range{half, half, int(rows.size())};
  for (int l = 0; l < v.num_layers; ++l)
    for (const plane which : {plane::key, plane::value}) {
      const plane_profile& q = p.of(l, which);
      const group_place at = place_of(p.shape, q.group_width, l, which, 0);
      const std::size_t width = std::size_t(q.width);
      REQUIRE(at.width() == q.width);
      std::vector<float> x(rows.size() * width), expected(rows.size() * width);
      for (std::size_t r = 0; r < rows.size(); ++r)
        for (int h = 0; h < v.num_kv_heads; ++h) {
          float* to = &x[r * width + std::size_t(h * at.head_dim)];
          for (int e = 0; e < at.head_dim; ++e) to[e] = load_element(v.at(which, l, half + rows[r], h, e), dtype::f16);
          if (which == plane::key) rotate(to, p.shape.ropes[0], frequencies, -(half + int(rows[r])));
        }
      const bool did = policy.predict(at, range, rows, {known.ids}, expected.data(), std::ptrdiff_t(width));
      const plane_profile& without = did ? residual->of(l, which) : q;
      for (std::size_t i = 0; i < x.size(); ++i) {
        const double a = double(x[i]) - double(to_float(f16{q.mean[i % width]}));
        const double b = double(x[i]) - double(expected[i]) - double(to_float(f16{without.mean[i % width]}));
        mean[int(which)] += a * a / double(q.step) / double(q.step);
        left[int(which)] += b * b / double(q.step) / double(q.step);
      }
      if constexpr (P::span > 0) policy.learn(at, range, rows, x.data(), std::ptrdiff_t(width));
    }
}

}  // namespace

TEST_CASE("calibrated prediction: the second half of a context from the first") {
  const half_known known(from_layers::kind);
  const result<profile> p = calibrate(known.real.model.shape, {&known.first, 1}, known.options);
  REQUIRE(p);
  double mean[2] = {}, left[2] = {};
  judge<from_layers>(known, *p, mean, left);
  MESSAGE("left of K ", left[0] / mean[0], ", of V ", left[1] / mean[1]);
  CHECK(left[0] < 0.8 * mean[0]);
  CHECK(left[1] < 0.95 * mean[1]);

  // All else is what it is without prediction, threads change nothing, and the file form holds the section.
  calibration_options plain;
  const result<profile> without = calibrate(known.real.model.shape, {&known.first, 1}, plain);
  REQUIRE(without);
  CHECK(p->fingerprint() == without->fingerprint());
  CHECK(p->planes == without->planes);
  calibration_options threads = known.options;
  threads.threads = 3;
  const result<profile> again = calibrate(known.real.model.shape, {&known.first, 1}, threads);
  REQUIRE(again);
  CHECK(again->serialize() == p->serialize());
  const result<profile> read = profile::parse(p->serialize());
  REQUIRE(read);
  CHECK(from_layers::fingerprint(*read) == from_layers::fingerprint(*p));
}

TEST_CASE("calibrated prediction: tokens are a source where their ids and embeddings are known") {
  half_known known(from_all::kind);
  const result<profile> p = calibrate(known.real.model.shape, {&known.first, 1}, known.options);
  REQUIRE(p);
  double mean[2] = {}, left[2] = {};
  judge<from_all>(known, *p, mean, left);
  CHECK(left[0] < 0.8 * mean[0]);
  // Layer 0 has nothing below it.
  CHECK(from_all::features(p->shape, 0, plane::key) == rank);
  CHECK_FALSE(from_layers::residual(*p));

  known.first.tokens = nullptr;
  CHECK(calibrate(known.real.model.shape, {&known.first, 1}, known.options).status() == status::invalid_argument);
  known.first.tokens = known.ids.data();
  known.options.prediction.embeddings = {};
  CHECK(calibrate(known.real.model.shape, {&known.first, 1}, known.options).status() == status::invalid_argument);
}

TEST_CASE("calibrated prediction: sweeps in their order") {
  const half_known known(from_layers::kind);
  calibrator c(known.real.model.shape, known.options);
  CHECK(c.add(known.first) == status::ok);
  CHECK(c.measure(known.first) == status::ok);
  CHECK(c.finish().status() == status::invalid_argument);  // the third is missing
  calibrator plain(known.real.model.shape, {});
  CHECK(plain.add(known.first) == status::ok);
  CHECK(plain.measure(known.first) == status::ok);
  CHECK(plain.predict(known.first) == status::invalid_argument);
  calibrator early(known.real.model.shape, known.options);
  CHECK(early.predict(known.first) == status::invalid_argument);
}
