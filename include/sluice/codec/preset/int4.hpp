// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/entropy/bitpack.hpp>
#include <sluice/codec/quantize/absmax.hpp>
#include <sluice/codec/residual_window.hpp>
#include <sluice/codec/transform/identity.hpp>
#include <sluice/codec/width/uniform_bits.hpp>

namespace sluice::codec {

/// Round to nearest, the baseline of every paper: N bits a value, one symmetric f16 scale for each token and head, keys
/// as cached, no token kept exact. N + 16 / head_dim bits a value; no profile.
template <int Bits>
using integers = residual_window<
    basic_codec<tile_tokens<>, no_prediction, identity_transform, absmax<>, uniform_bits<Bits>, bitpack>, 0>;

/// The preset of 8 bits.
using int8 = integers<8>;
/// The preset of 4 bits.
using int4 = integers<4>;

static_assert(tile_codec<int8> && tile_codec<int4>);

}  // namespace sluice::codec
