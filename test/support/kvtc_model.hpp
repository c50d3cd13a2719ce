// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/preset/kvtc.hpp>
#include <sluice/model/profile.hpp>

#include <cstdint>
#include <initializer_list>
#include <vector>

/// Made-up models for codec::kvtc.
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

/// Bases of any model, from integers alone: the same on every machine. A component is half the sum of four channels,
/// some with their sign turned, so that no product is rounded, fused or not. Runs of all widths; two components are in
/// no run, and a third group has none at all.
inline sluice::profile_section made_up_bases(const sluice::profile& p, std::initializer_list<int> ratios) {
  using namespace sluice;
  profile_section s{std::uint8_t(profile_stage::entropy), detail::kvtc::section_id, true, {}};
  detail::byte_writer w(s.bytes);
  w.put(std::uint16_t(ratios.size()));
  w.put(std::uint16_t{0});
  for (const int ratio : ratios) w.put(std::uint16_t(ratio));
  int group = 0;
  for (const plane_profile& q : p.planes)
    for (int g = 0; g < q.groups(); ++g, ++group) {
      const int width = q.width_of(g), live = detail::max(1, width - 2), fours = width / 4;
      w.put(std::uint16_t(live));
      w.put(0.5f);
      for (int i = 0; i < width; ++i) w.put(from_float<f16>(float((i + group) % 3) / 4));
      for (int k = 0; k < live; ++k)
        for (int i = 0; i < width; ++i) {
          float x = i == k ? 1.f : 0.f;  // of channels that are less than four
          if (k < 4 * fours)
            x = i / 4 != k % fours ? 0.f : __builtin_popcount(unsigned(k / fours & i)) % 2 ? -0.5f : 0.5f;
          w.put(from_float<f16>(x));
        }
      std::vector<int> runs{0, 0, 1 << 3, 1 | 1 << 3, 1 | 2 << 3, 3 | 2 << 3};
      if (group % 2) runs = {0, 1 << 3, 1 << 3, 1 | 2 << 3, 2 | 2 << 3};
      if (group == 2) runs.clear();
      for (std::size_t ratio = 0; ratio < ratios.size(); ++ratio) {  // each has a run less than the one before
        std::vector<int> of;
        for (std::size_t i = ratio, next = 0; i < runs.size() && next < std::size_t(live); ++i) {
          of.push_back(runs[i]);
          next += std::size_t(detail::kvtc::run_length[runs[i] & 7]);
        }
        w.put(std::uint16_t(of.size()));
        for (const int run : of) w.put(std::uint8_t(run));
      }
    }
  return s;
}

}  // namespace kvtc
