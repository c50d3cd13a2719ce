// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/preset/aatc.hpp>
#include <sluice/model/profile.hpp>

#include <cstdint>
#include <initializer_list>

/// Made-up models for codec::aatc.
namespace aatc {

/// One layer of one head of 24 channels that are their own coefficients, of 0 to 7 bits, by hand: no calibration, so
/// that its bytes never change.
inline sluice::profile small_model() {
  using namespace sluice;
  profile p = profile::uncalibrated(model_shape::uniform(1, 1, 24));
  profile_section s{std::uint8_t(profile_stage::entropy), detail::aatc::section_id, true, {}};
  detail::byte_writer w(s.bytes);
  for (const int x : {1, 0, 300}) w.put(std::uint16_t(x));
  for (int which = 0; which < 2; ++which) {
    for (int i = 0; i < 24; ++i) w.put(float(1 + i % 4));
    for (int i = 0; i < 24; ++i) w.put(std::uint8_t(i % 8));
  }
  p.set_section(s);
  return p;
}

/// Bits of any model, from integers alone: the same on every machine. Coefficients of 0 to 7 bits, one in eleven
/// without a deviation.
inline sluice::profile_section made_up_bits(const sluice::profile& p, std::initializer_list<int> rates) {
  using namespace sluice;
  profile_section s{std::uint8_t(profile_stage::entropy), detail::aatc::section_id, true, {}};
  detail::byte_writer w(s.bytes);
  w.put(std::uint16_t(rates.size()));
  w.put(std::uint16_t{0});
  for (const int rate : rates) w.put(std::uint16_t(rate));
  int group = 0;
  for (const plane_profile& q : p.planes)
    for (int g = 0; g < q.groups(); ++g, ++group) {
      const int width = q.width_of(g);
      for (int i = 0; i < width; ++i) w.put(i % 11 == 10 ? 0.f : float(1 + i % 4));
      for (int rate = 0; rate < int(rates.size()); ++rate)
        for (int i = 0; i < width; ++i) w.put(std::uint8_t(i % 11 == 10 ? 0 : (i + group + rate) % 8));
    }
  return s;
}

}  // namespace aatc
