// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/tables.hpp>
#include <sluice/config.hpp>
#include <sluice/cuda/encode_strand.hpp>
#include <sluice/format/cut.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/format/limits.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

// What passes between the kernels that make frames of integers, and how much of the workspace it takes. In order:
//   classes   classes of every block of 32 coefficients, where a tile disagrees with its profile  (cuda/encode/encode_classes.cuh)
//   plan      what a strand's passes code, and what their symbols cannot say                      (cuda/encode/encode_classes.cuh)
//   codes     integers -> codes of all passes, in scratch                                            (cuda/encode/encode_rans.cuh)
//   sizes     of tiles; which are better kept as they were stored                                    (cuda/encode/frames.cuh)
//   frames    how many levels fit, where tiles go, index                                             (cuda/encode/frames.cuh)
//   tiles     sections -> frame, checksums                                                           (cuda/encode/tiles.cuh)
//   seal      checksums of index and header, what became of each request                             (cuda/encode/frames.cuh)

namespace sluice::cuda {

/// How a device divides by 3^n: round(v / 3^n) is the high word of (4 v + offset) * magic, floor((4 v + 2 * 3^n) / (4 * 3^n)),
/// for all of 16 bits and one more. It is what n roundings to a third give, one after the other.
struct encode_third {
  std::int32_t magic;   ///< 2^30 / 3^n, rounded up
  std::int32_t offset;  ///< 2 * 3^n
  /// For a power from 0 to 5.
  SLUICE_HD static constexpr encode_third of(int n) noexcept {
    return {((1 << 30) + power3(n) - 1) / power3(n), 2 * power3(n)};
  }
};

/// What the codes of a coefficient cannot say: where the first `passes - levels` of them are dead, or all values of the base
/// pass beyond a limit, coded is v - 3^levels * (t - clamp(t, limit)) with t = round(v / 3^levels).
struct encode_clip {
  int limit;   ///< largest magnitude after `levels` roundings to a third that is coded
  int levels;  ///< how many
  /// From what word() gave.
  SLUICE_HD static constexpr encode_clip of(std::uint32_t word) noexcept {
    return {static_cast<int>(word & 0xffffu), static_cast<int>(word >> 16)};
  }
  /// Both in one number.
  SLUICE_HD constexpr std::uint32_t word() const noexcept {
    return static_cast<std::uint32_t>(limit) | static_cast<std::uint32_t>(levels) << 16;
  }
  /// Largest magnitude that is coded as it is.
  SLUICE_HD constexpr int largest() const noexcept { return limit * power3(levels) + (power3(levels) - 1) / 2; }
};

/// Parts of a code at most.
inline constexpr int encode_max_parts =
    max_group_width / (sluice::detail::rans_lanes * sluice::detail::rans_max_blocks);
/// Blocks of a strand at most.
inline constexpr int encode_max_blocks = max_group_width / sluice::detail::rans_lanes;
/// A tile with more exceptions in a pass is better stored.
inline constexpr std::uint32_t encode_max_exceptions = 8192;

/// 32 coefficients of a strand.
struct encode_block {
  float saved;                ///< bits that `nibbles` would save; 0 where the block agrees with its profile
  std::uint8_t nibbles[16];   ///< deltas as they stand in a tile
  std::uint8_t classes[32];   ///< with deltas, where the tile has them
  std::uint16_t largest[32];  ///< magnitude at the finest step
  std::uint32_t clip[32];     ///< what the codes cannot say, see encode_clip; only where there are exceptions
  std::uint32_t exceptions[max_passes];  ///< how many
};
static_assert(sizeof(encode_block) % 4 == 0);

/// A strand on its way to a tile.
struct encode_tile {
  bool kept;                                              ///< all tokens stay as they were stored
  bool explicit_classes;                                  ///< the tile names its classes
  std::uint8_t blocks[max_passes];                        ///< that a pass codes
  std::uint32_t delta_blocks;                             ///< bit b: block b has deltas
  std::uint32_t exceptions[max_passes];                   ///< how many
  std::uint32_t code_at[max_passes][encode_max_parts];    ///< from the strand's first byte of scratch
  std::uint32_t code_size[max_passes][encode_max_parts];  ///< of a part's code with its states
};

/// A request on its way to a frame.
struct encode_frame {
  status state;              ///< ok, or why there is none
  std::int32_t passes;       ///< that the index lists
  std::uint32_t shape_runs;  ///< at the start of the index
  std::uint64_t front;       ///< bytes of header and index
  std::uint64_t size;        ///< of the frame

  /// Where the index's entries begin.
  SLUICE_HD std::uint64_t entries_at() const noexcept { return sizeof(frame_header) + shape_runs * sizeof(shape_run); }
};

/// Where requests are listed whose base does not fit.
struct encode_overflow {
  std::int32_t* requests = nullptr;  ///< out: their numbers, in any order; room for all of them
  std::int32_t* count = nullptr;     ///< out: how many; added to
};

/// What the kernels from classes to seal are given.
struct code_job {
  encode_state in;              ///< strands with their integers
  codec_id codec;               ///< of the frames' headers
  std::uint64_t fingerprint;    ///< of the same
  encode_overflow overflow;     ///< where requests are listed that do not fit
  encode_block* blocks;         ///< [strands][max_blocks]
  encode_tile* tiles;           ///< [strands]
  encode_frame* frames;         ///< [requests]
  std::uint32_t* sizes;         ///< of tiles, for each request [passes][its strands], in the order of the index
  std::uint64_t* offsets;       ///< of the same
  std::byte* scratch;           ///< [strands][scratch_bytes]
  std::uint64_t scratch_bytes;  ///< of a strand: its codes
  std::uint32_t base_bytes;     ///< of these, for one part of a base pass
  std::uint32_t digit_bytes;    ///< the same of a refinement
  std::int32_t max_blocks;      ///< of any strand
  std::int32_t max_parts;       ///< of its codes
  std::int32_t passes;          ///< most that any request makes

  /// Blocks of a strand.
  SLUICE_HD encode_block* blocks_of(int strand) const noexcept { return blocks + std::int64_t{strand} * max_blocks; }
  /// Scratch of a strand.
  SLUICE_HD std::byte* scratch_of(int strand) const noexcept {
    return scratch + static_cast<std::uint64_t>(strand) * scratch_bytes;
  }
  /// Where the size and the offset of a tile stand.
  SLUICE_HD std::int64_t entry(const open_encode& r, int pass, std::int64_t place) const noexcept {
    return std::int64_t{r.first_strand} * passes + std::int64_t{pass} * r.strands + place;
  }
};

/// Fills the job but for what it is given, and returns the bytes of workspace that it takes from `at` on, which is a
/// multiple of 16.
inline std::uint64_t place_encode_job(code_job& j, const model_head& head, std::byte* at) noexcept {
  const auto strands = static_cast<std::uint64_t>(j.in.num_strands);
  std::uint64_t used = 0;
  const auto take = [&](std::uint64_t bytes) {
    std::byte* const p = at ? at + used : nullptr;
    used += round_16(bytes);
    return p;
  };
  j.passes = j.in.passes;
  j.max_blocks = head.max_width / sluice::detail::rans_lanes;
  j.max_parts = (j.max_blocks + sluice::detail::rans_max_blocks - 1) / sluice::detail::rans_max_blocks;
  const auto passes = static_cast<std::uint64_t>(j.passes);
  // A base pass that needs more than two bytes a value makes a tile stay as it was stored.
  const int blocks = j.max_blocks < sluice::detail::rans_max_blocks ? j.max_blocks : sluice::detail::rans_max_blocks;
  j.base_bytes = static_cast<std::uint32_t>(round_16(sluice::detail::encoded_bound(blocks, j.in.tile_tokens, 1)));
  j.digit_bytes = static_cast<std::uint32_t>(round_16(sluice::detail::encoded_bound(blocks, j.in.tile_tokens)));
  j.scratch_bytes = static_cast<std::uint64_t>(j.max_parts) * (j.base_bytes + (passes - 1) * j.digit_bytes);
  const auto in = [](auto*& to, std::byte* p) { to = reinterpret_cast<std::remove_reference_t<decltype(to)>>(p); };
  in(j.scratch, take(strands * j.scratch_bytes));
  in(j.offsets, take(strands * passes * sizeof(std::uint64_t)));
  in(j.frames, take(static_cast<std::uint64_t>(j.in.num_requests) * sizeof(encode_frame)));
  in(j.blocks, take(strands * static_cast<std::uint64_t>(j.max_blocks) * sizeof(encode_block)));
  in(j.tiles, take(strands * sizeof(encode_tile)));
  in(j.sizes, take(strands * passes * sizeof(std::uint32_t)));
  return used;
}

}  // namespace sluice::cuda
