// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

// Frames of which each tile keeps passes of its own (FORMAT.md section 3.4). Which ones is decided in codec/budget.hpp.

namespace sluice {

namespace detail {

// Bytes of header and index.
constexpr std::size_t front_size(std::size_t shape_runs, std::size_t tiles, std::size_t passes) noexcept {
  return (sizeof(frame_header) + shape_runs * sizeof(shape_run) + tiles * passes * sizeof(tile_entry) + 15) / 16 * 16;
}

// Passes that an index has to list: up to the last that keeps bytes. size(pass, tile).
template <class Size>
int listed_passes(std::span<const std::uint8_t> kept, Size size) {
  int passes = 1;
  for (std::size_t i = 0; i < kept.size(); ++i)
    for (int p = kept[i] - 1; p >= passes; --p)
      if (size(p, i)) passes = p + 1;
  return passes;
}

}  // namespace detail

/// Cuts tiles down to so many passes each, in place, and returns the new size; the bytes behind it may be dropped. `kept`,
/// in the order of the index: at least 1; more than the tile has means all of it. What is kept moves together; passes
/// that no tile keeps leave the index. Errors: those of frame_index::parse, level_not_present, truncated, invalid_argument.
inline result<std::size_t> cut_tiles(std::span<std::byte> frame, std::span<const std::uint8_t> kept) {
  frame_index index;
  if (const status s = index.parse(frame); s != status::ok) return s;
  frame_header h = index.header();
  const std::size_t tiles = index.tiles_per_pass(), runs = h.shape_runs;
  if (h.levels_present == 0) return status::level_not_present;
  if (frame.size() < index.size()) return status::truncated;
  if (kept.size() != tiles) return status::invalid_argument;
  for (const std::uint8_t k : kept)
    if (k == 0) return status::invalid_argument;
  const std::size_t present = h.levels_present;
  const auto passes = std::size_t(detail::listed_passes(kept, [&](int p, std::size_t i) {
    return std::size_t(p) < present ? index.range(std::size_t(p) * tiles + i).size() : 0;
  }));

  // Every tile moves towards the front, or stays; the index is written behind them in time, before them in place.
  const std::size_t front = detail::front_size(runs, tiles, passes);
  std::size_t to = front;
  for (std::size_t i = 0; i < passes * tiles; ++i) {
    const byte_range r = index.range(i);
    if (kept[i % tiles] <= i / tiles || r.size() == 0) continue;
    std::memmove(frame.data() + to, frame.data() + r.begin, std::size_t(r.size()));
    to += std::size_t(r.size());
  }
  std::byte* at = frame.data() + sizeof h + runs * sizeof(shape_run);
  std::memset(at, 0, std::size_t(frame.data() + front - at));
  for (std::size_t i = 0; i < passes * tiles; ++i, at += sizeof(tile_entry)) {
    tile_entry e{std::uint32_t(index.range(i).size()), index.checksum_of(i)};
    if (kept[i % tiles] <= i / tiles || index.is_cut(i)) e = {cut_tile, 0};
    std::memcpy(at, &e, sizeof e);
  }
  h.frame_size = to;
  h.index_size = std::uint32_t(front - sizeof h);
  h.index_checksum = checksum(frame.data() + sizeof h, h.index_size, frame_magic);
  h.passes = h.levels_present = std::uint8_t(passes);
  h.header_checksum = header_checksum(h);
  std::memcpy(frame.data(), &h, sizeof h);
  return to;
}

}  // namespace sluice
