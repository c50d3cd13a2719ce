// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/correction.hpp>
#include <sluice/codec/row_classes.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/numeric.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

// What passes between the stages of basic_codec, and what each stage has to offer. Data flows one way,
//   encode: rows - prediction -> forward -> coefficients -> quantize -> symbols -> encode -> sections of the tile
//   decode: sections -> decode -> symbols -> restore -> coefficients -> inverse -> rows + prediction
// and no stage knows its neighbours. Arrays are [rows][ld] with ld a multiple of 32, so that a row is whole blocks of 32
// lanes; what lies between width and ld is zero. Stages may keep memory from tile to tile, a decoder's by `slot`: up to
// tiles_at_once tiles of one layer are open together. None may throw or read outside of what it is given, and what a
// decoder finds in a section is untrusted. Identifiers from 128 on are yours; a parameter that changes what a decoder
// does belongs into the id: stage_id::of(128, parameter). Nobody registers them, so a frame of somebody else's stage with
// the same id is taken for one of yours.

namespace sluice {

/// Rows of one tile between transform and quantiser, on the way in.
struct coefficients {
  int rows = 0;           ///< tokens
  int width = 0;          ///< coefficients of a token
  std::ptrdiff_t ld = 0;  ///< floats from row to row of y
  std::vector<float> y;   ///< [rows][ld] in the units of the transform, `width` of each to be filled
  /// Whether these are the coefficients that the profile describes: its units are one finest step, its classes fit.
  bool calibrated = false;
};

/// What a quantiser made, and what an entropy model codes. Pass 0 of a tile is `values`, pass p > 0 is digits[p].
struct symbols {
  group_place place;        ///< of the tile
  int rows = 0;             ///< tokens
  int width = 0;            ///< coefficients of a token
  std::ptrdiff_t ld = 0;    ///< elements from row to row of all arrays
  int passes = 1;           ///< of the codec and the profile
  int made = 1;             ///< of these, how many are wanted
  int bits = 0;             ///< where every value is an unsigned number of so many bits; 0 = signed, of any size
  bool calibrated = false;  ///< see coefficients, and the step is the profile's own
  row_classes classes;      ///< steps of rows; the entropy model may set their spreads
  std::vector<std::int16_t> finest;             ///< [rows][ld] at the finest of `passes`
  std::vector<std::int16_t> values;             ///< [rows][ld] of the base pass; the entropy model may change them
  std::vector<std::int8_t> digits[max_passes];  ///< [p], p >= 1: values of pass p = 3 * those of pass p - 1 + digit
};

using detail::coefficient_correction;

/// What an entropy model decodes of one tile.
struct decoded_symbols {
  const sluice::tile* tile = nullptr;               ///< whose sections are decoded; borrowed
  bool calibrated = false;                          ///< as it was when the tile was encoded
  const row_classes* classes = nullptr;             ///< steps of rows, or null; borrowed
  int passes = 1;                                   ///< of the codec and the profile
  int bits = 0;                                     ///< as in symbols; set by the quantiser
  std::ptrdiff_t ld = 0;                            ///< elements from row to row of values
  std::int16_t* values = nullptr;                   ///< out: [rows][ld] at the tile's level; zero when handed over
  int live = 0;                                     ///< out: columns from here on are zero; handed over as the width
  std::uint16_t live_of[max_row_classes] = {};      ///< out: the same for rows of each class, where they have classes
  std::vector<coefficient_correction> corrections;  ///< out: what 16 bits or a table could not say, by row
  status state = status::ok;                        ///< out
};

/// Rows of coefficients on the way out: integers times `scale`, or floats as they are; columns from `live` on are zero,
/// and corrections, times `scale`, are to be added. An inverse transform takes both kinds.
struct coefficient_rows {
  int rows = 0;                                         ///< tokens
  int live = 0;                                         ///< columns that are not all zero
  const std::int16_t* values = nullptr;                 ///< [rows][ld], or null
  const float* floats = nullptr;                        ///< [rows][ld] where `values` is null
  std::ptrdiff_t ld = 0;                                ///< elements from row to row
  float scale = 1;                                      ///< of values and corrections, in the units of the transform
  const float* row_scale = nullptr;                     ///< [rows] that every row is multiplied by as well, or null
  std::span<const coefficient_correction> corrections;  ///< rows counted from the first one here
};

/// What a bit-width policy may ask about the coefficients of a tile; each answer costs a look at all of them.
class coefficient_statistics {
 public:
  /// Of these coefficients, which are borrowed; `passes` are the codec's and the profile's.
  coefficient_statistics(const coefficients& c, int passes) : c_(&c), passes_(passes) {}
  /// See coefficients::calibrated.
  bool calibrated() const noexcept { return c_->calibrated; }
  /// Passes that the finest step is split into.
  int passes() const noexcept { return passes_; }
  /// The least coefficient, or 0 where none is below.
  float low() const noexcept { return range(false); }
  /// The greatest coefficient, or 0 where none is above.
  float high() const noexcept { return range(true); }
  /// Root of the mean square of all coefficients.
  float rms() const noexcept {
    double sum = 0;
    for (int r = 0; r < c_->rows; ++r)
      for (int i = 0; i < c_->width; ++i) {
        const double v = double(c_->y[std::size_t(r) * std::size_t(c_->ld) + std::size_t(i)]);
        sum += v * v;
      }
    const double n = double(c_->rows) * c_->width;
    return n > 0 ? float(detail::sqrt(sum / n)) : 0.f;
  }

 private:
  float range(bool high) const noexcept {
    float most = 0;
    for (int r = 0; r < c_->rows; ++r)
      for (int i = 0; i < c_->width; ++i) {
        const float v = c_->y[std::size_t(r) * std::size_t(c_->ld) + std::size_t(i)];
        if (high ? v > most : v < most) most = v;
      }
    return most;
  }
  const coefficients* c_;
  int passes_;
};

namespace detail {

// What each kind of policy has to offer, in the parts that basic_codec names when one is missing.
template <class P>
concept has_id = requires {
  { P::id } -> std::convertible_to<stage_id>;
};
template <class P>
concept has_uses = requires(const profile& p) {
  { P::uses(p) } -> std::same_as<bool>;
};
template <class P>
concept has_fixed_width = requires {
  { P::fixed_width } -> std::convertible_to<bool>;
};
template <class P>
concept has_span = requires {
  { P::span } -> std::convertible_to<int>;
  { P::predicts } -> std::convertible_to<bool>;
};
template <class P>
concept can_predict = requires {
  requires !P::predicts;
}
|| requires(P p, const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
            const side_info& side, float* out, std::ptrdiff_t ld) {
  requires std::constructible_from<P, const profile&>;
  { p.predict(place, range, rows, side, out, ld) } -> std::same_as<bool>;
};
template <class B>
concept observes = requires(typename B::encoder e, const tile_rows& all) {
  e.observe(all);
};
template <class P>
concept has_residual = requires(const profile& p) {
  { P::residual(p) } -> std::same_as<std::shared_ptr<const profile>>;
  { P::fingerprint(p) } -> std::same_as<std::uint64_t>;
};
template <class P>
concept can_learn = requires {
  requires P::span == 0;
}
|| requires(P p, const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
            const float* x, std::ptrdiff_t ld) {
  p.learn(place, range, rows, x, ld);
  p.forget();
};
template <class T>
concept has_domain = requires {
  { T::domain } -> std::convertible_to<value_domain>;
};
template <class T>
concept can_transform = requires(typename T::encoder e, tile_rows& rows, coefficients& out, tile_writer& w) {
  requires std::constructible_from<typename T::encoder, const profile&, isa>;
  { e.state() } -> std::same_as<status>;
  { e.forward(rows, out, w) } -> std::same_as<status>;
};
template <class T>
concept can_invert = requires(typename T::decoder d, const tile& t, const coefficient_rows& c, float* out,
                              std::ptrdiff_t ld) {
  requires std::constructible_from<typename T::decoder, const profile&, isa>;
  { d.state() } -> std::same_as<status>;
  { d.calibrated(t.place) } -> std::same_as<bool>;
  { d.open(t, 0) } -> std::same_as<bool>;
  d.inverse(t, 0, c, out, ld);
};
template <class Q>
concept has_passes = has_fixed_width<Q> && requires(const profile& p) {
  { Q::passes } -> std::convertible_to<int>;
  { Q::rounds } -> std::convertible_to<bool>;
  { Q::depth(p) } -> std::same_as<int>;
};
template <class Q>
concept can_quantize = requires(typename Q::encoder e, const coefficients& in, symbols& out,
                                std::span<std::uint8_t> beyond, tile_writer& w) {
  requires std::constructible_from<typename Q::encoder, isa>;
  { e.quantize(in, 1.f, out, beyond, w) } -> std::same_as<status>;
  e.split(out);
};
template <class Q>
concept can_restore = requires(typename Q::decoder d, const tile& t, decoded_symbols& s, coefficient_rows& out) {
  requires std::constructible_from<typename Q::decoder, isa>;
  { d.open(t, 0, s) } -> std::same_as<bool>;
  d.restore(t, 0, s, 0, 1, out);
};
template <class T>
concept scales_rows = requires {
  requires T::scales_rows;
};
template <class T>
concept passes_through = requires {
  requires T::passes_through;
};
template <class Q>
concept restores_floats = requires(typename Q::decoder d, const tile& t, const decoded_symbols& s, float* out,
                                   std::ptrdiff_t ld) {
  d.floats(t, 0, s, 0, 1, out, ld);
};
template <class E>
concept can_encode = requires(typename E::encoder e, symbols& in, tile_writer& w) {
  requires std::constructible_from<typename E::encoder, const profile&, isa>;
  { e.encode(in, w) } -> std::same_as<status>;
};
template <class E>
concept can_decode = requires(typename E::decoder d, std::span<decoded_symbols> batch) {
  requires std::constructible_from<typename E::decoder, const profile&, isa>;
  d.decode(batch);
};

}  // namespace detail

/// Grouping policy: `tokens` of a tile, `heads_per_basis` that share a basis (0 = as many as fit).
template <class G>
concept grouping_policy = requires {
  { G::tokens } -> std::convertible_to<int>;
  { G::heads_per_basis } -> std::convertible_to<int>;
};

/// Predictor policy: says what rows are likely to be, from what both sides know. One object serves an encoder or a
/// decoder, constructed from a profile.
/// - `id`; `predicts`: false = the stage is skipped; `span`: see tile_codec. A layer that is predicted from the one below
///   it, which was predicted itself, depends on all layers below: span = 1 means pairs.
/// - `predict(place, range, rows, side, out, ld)`: writes the expected rows, [rows.size()][ld] floats in the domain of
///   the transform, zeroed before; they are subtracted before the transform, so predict deviations from the profile's
///   means where the transform takes those off. `rows` are tokens counted from range.frame_token. Returns whether it
///   wrote anything. It is asked more than once for a tile, with fewer rows when some become exact: what it expects of a
///   token must not depend on the other tokens in `rows`.
///   Without calibration steps follow the size of what is left: a good prediction buys quality there, not bytes.
/// - where span > 0, `learn(place, range, rows, x, ld)`: the coded rows of a tile as a decoder of the base level has them,
///   on both sides alike. K of a layer is learnt before V of it is predicted; otherwise groups of a layer come in any
///   order: predict from layers below, and V from K.
///   A token that was kept exact, or a layer that the frame lacks, is not learnt, and a layer below the range that a
///   reader asked for may be predicted without what it needs: then predict nothing. A tile that could not be decoded is
///   not learnt, and what depends on it is status::corrupt_tile.
///   Two processors may disagree in the last bits of x: add and multiply, but decide nothing by it.
/// - where span > 0, `forget()`: another token tile, or another frame, begins.
/// - optional: static `residual(profile)`, a std::shared_ptr<const profile> whose planes describe what is left after
///   prediction, from which transform, quantiser and entropy model are made for it; null = the profile does not serve.
///   A tile is then predicted only where that takes fewer bytes. With it static `fingerprint(profile)`, what frames carry.
/// - optional: static `reads_tokens` = true where it looks at side_info::tokens; frames then tell whether a reader's are
///   the writer's.
template <class P>
concept predictor_policy = detail::has_id<P> && detail::has_span<P> && detail::can_predict<P> && detail::can_learn<P>;

/// Transform policy: rows of a domain to coefficients and back. Its section is section::transform of the base pass.
/// - `id`, `domain` (rotated or unrotated), `uses(profile)`: whether it reads the profile.
/// - `encoder{profile, isa}`: `state()`; `forward(rows, out, writer)` fills out.y (rows, width and ld are set) and
///   out.calibrated, and writes its section; where it calls rows.make_exact(), out.rows follows. It is called again for
///   the same tile when a quantiser takes rows away. Optional, for speed: `rounded(rows, values, ld, beyond)` where
///   `calibrated(place)`: coefficients rounded to whole units at once, beyond[row] = 1 where one does not fit 16 bits.
/// - `decoder{profile, isa}`: `state()`; `calibrated(place)`: what forward() says in out.calibrated; `open(tile, slot)`
///   reads its section of the tile at place `slot` of a batch, false = corrupt; `inverse(tile, slot, rows, out, ld)`
///   writes place.width() columns of rows.rows rows.
/// - optional, for speed: `passes_through` = true where inverse() only copies floats.
/// - optional: `scales_rows` = true where inverse() multiplies rows by rows.row_scale and rounded() takes one more
///   argument, [rows] that coefficients are multiplied by, or null. Without, rows have no steps of their own.
template <class T>
concept transform_policy = detail::has_id<T> && detail::has_domain<T> && detail::has_uses<T> &&
    detail::can_transform<T> && detail::can_invert<T>;

/// Quantiser policy: coefficients to integers and back. Its section is section::quantizer.
/// - `id`; `passes`: levels that encode() makes; `depth(profile)`: passes of a complete tile, of which `passes` may be
///   fewer: values are then rounded to the coarser step; `fixed_width`: whether values are unsigned numbers of bits() bits.
/// - `rounds`: whether quantize() is rounding to the nearest whole step and nothing else.
/// - `encoder{isa}`: `quantize(in, step, out, beyond, writer)` from coefficients; out.bits is set where fixed_width.
///   beyond[row] = 1 for rows that it cannot hold: they become exact and it is called again, after the writer was
///   cleared. Fills out.finest, and sets out.calibrated: true only where in.calibrated is and a symbol is one unit.
///   `split(out)` fills out.values and out.digits from out.finest; with one pass, values are finest.
/// - `decoder{isa}`: `open(tile, slot, out)` reads its section and sets out.bits, false = corrupt;
///   `restore(tile, slot, in, first, n, out)`: coefficients of decoded rows [first, first + n), which the caller uses
///   before the next call. in.corrections, of all rows, are handed on. Levels are tile.level of s.passes. Where it gives
///   floats, profile_basis rounds them to whole units.
///   Optional, for speed: `floats(tile, slot, in, first, n, out, ld)` writes place.width() columns of the same rows with
///   their corrections to out[n][ld]; it is called instead where the transform passes through.
template <class Q>
concept quantizer_policy =
    detail::has_id<Q> && detail::has_passes<Q> && detail::can_quantize<Q> && detail::can_restore<Q>;

/// Bit-width policy: how fine to quantise. One or both of
/// - `step(layer, plane, num_layers, statistics)`: the finest step in the units of the coefficients, for quantisers of
///   any width, statistics.passes() - 1 levels below the base, each a third of the one above; where
///   `measures(calibrated)` is false it is 1 and not asked for;
/// - `bits(layer, plane, num_layers)`: 1 to 8, for quantisers of fixed width.
template <class B>
concept bit_widths_policy = detail::has_id<B>;
/// A bit-width policy whose steps differ from row to row. It has, besides step() and measures(),
/// - `keeps_exact(profile, position)`: whether the token at a position is kept exact;
/// - `encoder{profile, isa}` with `rows(in, out)`: the class that each of in.count() rows wants, in out; called for K of a
///   layer before V of it. Where a spread is open_spread the entropy model finds it. Optional `observe(all)`: the rows of a
///   plane, all heads, before its groups.
template <class B>
concept sets_rows = bit_widths_policy<B> &&
    requires(typename B::encoder e, const profile& p, const tile_rows& in, std::span<row_class> out) {
  requires std::constructible_from<typename B::encoder, const profile&, isa>;
  { B::keeps_exact(p, std::int64_t{}) } -> std::same_as<bool>;
  e.rows(in, out);
};
/// A bit-width policy for quantisers of any width.
template <class B>
concept sets_steps = bit_widths_policy<B> && requires(int n, plane p, const coefficient_statistics& s) {
  { B::measures(true) } -> std::same_as<bool>;
  { B::step(n, p, n, s) } -> std::same_as<float>;
};
/// A bit-width policy for quantisers of fixed width.
template <class B>
concept sets_bits = bit_widths_policy<B> && requires(int n, plane p) {
  { B::bits(n, p, n) } -> std::same_as<int>;
};

/// Entropy model: integers to bytes and back. Its section is section::entropy of each pass.
/// - `id`; `fixed_width`: whether it codes unsigned numbers of known width only; `uses(profile)`.
/// - `encoder{profile, isa}`: `encode(symbols, writer)` writes passes 0 .. made - 1. too_large = keep the tile exact.
/// - `decoder{profile, isa}`: `decode(batch)` decodes every tile of a batch up to its level, t.section(pass,
///   section::entropy) for pass 0 .. tile->level, and sets its state; the sections are untrusted, an empty one is legal.
///   tile->rows() x tile->place.width() values are due. A model may lose something; what it decodes is what the reader
///   gets.
template <class E>
concept entropy_model = detail::has_id<E> && detail::has_fixed_width<E> && detail::has_uses<E> &&
    detail::can_encode<E> && detail::can_decode<E>;

}  // namespace sluice
