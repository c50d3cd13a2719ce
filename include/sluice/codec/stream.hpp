// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/transform/dense.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/view.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// How a host call runs; never changes what decodes.
struct tuning {
  sluice::isa isa = sluice::isa::best;
};

namespace detail {

// One stream of coefficients: a group of heads of K or V of one layer.
struct stream_place {
  int layer = 0;
  sluice::plane plane = plane::key;
  int group = 0;
  int first_head = 0;
  int heads = 0;
  int head_dim = 0;
  int width() const noexcept { return heads * head_dim; }
};

inline stream_place place_of(const model_shape& shape, int group_width, int layer, plane which, int group) noexcept {
  const layer_shape& l = shape.layers[std::size_t(layer)];
  const int dim = l.head_dim(which), heads = group_width / dim, first = group * heads;
  return {layer, which, group, first, detail::min(heads, l.num_kv_heads - first), dim};
}

// Whether a view shows layers of this model. Errors: those of validate(), wrong_shape.
inline status check_view(const kv_view& v, const model_shape& shape) noexcept {
  if (const status s = validate(v); s != status::ok) return s;
  for (std::int32_t i = 0; i < v.num_layers; ++i) {
    const std::int32_t l = v.layer_id(i);
    if (l < 0 || l >= shape.num_layers()) return status::wrong_shape;
    const layer_shape& s = shape.layers[std::size_t(l)];
    if (s.num_kv_heads != v.num_kv_heads) return status::wrong_shape;
    for (plane p : {plane::key, plane::value})
      if (v[p].present() ? v[p].head_dim != s.head_dim(p) : s.head_dim(p) != 0) return status::wrong_shape;
  }
  return status::ok;
}

// Which view shows a model layer, and as which of its layers.
struct layer_slot {
  const kv_view* view = nullptr;
  int index = 0;
};

// Layers may be spread over views of any types and positions; K and V of one layer stand in one view.
// Errors: those of check_view(), invalid_view (two views claim one layer).
inline status map_layers(std::span<const kv_view> views, const model_shape& shape, std::vector<layer_slot>& slots) {
  slots.assign(shape.layers.size(), {});
  for (const kv_view& v : views) {
    if (const status s = check_view(v, shape); s != status::ok) return s;
    for (int i = 0; i < v.num_layers; ++i) {
      layer_slot& s = slots[std::size_t(v.layer_id(i))];
      if (s.view) return status::invalid_view;
      s = {&v, i};
    }
  }
  return status::ok;
}

// Consecutive layers of equal shape, grouping and types, as a frame's index lists them. A layer that no view shows has
// the types of the one before it, the first ones those of the first shown: its tiles are empty, so no one reads them.
inline void shape_runs(const profile& p, std::span<const layer_slot> slots, std::vector<shape_run>& runs) {
  dtype type[2] = {dtype::f16, dtype::f16};
  for (plane which : {plane::key, plane::value})
    for (std::size_t l = slots.size(); l-- > 0;)
      if (slots[l].view && (*slots[l].view)[which].present()) type[int(which)] = (*slots[l].view)[which].type;
  runs.clear();
  for (int l = 0; l < p.shape.num_layers(); ++l) {
    const layer_shape& s = p.shape.layers[std::size_t(l)];
    shape_run r{};
    r.num_kv_heads = std::uint16_t(s.num_kv_heads);
    for (plane which : {plane::key, plane::value}) {
      if (s.head_dim(which) == 0) continue;
      if (const kv_view* v = slots[std::size_t(l)].view) type[int(which)] = (*v)[which].type;
      r.head_dim[int(which)] = std::uint16_t(s.head_dim(which));
      r.group_width[int(which)] = std::uint16_t(p.of(l, which).group_width);
      r.type[int(which)] = std::uint8_t(type[int(which)]);
    }
    if (!runs.empty()) r.layers = runs.back().layers;
    if (!runs.empty() && r == runs.back()) {
      ++runs.back().layers;
      continue;
    }
    r.layers = 1;
    runs.push_back(r);
  }
}

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

}  // namespace detail
}  // namespace sluice
