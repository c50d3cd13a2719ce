// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/entropy/groups.cuh>
#include <sluice/cuda/store/pages.cuh>

#include <cstddef>
#include <cstdint>

// Codes of a fixed width (FORMAT.md section 6.3) where they stand in a frame, and what they stand for under the scales of
// their groups.

namespace sluice::cuda {

/// Packed codes of a tile, any of which can be had.
struct packed_codes {
  const std::uint8_t* bytes;
  const std::uint8_t* end;  ///< behind the last one
  int bits, rows, blocks;

  /// `count` codes of a row from a channel on.
  __device__ __forceinline__ void operator()(int row, int channel, int count, std::uint32_t (&code)[8]) const {
    const int in_group = row & 7, here = rows - row + in_group < 8 ? rows - row + in_group : 8;
    int planes = 0;  // of a block in this group of rows
#pragma unroll
    for (int part = 8; part > 0; part /= 2)
      if (bits & part) planes += (here * part + 7) / 8;
    const std::uint8_t* const group = bytes + 32 * (std::int64_t{row / 8} * bits * blocks);
    if (channel % 8 == 0) {  // one block has them all
      read(group + 32 * (channel / 32 * planes) + channel % 32, in_group, here, count, code);
      return;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i >= count) break;
      std::uint32_t one[8];
      read(group + 32 * ((channel + i) / 32 * planes) + (channel + i) % 32, in_group, here, 1, one);
      code[i] = one[0];
    }
  }

 private:
  __device__ __forceinline__ void read(const std::uint8_t* from, int in_group, int here, int count,
                                       std::uint32_t (&code)[8]) const {
#pragma unroll
    for (std::uint32_t& c : code) c = 0;
    int above = 0;
#pragma unroll
    for (int part = 8; part > 0; part /= 2) {
      if ((bits & part) == 0) continue;
      const std::uint8_t* const plane = from + 32 * (in_group * part / 8);
      const int shift = in_group * part % 8;
      const std::uint32_t mask = (1u << part) - 1;
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (i < count) code[i] |= (std::uint32_t{plane[i]} >> shift & mask) << above;
      above += part;
      from += 32 * ((here * part + 7) / 8);
    }
  }
};

/// Values of packed codes under the scales of a quantiser, also for store_float_rows.
template <class Codec>
class group_source {
  using rules = group_rules<typename Codec::quantizer>;
  static constexpr bool centred = Codec::domain == value_domain::unrotated;
  static constexpr std::uint32_t scale_bytes = rules::zeros ? 4 : 2;

 public:
  static constexpr int most_kept = 1024;  ///< floats that it may keep in `scratch`

  __device__ __forceinline__ group_source(const decode_state& d, const open_request& r, const strand& s,
                                          const group_model& g, float* scratch)
      : codes_{reinterpret_cast<const std::uint8_t*>(r.asked.frame + s.entropy[0].at),
               reinterpret_cast<const std::uint8_t*>(r.asked.frame + s.entropy[0].at + s.entropy[0].size), s.bits,
               s.rows(), g.ld / 32},
        groups_(rules::of(g.plane), g.heads, plane_of(d.image, g.layer, g.plane).head_dim, s.rows()),
        scales_(r.asked.frame + s.quantizer.at + 1) {
    if constexpr (centred) {
      scale_ = plane_of(d.image, g.layer, g.plane).scale;
      if (g.mean_at == 0) mean_ = r.asked.frame + s.transform.at;
    }
    if (scratch && keeps(g.width)) {
      fill(scratch, g.width);
      keep(scratch);
    }
  }

  /// Whether every row has the same scales, so that they may be had once for all of them.
  __device__ __forceinline__ bool keeps(int width) const {
    return rules::zeros && groups_.along_tokens && groups_.runs == 1 && width <= most_kept;
  }
  /// Puts these into shared memory; by all threads of a block.
  __device__ __forceinline__ void fill(float* to, int width) const {
    for (int i = static_cast<int>(threadIdx.x); i < width; i += static_cast<int>(blockDim.x))
      to[i] = __uint_as_float(load_scale(scales_ + 4 * i));
  }
  /// Takes them from there.
  __device__ __forceinline__ void keep(const float* there) { kept_ = there; }

  /// What the integers of a row's codes stand for, before a transform.
  __device__ __forceinline__ void coefficients(int row, int channel, int count, float (&v)[8]) const {
    std::uint32_t code[8];
    codes_(row, channel, count, code);
    const auto put = [&](int i, scale_pair p) { v[i] = __fmaf_rn(static_cast<float>(code[i]), p.step, p.zero); };
    if (groups_.along_tokens) {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (i < count) put(i, scale_of(row, channel + i));
      return;
    }
    const int head = static_cast<int>(__umulhi(static_cast<unsigned>(channel), groups_.per_head));
    int dim = channel - head * groups_.head_dim, of_head = dim / groups_.length;
    int left = (of_head + 1) * groups_.length - dim;  // of the group, as long as groups are
    std::uint32_t group = static_cast<std::uint32_t>(row * groups_.of_row + head * groups_.of_head + of_head);
    scale_pair p = load(group);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i >= count) break;
      if (left == 0 || dim == groups_.head_dim) {
        if (dim == groups_.head_dim) dim = 0;
        left = groups_.length;
        p = load(++group);
      }
      put(i, p);
      --left;
      ++dim;
    }
  }
  /// Values of `count` channels of a row; others are anything.
  __device__ __forceinline__ void operator()(int row, int channel, int count, float (&v)[8]) const {
    coefficients(row, channel, count, v);
    if constexpr (centred) {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (i < count)
          v[i] = __fmaf_rn(v[i], scale_, mean_ ? float_of_half(load_step(mean_ + 2 * (channel + i))) : 0.f);
    }
  }
  __device__ __forceinline__ float scale(int) const { return 1; }

  __device__ __forceinline__ const packed_codes& codes() const { return codes_; }
  __device__ __forceinline__ const tile_groups& groups() const { return groups_; }
  /// Of a channel in a row, where groups run along tokens.
  __device__ __forceinline__ scale_pair scale_of(int row, int channel) const {
    if (kept_) return pair(__float_as_uint(kept_[channel]));
    return load(static_cast<std::uint32_t>(row / groups_.length * groups_.of_row + channel));
  }
  /// Of an element of a head in a row, where they run along channels.
  __device__ __forceinline__ scale_pair scale_of(int row, int head, int dim) const {
    return load(static_cast<std::uint32_t>(row * groups_.of_row + head * groups_.of_head + dim / groups_.length));
  }

 private:
  static __device__ __forceinline__ scale_pair pair(std::uint32_t bits) { return scale_pair::of<true>(bits, 0); }
  __device__ __forceinline__ scale_pair load(std::uint32_t group) const {
    const std::byte* const at = scales_ + std::uint64_t{scale_bytes} * group;
    if constexpr (rules::zeros)
      return pair(load_scale(at));
    else
      return scale_pair::of<false>(load_step(at), codes_.bits);
  }

  packed_codes codes_;
  tile_groups groups_;
  const std::byte* scales_;
  const float* kept_ = nullptr;      // bits of the scales of all channels
  const std::byte* mean_ = nullptr;  // f16[width] of the tile, where the profile has none
  float scale_ = 1;
};

}  // namespace sluice::cuda
