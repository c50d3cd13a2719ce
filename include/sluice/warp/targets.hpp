// SPDX-License-Identifier: Apache-2.0
#pragma once

// Instruction sets are chosen at run time: a body file is compiled once per instruction set, in a namespace per
// target, by re-including it through warp/foreach_target.inl. Intrinsics stay hidden from nvcc, whose host pass gets
// the portable target only; SLUICE_HOST_ABI keeps the two kinds of translation unit apart for the linker.
//
// Where SLUICE_USE_KERNELS is defined (linking sluice::kernels does it), headers only declare the functions of bodies,
// and the library has them. Both kinds of translation unit may meet in one program: the functions are the same.
// SLUICE_PORTABLE_ONLY keeps to portable bodies; such a translation unit, and nvcc's, compiles them itself.
//
// NEON is what every 64-bit ARM processor has (f16 conversions are part of it), so that nothing is asked at run time. A
// later extension (dot products, i8mm, SVE2) would be one more target: compiled inside `target("+dotprod")` as the x86
// ones are, and chosen in usable_isa() by getauxval(AT_HWCAP) on Linux, sysctlbyname("hw.optional.arm.FEAT_DotProd") on
// Apple, IsProcessorFeaturePresent() on Windows. Nothing here multiplies bytes four at a time yet.
//
// Compilers are g++ and clang (Apple's and clang-cl too); ARM64EC says that it is an x86, and gets portable bodies.
#define SLUICE_X86_TARGETS 0
#define SLUICE_ARM_TARGETS 0
#if defined(__CUDACC__) || defined(SLUICE_PORTABLE_ONLY) || defined(__arm64ec__)
#define SLUICE_HOST_ABI host_portable_v0
#elif defined(__x86_64__)
#undef SLUICE_X86_TARGETS
#define SLUICE_X86_TARGETS 1
#define SLUICE_HOST_ABI host_v0
#elif defined(__aarch64__) && defined(__ARM_NEON) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#undef SLUICE_ARM_TARGETS
#define SLUICE_ARM_TARGETS 1
#define SLUICE_HOST_ABI host_v0
#else
#define SLUICE_HOST_ABI host_portable_v0
#endif
#if defined(SLUICE_USE_KERNELS) && !defined(__CUDACC__) && !defined(SLUICE_PORTABLE_ONLY)
#define SLUICE_LINKS_KERNELS 1
#else
#define SLUICE_LINKS_KERNELS 0
#endif

// What marks the functions of body files, small ones INLINE; cuda/*.cuh redefines both around its own inclusion of them.
#define SLUICE_BODY_FN inline
#define SLUICE_BODY_INLINE inline __attribute__((always_inline))

// What marks a body's functions that others call: inline, or in sluice::kernels. SLUICE_BODY_ONCE marks inner functions
// of which one copy is enough.
#if SLUICE_LINKS_KERNELS
#define SLUICE_KERNEL
#else
#define SLUICE_KERNEL inline
#endif
#if defined(__CUDACC__)
#define SLUICE_BODY_ONCE inline
#else
#define SLUICE_BODY_ONCE [[gnu::noinline]] inline
#endif

// Returns what the call returns on an instruction set; where the processor lacks it, the next one stands in.
#if SLUICE_X86_TARGETS
#define SLUICE_RETURN_ON(which, call)                \
  switch (::sluice::usable_isa(which)) {             \
    case ::sluice::isa::avx512: return avx512::call; \
    case ::sluice::isa::avx2: return avx2::call;     \
    default: return portable::call;                  \
  }
#elif SLUICE_ARM_TARGETS
#define SLUICE_RETURN_ON(which, call)            \
  switch (::sluice::usable_isa(which)) {         \
    case ::sluice::isa::neon: return neon::call; \
    default: return portable::call;              \
  }
#else
#define SLUICE_RETURN_ON(which, call) \
  (void)(which);                      \
  return portable::call;
#endif

// Before loops that must vanish for their arrays to become registers; g++ unrolls at -O2 only when told. nvcc's front
// end crashes on g++'s pragma in host code.
#if defined(__CUDACC__)
#define SLUICE_UNROLL
#elif defined(__clang__)
#define SLUICE_UNROLL _Pragma("clang loop unroll(full)")
#else
#define SLUICE_UNROLL _Pragma("GCC unroll 16")
#endif

namespace sluice {

/// Instruction set a host call runs on; `best` asks the processor. A tuning choice: bytes decode alike on all.
enum class isa : unsigned char { best = 0, portable = 1, avx2 = 2, avx512 = 3, neon = 4 };

/// The name of an instruction set, as in the enumeration; never null.
constexpr const char* to_string(isa i) noexcept {
  return i == isa::portable ? "portable"
         : i == isa::avx2   ? "avx2"
         : i == isa::avx512 ? "avx512"
         : i == isa::neon   ? "neon"
                            : "best";
}

inline namespace SLUICE_HOST_ABI {

/// The widest instruction set this processor has, or `wanted` where it has that one.
inline isa usable_isa(isa wanted = isa::best) noexcept {
#if SLUICE_X86_TARGETS
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = has_avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi2");
  if (has_avx512 && (wanted == isa::best || wanted == isa::avx512)) return isa::avx512;
  if (has_avx2 && wanted != isa::portable) return isa::avx2;
#elif SLUICE_ARM_TARGETS
  if (wanted != isa::portable) return isa::neon;
#else
  (void)wanted;
#endif
  return isa::portable;
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
