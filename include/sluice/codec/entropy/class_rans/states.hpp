// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/tables.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// The states that a code begins with, in fewer bytes: they are of any size from 256 on, so their logarithms are about even
// and half of their high bits are zero (FORMAT.md section 5.3). First 3 bits a lane, how many bits follow its eight lowest
// below its highest; then each lane's bits below its highest one.

namespace sluice::detail {

inline constexpr std::size_t state_lengths_bytes = 3 * rans_lanes / 8;
inline constexpr std::size_t most_packed_states = state_lengths_bytes + 15 * rans_lanes / 8;

/// Bytes of the packed states at the front of `from`; 0 where there are fewer.
inline std::size_t packed_states_size(std::span<const std::uint8_t> from) noexcept {
  if (from.size() < state_lengths_bytes) return 0;
  unsigned bits = 8 * rans_lanes;
  for (std::size_t i = 0; i < state_lengths_bytes; i += 3) {
    const unsigned eight = from[i] | unsigned{from[i + 1]} << 8 | unsigned{from[i + 2]} << 16;
    bits += unsigned(std::popcount(eight & 0x249249u) + 2 * std::popcount(eight & 0x492492u) +
                     4 * std::popcount(eight & 0x924924u));
  }
  const std::size_t size = state_lengths_bytes + (bits + 7) / 8;
  return size <= from.size() ? size : 0;
}

/// Unpacks 32 states of u16, little endian, from untrusted bytes; each is at least 256. Returns the bytes they took, 0
/// where there are too few.
inline std::size_t unpack_states(std::span<const std::uint8_t> from, std::uint8_t* states) noexcept {
  const std::size_t size = packed_states_size(from);
  if (size == 0) return 0;
  std::uint8_t in[most_packed_states + 8] = {};
  std::memcpy(in, from.data(), size);
  unsigned at = 8 * state_lengths_bytes;
  for (unsigned lane = 0; lane < unsigned(rans_lanes); ++lane) {
    const unsigned where = 3 * lane;
    const unsigned length = 8 + ((in[where / 8] | unsigned{in[where / 8 + 1]} << 8) >> where % 8 & 7);
    const unsigned bits = (in[at / 8] | unsigned{in[at / 8 + 1]} << 8 | unsigned{in[at / 8 + 2]} << 16) >> at % 8;
    const unsigned x = 1u << length | (bits & ((1u << length) - 1));
    states[2 * lane] = std::uint8_t(x);
    states[2 * lane + 1] = std::uint8_t(x >> 8);
    at += length;
  }
  return size;
}

/// Appends 32 states of u16, each at least 256.
inline void pack_states(const std::uint8_t* states, std::vector<std::uint8_t>& out) {
  std::uint8_t to[most_packed_states + 8] = {};
  unsigned at = 8 * state_lengths_bytes;
  const auto put = [&to](unsigned where, unsigned bits) {
    bits <<= where % 8;
    to[where / 8] |= std::uint8_t(bits);
    to[where / 8 + 1] |= std::uint8_t(bits >> 8);
    to[where / 8 + 2] |= std::uint8_t(bits >> 16);
  };
  for (unsigned lane = 0; lane < unsigned(rans_lanes); ++lane) {
    const unsigned x = states[2 * lane] | unsigned{states[2 * lane + 1]} << 8, length = unsigned(std::bit_width(x)) - 1;
    put(3 * lane, length - 8);
    put(at, x & ((1u << length) - 1));
    at += length;
  }
  out.insert(out.end(), to, to + (at + 7) / 8);
}

}  // namespace sluice::detail
