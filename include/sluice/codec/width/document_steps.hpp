// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/model/token_weight_model.hpp>
#include <sluice/numeric.hpp>

#include <cstdint>
#include <span>

// Levels that keep their word. What errors in a cache cost differs from document to document by more than an encoder can
// know from K and V: the same steps lose up to 20 times as much on one text as on another. An engine can measure it: it decodes
// a part of the document, computes a few hundred of the tokens that follow, and compares with what it predicted before.

namespace sluice {

namespace detail {

inline constexpr double loss_exponent = 1.8;  // of steps; measured, between 1.7 and 1.9

inline bool positive(double x) noexcept { return x > 0 && x < infinity; }

}  // namespace detail

/// Quarter octaves by which coarser steps lose `times` as much.
inline double quarters_for(double times) noexcept { return 4 / detail::loss_exponent * detail::log2(times); }

/// Whether a codec's steps are those of token_steps, which encode_options::coarser moves.
inline bool steps_move(const codec_id& codec) noexcept { return codec.bit_widths.id == detail::token_weight_model::id; }

/// Nats that a level of a codec is expected to lose with steps that are `coarser` by so many quarter octaves: what the
/// profile says, moved as far as the codec's token_steps are. 0 where the profile expects nothing.
inline double expected_loss(const profile& p, const codec_id& codec, int level, double coarser = 0) noexcept {
  const double quarters = steps_move(codec) ? coarser + double(codec.bit_widths.value()) - 128 : 0;
  return p.loss_of(level) * detail::exp2(detail::loss_exponent / 4 * quarters);
}

/// The level of a codec, of so many, that is expected to lose nearest to `nats`.
inline int level_losing(double nats, const profile& p, const codec_id& codec, int levels) noexcept {
  int best = 0;
  double least = detail::infinity;
  for (int j = 0; j < levels; ++j)
    if (const double away = detail::abs(detail::log2(expected_loss(p, codec, j) / nats)); away < least)
      best = j, least = away;
  return best;
}

/// How one document is to be encoded: what to put into encode_options.
struct document_steps {
  float coarser = 0;             ///< quarter octaves by which its steps are coarser than the profile's
  double loss[max_passes] = {};  ///< nats that each level is then expected to lose; 0 = not known

  /// The losses for encode_options; none where they are not known.
  std::span<const double> told() const noexcept { return std::span(loss).first(loss[0] > 0 ? max_passes : 0); }
};

/// Steps of a document for `level` of a codec to lose `target` nats, where an engine `measured` what it loses with the
/// profile's own steps; for codecs of token_steps. What a text loses at one place is half noise at another, so what was
/// measured is trusted three quarters of the way. Steps get finer by an octave and a half at most, and coarser by half of
/// one: a place that lost next to nothing says little about others. What is no positive number moves nothing.
inline document_steps steps_for(double target, double measured, const profile& p, const codec_id& codec,
                                int level) noexcept {
  constexpr double trust = 0.75, finest = -6, coarsest = 2;
  document_steps out;
  const double usual = expected_loss(p, codec, level);
  if (!detail::positive(usual) || !detail::positive(measured) || !detail::positive(target)) return out;
  const double likely = usual * detail::exp2(trust * detail::log2(measured / usual));
  out.coarser = float(detail::clamp(quarters_for(target / likely), finest, coarsest));
  const double now = likely * detail::exp2(detail::loss_exponent / 4 * double(out.coarser));
  for (int j = 0; j < max_passes && j < p.passes; ++j) out.loss[j] = now * p.loss_of(j) / p.loss_of(level);
  return out;
}

}  // namespace sluice
