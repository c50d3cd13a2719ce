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
  std::uint8_t in[most_packed_states + 4];
  std::memcpy(in, from.data(), size);
  std::memset(in + size, 0, 4);
  unsigned at = 8 * state_lengths_bytes;
  for (unsigned lane = 0; lane < unsigned(rans_lanes);) {
    std::uint32_t lengths, bits;
    std::memcpy(&lengths, in + 3 * lane / 8, 4);
    for (unsigned k = 0; k < 8; ++k, ++lane) {
      const unsigned length = 8 + (lengths >> 3 * k & 7);
      std::memcpy(&bits, in + at / 8, 4);
      const auto x = std::uint16_t(1u << length | (bits >> at % 8 & ((1u << length) - 1)));
      std::memcpy(states + 2 * lane, &x, 2);
      at += length;
    }
  }
  return size;
}

/// Appends 32 states of u16, each at least 256.
inline void pack_states(const std::uint8_t* states, std::vector<std::uint8_t>& out) {
  const std::size_t start = out.size();
  out.resize(start + most_packed_states + 8);
  std::uint8_t *lengths = out.data() + start, *p = lengths + state_lengths_bytes;
  std::uint64_t bits = 0;
  unsigned held = 0;  // of `bits`
  for (unsigned lane = 0; lane < unsigned(rans_lanes); lengths += 3) {
    std::uint32_t eight = 0;
    for (unsigned k = 0; k < 8; ++k, ++lane) {
      std::uint16_t x;
      std::memcpy(&x, states + 2 * lane, 2);
      const unsigned length = unsigned(std::bit_width(x)) - 1;
      eight |= (length - 8) << 3 * k;
      bits |= std::uint64_t{x & ((1u << length) - 1)} << held;
      held += length;
      if (held < 32) continue;
      std::memcpy(p, &bits, 4);
      p += 4;
      bits >>= 32;
      held -= 32;
    }
    std::memcpy(lengths, &eight, 3);
  }
  std::memcpy(p, &bits, 8);
  out.resize(std::size_t(p - out.data()) + (held + 7) / 8);
}

}  // namespace sluice::detail
