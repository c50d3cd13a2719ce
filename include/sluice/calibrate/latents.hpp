// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/plane.hpp>

#include <Eigen/Dense>

#include <algorithm>
#include <cmath>
#include <cstdint>
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
      if (tokens[t] >= 0 && tokens[t] < embeddings_.vocab) look_up(tokens[t], e.row(t));
    return e;
  }

  void add(const rows_f& e) {
    if (n_ == 0) {
      sum_.setZero(e.cols());
      square_.setZero(e.cols(), e.cols());
    }
    n_ += double(e.rows());
    sum_ += e.colwise().sum().cast<double>().transpose();
    square_ += (e.transpose() * e).cast<double>();
  }

  // The same tokens' rows of a plane; planes run on several threads.
  void add(std::size_t at, const rows_f& e, const rows_f& x) {
    const matrix_d p = (e.transpose() * x).cast<double>();
    products_[at] = products_[at].size() ? matrix_d(products_[at] + p) : p;
  }

  // After the first sweep, of one plane: e' y of coefficients, each in the unit in which what is left of it counts:
  // nothing is won below a step.
  void weigh(std::size_t at, const plane_calibration& p, double step) {
    matrix_d& s = products_[at];
    if (!s.size()) return;
    s -= sum_ * mean_of(p.profile).cast<double>();
    for (int g = 0; g < p.groups(); ++g) {
      matrix_d c = s.middleCols(p.begin_of(g), p.width_of(g)) * p.forward[std::size_t(g)].cast<double>();
      for (Eigen::Index k = 0; k < c.cols(); ++k)
        c.col(k) /= std::hypot(double(p.deviations[std::size_t(p.begin_of(g) + k)]), step);
      s.middleCols(p.begin_of(g), p.width_of(g)) = c;
    }
  }

  // After weigh() of all planes.
  latent_table fit() {
    const Eigen::Index d = embeddings_.dim;
    const Eigen::VectorXd mean = sum_ / n_;
    matrix_d c = square_ / n_ - mean * mean.transpose();
    c.diagonal().array() += ridge * c.trace() / double(d) + 1e-12;
    const Eigen::LLT<matrix_d> root(c);
    matrix_d explained = matrix_d::Zero(d, d);
    for (matrix_d& p : products_) {
      if (!p.size()) continue;
      const matrix_d a = root.matrixL().solve(p / n_);
      explained.selfadjointView<Eigen::Lower>().rankUpdate(a);
      p = {};
    }
    const Eigen::SelfAdjointEigenSolver<matrix_d> solver(explained);
    const Eigen::Index used = std::min<Eigen::Index>(rank_, d);
    const matrix_d u = solver.eigenvectors().rightCols(used).rowwise().reverse();
    const matrix_f project = root.matrixU().solve(u).cast<float>();
    return quantize(project, mean.cast<float>());
  }

 private:
  static constexpr double ridge = 1e-3;  // of the mean variance of an embedding's elements
  static constexpr float widest = 6;     // deviations that a latent can express

  void look_up(std::int32_t token, Eigen::Ref<Eigen::RowVectorXf> row) const {
    embeddings_.row(token, row.data());
    if (!row.allFinite()) row.setZero();
  }

  latent_table quantize(const matrix_f& project, const Eigen::VectorXf& mean) const {
    latent_table out;
    const auto rank = std::size_t(rank_);
    out.vocab = std::uint32_t(embeddings_.vocab);
    out.values.resize(std::size_t(out.vocab) * rank);
    rows_f all(embeddings_.vocab, project.cols());
    constexpr int block = 1024;
    for (int t = 0; t < embeddings_.vocab; t += block) {
      const int n = std::min(block, embeddings_.vocab - t);
      rows_f e(n, embeddings_.dim);
      for (int i = 0; i < n; ++i) look_up(t + i, e.row(i));
      all.middleRows(t, n) = (e.rowwise() - mean.transpose()) * project;
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
  Eigen::VectorXd sum_;
  matrix_d square_;
  std::vector<matrix_d> products_;  // [2 * layer + plane][dim][width]
};

}  // namespace sluice::detail::inline SLUICE_CALIBRATION_ABI
