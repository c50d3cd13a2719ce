// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/stream/plan/placement.hpp>
#include <sluice/stream/store/chunk.hpp>
#include <sluice/stream/store/object.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice::stream {

/// What an object is worth to whoever must choose.
struct object_worth {
  /// Of frames whose headers do not say; context_loss::of(profile, tokens) knows better than a ninth a level.
  context_loss loss{{1, 1.0 / 9, 1.0 / 81, 1.0 / 729, 1.0 / 6561, 1.0 / 59049}, 2048};
  double recompute_seconds_per_token = 1e-3;        ///< as in cost_rates
  double recompute_seconds_per_token_position = 0;  ///< the same
  double other_seconds = 1;                         ///< what an object that is no frame is worth, whatever its size
};

/// The levels of a stored object, each of which is a prefix of it. What is no frame, or is no whole one, has one level.
struct object_levels {
  placed_item item;       ///< bytes of the object to each level's last, what levels lose, what computing takes
  frame_header header{};  ///< magic is 0 where there is no frame
};

/// From the front of an object (envelope, header and index of its frame) and its size.
inline object_levels levels_of(std::span<const std::byte> front, std::uint64_t size, const object_worth& worth = {}) {
  object_levels o;
  o.item = {{size}, {0}, worth.other_seconds, 0};
  object_header envelope;
  frame_index index;
  if (front.size() < sizeof envelope) return o;
  std::memcpy(&envelope, front.data(), sizeof envelope);
  if (!open_object(front, envelope.key) || index.parse(front.subspan(sizeof envelope)) != status::ok) return o;
  const frame_header& h = index.header();
  const std::size_t levels = h.levels_present;
  if (levels == 0 || sizeof envelope + index.size() != size) return o;
  const chunk_cost c = chunk_of(index, 0, worth.loss);
  o.header = h;
  o.item.bytes.clear();
  o.item.loss.clear();
  for (std::size_t l = 0; l < levels; ++l) {
    o.item.bytes.push_back(sizeof envelope + index.size_at(int(l)));
    o.item.loss.push_back(std::max(c.loss.empty() ? 0 : c.loss[std::min(l, c.loss.size() - 1)], 0.0));
  }
  o.item.recompute_seconds =
      c.tokens * (worth.recompute_seconds_per_token +
                  worth.recompute_seconds_per_token_position * (double(c.position) + c.tokens / 2.0));
  return o;
}

/// Bytes of an object's front, from the first ones of it: envelope, header and index. 0 where there is no frame.
inline std::size_t front_bytes(std::span<const std::byte> begin) noexcept {
  frame_header h;
  if (begin.size() < sizeof(object_header) + sizeof h) return 0;
  std::memcpy(&h, begin.data() + sizeof(object_header), sizeof h);
  if (h.magic != frame_magic || h.header_checksum != header_checksum(h)) return 0;
  return sizeof(object_header) + sizeof h + h.index_size;
}

}  // namespace sluice::stream
