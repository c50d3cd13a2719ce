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
struct ranged {
  static_assert(Keys >= 0 && Keys < 2048 && Values >= 0 && Values < 2048,
                "sluice::ranged<...>: a group must have from 1 to 2047 members, or 0 for all");
  static constexpr stage_id id = stage_id::of(2, std::uint32_t(KeysAlong) | std::uint32_t(ValuesAlong) << 1 |
                                                     std::uint32_t(Keys) << 2 | std::uint32_t(Values) << 13);
  static constexpr int passes = 1;
  static constexpr bool fixed_width = true;
  static constexpr bool rounds = false;
  static int depth(const profile&) noexcept { return 1; }

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
    explicit encoder(isa) {}

    status quantize(const coefficients& in, float /*step*/, symbols& out, std::span<std::uint8_t> /*beyond*/,
                    tile_writer& w) {
      const detail::scale_groups groups = layout::of(out.place, in.rows);
      out.calibrated = false;
      measure(groups, in);
      const int levels = (1 << out.bits) - 1;
      w.at(0, section::quantizer).clear();
      w.put(0, section::quantizer, std::uint8_t(out.bits));
      inverse_.resize(groups.count());
      for (std::size_t g = 0; g < groups.count(); ++g) {
        f16 scale[2];
        if (!detail::group_scale(low_[g], high_[g], levels, scale[0], scale[1])) return status::too_large;
        w.put(0, section::quantizer, scale);
        inverse_[g] = scale[0].bits ? 1 / to_float(scale[0]) : 0.f;
        low_[g] = to_float(scale[1]);
      }
      const auto most = float(levels);
      const auto code = [most](float x, float low, float inverse) {
        const float c = (x - low) * inverse + 0.5f;
        return std::int16_t(c < most ? c : most);
      };
      for (int r = 0; r < in.rows; ++r) {
        const float* y = &in.y[std::size_t(r) * std::size_t(in.ld)];
        std::int16_t* q = &out.finest[std::size_t(r) * std::size_t(out.ld)];
        if (groups.along == range_along::tokens) {
          const float *low = &low_[groups.first(r)], *inverse = &inverse_[groups.first(r)];
          for (int i = 0; i < in.width; ++i) q[i] = code(y[i], low[i], inverse[i]);
        } else {
          groups.each(r, [&](std::size_t g, int c, int n) {
            for (int i = c; i < c + n; ++i) q[i] = code(y[i], low_[g], inverse_[g]);
          });
        }
      }
      return status::ok;
    }
    void split(symbols& s) const { s.values = s.finest; }

   private:
    void measure(const detail::scale_groups& groups, const coefficients& in) {
      low_.assign(groups.count(), detail::infinity_f);
      high_.assign(groups.count(), -detail::infinity_f);
      for (int r = 0; r < in.rows; ++r) {
        const float* y = &in.y[std::size_t(r) * std::size_t(in.ld)];
        if (groups.along == range_along::tokens) {
          float *low = &low_[groups.first(r)], *high = &high_[groups.first(r)];
          for (int i = 0; i < in.width; ++i) {
            low[i] = y[i] < low[i] ? y[i] : low[i];
            high[i] = y[i] > high[i] ? y[i] : high[i];
          }
        } else {
          groups.each(r, [&](std::size_t g, int c, int n) {
            for (int i = c; i < c + n; ++i) {
              low_[g] = detail::min(low_[g], y[i]);
              high_[g] = detail::max(high_[g], y[i]);
            }
          });
        }
      }
    }

    std::vector<float> low_, high_, inverse_;
  };

  using decoder = detail::group_decoder<layout>;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
