// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace sluice::detail {

/// A value to add to one coefficient, in units of the coefficients.
struct coefficient_correction {
  std::int32_t row = 0;
  std::int32_t coefficient = 0;
  float value = 0;
};

}  // namespace sluice::detail
