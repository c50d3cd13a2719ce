// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/preset/kvtc.hpp>
#include <sluice/model/profile.hpp>

#include <cstdint>

/// A made-up model for codec::kvtc.
namespace kvtc {

/// One layer of one head of 24 channels: components are channels, two in e4m3, then 16 of 4 bits and 4 of 2, none of
/// two, by hand: no calibration, so that its bytes never change.
inline sluice::profile small_model() {
  using namespace sluice;
  profile p = profile::uncalibrated(model_shape::uniform(1, 1, 24));
  profile_section s{std::uint8_t(profile_stage::entropy), detail::kvtc::section_id, true, {}};
  detail::byte_writer w(s.bytes);
  for (const int x : {1, 0, 16}) w.put(std::uint16_t(x));
  for (int g = 0; g < 2; ++g) {
    w.put(std::uint16_t{22});
    w.put(0.5f);
    for (int i = 0; i < 24; ++i) w.put(from_float<f16>(float(i % 3)));
    for (int k = 0; k < 22; ++k)
      for (int i = 0; i < 24; ++i) w.put(from_float<f16>(i == k ? 1.f : 0.f));
    w.put(std::uint16_t{4});
    for (const int x : {0, 0, 1 | 1 << 3, 1 | 2 << 3}) w.put(std::uint8_t(x));
  }
  p.set_section(s);
  return p;
}

}  // namespace kvtc
