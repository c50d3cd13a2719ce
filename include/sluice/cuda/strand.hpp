// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/cuda/model.hpp>
#include <sluice/cuda/request.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <cstdint>

// What travels from kernel to kernel of a decode. A strand is a tile of all passes: (request, token tile, layer, plane,
// group). Kernels go over all strands in turn, one stage each:
//   open    frame and index of every request, then envelope, sections and checksums of every strand    (cuda/open/open.cuh)
//   entropy sections -> integers, in the workspace                    (cuda/entropy/class_rans.cuh, cuda/entropy/fixed_width.cuh, ...)
//   store   integers -> basis, rotation, elements, pages; exact tokens                   (cuda/store/store.cuh, elements.cuh)
//   report  what became of each, to the pages' status words                                            (cuda/open/open.cuh)
// A kernel looks only at strands whose `state` is ok, and says corrupt_tile there where bytes are not what they must be.

namespace sluice::cuda {

/// Bytes of a frame.
struct piece {
  std::uint64_t at = 0;    ///< from the frame's first byte
  std::uint32_t size = 0;  ///< 0 = absent
};

/// Tokens of a view, a half-open range.
struct token_range {
  std::int64_t begin;  ///< of the first token
  std::int64_t end;    ///< behind the last one
  /// Whether there are none.
  SLUICE_HD constexpr bool empty() const noexcept { return begin >= end; }
};

/// A request after its frame was opened.
struct open_request {
  request asked;              ///< as it came
  status state;               ///< ok, or why nothing of it is decoded
  std::int32_t level;         ///< finest that is here and asked for
  std::int32_t passes;        ///< that the index lists
  std::int32_t token_tiles;   ///< of the frame
  std::int64_t position;      ///< where its first token goes
  std::int64_t came_from;     ///< where it was encoded
  std::int64_t sequence_end;  ///< of the sequence that the view serves
  std::uint64_t offsets_at;   ///< workspace: u64 [passes * strands * token_tiles + 1], where tiles begin
  std::uint64_t entries_at;   ///< frame: tile_entry of the first of them
  std::uint64_t ropes_at;     ///< workspace: float2 (cos, sin) tables of its tokens, see rope_row()
  std::int32_t first_strand;  ///< of all requests' strands
  std::int32_t strands;       ///< of this one: token_tiles * head.strands, token tile by token tile
  std::uint64_t layers_at;    ///< workspace: request_layer [head.layers]
  std::uint64_t values_at;    ///< workspace: where the values of its strands begin
  std::int32_t value_size;    ///< bytes of a value there

  /// Tokens of a token tile; the last one may have fewer.
  SLUICE_HD constexpr std::int32_t tokens_of(std::int32_t tile) const noexcept {
    const std::int64_t left = std::int64_t{asked.tokens} - std::int64_t{tile} * asked.tile_tokens;
    return std::int32_t(left < asked.tile_tokens ? left : asked.tile_tokens);
  }
  /// What the view shows of the tokens [first, last) of a token tile, as tokens of the view: a half-open range, which may
  /// be empty.
  SLUICE_HD constexpr token_range within(std::int32_t tile, std::int32_t first, std::int32_t last) const noexcept {
    const std::int64_t start = position + std::int64_t{tile} * asked.tile_tokens - asked.cache.position;
    return {start + first > 0 ? start + first : 0,
            start + last < asked.cache.tokens ? start + last : asked.cache.tokens};
  }
  /// The first token of a token tile that is inside of a sliding window of so many tokens; there may be none.
  SLUICE_HD constexpr std::int32_t first_needed(std::int32_t window, std::int32_t tile) const noexcept {
    const std::int64_t last = window > 0 && window - 1 < sequence_end ? window - 1 : sequence_end;
    const std::int64_t needed = sequence_end - last - position - std::int64_t{tile} * asked.tile_tokens;
    return needed < 0 ? 0 : needed < tokens_of(tile) ? std::int32_t(needed) : tokens_of(tile);
  }
};

/// What a request says of a layer of the model.
struct request_layer {
  std::int32_t slot;       ///< layer of the view that shows it; -1 = not to be written
  std::uint8_t type[2];    ///< dtype of K and V when encoded
  std::uint8_t unused[2];  ///< zero
};

/// One of all strands of a decode, in the workspace.
struct strand {
  status state;                  ///< ok = to be decoded
  status opened;                 ///< what open said: ok, degraded, absent, corrupt_tile, truncated
  std::int32_t request;          ///< number of its open_request
  std::int32_t group;            ///< number of its group_model
  std::int32_t tile;             ///< token tile
  std::int32_t slot;             ///< layer of the view; -1 = nobody asked for it
  std::int32_t level;            ///< finest pass to decode
  std::uint8_t type[2];          ///< dtype when encoded; unused
  std::uint16_t first;           ///< token covered, counted from the token tile's first
  std::uint16_t count;           ///< tokens covered
  std::uint16_t exact;           ///< of these, how many are exact
  piece exact_index;             ///< u16[exact]
  piece exact_rows;              ///< elements as stored
  piece transform;               ///< section of the base pass
  piece quantizer;               ///< section of the base pass
  piece steps;                   ///< the same: classes of rows (cuda/entropy/row_steps.cuh)
  piece entropy[max_passes];     ///< sections of each pass
  piece exceptions[max_passes];  ///< set by the entropy stage: exception[size / 8], checked against rows and width
  std::int32_t live;             ///< set by the entropy stage: columns from here on are zero
  std::int32_t bits;             ///< set by the quantiser's open: width of codes, where fixed
  float step;                    ///< set by the quantiser's open: of the finest level, in units of the transform
  float scale;                   ///< the same at `level`
  std::uint64_t values_at;       ///< workspace: int16 [rows][ld], written by the entropy stage; for a codec of elements
                                 ///< their bytes, [rows][row_bytes]

  /// Coded tokens.
  SLUICE_HD constexpr int rows() const noexcept { return count - exact; }
};

/// What every kernel of a decode is given.
struct decode_state {
  const std::byte* image;     ///< of the model, on the device
  std::byte* workspace;       ///< whose parts `_at` counts from
  open_request* requests;     ///< [num_requests], in the workspace
  strand* strands;            ///< [num_strands], in the workspace
  std::int32_t num_requests;  ///< of the call
  std::int32_t num_strands;   ///< of all of them
  std::uint64_t stages_at;    ///< workspace: what the codec's own stages asked for
};

/// cos and sin of a token of a request (counted from the frame's first) for each pair of a rope, attention factor
/// included: float2[pairs].
SLUICE_HD inline const float* rope_row(const decode_state& d, const open_request& r, const rope_model& rope,
                                       std::int32_t token) noexcept {
  const std::uint64_t row = std::uint64_t{r.asked.tokens} * std::uint64_t(rope.pairs_before) +
                            std::uint64_t(token) * std::uint64_t(rope.pairs);
  return reinterpret_cast<const float*>(d.workspace + r.ropes_at) + 2 * row;
}

}  // namespace sluice::cuda
