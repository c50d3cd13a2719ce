// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/transform/inverse_bases.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/format/checksum.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace sluice::detail {

// A group's matrix in 16 bits. Element M[k][i] is a whole number of unit[i] * weight[k]: weights are powers of two that
// move from the matrix into small coefficients, which have bits to spare, and let the units be finer, which is what the
// large coefficients need. Which weights are best says the profile: its classes tell how large coefficients are.
class integer_basis {
 public:
  integer_basis(const plane_profile& q, int group, int head_dim) { make(q, group, head_dim); }
  integer_basis(const integer_basis&) = delete;
  integer_basis& operator=(const integer_basis&) = delete;

  // Null where 16 bits are too few for this basis, and all rows are best done in floats.
  const integer_matrix* get() const noexcept { return serves_ ? &view_ : nullptr; }

 private:
  static constexpr int most_shift = 5;

  // The error of a sum is that of many roundings, of unit * weight / sqrt(12) for each unit of a coefficient. Four
  // standard deviations of the worst channel may be half a unit in the last place of f16 of the head's rms: then
  // rounding to f16 keeps the whole within one (FORMAT.md section 1). Rows are checked when they are decoded; a basis
  // serves if a usual row passes with room: f16 units are 1 to 2 times rms * 2^-11.
  static constexpr double serves_at = 3.0 / 16;
  static constexpr double noise_of_unit = 64.0 / 12 * 1024 * 1024;  // (2 * 4 / sqrt(12) * 2^10)^2

  void make(const plane_profile& q, int group, int head_dim) {
    const std::size_t n = std::size_t(q.width_of(group)), dim = std::size_t(head_dim);
    if (head_dim < 1 || n % dim || q.classes.empty()) return;
    const std::uint16_t* m = q.matrix_of(group);
    const std::size_t first = std::size_t(group) * std::size_t(q.group_width);
    std::vector<float> a(n * n), energy(n), variance(n, 0.f), rms(n / dim, 0.f), need(n, 0.f);
    for (std::size_t i = 0; i < n * n; ++i) a[i] = to_float(f16{m[i]});
    for (std::size_t k = 0; k < n; ++k) {
      const int width = q.classes[first + k] % 64;  // FORMAT.md section 5: sigma = 2^(width / 4 - 4)
      energy[k] = row_energy(width);
      for (std::size_t i = 0; i < n; ++i) variance[i] += energy[k] * a[k * n + i] * a[k * n + i];
    }
    for (std::size_t i = 0; i < n; ++i) {
      const float mean = to_float(f16{q.mean[first + i]}) / q.scale;
      rms[i / dim] += (variance[i] + mean * mean) / float(dim);
    }
    for (float& r : rms) {
      r = float(detail::sqrt(double(r)));
      if (!(r > 1e-20f && r < 1e20f)) return;
    }
    std::vector<float> quiet(n);
    for (std::size_t i = 0; i < n; ++i) quiet[i] = 1 / rms[i / dim];
    // A row needs units of need * rms of the head * weight.
    float most = 0;
    for (std::size_t k = 0; k < n; ++k) {
      for (std::size_t i = 0; i < n; ++i) need[k] = detail::max(need[k], detail::abs(a[k * n + i]) * quiet[i]);
      need[k] /= 32767;
      most = detail::max(most, need[k]);
    }
    if (!(most > 1e-30f)) return;
    float best = infinity_f, unit = most;
    float t = most;
    for (int j = 0; j < 2 * most_shift + 1; ++j, t *= 0.70710678f) {
      float sum = 0;
      bool fits = true;
      for (std::size_t k = 0; k < n; ++k) {
        const int s = shift_of(need[k], t);
        fits = fits && s <= most_shift;
        sum += energy[k] * float(1 << 2 * s);
      }
      if (fits && t * t * sum < best) best = t * t * sum, unit = t;
    }
    if (!(double(best) / 12 <= serves_at * serves_at / (2048.0 * 2048.0))) return;

    const std::size_t rows = std::size_t(dense_round_up(int(n)));
    const std::size_t panels = (n + integer_panel - 1) / integer_panel, pairs = (n + 1) / 2;
    weight_.assign(rows, 1);
    limit_.assign(rows, 32767);
    unit_.assign(panels * integer_panel, 0.f);
    for (std::size_t k = 0; k < n; ++k) {
      const int s = shift_of(need[k], unit);
      weight_[k] = std::int16_t(1 << s);
      limit_[k] = std::int16_t(32767 >> s);
    }
    // Finer where a channel's own elements allow it.
    for (std::size_t k = 0; k < n; ++k) {
      const float most_of = 1 / (32767 * float(weight_[k]));
      for (std::size_t i = 0; i < n; ++i) unit_[i] = detail::max(unit_[i], detail::abs(a[k * n + i]) * most_of);
    }
    noise_.assign(n / dim, 0.f);
    for (std::size_t i = 0; i < n; ++i) {
      unit_[i] = detail::min(unit_[i] > 0 ? unit_[i] : 1e-30f, rms[i / dim] * unit);
      noise_[i / dim] = detail::max(noise_[i / dim], unit_[i]);
      quiet[i] = 1 / unit_[i];
    }
    for (float& x : noise_) x = float(noise_of_unit * double(x) * double(x));
    matrix_.assign(panels * pairs * integer_panel * 2, 0);
    std::vector<float> squares(n, 0.f);
    for (std::size_t k = 0; k < n; ++k) {
      const float of_row = 1 / float(weight_[k]);
      for (std::size_t i = 0; i < n; ++i) {
        const float v = detail::clamp(a[k * n + i] * of_row * quiet[i], -32767.f, 32767.f);
        const int r = int(v < 0 ? v - 0.5f : v + 0.5f);
        const std::size_t panel = i / integer_panel, column = i % integer_panel;
        matrix_[((panel * pairs + k / 2) * integer_panel + column) * 2 + k % 2] = std::int16_t(r);
        squares[i] += float(r) * float(r);
      }
    }
    double norm = 1;
    for (const float s : squares) norm = detail::max(norm, double(s));
    // |sum|^2 <= sum(c * weight)^2 * norm, and stays below 2^62 with room for what energies in floats are off.
    view_ = {matrix_.data(), weight_.data(), limit_.data(), unit_.data(), float(4.6e18 / 1.01 / norm),
             head_dim,       noise_.data()};
    serves_ = true;
  }

  // The least s with need <= t * 2^s.
  static int shift_of(float need, float t) noexcept {
    int s = 0;
    for (float u = t * 1.000001f; need > u && s <= most_shift; u *= 2) ++s;
    return s;
  }

  static float row_energy(int width) noexcept {  // sigma^2 = 2^(width / 2 - 8), and what rounding adds
    float e = width % 2 ? 1.41421356f : 1.f;
    for (int i = 0; i < width / 2; ++i) e *= 2;
    return e / 256 + 1.f / 12;
  }

  std::vector<std::int16_t> matrix_, weight_, limit_;
  std::vector<float> unit_, noise_;
  integer_matrix view_;
  bool serves_ = false;
};

// In the order (layer, plane, group), of all groups.
using integer_bases = std::vector<std::unique_ptr<const integer_basis>>;

// Made once for a profile, as its inverse is: a tenth of the time that takes.
inline std::shared_ptr<const integer_bases> integer_bases_of(const profile& p) {
  std::uint32_t key = 0;
  for (const plane_profile& q : p.planes) {
    key = checksum(q.mean.data(), 2 * q.mean.size(), key);
    key = checksum(q.classes.data(), q.classes.size(), key);
  }
  return p.memo.get<integer_bases>(bases_key(p) ^ std::uint64_t{key} * 0x9e3779b97f4a7c15u, [&] {
    auto all = std::make_shared<integer_bases>();
    for (std::size_t at = 0; at < p.planes.size(); ++at)
      for (int g = 0; g < p.planes[at].groups(); ++g)
        all->push_back(
            std::make_unique<const integer_basis>(p.planes[at], g, p.shape.layers[at / 2].head_dim(plane(at % 2))));
    return std::shared_ptr<const integer_bases>(all);
  });
}

}  // namespace sluice::detail
