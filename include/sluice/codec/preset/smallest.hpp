// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/predict/decoded_layers.hpp>
#include <sluice/codec/predict/predicted_from.hpp>
#include <sluice/codec/predict/token_embedding.hpp>
#include <sluice/codec/width/token_steps.hpp>

namespace sluice::codec {
inline namespace SLUICE_HOST_ABI {

/// The fewest bytes: rows are predicted from their token, the layer below and K of their own layer. The base of a frame is
/// as fine as level 1 of `balanced`, since predictions are made from it; two refinements follow. Readers give the token
/// ids, and decode all layers below those they want. Wants a profile with the section of its predictor.
using smallest =
    standard::with_predictor<predicted_from<token_embedding<>, previous_layer<>, same_layer_k_for_v>>::with_quantizer<
        embedded<2>>::with_bit_widths<token_steps<-6>>;

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::codec
