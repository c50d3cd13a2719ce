// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

namespace mine {

/// Transform: a Hadamard matrix for each head, which spreads a loud channel over all; it is its own inverse. Heads whose
/// size is no power of two are left as they are. Keys are coded without their rotary embedding, so frames can move.
struct hadamard {
  static constexpr sluice::stage_id id = sluice::stage_id::of(130);
  static constexpr auto domain = sluice::value_domain::unrotated;
  static bool uses(const sluice::profile&) { return false; }

  struct encoder {
    encoder(const sluice::profile&, sluice::isa) {}
    sluice::status state() const { return sluice::status::ok; }
    sluice::status forward(sluice::tile_rows& in, sluice::coefficients& out, sluice::tile_writer&) {
      for (int r = 0; r < out.rows; ++r) {
        float* y = out.y.data() + r * out.ld;
        for (int i = 0; i < out.width; ++i) y[i] = in.x[r * in.ld + i];
        turn(y, in.place);
      }
      out.calibrated = false;
      return sluice::status::ok;
    }
  };

  struct decoder {
    decoder(const sluice::profile&, sluice::isa) {}
    sluice::status state() const { return sluice::status::ok; }
    bool calibrated(const sluice::group_place&) const { return false; }
    bool open(const sluice::tile& t, int) const { return t.section(0, sluice::section::transform).empty(); }
    void inverse(const sluice::tile& t, int, const sluice::coefficient_rows& c, float* out, std::ptrdiff_t ld) {
      for (int r = 0; r < c.rows; ++r)
        for (int i = 0; i < t.place.width(); ++i)
          out[r * ld + i] = c.floats ? c.floats[r * c.ld + i] : i < c.live ? c.scale * c.values[r * c.ld + i] : 0.f;
      for (const auto& e : c.corrections) out[e.row * ld + e.coefficient] += c.scale * e.value;
      for (int r = 0; r < c.rows; ++r) turn(out + r * ld, t.place);
    }
  };

 private:
  static void turn(float* x, const sluice::group_place& p) {
    if (p.head_dim & (p.head_dim - 1)) return;
    const float scale = 1 / std::sqrt(float(p.head_dim));
    for (int h = 0; h < p.heads; ++h, x += p.head_dim) {
      for (int half = 1; half < p.head_dim; half *= 2)
        for (int i = 0; i < p.head_dim; ++i)
          if (!(i & half)) {
            const float a = x[i], b = x[i + half];
            x[i] = a + b, x[i + half] = a - b;
          }
      for (int i = 0; i < p.head_dim; ++i) x[i] *= scale;
    }
  }
};

}  // namespace mine
