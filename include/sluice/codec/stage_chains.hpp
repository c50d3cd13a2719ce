// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/row_classes.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/model/profile.hpp>

#include <cstdint>
#include <span>
#include <vector>

// The stages of basic_codec in a row, each way: what is done with the rows of a tile once nothing is predicted of them any
// more.

namespace sluice::detail::inline SLUICE_HOST_ABI {

// Transform, quantiser and entropy model, from rows to the sections of a tile.
template <class Transform, class Quantizer, class BitWidths, class EntropyModel>
class forward_stages {
 public:
  // Of a codec whose grouping policy says how many heads share a basis; 0 = as many as the profile's do.
  forward_stages(const profile& p, isa i, int heads_per_basis)
      : profile_(&p), transform_(p, i), quantizer_(i), entropy_(p, i), state_(check(p, heads_per_basis)) {}

  status state() const noexcept { return state_; }

  // `wanted`: the class of every row, or none. too_large where the tile is better kept as it is.
  status encode(tile_rows& in, std::span<const row_class> wanted, int passes, tile_writer& w) {
    wanted_.assign(wanted.begin(), wanted.end());
    s_.place = in.place;
    s_.width = in.place.width();
    s_.ld = padded(s_.width);
    s_.passes = Quantizer::depth(*profile_);
    s_.made = passes;
    s_.bits = 0;
    if constexpr (Quantizer::fixed_width)
      s_.bits = BitWidths::bits(in.place.layer, in.place.plane, in.place.num_layers);
    if (const status e = quantize(in, w); e != status::ok) return e;
    if (s_.rows == 0) return w.clear(), status::ok;
    quantizer_.split(s_);
    if (const status e = entropy_.encode(s_, w); e != status::ok) return e;
    s_.classes.write(w.at(0, section::steps));
    return status::ok;
  }

 private:
  // The grouping policy must agree with the basis of the profile, where there is one.
  status check(const profile& p, int heads_per_basis) const noexcept {
    if (transform_.state() != status::ok) return transform_.state();
    if (heads_per_basis != 0)
      for (std::size_t at = 0; at < p.planes.size(); ++at) {
        const plane_profile& q = p.planes[at];
        const layer_shape& l = p.shape.layers[at / 2];
        const int dim = l.head_dim(at % 2 ? plane::value : plane::key);
        if (q.groups() && !q.matrix.empty() && q.group_width != basis_heads(heads_per_basis, l.num_kv_heads, dim) * dim)
          return status::wrong_profile;
      }
    return status::ok;
  }

  // Room for rows that a stage fills up to their width; only what lies behind that is zero.
  template <class T>
  static void make_rows(std::vector<T>& v, int rows, int width, std::ptrdiff_t ld) {
    v.resize(std::size_t(rows) * std::size_t(ld));
    for (int r = 0; r < rows; ++r)
      for (std::ptrdiff_t i = width; i < ld; ++i) v[std::size_t(r * ld + i)] = 0;
  }

  void resize(const tile_rows& in) {
    s_.rows = in.count();
    make_rows(s_.finest, s_.rows, s_.width, s_.ld);
    beyond_.assign(std::size_t(s_.rows), 0);
    s_.classes.assign(wanted_);
    shrink_.clear();
    if (!s_.classes.empty())
      for (int r = 0; r < s_.rows; ++r) shrink_.push_back(1 / s_.classes.scale()[r]);
  }

  // Rows that the quantiser cannot hold become exact. Returns whether there were any.
  bool make_exact(tile_rows& in) {
    std::size_t kept = 0;
    for (std::size_t r = 0; r < wanted_.size(); ++r)
      if (!beyond_[r]) wanted_[kept++] = wanted_[r];
    wanted_.resize(kept);
    return in.make_exact(beyond_);
  }

  // Fills s_.finest.
  status quantize(tile_rows& in, tile_writer& w) {
    if constexpr (Quantizer::rounds && requires(std::int16_t * v, std::uint8_t * b) {
                    transform_.rounded(in, v, s_.ld, b);
                    { transform_.calibrated(in.place) } -> std::same_as<bool>;
                  })
      if (transform_.calibrated(in.place) && !BitWidths::measures(true)) {
        w.clear();
        s_.calibrated = true;
        do {
          resize(in);
          if (s_.rows == 0) continue;
          if constexpr (scales_rows<Transform>)
            transform_.rounded(in, s_.finest.data(), s_.ld, beyond_.data(), shrink_.empty() ? nullptr : shrink_.data());
          else
            transform_.rounded(in, s_.finest.data(), s_.ld, beyond_.data());
        } while (make_exact(in));
        return status::ok;
      }
    do {
      w.clear();
      c_.rows = in.count();
      c_.width = s_.width;
      c_.ld = s_.ld;
      make_rows(c_.y, c_.rows, c_.width, c_.ld);
      if (const status e = transform_.forward(in, c_, w); e != status::ok) return e;
      wanted_.clear();  // rows have steps where the profile describes them
      resize(in);
      if (s_.rows == 0) return status::ok;
      float step = 1;
      if constexpr (!Quantizer::fixed_width)
        if (BitWidths::measures(c_.calibrated))
          step = BitWidths::step(in.place.layer, in.place.plane, in.place.num_layers,
                                 coefficient_statistics(c_, s_.passes));
      if (const status e = quantizer_.quantize(c_, step, s_, beyond_, w); e != status::ok) return e;
    } while (make_exact(in));
    return status::ok;
  }

  const profile* profile_;
  typename Transform::encoder transform_;
  typename Quantizer::encoder quantizer_;
  typename EntropyModel::encoder entropy_;
  status state_;
  coefficients c_;
  symbols s_;
  std::vector<row_class> wanted_;
  std::vector<float> shrink_;
  std::vector<std::uint8_t> beyond_;
};

// Entropy model, quantiser and transform, from the sections of tiles to rows; `Steps`: whether rows have their own.
template <class Transform, class Quantizer, class EntropyModel, bool Steps>
class inverse_stages {
 public:
  inverse_stages(const profile& p, isa i) : profile_(&p), transform_(p, i), quantizer_(i), entropy_(p, i) {}
  status state() const noexcept { return transform_.state(); }

  // At the level of each tile; what a tile's state says already stays.
  void restore(std::span<tile* const> tiles) {
    std::size_t coded = 0;
    for (std::size_t i = 0; i < tiles.size(); ++i) {
      tile& t = *tiles[i];
      batch_of_[t.slot] = int(i);
      decoded_symbols& s = batch_[i];
      s.tile = &t;
      s.calibrated = transform_.calibrated(t.place);
      s.passes = Quantizer::depth(*profile_);
      s.bits = 0;
      s.ld = padded(t.place.width());
      s.live = t.place.width();
      for (std::uint16_t& n : s.live_of) n = std::uint16_t(s.live);
      s.corrections.clear();
      s.state = t.state;
      values_[i].assign(std::size_t(t.rows()) * std::size_t(s.ld), 0);
      s.values = values_[i].data();
      s.classes = nullptr;
      if constexpr (Steps) {
        if (!classes_[i].parse(t.section(0, section::steps), t.rows())) s.state = status::corrupt_tile;
        if (!classes_[i].empty()) s.classes = &classes_[i];
      }
      if (!transform_.open(t, t.slot) || !quantizer_.open(t, t.slot, s)) s.state = status::corrupt_tile;
      // A tile without rows has no sections.
      if (t.rows() == 0)
        for (int pass = 0; pass <= t.level; ++pass)
          if (!t.section(pass, section::entropy).empty()) s.state = status::corrupt_tile;
      coded += t.rows() > 0 && s.state == status::ok;
    }
    if (coded == tiles.size()) {
      entropy_.decode({batch_, tiles.size()});
    } else {
      for (std::size_t i = 0; i < tiles.size(); ++i)
        if (tiles[i]->rows() > 0 && batch_[i].state == status::ok) entropy_.decode({&batch_[i], 1});
    }
    for (std::size_t i = 0; i < tiles.size(); ++i)
      if (batch_[i].state != status::ok) tiles[i]->state = batch_[i].state;
  }

  void rows(const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
    const int at = batch_of_[t.slot];
    if constexpr (passes_through<Transform> && restores_floats<Quantizer>) {
      quantizer_.floats(t, t.slot, batch_[at], first, n, out, ld);
    } else {
      coefficient_rows c;
      quantizer_.restore(t, t.slot, batch_[at], first, n, c);
      if (!classes_[at].empty()) c.row_scale = classes_[at].scale() + first;
      transform_.inverse(t, t.slot, c, out, ld);
    }
  }

 private:
  const profile* profile_;
  typename Transform::decoder transform_;
  typename Quantizer::decoder quantizer_;
  typename EntropyModel::decoder entropy_;
  decoded_symbols batch_[tiles_at_once];
  int batch_of_[tiles_at_once] = {};
  std::vector<std::int16_t> values_[tiles_at_once];
  row_classes classes_[tiles_at_once];
};

}  // namespace sluice::detail::inline SLUICE_HOST_ABI
