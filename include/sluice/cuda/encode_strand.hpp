// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/cuda/encode_request.hpp>
#include <sluice/cuda/model.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <cstdint>

// What travels from kernel to kernel of an encode: the mirror image of strand.hpp. A strand is (request, token tile,
// group of K or V of a layer); kernels go over all strands in turn:
//   open     views and their tables, which layer stands where, cos and sin, tokens of a strand      (cuda/encode/encode_open.cuh)
//   forward  pages -> finest integers, or elements; which tokens are coded and which exact              (cuda/encode/forward.cuh)
//   ...      integers -> passes, sections, tiles, frames
// A kernel looks only at strands whose `state` is ok. What is wrong with a view is said in the request's state.

namespace sluice::cuda {

/// A request after its view was looked at.
struct open_encode {
  encode_request asked;       ///< with position and tokens set
  status state;               ///< ok, or why nothing of it is encoded
  std::int32_t passes;        ///< to make
  std::int32_t token_tiles;   ///< of the frame
  std::int32_t first_strand;  ///< of all requests' strands
  std::int32_t strands;       ///< of this one: token_tiles * head.strands
  std::uint64_t slots_at;     ///< workspace: i32[head.layers], layer of the view that shows a model layer; -1 = none
  std::uint64_t ropes_at;     ///< workspace: float2 (cos, sin) that undo the rotation of its tokens, see rope_row()
};

/// One of all strands of an encode, in the workspace; those of a request in the order (token tile, group).
struct encode_strand {
  status state;             ///< ok = there are tokens to encode; absent = none of them is shown; or what is wrong
  std::int32_t request;     ///< number of its open_encode
  std::int32_t group;       ///< number of its group_model
  std::int32_t tile;        ///< token tile
  std::int32_t slot;        ///< layer of the view
  dtype type;               ///< of the elements
  bool calibrated;          ///< set by forward: integers are in the profile's units, its classes fit; see `symbols`
  std::uint16_t first;      ///< token of the tile where what is shown begins
  std::uint16_t count;      ///< tokens shown
  std::uint16_t rows;       ///< set by forward: coded tokens
  std::uint16_t exact;      ///< set by forward: count - rows
  float step;               ///< set by forward: of the finest level, in units of the transform; 1 where calibrated
  std::uint64_t mean_at;    ///< workspace: u16[ld], f16 bits, where not calibrated: section::transform
  std::uint64_t coded_at;   ///< workspace: u16[rows], coded tokens counted from `first`, ascending
  std::uint64_t exact_at;   ///< workspace: u16[exact], the others
  std::uint64_t values_at;  ///< workspace: int16 [rows][ld] at the finest level, zeros behind the width; for a codec of
                            ///< elements their bytes, [rows][row_bytes]
};

/// What every kernel of an encode is given.
struct encode_state {
  const std::byte* image;  ///< of the model, on the device
  std::byte* workspace;
  open_encode* requests;   ///< [num_requests], in the workspace
  encode_strand* strands;  ///< [num_strands], in the workspace
  std::int32_t num_requests, num_strands;
  std::int32_t tile_tokens;  ///< of the codec
  std::int32_t passes;       ///< that the codec and the profile make: Codec::passes
  std::int32_t value_bytes;  ///< room for a value: 2, or 4 where elements are kept as they are
  // Parts of the workspace, for the open and forward stages; see encode_room.
  std::uint64_t slots_at, ropes_at, flags_at, lists_at, means_at, values_at;
};

/// cos and minus sin, over the attention factor, of a token of a request (counted from the frame's first) for each pair
/// of a rope: float2[pairs].
SLUICE_HD inline const float* rope_row(const encode_state& d, const open_encode& r, const rope_model& rope,
                                       std::int64_t token) noexcept {
  const std::uint64_t row = std::uint64_t(r.asked.tokens) * std::uint64_t(rope.pairs_before) +
                            std::uint64_t(token) * std::uint64_t(rope.pairs);
  return reinterpret_cast<const float*>(d.workspace + r.ropes_at) + 2 * row;
}

/// What the open and forward stages need of the workspace: sizes of parts, each a multiple of 16.
struct encode_room {
  std::uint64_t requests, strands, slots, ropes, flags, lists, means, values;
  constexpr std::uint64_t size() const noexcept {
    return requests + strands + slots + ropes + flags + lists + means + values;
  }
};
SLUICE_HD constexpr std::uint64_t round_16(std::uint64_t n) noexcept { return (n + 15) / 16 * 16; }

/// Room for requests that have so many tokens and strands together. `elements`: whether the codec keeps them as they
/// are, whose integers are then elements of at most 4 bytes.
constexpr encode_room room_for_encode(const model_head& head, std::int64_t num_requests, std::int64_t tokens,
                                      std::int64_t num_strands, int tile_tokens, bool elements) noexcept {
  const auto n = [](std::int64_t a) { return static_cast<std::uint64_t>(a); };
  const std::uint64_t rows = n(num_strands) * n(tile_tokens);
  return {round_16(n(num_requests) * sizeof(open_encode)),
          round_16(n(num_strands) * sizeof(encode_strand)),
          n(num_requests) * round_16(n(head.layers) * sizeof(std::int32_t)),
          round_16(n(tokens) * n(head.rope_pairs) * 2 * sizeof(float)),
          round_16(rows),
          2 * n(num_strands) * round_16(n(tile_tokens) * sizeof(std::uint16_t)),
          n(num_strands) * n(head.max_width) * sizeof(std::uint16_t),
          rows * n(head.max_width) * (elements ? 4u : 2u)};
}

}  // namespace sluice::cuda
