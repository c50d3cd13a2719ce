// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/raw.hpp>
#include <sluice/codec/entropy/split_exponent.hpp>
#include <sluice/codec/stored_codec.hpp>

namespace sluice::codec {

/// Lossless: exponents entropy-coded, the rest verbatim.
using exact = stored_codec<tile_tokens<>, split_exponent>;

/// The bytes as they are, framed and checksummed: what everything else is measured against.
using uncompressed = stored_codec<tile_tokens<>, raw>;

static_assert(tile_codec<exact> && tile_codec<uncompressed>);

}  // namespace sluice::codec
