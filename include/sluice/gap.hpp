// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace sluice {

/// The tokens of a cache that hold nothing sound in some layers: the smallest run of them, and the layers up to the highest.
/// Computing those tokens through those layers is all that it takes; nothing else is missing.
struct gap {
  std::int64_t position = 0;  ///< of the first token
  std::int64_t tokens = 0;    ///< 0 = nothing is missing, or nobody has told what
  int end_layer = 0;          ///< behind the highest layer where something is missing
  double depth = 1;           ///< the share of the model's layers that lie before end_layer
  /// Whether it names anything.
  explicit operator bool() const noexcept { return tokens > 0; }
  bool operator==(const gap&) const = default;

  /// Extends it to so many tokens of one of `layers` layers.
  void add(std::int64_t from, std::int64_t count, int layer, int layers) noexcept {
    if (count <= 0) return;
    if (tokens == 0) *this = {from, count, 0, 0};
    const std::int64_t begin = from < position ? from : position;
    const std::int64_t end = from + count > position + tokens ? from + count : position + tokens;
    position = begin;
    tokens = end - begin;
    end_layer = layer + 1 > end_layer ? layer + 1 : end_layer;
    depth = layers > 0 ? double(end_layer) / layers : 1;
  }
};

}  // namespace sluice
