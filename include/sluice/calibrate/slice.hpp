// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/algebra.hpp>
#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/transform/inverse_bases.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/model/token_weight_model.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/shape.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

// The profile of some of a model's KV heads, cut from that of all: ranks of tensor parallelism keep a few heads each and
// never see the others, but a basis mixes the heads of a group.

namespace sluice {

namespace detail {

// A group's basis and what it says of its coefficients, in units of the finest step: the covariance of its channels is
// decode^T variance decode, and the metric that errors are weighed with encode encode^T, since an error of one step
// counts 1 whatever the coefficient.
struct group_knowledge {
  matrix_d decode, encode;    // encode: zeros where the basis is singular
  vector_d variance, spread;  // of each coefficient; spread: nats by which its scale wanders

  group_knowledge(const plane_profile& q, int g) {
    const int w = q.width_of(g);
    decode.resize(w, w);
    variance.resize(w);
    spread.resize(w);
    for (int k = 0; k < w; ++k) {
      for (int c = 0; c < w; ++c) decode(k, c) = double(q.scale) * double(to_float(f16{q.matrix_of(g)[k * w + c]}));
      const std::uint8_t cls = q.classes[std::size_t(g * q.group_width + k)];
      variance(k) = std::exp2(double(cls % class_widths - 16) / 2);
      spread(k) = class_spread[cls / class_widths];
    }
    encode.setZero(w, w);
    std::vector<float> inverse;
    if (!invert_basis(q.matrix_of(g), w, double(q.scale), inverse)) return;
    for (int c = 0; c < w; ++c)
      for (int k = 0; k < w; ++k) encode(c, k) = double(inverse[std::size_t(c * w + k)]);
  }
  static constexpr double class_spread[class_shapes] = {0, 0.25, 0.4, 0.8};
};

// The nearest family of classes.
inline int class_shape_of(double spread) noexcept {
  int shape = 0;
  const auto& of = group_knowledge::class_spread;
  while (shape + 1 < class_shapes && spread > (of[shape] + of[shape + 1]) / 2) ++shape;
  return shape;
}

// Means, bases and classes of the channels [begin, begin + out.width) of a plane, for groups of out.group_width.
// Errors: corrupt_profile (a singular basis), values_out_of_range.
inline status slice_plane(const plane_profile& from, int begin, plane_profile& out) {
  const int end = begin + out.width, first_group = begin / from.group_width;
  out.mean.assign(from.mean.begin() + begin, from.mean.begin() + end);
  if (begin % from.group_width == 0 && (end % from.group_width == 0 || end == from.width)) {  // whole groups stay
    out.scale = from.scale;
    out.classes.assign(from.classes.begin() + begin, from.classes.begin() + end);
    out.matrix.assign(from.matrix_of(first_group), from.matrix_of(first_group) + out.matrix_size());
    return status::ok;
  }
  std::vector<group_knowledge> known;
  for (int g = first_group; g * from.group_width < end; ++g) known.emplace_back(from, g);
  std::vector<matrix_d> bases;
  double largest = 0;
  for (int at = begin; at < end; at += out.group_width) {
    const int w = std::min(out.group_width, end - at);
    // Groups of the whole have nothing to say about each other.
    matrix_d covariance = matrix_d::Zero(w, w), metric = covariance, wandering = covariance;
    for (int g = at / from.group_width; g * from.group_width < at + w; ++g) {
      const group_knowledge& k = known[std::size_t(g - first_group)];
      const int group = g * from.group_width, first = std::max(at, group);
      const int n = std::min(at + w, group + from.width_of(g)) - first, to = first - at;
      const matrix_d d = k.decode.middleCols(first - group, n), e = k.encode.middleRows(first - group, n);
      const matrix_d dt = transposed(d);
      const vector_d wander = k.variance.cwiseProduct(k.spread.cwiseAbs2());
      covariance.block(to, to, n, n) = product(dt * k.variance.asDiagonal(), d);
      wandering.block(to, to, n, n) = product(dt * wander.asDiagonal(), d);
      metric.block(to, to, n, n) = product(e, transposed(e));
    }
    const auto [weights, directions] = eigen_of(symmetric(metric));
    if (!(weights.minCoeff() > 0)) return status::corrupt_profile;
    const vector_d roots = weights.cwiseSqrt();
    const matrix_d root = with_values(directions, roots);
    auto [variances, u] = principal_axes(symmetric(product(product(root, covariance), root)));
    choose_signs(u);
    bases.push_back(product(transposed(u), with_values(directions, roots.cwiseInverse())));
    const matrix_d r = product(root, u), wandered = product(wandering, r);
    largest = std::max(largest, bases.back().cwiseAbs().maxCoeff());
    for (Eigen::Index k = 0; k < w; ++k) {
      const double variance = std::max(variances(k), 0.0);
      // Of the family of those that it is mixed of.
      const double spread = variance > 0 ? std::sqrt(std::max(r.col(k).dot(wandered.col(k)) / variance, 0.0)) : 0;
      out.classes.push_back(class_of(static_cast<float>(std::sqrt(variance)), class_shape_of(spread)));
    }
  }
  int exponent = 0;
  if (!(largest > 0) || !std::isfinite(largest)) return status::values_out_of_range;
  if (std::frexp(largest, &exponent) == 0.5) --exponent;  // the largest entry lands in (0.5, 1]
  out.scale = std::ldexp(1.0f, exponent);
  for (const matrix_d& b : bases)
    for (Eigen::Index k = 0; k < b.rows(); ++k)
      for (Eigen::Index j = 0; j < b.cols(); ++j)
        out.matrix.push_back(from_float<f16>(static_cast<float>(std::ldexp(b(k, j), -exponent))).bits);
  return status::ok;
}

}  // namespace detail

/// The profile of the KV heads [begin, end) of every layer, for caches of one rank of tensor parallelism
/// (kv_view::heads). Where the range is whole groups of the profile's bases, these stay as they are and the ranks' frames
/// take their share of the whole's bytes. Where it cuts a group, the heads get bases of their own from the covariance and
/// the metric that the group's basis and classes imply: as good as calibrating those heads alone, but what heads know of
/// each other is lost. SmolLM2 (three heads in a group) in ranks of one head takes 15.7 % more bytes at level 1 and
/// Qwen2.5-0.5B (two) 13.4 %, 8.8 % and 7.6 % at level 3, with errors 7.6 % and 0.5 % larger; cutting nothing, but
/// computing the basis all the same, takes 0.1 %. Of sections that of token_steps is cut to what these heads say; others
/// are left out.
/// Frames of ranks are read by a decoder for each rank's profile into kv_view::heads() of what is wanted; a rank that
/// wants fewer heads than a frame has decodes into memory for all of the frame's. Make a slice once and keep the file: its
/// last bits depend on compiler and machine, and so does its fingerprint.
/// Errors: invalid_argument, wrong_shape (a layer with fewer heads), corrupt_profile (also a singular basis),
/// values_out_of_range.
inline result<profile> slice_heads(const profile& p, int begin, int end) {
  if (begin < 0 || end <= begin) return status::invalid_argument;
  if (const status s = validate(p); s != status::ok) return s;
  profile out = p;
  out.sections.clear();
  out.memo = {};
  const auto known = detail::token_weight_model::of(p);
  detail::token_weight_model weights = known ? *known : detail::token_weight_model{};
  for (int l = 0; l < p.shape.num_layers(); ++l) {
    layer_shape& shape = out.shape.layers[std::size_t(l)];
    if (shape.absent()) continue;
    if (end > shape.num_kv_heads) return status::wrong_shape;
    shape.num_kv_heads = end - begin;
    if (known) {
      const float* const all = known->layers[std::size_t(l)].direction.data();
      weights.layers[std::size_t(l)].direction.assign(all + begin * shape.head_dim_k, all + end * shape.head_dim_k);
    }
    for (const plane which : {plane::key, plane::value}) {
      const plane_profile& from = p.of(l, which);
      const int dim = shape.head_dim(which);
      if (dim == 0) continue;
      plane_profile to;
      to.width = (end - begin) * dim;
      to.group_width = std::min(from.group_width, to.width);
      to.step = from.step;
      const float share = float(to.width) / float(from.width);
      for (std::size_t j = 0; j < to.loss.size(); ++j) to.loss[j] = from.loss[j] * share;
      if (!from.matrix.empty())
        if (const status s = detail::slice_plane(from, begin * dim, to); s != status::ok) return s;
      out.of(l, which) = std::move(to);
    }
  }
  if (known) weights.put_into(out);
  return validate(out) == status::ok ? result<profile>(std::move(out)) : status::values_out_of_range;
}

}  // namespace sluice
