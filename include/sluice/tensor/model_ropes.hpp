// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/numeric.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/rotate.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstdint>
#include <vector>

namespace sluice::detail {

// cos and sin of every rotary pair for consecutive positions, by the angle addition formulas from tables that do not
// depend on where a chunk starts: a call costs a few multiplications an entry instead of a sine.
class rope_table {
 public:
  // Fills for positions [position, position + count); `undo` prepares the inverse rotation.
  void fill(const rope& r, int head_dim, std::int64_t position, int count, bool undo) {
    half_ = rotary_dims(r, head_dim) / 2;
    if (!(r == rope_) || head_dim != head_dim_ || count > steps_) {
      rope_ = r;
      head_dim_ = head_dim;
      steps_ = count;
      frequency_.resize(std::size_t(half_));
      if (half_) rope_frequencies(r, head_dim, frequency_);
      step_cos_.resize(std::size_t(half_) * std::size_t(count));
      step_sin_.resize(step_cos_.size());
      for (int t = 0; t < count; ++t)
        for (int i = 0; i < half_; ++i) {
          const double a = t * frequency_[std::size_t(i)];
          step_cos_[std::size_t(t) * std::size_t(half_) + std::size_t(i)] = float(detail::cos(a));
          step_sin_[std::size_t(t) * std::size_t(half_) + std::size_t(i)] = float(detail::sin(a));
        }
    }
    const std::size_t n = std::size_t(half_) * std::size_t(count);
    cos_.resize(n);
    sin_.resize(n);
    start_.resize(2 * std::size_t(half_));
    const double gain = undo ? 1 / r.attention_factor : r.attention_factor;
    for (int i = 0; i < half_; ++i) {
      const double a = double(position) * frequency_[std::size_t(i)];
      start_[std::size_t(i)] = float(gain * detail::cos(a));
      start_[std::size_t(half_ + i)] = float(gain * detail::sin(a));
    }
    const float sign = undo ? -1.f : 1.f;
    for (int t = 0; t < count; ++t) {
      const std::size_t row = std::size_t(t) * std::size_t(half_);
      for (int i = 0; i < half_; ++i) {
        const float c0 = start_[std::size_t(i)], s0 = start_[std::size_t(half_ + i)];
        const float c1 = step_cos_[row + std::size_t(i)], s1 = step_sin_[row + std::size_t(i)];
        cos_[row + std::size_t(i)] = c0 * c1 - s0 * s1;
        sin_[row + std::size_t(i)] = sign * (s0 * c1 + c0 * s1);
      }
    }
  }

  int half() const noexcept { return half_; }
  const float* cos(int token) const noexcept { return cos_.data() + std::size_t(token) * std::size_t(half_); }
  const float* sin(int token) const noexcept { return sin_.data() + std::size_t(token) * std::size_t(half_); }

 private:
  rope rope_{rope_pairing::none, {}, -1};
  int head_dim_ = 0, half_ = 0, steps_ = 0;
  std::vector<double> frequency_;
  std::vector<float> step_cos_, step_sin_, cos_, sin_, start_;
};

inline namespace SLUICE_HOST_ABI {

// The tables of a model: one for each rotary embedding and size of K's heads that its layers pair.
class model_ropes {
 public:
  explicit model_ropes(const model_shape& s) : of_layer_(s.layers.size(), -1) {
    for (std::size_t l = 0; l < s.layers.size(); ++l) {
      const int dim = s.layers[l].head_dim_k;
      if (s.ropes.empty() || dim == 0) continue;
      const rope& r = s.ropes[std::size_t(s.layers[l].rope_index)];
      if (rotary_dims(r, dim) == 0) continue;
      std::size_t i = 0;
      while (i < used_.size() && !(used_[i].head_dim == dim && used_[i].embedding == r)) ++i;
      if (i == used_.size()) used_.push_back({r, dim, {}});
      of_layer_[l] = int(i);
    }
  }

  /// For the positions [position, position + count).
  void fill(std::int64_t position, int count, bool undo) {
    for (entry& e : used_) e.table.fill(e.embedding, e.head_dim, position, count, undo);
  }

  // Turns rows of `heads` heads of a layer's K; their tokens are consecutive, the first `token` counts from fill()'s
  // position. Layers without rotation are left alone.
  void rotate(isa i, int layer, float* x, std::ptrdiff_t ld, int rows, int heads, int token) const noexcept {
    const int at = of_layer_[std::size_t(layer)];
    if (at < 0) return;
    const entry& e = used_[std::size_t(at)];
    rotate_rows(i, x, ld, rows, heads, e.head_dim, e.embedding.pairing, 2 * e.table.half(), e.table.cos(token),
                e.table.sin(token), e.table.half());
  }
  bool rotates(int layer) const noexcept { return of_layer_[std::size_t(layer)] >= 0; }

 private:
  struct entry {
    rope embedding;
    int head_dim;
    rope_table table;
  };
  std::vector<entry> used_;
  std::vector<int> of_layer_;
};

}  // namespace SLUICE_HOST_ABI

}  // namespace sluice::detail
