// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"
#include "distribution.hpp"
#include "model.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

namespace engine {

/// Minus the logarithm of the probability of `target`, in nats.
inline double surprise(std::span<const float> logits, std::int32_t target) {
  const Eigen::Map<const Eigen::ArrayXf> x(logits.data(), static_cast<Eigen::Index>(logits.size()));
  const float largest = x.maxCoeff();
  const double sum = double((x - largest).exp().sum());
  return std::log(sum) + double(largest - logits[std::size_t(target)]);
}

inline std::int32_t likeliest(std::span<const float> logits) {
  return std::int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// What the model predicts after each token of a suffix, [suffix][vocab]; the sequence grows by the suffix.
inline matrix predict(model& net, std::span<const std::int32_t> suffix, sequence& seq, forward_options options = {}) {
  matrix out(static_cast<Eigen::Index>(suffix.size()), net.config().vocab);
  Eigen::Index row = 0;
  options.logits_from = 0;
  options.on_logits = [&](int, std::span<const float> logits) {
    out.row(row++) = Eigen::Map<const Eigen::RowVectorXf>(logits.data(), out.cols());
  };
  net.forward(suffix, seq, options);
  return out;
}

inline std::span<const float> row_of(const matrix& m, Eigen::Index row) {
  return {m.data() + row * m.cols(), std::size_t(m.cols())};
}

/// How far predictions are from reference predictions, [tokens][vocab] both.
inline distance_sum distance(const matrix& reference, const matrix& other) {
  distance_sum sum;
  for (Eigen::Index i = 0; i < reference.rows(); ++i) sum.add(row_of(reference, i), row_of(other, i));
  return sum;
}

}  // namespace engine
