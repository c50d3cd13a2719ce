// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/entropy/class_tables.hpp>
#include <sluice/cuda/ptx.cuh>

#include <cstdint>

// The coder's step on a GPU, a thread a lane, as few instructions as it takes: no branch, no 64-bit address, no special
// register. See codec/rans/rans_body.inl for what it computes.

namespace sluice::cuda {

inline constexpr unsigned whole_warp = 0xffffffffu;

/// Where the compressed bytes of one code come from; in shared memory, one for each warp.
struct code_source {
  const std::uint8_t* from;  ///< a multiple of 16: the code begins in its first 16 bytes
  std::uint32_t end;         ///< of the code, from there
};

/// The bytes on their way through a ring that a warp fills ahead of itself (class_tables.hpp). While chunk n is read, chunk
/// n + 1 is there and the two behind it are on their way.
struct code_bytes {
  std::uint32_t at;    ///< shared address of the next byte
  std::uint32_t edge;  ///< that of the end of the chunk that is read
  std::uint32_t read;  ///< the same end, counted from code_source::from
};

/// Half a warp copies chunk n, and the other half copies it again behind the ring where it is the first of it.
__device__ inline void fill_chunk(const code_source& c, std::uint32_t ring, std::uint32_t n, unsigned lane) {
  const std::uint32_t slot = n % ring_chunks * ring_chunk, part = 16 * (lane % 16), from = n * ring_chunk + part;
  const std::uint32_t here = from < c.end ? min(c.end - from, 16u) : 0;
  if (lane < 16 || slot == 0)
    ptx::copy_async(ring + slot + part + (lane < 16 ? 0 : ring_chunk * ring_chunks), c.from + (here != 0 ? from : 0),
                    here);
  ptx::copy_commit();
}

/// Starts a code at the front of its bytes; `size` is at most most_code_bytes().
__device__ inline code_bytes open_code(code_source& c, const std::uint8_t* bytes, std::uint32_t size,
                                       std::uint32_t ring, unsigned lane) {
  const auto offset = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(bytes) % 16);
  ptx::copy_wait<0>();  // nothing of another code may land later, or still be read
  __syncwarp();
  if (lane == 0) c = {bytes - offset, offset + size};
  __syncwarp();
  for (std::uint32_t n = 0; n < ring_chunks; ++n) fill_chunk(c, ring, n, lane);
  ptx::copy_wait<ring_chunks - 2>();
  __syncwarp();
  return {ring + offset, ring + ring_chunk, ring_chunk};
}

/// On to the next chunk, once a byte of it is due: the one behind it has to be there, and the one just read is free.
__device__ inline void next_chunk(const code_source& c, code_bytes& in, std::uint32_t ring, unsigned lane) {
  ptx::copy_wait<ring_chunks - 3>();
  __syncwarp();
  fill_chunk(c, ring, in.read / ring_chunk + ring_chunks - 1, lane);
  if (in.read % (ring_chunk * ring_chunks) == 0) {
    in.at -= ring_chunk * ring_chunks;
    in.edge = ring;
  }
  in.edge += ring_chunk;
  in.read += ring_chunk;
}

/// Whether every byte is used and none behind the last.
__device__ inline bool used_up(const code_source& c, const code_bytes& in) {
  return in.read + in.at - in.edge == c.end;
}

/// A state x is kept as x + 2^24: one shift then gives x / 256 + 2^16, whose halves a product by bytes takes.
inline constexpr std::uint32_t state_bias = 1u << 24;
/// States below it take a byte; none is below `settled_floor`. With the bias of the step's product, 2^16.
inline constexpr std::uint32_t state_floor = 0x10100, settled_floor = 0;

/// x = frequency * (x >> 8) + slot - first slot, of an entry as in class_lut, then a byte for each lane below the floor.
__device__ __forceinline__ void advance(std::uint32_t& x, std::uint32_t entry, std::uint32_t& at, std::uint32_t before,
                                        std::uint32_t floor = state_floor) {
  const std::uint32_t high = x >> 8;
  const std::uint32_t y = __dp2a_lo(high, entry, high);
  const bool low = y < floor;
  const std::uint32_t takers = __ballot_sync(whole_warp, low);
  const std::uint32_t byte = ptx::load_byte(at + static_cast<std::uint32_t>(__popc(takers & before)));
  at += static_cast<std::uint32_t>(__popc(takers));
  x = low ? y * 256 + byte : y + (state_bias - 0x10000u);
}

/// A ternary digit on its way: the entry of its symbol, and whether it is symbol 1 or 2 (bit 8) or 2 (bit 24).
struct ternary_hit {
  std::uint32_t entry, flags;
};
__device__ __forceinline__ ternary_hit find_digit(std::uint32_t x, ptx::pair row) {
  const std::uint32_t slot = x & 255u;
  const std::uint32_t d = slot * 0x10001u + row.x;    // flags in bits 8 and 24, slot - first in bytes 0 and 2
  const std::uint32_t f = slot * 0x1000000u + row.y;  // three frequencies less one, and the slot
  // Which bytes are frequency and slot - first: 0x30, 0x41 and 0x62 for symbols 0, 1 and 2.
  return {ptx::permute(f, d, __dp4a(d, 0x21001100u, 0x30u)), d};
}

/// factor * parent + digit, the digit's sign turned where the parent is negative; 16 bits of it count.
__device__ __forceinline__ int refined(int parent, int factor, ternary_hit h) {
  const int weights = parent < 0 ? static_cast<int>(0xfe000100u) : 0x0200ff00;
  return __dp4a(static_cast<int>(h.flags), weights, factor * parent);
}

/// The row of a lane's class under its parent: `rows` is the address of its row under zero.
__device__ __forceinline__ ptx::pair row_under(int parent, std::uint32_t rows) {
  constexpr std::uint32_t nonzero = 256 * sizeof(ternary_row);
  return ptx::load_table_pair(rows + nonzero * ptx::smaller(static_cast<std::uint32_t>(parent), 1u));
}

}  // namespace sluice::cuda
