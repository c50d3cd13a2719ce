// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/layers.hpp>
#include <sluice/codec/transform/inverse_bases.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/model_ropes.hpp>
#include <sluice/tensor/rows.hpp>
#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

// Whether a profile suits a cache, from the coefficients of a few tokens: with the wrong one nothing fails, frames are two
// to three times as large and their error is far worse.

namespace sluice {

/// Bits a value of some coefficients: what the profile's classes promise, and what a cache's energies come to.
struct fit_bits {
  double expected = 0;  ///< sum over coefficients; 0 = nothing was compared
  double measured = 0;  ///< of the same
  /// How many times the bits; 1 where nothing was compared.
  double ratio() const noexcept { return expected > 0 ? measured / expected : 1; }
};

/// How well a profile suits a cache; see fit().
struct fit_report {
  std::vector<fit_bits> planes;  ///< [2 * layer + plane]
  fit_bits keys;                 ///< K of all layers
  fit_bits values;               ///< V of all layers
  int tokens = 0;                ///< looked at in the layer where they are most

  /// The worse of keys and values: about 1 where the profile suits.
  double ratio() const noexcept { return detail::max(keys.ratio(), values.ratio()); }
};

namespace detail {

inline constexpr int fit_tokens = 8;  // of each layer

inline namespace SLUICE_HOST_ABI {

class fit_measure {
 public:
  fit_measure(const profile& p, fit_report& out) : profile_(&p), out_(&out), ropes_(p.shape) {
    for (int w = 0; w < class_widths; ++w) variance_[w] = float(pow(2.0, double(w - 16) / 2));
  }

  void add(const kv_view& v, const inverse_bases& inverse) {
    // Tokens from all over the view but for the first of a sequence, which are kept exact and like no others.
    const std::int64_t skip = clamp(std::int64_t{profile_->sinks} - v.position, std::int64_t{0}, v.tokens);
    const std::int64_t there = v.tokens - skip;
    const int n = int(min(there, std::int64_t{fit_tokens}));
    if (n <= 0) return;
    std::size_t total = 0;
    std::vector<std::size_t> first;  // of each plane of the view among x_
    for (int i = 0; i < v.num_layers; ++i)
      for (plane which : {plane::key, plane::value}) {
        first.push_back(total);
        total += std::size_t(n) * std::size_t(profile_->of(v.layer_id(i), which).width);
      }
    x_.resize(total);
    skip_.assign(std::size_t(n) * first.size(), 0);
    for (int t = 0; t < n; ++t) {
      const std::int64_t token = skip + (2 * t + 1) * there / (2 * n);
      ropes_.fill(v.position + token, 1, true);
      for (plane which : {plane::key, plane::value}) {
        const plane_view& from = v[which];
        if (!from.present()) continue;
        const std::int64_t offset = v.token_offset(from, token);
        const row_layout at{&offset,        from.head_stride, from.element_stride, 0,
                            v.num_kv_heads, from.head_dim,    from.type,           false};
        for (int i = 0; i < v.num_layers; ++i) {
          const std::size_t slot = 2 * std::size_t(i) + std::size_t(which);
          const int width = v.num_kv_heads * from.head_dim;
          float* const to = &x_[first[slot] + std::size_t(t) * std::size_t(width)];
          load_rows(isa::best, v.layer_base(from, i), at, 1, to, width, &skip_[slot * std::size_t(n) + std::size_t(t)]);
          if (which == plane::key) ropes_.rotate(isa::best, v.layer_id(i), to, width, 1, v.num_kv_heads, 0);
        }
      }
    }
    for (int i = 0; i < v.num_layers; ++i)
      for (plane which : {plane::key, plane::value}) {
        const std::size_t slot = 2 * std::size_t(i) + std::size_t(which);
        if (v[which].present())
          measure(v.layer_id(i), which, &x_[first[slot]], n, &skip_[slot * std::size_t(n)], inverse);
      }
    out_->tokens = max(out_->tokens, n);
  }

 private:
  // What the coefficients of one plane's tokens come to.
  void measure(int layer, plane which, const float* x, int n, const std::uint8_t* skip, const inverse_bases& inverse) {
    const plane_profile& q = profile_->of(layer, which);
    if (q.classes.empty()) return;
    std::size_t group = 0;  // of the plane's first among all
    for (std::size_t i = 0; i < 2 * std::size_t(layer) + std::size_t(which); ++i)
      group += std::size_t(profile_->planes[i].groups());
    fit_bits& bits = out_->planes[2 * std::size_t(layer) + std::size_t(which)];
    const float step = float(power_of_3(profile_->passes - 2));  // of level 1
    for (int g = 0; g < q.groups(); ++g, ++group) {
      const int begin = g * q.group_width, width = q.width_of(g);
      mean_.resize(std::size_t(width));
      for (int c = 0; c < width; ++c) mean_[std::size_t(c)] = to_float(f16{q.mean[std::size_t(begin + c)]});
      energy_.assign(std::size_t(width), 0);
      int count = 0;
      for (int t = 0; t < n; ++t) count += !skip[t];
      if (count == 0) continue;
      // Every other block of coefficients, which ones by turns from layer to layer: half of the bases are read, and
      // reading them is what a fit costs.
      for (int from = width > 32 ? layer % 2 * 32 : 0; from < width; from += 64) {
        const int k = min(32, width - from);
        y_.resize(std::size_t(n) * 32);
        workspace_.resize(dense_workspace(n, width, width));
        forward_transform(isa::best,
                          {.x = x + begin,
                           .ldx = q.width,
                           .mean = mean_.data(),
                           .matrix = inverse[group].data() + from,
                           .ldm = width,
                           .c = y_.data(),
                           .ldc = 32,
                           .beyond = nullptr,
                           .rows = n,
                           .n = width,
                           .k = k},
                          workspace_.data());
        for (int t = 0; t < n; ++t)
          for (int c = 0; c < k && !skip[t]; ++c) {
            const float y = y_[std::size_t(t * 32 + c)];
            energy_[std::size_t(from + c)] += y * y;
          }
        const float scale = 12 / (step * step);
        float expected = 1, measured = 1;
        for (int c = from; c < from + k; ++c) {
          const int w = q.classes[std::size_t(begin + c)] % class_widths;
          expected *= 1 + scale * variance_[w];
          measured *= 1 + scale * energy_[std::size_t(c)] / float(count);
          if (c % 4 != 3 && c + 1 < from + k) continue;
          bits.expected += double(log2(expected)) / 2, bits.measured += double(log2(measured)) / 2;
          expected = measured = 1;
        }
      }
    }
    fit_bits& all = which == plane::key ? out_->keys : out_->values;
    all.expected += bits.expected, all.measured += bits.measured;
  }

  const profile* profile_;
  fit_report* out_;
  model_ropes ropes_;
  float variance_[class_widths];  // of coefficients, by the width of their class
  std::vector<float> x_, mean_, workspace_, energy_;
  std::vector<std::uint8_t> skip_;
  std::vector<std::int16_t> y_;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace detail

inline namespace SLUICE_HOST_ABI {

/// Compares what the profile's classes promise with what a few tokens of each layer come to: bits a value at level 1, as
/// a Gaussian of their energy would take. Planes without calibration, and tokens that are kept exact, are not looked at.
/// Takes about 2 % of what encoding 256 tokens does, once the encoders' bases are there; without, it makes them.
///
/// Measured on SmolLM2-135M, Qwen2.5-Coder-0.5B and Gemma-3-270m, prose and code, in chunks of 256 tokens (16 tokens):
///   the right profile                          0.90 - 1.03  (0.79 - 1.08; 4 tokens: at most 1.13)
///   rotary pairs half instead of interleaved   2.46 - 3.26  (2.31 - 3.20)
///   K that was never rotated                   1.94 - 2.42  (1.46 - 2.48)
///   base of the rotary embedding 1.5 times     1.43 - 2.32, 10 times 1.84 - 2.40; near position 0 it hardly matters
///   position wrong by 1                        1.04 - 1.23, 2: 1.17 - 1.45, 4: 1.34 - 1.58, 256: 1.90 - 2.36
///   heads or layers in another order           2.40 - 3.45
///
/// Errors: those of validate(), corrupt_profile, wrong_shape, invalid_view (two views claim one layer), unsupported_type
/// (opaque bytes).
inline result<fit_report> fit(std::span<const kv_view> cache, const profile& p) {
  if (const status s = detail::validate_sizes(p); s != status::ok) return s;  // what is no number has no inverse
  std::vector<detail::layer_slot> slots;
  if (const status s = detail::map_layers(cache, p.shape, slots); s != status::ok) return s;
  for (const kv_view& v : cache)
    for (plane which : {plane::key, plane::value})
      if (v[which].present() && v[which].type == dtype::bytes) return status::unsupported_type;
  const auto inverse = detail::inverse_bases_of(p);
  if (!inverse) return status::corrupt_profile;
  fit_report out;
  out.planes.resize(p.planes.size());
  detail::fit_measure m(p, out);
  for (const kv_view& v : cache) m.add(v, *inverse);
  return out;
}

/// A bound between profiles that suit and those that do not; see fit() for what was measured on either side.
inline constexpr double default_fit_bound = 1.3;

/// Whether a profile suits a cache: profile_does_not_fit where fit_report::ratio() is beyond the bound.
/// Errors: also those of fit().
inline status check_fit(std::span<const kv_view> cache, const profile& p, double bound = default_fit_bound) {
  const result<fit_report> r = fit(cache, p);
  if (!r) return r.status();
  return r->ratio() <= bound ? status::ok : status::profile_does_not_fit;
}

/// @name The same for one view, and for caches that may only be read.
/// @{

/// As above.
inline result<fit_report> fit(const const_kv_view& cache, const profile& p) {
  return fit({&detail::readable(cache), 1}, p);
}
inline result<fit_report> fit(std::span<const const_kv_view> cache, const profile& p) {
  return fit(detail::readable(cache), p);
}
inline status check_fit(const const_kv_view& cache, const profile& p, double bound = default_fit_bound) {
  return check_fit({&detail::readable(cache), 1}, p, bound);
}
inline status check_fit(std::span<const const_kv_view> cache, const profile& p, double bound = default_fit_bound) {
  return check_fit(detail::readable(cache), p, bound);
}
/// @}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
