// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/adaptive_bytes.hpp>

#include <zlib.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// Needs zlib, which nothing else of the library does: no other header includes this one, and who does links -lz.

namespace sluice {

/// Coder of bytes: DEFLATE (RFC 1951) at zlib's best level in a zlib stream (RFC 1950), all regions in one. What KVTC
/// ends in: codec::kvtc<16, 128, deflate_bytes>.
struct deflate_bytes {
  static constexpr stage_id id = stage_id::of(6, 1);

  /// Appends the code of all regions, which follow one another in `bytes`.
  static void encode(std::span<const std::uint8_t> bytes, std::span<const std::size_t> /*regions*/,
                     std::vector<std::uint8_t>& out) {
    const std::size_t at = out.size();
    uLongf size = compressBound(uLong(bytes.size()));
    out.resize(at + size);
    // Fails for want of memory alone; a decoder then says that the tile is corrupt.
    if (compress2(out.data() + at, &size, bytes.data(), uLong(bytes.size()), Z_BEST_COMPRESSION) != Z_OK) size = 0;
    out.resize(at + size);
  }

  /// Fills `out` with the regions' bytes. False where the code is not whole and sound; `out` is anything then.
  static bool decode(std::span<const std::uint8_t> code, std::span<const std::size_t> /*regions*/,
                     std::span<std::uint8_t> out) {
    uLongf size = uLongf(out.size());
    uLong used = uLong(code.size());
    std::uint8_t nothing = 0;  // zlib takes no null
    return uncompress2(out.empty() ? &nothing : out.data(), &size, code.data(), &used) == Z_OK && size == out.size() &&
           used == code.size();
  }
};

static_assert(byte_coder<deflate_bytes>);

}  // namespace sluice
