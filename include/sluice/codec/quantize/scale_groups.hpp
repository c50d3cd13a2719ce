// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/quantize/groups.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// What the quantisers with a scale for a group of values share: which values are a group, and the way back.

namespace sluice {

/// What a group of values with one scale is a run of.
enum class range_along : std::uint8_t {
  tokens,   ///< of coded tokens, in one channel
  channels  ///< of channels of one head, in one token
};

namespace detail {

// The groups of one tile: `length` values each, the last of a run may be shorter. Numbered run by run of tokens, then
// channel by channel; where they run along channels, token by token, then head by head.
struct scale_groups {
  range_along along = range_along::tokens;
  int length = 1, heads = 0, head_dim = 0, rows = 0;

  // 0 asks for all tokens of the tile, or for all channels of a head.
  scale_groups(range_along a, int asked, const group_place& p, int rows_here)
      : along(a), heads(p.heads), head_dim(p.head_dim), rows(rows_here) {
    const int all = along == range_along::tokens ? max(rows, 1) : head_dim;
    length = asked ? min(asked, all) : all;
  }
  // Groups of a head in one token, where they run along channels.
  int of_head() const noexcept { return (head_dim + length - 1) / length; }
  int of_row() const noexcept { return along == range_along::tokens ? heads * head_dim : heads * of_head(); }
  int runs() const noexcept { return along == range_along::tokens ? (rows + length - 1) / length : rows; }
  std::size_t count() const noexcept { return std::size_t(runs()) * std::size_t(of_row()); }
  // The first group of a row.
  std::size_t first(int row) const noexcept {
    return std::size_t(along == range_along::tokens ? row / length : row) * std::size_t(of_row());
  }

  // The group of one value.
  std::size_t at(int row, int channel) const noexcept {
    const int head = channel / head_dim, d = channel % head_dim;
    return first(row) + std::size_t(along == range_along::tokens ? channel : head * of_head() + d / length);
  }

  // Calls f(group, row, rows, first channel, channels) for the parts of rows [begin, end) that are one group, or along
  // tokens one group for each channel.
  template <class F>
  void parts(int begin, int end, F f) const {
    if (along == range_along::channels) {
      for (int r = begin; r < end; ++r) each(r, [&](std::size_t g, int c, int n) { f(g, r, 1, c, n); });
    } else {
      for (int r = begin, next; r < end; r = next) {
        next = min(end, r - r % length + length);
        f(first(r), r, next - r, 0, heads * head_dim);
      }
    }
  }

  // Calls f(group, first channel, channels) for the groups of a row that runs along channels.
  template <class F>
  void each(int row, F f) const {
    std::size_t g = first(row);
    for (int h = 0; h < heads; ++h)
      for (int d = 0; d < head_dim; d += length) f(g++, h * head_dim + d, min(length, head_dim - d));
  }
};

// What every quantiser with such scales says of itself: one level of codes whose width the bit-width policy sets.
struct fixed_width_quantizer {
  static constexpr int passes = 1;
  static constexpr bool fixed_width = true;
  static constexpr bool rounds = false;
  static int depth(const profile&) noexcept { return 1; }
};

// The way back: x = code * step + zero, where Layout::zeros is false a zero that puts code 2^(bits - 1) at 0.
// Section: u8 bits, then for every group f16 step and, where Layout::zeros, f16 zero.
template <class Layout>
class group_decoder {
 public:
  explicit group_decoder(isa i) : isa_(i) {}

  bool open(const tile& t, int slot, decoded_symbols& s) {
    s.calibrated = false;
    const auto bytes = t.section(0, section::quantizer);
    if (t.rows() == 0) return bytes.empty();
    const scale_groups groups = Layout::of(t.place, t.rows());
    section_reader r(bytes);
    s.bits = r.get<std::uint8_t>();
    constexpr std::size_t each = Layout::zeros ? 4 : 2;
    const auto scales = r.take(each * groups.count());
    if (!r.finished() || s.bits < 1 || s.bits > 8) return false;
    step_[slot].resize(groups.count());
    zero_[slot].resize(groups.count());
    if constexpr (Layout::zeros) {
      pairs_.resize(groups.count());
      std::memcpy(pairs_.data(), scales.data(), scales.size());
      group_scales(isa_, pairs_.data(), pairs_.size(), step_[slot].data(), zero_[slot].data());
    } else {
      const auto half = float(1 << (s.bits - 1));
      for (std::size_t g = 0; g < groups.count(); ++g) {
        f16 h;
        std::memcpy(&h, scales.data() + 2 * g, 2);
        step_[slot][g] = to_float(h);
        zero_[slot][g] = -half * step_[slot][g];
      }
    }
    bool sound = true;
    for (std::size_t g = 0; g < groups.count(); ++g) sound &= isfinite(step_[slot][g]) && isfinite(zero_[slot][g]);
    return sound;
  }

  void floats(const tile& t, int slot, const decoded_symbols& s, int first, int n, float* out, std::ptrdiff_t ld) {
    const scale_groups groups = Layout::of(t.place, t.rows());
    groups.parts(first, first + n, [&](std::size_t g, int row, int rows, int channel, int channels) {
      group_floats(isa_, {rows, channels, ld, s.ld, groups.along == range_along::channels},
                   s.values + row * s.ld + channel, &step_[slot][g], &zero_[slot][g],
                   out + (row - first) * ld + channel);
    });
    for (const coefficient_correction& e : s.corrections) {
      if (e.row < first || e.row >= first + n) continue;
      const std::size_t g = groups.at(e.row, e.coefficient);
      out[(e.row - first) * ld + e.coefficient] =
          (float(s.values[e.row * s.ld + e.coefficient]) + e.value) * step_[slot][g] + zero_[slot][g];
    }
  }

  void restore(const tile& t, int slot, const decoded_symbols& s, int first, int n, coefficient_rows& out) {
    const int width = t.place.width();
    floats_.resize(std::size_t(n) * std::size_t(s.ld));
    for (int r = 0; r < n; ++r)
      for (std::ptrdiff_t i = width; i < s.ld; ++i) floats_[std::size_t(r * s.ld + i)] = 0;
    floats(t, slot, s, first, n, floats_.data(), s.ld);
    out = {};
    out.rows = n;
    out.live = width;
    out.floats = floats_.data();
    out.ld = s.ld;
  }

 private:
  isa isa_;
  std::vector<float> step_[tiles_at_once], zero_[tiles_at_once], pairs_, floats_;
};

}  // namespace detail
}  // namespace sluice
