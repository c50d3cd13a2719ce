// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/rans/rans.hpp>
#include <sluice/codec/row_classes.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
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
    fill(passes, passes);
  }

  // Gives one block new classes; count_blocks() must follow.
  void replace_block(std::size_t b, const std::uint8_t* new_classes, int passes) {
    detail::copy(new_classes, new_classes + 32, classes.begin() + std::ptrdiff_t(32 * b));
    build_block(b, passes);
  }

  // Those of rows that are wider by so many quarter octaves, for the first `made` of all passes.
  void build_moved(const group_tables& from, int shift, int passes, int made) {
    classes.assign(from.classes.begin(), from.classes.end());
    for (std::uint8_t& c : classes) c = shift_class(c, shift);
    fill(passes, made);
  }

  // Builds what is not there yet for the first `made` of all passes.
  void refine(int passes, int made) {
    for (int p = 1; p < made; ++p)
      if (ternary[p - 1].empty()) {
        ternary[p - 1].resize(base.size());
        for (std::size_t b = 0; b < base.size(); ++b)
          build_ternary_block(&classes[32 * b], passes - 1 - p, ternary[p - 1][b]);
      }
  }

  // Live blocks never fall from pass to pass, so that a value coded once is refined in every pass after.
  void count_blocks(int passes) {
    for (int p = 0; p < passes; ++p) {
      blocks[p] = live_blocks(classes, passes - 1 - p);
      if (p && blocks[p] < blocks[p - 1]) blocks[p] = blocks[p - 1];
    }
  }

 private:
  void fill(int passes, int made) {
    base.resize(classes.size() / 32);
    count_blocks(passes);
    for (std::size_t b = 0; b < base.size(); ++b) build_base_block(&classes[32 * b], passes - 1, base[b]);
    for (std::vector<ternary_block>& t : ternary) t.clear();
    refine(passes, made);
  }

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

inline namespace SLUICE_HOST_ABI {

// The tables of a tile's rows: one for each of their classes, which together say how many blocks a pass codes.
class row_tables {
 public:
  // Tables that were moved before, of one group of the profile.
  using cache = std::vector<std::pair<int, std::unique_ptr<group_tables>>>;

  // For rows as `t` has them, or moved by their classes, of which `made` of all passes are coded. `kept` is where moved
  // ones stay, null where t is the tile's own.
  void set(const group_tables& t, const row_classes* classes, int rows, int passes, int made, cache* kept) {
    of_.clear();
    rows_.clear();
    order_ = nullptr;
    if (!classes || classes->empty()) {
      of_.push_back(&t);
      rows_.push_back(rows);
    } else {
      order_ = classes->order();
      used_ = 0;
      // Whoever sends frames does not choose how much memory tables take.
      if (kept && kept->size() > 2 * std::size_t(max_row_classes)) kept->clear();
      for (std::size_t c = 0; c < classes->classes().size(); ++c) {
        of_.push_back(find(t, classes->classes()[c].shift(), passes, made, kept));
        rows_.push_back(classes->rows_of(int(c)));
      }
    }
    for (int p = 0; p < passes; ++p) {
      blocks_[p] = 0;
      for (const group_tables* g : of_) blocks_[p] = max(blocks_[p], g->blocks[p]);
    }
  }

  // Blocks that are coded in a pass.
  int blocks(int pass) const noexcept { return blocks_[pass]; }
  // Classes of rows, one where they have none.
  int count() const noexcept { return int(of_.size()); }
  const group_tables& of(int c) const noexcept { return *of_[std::size_t(c)]; }
  const std::uint16_t* order() const noexcept { return order_; }

  // What a job of some blocks of a pass runs through.
  void runs(int pass, std::size_t first_block, std::vector<table_run>& out) const {
    for (std::size_t c = 0; c < of_.size(); ++c) {
      const void* tables = of_[c]->base.data() + first_block;
      if (pass) tables = of_[c]->ternary[pass - 1].data() + first_block;
      out.push_back({tables, rows_[c]});
    }
  }

 private:
  const group_tables* find(const group_tables& t, int shift, int passes, int made, cache* kept) {
    if (shift == 0) return &t;
    cache& moved = kept ? *kept : own_;
    const std::size_t known = kept ? kept->size() : used_;
    for (std::size_t i = 0; i < known; ++i)
      if (moved[i].first == shift) return moved[i].second->refine(passes, made), moved[i].second.get();
    if (known == moved.size()) moved.emplace_back(shift, std::make_unique<group_tables>());
    moved[known].first = shift;
    moved[known].second->build_moved(t, shift, passes, made);
    used_ += !kept;
    return moved[known].second.get();
  }

  std::vector<const group_tables*> of_;
  std::vector<int> rows_;
  const std::uint16_t* order_ = nullptr;
  int blocks_[max_passes] = {};
  cache own_;             // of a tile's own tables; the memory serves the next tile
  std::size_t used_ = 0;  // of them
};

}  // namespace SLUICE_HOST_ABI

}  // namespace sluice::detail
