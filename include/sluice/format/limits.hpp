// SPDX-License-Identifier: Apache-2.0
#pragma once

// What frames and profiles can hold; parsers refuse more before they allocate from it.

#include <cstdint>

namespace sluice {

/// Most passes (levels) a frame can have, and most coefficients that share one basis.
inline constexpr int max_passes = 6;
inline constexpr int max_group_width = 1024;

/// Limits of a model: layers, rotary embeddings, heads of a layer, elements of a head, sinks, groups of all layers.
inline constexpr int max_model_layers = 4096;
inline constexpr int max_ropes = 64;
inline constexpr int max_kv_heads = 4096;
inline constexpr int max_head_dim = 16384;
inline constexpr int max_sinks = 255;
inline constexpr int max_streams = 1 << 18;

/// Limits of a frame: its tokens, and those of one tile.
inline constexpr std::uint32_t max_frame_tokens = 1u << 20;
inline constexpr std::uint32_t max_tile_tokens = 4096;

}  // namespace sluice
