// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gguf.hpp"
#include "int8.hpp"
#include "quants.hpp"
#include "threads.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <vector>

namespace engine {

using matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using matrix_ref = Eigen::Map<const matrix, 0, Eigen::OuterStride<>>;
using matrix_out = Eigen::Map<matrix, 0, Eigen::OuterStride<>>;

/// How products are computed.
enum class arithmetic {
  exact,  ///< float activations times the file's weights, expanded panel by panel
  fast,   ///< 8-bit activations times weights repacked as 8 bits (int8.hpp), where the CPU can
};

/// Weights of a linear layer: the rows of one or more tensors, stacked, so that products which share an input are one.
class linear {
 public:
  struct part {
    const tensor* weights = nullptr;
    int rotary_head = 0;  ///< head size where the file interleaves rotary pairs (llama's Q and K); 0 = leave the order
  };

  linear() = default;
  linear(std::vector<part> parts, arithmetic mode, thread_pool& pool)
      : parts_(std::move(parts)), mode_(int8::accelerated ? mode : arithmetic::exact) {
    cols_ = int(parts_.front().weights->cols);
    for (const part& p : parts_) {
      for (int r = 0; r < int(p.weights->rows); ++r) sources_.push_back({int(&p - parts_.data()), source_row(p, r)});
    }
    rows_ = int(sources_.size());
    if (mode_ == arithmetic::fast) pack(pool);
  }

  int rows() const noexcept { return rows_; }
  int cols() const noexcept { return cols_; }

  /// Row `r` as floats.
  void row(int r, float* to) const noexcept {
    const source& s = sources_[std::size_t(r)];
    dequantize_row(*parts_[std::size_t(s.part)].weights, std::size_t(s.row), to);
  }

  /// y[tokens][rows] = x[tokens][cols] times the transposed weights; of the rows before `from` some or none are computed.
  /// Those behind are what they would be with all of them, to the last bit.
  void apply(const float* x, int tokens, float* y, thread_pool& pool, int from = 0) const {
    mode_ == arithmetic::fast ? apply_fast(x, tokens, y, pool, from) : apply_exact(x, tokens, y, pool, from);
  }

 private:
  struct source {
    int part, row;
  };

  // Rotate-half order from interleaved pairs: element i of the first half is the file's 2i, of the second 2i + 1.
  static int source_row(const part& p, int r) noexcept {
    if (p.rotary_head == 0) return r;
    const int half = p.rotary_head / 2, i = r % p.rotary_head;
    return r - i + 2 * (i % half) + i / half;
  }

  void pack(thread_pool& pool) {
    packed_.resize(rows_, cols_);
    pool.parallel_for(packed_.panels, [&](int panel, int) {
      for (int r = panel * int8::lanes; r < std::min(rows_, (panel + 1) * int8::lanes); ++r) pack_row(r);
    });
  }

  void pack_row(int r) {
    const source& s = sources_[std::size_t(r)];
    const tensor& t = *parts_[std::size_t(s.part)].weights;
    if (is_quantized(t.type)) {
      for (int b = 0; b < packed_.blocks; ++b)
        packed_.set(r, b, unpack_run(t.type, t.row(std::size_t(s.row)), std::size_t(b)));
      return;
    }
    thread_local std::vector<float> x;
    x.resize(std::size_t(cols_));
    row(r, x.data());
    for (int b = 0; b < packed_.blocks; ++b)
      packed_.set(r, b,
                  int8::packed::quantize(x.data() + b * int8::block, std::min(int8::block, cols_ - b * int8::block)));
  }

  void apply_fast(const float* x, int tokens, float* y, thread_pool& pool, int from) const {
    static thread_local int8::activations a;  // the caller's: one product runs at a time
    a.resize(tokens, cols_);
    int8::activations& input = a;
    pool.parallel_for((tokens + 15) / 16, [&](int group, int) {
      for (int t = 16 * group; t < std::min(tokens, 16 * group + 16); ++t)
        input.set_row(t, x + std::ptrdiff_t(t) * cols_, cols_);
    });
    const int first = from / int8::lanes, panels = packed_.panels - first;
    const int step = std::clamp(panels / (4 * pool.size()) & ~3, 2, 16);
    pool.parallel_for((panels + step - 1) / step, [&](int i, int) {
      int8::multiply(packed_, first + i * step, std::min(packed_.panels, first + (i + 1) * step), input, y, rows_);
    });
  }

  void apply_exact(const float* x, int tokens, float* y, thread_pool& pool, int from) const {
    // Rows expanded at a time: so few that they stay in the cache for one token; so many for a batch that packing its
    // activations again for every panel costs little, and as many panels for each thread as for the others.
    const int most = tokens == 1 ? std::max(8, (1 << 16) / cols_) : 256;
    const int panels = (rows_ + most * pool.size() - 1) / (most * pool.size()) * pool.size();
    const int step = (rows_ + panels - 1) / panels;
    const int first = from / step;  // whole panels: the order of sums depends on their bounds
    pool.parallel_for((rows_ + step - 1) / step - first, [&](int i, int) {
      thread_local std::vector<float> panel;
      panel.resize(std::size_t(step) * std::size_t(cols_));
      const int begin = (first + i) * step, n = std::min(step, rows_ - begin);
      for (int r = 0; r < n; ++r) row(begin + r, panel.data() + std::ptrdiff_t(r) * cols_);
      const matrix_ref w(panel.data(), n, cols_, Eigen::OuterStride<>(cols_));
      if (tokens == 1) {
        Eigen::Map<Eigen::VectorXf>(y + begin, n).noalias() = w * Eigen::Map<const Eigen::VectorXf>(x, cols_);
      } else {
        matrix_out(y + begin, tokens, n, Eigen::OuterStride<>(rows_)).noalias() =
            matrix_ref(x, tokens, cols_, Eigen::OuterStride<>(cols_)) * w.transpose();
      }
    });
  }

  std::vector<part> parts_;
  std::vector<source> sources_;
  arithmetic mode_ = arithmetic::exact;
  int rows_ = 0, cols_ = 0;
  int8::packed packed_;
};

}  // namespace engine
