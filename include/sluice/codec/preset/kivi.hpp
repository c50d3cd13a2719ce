// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/entropy/bitpack.hpp>
#include <sluice/codec/quantize/ranged.hpp>
#include <sluice/codec/residual_window.hpp>
#include <sluice/codec/transform/identity.hpp>
#include <sluice/codec/width/uniform_bits.hpp>

namespace sluice::codec {

/// KIVI: keys as cached, in groups of `Group` tokens of a channel; values in groups of `Group` channels of a token; codes
/// of `Bits` bits over each group's range, with an f16 step and zero; the last `Residual` tokens as they are.
/// Bits + 32 / Group bits a value outside of the window; no profile. Source: arXiv 2402.02750 section 3; its code keeps
/// between 0 and Residual tokens of K, by what the length leaves over, and this one always Residual.
template <int Bits, int Group = 32, int Residual = 128>
using kivi = residual_window<
    basic_codec<tile_tokens<>, no_prediction, identity_transform,
                ranged<range_along::tokens, Group, range_along::channels, Group>, uniform_bits<Bits>, bitpack>,
    Residual>;

static_assert(tile_codec<kivi<4>> && tile_codec<kivi<2>>);

}  // namespace sluice::codec
