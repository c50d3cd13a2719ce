// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/cuda/entropy/class_tables.hpp>
#include <sluice/cuda/model.hpp>
#include <sluice/cuda/store/basis.hpp>
#include <sluice/cuda/workspace.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/tensor/rope.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

namespace sluice::cuda {

/// Puts arrays one behind the other, each at a multiple of 16.
class image_writer {
 public:
  /// Appends and returns where it lies; 0 where there is nothing.
  template <class T>
  std::uint64_t put(std::span<const T> values) {
    if (values.empty()) return 0;
    const std::uint64_t at = reserve(values.size_bytes());
    std::memcpy(bytes_.data() + at, values.data(), values.size_bytes());
    return at;
  }
  /// The same.
  template <class T>
  std::uint64_t put(const std::vector<T>& values) {
    return put(std::span<const T>(values));
  }
  /// The same for bytes to be filled in later.
  std::uint64_t reserve(std::size_t size) {
    const std::uint64_t at = bytes_.size();
    bytes_.resize((at + size + 15) / 16 * 16);
    return at;
  }
  /// Where what was reserved is to be written; until the next put().
  std::byte* at(std::uint64_t offset) noexcept { return bytes_.data() + offset; }
  /// All of it.
  std::vector<std::byte> take() && { return std::move(bytes_); }

 private:
  std::vector<std::byte> bytes_;
};

/// What the stages of a codec look up beyond the profile's own parts: a codec of another make than basic_codec's may
/// specialise it and appends to the image what its kernels want to find at model_head::own_at. Errors: the codec's.
template <class Codec>
struct image_part {
  /// Appends, and says where in the head.
  static status put(const profile&, image_writer&, model_head&) { return status::ok; }
};

/// The image of a profile for one codec, in host memory: made once, copied to every device that decodes, and needed no more
/// than that. Bases, means and classes are in it only where the codec may look at them.
template <tile_codec Codec>
class model {
  static_assert(Codec::span == 0, "sluice::cuda: a predictor that looks at lower layers has no kernel");

 public:
  /// Packs; what is wrong with the profile is said by state().
  explicit model(const profile& p) : state_(validate(p)) {
    if (state_ == status::ok) state_ = typename Codec::decoder(p, isa::best).state();
    if (state_ == status::ok) pack(p);
  }

  /// Whether the profile serves. Errors: corrupt_profile, and what the codec's decoder says of it.
  status state() const noexcept { return state_; }
  /// What is to be copied to a device, at a multiple of 16; empty where state() is not ok.
  std::span<const std::byte> image() const noexcept { return image_; }
  /// What a host knows of it.
  const model_sizes& sizes() const noexcept { return sizes_; }
  /// The model behind a copy of image().
  device_model<Codec> at(const std::byte* device_copy, const device_limits& limits = {}) const noexcept {
    return {device_copy, sizes_, limits};
  }

 private:
  static constexpr bool turns = Codec::domain == value_domain::unrotated;

  static constexpr bool codes_classes = [] {
    if constexpr (requires { typename Codec::entropy; })
      return std::is_same_v<typename Codec::entropy, class_rans>;
    else
      return false;
  }();

  // How many passes the finest step is split into.
  static int depth_of(const profile& p) noexcept {
    if constexpr (requires { Codec::quantizer::depth(p); })
      return Codec::quantizer::depth(p);
    else
      return Codec::passes(p);
  }

  // Rotary embeddings as layers use them: one for each kind and size of head, as model_ropes has them.
  struct ropes_of {
    std::vector<rope_model> all;
    std::vector<rope> kinds;
    std::vector<std::int32_t> of_layer;
    std::int32_t pairs = 0;
  };
  static ropes_of pack_ropes(const model_shape& s, image_writer& w) {
    ropes_of out;
    out.of_layer.assign(s.layers.size(), -1);
    for (std::size_t l = 0; turns && l < s.layers.size(); ++l) {
      const int dim = s.layers[l].head_dim_k;
      if (s.ropes.empty() || dim == 0) continue;
      const rope& r = s.ropes[std::size_t(s.layers[l].rope_index)];
      const int pairs = rotary_dims(r, dim) / 2;
      if (pairs == 0) continue;
      std::size_t i = 0;
      while (i < out.all.size() && !(out.all[i].head_dim == dim && out.kinds[i] == r)) ++i;
      out.of_layer[l] = std::int32_t(i);
      if (i < out.all.size()) continue;
      std::vector<double> frequency(std::size_t(pairs), 0);
      rope_frequencies(r, dim, frequency);
      out.kinds.push_back(r);
      out.all.push_back({std::int32_t(r.pairing), pairs, out.pairs, dim, w.put(frequency), r.attention_factor});
      out.pairs += pairs;
    }
    return out;
  }

  void pack(const profile& p) {
    const bool uses = Codec::uses(p);
    image_writer w;
    w.reserve(sizeof(model_head));
    model_head h{};
    h.codec = Codec::id;
    h.fingerprint = fingerprint_of<Codec>(p);
    h.layers = p.shape.num_layers();
    h.passes = Codec::passes(p);
    h.depth = depth_of(p);
    h.uses_profile = uses;
    h.domain = std::int32_t(Codec::domain);
    const ropes_of ropes = pack_ropes(p.shape, w);
    h.ropes = std::int32_t(ropes.all.size());
    h.rope_pairs = ropes.pairs;
    h.ropes_at = w.put(ropes.all);

    std::vector<plane_model> planes;
    std::vector<group_model> groups;
    for (std::size_t at = 0; at < p.planes.size(); ++at) {
      const plane_profile& q = p.planes[at];
      const layer_shape& l = p.shape.layers[at / 2];
      const int which = int(at % 2), dim = l.head_dim(plane(which));
      plane_model m{};
      m.heads = dim ? l.num_kv_heads : 0;
      m.head_dim = dim;
      m.group_width = q.group_width;
      m.groups = q.groups();
      m.first_group = std::int32_t(groups.size());
      m.rope = which ? -1 : ropes.of_layer[at / 2];
      m.window = l.window;
      m.scale = uses ? q.scale : 1.f;
      planes.push_back(m);
      for (int g = 0; g < m.groups; ++g) {
        group_model n{};
        n.layer = std::int32_t(at / 2);
        n.plane = which;
        n.heads = q.width_of(g) / dim;
        n.first_head = g * (q.group_width / dim);
        n.width = q.width_of(g);
        n.ld = sluice::detail::padded(n.width);
        n.columns_before = h.columns;
        h.columns += n.ld;
        h.max_width = sluice::detail::max(h.max_width, n.ld);
        if (uses && turns) pack_group(q, g, m.rope < 0 ? nullptr : &ropes.all[std::size_t(m.rope)], n, w);
        groups.push_back(n);
      }
    }
    h.strands = std::int32_t(groups.size());
    h.planes_at = w.put(planes);
    h.groups_at = w.put(groups);
    if constexpr (codes_classes) {
      h.class_tables_at = w.reserve(class_tables_bytes);
      pack_class_tables(w.at(h.class_tables_at));
    }
    state_ = image_part<Codec>::put(p, w, h);
    if (state_ != status::ok) return;
    image_ = std::move(w).take();
    h.size = image_.size();
    std::memcpy(image_.data(), &h, sizeof h);
    sizes_ = {h.layers, h.passes, h.strands, h.rope_pairs, h.max_width, h.columns, Codec::domain};
  }

  static void pack_group(const plane_profile& q, int g, const rope_model* rope, group_model& n, image_writer& w) {
    const std::size_t first = std::size_t(g) * std::size_t(q.group_width), width = std::size_t(n.width);
    if (!q.mean.empty()) {
      std::vector<float> mean(std::size_t(n.ld), 0.f);
      for (std::size_t i = 0; i < width; ++i) mean[i] = to_float(f16{q.mean[first + i]});
      n.mean_at = w.put(mean);
    }
    if (!q.classes.empty()) {
      std::vector<std::uint8_t> classes(std::size_t(n.ld), std::uint8_t{0});
      for (std::size_t i = 0; i < width; ++i) classes[i] = q.classes[first + i];
      n.classes_at = w.put(classes);
    }
    const std::uint16_t* const m = q.matrix_of(g);
    if (!m) return;
    n.matrix_at = w.put(std::span(m, width * width));
    const column_plan plan{n.heads, n.width / n.heads, rope ? rope->pairs : 0,
                           rope ? rope_pairing(rope->pairing) : rope_pairing::none};
    n.basis_at = w.reserve(basis_size(plan, n.ld));
    pack_basis(plan, m, &q.mean[first], n.ld, w.at(n.basis_at));
    n.columns_at = w.reserve(columns_size(plan));
    pack_columns(plan, w.at(n.columns_at));
  }

  status state_;
  std::vector<std::byte> image_;
  model_sizes sizes_;
};

}  // namespace sluice::cuda
