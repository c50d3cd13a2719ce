// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/warp/targets.hpp>

// The instruction sets that bodies are compiled for; a narrower one stands in where the processor lacks one.
namespace isas {

#if SLUICE_ARM_TARGETS
inline constexpr sluice::isa all[] = {sluice::isa::portable, sluice::isa::neon};
inline constexpr sluice::isa wide[] = {sluice::isa::neon};
#else
inline constexpr sluice::isa all[] = {sluice::isa::portable, sluice::isa::avx2, sluice::isa::avx512};
inline constexpr sluice::isa wide[] = {sluice::isa::avx2, sluice::isa::avx512};
#endif

}  // namespace isas
