// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/open/open_view.cuh>
#include <sluice/cuda/strand.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>

#include <cuda_runtime.h>

#include <cstdint>

// A frame's header and index, and the view that it goes to, checked by one block: what frame_index::parse and the first
// lines of decoder::decode do on a host, in the same order, so that the same bytes are refused for the same reason.

namespace sluice::cuda {

/// checksum() of bytes at any alignment by one warp; all lanes get it. Reads nothing outside of them.
__device__ inline std::uint32_t warp_checksum(const std::uint8_t* p, std::uint64_t size, std::uint32_t seed,
                                              unsigned lane) {
  std::uint32_t x = sluice::detail::checksum_start(seed, static_cast<int>(lane));
  // Words that lie across two aligned ones are put together of both. The second may reach beyond the bytes of a stripe,
  // so the last whole stripe is left to what follows.
  const unsigned beyond = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(p) & 3u);
  const auto* words = reinterpret_cast<const std::uint32_t*>(p - beyond) + lane;
  const std::uint64_t whole = size / 128, fast = whole > 0 ? whole - 1 : 0;
  std::uint64_t stripe = 0;
#pragma unroll 4
  for (; stripe < fast; ++stripe)
    x = sluice::detail::checksum_round(x, __funnelshift_r(words[32 * stripe], words[32 * stripe + 1], 8 * beyond));
  for (std::uint64_t at = 128 * stripe + 4 * lane; 128 * stripe < size; ++stripe, at += 128) {
    std::uint32_t word = 0;
    for (unsigned i = 0; i < 4; ++i)
      if (at + i < size) word |= static_cast<std::uint32_t>(p[at + i]) << 8 * i;
    x = sluice::detail::checksum_round(x, word);
  }
  std::uint32_t hash = sluice::detail::checksum_begin(seed, size);
#pragma unroll
  for (int i = 0; i < 32; ++i) hash = sluice::detail::checksum_merge(hash, __shfl_sync(0xffffffffu, x, i));
  return sluice::detail::checksum_end(hash);
}

/// What the threads of a block that opens a frame share.
struct frame_memory {
  alignas(8) std::uint8_t bytes[sizeof(frame_header)];  // of which no constructor is called
  std::uint32_t sum;
  std::uint64_t partial[open_threads / 32];

  __device__ const frame_header& header() const { return *reinterpret_cast<const frame_header*>(bytes); }
};

__device__ __forceinline__ std::uint64_t shuffle_up(std::uint64_t v, unsigned by, unsigned lane) {
  const int from = static_cast<int>(lane >= by ? lane - by : lane);
  const auto low = __shfl_sync(0xffffffffu, static_cast<std::uint32_t>(v), from);
  const auto high = __shfl_sync(0xffffffffu, static_cast<std::uint32_t>(v >> 32), from);
  return lane >= by ? std::uint64_t{high} << 32 | low : 0;
}

/// The sum of `v` over the threads before this one; `total` = over all of the block.
__device__ inline std::uint64_t block_scan(std::uint64_t v, frame_memory& m, std::uint64_t& total) {
  const unsigned lane = threadIdx.x % 32u, warp = threadIdx.x / 32u;
  std::uint64_t sum = v;
#pragma unroll
  for (unsigned by = 1; by < 32; by *= 2) sum += shuffle_up(sum, by, lane);
  if (lane == 31) m.partial[warp] = sum;
  __syncthreads();
  std::uint64_t before = 0;
  total = 0;
#pragma unroll
  for (unsigned w = 0; w < open_threads / 32; ++w) {
    before += w < warp ? m.partial[w] : 0;
    total += m.partial[w];
  }
  __syncthreads();
  return before + sum - v;
}

/// checksum() of bytes by the block's first warp.
__device__ inline std::uint32_t block_checksum(const std::uint8_t* p, std::uint64_t size, frame_memory& m) {
  if (threadIdx.x < 32) {
    const std::uint32_t sum = warp_checksum(p, size, frame_magic, threadIdx.x);
    if (threadIdx.x == 0) m.sum = sum;
  }
  __syncthreads();
  const std::uint32_t sum = m.sum;
  __syncthreads();
  return sum;
}

__device__ inline shape_run load_run(const std::uint8_t* p) {
  shape_run r;
  r.layers = static_cast<std::uint16_t>(sluice::detail::load_u16(p));
  r.num_kv_heads = static_cast<std::uint16_t>(sluice::detail::load_u16(p + 2));
  for (int i = 0; i < 2; ++i) {
    r.head_dim[i] = static_cast<std::uint16_t>(sluice::detail::load_u16(p + 4 + 2 * i));
    r.group_width[i] = static_cast<std::uint16_t>(sluice::detail::load_u16(p + 8 + 2 * i));
    r.type[i] = p[12 + i];
  }
  r.reserved = static_cast<std::uint16_t>(sluice::detail::load_u16(p + 14));
  return r;
}

/// An index that was read: what its tiles take.
struct index_facts {
  std::uint64_t groups = 0, tiles = 0;  ///< of all layers; of a pass
};

/// frame_index::parse(). Fills m.header(); `offsets` of all passes' tiles are written where the frame is as large as the
/// request says. Errors: those of parse().
__device__ inline status parse_frame(const request& asked, const model_head& head, std::int32_t strands,
                                     std::uint64_t* offsets, frame_memory& m, index_facts& facts) {
  const auto* frame = reinterpret_cast<const std::uint8_t*>(asked.frame);
  const std::uint64_t size = frame ? asked.size : 0;
  if (size >= 4 && sluice::detail::load_u32(frame) != frame_magic) return status::not_a_frame;
  if (size < sizeof(frame_header)) return status::truncated;
  if (threadIdx.x < sizeof(frame_header)) m.bytes[threadIdx.x] = frame[threadIdx.x];
  const std::uint32_t sum = block_checksum(frame, offsetof(frame_header, header_checksum), m);
  const frame_header& h = m.header();
  if (const status s = sluice::detail::check_header(h, sum); s != status::ok) return s;
  if (size - sizeof h < h.index_size) return status::truncated;
  const std::uint8_t* at = frame + sizeof h;
  if (block_checksum(at, h.index_size, m) != h.index_checksum) return status::corrupt_index;
  if ((sizeof h + h.index_size) % 16 || h.index_size < h.shape_runs * sizeof(shape_run)) return status::corrupt_index;

  std::uint64_t layers = 0, groups = 0, all_layers = 0;
  bool bad = false;
  for (unsigned i = threadIdx.x; i < h.shape_runs; i += open_threads) {
    const shape_run r = load_run(at + i * sizeof(shape_run));
    bad = bad || !r.valid();
    layers += r.layers;
    if (!bad) groups += static_cast<std::uint64_t>(r.layers) * static_cast<std::uint64_t>(r.groups(0) + r.groups(1));
  }
  if (any_thread(bad)) return status::corrupt_index;
  block_scan(layers, m, all_layers);
  block_scan(groups, m, facts.groups);
  const std::uint64_t token_tiles = (std::uint64_t{h.tokens} + h.tile_tokens - 1) / h.tile_tokens;
  // Neither product overflows: a run has at most 2^13 groups a layer, and where there are more layers it is refused.
  facts.tiles = facts.groups * token_tiles;
  const std::uint64_t used = sluice::detail::used_index(h, all_layers, all_layers == h.layers ? facts.tiles : 0);
  if (used == 0) return status::corrupt_index;
  const std::uint64_t padding = used + threadIdx.x;
  if (any_thread(padding < h.index_size && at[padding] != 0)) return status::corrupt_index;

  const std::uint8_t* entries = at + h.shape_runs * sizeof(shape_run);
  const std::uint64_t total = facts.tiles * h.passes;
  const bool keep = h.tokens == asked.tokens && h.tile_tokens == asked.tile_tokens && h.passes <= head.passes &&
                    facts.tiles == static_cast<std::uint64_t>(strands);
  constexpr unsigned each = 4;  // entries of a thread, one behind the other
  std::uint64_t offset = sizeof h + h.index_size;
  for (std::uint64_t first = 0; first < total; first += each * open_threads) {
    std::uint32_t sizes[each] = {};
    std::uint64_t sum_of_mine = 0;
    const std::uint64_t mine = first + each * threadIdx.x;
#pragma unroll
    for (unsigned k = 0; k < each; ++k) {
      const std::uint64_t i = mine + k;
      if (i >= total) continue;
      const std::uint32_t bytes = sluice::detail::load_u32(entries + 8 * i);
      if (bytes != cut_tile) {  // passes are cut from the finest down, the base never is
        sizes[k] = bytes;
        bad = bad || (i >= facts.tiles && sluice::detail::load_u32(entries + 8 * (i - facts.tiles)) == cut_tile);
      } else {
        bad = bad || i < facts.tiles || sluice::detail::load_u32(entries + 8 * i + 4) != 0;
      }
      sum_of_mine += sizes[k];
    }
    std::uint64_t of_all;
    std::uint64_t begin = offset + block_scan(sum_of_mine, m, of_all);
    offset += of_all;
#pragma unroll
    for (unsigned k = 0; k < each; ++k) {
      if (keep && mine + k < total) offsets[mine + k] = begin;
      begin += sizes[k];
    }
  }
  if (keep && threadIdx.x == 0) offsets[total] = offset;
  return any_thread(bad) || offset != h.frame_size ? status::corrupt_index : status::ok;
}

/// Whether the frame's layers are the model's; fills the request's table of them.
__device__ inline bool same_layers(const std::uint8_t* runs, const std::byte* image, frame_memory& m,
                                   request_layer* layers) {
  const frame_header& h = m.header();
  const model_head& head = head_of(image);
  if (h.layers != head.layers) return false;
  bool same = true;
  std::uint64_t before = 0;
  for (unsigned first = 0; first < h.shape_runs; first += open_threads) {
    shape_run r{};
    if (first + threadIdx.x < h.shape_runs) r = load_run(runs + (first + threadIdx.x) * sizeof(shape_run));
    std::uint64_t of_all;
    const auto begin = static_cast<int>(before + block_scan(r.layers, m, of_all));
    before += of_all;
    for (int l = begin; l < begin + r.layers; ++l) {
      for (int p = 0; p < 2; ++p) {
        const plane_model& q = plane_of(image, l, p);
        const plane_model& other = plane_of(image, l, 1 - p);
        same = same && r.num_kv_heads == sluice::detail::max(q.heads, other.heads) && r.head_dim[p] == q.head_dim &&
               r.group_width[p] == q.group_width;
      }
      layers[l] = {-1, {r.type[0], r.type[1]}, {0, 0}};
    }
  }
  return !any_thread(!same);
}

/// Everything before the first tile; all threads get the same. Errors: as decoder::decode.
__device__ inline status open_frame(const decode_state& d, open_request& r, frame_memory& m) {
  const request& asked = r.asked;
  const model_head& head = head_of(d.image);
  auto* const offsets = reinterpret_cast<std::uint64_t*>(d.workspace + r.offsets_at);
  auto* const layers = reinterpret_cast<request_layer*>(d.workspace + r.layers_at);
  index_facts facts;
  if (const status s = parse_frame(asked, head, r.strands, offsets, m, facts); s != status::ok) return s;
  const frame_header& h = m.header();
  if (!head.codec.decodes(h.codec)) return status::wrong_codec;
  if (h.fingerprint != head.fingerprint) return status::wrong_profile;
  if (h.tokens != asked.tokens || h.tile_tokens != asked.tile_tokens || r.strands == 0) return status::wrong_shape;
  const auto* frame = reinterpret_cast<const std::uint8_t*>(asked.frame);
  if (!same_layers(frame + sizeof h, d.image, m, layers)) return status::wrong_shape;
  if (h.passes > head.passes || h.side_checksum) return status::corrupt_header;  // nothing here predicts
  if (h.levels_present == 0 || asked.level < 0) return status::level_not_present;
  const kv_view& v = asked.cache;
  if (const status s = map_view(v, d.image, [layers](int l) -> std::int32_t& { return layers[l].slot; });
      s != status::ok)
    return s;
  const std::int64_t position = asked.position < 0 ? h.position : asked.position;
  if (position > INT64_MAX - max_frame_tokens) return status::invalid_argument;

  const bool stored = head.domain == static_cast<std::int32_t>(value_domain::stored);
  const std::int64_t token_tiles = (std::int64_t{h.tokens} + h.tile_tokens - 1) / h.tile_tokens;
  bool bad = false;
  for (int i = static_cast<int>(threadIdx.x); i < v.num_layers; i += open_threads)
    for (int p = 0; p < 2; ++p) {
      const plane_view& q = p == 0 ? v.k : v.v;
      const int l = v.layer_id(i);
      if (!q.present() || (stored && static_cast<std::uint8_t>(q.type) == layers[l].type[p])) continue;
      const plane_model& n = plane_of(d.image, l, p);
      // Elements as stored go to their own type only; where the frame has none it has no type either.
      bad = bad || (stored ? offsets[n.first_group * token_tiles] != offsets[(n.first_group + n.groups) * token_tiles]
                           : q.type == dtype::bytes);
    }
  if (any_thread(bad)) return status::unsupported_type;
  if (v.tokens <= 0 || v.position >= position + h.tokens || position >= v.position + v.tokens)
    return status::wrong_positions;
  // Keys that were coded as they were rotated stay where they are.
  if (head.domain != static_cast<std::int32_t>(value_domain::unrotated) && position != h.position)
    return status::wrong_positions;

  for (int l = static_cast<int>(threadIdx.x); l < head.layers; l += open_threads)
    if (l < asked.layer_begin || l >= asked.layer_end) layers[l].slot = -1;
  if (threadIdx.x == 0) {
    r.level = sluice::detail::min(asked.level, h.levels_present - 1);
    r.passes = h.passes;
    r.token_tiles = static_cast<std::int32_t>(token_tiles);
    r.position = position;
    r.came_from = h.position;
    r.sequence_end = asked.sequence_end < 0 ? v.position + v.tokens : asked.sequence_end;
    r.entries_at = sizeof h + h.shape_runs * sizeof(shape_run);
  }
  return status::ok;
}

/// A block a request: opens it, and says of every page what is known by then.
template <int = 0>
__global__ void __launch_bounds__(open_threads, 2) open_frames(const decode_state d) {
  __shared__ frame_memory m;
  open_request& r = d.requests[blockIdx.x];
  const status s = open_frame(d, r, m);
  if (threadIdx.x == 0) {
    r.state = s;
    if (r.asked.out) *r.asked.out = {status_word(s), 0, 0, 0, 0, 0, 0};
  }
  __syncthreads();
  if (!r.asked.pages) return;
  const kv_view& v = r.asked.cache;
  std::int64_t begin = 0, end = 0;  // pages that hold tokens of the frame
  if (s == status::ok) {
    const token_range seen = r.within(0, 0, static_cast<std::int32_t>(r.asked.tokens));
    const std::int64_t unit = v.mode == addressing::pages ? v.page_size : 1, origin = v.first / unit;
    begin = (v.first + seen.begin) / unit - origin;
    end = (v.first + seen.end - 1) / unit - origin + 1;
  }
  for (std::uint64_t i = threadIdx.x; i < r.asked.num_pages; i += open_threads) {
    const bool reached = static_cast<std::int64_t>(i) >= begin && static_cast<std::int64_t>(i) < end;
    r.asked.pages[i] = status_word(s != status::ok ? s : reached ? status::ok : status::absent);
  }
}

}  // namespace sluice::cuda
