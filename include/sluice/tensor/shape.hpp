// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>

#include <cstdint>
#include <vector>

namespace sluice {

/// How an element is stored; numbers are pinned, they stand in frames.
enum class dtype : std::uint8_t { f32 = 0, f16 = 1, bf16 = 2, e4m3 = 3, e5m2 = 4, bytes = 5 };

/// Bytes of one element; `bytes` is one opaque byte.
SLUICE_HD constexpr int size_of(dtype t) noexcept {
  return t == dtype::f32 ? 4 : t == dtype::f16 || t == dtype::bf16 ? 2 : 1;
}

/// The name of an element type, as in the enumeration; never null.
constexpr const char* to_string(dtype t) noexcept {
  switch (t) {
    case dtype::f32: return "f32";
    case dtype::f16: return "f16";
    case dtype::bf16: return "bf16";
    case dtype::e4m3: return "e4m3";
    case dtype::e5m2: return "e5m2";
    case dtype::bytes: return "bytes";
  }
  return "?";
}

/// Which half of the cache a plane is.
enum class plane : std::uint8_t { key = 0, value = 1 };

/// Which dimensions form a rotary pair.
enum class rope_pairing : std::uint8_t {
  none = 0,         ///< no rotary embedding
  half = 1,         ///< dims i and i + rotary_dims/2 (Hugging Face, NeoX)
  interleaved = 2,  ///< dims 2i and 2i+1 (GPT-J, original Llama)
};

/// How frequencies are stretched beyond the training length.
enum class rope_scaling : std::uint8_t {
  none = 0,
  linear = 1,
  ntk = 2,
  yarn = 3,
  llama3 = 4,
  yarn_untruncated = 5,  ///< yarn whose ramp starts and ends between dims (gpt-oss: "truncate": false)
};

/// The rotary embedding of one kind of layer, enough to undo and redo it exactly (to rounding); see rope.hpp.
/// Sources: RoFormer 3.2.2; linear (position interpolation, Chen 2023); NTK-aware; YaRN (Peng 2023) 3.1-3.4; Llama 3.1.
struct rope {
  rope_pairing pairing = rope_pairing::half;  ///< none = the layer has no rotary embedding, and no other field counts
  rope_scaling scaling = rope_scaling::none;  ///< says which of the fields from `factor` on count
  std::int32_t rotary_dims = 0;               ///< leading dims that rotate; 0 = the whole head
  double base = 10000.0;                      ///< pair i of d dims turns base^(-2i/d) radians a position before scaling
  double factor = 1.0;                        ///< context extension factor of the scaling
  double low_freq = 1.0;                      ///< llama3: low_freq_factor; yarn: beta_slow (1)
  double high_freq = 4.0;                     ///< llama3: high_freq_factor (4); yarn: beta_fast (32)
  double original_context = 0;                ///< tokens the model was trained on (llama3, yarn)
  double attention_factor = 1.0;              ///< yarn: cos and sin are multiplied by this

  SLUICE_EQUALITY(rope)
};

/// One layer's KV as a model defines it, whatever its layout in memory. A layer that keeps no KV (the recurrent ones of
/// hybrid models) is layer_shape{}: it has its number and nothing else.
struct layer_shape {
  std::int32_t num_kv_heads = 0;  ///< after grouping of query heads
  std::int32_t head_dim_k = 0;    ///< elements of a head of K
  std::int32_t head_dim_v = 0;    ///< the same of V; 0 = the layer keeps no V (latent attention)
  std::int32_t rope_index = 0;    ///< into model_shape::ropes
  /// Tokens of sliding-window attention; 0 = full. Position p is outside of the window of a sequence that ends at `end`
  /// where p + window <= end: no token from `end` on looks at it.
  std::int32_t window = 0;

  /// Elements of a head of K or V; 0 = the layer keeps none.
  SLUICE_HD constexpr std::int32_t head_dim(plane p) const noexcept {
    return p == plane::key ? head_dim_k : head_dim_v;
  }
  /// How many of the last of `tokens` tokens those that follow look at.
  SLUICE_HD constexpr std::int64_t needed(std::int64_t tokens) const noexcept {
    return window > 0 && window - 1 < tokens ? window - 1 : tokens;
  }
  /// Whether the layer keeps no KV.
  SLUICE_HD constexpr bool absent() const noexcept { return num_kv_heads == 0 && head_dim_k == 0 && head_dim_v == 0; }
  SLUICE_EQUALITY(layer_shape)
};

/// The KV of a whole model: layers that may differ, and the rotary embeddings they use.
struct model_shape {
  std::vector<layer_shape> layers;  ///< every layer of the model, in order
  std::vector<rope> ropes;          ///< what layer_shape::rope_index points into; empty = no layer rotates

  /// Layers of the model, those without KV included.
  int num_layers() const noexcept { return static_cast<int>(layers.size()); }
  SLUICE_EQUALITY(model_shape)

  /// All layers alike.
  static model_shape uniform(int num_layers, int num_kv_heads, int head_dim, rope r = {}) {
    return {std::vector<layer_shape>(static_cast<std::size_t>(num_layers), {num_kv_heads, head_dim, head_dim, 0, 0}),
            {r}};
  }
};

}  // namespace sluice
