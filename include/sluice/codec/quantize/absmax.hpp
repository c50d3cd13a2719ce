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
    explicit encoder(isa) {}

    status quantize(const coefficients& in, float /*step*/, symbols& out, std::span<std::uint8_t> /*beyond*/,
                    tile_writer& w) {
      const detail::scale_groups groups = layout::of(out.place, in.rows);
      const int half = 1 << (out.bits - 1);
      const auto levels = float(detail::max(half - 1, 1));
      out.calibrated = false;
      w.at(0, section::quantizer).clear();
      w.put(0, section::quantizer, std::uint8_t(out.bits));
      bool fits = true;
      for (int r = 0; r < in.rows; ++r) {
        const float* y = &in.y[std::size_t(r) * std::size_t(in.ld)];
        std::int16_t* q = &out.finest[std::size_t(r) * std::size_t(out.ld)];
        groups.each(r, [&](std::size_t, int c, int n) {
          float most = 0;
          for (int i = c; i < c + n; ++i) most = detail::max(most, detail::abs(y[i]));
          const f16 step = from_float<f16>(most / levels);
          fits &= detail::isfinite(to_float(step));
          w.put(0, section::quantizer, step);
          const float inverse = step.bits ? 1 / to_float(step) : 0.f, offset = float(half) + 0.5f;
          // A step that was rounded far down, as tiny ones are, must not push codes out of their width.
          for (int i = c; i < c + n; ++i)
            q[i] = std::int16_t(detail::clamp(y[i] * inverse + offset, 1.f, float(2 * half - 1)));
        });
      }
      return fits ? status::ok : status::too_large;
    }
    void split(symbols& s) const { s.values = s.finest; }
  };

  using decoder = detail::group_decoder<layout>;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
