// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/plane.hpp>
#include <sluice/codec/width/token_steps.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

// How much later queries look at a token, learnt from its key: what token_steps goes by. A regression for each layer of
// the logarithm of what an error in the token's K does to attention outputs; a tile's mean is taken off both sides, since
// its mean step stays.

namespace sluice::detail::inline SLUICE_CALIBRATION_ABI {

class token_weight_fit {
 public:
  static constexpr std::int64_t tile = 256;

  // K un-rotated and what errors in each token come to, of tokens from a position on; 0 = not known.
  void add(const rows_f& k, const vector_d& gain, std::span<const std::uint8_t> skip, std::int64_t position) {
    const Eigen::Index n = k.cols() + 1;
    if (product_.size() == 0) {
      product_.setZero(n, n);
      against_.setZero(n);
    }
    for (std::int64_t begin = 0; begin < gain.size();) {
      const std::int64_t end = std::min<std::int64_t>(begin + tile - (position + begin) % tile, gain.size());
      matrix_d f(end - begin, n);
      vector_d y(end - begin);
      Eigen::Index rows = 0;
      for (std::int64_t t = begin; t < end; ++t) {
        if (skip[std::size_t(t)] || !(gain(t) > 0) || !std::isfinite(gain(t))) continue;
        f.row(rows).head(n - 1) = k.row(t).cast<double>();
        f(rows, n - 1) = std::log(double(tile - (position + t) % tile));
        y(rows++) = std::log(gain(t));
      }
      begin = end;
      if (rows < 16) continue;
      const auto x = f.topRows(rows);
      const matrix_d centred = x.rowwise() - x.colwise().mean();
      const vector_d of = y.head(rows).array() - y.head(rows).mean();
      const matrix_d features = transposed(centred);
      product_ += product(features, centred);
      against_ += product(features, of);
      rows_ += rows;
    }
  }

  // What the profile keeps. A token's step falls with weight^(-exponent / 2).
  layer_weights fit(const layer_shape& shape) const {
    layer_weights out;
    const Eigen::Index n = Eigen::Index(shape.num_kv_heads) * shape.head_dim_k;
    out.direction.assign(std::size_t(n), 0.f);
    if (n == 0 || rows_ < 4 * n || !product_.allFinite()) return out;
    // Directions in which keys hardly vary say nothing that would hold elsewhere.
    matrix_d p = product_;
    p.diagonal() *= 1 + ridge / double(rows_);
    p.topLeftCorner(n, n).diagonal().array() += 1e-3 * product_.topLeftCorner(n, n).trace() / double(n);
    const vector_d b = solve(p, against_);
    if (!b.allFinite()) return out;
    for (Eigen::Index i = 0; i < n; ++i) out.direction[std::size_t(i)] = static_cast<float>(b(i));
    out.slope = static_cast<float>(b(n));
    out.offset[0] = key_offset;
    out.offset[1] = value_offset;
    for (std::uint8_t& e : out.exponent) e = usual_exponent;
    return out;
  }

 private:
  static constexpr double ridge = 300;  // tokens
  // Quarter octaves: errors cost less where steps follow attention, those of K most. Measured; engines measure them anew.
  static constexpr std::int8_t key_offset = 4, value_offset = 2;

  matrix_d product_;
  vector_d against_;
  std::int64_t rows_ = 0;
};

}  // namespace sluice::detail::inline SLUICE_CALIBRATION_ABI
