// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/warp/targets.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

// Full unrolling keeps an accumulator array in registers at -O2; g++ does it only when told. nvcc's front end knows no
// such pragma for host code.
#ifndef SLUICE_UNROLL
#if defined(__CUDACC__)
#define SLUICE_UNROLL
#elif defined(__clang__)
#define SLUICE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SLUICE_UNROLL _Pragma("GCC unroll 16")
#endif
#endif

// What marks a function of a body file; cuda/*.cuh redefines it around its own inclusion of the bodies.
#ifndef SLUICE_BODY_FN
#define SLUICE_BODY_FN inline
#endif

namespace sluice::detail {

// Bytes of a part of m elements. Compilers that lose track of m take its copy for an overflow; it never is one.
template <class T>
inline std::size_t part_bytes(int m, int width) noexcept {
  if (m < 0 || m > width) __builtin_unreachable();
  return sizeof(T) * static_cast<std::size_t>(m);
}

}  // namespace sluice::detail

#define SLUICE_BODY <sluice/warp/floats.inl>
#include <sluice/warp/foreach_target.inl>
