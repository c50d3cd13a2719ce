// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/quantize/levels.hpp>
#include <sluice/codec/quantize/scale_groups.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/tensor/half.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice {

namespace detail {

// All codes of e4m3; its NaN, which no encoder writes, are read as the numbers that would stand there.
struct e4m3_levels {
  static constexpr int bits = 8;
  static std::span<const float> of(int) noexcept { return all; }

 private:
  static constexpr auto all = [] {
    std::array<float, 256> a{};
    for (unsigned i = 0; i < 256; ++i) a[i] = (i & 127) == 127 ? 480.f : to_float(e4m3{std::uint8_t(i)});
    a[255] = -480;
    return a;
  }();
};

}  // namespace detail

inline namespace SLUICE_HOST_ABI {

/// Quantiser policy: a cast to fp8 (e4m3, to nearest even, at most 448 either way), without a scale. Codes of 8 bits:
/// other widths are invalid_argument. No section.
struct fp8_cast : detail::fixed_width_quantizer {
  static constexpr stage_id id = stage_id::of(4);

  class encoder {
   public:
    explicit encoder(isa) {}

    status quantize(const coefficients& in, float /*step*/, symbols& out, std::span<std::uint8_t> /*beyond*/,
                    tile_writer& /*w*/) const {
      if (out.bits != 8) return status::invalid_argument;
      out.calibrated = false;
      for (int r = 0; r < in.rows; ++r) {
        const float* const y = &in.y[std::size_t(r) * std::size_t(in.ld)];
        std::int16_t* const q = &out.finest[std::size_t(r) * std::size_t(out.ld)];
        for (int i = 0; i < in.width; ++i) q[i] = from_float<e4m3>(y[i]).bits;
      }
      return status::ok;
    }
    void split(symbols& s) const { s.values = s.finest; }
  };

  using decoder = detail::level_decoder<detail::e4m3_levels>;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
