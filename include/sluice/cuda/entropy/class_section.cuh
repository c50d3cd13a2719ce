// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/entropy/class_rans/section.hpp>
#include <sluice/cuda/entropy/rans_steps.cuh>

#include <sluice/format/tile.hpp>

#include <cstdint>

// What class_section and unpack_states are on a host, for a warp: all lanes read the same untrusted bytes, each where
// there is one.

namespace sluice::cuda {

/// One pass of class_rans in a tile; see class_section.
struct section_parts {
  const std::uint8_t *deltas, *classes, *exceptions, *code;  ///< deltas and classes are null where there are none
  std::uint32_t delta_blocks, num_exceptions, code_size;
  bool goes_on;
};

/// As class_section::parse, but for what the exceptions say. False where the bytes are no section.
__device__ inline bool parse_section(section_parts& s, const std::uint8_t* bytes, std::uint32_t size, int pass,
                                     int width) {
  s = {nullptr, nullptr, bytes, bytes, 0, 0, 0, false};
  if (size == 0) return true;
  const unsigned with = bytes[0];
  if (with > 15 || (pass != 0 && (with & (class_section::with_deltas | class_section::with_classes)) != 0))
    return false;
  std::uint32_t at = 1;  // far below 2^32: no part is larger than 2^20
  if (with & class_section::with_deltas) {
    const int blocks = (width + 31) / 32;
    if (at + 4 > size) return false;
    s.delta_blocks = sluice::detail::load_u32(bytes + at);
    if (blocks > 32 || s.delta_blocks == 0 || (blocks < 32 && s.delta_blocks >> blocks != 0)) return false;
    s.deltas = bytes + at + 4;
    at += 4 + 16 * static_cast<std::uint32_t>(__popc(s.delta_blocks));
  }
  if (with & class_section::with_classes) {
    s.classes = bytes + at;
    at += static_cast<std::uint32_t>(width);
  }
  if (with & class_section::with_exceptions) {
    if (at + 2 > size) return false;
    s.num_exceptions = sluice::detail::load_u16(bytes + at);
    if (s.num_exceptions == 0) return false;
    s.exceptions = bytes + at + 2;
    at += 2 + static_cast<std::uint32_t>(sizeof(exception)) * s.num_exceptions;
  }
  if (at > size) return false;
  s.code = bytes + at;
  s.code_size = size - at;
  s.goes_on = (with & class_section::with_next) != 0;
  return true;
}

/// Whether every exception is of a row and a coefficient that there is; by a whole warp.
__device__ inline bool exceptions_fit(const section_parts& s, int rows, int width, unsigned lane) {
  bool fit = true;
  for (std::uint32_t i = lane; i < s.num_exceptions; i += 32) {
    const std::uint8_t* e = s.exceptions + sizeof(exception) * i;
    fit &= sluice::detail::load_u16(e) < static_cast<unsigned>(rows) &&
           sluice::detail::load_u16(e + 2) < static_cast<unsigned>(width);
  }
  return __all_sync(whole_warp, fit) != 0;
}

/// The classes of a tile: of the profile, moved by deltas, or of the tile itself.
struct tile_classes {
  const std::uint8_t *bytes, *deltas;
  std::uint32_t delta_blocks;
  int width;  ///< bytes that are here; classes behind are 0
  int shift;  ///< quarter octaves that all move by at last

  /// That of one lane of a block.
  __device__ std::uint8_t of(int block, unsigned lane) const {
    return detail::shift_class(before_shift(block, lane), shift);
  }

 private:
  __device__ std::uint8_t before_shift(int block, unsigned lane) const {
    const int i = 32 * block + static_cast<int>(lane);
    const std::uint8_t cls = i < width ? bytes[i] : std::uint8_t{0};
    if (block >= 32 || (delta_blocks >> block & 1) == 0) return cls;
    const std::uint8_t* nibbles = deltas + 16 * __popc(delta_blocks & ((1u << block) - 1));
    const int nibble = nibbles[lane / 2] >> (lane % 2 != 0 ? 4 : 0) & 15;
    return detail::shift_class(cls, nibble < 8 ? nibble : nibble - 16);
  }
};

/// Blocks of each pass, 10 bits a pass: up to the last that has a live coefficient in this pass or in one before.
struct live_counts {
  std::uint64_t packed;
  __device__ int of(int pass) const { return static_cast<int>(packed >> 10 * pass & 1023); }
};
static_assert((max_head_dim > max_group_width ? max_head_dim : max_group_width) / 32 < 1024 && 10 * max_passes <= 64);

/// By a whole warp; `facts` are those of the classes, in shared memory, `depth` the passes of a complete tile.
__device__ inline live_counts count_live(const tile_classes& classes, const std::uint8_t* facts, int depth, int level,
                                         unsigned lane) {
  int last[max_passes] = {};
  for (int block = 0; 32 * block < classes.width; ++block) {
    const std::uint8_t cls = classes.of(block, lane);
#pragma unroll
    for (int p = 0; p < max_passes; ++p)
      if (p <= level && __any_sync(whole_warp, facts[class_in_pass(cls, depth - 1 - p)] & class_alive))
        last[p] = block + 1;
  }
  live_counts n{0};
#pragma unroll
  for (int p = 0; p < max_passes; ++p) {
    if (p != 0 && last[p] < last[p - 1]) last[p] = last[p - 1];
    n.packed |= static_cast<std::uint64_t>(last[p]) << 10 * p;
  }
  return n;
}

/// Unpacks the states in front of a code, biased, a lane each; returns the bytes they took, 0 where there are too few.
__device__ inline std::uint32_t load_states(const std::uint8_t* bytes, std::uint32_t size, std::uint32_t& x,
                                            unsigned lane, std::uint32_t before) {
  constexpr auto head = static_cast<std::uint32_t>(detail::state_lengths_bytes);
  if (size < head) return 0;
  const std::uint32_t word =
      bytes[3 * lane / 8] | static_cast<std::uint32_t>(3 * lane % 8 > 5 ? bytes[3 * lane / 8 + 1] : 0) << 8;
  const std::uint32_t more = word >> 3 * lane % 8 & 7;  // bits beyond eight
  std::uint32_t at = 8 * lane, bits = 8 * 32;
#pragma unroll
  for (int k = 0; k < 3; ++k) {
    const std::uint32_t set = __ballot_sync(whole_warp, more >> k & 1);
    at += static_cast<std::uint32_t>(__popc(set & before)) << k;
    bits += static_cast<std::uint32_t>(__popc(set)) << k;
  }
  const std::uint32_t packed = head + (bits + 7) / 8;
  if (packed > size) return 0;
  std::uint32_t field = 0;
#pragma unroll
  for (std::uint32_t i = 0; i < 3; ++i)
    if (head + at / 8 + i < packed) field |= static_cast<std::uint32_t>(bytes[head + at / 8 + i]) << 8 * i;
  const std::uint32_t length = 8 + more;
  x = state_bias | 1u << length | (field >> at % 8 & ((1u << length) - 1));
  return packed;
}

}  // namespace sluice::cuda
