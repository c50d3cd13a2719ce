// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/capture.hpp>

#include <Eigen/Cholesky>
#include <Eigen/Eigenvalues>

#include <algorithm>
#include <utility>

// The dense algebra of calibration: plain functions of few types, since every expression that is multiplied or solved
// compiles kernels of its own. Matrices are doubles in columns, or floats in rows. Each function takes something of
// Eigen, so that its name tells the Eigen of sluice::kernels from a program's own, and there are no classes here; see
// capture.hpp.

namespace sluice::detail::inline SLUICE_CALIBRATION_ABI {

using matrix_d = Eigen::MatrixXd;
using vector_d = Eigen::VectorXd;
using rows_f = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using matrix_f = Eigen::MatrixXf;  // what rows are multiplied by, or coefficients of one channel after the other
using row_f = Eigen::RowVectorXf;

// Matrices or blocks of them; anything else is computed first.
using block_d = Eigen::Ref<const matrix_d, 0, Eigen::OuterStride<>>;
using block_of_rows = Eigen::Ref<const rows_f, 0, Eigen::OuterStride<>>;
using block_of_columns = Eigen::Ref<const matrix_f, 0, Eigen::OuterStride<>>;

inline matrix_d transposed(const block_d& a) { return a.transpose(); }
inline matrix_d rows_to_double(const block_of_rows& x) { return x.cast<double>(); }
inline matrix_d to_double(const matrix_f& x) { return x.cast<double>(); }
inline vector_d to_double(const row_f& x) { return x.cast<double>().transpose(); }
inline matrix_f to_float(const matrix_d& x) { return x.cast<float>(); }
inline row_f to_float(const vector_d& x) { return x.cast<float>().transpose(); }

inline matrix_d product(const block_d& a, const block_d& b) { return a * b; }
inline matrix_d outer(const vector_d& a, const vector_d& b) { return a * b.transpose(); }
inline matrix_f product(const block_of_rows& a, const block_of_columns& b) { return a * b; }
inline rows_f product_in_rows(const block_of_rows& a, const block_of_columns& b) { return a * b; }

// a' b, summed in floats.
inline matrix_d transposed_product(const block_of_rows& a, const block_of_rows& b) {
  const matrix_f p = a.transpose() * b;
  return p.cast<double>();
}

// Adds a a' to the lower triangle.
inline void add_square(const matrix_d& a, matrix_d& lower) { lower.selfadjointView<Eigen::Lower>().rankUpdate(a); }

// Sums over tokens, in doubles; of the squares the lower triangle.
inline void add_tokens(const block_of_rows& x, vector_d& sum, matrix_d& squares) {
  const matrix_d d = x.cast<double>().transpose();
  sum += d.rowwise().sum();
  add_square(d, squares);
}

inline rows_f less_mean(const block_of_rows& x, const row_f& mean) { return x.rowwise() - mean; }
inline vector_d sum_of_rows(const block_of_rows& x) { return x.colwise().sum().cast<double>().transpose(); }

// Multiples of a step.
inline rows_f rounded(const block_of_rows& x, float step) { return (x / step).array().round() * step; }

// What is symmetric but for rounding.
inline matrix_d symmetric(const matrix_d& a) { return (a + a.transpose()) / 2; }

// Applies the reflections that made a matrix tridiagonal to the rows of v, in blocks: I - w m w'.
inline void reflect(const Eigen::Tridiagonalization<matrix_d>& t, matrix_d& v) {
  const matrix_d& packed = t.packedMatrix();
  const vector_d tau = t.householderCoefficients();
  constexpr Eigen::Index block = 48;
  for (Eigen::Index end = v.rows() - 1, first; end > 0; end = first) {
    first = std::max<Eigen::Index>(0, end - block);
    const Eigen::Index n = end - first, rows = v.rows() - 1 - first;
    matrix_d w = matrix_d::Zero(rows, n), m = matrix_d::Zero(n, n);
    for (Eigen::Index i = 0; i < n; ++i) {
      w(i, i) = 1;
      for (Eigen::Index r = i + 1; r < rows; ++r) w(r, i) = packed(first + 1 + r, first + i);
    }
    const matrix_d wt = transposed(w), inner = product(wt, w);
    for (Eigen::Index i = 0; i < n; ++i) {
      m(i, i) = tau(first + i);
      for (Eigen::Index r = 0; r < i; ++r)
        for (Eigen::Index c = r; c < i; ++c) m(r, i) -= m(i, i) * m(r, c) * inner(c, i);
    }
    v.bottomRows(rows) -= product(w, product(m, product(wt, v.bottomRows(rows))));
  }
}

// Eigenvalues as they rise, and vectors in columns; the lower triangle is read. In two steps, since what Eigen's solver
// applies reflections with takes longer to compile than all the rest.
inline std::pair<vector_d, matrix_d> eigen_of(const matrix_d& a) {
  const double largest = a.cwiseAbs().maxCoeff(), scale = largest > 0 ? largest : 1;
  const Eigen::Tridiagonalization<matrix_d> t(matrix_d(a / scale));
  Eigen::SelfAdjointEigenSolver<matrix_d> solver;
  solver.computeFromTridiagonal(t.diagonal(), t.subDiagonal());
  matrix_d vectors = solver.eigenvectors();
  reflect(t, vectors);
  return {solver.eigenvalues() * scale, vectors};
}

// The same as they fall.
inline std::pair<vector_d, matrix_d> principal_axes(const matrix_d& a) {
  const auto [values, vectors] = eigen_of(a);
  return {values.reverse(), vectors.rowwise().reverse()};
}

// Each column's largest element is positive.
inline void choose_signs(matrix_d& u) {
  for (Eigen::Index k = 0; k < u.cols(); ++k) {
    Eigen::Index largest = 0;
    u.col(k).cwiseAbs().maxCoeff(&largest);
    if (u(largest, k) < 0) u.col(k) *= -1;
  }
}

// The symmetric matrix of these vectors and values.
inline matrix_d with_values(const matrix_d& vectors, const vector_d& values) {
  return product(vectors * values.asDiagonal(), transposed(vectors));
}

// a x = b, a symmetric and hardly ever not positive.
inline matrix_d solve(const matrix_d& a, const block_d& b) { return a.ldlt().solve(b); }

// Lower triangle L of positive a = L L', then L x = b, L' x = b.
inline matrix_d cholesky(const matrix_d& a) { return a.llt().matrixL(); }
inline void solve_lower(const matrix_d& l, matrix_d& b) { l.triangularView<Eigen::Lower>().solveInPlace(b); }
inline void solve_upper(const matrix_d& l, matrix_d& b) {
  l.triangularView<Eigen::Lower>().transpose().solveInPlace(b);
}

}  // namespace sluice::detail::inline SLUICE_CALIBRATION_ABI
