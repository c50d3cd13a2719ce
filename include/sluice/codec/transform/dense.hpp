// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/correction.hpp>
#include <sluice/config.hpp>
#include <sluice/tensor/shape.hpp>
#include <sluice/warp/floats.hpp>
#include <sluice/warp/targets.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

// The float side of the codec: gathering and scattering token rows, rotation, the matrix product around the quantiser,
// and splitting integers into levels. Everything works on blocks of rows that the caller owns; nothing allocates.
// Float arrays are [rows][leading dimension], elements adjoining; no pointer needs more alignment than its type, and
// engine memory needs none.

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

struct coefficient_place {
  std::int32_t row = 0;
  std::int32_t coefficient = 0;
};

/// x[row][j] = scale * sum over i < k of (c[row][i] + corrections) * matrix[i][j] + mean[j].
struct inverse_job {
  const std::int16_t* c = nullptr;  ///< [rows][ldc]; the first k of a row are live
  std::ptrdiff_t ldc = 0;
  const std::uint16_t* matrix = nullptr;  ///< f16 bits, [matrix_rows][n] as in the profile
  const float* mean = nullptr;            ///< [n], or null for zero
  float scale = 1;
  float* x = nullptr;  ///< [rows][ldx]
  std::ptrdiff_t ldx = 0;
  std::int32_t rows = 0;
  std::int32_t k = 0;
  std::int32_t n = 0;
  std::int32_t matrix_rows = 0;  ///< >= k; corrections may name any of these coefficients, others are ignored
  const coefficient_correction* corrections = nullptr;
  std::size_t num_corrections = 0;
};

/// c[row][i] = round to nearest even(sum over j < n of (x[row][j] - mean[j]) * matrix[j][i]), clamped to +-32767.
struct forward_job {
  const float* x = nullptr;  ///< [rows][ldx]
  std::ptrdiff_t ldx = 0;
  const float* mean = nullptr;    ///< [n], or null for zero
  const float* matrix = nullptr;  ///< [n][ldm], its first k columns are used
  std::ptrdiff_t ldm = 0;
  std::int16_t* c = nullptr;  ///< [rows][ldc]
  std::ptrdiff_t ldc = 0;
  std::uint8_t* beyond = nullptr;  ///< [rows], or null; set to 1 where a sum is beyond +-32000 or no number, else kept
  std::int32_t rows = 0;
  std::int32_t n = 0;
  std::int32_t k = 0;  ///< coefficients wanted
};

inline constexpr int dense_block_floats = 256 * 1024;

SLUICE_HD constexpr int dense_round_up(int n) noexcept { return (n + 31) / 32 * 32; }

SLUICE_HD constexpr int dense_panel(int columns) noexcept { return columns < 64 ? dense_round_up(columns) : 64; }

/// Floats of workspace for a product of `rows` rows: `inner` is k for inverse_transform, n for forward_transform;
/// `columns` is the other one. Never shrinks as an argument grows, so one workspace serves everything smaller.
SLUICE_HD constexpr std::size_t dense_workspace(int rows, int inner, int columns) noexcept {
  const auto line = static_cast<std::size_t>(dense_round_up(inner > 0 ? inner : 1));
  const std::size_t all = static_cast<std::size_t>(rows) * line;
  const std::size_t most = 64 * line > dense_block_floats ? 64 * line : dense_block_floats;
  const auto panel = static_cast<std::size_t>(dense_panel(columns));
  return (all < most ? all : most) + 16 * line + panel * line + 16;
}

}  // namespace sluice::detail

#define SLUICE_BODY <sluice/codec/transform/dense_body.inl>
#include <sluice/warp/foreach_target.inl>

// Calls one of the bodies; `i` may be any isa, what the processor lacks falls back.
#if SLUICE_X86_TARGETS
#define SLUICE_DENSE_CALL(i, call)         \
  switch (usable_isa(i)) {                 \
    case isa::avx512: return avx512::call; \
    case isa::avx2: return avx2::call;     \
    default: return portable::call;        \
  }
#else
#define SLUICE_DENSE_CALL(i, call) \
  (void)i;                         \
  return portable::call;
#endif

namespace sluice::detail {
inline namespace SLUICE_HOST_ABI {

/// Rows of the engine's memory as float: to[row][h * head_dim + d]. A row with a NaN or an infinity sets its byte of
/// `not_finite` (may be null) to 1; other bytes are kept.
inline void load_rows(isa i, const std::byte* base, const row_layout& at, int rows, float* to, std::ptrdiff_t ld,
                      std::uint8_t* not_finite) noexcept {
  SLUICE_DENSE_CALL(i, load_rows(base, at, rows, to, ld, not_finite))
}

/// The inverse, rounding as from_float<> in tensor/half.hpp does.
inline void store_rows(isa i, const float* from, std::ptrdiff_t ld, int rows, std::byte* base,
                       const row_layout& at) noexcept {
  SLUICE_DENSE_CALL(i, store_rows(from, ld, rows, base, at))
}

/// See inverse_job; `workspace` holds dense_workspace(rows, k, n) floats.
inline void inverse_transform(isa i, const inverse_job& job, float* workspace) noexcept {
  SLUICE_DENSE_CALL(i, inverse_transform(job, workspace))
}

/// See forward_job; `workspace` holds dense_workspace(rows, n, k) floats.
inline void forward_transform(isa i, const forward_job& job, float* workspace) noexcept {
  SLUICE_DENSE_CALL(i, forward_transform(job, workspace))
}

/// Without a matrix: x = c * step + mean for the first k of n columns, mean for the others. `mean` may be null.
inline void dequantize_rows(isa i, const std::int16_t* c, std::ptrdiff_t ldc, int rows, int k, float step,
                            const float* mean, int n, float* x, std::ptrdiff_t ldx) noexcept {
  SLUICE_DENSE_CALL(i, dequantize_rows(c, ldc, rows, k, step, mean, n, x, ldx))
}

/// Without a matrix: c = round to nearest even((x - mean) * inverse_step), clamped; `beyond` as in forward_job.
inline void quantize_rows(isa i, const float* x, std::ptrdiff_t ldx, int rows, const float* mean, float inverse_step,
                          int n, std::int16_t* c, std::ptrdiff_t ldc, std::uint8_t* beyond) noexcept {
  SLUICE_DENSE_CALL(i, quantize_rows(x, ldx, rows, mean, inverse_step, n, c, ldc, beyond))
}

/// Turns every head of x[rows][heads * head_dim] in place: each rotary pair (a, b) becomes
/// (a cos - b sin, b cos + a sin) with the tables' entries [row][pair], ldt apart. The tables say everything else: to
/// undo a rotation, negate the sines and, where cos and sin carry an attention factor, divide both by its square.
/// `rotary_dims` is even.
inline void rotate_rows(isa i, float* x, std::ptrdiff_t ldx, int rows, int heads, int head_dim, rope_pairing pairing,
                        int rotary_dims, const float* cosine, const float* sine, std::ptrdiff_t ldt) noexcept {
  SLUICE_DENSE_CALL(i, rotate_rows(x, ldx, rows, heads, head_dim, pairing, rotary_dims, cosine, sine, ldt))
}

/// One refinement step: f = 3 c + r with c = floor((f + 1) / 3), r in {-1, 0, 1}; c may be f itself.
inline void split3(isa i, const std::int16_t* f, std::int16_t* c, std::int8_t* r, int count) noexcept {
  SLUICE_DENSE_CALL(i, split3_run(f, c, r, count))
}
inline void split3(isa i, const std::int16_t* f, std::int16_t* c, std::int16_t* r, int count) noexcept {
  SLUICE_DENSE_CALL(i, split3_run(f, c, r, count))
}

/// Finds |v[row][j]| > limit[j] (limits are not negative), row by row; writes the first `cap` places and returns how
/// many there are.
inline std::size_t scan_limits(isa i, const std::int16_t* v, std::ptrdiff_t ldv, int rows, int n,
                               const std::int16_t* limit, coefficient_place* found, std::size_t cap) noexcept {
  SLUICE_DENSE_CALL(i, scan_limits(v, ldv, rows, n, limit, found, cap))
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::detail

#undef SLUICE_DENSE_CALL
