// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/predict/prediction_model.hpp>
#include <sluice/codec/preset/smallest.hpp>
#include <sluice/codec/width/token_steps.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

/// Made-up sections of predictors and of steps of tokens, for codecs that look at them.
namespace caches {

inline constexpr std::uint32_t known_tokens = 40;  ///< ids that add_prediction() has latents of

/// Ids of so many tokens, some of them unknown to the profile.
inline std::vector<std::int32_t> token_ids(std::int64_t tokens, std::uint32_t vocab = known_tokens) {
  std::vector<std::int32_t> ids;
  for (std::int64_t i = 0; i < tokens; ++i) ids.push_back(std::int32_t((7 * i + 3) % (vocab + 2)));
  return ids;
}

/// Steps of tokens by a random direction, other steps for each layer.
inline void add_token_steps(sluice::profile& p, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  sluice::detail::token_weight_model m;
  for (int l = 0; l < p.shape.num_layers(); ++l) {
    sluice::detail::layer_weights& w = m.layers.emplace_back();
    for (int i : {0, 1}) w.offset[i] = std::int8_t(int(random() % 7) - 2), w.exponent[i] = std::uint8_t(random() % 90);
    w.slope = float(random() % 16) / 16;
    for (int i = 0; i < p.of(l, sluice::plane::key).width; ++i)
      w.direction.push_back((float(random() % 129) - 64) / 256);
  }
  m.put_into(p);
}

/// Puts both sections into a profile. Predictions are random and small against rows; what is left has a step that is a
/// quarter octave coarser than the plane's, so that tiles are predicted. Without effect where the profile is not
/// calibrated: no predictor serves there.
template <class Predictor = sluice::codec::smallest::predictor>
void add_prediction(sluice::profile& p, std::uint64_t seed, std::uint32_t vocab = known_tokens) {
  using namespace sluice;
  if (!p.calibrated()) return;
  add_token_steps(p, seed);
  std::mt19937_64 random(seed);
  const auto number = [&] { return float(int(random() % 255) - 127) / 74; };  // of variance 1
  const auto size_of_rows = [&](const plane_profile& q) {
    return q.scale * float(detail::power_of_3(p.passes > 2 ? p.passes - 2 : 0));
  };
  detail::prediction_model m;
  auto left = std::make_shared<profile>(p);
  m.vocab = Predictor::kind.rank ? vocab : 0;
  float rows = 0;  // of the first plane, whose size latents have
  for (std::size_t i = 0; i < p.planes.size(); ++i) {
    plane_profile& q = left->planes[i];
    detail::plane_prediction& of = m.planes.emplace_back();
    if (!q.width) continue;
    if (rows == 0) rows = size_of_rows(q);
    for (std::uint8_t& c : q.classes) c = std::uint8_t(c % 64 > 1 ? c - 1 : c);
    q.scale *= 1.19f;
    of.features = Predictor::features(p.shape, int(i / 2), plane(i % 2));
    of.scale = size_of_rows(q) / rows / 4 / std::sqrt(float(of.features));
    for (int j = 0; j < of.features * q.width; ++j) of.matrix.push_back(from_float<f16>(number()).bits);
  }
  m.residual = left;
  for (int i = 0; i < Predictor::kind.rank; ++i) m.latent_scale.push_back(rows / 74);
  for (std::uint32_t i = 0; i < m.vocab * std::uint32_t(Predictor::kind.rank); ++i)
    m.latents.push_back(std::int8_t(int(random() % 255) - 127));
  p.set_section(detail::write_prediction(m, Predictor::kind));
}

}  // namespace caches
