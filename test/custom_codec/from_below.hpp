// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>
#include <sluice/tensor/half.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <tuple>
#include <vector>

namespace mine {

/// Predictor: every odd layer is expected to leave its mean as the layer below it left its own, a quarter as far.
/// Pairs of layers, since what is predicted from a predicted layer depends on all layers below.
class from_below {
 public:
  static constexpr sluice::stage_id id = sluice::stage_id::of(131);
  static constexpr int span = 1;
  static constexpr bool predicts = true;

  explicit from_below(const sluice::profile& p) : profile_(&p) {}

  void forget() { learnt_.clear(); }

  bool predict(const sluice::group_place& at, const sluice::tile_tokens_range& range,
               std::span<const std::uint16_t> rows, const sluice::side_info&, float* out, std::ptrdiff_t ld) {
    const auto below = learnt_.find({at.layer - 1, at.plane, at.group});
    if (at.layer % 2 == 0 || below == learnt_.end() || below->second.width != at.width()) return false;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const auto row = below->second.rows.find(range.frame_token + rows[r]);
      if (row == below->second.rows.end()) continue;  // that token was kept exact
      for (int i = 0; i < at.width(); ++i) out[std::ptrdiff_t(r) * ld + i] = 0.25f * row->second[std::size_t(i)];
    }
    return true;
  }

  void learn(const sluice::group_place& at, const sluice::tile_tokens_range& range, std::span<const std::uint16_t> rows,
             const float* x, std::ptrdiff_t ld) {
    if (at.layer % 2) return;
    const sluice::plane_profile& q = profile_->of(at.layer, at.plane);
    layer_rows& mine = learnt_[{at.layer, at.plane, at.group}];
    mine.width = at.width();
    for (std::size_t r = 0; r < rows.size(); ++r) {
      std::vector<float>& row = mine.rows[range.frame_token + rows[r]];
      row.assign(x + std::ptrdiff_t(r) * ld, x + std::ptrdiff_t(r) * ld + at.width());
      for (std::size_t i = 0; i < row.size() && !q.mean.empty(); ++i)
        row[i] -= to_float(sluice::f16{q.mean[std::size_t(at.group * q.group_width) + i]});
    }
  }

 private:
  struct layer_rows {
    int width = 0;
    std::map<int, std::vector<float>> rows;  // by token of the frame
  };
  const sluice::profile* profile_;
  std::map<std::tuple<int, sluice::plane, int>, layer_rows> learnt_;
};

}  // namespace mine
