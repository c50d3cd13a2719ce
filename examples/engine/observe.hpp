// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "model.hpp"
#include "rows.hpp"

#include <sluice/tensor/half.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

// What codecs and their calibration want to know of a model besides its cache: how strongly queries read each channel of
// K, which tokens they look at, and how the output projection weighs an error in V.

namespace engine {

/// Queries of the last tokens of a context, rotated, collected as model::forward shows them (forward_options::on_queries).
class last_queries {
 public:
  static constexpr int kept = 32;  ///< tokens; all of a shorter context

  last_queries(model& net, int context)
      : net_(&net), first_(std::max(0, context - kept)), rows_(std::size_t(net.config().layers)) {
    for (matrix& m : rows_) m.setZero(context - first_, net.config().heads * net.config().head_dim);
  }

  void add(int layer, int position, std::span<const float> queries) {
    const model_config& c = net_->config();
    const int width = c.heads * c.head_dim, n = int(queries.size()) / width;
    const Eigen::Map<const matrix> q(queries.data(), n, width);
    matrix& to = rows_[std::size_t(layer)];
    for (int t = std::max(0, first_ - position); t < n && position + t - first_ < to.rows(); ++t) {
      to.row(position + t - first_) = q.row(t);
      for (int h = 0; h < c.heads; ++h)
        net_->rotate(layer, to.row(position + t - first_).data() + h * c.head_dim, position + t);
    }
  }

  int first() const noexcept { return first_; }  ///< position of the first of them
  /// [tokens][heads * head_dim]
  const matrix& of(int layer) const noexcept { return rows_[std::size_t(layer)]; }

 private:
  model* net_;
  int first_;
  std::vector<matrix> rows_;
};

/// Queries of one context, collected likewise.
class query_statistics {
 public:
  static constexpr int kept = last_queries::kept;
  static constexpr int sinks = 4;  ///< first tokens, unlike all others, left out

  query_statistics(model& net, int context) : net_(&net), context_(context), last_(net, context) {
    const model_config& c = net.config();
    squares_.assign(std::size_t(c.layers), Eigen::ArrayXd::Zero(c.heads * c.head_dim));
  }

  void add(int layer, int position, std::span<const float> queries) {
    const model_config& c = net_->config();
    const int width = c.heads * c.head_dim, n = int(queries.size()) / width;
    const Eigen::Map<const matrix> q(queries.data(), n, width);
    for (int t = std::max(0, sinks - position); t < n; ++t)
      squares_[std::size_t(layer)] += q.row(t).cast<double>().array().square().transpose();
    last_.add(layer, position, queries);
  }

  /// [kv_heads][head_dim] mean square of the un-rotated queries of each KV head's group.
  std::vector<float> q2(int layer) const {
    const model_config& c = net_->config();
    const int group = c.heads / c.kv_heads;
    std::vector<float> out(std::size_t(c.kv_heads * c.head_dim));
    for (int h = 0; h < c.kv_heads; ++h) {
      Eigen::ArrayXd sum = Eigen::ArrayXd::Zero(c.head_dim);
      for (int j = h * group; j < (h + 1) * group; ++j)
        sum += squares_[std::size_t(layer)].segment(j * c.head_dim, c.head_dim);
      Eigen::Map<Eigen::ArrayXf>(out.data() + h * c.head_dim, c.head_dim) =
          (sum / (double(context_ - sinks) * group)).cast<float>();
    }
    return out;
  }

  /// [kept][heads][head_dim] queries of the last tokens, rotated.
  std::vector<sluice::f16> last(int layer) const {
    const matrix& m = last_.of(layer);
    std::vector<sluice::f16> out(std::size_t(m.size()));
    store_row(m.data(), sluice::dtype::f16, reinterpret_cast<std::byte*>(out.data()), int(m.size()));
    return out;
  }

 private:
  model* net_;
  int context_;
  std::vector<Eigen::ArrayXd> squares_;  // [layer][heads * head_dim]
  last_queries last_;
};

/// [layers][tokens] mean over all heads of the squared attention that the last queries of a context pay to each of its
/// tokens, those queries counted that stand behind the token; 0 where the layer's window leaves it out. The sequence holds
/// the context.
inline std::vector<float> observed_attention(const model_config& c, const sequence& seq, const last_queries& last,
                                             thread_pool& pool) {
  const int tokens = seq.tokens(), d = c.head_dim, group = c.heads / c.kv_heads;
  std::vector<float> out(std::size_t(c.layers) * std::size_t(tokens));
  pool.parallel_for(c.layers, [&](int layer, int) {
    Eigen::Map<Eigen::ArrayXf> to(out.data() + std::ptrdiff_t(layer) * tokens, tokens);
    const matrix& queries = last.of(layer);
    const int n = int(queries.rows()), window = c.layer_window(layer);
    matrix k(tokens, d);
    for (int h = 0; h < c.heads; ++h) {
      if (h % group == 0)
        for (int t = 0; t < tokens; ++t)
          load_row(seq.at(sluice::plane::key, layer, t, h / group), seq.pool().type(), k.row(t).data(), d);
      matrix scores = queries.middleCols(h * d, d) * k.transpose() / std::sqrt(float(d));
      for (int i = 0; i < n; ++i) {
        const int end = last.first() + i + 1, begin = window ? std::max(0, end - window) : 0;
        auto seen = scores.row(i).segment(begin, end - begin).array();
        seen = (seen - seen.maxCoeff()).exp();
        to.segment(begin, end - begin) += (seen / seen.sum()).square().transpose();
      }
    }
    for (int t = 0; t < tokens; ++t) to[t] /= float(c.heads * (n - std::max(0, t - last.first())));
  });
  return out;
}

/// [kv_heads * head_dim][head_dim]: for each KV head, the sum over its group of Wo^T Wo.
inline matrix output_metric(const model& net, int layer) {
  const model_config& c = net.config();
  const int group = c.heads / c.kv_heads;
  const matrix o = net.output_projection(layer);
  matrix out = matrix::Zero(c.kv_heads * c.head_dim, c.head_dim);
  for (int j = 0; j < c.heads; ++j) {
    const auto part = o.middleCols(j * c.head_dim, c.head_dim);
    out.middleRows(j / group * c.head_dim, c.head_dim) += part.transpose() * part;
  }
  return out;
}

}  // namespace engine
