// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/warp/targets.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

// The checksum of tiles, index and header: 32 interleaved lanes of the XXH32 round, lane i taking the 32-bit words i,
// i + 32, ... of the bytes (FORMAT.md). One warp, or one set of vector registers, computes it alike, at memory speed;
// XXH3 and CRC-32C need 64-bit products or carry-less ones, which a GPU's lanes lack.
// Proof that no error within one aligned 32-bit word passes, whatever the rest of the bytes: multiplication by an odd
// number, rotation, xor-shift and addition of a constant are bijections of 32 bits. So a lane is a bijection of each of
// its words, the merge a bijection of each lane, the final mix a bijection: two values of a word, two checksums.

namespace sluice {

namespace detail {

// The primes of XXH32.
inline constexpr std::uint32_t checksum_prime1 = 2654435761u;
inline constexpr std::uint32_t checksum_prime2 = 2246822519u;
inline constexpr std::uint32_t checksum_prime3 = 3266489917u;
inline constexpr std::uint32_t checksum_prime4 = 668265263u;
inline constexpr std::uint32_t checksum_prime5 = 374761393u;

SLUICE_HD constexpr std::uint32_t checksum_rotate(std::uint32_t x, int n) noexcept { return x << n | x >> (32 - n); }

/// What lane i holds before the first word.
SLUICE_HD constexpr std::uint32_t checksum_start(std::uint32_t seed, int lane) noexcept {
  return seed + checksum_prime5 * static_cast<std::uint32_t>(lane + 1);
}

SLUICE_HD constexpr std::uint32_t checksum_round(std::uint32_t lane, std::uint32_t word) noexcept {
  return checksum_rotate(lane + word * checksum_prime2, 13) * checksum_prime1;
}

/// The merge starts from the length, takes the lanes in order, and is mixed: begin, 32 times merge, end.
SLUICE_HD constexpr std::uint32_t checksum_begin(std::uint32_t seed, std::uint64_t size) noexcept {
  const std::uint32_t low = static_cast<std::uint32_t>(size), high = static_cast<std::uint32_t>(size >> 32);
  return checksum_round(checksum_round(seed, low), high);
}

SLUICE_HD constexpr std::uint32_t checksum_merge(std::uint32_t hash, std::uint32_t lane) noexcept {
  return checksum_rotate(hash + lane * checksum_prime3, 17) * checksum_prime4;
}

SLUICE_HD constexpr std::uint32_t checksum_end(std::uint32_t hash) noexcept {
  hash ^= hash >> 15;
  hash *= checksum_prime2;
  hash ^= hash >> 13;
  hash *= checksum_prime3;
  return hash ^ hash >> 16;
}

}  // namespace detail

}  // namespace sluice

#define SLUICE_FUNCTIONS \
  SLUICE_KERNEL void checksum_stripes(const unsigned char* p, std::size_t stripes, std::uint32_t* lanes) noexcept;
#define SLUICE_BODY <sluice/format/checksum_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice {

namespace detail::inline SLUICE_HOST_ABI {

inline void checksum_stripes(isa on, const unsigned char* p, std::size_t stripes, std::uint32_t* lanes) noexcept {
  SLUICE_RETURN_ON(on, checksum_stripes(p, stripes, lanes))
}

}  // namespace detail::inline SLUICE_HOST_ABI

inline namespace SLUICE_HOST_ABI {

/// Checksum of `size` bytes, equal on every machine; any error within one aligned 32-bit word changes it.
inline std::uint32_t checksum(const void* bytes, std::size_t size, std::uint32_t seed, isa on) noexcept {
  static_assert(std::endian::native == std::endian::little, "sluice: little-endian machines only");
  std::uint32_t lanes[32];
  for (int i = 0; i < 32; ++i) lanes[i] = detail::checksum_start(seed, i);
  const auto* p = static_cast<const unsigned char*>(bytes);
  const std::size_t whole = size / 128, rest = size % 128;
  detail::checksum_stripes(on, p, whole, lanes);
  if (rest) {
    unsigned char last[128] = {};
    std::memcpy(last, p + 128 * whole, rest);
    detail::checksum_stripes(on, last, 1, lanes);
  }
  std::uint32_t hash = detail::checksum_begin(seed, size);
  for (const std::uint32_t lane : lanes) hash = detail::checksum_merge(hash, lane);
  return detail::checksum_end(hash);
}

/// The same on the widest instruction set of this processor.
inline std::uint32_t checksum(const void* bytes, std::size_t size, std::uint32_t seed) noexcept {
  return checksum(bytes, size, seed, isa::best);
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
