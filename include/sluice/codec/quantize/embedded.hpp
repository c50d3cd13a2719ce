// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/quantize/ternary.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/transform/product.hpp>

#include <cstring>

namespace sluice {
inline namespace SLUICE_HOST_ABI {

/// Quantiser policy: a uniform mid-tread quantiser at the finest step, split into a base and Refinements ternary passes,
/// each cutting every cell in three, so that one frame serves every level and a coarser copy is a prefix.
/// Reconstruction is the middle of the cell: shrinking it towards zero lowers MSE and doubles KL.
/// Section: f32 step, in units of the transform, where it is not 1.
template <int Refinements = 3>
struct embedded {
  static_assert(Refinements >= 0 && Refinements <= 5, "sluice::embedded<Refinements>: Refinements must be from 0 to 5");
  static constexpr stage_id id = stage_id::of(1, Refinements);
  static constexpr int passes = Refinements + 1;
  static constexpr bool fixed_width = false;
  static constexpr bool rounds = true;
  static int depth(const profile& p) noexcept { return p.passes; }

  class encoder {
   public:
    explicit encoder(isa i) : isa_(i) {}

    status quantize(const coefficients& in, float step, symbols& out, std::span<std::uint8_t> beyond, tile_writer& w) {
      if (!(step > 1e-30f && step < 1e30f)) step = 1;
      w.at(0, section::quantizer).clear();
      if (step != 1.f) w.put(0, section::quantizer, step);
      out.calibrated = in.calibrated && step == 1.f;
      detail::quantize_rows(isa_, in.y.data(), in.ld, in.rows, nullptr, 1 / step, in.width, out.finest.data(), out.ld,
                            beyond.data());
      return status::ok;
    }

    // Parents by rounding, digits as what remains; passes beyond those made are rounded away.
    void split(symbols& s) const {
      const std::size_t n = s.finest.size();
      s.values.resize(n);
      std::int8_t* digits[max_passes] = {};
      for (int p = 1; p < s.made; ++p) {
        s.digits[p].resize(n);
        digits[p] = s.digits[p].data();
      }
      detail::split_levels(isa_, s.finest.data(), s.values.data(), digits, s.passes, s.made, int(n));
    }

   private:
    isa isa_;
  };

  class decoder {
   public:
    explicit decoder(isa) {}

    bool open(const tile& t, int slot, decoded_symbols& s) noexcept {
      section_reader r(t.section(0, section::quantizer));
      step_[slot] = 1;
      if (r.left().empty()) return true;
      step_[slot] = r.get<float>();
      s.calibrated = false;
      return r.finished() && detail::isfinite(step_[slot]) && step_[slot] > 0;
    }

    void restore(const tile& t, int slot, const decoded_symbols& s, int first, int n, coefficient_rows& out) {
      out.values = s.values + first * s.ld;
      out.ld = s.ld;
      out.rows = n;
      out.live = s.classes ? 0 : s.live;
      for (int r = first; s.classes && r < first + n; ++r)
        out.live = detail::max(out.live, int{s.live_of[s.classes->of(r)]});
      out.scale = step_[slot] * float(detail::power_of_3(s.passes - 1 - t.level));
      corrections_.clear();
      for (const coefficient_correction& c : s.corrections)
        if (c.row >= first && c.row < first + n) corrections_.push_back({c.row - first, c.coefficient, c.value});
      out.corrections = corrections_;
    }

   private:
    float step_[tiles_at_once] = {};
    std::vector<coefficient_correction> corrections_;
  };
};

/// Quantiser policy: one level, nothing embedded.
using single_level = embedded<0>;

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
