// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>

namespace sluice {

/// Predictor policy: nothing is predicted; every layer decodes alone.
struct no_prediction {
  static constexpr stage_id id = stage_id::of(0);
  static constexpr int span = 0;
  static constexpr bool predicts = false;
};

}  // namespace sluice
