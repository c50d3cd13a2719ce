// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/transform/dense.hpp>
#include <sluice/codec/rans/rans.hpp>
#include <sluice/codec/entropy/class_rans/group_tables.hpp>
#include <sluice/codec/stream.hpp>
#include <sluice/format/tile.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice::detail::inline SLUICE_HOST_ABI {

// One tile on its way from the frame to the pages.
struct tile_task {
  stream_place place;
  const plane_profile* source = nullptr;
  dtype type = dtype::f16;  // of the elements when encoded
  base_tile base;
  refinement_tile refinement[max_passes - 1];
  int level = 0;               // finest pass to decode
  status opened = status::ok;  // ok, or degraded where a refinement is missing
  status state = status::ok;
  const stream_tables* tables = nullptr;
  const float* mean = nullptr;
  std::int16_t* values = nullptr;          // [rows][stride] coefficients
  const float* floats = nullptr;           // [rows][stride] where the codec has no coefficients
  const std::uint8_t* elements = nullptr;  // [rows][width] as stored, from an exact codec
  std::int64_t stride = 0;
};

// Tiles that a decoder hands over at once: enough independent rANS chains to fill a core.
inline constexpr int tiles_at_once = 4;

template <class Codec>
class tile_decoder;

// class_rans: coefficients under static class tables, base and refinements.
template <class Codec>
requires(Codec::entropy::id == class_rans::id) class tile_decoder<Codec> {
 public:
  tile_decoder(const profile& p, isa i) : isa_(i), tables_(p) {}

  void decode(std::span<tile_task> tasks) {
    for (std::size_t i = 0; i < tasks.size(); ++i) prepare(tasks[i], scratch_[i]);
    int finest = 0;
    for (const tile_task& t : tasks) finest = std::max(finest, t.level);
    for (int pass = 0; pass <= finest; ++pass) run(tasks, pass);
  }

  // Decoded rows [first, first + n) as floats, before rotation.
  void rows(const tile_task& t, int first, int n, float* out, std::ptrdiff_t ld) {
    const int width = t.place.width();
    collect_corrections(t, first, n);
    const int back = tables_.passes() - 1 - t.level;
    const float scale = t.source->scale * t.base.step * float(power_of_3(back));
    const int live = std::min(width, 32 * t.tables->blocks[t.level]);
    const std::int16_t* c = t.values + first * t.stride;
    const std::uint16_t* matrix = t.source->matrix_of(t.place.group);
    if (!matrix) {
      dequantize_rows(isa_, c, t.stride, n, live, scale, t.mean, width, out, ld);
      for (const coefficient_correction& e : corrections_) out[e.row * ld + e.coefficient] += scale * e.value;
      return;
    }
    workspace_.resize(dense_workspace(n, width, width));
    inverse_transform(isa_,
                      {.c = c,
                       .ldc = t.stride,
                       .matrix = matrix,
                       .mean = t.mean,
                       .scale = scale,
                       .x = out,
                       .ldx = ld,
                       .rows = n,
                       .k = live,
                       .n = width,
                       .matrix_rows = width,
                       .corrections = corrections_.data(),
                       .num_corrections = corrections_.size()},
                      workspace_.data());
  }

 private:
  struct tile_scratch {
    std::vector<std::int16_t> values;
    stream_tables tables;
    std::vector<float> mean;
  };

  void prepare(tile_task& t, tile_scratch& s) {
    const profile_tables::stream& known = tables_.of(t.place.layer, t.place.plane, t.place.group);
    const int width = t.place.width();
    const base_tile& b = t.base;
    const bool calibrated = !known.mean.empty();
    // What the profile does not say, the tile must.
    const bool incomplete = !calibrated && b.rows() > 0 && (b.classes.empty() || b.mean.empty());
    if (b.head.bits || incomplete || (b.delta_blocks && (!calibrated || !b.classes.empty()))) {
      t.state = status::corrupt_tile;
      return;
    }
    t.tables = &known.tables;
    t.mean = known.mean.data();
    if (!b.classes.empty()) {
      s.tables.build(b.classes, tables_.passes());
      t.tables = &s.tables;
    } else if (b.delta_blocks) {
      s.tables = known.tables;
      const std::uint8_t* nibbles = b.deltas.data();
      for (std::size_t block = 0; block < s.tables.base.size(); ++block)
        if (b.delta_blocks >> block & 1) {
          std::uint8_t shifted[32];
          apply_deltas(&known.tables.classes[32 * block], nibbles, shifted);
          s.tables.replace_block(block, shifted, tables_.passes());
          nibbles += 16;
        }
      s.tables.count_blocks(tables_.passes());
      t.tables = &s.tables;
    }
    if (!b.mean.empty()) {
      s.mean.resize(std::size_t(width));
      for (int i = 0; i < width; ++i) {
        const f16 mean{base_tile::load<std::uint16_t>(b.mean, i)};
        if (!finite_f16(mean.bits)) t.state = status::corrupt_tile;
        s.mean[std::size_t(i)] = to_float(mean);
      }
      t.mean = s.mean.data();
    }
    t.stride = padded(width);
    s.values.assign(std::size_t(b.rows()) * std::size_t(t.stride), 0);
    t.values = s.values.data();
  }

  void run(std::span<tile_task> tasks, int pass) {
    jobs_.clear();
    owner_.clear();
    for (tile_task& t : tasks)
      if (t.state == status::ok && t.level >= pass && !add_jobs(t, pass)) t.state = status::corrupt_tile;
    if (pass)
      decode_ternary(jobs_, isa_);
    else
      decode_base(jobs_, isa_);
    for (std::size_t i = 0; i < jobs_.size(); ++i)
      if (!jobs_[i].ok) owner_[i]->state = status::corrupt_tile;
  }

  // One job for each part of a tile's stream; false where the sizes of the parts do not fill it.
  bool add_jobs(tile_task& t, int pass) {
    std::span<const std::uint8_t> stream = pass ? t.refinement[pass - 1].stream : t.base.stream;
    const int blocks = t.base.rows() == 0 ? 0 : t.tables->blocks[pass];
    const std::size_t parts = std::size_t(stream_parts(blocks));
    const std::uint8_t* sizes = stream.data();
    if (parts > 1) {
      if (stream.size() < 4 * parts) return false;
      stream = stream.subspan(4 * parts);
    }
    for (std::size_t i = 0; i < parts; ++i) {
      stream_job j;
      j.size = std::uint32_t(stream.size());
      if (parts > 1) std::memcpy(&j.size, sizes + 4 * i, 4);
      if (j.size > stream.size()) return false;
      const std::size_t first = i * rans_max_blocks;
      if (pass)
        j.tables = t.tables->ternary[pass - 1].data() + first;
      else
        j.tables = t.tables->base.data() + first;
      j.bytes = stream.data();
      j.blocks = std::min(blocks - int(first), rans_max_blocks);
      j.rows = t.base.rows();
      j.values = t.values + 32 * first;
      j.stride = t.stride;
      jobs_.push_back(j);
      owner_.push_back(&t);
      stream = stream.subspan(j.size);
    }
    return stream.empty();
  }

  // Corrections of every pass, in units of the level that is decoded.
  void collect_corrections(const tile_task& t, int first, int n) {
    corrections_.clear();
    const auto add = [&](std::span<const std::uint8_t> list, int count, int pass) {
      for (int i = 0; i < count; ++i) {
        const exception e = base_tile::load<exception>(list, i);
        if (e.row < first || e.row >= first + n) continue;
        corrections_.push_back({e.row - first, e.coefficient, float(e.correction) * float(power_of_3(t.level - pass))});
      }
    };
    add(t.base.exceptions, t.base.head.exceptions, 0);
    for (int pass = 1; pass <= t.level; ++pass)
      add(t.refinement[pass - 1].exceptions, t.refinement[pass - 1].count, pass);
  }

  isa isa_;
  profile_tables tables_;
  tile_scratch scratch_[tiles_at_once];
  std::vector<stream_job> jobs_;
  std::vector<tile_task*> owner_;
  std::vector<coefficient_correction> corrections_;
  std::vector<float> workspace_;
};

}  // namespace sluice::detail::inline SLUICE_HOST_ABI
