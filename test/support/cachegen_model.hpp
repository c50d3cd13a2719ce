// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/preset/cachegen_paper.hpp>
#include <sluice/model/profile.hpp>

#include <cstdint>
#include <initializer_list>
#include <vector>

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

/// Tables of other widths for every channel of any model, from integers alone: the same on every machine. Each has a
/// peak at 0 that falls off quadratically within a window, and a slot for everything else.
inline sluice::profile_section peaked_tables(const sluice::profile& p, std::initializer_list<int> percents) {
  using namespace sluice;
  profile_section s{std::uint8_t(profile_stage::entropy), detail::cachegen::section_id, true, {}};
  detail::byte_writer w(s.bytes);
  const std::size_t channels = detail::cachegen::channel_index(p).count;
  std::uint32_t state = 1;
  for (const int percent : percents) {
    std::vector<std::byte> block;
    detail::byte_writer b(block);
    for (std::size_t c = 0; c < channels; ++c) {
      state = state * 1664525 + 1013904223;
      const int below = int(state >> 8) % (percent ? 6 : 50), above = int(state >> 16) % (percent ? 6 : 50);
      const auto weight = [](int q, int reach) { return (reach + 1 - q) * (reach + 1 - q); };
      int sum = 0;
      for (int q = -below; q <= above; ++q) sum += q < 0 ? weight(-q, below) : weight(q, above);
      const int all = 65536 - 255 + below + above;  // of the window
      std::vector<int> sizes;
      int left = all;
      for (int q = -below; q <= above; ++q) {
        const auto share = std::int64_t{all} * (q < 0 ? weight(-q, below) : weight(q, above)) / sum;
        sizes.push_back(share > 0 ? int(share) : 1);
        left -= sizes.back();
      }
      sizes[std::size_t(below)] += left;
      b.put(std::uint8_t(127 - below));
      b.put(std::uint8_t(127 + above));
      for (const int size : sizes) b.put(std::uint16_t(size));
    }
    w.put(std::uint16_t(percent));
    w.put(std::uint16_t{0});
    w.put(std::uint32_t(block.size()));
    w.put_bytes(block.data(), block.size());
  }
  return s;
}

}  // namespace cachegen
