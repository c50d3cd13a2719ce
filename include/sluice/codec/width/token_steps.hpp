// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/row_classes.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/width/document_steps.hpp>
#include <sluice/codec/width/profile_steps.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/model/token_weight_model.hpp>
#include <sluice/numeric.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace sluice {

namespace detail {

/// Takes the mean off log weights; the first `skip` have no say in it.
inline void centre(std::span<float> weights, std::size_t skip) noexcept {
  double sum = 0;
  for (std::size_t i = skip; i < weights.size(); ++i) sum += double(weights[i]);
  const float mean = weights.size() > skip ? float(sum / double(weights.size() - skip)) : 0.f;
  for (float& w : weights) w -= mean;
}

inline constexpr int finest_token_step = -8, coarsest_token_step = 12;  // quarter octaves around the plane's step
// Of the first tokens of a sequence, quarter octaves. Which of them attention sinks into differs from text to text.
inline constexpr int sink_step = -24;
inline constexpr std::uint8_t usual_exponent = 45;  // 0.7

/// Quarter octaves for a token whose log weight is `w` nats above the mean; half octaves are fine enough, and fewer classes.
inline int token_step(float w, int exponent) noexcept {
  constexpr float halves = 1 / 0.69314718f / 64;
  const float in = clamp(-halves * float(exponent) * w, 0.5f * finest_token_step, 0.5f * coarsest_token_step);
  return 2 * int(in < 0 ? in - 0.5f : in + 0.5f);
}

/// Quarter octaves in whole ones for a plane, K then V layer by layer, so that their mean over all planes is what is asked for.
inline int whole_quarters(double quarters, int plane_number) noexcept {
  const double low = -double(max_row_step), to = clamp(quarters, low, double(max_row_step));
  const int whole = int(to - low) + int(low);
  double part = 0.61803399 * (plane_number + 1);  // an even spread over [0, 1)
  part -= int(part);
  return whole + (to - whole > 1 - part);
}

}  // namespace detail

inline namespace SLUICE_HOST_ABI {

/// Makes all steps of a profile's token_steps coarser by so many quarter octaves, or finer, parts of one in the mean of all
/// planes: for who has measured what a level costs. Errors: missing_section.
inline status coarsen_steps(profile& p, double quarters) {
  const auto known = detail::token_weight_model::of(p);
  if (!known) return status::missing_section;
  detail::token_weight_model moved = *known;
  int number = 0;
  for (detail::layer_weights& l : moved.layers)
    for (std::int8_t& offset : l.offset) offset = std::int8_t(detail::whole_quarters(offset + quarters, number++));
  moved.put_into(p);
  return status::ok;
}

/// Bit-width policy: the profile's step of each (layer, K or V), finer for tokens that later queries will look at and
/// coarser for others. How much they will is told by token_weights::attention where an engine has seen it, else guessed
/// from K alone by what calibration learnt (the profile's section; without, all tokens are alike); token_weights::importance
/// multiplies either. The mean step of a tile stays. The first tokens of a sequence are rows at a fine step instead of
/// exact ones. `Coarser`: quarter octaves that all steps are coarser by, with encode_options::coarser.
/// Source: errors reach the output through squared attention; guess and exponents are measured choices.
template <int Coarser = 0>
struct token_steps : profile_steps {
  static_assert(Coarser >= -max_row_step && Coarser <= max_row_step, "sluice::token_steps<Coarser>: within 48");
  static constexpr stage_id id = stage_id::of(detail::token_weight_model::id, std::uint32_t(128 + Coarser));

  /// Rows have steps where the profile describes them.
  static bool keeps_exact(const profile& p, std::int64_t position) noexcept {
    return position < p.sinks && !p.calibrated();
  }

  class encoder {
   public:
    encoder(const profile& p, isa) : profile_(&p), model_(detail::token_weight_model::of(p)) {}

    /// All heads of K or V of a tile, before its groups.
    void observe(const tile_rows& all) {
      if (all.place.plane != plane::key) {
        if (all.place.layer != layer_ || all.range.frame_token != first_) forget(all);
        return;
      }
      forget(all);
      const std::size_t n = std::size_t(all.count());
      const token_weights* told = all.weights;
      std::size_t sinks = 0;
      while (sinks < n && all.range.position + all.rows[sinks] < profile_->sinks) ++sinks;
      std::vector<float> w(n, 0.f);
      if (told && !told->attention.empty()) {
        const float* a = told->attention.data() + std::size_t(all.place.layer) * std::size_t(all.frame_tokens) +
                         std::size_t(all.range.frame_token);
        const auto seen = [&](std::size_t r) {  // what is no amount of attention is none
          const float x = a[all.rows[r]];
          return x > 0 && detail::isfinite(x) ? x : 0.f;
        };
        double sum = 0;
        for (std::size_t r = sinks; r < n; ++r) sum += double(seen(r));
        const float floor = n > sinks ? float(1e-3 * sum / double(n - sinks)) + 1e-30f : 1;
        for (std::size_t r = 0; r < n; ++r) w[r] = log(detail::max(seen(r), floor));
      } else if (model_) {
        const detail::layer_weights& l = model_->layers[std::size_t(all.place.layer)];
        for (std::size_t r = 0; r < n; ++r) {
          const float* x = all.x + std::ptrdiff_t(r) * all.ld;
          float sum = l.slope * log(float(all.range.count - all.rows[r]));
          for (std::size_t i = 0; i < l.direction.size(); ++i) sum += l.direction[i] * x[i];
          w[r] = detail::isfinite(sum) ? sum : 0.f;
        }
      }
      detail::centre(w, sinks);
      for (std::size_t r = 0; r < n; ++r) {
        if (told && !told->importance.empty()) {
          const float by = told->importance[std::size_t(all.range.frame_token) + all.rows[r]];
          w[r] += by > 0 ? log(by) : -detail::infinity_f;
        }
        weight_[all.rows[r]] = w[r];
      }
    }

    void rows(const tile_rows& in, std::span<row_class> out) const {
      const int which = int(in.place.plane);
      int known = Coarser, exponent = detail::usual_exponent;
      if (model_) {
        known += model_->layers[std::size_t(in.place.layer)].offset[which];
        exponent = model_->layers[std::size_t(in.place.layer)].exponent[which];
      }
      const int offset = known + detail::whole_quarters(double(in.coarser), 2 * in.place.layer + which);
      for (std::size_t r = 0; r < out.size(); ++r) {
        const bool sink = in.range.position + in.rows[r] < profile_->sinks;
        const float w = in.rows[r] < weight_.size() ? weight_[in.rows[r]] : 0.f;
        const int step = sink ? detail::sink_step : worthless(w) ? max_row_step : detail::token_step(w, exponent);
        out[r] = {std::int8_t(detail::clamp(offset + step, -max_row_step, max_row_step)),
                  sink ? open_spread : std::int8_t{0}};
      }
    }

   private:
    static float log(float x) noexcept { return 0.69314718f * detail::log2(x); }
    static bool worthless(float w) noexcept { return w < -1e30f; }  // the logarithm of nothing

    void forget(const tile_rows& all) {
      layer_ = all.place.layer;
      first_ = all.range.frame_token;
      weight_.assign(std::size_t(all.range.count), 0.f);
    }

    const profile* profile_;
    std::shared_ptr<const detail::token_weight_model> model_;
    int layer_ = -1, first_ = -1;
    std::vector<float> weight_;  // log weights of the tile's tokens around their mean
  };
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
