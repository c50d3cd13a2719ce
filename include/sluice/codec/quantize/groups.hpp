// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/warp/targets.hpp>
#if !SLUICE_LINKS_KERNELS
#include <sluice/warp/floats.hpp>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

// Rows whose columns have a scale each, or share one: what a quantiser with scales for groups does to every value.

namespace sluice::detail {

// `columns` of some rows of floats and of codes.
struct group_rows {
  int rows = 0, columns = 0;
  std::ptrdiff_t ldx = 0, ldq = 0;  // elements from row to row: floats, codes
  bool shared = false;              // whether one scale serves all columns
  std::ptrdiff_t lds = 0;           // scales from row to row, where each row has its own
};

}  // namespace sluice::detail

#define SLUICE_FUNCTIONS                                                                                             \
  SLUICE_KERNEL void group_ranges(const group_rows& of, const float* x, float* low, float* high) noexcept;           \
  SLUICE_KERNEL void group_codes(const group_rows& of, const float* x, const float* inverse, const float* zero,      \
                                 float most, std::int16_t* q) noexcept;                                              \
  SLUICE_KERNEL void group_peaks(const group_rows& of, const float* x, float* peak) noexcept;                        \
  SLUICE_KERNEL void group_signed_codes(const group_rows& of, const float* x, const float* inverse, float half,      \
                                        std::int16_t* q) noexcept;                                                   \
  SLUICE_KERNEL void group_floats(const group_rows& of, const std::int16_t* q, const float* step, const float* zero, \
                                  float* x) noexcept;                                                                \
  SLUICE_KERNEL void group_scales(const float* pairs, std::size_t n, float* step, float* zero) noexcept;
#define SLUICE_BODY <sluice/codec/quantize/groups_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice::detail {
inline namespace SLUICE_HOST_ABI {

/// Least and greatest value of each column of one or more rows.
inline void group_ranges(isa i, const group_rows& of, const float* x, float* low, float* high) noexcept {
  SLUICE_RETURN_ON(i, group_ranges(of, x, low, high))
}

/// q = (x - zero) * inverse, rounded to nearest even and clamped to 0 .. most.
inline void group_codes(isa i, const group_rows& of, const float* x, const float* inverse, const float* zero,
                        float most, std::int16_t* q) noexcept {
  SLUICE_RETURN_ON(i, group_codes(of, x, inverse, zero, most, q))
}

/// Largest magnitude of each row.
inline void group_peaks(isa i, const group_rows& of, const float* x, float* peak) noexcept {
  SLUICE_RETURN_ON(i, group_peaks(of, x, peak))
}

/// q = x * inverse + half + 0.5, rounded down and clamped to 1 .. 2 * half - 1; each row has an inverse.
inline void group_signed_codes(isa i, const group_rows& of, const float* x, const float* inverse, float half,
                               std::int16_t* q) noexcept {
  SLUICE_RETURN_ON(i, group_signed_codes(of, x, inverse, half, q))
}

/// x = q * step + zero. The product of a code of 8 bits and an f16 is exact, so that a fused addition rounds as a
/// separate one does.
inline void group_floats(isa i, const group_rows& of, const std::int16_t* q, const float* step, const float* zero,
                         float* x) noexcept {
  SLUICE_RETURN_ON(i, group_floats(of, q, step, zero, x))
}

/// Takes n pairs of f16 step and f16 zero apart; a float of `pairs` holds the bits of one.
inline void group_scales(isa i, const float* pairs, std::size_t n, float* step, float* zero) noexcept {
  SLUICE_RETURN_ON(i, group_scales(pairs, n, step, zero))
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::detail
