// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/open/open_frame.cuh>
#include <sluice/cuda/rope_angles.cuh>
#include <sluice/cuda/stages.cuh>
#include <sluice/cuda/strand.hpp>
#include <sluice/cuda/workspace.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/numeric.hpp>

#include <cstdint>

// The first kernels of a decode: requests into the workspace, their frames opened, then every strand of them, and the
// tables of rotary embeddings. Statuses are those of decoder::decode.

namespace sluice::cuda {

/// Requests as they travel in the parameters of a launch.
struct request_batch {
  std::int32_t first, count;
  placed_request items[requests_per_launch];
};
static_assert(sizeof(request_batch) + sizeof(decode_state) <= 4096);

/// A thread a request.
template <int = 0>
__global__ void open_requests(const decode_state d, const __grid_constant__ request_batch batch) {
  const int i = static_cast<int>(threadIdx.x);
  if (i >= batch.count) return;
  const placed_request& p = batch.items[i];
  open_request& r = d.requests[batch.first + i];
  r.asked = p.asked;
  r.state = status::absent;
  r.level = -1;
  r.passes = 0;
  r.token_tiles = 0;
  r.position = r.came_from = r.sequence_end = 0;
  r.offsets_at = p.offsets_at;
  r.entries_at = 0;
  r.ropes_at = p.ropes_at;
  r.first_strand = p.first_strand;
  r.strands = p.strands;
  r.layers_at = p.layers_at;
  r.values_at = p.values_at;
  r.value_size = p.value_size;
}

/// The request that a strand belongs to: the last that begins at or before it.
__device__ __forceinline__ int request_of(const decode_state& d, int strand) {
  int low = 0, n = d.num_requests;
  while (n > 1) {
    const int half = n / 2;
    low += d.requests[low + half].first_strand <= strand ? half : 0;
    n -= half;
  }
  return low;
}

/// Where the bytes of the passes of a strand are listed.
struct strand_entries {
  const std::uint8_t* entries;   // of the frame
  const std::uint64_t* offsets;  // [passes * tiles + 1]
  std::uint64_t tiles, ordinal;  // of a pass; of this tile in pass 0
  __device__ __forceinline__ std::uint32_t size(int pass) const {
    return sluice::detail::load_u32(entries + 8 * (static_cast<std::uint64_t>(pass) * tiles + ordinal));
  }
  __device__ __forceinline__ std::uint32_t checksum(int pass) const {
    return sluice::detail::load_u32(entries + 8 * (static_cast<std::uint64_t>(pass) * tiles + ordinal) + 4);
  }
};

/// One pass of a strand: checksum, then where its sections lie. A warp; lane 0 writes.
__device__ inline status open_pass(const open_request& r, const strand_entries& e, const opened_tile& t, int pass,
                                   int tokens, std::size_t row_bytes, strand& s) {
  const std::uint64_t ordinal = static_cast<std::uint64_t>(pass) * e.tiles + e.ordinal;
  const std::uint64_t begin = e.offsets[ordinal], end = e.offsets[ordinal + 1];
  if (end > r.asked.size) return status::truncated;
  const std::uint8_t* bytes = t.frame + begin;
  const auto size = static_cast<std::uint32_t>(end - begin);
  if (warp_checksum(bytes, size, static_cast<std::uint32_t>(ordinal), t.lane) != e.checksum(pass))
    return status::corrupt_tile;
  if (pass == 0 && size == 0) return status::absent;
  sluice::detail::tile_layout l;
  if (pass == 0 ? !sluice::detail::lay_out_tile(bytes, size, tokens, row_bytes, l)
                : !sluice::detail::lay_out_refinement(bytes, size, l))
    return status::corrupt_tile;
  const auto place = [&](section which) -> piece {
    const int i = static_cast<int>(which);
    return {begin + l.at[i], l.size[i]};
  };
  if (pass == 0) {
    bool ascend = true;
    for (int i = static_cast<int>(t.lane); i < l.exact; i += 32) {
      const std::uint8_t* at = bytes + l.exact_index + 2 * i;
      const int token = static_cast<int>(sluice::detail::load_u16(at));
      ascend = ascend && token < l.count && (i == 0 || token > static_cast<int>(sluice::detail::load_u16(at - 2)));
    }
    if (!__all_sync(0xffffffffu, ascend)) return status::corrupt_tile;
    if (t.lane == 0) {
      s.first = static_cast<std::uint16_t>(l.first);
      s.count = static_cast<std::uint16_t>(l.count);
      s.exact = static_cast<std::uint16_t>(l.exact);
      s.exact_index = {begin + l.exact_index, 2 * static_cast<std::uint32_t>(l.exact)};
      s.exact_rows = {begin + l.exact_rows, static_cast<std::uint32_t>(static_cast<std::size_t>(l.exact) * row_bytes)};
      s.transform = place(section::transform);
      s.quantizer = place(section::quantizer);
      s.steps = place(section::steps);
    }
  }
  if (t.lane == 0) s.entropy[pass] = place(section::entropy);
  return status::ok;
}

/// A warp a strand.
template <class Codec>
__global__ void __launch_bounds__(32 * strands_per_block, 3) open_strands(const decode_state d) {
  const int index = static_cast<int>(blockIdx.x) * strands_per_block + static_cast<int>(threadIdx.x / 32u);
  if (index >= d.num_strands) return;
  const unsigned lane = threadIdx.x % 32u;
  const model_head& head = head_of(d.image);
  const int number = request_of(d, index);
  const open_request& r = d.requests[number];
  const int local = index - r.first_strand, tile = local / head.strands, group = local % head.strands;
  strand& s = d.strands[index];
  const group_model& g = group_of(d.image, group);
  const plane_model& p = plane_of(d.image, g.layer, g.plane);
  if (lane == 0) {
    s.request = number;
    s.group = group;
    s.tile = tile;
    s.slot = -1;
    s.level = -1;
    s.first = s.count = s.exact = 0;
    s.exact_index = s.exact_rows = s.transform = s.quantizer = s.steps = {};
    for (int pass = 0; pass < max_passes; ++pass) s.entropy[pass] = s.exceptions[pass] = {};
    s.live = g.width;
    s.bits = 0;
    s.step = s.scale = 1;
    s.values_at = 0;
    s.state = s.opened = r.state == status::ok ? status::cancelled : r.state;
  }
  if (r.state != status::ok) return;
  const request_layer& layer = reinterpret_cast<const request_layer*>(d.workspace + r.layers_at)[g.layer];
  const int tokens = r.tokens_of(tile);
  if (layer.slot < 0 || r.within(tile, 0, tokens).empty()) return;

  const auto* frame = reinterpret_cast<const std::uint8_t*>(r.asked.frame);
  const strand_entries e{frame + r.entries_at, reinterpret_cast<const std::uint64_t*>(d.workspace + r.offsets_at),
                         static_cast<std::uint64_t>(r.strands),
                         static_cast<std::uint64_t>(place_in_pass(d.image, group, tile, r.token_tiles))};
  int level = r.level;
  for (int pass = 1; pass <= level; ++pass)
    if (e.size(pass) == cut_tile) level = pass - 1;
  const std::size_t row_bytes =
      static_cast<std::size_t>(g.width) * static_cast<std::size_t>(size_of(static_cast<dtype>(layer.type[g.plane])));
  const opened_tile t{&head, &p, &g, frame, &s, lane};
  status opened = status::ok;
  for (int pass = 0; pass <= level; ++pass) {
    const status now = open_pass(r, e, t, pass, tokens, row_bytes, s);
    if (now == status::ok) continue;
    opened = pass == 0 ? now : status::degraded;
    level = pass - 1;
  }
  if (lane == 0) {
    s.slot = layer.slot;
    s.level = level;
    s.type[0] = layer.type[g.plane];
    s.type[1] = 0;
    s.values_at = r.values_at + static_cast<std::uint64_t>(r.value_size) *
                                    (static_cast<std::uint64_t>(tile) * r.asked.tile_tokens *
                                         static_cast<std::uint64_t>(head.columns) +
                                     static_cast<std::uint64_t>(tokens) * static_cast<std::uint64_t>(g.columns_before));
  }
  __syncwarp();
  status state = opened;
  opened_quantizer q;
  if (opened == status::ok || opened == status::degraded)
    state = codec_stages<Codec>::open(t, q) ? status::ok : status::corrupt_tile;
  if (lane == 0) {
    s.opened = opened;
    s.state = state;
    s.step = q.step;
    s.scale = q.scale;
    s.bits = q.bits;
    if constexpr (!detail::steps_rows<Codec>) s.steps = {};  // as a host, which does not look at it
  }
}

/// cos and sin of all tokens of a request for all rotary pairs, each warp of a token tile taking tokens in turn.
template <int = 0>
__global__ void __launch_bounds__(32 * strands_per_block) fill_ropes(const decode_state d) {
  const int index = static_cast<int>(blockIdx.x) * strands_per_block + static_cast<int>(threadIdx.x / 32u);
  if (index >= d.num_strands) return;
  const model_head& head = head_of(d.image);
  const open_request& r = d.requests[request_of(d, index)];
  if (r.state != status::ok) return;
  const int local = index - r.first_strand, tile = local / head.strands;
  const auto* ropes = in_image<rope_model>(d.image, head.ropes_at);
  for (int t = local % head.strands; t < r.tokens_of(tile); t += head.strands) {
    const int token = tile * static_cast<int>(r.asked.tile_tokens) + t;
    const auto position = static_cast<double>(r.position + token);
    for (int i = 0; i < head.ropes; ++i) {
      const rope_model& rope = ropes[i];
      const auto* frequency = in_image<double>(d.image, rope.frequency_at);
      auto* row = const_cast<float*>(rope_row(d, r, rope, token));
      for (int pair = static_cast<int>(threadIdx.x % 32u); pair < rope.pairs; pair += 32) {
        const rope_entry e = rope_at(position, frequency[pair], rope.attention_factor);
        row[2 * pair] = e.cosine;
        row[2 * pair + 1] = e.sine;
      }
    }
  }
}

}  // namespace sluice::cuda
