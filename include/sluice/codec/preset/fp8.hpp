// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/entropy/bitpack.hpp>
#include <sluice/codec/quantize/fp8.hpp>
#include <sluice/codec/residual_window.hpp>
#include <sluice/codec/transform/identity.hpp>
#include <sluice/codec/width/uniform_bits.hpp>

namespace sluice::codec {

/// fp8 as engines keep and stores ship it: a cast of the cache as it stands to e4m3, no scale, no token kept exact. 8 bits
/// a value; no profile. Source: LMCache's fp8 serde, which casts; vLLM's kv_cache_dtype "fp8" with scales of 1, its default.
/// A scale for each token and head would cost 16 / head_dim bits and save only what is below 2^-6 or above 448.
using fp8 =
    residual_window<basic_codec<tile_tokens<>, no_prediction, identity_transform, fp8_cast, uniform_bits<8>, bitpack>,
                    0>;

static_assert(tile_codec<fp8>);

}  // namespace sluice::codec
