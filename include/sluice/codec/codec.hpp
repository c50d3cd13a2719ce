// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/width/bit_widths.hpp>
#include <sluice/codec/entropy/entropy.hpp>
#include <sluice/codec/group/tile_tokens.hpp>
#include <sluice/codec/predict/no_prediction.hpp>
#include <sluice/codec/quantize/embedded.hpp>
#include <sluice/codec/transform/profile_basis.hpp>
#include <sluice/format/frame.hpp>

namespace sluice::codec {

/// A codec: one policy per stage of the pipeline, each changing bytes and each recorded in the frame.
/// Rebind one stage with with_*<>, e.g. standard::with_grouping<tile_tokens<128>>.
template <grouping_policy Grouping = tile_tokens<>, predictor_policy Predictor = no_prediction,
          transform_policy Transform = profile_basis, quantizer_policy Quantizer = embedded<>,
          bit_widths_policy BitWidths = profile_steps, entropy_model EntropyModel = class_rans>
struct basic_codec {
  using grouping = Grouping;
  using predictor = Predictor;
  using transform = Transform;
  using quantizer = Quantizer;
  using bit_widths = BitWidths;
  using entropy = EntropyModel;

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

  static constexpr codec_id id{Predictor::id, Transform::id, Quantizer::id, BitWidths::id, EntropyModel::id};

  static_assert(EntropyModel::id != bitpack::id || (BitWidths::id != profile_steps::id && Quantizer::passes == 1),
                "sluice::basic_codec: bitpack needs uniform_bits or layer_bits, and single_level");
  static_assert(
      !EntropyModel::exact || (!Transform::decorrelates && Quantizer::passes == 1),
      "sluice::basic_codec: split_exponent and raw code values as they are: identity_transform and single_level");
  static_assert(EntropyModel::id != class_rans::id || Transform::decorrelates,
                "sluice::basic_codec: class_rans codes the coefficients of profile_basis");
};

/// The default: weighted basis, four embedded levels, class-table rANS.
using standard = basic_codec<>;

}  // namespace sluice::codec
