// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/encode/encode_classes.cuh>
#include <sluice/cuda/encode/encode_tables.hpp>
#include <sluice/cuda/encode/encode_work.hpp>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/ptx.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

// Integers to codes: the coder of codec/rans/rans_body.inl, backwards from the last step of a code to the first. A warp
// makes the codes of one part of two passes, of which the first goes on in the second, from the finest integers: what a
// pass codes is a value divided by a power of three.

namespace sluice::cuda {

namespace detail::encoding {

inline constexpr int ring_rows = 4, ring_row_bytes = 2 * sluice::detail::rans_lanes * sluice::detail::rans_max_blocks;
inline constexpr std::uint32_t stage_bytes = 1312;
/// Most bytes of a row of a base pass whose blocks all have as many digits as there can be, and what is left of a flush.
static_assert((1 + sluice::detail::rans_max_digits) * sluice::detail::rans_lanes * sluice::detail::rans_max_blocks +
                  16 <=
              stage_bytes);

/// A lane of a block in a pass: the shared address of its column of codes (of the first symbol; in a refinement of digit 0
/// under a parent of 0), and in the base pass how many digits it has.
enum lane_word : std::uint32_t {
  lane_column = (1u << 18) - 1,
  lane_digits = 18,       // from here on: ternary digits below the lane's base symbol
  lane_most_digits = 21,  // from here on: the most of any lane of the block
};
static_assert(max_shared < lane_column);

/// Shared memory of a warp.
struct coder_room {
  alignas(16) std::int16_t ring[ring_rows][ring_row_bytes / 2];  // rows on their way, the row r in place r % ring_rows
  alignas(16) unsigned char stage[stage_bytes];                  // bytes of the code, from the end on
  std::uint32_t word[sluice::detail::rans_max_blocks][sluice::detail::rans_lanes];
  // What the steps have no registers for.
  encode_tile* tile;
  const encode_block* facts;  // of the part's first block
  std::byte* scratch;         // of the strand
};

struct alignas(16) vector16 {
  std::uint32_t word[4];
};

/// One of 32 lanes of a code that is written.
struct coder {
  std::uint32_t x;       // state
  std::uint32_t at;      // offset of the first byte written, in the stage
  std::uint32_t before;  // lanes before this one
  unsigned char* stage;

  /// Lanes at or above 256 times the frequency put their low byte before the code, in lane order; then the state takes the
  /// symbol.
  __device__ __forceinline__ void push(ptx::pair code) {
    const bool full = x + (code.y >> 16) > 0xffffu;
    const unsigned givers = __ballot_sync(everyone, full);
    at -= static_cast<std::uint32_t>(__popc(givers));
    if (full) stage[at + static_cast<std::uint32_t>(__popc(givers & before))] = static_cast<unsigned char>(x);
    x = full ? x >> 8 : x;
    // The quotient's byte and a 1, times 256 - f and the first slot.
    x = __dp4a(__byte_perm(x * code.x, 1u, 0x3554u), code.y, x);
  }
};

/// Row of a value among the codes of digits, counted from encode_tables::digit[1], for the digit below its parent.
__device__ __forceinline__ int digit_row(int v) {
  const int a = magnitude(v), parent_less_one = (a * 43691 + (43691 - (1 << 17))) >> 17;
  return a < 2 ? v : a - 3 * parent_less_one;
}

/// What a warp codes: one part of the blocks of a strand.
struct coded_part {
  const std::int16_t* values;  // of the part's first column
  int ld, rows, blocks;
  std::uint32_t clipped;      // bit b: values of block b are not all coded as they are
  std::uint32_t base, digit;  // shared addresses of the codes of symbol 0, and of digit 0 under a parent of 0
};

/// What a block of a row is: a digit, a base symbol, or one with digits below.
enum class step { digit, base, base_and_digits };

/// Codes one block of one row.
template <step Kind>
__device__ __forceinline__ void code_block(coder& c, const coded_part& part, std::uint32_t word, int v,
                                           const encode_third& third) {
  v = round_third(v, third);
  if constexpr (Kind == step::digit) {
    c.push(ptx::load_table_pair(word + static_cast<std::uint32_t>(2048 * digit_row(v))));
  } else if constexpr (Kind == step::base) {
    c.push(ptx::load_table_pair(word + 2048u * static_cast<std::uint32_t>((2 * v) ^ (v >> 31))));
  } else {
    const std::uint32_t column = word & lane_column;
    const int digits = static_cast<int>(word >> lane_digits & 7), most = static_cast<int>(word >> lane_most_digits);
    for (int k = 0; k < most; ++k) {
      const bool has = digits > k;
      const auto cls = static_cast<std::uint8_t>((column - part.base) / 8);
      const std::uint32_t at = part.digit + (has ? 8u * class_in_pass(cls, k) : 0u);
      c.push(ptx::load_table_pair(at + static_cast<std::uint32_t>(2048 * digit_row(v))));
      if (has) v = round_third(v, encode_third::of(1));
    }
    c.push(ptx::load_table_pair(column + 2048u * static_cast<std::uint32_t>((2 * v) ^ (v >> 31))));
  }
}

/// Where a code goes: the end of `left` bytes of scratch from `at` on.
struct code_sink {
  std::uint32_t at, left;
};

/// Whole vectors of the stage to scratch; less than one stays. False where there is no room.
__device__ __forceinline__ bool flush(coder& c, const coder_room& room, code_sink& sink) {
  const std::uint32_t from = (c.at + 15) & ~15u, bytes = stage_bytes - from, rest = from - c.at;
  const auto i = static_cast<std::uint32_t>(lane());
  if (bytes > sink.left) return false;
  __syncwarp();
  sink.left -= bytes;
  std::byte* const to = room.scratch + sink.at + sink.left;
  for (std::uint32_t k = 16 * i; k < bytes; k += 512)
    *reinterpret_cast<vector16*>(to + k) = *reinterpret_cast<const vector16*>(c.stage + from + k);
  const unsigned char byte = i < rest ? c.stage[c.at + i] : static_cast<unsigned char>(0);
  __syncwarp();
  c.at = stage_bytes - rest;
  if (i < rest) c.stage[c.at + i] = byte;
  __syncwarp();
  return true;
}

/// sluice::detail::pack_states, in front of the code.
__device__ __forceinline__ void pack_states(coder& c, coder_room& room) {
  auto* const words = reinterpret_cast<std::uint32_t*>(room.ring);
  __syncwarp();
  words[lane()] = 0;
  __syncwarp();
  const auto put = [&](std::uint32_t bit, std::uint32_t value, std::uint32_t bits) {
    atomicOr(words + bit / 32, value << (bit % 32));
    if (bit % 32 + bits > 32) atomicOr(words + bit / 32 + 1, value >> (32 - bit % 32));
  };
  const auto length = static_cast<std::uint32_t>(31 - __clz(static_cast<int>(c.x)));
  std::uint32_t end = length;
  for (int d = 1; d < 32; d *= 2) {
    const std::uint32_t other = __shfl_up_sync(everyone, end, static_cast<unsigned>(d));
    if (lane() >= d) end += other;
  }
  put(3 * static_cast<std::uint32_t>(lane()), length - 8, 3);
  put(8 * 12 + end - length, c.x & ((1u << length) - 1), length);
  const std::uint32_t bytes = 12 + (__shfl_sync(everyone, end, 31) + 7) / 8;
  __syncwarp();
  c.at -= bytes;
  for (auto i = static_cast<std::uint32_t>(lane()); i < bytes; i += 32)
    c.stage[c.at + i] = reinterpret_cast<const unsigned char*>(words)[i];
  __syncwarp();
}

/// Asks for a row; each is a group of copies, also where there is none.
__device__ __forceinline__ void fetch_row(const coded_part& part, coder_room& room, int row) {
  if (row >= 0 && lane() < 4 * part.blocks)
    ptx::copy_async(ptx::shared_address(room.ring[row % ring_rows] + 8 * lane()),
                    part.values + std::ptrdiff_t{row} * part.ld + 8 * lane());
  ptx::copy_commit();
}

/// The last steps, as many as fit into the states, from states of zero; lifts these. Returns how many steps that are.
template <bool Base>
__device__ __forceinline__ int code_tail(coder& c, const coded_part& part, const coder_room& room,
                                         const encode_third& third) {
  const std::uint32_t end = c.at;
  constexpr step kind = Base ? step::base_and_digits : step::digit;
  std::uint32_t fits = c.x = 0;
  int tail = 0, b = part.blocks, row = part.rows - 1;
  for (int n = 1; n <= sluice::detail::rans_max_tail && row >= 0; ++n) {
    --b;
    int v = part.values[std::ptrdiff_t{row} * part.ld + 32 * b + lane()];
    if (part.clipped >> b & 1) v = coded_value(v, room.facts[b].clip[lane()]);
    code_block<kind>(c, part, room.word[b][lane()], v, third);
    if (c.at != end) break;
    if (__all_sync(everyone, c.x < 0xff00u)) fits = c.x, tail = n;
    if (b == 0) b = part.blocks, --row;
  }
  __syncwarp();  // other lanes write where the step that did not fit has written
  c.at = end;
  c.x = fits + 256;
  return tail;
}

/// A pass of a part, into the stage and scratch. `fresh`: it begins with a tail, else with the states that are there.
template <bool Base>
__device__ __forceinline__ bool code_pass(coder& c, const coded_part& part, coder_room& room, int back, bool fresh,
                                          code_sink& sink) {
  const encode_third third = encode_third::of(back);
  std::uint32_t need = 0;  // most bytes of a row
  for (int b = 0; b < part.blocks; ++b) need += 32u * (Base ? 1u + (room.word[b][0] >> lane_most_digits) : 1u);
  const bool digits = need > 32u * static_cast<std::uint32_t>(part.blocks);
  const int tail = fresh ? code_tail<Base>(c, part, room, third) : 0;
  const int steps = part.rows * part.blocks - tail;
  int row = steps / part.blocks, b = steps % part.blocks;
  if (b == 0) --row, b = part.blocks;
  for (int i = 0; i < ring_rows - 1; ++i) fetch_row(part, room, row - i);
  for (; row >= 0; --row, b = part.blocks) {
    __syncwarp();
    fetch_row(part, room, row - (ring_rows - 1));
    ptx::copy_wait<ring_rows - 1>();
    __syncwarp();
    if (c.at < need && !flush(c, room, sink)) return false;
    const int me = __popc(c.before);  // not read again in every step, as lane() would be
    std::int16_t* const values = room.ring[row % ring_rows] + me;
    const std::uint32_t* const words = room.word[0] + me;
    if (part.clipped)
      for (int i = 0; i < b; ++i)
        if (part.clipped >> i & 1)
          values[32 * i] = static_cast<std::int16_t>(coded_value(values[32 * i], room.facts[i].clip[lane()]));
    const std::uint32_t row_at = ptx::shared_address(values);
    const auto value = [&] { return ptx::load_short(row_at + 64 * static_cast<std::uint32_t>(b)); };
    if (Base && digits)
      while (b-- > 0) code_block<step::base_and_digits>(c, part, words[32 * b], value(), third);
    else
      while (b-- > 0) code_block<Base ? step::base : step::digit>(c, part, words[32 * b], value(), third);
  }
  ptx::copy_wait<0>();
  if (!flush(c, room, sink)) return false;
  if (fresh && lane() == 0) c.stage[c.at - 1] = static_cast<unsigned char>(tail);
  c.at -= fresh;
  __syncwarp();
  return true;
}

/// What is left of a code, to scratch. False where there is no room.
__device__ __forceinline__ bool close_code(coder& c, const coder_room& room, code_sink& sink) {
  if (!flush(c, room, sink)) return false;
  const std::uint32_t rest = stage_bytes - c.at;
  if (rest > sink.left) return false;
  sink.left -= rest;
  const auto i = static_cast<std::uint32_t>(lane());
  if (i < rest) room.scratch[sink.at + sink.left + i] = std::byte{c.stage[c.at + i]};
  __syncwarp();
  c.at = stage_bytes;
  return true;
}

/// The words of a pass's lanes.
__device__ __forceinline__ void name_lanes(const std::uint8_t* digits_of, coded_part& part, coder_room& room, int pass,
                                           int passes) {
  __syncwarp();
  part.clipped = 0;
#pragma unroll 1
  for (int b = 0; b < part.blocks; ++b) {
    const encode_block& block = room.facts[b];
    const std::uint8_t cls = class_in_pass(block.classes[lane()], passes - 1 - pass);
    std::uint32_t word = (pass ? part.digit : part.base) + 8u * cls, exceptions = 0;
    for (int p = 0; p < max_passes; ++p) exceptions |= block.exceptions[p];
    if (exceptions) part.clipped |= 1u << b;
    if (pass == 0) {
      const unsigned digits = digits_of[cls];
      unsigned most = 0;
      for (unsigned k = 1; k <= sluice::detail::rans_max_digits; ++k) most += __ballot_sync(everyone, digits >= k) != 0;
      word |= digits << lane_digits | most << lane_most_digits;
    }
    room.word[b][lane()] = word;
  }
  __syncwarp();
}

}  // namespace detail::encoding

/// Warps of a block of threads of encode_codes_kernel.
inline constexpr int encode_codes_warps = 16;
/// Dynamic shared memory of encode_codes_kernel.
inline constexpr std::size_t encode_codes_shared =
    encode_codes_bytes + encode_codes_warps * sizeof(detail::encoding::coder_room);
static_assert(encode_codes_shared <= max_shared_sm80 && 2 * (encode_codes_shared + 1024) <= max_shared);
/// Warps that the codes of an encode take.
constexpr std::int64_t encode_codes_items(int strands, int parts, int passes) noexcept {
  return std::int64_t{strands} * parts * ((passes + 1) / 2);
}

/// A warp for every part of two passes of every strand; encode_codes_warps a block of threads.
template <class = void>
__global__ void __launch_bounds__(32 * encode_codes_warps, 2) encode_codes_kernel(code_job j) {
  using namespace detail::encoding;
  unsigned char* const shared = ptx::dynamic_shared();
  const auto* const tables = reinterpret_cast<const unsigned char*>(&tables_of(j));
  for (std::size_t i = 16 * threadIdx.x; i < encode_codes_bytes; i += std::size_t{16} * blockDim.x)
    *reinterpret_cast<vector16*>(shared + i) = *reinterpret_cast<const vector16*>(tables + i);
  __syncthreads();
  const int item = static_cast<int>(blockIdx.x) * encode_codes_warps + static_cast<int>(threadIdx.x / 32u);
  const int pairs = (j.passes + 1) / 2;
  const int pair = item % pairs, number = item / pairs % j.max_parts, strand = item / pairs / j.max_parts;
  if (strand >= j.in.num_strands) return;
  const encode_strand& s = j.in.strands[strand];
  if (s.state != status::ok) return;
  encode_tile& tile = j.tiles[strand];
  const int made = j.in.requests[s.request].passes, first = 2 * pair;
  if (tile.kept || first >= made) return;
  coder_room& room =
      *reinterpret_cast<coder_room*>(shared + encode_codes_bytes + threadIdx.x / 32u * sizeof(coder_room));
  const std::uint32_t codes = ptx::shared_address(shared);
  const group_model& g = group_of(j.in.image, s.group);
  const int passes = head_of(j.in.image).depth, column = number * sluice::detail::rans_max_blocks;
  const std::uint32_t digit = codes + static_cast<std::uint32_t>(offsetof(encode_tables, digit)) + 2048;
  coded_part part{values_of(j, s) + 32 * column, g.ld, s.rows, 0, 0, codes, digit};
  const std::uint32_t part_at =
      static_cast<std::uint32_t>(number) * (j.base_bytes + static_cast<std::uint32_t>(j.passes - 1) * j.digit_bytes);
  if (lane() == 0) {
    room.tile = &tile;
    room.facts = j.blocks_of(strand) + column;
    room.scratch = j.scratch_of(strand);
  }
  __syncwarp();
  coder c{0, detail::encoding::stage_bytes, ptx::lanes_before(), room.stage};
  const int blocks_here = clamped(tile.blocks[first] - column, 0, sluice::detail::rans_max_blocks);
  bool whole = true;
  // The later pass comes first, and leaves its states to the earlier one.
#pragma unroll 1
  for (int pass = first + 1; pass >= first && whole; --pass) {
    if (pass >= made) continue;
    part.blocks =
        pass == first ? blocks_here : clamped(room.tile->blocks[pass] - column, 0, sluice::detail::rans_max_blocks);
    if (part.blocks == 0) continue;
    const std::uint32_t at = part_at + (pass ? j.base_bytes + static_cast<std::uint32_t>(pass - 1) * j.digit_bytes : 0);
    const std::uint32_t capacity = pass ? j.digit_bytes : j.base_bytes;
    code_sink sink{at, capacity};
    const bool fresh = pass > first || first + 1 >= made, continues = pass > first && blocks_here > 0;
    name_lanes(shared + offsetof(encode_tables, digits), part, room, pass, passes);
    whole = pass ? code_pass<false>(c, part, room, passes - 1 - pass, fresh, sink)
                 : code_pass<true>(c, part, room, passes - 1, fresh, sink);
    if (whole && !continues) pack_states(c, room);
    whole = whole && close_code(c, room, sink);
    if (lane() == 0) {
      room.tile->code_at[pass][number] = at + sink.left;
      room.tile->code_size[pass][number] = capacity - sink.left;
    }
  }
  if (!whole && lane() == 0) room.tile->kept = true;
}

}  // namespace sluice::cuda
