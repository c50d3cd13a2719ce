// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>
#include <sluice/codec/transform/integer_bases.hpp>
#include <sluice/codec/transform/inverse_bases.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/tensor/half.hpp>

#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

namespace sluice {

namespace detail {

// The profile's means as floats; empty where it has none.
struct group_means : per_group<std::vector<float>> {
  explicit group_means(const profile& p)
      : per_group(p, [](const plane_profile& q, int g) {
          std::vector<float> mean;
          for (int i = 0; i < q.width_of(g) && !q.mean.empty(); ++i)
            mean.push_back(to_float(f16{q.mean[std::size_t(g * q.group_width + i)]}));
          return mean;
        }) {}
};

}  // namespace detail

inline namespace SLUICE_HOST_ABI {

/// Transform policy: subtract the mean, multiply by the profile's weighted basis, keys without their rotary embedding.
/// The profile holds the decoder's matrix; encoders share its inverse. A profile without matrices (uncalibrated) means
/// identity per head, with the mean carried in each tile. Section: f16 mean[width] where the profile has none.
/// Source: KVTC (arXiv 2511.01815) for PCA on KV; the weights (query second moments, output projection) and the joint
/// basis over heads are measured choices.
struct profile_basis {
  static constexpr stage_id id = stage_id::of(1);
  static constexpr value_domain domain = value_domain::unrotated;
  static constexpr bool scales_rows = true;
  static bool uses(const profile&) noexcept { return true; }

  class encoder {
   public:
    encoder(const profile& p, isa i) : isa_(i), profile_(&p), means_(p), inverse_(detail::inverse_bases_of(p)) {}
    status state() const noexcept { return inverse_ ? status::ok : status::corrupt_profile; }
    bool calibrated(const group_place& p) const noexcept { return !means_.of(p).empty(); }

    void rounded(const tile_rows& in, std::int16_t* values, std::ptrdiff_t ld, std::uint8_t* beyond,
                 const float* row_scale = nullptr) {
      const int width = in.place.width(), rows = in.count();
      workspace_.resize(detail::dense_workspace(rows, width, width));
      detail::forward_transform(isa_,
                                {.x = in.x,
                                 .ldx = in.ld,
                                 .row_scale = row_scale,
                                 .mean = means_.of(in.place).data(),
                                 .matrix = (*inverse_)[means_.index(in.place)].data(),
                                 .ldm = width,
                                 .c = values,
                                 .ldc = ld,
                                 .beyond = beyond,
                                 .rows = rows,
                                 .n = width,
                                 .k = width},
                                workspace_.data());
    }

    status forward(tile_rows& in, coefficients& out, tile_writer& w) {
      out.calibrated = calibrated(in.place);
      if (out.calibrated) return forward_calibrated(in, out);
      measure_mean(in);
      w.put_bytes(0, section::transform, mean_bits_.data(), 2 * mean_bits_.size());
      const float scale = 1 / source(in.place).scale;
      for (int r = 0; r < out.rows; ++r) {
        const float* x = in.x + r * in.ld;
        float* y = &out.y[std::size_t(r) * std::size_t(out.ld)];
        for (std::size_t i = 0; i < std::size_t(out.width); ++i) y[i] = (x[i] - mean_[i]) * scale;
      }
      return status::ok;
    }

   private:
    const plane_profile& source(const group_place& p) const noexcept { return profile_->of(p.layer, p.plane); }

    // In whole finest steps: nothing that comes after may be finer than the profile.
    status forward_calibrated(tile_rows& in, coefficients& out) {
      do {
        out.rows = in.count();
        values_.assign(std::size_t(out.rows) * std::size_t(out.ld), 0);
        beyond_.assign(std::size_t(out.rows), 0);
        if (out.rows) rounded(in, values_.data(), out.ld, beyond_.data());
      } while (in.make_exact(beyond_));
      detail::dequantize_rows(isa_, values_.data(), out.ld, out.rows, out.width, 1.f, nullptr, out.width, out.y.data(),
                              out.ld);
      return status::ok;
    }

    void measure_mean(const tile_rows& in) {
      const std::size_t width = std::size_t(in.place.width());
      mean_bits_.resize(width);
      mean_.assign(width, 0.f);
      for (int r = 0; r < in.count(); ++r)
        for (std::size_t i = 0; i < width; ++i) mean_[i] += in.x[r * in.ld + std::ptrdiff_t(i)];
      const float n = in.rows.empty() ? 1.f : float(in.rows.size());
      for (std::size_t i = 0; i < width; ++i) {
        f16 h = from_float<f16>(mean_[i] / n);
        if (!detail::finite_f16(h.bits)) h = f16{};
        mean_bits_[i] = h.bits;
        mean_[i] = to_float(h);
      }
    }

    isa isa_;
    const profile* profile_;
    detail::group_means means_;
    std::shared_ptr<const detail::inverse_bases> inverse_;
    std::vector<float> mean_, workspace_;
    std::vector<std::uint16_t> mean_bits_;
    std::vector<std::int16_t> values_;
    std::vector<std::uint8_t> beyond_;
  };

  class decoder {
   public:
    decoder(const profile& p, isa i)
        : isa_(i),
          profile_(&p),
          means_(p),
          integers_(detail::multiplies_integers(i) ? detail::integer_bases_of(p) : nullptr) {}
    status state() const noexcept { return status::ok; }
    bool calibrated(const group_place& p) const noexcept { return !means_.of(p).empty(); }

    bool open(const tile& t, int slot) {
      const auto bytes = t.section(0, section::transform);
      mean_[slot] = means_.of(t.place).data();
      if (calibrated(t.place) || t.rows() == 0) return bytes.empty();
      const std::size_t width = std::size_t(t.place.width());
      if (bytes.size() != 2 * width) return false;
      own_[slot].resize(width);
      for (std::size_t i = 0; i < width; ++i) {
        f16 h;
        std::memcpy(&h.bits, bytes.data() + 2 * i, 2);
        if (!detail::finite_f16(h.bits)) return false;
        own_[slot][i] = to_float(h);
      }
      mean_[slot] = own_[slot].data();
      return true;
    }

    void inverse(const tile& t, int slot, const coefficient_rows& in, float* out, std::ptrdiff_t ld) {
      coefficient_rows c = in;
      const plane_profile& q = profile_->of(t.place.layer, t.place.plane);
      const int width = t.place.width(), live = detail::min(c.live, width);
      const float scale = q.scale * c.scale;
      const std::uint16_t* matrix = q.matrix_of(t.place.group);
      if (c.floats && matrix) round_floats(c, detail::padded(width));
      if (!matrix) {
        const auto factor = [&](int r) { return c.row_scale ? scale * c.row_scale[r] : scale; };
        if (c.floats) {
          for (int r = 0; r < c.rows; ++r)
            for (int i = 0; i < width; ++i) out[r * ld + i] = factor(r) * c.floats[r * c.ld + i] + mean_[slot][i];
        } else if (c.row_scale) {
          for (int r = 0; r < c.rows; ++r)
            detail::dequantize_rows(isa_, c.values + r * c.ld, c.ld, 1, live, factor(r), mean_[slot], width,
                                    out + r * ld, ld);
        } else {
          detail::dequantize_rows(isa_, c.values, c.ld, c.rows, live, scale, mean_[slot], width, out, ld);
        }
        for (const coefficient_correction& e : c.corrections)
          out[e.row * ld + e.coefficient] += factor(e.row) * e.value;
        return;
      }
      workspace_.resize(detail::dense_workspace(c.rows, width, width));
      detail::inverse_transform(isa_,
                                {.c = c.values,
                                 .ldc = c.ld,
                                 .matrix = matrix,
                                 .mean = mean_[slot],
                                 .scale = scale,
                                 .row_scale = c.row_scale,
                                 .x = out,
                                 .ldx = ld,
                                 .rows = c.rows,
                                 .k = live,
                                 .n = width,
                                 .matrix_rows = width,
                                 .corrections = c.corrections.data(),
                                 .num_corrections = c.corrections.size(),
                                 .integers = integers_ ? (*integers_)[means_.index(t.place)]->get() : nullptr},
                                workspace_.data());
    }

   private:
    // The product takes integers; NaN from hostile steps becomes a number here.
    void round_floats(coefficient_rows& c, std::ptrdiff_t ld) {
      rounded_.resize(std::size_t(c.rows) * std::size_t(ld));
      detail::quantize_rows(isa_, c.floats, c.ld, c.rows, nullptr, 1.f, int(ld), rounded_.data(), ld, nullptr);
      c.values = rounded_.data();
      c.ld = ld;
    }

    isa isa_;
    const profile* profile_;
    detail::group_means means_;
    std::shared_ptr<const detail::integer_bases> integers_;  // null where floats are as fast
    const float* mean_[tiles_at_once] = {};
    std::vector<float> own_[tiles_at_once], workspace_;
    std::vector<std::int16_t> rounded_;
  };
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
