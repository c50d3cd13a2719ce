// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>

namespace mine {

/// Bit widths: the first third of the layers gets the finest step and the widest codes, the last third the coarsest.
struct by_depth {
  static constexpr sluice::stage_id id = sluice::stage_id::of(134);

  static int third(int layer, int num_layers) { return 3 * layer / num_layers; }

  static bool measures(bool /*calibrated*/) { return true; }
  static float step(int layer, sluice::plane, int num_layers, const sluice::coefficient_statistics& s) {
    constexpr float of_rms[] = {0.25f, 0.5f, 1.f};
    float step = of_rms[third(layer, num_layers)] * s.rms();
    for (int pass = 2; pass < s.passes(); ++pass) step /= 3;  // the step of level 1, where there is one
    return step;
  }
  static int bits(int layer, sluice::plane, int num_layers) { return 6 - third(layer, num_layers); }
};

}  // namespace mine
