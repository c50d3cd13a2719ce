// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/model/profile.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

/// Makes changed bytes pass for sound ones, so that tests reach what lies behind the checksums.
namespace frames {

/// The mask of sections at the front of a base tile.
inline std::uint8_t sections_of(const std::byte* tile) {
  std::uint16_t cover;
  std::memcpy(&cover, tile, sizeof cover);
  return std::uint8_t(
      tile[2 + (cover & sluice::detail::tile_has_first ? 2 : 0) + (cover & sluice::detail::tile_has_exact ? 2 : 0)]);
}

/// Recomputes every checksum of a frame as far as its header and index can be followed; touches nothing else.
inline void fix_checksums(std::span<std::byte> frame) {
  sluice::frame_header h;
  if (frame.size() < sizeof h) return;
  std::memcpy(&h, frame.data(), sizeof h);
  if (h.index_size <= frame.size() - sizeof h) {
    std::byte* const index = frame.data() + sizeof h;
    const std::uint64_t listed = std::uint64_t{h.shape_runs} * sizeof(sluice::shape_run);
    if (listed <= h.index_size && h.tile_tokens != 0) {
      std::uint64_t tiles = 0;
      const std::uint64_t token_tiles = (std::uint64_t{h.tokens} + h.tile_tokens - 1) / h.tile_tokens;
      for (std::size_t r = 0; r < h.shape_runs; ++r) {
        sluice::shape_run s;
        std::memcpy(&s, index + r * sizeof s, sizeof s);
        if (s.valid()) tiles += s.layers * token_tiles * std::uint64_t(s.groups(0) + s.groups(1));
      }
      std::uint64_t offset = sizeof h + std::uint64_t{h.index_size};
      const std::uint64_t room = (h.index_size - listed) / sizeof(sluice::tile_entry);
      for (std::uint64_t i = 0; i < room && i < tiles * h.passes; ++i) {
        sluice::tile_entry e;
        std::byte* const at = index + listed + i * sizeof e;
        std::memcpy(&e, at, sizeof e);
        if (e.size == sluice::cut_tile) {
          e.checksum = 0;
          std::memcpy(at, &e, sizeof e);
          continue;
        }
        if (offset + e.size > frame.size()) break;
        e.checksum = sluice::checksum(frame.data() + offset, e.size, std::uint32_t(i));
        std::memcpy(at, &e, sizeof e);
        offset += e.size;
      }
    }
    h.index_checksum = sluice::checksum(index, h.index_size, sluice::frame_magic);
  }
  h.header_checksum = sluice::header_checksum(h);
  std::memcpy(frame.data(), &h, sizeof h);
}

/// The same for the file form of a profile: size of the body, identity of what is not optional in it, checksum of all.
inline void fix_profile(std::span<std::byte> file) {
  constexpr std::size_t body_at = 88;
  if (file.size() < body_at + 4) return;
  const auto body = file.subspan(body_at, file.size() - body_at - 4);
  std::vector<std::byte> hashed;
  for (std::size_t at = 0; at < body.size();) {
    std::uint16_t flags = 0;
    std::uint32_t size = 0;
    if (body.size() - at >= 8) {
      std::memcpy(&flags, body.data() + at + 2, 2);
      std::memcpy(&size, body.data() + at + 4, 4);
    }
    const std::size_t whole = std::min<std::size_t>(8 + std::size_t{size}, body.size() - at);
    if (flags != 1) hashed.insert(hashed.end(), body.begin() + long(at), body.begin() + long(at + whole));
    at += whole;
  }
  const std::uint64_t size = body.size(), hash = sluice::detail::checksum64(hashed);
  std::memcpy(file.data() + 8, &size, 8);
  std::memcpy(file.data() + 16, &hash, 8);
  const std::uint32_t sum = sluice::checksum(file.data(), file.size() - 4, 0);
  std::memcpy(file.data() + file.size() - 4, &sum, 4);
}

template <class T>
T load(std::span<const std::byte> bytes, std::size_t at) {
  T x;
  std::memcpy(&x, bytes.data() + at, sizeof x);
  return x;
}
template <class T>
void store(std::span<std::byte> bytes, std::size_t at, const T& x) {
  std::memcpy(bytes.data() + at, &x, sizeof x);
}

}  // namespace frames
