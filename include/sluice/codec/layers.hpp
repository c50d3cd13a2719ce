// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/view.hpp>

#include <cstdint>
#include <span>
#include <vector>

// Which view shows which layer of a model, and how a frame's index lists their shapes.

namespace sluice::detail {

// What a coder is made from: the profile where it is sound, else one of no layers, so that nothing unsound is looked at.
inline const profile& profile_if(status sound, const profile& p) {
  static const profile none;
  return sound == status::ok ? p : none;
}

// The model of a profile, with as many heads in a group as the index of a frame can say: all of them, but for giants.
inline profile in_whole_planes(const profile& p) {
  profile out = profile::uncalibrated(p.shape, p.passes, p.sinks);
  for (std::size_t i = 0; i < out.planes.size(); ++i) {
    plane_profile& q = out.planes[i];
    if (const int dim = q.group_width) q.group_width = min(q.width, UINT16_MAX / dim * dim);
  }
  return out;
}

// Whether a view shows layers of this model. Errors: those of validate(), wrong_shape.
inline status check_view(const kv_view& v, const model_shape& shape) noexcept {
  if (const status s = validate(v); s != status::ok) return s;
  for (std::int32_t i = 0; i < v.num_layers; ++i) {
    const std::int32_t l = v.layer_id(i);
    if (l < 0 || l >= shape.num_layers()) return status::wrong_shape;
    const layer_shape& s = shape.layers[std::size_t(l)];
    if (s.num_kv_heads != v.num_kv_heads) return status::wrong_shape;
    for (plane p : {plane::key, plane::value})
      if (v[p].present() ? v[p].head_dim != s.head_dim(p) : s.head_dim(p) != 0) return status::wrong_shape;
  }
  return status::ok;
}

// Which view shows a model layer, and as which of its layers.
struct layer_slot {
  const kv_view* view = nullptr;
  int index = 0;
};

// Layers may be spread over views of any types and positions; K and V of one layer stand in one view.
// Errors: those of check_view(), invalid_view (two views claim one layer).
inline status map_layers(std::span<const kv_view> views, const model_shape& shape, std::vector<layer_slot>& slots) {
  slots.assign(shape.layers.size(), {});
  for (const kv_view& v : views) {
    if (const status s = check_view(v, shape); s != status::ok) return s;
    for (int i = 0; i < v.num_layers; ++i) {
      layer_slot& s = slots[std::size_t(v.layer_id(i))];
      if (s.view) return status::invalid_view;
      s = {&v, i};
    }
  }
  return status::ok;
}

// Consecutive layers of equal shape, grouping and types, as a frame's index lists them. A layer that no view shows has
// the types of the one before it, the first ones those of the first shown: its tiles are empty, so no one reads them.
inline void shape_runs(const profile& p, std::span<const layer_slot> slots, std::vector<shape_run>& runs) {
  dtype type[2] = {dtype::f16, dtype::f16};
  for (plane which : {plane::key, plane::value})
    for (std::size_t l = slots.size(); l-- > 0;)
      if (slots[l].view && (*slots[l].view)[which].present()) type[int(which)] = (*slots[l].view)[which].type;
  runs.clear();
  for (int l = 0; l < p.shape.num_layers(); ++l) {
    const layer_shape& s = p.shape.layers[std::size_t(l)];
    shape_run r{};
    r.num_kv_heads = std::uint16_t(s.num_kv_heads);
    for (plane which : {plane::key, plane::value}) {
      if (s.head_dim(which) == 0) continue;
      if (const kv_view* v = slots[std::size_t(l)].view) type[int(which)] = (*v)[which].type;
      r.head_dim[int(which)] = std::uint16_t(s.head_dim(which));
      r.group_width[int(which)] = std::uint16_t(p.of(l, which).group_width);
      r.type[int(which)] = std::uint8_t(type[int(which)]);
    }
    if (!runs.empty()) r.layers = runs.back().layers;
    if (!runs.empty() && r == runs.back()) {
      ++runs.back().layers;
      continue;
    }
    r.layers = 1;
    runs.push_back(r);
  }
}

}  // namespace sluice::detail
