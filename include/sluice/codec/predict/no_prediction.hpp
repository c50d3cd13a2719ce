// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <cstdint>

namespace sluice {

/// Predictor policy: nothing is predicted; every layer decodes alone.
/// The room for what comes next (prediction from the token's embedding and from the layers before): a predictor sees
/// decoded values only, layers are coded in ascending order, and its id stands in the frame.
struct no_prediction {
  static constexpr std::uint8_t id = 0;
  /// Layers a decoder must restore before this one.
  static constexpr int span = 0;
};

template <class P>
concept predictor_policy = requires {
  { P::id } -> std::convertible_to<std::uint8_t>;
  { P::span } -> std::convertible_to<int>;
};

}  // namespace sluice
