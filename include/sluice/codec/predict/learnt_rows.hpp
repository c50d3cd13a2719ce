// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/limits.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

namespace sluice::detail {

/// Rows of one layer that were learnt of one token tile, by token. What was not learnt of a row is zero.
class learnt_rows {
 public:
  learnt_rows() { slots_.fill(-1); }

  /// The layer they are of; -1 = none.
  int layer() const noexcept { return layer_; }

  /// Forgets what there was.
  void begin(int layer, int width) {
    layer_ = layer;
    width_ = std::size_t(width);
    rows_.clear();
    slots_.fill(-1);
  }

  /// n columns from `column` on of a token of the frame, less their mean.
  void put(int token, int column, const float* x, const float* mean, int n) {
    std::int16_t& slot = slots_[place(token)];
    if (slot < 0) {
      slot = std::int16_t(rows_.size() / width_);
      rows_.resize(rows_.size() + width_);
    }
    float* to = &rows_[std::size_t(slot) * width_ + std::size_t(column)];
    for (int i = 0; i < n; ++i) to[i] = x[i] - mean[i];
  }

  /// The row of a token; null where nothing of it was learnt.
  const float* row(int token) const noexcept {
    const std::int16_t slot = slots_[place(token)];
    return slot < 0 ? nullptr : &rows_[std::size_t(slot) * width_];
  }

 private:
  // Tokens of a tile follow each other.
  static std::size_t place(int token) noexcept { return std::size_t(token) % max_tile_tokens; }

  int layer_ = -1;
  std::size_t width_ = 1;
  std::vector<float> rows_;                          // [learnt][width]
  std::array<std::int16_t, max_tile_tokens> slots_;  // of each token; -1 = not learnt
};

}  // namespace sluice::detail
