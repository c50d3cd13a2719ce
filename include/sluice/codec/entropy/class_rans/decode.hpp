// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/group_tables.hpp>
#include <sluice/codec/entropy/class_rans/section.hpp>
#include <sluice/codec/entropy/class_rans/states.hpp>
#include <sluice/codec/rans/rans.hpp>
#include <sluice/codec/stages.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice::detail::inline SLUICE_HOST_ABI {

// class_rans: values under static class tables, base and refinements.
class class_rans_decoder {
 public:
  class_rans_decoder(const profile& p, isa i) : isa_(i), tables_(p), moved_(tables_.size()) {}

  void decode(std::span<decoded_symbols> batch) {
    for (std::size_t i = 0; i < batch.size(); ++i) prepare(batch[i], scratch_[i]);
    int finest = 0;
    for (const decoded_symbols& s : batch) finest = max(finest, s.tile->level);
    for (int pass = 0; pass <= finest; ++pass) run(batch, pass);
    for (std::size_t i = 0; i < batch.size(); ++i) finish(batch[i], scratch_[i]);
  }

 private:
  struct tile_scratch {
    class_section section[max_passes];
    group_tables own;
    row_tables tables;
    std::vector<std::uint8_t> states;  // of every part, from pass to pass
  };

  void prepare(decoded_symbols& s, tile_scratch& t) {
    const int width = s.tile->place.width();
    for (int p = 0; p <= s.tile->level; ++p)
      if (!t.section[p].parse(s.tile->section(p, section::entropy), p, s.tile->rows(), width))
        s.state = status::corrupt_tile;
    if (s.state != status::ok) return;
    const class_section& b = t.section[0];
    const group_tables& known = tables_.of(s.tile->place);
    const bool described = s.calibrated && !known.classes.empty();
    // What the profile does not say, the tile must.
    if ((!described && b.classes.empty()) || (b.delta_blocks && (!described || !b.classes.empty()))) {
      s.state = status::corrupt_tile;
      return;
    }
    const group_tables* tables = &known;
    if (!b.classes.empty()) {
      t.own.build(b.classes, s.passes);
      tables = &t.own;
    } else if (b.delta_blocks) {
      t.own = known;
      const std::uint8_t* nibbles = b.deltas.data();
      for (std::size_t block = 0; block < t.own.base.size(); ++block)
        if (b.delta_blocks >> block & 1) {
          std::uint8_t shifted[32];
          apply_deltas(&known.classes[32 * block], nibbles, shifted);
          t.own.replace_block(block, shifted, s.passes);
          nibbles += 16;
        }
      t.own.count_blocks(s.passes);
      tables = &t.own;
    }
    t.tables.set(*tables, s.classes, s.tile->rows(), s.passes, s.tile->level + 1,
                 tables == &known ? &moved_[tables_.index(s.tile->place)] : nullptr);
  }

  // Parts of the code before this pass that leave it their states.
  static std::size_t parts_going_on(const tile_scratch& t, int pass) noexcept {
    return pass && t.section[pass - 1].goes_on ? std::size_t(code_parts(t.tables.blocks(pass - 1))) : 0;
  }

  void run(std::span<decoded_symbols> batch, int pass) {
    jobs_.clear();
    owner_.clear();
    runs_.clear();
    for (std::size_t i = 0; i < batch.size(); ++i) {
      decoded_symbols& s = batch[i];
      if (s.state == status::ok && s.tile->level >= pass && !add_jobs(s, scratch_[i], pass))
        s.state = status::corrupt_tile;
    }
    std::size_t run = 0;  // they have come to rest
    for (decode_job& j : jobs_) {
      j.runs = runs_.data() + run;
      run += std::size_t(j.num_runs);
    }
    if (pass)
      decode_ternary(jobs_, isa_);
    else
      decode_base(jobs_, isa_);
    for (std::size_t i = 0; i < jobs_.size(); ++i)
      if (!jobs_[i].ok) owner_[i]->state = status::corrupt_tile;
  }

  // One job for each part of a tile's code; false where the sizes of the parts do not fill it.
  bool add_jobs(decoded_symbols& s, tile_scratch& t, int pass) {
    std::span<const std::uint8_t> code = t.section[pass].code;
    const int blocks = t.tables.blocks(pass);
    const std::size_t parts = std::size_t(code_parts(blocks));
    const std::size_t before = parts_going_on(t, pass);
    const std::uint8_t* sizes = code.data();
    t.states.resize(max(t.states.size(), parts * rans_state_bytes));
    if (parts > 1) {
      if (code.size() < 4 * parts) return false;
      code = code.subspan(4 * parts);
    }
    for (std::size_t i = 0; i < parts; ++i) {
      std::uint32_t size = std::uint32_t(code.size());
      if (parts > 1) std::memcpy(&size, sizes + 4 * i, 4);
      if (size > code.size()) return false;
      decode_job j;
      j.states = t.states.data() + i * rans_state_bytes;
      const std::size_t packed = i < before ? 0 : unpack_states(code.first(size), j.states);
      if (i >= before && packed == 0) return false;
      const std::size_t first = i * rans_max_blocks;
      t.tables.runs(pass, first, runs_);
      j.num_runs = t.tables.count();
      j.order = t.tables.order();
      j.bytes = code.data() + packed;
      j.size = std::uint32_t(size - packed);
      j.blocks = min(blocks - int(first), rans_max_blocks);
      j.rows = s.tile->rows();
      j.values = s.values + 32 * first;
      j.stride = s.ld;
      j.continues = true;
      j.goes_on = t.section[pass].goes_on;
      jobs_.push_back(j);
      owner_.push_back(&s);
      code = code.subspan(size);
    }
    return code.empty();
  }

  // Corrections of every pass, in units of the level that is decoded.
  void finish(decoded_symbols& s, const tile_scratch& t) {
    if (s.state != status::ok) return;
    const int level = s.tile->level;
    s.live = min(s.live, 32 * t.tables.blocks(level));
    for (int c = 0; s.classes && c < t.tables.count(); ++c)
      s.live_of[c] = std::uint16_t(min(s.live, 32 * t.tables.of(c).blocks[level]));
    for (int pass = 0; pass <= level; ++pass)
      for (int i = 0; i < t.section[pass].num_exceptions(); ++i) {
        const exception e = t.section[pass].exception_at(i);
        s.corrections.push_back({e.row, e.coefficient, float(e.correction) * float(power_of_3(level - pass))});
      }
  }

  isa isa_;
  profile_tables tables_;
  std::vector<row_tables::cache> moved_;  // of every group
  tile_scratch scratch_[tiles_at_once];
  std::vector<decode_job> jobs_;
  std::vector<table_run> runs_;
  std::vector<decoded_symbols*> owner_;
};

}  // namespace sluice::detail::inline SLUICE_HOST_ABI
