// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>

#include <array>
#include <cstdint>
#include <span>
#include <vector>

// Which class describes a coefficient best, from counts of what it took.

namespace sluice::detail {

// What a vector operation of the decoder is worth, in bits a value, as in bench/classes.py.
inline constexpr double operation_bits = 0.0006;

// How often a coefficient took each base value and each digit below a zero or nonzero parent.
struct coefficient_counts {
  static constexpr int range = code_lengths::reach;  // values beyond count as this: no class there is right anyway
  std::array<std::uint32_t, 2 * range + 1> base{};
  std::array<std::array<std::array<std::uint32_t, 3>, 2>, max_passes>
      digit{};  // [back][parent != 0][0, inward, outward]
  double squares = 0;
  std::uint32_t total = 0;

  void add(int value, std::uint32_t n, int passes) noexcept {
    for (int back = 0; back + 1 < passes; ++back) {
      const int parent = coarser(value);
      digit[std::size_t(back)][parent != 0][std::size_t(digit_symbol(parent, value - 3 * parent))] += n;
      value = parent;
    }
    base[std::size_t(detail::clamp(value, -range, range) + range)] += n;
    total += n;
  }

  void add(const float* y, std::int64_t n, int passes) noexcept {
    constexpr int near = 40;
    std::array<std::uint32_t, 2 * near + 1> small_values{};
    for (std::int64_t i = 0; i < n; ++i) {
      const float c = detail::clamp(y[i], -1e9f, 1e9f);
      const int value = static_cast<int>(c + (c < 0 ? -0.5f : 0.5f));
      if (value >= -near && value <= near)
        ++small_values[std::size_t(value + near)];
      else
        add(value, 1, passes);
    }
    for (int v = -near; v <= near; ++v)
      if (const std::uint32_t m = small_values[std::size_t(v + near)]) add(v, m, passes);
  }
};

// Picks the classes of the coefficients of one group: block by block the fewest bits over all passes plus what the
// decoder's effort is worth, since the lane with most symbols and digits sets the pace of its block.
class class_chooser {
 public:
  explicit class_chooser(int passes) : passes_(passes) {}

  void choose(std::span<const coefficient_counts> counts, std::span<std::uint8_t> out) const {
    std::vector<options> all(32);
    for (std::size_t begin = 0; begin < counts.size(); begin += 32) {
      const std::size_t n = detail::min<std::size_t>(32, counts.size() - begin);
      for (std::size_t i = 0; i < n; ++i) all[i] = weigh(counts[begin + i]);
      double least = detail::infinity;
      for (std::size_t d = 0; d < 5; ++d)
        for (std::size_t m = 0; m < 8; ++m) {
          double bits = operation_bits * 32 * counts[begin].total * (8 * double(m) + 33 * double(d));
          for (std::size_t i = 0; i < n; ++i) bits += all[i][d][m].bits;
          if (bits >= least) continue;
          least = bits;
          for (std::size_t i = 0; i < n; ++i) out[begin + i] = all[i][d][m].cls;
        }
    }
  }

  double bits(const coefficient_counts& c, std::uint8_t cls) const noexcept {
    const code_lengths& lengths = code_lengths::all();
    const float* const base = lengths.base_of(cls, passes_ - 1) - coefficient_counts::range;
    double sum = 0;
    for (std::size_t v = 0; v < c.base.size(); ++v)
      if (c.base[v]) sum += double(c.base[v]) * double(base[v]);
    for (int back = 0; back + 1 < passes_; ++back)
      for (int parent = 0; parent < 2; ++parent)
        for (int s = 0; s < 3; ++s)
          if (const std::uint32_t n = c.digit[std::size_t(back)][std::size_t(parent)][std::size_t(s)])
            sum += double(n) * double(lengths.digit_of(cls, back)[parent][s]);
    return sum;
  }

 private:
  struct option {
    double bits = detail::infinity;
    std::uint8_t cls = 1;
  };
  using options = std::array<std::array<option, 8>, 5>;  // [most digits][most symbols / 2]

  options weigh(const coefficient_counts& c) const {
    const double sigma = c.total ? detail::sqrt(c.squares / c.total) : 0;
    const int expected = class_of(static_cast<float>(sigma), 0);
    options best;
    for (int shape = 0; shape < class_shapes; ++shape)
      for (int w = detail::max(1, expected - 16); w <= detail::min(class_widths - 1, expected + 12); ++w) {
        const auto cls = static_cast<std::uint8_t>(shape * class_widths + w);
        const class_tables& t = class_table[class_at(cls, passes_ - 1)];
        // Among classes that are all dead, the width nearest to the truth: deltas start from there.
        const double b = bits(c, cls) + 1e-3 * detail::abs(w - expected);
        option& o = best[t.digits][std::size_t(base_symbols(t) / 2)];
        if (b < o.bits) o = {b, cls};
      }
    for (std::size_t d = 0; d < 5; ++d)
      for (std::size_t m = 0; m < 8; ++m) {
        if (d && best[d - 1][m].bits <= best[d][m].bits) best[d][m] = best[d - 1][m];
        if (m && best[d][m - 1].bits <= best[d][m].bits) best[d][m] = best[d][m - 1];
      }
    return best;
  }

  int passes_;
};

}  // namespace sluice::detail
