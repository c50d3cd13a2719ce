// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/width/token_steps.hpp>

namespace sluice::codec {
inline namespace SLUICE_HOST_ABI {

/// `standard` with steps that know which tokens will be looked at; layers and frames stand alone, no token ids are needed.
/// Wants a profile with a section of token_steps, and works without.
using balanced = standard::with_bit_widths<token_steps<>>;

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::codec
