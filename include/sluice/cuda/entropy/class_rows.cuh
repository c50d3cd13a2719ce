// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/entropy/class_section.cuh>
#include <sluice/cuda/entropy/class_tables.hpp>
#include <sluice/cuda/entropy/rans_steps.cuh>
#include <sluice/cuda/strand.hpp>

#include <cstdint>

// The steps of a part of class_rans, up to 8 blocks of 32 coefficients: those of whole rows, unrolled for the number of
// blocks so that all addresses stay in registers, and all others one by one.

namespace sluice::cuda {

/// What a warp decodes: a part of a strand, and the pass that it is at. In shared memory, for registers are few; whatever
/// has to outlast the steps is read from here again.
struct part_job {
  code_source source;
  strand* of;  ///< null = nothing
  const std::uint8_t* frame;
  const class_lut* luts;  ///< of all classes, in the image
  std::uint64_t out;      ///< workspace: its first value
  live_counts live;       ///< of the strand
  std::int32_t ld, rows, width, depth, level;
  std::int32_t first;  ///< block of the strand
  std::int32_t pass;
  std::int32_t blocks;   ///< in this pass
  std::int32_t tail;     ///< steps of settled states, the last ones; negative where the code goes on
  std::int32_t whole;    ///< rows that are decoded as such
  std::uint32_t digits;  ///< in the base pass: most digits of a lane in each block, 4 bits each

  /// Its blocks in a pass.
  __device__ int blocks_of(int p) const {
    const int n = live.of(p) - first;
    return n < 0 ? 0 : n < detail::rans_max_blocks ? n : detail::rans_max_blocks;
  }
  __device__ int back() const { return depth - 1 - pass; }
};

/// What a lane knows of a part.
struct part_lane {
  std::uint32_t x;          ///< the state
  code_bytes in;            ///< the same in all lanes, and so is the rest but for the classes
  std::uint32_t low, high;  ///< the lane's class in each block, a byte each
  std::uint32_t before;     ///< lanes before this one
  std::uint32_t tables;     ///< shared address of the ternary rows
  std::uint32_t ring;
  unsigned lane;
  std::byte* workspace;  ///< as the kernel was given it: what lies in shared memory might point anywhere

  __device__ std::int16_t* values(const part_job& job, int row = 0) const {
    return reinterpret_cast<std::int16_t*>(workspace + job.out) + static_cast<std::ptrdiff_t>(row) * job.ld + lane;
  }
  __device__ std::uint8_t cls(int block, int back) const {
    return class_in_pass(static_cast<std::uint8_t>((block < 4 ? low : high) >> 8 * (block % 4)), back);
  }
  /// To be called at least once for every most_between_looks bytes.
  __device__ __forceinline__ void look(const part_job& job) {
    if (in.at >= in.edge) next_chunk(job.source, in, ring, lane);
  }
};

/// Digits below the symbols of a row of a base pass: none, few enough to look at the ring once a row, or any number.
enum class row_digits : std::uint8_t { none, few, many };

/// Whole rows of a base pass; `luts` is the shared address of the classes' slots.
template <int Blocks, row_digits Digits>
__device__ void base_rows(const part_job& job, part_lane& me, const std::uint8_t* slot_of, std::uint32_t luts) {
  part_lane l = me;
  std::uint32_t lut[Blocks];
#pragma unroll
  for (int b = 0; b < Blocks; ++b)
    lut[b] = luts + slot_of[l.cls(b, job.back())] * static_cast<std::uint32_t>(sizeof(class_lut));
  const int ld = job.ld;
  const std::uint32_t digits = Digits != row_digits::none ? __reduce_or_sync(whole_warp, job.digits)
                                                          : 0;  // the compiler sees that it is uniform
  std::int16_t* out = l.values(job);
#pragma unroll 1
  for (int r = job.whole; r > 0; --r) {
    l.look(job);
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
      const std::uint32_t entry = ptx::load_table(__dp4a(l.x, 4u, lut[b]));
      advance(l.x, entry, l.in.at, l.before);
      int v = static_cast<int>(entry) >> 16;
      if constexpr (Digits != row_digits::none) {
#pragma unroll 1
        for (std::uint32_t k = digits >> 4 * b & 15; k-- > 0;) {
          if constexpr (Digits == row_digits::many) l.look(job);
          const ptx::pair digit = ptx::load_table_pair(lut[b] + 1024 + 8 * k);
          const ternary_hit h = find_digit(l.x, row_under(v, l.tables + digit.x));
          advance(l.x, h.entry, l.in.at, l.before);
          v = refined(v, static_cast<int>(digit.y), h);
        }
      }
      out[32 * b] = static_cast<std::int16_t>(v);
    }
    out += ld;
  }
  me.x = l.x;
  me.in = l.in;
}

/// Whole rows of a refinement.
template <int Blocks>
__device__ void ternary_rows(const part_job& job, part_lane& me) {
  part_lane l = me;
  std::uint32_t row[Blocks];
  int parent[Blocks];
  const int ld = job.ld;
  std::int16_t* out = l.values(job);
#pragma unroll
  for (int b = 0; b < Blocks; ++b) {
    row[b] = l.tables + l.cls(b, job.back()) * static_cast<std::uint32_t>(sizeof(ternary_row));
    parent[b] = job.whole > 0 ? out[32 * b] : 0;
  }
#pragma unroll 1
  for (int r = job.whole; r > 0; --r) {
    l.look(job);
    const std::int16_t* const next = out + (r > 1 ? ld : 0);
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
      const ternary_hit h = find_digit(l.x, row_under(parent[b], row[b]));
      advance(l.x, h.entry, l.in.at, l.before);
      out[32 * b] = static_cast<std::int16_t>(refined(parent[b], 3, h));
      parent[b] = next[32 * b];  // a row ahead of its use, and no earlier, or it would move between registers
    }
    out += ld;
  }
  me.x = l.x;
  me.in = l.in;
}

/// Steps one by one: those of a row that is not whole, those of settled states, and those of a base pass whose classes got
/// no slots.
template <bool Base>
__device__ void single_steps(const part_job& job, part_lane& l) {
  const int blocks = job.blocks, steps = job.rows * blocks, settled = job.tail < 0 ? -1 : steps - job.tail;
  int block = 0;
  std::int16_t* out = l.values(job, job.whole);
  std::uint32_t floor = state_floor;
  for (int step = job.whole * blocks;; ++step) {
    if (step == settled) {
      l.x -= 256;
      floor = settled_floor;
    }
    if (step == steps) return;
    const std::uint8_t cls = l.cls(block, job.back());
    int v;
    l.look(job);
    if constexpr (Base) {
      const class_lut& lut = job.luts[cls];
      const std::uint32_t entry = lut.word[l.x & 255];
      advance(l.x, entry, l.in.at, l.before, floor);
      v = static_cast<int>(entry) >> 16;
      for (std::uint32_t k = job.digits >> 4 * block & 15; k-- > 0;) {
        l.look(job);
        const digit_row digit = lut.digit[k];
        const ternary_hit h = find_digit(l.x, row_under(v, l.tables + digit.row));
        advance(l.x, h.entry, l.in.at, l.before, floor);
        v = refined(v, static_cast<int>(digit.factor), h);
      }
    } else {
      v = out[32 * block];
      const ternary_hit h =
          find_digit(l.x, row_under(v, l.tables + cls * static_cast<std::uint32_t>(sizeof(ternary_row))));
      advance(l.x, h.entry, l.in.at, l.before, floor);
      v = refined(v, 3, h);
    }
    out[32 * block] = static_cast<std::int16_t>(v);
    if (++block == blocks) {
      block = 0;
      out += job.ld;
    }
  }
}

/// The whole rows in front of a pass, by the number of its blocks.
template <class F>
__device__ __forceinline__ void for_blocks(int blocks, const F& f) {
  switch (blocks) {
    case 1: f.template operator()<1>(); break;
    case 2: f.template operator()<2>(); break;
    case 3: f.template operator()<3>(); break;
    case 4: f.template operator()<4>(); break;
    case 5: f.template operator()<5>(); break;
    case 6: f.template operator()<6>(); break;
    case 7: f.template operator()<7>(); break;
    default: f.template operator()<8>(); break;
  }
}

}  // namespace sluice::cuda
