// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans.hpp>
#include <sluice/codec/group/tile_tokens.hpp>
#include <sluice/codec/predict/no_prediction.hpp>
#include <sluice/codec/quantize/embedded.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/transform/profile_basis.hpp>
#include <sluice/codec/width/profile_steps.hpp>

#include <cstdint>
#include <span>
#include <type_traits>
#include <vector>

namespace sluice::detail {

// One sentence for each part that a policy lacks; the compiler names the policy beside it. Bases of basic_codec, so that
// they speak before anything else does.
template <class P>
struct grouping_checks {
  static_assert(grouping_policy<P>, "sluice::basic_codec: this grouping policy lacks tokens or heads_per_basis");
};
template <class P>
struct predictor_checks {
  static_assert(has_id<P>, "sluice::basic_codec: this predictor policy lacks a stage_id `id`");
  static_assert(has_span<P>, "sluice::basic_codec: this predictor policy lacks `span` or `predicts`");
  static_assert(can_predict<P>,
                "sluice::basic_codec: this predictor policy lacks a constructor from a profile or "
                "bool predict(place, range, rows, side, out, ld)");
  static_assert(can_learn<P>,
                "sluice::basic_codec: this predictor policy has a span and lacks learn(place, range, rows, x, ld) or "
                "forget()");
  static_assert(
      requires { requires P::predicts || P::span == 0; } || !has_span<P>,
      "sluice::basic_codec: a predictor with a span must predict");
};
template <class P>
struct transform_checks {
  static_assert(has_id<P>, "sluice::basic_codec: this transform policy lacks a stage_id `id`");
  static_assert(has_domain<P>, "sluice::basic_codec: this transform policy lacks a value_domain `domain`");
  static_assert(
      requires { requires P::domain != value_domain::stored; } || !has_domain<P>,
      "sluice::basic_codec: transforms work on floats; elements as stored are coded by stored_codec");
  static_assert(has_uses<P>, "sluice::basic_codec: this transform policy lacks bool uses(profile)");
  static_assert(can_transform<P>,
                "sluice::basic_codec: this transform policy lacks an encoder{profile, isa} with state() and "
                "status forward(rows, out, writer)");
  static_assert(
      can_invert<P>,
      "sluice::basic_codec: this transform policy lacks a decoder{profile, isa} with state(), calibrated(place), "
      "open(tile, slot) and inverse(tile, slot, rows, out, ld)");
};
template <class P>
struct quantizer_checks {
  static_assert(has_id<P>, "sluice::basic_codec: this quantiser policy lacks a stage_id `id`");
  static_assert(has_passes<P>,
                "sluice::basic_codec: this quantiser policy lacks `passes`, `fixed_width`, `rounds` or depth(profile)");
  static_assert(
      requires { requires P::passes >= 1 && P::passes <= max_passes; } || !has_passes<P>,
      "sluice::basic_codec: a quantiser's `passes` must be from 1 to max_passes");
  static_assert(can_quantize<P>,
                "sluice::basic_codec: this quantiser policy lacks an encoder{isa} with "
                "status quantize(in, step, out, beyond, writer) and split(out)");
  static_assert(can_restore<P>,
                "sluice::basic_codec: this quantiser policy lacks a decoder{isa} with open(tile, slot, out) and "
                "restore(tile, slot, in, first, n, out)");
};
template <class P>
struct bit_widths_checks {
  static_assert(has_id<P>, "sluice::basic_codec: this bit-width policy lacks a stage_id `id`");
};
template <class P>
struct entropy_checks {
  static_assert(has_id<P>, "sluice::basic_codec: this entropy model lacks a stage_id `id`");
  static_assert(has_fixed_width<P>, "sluice::basic_codec: this entropy model lacks `fixed_width`");
  static_assert(has_uses<P>, "sluice::basic_codec: this entropy model lacks bool uses(profile)");
  static_assert(can_encode<P>,
                "sluice::basic_codec: this entropy model lacks an encoder{profile, isa} with "
                "status encode(symbols, writer)");
  static_assert(can_decode<P>,
                "sluice::basic_codec: this entropy model lacks a decoder{profile, isa} with decode(batch)");
};

}  // namespace sluice::detail

namespace sluice::codec {

inline namespace SLUICE_HOST_ABI {

/// The library's tile codec: one policy per stage of the pipeline, each of them open (stages.hpp says what it must
/// offer) and each recorded in the frame. Rebind one stage with with_*<>, e.g. standard::with_grouping<tile_tokens<128>>.
template <class Grouping = tile_tokens<>, class Predictor = no_prediction, class Transform = profile_basis,
          class Quantizer = embedded<>, class BitWidths = profile_steps, class EntropyModel = class_rans>
struct basic_codec : detail::grouping_checks<Grouping>,
                     detail::predictor_checks<Predictor>,
                     detail::transform_checks<Transform>,
                     detail::quantizer_checks<Quantizer>,
                     detail::bit_widths_checks<BitWidths>,
                     detail::entropy_checks<EntropyModel> {
  using grouping = Grouping;     ///< tokens of a tile, heads that share a basis
  using predictor = Predictor;   ///< what is subtracted before the transform
  using transform = Transform;   ///< rows to coefficients
  using quantizer = Quantizer;   ///< coefficients to integers
  using bit_widths = BitWidths;  ///< how fine
  using entropy = EntropyModel;  ///< integers to bytes

  /// @name The same codec with another policy for one stage.
  /// @{

  /// The same codec with another policy for one stage.
  template <class G>
  using with_grouping = basic_codec<G, Predictor, Transform, Quantizer, BitWidths, EntropyModel>;
  template <class P>
  using with_predictor = basic_codec<Grouping, P, Transform, Quantizer, BitWidths, EntropyModel>;
  template <class T>
  using with_transform = basic_codec<Grouping, Predictor, T, Quantizer, BitWidths, EntropyModel>;
  template <class Q>
  using with_quantizer = basic_codec<Grouping, Predictor, Transform, Q, BitWidths, EntropyModel>;
  template <class B>
  using with_bit_widths = basic_codec<Grouping, Predictor, Transform, Quantizer, B, EntropyModel>;
  template <class E>
  using with_entropy = basic_codec<Grouping, Predictor, Transform, Quantizer, BitWidths, E>;
  /// @}

  static_assert(Quantizer::fixed_width || sets_steps<BitWidths>,
                "sluice::basic_codec: this quantizer needs a bit-width policy with step() and measures()");
  static_assert(!Quantizer::fixed_width || sets_bits<BitWidths>,
                "sluice::basic_codec: this quantizer needs a bit-width policy with bits(), such as uniform_bits");
  static_assert(
      !EntropyModel::fixed_width || Quantizer::fixed_width,
      "sluice::basic_codec: this entropy model packs codes of a fixed width: take a quantizer that makes them, "
      "such as ranged");

  static constexpr codec_id id{
      stage_id::of(0, Grouping::tokens), Predictor::id, Transform::id, Quantizer::id, BitWidths::id, EntropyModel::id};
  static constexpr int tile_tokens = Grouping::tokens;
  static constexpr value_domain domain = Transform::domain;
  static constexpr int span = Predictor::span;

  static int passes(const profile& p) noexcept { return detail::min(Quantizer::passes, Quantizer::depth(p)); }
  /// The first tokens of a sequence (attention sinks).
  static bool keeps_exact(const profile& p, std::int64_t position, std::int64_t /*end*/) noexcept {
    return position < p.sinks;
  }
  /// What a stage says that it reads; a predictor may read everything, and of several levels the profile says how many.
  static bool uses(const profile& p) noexcept {
    return Transform::uses(p) || EntropyModel::uses(p) || Predictor::predicts || Quantizer::depth(p) > 1;
  }

  class decoder;

  class encoder {
   public:
    encoder(const profile& p, isa i)
        : profile_(&p), transform_(p, i), quantizer_(i), entropy_(p, i), prediction_(p, i), state_(check(p)) {}

    status state() const noexcept { return state_; }

    void begin_tile() requires(Predictor::span > 0) { prediction_.back.begin_tile(); }

    status encode(tile_rows& in, const side_info& side, int passes, tile_writer& w) {
      if (in.count() == 0) return status::ok;
      prediction_.subtract(in, side);
      s_.place = in.place;
      s_.width = in.place.width();
      s_.ld = detail::padded(s_.width);
      s_.passes = Quantizer::depth(*profile_);
      s_.made = passes;
      s_.bits = 0;
      if constexpr (Quantizer::fixed_width)
        s_.bits = BitWidths::bits(in.place.layer, in.place.plane, in.place.num_layers);
      if (const status e = quantize(in, w); e != status::ok) return e;
      if (s_.rows == 0) return w.clear(), status::ok;
      quantizer_.split(s_);
      if (const status e = entropy_.encode(s_, w); e != status::ok) return e;
      if constexpr (Predictor::span > 0) {
        // A tile that will be kept as it is must not be learnt here: no decoder will.
        const std::size_t row_bytes = std::size_t(s_.width) * std::size_t(size_of(in.type));
        if (w.size(passes, in.exact.size(), row_bytes) >
            tile_writer::stored_size(std::size_t(in.range.count), row_bytes))
          return status::too_large;
        prediction_.learn(in, side, w);
      }
      return status::ok;
    }

   private:
    // The grouping policy must agree with the basis of the profile, where there is one.
    status check(const profile& p) const noexcept {
      if (transform_.state() != status::ok) return transform_.state();
      if constexpr (Grouping::heads_per_basis != 0)
        for (std::size_t at = 0; at < p.planes.size(); ++at) {
          const plane_profile& q = p.planes[at];
          const layer_shape& l = p.shape.layers[at / 2];
          const int dim = l.head_dim(at % 2 ? plane::value : plane::key);
          if (q.groups() && !q.matrix.empty() &&
              q.group_width != basis_heads(Grouping::heads_per_basis, l.num_kv_heads, dim) * dim)
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
    }

    // Fills s_.finest; rows that the quantiser cannot hold become exact.
    status quantize(tile_rows& in, tile_writer& w) {
      if constexpr (Quantizer::rounds && requires(std::int16_t * v, std::uint8_t * b) {
                      transform_.rounded(in, v, s_.ld, b);
                      { transform_.calibrated(in.place) } -> std::same_as<bool>;
                    })
        if (transform_.calibrated(in.place) && !BitWidths::measures(true)) {
          s_.calibrated = true;
          do {
            resize(in);
            if (s_.rows) transform_.rounded(in, s_.finest.data(), s_.ld, beyond_.data());
          } while (in.make_exact(beyond_));
          return status::ok;
        }
      do {
        w.clear();
        c_.rows = in.count();
        c_.width = s_.width;
        c_.ld = s_.ld;
        make_rows(c_.y, c_.rows, c_.width, c_.ld);
        if (const status e = transform_.forward(in, c_, w); e != status::ok) return e;
        resize(in);
        if (s_.rows == 0) return status::ok;
        float step = 1;
        if constexpr (!Quantizer::fixed_width)
          if (BitWidths::measures(c_.calibrated))
            step = BitWidths::step(in.place.layer, in.place.plane, in.place.num_layers,
                                   coefficient_statistics(c_, s_.passes));
        if (const status e = quantizer_.quantize(c_, step, s_, beyond_, w); e != status::ok) return e;
      } while (in.make_exact(beyond_));
      return status::ok;
    }

    // The other side's half of prediction: what a decoder will expect, from what it will have decoded by then.
    struct no_predictions {
      no_predictions(const profile&, isa) {}
      void subtract(tile_rows&, const side_info&) const noexcept {}
    };
    struct predictions {
      predictions(const profile& p, isa i) : back(p, i) {}

      void subtract(tile_rows& in, const side_info& side) {
        if (!back.expect(in.place, in.range, in.rows, side, 0)) return;
        for (int r = 0; r < in.count(); ++r)
          for (int i = 0; i < in.place.width(); ++i) in.x[r * in.ld + i] -= back.expected(0, r)[i];
      }

      // Decodes what was just written, which teaches the predictor.
      void learn(const tile_rows& in, const side_info& side, const tile_writer& w) {
        bytes.clear();
        nothing.assign(in.exact.size(), 0);
        w.finish(0, 0, in.range.count, in.exact, nothing, bytes);
        tile t;
        t.place = in.place;
        t.range = in.range;
        t.type = in.type;
        if (parse_tile(bytes, in.range.count, 1, t.envelope) == status::ok) back.decode({&t, 1}, side);
      }

      decoder back;
      std::vector<std::uint8_t> bytes, nothing;
    };

    const profile* profile_;
    typename Transform::encoder transform_;
    typename Quantizer::encoder quantizer_;
    typename EntropyModel::encoder entropy_;
    std::conditional_t<Predictor::predicts, predictions, no_predictions> prediction_;
    status state_;
    coefficients c_;
    symbols s_;
    std::vector<std::uint8_t> beyond_;
  };

  class decoder {
   public:
    decoder(const profile& p, isa i)
        : profile_(&p), predictor_(make_predictor(p)), transform_(p, i), quantizer_(i), entropy_(p, i) {}

    status state() const noexcept { return transform_.state(); }

    void begin_tile() requires(Predictor::span > 0) { predictor_.forget(); }

    void decode(std::span<tile> tiles, const side_info& side) {
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tiles[i].slot = int(i);
        if constexpr (Predictor::predicts) {
          tiles[i].coded_tokens(tokens_);
          predicted_[i] = expect(tiles[i].place, tiles[i].range, tokens_, side, int(i));
        }
      }
      if constexpr (Predictor::span > 0) learn(tiles);
      restore(tiles);
    }

    int rows(const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
      if constexpr (detail::passes_through<Transform> && detail::restores_floats<Quantizer>) {
        quantizer_.floats(t, t.slot, batch_[t.slot], first, n, out, ld);
      } else {
        coefficient_rows c;
        quantizer_.restore(t, t.slot, batch_[t.slot], first, n, c);
        transform_.inverse(t, t.slot, c, out, ld);
      }
      if constexpr (Predictor::predicts)
        if (predicted_[t.slot])
          for (int r = 0; r < n; ++r)
            for (int i = 0; i < t.place.width(); ++i) out[r * ld + i] += expected(t.slot, first + r)[i];
      return n;
    }

   private:
    friend class encoder;
    struct nothing {};
    using predictor_state = std::conditional_t<Predictor::predicts, Predictor, nothing>;
    static predictor_state make_predictor([[maybe_unused]] const profile& p) {
      if constexpr (Predictor::predicts)
        return Predictor(p);
      else
        return {};
    }

    // Asks the predictor for the rows of one tile.
    bool expect(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> tokens,
                const side_info& side, int slot) {
      expected_ld_[slot] = detail::padded(place.width());
      expected_[slot].assign(tokens.size() * std::size_t(expected_ld_[slot]), 0.f);
      return predictor_.predict(place, range, tokens, side, expected_[slot].data(), expected_ld_[slot]);
    }
    const float* expected(int slot, int row) const noexcept {
      return expected_[slot].data() + row * expected_ld_[slot];
    }

    // All levels predict from the rows of the base, so that encoder and decoder agree whatever level is decoded.
    void learn(std::span<const tile> tiles) {
      base_.assign(tiles.begin(), tiles.end());
      for (tile& t : base_) t.level = 0;
      restore(base_);
      for (tile& t : base_) {
        if (t.state != status::ok || t.rows() == 0) continue;  // an encoder does not teach those either
        const std::ptrdiff_t ld = detail::padded(t.place.width());
        learnt_.resize(std::size_t(t.rows()) * std::size_t(ld));
        rows(t, 0, t.rows(), learnt_.data(), ld);
        t.coded_tokens(tokens_);
        predictor_.learn(t.place, t.range, tokens_, learnt_.data(), ld);
      }
    }

    // Sections to symbols, at the level of each tile.
    void restore(std::span<tile> tiles) {
      std::size_t coded = 0;
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tile& t = tiles[i];
        decoded_symbols& s = batch_[i];
        s.tile = &t;
        s.calibrated = transform_.calibrated(t.place);
        s.passes = Quantizer::depth(*profile_);
        s.bits = 0;
        s.ld = detail::padded(t.place.width());
        s.live = t.place.width();
        s.corrections.clear();
        s.state = status::ok;
        values_[i].assign(std::size_t(t.rows()) * std::size_t(s.ld), 0);
        s.values = values_[i].data();
        if (!transform_.open(t, int(i)) || !quantizer_.open(t, int(i), s)) s.state = status::corrupt_tile;
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
          if (tiles[i].rows() > 0 && batch_[i].state == status::ok) entropy_.decode({&batch_[i], 1});
      }
      for (std::size_t i = 0; i < tiles.size(); ++i)
        if (batch_[i].state != status::ok) tiles[i].state = batch_[i].state;
    }

    const profile* profile_;
    [[no_unique_address]] predictor_state predictor_;
    typename Transform::decoder transform_;
    typename Quantizer::decoder quantizer_;
    typename EntropyModel::decoder entropy_;
    decoded_symbols batch_[tiles_at_once];
    std::vector<std::int16_t> values_[tiles_at_once];
    bool predicted_[tiles_at_once] = {};
    std::vector<float> expected_[tiles_at_once], learnt_;
    std::ptrdiff_t expected_ld_[tiles_at_once] = {};
    std::vector<std::uint16_t> tokens_;
    std::vector<tile> base_;
  };
};

/// The default: weighted basis, four embedded levels, class-table rANS.
using standard = basic_codec<>;

static_assert(tile_codec<standard>);

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::codec
