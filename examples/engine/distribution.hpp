// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <Eigen/Core>

#include <cmath>
#include <cstddef>
#include <span>

namespace engine {

/// How far predictions are from reference predictions, over many tokens.
class distance_sum {
 public:
  /// Logits of one token, [vocab] each.
  void add(std::span<const float> reference, std::span<const float> other) {
    const Eigen::Index n = Eigen::Index(reference.size());
    const Eigen::Map<const Eigen::ArrayXf> a(reference.data(), n), b(other.data(), n);
    Eigen::Index best_a = 0, best_b = 0;
    const float top_a = a.maxCoeff(&best_a), top_b = b.maxCoeff(&best_b);
    const Eigen::ArrayXd p = (a - top_a).cast<double>(), q = (b - top_b).cast<double>();
    const double log_p = std::log(p.exp().sum()), log_q = std::log(q.exp().sum());
    kl_ += ((p - log_p).exp() * ((p - log_p) - (q - log_q))).sum();
    agree_ += best_a == best_b;
    ++tokens_;
  }

  void add(const distance_sum& other) {
    kl_ += other.kl_;
    agree_ += other.agree_;
    tokens_ += other.tokens_;
  }

  std::size_t tokens() const noexcept { return tokens_; }
  double kl() const noexcept { return kl_ / double(tokens_); }  ///< mean, nats, of the other from the reference
  double top1() const noexcept { return double(agree_) / double(tokens_); }  ///< share of equal most likely tokens

 private:
  double kl_ = 0;
  std::size_t agree_ = 0, tokens_ = 0;
};

}  // namespace engine
