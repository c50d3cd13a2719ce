// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <span>
#include <vector>

namespace engine {

/// Picks the next token: the most likely one at temperature 0, else by chance among the likely ones.
class sampler {
 public:
  struct options {
    float temperature = 0;
    int top_k = 40;       ///< only so many candidates; 0 = all
    float top_p = 0.95f;  ///< the fewest candidates that together have this probability
    std::uint64_t seed = 1;
  };

  explicit sampler(const options& o) : options_(o), random_(o.seed) {}

  std::int32_t operator()(std::span<const float> logits) {
    if (options_.temperature <= 0) return std::int32_t(std::max_element(logits.begin(), logits.end()) - logits.begin());
    order_.resize(logits.size());
    std::iota(order_.begin(), order_.end(), 0);
    const std::size_t kept = options_.top_k > 0 ? std::min(std::size_t(options_.top_k), logits.size()) : logits.size();
    const auto likelier = [&](std::int32_t a, std::int32_t b) {
      return logits[std::size_t(a)] > logits[std::size_t(b)];
    };
    std::partial_sort(order_.begin(), order_.begin() + std::ptrdiff_t(kept), order_.end(), likelier);
    weights_.clear();
    double total = 0;
    for (std::size_t i = 0; i < kept; ++i) {
      const float below = logits[std::size_t(order_[i])] - logits[std::size_t(order_[0])];
      weights_.push_back(std::exp(double(below / options_.temperature)));
      total += weights_.back();
    }
    double seen = 0;
    std::size_t n = 0;
    while (n < kept && seen < double(options_.top_p) * total) seen += weights_[n++];
    weights_.resize(std::max<std::size_t>(n, 1));
    std::discrete_distribution<std::size_t> pick(weights_.begin(), weights_.end());
    return order_[pick(random_)];
  }

 private:
  options options_;
  std::mt19937_64 random_;
  std::vector<std::int32_t> order_;
  std::vector<double> weights_;
};

}  // namespace engine
