// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/algebra.hpp>
#include <sluice/calibrate/capture.hpp>
#include <sluice/codec/entropy/class_rans/class_choice.hpp>
#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/transform/inverse_bases.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/shape.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

// What a calibrator keeps of K or V of one layer: running sums, then bases, then counts.

namespace sluice::detail::inline SLUICE_CALIBRATION_ABI {

inline constexpr std::int64_t fold_tokens = 512;  // runs of tokens that alternate between the two halves
inline constexpr std::size_t sample_rows = 1024;
inline constexpr double eigenvalue_floor = 1e-4;  // of the head's largest; as kvlab.py does

// Mean, covariance and the basis they give, of one group of channels.
struct group_sums {
  double n = 0;
  vector_d sum;
  matrix_d squares;  // lower triangle

  void add(const block_of_rows& x) {
    if (sum.size() == 0) {
      sum.setZero(x.cols());
      squares.setZero(x.cols(), x.cols());
    }
    n += double(x.rows());
    add_tokens(x, sum, squares);
  }
};

struct group_basis {
  vector_d mean;
  matrix_d forward;  // y = (x - mean) * forward, in the weighted domain, by falling variance
  matrix_d inverse;
  vector_d variance;  // of each coefficient

  void fit(const group_sums& a, const group_sums& b, const matrix_d& root, const matrix_d& inverse_root) {
    const Eigen::Index w = root.rows();
    const double n = a.n + b.n;
    mean.setZero(w);
    matrix_d c = matrix_d::Zero(w, w);
    for (const group_sums* s : {&a, &b})
      if (s->n > 0) {
        mean += s->sum / n;
        c += s->squares / n;
      }
    for (Eigen::Index i = 0; i < w; ++i)
      for (Eigen::Index j = 0; j < i; ++j) c(j, i) = c(i, j);
    c -= outer(mean, mean);
    auto [values, u] = principal_axes(symmetric(product(product(root, c), root)));
    choose_signs(u);
    variance = values.cwiseMax(0);
    forward = product(root, u);
    inverse = product(transposed(u), inverse_root);
  }
};

// A plane's means, of all channels.
inline row_f mean_of(const plane_profile& q) {
  row_f m(q.width);
  for (int j = 0; j < q.width; ++j) m(j) = to_float(f16{q.mean[std::size_t(j)]});
  return m;
}

// Means and decoder's matrices of a profile's plane, in f16, from bases in units of the finest step; `forward`: the exact
// inverses that encoders will use. False where they are no numbers of f16.
inline bool put_basis(const std::vector<group_basis>& basis, plane_profile& out, std::vector<matrix_f>& forward) {
  double largest = 0;
  for (const group_basis& g : basis) largest = std::max(largest, g.inverse.cwiseAbs().maxCoeff());
  int exponent = 0;
  if (std::frexp(largest, &exponent) == 0.5) --exponent;  // the largest entry lands in (0.5, 1]
  out.scale = std::ldexp(1.0f, exponent);
  if (!(largest > 0) || !std::isfinite(largest) || !(out.scale > 0) || !std::isfinite(out.scale)) return false;
  for (const group_basis& g : basis) {
    const auto w = static_cast<int>(g.inverse.rows());
    const std::size_t at = out.matrix.size();
    for (int k = 0; k < w; ++k)
      for (int j = 0; j < w; ++j)
        out.matrix.push_back(from_float<f16>(static_cast<float>(std::ldexp(g.inverse(k, j), -exponent))).bits);
    for (int j = 0; j < w; ++j) {
      out.mean.push_back(from_float<f16>(static_cast<float>(g.mean(j))).bits);
      if (!finite_f16(out.mean.back())) return false;
    }
    std::vector<float> inverse;
    if (!invert_basis(out.matrix.data() + at, w, double(out.scale), inverse)) return false;
    forward.push_back(Eigen::Map<const rows_f>(inverse.data(), w, w));
  }
  return true;
}

// Calls f(first row, rows, fold) for runs that belong to one fold; `from` = tokens before the first row.
template <class F>
void runs_of_folds(std::int64_t from, std::int64_t rows, const F& f) {
  for (std::int64_t r = 0; r < rows;) {
    const std::int64_t end = std::min(rows, r + fold_tokens - (from + r) % fold_tokens);
    f(r, end - r, static_cast<std::size_t>((from + r) / fold_tokens % 2));
    r = end;
  }
}

// K or V of one layer while it is calibrated.
struct plane_calibration {
  int width = 0, head_dim = 0, heads = 0, group_width = 0;
  std::array<std::vector<group_sums>, 2> folds;
  matrix_d metric;  // sums of q2 (one column a head) or wo (head_dim columns a head)
  int metrics = 0;
  std::vector<float> sample;
  std::int64_t stride = 1, seen = 0, measured = 0;
  double error_gain = 0, energy = 0;  // of attention outputs, per unit of weighted squared error

  std::vector<group_basis> basis, held_out[2];
  std::vector<matrix_f> forward, held_out_forward[2];  // to units of the finest step
  std::vector<float> deviations;                       // of coefficients, in units of the finest step
  double sensitivity = 0, step = 0, variance = 0;
  plane_profile profile;
  std::vector<coefficient_counts> counts;
  std::array<double, max_passes> squares{};

  int groups() const noexcept { return group_width ? (width + group_width - 1) / group_width : 0; }
  int begin_of(int g) const noexcept { return g * group_width; }
  int width_of(int g) const noexcept { return std::min(group_width, width - g * group_width); }

  void add(const rows_f& x) {
    runs_of_folds(seen, x.rows(), [&](std::int64_t first, std::int64_t n, std::size_t fold) {
      for (int g = 0; g < groups(); ++g) folds[fold][std::size_t(g)].add(x.block(first, begin_of(g), n, width_of(g)));
    });
    for (std::int64_t r = 0; r < x.rows(); ++r) {
      if ((seen + r) % stride) continue;
      if (sample.size() == sample_rows * std::size_t(width)) {
        for (std::size_t i = 1; i < sample_rows / 2; ++i)
          std::copy_n(sample.data() + 2 * i * std::size_t(width), width, sample.data() + i * std::size_t(width));
        sample.resize(sample.size() / 2);
        stride *= 2;
        if ((seen + r) % stride) continue;
      }
      sample.insert(sample.end(), x.row(r).data(), x.row(r).data() + width);
    }
    seen += x.rows();
  }

  // W^(1/2) and W^(-1/2) of every head; without a metric the identity. K: diag(q2 averaged over each rotary pair /
  // head_dim), since its error turns with the position; V: wo.
  void roots(plane which, const rope* r, std::vector<matrix_d>& root, std::vector<matrix_d>& inverse) const {
    const Eigen::Index d = head_dim;
    std::vector<std::pair<vector_d, matrix_d>> solved;
    double largest = 0;
    for (int h = 0; metrics && h < heads; ++h) {
      matrix_d w = matrix_d::Zero(d, d);
      if (which == plane::value) {
        w = metric.middleCols(h * d, d) / metrics;
      } else {
        vector_d q2 = metric.col(h) / metrics / double(d);
        const int dims = r ? rotary_dims(*r, head_dim) : 0;
        for (int i = 0; i < dims / 2; ++i) {
          const int a = r->pairing == rope_pairing::half ? i : 2 * i;
          const int b = r->pairing == rope_pairing::half ? i + dims / 2 : 2 * i + 1;
          q2(a) = q2(b) = (q2(a) + q2(b)) / 2;
        }
        w.diagonal() = q2;
      }
      solved.push_back(eigen_of(symmetric(w)));
      largest = std::max(largest, solved.back().first(d - 1));
    }
    for (int h = 0; h < heads; ++h) {
      if (!(largest > 0) || !std::isfinite(largest)) {
        root.push_back(matrix_d::Identity(d, d));
        inverse.push_back(root.back());
        continue;
      }
      const auto& [values, vectors] = solved[std::size_t(h)];
      // A head that hardly matters must not push the others out of the range of f16: 1e-8 of all heads.
      const double least = std::max(eigenvalue_floor * values(d - 1), 1e-8 * largest);
      const vector_d e = values.cwiseMax(least).cwiseSqrt();
      root.push_back(with_values(vectors, e));
      inverse.push_back(with_values(vectors, e.cwiseInverse()));
    }
  }

  // Bases of all tokens and of either half.
  void fit(plane which, const rope* r) {
    std::vector<matrix_d> root, inverse;
    roots(which, r, root, inverse);
    basis.resize(std::size_t(groups()));
    variance = 0;
    for (int g = 0; g < groups(); ++g) {
      const Eigen::Index w = width_of(g);
      const auto i = std::size_t(g);
      matrix_d a = matrix_d::Zero(w, w), b = a;
      for (Eigen::Index at = 0; at < w; at += head_dim) {
        const auto h = std::size_t((begin_of(g) + at) / head_dim);
        a.block(at, at, head_dim, head_dim) = root[h];
        b.block(at, at, head_dim, head_dim) = inverse[h];
      }
      const group_sums none;
      basis[i].fit(folds[0][i], folds[1][i], a, b);
      for (int f = 0; f < 2; ++f)
        if (folds[0][i].n > 0 && folds[1][i].n > 0) {
          held_out[f].resize(std::size_t(groups()));
          held_out[f][i].fit(folds[std::size_t(f)][i], none, a, b);
        }
    }
    folds = {};
    // The sample as coefficients of the weighted domain.
    Eigen::Map<rows_f> s(sample.data(), Eigen::Index(sample.size()) / width, width);
    for (int g = 0; g < groups(); ++g) {
      const group_basis& q = basis[std::size_t(g)];
      const rows_f x = less_mean(s.middleCols(begin_of(g), width_of(g)), to_float(q.mean));
      const rows_f y = product_in_rows(x, to_float(q.forward));
      s.middleCols(begin_of(g), width_of(g)) = y;
      variance += y.cast<double>().squaredNorm();
    }
    if (s.rows()) variance /= double(s.size());
  }

  // Mean squared error of the sample under a step, over all coefficients.
  double error_at(double with_step) const noexcept {
    const auto s = static_cast<float>(with_step), inverse = static_cast<float>(1 / with_step);
    double sum = 0;
    for (std::size_t i = 0; i < sample.size();) {
      float part = 0;
      for (const std::size_t end = std::min(sample.size(), i + 1024); i < end; ++i) {
        const float q = std::clamp(sample[i] * inverse, -1e9f, 1e9f);
        const float e = sample[i] - s * static_cast<float>(static_cast<int>(q + (q < 0 ? -0.5f : 0.5f)));
        part += e * e;
      }
      sum += double(part);
    }
    return sample.empty() ? 0 : sum / double(sample.size());
  }

  // Folds the finest step into the decoder's matrix; the second sweep uses its exact inverse, as encoders will.
  bool finish_basis(double finest) {
    step = finest;
    profile.width = width;
    profile.group_width = group_width;
    profile.step = static_cast<float>(finest);
    for (group_basis& g : basis) {
      g.inverse *= finest;
      for (const double v : g.variance) deviations.push_back(static_cast<float>(std::sqrt(v) / finest));
    }
    if (!put_basis(basis, profile, forward)) return false;
    for (int f = 0; f < 2; ++f)
      for (const group_basis& g : held_out[f]) held_out_forward[f].push_back(to_float(matrix_d(g.forward / finest)));
    counts.resize(std::size_t(width));
    basis = {};
    sample = {};
    return true;
  }

  // A group's channels in units of the finest step.
  matrix_f coefficients(int g, const rows_f& x) const {
    const row_f mean = mean_of(profile).segment(begin_of(g), width_of(g));
    return product(less_mean(x.middleCols(begin_of(g), width_of(g)), mean), forward[std::size_t(g)]);
  }
  rows_f coefficients(const rows_f& x) const {
    rows_f out(x.rows(), x.cols());
    for (int g = 0; g < groups(); ++g) out.middleCols(begin_of(g), width_of(g)) = coefficients(g, x);
    return out;
  }

  void measure(const rows_f& x, int passes) {
    for (int g = 0; g < groups(); ++g) {
      const int w = width_of(g);
      matrix_f y = coefficients(g, x);
      count(g, y, passes);
      for (int p = 0; p < passes; ++p) {
        const auto s = static_cast<float>(power_of_3(passes - 1 - p)), inverse = 1 / s;
        double sum = 0;
        for (int k = 0; k < w; ++k) {
          float part = 0;
          for (const float v : y.col(k)) {
            const float q = std::clamp(v * inverse, -1e9f, 1e9f);
            const float e = v - s * static_cast<float>(static_cast<int>(q + (q < 0 ? -0.5f : 0.5f)));
            part += e * e;
          }
          sum += double(part);
        }
        squares[std::size_t(p)] += sum;
      }
      if (held_out[0].empty()) continue;
      runs_of_folds(measured, x.rows(), [&](std::int64_t first, std::int64_t n, std::size_t fold) {
        const auto i = std::size_t(g);
        y = product(less_mean(x.block(first, begin_of(g), n, w), to_float(held_out[1 - fold][i].mean)),
                    held_out_forward[1 - fold][i]);
        count(g, y, passes);
      });
    }
    measured += x.rows();
  }

  void count(int g, const matrix_f& y, int passes) noexcept {
    for (Eigen::Index k = 0; k < y.cols(); ++k) {
      coefficient_counts& c = counts[std::size_t(begin_of(g) + k)];
      c.add(y.col(k).data(), y.rows(), passes);
      c.squares += double(y.col(k).squaredNorm());
    }
  }
};

}  // namespace sluice::detail::inline SLUICE_CALIBRATION_ABI
