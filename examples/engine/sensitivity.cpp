// SPDX-License-Identifier: Apache-2.0
#include "calibration.hpp"

#include <Eigen/Dense>

#include <algorithm>
#include <cmath>

namespace engine {

sensitivities sensitivity_probe::measure(std::span<const std::int32_t> suffix, const std::function<void(int)>& done) {
  const model_config& c = net_.config();
  std::vector<std::vector<float>> entering(std::size_t(c.layers));
  const matrix exact = predict(net_, suffix, seq_, {.on_hidden = [&](int layer, int, std::span<const float> x) {
                                 auto& to = entering[std::size_t(layer)];
                                 to.insert(to.end(), x.begin(), x.end());
                               }});
  done(c.layers);
  sensitivities out{std::vector<double>(std::size_t(c.layers)), std::vector<double>(std::size_t(c.layers))};
  for (int l = 0; l < c.layers; ++l)
    for (const sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
      const std::vector<float> saved = load(p, l);
      std::vector<float> disturbed = saved;
      const double error = disturb(p, l, disturbed);
      store(p, l, disturbed);
      distance_sum distance;
      net_.forward(suffix, seq_,
                   {.logits_from = 0,
                    .on_logits =
                        [&](int position, std::span<const float> logits) {
                          distance.add(row_of(exact, position - context_), logits);
                        },
                    .position = context_,
                    .first_layer = l,
                    .hidden = entering[std::size_t(l)]});
      store(p, l, saved);
      const double s = distance.kl() / error;
      (p == sluice::plane::key ? out.k : out.v)[std::size_t(l)] = std::isfinite(s) && s > 0 ? s : 0;
      done(c.layers - l);
    }
  seq_.truncate(context_);
  return out;
}

// Turns a head's row back: rotation by the opposite angle is rotation with one half of the pairs mirrored.
void sensitivity_probe::unrotate(int layer, float* head, int position) {
  const auto mirror = [half = net_.config().head_dim / 2, head] {
    for (int i = half; i < 2 * half; ++i) head[i] = -head[i];
  };
  mirror();
  net_.rotate(layer, head, position);
  mirror();
}

// Quantises every head in its own metric, the first tokens aside. Returns the mean squared error of a coefficient.
double sensitivity_probe::disturb(sluice::plane p, int layer, std::vector<float>& x) {
  const model_config& c = net_.config();
  const Eigen::Index d = c.head_dim, first = std::min(query_statistics::sinks, context_);
  const std::vector<float> q2 = seen_.q2(layer);
  double error = 0;
  for (int h = 0; h < c.kv_heads; ++h) {
    matrix head(context_, d);
    for (int t = 0; t < context_; ++t) {
      head.row(t) = Eigen::Map<const Eigen::RowVectorXf>(x.data() + std::ptrdiff_t(t) * width() + h * d, d);
      if (p == sluice::plane::key) unrotate(layer, head.row(t).data(), t);
    }
    Eigen::MatrixXd w;
    if (p == sluice::plane::key) {
      const Eigen::Map<const Eigen::VectorXf> squares(q2.data() + h * d, d);
      const Eigen::VectorXd pairs = (squares.head(d / 2) + squares.tail(d / 2)).cast<double>() / (2.0 * double(d));
      w = pairs.replicate(2, 1).asDiagonal();
    } else {
      w = output_metrics_[std::size_t(layer)].middleRows(h * d, d).cast<double>();
    }
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> e(w);
    const double largest = e.eigenvalues().maxCoeff();
    const Eigen::VectorXd root = e.eigenvalues().cwiseMax(eigenvalue_floor * largest).cwiseSqrt();
    const Eigen::RowVectorXd mean = head.bottomRows(context_ - first).cast<double>().colwise().mean();
    Eigen::MatrixXd y = (head.cast<double>().rowwise() - mean) * (e.eigenvectors() * root.asDiagonal());
    auto coded = y.bottomRows(context_ - first).array();
    const double step = coarseness * std::sqrt(coded.square().mean());
    if (!(largest > 0) || !(step > 0)) continue;
    const Eigen::ArrayXXd rounded = (coded / step).round() * step;
    error += (rounded - coded).square().mean() / c.kv_heads;
    const Eigen::MatrixXd back = rounded.matrix() * (root.cwiseInverse().asDiagonal() * e.eigenvectors().transpose());
    head.bottomRows(context_ - first) = (back.rowwise() + mean).cast<float>();
    for (int t = int(first); t < context_; ++t) {
      if (p == sluice::plane::key) net_.rotate(layer, head.row(t).data(), t);
      Eigen::Map<Eigen::RowVectorXf>(x.data() + std::ptrdiff_t(t) * width() + h * d, d) = head.row(t);
    }
  }
  return error;
}

}  // namespace engine
