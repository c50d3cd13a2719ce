// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>

#include <cmath>
#include <cstdint>

namespace mine {

/// Quantiser: one level, truncation towards zero: what is smaller than a step becomes zero, the rest the middle of its
/// cell. Never off by more than a step. Section: f32 step.
struct dead_zone {
  static constexpr sluice::stage_id id = sluice::stage_id::of(133);
  static constexpr int passes = 1;
  static constexpr bool fixed_width = false;
  static constexpr bool rounds = false;
  static int depth(const sluice::profile&) { return 1; }

  struct encoder {
    explicit encoder(sluice::isa) {}
    sluice::status quantize(const sluice::coefficients& in, float step, sluice::symbols& out,
                            std::span<std::uint8_t> beyond, sluice::tile_writer& w) {
      if (!(step > 1e-30f && step < 1e30f)) step = 1;
      w.at(0, sluice::section::quantizer).clear();
      w.put(0, sluice::section::quantizer, step);
      out.calibrated = false;
      for (int r = 0; r < in.rows; ++r)
        for (int i = 0; i < in.width; ++i) {
          const float v = in.y[std::size_t(r * in.ld + i)] / step;
          if (std::fabs(v) < 32000)
            out.finest[std::size_t(r * out.ld + i)] = std::int16_t(v);
          else
            beyond[std::size_t(r)] = 1;
        }
      return sluice::status::ok;
    }
    void split(sluice::symbols& s) const { s.values = s.finest; }
  };

  struct decoder {
    explicit decoder(sluice::isa) {}
    bool open(const sluice::tile& t, int slot, sluice::decoded_symbols& s) {
      sluice::section_reader r(t.section(0, sluice::section::quantizer));
      s.calibrated = false;
      if (t.rows() == 0) return r.finished();
      step_[slot] = r.get<float>();
      return r.finished() && std::isfinite(step_[slot]) && step_[slot] > 0;
    }
    void restore(const sluice::tile& t, int slot, const sluice::decoded_symbols& s, int first, int n,
                 sluice::coefficient_rows& out) {
      const int width = t.place.width();
      floats_.assign(std::size_t(n) * std::size_t(s.ld), 0.f);
      for (int r = 0; r < n; ++r)
        for (int i = 0; i < width; ++i) floats_[std::size_t(r * s.ld + i)] = s.values[(first + r) * s.ld + i];
      for (const auto& e : s.corrections)
        if (e.row >= first && e.row < first + n)
          floats_[std::size_t((e.row - first) * s.ld + e.coefficient)] += e.value;
      for (float& v : floats_) v = step_[slot] * (v > 0 ? v + 0.5f : v < 0 ? v - 0.5f : 0.f);
      out = {};
      out.rows = n;
      out.live = width;
      out.floats = floats_.data();
      out.ld = s.ld;
    }

   private:
    float step_[sluice::tiles_at_once] = {};
    std::vector<float> floats_;
  };
};

}  // namespace mine
