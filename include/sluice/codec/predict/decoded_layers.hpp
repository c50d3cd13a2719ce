// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/predict/learnt_rows.hpp>
#include <sluice/codec/predict/prediction_model.hpp>
#include <sluice/codec/tile_codec.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

namespace sluice {

namespace detail {

// Copies the rows that were learnt; false where there are none.
inline bool copy_learnt(const learnt_rows& from, std::size_t width, const tile_tokens_range& range,
                        std::span<const std::uint16_t> rows, float* out, std::ptrdiff_t ld) {
  bool any = false;
  for (const std::uint16_t r : rows) {
    const float* row = from.row(range.frame_token + r);
    any |= row != nullptr;
    row ? std::memcpy(out, row, width * sizeof(float)) : std::memset(out, 0, width * sizeof(float));
    out += ld;
  }
  return any;
}

inline void learn_rows(learnt_rows& to, int column, const float* mean, const group_place& place,
                       const tile_tokens_range& range, std::span<const std::uint16_t> rows, const float* x,
                       std::ptrdiff_t ld) {
  const int first = place.first_head * place.head_dim;
  for (const std::uint16_t r : rows) {
    to.put(range.frame_token + r, column + first, x, mean + first, place.width());
    x += ld;
  }
}

}  // namespace detail

/// Source of features: K and V, all heads, of the nearest layer below that has any, as they decode. `Span` layers are
/// predicted one from another, then one stands alone, so that a range of layers needs no more than Span others; 0 = all
/// but the first.
template <int Span = 0>
class previous_layer {
  static_assert(Span >= 0 && Span <= 4095);

 public:
  static constexpr int id = 2;
  static constexpr int span = Span ? Span : max_model_layers;
  static constexpr int lower = Span;

  explicit previous_layer(const detail::prediction_model& m) : model_(&m) {}

  static int width(const model_shape& s, int layer, plane) noexcept {
    const int below = detail::layer_below(s, layer, Span);
    if (below < 0) return 0;
    const layer_shape& l = s.layers[std::size_t(below)];
    return l.num_kv_heads * (l.head_dim_k + l.head_dim_v);
  }

  bool gather(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
              const side_info&, float* out, std::ptrdiff_t ld) const {
    const model_shape& s = model_->residual->shape;
    const int below = detail::layer_below(s, place.layer, Span);
    const std::size_t n = std::size_t(width(s, place.layer, place.plane));
    return detail::copy_learnt(current_.layer() == below ? current_
                               : below_.layer() == below ? below_
                                                         : nothing_,
                               n, range, rows, out, ld);
  }

  void learn(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
             const float* x, std::ptrdiff_t ld) {
    const layer_shape& l = model_->residual->shape.layers[std::size_t(place.layer)];
    if (current_.layer() != place.layer) {
      std::swap(current_, below_);
      current_.begin(place.layer, l.num_kv_heads * (l.head_dim_k + l.head_dim_v));
    }
    detail::learn_rows(current_, place.plane == plane::value ? l.num_kv_heads * l.head_dim_k : 0,
                       model_->means[2 * std::size_t(place.layer) + std::size_t(place.plane)].data(), place, range,
                       rows, x, ld);
  }

  void forget() {
    current_.begin(-1, 1);
    below_.begin(-1, 1);
  }

 private:
  const detail::prediction_model* model_;
  detail::learnt_rows current_, below_, nothing_;
};

/// Source of features: K of the same layer, all heads, for its V. It is learnt before V is predicted.
class same_layer_k_for_v {
 public:
  static constexpr int id = 4;
  static constexpr int span = 1;  // of no lower layer, but of something that is learnt

  explicit same_layer_k_for_v(const detail::prediction_model& m) : model_(&m) {}

  static int width(const model_shape& s, int layer, plane which) noexcept {
    const layer_shape& l = s.layers[std::size_t(layer)];
    return which == plane::value ? l.num_kv_heads * l.head_dim_k : 0;
  }

  bool gather(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
              const side_info&, float* out, std::ptrdiff_t ld) const {
    const int n = width(model_->residual->shape, place.layer, place.plane);
    return detail::copy_learnt(k_.layer() == place.layer ? k_ : nothing_, std::size_t(n), range, rows, out, ld);
  }

  void learn(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
             const float* x, std::ptrdiff_t ld) {
    if (place.plane != plane::key) return;
    if (k_.layer() != place.layer) k_.begin(place.layer, width(model_->residual->shape, place.layer, plane::value));
    detail::learn_rows(k_, 0, model_->means[2 * std::size_t(place.layer)].data(), place, range, rows, x, ld);
  }

  void forget() { k_.begin(-1, 1); }

 private:
  const detail::prediction_model* model_;
  detail::learnt_rows k_, nothing_;
};

}  // namespace sluice
