// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/algebra.hpp>
#include <sluice/calibrate/row_sample.hpp>
#include <sluice/codec/preset/kvtc.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/view.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// Makes the section that frames of codec::kvtc need: means and principal components of each group of heads, and for
/// each ratio the widths of runs of components, by dynamic programming over the squared error that rows held out of the
/// components have. All layers' K share one budget, and so do all layers' V. Without captures components are channels.
class kvtc_calibrator {
 public:
  /// `ratios`, each from 2 to 256: those to choose widths for. Borrows the profile; the section fits profiles of this
  /// shape and grouping only.
  explicit kvtc_calibrator(const profile& p, std::vector<int> ratios = {8, 16, 32})
      : sample_(p), ratios_(std::move(ratios)) {
    std::sort(ratios_.begin(), ratios_.end());
    ratios_.erase(std::unique(ratios_.begin(), ratios_.end()), ratios_.end());
    if (ratios_.empty() || ratios_.front() < 2 || ratios_.back() > 256) wrong_ = status::invalid_argument;
  }
  explicit kvtc_calibrator(profile&&, std::vector<int> = {}) = delete;  // it must outlive the calibrator

  /// Learns from one context. Errors: corrupt_profile, invalid_argument, those of validate(kv_view), wrong_shape,
  /// unsupported_type.
  status add(const kv_view& cache) { return wrong_ != status::ok ? wrong_ : sample_.add(cache); }

  /// The section for profile::set_section(). Errors: those of add().
  result<profile_section> finish() const {
    if (wrong_ != status::ok) return wrong_;
    if (sample_.state() != status::ok) return sample_.state();
    std::vector<fitted> all;
    sample_.each_group([&](const group_place& g) { all.push_back(fit(g)); });
    profile_section s{std::uint8_t(profile_stage::entropy), detail::kvtc::section_id, true, {}};
    detail::byte_writer w(s.bytes);
    w.put(std::uint16_t(ratios_.size()));
    w.put(std::uint16_t{0});
    for (const int r : ratios_) w.put(std::uint16_t(r));
    for (fitted& f : all) f.plans.resize(ratios_.size());
    for (const plane which : {plane::key, plane::value})
      for (std::size_t i = 0; i < ratios_.size(); ++i) allocate(all, which, i);
    for (const fitted& f : all) f.write(w);
    return s;
  }

 private:
  static constexpr std::size_t least_rows = 8;  // below, nothing is known
  static constexpr std::size_t judged = 256;    // held-out rows

  // Errors of runs and what was chosen, of one group of heads.
  struct fitted {
    plane which = plane::key;
    int width = 0;
    float scale = 1;
    std::vector<float> mean;     // [width]
    std::vector<float> vectors;  // [width][width]
    std::array<std::array<std::vector<double>, detail::kvtc::num_lengths>, detail::kvtc::num_types> error;  // [][first]
    std::vector<double> tail;                      // [first] where nothing is coded from there on
    std::vector<std::vector<std::uint8_t>> plans;  // [ratio] runs as in the section

    void write(detail::byte_writer& w) const {
      using namespace detail::kvtc;
      int live = 0;
      for (const auto& plan : plans) {
        int next = 0;
        for (const std::uint8_t x : plan) next = std::min(width, next + run_length[x & 7]);
        live = std::max(live, next);
      }
      w.put(std::uint16_t(live));
      w.put(scale);
      for (const float m : mean) w.put(from_float<f16>(m));
      for (int i = 0; i < live * width; ++i) w.put(from_float<f16>(vectors[std::size_t(i)]));
      for (const auto& plan : plans) {
        w.put(std::uint16_t(plan.size()));
        w.put_bytes(plan.data(), plan.size());
      }
    }
  };

  fitted fit(const group_place& g) const {
    fitted f;
    f.which = g.plane;
    f.width = g.width();
    const std::size_t rows = sample_.rows(g), n = std::size_t(f.width);
    f.mean.assign(n, 0.f);
    f.vectors.assign(n * n, 0.f);
    for (std::size_t i = 0; i < n; ++i) f.vectors[i * n + i] = 1;
    std::vector<std::size_t> learnt, held;
    for (std::size_t r = 0; r < rows; ++r) (rows >= least_rows && r % 4 == 3 ? held : learnt).push_back(r);
    if (rows >= least_rows) principal(g, learnt, f);
    // What is not known has equal errors everywhere.
    std::vector<float> c(std::max<std::size_t>(std::min(held.size(), judged), 1) * n, 0.f);
    if (held.empty())
      for (std::size_t i = 0; i < n; ++i) c[i] = i % 2 ? 1.f : -1.f;
    for (std::size_t r = 0; r < std::min(held.size(), judged); ++r) {
      const float* const x = sample_.row(g, held[r * held.size() / std::min(held.size(), judged)]);
      for (std::size_t k = 0; k < n; ++k)
        for (std::size_t i = 0; i < n; ++i) c[r * n + k] += (x[i] - f.mean[i]) * f.vectors[k * n + i];
    }
    float most = 0;
    for (const float v : c) most = std::max(most, std::fabs(v));
    // Rows may be twice as large as any that was seen before they are kept exact.
    if (most > 0) f.scale = std::clamp(std::exp2(std::ceil(std::log2(most / 224))), 1e-6f, detail::kvtc::widest_scale);
    measure(c, f);
    return f;
  }

  void principal(const group_place& g, const std::vector<std::size_t>& rows, fitted& f) const {
    using namespace detail;
    const Eigen::Index n = f.width;
    vector_d sum = vector_d::Zero(n);
    matrix_d squares = matrix_d::Zero(n, n);
    rows_f x(Eigen::Index(rows.size()), n);
    for (std::size_t r = 0; r < rows.size(); ++r)
      std::copy_n(sample_.row(g, rows[r]), std::size_t(n), x.data() + Eigen::Index(r) * n);
    add_tokens(x, sum, squares);
    sum /= double(rows.size());
    for (Eigen::Index i = 0; i < n; ++i) f.mean[std::size_t(i)] = to_float(from_float<f16>(float(sum(i))));
    matrix_d covariance = squares / double(rows.size());
    for (Eigen::Index i = 0; i < n; ++i)
      for (Eigen::Index k = 0; k <= i; ++k) covariance(i, k) -= sum(i) * sum(k);
    auto [values, vectors] = principal_axes(covariance);
    choose_signs(vectors);
    for (Eigen::Index k = 0; k < n; ++k)
      for (Eigen::Index i = 0; i < n; ++i)
        f.vectors[std::size_t(k * n + i)] = to_float(from_float<f16>(float(vectors(i, k))));
  }

  // Mean squared errors of every run that may be, and of what is left away.
  static void measure(const std::vector<float>& c, fitted& f) {
    using namespace detail::kvtc;
    const int n = f.width;
    const std::size_t rows = c.size() / std::size_t(n);
    f.tail.assign(std::size_t(n) + 1, 0.0);
    for (auto& of_type : f.error)
      for (auto& e : of_type) e.assign(std::size_t(n), 0.0);
    for (std::size_t r = 0; r < rows; ++r) {
      const float* const x = &c[r * std::size_t(n)];
      std::vector<double> kept(std::size_t(n) + 1, 0.0);  // of e4m3, from here on
      double left = 0;
      for (int i = n; i-- > 0;) {
        const double d = double(x[i]) - double(to_float(from_float<e4m3>(x[i] / f.scale))) * double(f.scale);
        kept[std::size_t(i)] = kept[std::size_t(i) + 1] + d * d;
        left += double(x[i]) * double(x[i]);
        f.tail[std::size_t(i)] += left / double(rows);
      }
      for (int s = 0; s < num_lengths; ++s)
        for (int i = 0; i < n; ++i) {
          const int length = std::min(run_length[s], n - i);
          f.error[0][std::size_t(s)][std::size_t(i)] +=
              (kept[std::size_t(i)] - kept[std::size_t(i + length)]) / double(rows);
          for (int t = 1; t < num_types; ++t) {
            if (run_length[s] > n && s > 0 && run_length[s - 1] > n) continue;  // the same as the one before
            const float low = *std::min_element(x + i, x + i + length), high = *std::max_element(x + i, x + i + length);
            const float step = (high - low) / float((1 << type_bits[t]) - 1), inverse = step > 0 ? 1 / step : 0.f;
            float sum = 0;
            for (int k = i; k < i + length; ++k) {
              const float u = (x[k] - low) * inverse, e = (u - float(int(u + 0.5f))) * step;
              sum += e * e;
            }
            f.error[std::size_t(t)][std::size_t(s)][std::size_t(i)] += double(sum) / double(rows);
          }
        }
    }
  }

  // The runs of least error + price * bits, from the first component on. Returns their bits.
  static double plan(const fitted& f, double price, std::vector<std::uint8_t>& out) {
    using namespace detail::kvtc;
    struct choice {
      double cost;
      int length, type;
    };
    const int n = f.width;
    const auto bits_of = [&](int type, int length) {
      const run r{0, length, type_bits[type]};
      return 8.0 * double(r.code_bytes()) + (r.scaled() ? 32.0 : 0.0);
    };
    // [first][finest type that is still allowed]
    std::vector<std::array<choice, num_types>> best(std::size_t(n) + 1);
    for (int i = n; i >= 0; --i)
      for (int finest = 0; finest < num_types; ++finest) {
        choice& b = best[std::size_t(i)][std::size_t(finest)];
        b = {f.tail[std::size_t(i)], -1, -1};
        for (int t = finest; i < n && t < num_types; ++t)
          for (int s = 0; s < num_lengths; ++s) {
            if (run_length[s] > n && s > 0 && run_length[s - 1] > n) continue;
            const int length = std::min(run_length[s], n - i);
            const double cost = f.error[std::size_t(t)][std::size_t(s)][std::size_t(i)] + price * bits_of(t, length) +
                                best[std::size_t(i + length)][std::size_t(t)].cost;
            if (cost < b.cost) b = {cost, s, t};
          }
      }
    out.clear();
    double bits = 0;
    for (int i = 0, finest = 0; i < n;) {
      const choice& b = best[std::size_t(i)][std::size_t(finest)];
      if (b.length < 0) break;
      const int length = std::min(run_length[b.length], n - i);
      out.push_back(std::uint8_t(b.length | b.type << 3));
      bits += bits_of(b.type, length);
      i += length;
      finest = b.type;
    }
    return bits;
  }

  // One price of a bit for all groups of K, or of V, so that all of them together take what the ratio leaves.
  void allocate(std::vector<fitted>& all, plane which, std::size_t ratio) const {
    double budget = 0, low = 1e-12, high = 1e12;
    for (const fitted& f : all)
      if (f.which == which) budget += 16.0 * f.width / ratios_[ratio];
    for (int round = 0; round < 60; ++round) {
      const double price = std::sqrt(low * high);
      double bits = 0;
      for (fitted& f : all)
        if (f.which == which) bits += plan(f, price, f.plans[ratio]);
      (bits > budget ? low : high) = price;
    }
    for (fitted& f : all)
      if (f.which == which) plan(f, high, f.plans[ratio]);
  }

  detail::row_sample sample_;
  std::vector<int> ratios_;
  status wrong_ = status::ok;
};

/// The section from captured caches at once, one view a context. Errors: those of the calibrator.
inline result<profile_section> calibrate_kvtc(const profile& p, std::span<const kv_view> captures,
                                              std::vector<int> ratios = {8, 16, 32}) {
  kvtc_calibrator c(p, std::move(ratios));
  for (const kv_view& v : captures)
    if (const status s = c.add(v); s != status::ok) return s;
  return c.finish();
}

}  // namespace sluice
