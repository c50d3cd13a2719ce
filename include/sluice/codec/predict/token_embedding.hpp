// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/predict/prediction_model.hpp>
#include <sluice/codec/tile_codec.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace sluice {

/// Source of features: a latent of the token itself, `Rank` numbers that all layers share. K and V of the first layers
/// follow from the token's embedding, and those of all others partly: who has the text knows that part. Needs
/// side_info::tokens on both sides; a token without an id that calibration knew has no features.
template <int Rank = 256>
class token_embedding {
  static_assert(Rank >= 1 && Rank <= detail::max_prediction_rank);

 public:
  static constexpr int id = 1;
  static constexpr int span = 0;
  static constexpr int rank = Rank;
  static constexpr bool reads_tokens = true;

  explicit token_embedding(const detail::prediction_model& m) : model_(&m) {}

  static int width(const model_shape&, int, plane) noexcept { return Rank; }

  bool gather(const group_place&, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
              const side_info& side, float* out, std::ptrdiff_t ld) const {
    bool any = false;
    for (const std::uint16_t row : rows) {
      const std::size_t token = std::size_t(range.frame_token) + row;
      const std::uint32_t known = token < side.tokens.size() ? std::uint32_t(side.tokens[token]) : model_->vocab;
      if (known < model_->vocab) {
        const std::int8_t* latent = &model_->latents[std::size_t{known} * Rank];
        for (int i = 0; i < Rank; ++i) out[i] = model_->latent_scale[std::size_t(i)] * float(latent[i]);
        any = true;
      } else {
        std::memset(out, 0, Rank * sizeof(float));
      }
      out += ld;
    }
    return any;
  }

 private:
  const detail::prediction_model* model_;
};

}  // namespace sluice
