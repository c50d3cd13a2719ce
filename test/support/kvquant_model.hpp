// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/preset/kvquant.hpp>
#include <sluice/model/profile.hpp>

#include <cstdint>

/// A made-up model for codec::kvquant.
namespace kvquant {

/// One layer of one head of 24 channels, codes of 2 bits and levels by hand: no calibration, so that its bytes never
/// change.
inline sluice::profile small_model() {
  using namespace sluice;
  profile p = profile::uncalibrated(model_shape::uniform(1, 1, 24));
  profile_section s{std::uint8_t(profile_stage::entropy), detail::kvquant::section_id, true, {}};
  detail::byte_writer w(s.bytes);
  w.put(std::uint8_t{1});
  w.put(std::uint8_t{2});
  for (int which = 0; which < 2; ++which) {
    for (int i = 0; which == 0 && i < 48; ++i) w.put(from_float<f16>(i < 24 ? float(i % 3) / 4 : 1.5f));
    for (const float l : {-0.75f, -0.25f, 0.125f, 0.875f}) w.put(from_float<f16>(l));
  }
  p.set_section(s);
  return p;
}

}  // namespace kvquant
