// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/layers.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/model_ropes.hpp>
#include <sluice/tensor/rows.hpp>
#include <sluice/tensor/view.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sluice::detail {

/// Rows of captured caches, keys without their rotary embedding, spread evenly over all captures: what calibrators of
/// published methods learn from. Tokens at the start of a sequence and those that are no numbers are left out.
class row_sample {
 public:
  static constexpr int sinks = 4;

  /// Keeps from half of `most` to `most` rows of every plane; borrows the profile.
  explicit row_sample(const profile& p, std::size_t most = 4096)
      : profile_(&p), state_(validate(p)), most_(most), planes_(state_ == status::ok ? p.planes.size() : 0) {}

  status state() const noexcept { return state_; }
  const profile& described() const noexcept { return *profile_; }

  /// Takes rows of one context. Errors: corrupt_profile, those of validate(kv_view), wrong_shape, unsupported_type.
  status add(const kv_view& cache) {
    if (state_ != status::ok) return state_;
    if (state_ = check_view(cache, profile_->shape); state_ != status::ok) return state_;
    for (plane which : {plane::key, plane::value})
      if (cache[which].present() && cache[which].type == dtype::bytes) return state_ = status::unsupported_type;
    model_ropes ropes(profile_->shape);
    for (std::int64_t t = 0; t < cache.tokens; ++t) {
      if (cache.position + t < sinks) continue;
      ropes.fill(cache.position + t, 1, true);
      for (plane which : {plane::key, plane::value}) {
        if (!cache[which].present()) continue;
        for (int i = 0; i < cache.num_layers; ++i) take(cache, which, i, t, ropes);
      }
    }
    return state_;
  }

  /// Rows kept of a plane, and where they stand: [rows][width].
  std::size_t rows(const group_place& g) const noexcept {
    const plane_profile& q = profile_->of(g.layer, g.plane);
    return q.width ? at(g.layer, g.plane).x.size() / std::size_t(q.width) : 0;
  }
  /// The channels of a group in one of them.
  const float* row(const group_place& g, std::size_t r) const noexcept {
    const std::size_t width = std::size_t(profile_->of(g.layer, g.plane).width);
    return &at(g.layer, g.plane).x[r * width + std::size_t(g.first_head * g.head_dim)];
  }

  /// Calls f(place) for every group of the profile, in the order (layer, plane, group).
  template <class F>
  void each_group(F f) const {
    for (int l = 0; l < profile_->shape.num_layers(); ++l)
      for (plane which : {plane::key, plane::value})
        for (int g = 0; g < profile_->of(l, which).groups(); ++g)
          f(place_of(profile_->shape, profile_->of(l, which).group_width, l, which, g));
  }

 private:
  struct kept {
    std::vector<float> x;
    std::size_t seen = 0, stride = 1;
  };
  const kept& at(int layer, plane p) const noexcept { return planes_[2 * std::size_t(layer) + std::size_t(p)]; }

  void take(const kv_view& cache, plane which, int index, std::int64_t t, const model_ropes& ropes) {
    const int layer = cache.layer_id(index), dim = cache[which].head_dim;
    const std::size_t width = std::size_t(cache.num_kv_heads * dim);
    kept& k = planes_[2 * std::size_t(layer) + std::size_t(which)];
    if (k.seen++ % k.stride) return;
    const std::size_t before = k.x.size();
    k.x.resize(before + width);
    const std::int64_t offset = cache.token_offset(cache[which], t);
    const row_layout from{
        &offset, cache[which].head_stride, cache[which].element_stride, 0, cache.num_kv_heads, dim, cache[which].type,
        false};
    std::uint8_t not_finite = 0;
    load_rows(isa::best, cache.layer_base(cache[which], index), from, 1, &k.x[before], std::ptrdiff_t(width),
              &not_finite);
    if (not_finite) return k.x.resize(before);
    if (which == plane::key)
      ropes.rotate(isa::best, layer, &k.x[before], std::ptrdiff_t(width), 1, cache.num_kv_heads, 0);
    if (k.x.size() < most_ * width) return;
    std::size_t n = 0;  // every other row goes
    for (std::size_t r = 0; r < most_; r += 2, ++n)
      std::copy_n(k.x.begin() + std::ptrdiff_t(r * width), width, k.x.begin() + std::ptrdiff_t(n * width));
    k.x.resize(n * width);
    k.stride *= 2;
  }

  const profile* profile_;
  status state_;
  std::size_t most_;
  std::vector<kept> planes_;  // [2 * layer + plane]
};

}  // namespace sluice::detail
