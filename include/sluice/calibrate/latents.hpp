// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/plane.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sluice::detail::inline SLUICE_CALIBRATION_ABI {

// Latents of all tokens as a profile holds them.
struct latent_table {
  std::uint32_t vocab = 0;
  std::vector<float> scale;         // [rank]
  std::vector<std::int8_t> values;  // [vocab][rank]
};

// The directions of embeddings that say most about K and V of all layers: a regression of reduced rank from running sums.
class latent_calibration {
 public:
  latent_calibration(const token_embeddings& e, int rank, std::size_t planes)
      : embeddings_(e), rank_(rank), products_(planes) {}

  // Embeddings of tokens; ids beyond the vocabulary have none.
  rows_f look_up(const std::int32_t* tokens, std::int64_t n) const {
    rows_f e = rows_f::Zero(n, embeddings_.dim);
    for (std::int64_t t = 0; t < n; ++t)
      if (tokens[t] >= 0 && tokens[t] < embeddings_.vocab) look_up(tokens[t], e.row(t).data());
    return e;
  }

  void add(const rows_f& e) {
    if (n_ == 0) {
      sum_.setZero(e.cols());
      square_.setZero(e.cols(), e.cols());
    }
    n_ += double(e.rows());
    sum_ += sum_of_rows(e);
    square_ += transposed_product(e, e);
  }

  // The same tokens' rows of a plane; planes run on several threads.
  void add(std::size_t at, const rows_f& e, const rows_f& x) {
    matrix_d p = transposed_product(e, x);
    if (products_[at].size()) p += products_[at];
    products_[at] = std::move(p);
  }

  // After the first sweep, of one plane: e' y of coefficients, each in the unit in which what is left of it counts:
  // nothing is won below a step.
  void weigh(std::size_t at, const plane_calibration& p, double step) {
    matrix_d& s = products_[at];
    if (!s.size()) return;
    s -= outer(sum_, to_double(mean_of(p.profile)));
    for (int g = 0; g < p.groups(); ++g) {
      matrix_d c = product(s.middleCols(p.begin_of(g), p.width_of(g)), to_double(p.forward[std::size_t(g)]));
      for (Eigen::Index k = 0; k < c.cols(); ++k)
        c.col(k) /= std::hypot(double(p.deviations[std::size_t(p.begin_of(g) + k)]), step);
      s.middleCols(p.begin_of(g), p.width_of(g)) = c;
    }
  }

  // After weigh() of all planes.
  latent_table fit() {
    const Eigen::Index d = embeddings_.dim;
    const vector_d mean = sum_ / n_;
    matrix_d c = square_ / n_ - outer(mean, mean);
    c.diagonal().array() += ridge * c.trace() / double(d) + 1e-12;
    const matrix_d root = cholesky(c);
    matrix_d explained = matrix_d::Zero(d, d);
    for (matrix_d& p : products_) {
      if (!p.size()) continue;
      p /= n_;
      solve_lower(root, p);
      add_square(p, explained);
      p = {};
    }
    matrix_d u = principal_axes(explained).second.leftCols(std::min<Eigen::Index>(rank_, d));
    solve_upper(root, u);
    return quantize(to_float(u), to_float(mean));
  }

 private:
  static constexpr double ridge = 1e-3;  // of the mean variance of an embedding's elements
  static constexpr float widest = 6;     // deviations that a latent can express

  void look_up(std::int32_t token, float* row) const {
    embeddings_.row(token, row);
    const std::span<float> all(row, std::size_t(embeddings_.dim));
    if (!std::all_of(all.begin(), all.end(), [](float v) { return std::isfinite(v); }))
      std::fill(all.begin(), all.end(), 0.f);
  }

  latent_table quantize(const matrix_f& project, const row_f& mean) const {
    latent_table out;
    const auto rank = std::size_t(rank_);
    out.vocab = std::uint32_t(embeddings_.vocab);
    out.values.resize(std::size_t(out.vocab) * rank);
    rows_f all(embeddings_.vocab, project.cols());
    constexpr int block = 1024;
    for (int t = 0; t < embeddings_.vocab; t += block) {
      const int n = std::min(block, embeddings_.vocab - t);
      rows_f e(n, embeddings_.dim);
      for (int i = 0; i < n; ++i) look_up(t + i, e.row(i).data());
      all.middleRows(t, n) = product_in_rows(less_mean(e, mean), project);
    }
    out.scale.assign(rank, 0.f);
    for (Eigen::Index i = 0; i < all.cols(); ++i) {
      const float rms = std::sqrt(all.col(i).squaredNorm() / float(std::max<Eigen::Index>(1, all.rows())));
      const float most = std::min(all.col(i).cwiseAbs().maxCoeff(), widest * std::max(rms, 1.f));
      if (!(most > 0) || !std::isfinite(most)) continue;
      out.scale[std::size_t(i)] = most / 127;
      for (Eigen::Index t = 0; t < all.rows(); ++t)
        out.values[std::size_t(t) * rank + std::size_t(i)] =
            std::int8_t(std::lround(std::clamp(all(t, i) * 127 / most, -127.f, 127.f)));
    }
    return out;
  }

  const token_embeddings& embeddings_;
  int rank_;
  double n_ = 0;
  vector_d sum_;
  matrix_d square_;
  std::vector<matrix_d> products_;  // [2 * layer + plane][dim][width]
};

}  // namespace sluice::detail::inline SLUICE_CALIBRATION_ABI
