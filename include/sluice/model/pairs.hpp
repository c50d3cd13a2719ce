// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/model/profile.hpp>
#include <sluice/model/token_weight_model.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace sluice {

namespace detail {

// Which channel of a head of K comes to stand where, when the rotary pairs of `r` are laid out as `to`; empty where
// none moves.
inline std::vector<int> pair_order(const rope& r, int head_dim, rope_pairing to) {
  const int dims = rotary_dims(r, head_dim);
  if (r.pairing == to || dims == 0) return {};
  std::vector<int> from(std::size_t(head_dim), 0);
  for (int c = 0; c < head_dim; ++c) {
    const int apart = c % 2 * (dims / 2) + c / 2, adjoining = c < dims / 2 ? 2 * c : 2 * (c - dims / 2) + 1;
    from[std::size_t(c)] = c >= dims ? c : to == rope_pairing::interleaved ? apart : adjoining;
  }
  return from;
}

// The same for K of a layer.
inline std::vector<int> pair_order(const model_shape& s, int layer, rope_pairing to) {
  const layer_shape& l = s.layers[std::size_t(layer)];
  return s.ropes.empty() ? std::vector<int>() : pair_order(s.ropes[std::size_t(l.rope_index)], l.head_dim_k, to);
}

}  // namespace detail

/// The profile for the same model in an engine that lays out rotary pairs in another order: calibrated on Hugging Face's
/// rotate-half keys, used for llama.cpp's interleaved ones, or back. Means and bases move, all else stays, so that frames
/// are as large and as good; there and back gives the same profile. Of sections that of token_steps moves as well; others
/// are left out, since their order of channels is their own (cachegen_with_pairs() does CacheGen's). Nothing fails where a
/// profile of the wrong order is used, frames are twice as large and their error is worse: see check_fit().
/// Errors: invalid_argument (`to` is rope_pairing::none), corrupt_profile.
inline result<profile> with_pairs(const profile& p, rope_pairing to) {
  if (to != rope_pairing::half && to != rope_pairing::interleaved) return status::invalid_argument;
  if (const status s = validate(p); s != status::ok) return s;
  profile out = p;
  out.sections.clear();
  out.memo = {};  // other bases, other inverses
  const auto known = detail::token_weight_model::of(p);
  detail::token_weight_model weights = known ? *known : detail::token_weight_model{};
  for (int l = 0; l < p.shape.num_layers(); ++l) {
    const std::vector<int> from = detail::pair_order(p.shape, l, to);
    if (from.empty()) continue;
    const plane_profile& before = p.of(l, plane::key);
    plane_profile& after = out.of(l, plane::key);
    // Means, rows of bases and directions are whole heads one after the other.
    const auto reorder = [&]<class T>(const std::vector<T>& x, std::vector<T>& y) {
      for (std::size_t head = 0; head < x.size(); head += from.size())
        for (std::size_t c = 0; c < from.size(); ++c) y[head + c] = x[head + std::size_t(from[c])];
    };
    reorder(before.mean, after.mean);
    reorder(before.matrix, after.matrix);
    if (known) reorder(known->layers[std::size_t(l)].direction, weights.layers[std::size_t(l)].direction);
  }
  for (rope& r : out.shape.ropes)
    if (r.pairing != rope_pairing::none) r.pairing = to;
  if (known) weights.put_into(out);
  return out;
}

}  // namespace sluice
