// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/quantize/absmax.hpp>
#include <sluice/codec/quantize/ranged.hpp>
#include <sluice/cuda/convert.cuh>
#include <sluice/cuda/stages.cuh>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>

// Quantisers with a scale for a group of values, on a device: which values are a group, whether a section is sound, and the
// scales of neighbouring values (codec/quantize/scale_groups.hpp is the host's side of it).

namespace sluice::cuda {

/// What a group of a plane is a run of, and how long; 0 = all tokens of the tile, or all channels of a head.
struct group_rule {
  range_along along;
  int length;
};

/// The rules of a quantiser that has scales for groups: `of(plane)`, and whether a scale has a zero beside its step; else
/// code 2^(bits - 1) stands for 0.
template <class Quantizer>
struct group_rules;
template <range_along KeysAlong, int Keys, range_along ValuesAlong, int Values>
struct group_rules<ranged<KeysAlong, Keys, ValuesAlong, Values>> {
  static constexpr bool zeros = true;
  static SLUICE_HD constexpr group_rule of(int plane) noexcept {
    return plane == 0 ? group_rule{KeysAlong, Keys} : group_rule{ValuesAlong, Values};
  }
};
template <int Channels>
struct group_rules<absmax<Channels>> {
  static constexpr bool zeros = false;
  static SLUICE_HD constexpr group_rule of(int) noexcept { return {range_along::channels, Channels}; }
};

/// A quantiser with scales for groups.
template <class Quantizer>
concept group_quantizer = requires {
  group_rules<Quantizer>::zeros;
};

/// The groups of one tile, numbered as scale_groups numbers them.
struct tile_groups {
  bool along_tokens;
  int length, head_dim, of_head, of_row;
  std::uint32_t runs;      ///< of tokens
  std::uint32_t per_head;  ///< 2^32 / head_dim, rounded up: a division of what is below 2^16

  SLUICE_HD constexpr tile_groups(group_rule rule, int heads, int dim, int rows) noexcept
      : along_tokens(rule.along == range_along::tokens), head_dim(dim) {
    const int all = along_tokens ? rows : dim;
    length = rule.length != 0 && rule.length < all ? rule.length : all;
    of_head = along_tokens ? dim : (dim + length - 1) / length;
    of_row = heads * of_head;
    runs = static_cast<std::uint32_t>(along_tokens ? (rows + length - 1) / length : rows);
    per_head = static_cast<std::uint32_t>(((std::uint64_t{1} << 32) + static_cast<unsigned>(dim) - 1) /
                                          static_cast<unsigned>(dim));
  }
  SLUICE_HD constexpr std::uint64_t count() const noexcept {
    return std::uint64_t{runs} * static_cast<unsigned>(of_row);
  }
};

/// Bits of a step (the low half) and a zero that lie anywhere in a frame; the bytes around them, to whole words, must be
/// the frame's too.
__device__ __forceinline__ std::uint32_t load_scale(const std::byte* at) {
  const auto address = reinterpret_cast<std::uintptr_t>(at);
  const auto* const first = reinterpret_cast<const std::uint32_t*>(address & ~std::uintptr_t{3});
  const auto* const last = reinterpret_cast<const std::uint32_t*>((address + 3) & ~std::uintptr_t{3});
  return __funnelshift_r(*first, *last, 8 * static_cast<std::uint32_t>(address & 3));
}
/// The same of a step alone.
__device__ __forceinline__ std::uint32_t load_step(const std::byte* at) {
  return static_cast<std::uint32_t>(at[0]) | static_cast<std::uint32_t>(at[1]) << 8;
}

/// A step and a zero. `bits` are those of the codes, where the zero is not in the frame.
struct scale_pair {
  float step, zero;

  template <bool Zeros>
  static __device__ __forceinline__ scale_pair of(std::uint32_t halves, int bits) {
    const float step = float_of_half(halves & 0xffff);
    return {step, Zeros ? float_of_half(halves >> 16) : __fmul_rn(static_cast<float>(-(1 << (bits - 1))), step)};
  }
};

/// Section of ranged and absmax: u8 bits, then for every group f16 step and, with zeros, f16 zero.
template <group_quantizer Quantizer>
struct quantizer_stage<Quantizer> {
  static __device__ bool open(const opened_tile& t, opened_quantizer& out) {
    using rules = group_rules<Quantizer>;
    const piece section = t.s->quantizer;
    if (t.s->rows() == 0) return section.size == 0;
    const tile_groups groups(rules::of(t.group->plane), t.group->heads, t.plane->head_dim, t.s->rows());
    const std::uint64_t halves = groups.count() * (rules::zeros ? 2 : 1);
    if (section.size != 1 + 2 * halves) return false;
    const std::uint8_t* const at = t.frame + section.at;
    out.bits = at[0];
    if (out.bits < 1 || out.bits > 8) return false;
    bool finite = true;
    for (std::uint64_t i = t.lane; i < halves; i += 32)  // of a half, the byte with the exponent
      finite = finite && (at[2 + 2 * i] & 0x7c) != 0x7c;
    return __all_sync(0xffffffffu, finite) != 0;
  }
};

}  // namespace sluice::cuda
