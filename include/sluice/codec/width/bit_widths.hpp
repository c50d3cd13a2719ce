// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>

namespace sluice {

/// Bit-width policy: the step of each (layer, K or V) comes from the profile, measured so that every bit buys the most
/// quality. The step is the allocation; widths follow from the entropy coder. Source: codec measurements, README "How it works".
struct profile_steps {
  static constexpr std::uint8_t id = 0;
  /// Bits per value of a layer; 0 = not fixed.
  static constexpr int bits(int /*layer*/) noexcept { return 0; }
};

/// Bit-width policy: N bits per value in every layer. With bitpack the width of a code, its step from the range of its
/// group; with class_rans values are quantised to 2^N levels by range and then entropy-coded.
template <int Bits>
struct uniform_bits {
  static_assert(Bits >= 1 && Bits <= 8, "sluice::uniform_bits<Bits>: Bits must be from 1 to 8");
  static constexpr std::uint8_t id = 1;
  static constexpr int bits(int /*layer*/) noexcept { return Bits; }
};

/// Bit-width policy: one width per layer; layers beyond the list use the last width.
template <int... Bits>
struct layer_bits {
  static_assert(sizeof...(Bits) > 0, "sluice::layer_bits<Bits...>: give at least one width");
  static_assert(((Bits >= 1 && Bits <= 8) && ...), "sluice::layer_bits<Bits...>: every width must be from 1 to 8");
  static constexpr std::uint8_t id = 2;
  static constexpr int bits(int layer) noexcept {
    // No array: nvcc cannot index a static constexpr array member at run time in device code.
    int i = 0, found = 0, last = 0;
    ((found = i++ == layer ? Bits : found, last = Bits), ...);
    return found ? found : last;
  }
};

template <class B>
concept bit_widths_policy = requires(int layer) {
  { B::id } -> std::convertible_to<std::uint8_t>;
  { B::bits(layer) } -> std::convertible_to<int>;
};

}  // namespace sluice
