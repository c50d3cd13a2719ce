// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/preset/kvquant.hpp>
#include <sluice/model/profile.hpp>

#include <cstdint>
#include <initializer_list>

/// Made-up models for codec::kvquant.
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

/// Levels of any model, from integers alone: the same on every machine. They lie closer together near zero, in every
/// other group a little higher; one channel of K in seven has a span of 0, so that all of it is outliers.
inline sluice::profile_section made_up_levels(const sluice::profile& p, std::initializer_list<int> widths) {
  using namespace sluice;
  profile_section s{std::uint8_t(profile_stage::entropy), detail::kvquant::section_id, true, {}};
  detail::byte_writer w(s.bytes);
  w.put(std::uint8_t(widths.size()));
  for (const int b : widths) w.put(std::uint8_t(b));
  int group = 0;
  for (std::size_t at = 0; at < p.planes.size(); ++at)
    for (int g = 0; g < p.planes[at].groups(); ++g, ++group) {
      const int width = at % 2 ? 0 : p.planes[at].width_of(g);
      for (int i = 0; i < width; ++i) w.put(from_float<f16>(float(i % 5) / 4 - 0.5f));
      for (int i = 0; i < width; ++i) w.put(from_float<f16>(i % 7 == 6 ? 0.f : float(2 + i % 3)));
      for (const int b : widths)
        for (int i = 0; i < 1 << b; ++i) {
          const float t = float(2 * i + 1) / float(1 << b) - 1;
          w.put(from_float<f16>(t * (1 + detail::abs(t)) / 2 + float(group % 2) / 128));
        }
    }
  return s;
}

}  // namespace kvquant
