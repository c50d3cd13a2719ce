// SPDX-License-Identifier: Apache-2.0
#include <sluice/calibrate/calibrate.hpp>
#include <sluice/codec/entropy/class_rans/class_choice.hpp>
#include <sluice/codec/transform/inverse_bases.hpp>

#include <Eigen/Dense>
#include <safetensors.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

using namespace sluice;

namespace {

// A small model with everything awkward: partial interleaved rotation, K and V of different sizes, grouped queries.
struct synthetic {
  static constexpr int layers = 2, heads = 2, queries = 4, dk = 16, dv = 8, asked = 8;
  model_shape shape;
  int tokens;
  std::vector<float> k, v, q2, wo;
  std::vector<f16> q;
  std::vector<capture_layer> known;
  capture c;

  synthetic(unsigned seed, int tokens_, bool with_v = true) : tokens(tokens_) {
    std::mt19937 model(7), rng(seed);
    std::normal_distribution<float> gauss;
    rope r;
    r.pairing = rope_pairing::interleaved;
    r.rotary_dims = 8;
    r.base = 1000;
    shape.ropes = {r};
    shape.layers.assign(layers, {heads, dk, with_v ? dv : 0, 0, 0});
    std::vector<double> frequencies(4);
    rope_frequencies(r, dk, frequencies);

    const auto fill = [&](std::vector<float>& out, int dim, bool rotated) {
      for (int l = 0; l < layers; ++l) {
        std::vector<float> mix(std::size_t(heads * dim * heads * dim)), offset(std::size_t(heads * dim));
        for (float& m : mix) m = gauss(model);
        for (float& m : offset) m = 30 * gauss(model);
        const auto n = std::size_t(heads * dim);
        for (int t = 0; t < tokens; ++t) {
          std::vector<float> row = offset, z(n);
          for (std::size_t i = 0; i < n; ++i) z[i] = gauss(rng) * std::pow(0.8f, float(i));
          for (std::size_t i = 0; i < n; ++i)
            for (std::size_t j = 0; j < n; ++j) row[i] += mix[i * n + j] * z[j];
          if (rotated)
            for (int h = 0; h < heads; ++h) rotate(row.data() + h * dim, r, frequencies, t);
          out.insert(out.end(), row.begin(), row.end());
        }
      }
    };
    fill(k, dk, true);
    if (with_v) fill(v, dv, false);
    for (int i = 0; i < layers * heads * dk; ++i) q2.push_back(0.1f + std::abs(gauss(model)));
    for (int i = 0; i < layers * heads; ++i) {
      std::vector<float> m(std::size_t(dv * dv));
      for (float& x : m) x = gauss(model);
      for (int a = 0; a < dv; ++a)
        for (int b = 0; b < dv; ++b) {
          float sum = 0;
          for (int j = 0; j < dv; ++j) sum += m[std::size_t(j * dv + a)] * m[std::size_t(j * dv + b)];
          wo.push_back(sum);
        }
    }
    for (int i = 0; i < layers * asked * queries * dk; ++i) q.push_back(from_float<f16>(0.05f * gauss(rng)));
    for (int l = 0; l < layers; ++l)
      known.push_back({q2.data() + l * heads * dk, with_v ? wo.data() + l * heads * dv * dv : nullptr,
                       q.data() + l * asked * queries * dk});

    const auto view = [&](std::vector<float>& x, int dim) {
      plane_view p;
      p.base = reinterpret_cast<std::byte*>(x.data());
      p.element_stride = 4;
      p.head_stride = 4 * dim;
      p.token_stride = 4 * dim * heads;
      p.layer_stride = 4L * dim * heads * tokens;
      p.type = dtype::f32;
      p.head_dim = dim;
      return p;
    };
    c.cache.k = view(k, dk);
    if (with_v) c.cache.v = view(v, dv);
    c.cache.num_layers = layers;
    c.cache.num_kv_heads = heads;
    c.cache.tokens = c.cache.capacity = tokens;
    c.layers = known;
    c.query_tokens = asked;
    c.num_heads = queries;
  }
  synthetic(const synthetic&) = delete;
};

// A capture of kvlab.py; see its description there.
struct captured {
  safetensors::file file;
  std::vector<std::byte*> k, v;
  std::vector<capture_layer> known;
  model_shape shape;
  capture c;

  explicit captured(const std::string& path) {
    REQUIRE(!file.open(path));
    const auto number = [&](const std::string& key) { return std::stod(file.meta().at(key)); };
    const auto values = [&](const char* what, int l) {
      return file.bytes(*file.find(what + std::to_string(l))).data();
    };
    const int layers = int(number("layers")), heads = int(number("kv_heads")), dim = int(number("head_dim"));
    for (int l = 0; l < layers; ++l) {
      k.push_back(values("k.", l));
      v.push_back(values("v.", l));
      known.push_back({reinterpret_cast<const float*>(values("q2.", l)),
                       reinterpret_cast<const float*>(values("wo.", l)),
                       reinterpret_cast<const f16*>(values("q.", l))});
      rope r;
      r.base = number("rope_base." + std::to_string(l));
      shape.ropes.push_back(r);
      shape.layers.push_back({heads, dim, dim, l, int(number("window." + std::to_string(l)))});
    }
    plane_view p;
    p.layer_bases = k.data();
    p.element_stride = 2;
    p.head_stride = 2 * dim;
    p.token_stride = 2 * dim * heads;
    p.head_dim = dim;
    c.cache.k = p;
    p.layer_bases = v.data();
    c.cache.v = p;
    c.cache.num_layers = layers;
    c.cache.num_kv_heads = heads;
    c.cache.tokens = c.cache.capacity = int(number("tokens"));
    c.layers = known;
    c.query_tokens = 32;
    c.num_heads = int(file.find("q.0")->shape[1]);
  }
  captured(const captured&) = delete;
};

Eigen::MatrixXd decoder_matrix(const plane_profile& p, int g) {
  const int w = p.width_of(g);
  Eigen::MatrixXd m(w, w);
  for (int i = 0; i < w; ++i)
    for (int j = 0; j < w; ++j) m(i, j) = double(p.scale) * double(to_float(f16{p.matrix_of(g)[i * w + j]}));
  return m;
}

// Un-rotated rows without the sinks, by the scalar reference.
Eigen::MatrixXd rows_of(const capture& c, const model_shape& shape, int layer, plane which, int sinks) {
  const plane_view& p = c.cache[which];
  const int heads = c.cache.num_kv_heads;
  const rope& r = shape.ropes[std::size_t(shape.layers[std::size_t(layer)].rope_index)];
  std::vector<double> frequencies(std::size_t(rotary_dims(r, p.head_dim) / 2));
  rope_frequencies(r, p.head_dim, frequencies);
  Eigen::MatrixXd x(c.cache.tokens - sinks, heads * p.head_dim);
  std::vector<float> row(std::size_t(p.head_dim));
  for (int t = sinks; t < c.cache.tokens; ++t)
    for (int h = 0; h < heads; ++h) {
      for (int i = 0; i < p.head_dim; ++i)
        row[std::size_t(i)] = load_element(c.cache.at(which, layer, t, h, i), p.type);
      if (which == plane::key) rotate(row.data(), r, frequencies, c.cache.position + t, rotation::inverse);
      for (int i = 0; i < p.head_dim; ++i) x(t - sinks, h * p.head_dim + i) = double(row[std::size_t(i)]);
    }
  return x;
}

// The metric of one head, written down again: diag(q2 averaged over each rotary pair / head_dim) or wo, floored.
Eigen::MatrixXd metric_of(const capture_layer& known, const rope& r, plane which, int h, int d) {
  Eigen::MatrixXd w = Eigen::MatrixXd::Zero(d, d);
  for (int i = 0; i < d; ++i)
    for (int j = 0; j < d; ++j) {
      if (which == plane::value) {
        w(i, j) = double(known.wo[(h * d + i) * d + j]);
      } else if (i == j) {
        const int dims = rotary_dims(r, d);
        const int other = i >= dims ? i : r.pairing == rope_pairing::half ? (i + dims / 2) % dims : i ^ 1;
        w(i, i) = double(known.q2[h * d + i] + known.q2[h * d + other]) / 2 / d;
      }
    }
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> e(w);
  const Eigen::VectorXd floored = e.eigenvalues().cwiseMax(1e-4 * e.eigenvalues().maxCoeff());
  return e.eigenvectors() * floored.asDiagonal() * e.eigenvectors().transpose();
}

// What must hold of a profile on the capture that it was made from.
void check_profile(const profile& p, const capture& c, const model_shape& shape, const calibration_options& options) {
  REQUIRE(int(p.planes.size()) == 2 * shape.num_layers());
  CHECK(p.calibrated());
  const auto bytes = p.serialize();
  const auto again = profile::parse(bytes);
  REQUIRE(again.has_value());
  CHECK(again->fingerprint() == p.fingerprint());

  double total = 0, worst_correlation = 0, worst_prediction = 0, worst_order = 0, bits = 0, entropy = 0;
  for (int l = 0; l < shape.num_layers(); ++l)
    for (const plane which : {plane::key, plane::value}) {
      const plane_profile& q = p.of(l, which);
      const int d = shape.layers[std::size_t(l)].head_dim(which), heads = shape.layers[std::size_t(l)].num_kv_heads;
      REQUIRE(q.width == d * heads);
      if (!q.width) continue;
      REQUIRE(int(q.classes.size()) == q.width);
      REQUIRE(int(q.mean.size()) == q.width);
      REQUIRE(q.matrix.size() == q.matrix_size());
      float largest = 0;
      for (const std::uint16_t m : q.matrix) largest = std::max(largest, std::abs(to_float(f16{m})));
      CHECK(largest > 0.5f);
      CHECK(largest <= 1.0f);
      CHECK(std::ldexp(1.0f, std::ilogb(q.scale)) == q.scale);
      for (int j = 0; j + 1 < p.passes; ++j) CHECK(q.loss[std::size_t(j)] >= q.loss[std::size_t(j) + 1]);
      total += double(q.loss[std::size_t(std::min(1, p.passes - 1))]);

      const Eigen::MatrixXd x = rows_of(c, shape, l, which, p.sinks);
      const auto index = std::size_t(l);
      double error = 0;
      const int level = 1, scale = detail::power_of_3(p.passes - 1 - level);
      for (int g = 0; g < q.groups(); ++g) {
        const int w = q.width_of(g), begin = g * q.group_width;
        const Eigen::MatrixXd m = decoder_matrix(q, g);
        std::vector<float> inverse;
        REQUIRE(detail::invert_basis(q.matrix_of(g), w, double(q.scale), inverse));
        Eigen::RowVectorXd mean(w);
        for (int j = 0; j < w; ++j) mean(j) = double(to_float(f16{q.mean[std::size_t(begin + j)]}));
        const Eigen::MatrixXd y = (x.middleCols(begin, w).rowwise() - mean) * m.inverse();

        const Eigen::MatrixXd centred = y.rowwise() - y.colwise().mean();
        const Eigen::MatrixXd cov = centred.transpose() * centred / double(y.rows());
        for (int i = 0; i < w; ++i)
          for (int j = 0; j < i; ++j)
            if (cov(i, i) > 0.01 && cov(j, j) > 0.01)  // what is far below a step may be anything
              worst_correlation = std::max(worst_correlation, std::abs(cov(i, j)) / std::sqrt(cov(i, i) * cov(j, j)));
        for (int i = 1; i < w; ++i) worst_order = std::max(worst_order, cov(i, i) / (cov(i - 1, i - 1) + 0.01) - 1);

        Eigen::MatrixXd e(y.rows(), w);
        for (int k = 0; k < w; ++k) {
          std::vector<detail::coefficient_counts> counts(1);
          for (int t = 0; t < y.rows(); ++t) {
            const double c1 = std::round(y(t, k) / scale) * scale;
            e(t, k) = y(t, k) - c1;
            counts[0].add(static_cast<int>(std::lround(y(t, k))), 1, p.passes);
          }
          const auto& n = counts[0];
          for (std::size_t v = 0; v < n.base.size(); ++v)
            if (n.base[v]) {
              bits += double(n.base[v]) * double(detail::bits_base(q.classes[std::size_t(begin + k)], p.passes - 1,
                                                                   int(v) - detail::coefficient_counts::range));
              entropy -= double(n.base[v]) * std::log2(double(n.base[v]) / double(n.total));
            }
        }
        // Back to channels, and there weighted: the long way round to the error that the profile predicts.
        const Eigen::MatrixXd dx = e * m;
        for (int h = 0; h * d < w; ++h) {
          const Eigen::MatrixXd metric = metric_of(
              c.layers[index], shape.ropes[std::size_t(shape.layers[index].rope_index)], which, begin / d + h, d);
          error += (dx.middleCols(h * d, d) * metric).cwiseProduct(dx.middleCols(h * d, d)).sum();
        }
      }
      error /= double(x.size());
      if (!options.sensitivity_k.empty()) {
        const double s =
            sluice::detail::interaction * (which == plane::key ? options.sensitivity_k : options.sensitivity_v)[index];
        worst_prediction = std::max(worst_prediction, std::abs(double(q.loss[1]) / (s * error) - 1));
      }
    }
  MESSAGE("level 1 loss ", total, ", correlation ", worst_correlation, ", prediction off by ", worst_prediction,
          ", base bits ", bits, " entropy ", entropy);
  CHECK(std::abs(total / options.target_kl - 1) < 0.05);
  CHECK(worst_correlation < 0.05);
  CHECK(worst_order < 0.02);
  CHECK(worst_prediction < 0.05);
  CHECK(bits < 1.2 * entropy);  // the classes were chosen to hold on text not seen
}

}  // namespace

TEST_CASE("a synthetic model with partial rotary embedding and unlike K and V") {
  const auto seed = std::random_device{}();
  INFO("seed ", seed);
  synthetic s(seed, 2048);
  calibration_options options;
  for (const int heads_per_basis : {0, 1}) {
    CAPTURE(heads_per_basis);
    options.heads_per_basis = heads_per_basis;
    options.sensitivity_k = {0.02, 0.3};
    options.sensitivity_v = {0.01, 0.002};
    const auto p = calibrate(s.shape, std::span(&s.c, 1), options);
    REQUIRE(p.has_value());
    CHECK(p->of(0, plane::key).groups() == (heads_per_basis ? 2 : 1));
    check_profile(*p, s.c, s.shape, options);
    // Steps go with the square root of the sensitivity, within a factor of ten of the median.
    CHECK(p->of(0, plane::key).step / p->of(1, plane::key).step == doctest::Approx(std::sqrt(15)).epsilon(1e-3));
  }
}

TEST_CASE("without sensitivities steps follow the queries, without queries the energy") {
  synthetic s(11, 1024);
  calibration_options options;
  options.target_kl = 1e-7;  // little of so constant a V is news to the attention output
  const auto by_queries = calibrate(s.shape, std::span(&s.c, 1), options);
  REQUIRE(by_queries.has_value());
  check_profile(*by_queries, s.c, s.shape, options);

  for (capture_layer& l : s.known) l.queries = nullptr;
  options.target_kl = 0.002;
  const auto by_energy = calibrate(s.shape, std::span(&s.c, 1), options);
  REQUIRE(by_energy.has_value());
  check_profile(*by_energy, s.c, s.shape, options);
  CHECK(by_energy->fingerprint() != by_queries->fingerprint());

  capture bare = s.c;
  bare.layers = {};
  CHECK(calibrate(s.shape, std::span(&bare, 1), options).has_value());

  // A target that losing everything would hardly miss still leaves a codec that codes something.
  options.target_kl = 10;
  const auto loose = calibrate(s.shape, std::span(&bare, 1), options);
  REQUIRE(loose.has_value());
  CHECK(detail::live_blocks(loose->of(0, plane::key).classes, 2) == 1);
}

TEST_CASE("threads change nothing, and captures may be a model's layers in parts") {
  synthetic a(1, 700), b(2, 900);
  calibration_options options;
  const std::vector<capture> both{a.c, b.c};
  const auto one = calibrate(a.shape, both, options);
  options.threads = 3;
  const auto three = calibrate(a.shape, both, options);
  REQUIRE(one.has_value());
  REQUIRE(three.has_value());
  CHECK(one->fingerprint() == three->fingerprint());

  std::vector<capture> parts;
  const std::int32_t ids[2] = {0, 1};
  for (const capture& c : both)
    for (int l = 0; l < 2; ++l) {
      capture part = c;
      part.cache.num_layers = 1;
      part.cache.layer_ids = ids + l;
      part.cache.k.base += l * c.cache.k.layer_stride;
      part.cache.v.base += l * c.cache.v.layer_stride;
      part.layers = c.layers.subspan(std::size_t(l), 1);
      parts.push_back(part);
    }
  const auto split = calibrate(a.shape, parts, options);
  REQUIRE(split.has_value());
  CHECK(one->fingerprint() == split->fingerprint());
}

TEST_CASE("a layer without V, one pass, tokens that are no numbers") {
  synthetic s(3, 800, false);
  s.k[100 * 32] = std::numeric_limits<float>::quiet_NaN();
  s.k[200 * 32 + 3] = std::numeric_limits<float>::infinity();
  calibration_options options;
  options.passes = 1;
  options.target_kl = 0.002;
  const auto p = calibrate(s.shape, std::span(&s.c, 1), options);
  REQUIRE(p.has_value());
  CHECK(p->of(0, plane::value).width == 0);
  CHECK(p->of(0, plane::value).classes.empty());
  double loss = 0;
  for (const plane_profile& q : p->planes) loss += double(q.loss[0]);
  CHECK(std::abs(loss / options.target_kl - 1) < 0.05);
}

TEST_CASE("what calibration refuses") {
  synthetic s(4, 64);
  const std::span<const capture> one(&s.c, 1);
  const auto with = [&](auto change) {
    calibration_options o;
    change(o);
    return calibrate(s.shape, one, o).status();
  };
  CHECK(calibrate(s.shape, one).status() == status::ok);
  CHECK(calibrate(s.shape, {}).status() == status::invalid_argument);
  CHECK(calibrate({}, one).status() == status::invalid_argument);
  CHECK(with([](auto& o) { o.passes = 0; }) == status::invalid_argument);
  CHECK(with([](auto& o) { o.passes = max_passes + 1; }) == status::invalid_argument);
  CHECK(with([](auto& o) { o.target_kl = 0; }) == status::invalid_argument);
  CHECK(with([](auto& o) { o.sensitivity_k = {1, 1}; }) == status::invalid_argument);
  CHECK(with([](auto& o) { o.sensitivity_k = o.sensitivity_v = {1}; }) == status::invalid_argument);
  CHECK(with([](auto& o) { o.sensitivity_k = o.sensitivity_v = {0, 0}; }) == status::invalid_argument);
  CHECK(with([](auto& o) { o.sinks = 63; }) == status::too_few_tokens);
  CHECK(with([](auto& o) { o.sinks = 64; }) == status::too_few_tokens);
  CHECK(with([](auto& o) { o.sinks = 256; }) == status::invalid_argument);

  model_shape other = s.shape;
  other.layers[1].num_kv_heads = 3;
  CHECK(calibrate(other, one).status() == status::wrong_shape);
  other = s.shape;
  other.layers.pop_back();
  CHECK(calibrate(other, one).status() == status::wrong_shape);
  capture c = s.c;
  c.cache.k.type = dtype::bytes;
  CHECK(calibrate(s.shape, std::span(&c, 1)).status() == status::unsupported_type);
  c = s.c;
  c.cache.capacity = 10;
  CHECK(calibrate(s.shape, std::span(&c, 1)).status() == status::page_out_of_range);
  c = s.c;
  c.num_heads = 3;
  CHECK(calibrate(s.shape, std::span(&c, 1)).status() == status::invalid_argument);
  c = s.c;
  c.cache.num_layers = 1;  // the other one is never seen
  c.layers = s.c.layers.first(1);
  CHECK(calibrate(s.shape, std::span(&c, 1)).status() == status::too_few_tokens);

  calibrator order(s.shape);
  REQUIRE(order.add(s.c) == status::ok);
  CHECK(order.finish().status() == status::invalid_argument);
  REQUIRE(order.measure(s.c) == status::ok);
  REQUIRE(order.measure(s.c) == status::ok);
  CHECK(order.finish().status() == status::invalid_argument);
  CHECK(order.add(s.c) == status::invalid_argument);
  CHECK(calibrator().finish().status() == status::invalid_argument);
}

TEST_CASE("what is wrong with a capture has a name, and what comes out can be loaded") {
  const auto verdict = [](const auto& change, calibration_options options = {}) {
    synthetic s(5, 64);
    change(s);
    const auto p = calibrate(s.shape, std::span(&s.c, 1), options);
    if (!p) return p.status();
    CHECK(profile::parse(p->serialize()).status() == status::ok);
    return status::ok;
  };
  const auto all = [](std::vector<float>& x, float value) { std::fill(x.begin(), x.end(), value); };
  const auto bare = [](synthetic& s) { s.c.layers = {}; };
  CHECK(verdict(bare) == status::ok);
  CHECK(verdict([&](synthetic& s) { all(s.k, 0), all(s.v, 0); }) == status::constant_values);
  CHECK(verdict([&](synthetic& s) { all(s.k, 0), all(s.v, 3); }) == status::constant_values);
  calibration_options measured;
  measured.sensitivity_k = measured.sensitivity_v = {0.1, 0.1};
  CHECK(verdict([&](synthetic& s) { all(s.k, 0), all(s.v, 0); }, measured) == status::constant_values);
  CHECK(verdict([&](synthetic& s) { all(s.v, 3), bare(s); }) == status::ok);  // K varies, and that is enough
  CHECK(verdict([&](synthetic& s) { all(s.k, NAN); }) == status::too_few_tokens);
  CHECK(verdict([&](synthetic& s) { all(s.v, INFINITY); }) == status::too_few_tokens);
  for (const float huge : {1e6f, 1e20f, 3e38f})  // a mean beyond f16
    CHECK(verdict([&](synthetic& s) {
            for (float& x : s.v) x += huge;
            bare(s);
          }) == status::values_out_of_range);
  for (const float scale : {1e-30f, 1e-6f, 1e3f})
    CHECK(verdict([&](synthetic& s) {
            for (float& x : s.k) x *= scale;
            for (float& x : s.v) x *= scale;
            bare(s);
          }) != status::corrupt_profile);
  // Metrics of an engine that overflowed say nothing, and the rest holds.
  CHECK(verdict([&](synthetic& s) { s.wo[3] = NAN; }) == status::ok);
  CHECK(verdict([&](synthetic& s) { all(s.wo, INFINITY), all(s.q2, NAN); }) == status::ok);
  CHECK(verdict([&](synthetic& s) { all(s.wo, 0), all(s.q2, 0); }) == status::ok);
  for (const double s : {1e-300, 1e-20, 1e20, 1e75, 1e300}) {
    measured.sensitivity_k = measured.sensitivity_v = {s, s};
    const status got = verdict([](synthetic&) {}, measured);
    CHECK((got == status::ok || got == status::values_out_of_range));
  }

  // Shapes that no profile can have are refused before anything is measured.
  const auto shaped = [&](const auto& change) {
    synthetic s(5, 64);
    change(s.shape);
    calibrator c(s.shape);
    return c.add(s.c);
  };
  CHECK(shaped([](model_shape& m) { m.ropes.resize(64, m.ropes[0]); }) == status::ok);
  CHECK(shaped([](model_shape& m) { m.ropes.resize(65, m.ropes[0]); }) == status::too_large);
  CHECK(shaped([](model_shape& m) { m.layers.resize(4096); }) == status::ok);  // the others keep nothing
  CHECK(shaped([](model_shape& m) { m.layers.resize(4097); }) == status::too_large);
  CHECK(shaped([](model_shape& m) { m.layers[1].num_kv_heads = 4097; }) == status::too_large);
  CHECK(shaped([](model_shape& m) { m.layers[1].head_dim_v = 16385; }) == status::too_large);
  CHECK(shaped([](model_shape& m) { m.layers[1].rope_index = 1; }) == status::invalid_argument);
  CHECK(shaped([](model_shape& m) { m.layers[1].rope_index = -1; }) == status::invalid_argument);
  CHECK(shaped([](model_shape& m) { m.layers[1].window = -1; }) == status::invalid_argument);
  CHECK(shaped([](model_shape& m) { m.ropes[0].base = 0; }) == status::invalid_argument);
  CHECK(shaped([](model_shape& m) { m.ropes.push_back({.factor = NAN}); }) == status::invalid_argument);  // unused
  CHECK(shaped([](model_shape& m) { m.layers = {{}, {}}; }) == status::invalid_argument);  // nothing to calibrate
}

TEST_CASE("layers that keep nothing keep their numbers") {
  synthetic s(6, 700);
  const auto plain = calibrate(s.shape, std::span(&s.c, 1));
  REQUIRE(plain.has_value());
  model_shape hybrid{{{}, s.shape.layers[0], {}, {}, s.shape.layers[1], {}}, s.shape.ropes};
  const std::int32_t ids[] = {1, 4};
  capture c = s.c;
  c.cache.layer_ids = ids;
  calibration_options options;
  options.threads = 2;
  const auto p = calibrate(hybrid, std::span(&c, 1), options);
  REQUIRE(p.has_value());
  CHECK(p->shape == hybrid);
  for (int l = 0; l < 6; ++l)
    for (const plane which : {plane::key, plane::value})
      CHECK(p->of(l, which) == (l == 1 ? plain->of(0, which) : l == 4 ? plain->of(1, which) : plane_profile{}));
  const auto again = profile::parse(p->serialize());
  REQUIRE(again.has_value());
  CHECK(again->shape == hybrid);
  CHECK(again->planes == p->planes);
  CHECK(calibrate(hybrid, std::span(&s.c, 1)).status() == status::wrong_shape);  // shows layers 0 and 1

  // Sensitivities count layers as the model does.
  options.sensitivity_k = options.sensitivity_v = {0, 0.02, 0, 0, 0.3, 0};
  CHECK(calibrate(hybrid, std::span(&c, 1), options).has_value());
  options.sensitivity_k = options.sensitivity_v = {0.02, 0.3};
  CHECK(calibrate(hybrid, std::span(&c, 1), options).status() == status::invalid_argument);
}

TEST_CASE("a real capture" *
          doctest::skip(!std::filesystem::exists(SLUICE_SOURCE_DIR "/../shared/data/kv/qwen.safetensors"))) {
  const captured qwen(SLUICE_SOURCE_DIR "/../shared/data/kv/qwen.safetensors");
  calibration_options options;
  for (int l = 0; l < qwen.shape.num_layers(); ++l) {
    options.sensitivity_k.push_back(0.05 + 0.01 * (l % 5));
    options.sensitivity_v.push_back(0.001);
  }
  const auto p = calibrate(qwen.shape, std::span(&qwen.c, 1), options);
  REQUIRE(p.has_value());
  check_profile(*p, qwen.c, qwen.shape, options);
}
