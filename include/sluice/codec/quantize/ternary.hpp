// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/warp/targets.hpp>
#if !SLUICE_LINKS_KERNELS
#include <sluice/warp/floats.hpp>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

// Integers as levels: a coarse part and a ternary digit, and where they leave their limits.

namespace sluice::detail {

struct coefficient_place {
  std::int32_t row = 0;
  std::int32_t coefficient = 0;
};

}  // namespace sluice::detail

#define SLUICE_FUNCTIONS                                                                                          \
  SLUICE_KERNEL void split3(const std::int16_t* f, std::int16_t* c, std::int16_t* r, int count) noexcept;         \
  SLUICE_KERNEL void split_levels(const std::int16_t* f, std::int16_t* c, std::int8_t* const* digits, int passes, \
                                  int made, int count) noexcept;                                                  \
  SLUICE_KERNEL std::size_t scan_limits(const std::int16_t* v, std::ptrdiff_t ldv, int rows, int n,               \
                                        const std::int16_t* limit, coefficient_place* found,                      \
                                        std::size_t cap) noexcept;
#define SLUICE_BODY <sluice/codec/quantize/ternary_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice::detail {
inline namespace SLUICE_HOST_ABI {

/// One refinement step: f = 3 c + r with c = floor((f + 1) / 3), r in {-1, 0, 1}; c may be f itself.
inline void split3(isa i, const std::int16_t* f, std::int16_t* c, std::int16_t* r, int count) noexcept {
  SLUICE_RETURN_ON(i, split3(f, c, r, count))
}

/// The refinement steps of all passes from the finest on: c is the base, digits[p] those of pass p, of the first `made`
/// passes.
inline void split_levels(isa i, const std::int16_t* f, std::int16_t* c, std::int8_t* const* digits, int passes,
                         int made, int count) noexcept {
  SLUICE_RETURN_ON(i, split_levels(f, c, digits, passes, made, count))
}

/// Finds |v[row][j]| > limit[j] (limits are not negative), row by row; writes the first `cap` places and returns how
/// many there are.
inline std::size_t scan_limits(isa i, const std::int16_t* v, std::ptrdiff_t ldv, int rows, int n,
                               const std::int16_t* limit, coefficient_place* found, std::size_t cap) noexcept {
  SLUICE_RETURN_ON(i, scan_limits(v, ldv, rows, n, limit, found, cap))
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::detail
