// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/predict/prediction_model.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/view.hpp>
#include <sluice/warp/targets.hpp>

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

// Calibration compiled into sluice::kernels and calibration compiled here may meet in one program, and have an Eigen each:
// how Eigen lays out memory depends on the instruction set that a program is built for.
#if SLUICE_LINKS_KERNELS && defined(SLUICE_KERNELS_CALIBRATE)
#define SLUICE_CALIBRATION_ABI calibration_kernels_v0
#else
#define SLUICE_CALIBRATION_ABI calibration_headers_v0
#endif

namespace sluice {

/// What a capture knows about one layer besides its K and V; every pointer may be null.
struct capture_layer {
  const float* q2 = nullptr;     ///< [kv_heads][head_dim_k] mean square of the un-rotated queries of a KV head's group
  const float* wo = nullptr;     ///< [kv_heads][head_dim_v][head_dim_v] sum over the group of Wo^T Wo
  const f16* queries = nullptr;  ///< [query_tokens][num_heads][head_dim_k] rotated, of the last tokens of the cache
};

/// The cache of one context as an engine holds it (K after RoPE) and what was seen of the queries that read it.
struct capture {
  kv_view cache{};                          ///< all its tokens are learnt from; borrowed
  std::span<const capture_layer> layers{};  ///< one per layer of the view, or empty
  std::int32_t query_tokens = 0;            ///< of each layer's `queries`; 0 = there are none
  std::int32_t num_heads = 0;               ///< query heads
  const std::int32_t* tokens = nullptr;     ///< [cache.tokens] ids, for prediction from them; may be null
};

/// A model's embeddings of its tokens, without which there is no prediction from tokens.
struct token_embeddings {
  int vocab = 0;  ///< tokens, ids 0 .. vocab - 1
  int dim = 0;    ///< of the model
  /// Writes [dim]: what the first layer sees of a token, its embedding over the root of its mean square. One caller at a
  /// time.
  std::function<void(std::int32_t token, float* row)> row{};
};

/// What to fit for predicted_from; the profile then has its section.
struct prediction_options {
  prediction_kind kind{};         ///< of the policy; nothing is predicted without
  token_embeddings embeddings{};  ///< where token_embedding is a source
};

/// How to calibrate; the defaults are those of the `standard` codec.
struct calibration_options {
  int heads_per_basis = 0;   ///< 0 = all heads of a layer while they span at most 256 channels, else as many as fit
  int passes = 4;            ///< base and refinements
  int sinks = 4;             ///< tokens at the start of a sequence that stay exact and are not looked at
  double target_kl = 0.010;  ///< nats of KL divergence at level 1
  /// Per model layer: KL in nats per unit of weighted squared error when only this layer's K (or V) is quantised, as
  /// `kvlab.py sensitivity` measures it. Both or neither. Without, steps follow from the captured queries: the error
  /// that the attention of the last tokens lets through to the layer's attention output, relative to that output's
  /// energy, at one price in nats for all layers. What later layers do with the error it cannot know: on three models
  /// it needed 1.1 to 1.3 times the bytes at equal KL and reached 0.7 to 6 times target_kl. Where there are no queries
  /// either, every tensor is quantised relative to its own energy.
  std::vector<double> sensitivity_k{};
  std::vector<double> sensitivity_v{};  ///< as sensitivity_k, for V
  bool token_steps = true;          ///< learn from captured queries which tokens are looked at; a section of its own
  prediction_options prediction{};  ///< a third sweep is needed where there is something to predict
  int threads = 1;                  ///< changes the time it takes, not the profile
};

namespace detail {

// Errors of different planes do not quite add up in KL: with every plane quantised, three models lost 0.97, 1.15 and 1.46
// times the sum of what the planes lost one at a time. The geometric mean goes into every measured sensitivity.
inline constexpr double interaction = 1.17;
inline constexpr double attention_price = 0.01;  // nats per relative squared error of one attention output, and
inline constexpr double energy_price = 0.007;    // per relative squared error of one tensor: fits of three models

}  // namespace detail

}  // namespace sluice
