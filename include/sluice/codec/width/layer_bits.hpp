// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/width/uniform_bits.hpp>

namespace sluice {

/// Bit-width policy: one width per layer; layers beyond the list use the last width.
template <int... Bits>
struct layer_bits {
  static_assert(sizeof...(Bits) > 0, "sluice::layer_bits<Bits...>: give at least one width");
  static_assert(((Bits >= 1 && Bits <= 8) && ...), "sluice::layer_bits<Bits...>: every width must be from 1 to 8");

  /// The parameter is a hash of the list, which keeps the keys of two lists apart; decoders do not need it.
  static constexpr stage_id id = stage_id::of(2, [] {
    std::uint32_t h = 2166136261u;
    ((h = (h ^ std::uint32_t(Bits)) * 16777619u), ...);
    return (h ^ h >> 24) & 0xffffffu;
  }());
  static constexpr bool measures(bool /*calibrated*/) noexcept { return true; }
  static constexpr int bits(int layer, plane, int /*num_layers*/) noexcept {
    // No array: nvcc cannot index a static constexpr array member at run time in device code.
    int i = 0, found = 0, last = 0;
    ((found = i++ == layer ? Bits : found, last = Bits), ...);
    return found ? found : last;
  }
  static float step(int layer, plane p, int num_layers, const coefficient_statistics& s) noexcept {
    return detail::step_of_range(bits(layer, p, num_layers), s);
  }
};

}  // namespace sluice
