// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/quantize/scale_groups.hpp>
#include <sluice/codec/stages.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

inline namespace SLUICE_HOST_ABI {

/// Quantiser policy: codes of the bit-width policy's width, 2 to 8 bits, symmetric about zero, with one step for
/// `Channels` channels of a head in one token, 0 = the whole head: x = (code - 2^(bits-1)) * step, where step is the
/// largest magnitude / (2^(bits-1) - 1). Code 0 is not used.
/// Section: u8 bits, then f16 step [row][head][run].
template <int Channels = 0>
struct absmax : detail::fixed_width_quantizer {
  static_assert(Channels >= 0 && Channels < 2048,
                "sluice::absmax<Channels>: a group must have from 1 to 2047 channels, or 0 for a whole head");
  static constexpr stage_id id = stage_id::of(3, Channels);

 private:
  struct layout {
    static constexpr bool zeros = false;
    static detail::scale_groups of(const group_place& p, int rows) noexcept {
      return {range_along::channels, Channels, p, rows};
    }
  };

 public:
  class encoder {
   public:
    explicit encoder(isa i) : isa_(i) {}

    status quantize(const coefficients& in, float /*step*/, symbols& out, std::span<std::uint8_t> /*beyond*/,
                    tile_writer& w) {
      const detail::scale_groups groups = layout::of(out.place, in.rows);
      const int half = 1 << (out.bits - 1);
      const auto levels = float(detail::max(half - 1, 1));
      out.calibrated = false;
      inverse_.resize(groups.count());
      steps_.resize(groups.count());
      // Groups of one head and run are a column of the tile: every row has one.
      const auto columns = [&](int n) {
        return detail::group_rows{in.rows, n, in.ld, out.ld, true, std::ptrdiff_t(groups.of_row())};
      };
      groups.each(0, [&](std::size_t g, int c, int n) {
        detail::group_peaks(isa_, columns(n), in.y.data() + c, inverse_.data() + g);
      });
      for (std::size_t g = 0; g < groups.count(); ++g) {
        steps_[g] = from_float<f16>(inverse_[g] / levels);
        if (!detail::isfinite(to_float(steps_[g]))) return status::too_large;
        inverse_[g] = steps_[g].bits ? 1 / to_float(steps_[g]) : 0.f;
      }
      w.at(0, section::quantizer).clear();
      w.put(0, section::quantizer, std::uint8_t(out.bits));
      w.put_bytes(0, section::quantizer, steps_.data(), steps_.size() * sizeof(f16));
      // A step that was rounded far down, as tiny ones are, must not push codes out of their width: they are clamped.
      groups.each(0, [&](std::size_t g, int c, int n) {
        detail::group_signed_codes(isa_, columns(n), in.y.data() + c, inverse_.data() + g, float(half),
                                   out.finest.data() + c);
      });
      return status::ok;
    }
    void split(symbols& s) const { s.values = s.finest; }

   private:
    isa isa_;
    std::vector<float> inverse_;  // the largest magnitude of each group, then what it is multiplied with
    std::vector<f16> steps_;
  };

  using decoder = detail::group_decoder<layout>;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
