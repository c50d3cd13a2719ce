// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>

namespace sluice {

/// Entropy model: 32-lane rANS under static class tables chosen by the profile; no table travels in a stream.
struct class_rans {
  static constexpr std::uint8_t id = 1;
  static constexpr bool exact = false;
};

/// Entropy model: fixed-width codes, lane-interleaved; step and offset per coefficient and tile. The fastest to decode.
struct bitpack {
  static constexpr std::uint8_t id = 2;
  static constexpr bool exact = false;
};

/// Entropy model: lossless; exponents by rANS, signs and mantissas verbatim. Bit-exact for every pattern.
struct split_exponent {
  static constexpr std::uint8_t id = 3;
  static constexpr bool exact = true;
};

/// Entropy model: the bytes themselves, with frame, index and checksums around them.
struct raw {
  static constexpr std::uint8_t id = 4;
  static constexpr bool exact = true;
};

template <class E>
concept entropy_model = requires {
  { E::id } -> std::convertible_to<std::uint8_t>;
  { E::exact } -> std::convertible_to<bool>;
};

}  // namespace sluice
