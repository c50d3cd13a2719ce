// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/tensor/shape.hpp>
#include <sluice/warp/targets.hpp>
#if !SLUICE_LINKS_KERNELS
#include <sluice/warp/floats.hpp>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

// Token rows of an engine's memory as floats, and back: gathered and scattered head by head, converted on the way. Float
// arrays are [rows][leading dimension], elements adjoining; no pointer needs more alignment than its type, and engine
// memory needs none. Nothing allocates.

namespace sluice::detail {

/// Where token rows of one plane of one layer lie: an element's address is
/// base + offsets[row] + (first_head + h) * head_stride + d * element_stride. `type` is not dtype::bytes.
struct row_layout {
  const std::int64_t* offsets = nullptr;  ///< bytes, one a row, to head 0, element 0
  std::int64_t head_stride = 0;
  std::int64_t element_stride = 0;
  std::int32_t first_head = 0;
  std::int32_t num_heads = 0;
  std::int32_t head_dim = 0;
  dtype type = dtype::f16;
  bool finite = false;  ///< store_rows: what is beyond f16 becomes its largest number, as with 8-bit types
};

}  // namespace sluice::detail

#define SLUICE_FUNCTIONS                                                                                            \
  SLUICE_KERNEL void load_rows(const std::byte* base, const row_layout& at, int rows, float* to, std::ptrdiff_t ld, \
                               std::uint8_t* not_finite) noexcept;                                                  \
  SLUICE_KERNEL void store_rows(const float* from, std::ptrdiff_t ld, int rows, std::byte* base,                    \
                                const row_layout& at) noexcept;
#define SLUICE_BODY <sluice/tensor/rows_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice::detail {
inline namespace SLUICE_HOST_ABI {

/// Rows of the engine's memory as float: to[row][h * head_dim + d]. A row with a NaN or an infinity sets its byte of
/// `not_finite` (may be null) to 1; other bytes are kept.
inline void load_rows(isa i, const std::byte* base, const row_layout& at, int rows, float* to, std::ptrdiff_t ld,
                      std::uint8_t* not_finite) noexcept {
  SLUICE_RETURN_ON(i, load_rows(base, at, rows, to, ld, not_finite))
}

/// The inverse, rounding as from_float<> in tensor/half.hpp does.
inline void store_rows(isa i, const float* from, std::ptrdiff_t ld, int rows, std::byte* base,
                       const row_layout& at) noexcept {
  SLUICE_RETURN_ON(i, store_rows(from, ld, rows, base, at))
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::detail
