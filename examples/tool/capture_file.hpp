// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <safetensors.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/model/calibrate.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/tensor/view.hpp>

#include <charconv>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// A capture: k.{layer}, v.{layer} [tokens, kv_heads, head_dim] with K after RoPE; for calibration q2.{layer}, wo.{layer},
/// q.{layer}; metadata with rope_base.{layer} and window.{layer}. Layers may differ in heads, sizes and tokens.
class capture_file {
 public:
  /// Reads and checks; on failure returns what is wrong, in words.
  std::optional<std::string> open(const std::string& path) {
    if (safetensors::problem p = file_.open(path)) return p.message();
    shape_ = {};
    groups_.clear();
    for (int l = 0;; ++l) {
      const safetensors::tensor* k = file_.find("k." + std::to_string(l));
      const safetensors::tensor* v = file_.find("v." + std::to_string(l));
      if (!k && !v) break;
      const std::string which = path + ": layer " + std::to_string(l) + ": ";
      if (!k) return which + "has v but no k";
      sluice::layer_shape s;
      for (const safetensors::tensor* t : {k, v}) {
        if (!t) continue;
        if (t->shape.size() != 3 || !type_of(t->type)) return which + t->name + " is not [tokens, heads, head_dim] of a float type";
        if (t->shape[0] != k->shape[0] || t->shape[1] != k->shape[1]) return which + "k and v disagree";
        if (t->shape[1] < 1 || t->shape[1] > 4096 || t->shape[2] < 1 || t->shape[2] > 16384 || t->shape[0] > sluice::max_frame_tokens)
          return which + "sizes are absurd";
      }
      s.num_kv_heads = std::int32_t(k->shape[1]);
      s.head_dim_k = std::int32_t(k->shape[2]);
      s.head_dim_v = v ? std::int32_t(v->shape[2]) : 0;
      if (const auto e = read_rope(l, s)) return path + ": " + *e;
      shape_.layers.push_back(s);
      add_layer(l, s, *k, v);
    }
    if (shape_.layers.empty()) return path + ": holds no k.0";
    for (group& g : groups_) finish(g);
    return std::nullopt;
  }

  const sluice::model_shape& shape() const noexcept { return shape_; }
  const safetensors::file& file() const noexcept { return file_; }
  std::string model() const {
    const auto m = file_.meta().find("model");
    return m == file_.meta().end() ? std::string() : m->second;
  }

  /// One view for each set of like layers.
  std::vector<sluice::kv_view> views() const {
    std::vector<sluice::kv_view> out;
    for (const group& g : groups_) out.push_back(g.view);
    return out;
  }
  std::int64_t tokens() const noexcept {
    std::int64_t n = 0;
    for (const group& g : groups_) n = std::max(n, g.view.tokens);
    return n;
  }

  /// The same with what calibration wants to know, one capture a group.
  std::vector<sluice::capture> captures() const {
    std::vector<sluice::capture> out;
    for (const group& g : groups_) out.push_back({g.view, g.known, g.query_tokens, g.num_heads});
    return out;
  }

  static std::optional<sluice::dtype> type_of(safetensors::dtype t) noexcept {
    switch (t) {
      case safetensors::dtype::f32: return sluice::dtype::f32;
      case safetensors::dtype::f16: return sluice::dtype::f16;
      case safetensors::dtype::bf16: return sluice::dtype::bf16;
      case safetensors::dtype::f8_e4m3: return sluice::dtype::e4m3;
      case safetensors::dtype::f8_e5m2: return sluice::dtype::e5m2;
      case safetensors::dtype::u8: return sluice::dtype::bytes;
      default: return std::nullopt;
    }
  }
  static safetensors::dtype type_of(sluice::dtype t) noexcept {
    switch (t) {
      case sluice::dtype::f32: return safetensors::dtype::f32;
      case sluice::dtype::f16: return safetensors::dtype::f16;
      case sluice::dtype::bf16: return safetensors::dtype::bf16;
      case sluice::dtype::e4m3: return safetensors::dtype::f8_e4m3;
      case sluice::dtype::e5m2: return safetensors::dtype::f8_e5m2;
      case sluice::dtype::bytes: return safetensors::dtype::u8;
    }
    return safetensors::dtype::u8;
  }

 private:
  struct group {
    sluice::kv_view view;
    sluice::layer_shape shape;
    std::vector<std::int32_t> ids;
    std::vector<std::byte*> k, v;
    std::vector<sluice::capture_layer> known;
    std::int32_t query_tokens = 0, num_heads = 0;
  };

  std::optional<std::string> read_rope(int layer, sluice::layer_shape& s) {
    const auto number = [&](const std::string& key, double fallback) -> std::optional<double> {
      const auto m = file_.meta().find(key + "." + std::to_string(layer));
      if (m == file_.meta().end()) return fallback;
      double x = 0;
      const auto [end, error] = std::from_chars(m->second.data(), m->second.data() + m->second.size(), x);
      if (error != std::errc{} || end != m->second.data() + m->second.size()) return std::nullopt;
      return x;
    };
    const auto base = number("rope_base", 0), window = number("window", 0);
    if (!base || !window || !(*base >= 0 && *base < 1e30) || !(*window >= 0 && *window < 1e9))
      return "metadata rope_base or window of layer " + std::to_string(layer) + " is no sensible number";
    sluice::rope r;
    if (*base > 0)
      r.base = *base;
    else
      r.pairing = sluice::rope_pairing::none;
    s.window = std::int32_t(*window);
    std::size_t i = 0;
    while (i < shape_.ropes.size() && !(shape_.ropes[i] == r)) ++i;
    if (i == shape_.ropes.size()) shape_.ropes.push_back(r);
    s.rope_index = std::int32_t(i);
    return std::nullopt;
  }

  void add_layer(int l, const sluice::layer_shape& s, const safetensors::tensor& k, const safetensors::tensor* v) {
    group* g = nullptr;
    for (group& other : groups_)
      if (other.shape.num_kv_heads == s.num_kv_heads && other.shape.head_dim_k == s.head_dim_k &&
          other.shape.head_dim_v == s.head_dim_v && other.view.tokens == k.shape[0] &&
          other.view.k.type == *type_of(k.type))
        g = &other;
    if (!g) {
      g = &groups_.emplace_back();
      g->shape = s;
      g->view.num_kv_heads = s.num_kv_heads;
      g->view.tokens = g->view.capacity = k.shape[0];
      for (sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
        const safetensors::tensor* t = p == sluice::plane::key ? &k : v;
        if (!t) continue;
        sluice::plane_view& q = p == sluice::plane::key ? g->view.k : g->view.v;
        q.type = *type_of(t->type);
        q.head_dim = s.head_dim(p);
        q.element_stride = sluice::size_of(q.type);
        q.head_stride = q.element_stride * q.head_dim;
        q.token_stride = q.head_stride * s.num_kv_heads;
      }
    }
    g->ids.push_back(l);
    g->k.push_back(file_.bytes(k).data());
    if (v) g->v.push_back(file_.bytes(*v).data());
    sluice::capture_layer known;
    const auto floats = [&](const char* name, std::size_t count) -> const float* {
      const safetensors::tensor* t = file_.find(std::string(name) + "." + std::to_string(l));
      const auto x = t && t->type == safetensors::dtype::f32 ? file_.values<float>(t) : std::span<const float>();
      return x.size() == count ? x.data() : nullptr;
    };
    const std::size_t h = std::size_t(s.num_kv_heads), dk = std::size_t(s.head_dim_k), dv = std::size_t(s.head_dim_v);
    known.q2 = floats("q2", h * dk);
    if (dv) known.wo = floats("wo", h * dv * dv);
    if (const safetensors::tensor* q = file_.find("q." + std::to_string(l));
        q && q->type == safetensors::dtype::f16 && q->shape.size() == 3 && q->shape[2] == s.head_dim_k &&
        q->shape[0] > 0 && q->shape[0] <= k.shape[0] && q->shape[1] > 0 && q->shape[1] % s.num_kv_heads == 0 &&
        (g->query_tokens == 0 || (g->query_tokens == q->shape[0] && g->num_heads == q->shape[1]))) {
      known.queries = reinterpret_cast<const sluice::f16*>(file_.bytes(*q).data());
      g->query_tokens = std::int32_t(q->shape[0]);
      g->num_heads = std::int32_t(q->shape[1]);
    }
    g->known.push_back(known);
  }

  static void finish(group& g) {
    g.view.num_layers = std::int32_t(g.ids.size());
    g.view.layer_ids = g.ids.data();
    g.view.k.layer_bases = g.k.data();
    if (!g.v.empty()) g.view.v.layer_bases = g.v.data();
  }

  mutable safetensors::file file_;
  sluice::model_shape shape_;
  std::vector<group> groups_;
};
