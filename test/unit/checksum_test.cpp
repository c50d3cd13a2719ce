// SPDX-License-Identifier: Apache-2.0
#include <sluice/format/checksum.hpp>

#include <doctest/doctest.h>
#include <support/isas.hpp>

#include <cstdint>
#include <random>
#include <vector>

namespace {

std::vector<unsigned char> pattern(std::size_t size) {
  std::vector<unsigned char> bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<unsigned char>(i * 131 + (i >> 8) * 7 + 5);
  return bytes;
}

}  // namespace

// From an independent implementation in Python, written from the text of FORMAT.md.
TEST_CASE("checksum: golden values") {
  struct golden {
    std::size_t size;
    std::uint32_t seed0, seed1, magic;
  };
  constexpr golden table[] = {
      {0, 0x7b4a0645u, 0x4caae490u, 0xa2646453u},   {1, 0xa812577eu, 0xe556612au, 0x7d300898u},
      {3, 0x20ee32aeu, 0xa0de2dc4u, 0xa34477d2u},   {4, 0xb0a19c0eu, 0x57ca1232u, 0xa4cc68c1u},
      {127, 0x2ca854aau, 0x285fe072u, 0x45c60ccbu}, {128, 0x31d5ee58u, 0x3a28536cu, 0xb4a00954u},
      {129, 0x8641e08du, 0x5d805305u, 0x9ef1f6c7u}, {1000, 0xeb612b49u, 0x221c2527u, 0x38c3a7aau}};
  for (const golden& g : table)
    for (const sluice::isa on : isas::all) {
      const auto bytes = pattern(g.size);
      CHECK(sluice::checksum(bytes.data(), g.size, 0, on) == g.seed0);
      CHECK(sluice::checksum(bytes.data(), g.size, 1, on) == g.seed1);
      CHECK(sluice::checksum(bytes.data(), g.size, 0x736c7563, on) == g.magic);
      CHECK(sluice::checksum(bytes.data(), g.size, 0) == g.seed0);
    }
}

TEST_CASE("checksum: no bytes at all") { CHECK(sluice::checksum(nullptr, 0, 0) == 0x7b4a0645u); }

TEST_CASE("checksum: instruction sets agree at every length and alignment") {
  const std::uint64_t seed = 20261121;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  std::vector<unsigned char> bytes(700);
  for (auto& b : bytes) b = static_cast<unsigned char>(random());
  for (std::size_t offset = 0; offset < 5; ++offset)
    for (std::size_t size = 0; size + offset <= bytes.size(); ++size) {
      const auto s = static_cast<std::uint32_t>(random());
      const std::uint32_t expected = sluice::checksum(bytes.data() + offset, size, s, sluice::isa::portable);
      for (const sluice::isa on : isas::wide) REQUIRE(sluice::checksum(bytes.data() + offset, size, s, on) == expected);
    }
}

TEST_CASE("checksum: every other value of every byte is noticed, at every length up to two stripes") {
  for (std::size_t size = 1; size <= 260; size += size < 20 ? 1 : 7) {
    auto bytes = pattern(size);
    const std::uint32_t right = sluice::checksum(bytes.data(), size, 7);
    std::size_t missed = 0;
    for (auto& byte : bytes) {
      const unsigned char kept = byte;
      for (int other = 0; other < 256; ++other) {
        byte = static_cast<unsigned char>(other);
        missed += other != kept && sluice::checksum(bytes.data(), size, 7) == right;
      }
      byte = kept;
    }
    CHECK(missed == 0);
  }
}

TEST_CASE("checksum: bursts within a word, appended zeros, and other seeds are noticed") {
  const std::uint64_t seed = 42;
  MESSAGE("seed " << seed);
  std::mt19937_64 random(seed);
  auto bytes = pattern(512);
  const std::uint32_t right = sluice::checksum(bytes.data(), bytes.size(), 7);
  for (int i = 0; i < 200000; ++i) {
    const std::size_t word = random() % 128 * 4;
    const auto error = static_cast<std::uint32_t>(random());
    std::uint32_t value;
    std::memcpy(&value, &bytes[word], 4);
    const std::uint32_t wrong = value ^ (error ? error : 1);
    std::memcpy(&bytes[word], &wrong, 4);
    REQUIRE(sluice::checksum(bytes.data(), bytes.size(), 7) != right);
    std::memcpy(&bytes[word], &value, 4);
  }
  std::vector<unsigned char> zeros(256);
  for (std::size_t a = 0; a < zeros.size(); ++a)
    for (std::size_t b = 0; b < a; ++b)
      REQUIRE(sluice::checksum(zeros.data(), a, 7) != sluice::checksum(zeros.data(), b, 7));
  CHECK(sluice::checksum(bytes.data(), bytes.size(), 8) != right);
}

TEST_CASE("checksum: one bit of input moves half of the bits of the sum") {
  auto bytes = pattern(300);
  const std::uint32_t right = sluice::checksum(bytes.data(), bytes.size(), 0);
  int flips[32] = {}, trials = 0;
  for (auto& byte : bytes)
    for (int bit = 0; bit < 8; ++bit, ++trials) {
      byte = static_cast<unsigned char>(byte ^ 1 << bit);
      const std::uint32_t change = right ^ sluice::checksum(bytes.data(), bytes.size(), 0);
      for (int i = 0; i < 32; ++i) flips[i] += static_cast<int>(change >> i & 1);
      byte = static_cast<unsigned char>(byte ^ 1 << bit);
    }
  for (const int f : flips) {
    CHECK(f > trials * 45 / 100);
    CHECK(f < trials * 55 / 100);
  }
}
