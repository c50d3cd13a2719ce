// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/numeric.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

// Rotary embeddings, the scalar reference. Frequencies follow Hugging Face transformers, modeling_rope_utils.py, in
// double where transformers computes in float: they agree to float rounding (6e-8, relative). Sources of the formulas:
//   none     RoFormer (Su 2021) 3.2.2             base^(-2i/d)
//   linear   position interpolation (Chen 2023)   frequencies / factor
//   ntk      NTK-aware (bloc97 2023)              base * factor^(d/(d-2)). Hugging Face's "dynamic" is this with
//                                                 factor * tokens / original_context - (factor - 1) for `factor`.
//   yarn     YaRN (Peng 2023) 3.2                 a ramp over dims from unscaled to / factor
//   llama3   Llama 3.1                            a ramp over frequencies from / factor to unscaled

namespace sluice {

/// How many leading dims of a head rotate; even.
constexpr int rotary_dims(const rope& r, int head_dim) noexcept {
  if (r.pairing == rope_pairing::none || head_dim <= 0) return 0;
  const int dims = r.rotary_dims == 0 ? head_dim : r.rotary_dims;
  return dims < 0 ? 0 : (dims < head_dim ? dims : head_dim) & ~1;
}

/// Checks that a description gives finite frequencies and can be undone. Errors: invalid_argument.
inline status validate(const rope& r, int head_dim) noexcept {
  if (r.pairing > rope_pairing::interleaved || r.scaling > rope_scaling::yarn_untruncated)
    return status::invalid_argument;
  if (r.pairing == rope_pairing::none) return status::ok;
  if (r.rotary_dims < 0 || r.rotary_dims > head_dim || (r.rotary_dims == 0 ? head_dim : r.rotary_dims) % 2 != 0)
    return status::invalid_argument;
  const auto positive = [](double x) { return detail::isfinite(x) && x > 0; };
  if (!positive(r.base) || !positive(r.factor) || !positive(r.attention_factor)) return status::invalid_argument;
  if (r.scaling <= rope_scaling::linear) return status::ok;
  if (r.scaling == rope_scaling::ntk) return rotary_dims(r, head_dim) > 2 ? status::ok : status::invalid_argument;
  if (!positive(r.low_freq) || !positive(r.high_freq) || !positive(r.original_context)) return status::invalid_argument;
  return r.high_freq > r.low_freq && r.base > 1 ? status::ok : status::invalid_argument;
}

/// Radians per position of each rotary pair, into `inv_freq` (rotary_dims / 2 entries; fewer where it is shorter).
inline void rope_frequencies(const rope& r, int head_dim, std::span<double> inv_freq) noexcept {
  const int dims = rotary_dims(r, head_dim);
  const double d = dims;
  const double base = r.scaling == rope_scaling::ntk ? r.base * detail::pow(r.factor, d / (d - 2)) : r.base;

  double ramp_begin = 0, ramp_end = 0;
  if (r.scaling == rope_scaling::yarn || r.scaling == rope_scaling::yarn_untruncated) {
    // The dim whose pair turns `rotations` times within the original context.
    const auto correction_dim = [&](double rotations) {
      return d * detail::log(r.original_context / (rotations * 2 * detail::pi)) / (2 * detail::log(base));
    };
    ramp_begin = correction_dim(r.high_freq);
    ramp_end = correction_dim(r.low_freq);
    if (r.scaling == rope_scaling::yarn) {
      ramp_begin = detail::floor(ramp_begin);
      ramp_end = detail::ceil(ramp_end);
    }
    ramp_begin = detail::max(ramp_begin, 0.0);
    ramp_end = detail::min(ramp_end, d - 1);
    if (ramp_begin == ramp_end) ramp_end += 0.001;
  }

  const std::size_t pairs = detail::min(inv_freq.size(), static_cast<std::size_t>(dims / 2));
  for (std::size_t i = 0; i < pairs; ++i) {
    const double index = static_cast<double>(i);
    double f = detail::pow(base, -2 * index / d);
    switch (r.scaling) {
      case rope_scaling::none:
      case rope_scaling::ntk: break;
      case rope_scaling::linear: f /= r.factor; break;
      case rope_scaling::yarn:
      case rope_scaling::yarn_untruncated: {
        const double ramp = detail::clamp((index - ramp_begin) / (ramp_end - ramp_begin), 0.0, 1.0);
        f = f / r.factor * ramp + f * (1 - ramp);
        break;
      }
      case rope_scaling::llama3: {
        const double turns = r.original_context * f / (2 * detail::pi);
        if (turns < r.low_freq) {
          f /= r.factor;
        } else if (turns <= r.high_freq) {
          const double smooth = (turns - r.low_freq) / (r.high_freq - r.low_freq);
          f = (1 - smooth) * f / r.factor + smooth * f;
        }
        break;
      }
    }
    inv_freq[i] = f;
  }
}

/// YaRN's default attention factor (Peng 2023, 3.4), what Hugging Face uses where a configuration names none.
inline double yarn_attention_factor(double factor, double mscale = 1) noexcept {
  return factor <= 1 ? 1.0 : 0.1 * mscale * detail::log(factor) + 1.0;
}

/// Embed a position, or take it out again.
enum class rotation : std::uint8_t { forward = 0, inverse = 1 };

/// Rotates the leading 2 * inv_freq.size() elements of one head's row to (or back from) `position`.
/// Forward scales them by attention_factor as engines do with cos and sin; inverse divides by it.
inline void rotate(float* row, const rope& r, std::span<const double> inv_freq, std::int64_t position,
                   rotation direction = rotation::forward) noexcept {
  if (r.pairing == rope_pairing::none) return;
  const bool forward = direction == rotation::forward;
  const double scale = forward ? r.attention_factor : 1 / r.attention_factor;
  const std::size_t pairs = inv_freq.size();
  for (std::size_t i = 0; i < pairs; ++i) {
    const double angle = static_cast<double>(position) * inv_freq[i];
    const double c = detail::cos(angle) * scale, s = detail::sin(forward ? angle : -angle) * scale;
    float& x = row[r.pairing == rope_pairing::half ? i : 2 * i];
    float& y = row[r.pairing == rope_pairing::half ? i + pairs : 2 * i + 1];
    const double a = static_cast<double>(x), b = static_cast<double>(y);
    x = static_cast<float>(a * c - b * s);
    y = static_cast<float>(b * c + a * s);
  }
}

}  // namespace sluice
