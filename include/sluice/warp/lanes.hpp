// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// What the 32-lane machines of all instruction sets, and of a GPU, agree on.

namespace sluice::detail {

inline constexpr int warp_lanes = 32;

/// What the symbols of a table mean: themselves, values 0, -1, 1, -2, ... or ternary digits 0, -1, +1.
enum class alphabet : std::uint8_t { symbols, values, digits };

}  // namespace sluice::detail
