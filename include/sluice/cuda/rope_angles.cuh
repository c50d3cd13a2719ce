// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/numeric.hpp>

#include <cuda_runtime.h>

namespace sluice::cuda {

/// What turns one rotary pair.
struct alignas(8) rope_entry {
  float cosine, sine;
};

/// cos and sin of a pair at a position, times `gain`; `frequency` in radians a position. The angle is a double, since a
/// float's would be off by a tenth of a radian at position 1e6, and in half turns, which needs no slow way for large ones.
__device__ __forceinline__ rope_entry rope_at(double position, double frequency, double gain) {
  double s, c;
  sincospi(position * (frequency * (1 / sluice::detail::pi)), &s, &c);
  return {static_cast<float>(gain * c), static_cast<float>(gain * s)};
}

}  // namespace sluice::cuda
