// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/latents.hpp>
#include <sluice/calibrate/plane.hpp>
#include <sluice/codec/predict/decoded_layers.hpp>
#include <sluice/codec/predict/prediction_model.hpp>
#include <sluice/codec/predict/token_embedding.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

// What a calibrator keeps to fit the matrices of predicted_from. Coefficients are those of a plane's own basis in units of
// the finest step, in which errors of all channels weigh the same.

namespace sluice::detail::inline SLUICE_CALIBRATION_ABI {

// Tokens of a capture that all layers keep, in rows.
struct prediction_sample {
  rows_f latents;                          // [tokens][rank]
  std::vector<std::array<rows_f, 2>> x;    // [model layer][plane][tokens][width], K un-rotated; empty = not captured
  std::vector<std::array<rows_f, 2>> own;  // the same as coefficients
};

// Running sums over the tokens of one fold: features f and coefficients y of K and V of a layer.
struct prediction_sums {
  double n = 0;
  vector_d f, y;
  matrix_d ff, fy, yy;

  void add(const rows_f& features, const rows_f& values) {
    if (n == 0) {
      f.setZero(features.cols());
      y.setZero(values.cols());
      ff.setZero(f.size(), f.size());
      fy.setZero(f.size(), y.size());
      yy.setZero(y.size(), y.size());
    }
    n += double(features.rows());
    f += sum_of_rows(features);
    y += sum_of_rows(values);
    ff += transposed_product(features, features);
    fy += transposed_product(features, values);
    yy += transposed_product(values, values);
  }
  void add(const prediction_sums& o) {
    if (o.n == 0) return;
    if (n == 0) return void(*this = o);
    n += o.n, f += o.f, y += o.y, ff += o.ff, fy += o.fy, yy += o.yy;
  }
};

// Fitted to some tokens: expected deviation = features * matrix, and coefficients of what is left.
struct fitted_prediction {
  matrix_f matrix;                 // [features][width] of decoded channels
  row_f mean;                      // of channels, of what is left
  std::vector<matrix_f> forward;   // of each group
  std::vector<group_basis> basis;  // in doubles, before f16
};

class prediction_calibration {
 public:
  prediction_calibration(const model_shape& shape, const prediction_options& o, int passes, std::size_t layers)
      : shape_(shape), kind_(o.kind), passes_(passes), folds_(layers), fitted_(2 * layers), counts_(2 * layers) {
    for (auto& f : fitted_) f.resize(3);
    model_.planes.resize(2 * layers);
  }

  void set_latents(latent_table&& t) {
    model_.rank = kind_.rank;
    model_.vocab = t.vocab;
    model_.latent_scale = std::move(t.scale);
    model_.latents = std::move(t.values);
  }

  // Latents of tokens as a decoder has them.
  rows_f latents(std::span<const std::int32_t> tokens) const {
    rows_f out = rows_f::Zero(Eigen::Index(tokens.size()), has_latents() ? kind_.rank : 0);
    for (Eigen::Index r = 0; r < out.rows(); ++r)
      if (const auto token = std::uint32_t(tokens[std::size_t(r)]); token < model_.vocab)
        for (Eigen::Index i = 0; i < out.cols(); ++i)
          out(r, i) = model_.latent_scale[std::size_t(i)] *
                      float(model_.latents[std::size_t(token) * std::size_t(kind_.rank) + std::size_t(i)]);
    return out;
  }

  // Second sweep, of one layer. `own` of this layer and of the one below are there.
  void measure(int layer, const prediction_sample& s, std::int64_t before) {
    if (!captured(layer, s)) return;
    const auto& y = s.own[std::size_t(layer)];
    rows_f values(y[0].rows(), y[0].cols() + y[1].cols());
    values.leftCols(y[0].cols()) = y[0];
    if (y[1].cols()) values.rightCols(y[1].cols()) = y[1];
    const rows_f f = features(layer, plane::value, s.latents, [&](int l, plane p) { return quantized(s.own, l, p); });
    runs_of_folds(before, f.rows(), [&](std::int64_t first, std::int64_t n, std::size_t fold) {
      folds_[std::size_t(layer)][fold].add(f.middleRows(first, n), values.middleRows(first, n));
    });
  }

  // Between the second and the third sweep, of one plane; false = values beyond f16.
  bool fit(int layer, plane which, const std::vector<plane_calibration>& planes) {
    const auto& sums = folds_[std::size_t(layer)];
    const std::size_t at = 2 * std::size_t(layer) + std::size_t(which);
    const plane_calibration& p = planes[at];
    const int k = width_of_features(layer, which);
    if (!p.width || k == 0 || sums[0].n + sums[1].n < 2) return true;
    prediction_sums all = sums[0];
    all.add(sums[1]);
    fit(all, layer, which, planes, fitted_[at][2]);
    for (std::size_t f = 0; f < 2 && sums[0].n > 1 && sums[1].n > 1; ++f)
      fit(sums[f], layer, which, planes, fitted_[at][f]);

    plane_prediction& m = model_.planes[at];
    fitted_prediction& whole = fitted_[at][2];
    m.features = k;
    const float largest = whole.matrix.cwiseAbs().maxCoeff();
    if (!std::isfinite(largest)) return false;
    int exponent = 0;
    if (largest > 0) std::frexp(largest, &exponent);
    m.scale = std::ldexp(1.0f, exponent);
    m.matrix.resize(std::size_t(whole.matrix.size()));
    for (Eigen::Index i = 0; i < whole.matrix.rows(); ++i)
      for (Eigen::Index j = 0; j < whole.matrix.cols(); ++j) {
        const f16 h = from_float<f16>(std::ldexp(whole.matrix(i, j), -exponent));
        m.matrix[std::size_t(i * whole.matrix.cols() + j)] = h.bits;
        whole.matrix(i, j) = m.scale * to_float(h);
      }
    plane_profile& q = left_[at];
    q.width = p.width;
    q.group_width = p.group_width;
    q.step = p.profile.step;
    whole.forward.clear();
    if (!put_basis(whole.basis, q, whole.forward)) return false;
    whole.mean = mean_of(q);
    return true;
  }
  void begin_fit() { left_.resize(model_.planes.size()); }
  void end_fit() { folds_ = {}; }

  // Third sweep: what a decoder of the base pass has of some tokens, layer after layer, as deviations from the means.
  void decode(prediction_sample& s, std::int64_t first, std::int64_t n, const std::vector<plane_calibration>& planes,
              std::vector<std::array<rows_f, 2>>& decoded) const {
    const float step = base_step();
    std::vector<std::array<rows_f, 2>> mine(s.x.size());
    const rows_f latents = s.latents.middleRows(first, n);
    for (int l = 0; l < shape_.num_layers(); ++l)
      for (const plane which : {plane::key, plane::value}) {
        const std::size_t at = 2 * std::size_t(l) + std::size_t(which);
        const plane_calibration& p = planes[at];
        if (!p.width || !captured(l, s)) continue;
        const bool predicted = predicts(l, which, s);
        const plane_profile& q = predicted ? left_[at] : p.profile;
        const fitted_prediction& fit = fitted_[at][2];
        const row_f mean = mean_of(q), own = mean_of(p.profile);
        rows_f expected = rows_f::Zero(n, p.width);
        if (predicted)
          expected = product_in_rows(
              features(l, which, latents,
                       [&](int of, plane o) -> const rows_f& { return mine[std::size_t(of)][std::size_t(o)]; }),
              fit.matrix);
        const rows_f left = less_mean(s.x[std::size_t(l)][std::size_t(which)].middleRows(first, n) - expected, mean);
        rows_f& out = mine[std::size_t(l)][std::size_t(which)];
        out = less_mean(expected, own - mean);
        for (int g = 0; g < p.groups(); ++g) {
          const auto& forward = (predicted ? fit.forward : p.forward)[std::size_t(g)];
          const rows_f c = rounded(product_in_rows(left.middleCols(p.begin_of(g), p.width_of(g)), forward), step);
          out.middleCols(p.begin_of(g), p.width_of(g)) += product_in_rows(c, matrix_of(q, g));
        }
        decoded[std::size_t(l)][std::size_t(which)].middleRows(first, n) = out;
      }
  }

  // Counts coefficients of what is left of one plane, as held-out folds see them too.
  void count(int layer, plane which, const prediction_sample& s, const std::vector<std::array<rows_f, 2>>& decoded,
             const plane_calibration& p, std::int64_t before) {
    const std::size_t at = 2 * std::size_t(layer) + std::size_t(which);
    if (!p.width || !predicts(layer, which, s)) return;
    counts_[at].resize(std::size_t(p.width));
    const rows_f f = features(layer, which, s.latents,
                              [&](int l, plane o) -> const rows_f& { return decoded[std::size_t(l)][std::size_t(o)]; });
    const rows_f& x = s.x[std::size_t(layer)][std::size_t(which)];
    const auto count = [&](const fitted_prediction& fit, std::int64_t first, std::int64_t n) {
      const rows_f expected = product_in_rows(f.middleRows(first, n), fit.matrix);
      const rows_f left = less_mean(x.middleRows(first, n) - expected, fit.mean);
      for (int g = 0; g < p.groups(); ++g) {
        const matrix_f c = product(left.middleCols(p.begin_of(g), p.width_of(g)), fit.forward[std::size_t(g)]);
        for (Eigen::Index k = 0; k < c.cols(); ++k) {
          coefficient_counts& to = counts_[at][std::size_t(p.begin_of(g) + k)];
          to.add(c.col(k).data(), n, passes_);
          to.squares += double(c.col(k).squaredNorm());
        }
      }
    };
    count(fitted_[at][2], 0, x.rows());
    if (fitted_[at][0].matrix.size() == 0) return;
    runs_of_folds(before, x.rows(), [&](std::int64_t first, std::int64_t n, std::size_t fold) {
      count(fitted_[at][1 - fold], first, n);
    });
  }

  void choose(std::size_t at, const class_chooser& chooser) {
    plane_profile& q = left_[at];
    q.classes.resize(counts_[at].size());
    for (int g = 0; g < q.groups() && !q.classes.empty(); ++g) {
      const auto first = std::size_t(g * q.group_width), n = std::size_t(q.width_of(g));
      chooser.choose(std::span(counts_[at]).subspan(first, n), std::span(q.classes).subspan(first, n));
    }
  }

  // The section; planes of which nothing was counted are not predicted.
  profile_section finish(const profile& p) {
    auto left = std::make_shared<profile>(p);
    for (std::size_t i = 0; i < left_.size(); ++i)
      if (left_[i].classes.empty())
        model_.planes[i] = {};
      else
        left->planes[i] = left_[i];
    model_.residual = std::move(left);
    return write_prediction(model_, kind_);
  }

  bool has_latents() const noexcept { return kind_.sources & token_embedding<>::id; }

 private:
  // As many tokens' worth of doubt about a latent, whose variance is about 1, and about a coefficient of another plane,
  // in its rounding errors.
  static constexpr double latent_ridge = 64, layer_ridge = 64.0 / 12;

  bool from_below() const noexcept { return kind_.sources & previous_layer<>::id; }
  bool from_k() const noexcept { return kind_.sources & same_layer_k_for_v::id; }
  int below(int layer) const noexcept { return from_below() ? layer_below(shape_, layer, kind_.span) : -1; }

  int width_of_features(int layer, plane which) const noexcept {
    const int b = below(layer);
    const auto width = [&](int l, plane p) {
      const layer_shape& s = shape_.layers[std::size_t(l)];
      return s.num_kv_heads * s.head_dim(p);
    };
    return (has_latents() ? kind_.rank : 0) + (b < 0 ? 0 : width(b, plane::key) + width(b, plane::value)) +
           (from_k() && which == plane::value ? width(layer, plane::key) : 0);
  }

  bool captured(int layer, const prediction_sample& s) const noexcept {
    const auto there = [&](int l) { return s.x[std::size_t(l)][0].size() || s.x[std::size_t(l)][1].size(); };
    return there(layer) && (below(layer) < 0 || there(below(layer)));
  }
  bool predicts(int layer, plane which, const prediction_sample& s) const noexcept {
    return model_.planes[2 * std::size_t(layer) + std::size_t(which)].features > 0 && captured(layer, s);
  }

  // Features of a plane, `of(layer, plane)` being what is known of decoded ones.
  template <class Of>
  rows_f features(int layer, plane which, const rows_f& latents, const Of& of) const {
    rows_f f(latents.rows(), width_of_features(layer, which));
    Eigen::Index at = 0;
    const auto put = [&](const rows_f& x) {
      f.middleCols(at, x.cols()) = x;
      at += x.cols();
    };
    put(latents);
    if (below(layer) >= 0)
      for (const plane p : {plane::key, plane::value})
        if (shape_.layers[std::size_t(below(layer))].head_dim(p)) put(of(below(layer), p));
    if (from_k() && which == plane::value && shape_.layers[std::size_t(layer)].head_dim_k) put(of(layer, plane::key));
    return f;
  }

  // Coefficients as they decode without prediction: a little better than the base pass leaves them, as prediction does.
  rows_f quantized(const std::vector<std::array<rows_f, 2>>& own, int layer, plane which) const {
    return rounded(own[std::size_t(layer)][std::size_t(which)], fit_step());
  }
  // About the base of `smallest`: predictions are made from a finer one than that of `standard`.
  float base_step() const noexcept { return passes_ > 1 ? 0.5f * static_cast<float>(power_of_3(passes_ - 1)) : 1.f; }
  float fit_step() const noexcept { return static_cast<float>(power_of_3(passes_ - std::min(passes_, 2))); }

  static matrix_f matrix_of(const plane_profile& q, int g) {
    const int w = q.width_of(g);
    matrix_f m(w, w);
    for (int k = 0; k < w; ++k)
      for (int j = 0; j < w; ++j) m(k, j) = q.scale * to_float(f16{q.matrix_of(g)[k * w + j]});
    return m;
  }
  // Channels to coefficients of a whole plane, or back.
  static matrix_f whole(const plane_calibration& p, bool forward) {
    matrix_f m = matrix_f::Zero(p.width, p.width);
    for (int g = 0; g < p.groups(); ++g)
      m.block(p.begin_of(g), p.begin_of(g), p.width_of(g), p.width_of(g)) =
          forward ? p.forward[std::size_t(g)] : matrix_of(p.profile, g);
    return m;
  }

  void fit(const prediction_sums& s, int layer, plane which, const std::vector<plane_calibration>& planes,
           fitted_prediction& out) const {
    const plane_calibration& p = planes[2 * std::size_t(layer) + std::size_t(which)];
    const Eigen::Index k = width_of_features(layer, which), w = p.width;
    const Eigen::Index from = which == plane::value ? s.y.size() - w : 0;
    const vector_d f = s.f.head(k) / s.n, y = s.y.segment(from, w) / s.n;
    const matrix_d ff = s.ff.block(0, 0, k, k) / s.n - outer(f, f);
    const matrix_d fy = s.fy.block(0, from, k, w) / s.n - outer(f, y);
    const matrix_d yy = s.yy.block(from, from, w, w) / s.n - outer(y, y);
    // A ridge: noise that calibration saw too little of to know.
    matrix_d shrunk = ff;
    const Eigen::Index z = has_latents() ? kind_.rank : 0;
    const double step = double(fit_step());
    for (Eigen::Index i = 0; i < k; ++i) shrunk(i, i) += i < z ? latent_ridge / s.n : layer_ridge * step * step / s.n;
    const matrix_d m = solve(shrunk, fy), mt = transposed(m);
    matrix_d left = yy - product(transposed(fy), m);
    left -= product(mt, fy);
    left += product(product(mt, ff), m);

    // From coefficients to channels, on both sides.
    matrix_d of_channels(k, w);
    const matrix_d back = to_double(whole(p, false));
    of_channels.topRows(z) = product(m.topRows(z), back);
    Eigen::Index at = z;
    const auto put = [&](int l, plane o) {
      const plane_calibration& q = planes[2 * std::size_t(l) + std::size_t(o)];
      if (!q.width) return;
      of_channels.middleRows(at, q.width) =
          product(product(to_double(whole(q, true)), m.middleRows(at, q.width)), back);
      at += q.width;
    };
    if (below(layer) >= 0)
      for (const plane o : {plane::key, plane::value}) put(below(layer), o);
    if (from_k() && which == plane::value) put(layer, plane::key);
    out.matrix = to_float(of_channels);
    out.mean = mean_of(p.profile) + to_float(vector_d(product(transposed(back), y - product(mt, f))));

    out.forward.clear();
    out.basis.clear();
    for (int g = 0; g < p.groups(); ++g) {
      const int first = p.begin_of(g), n = p.width_of(g);
      const matrix_d u = principal_axes(symmetric(left.block(first, first, n, n))).second;
      group_basis& b = out.basis.emplace_back();
      b.mean = to_double(out.mean).segment(first, n);
      b.forward = product(to_double(p.forward[std::size_t(g)]), u);
      b.inverse = product(transposed(u), to_double(matrix_of(p.profile, g)));
      out.forward.push_back(to_float(b.forward));
    }
  }

  const model_shape& shape_;
  prediction_kind kind_;
  int passes_;
  std::vector<std::array<prediction_sums, 2>> folds_;   // [model layer]
  std::vector<std::vector<fitted_prediction>> fitted_;  // [2 * layer + plane], of either fold and of all
  std::vector<std::vector<coefficient_counts>> counts_;
  std::vector<plane_profile> left_;
  prediction_model model_;
};

}  // namespace sluice::detail::inline SLUICE_CALIBRATION_ABI
