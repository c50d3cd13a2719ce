// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// Everything that kernels say to the machine which C++ has no word for: PTX, and memory that a launch sizes. The tests'
// emulator has a file of the same name that says it to a CPU. Shared memory is addressed by 32 bits.

namespace sluice::cuda::ptx {

/// Dynamic shared memory of the block, 16 bytes aligned; as much as the launch asked for.
__device__ __forceinline__ unsigned char* dynamic_shared() {
  extern __shared__ __align__(16) unsigned char sluice_dynamic_shared[];
  return sluice_dynamic_shared;
}
/// The 32-bit address of something in shared memory.
__device__ __forceinline__ std::uint32_t shared_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

struct pair {
  std::uint32_t x, y;
};
// Plain loads of tables, which nothing changes while they are read: free to move. Those of rings are volatile.
__device__ __forceinline__ std::uint32_t load_table(std::uint32_t a) {
  std::uint32_t r;
  asm("ld.shared.u32 %0, [%1];" : "=r"(r) : "r"(a));
  return r;
}
__device__ __forceinline__ pair load_table_pair(std::uint32_t a) {
  pair r;
  asm("ld.shared.v2.u32 {%0,%1}, [%2];" : "=r"(r.x), "=r"(r.y) : "r"(a));
  return r;
}
__device__ __forceinline__ std::uint32_t load_byte(std::uint32_t a) {
  std::uint32_t r;
  asm volatile("ld.shared.u8 %0, [%1];" : "=r"(r) : "r"(a));
  return r;
}
__device__ __forceinline__ std::uint32_t load_word(std::uint32_t a) {
  std::uint32_t r;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(r) : "r"(a));
  return r;
}
/// Its sign in all bits above.
__device__ __forceinline__ std::int32_t load_short(std::uint32_t a) {
  std::int32_t r;
  asm volatile("ld.shared.s16 %0, [%1];" : "=r"(r) : "r"(a));
  return r;
}
__device__ __forceinline__ void store_half(std::uint32_t a, std::uint32_t v) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(a), "h"(static_cast<std::uint16_t>(v)) : "memory");
}

/// Bytes of (b, a) by the four lowest nibbles of s, each below 8. __byte_perm() takes an instruction more to make sure.
__device__ __forceinline__ std::uint32_t permute(std::uint32_t a, std::uint32_t b, std::uint32_t s) {
  std::uint32_t r;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(s));
  return r;
}

/// The smaller one; written as C++ a comparison with zero becomes two instructions and a predicate.
__device__ __forceinline__ std::uint32_t smaller(std::uint32_t a, std::uint32_t b) {
  std::uint32_t r;
  asm("min.u32 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
  return r;
}

/// Lanes before this one, read once: without `volatile` the compiler reads the special register again in every step.
__device__ __forceinline__ std::uint32_t lanes_before() {
  std::uint32_t r;
  asm volatile("mov.u32 %0, %%lanemask_lt;" : "=r"(r));
  return r;
}

struct alignas(16) quad {
  std::uint32_t x, y, z, w;
};
/// 16 bytes of global memory that nothing changes while a kernel runs; the address is a multiple of 16.
__device__ __forceinline__ quad load_global(const void* p) {
  quad r;
  asm("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4];"
      : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
      : "l"(__cvta_generic_to_global(p)));
  return r;
}
/// The same of 8 bytes.
__device__ __forceinline__ pair load_global_pair(const void* p) {
  pair r;
  asm("ld.global.nc.v2.u32 {%0,%1}, [%2];" : "=r"(r.x), "=r"(r.y) : "l"(__cvta_generic_to_global(p)));
  return r;
}

/// A store that may meet others of the same byte.
__device__ __forceinline__ void store_relaxed(std::uint8_t* p, std::uint32_t v) {
  asm volatile("st.relaxed.gpu.u8 [%0], %1;" ::"l"(p), "r"(v) : "memory");
}

/// 16 bytes from global to shared memory without a register in between; of these `bytes` (0 to 16) are read and the rest
/// is zero. Both addresses are multiples of 16. The data is there after copy_wait() and a barrier.
__device__ __forceinline__ void copy_async(std::uint32_t to, const void* from, std::uint32_t bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
               "r"(bytes)
               : "memory");
}
/// Closes a group of copies.
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until all but the last `Groups` groups of this thread are there.
template <int Groups>
__device__ __forceinline__ void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Groups) : "memory");
}

/// Four 8 x 8 matrices of halves; lane i names row i % 8 of matrix i / 8 by its address, a multiple of 16.
__device__ __forceinline__ void load_matrices(std::uint32_t (&r)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
/// The same, each matrix transposed.
__device__ __forceinline__ void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(row)
               : "memory");
}
/// d += a * b, 16 x 16 by 16 x 8 halves into floats; fragments as the PTX ISA lays out m16n8k16.
__device__ __forceinline__ void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                             std::uint32_t b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Two floats to two numbers of a narrower type, rounded to nearest even, the first in the low half.
__device__ __forceinline__ std::uint32_t pack_f16(float a, float b) {
  std::uint32_t r;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
  return r;
}
__device__ __forceinline__ std::uint32_t pack_bf16(float a, float b) {
  std::uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(b), "f"(a));
  return r;
}

}  // namespace sluice::cuda::ptx
