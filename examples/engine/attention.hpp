// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"
#include "linear.hpp"
#include "rows.hpp"
#include "threads.hpp"

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

// Causal attention of new tokens over a paged cache, in tiles with a running softmax (FlashAttention, Dao 2022): scores of
// a block of queries against a run of keys, never the whole matrix. Queries of all heads that share a KV head are rows of
// one product. When there are few blocks (a decode step), runs of keys become tasks of their own and are merged after.

namespace engine {

class attention {
 public:
  /// q and out: [n][heads][head_dim], q rotated, of the tokens from `start` on, whose K and V are in `seq`.
  void operator()(const float* q, const sequence& seq, int layer, int start, int n, int heads, int window, float* out,
                  thread_pool& pool) {
    const int kv_heads = seq.pool().kv_heads(), head_dim = seq.pool().head_dim(), group = heads / kv_heads;
    const int total = start + n;
    const int blocks = (n + query_block - 1) / query_block;
    const int splits = std::clamp(4 * pool.size() / (kv_heads * blocks), 1, (total + key_tile - 1) / key_tile);
    const int split_keys = ((total + splits - 1) / splits + key_tile - 1) / key_tile * key_tile;
    const int rows = std::min(n, query_block) * group;
    partial_.resize(std::size_t(kv_heads * blocks * splits));

    pool.parallel_for(kv_heads * blocks * splits, [&](int task, int) {
      const int split = task % splits, block = task / splits % blocks, head = task / splits / blocks;
      const int t0 = block * query_block, t1 = std::min(n, t0 + query_block);
      int first = split * split_keys, last = std::min(start + t1, first + split_keys);
      if (window) first = std::max(first, (start + t0 - window + 1) / key_tile * key_tile);
      partial& p = partial_[std::size_t(task)];
      p.reset(rows, head_dim);
      thread_local matrix scaled;
      scaled.resize(rows, head_dim);
      const std::ptrdiff_t width = std::ptrdiff_t(heads) * head_dim, piece = std::ptrdiff_t(group) * head_dim;
      for (int t = t0; t < t1; ++t)
        Eigen::Map<Eigen::ArrayXf>(scaled.data() + (t - t0) * piece, piece) =
            Eigen::Map<const Eigen::ArrayXf>(q + t * width + head * piece, piece) / std::sqrt(float(head_dim));
      for (int k = first; k < last; k += key_tile)
        step(scaled, p, seq, layer, head, k, std::min(last, k + key_tile), start + t0, t1 - t0, group, window);
      if (splits == 1) write(p, head, t0, t1, group, width, out);
    });
    if (splits == 1) return;
    pool.parallel_for(kv_heads * blocks, [&](int task, int) {
      const int block = task % blocks, head = task / blocks, t0 = block * query_block;
      partial* parts = partial_.data() + std::ptrdiff_t(task) * splits;
      for (int s = 1; s < splits; ++s) parts[0].merge(parts[s]);
      write(parts[0], head, t0, std::min(n, t0 + query_block), group, std::ptrdiff_t(heads) * head_dim, out);
    });
  }

 private:
  static constexpr int query_block = 64, key_tile = 128;
  static constexpr float nothing = -std::numeric_limits<float>::infinity();

  // Softmax-weighted sum of values so far, per row: divided by `sum` it is the answer over the keys seen.
  struct partial {
    matrix values;
    Eigen::ArrayXf largest, sum;

    void reset(int rows, int head_dim) {
      values.setZero(rows, head_dim);
      largest.setConstant(rows, nothing);
      sum.setZero(rows);
    }

    void merge(const partial& other) {
      for (Eigen::Index r = 0; r < values.rows(); ++r) {
        const float m = std::max(largest[r], other.largest[r]);
        if (m == nothing) continue;
        const float a = std::exp(largest[r] - m), b = std::exp(other.largest[r] - m);
        values.row(r) = values.row(r) * a + other.values.row(r) * b;
        sum[r] = sum[r] * a + other.sum[r] * b;
        largest[r] = m;
      }
    }
  };

  static void write(const partial& p, int head, int t0, int t1, int group, std::ptrdiff_t width, float* out) {
    const std::ptrdiff_t head_dim = p.values.cols(), piece = group * head_dim;
    for (int t = t0; t < t1; ++t)
      for (int j = 0; j < group; ++j) {
        const int r = (t - t0) * group + j;
        Eigen::Map<Eigen::RowVectorXf>(out + t * width + head * piece + j * head_dim, head_dim) =
            p.values.row(r) / p.sum[r];
      }
  }

  // Rows of `scaled` (n tokens from position p0 on, `group` heads each) against keys [k0, k1).
  static void step(const matrix& scaled, partial& p, const sequence& seq, int layer, int head, int k0, int k1, int p0,
                   int n, int group, int window) {
    const int head_dim = seq.pool().head_dim(), keys = k1 - k0, rows = n * group;
    thread_local matrix k, v, s;
    k.resize(keys, head_dim);
    v.resize(keys, head_dim);
    for (int i = 0; i < keys; ++i) {
      load_row(seq.at(sluice::plane::key, layer, k0 + i, head), seq.pool().type(), k.row(i).data(), head_dim);
      load_row(seq.at(sluice::plane::value, layer, k0 + i, head), seq.pool().type(), v.row(i).data(), head_dim);
    }
    s.resize(rows, keys);
    const bool few = rows <= 4;  // a decode step: products of a matrix and a vector, without repacking the matrix
    if (few) {
      for (int r = 0; r < rows; ++r) s.row(r).noalias() = scaled.row(r) * k.transpose();
    } else {
      s.noalias() = scaled.topRows(rows) * k.transpose();
    }
    for (int r = 0; r < rows; ++r) {
      const int position = p0 + r / group;
      const int end = std::min(keys, position + 1 - k0);
      const int begin = window ? std::clamp(position + 1 - window - k0, 0, keys) : 0;
      auto row = s.row(r).array();
      if (begin >= end) {
        row.setZero();
        continue;
      }
      auto seen = row.segment(begin, end - begin);
      const float largest = std::max(p.largest[r], seen.maxCoeff());
      const float shrink = std::exp(p.largest[r] - largest);
      seen = (seen - largest).exp();
      row.head(begin).setZero();
      row.tail(keys - end).setZero();
      p.sum[r] = p.sum[r] * shrink + seen.sum();
      p.largest[r] = largest;
      if (shrink != 1) p.values.row(r) *= shrink;
    }
    if (few) {
      for (int r = 0; r < rows; ++r) p.values.row(r).noalias() += s.row(r) * v;
    } else {
      p.values.topRows(rows).noalias() += s * v;
    }
  }

  std::vector<partial> partial_;
};

}  // namespace engine
