// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "attention.hpp"
#include "cache.hpp"
#include "config.hpp"
#include "linear.hpp"
#include "threads.hpp"

#include <sluice/stream/store/sha256.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

// The decoder of llama, qwen2 and gemma3 models: a residual stream to which each layer adds attention over the cache and
// a gated feed-forward network. Keys are cached after the rotary embedding, in rotate-half order, as engines do.

namespace engine {

/// What a forward pass tells besides the cache it fills. Callbacks run on the caller's thread, in order; on_hidden may itself
/// call forward().
struct forward_options {
  /// First token (index within the call) whose logits are wanted; -1 = only the last one's.
  int logits_from = -1;
  /// Logits of one token, [vocab]; `position` counts from the start of the sequence.
  std::function<void(int position, std::span<const float> logits)> on_logits{};
  /// Queries before the rotary embedding, [tokens][heads][head_dim], of a run of tokens from `position` on.
  std::function<void(int layer, int position, std::span<const float> queries)> on_queries{};
  /// The residual stream entering a layer, [tokens][dim], of a run of tokens from `position` on.
  std::function<void(int layer, int position, std::span<const float> hidden)> on_hidden{};
  /// What attention gives a layer, before its output projection, [tokens][heads * head_dim].
  std::function<void(int layer, int position, std::span<const float> attended)> on_attended{};
  /// Compute tokens again that the sequence already holds, from this position on, instead of appending; -1 = append.
  int position = -1;
  /// Compute the tokens at these positions, ascending, again instead of a run: as many as ids. Each attends to all that the
  /// sequence holds before it. Callbacks are told the first position of a batch.
  std::span<const int> positions{};
  /// Start at this layer from `hidden` [tokens][dim], as on_hidden gave it; layers before it keep their cache as it is.
  int first_layer = 0;
  std::span<const float> hidden{};
  /// End before this layer, whose on_hidden is still called; -1 = all layers, and logits.
  int end_layer = -1;
  /// Layers before this one keep their cache as it is, and attend to it.
  int stores_from = 0;
  /// Sum up as a call for each token would: logits and cache are the same to the last bit, which costs attention the sharing
  /// of keys and values among tokens, and in floats everything.
  bool as_steps = false;
};

/// A model in memory: the file stays mapped, weights are read from it or (arithmetic::fast) repacked beside it.
class model {
 public:
  static constexpr int batch = 512;  ///< tokens computed at a time

  /// Errors: throws file_error.
  model(const std::string& path, arithmetic mode, thread_pool& pool);

  const model_config& config() const noexcept { return config_; }
  const gguf& directory() const noexcept { return directory_; }
  int threads() const noexcept { return pool_->size(); }

  /// Tells what this model makes of tokens from what any other does: a hash of the file, which holds the weights as they
  /// are quantised, the hyper-parameters and the tokenizer, and of the arithmetic, whose caches differ (KL 0.003).
  sluice::digest identity() const noexcept;
  /// The same of a model that is not loaded. Errors: throws file_error.
  static sluice::digest identity_of(const std::string& path, arithmetic mode);

  /// Appends tokens to the sequence and computes them. Throws std::runtime_error where the pool is full, an id is outside
  /// the vocabulary, or options.position leaves the sequence.
  void forward(std::span<const std::int32_t> ids, sequence& seq, const forward_options& options = {});

  /// The output projection of a layer's attention, [dim][heads * head_dim]: the metric of an error in V.
  matrix output_projection(int layer) const;

  /// What a layer keeps of its input where hidden states are stored instead of K and V: `to` [dim] is a row of the residual
  /// stream over the root of its mean square, before the weights of the layer's norm, so that f16 holds it whatever the model.
  void normalize(const float* residual, float* to) const noexcept;

  /// K and V of a layer, for the tokens of `seq` from `position` on, of such rows [tokens][dim]. In the batches of the
  /// forward pass that saw them, rows of floats give what it gave, to the last bit.
  void project(int layer, int position, int tokens, const float* rows, sequence& seq);

  /// [dim] what the first layer sees of a token: its embedding over the root of its mean square, before the weights of
  /// that layer's norm. Throws std::runtime_error where the id is outside the vocabulary.
  void embedding_row(std::int32_t token, float* row) const;

  /// Rotates one head's row, [head_dim], to a position, as queries and keys of that layer are.
  void rotate(int layer, float* head, int position);

 private:
  struct layer_weights {
    std::vector<float> attn_norm, qkv_bias, q_norm, k_norm, post_attn_norm, ffn_norm, post_ffn_norm;
    linear qkv, o, gate_up, down;
  };

  // cos and sin of every position so far, [position][pair].
  struct rope_table {
    std::vector<double> frequencies;
    std::vector<float> cosine, sine;

    void grow(int positions);
    void rotate(float* head, int position) const noexcept;
  };

  void load();
  rope_table& rope_of(int layer) { return ropes_[std::size_t(shape_.layers[std::size_t(layer)].rope_index)]; }
  void embed(std::span<const std::int32_t> ids, matrix& x);
  void look_up(std::int32_t token, float* row) const;
  void run_layer(int l, std::span<const int> at, matrix& x, sequence& seq, const forward_options& options);
  void store_kv(int l, int position, float* k, sequence& seq);
  void add(const linear& w, const matrix& input, const std::vector<float>& norm, matrix& x);
  void logits(int first, std::span<const int> at, const matrix& x, const forward_options& options);
  void rms_norm(const float* from, const std::vector<float>& weight, float* to) const noexcept;
  float inverse_root(const float* row, Eigen::Index n) const noexcept;
  template <class Body>
  void for_rows(Eigen::Index rows, Body&& body);

  mapped_file file_;
  gguf directory_;
  model_config config_;
  arithmetic mode_;
  thread_pool* pool_;
  const tensor* embedding_ = nullptr;
  std::vector<float> norm_;
  linear head_;
  std::vector<layer_weights> layers_;
  sluice::model_shape shape_;
  std::vector<rope_table> ropes_;  // as in shape_
  attention attention_;
  matrix h_, qkv_, queries_, attended_, gate_up_, activated_, product_;  // [tokens of a batch][...]
};

}  // namespace engine
