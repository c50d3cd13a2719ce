// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice::detail {

// The way back from codes that number the levels of a list, with a scale for each token and head or without.
// Book::of(bits) is the list of 2^bits levels, empty where there is none of that width; Book::bits is the width of codes
// without scales, 0 where they have scales. Section: nothing, or u8 bits and f16 scale [row][head], finite.
template <class Book>
class level_decoder {
 public:
  explicit level_decoder(isa) {}

  bool open(const tile& t, int slot, decoded_symbols& s) {
    s.calibrated = false;
    const auto bytes = t.section(0, section::quantizer);
    if (t.rows() == 0) return bytes.empty();
    section_reader r(bytes);
    s.bits = Book::bits ? Book::bits : r.get<std::uint8_t>();
    levels_[slot] = Book::of(s.bits);
    if (levels_[slot].empty()) return false;
    if constexpr (Book::bits == 0) {
      const std::size_t n = std::size_t(t.rows()) * std::size_t(t.place.heads);
      const auto scales = r.take(2 * n);
      if (!r.ok()) return false;
      scale_[slot].resize(n);
      for (std::size_t i = 0; i < n; ++i) {
        f16 h;
        std::memcpy(&h, scales.data() + 2 * i, 2);
        if (!finite_f16(h.bits)) return false;
        scale_[slot][i] = to_float(h);
      }
    }
    return r.finished();
  }

  void floats(const tile& t, int slot, const decoded_symbols& s, int first, int n, float* out, std::ptrdiff_t ld) {
    const int heads = t.place.heads, dim = t.place.head_dim;
    const std::int16_t* q = s.values + first * s.ld;
    for (int r = 0; r < n; ++r, q += s.ld, out += ld)
      for (int h = 0; h < heads; ++h) {
        const float by = scale(slot, (first + r) * heads + h);
        for (int i = h * dim; i < (h + 1) * dim; ++i) out[i] = level(slot, q[i]) * by;
      }
    out -= n * ld;
    for (const coefficient_correction& e : s.corrections) {
      if (e.row < first || e.row >= first + n) continue;
      const float code = float(s.values[e.row * s.ld + e.coefficient]) + e.value;
      out[(e.row - first) * ld + e.coefficient] =
          level(slot, int(clamp(code, 0.f, 255.f))) * scale(slot, e.row * heads + e.coefficient / dim);
    }
  }

  void restore(const tile& t, int slot, const decoded_symbols& s, int first, int n, coefficient_rows& out) {
    floats_.assign(std::size_t(n) * std::size_t(s.ld), 0.f);
    floats(t, slot, s, first, n, floats_.data(), s.ld);
    out = {};
    out.rows = n;
    out.live = t.place.width();
    out.floats = floats_.data();
    out.ld = s.ld;
  }

 private:
  // An entropy model that codes numbers of any size may give any code.
  float level(int slot, int code) const noexcept {
    return levels_[slot][std::size_t(clamp(code, 0, int(levels_[slot].size()) - 1))];
  }
  float scale(int slot, [[maybe_unused]] int at) const noexcept {
    if constexpr (Book::bits == 0)
      return scale_[slot][std::size_t(at)];
    else
      return 1;
  }

  std::span<const float> levels_[tiles_at_once];
  std::vector<float> scale_[tiles_at_once], floats_;
};

}  // namespace sluice::detail
