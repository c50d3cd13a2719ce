// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/bitpack.hpp>
#include <sluice/cuda/groups.cuh>
#include <sluice/cuda/store.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

// Codes of a fixed width (FORMAT.md section 6.3) from the frame to what they stand for. Where nothing is done to values but
// scaling they go from the frame to the pages; behind a basis they become its integers first.

namespace sluice::cuda {

/// Packed codes of a tile, any of which can be had.
struct packed_codes {
  const std::uint8_t* bytes;
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

/// Values of packed codes under the scales of a quantiser, for store_float_rows.
template <class Codec>
class group_source {
  using rules = group_rules<typename Codec::quantizer>;
  static constexpr bool centred = Codec::domain == value_domain::unrotated;
  static constexpr std::uint32_t scale_bytes = rules::zeros ? 4 : 2;

 public:
  __device__ __forceinline__ group_source(const decode_state& d, const open_request& r, const strand& s,
                                          const group_model& g, float* scratch)
      : codes_{reinterpret_cast<const std::uint8_t*>(r.asked.frame + s.entropy[0].at), s.bits, s.rows(), g.ld / 32},
        groups_(rules::of(g.plane), g.heads, plane_of(d.image, g.layer, g.plane).head_dim, s.rows()),
        scales_(r.asked.frame + s.quantizer.at + 1) {
    if constexpr (centred) {
      scale_ = plane_of(d.image, g.layer, g.plane).scale;
      if (g.mean_at == 0) mean_ = r.asked.frame + s.transform.at;
    }
    // Where every row has the same scales, once for all of them.
    if (!rules::zeros || !groups_.along_tokens || groups_.runs != 1 || g.width > scratch_floats) return;
    kept_ = scratch;
    for (int i = static_cast<int>(threadIdx.x); i < g.width; i += static_cast<int>(blockDim.x))
      scratch[i] = __uint_as_float(load_scale(scales_ + 4 * i));
  }

  /// What the integers of a row's codes stand for, before a transform.
  __device__ __forceinline__ void coefficients(int row, int channel, int count, float (&v)[8]) const {
    std::uint32_t code[8];
    codes_(row, channel, count, code);
    const auto put = [&](int i, scale_pair p) { v[i] = __fmaf_rn(static_cast<float>(code[i]), p.step, p.zero); };
    if (groups_.along_tokens) {
      const std::uint32_t first = static_cast<std::uint32_t>(row / groups_.length * groups_.of_row + channel);
#pragma unroll
      for (int i = 0; i < 8; ++i)
        if (i < count)
          put(i, kept_ ? pair(__float_as_uint(kept_[channel + i])) : load(first + static_cast<unsigned>(i)));
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
  __device__ __forceinline__ float scale() const { return 1; }

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

/// Integers of strands whose group has a basis, rounded to whole units (ties to even), into the workspace; a block a
/// strand.
template <class Codec>
__global__ void __launch_bounds__(float_threads) round_groups_kernel(const decode_state d) {
  __shared__ float scratch[scratch_floats];
  const strand& s = d.strands[blockIdx.x];
  if (!is_shown(s)) return;
  const group_model& g = group_of(d.image, s.group);
  const int rows = s.rows(), pieces = g.ld / 8;
  if (g.basis_at == 0 || rows == 0) return;
  const group_source<Codec> source(d, d.requests[s.request], s, g, scratch);
  __syncthreads();
  auto* const to = reinterpret_cast<std::int16_t*>(d.workspace + s.values_at);
  for (int i = static_cast<int>(threadIdx.x); i < rows * pieces; i += float_threads) {
    const int row = i / pieces, channel = 8 * (i - row * pieces);
    float v[8];
    source.coefficients(row, channel, g.width - channel < 8 ? g.width - channel : 8, v);
    four_words out{};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float most = 32767;
      const int q = channel + k < g.width ? __float2int_rn(fminf(fmaxf(v[k], -most), most)) : 0;
      out.w[k / 2] |= (static_cast<std::uint32_t>(q) & 0xffff) << 16 * (k % 2);
    }
    *reinterpret_cast<four_words*>(to + std::ptrdiff_t{row} * g.ld + channel) = out;
  }
}

/// Codecs whose codes of a fixed width are scaled by groups.
template <class Codec>
concept packs_groups = group_quantizer<typename Codec::quantizer> && std::is_same_v<typename Codec::entropy, bitpack>;

/// Nothing of a tile depends on another part of it, so all checks are made when it is opened.
template <packs_groups Codec>
struct codec_stages<Codec> {
  static constexpr bool has_basis = Codec::domain == value_domain::unrotated;

  static status init(const model_sizes& m, const device_limits& limits) {
    if constexpr (has_basis) return allow_store(plan_store(m.max_width, limits.block_shared));
    return status::ok;
  }
  static constexpr std::uint64_t bytes(const model_sizes&, std::int32_t) noexcept { return 0; }

  static status decode(const decode_state& d, const model_sizes& m, const device_limits& limits, cudaStream_t stream) {
    if constexpr (has_basis) {
      const store_plan plan = plan_store(m.max_width, limits.block_shared);
      if (const status s = launch(&round_groups_kernel<Codec>, d.num_strands, float_threads, 0, stream, d);
          s != status::ok)
        return s;
      if (const status s =
              launch(&store_products<>, d.num_strands, 32 * store_warps, plan.shared, stream, d, plan.columns);
          s != status::ok)
        return s;
    }
    if (const status s = store_floats<group_source<Codec>>(d, stream); s != status::ok) return s;
    return store_exact(d, stream);
  }

  static __device__ bool open(const opened_tile& t, opened_quantizer& out) {
    if (!transform_stage<typename Codec::transform>::open(t)) return false;
    if (!quantizer_stage<typename Codec::quantizer>::open(t, out)) return false;
    const std::uint32_t size = t.s->entropy[0].size;
    return t.s->rows() == 0 ? size == 0 : size == packed_size(out.bits, t.s->rows(), t.group->ld / 32);
  }
};

}  // namespace sluice::cuda
