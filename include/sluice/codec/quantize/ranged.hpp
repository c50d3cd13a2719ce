// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/bitpack/bitpack.hpp>
#include <sluice/codec/stages.hpp>

#include <cstring>

namespace sluice {

/// Which coefficients share a step and a zero in quantizers of ranges.
enum class range_along : std::uint8_t {
  tokens,   ///< a run of tokens of one coefficient
  channels  ///< a run of coefficients of one token
};

inline namespace SLUICE_HOST_ABI {

/// Quantiser policy: codes of the bit-width policy's width over the range of a group, x = code * step + zero.
/// A group is `Keys` or `Values` long and runs along tokens or channels; 0 = all tokens of the tile, or all channels of
/// a head. Zero is rounded down and step up, so that the codes reach both ends of the range.
/// Section: u8 bits, then for every group f16 step and f16 zero; along tokens [run][coefficient], along channels
/// [row][run]. Source: KIVI (arXiv 2402.02750) section 3 for keys along tokens and values along channels.
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
  // Runs of one tile: `major` x `minor` steps and zeros.
  struct layout {
    range_along along;
    int length, tokens, channels;
    layout(const group_place& p, int rows) {
      along = p.plane == plane::key ? KeysAlong : ValuesAlong;
      const int asked = p.plane == plane::key ? Keys : Values;
      length = asked ? asked : along == range_along::tokens ? int(max_tile_tokens) : p.head_dim;
      tokens = along == range_along::tokens ? (rows + length - 1) / length : rows;
      channels = along == range_along::tokens ? p.width() : (p.width() + length - 1) / length;
    }
    std::size_t groups() const noexcept { return std::size_t(tokens) * std::size_t(channels); }
    std::size_t at(int row, int column) const noexcept {
      const int t = along == range_along::tokens ? row / length : row;
      const int c = along == range_along::tokens ? column : column / length;
      return std::size_t(t) * std::size_t(channels) + std::size_t(c);
    }
  };

 public:
  class encoder {
   public:
    explicit encoder(isa) {}

    status quantize(const coefficients& in, float /*step*/, symbols& out, std::span<std::uint8_t> /*beyond*/,
                    tile_writer& w) {
      const layout l(out.place, in.rows);
      out.calibrated = false;
      low_.assign(l.groups(), detail::infinity_f);
      high_.assign(l.groups(), -detail::infinity_f);
      for (int r = 0; r < in.rows; ++r) {
        const float* y = &in.y[std::size_t(r) * std::size_t(in.ld)];
        for_runs(l, r, in.width, [&](std::size_t g, int c, int n) {
          for (int i = 0; i < n; ++i) {
            const std::size_t at = g + (l.along == range_along::tokens ? std::size_t(i) : 0);
            low_[at] = y[c + i] < low_[at] ? y[c + i] : low_[at];
            high_[at] = y[c + i] > high_[at] ? y[c + i] : high_[at];
          }
        });
      }
      const int levels = (1 << out.bits) - 1;
      std::vector<std::uint8_t>& bytes = w.at(0, section::quantizer);
      bytes.clear();
      bytes.push_back(std::uint8_t(out.bits));
      scale_.resize(2 * l.groups());
      inverse_.resize(l.groups());
      for (std::size_t g = 0; g < l.groups(); ++g) {
        f16 step, zero;
        if (!detail::group_scale(low_[g], high_[g], levels, step, zero)) return status::too_large;
        scale_[2 * g] = step.bits;
        scale_[2 * g + 1] = zero.bits;
        inverse_[g] = step.bits ? 1 / to_float(step) : 0.f;
        low_[g] = to_float(zero);
      }
      const auto* p = reinterpret_cast<const std::uint8_t*>(scale_.data());
      bytes.insert(bytes.end(), p, p + 2 * scale_.size());
      const float most = float(levels);
      for (int r = 0; r < in.rows; ++r) {
        const float* y = &in.y[std::size_t(r) * std::size_t(in.ld)];
        std::int16_t* q = &out.finest[std::size_t(r) * std::size_t(out.ld)];
        for_runs(l, r, in.width, [&](std::size_t g, int c, int n) {
          for (int i = 0; i < n; ++i) {
            const std::size_t at = g + (l.along == range_along::tokens ? std::size_t(i) : 0);
            const float code = (y[c + i] - low_[at]) * inverse_[at] + 0.5f;
            q[c + i] = std::int16_t(code < most ? code : most);
          }
        });
      }
      return status::ok;
    }
    void split(symbols& s) const { s.values = s.finest; }

   private:
    std::vector<float> low_, high_, inverse_;
    std::vector<std::uint16_t> scale_;
  };

  class decoder {
   public:
    explicit decoder(isa) {}

    bool open(const tile& t, int slot, decoded_symbols& s) {
      s.calibrated = false;
      const auto bytes = t.section(0, section::quantizer);
      if (t.rows() == 0) return bytes.empty();
      const layout l(t.place, t.rows());
      section_reader r(bytes);
      s.bits = r.get<std::uint8_t>();
      const auto scales = r.take(4 * l.groups());
      if (!r.finished() || s.bits < 1 || s.bits > 8) return false;
      step_[slot].resize(l.groups());
      zero_[slot].resize(l.groups());
      for (std::size_t g = 0; g < l.groups(); ++g) {
        std::uint16_t h[2];
        std::memcpy(h, scales.data() + 4 * g, 4);
        step_[slot][g] = to_float(f16{h[0]});
        zero_[slot][g] = to_float(f16{h[1]});
      }
      return true;
    }

    void restore(const tile& t, int slot, const decoded_symbols& s, int first, int n, coefficient_rows& out) {
      const layout l(t.place, t.rows());
      const int width = t.place.width();
      floats_.resize(std::size_t(n) * std::size_t(s.ld));
      for (int r = 0; r < n; ++r) {
        const std::int16_t* q = s.values + (first + r) * s.ld;
        float* x = &floats_[std::size_t(r) * std::size_t(s.ld)];
        for (std::ptrdiff_t i = width; i < s.ld; ++i) x[i] = 0;
        for_runs(l, first + r, width, [&](std::size_t g, int c, int m) {
          const float *step = &step_[slot][g], *zero = &zero_[slot][g];
          if (l.along == range_along::tokens)
            for (int i = 0; i < m; ++i) x[c + i] = float(q[c + i]) * step[i] + zero[i];
          else
            for (int i = 0; i < m; ++i) x[c + i] = float(q[c + i]) * *step + *zero;
        });
      }
      for (const coefficient_correction& e : s.corrections) {
        if (e.row < first || e.row >= first + n) continue;
        const std::size_t g = l.at(e.row, e.coefficient);
        floats_[std::size_t(e.row - first) * std::size_t(s.ld) + std::size_t(e.coefficient)] =
            (float(s.values[e.row * s.ld + e.coefficient]) + e.value) * step_[slot][g] + zero_[slot][g];
      }
      out = {};
      out.rows = n;
      out.live = width;
      out.floats = floats_.data();
      out.ld = s.ld;
    }

   private:
    std::vector<float> step_[tiles_at_once], zero_[tiles_at_once], floats_;
  };

 private:
  // Calls f(first group, first column, columns) for the stretches of a row: all columns at once along tokens.
  template <class F>
  static void for_runs(const layout& l, int row, int width, F f) {
    if (l.along == range_along::tokens) return f(l.at(row, 0), 0, width);
    for (int c = 0; c < width; c += l.length) f(l.at(row, c), c, detail::min(l.length, width - c));
  }
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
