// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/row_sample.hpp>
#include <sluice/codec/preset/aatc.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// Makes the section that frames of codec::aatc need: the deviation of every coefficient of the profile's basis, and
/// for each rate its bits, by reverse water-filling over all coefficients of the model: half the logarithm of what its
/// variance is above one water level, in whole bits. Without captures all deviations are 1.
class aatc_calibrator {
 public:
  /// `rates` in hundredths of a bit, each from 10 to 1200: those to find bits for. Borrows the profile; the section
  /// fits this profile only.
  explicit aatc_calibrator(const profile& p, std::vector<int> rates = {200, 300, 400})
      : sample_(p), rates_(std::move(rates)) {
    std::sort(rates_.begin(), rates_.end());
    rates_.erase(std::unique(rates_.begin(), rates_.end()), rates_.end());
    if (rates_.empty() || rates_.front() < 10 || rates_.back() > 1200) wrong_ = status::invalid_argument;
  }
  explicit aatc_calibrator(profile&&, std::vector<int> = {}) = delete;  // it must outlive the calibrator

  /// Learns from one context. Errors: corrupt_profile, invalid_argument, those of validate(kv_view), wrong_shape,
  /// unsupported_type.
  status add(const kv_view& cache) { return wrong_ != status::ok ? wrong_ : sample_.add(cache); }

  /// The section for profile::set_section(). Errors: those of add().
  result<profile_section> finish() const {
    if (wrong_ != status::ok) return wrong_;
    if (sample_.state() != status::ok) return sample_.state();
    const detail::aatc::forward_basis forward(sample_.described());
    if (forward.state() != status::ok) return forward.state();
    std::vector<std::vector<float>> deviations;
    sample_.each_group([&](const group_place& g) { deviations.push_back(deviation(forward, g)); });
    profile_section s{std::uint8_t(profile_stage::entropy), detail::aatc::section_id, true, {}};
    detail::byte_writer w(s.bytes);
    w.put(std::uint16_t(rates_.size()));
    w.put(std::uint16_t{0});
    for (const int r : rates_) w.put(std::uint16_t(r));
    std::vector<double> levels;
    for (const int r : rates_) levels.push_back(water_level(deviations, r));
    for (const std::vector<float>& d : deviations) {
      w.put_bytes(d.data(), 4 * d.size());
      for (const double level : levels)
        for (const float x : d) w.put(std::uint8_t(bits(x, level)));
    }
    return s;
  }

 private:
  std::vector<float> deviation(const detail::aatc::forward_basis& forward, const group_place& g) const {
    const std::size_t n = std::size_t(g.width()), rows = sample_.rows(g);
    if (rows == 0) return std::vector<float>(n, 1.f);
    std::vector<double> square(n, 0.0);
    std::vector<float> y(n);
    for (std::size_t r = 0; r < rows; ++r) {
      forward(g, sample_.row(g, r), y.data());
      for (std::size_t k = 0; k < n; ++k) square[k] += double(y[k]) * double(y[k]);
    }
    std::vector<float> d(n);
    for (std::size_t k = 0; k < n; ++k)
      d[k] = float(std::min(std::sqrt(square[k] / double(rows)), double(detail::aatc::widest)));
    return d;
  }

  static int bits(float deviation, double level) noexcept {
    if (!(deviation > 0)) return 0;
    return int(std::clamp(std::round(std::log2(double(deviation) / level)), 0.0, double(detail::aatc::most_bits)));
  }

  // The root of the water level at which all coefficients together take no more than the rate.
  static double water_level(const std::vector<std::vector<float>>& deviations, int rate) {
    double low = 1e-20, high = 1e20;
    for (int round = 0; round < 100; ++round) {
      const double level = std::sqrt(low * high);
      double sum = 0, n = 0;
      for (const auto& d : deviations)
        for (const float x : d) sum += bits(x, level), ++n;
      (sum > n * rate / 100 ? low : high) = level;
    }
    return high;
  }

  detail::row_sample sample_;
  std::vector<int> rates_;
  status wrong_ = status::ok;
};

/// The section from captured caches at once, one view a context. Errors: those of the calibrator.
inline result<profile_section> calibrate_aatc(const profile& p, std::span<const kv_view> captures,
                                              std::vector<int> rates = {200, 300, 400}) {
  aatc_calibrator c(p, std::move(rates));
  for (const kv_view& v : captures)
    if (const status s = c.add(v); s != status::ok) return s;
  return c.finish();
}

}  // namespace sluice
