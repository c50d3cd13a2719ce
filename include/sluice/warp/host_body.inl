// SPDX-License-Identifier: Apache-2.0
// The 32-lane machine of one instruction set. All three have the same members; bodies see whole vectors only.

#if SLUICE_TARGET_AVX512
#include <sluice/warp/avx512.inl>
#elif SLUICE_TARGET_AVX2
#include <sluice/warp/avx2.inl>
#else
#include <sluice/warp/portable.inl>
#endif
