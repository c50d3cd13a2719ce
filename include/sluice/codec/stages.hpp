// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/correction.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/numeric.hpp>

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// What passes between the stages of basic_codec, and what each stage has to offer. Data flows one way,
//   encode: rows - prediction -> forward -> coefficients -> quantize -> symbols -> encode -> sections of the tile
//   decode: sections -> decode -> symbols -> restore -> coefficients -> inverse -> rows + prediction
// and no stage knows its neighbours. Arrays are [rows][ld] with ld a multiple of 32, so that a row is whole blocks of 32
// lanes; what lies between width and ld is zero. Stages may keep memory from tile to tile; none may throw or read
// outside of what it is given.

namespace sluice {

/// Rows of one tile between transform and quantiser, on the way in.
struct coefficients {
  int rows = 0, width = 0;
  std::ptrdiff_t ld = 0;
  std::vector<float> y;  ///< [rows][ld] in the units of the transform
  /// Whether these are the coefficients that the profile describes: its units are one finest step, its classes fit.
  bool calibrated = false;
};

/// What a quantiser made, and what an entropy model codes.
struct symbols {
  group_place place;
  int rows = 0, width = 0;
  std::ptrdiff_t ld = 0;
  int passes = 1;           ///< of the codec and the profile
  int made = 1;             ///< of these, how many are wanted
  int bits = 0;             ///< where every value is an unsigned number of so many bits; 0 = signed, of any size
  bool calibrated = false;  ///< see coefficients, and the step is the profile's own
  std::vector<std::int16_t> finest;             ///< [rows][ld] at the finest of `passes`
  std::vector<std::int16_t> values;             ///< [rows][ld] of the base pass; the entropy model may change them
  std::vector<std::int8_t> digits[max_passes];  ///< [p], p >= 1: values of pass p = 3 * those of pass p - 1 + digit
};

using detail::coefficient_correction;

/// What an entropy model decodes of one tile.
struct decoded_symbols {
  const sluice::tile* tile = nullptr;
  bool calibrated = false;  ///< as it was when the tile was encoded
  int passes = 1;           ///< of the codec and the profile
  int bits = 0;             ///< as in symbols; set by the quantiser
  std::ptrdiff_t ld = 0;
  std::int16_t* values = nullptr;                   ///< out: [rows][ld] at the tile's level; zero when handed over
  int live = 0;                                     ///< out: columns from here on are zero; handed over as the width
  std::vector<coefficient_correction> corrections;  ///< out: what 16 bits or a table could not say, by row
  status state = status::ok;                        ///< out
};

/// Rows of coefficients on the way out: integers times `scale`, or floats.
struct coefficient_rows {
  int rows = 0, live = 0;
  const std::int16_t* values = nullptr;  ///< [rows][ld], or null
  const float* floats = nullptr;         ///< [rows][ld] where `values` is null
  std::ptrdiff_t ld = 0;
  float scale = 1;                                      ///< of values and corrections, in the units of the transform
  std::span<const coefficient_correction> corrections;  ///< rows counted from the first one here
};

/// What a bit-width policy may ask about the coefficients of a tile; each answer costs a look at all of them.
class coefficient_statistics {
 public:
  coefficient_statistics(const coefficients& c, int passes) : c_(&c), passes_(passes) {}
  bool calibrated() const noexcept { return c_->calibrated; }
  int passes() const noexcept { return passes_; }
  float low() const noexcept { return range(false); }
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

/// Grouping policy: `tokens` of a tile, `heads_per_basis` that share a basis (0 = as many as fit).
template <class G>
concept grouping_policy = requires {
  { G::tokens } -> std::convertible_to<int>;
  { G::heads_per_basis } -> std::convertible_to<int>;
};

/// Predictor policy: says what rows are likely to be, from what both sides know.
/// - `id`; `predicts`: false = the stage is skipped; `span`: see tile_codec. Constructed from a profile.
/// - `predict(place, range, rows, side, out, ld)`: writes the expected rows, [rows.size()][ld] floats in the domain of the
///   transform, zeroed before. `rows` are tokens counted from range.frame_token. Returns whether it wrote anything.
/// - where span > 0, `learn(place, range, rows, x, ld)`: the rows of a tile as a decoder of the base level has them,
///   called after the layer's tiles, on both sides alike; a tile that could not be decoded is not learnt, and decoding
///   what depends on it gives status::corrupt_tile.
template <class P>
concept predictor_policy = requires {
  { P::id } -> std::convertible_to<stage_id>;
  { P::span } -> std::convertible_to<int>;
  { P::predicts } -> std::convertible_to<bool>;
}
&&(!P::predicts ||
   requires(P p, const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
            const side_info& side, float* out, std::ptrdiff_t ld) {
     requires std::constructible_from<P, const profile&>;
     { p.predict(place, range, rows, side, out, ld) } -> std::same_as<bool>;
   }) &&
    (P::span == 0 ||
     requires(P p, const group_place& place, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
              const float* x, std::ptrdiff_t ld) { p.learn(place, range, rows, x, ld); });

/// Transform policy: rows of a domain to coefficients and back. Its section is section::transform of the base pass.
/// - `id`, `domain` (rotated or unrotated), `uses(profile)`: whether it reads the profile.
/// - `encoder{profile, isa}`: `state()`; `forward(rows, out, writer)` fills out.y (rows, width and ld are set) and
///   out.calibrated, and writes its section. Optional, for speed: `rounded(rows, values, ld, beyond)` where
///   `calibrated(place)`: coefficients rounded to whole units at once, beyond[row] = 1 where one does not fit 16 bits.
/// - `decoder{profile, isa}`: `state()`; `calibrated(place)`; `open(tile, slot)` reads its section of the tile at place
///   `slot` of a batch, false = corrupt; `inverse(tile, slot, rows, out, ld)` writes rows of floats.
template <class T>
concept transform_policy = requires(const profile& p) {
  { T::id } -> std::convertible_to<stage_id>;
  { T::domain } -> std::convertible_to<value_domain>;
  { T::uses(p) } -> std::same_as<bool>;
}
&&requires(typename T::encoder e, tile_rows& rows, coefficients& out, tile_writer& w) {
  requires std::constructible_from<typename T::encoder, const profile&, isa>;
  { e.state() } -> std::same_as<status>;
  { e.forward(rows, out, w) } -> std::same_as<status>;
}
&&requires(typename T::decoder d, const tile& t, const coefficient_rows& c, float* out, std::ptrdiff_t ld) {
  requires std::constructible_from<typename T::decoder, const profile&, isa>;
  { d.state() } -> std::same_as<status>;
  { d.calibrated(t.place) } -> std::same_as<bool>;
  { d.open(t, 0) } -> std::same_as<bool>;
  d.inverse(t, 0, c, out, ld);
};

/// Quantiser policy: coefficients to integers and back. Its section is section::quantizer.
/// - `id`; `passes`: levels that encode() makes; `depth(profile)`: passes of a complete tile, of which `passes` may be
///   fewer: values are then rounded to the coarser step; `fixed_width`: whether values are unsigned numbers of bits() bits.
/// - `rounds`: whether quantize() is rounding to the nearest whole step and nothing else.
/// - `encoder{isa}`: `quantize(in, step, out, beyond, writer)` from coefficients; out.bits is set where fixed_width.
///   beyond[row] = 1 for rows that it cannot hold: they become exact and it is called again. Fills out.finest.
///   `split(out)` fills out.values and out.digits from out.finest.
/// - `decoder{isa}`: `open(tile, slot, out)` reads its section and sets out.bits, false = corrupt;
///   `restore(tile, slot, in, first, n, out)`: coefficients of decoded rows [first, first + n).
template <class Q>
concept quantizer_policy = requires {
  { Q::id } -> std::convertible_to<stage_id>;
  { Q::passes } -> std::convertible_to<int>;
  { Q::fixed_width } -> std::convertible_to<bool>;
  { Q::rounds } -> std::convertible_to<bool>;
}
&&requires(const profile& p) {
  { Q::depth(p) } -> std::same_as<int>;
}
&&requires(typename Q::encoder e, const coefficients& in, symbols& out, std::span<std::uint8_t> beyond,
           tile_writer& w) {
  requires std::constructible_from<typename Q::encoder, isa>;
  { e.quantize(in, 1.f, out, beyond, w) } -> std::same_as<status>;
  e.split(out);
}
&&requires(typename Q::decoder d, const tile& t, decoded_symbols& s, coefficient_rows& out) {
  requires std::constructible_from<typename Q::decoder, isa>;
  { d.open(t, 0, s) } -> std::same_as<bool>;
  d.restore(t, 0, s, 0, 1, out);
};

/// Bit-width policy: how fine to quantise. One or both of
/// - `step(layer, plane, num_layers, statistics)`: the finest step in the units of the coefficients, for quantisers of
///   any width; where `measures(calibrated)` is false it is 1 and not asked for;
/// - `bits(layer, plane, num_layers)`: 1 to 8, for quantisers of fixed width.
template <class B>
concept bit_widths_policy = requires {
  { B::id } -> std::convertible_to<stage_id>;
};
template <class B>
concept sets_steps = bit_widths_policy<B> && requires(int n, plane p, const coefficient_statistics& s) {
  { B::measures(true) } -> std::same_as<bool>;
  { B::step(n, p, n, s) } -> std::same_as<float>;
};
template <class B>
concept sets_bits = bit_widths_policy<B> && requires(int n, plane p) {
  { B::bits(n, p, n) } -> std::same_as<int>;
};

/// Entropy model: integers to bytes and back. Its section is section::entropy of each pass.
/// - `id`; `fixed_width`: whether it codes unsigned numbers of known width only; `uses(profile)`.
/// - `encoder{profile, isa}`: `encode(symbols, writer)` writes passes 0 .. made - 1. too_large = keep the tile exact.
/// - `decoder{profile, isa}`: `decode(batch)` decodes every tile of a batch up to its level and sets its state; the
///   sections are untrusted. A model may lose something; what it decodes is what the reader gets.
template <class E>
concept entropy_model = requires(const profile& p) {
  { E::id } -> std::convertible_to<stage_id>;
  { E::fixed_width } -> std::convertible_to<bool>;
  { E::uses(p) } -> std::same_as<bool>;
}
&&requires(typename E::encoder e, symbols& in, tile_writer& w) {
  requires std::constructible_from<typename E::encoder, const profile&, isa>;
  { e.encode(in, w) } -> std::same_as<status>;
}
&&requires(typename E::decoder d, std::span<decoded_symbols> batch) {
  requires std::constructible_from<typename E::decoder, const profile&, isa>;
  d.decode(batch);
};

}  // namespace sluice
