// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/section.hpp>
#include <sluice/cuda/encode/encode_classes.cuh>
#include <sluice/cuda/encode/encode_work.hpp>
#include <sluice/format/checksum.hpp>
#include <sluice/format/tile.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

// Tiles of an encode: how large they are, and their bytes in the frame, with checksums. A warp writes a pass of a strand.

namespace sluice::cuda {

namespace detail::encoding {

/// Bytes of the sections of a pass.
struct pass_sections {
  std::uint32_t transform, quantizer, entropy;
  __device__ __forceinline__ int listed() const { return (transform > 0) + (quantizer > 0) + (entropy > 0); }
  __device__ __forceinline__ std::uint32_t bytes() const { return transform + quantizer + entropy; }
};

/// Whether the code of a pass goes on in the next one.
__device__ __forceinline__ bool goes_on(const encode_tile& t, int pass, int made) {
  return pass % 2 == 0 && pass + 1 < made && t.blocks[pass] > 0;
}
__device__ __forceinline__ int parts_of(const encode_tile& t, int pass) {
  return (t.blocks[pass] + sluice::detail::rans_max_blocks - 1) / sluice::detail::rans_max_blocks;
}
__device__ __forceinline__ std::uint8_t section_parts(const encode_tile& t, int pass, int made) {
  return static_cast<std::uint8_t>((pass == 0 && t.delta_blocks ? class_section::with_deltas : 0) |
                                   (pass == 0 && t.explicit_classes ? class_section::with_classes : 0) |
                                   (t.exceptions[pass] ? class_section::with_exceptions : 0) |
                                   (goes_on(t, pass, made) ? class_section::with_next : 0));
}

__device__ __forceinline__ pass_sections sections_of(const code_job& j, const encode_strand& s, const group_model& g,
                                                     const encode_tile& t, int pass, int made) {
  pass_sections n{};
  const auto width = static_cast<std::uint32_t>(g.width);
  if (pass == 0 && j.codec.transform.id == 1 && g.mean_at == 0) n.transform = 2 * width;
  if (pass == 0 && s.step != 1.f) n.quantizer = 4;
  const int parts = parts_of(t, pass);
  for (int i = 0; i < parts; ++i) n.entropy += t.code_size[pass][i];
  if (parts > 1) n.entropy += 4u * static_cast<std::uint32_t>(parts);
  const std::uint8_t with = section_parts(t, pass, made);
  if (with || n.entropy) n.entropy += 1;
  if (with & class_section::with_deltas) n.entropy += 4 + 16 * static_cast<std::uint32_t>(__popc(t.delta_blocks));
  if (with & class_section::with_classes) n.entropy += width;
  if (t.exceptions[pass]) n.entropy += 2 + 8 * t.exceptions[pass];
  return n;
}

/// sluice::detail::tile_head_size.
__device__ __forceinline__ std::uint32_t head_size(bool base, bool first, bool exact, int sections) {
  return (base ? 2u : 0u) + (first ? 2u : 0u) + (exact ? 2u : 0u) + 1u + (sections ? 4u * unsigned(sections - 1) : 0u);
}

__device__ __forceinline__ std::uint32_t row_bytes_of(const encode_strand& s, const group_model& g) {
  return static_cast<std::uint32_t>(g.width * size_of(s.type));
}

/// Bytes of a pass of a tile.
__device__ __forceinline__ std::uint32_t tile_size(const code_job& j, const encode_strand& s, const group_model& g,
                                                   const encode_tile& t, int pass, int made) {
  const std::uint32_t row = 2 + row_bytes_of(s, g);
  if (t.kept) return pass ? 0 : head_size(true, s.first > 0, true, 0) + s.count * row;
  const pass_sections n = sections_of(j, s, g, t, pass, made);
  if (pass) return n.listed() ? head_size(false, false, false, n.listed()) + n.bytes() : 0;
  return head_size(true, s.first > 0, s.exact > 0, n.listed()) + s.exact * row + n.bytes();
}

/// Bytes to any address from any other; both lie in memory of whole words.
__device__ __forceinline__ void copy_bytes(unsigned char* to, const unsigned char* from, std::uint32_t n) {
  const auto i = static_cast<std::uint32_t>(lane());
  const auto before = static_cast<std::uint32_t>(0 - reinterpret_cast<std::uintptr_t>(to)) & 3;
  const std::uint32_t head = before < n ? before : n;
  if (i < head) to[i] = from[i];
  to += head, from += head, n -= head;
  const auto shift = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(from)) & 3;
  const auto* const words = reinterpret_cast<const std::uint32_t*>(from - shift);
  auto* const out = reinterpret_cast<std::uint32_t*>(to);
  for (std::uint32_t k = i; k < n / 4; k += 32)
    out[k] = shift == 0 ? words[k] : __funnelshift_r(words[k], words[k + 1], 8 * shift);
  const std::uint32_t done = n & ~3u;
  if (i < n - done) to[done + i] = from[done + i];
}

/// The front of a tile is written byte by byte.
struct tile_cursor {
  unsigned char* to;
  __device__ __forceinline__ void put(std::uint32_t value, int bytes) {
    if (lane() < bytes) to[lane()] = static_cast<unsigned char>(value >> 8 * (lane() & 3));
    to += bytes;
  }
  __device__ __forceinline__ void put_bytes(const void* from, std::uint32_t n) {
    copy_bytes(to, static_cast<const unsigned char*>(from), n);
    to += n;
  }
};

/// Exact tokens: their numbers, then their elements as they stand in the cache.
__device__ __forceinline__ void put_exact(tile_cursor& c, const code_job& j, const encode_strand& s,
                                          const group_model& g, bool all) {
  const auto* const list = all ? nullptr : reinterpret_cast<const std::uint16_t*>(j.in.workspace + s.exact_at);
  const int n = all ? s.count : s.exact;
  for (int i = lane(); i < n; i += 32) {
    const unsigned token = list ? list[i] : static_cast<unsigned>(i);
    c.to[2 * i] = static_cast<unsigned char>(token);
    c.to[2 * i + 1] = static_cast<unsigned char>(token >> 8);
  }
  c.to += 2 * n;
  const encode_request& asked = j.in.requests[s.request].asked;
  const kv_view& v = asked.cache;
  const plane which = g.plane ? plane::value : plane::key;
  const plane_view& p = v[which];
  const std::int64_t first = asked.begin() + std::int64_t{s.tile} * j.in.tile_tokens + s.first - v.position;
  const std::byte* const base = v.layer_base(p, s.slot);
  const int bytes = size_of(s.type), dim = p.head_dim;
  for (int i = 0; i < n; ++i) {
    const std::byte* const row = base + v.token_offset(p, first + (list ? list[i] : i)) + g.first_head * p.head_stride;
    for (int k = lane(); k < g.width; k += 32) {
      const std::byte* const from = row + k / dim * p.head_stride + k % dim * p.element_stride;
      const std::uint32_t e = bytes == 4   ? *reinterpret_cast<const std::uint32_t*>(from)
                              : bytes == 2 ? *reinterpret_cast<const std::uint16_t*>(from)
                                           : static_cast<std::uint32_t>(*from);
      for (int at = 0; at < bytes; ++at) c.to[k * bytes + at] = static_cast<unsigned char>(e >> 8 * at);
    }
    c.to += g.width * bytes;
  }
}

/// What the codes of a pass cannot say, in the order of a host's encoder: of the base row by row, of a refinement block by
/// block.
__device__ __forceinline__ void put_exceptions(tile_cursor& c, const code_job& j, int strand, const encode_strand& s,
                                               const group_model& g, const encode_tile& t, int pass, int made) {
  if (t.exceptions[pass] == 0) return;
  c.put(t.exceptions[pass], 2);
  const encode_tables& tables = tables_of(j);
  const encode_block* const blocks = j.blocks_of(strand);
  const int passes = head_of(j.in.image).depth, n = g.ld / 32, outer = pass ? n : s.rows, inner = pass ? s.rows : n;
  for (int o = 0; o < outer; ++o) {
    if (pass && blocks[o].exceptions[pass] == 0) continue;
    for (int i = 0; i < inner; ++i) {
      const int b = pass ? o : i, row = pass ? i : o;
      if (blocks[b].exceptions[pass] == 0) continue;
      const std::uint8_t cls = blocks[b].classes[lane()];
      const int v = values_of(j, s)[row * std::ptrdiff_t{g.ld} + 32 * b + lane()];
      const int of = correction(v, pass, passes, dead_passes(tables, cls, passes, made),
                                tables.limit[class_in_pass(cls, passes - 1)]);
      const unsigned found = __ballot_sync(everyone, of != 0);
      if (of != 0) {
        unsigned char* const to = c.to + 8 * __popc(found & ((1u << lane()) - 1));
        const std::uint32_t words[2] = {static_cast<std::uint32_t>(row) | static_cast<std::uint32_t>(32 * b + lane())
                                                                              << 16,
                                        static_cast<std::uint32_t>(of)};
        for (int at = 0; at < 8; ++at) to[at] = static_cast<unsigned char>(words[at / 4] >> 8 * (at % 4));
      }
      c.to += 8 * __popc(found);
    }
  }
}

/// The section of class_rans.
__device__ __forceinline__ void put_entropy(tile_cursor& c, const code_job& j, int strand, const encode_strand& s,
                                            const group_model& g, const encode_tile& t, int pass, int made) {
  const std::uint8_t with = section_parts(t, pass, made);
  const encode_block* const blocks = j.blocks_of(strand);
  c.put(with, 1);
  if (with & class_section::with_deltas) {
    c.put(t.delta_blocks, 4);
    for (unsigned left = t.delta_blocks; left; left &= left - 1) {
      if (lane() < 16) c.to[lane()] = blocks[__ffs(static_cast<int>(left)) - 1].nibbles[lane()];
      c.to += 16;
    }
  }
  if (with & class_section::with_classes) {
    for (int i = lane(); i < g.width; i += 32) c.to[i] = blocks[i / 32].classes[i % 32];
    c.to += g.width;
  }
  put_exceptions(c, j, strand, s, g, t, pass, made);
  const int parts = parts_of(t, pass);
  if (parts > 1)
    for (int i = 0; i < parts; ++i) c.put(t.code_size[pass][i], 4);
  for (int i = 0; i < parts; ++i) c.put_bytes(j.scratch_of(strand) + t.code_at[pass][i], t.code_size[pass][i]);
}

/// checksum() of bytes at any address, for all lanes.
__device__ __forceinline__ std::uint32_t checksum_of(const unsigned char* bytes, std::uint64_t size,
                                                     std::uint32_t seed) {
  std::uint32_t mine = sluice::detail::checksum_start(seed, lane());
  const auto shift = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(bytes)) & 3;
  const auto* const words = reinterpret_cast<const std::uint32_t*>(bytes - shift);
  const std::uint64_t count = (size + 127) / 128 * 32;
  for (std::uint64_t k = static_cast<std::uint64_t>(lane()); k < count; k += 32) {
    std::uint32_t word = 0;
    if (k > 0 && 4 * k + 8 <= size) {
      word = shift == 0 ? words[k] : __funnelshift_r(words[k], words[k + 1], 8 * shift);
    } else {  // words that other tiles have bytes of
      for (std::uint32_t i = 0; i < 4; ++i)
        if (4 * k + i < size) word |= static_cast<std::uint32_t>(bytes[4 * k + i]) << 8 * i;
    }
    mine = sluice::detail::checksum_round(mine, word);
  }
  std::uint32_t hash = sluice::detail::checksum_begin(seed, size);
  for (int i = 0; i < 32; ++i) hash = sluice::detail::checksum_merge(hash, __shfl_sync(everyone, mine, i));
  return sluice::detail::checksum_end(hash);
}

}  // namespace detail::encoding

/// Threads of a block of tile_sizes_kernel.
inline constexpr int encode_sizes_threads = 128;

/// Sizes of all passes of a strand, a thread each; keeps tiles as they were stored that would take more than that.
template <class = void>
__global__ void __launch_bounds__(encode_sizes_threads) tile_sizes_kernel(code_job j) {
  using namespace detail::encoding;
  const std::int64_t strand = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (strand >= j.in.num_strands) return;
  const encode_strand& s = j.in.strands[strand];
  const open_encode& r = j.in.requests[s.request];
  if (r.state != status::ok) return;
  const group_model& g = group_of(j.in.image, s.group);
  encode_tile& t = j.tiles[strand];
  const bool there = s.state == status::ok;
  if (there && !t.kept) {
    // What the host counts: `first` is taken as there, wherever the tile begins.
    std::uint64_t size = s.first > 0 ? 0 : 2;
    for (int p = 0; p < r.passes; ++p) size += tile_size(j, s, g, t, p, r.passes);
    const std::uint64_t stored = head_size(true, true, true, 0) + std::uint64_t{s.count} * (2 + row_bytes_of(s, g));
    if (size > stored) t.kept = true;
  }
  const std::int64_t place = place_in_pass(j.in.image, s.group, s.tile, r.token_tiles);
  for (int p = 0; p < j.passes; ++p)
    j.sizes[j.entry(r, p, place)] = there && p < r.passes ? tile_size(j, s, g, t, p, r.passes) : 0;
}

/// Writes tiles and the checksums in the index; a warp, which is a block of threads, for every pass of every strand.
template <class = void>
__global__ void __launch_bounds__(32) write_tiles_kernel(code_job j) {
  using namespace detail::encoding;
  const int strand = static_cast<int>(blockIdx.x) / j.passes, pass = static_cast<int>(blockIdx.x) % j.passes;
  const encode_strand& s = j.in.strands[strand];
  const open_encode& r = j.in.requests[s.request];
  const encode_frame& f = j.frames[s.request];
  if (f.state != status::ok || pass >= f.passes) return;
  const group_model& g = group_of(j.in.image, s.group);
  const std::int64_t place = place_in_pass(j.in.image, s.group, s.tile, r.token_tiles);
  const std::int64_t entry = j.entry(r, pass, place);
  const std::uint32_t size = j.sizes[entry];
  auto* const tile = reinterpret_cast<unsigned char*>(r.asked.frame) + j.offsets[entry];
  if (size > 0) {
    const encode_tile& t = j.tiles[strand];
    tile_cursor c{tile};
    const bool exact = t.kept || s.exact > 0;
    pass_sections n{};
    if (!t.kept) n = sections_of(j, s, g, t, pass, r.passes);
    if (pass == 0) {
      c.put(s.count | (s.first ? sluice::detail::tile_has_first : 0) | (exact ? sluice::detail::tile_has_exact : 0), 2);
      if (s.first) c.put(s.first, 2);
      if (exact) c.put(t.kept ? s.count : s.exact, 2);
    }
    c.put((n.transform ? 1u << int(section::transform) : 0) | (n.quantizer ? 1u << int(section::quantizer) : 0) |
              (n.entropy ? 1u << int(section::entropy) : 0),
          1);
    int listed = n.listed();
    if (n.transform && --listed > 0) c.put(n.transform, 4);
    if (n.quantizer && --listed > 0) c.put(n.quantizer, 4);
    if (pass == 0 && exact) put_exact(c, j, s, g, t.kept);
    if (n.transform) c.put_bytes(j.in.workspace + s.mean_at, n.transform);
    if (n.quantizer) c.put(static_cast<std::uint32_t>(__float_as_int(s.step)), 4);
    if (n.entropy) put_entropy(c, j, strand, s, g, t, pass, r.passes);
    __syncwarp();
  }
  const std::uint64_t ordinal = std::uint64_t(pass) * std::uint64_t(r.strands) + std::uint64_t(place);
  const std::uint32_t sum = checksum_of(tile, size, static_cast<std::uint32_t>(ordinal));
  auto* const entries = reinterpret_cast<tile_entry*>(r.asked.frame + f.entries_at());
  if (lane() == 0) entries[ordinal] = {size, sum};
}

}  // namespace sluice::cuda
