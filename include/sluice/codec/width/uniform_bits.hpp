// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>

namespace sluice {

namespace detail {

// The finest step of a quantiser whose base cuts the range of a tile into 2^bits levels, but never finer than the
// profile's.
inline float step_of_range(int bits, const coefficient_statistics& s) noexcept {
  const float base = (s.high() - s.low()) / float((1 << bits) - 1);
  return (s.calibrated() ? detail::max(base, 1.f) : base) / float(power_of_3(s.passes() - 1));
}

}  // namespace detail

/// Bit-width policy: N bits per value in every layer. With a quantiser of fixed width the width of a code; with one of
/// steps the base level has 2^N steps over the range of the tile.
template <int Bits>
struct uniform_bits {
  static_assert(Bits >= 1 && Bits <= 8, "sluice::uniform_bits<Bits>: Bits must be from 1 to 8");
  static constexpr stage_id id = stage_id::of(1, Bits);
  static constexpr bool measures(bool /*calibrated*/) noexcept { return true; }
  static constexpr int bits(int /*layer*/, plane, int /*num_layers*/) noexcept { return Bits; }
  static float step(int /*layer*/, plane, int /*num_layers*/, const coefficient_statistics& s) noexcept {
    return detail::step_of_range(Bits, s);
  }
};

}  // namespace sluice
