// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/rans/tables.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace sluice::detail {

// One set of coder states serves up to rans_max_blocks blocks; the code of a wider tile is cut into parts, whose sizes
// (u32 each) stand before the first.
inline constexpr int code_parts(int blocks) noexcept { return (blocks + rans_max_blocks - 1) / rans_max_blocks; }

// Coding tables of one group: a class per lane and what follows from them for every pass.
struct group_tables {
  std::vector<std::uint8_t> classes;  // padded to whole blocks with 0
  int blocks[max_passes] = {};        // up to the last live coefficient of each pass
  std::vector<base_block> base;
  std::vector<ternary_block> ternary[max_passes - 1];

  void build(std::span<const std::uint8_t> from, int passes) {
    classes.assign(std::size_t(padded(int(from.size()))), 0);
    detail::copy(from.begin(), from.end(), classes.begin());
    const std::size_t all = classes.size() / 32;
    base.resize(all);
    for (int p = 1; p < passes; ++p) ternary[p - 1].resize(all);
    count_blocks(passes);
    for (std::size_t b = 0; b < all; ++b) build_block(b, passes);
  }

  // Gives one block new classes; count_blocks() must follow.
  void replace_block(std::size_t b, const std::uint8_t* new_classes, int passes) {
    detail::copy(new_classes, new_classes + 32, classes.begin() + std::ptrdiff_t(32 * b));
    build_block(b, passes);
  }

  // Live blocks never fall from pass to pass, so that a value coded once is refined in every pass after.
  void count_blocks(int passes) {
    for (int p = 0; p < passes; ++p) {
      blocks[p] = live_blocks(classes, passes - 1 - p);
      if (p && blocks[p] < blocks[p - 1]) blocks[p] = blocks[p - 1];
    }
  }

 private:
  void build_block(std::size_t b, int passes) {
    build_base_block(&classes[32 * b], passes - 1, base[b]);
    for (int p = 1; p < passes; ++p) build_ternary_block(&classes[32 * b], passes - 1 - p, ternary[p - 1][b]);
  }
};

// A tile's class deltas applied to one block of 32 classes; `nibbles` holds a signed nibble a lane, even lanes low.
inline void apply_deltas(const std::uint8_t* classes, const std::uint8_t* nibbles, std::uint8_t* out) noexcept {
  for (int lane = 0; lane < 32; ++lane) {
    const int nibble = nibbles[lane / 2] >> (lane % 2 ? 4 : 0) & 15;
    out[lane] = shift_class(classes[lane], nibble < 8 ? nibble : nibble - 16);
  }
}

// The tables of every group of a profile; without classes where it has none.
struct profile_tables : per_group<group_tables> {
  explicit profile_tables(const profile& p)
      : per_group(p, [&p](const plane_profile& q, int g) {
          group_tables t;
          const std::size_t at = std::size_t(g) * std::size_t(q.group_width), width = std::size_t(q.width_of(g));
          if (!q.classes.empty()) t.build({q.classes.data() + at, width}, p.passes);
          return t;
        }) {}
};

}  // namespace sluice::detail
