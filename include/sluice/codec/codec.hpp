// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans.hpp>
#include <sluice/codec/group/tile_tokens.hpp>
#include <sluice/codec/predict/no_prediction.hpp>
#include <sluice/codec/quantize/embedded.hpp>
#include <sluice/codec/stage_chains.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/transform/profile_basis.hpp>
#include <sluice/codec/width/profile_steps.hpp>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <type_traits>
#include <utility>
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

  static_assert(
      !sets_rows<BitWidths> || (Quantizer::rounds && detail::scales_rows<Transform>),
      "sluice::basic_codec: steps for each row need a quantizer that rounds and a transform that scales rows");

  static int passes(const profile& p) noexcept { return detail::min(Quantizer::passes, Quantizer::depth(p)); }
  /// The first tokens of a sequence (attention sinks), unless the bit-width policy knows better.
  static bool keeps_exact(const profile& p, std::int64_t position, std::int64_t /*end*/) noexcept {
    if constexpr (sets_rows<BitWidths>)
      return BitWidths::keeps_exact(p, position);
    else
      return position < p.sinks;
  }
  /// What a stage says that it reads; a predictor may read everything, and of several levels the profile says how many.
  static bool uses(const profile& p) noexcept {
    return Transform::uses(p) || EntropyModel::uses(p) || Predictor::predicts || Quantizer::depth(p) > 1;
  }
  /// Of a predictor with a section of its own.
  static std::uint64_t fingerprint(const profile& p) requires(detail::has_residual<Predictor>) {
    return Predictor::fingerprint(p);
  }
  static constexpr bool reads_tokens = detail::reads_tokens<Predictor>;

 private:
  static constexpr bool chooses = detail::has_residual<Predictor>;  // for each tile whether it is predicted
  struct nothing {
    nothing() = default;
    nothing(const profile&, isa) {}
  };
  template <class B>
  struct row_steps {
    using type = nothing;
  };
  template <sets_rows B>
  struct row_steps<B> {
    using type = typename B::encoder;
  };

  // Of tiles as the profile describes them, or of what prediction leaves.
  using forward = detail::forward_stages<Transform, Quantizer, BitWidths, EntropyModel>;
  using inverse = detail::inverse_stages<Transform, Quantizer, EntropyModel, sets_rows<BitWidths>>;

 public:
  class decoder;

  class encoder {
   public:
    encoder(const profile& p, isa i) : steps_(p, i), plain_(p, i, Grouping::heads_per_basis), prediction_(p, i) {}

    status state() const noexcept { return plain_.state() != status::ok ? plain_.state() : prediction_.state(); }

    void begin_tile() requires(Predictor::span > 0) { prediction_.back.begin_tile(); }

    void observe(const tile_rows& all) requires(detail::observes<BitWidths>) { steps_.observe(all); }

    status encode(tile_rows& in, const side_info& side, int passes, tile_writer& w) {
      if (in.count() == 0) return status::ok;
      wanted_.clear();
      if constexpr (sets_rows<BitWidths>) {
        wanted_.resize(std::size_t(in.count()));
        steps_.rows(in, wanted_);
      }
      if constexpr (!Predictor::predicts) {
        return plain_.encode(in, wanted_, passes, w);
      } else {
        if (const status e = prediction_.encode(plain_, in, wanted_, side, passes, w); e != status::ok) return e;
        if constexpr (Predictor::span > 0) {
          // A tile that will be kept as it is must not be learnt here: no decoder will.
          if (prediction_.size(in, passes, w) > prediction_.stored_size(in)) return status::too_large;
          if (in.count()) prediction_.learn(in, side, w);
        }
        return status::ok;
      }
    }

   private:
    // The other side's half of prediction: what a decoder will expect, from what it will have decoded by then.
    struct no_predictions {
      no_predictions(const profile&, isa) {}
      static status state() noexcept { return status::ok; }
    };
    struct predictions {
      predictions(const profile& p, isa i)
          : back(p, i), residual([&]() -> std::conditional_t<chooses, forward, nothing> {
              if constexpr (chooses)
                return forward(back.described(p), i, Grouping::heads_per_basis);
              else
                return {};
            }()) {}

      status state() const noexcept {
        if (back.state() != status::ok) return back.state();
        if constexpr (chooses) return residual.state();
        return status::ok;
      }

      status encode(forward& plain, tile_rows& in, std::span<const row_class> wanted, const side_info& side, int passes,
                    tile_writer& w) {
        const bool expected = back.ask(in.place, in.range, in.rows, side);
        if constexpr (!chooses) {
          if (expected) subtract(in);
          return plain.encode(in, wanted, passes, w);
        } else {
          const std::uint8_t not_predicted = 0;
          // Both ways, and what takes fewer bytes stays, unless that is plain to see.
          const float left = expected ? energy_left(in) : detail::infinity_f;
          if (left > 1.25f) {
            const status e = plain.encode(in, wanted, passes, w);
            if (e == status::ok && in.count()) w.put(0, section::predictor, not_predicted);
            return e;
          }
          if (left < 0.8f) {
            subtract(in);
            return residual.encode(in, wanted, passes, w);
          }
          tile_rows as_it_is = in;
          x.resize(std::size_t(in.count()) * std::size_t(in.ld));
          for (int r = 0; r < in.count(); ++r)
            detail::copy(in.x + r * in.ld, in.x + r * in.ld + in.place.width(), &x[std::size_t(r * in.ld)]);
          as_it_is.x = x.data();
          subtract(in);
          const status e = residual.encode(in, wanted, passes, w);
          other.clear();
          if (plain.encode(as_it_is, wanted, passes, other) != status::ok) return e;
          if (as_it_is.count()) other.put(0, section::predictor, not_predicted);
          if (e == status::ok && size(in, passes, w) <= size(as_it_is, passes, other)) return e;
          in.rows.swap(as_it_is.rows);
          in.exact.swap(as_it_is.exact);
          std::swap(w, other);
          return status::ok;
        }
      }

      // Of the tile's energy around its means, the part that prediction leaves.
      float energy_left(const tile_rows& in) {
        const std::size_t width = std::size_t(in.place.width());
        const int rows = in.count();
        sums.assign(4 * width, 0.f);
        float *const sum = sums.data(), *const squares = sum + width, *const sum_left = squares + width,
                     *const squares_left = sum_left + width;
        const float *first = in.x, *first_expected = back.expected(0, 0);
        for (int r = 0; r < rows; ++r) {
          const float *row = in.x + r * in.ld, *expected = back.expected(0, r);
          for (std::size_t i = 0; i < width; ++i) {
            const float d = row[i] - first[i], left = d - (expected[i] - first_expected[i]);
            sum[i] += d;
            squares[i] += d * d;
            sum_left[i] += left;
            squares_left[i] += left * left;
          }
        }
        double all = 0, left = 0;
        for (std::size_t i = 0; i < width; ++i) {
          all += double(squares[i] - sum[i] * sum[i] / float(rows));
          left += double(squares_left[i] - sum_left[i] * sum_left[i] / float(rows));
        }
        return all > 0 ? float(left / all) : 1;
      }

      void subtract(tile_rows& in) {
        for (int r = 0; r < in.count(); ++r)
          for (int i = 0; i < in.place.width(); ++i) in.x[r * in.ld + i] -= back.expected(0, r)[i];
      }

      static std::size_t row_bytes(const tile_rows& in) noexcept {
        return std::size_t(in.place.width()) * std::size_t(size_of(in.type));
      }
      static std::size_t size(const tile_rows& in, int passes, const tile_writer& w) noexcept {
        return w.size(passes, in.exact.size(), row_bytes(in));
      }
      static std::size_t stored_size(const tile_rows& in) noexcept {
        return tile_writer::stored_size(std::size_t(in.range.count), row_bytes(in));
      }

      // Decodes what was just written, which teaches the predictor.
      void learn(const tile_rows& in, const side_info& side, const tile_writer& w) {
        bytes.clear();
        nothing_exact.assign(in.exact.size(), 0);
        w.finish(0, 0, in.range.count, in.exact, nothing_exact, bytes);
        tile t;
        t.place = in.place;
        t.range = in.range;
        t.type = in.type;
        if (parse_tile(bytes, in.range.count, 1, t.envelope) == status::ok) back.decode({&t, 1}, side);
      }

      decoder back;
      std::conditional_t<chooses, forward, nothing> residual;
      tile_writer other;
      std::vector<float> x, sums;
      std::vector<std::uint8_t> bytes, nothing_exact;
    };

    [[no_unique_address]] typename row_steps<BitWidths>::type steps_;
    forward plain_;
    std::conditional_t<Predictor::predicts, predictions, no_predictions> prediction_;
    std::vector<row_class> wanted_;
  };

  class decoder {
   public:
    decoder(const profile& p, isa i)
        : predictor_(make_predictor(p)), residual_profile_(residual_of(p)), plain_(p, i), residual_(described(p), i) {}

    status state() const noexcept {
      if constexpr (chooses)
        if (!residual_profile_) return status::missing_section;
      return plain_.state();
    }

    void begin_tile() requires(Predictor::span > 0) { predictor_.forget(); }

    void decode(std::span<tile> tiles, const side_info& side) {
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tiles[i].slot = int(i);
        predicted_[i] = known_[i] = false;
        left_[i] = chooses;
        if (const auto says = tiles[i].section(0, section::predictor); chooses && !says.empty()) {
          left_[i] = false;
          if (says.size() != 1 || says[0] != 0) tiles[i].state = status::corrupt_tile;
        }
      }
      if constexpr (Predictor::span == 0) {
        restore(tiles);
        if constexpr (Predictor::predicts)
          for (tile& t : tiles) expect(t, side);
      } else {
        // All levels predict from the rows of the base, so that encoder and decoder agree whatever level is decoded.
        base_.assign(tiles.begin(), tiles.end());
        bool finer = false;
        for (tile& t : base_) {
          finer |= t.level > 0;
          t.level = 0;
        }
        restore(base_);
        for (const plane which : {plane::key, plane::value})
          for (tile& t : base_)
            if (t.place.plane == which) learn(t, side, !finer);
        asked_.clear();
        for (std::size_t i = 0; i < tiles.size(); ++i) tiles[i].state = base_[i].state;
        if (finer) restore(tiles);
      }
    }

    int rows(const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
      const std::size_t width = std::size_t(t.place.width());
      if (known_[t.slot]) {
        for (int r = 0; r < n; ++r) {
          const float* x = &learnt_[t.slot][std::size_t(first + r) * std::size_t(detail::padded(int(width)))];
          detail::copy(x, x + width, out + r * ld);
        }
        return n;
      }
      inverse_of(t).rows(t, first, n, out, ld);
      if constexpr (Predictor::predicts)
        if (predicted_[t.slot])
          for (int r = 0; r < n; ++r)
            for (std::size_t i = 0; i < width; ++i) out[r * ld + std::ptrdiff_t(i)] += expected(t.slot, first + r)[i];
      return n;
    }

   private:
    friend class encoder;

    using predictor_state = std::conditional_t<Predictor::predicts, Predictor, nothing>;
    static predictor_state make_predictor([[maybe_unused]] const profile& p) {
      if constexpr (Predictor::predicts)
        return Predictor(p);
      else
        return {};
    }
    static std::shared_ptr<const profile> residual_of([[maybe_unused]] const profile& p) {
      if constexpr (chooses)
        return Predictor::residual(p);
      else
        return {};
    }
    // Of what prediction leaves; where the profile does not say, state() does.
    const profile& described(const profile& p) const noexcept { return residual_profile_ ? *residual_profile_ : p; }

    inverse& inverse_of([[maybe_unused]] const tile& t) noexcept {
      if constexpr (chooses)
        if (left_[t.slot]) return residual_;
      return plain_;
    }

    void restore(std::span<tile> tiles) {
      tile* of[2][tiles_at_once];
      std::size_t n[2] = {};
      for (tile& t : tiles) {
        const std::size_t which = chooses && left_[t.slot];
        of[which][n[which]++] = &t;
      }
      plain_.restore({of[0], n[0]});
      if constexpr (chooses) residual_.restore({of[1], n[1]});
    }

    // Asks the predictor for the rows of a tile; one that was coded as what it leaves cannot do without.
    void expect(tile& t, const side_info& side) {
      if (t.state != status::ok || (chooses && !left_[t.slot]) || t.rows() == 0) return;
      t.coded_tokens(tokens_);
      predicted_[t.slot] = expect(t.place, t.range, tokens_, side, t.slot);
      if (chooses && !predicted_[t.slot]) t.state = status::corrupt_tile;
    }
    // For the encoder, of the tile that it will have decoded next: then the same rows are not predicted again.
    bool ask(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> tokens,
             const side_info& side) {
      asked_.clear();
      answer_ = expect(place, range, tokens, side, 0);
      asked_.assign(tokens.begin(), tokens.end());
      return answer_;
    }
    bool expect(const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> tokens,
                const side_info& side, int slot) {
      if (slot == 0 && std::equal(tokens.begin(), tokens.end(), asked_.begin(), asked_.end())) return answer_;
      expected_ld_[slot] = detail::padded(place.width());
      expected_[slot].assign(tokens.size() * std::size_t(expected_ld_[slot]), 0.f);
      return predictor_.predict(place, range, tokens, side, expected_[slot].data(), expected_ld_[slot]);
    }
    const float* expected(int slot, int row) const noexcept {
      return expected_[slot].data() + row * expected_ld_[slot];
    }

    // What a tile's base comes to, for the predictor; `keep` where rows() is to give the same.
    void learn(tile& t, const side_info& side, bool keep) {
      expect(t, side);
      if (t.state != status::ok || t.rows() == 0) return;  // an encoder does not teach those either
      const std::ptrdiff_t ld = detail::padded(t.place.width());
      std::vector<float>& x = learnt_[t.slot];
      x.resize(std::size_t(t.rows()) * std::size_t(ld));
      rows(t, 0, t.rows(), x.data(), ld);
      t.coded_tokens(tokens_);
      predictor_.learn(t.place, t.range, tokens_, x.data(), ld);
      known_[t.slot] = keep;
    }

    [[no_unique_address]] predictor_state predictor_;
    std::shared_ptr<const profile> residual_profile_;
    inverse plain_;
    [[no_unique_address]] std::conditional_t<chooses, inverse, nothing> residual_;
    bool left_[tiles_at_once] = {};       // coded as what prediction leaves
    bool predicted_[tiles_at_once] = {};  // by what expected_ holds
    bool known_[tiles_at_once] = {};      // rows are in learnt_
    std::vector<float> expected_[tiles_at_once], learnt_[tiles_at_once];
    std::ptrdiff_t expected_ld_[tiles_at_once] = {};
    std::vector<std::uint16_t> tokens_, asked_;  // asked_: rows that expected_[0] holds already, with answer_
    bool answer_ = false;
    std::vector<tile> base_;
  };
};

/// The default: weighted basis, four embedded levels, class-table rANS.
using standard = basic_codec<>;

static_assert(tile_codec<standard>);

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::codec
