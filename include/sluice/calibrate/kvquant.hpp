// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/row_sample.hpp>
#include <sluice/codec/preset/kvquant.hpp>
#include <sluice/codec/transform/inverse_bases.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/view.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// Makes the section that frames of codec::kvquant need: of every channel of K the range of all but one value in a
/// hundred, and for K and V of each group of heads levels by weighted k-means over values in units of their range. The
/// paper's weights are Fisher information, which needs gradients; here an error weighs what the profile's metric of a
/// channel says (the diagonal: squared queries of K, output projection of V), or all alike where the profile is not
/// calibrated. Without captures levels are uniform.
class kvquant_calibrator {
 public:
  /// `bits`, each from 1 to 6: widths of codes to find levels for. Borrows the profile; the section fits profiles of
  /// this shape and grouping only.
  explicit kvquant_calibrator(const profile& p, std::vector<int> bits = {3, 4}) : sample_(p), bits_(std::move(bits)) {
    std::sort(bits_.begin(), bits_.end());
    bits_.erase(std::unique(bits_.begin(), bits_.end()), bits_.end());
    if (bits_.empty() || bits_.front() < 1 || bits_.back() > detail::kvquant::most_bits)
      wrong_ = status::invalid_argument;
  }
  explicit kvquant_calibrator(profile&&, std::vector<int> = {}) = delete;  // it must outlive the calibrator

  /// Learns from one context. Errors: corrupt_profile, invalid_argument, those of validate(kv_view), wrong_shape,
  /// unsupported_type.
  status add(const kv_view& cache) { return wrong_ != status::ok ? wrong_ : sample_.add(cache); }

  /// The section for profile::set_section(). Errors: those of add().
  result<profile_section> finish() const {
    if (wrong_ != status::ok) return wrong_;
    if (sample_.state() != status::ok) return sample_.state();
    profile_section s{std::uint8_t(profile_stage::entropy), detail::kvquant::section_id, true, {}};
    detail::byte_writer w(s.bytes);
    w.put(std::uint8_t(bits_.size()));
    for (const int b : bits_) w.put(std::uint8_t(b));
    const std::shared_ptr<const detail::inverse_bases> forward = detail::inverse_bases_of(sample_.described());
    if (!forward) return status::corrupt_profile;
    std::size_t group = 0;
    sample_.each_group([&](const group_place& g) { write(g, (*forward)[group++], w); });
    return s;
  }

 private:
  static constexpr int cells = 4096;  // of the histogram of -1 to 1

  void write(const group_place& g, std::span<const float> forward, detail::byte_writer& w) const {
    using namespace detail;
    const std::size_t n = std::size_t(g.width()), rows = sample_.rows(g);
    std::vector<double> weight(n, 1.0);
    if (!forward.empty())
      for (std::size_t i = 0; i < n; ++i) {
        weight[i] = 0;
        for (std::size_t k = 0; k < n; ++k) weight[i] += double(forward[i * n + k]) * double(forward[i * n + k]);
      }
    std::vector<double> histogram(cells);
    const auto count = [&](float x, double by) {
      histogram[std::size_t(std::clamp(int((x + 1) * (cells / 2)), 0, cells - 1))] += by;
    };
    if (g.plane == plane::key) {
      std::vector<f16> center(n), span(n);
      std::vector<float> x(rows);
      for (std::size_t c = 0; c < n && rows; ++c) {
        for (std::size_t r = 0; r < rows; ++r) x[r] = std::clamp(sample_.row(g, r)[c], -30000.f, 30000.f);
        std::sort(x.begin(), x.end());
        const std::size_t apart = rows / 200;  // on either side
        const float low = x[apart], high = x[rows - 1 - apart];
        center[c] = from_float<f16>((low + high) / 2);
        const float reach = std::max(high - to_float(center[c]), to_float(center[c]) - low);
        span[c] = from_float<f16>(reach);
        if (to_float(span[c]) < reach) ++span[c].bits;
        const float s = to_float(span[c]);
        for (const float v : x)
          if (const float d = v - to_float(center[c]); s > 0 && std::fabs(d) <= s)
            count(d / s, weight[c] * double(s) * double(s));
      }
      for (const f16 c : center) w.put(c);
      for (const f16 s : span) w.put(s);
    } else {
      std::vector<float> order;
      for (std::size_t r = 0; r < rows; ++r) {
        const float* const x = sample_.row(g, r);
        f16 center, span;
        kvquant::range_of_token(x, int(n), order, center, span);
        const float s = to_float(span);
        if (!(s > 0) || !finite_f16(span.bits) || !finite_f16(center.bits)) continue;
        for (std::size_t c = 0; c < n; ++c)
          if (const float d = x[c] - to_float(center); std::fabs(d) <= s)
            count(d / s, weight[c] * double(s) * double(s));
      }
    }
    for (const int b : bits_)
      for (const double l : levels(histogram, 1 << b)) w.put(from_float<f16>(float(l)));
  }

  // Lloyd's iteration on the histogram, from levels that each have the same share of it, or of the line where it is
  // empty.
  static std::vector<double> levels(const std::vector<double>& histogram, int n) {
    const auto place = [](int cell) { return (cell + 0.5) / (cells / 2) - 1; };
    double all = 0;
    for (const double h : histogram) all += h;
    std::vector<double> l;
    if (!(all > 0) || !std::isfinite(all)) {
      for (int i = 0; i < n; ++i) l.push_back(2 * (i + 0.5) / n - 1);
      return l;
    }
    // Between shares of the cells and shares of the weight: dense where values are, and never far from the ends.
    double before = 0;
    for (int i = 0, cell = 0; i < n; ++i) {
      for (; cell < cells - 1; ++cell) {
        const double share = 0.5 * (before + histogram[std::size_t(cell)]) / all + 0.5 * (cell + 1.0) / cells;
        if (share >= (i + 0.5) / n) break;
        before += histogram[std::size_t(cell)];
      }
      l.push_back(place(cell));
    }
    for (int round = 0; round < 200; ++round) {
      std::vector<double> sum(std::size_t(n), 0.0), weight(std::size_t(n), 0.0);
      for (int cell = 0, i = 0; cell < cells; ++cell) {
        while (i + 1 < n && std::fabs(l[std::size_t(i) + 1] - place(cell)) < std::fabs(l[std::size_t(i)] - place(cell)))
          ++i;
        sum[std::size_t(i)] += histogram[std::size_t(cell)] * place(cell);
        weight[std::size_t(i)] += histogram[std::size_t(cell)];
      }
      double moved = 0;
      for (std::size_t i = 0; i < std::size_t(n); ++i) {
        if (!(weight[i] > 0)) continue;
        moved = std::max(moved, std::fabs(sum[i] / weight[i] - l[i]));
        l[i] = sum[i] / weight[i];
      }
      std::sort(l.begin(), l.end());
      if (moved < 1e-5) break;
    }
    return l;
  }

  detail::row_sample sample_;
  std::vector<int> bits_;
  status wrong_ = status::ok;
};

/// The section from captured caches at once, one view a context. Errors: those of the calibrator.
inline result<profile_section> calibrate_kvquant(const profile& p, std::span<const kv_view> captures,
                                                 std::vector<int> bits = {3, 4}) {
  kvquant_calibrator c(p, std::move(bits));
  for (const kv_view& v : captures)
    if (const status s = c.add(v); s != status::ok) return s;
  return c.finish();
}

}  // namespace sluice
