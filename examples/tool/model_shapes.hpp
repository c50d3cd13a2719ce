// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/cost.hpp>
#include <sluice/stream/store/chunk.hpp>

#include <algorithm>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

/// A published model on a machine, as far as streaming its cache is concerned.
struct streamed_model {
  const char* name;
  const char* config;           ///< layers x heads x head size, machine
  double values_per_token;      ///< scalars of K and V
  double seconds_per_token;     ///< prefill of t tokens at position p: t * (seconds_per_token +
  double seconds_per_position;  ///<   seconds_per_token_position * (p + t / 2))
  double decode_seconds_per_value;
  bool decoder_measured;  ///< else assumed: a GPU's, which no kernel of sluice has run on
  int context_tokens, chunk_tokens;
  const char* curve;  ///< model whose measured levels stand for it
  const char* source;
};

/// Shapes from the models' configuration files. Prefill rates fit a + b * position to what the sources say at two lengths;
/// analytic = utilisation * peak / (2 * parameters + attention), utilisation chosen to match published measurements.
/// A decoder of 30 * 10^9 values/s is a design target for a GPU, not a measurement; the CPU's is bench/results/demo.json's.
inline constexpr streamed_model streamed_models[] = {
    {"SmolLM2-135M", "30 x 3 x 64, f16, 2 CPU cores", 11520, 2.0e-3, 2.3e-7, 1 / 0.20e9, true, 1024, 64, "SmolLM2-135M",
     "prefill: analytic, 0.27 GFLOP a token at 135 GFLOP/s; decoder: measured, one thread"},
    {"Llama-3.1-8B", "32 x 8 x 128, bf16, 1 H100", 65536, 35.96e-6, 1.185e-9, 1 / 30e9, false, 32768, 256,
     "SmolLM2-135M", "prefill: analytic 26.9k tok/s at 2K, 8.8k at 128K"},
    {"Qwen2.5-7B", "28 x 4 x 128, bf16, 1 H100", 28672, 34.16e-6, 0.905e-9, 1 / 30e9, false, 32768, 256, "Qwen2.5-0.5B",
     "prefill: analytic 28.5k tok/s at 2K, 10.7k at 128K"},
    {"Llama-3.3-70B", "80 x 8 x 128, bf16 cache, fp8 weights, 8 H100", 163840, 35.68e-6, 0.667e-9, 1 / 240e9, false,
     32768, 256, "SmolLM2-135M",
     "prefill: analytic 27.5k tok/s at 2K, 12.6k at 128K; 28.3k measured (sglang pull request 2087)"},
    {"DeepSeek-V3", "61 x 576 latent, bf16, 8 H100", 35136, 19.1e-6, 1.29e-9, 1 / 240e9, false, 65536, 256,
     "SmolLM2-135M", "prefill: 52.3k tok/s measured (LMSYS, May 2025), growth with position analytic"},
};

inline const streamed_model* find_streamed_model(std::string_view name) {
  for (const streamed_model& m : streamed_models)
    if (name == m.name) return &m;
  return nullptr;
}

/// A codec's levels as measured: bits per value and nats per context.
struct level_curve {
  std::vector<double> bits_per_value, loss;
};

/// Levels 0 to 3 of the standard codec, context of 1,024 tokens (bench/results/quality.json).
inline level_curve measured_curve(std::string_view model) {
  if (model == "Qwen2.5-0.5B") return {{0.523, 1.342, 2.631, 4.128}, {0.07104, 0.00724, 0.00069, 0.00006}};
  return {{0.723, 1.657, 2.959, 4.455}, {0.05196, 0.00608, 0.00071, 0.00008}};
}

/// Seconds in which the engine makes as many bytes of cache as raw ones take: below this rate raw fetching loses.
inline double kv_rate_bytes_per_second(const streamed_model& m, int tokens) {
  return 2 * m.values_per_token / (m.seconds_per_token + m.seconds_per_position * tokens / 2);
}

/// What a codec with this curve would make of some tokens of a context; f16 values raw.
inline sluice::stream::chunk_cost expected_chunk(const streamed_model& m, const level_curve& curve,
                                                 std::int64_t position, int tokens, double context_tokens) {
  const double values = m.values_per_token * tokens;
  std::vector<std::uint64_t> bytes;
  for (double bits : curve.bits_per_value) bytes.push_back(std::uint64_t(values * bits / 8));
  return sluice::stream::chunk_of(position, tokens, std::uint64_t(values), bytes, 2 * std::uint64_t(values),
                                  {curve.loss, context_tokens});
}

/// The cost of a context of so many tokens, all stored; f16 values raw. `stored_tokens` at the end of it are not stored.
inline sluice::result<sluice::stream::cost_model> make_cost(const streamed_model& m, const level_curve& curve,
                                                            int tokens, int chunk_tokens, double latency_seconds,
                                                            std::span<const bool> stored = {}) {
  std::vector<sluice::stream::chunk_cost> chunks;
  for (int at = 0; at < tokens; at += chunk_tokens) {
    sluice::stream::chunk_cost c = expected_chunk(m, curve, at, std::min(tokens - at, chunk_tokens), tokens);
    if (!stored.empty() && !stored[chunks.size()]) c.kinds = {sluice::stream::payload::absent};
    chunks.push_back(std::move(c));
  }
  sluice::stream::cost_rates rates;
  rates.recompute_seconds_per_token = m.seconds_per_token;
  rates.recompute_seconds_per_token_position = m.seconds_per_position;
  rates.decode_seconds_per_value = m.decode_seconds_per_value;
  rates.latency_seconds = latency_seconds;
  return sluice::stream::cost_model::make(std::move(chunks), rates, int(curve.loss.size()));
}
