// SPDX-License-Identifier: Apache-2.0
#pragma once

// SLUICE_HD marks functions that both the host and a CUDA device may call.
#if defined(__CUDACC__)
#define SLUICE_HD __host__ __device__
#else
#define SLUICE_HD
#endif

#define SLUICE_INLINE inline __attribute__((always_inline))

// Define SLUICE_NO_EXCEPTIONS (implied by -fno-exceptions) to make result<T>::value() abort instead of throw.
#if !defined(SLUICE_NO_EXCEPTIONS) && !defined(__cpp_exceptions)
#define SLUICE_NO_EXCEPTIONS 1
#endif

// Equality of all members, in C++20: what engines of C++17 include (cuda/kernels.hpp) has it as well.
#if __cplusplus > 201703L
#define SLUICE_EQUALITY(type) bool operator==(const type&) const = default;
#else
#define SLUICE_EQUALITY(type)
#endif
