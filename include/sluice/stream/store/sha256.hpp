// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace sluice {

/// 32 bytes of SHA-256 (FIPS 180-4), or zero.
using digest = std::array<std::byte, 32>;

/// SHA-256 of bytes that come in pieces. Names of stored chunks need a hash without known collisions: two prompts with one
/// name would read each other's cache.
class sha256 {
 public:
  /// More bytes.
  sha256& add(std::span<const std::byte> bytes) noexcept {
    for (const std::byte b : bytes) {
      block_[size_++ % 64] = b;
      if (size_ % 64 == 0) compress();
    }
    return *this;
  }

  /// A whole number, as 8 bytes, little endian.
  sha256& add(std::uint64_t x) noexcept {
    std::byte bytes[8];
    for (int i = 0; i < 8; ++i) bytes[i] = std::byte(x >> 8 * i & 255);
    return add(bytes);
  }

  /// The hash of everything added so far; the object can go on.
  digest finish() const noexcept {
    sha256 last = *this;
    const std::uint64_t bits = 8 * size_;
    constexpr std::byte one[] = {std::byte{0x80}}, zero[] = {std::byte{0}};
    last.add(one);
    while (last.size_ % 64 != 56) last.add(zero);
    std::byte length[8];
    for (int i = 0; i < 8; ++i) length[i] = std::byte(bits >> (56 - 8 * i) & 255);
    last.add(length);
    digest out;
    for (std::size_t i = 0; i < 32; ++i) out[i] = std::byte(last.state_[i / 4] >> (24 - 8 * (i % 4)) & 255);
    return out;
  }

 private:
  static constexpr std::uint32_t k_[64] = {
      0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
      0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
      0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
      0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
      0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
      0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
      0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
      0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

  void compress() noexcept {
    std::uint32_t w[64], s[8];
    for (std::size_t i = 0; i < 16; ++i) {
      w[i] = 0;
      for (std::size_t j = 0; j < 4; ++j) w[i] = w[i] << 8 | std::to_integer<std::uint32_t>(block_[4 * i + j]);
    }
    for (std::size_t i = 16; i < 64; ++i) {
      const std::uint32_t a = w[i - 15], b = w[i - 2];
      w[i] = w[i - 16] + w[i - 7] + (std::rotr(a, 7) ^ std::rotr(a, 18) ^ a >> 3) +
             (std::rotr(b, 17) ^ std::rotr(b, 19) ^ b >> 10);
    }
    std::memcpy(s, state_, sizeof s);
    for (std::size_t i = 0; i < 64; ++i) {
      const std::uint32_t choice = (s[4] & s[5]) ^ (~s[4] & s[6]),
                          majority = (s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]);
      const std::uint32_t a =
          s[7] + (std::rotr(s[4], 6) ^ std::rotr(s[4], 11) ^ std::rotr(s[4], 25)) + choice + k_[i] + w[i];
      const std::uint32_t b = (std::rotr(s[0], 2) ^ std::rotr(s[0], 13) ^ std::rotr(s[0], 22)) + majority;
      std::memmove(s + 1, s, 7 * sizeof *s);
      s[4] += a;
      s[0] = a + b;
    }
    for (std::size_t i = 0; i < 8; ++i) state_[i] += s[i];
  }

  std::uint32_t state_[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                             0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::byte block_[64] = {};
  std::uint64_t size_ = 0;
};

}  // namespace sluice
