// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>
#include <sluice/tensor/half.hpp>

#include <cstdint>
#include <map>
#include <vector>

namespace mine {

/// Predictor: V of layer 0 is a product of the weights and the token's embedding, so who knows the model and the token
/// knows V. An engine has that table in its weights; both sides must have the same.
class from_tokens {
 public:
  static constexpr sluice::stage_id id = sluice::stage_id::of(132);
  static constexpr int span = 0;
  static constexpr bool predicts = true;

  /// V of layer 0, all heads, by token id.
  static inline std::map<std::int32_t, std::vector<float>> table;

  explicit from_tokens(const sluice::profile& p) : profile_(&p) {}

  bool predict(const sluice::group_place& at, const sluice::tile_tokens_range& range,
               std::span<const std::uint16_t> rows, const sluice::side_info& side, float* out, std::ptrdiff_t ld) {
    if (at.layer != 0 || at.plane != sluice::plane::value) return false;
    const std::size_t first = std::size_t(at.first_head * at.head_dim);
    const sluice::plane_profile& q = profile_->of(at.layer, at.plane);
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const std::size_t token = std::size_t(range.frame_token) + rows[r];
      if (token >= side.tokens.size()) continue;
      const auto known = table.find(side.tokens[token]);
      if (known == table.end() || known->second.size() < first + std::size_t(at.width())) continue;
      for (std::size_t i = 0; i < std::size_t(at.width()); ++i)
        out[r * std::size_t(ld) + i] =
            known->second[first + i] - (q.mean.empty() ? 0.f : to_float(sluice::f16{q.mean[first + i]}));
    }
    return true;
  }

 private:
  const sluice::profile* profile_;
};

}  // namespace mine
