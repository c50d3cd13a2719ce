// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/transform/dense.hpp>
#include <sluice/codec/transform/invert_basis.hpp>
#include <sluice/codec/entropy/class_rans/group_tables.hpp>
#include <sluice/codec/tile_input.hpp>
#include <sluice/numeric.hpp>

#include <cstdint>
#include <vector>

namespace sluice::detail::inline SLUICE_HOST_ABI {

// The encoder's half of the transform: channels to integer coefficients in units of the finest step.
class coefficient_maker {
 public:
  coefficient_maker(const profile& p, isa i) : isa_(i), tables_(p), forward_(tables_.size()) {
    for (int l = 0; l < p.shape.num_layers(); ++l)
      for (plane which : {plane::key, plane::value}) {
        const plane_profile& q = p.of(l, which);
        for (int g = 0; g < q.groups() && !q.matrix.empty(); ++g)
          if (!invert_basis(q.matrix_of(g), q.width_of(g), double(q.scale), forward_[tables_.index(l, which, g)]))
            state_ = status::corrupt_profile;
      }
  }

  status state() const noexcept { return state_; }
  const profile_tables& tables() const noexcept { return tables_; }
  const profile_tables::stream& known(const stream_place& p) const noexcept {
    return tables_.of(p.layer, p.plane, p.group);
  }

  // Fills values(): [rows][stride], zero beyond the stream's width. Rows that leave the quantiser's range become exact
  // tokens. Without calibration mean and step are the tile's own.
  void make(tile_input& in) {
    const profile_tables::stream& k = known(in.place);
    step_ = 1;
    const float* mean = k.mean.data();
    if (k.mean.empty()) {
      measure_mean(in);
      mean = mean_.data();
      measure_step(in);
    }
    quantize(in, mean);
  }

  // Quantises again with a step `factor` times as large.
  void coarsen(tile_input& in, float factor) {
    step_ *= factor;
    quantize(in, known(in.place).mean.empty() ? mean_.data() : known(in.place).mean.data());
  }

  const std::vector<std::int16_t>& values() const noexcept { return values_; }
  std::vector<std::int16_t>& values() noexcept { return values_; }
  std::int64_t stride() const noexcept { return stride_; }
  float step() const noexcept { return step_; }  // multiplies the profile's scale
  const std::vector<std::uint16_t>& mean_bits() const noexcept { return mean_bits_; }

 private:
  void measure_mean(const tile_input& in) {
    const std::size_t width = std::size_t(in.place.width());
    mean_bits_.resize(width);
    mean_.assign(width, 0.f);
    for (std::size_t r = 0; r < in.rows.size(); ++r)
      for (std::size_t i = 0; i < width; ++i) mean_[i] += in.x[std::ptrdiff_t(r) * in.ld + std::ptrdiff_t(i)];
    const float n = in.rows.empty() ? 1.f : float(in.rows.size());
    for (std::size_t i = 0; i < width; ++i) {
      f16 h = from_float<f16>(mean_[i] / n);
      if (!finite_f16(h.bits)) h = f16{};
      mean_bits_[i] = h.bits;
      mean_[i] = to_float(h);
    }
  }

  // Level 1 gets a step of about the tile's own deviation, as a calibrated profile does on average.
  void measure_step(const tile_input& in) {
    double sum = 0;
    const int width = in.place.width();
    for (std::size_t r = 0; r < in.rows.size(); ++r)
      for (int i = 0; i < width; ++i) {
        const double d = double(in.x[std::ptrdiff_t(r) * in.ld + i]) - double(mean_[std::size_t(i)]);
        sum += d * d;
      }
    const double n = double(in.rows.size()) * width;
    const double rms = n > 0 ? detail::sqrt(sum / n) : 0;
    step_ = float(rms / power_of_3(tables_.passes() > 1 ? tables_.passes() - 2 : 0));
    if (!(step_ > 1e-30f && step_ < 1e30f)) step_ = 1;
  }

  void quantize(tile_input& in, const float* mean) {
    const int width = in.place.width();
    stride_ = padded(width);
    do {
      const int rows = int(in.rows.size());
      values_.assign(std::size_t(rows) * std::size_t(stride_), 0);
      beyond_.assign(std::size_t(rows), 0);
      if (rows == 0) return;
      const std::vector<float>& f = forward_[tables_.index(in.place.layer, in.place.plane, in.place.group)];
      if (f.empty()) {
        quantize_rows(isa_, in.x, in.ld, rows, mean, 1 / (in.source->scale * step_), width, values_.data(), stride_,
                      beyond_.data());
        continue;
      }
      const float* matrix = f.data();
      if (step_ != 1.f) {
        scaled_.resize(f.size());
        for (std::size_t i = 0; i < f.size(); ++i) scaled_[i] = f[i] / step_;
        matrix = scaled_.data();
      }
      workspace_.resize(dense_workspace(rows, width, width));
      forward_transform(isa_,
                        {.x = in.x,
                         .ldx = in.ld,
                         .mean = mean,
                         .matrix = matrix,
                         .ldm = width,
                         .c = values_.data(),
                         .ldc = stride_,
                         .beyond = beyond_.data(),
                         .rows = rows,
                         .n = width,
                         .k = width},
                        workspace_.data());
    } while (in.make_exact(beyond_));
  }

  isa isa_;
  profile_tables tables_;
  std::vector<std::vector<float>> forward_;
  status state_ = status::ok;
  std::int64_t stride_ = 0;
  float step_ = 1;
  std::vector<float> mean_, scaled_, workspace_;
  std::vector<std::uint16_t> mean_bits_;
  std::vector<std::int16_t> values_;
  std::vector<std::uint8_t> beyond_;
};

}  // namespace sluice::detail::inline SLUICE_HOST_ABI
