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

// Rotary positions of whole rows of floats.

#define SLUICE_FUNCTIONS                                                                                        \
  SLUICE_KERNEL void rotate_rows(float* x, std::ptrdiff_t ldx, int rows, int heads, int head_dim,               \
                                 rope_pairing pairing, int rotary_dims, const float* cosine, const float* sine, \
                                 std::ptrdiff_t ldt) noexcept;
#define SLUICE_BODY <sluice/tensor/rotate_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice::detail {
inline namespace SLUICE_HOST_ABI {

/// Turns every head of x[rows][heads * head_dim] in place: each rotary pair (a, b) becomes
/// (a cos - b sin, b cos + a sin) with the tables' entries [row][pair], ldt apart. The tables say everything else: to
/// undo a rotation, negate the sines and, where cos and sin carry an attention factor, divide both by its square.
/// `rotary_dims` is even.
inline void rotate_rows(isa i, float* x, std::ptrdiff_t ldx, int rows, int heads, int head_dim, rope_pairing pairing,
                        int rotary_dims, const float* cosine, const float* sine, std::ptrdiff_t ldt) noexcept {
  SLUICE_RETURN_ON(i, rotate_rows(x, ldx, rows, heads, head_dim, pairing, rotary_dims, cosine, sine, ldt))
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::detail
