// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/sluice.hpp>

#include <Eigen/Core>
#include <cmath>
#include <cstdint>
#include <vector>

/// Attention of a layer's captured queries, softmax(q k^T / sqrt(d)) v, causal and with grouped heads, over keys and
/// values wherever a view finds them.
class attention {
 public:
  using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  /// queries[layer]: f16 [count, heads, head_dim], rotated, of the last `count` tokens.
  attention(std::vector<const sluice::f16*> queries, int count, int heads)
      : queries_(std::move(queries)), count_(count), heads_(heads) {}

  /// [layer]: a row for each query, heads one after the other.
  std::vector<matrix> outputs(const sluice::kv_view& cache) const {
    std::vector<matrix> out;
    const int group = heads_ / cache.num_kv_heads, dk = cache.k.head_dim, dv = cache.v.head_dim;
    const int tokens = int(cache.tokens);
    for (int l = 0; l < cache.num_layers; ++l) {
      matrix o(count_, heads_ * dv), q(count_, dk);
      for (int h = 0; h < heads_; ++h) {
        if (h % group == 0) {
          read(cache, sluice::plane::key, l, h / group, k_);
          read(cache, sluice::plane::value, l, h / group, v_);
        }
        for (int i = 0; i < count_; ++i)
          for (int d = 0; d < dk; ++d)
            q(i, d) = sluice::to_float(queries_[std::size_t(
                l)][(std::size_t(i) * std::size_t(heads_) + std::size_t(h)) * std::size_t(dk) + std::size_t(d)]);
        matrix score = q * k_.transpose() / std::sqrt(float(dk));
        for (int i = 0; i < count_; ++i) {
          const int seen = tokens - count_ + i + 1;
          score.row(i).tail(tokens - seen).setConstant(-INFINITY);
          score.row(i) = (score.row(i).array() - score.row(i).head(seen).maxCoeff()).exp();
          score.row(i) /= score.row(i).sum();
        }
        o.middleCols(h * dv, dv) = score * v_;
      }
      out.push_back(std::move(o));
    }
    return out;
  }

  /// Relative L2 error of each layer.
  static std::vector<double> errors(const std::vector<matrix>& exact, const std::vector<matrix>& got) {
    std::vector<double> out;
    for (std::size_t l = 0; l < exact.size(); ++l) out.push_back((got[l] - exact[l]).norm() / exact[l].norm());
    return out;
  }

 private:
  static void read(const sluice::kv_view& cache, sluice::plane p, int layer, int head, matrix& out) {
    out.resize(cache.tokens, cache[p].head_dim);
    for (int t = 0; t < out.rows(); ++t)
      for (int d = 0; d < out.cols(); ++d)
        out(t, d) = sluice::load_element(cache.at(p, layer, t, head, d), cache[p].type);
  }

  std::vector<const sluice::f16*> queries_;
  int count_, heads_;
  mutable matrix k_, v_;
};
