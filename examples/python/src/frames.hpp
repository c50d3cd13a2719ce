// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "codec.hpp"

#include <sluice/format/frame.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

// What can be said of, and done with, a frame without its profile.

/// K and V of one layer as a frame holds them.
struct frame_layer {
  int kv_heads = 0, head_dim_k = 0, head_dim_v = 0;
  std::optional<std::string> type_k, type_v;  ///< of the cache that was encoded; none where nothing of it is here
};

/// What a frame's header and index say.
struct frame_info {
  std::int64_t position = 0, tokens = 0;
  std::optional<std::string> codec;  ///< the preset that reads it
  std::uint64_t fingerprint = 0;     ///< of the profile that made it
  int levels = 0;                    ///< present
  int levels_made = 0;
  std::uint64_t size = 0;                   ///< bytes of the frame as it stands here
  std::vector<std::uint64_t> sizes;         ///< of the frame when cut after each level that is present
  std::vector<std::optional<double>> loss;  ///< nats that each of these is expected to lose; none = as the profile says
  std::vector<frame_layer> layers;
};

inline frame_info info_of(nb::handle frame) {
  const buffer in(frame);
  sluice::frame_index index;
  check(index.parse(in.bytes()));
  const sluice::frame_header& h = index.header();
  frame_info i;
  i.position = h.position, i.tokens = h.tokens, i.fingerprint = h.fingerprint;
  i.levels = h.levels_present, i.levels_made = h.passes, i.size = index.size();
  if (const sluice::preset* p = sluice::preset_reading(h.codec)) i.codec = p->name;
  for (int l = 0; l < h.levels_present; ++l) {
    i.sizes.push_back(index.size_at(l));
    const double said = h.loss_of(l);
    i.loss.push_back(said < 0 ? std::nullopt : std::optional(said));
  }
  for (int l = 0; l < h.layers; ++l) {
    const sluice::shape_run& s = index.shape_of(l);
    frame_layer& to = i.layers.emplace_back(frame_layer{s.num_kv_heads, s.head_dim[0], s.head_dim[1], {}, {}});
    if (index.holds(l, sluice::plane::key)) to.type_k = to_string(index.type(l, sluice::plane::key));
    if (index.holds(l, sluice::plane::value)) to.type_v = to_string(index.type(l, sluice::plane::value));
  }
  return i;
}

/// The frame cut after a level: what is left is a copy.
inline nb::bytes truncated(nb::handle frame, int level) {
  const buffer in(frame);
  sluice::frame_index index;
  check(index.parse(in.bytes()));
  const sluice::frame_header& h = index.header();
  if (level < 0 || level >= h.passes)
    throw failure(sluice::status::level_not_present,
                  "level " + std::to_string(level) + " of a frame with levels 0 to " + std::to_string(h.passes - 1));
  const std::uint64_t size = level < h.levels_present ? index.size_at(level) : index.size();
  if (size > in.bytes().size()) throw failure(sluice::status::truncated);
  std::vector<std::byte> cut(in.bytes().begin(), in.bytes().begin() + std::ptrdiff_t(size));
  return nb::bytes(cut.data(), value_of(sluice::truncate(cut, level)));
}

/// The finest level at which every tile of the frame is whole.
inline int whole_level(nb::handle frame) {
  const buffer in(frame);
  sluice::frame_index index;
  check(index.parse(in.bytes()));
  const int level =
      without_interpreter([&] { return sluice::sound_level(index, in.bytes(), index.header().levels_present - 1); });
  if (level < 0)
    throw failure(in.bytes().size() < index.size_at(0) ? sluice::status::truncated : sluice::status::corrupt_tile,
                  "not even the coarsest level is whole");
  return level;
}
