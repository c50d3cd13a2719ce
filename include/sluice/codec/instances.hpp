// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/warp/targets.hpp>

// Encoders and decoders of the presets: sluice::kernels has them, and who links it does not compile them again; nor does
// who defines SLUICE_LINKS_PRESETS and has them elsewhere.
#if SLUICE_LINKS_KERNELS || defined(SLUICE_LINKS_PRESETS)
namespace sluice {
#define SLUICE_DECLARE(type, name, what)      \
  extern template class encoder<codec::type>; \
  extern template class decoder<codec::type>;
SLUICE_PRESETS(SLUICE_DECLARE)
#undef SLUICE_DECLARE
}  // namespace sluice
#endif
