// SPDX-License-Identifier: Apache-2.0
// Includes SLUICE_BODY once per instruction set, inside sluice::detail::{portable, avx2, avx512}.
// No include guard: this is the one permitted re-inclusion (see warp/targets.hpp).

#define SLUICE_TARGET_PORTABLE 1
namespace sluice::detail::inline SLUICE_HOST_ABI::portable {
#include SLUICE_BODY
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
#include SLUICE_BODY
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
#include SLUICE_BODY
}
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
#undef SLUICE_TARGET_AVX512

#endif
#undef SLUICE_BODY
