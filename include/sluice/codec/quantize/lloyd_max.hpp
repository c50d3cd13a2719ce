// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/quantize/levels.hpp>
#include <sluice/codec/quantize/scale_groups.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

namespace detail {

// Levels of the quantiser with the least mean squared error for a normal distribution of deviation 1 (Lloyd 1957, Max
// 1960), found by iterating his two conditions in closed form.
struct normal_levels {
  static constexpr int bits = 0;
  static std::span<const float> of(int width) noexcept {
    switch (width) {
      case 1: return one;
      case 2: return two;
      case 3: return three;
      case 4: return four;
      default: return {};
    }
  }

 private:
  static constexpr float one[] = {-0.797884561f, 0.797884561f};
  static constexpr float two[] = {-1.51041761f, -0.452780035f, 0.452780035f, 1.51041761f};
  static constexpr float three[] = {-2.1519457f,  -1.34390928f, -0.756005281f, -0.245094179f,
                                    0.245094179f, 0.756005281f, 1.34390928f,   2.1519457f};
  static constexpr float four[] = {
      -2.73258957f, -2.06901723f, -1.61804639f, -1.2562312f,  -0.942340456f, -0.656759119f, -0.388048299f, -0.12839503f,
      0.12839503f,  0.388048299f, 0.656759119f, 0.942340456f, 1.2562312f,    1.61804639f,   2.06901723f,   2.73258957f};
};

}  // namespace detail

inline namespace SLUICE_HOST_ABI {

/// Quantiser policy: codes of 1 to 4 bits that number the Lloyd-Max levels of a normal distribution, times an f16 scale
/// for each token and head: its root mean square, made right by what the levels make of it so that its norm stays. For
/// coefficients that a rotation has made alike. Other widths are invalid_argument. Section: u8 bits, f16 scale [row][head].
/// Source: TurboQuant (arXiv 2504.19874) for the levels; the norm that stays ("nc") from its implementation in vLLM.
struct lloyd_max : detail::fixed_width_quantizer {
  static constexpr stage_id id = stage_id::of(5);

  class encoder {
   public:
    explicit encoder(isa) {}

    status quantize(const coefficients& in, float /*step*/, symbols& out, std::span<std::uint8_t> /*beyond*/,
                    tile_writer& w) {
      const std::span<const float> levels = detail::normal_levels::of(out.bits);
      if (levels.empty()) return status::invalid_argument;
      out.calibrated = false;
      const int dim = out.place.head_dim;
      scales_.clear();
      for (int r = 0; r < in.rows; ++r)
        for (int h = 0; h < out.place.heads; ++h) {
          const f16 scale = quantize(&in.y[std::size_t(r * in.ld + h * dim)], dim, levels,
                                     &out.finest[std::size_t(r * out.ld + h * dim)]);
          if (!detail::isfinite(to_float(scale))) return status::too_large;
          scales_.push_back(scale);
        }
      w.at(0, section::quantizer).clear();
      w.put(0, section::quantizer, std::uint8_t(out.bits));
      w.put_bytes(0, section::quantizer, scales_.data(), scales_.size() * sizeof(f16));
      return status::ok;
    }
    void split(symbols& s) const { s.values = s.finest; }

   private:
    // Codes of one head and their scale.
    static f16 quantize(const float* y, int n, std::span<const float> levels, std::int16_t* q) noexcept {
      double squares = 0, of_levels = 0;
      for (int i = 0; i < n; ++i) squares += double(y[i]) * double(y[i]);
      const auto rms = float(detail::sqrt(squares / n));
      const float inverse = rms > 0 ? 1 / rms : 0;
      const int half = int(levels.size() / 2);
      for (int i = 0; i < n; ++i) {
        const float x = y[i] * inverse, magnitude = detail::abs(x);
        int k = 0;
        for (int j = 1; j < half; ++j)
          k += magnitude >= 0.5f * (levels[std::size_t(half + j)] + levels[std::size_t(half + j - 1)]);
        q[i] = std::int16_t(x < 0 ? half - 1 - k : half + k);
        const auto level = double(levels[std::size_t(half + k)]);
        of_levels += level * level;
      }
      return from_float<f16>(float(detail::sqrt(squares / of_levels)));
    }

    std::vector<f16> scales_;
  };

  using decoder = detail::level_decoder<detail::normal_levels>;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
