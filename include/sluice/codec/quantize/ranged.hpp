// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/bitpack/bitpack.hpp>
#include <sluice/codec/quantize/scale_groups.hpp>
#include <sluice/codec/stages.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

inline namespace SLUICE_HOST_ABI {

/// Quantiser policy: codes of the bit-width policy's width over the range of a group, x = code * step + zero.
/// A group is `Keys` or `Values` long and runs along tokens or channels; 0 = all tokens of the tile, or all channels of
/// a head. Zero is rounded down and step up, so that the codes reach both ends of the range.
/// Section: u8 bits, then for every group f16 step and f16 zero; along tokens [run][channel], along channels
/// [row][head][run]. Source: KIVI (arXiv 2402.02750) section 3 for keys along tokens and values along channels.
template <range_along KeysAlong = range_along::tokens, int Keys = 0, range_along ValuesAlong = KeysAlong,
          int Values = Keys>
struct ranged : detail::fixed_width_quantizer {
  static_assert(Keys >= 0 && Keys < 2048 && Values >= 0 && Values < 2048,
                "sluice::ranged<...>: a group must have from 1 to 2047 members, or 0 for all");
  static constexpr stage_id id = stage_id::of(2, std::uint32_t(KeysAlong) | std::uint32_t(ValuesAlong) << 1 |
                                                     std::uint32_t(Keys) << 2 | std::uint32_t(Values) << 13);

 private:
  struct layout {
    static constexpr bool zeros = true;
    static detail::scale_groups of(const group_place& p, int rows) noexcept {
      return p.plane == plane::key ? detail::scale_groups(KeysAlong, Keys, p, rows)
                                   : detail::scale_groups(ValuesAlong, Values, p, rows);
    }
  };

 public:
  class encoder {
   public:
    explicit encoder(isa i) : isa_(i) {}

    status quantize(const coefficients& in, float /*step*/, symbols& out, std::span<std::uint8_t> /*beyond*/,
                    tile_writer& w) {
      const detail::scale_groups groups = layout::of(out.place, in.rows);
      out.calibrated = false;
      measure(groups, in);
      const int levels = (1 << out.bits) - 1;
      inverse_.resize(groups.count());
      scales_.resize(2 * groups.count());
      for (std::size_t g = 0; g < groups.count(); ++g) {
        f16 &step = scales_[2 * g], &zero = scales_[2 * g + 1];
        if (!detail::group_scale(low_[g], high_[g], levels, step, zero)) return status::too_large;
        inverse_[g] = step.bits ? 1 / to_float(step) : 0.f;
        low_[g] = to_float(zero);
      }
      w.at(0, section::quantizer).clear();
      w.put(0, section::quantizer, std::uint8_t(out.bits));
      w.put_bytes(0, section::quantizer, scales_.data(), scales_.size() * sizeof(f16));
      groups.parts(0, in.rows, [&](std::size_t g, int row, int rows, int channel, int channels) {
        detail::group_codes(isa_, {rows, channels, in.ld, out.ld, groups.along == range_along::channels},
                            &in.y[std::size_t(row * in.ld + channel)], &inverse_[g], &low_[g], float(levels),
                            &out.finest[std::size_t(row * out.ld + channel)]);
      });
      return status::ok;
    }
    void split(symbols& s) const { s.values = s.finest; }

   private:
    void measure(const detail::scale_groups& groups, const coefficients& in) {
      low_.resize(groups.count());
      high_.resize(groups.count());
      groups.parts(0, in.rows, [&](std::size_t g, int row, int rows, int channel, int channels) {
        const float* y = &in.y[std::size_t(row * in.ld + channel)];
        if (groups.along == range_along::tokens)
          return detail::group_ranges(isa_, {rows, channels, in.ld}, y, &low_[g], &high_[g]);
        low_[g] = high_[g] = y[0];
        for (int i = 1; i < channels; ++i) {
          low_[g] = detail::min(low_[g], y[i]);
          high_[g] = detail::max(high_[g], y[i]);
        }
      });
    }

    isa isa_;
    std::vector<float> low_, high_, inverse_;
    std::vector<f16> scales_;
  };

  using decoder = detail::group_decoder<layout>;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
