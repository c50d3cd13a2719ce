// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/numeric.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

// What the bytes of a frame are for, whatever codec made it: what a codec wrote is counted by section.

namespace sluice {

/// Bytes of one pass of a frame.
struct pass_account {
  std::size_t heads = 0;                             ///< of the tiles: tokens covered, which sections, their sizes
  std::size_t exact = 0;                             ///< tokens kept exact, and which they are
  std::size_t sections[max_sections] = {};           ///< of the codec
  std::size_t unread = 0;                            ///< of tiles that are damaged or cut off
  std::vector<std::array<std::size_t, 2>> layers{};  ///< the same bytes by layer, K and V

  /// Of all sections.
  std::size_t coded() const noexcept {
    std::size_t sum = 0;
    for (const std::size_t s : sections) sum += s;
    return sum;
  }
  /// All bytes of the pass.
  std::size_t total() const noexcept { return heads + exact + coded() + unread; }

  /// Adds another pass, or the same pass of another frame, layer by layer.
  pass_account& operator+=(const pass_account& b) {
    heads += b.heads, exact += b.exact, unread += b.unread;
    for (int s = 0; s < max_sections; ++s) sections[s] += b.sections[s];
    if (layers.size() < b.layers.size()) layers.resize(b.layers.size());
    for (std::size_t l = 0; l < b.layers.size(); ++l)
      for (std::size_t p : {0u, 1u}) layers[l][p] += b.layers[l][p];
    return *this;
  }
};

/// Bytes of a frame; total() is how many of it are there.
struct byte_account {
  std::size_t index = 0;             ///< header, shapes, sizes and checksums
  std::vector<pass_account> passes;  ///< those that the header says are present
  std::size_t tiles = 0;             ///< of these passes that are here
  std::size_t damaged = 0;           ///< tiles whose checksum or envelope is wrong
  std::size_t missing = 0;           ///< tiles that are cut off by an end that came too early
  std::size_t cut = 0;               ///< of these passes, tiles that the frame was made or cut to fit without
  std::uint64_t values = 0;          ///< elements that the tiles cover; all of a tile whose base cannot be read
  std::uint64_t raw = 0;             ///< bytes that these are in the cache

  /// Bytes of the frame that are there: index and all passes.
  std::size_t total() const noexcept {
    std::size_t sum = index;
    for (const pass_account& p : passes) sum += p.total();
    return sum;
  }

  /// Of all passes together.
  pass_account all_passes() const {
    pass_account sum;
    for (const pass_account& p : passes) sum += p;
    return sum;
  }

  /// Adds another frame of the same sequence.
  byte_account& operator+=(const byte_account& b) {
    index += b.index, tiles += b.tiles, damaged += b.damaged, missing += b.missing, cut += b.cut;
    values += b.values, raw += b.raw;
    if (passes.size() < b.passes.size()) passes.resize(b.passes.size());
    for (std::size_t p = 0; p < b.passes.size(); ++p) passes[p] += b.passes[p];
    return *this;
  }
};

namespace detail {

// Adds one pass of a tile; false where it cannot be read. The envelope is that of the base pass, which sets it.
inline bool add_tile(const frame_index& index, std::span<const std::byte> frame, const tile_key& key, int pass,
                     tile_envelope& envelope, tile_sections& sections, byte_account& a) noexcept {
  pass_account& to = a.passes[std::size_t(pass)];
  const std::size_t ordinal = index.ordinal(pass, key);
  const byte_range r = index.range(ordinal);
  const auto here = std::size_t(clamp<std::uint64_t>(frame.size(), r.begin, r.end) - r.begin);
  to.layers[std::size_t(key.layer)][std::size_t(key.plane)] += here;
  ++a.tiles;
  const result<std::span<const std::uint8_t>> bytes = tile_bytes(index, frame, ordinal);
  status s = bytes.status();
  if (s == status::ok && bytes->empty()) return true;
  if (s == status::ok && pass) s = parse_refinement(*bytes, sections);
  if (s == status::ok && !pass) s = parse_tile(*bytes, index.tokens_of(key.tile), index.row_bytes(key), envelope);
  if (s != status::ok) {
    ++(s == status::truncated ? a.missing : a.damaged);
    to.unread += here;
    return false;
  }
  std::size_t used = 0;
  if (pass == 0) {
    sections = envelope.base;
    used = envelope.exact_index.size() + envelope.exact_rows.size();
    to.exact += used;
  }
  for (int i = 0; i < max_sections; ++i) {
    to.sections[i] += sections.bytes[i].size();
    used += sections.bytes[i].size();
  }
  to.heads += bytes->size() - used;
  return true;
}

}  // namespace detail

/// Takes a frame apart, which may be cut or damaged; `index` is its own. Calls each(key, pass, envelope, sections) for
/// every pass of a tile that is here and can be read and whose base can be read, from the base on.
template <class F>
byte_account account(const frame_index& index, std::span<const std::byte> frame, F&& each) {
  const frame_header& h = index.header();
  byte_account a;
  a.index = detail::min<std::size_t>(std::size_t(index.payload_offset()), frame.size());
  a.passes.resize(h.levels_present);
  for (pass_account& p : a.passes) p.layers.resize(h.layers);
  for (int layer = 0; layer < h.layers; ++layer)
    for (plane which : {plane::key, plane::value})
      for (int t = 0; t < index.token_tiles(); ++t)
        for (int g = 0; g < index.shape_of(layer).groups(int(which)); ++g) {
          const tile_key key{layer, which, t, g};
          tile_envelope envelope;
          bool sound = h.levels_present > 0;
          const int levels = index.levels_of(index.ordinal(0, key));
          a.cut += std::size_t(h.levels_present - levels);
          for (int pass = 0; pass < levels; ++pass) {
            tile_sections sections;
            const bool read = detail::add_tile(index, frame, key, pass, envelope, sections, a);
            if (pass == 0) sound = read;
            if (read && sound && envelope.count) each(key, pass, std::as_const(envelope), std::as_const(sections));
          }
          const auto tokens = std::uint64_t(sound ? envelope.count : index.tokens_of(t));
          a.values += tokens * std::uint64_t(index.shape_of(layer).channels(int(which), g));
          a.raw += tokens * index.row_bytes(key);
        }
  return a;
}

/// The same, without a look at the tiles.
inline byte_account account(const frame_index& index, std::span<const std::byte> frame) {
  return account(index, frame, [](const tile_key&, int, const tile_envelope&, const tile_sections&) {});
}

}  // namespace sluice
