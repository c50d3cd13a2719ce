// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"
#include "distribution.hpp"
#include "model.hpp"
#include "observe.hpp"
#include "predictions.hpp"

#include <sluice/calibrate/calibrate.hpp>
#include <sluice/status.hpp>

#include <Eigen/Dense>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <span>
#include <stdexcept>
#include <vector>

// What an engine adds to calibrate itself: run a few contexts, keep their caches and what was seen of the queries, and
// measure what an error in K or V of each layer does to its own predictions. No file lies between.

namespace engine {

/// How much predictions change where K or V of one layer is quantised: nats of KL divergence per unit of squared error,
/// in the metric of profiles (K: mean square query of each rotary pair / head_dim; V: Wo^T Wo).
struct sensitivities {
  std::vector<double> k, v;  ///< [layer]
};

/// Measures sensitivities on one context and the suffix that follows it. Layers before a disturbed one compute what they
/// computed before, so each pass starts from the residual stream that was seen to enter the disturbed layer.
class sensitivity_probe {
 public:
  static constexpr double coarseness = 0.7;         ///< the step, in standard deviations
  static constexpr double eigenvalue_floor = 1e-4;  ///< of the metric's largest

  /// The sequence holds the context; its cache is disturbed for a while and restored.
  sensitivity_probe(model& net, sequence& seq, const query_statistics& seen, const std::vector<matrix>& output_metrics)
      : net_(net), seq_(seq), seen_(seen), output_metrics_(output_metrics), context_(seq.tokens()) {}

  /// `done` is called after every pass with the layers it ran.
  sensitivities measure(std::span<const std::int32_t> suffix, const std::function<void(int)>& done) {
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

 private:
  using matrix_d = Eigen::MatrixXd;

  int width() const noexcept { return net_.config().kv_heads * net_.config().head_dim; }

  std::vector<float> load(sluice::plane p, int layer) const {
    std::vector<float> x(std::size_t(context_) * std::size_t(width()));
    for (int t = 0; t < context_; ++t)
      load_row(seq_.at(p, layer, t), seq_.pool().type(), x.data() + std::ptrdiff_t(t) * width(), width());
    return x;
  }

  void store(sluice::plane p, int layer, const std::vector<float>& x) const {
    for (int t = 0; t < context_; ++t)
      store_row(x.data() + std::ptrdiff_t(t) * width(), seq_.pool().type(), seq_.at(p, layer, t), width());
  }

  // Turns a head's row back: rotation by the opposite angle is rotation with one half of the pairs mirrored.
  void unrotate(int layer, float* head, int position) {
    const auto mirror = [half = net_.config().head_dim / 2, head] {
      for (int i = half; i < 2 * half; ++i) head[i] = -head[i];
    };
    mirror();
    net_.rotate(layer, head, position);
    mirror();
  }

  // Quantises every head in its own metric, the first tokens aside. Returns the mean squared error of a coefficient.
  double disturb(sluice::plane p, int layer, std::vector<float>& x) {
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
      matrix_d w;
      if (p == sluice::plane::key) {
        const Eigen::Map<const Eigen::VectorXf> squares(q2.data() + h * d, d);
        const Eigen::VectorXd pairs = (squares.head(d / 2) + squares.tail(d / 2)).cast<double>() / (2.0 * double(d));
        w = pairs.replicate(2, 1).asDiagonal();
      } else {
        w = output_metrics_[std::size_t(layer)].middleRows(h * d, d).cast<double>();
      }
      const Eigen::SelfAdjointEigenSolver<matrix_d> e(w);
      const double largest = e.eigenvalues().maxCoeff();
      const Eigen::VectorXd root = e.eigenvalues().cwiseMax(eigenvalue_floor * largest).cwiseSqrt();
      const Eigen::RowVectorXd mean = head.bottomRows(context_ - first).cast<double>().colwise().mean();
      matrix_d y = (head.cast<double>().rowwise() - mean) * (e.eigenvectors() * root.asDiagonal());
      auto coded = y.bottomRows(context_ - first).array();
      const double step = coarseness * std::sqrt(coded.square().mean());
      if (!(largest > 0) || !(step > 0)) continue;
      const Eigen::ArrayXXd rounded = (coded / step).round() * step;
      error += (rounded - coded).square().mean() / c.kv_heads;
      const matrix_d back = rounded.matrix() * (root.cwiseInverse().asDiagonal() * e.eigenvectors().transpose());
      head.bottomRows(context_ - first) = (back.rowwise() + mean).cast<float>();
      for (int t = int(first); t < context_; ++t) {
        if (p == sluice::plane::key) net_.rotate(layer, head.row(t).data(), t);
        Eigen::Map<Eigen::RowVectorXf>(x.data() + std::ptrdiff_t(t) * width() + h * d, d) = head.row(t);
      }
    }
    return error;
  }

  model& net_;
  sequence& seq_;
  const query_statistics& seen_;
  const std::vector<matrix>& output_metrics_;
  int context_;
};

/// How to calibrate a model on its own.
struct self_calibration {
  int context = 1024;                     ///< tokens of a capture; what follows in the first one is a suffix
  double target_kl = 0.010;               ///< nats at level 1
  bool measure_sensitivities = true;      ///< without, steps follow from the last queries of each context
  sluice::dtype kv = sluice::dtype::f16;  ///< of the pages
  int threads = 1;                        ///< for the part that is not the model's
  std::function<void(std::size_t, std::size_t)> on_progress{};  ///< done, of all
};

struct calibrated {
  sluice::profile profile;
  sensitivities measured;  ///< empty where they were not
};

/// A profile from contexts run here. Each window holds a context's tokens, the first one's more: the suffix that
/// sensitivities are measured on. Errors: throws std::runtime_error.
inline calibrated calibrate(model& net, std::span<const std::vector<std::int32_t>> windows,
                            const self_calibration& how) {
  const model_config& c = net.config();
  const auto layers = std::size_t(c.layers), context = std::size_t(how.context), n = windows.size();
  const auto check = [](sluice::status s) {
    if (s != sluice::status::ok) throw std::runtime_error(std::string("calibration: ") + to_string(s));
  };
  // Progress counts tokens times layers; a sweep of the calibrator takes about a tenth of a pass of the model.
  const std::size_t suffix = how.measure_sensitivities ? windows.front().size() - context : 0;
  const std::size_t sweep = std::max<std::size_t>(context * layers / 10, 1);
  const std::size_t all = n * (context * layers + 2 * sweep) + suffix * layers * (layers + 2);
  std::size_t done = 0;
  const auto advance = [&](std::size_t work) {
    done += work;
    if (how.on_progress) how.on_progress(done, all);
  };

  struct seen {
    seen(page_pool& pages, model& m, int tokens) : cache(pages), queries(m, tokens) {}
    sequence cache;
    query_statistics queries;
    std::vector<std::vector<float>> q2{};
    std::vector<std::vector<sluice::f16>> last{};
    std::vector<sluice::capture_layer> known{};
  };
  page_pool pages(
      c, how.kv, int(n) * page_pool::pages_for(how.context) + page_pool::pages_for(int(suffix) + page_pool::page_size));
  std::deque<seen> captures;  // a sequence does not move
  std::vector<matrix> output_metrics;
  for (int l = 0; l < c.layers; ++l) output_metrics.push_back(output_metric(net, l));
  for (const std::vector<std::int32_t>& ids : windows) {
    seen& s = captures.emplace_back(pages, net, how.context);
    net.forward(std::span(ids).first(context), s.cache,
                {.on_queries = [&](int layer, int position, std::span<const float> queries) {
                  s.queries.add(layer, position, queries);
                  advance(queries.size() / std::size_t(c.heads * c.head_dim));
                }});
    for (int l = 0; l < c.layers; ++l) {
      s.q2.push_back(s.queries.q2(l));
      s.last.push_back(s.queries.last(l));
      s.known.push_back({s.q2.back().data(), output_metrics[std::size_t(l)].data(), s.last.back().data()});
    }
  }

  calibrated out;
  if (how.measure_sensitivities) {
    seen& s = captures.front();
    out.measured =
        sensitivity_probe(net, s.cache, s.queries, output_metrics)
            .measure(std::span(windows.front()).subspan(context), [&](int ran) { advance(suffix * std::size_t(ran)); });
  }
  sluice::calibration_options options;
  options.target_kl = how.target_kl;
  options.threads = how.threads;
  options.sensitivity_k = out.measured.k;
  options.sensitivity_v = out.measured.v;
  sluice::calibrator calibrator(kv_shape(c), options);
  for (const bool second : {false, true})
    for (seen& s : captures) {
      const sluice::capture capture{s.cache.view(), s.known, query_statistics::kept, c.heads};
      check(second ? calibrator.measure(capture) : calibrator.add(capture));
      advance(sweep);
    }
  sluice::result<sluice::profile> made = calibrator.finish();
  check(made.status());
  out.profile = *std::move(made);
  return out;
}

}  // namespace engine
