// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>

namespace sluice {

/// Bit-width policy: the step of each (layer, K or V) comes from the profile, measured so that every bit buys the most
/// quality. Without calibration it is the tile's own: level 1 gets a step of about its deviation, as a calibrated
/// profile has on average. How it is measured: calibrate/calibrate.hpp.
struct profile_steps {
  static constexpr stage_id id = stage_id::of(0);
  static constexpr bool measures(bool calibrated) noexcept { return !calibrated; }
  static float step(int /*layer*/, plane, int /*num_layers*/, const coefficient_statistics& s) noexcept {
    if (s.calibrated()) return 1;
    return s.rms() / float(detail::power_of_3(s.passes() > 1 ? s.passes() - 2 : 0));
  }
};

}  // namespace sluice
