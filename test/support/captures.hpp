// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/model/profile.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/view.hpp>

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <safetensors.hpp>
#include <string>
#include <utility>
#include <vector>

/// KV caches of real models, from files of the form that test/data/README.md describes.
namespace captures {

using sluice::dtype;
using sluice::kv_view;
using sluice::plane;

inline constexpr char sample[] = SLUICE_TEST_DATA "/smollm2_sample.safetensors";
inline constexpr char sample_profile[] = SLUICE_TEST_DATA "/smollm2.profile";
/// Longer ones that lie beside the repository or do not: see there().
inline constexpr char smol_1024[] = SLUICE_SOURCE_DIR "/../shared/data/kv/smol.safetensors";
inline constexpr char qwen_1024[] = SLUICE_SOURCE_DIR "/../shared/data/kv/qwen.safetensors";

/// The profile of the model that the sample is from.
inline sluice::profile known() {
  sluice::result<sluice::profile> p = sluice::profile::load(sample_profile);
  REQUIRE(p.has_value());
  return std::move(*p);
}

inline bool there(const char* path) {
  safetensors::file file;
  return !file.open(path);
}

/// A model's cache in memory of its own: planes of one type, [tokens, heads, head_dim] for each layer.
class memory {
 public:
  memory(sluice::model_shape s, std::int64_t tokens, dtype type = dtype::f16) : shape(std::move(s)) {
    const sluice::layer_shape& l = shape.layers.at(0);
    view.num_layers = shape.num_layers();
    view.num_kv_heads = l.num_kv_heads;
    view.tokens = view.capacity = tokens;
    for (const plane which : {plane::key, plane::value}) {
      sluice::plane_view& p = which == plane::key ? view.k : view.v;
      p.type = type;
      p.head_dim = l.head_dim(which);
      p.element_stride = size_of(type);
      p.head_stride = p.element_stride * p.head_dim;
      p.token_stride = p.head_stride * view.num_kv_heads;
      p.layer_stride = p.token_stride * tokens;
      bytes_[int(which)].resize(std::size_t(p.layer_stride) * shape.layers.size());
      p.base = bytes_[int(which)].data();
    }
    REQUIRE(validate(view) == sluice::status::ok);
  }
  memory(const memory&) = delete;
  memory(memory&&) = default;

  float get(plane which, int layer, std::int64_t token, int head, int d) const {
    return load_element(view.at(which, layer, token, head, d), view[which].type);
  }
  void set(plane which, int layer, std::int64_t token, int head, int d, float x) {
    store_element(view.at(which, layer, token, head, d), view[which].type, x);
  }

  /// Sets every element to f(plane, layer, token, head, element).
  template <class F>
  memory& fill(const F& f) {
    for (const plane which : {plane::key, plane::value})
      for (int l = 0; l < view.num_layers; ++l)
        for (std::int64_t t = 0; t < view.tokens; ++t)
          for (int h = 0; h < view.num_kv_heads; ++h)
            for (int d = 0; d < view[which].head_dim; ++d) set(which, l, t, h, d, f(which, l, t, h, d));
    return *this;
  }

  sluice::model_shape shape;
  kv_view view;

 private:
  std::vector<std::byte> bytes_[2];
};

/// The capture in a file, all of its tokens.
inline memory load(const char* path) {
  safetensors::file file;
  REQUIRE_FALSE(bool(file.open(path)));
  sluice::model_shape shape;
  std::int64_t tokens = 0;
  for (int l = 0; const safetensors::tensor* t = file.find("k." + std::to_string(l)); ++l) {
    tokens = t->shape.at(0);
    sluice::rope r;
    r.base = std::strtod(file.meta().at("rope_base." + std::to_string(l)).c_str(), nullptr);
    if (shape.ropes.empty()) shape.ropes.push_back(r);
    REQUIRE(shape.ropes[0] == r);
    const auto heads = std::int32_t(t->shape.at(1)), dim = std::int32_t(t->shape.at(2));
    shape.layers.push_back({heads, dim, dim, 0, 0});
  }
  REQUIRE(shape.num_layers() > 0);
  memory m(shape, tokens);
  for (int l = 0; l < shape.num_layers(); ++l)
    for (const plane which : {plane::key, plane::value}) {
      const auto from = file.bytes(*file.find((which == plane::key ? "k." : "v.") + std::to_string(l)));
      REQUIRE(from.size() == std::size_t(m.view[which].layer_stride));
      std::memcpy(m.view.at(which, l, 0, 0, 0), from.data(), from.size());
    }
  return m;
}

/// The same values elsewhere: K turned from the rotary positions of one model to those of another, which may begin
/// elsewhere, pair other channels (which then stand where that pairing wants them) or rotate not at all.
inline memory rotated(const memory& from, const std::vector<sluice::rope>& ropes, std::int64_t position = 0,
                      dtype type = dtype::f16) {
  memory m(from.shape, from.view.tokens, type);
  m.shape.ropes = ropes;
  m.view.position = position;
  const auto at = [](const sluice::rope& r, int i, int pairs) {
    return r.pairing == sluice::rope_pairing::interleaved ? std::pair(2 * i, 2 * i + 1) : std::pair(i, i + pairs);
  };
  std::vector<float> row;
  std::vector<double> f, g;
  for (int l = 0; l < m.view.num_layers; ++l) {
    const auto& s = m.shape.layers[std::size_t(l)];
    const sluice::rope &a = from.shape.ropes[std::size_t(s.rope_index)], &b = ropes[std::size_t(s.rope_index)];
    const int dim = s.head_dim_k, pairs = rotary_dims(a, dim) / 2, to_pairs = rotary_dims(b, dim) / 2;
    f.resize(std::size_t(pairs)), g.resize(std::size_t(to_pairs)), row.resize(std::size_t(dim));
    rope_frequencies(a, dim, f), rope_frequencies(b, dim, g);
    for (std::int64_t t = 0; t < m.view.tokens; ++t)
      for (int h = 0; h < s.num_kv_heads; ++h) {
        for (int d = 0; d < dim; ++d) row[std::size_t(d)] = from.get(plane::key, l, t, h, d);
        rotate(row.data(), a, f, from.view.position + t, sluice::rotation::inverse);
        std::vector<float> moved = row;
        for (int i = 0; i < to_pairs && to_pairs == pairs; ++i) {
          moved[std::size_t(at(b, i, pairs).first)] = row[std::size_t(at(a, i, pairs).first)];
          moved[std::size_t(at(b, i, pairs).second)] = row[std::size_t(at(a, i, pairs).second)];
        }
        rotate(moved.data(), b, g, position + t);
        for (int d = 0; d < dim; ++d) m.set(plane::key, l, t, h, d, moved[std::size_t(d)]);
        for (int d = 0; d < s.head_dim_v; ++d) m.set(plane::value, l, t, h, d, from.get(plane::value, l, t, h, d));
      }
  }
  return m;
}

}  // namespace captures
