// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/warp/targets.hpp>

#include <cstdint>
#include <cstring>

// Full unrolling keeps an accumulator array in registers at -O2; g++ does it only when told.
#if defined(__CUDACC__)
#define SLUICE_UNROLL _Pragma("unroll")
#elif defined(__clang__)
#define SLUICE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SLUICE_UNROLL _Pragma("GCC unroll 16")
#endif

// What marks a function of a body file; cuda/*.cuh redefines it around its own inclusion of the bodies.
#ifndef SLUICE_BODY_FN
#define SLUICE_BODY_FN inline
#endif

#define SLUICE_BODY <sluice/warp/floats.inl>
#include <sluice/warp/foreach_target.inl>
