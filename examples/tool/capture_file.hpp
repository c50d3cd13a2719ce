// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <capture_layout.hpp>
#include <safetensors.hpp>
#include <sluice/calibrate/calibrate.hpp>
#include <sluice/tensor/view.hpp>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

/// A capture in memory, shown as views; its form is that of capture_layout. For calibration also q2.{layer}
/// F32 [kv_heads, head_dim], wo.{layer} F32 [kv_heads, head_dim_v, head_dim_v] and q.{layer} F16 [last tokens, heads,
/// head_dim] (see capture_layer); of another form they are left aside and listed in ignored().
class capture_file {
 public:
  /// Reads and checks; on failure returns what is wrong, in words. Windows that the capture does not name are those of `model`.
  std::optional<std::string> open(const std::string& path, const sluice::model_shape* model = nullptr) {
    groups_.clear();
    ignored_.clear();
    layout_ = {};
    if (safetensors::problem p = file_.open(path)) return p.message();
    if (const auto wrong = layout_.read(file_.meta(), file_.tensors(), model)) return path + ": " + *wrong;
    for (int l = 0; l < shape().num_layers(); ++l)
      if (layout_.layers[std::size_t(l)].k)
        if (const auto wrong = add_layer(l)) return path + ": " + *wrong;
    for (group& g : groups_) finish(g);
    return std::nullopt;
  }

  const sluice::model_shape& shape() const noexcept { return layout_.shape; }
  const capture_layout& layout() const noexcept { return layout_; }
  const safetensors::file& file() const noexcept { return file_; }
  std::string model() const {
    const auto m = file_.meta().find("model");
    return m == file_.meta().end() ? std::string() : m->second;
  }
  /// Tensors for calibration that are not of the form it needs.
  const std::vector<std::string>& ignored() const noexcept { return ignored_; }

  /// One view for each set of like layers.
  std::vector<sluice::kv_view> views() const {
    std::vector<sluice::kv_view> out;
    for (const group& g : groups_) out.push_back(g.view);
    return out;
  }
  /// Of the longest layer, and where it begins in the sequence.
  std::int64_t tokens() const noexcept { return layout_.tokens; }
  std::int64_t position() const noexcept { return layout_.position; }

  /// The same with what calibration wants to know, one capture a group.
  std::vector<sluice::capture> captures() const {
    std::vector<sluice::capture> out;
    for (const group& g : groups_) out.push_back({g.view, g.known, g.query_tokens, g.num_heads});
    return out;
  }

 private:
  struct group {
    sluice::kv_view view;
    std::vector<std::int32_t> ids;
    std::vector<std::byte*> k, v;
    std::vector<sluice::capture_layer> known;
    std::int32_t query_tokens = 0, num_heads = 0;
  };

  static sluice::plane_view plane_of(const safetensors::tensor* t) noexcept {
    sluice::plane_view p;
    if (!t) return p;
    p.type = *type_of(t->type);
    p.head_dim = std::int32_t(t->shape[2]);
    p.element_stride = sluice::size_of(p.type);
    p.head_stride = p.element_stride * p.head_dim;
    p.token_stride = p.head_stride * t->shape[1];
    return p;
  }

  // Layers of one view are alike in all that a view says of them.
  static bool alike(const sluice::plane_view& a, const sluice::plane_view& b) noexcept {
    return a.type == b.type && a.head_dim == b.head_dim;
  }

  std::optional<std::string> add_layer(int l) {
    const capture_layout::layer& at = layout_.layers[std::size_t(l)];
    const sluice::layer_shape& s = shape().layers[std::size_t(l)];
    const sluice::plane_view k = plane_of(at.k), v = plane_of(at.v);
    for (const safetensors::tensor* t : {at.k, at.v})
      if (t && file_.bytes(*t).size() != std::size_t(at.tokens) * std::size_t(plane_of(t).token_stride))
        return t->name + " has another size than its shape says";

    sluice::capture_layer known;
    const safetensors::tensor* queries = nullptr;
    const auto floats = [&](const char* name, std::size_t count) -> const float* {
      const safetensors::tensor* t = file_.find(std::string(name) + "." + std::to_string(l));
      const auto x = t && t->type == safetensors::dtype::f32 ? file_.values<float>(t) : std::span<const float>();
      if (t && x.size() != count) ignored_.push_back(t->name);
      return count && x.size() == count ? x.data() : nullptr;
    };
    const std::size_t h = std::size_t(s.num_kv_heads), dk = std::size_t(s.head_dim_k), dv = std::size_t(s.head_dim_v);
    known.q2 = floats("q2", h * dk);
    known.wo = floats("wo", h * dv * dv);
    if (const safetensors::tensor* q = file_.find("q." + std::to_string(l))) {
      if (q->type == safetensors::dtype::f16 && q->shape.size() == 3 && q->shape[2] == s.head_dim_k &&
          q->shape[0] > 0 && q->shape[0] <= at.tokens && q->shape[1] > 0 && q->shape[1] % s.num_kv_heads == 0 &&
          q->shape[1] <= 1 << 20) {
        queries = q;
        known.queries = reinterpret_cast<const sluice::f16*>(file_.bytes(*q).data());
      } else {
        ignored_.push_back(q->name);
      }
    }
    const std::int32_t query_tokens = queries ? std::int32_t(queries->shape[0]) : 0;
    const std::int32_t num_heads = queries ? std::int32_t(queries->shape[1]) : 0;

    group* g = nullptr;
    for (group& other : groups_)
      if (other.view.num_kv_heads == s.num_kv_heads && other.view.tokens == at.tokens && alike(other.view.k, k) &&
          other.v.empty() == !at.v && (!at.v || alike(other.view.v, v)) && other.query_tokens == query_tokens &&
          other.num_heads == num_heads)
        g = &other;
    if (!g) {
      g = &groups_.emplace_back();
      g->view.k = k;
      g->view.v = v;
      g->view.num_kv_heads = s.num_kv_heads;
      g->view.tokens = g->view.capacity = at.tokens;
      g->view.position = at.position;
      g->query_tokens = query_tokens;
      g->num_heads = num_heads;
    }
    g->ids.push_back(l);
    g->k.push_back(file_.bytes(*at.k).data());
    if (at.v) g->v.push_back(file_.bytes(*at.v).data());
    g->known.push_back(known);
    return std::nullopt;
  }

  static void finish(group& g) {
    g.view.num_layers = std::int32_t(g.ids.size());
    g.view.layer_ids = g.ids.data();
    g.view.k.layer_bases = g.k.data();
    if (!g.v.empty()) g.view.v.layer_bases = g.v.data();
  }

  safetensors::file file_;
  capture_layout layout_;
  std::vector<group> groups_;
  std::vector<std::string> ignored_;
};
