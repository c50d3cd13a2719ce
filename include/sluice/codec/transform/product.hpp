// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/correction.hpp>
#include <sluice/config.hpp>
#include <sluice/warp/targets.hpp>
#if !SLUICE_LINKS_KERNELS
#include <sluice/warp/floats.hpp>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

// The matrix product around the quantiser. Everything works on blocks of rows that the caller owns; nothing allocates.
// Float arrays are [rows][leading dimension], elements adjoining; no pointer needs more alignment than its type.

namespace sluice::detail {

inline constexpr int integer_panel = 64;  // columns

/// A matrix as integers: M[i][j] = weight[i] * unit[j] * m[i][j], as nearly as 16 bits can say it.
struct integer_matrix {
  /// [panels of 64 columns][pairs of rows][64][2] m of rows 2p and 2p + 1, zero where there is none.
  const std::int16_t* matrix = nullptr;
  const std::int16_t* weight = nullptr;  ///< [rows, to 32] powers of two
  const std::int16_t* limit = nullptr;   ///< [rows, to 32] the largest |c[i]| whose product with its weight has 16 bits
  const float* unit = nullptr;           ///< [columns, to 64]
  float most_energy = 0;                 ///< sums of a row have 32 bits while sum(c * weight)^2 is at most this
  std::int32_t head_dim = 0;
  /// [heads] a row's sums are precise enough while scale^2 * sum(c * weight)^2 * noise <= 4^floor(log2(rms of the head)).
  const float* noise = nullptr;
};

/// x[row][j] = scale * sum over i < k of (c[row][i] + corrections) * matrix[i][j] + mean[j].
struct inverse_job {
  const std::int16_t* c = nullptr;  ///< [rows][ldc]; the first k of a row are live
  std::ptrdiff_t ldc = 0;
  const std::uint16_t* matrix = nullptr;  ///< f16 bits, [matrix_rows][n] as in the profile
  const float* mean = nullptr;            ///< [n], or null for zero
  float scale = 1;
  const float* row_scale = nullptr;  ///< [rows] that `scale` is multiplied by, or null
  float* x = nullptr;                ///< [rows][ldx]
  std::ptrdiff_t ldx = 0;
  std::int32_t rows = 0;
  std::int32_t k = 0;
  std::int32_t n = 0;
  std::int32_t matrix_rows = 0;  ///< >= k; corrections may name any of these coefficients, others are ignored
  const coefficient_correction* corrections = nullptr;
  std::size_t num_corrections = 0;
  /// The matrix again, or null. With it, ldc is a multiple of 32, rows of c are zero from k to there and at least to
  /// matrix_rows, the workspace is for k = matrix_rows, and rows whose sums it does not give well enough are done in floats.
  const integer_matrix* integers = nullptr;
};

/// c[row][i] = round to nearest even(sum over j < n of (x[row][j] - mean[j]) * matrix[j][i]), clamped to +-32767.
struct forward_job {
  const float* x = nullptr;  ///< [rows][ldx]
  std::ptrdiff_t ldx = 0;
  const float* row_scale = nullptr;  ///< [rows] that sums are multiplied by, or null
  const float* mean = nullptr;       ///< [n], or null for zero
  const float* matrix = nullptr;     ///< [n][ldm], its first k columns are used
  std::ptrdiff_t ldm = 0;
  std::int16_t* c = nullptr;  ///< [rows][ldc]
  std::ptrdiff_t ldc = 0;
  std::uint8_t* beyond = nullptr;  ///< [rows], or null; set to 1 where a sum is beyond +-32000 or no number, else kept
  std::int32_t rows = 0;
  std::int32_t n = 0;
  std::int32_t k = 0;  ///< coefficients wanted
};

/// x[row][j] = scale * sum over i < k of f[row][i] * matrix[i][j].
struct multiply_job {
  const float* f = nullptr;  ///< [rows][ldf], and up to dense_tail_rows more, which may be any numbers
  std::ptrdiff_t ldf = 0;
  const std::uint16_t* matrix = nullptr;  ///< f16 bits, [k][ldm], its first n columns are used
  std::ptrdiff_t ldm = 0;
  float scale = 1;
  float* x = nullptr;  ///< [rows][ldx]
  std::ptrdiff_t ldx = 0;
  std::int32_t rows = 0;
  std::int32_t k = 0;
  std::int32_t n = 0;
};

inline constexpr int dense_tail_rows = 5;  // of a tile, beyond the last row
inline constexpr int dense_block_floats = 256 * 1024;

SLUICE_HD constexpr int dense_round_up(int n) noexcept { return (n + 31) / 32 * 32; }

SLUICE_HD constexpr int dense_panel(int columns) noexcept { return columns < 64 ? dense_round_up(columns) : 64; }

SLUICE_HD constexpr std::size_t integer_workspace(int k) noexcept {  // 66 rows, lists of their pairs
  return 40 * static_cast<std::size_t>(dense_round_up(k > 0 ? k : 1)) + 32;
}

/// Floats of workspace for a product of `rows` rows: `inner` is k for inverse_transform, n for forward_transform;
/// `columns` is the other one. Never shrinks as an argument grows, so one workspace serves everything smaller.
SLUICE_HD constexpr std::size_t dense_workspace(int rows, int inner, int columns) noexcept {
  const auto line = static_cast<std::size_t>(dense_round_up(inner > 0 ? inner : 1));
  const std::size_t all = static_cast<std::size_t>(rows) * line;
  const std::size_t most = 64 * line > dense_block_floats ? 64 * line : dense_block_floats;
  const auto panel = static_cast<std::size_t>(dense_panel(columns));
  return (all < most ? all : most) + 16 * line + panel * line + 16 + integer_workspace(inner);
}

}  // namespace sluice::detail

#define SLUICE_FUNCTIONS                                                                                     \
  SLUICE_KERNEL void inverse_transform(const inverse_job& job, float* workspace) noexcept;                   \
  SLUICE_KERNEL void forward_transform(const forward_job& job, float* workspace) noexcept;                   \
  SLUICE_KERNEL bool multiplies_integers() noexcept;                                                         \
  SLUICE_KERNEL void multiply_rows(const multiply_job& job, float* workspace) noexcept;                      \
  SLUICE_KERNEL void dequantize_rows(const std::int16_t* c, std::ptrdiff_t ldc, int rows, int k, float step, \
                                     const float* mean, int n, float* x, std::ptrdiff_t ldx) noexcept;       \
  SLUICE_KERNEL void quantize_rows(const float* x, std::ptrdiff_t ldx, int rows, const float* mean,          \
                                   float inverse_step, int n, std::int16_t* c, std::ptrdiff_t ldc,           \
                                   std::uint8_t* beyond) noexcept;
#define SLUICE_BODY <sluice/codec/transform/product_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice::detail {
inline namespace SLUICE_HOST_ABI {

/// See inverse_job; `workspace` holds dense_workspace(rows, k, n) floats.
inline void inverse_transform(isa i, const inverse_job& job, float* workspace) noexcept {
  SLUICE_RETURN_ON(i, inverse_transform(job, workspace))
}

/// Whether inverse_job::integers saves time.
inline bool multiplies_integers(isa i) noexcept { SLUICE_RETURN_ON(i, multiplies_integers()) }

/// See forward_job; `workspace` holds dense_workspace(rows, n, k) floats.
inline void forward_transform(isa i, const forward_job& job, float* workspace) noexcept {
  SLUICE_RETURN_ON(i, forward_transform(job, workspace))
}

/// See multiply_job; `workspace` holds dense_workspace(0, k, n) floats.
inline void multiply_rows(isa i, const multiply_job& job, float* workspace) noexcept {
  SLUICE_RETURN_ON(i, multiply_rows(job, workspace))
}

/// Without a matrix: x = c * step + mean for the first k of n columns, mean for the others. `mean` may be null.
inline void dequantize_rows(isa i, const std::int16_t* c, std::ptrdiff_t ldc, int rows, int k, float step,
                            const float* mean, int n, float* x, std::ptrdiff_t ldx) noexcept {
  SLUICE_RETURN_ON(i, dequantize_rows(c, ldc, rows, k, step, mean, n, x, ldx))
}

/// Without a matrix: c = round to nearest even((x - mean) * inverse_step), clamped; `beyond` as in forward_job.
inline void quantize_rows(isa i, const float* x, std::ptrdiff_t ldx, int rows, const float* mean, float inverse_step,
                          int n, std::int16_t* c, std::ptrdiff_t ldc, std::uint8_t* beyond) noexcept {
  SLUICE_RETURN_ON(i, quantize_rows(x, ldx, rows, mean, inverse_step, n, c, ldc, beyond))
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::detail
