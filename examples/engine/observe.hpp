// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "model.hpp"
#include "rows.hpp"

#include <sluice/tensor/half.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cstddef>
#include <span>
#include <vector>

// What calibration wants to know of a model besides its cache: how strongly queries read each channel of K, and how the
// output projection weighs an error in V.

namespace engine {

/// Queries of one context, collected as model::forward shows them (forward_options::on_queries).
class query_statistics {
 public:
  static constexpr int kept = 32;  ///< of the last tokens
  static constexpr int sinks = 4;  ///< first tokens, unlike all others, left out

  query_statistics(model& net, int context) : net_(&net), context_(context) {
    const model_config& c = net.config();
    squares_.assign(std::size_t(c.layers), Eigen::ArrayXd::Zero(c.heads * c.head_dim));
    last_.assign(std::size_t(c.layers), matrix(kept, c.heads * c.head_dim));
  }

  void add(int layer, int position, std::span<const float> queries) {
    const model_config& c = net_->config();
    const int width = c.heads * c.head_dim, n = int(queries.size()) / width;
    const Eigen::Map<const matrix> q(queries.data(), n, width);
    for (int t = std::max(0, sinks - position); t < n; ++t)
      squares_[std::size_t(layer)] += q.row(t).cast<double>().array().square().transpose();
    for (int t = std::max(0, context_ - kept - position); t < n; ++t) {
      auto to = last_[std::size_t(layer)].row(position + t - (context_ - kept));
      to = q.row(t);
      for (int h = 0; h < c.heads; ++h) net_->rotate(layer, to.data() + h * c.head_dim, position + t);
    }
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
    const matrix& m = last_[std::size_t(layer)];
    std::vector<sluice::f16> out(std::size_t(m.size()));
    store_row(m.data(), sluice::dtype::f16, reinterpret_cast<std::byte*>(out.data()), int(m.size()));
    return out;
  }

 private:
  model* net_;
  int context_;
  std::vector<Eigen::ArrayXd> squares_;  // [layer][heads * head_dim]
  std::vector<matrix> last_;
};

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
