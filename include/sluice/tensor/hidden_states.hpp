// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/limits.hpp>
#include <sluice/tensor/layouts.hpp>
#include <sluice/tensor/shape.hpp>
#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <cstdint>

// Hidden states, what each layer of a model takes in, as a cache: keys and values follow from them by the layer's own
// projection, so an engine may keep them instead (HCache, arXiv 2410.05004; XQuant, arXiv 2508.10395). To codecs, frames
// and views they are a cache of K alone, without rotary embedding, whose rows are cut into heads. A profile of that shape
// is hidden states', and frames of it are told from the model's KV by its fingerprint.

namespace sluice {

/// Elements of the heads that a row of `dim` elements is cut into, for scales and bases of their own: 64 where that divides
/// `dim`, else its largest divisor up to 128; 0 where dim < 1.
constexpr std::int32_t hidden_head_dim(std::int32_t dim) noexcept {
  if (dim < 1) return 0;
  if (dim % 64 == 0) return 64;
  std::int32_t d = 128;
  while (dim % d != 0) --d;
  return d;
}

/// The shape of the hidden states of a model whose KV has the shape `kv`: rows of `dim` elements for each of its layers, of
/// which a sliding window needs as many as of K and V. Layers without KV have none here either. No layers where `dim` is
/// below 1 or too wide for a frame.
inline model_shape hidden_shape(const model_shape& kv, std::int32_t dim) {
  const std::int32_t head_dim = hidden_head_dim(dim);
  if (head_dim == 0 || dim / head_dim > max_kv_heads) return {};
  model_shape shape;
  for (const layer_shape& l : kv.layers)
    shape.layers.push_back(l.absent() ? layer_shape{} : layer_shape{dim / head_dim, head_dim, 0, 0, l.window});
  return shape;
}

/// Memory that holds hidden states, layer by layer and token by token.
struct hidden_rows {
  std::int32_t num_layers = 0;    ///< of the memory, where it is one piece
  std::int32_t dim = 0;           ///< elements of a row, which adjoin
  std::int64_t max_tokens = 0;    ///< that there is room for
  dtype type = dtype::f16;        ///< of the elements
  std::int64_t token_stride = 0;  ///< bytes from token to token; 0 = rows adjoin
  std::int64_t layer_stride = 0;  ///< bytes from layer to layer; 0 = layers adjoin
};

namespace layouts {

/// Hidden states in one piece of memory, [L, T, dim] unless strides say otherwise.
constexpr kv_view hidden(std::byte* rows, const hidden_rows& at, std::int64_t tokens,
                         std::int64_t position = 0) noexcept {
  const std::int32_t head_dim = hidden_head_dim(at.dim);
  if (rows == nullptr || head_dim == 0) return {};
  kv_view c;
  c.num_layers = at.num_layers;
  c.num_kv_heads = at.dim / head_dim;
  c.capacity = at.max_tokens;
  c.tokens = tokens;
  c.position = position;
  c.k = detail::make_plane(rows, at.type, head_dim);
  c.k.head_stride = detail::product({head_dim, c.k.element_stride});
  c.k.token_stride = at.token_stride ? at.token_stride : detail::product({c.num_kv_heads, c.k.head_stride});
  c.k.layer_stride = at.layer_stride ? at.layer_stride : detail::product({at.max_tokens, c.k.token_stride});
  return detail::checked(c);
}

/// The same with a pointer for each layer, [T, dim] each.
constexpr kv_view hidden(pointers layers, const hidden_rows& at, std::int64_t tokens,
                         std::int64_t position = 0) noexcept {
  if (!detail::valid_lists(layers, {}, 0)) return {};
  kv_view c = hidden(layers[0], at, tokens, position);
  if (!c.k.present()) return {};
  c.num_layers = static_cast<std::int32_t>(layers.size());
  c.k.base = nullptr;
  c.k.layer_bases = layers.data();
  return c;
}

}  // namespace layouts
}  // namespace sluice
