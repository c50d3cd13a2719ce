// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/preset/cachegen_paper.hpp>
#include <sluice/model/profile.hpp>

#include <cstdint>

/// A made-up model with CacheGen's tables.
namespace cachegen {

/// One layer of one head with tables for values near zero only, by hand: no calibration, so that its bytes never change.
inline sluice::profile small_model() {
  using namespace sluice;
  profile p = profile::uncalibrated(model_shape::uniform(1, 1, 4));
  profile_section s{std::uint8_t(profile_stage::entropy), detail::cachegen::section_id, true, {}};
  detail::byte_writer w(s.bytes);
  for (const int percent : {0, 100}) {
    w.put(std::uint16_t(percent));
    w.put(std::uint16_t{0});
    w.put(std::uint32_t{8 * 8});
    for (int channel = 0; channel < 8; ++channel) {
      w.put(std::uint8_t{126});  // -1, 0 and 1
      w.put(std::uint8_t{128});
      for (const int size : {10000, 65283 - 20000, 10000}) w.put(std::uint16_t(size));
    }
  }
  p.set_section(s);
  return p;
}

}  // namespace cachegen
