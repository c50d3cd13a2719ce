// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_on_host.hpp>
#include <half_bits.hpp>

#include <cstdint>
#include <cstring>

// The library's file of this name, for the machine of cuda_on_host.hpp. Every address of shared memory is checked.

namespace sluice::cuda::ptx {

using cuda_on_host::the_machine;

inline unsigned char* dynamic_shared() { return the_machine.shared(); }
inline std::uint32_t shared_address(const void* p) { return the_machine.shared_address(p); }

struct pair {
  std::uint32_t x, y;
};
/// What lies at an address of shared memory.
template <class T>
T& shared_at(std::uint32_t a, std::size_t alignment = alignof(T)) {
  return *reinterpret_cast<T*>(the_machine.at(a, sizeof(T), alignment));
}
inline std::uint32_t load_table(std::uint32_t a) { return shared_at<const std::uint32_t>(a); }
inline pair load_table_pair(std::uint32_t a) { return shared_at<const pair>(a, 8); }
inline std::uint32_t load_word(std::uint32_t a) { return shared_at<const std::uint32_t>(a); }
inline std::uint32_t load_byte(std::uint32_t a) { return shared_at<const std::uint8_t>(a); }
inline std::int32_t load_short(std::uint32_t a) { return shared_at<const std::int16_t>(a); }
inline void store_half(std::uint32_t a, std::uint32_t v) {
  shared_at<std::uint16_t>(a) = static_cast<std::uint16_t>(v);
}

inline std::uint32_t permute(std::uint32_t a, std::uint32_t b, std::uint32_t s) { return __byte_perm(a, b, s); }
inline std::uint32_t smaller(std::uint32_t a, std::uint32_t b) { return a < b ? a : b; }

inline std::uint32_t lanes_before() { return (1u << the_machine.lane()) - 1; }

inline void store_relaxed(std::uint8_t* p, std::uint32_t v) {
  __atomic_store_n(p, static_cast<std::uint8_t>(v), __ATOMIC_RELAXED);
}

inline void copy_async(std::uint32_t to, const void* from, std::uint32_t bytes = 16) {
  if (bytes > 16) the_machine.fail("cp.async of %u bytes", bytes);
  if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) the_machine.fail("cp.async from %p: not aligned", from);
  the_machine.copy_later(the_machine.at(to, 16, 16), from, bytes);
}
inline void copy_commit() { the_machine.copies_commit(); }
template <int Groups>
void copy_wait() {
  the_machine.copies_wait(Groups);
}

/// The four matrices, each lane a row, as fragments; the library's name of it says whether transposed.
template <bool Transposed>
void load_fragments(std::uint32_t (&r)[4], std::uint32_t row, cuda_on_host::site where) {
  using namespace cuda_on_host;
  const auto& from = shared_at<const std::uint32_t[4]>(row, 16);
  const std::uint32_t words[4] = {from[0], from[1], from[2], from[3]};  // read by the lane that names the row
  const quiet q;
  for (int i = 0; i < 4; ++i) the_machine.in(i) = words[i];
  the_machine.meet(
      operation::ldmatrix, ~0u, where, +[](warp_state& w, std::uint32_t lanes) {
        if (lanes != ~0u) the_machine.fail("ldmatrix without lanes %08x", ~lanes);
        const auto at = [&w](int i, int k) { return w.in[k / 2][i] >> 16 * (k % 2) & 0xffffu; };
        for (int i = 0; i < 32; ++i)
          for (int m = 0; m < 4; ++m)
            w.out[m][i] = Transposed ? at(8 * m + 2 * (i % 4), i / 4) | at(8 * m + 2 * (i % 4) + 1, i / 4) << 16
                                     : w.in[i % 4][8 * m + i / 4];
      });
  for (int i = 0; i < 4; ++i) r[i] = the_machine.out(i);
}
inline void load_matrices(std::uint32_t (&r)[4], std::uint32_t row, CUDA_ON_HOST_SITE) {
  load_fragments<false>(r, row, {file, line});
}
inline void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row, CUDA_ON_HOST_SITE) {
  load_fragments<true>(r, row, {file, line});
}

inline void multiply_add(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                         CUDA_ON_HOST_SITE) {
  using namespace cuda_on_host;
  const quiet q;
  for (int i = 0; i < 4; ++i) the_machine.in(i) = a[i], the_machine.in(6 + i) = std::bit_cast<std::uint32_t>(d[i]);
  the_machine.in(4) = b0, the_machine.in(5) = b1;
  the_machine.meet(
      operation::mma, ~0u, {file, line}, +[](warp_state& w, std::uint32_t lanes) {
        if (lanes != ~0u) the_machine.fail("mma without lanes %08x", ~lanes);
        float left[16][16], right[16][8], sum[16][8];
        for (int i = 0; i < 32; ++i) {
          const int g = i / 4, q4 = i % 4;
          for (int e = 0; e < 2; ++e) {
            for (int r = 0; r < 4; ++r) {
              left[g + 8 * (r & 1)][2 * q4 + 8 * (r >> 1) + e] =
                  widened(static_cast<std::uint16_t>(w.in[r][i] >> 16 * e));
              sum[g + 8 * (r >> 1)][2 * q4 + (r & 1)] = std::bit_cast<float>(w.in[6 + r][i]);
            }
            for (int r = 0; r < 2; ++r)
              right[2 * q4 + 8 * r + e][g] = widened(static_cast<std::uint16_t>(w.in[4 + r][i] >> 16 * e));
          }
        }
        for (int m = 0; m < 16; ++m)
          for (int k = 0; k < 16; ++k)
            for (int n = 0; n < 8; ++n) sum[m][n] += left[m][k] * right[k][n];
        for (int i = 0; i < 32; ++i)
          for (int r = 0; r < 4; ++r)
            w.out[r][i] = std::bit_cast<std::uint32_t>(sum[i / 4 + 8 * (r >> 1)][2 * (i % 4) + (r & 1)]);
      });
  for (int i = 0; i < 4; ++i) d[i] = std::bit_cast<float>(the_machine.out(i));
}

struct alignas(16) quad {
  std::uint32_t x, y, z, w;
};
inline quad load_global(const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % 16 != 0) the_machine.fail("16 bytes from %p: not aligned", p);
  return *static_cast<const quad*>(p);
}
inline pair load_global_pair(const void* p) {
  if (reinterpret_cast<std::uintptr_t>(p) % 8 != 0) the_machine.fail("8 bytes from %p: not aligned", p);
  return *static_cast<const pair*>(p);
}

inline std::uint32_t pack_f16(float a, float b) {
  return cuda_on_host::narrowed(a) | std::uint32_t{cuda_on_host::narrowed(b)} << 16;
}
inline std::uint32_t pack_bf16(float a, float b) {
  return cuda_on_host::narrowed_bf16(a) | std::uint32_t{cuda_on_host::narrowed_bf16(b)} << 16;
}

}  // namespace sluice::cuda::ptx
