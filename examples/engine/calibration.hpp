// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"
#include "distribution.hpp"
#include "model.hpp"
#include "observe.hpp"
#include "predictions.hpp"

#include <sluice/codec/predict/prediction_model.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
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
  sensitivities measure(std::span<const std::int32_t> suffix, const std::function<void(int)>& done);

 private:
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

  // Turns a head's row back to position 0.
  void unrotate(int layer, float* head, int position);
  // Quantises every head in its own metric, the first tokens aside. Returns the mean squared error of a coefficient.
  double disturb(sluice::plane p, int layer, std::vector<float>& x);

  model& net_;
  sequence& seq_;
  const query_statistics& seen_;
  const std::vector<matrix>& output_metrics_;
  int context_;
};

/// How to calibrate a model on its own.
struct self_calibration {
  int context = 1024;                     ///< tokens of a capture; what follows in a window is a suffix
  double target_kl = 0.010;               ///< nats at level 1
  int sensitivity_windows = 3;            ///< captures, evenly over all, whose suffixes they are measured on; the mean
                                          ///< counts. 0 = steps follow from the last queries of each context
  sluice::prediction_kind prediction{};   ///< what to fit for a codec that predicts, which takes a third sweep
  std::vector<std::string> presets{};     ///< whose sections the profile is to have as well
  sluice::dtype kv = sluice::dtype::f16;  ///< of the pages
  int threads = 1;                        ///< for the part that is not the model's
  std::function<void(std::size_t, std::size_t)> on_progress{};  ///< done, of all
};

struct calibrated {
  sluice::profile profile;
  sensitivities measured;  ///< empty where they were not
};

/// A profile from contexts run here. Each window holds a context's tokens and more: the suffix that sensitivities are
/// measured on. Errors: throws std::runtime_error.
calibrated calibrate(model& net, std::span<const std::vector<std::int32_t>> windows, const self_calibration& how);

/// Adds the sections of how.presets to a profile of the model, from the contexts of windows; nothing else of it changes.
/// Errors: throws std::runtime_error.
void add_sections(model& net, std::span<const std::vector<std::int32_t>> windows, const self_calibration& how,
                  sluice::profile& p);

}  // namespace engine
