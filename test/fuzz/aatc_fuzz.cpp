// SPDX-License-Identifier: Apache-2.0
// The first byte says what the others are: even, a tile of codec::aatc, which decodes or is corrupt; odd, the
// section of its bits, which serves encoder and decoder alike or neither.
#include <sluice/codec/preset/aatc.hpp>

#include <cstddef>
#include <cstdint>
#include <support/aatc_model.hpp>
#include <support/preset_fuzz.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  return preset_fuzz::run<sluice::codec::aatc<300, 0>>(aatc::small_model, data, size);
}
