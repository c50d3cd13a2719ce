// SPDX-License-Identifier: Apache-2.0
// The first byte says what the others are: even, a tile of codec::kvquant, which decodes or is corrupt; odd, the
// section of its levels, which serves encoder and decoder alike or neither.
#include <sluice/codec/preset/kvquant.hpp>

#include <cstddef>
#include <cstdint>
#include <support/kvquant_model.hpp>
#include <support/preset_fuzz.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return preset_fuzz::run<sluice::codec::kvquant<2>>(kvquant::small_model, data, size);
}
