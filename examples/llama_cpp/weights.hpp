// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../engine/gguf.hpp"
#include "../engine/quants.hpp"

#include <sluice/tensor/shape.hpp>

#include <Eigen/Cholesky>
#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <random>
#include <string>
#include <vector>

// What a model's weights tell about its cache: how the output projection weighs an error in V, and what queries look like
// that read it. Nothing is run.

namespace slot {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The projections of one layer's attention; [outputs][inputs].
struct attention_weights {
  matrix q, k, v, o;
  Eigen::VectorXf q_bias, k_bias, v_bias;  ///< zeros where there are none
  Eigen::VectorXf norm;                    ///< what the inputs are multiplied by
  Eigen::VectorXf q_norm, k_norm;          ///< [head_dim]; empty where heads are not normalised
};

namespace detail {

inline std::optional<matrix> read_matrix(const engine::gguf& file, const std::string& name, std::int64_t rows,
                                         std::int64_t cols) {
  const engine::tensor* t = file.find(name);
  if (!t || t->rows != std::uint64_t(rows) || t->cols != std::uint64_t(cols)) return {};
  matrix m(rows, cols);
  for (std::int64_t r = 0; r < rows; ++r) engine::dequantize_row(*t, std::size_t(r), m.row(r).data());
  return m;
}

inline Eigen::VectorXf read_vector(const engine::gguf& file, const std::string& name, std::int64_t n) {
  const auto m = read_matrix(file, name, 1, n);
  return m ? Eigen::VectorXf(m->row(0).transpose()) : Eigen::VectorXf();
}

}  // namespace detail

/// None where the layer is built in another way than llama's descendants are.
inline std::optional<attention_weights> read_attention(const engine::gguf& file, int layer,
                                                       const sluice::layer_shape& s) {
  const std::string p = "blk." + std::to_string(layer) + ".";
  const engine::tensor* q = file.find(p + "attn_q.weight");
  if (!q || s.absent() || q->cols > 1 << 16 || q->rows > 1 << 16) return {};
  const std::int64_t dim = std::int64_t(q->cols), q_dim = std::int64_t(q->rows);
  if (q_dim % (std::int64_t(s.num_kv_heads) * s.head_dim_k)) return {};
  const std::int64_t heads = q_dim / s.head_dim_k;
  const std::int64_t k_dim = std::int64_t(s.num_kv_heads) * s.head_dim_k,
                     v_dim = std::int64_t(s.num_kv_heads) * s.head_dim_v;
  attention_weights w;
  auto wq = detail::read_matrix(file, p + "attn_q.weight", q_dim, dim),
       wk = detail::read_matrix(file, p + "attn_k.weight", k_dim, dim);
  auto wv = detail::read_matrix(file, p + "attn_v.weight", v_dim, dim);
  auto wo = detail::read_matrix(file, p + "attn_output.weight", dim, heads * s.head_dim_v);
  if (!wq || !wk || !wv || !wo) return {};
  w.q = *std::move(wq), w.k = *std::move(wk), w.v = *std::move(wv), w.o = *std::move(wo);
  const auto or_zeros = [](Eigen::VectorXf x, std::int64_t n) {
    return x.size() ? x : Eigen::VectorXf(Eigen::VectorXf::Zero(n));
  };
  w.q_bias = or_zeros(detail::read_vector(file, p + "attn_q.bias", q_dim), q_dim);
  w.k_bias = or_zeros(detail::read_vector(file, p + "attn_k.bias", k_dim), k_dim);
  w.v_bias = or_zeros(detail::read_vector(file, p + "attn_v.bias", v_dim), v_dim);
  w.norm = detail::read_vector(file, p + "attn_norm.weight", dim);
  if (!w.norm.size()) return {};
  w.q_norm = detail::read_vector(file, p + "attn_q_norm.weight", s.head_dim_k);
  w.k_norm = detail::read_vector(file, p + "attn_k_norm.weight", s.head_dim_k);
  return w;
}

/// [kv_heads * head_dim_v][head_dim_v]: for each KV head, the sum over its group of Wo^T Wo.
inline matrix output_metric(const attention_weights& w, const sluice::layer_shape& s) {
  const Eigen::Index heads = w.q.rows() / s.head_dim_k, group = heads / s.num_kv_heads, d = s.head_dim_v;
  matrix out = matrix::Zero(s.num_kv_heads * d, d);
  for (Eigen::Index j = 0; j < heads; ++j) {
    const auto part = w.o.middleCols(j * d, d);
    out.middleRows(j / group * d, d) += part.transpose() * part;
  }
  return out;
}

/// Queries that a model may have asked of a cache. Inputs of attention have one length, and K and V are what two known
/// matrices make of them: that fixes as many of an input's dimensions as K and V have. The others are drawn as noise of the
/// strength that is missing of the length.
class query_guess {
 public:
  query_guess(const attention_weights& w, const sluice::layer_shape& s) : w_(w), shape_(s) {
    const Eigen::Index k = w.k_norm.size() ? 0 : w.k.rows();  // normalised keys have lost their length
    seen_.resize(k + w.v.rows(), w.q.cols());
    if (k) seen_.topRows(k) = w.k * w.norm.asDiagonal();
    seen_.bottomRows(w.v.rows()) = w.v * w.norm.asDiagonal();
    Eigen::MatrixXd gram = (seen_ * seen_.transpose()).cast<double>();
    const double noise = 1e-3 * gram.trace() / double(gram.rows());
    gram.diagonal().array() += noise;
    back_ = gram.llt().solve(seen_.cast<double>()).cast<float>().transpose();
    ask_ = w.q * w.norm.asDiagonal();
  }

  Eigen::Index heads() const { return w_.q.rows() / shape_.head_dim_k; }

  /// Un-rotated K and V of some tokens, [tokens][kv_heads * head_dim], to un-rotated queries [tokens][heads * head_dim].
  matrix operator()(const matrix& k, const matrix& v) const {
    matrix y(k.rows(), seen_.rows());
    const Eigen::Index keys = seen_.rows() - v.cols();
    if (keys) y.leftCols(keys) = k.rowwise() - w_.k_bias.transpose();
    y.rightCols(v.cols()) = v.rowwise() - w_.v_bias.transpose();
    matrix x = y * back_.transpose();
    const double dim = double(x.cols()), free = dim - double(seen_.rows());
    if (free > 0) {
      matrix noise(x.rows(), x.cols());
      std::mt19937 random(1);
      std::normal_distribution<float> normal;
      for (Eigen::Index i = 0; i < noise.size(); ++i) noise.data()[i] = normal(random);
      noise -= (noise * seen_.transpose()) * back_.transpose();
      const double missing = std::max(0.0, dim - double(x.rowwise().squaredNorm().mean()));
      x += noise * float(std::sqrt(missing / free));
    }
    matrix q = (x * ask_.transpose()).rowwise() + w_.q_bias.transpose();
    if (w_.q_norm.size())
      for (Eigen::Index h = 0; h < heads(); ++h) {
        auto head = q.middleCols(h * shape_.head_dim_k, shape_.head_dim_k);
        for (Eigen::Index t = 0; t < head.rows(); ++t)
          head.row(t) = (head.row(t) / std::sqrt(head.row(t).squaredNorm() / float(head.cols()) + 1e-6f))
                            .cwiseProduct(w_.q_norm.transpose());
      }
    return q;
  }

 private:
  const attention_weights& w_;
  sluice::layer_shape shape_;
  matrix seen_, back_, ask_;
};

}  // namespace slot
