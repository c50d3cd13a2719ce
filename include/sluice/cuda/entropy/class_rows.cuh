// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/entropy/class_section.cuh>
#include <sluice/cuda/entropy/class_tables.hpp>
#include <sluice/cuda/entropy/rans_steps.cuh>
#include <sluice/cuda/entropy/row_steps.cuh>
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
  const class_lut* luts;      ///< of all classes, in the image
  const std::uint8_t* known;  ///< classes of the group in the image; null = the strand has its own
  std::uint64_t out;          ///< workspace: its first value
  live_counts live;           ///< of the strand
  std::int32_t ld, rows, width, depth, level;
  std::int32_t first;  ///< block of the strand
  std::int32_t pass;
  std::int32_t blocks;   ///< in this pass
  std::int32_t tail;     ///< steps of settled states, the last ones; negative where the code goes on
  std::uint32_t digits;  ///< in the base pass: most digits of a lane in each block, 4 bits each
  std::int32_t rows_of;  ///< class of the rows that are decoded, where they have classes
  std::int32_t due;      ///< rows that are decoded now: those of a class, or all
  std::int32_t whole;    ///< of these, how many are decoded as such
  std::int32_t left;     ///< steps until states settle; negative where they have

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

/// The classes of the rows of a part; read anew wherever they are wanted, for registers are few.
__device__ __forceinline__ row_steps steps_of(const part_job& job) { return steps_of(job.frame, job.of->steps); }

/// Rows of a part in the order in which they are coded: all of them as they stand.
class rows_in_turn {
 public:
  __device__ __forceinline__ rows_in_turn(const part_job& job, const part_lane& l) : at_(l.values(job)), ld_(job.ld) {}
  /// The lane's first value in the next row.
  __device__ __forceinline__ std::int16_t* next(const part_job&, const part_lane&) {
    std::int16_t* const row = at_;
    at_ += ld_;
    return row;
  }
  // For who reads whole rows one ahead, of which there may not be any(): the first; the one after `row`, or `row` itself
  // where there are no `more`; what `row` is to be then; and behind the last, for next() to go on.
  __device__ __forceinline__ std::int16_t* first(const part_job&, const part_lane&) const { return at_; }
  __device__ __forceinline__ static bool any(const part_job& job) { return job.whole > 0; }
  __device__ __forceinline__ std::int16_t* after(const part_job&, const part_lane&, std::int16_t* row, bool more) {
    return row + (more ? ld_ : 0);
  }
  __device__ __forceinline__ std::int16_t* passed(std::int16_t* row, std::int16_t*) { return at_ = row + ld_; }
  __device__ __forceinline__ void go_on(const rows_in_turn& from, const part_job&) { *this = from; }

 private:
  std::int16_t* at_;
  int ld_;
};

/// Which of 32 rows from `first` on are of a class.
__device__ __forceinline__ std::uint32_t rows_among(const part_job& job, unsigned lane, int first, int cls) {
  const int row = first + static_cast<int>(lane);
  return __ballot_sync(whole_warp, row < job.rows && steps_of(job).of(row) == cls);
}
/// How many rows are of a class.
__device__ inline int rows_of_class(const part_job& job, unsigned lane, int cls) {
  int n = 0;
  for (int first = 0; first < job.rows; first += 32) n += __popc(rows_among(job, lane, first, cls));
  return n;
}

/// The same of the rows of class job.rows_of, found 32 at a time.
class rows_of_one_class {
 public:
  __device__ __forceinline__ std::int16_t* next(const part_job& job, const part_lane& l) {
    while (left_ == 0 && first_ < job.rows) left_ = rows_among(job, l.lane, first_, job.rows_of), first_ += 32;
    const int row = first_ - 32 + (left_ != 0 ? __ffs(static_cast<int>(left_)) - 1 : 0);
    left_ &= left_ - 1;
    return l.values(job, row);
  }
  __device__ __forceinline__ std::int16_t* after(const part_job& job, const part_lane& l, std::int16_t* row,
                                                 bool more) {
    return more ? next(job, l) : row;
  }
  __device__ __forceinline__ std::int16_t* passed(std::int16_t*, std::int16_t* next) { return next; }
  __device__ __forceinline__ std::int16_t* first(const part_job& job, const part_lane& l) { return next(job, l); }
  __device__ __forceinline__ static bool any(const part_job&) { return true; }  // a row that is read for nothing
  __device__ __forceinline__ void go_on(const rows_of_one_class& from, const part_job& job) {
    if (job.whole > 0) *this = from;
  }

 private:
  int first_ = 0;           // of the next 32
  std::uint32_t left_ = 0;  // rows of the class among the 32 before
};

/// Digits below the symbols of a row of a base pass: none, few enough to look at the ring once a row, or any number.
enum class row_digits : std::uint8_t { none, few, many };

/// The whole rows of a base pass; `luts` is the shared address of the classes' slots.
template <int Blocks, row_digits Digits, class Rows>
__device__ void base_rows(const part_job& job, part_lane& me, Rows& rows, const std::uint8_t* slot_of,
                          std::uint32_t luts) {
  part_lane l = me;
  std::uint32_t lut[Blocks];
#pragma unroll
  for (int b = 0; b < Blocks; ++b)
    lut[b] = luts + slot_of[l.cls(b, job.back())] * static_cast<std::uint32_t>(sizeof(class_lut));
  const std::uint32_t digits = Digits != row_digits::none ? __reduce_or_sync(whole_warp, job.digits)
                                                          : 0;  // the compiler sees that it is uniform
  Rows in_turn = rows;
#pragma unroll 1
  for (int n = job.whole; n > 0; --n) {
    std::int16_t* const out = in_turn.next(job, l);
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
  }
  rows = in_turn;
  me.x = l.x;
  me.in = l.in;
}

/// The whole rows of a refinement.
template <int Blocks, class Rows>
__device__ void ternary_rows(const part_job& job, part_lane& me, Rows& rows) {
  part_lane l = me;
  Rows in_turn = rows;
  std::uint32_t row[Blocks];
  int parent[Blocks];
  std::int16_t* out = in_turn.first(job, l);
#pragma unroll
  for (int b = 0; b < Blocks; ++b) {
    row[b] = l.tables + l.cls(b, job.back()) * static_cast<std::uint32_t>(sizeof(ternary_row));
    parent[b] = in_turn.any(job) ? out[32 * b] : 0;
  }
#pragma unroll 1
  for (int n = job.whole; n > 0; --n) {
    l.look(job);
    std::int16_t* const next = in_turn.after(job, l, out, n > 1);
#pragma unroll
    for (int b = 0; b < Blocks; ++b) {
      const ternary_hit h = find_digit(l.x, row_under(parent[b], row[b]));
      advance(l.x, h.entry, l.in.at, l.before);
      out[32 * b] = static_cast<std::int16_t>(refined(parent[b], 3, h));
      parent[b] = next[32 * b];  // a row ahead of its use, and no earlier, or it would move between registers
    }
    out = in_turn.passed(out, next);
  }
  rows.go_on(in_turn, job);
  me.x = l.x;
  me.in = l.in;
}

/// The other rows step by step: one that is not whole, those of settled states, and those of a base pass whose classes got
/// no slots.
template <bool Base, class Rows>
__device__ void single_steps(part_job& job, part_lane& l, Rows& rows) {
  std::int16_t* out = nullptr;
  int block = job.blocks, left = job.left;
  for (int n = (job.due - job.whole) * job.blocks; n > 0; --n, ++block, --left) {
    if (block == job.blocks) block = 0, out = rows.next(job, l);
    if (left == 0) l.x -= 256;
    const std::uint32_t floor = left > 0 ? state_floor : settled_floor;
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
  }
  __syncwarp();
  if (l.lane == 0) job.left = left;
  __syncwarp();
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
