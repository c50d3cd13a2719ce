// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/cuda/ptx.cuh>

#include <cstddef>
#include <cstdint>

namespace sluice::cuda {

/// Bytes of a frame on their way through shared memory, for one warp that reads them from first to last: `Size` of them at
/// once, and the first `Mirror` of the ring a second time behind its end, so that as many from any byte on lie in a row.
/// What lies behind the last byte is zero. Positions count from the 16-byte boundary at or before the first byte.
template <std::uint32_t Size, std::uint32_t Mirror>
struct byte_ring {
  static constexpr std::uint32_t piece = 32 * 16;        ///< bytes that a warp asks for at once
  static constexpr std::uint32_t bytes = Size + Mirror;  ///< of shared memory
  static_assert(Size % piece == 0 && (Size & (Size - 1)) == 0 && Mirror % 16 == 0 && Mirror <= Size);

  const std::byte* from;
  std::uint32_t memory;  // address of the ring, a multiple of 16
  std::uint32_t end;     // position behind the last byte

  /// Begins with some bytes of a frame and returns the position of the first one.
  __device__ __forceinline__ std::uint32_t open(std::uint32_t shared, const void* first, std::uint32_t size) {
    const auto skip = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(first) & 15);
    from = static_cast<const std::byte*>(first) - skip;
    memory = shared;
    end = skip + size;
    return skip;
  }

  /// Asks for as much as there is room for behind `position`, from which on bytes are still needed. Positions below `asked`
  /// have been asked for: none, or asked_at() of the position before. The caller closes the group of copies. Afterwards
  /// all but the last piece - 1 of the Size bytes behind `position` are here or on their way.
  __device__ __forceinline__ void ask(std::uint32_t asked, std::uint32_t position, std::uint32_t lane) const {
#pragma unroll 1
    for (; asked < asked_at(position); asked += piece) {
      const std::uint32_t at = asked + 16 * lane, left = at < end ? end - at : 0, to = at & (Size - 1);
      const std::byte* const source = from + (left == 0 ? 0 : at);
      const std::uint32_t n = left < 16 ? left : 16;
      ptx::copy_async(memory + to, source, n);
      if (to < Mirror) ptx::copy_async(memory + Size + to, source, n);
    }
  }
  /// Positions below it are asked for once bytes from `position` on are.
  static __device__ __forceinline__ std::uint32_t asked_at(std::uint32_t position) {
    return ((position & ~15u) + Size) & ~(piece - 1);
  }

  /// Shared address of a position; the Mirror bytes from there on lie in a row.
  __device__ __forceinline__ std::uint32_t address(std::uint32_t position) const {
    return memory + (position & (Size - 1));
  }
};

}  // namespace sluice::cuda
