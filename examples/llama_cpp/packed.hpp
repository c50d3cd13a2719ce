// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "state.hpp"

#include <sluice/format/checksum.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// The packed form of a state: a header, a profile where none has to be kept beside it, the skeleton, frames, a checksum.
// README.md says what stands where.

namespace slot {

/// What a packed state says of itself.
struct packed_header {
  std::uint64_t size = 0;         ///< of the state
  std::uint64_t fingerprint = 0;  ///< of the profile that is needed; 0 = none is
  std::uint32_t chunks = 0;
  int level = 0;
  bool lossless = false, turned = false;
  sluice::rope_pairing pairs = sluice::rope_pairing::none;
  reading how;
  std::span<const std::byte> profile, skeleton, frames;  ///< frames: a u32 size, then that many bytes, `chunks` times
};

namespace detail {

constexpr char packed_magic[8] = {'s', 'l', 'u', 'i', 'c', 'e', 'L', 'C'};
constexpr std::uint16_t packed_version = 1;
constexpr std::size_t header_size = 48;

// The checksum of a file that is written in pieces: that of each piece begins with that of the one before.
struct running_checksum {
  std::uint32_t a = 0x736c6f74, b = 0x6c6c616d;
  void add(std::span<const std::byte> x) noexcept {
    a = sluice::checksum(x.data(), x.size(), a);
    b = sluice::checksum(x.data(), x.size(), b);
  }
  std::uint64_t value() const noexcept { return std::uint64_t{a} << 32 | b; }
};

template <class T>
void put(std::vector<std::byte>& to, const T& x) {
  const auto* p = reinterpret_cast<const std::byte*>(&x);
  to.insert(to.end(), p, p + sizeof x);
}

}  // namespace detail

/// Reads the front of a packed state and checks all of it against its checksum.
/// Errors: parse_error (no packed state), wrong_version, truncated, corrupt_header.
inline sluice::result<packed_header> read_header(std::span<const std::byte> packed) {
  using sluice::status;
  if (packed.size() < sizeof detail::packed_magic ||
      std::memcmp(packed.data(), detail::packed_magic, sizeof detail::packed_magic) != 0)
    return status::parse_error;
  if (packed.size() < detail::header_size + 8) return status::truncated;
  detail::cursor in(packed.subspan(8), packed.size() - 8, false);
  if (in.get<std::uint16_t>() != detail::packed_version) return status::wrong_version;
  packed_header h;
  const auto flags = in.get<std::uint8_t>();
  h.how.cell_extra = in.get<std::uint8_t>();
  const auto pairs = in.get<std::uint8_t>(), level = in.get<std::uint8_t>();
  const auto zero = in.get<std::uint16_t>();
  h.size = in.get<std::uint64_t>();
  const auto skeleton = in.get<std::uint64_t>();
  h.fingerprint = in.get<std::uint64_t>();
  const auto profile = in.get<std::uint32_t>();
  h.chunks = in.get<std::uint32_t>();
  h.lossless = flags & 1, h.turned = flags & 2, h.how.values = flags & 4, h.how.turns = flags & 8;
  if (flags > 15 || pairs > 2 || zero || level >= sluice::max_passes) return status::corrupt_header;
  h.pairs = sluice::rope_pairing(pairs), h.level = level;
  std::span<const std::byte> rest = packed.subspan(detail::header_size, packed.size() - detail::header_size - 8);
  if (profile > rest.size() || skeleton > rest.size() - profile || h.chunks > (rest.size() - profile - skeleton) / 4)
    return status::truncated;
  h.profile = rest.first(profile);
  h.skeleton = rest.subspan(profile, std::size_t(skeleton));
  h.frames = rest.subspan(profile + std::size_t(skeleton));
  detail::running_checksum sum;
  sum.add(packed.first(detail::header_size));
  if (profile) sum.add(h.profile);
  sum.add(h.skeleton);
  std::span<const std::byte> frames = h.frames;
  for (std::uint32_t i = 0; i < h.chunks; ++i) {
    std::uint32_t n;
    if (frames.size() < 4) return status::truncated;
    std::memcpy(&n, frames.data(), 4);
    sum.add(frames.first(4));
    frames = frames.subspan(4);
    if (n > frames.size()) return status::truncated;
    sum.add(frames.first(n));
    frames = frames.subspan(n);
  }
  std::uint64_t told;
  std::memcpy(&told, packed.data() + packed.size() - 8, 8);
  if (!frames.empty() || told != sum.value()) return status::corrupt_header;
  return h;
}

}  // namespace slot
