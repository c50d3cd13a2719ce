// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/numeric.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// Rows of a tile with steps of their own (FORMAT.md section 4.1). Tokens differ in how much later queries look at them, and
// a step for each is one multiply a row. Rows of one class lie together in the code, so that tables change a few times only.

namespace sluice {

/// What the rows of a class have in common, in quarter octaves.
struct row_class {
  std::int8_t step = 0;    ///< their coefficients are in units of 2^(step / 4) of the tile's
  std::int8_t spread = 0;  ///< they are wider than the profile says by 2^(spread / 4), before the step is applied
  bool operator==(const row_class&) const = default;
  /// By how much the classes of their coefficients move.
  int shift() const noexcept { return spread - step; }
};

/// In place of a spread, for an encoder: whatever takes the fewest bits.
inline constexpr std::int8_t open_spread = INT8_MIN;

/// The factor of a class step: 2^(step / 4).
SLUICE_HD constexpr float row_scale(int step) noexcept {
  const int octave = step >= 0 ? step / 4 : -((3 - step) / 4), quarter = step - 4 * octave;
  float f = quarter == 0 ? 1.f : quarter == 1 ? 1.18920712f : quarter == 2 ? 1.41421356f : 1.68179283f;
  for (int i = 0; i < octave; ++i) f *= 2;
  for (int i = 0; i > octave; --i) f *= 0.5f;
  return f;
}

/// The classes of a tile's rows; without any, all rows are as the profile says.
class row_classes {
 public:
  /// All rows alike.
  void clear() noexcept {
    classes_.clear();
    of_.clear();
    scale_.clear();
    order_.clear();
  }
  /// Whether rows have classes.
  bool empty() const noexcept { return classes_.empty(); }
  /// Classes in their order, at most max_row_classes.
  std::span<const row_class> classes() const noexcept { return classes_; }
  /// The class of a row, a number from 0 on.
  int of(int row) const noexcept { return of_[std::size_t(row)]; }
  /// [rows] the factor of each row's step; null where there are no classes.
  const float* scale() const noexcept { return empty() ? nullptr : scale_.data(); }
  /// [rows + 1] rows in the order in which they are coded, and a zero; null where there are no classes.
  const std::uint16_t* order() const noexcept { return empty() ? nullptr : order_.data(); }
  /// How many rows a class has.
  int rows_of(int c) const noexcept { return count_[c]; }

  /// From what each row wants: classes are those that occur, finest first. Beyond max_row_classes neighbours join, to the
  /// finer step.
  void assign(std::span<const row_class> rows) {
    clear();
    if (rows.empty()) return;
    classes_.assign(rows.begin(), rows.end());
    const auto before = [](const row_class& a, const row_class& b) {
      return a.step != b.step ? a.step < b.step : a.spread < b.spread;
    };
    std::size_t n = 0;
    for (const row_class& c : rows) {  // insertion among the few that differ
      std::size_t at = 0;
      while (at < n && before(classes_[at], c)) ++at;
      if (at < n && classes_[at] == c) continue;
      for (std::size_t i = n++; i > at; --i) classes_[i] = classes_[i - 1];
      classes_[at] = c;
    }
    classes_.resize(n);
    while (classes_.size() > std::size_t(max_row_classes)) {
      std::size_t least = 1;
      const auto gap = [&](std::size_t i) {
        return detail::abs(classes_[i].step - classes_[i - 1].step) +
               2 * detail::abs(classes_[i].spread - classes_[i - 1].spread);
      };
      for (std::size_t i = 2; i < classes_.size(); ++i)
        if (gap(i) < gap(least)) least = i;
      classes_.erase(classes_.begin() + std::ptrdiff_t(least));
    }
    if (classes_.size() == 1 && classes_[0] == row_class{}) return clear();
    for (const row_class& c : rows) {
      std::size_t best = 0;
      for (std::size_t i = 0; i < classes_.size(); ++i) {
        if (before(c, classes_[i])) break;
        best = i;
      }
      of_.push_back(std::uint8_t(best));
    }
    finish();
  }

  /// Gives a class another spread.
  void set_spread(int c, int spread) noexcept { classes_[std::size_t(c)].spread = std::int8_t(spread); }

  /// Appends the section; nothing where rows have no classes.
  void write(std::vector<std::uint8_t>& out) const {
    if (empty()) return;
    out.push_back(std::uint8_t(classes_.size() - 1));
    for (const row_class& c : classes_) {
      out.push_back(std::uint8_t(c.step));
      out.push_back(std::uint8_t(c.spread));
    }
    const unsigned width = bits();
    unsigned held = 0, value = 0;
    for (const std::uint8_t c : of_) {
      value |= unsigned{c} << held;
      held += width;
      for (; held >= 8; held -= 8, value >>= 8) out.push_back(std::uint8_t(value));
    }
    if (held) out.push_back(std::uint8_t(value));
  }

  /// From untrusted bytes, none where rows have no classes. False where they are no section of so many rows.
  bool parse(std::span<const std::uint8_t> bytes, int rows) {
    clear();
    if (bytes.empty()) return true;
    section_reader r(bytes);
    const int n = r.get<std::uint8_t>() + 1;
    if (n > max_row_classes || rows == 0) return false;
    for (int i = 0; i < n; ++i) {
      const auto step = r.get<std::int8_t>();
      const auto spread = r.get<std::int8_t>();
      if (detail::abs(int{step}) > max_row_step || detail::abs(int{spread}) > max_row_spread) return false;
      classes_.push_back({step, spread});
    }
    const unsigned width = bits();
    const std::span<const std::uint8_t> packed = r.left();
    if (!r.ok() || packed.size() != (std::size_t(rows) * width + 7) / 8) return false;
    for (std::size_t i = 0; i < std::size_t(rows); ++i) {
      const std::size_t at = i * width;
      unsigned v = width ? packed[at / 8] : 0u;
      if (at % 8 + width > 8) v |= unsigned{packed[at / 8 + 1]} << 8;
      v = v >> at % 8 & ((1u << width) - 1);
      if (v >= unsigned(n)) return false;
      of_.push_back(std::uint8_t(v));
    }
    if (const unsigned used = unsigned(std::size_t(rows) * width % 8); used && packed.back() >> used) return false;
    finish();
    return true;
  }

 private:
  unsigned bits() const noexcept { return unsigned(std::bit_width(unsigned(classes_.size() - 1))); }

  void finish() {
    const std::size_t rows = of_.size();
    for (int& n : count_) n = 0;
    for (const std::uint8_t c : of_) ++count_[c];
    int next[max_row_classes] = {};
    for (std::size_t c = 1; c < classes_.size(); ++c) next[c] = next[c - 1] + count_[c - 1];
    float factor[max_row_classes];
    for (std::size_t c = 0; c < classes_.size(); ++c) factor[c] = row_scale(classes_[c].step);
    scale_.resize(rows);
    order_.assign(rows + 1, 0);
    for (std::size_t r = 0; r < rows; ++r) {
      scale_[r] = factor[of_[r]];
      order_[std::size_t(next[of_[r]]++)] = std::uint16_t(r);
    }
  }

  std::vector<row_class> classes_;
  std::vector<std::uint8_t> of_;
  std::vector<float> scale_;
  std::vector<std::uint16_t> order_;
  int count_[max_row_classes] = {};
};

}  // namespace sluice
