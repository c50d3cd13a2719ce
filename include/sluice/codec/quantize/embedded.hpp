// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>

namespace sluice {

/// Quantiser policy: a uniform mid-tread quantiser at the finest step, split into a base and Refinements ternary passes,
/// each cutting every cell in three, so that one stream serves every level and a coarser copy is a prefix.
/// Reconstruction is the middle of the cell: shrinking it towards zero lowers MSE and doubles KL.
template <int Refinements = 3>
struct embedded {
  static_assert(Refinements >= 0 && Refinements <= 5, "sluice::embedded<Refinements>: Refinements must be from 0 to 5");
  static constexpr std::uint8_t id = 1;
  static constexpr int passes = Refinements + 1;
};

/// Quantiser policy: one level, nothing embedded.
using single_level = embedded<0>;

template <class Q>
concept quantizer_policy = requires {
  { Q::id } -> std::convertible_to<std::uint8_t>;
  { Q::passes } -> std::convertible_to<int>;
};

}  // namespace sluice
