// SPDX-License-Identifier: Apache-2.0
// Declares SLUICE_FUNCTIONS (if there are any) and includes SLUICE_BODY, once per instruction set, inside
// sluice::detail::{portable, avx2, avx512, neon}. The functions are those of the body that others call; a program that links
// sluice::kernels has them there, and this includes no body. No include guard: this is the one permitted re-inclusion.

#if defined(SLUICE_FUNCTIONS) && SLUICE_LINKS_KERNELS
#define SLUICE_DEFINES(target) 0
#else
#if defined(SLUICE_KERNELS_TARGET)  // sluice::kernels itself, one instruction set a file
#define SLUICE_DEFINES(target) (SLUICE_KERNELS_TARGET == target)
#else
#define SLUICE_DEFINES(target) 1
#endif
#if SLUICE_X86_TARGETS
#include <immintrin.h>
#elif SLUICE_ARM_TARGETS
#include <arm_neon.h>
#endif
#endif
#ifndef SLUICE_FUNCTIONS
#define SLUICE_FUNCTIONS
#endif

#define SLUICE_TARGET_PORTABLE 1
namespace sluice::detail::inline SLUICE_HOST_ABI::portable {
SLUICE_FUNCTIONS
#if SLUICE_DEFINES(1)
#include SLUICE_BODY
#endif
}
#undef SLUICE_TARGET_PORTABLE

#if SLUICE_X86_TARGETS

#define SLUICE_TARGET_AVX2 1
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,bmi,bmi2,f16c,fma,popcnt,lzcnt"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,bmi,bmi2,f16c,fma,popcnt,lzcnt")
#endif
namespace sluice::detail::inline SLUICE_HOST_ABI::avx2 {
SLUICE_FUNCTIONS
#if SLUICE_DEFINES(2)
#include SLUICE_BODY
#endif
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#undef SLUICE_TARGET_AVX2

#define SLUICE_TARGET_AVX512 1
#if defined(__clang__)
#pragma clang attribute push(                                                                                  \
    __attribute__((target("avx2,bmi,bmi2,f16c,fma,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi," \
                          "avx512vbmi2"))),                                                                    \
    apply_to = function)
#else
#pragma GCC push_options
// g++ before 13 takes the deliberately undefined operands of its own avx512fintrin.h for mistakes (bug 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC target("avx2,bmi,bmi2,f16c,fma,popcnt,lzcnt,avx512f,avx512bw,avx512vl,avx512dq,avx512vbmi,avx512vbmi2")
#endif
namespace sluice::detail::inline SLUICE_HOST_ABI::avx512 {
SLUICE_FUNCTIONS
#if SLUICE_DEFINES(3)
#include SLUICE_BODY
#endif
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
#undef SLUICE_TARGET_AVX512

#elif SLUICE_ARM_TARGETS

#define SLUICE_TARGET_NEON 1
namespace sluice::detail::inline SLUICE_HOST_ABI::neon {
SLUICE_FUNCTIONS
#if SLUICE_DEFINES(4)
#include SLUICE_BODY
#endif
}
#undef SLUICE_TARGET_NEON

#endif
#undef SLUICE_DEFINES
#undef SLUICE_FUNCTIONS
#undef SLUICE_BODY
