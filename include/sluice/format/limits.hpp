// SPDX-License-Identifier: Apache-2.0
#pragma once

// What frames and profiles can hold; parsers refuse more before they allocate from it.

#include <cstdint>

namespace sluice {

inline constexpr int max_passes = 6;          ///< passes of a frame: its levels
inline constexpr int max_group_width = 1024;  ///< channels that share one basis

inline constexpr int max_model_layers = 4096;  ///< layers of a model
inline constexpr int max_ropes = 64;           ///< rotary embeddings of a model
inline constexpr int max_kv_heads = 4096;      ///< KV heads of a layer
inline constexpr int max_head_dim = 16384;     ///< elements of a head
inline constexpr int max_sinks = 255;          ///< tokens at the start of a sequence that are kept exact
inline constexpr int max_streams = 1 << 18;    ///< groups of heads of all layers, K and V

inline constexpr std::uint32_t max_frame_tokens = 1u << 20;  ///< tokens of a frame
inline constexpr std::uint32_t max_tile_tokens = 4096;       ///< tokens of one tile

inline constexpr int max_row_classes = 16;  ///< of a tile
inline constexpr int max_row_step = 48;     ///< quarter octaves of a class, either way: 2^12
inline constexpr int max_row_spread = 63;   ///< of a class, either way: all widths that classes have

}  // namespace sluice
