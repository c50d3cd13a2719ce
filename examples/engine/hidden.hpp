// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"
#include "model.hpp"

#include <sluice/stream/plan/cost.hpp>
#include <sluice/tensor/hidden_states.hpp>

#include <stdexcept>
#include <vector>

// Hidden states instead of K and V (HCache, XQuant): a sequence of pages of their own, which is coded, stored and fetched
// as one of K and V is, and projected when it is there.

namespace engine {

/// What chunks hold of this model: its K and V, or its hidden states as model::normalize() makes them.
inline sluice::model_shape payload_shape(const model_config& c, sluice::stream::payload holds) {
  return holds == sluice::stream::payload::hidden ? sluice::hidden_shape(kv_shape(c), c.dim) : kv_shape(c);
}

/// The forward pass's on_hidden that keeps what enters each layer in a sequence of hidden states, which grows as the pass
/// goes on; then it calls `also`, where there is one. Borrows both. In the callback: throws std::runtime_error where the pages are full.
inline auto keep_hidden(const model& net, sequence& to,
                        std::function<void(int, int, std::span<const float>)> also = {}) {
  return [&net, &to, also = std::move(also), row = std::vector<float>(std::size_t(net.config().dim))](
             int layer, int position, std::span<const float> x) mutable {
    const int dim = net.config().dim, n = int(x.size()) / dim;
    if (layer < to.pool().layers()) {
      if (const int more = position + n - to.tokens(); more > 0 && to.grow(more) != sluice::status::ok)
        throw std::runtime_error("the pages of hidden states are full");
      for (int t = 0; t < n; ++t) {
        net.normalize(x.data() + std::ptrdiff_t(t) * dim, row.data());
        store_row(row.data(), to.pool().type(), to.at(sluice::plane::key, layer, position + t), dim);
      }
    }
    if (also) also(layer, position, x);
  };
}

/// K and V of the tokens [position, position + tokens) of hidden states into a sequence that has room for them.
inline void project(model& net, const sequence& hidden, int position, int tokens, sequence& seq) {
  const int dim = net.config().dim;
  std::vector<float> rows(std::size_t(std::min(tokens, model::batch)) * std::size_t(dim));
  for (int begin = 0; begin < tokens; begin += model::batch) {
    const int n = std::min(model::batch, tokens - begin), at = position + begin;
    for (int l = 0; l < net.config().layers; ++l) {
      for (int t = 0; t < n; ++t)
        load_row(hidden.at(sluice::plane::key, l, at + t), hidden.pool().type(), rows.data() + std::ptrdiff_t(t) * dim,
                 dim);
      net.project(l, at, n, rows.data(), seq);
    }
  }
}

}  // namespace engine
