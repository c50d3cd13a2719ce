// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/entropy/bitpack.hpp>
#include <sluice/codec/quantize/lloyd_max.hpp>
#include <sluice/codec/residual_window.hpp>
#include <sluice/codec/transform/random_rotation.hpp>
#include <sluice/codec/width/uniform_bits.hpp>

namespace sluice::codec {

/// TurboQuant: every head of a token is rotated at random and each coordinate takes the nearest of 2^Bits Lloyd-Max levels,
/// with one f16 norm for each token and head; keys as cached, no token kept exact. Bits + 16 / head_dim bits a value; no
/// profile. Source: arXiv 2504.19874, the quantiser of least mean squared error; the stage of signs (QJL) behind it is left
/// out, since it has been found to harm (vLLM leaves it out), and norms stay as they were.
template <int Bits>
using turboquant = residual_window<
    basic_codec<tile_tokens<>, no_prediction, random_rotation<>, lloyd_max, uniform_bits<Bits>, bitpack>, 0>;

static_assert(tile_codec<turboquant<4>> && tile_codec<turboquant<3>>);

}  // namespace sluice::codec
