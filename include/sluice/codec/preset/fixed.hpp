// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/entropy/bitpack.hpp>
#include <sluice/codec/quantize/ranged.hpp>
#include <sluice/codec/transform/identity.hpp>
#include <sluice/codec/width/uniform_bits.hpp>

namespace sluice::codec {

/// Fixed rate in the profile's basis: N bits a coefficient, no entropy coder; never finer than the profile's finest step.
template <int Bits>
using fixed = basic_codec<tile_tokens<>, no_prediction, profile_basis, ranged<>, uniform_bits<Bits>, bitpack>;

/// Fixed rate on the cache as it stands: N bits a value, range per channel and tile.
template <int Bits>
using plain = typename fixed<Bits>::template with_transform<identity_transform>;

}  // namespace sluice::codec
