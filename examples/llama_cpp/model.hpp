// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../engine/gguf.hpp"

#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/shape.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

// What a GGUF file says of the KV cache of its model: layers, heads, windows, and the rotary embedding.

namespace slot {

/// The order of rotary pairs in llama.cpp's keys, by general.architecture; none = the architecture is not known here.
/// Source: llama.cpp src/llama-model.cpp, llama_model_rope_type.
inline sluice::rope_pairing pairs_of(std::string_view architecture) {
  using namespace std::string_view_literals;
  static constexpr auto interleaved = {
      "llama"sv,     "llama4"sv,     "mistral3"sv, "mistral4"sv,  "deci"sv,     "baichuan"sv,     "starcoder"sv,
      "internlm2"sv, "minicpm"sv,    "xverse"sv,   "command-r"sv, "cohere2"sv,  "olmo"sv,         "arctic"sv,
      "deepseek"sv,  "deepseek2"sv,  "plm"sv,      "chatglm"sv,   "granite"sv,  "granitemoe"sv,   "granitehybrid"sv,
      "chameleon"sv, "bailingmoe"sv, "smollm3"sv,  "arcee"sv,     "ernie4_5"sv, "ernie4_5-moe"sv, "glm4"sv};
  static constexpr auto half = {
      "falcon"sv,      "falcon-h1"sv,     "grok"sv,    "dbrx"sv,       "stablelm"sv,     "bitnet"sv,      "qwen"sv,
      "qwen2"sv,       "qwen2moe"sv,      "qwen3"sv,   "qwen3moe"sv,   "dream"sv,        "llada-moe"sv,   "olmo2"sv,
      "olmoe"sv,       "phi2"sv,          "phi3"sv,    "phimoe"sv,     "plamo"sv,        "plamo2"sv,      "gemma"sv,
      "gemma2"sv,      "gemma3"sv,        "gemma3n"sv, "starcoder2"sv, "openelm"sv,      "gptneox"sv,     "codeshell"sv,
      "orion"sv,       "nemotron"sv,      "exaone"sv,  "exaone4"sv,    "minicpm3"sv,     "bailingmoe2"sv, "glm4moe"sv,
      "hunyuan-moe"sv, "hunyuan-dense"sv, "lfm2"sv,    "lfm2moe"sv,    "smallthinker"sv, "dots1"sv,       "gpt-oss"sv,
      "seed_oss"sv,    "apertus"sv,       "qwen2vl"sv};
  for (const auto a : interleaved)
    if (a == architecture) return sluice::rope_pairing::interleaved;
  for (const auto a : half)
    if (a == architecture) return sluice::rope_pairing::half;
  return sluice::rope_pairing::none;
}

/// What a model file says; where it says too little for a shape, `missing` says of what.
struct model_facts {
  std::string architecture, name;
  sluice::rope_pairing pairs = sluice::rope_pairing::none;
  std::optional<sluice::model_shape> shape;
  std::string missing;
};

namespace detail {

// Llama 3.1's frequencies stand in the file as a factor for each pair: finds the parameters that give them.
inline bool llama3_factors(const engine::tensor& t, double base, int dims, sluice::rope& r) {
  if (t.type != engine::tensor_type::f32 || t.rows != 1 || t.cols != std::uint64_t(dims) / 2) return false;
  std::vector<float> told(std::size_t(t.cols));
  std::memcpy(told.data(), t.data, told.size() * sizeof(float));
  r.scaling = sluice::rope_scaling::llama3;
  r.factor = double(*std::max_element(told.begin(), told.end())), r.low_freq = 1, r.high_freq = 4;
  for (const double context : {8192., 4096., 16384., 32768.}) {
    r.original_context = context;
    std::vector<double> stretched(told.size());
    if (validate(r, dims) != sluice::status::ok) return false;
    sluice::rope_frequencies(r, dims, stretched);
    bool same = true;
    for (std::size_t i = 0; i < told.size(); ++i) {
      const double plain = std::pow(base, -2 * double(i) / dims);
      same = same && std::abs(plain / stretched[i] - double(told[i])) < 1e-3 * double(told[i]);
    }
    if (same) return true;
  }
  return false;
}

}  // namespace detail

/// Reads what is needed. Never throws over what it does not find.
inline model_facts read_model(const engine::gguf& file) {
  model_facts m;
  m.architecture = file.text("general.architecture").value_or("");
  m.name = file.text("general.name").value_or(m.architecture);
  m.pairs = pairs_of(m.architecture);
  const auto key = [&](const char* name) { return m.architecture + "." + name; };
  const auto number = [&](const char* name, int otherwise) { return file.number<int>(key(name)).value_or(otherwise); };
  // One number for all layers, or one for each.
  const int layers = number("block_count", 0), dim = number("embedding_length", 0);
  const auto each = [&](const char* name, int otherwise) {
    std::vector<int> all = file.numbers<int>(key(name));
    if (all.size() != std::size_t(layers)) all.assign(std::size_t(std::max(layers, 0)), number(name, otherwise));
    return all;
  };
  const auto give_up = [&](const std::string& what) {
    m.missing = what;
    return m;
  };
  if (layers < 1 || layers > 4096) return give_up("block_count");
  const std::vector<int> heads = each("attention.head_count", 0), kv_heads = each("attention.head_count_kv", heads[0]);
  const int most = *std::max_element(heads.begin(), heads.end());
  if (most < 1 || dim < 1) return give_up("attention.head_count");
  if (file.has(key("attention.kv_lora_rank"))) return give_up("latent attention");
  const int dim_k = number("attention.key_length", dim / most), dim_v = number("attention.value_length", dim / most);
  if (m.pairs == sluice::rope_pairing::none) return give_up("the order of rotary pairs of " + m.architecture);

  sluice::rope r;
  r.pairing = m.pairs;
  r.base = file.number<double>(key("rope.freq_base")).value_or(10000.0);
  const int dims = number("rope.dimension_count", dim_k);
  r.rotary_dims = dims == dim_k ? 0 : dims;
  const std::string scaling(file.text(key("rope.scaling.type")).value_or("none"));
  const double factor = file.number<double>(key("rope.scaling.factor")).value_or(1.0);
  if (scaling == "linear" && factor > 1) {
    r.scaling = sluice::rope_scaling::linear, r.factor = factor;
  } else if (scaling == "yarn" && factor > 1) {
    r.scaling = sluice::rope_scaling::yarn, r.factor = factor, r.low_freq = 1, r.high_freq = 32;
    r.original_context = file.number<double>(key("rope.scaling.original_context_length")).value_or(0);
    r.attention_factor =
        (1 + 0.1 * std::log(factor)) * file.number<double>(key("rope.scaling.attn_factor")).value_or(1);
  } else if (scaling != "none" && factor != 1) {
    return give_up("rotary embeddings scaled as " + scaling);
  }
  if (const engine::tensor* t = file.find("rope_freqs.weight"); t && !detail::llama3_factors(*t, r.base, dims, r))
    return give_up("the factors of rotary frequencies");
  if (file.find("rope_factors_long.weight")) return give_up("long and short factors of rotary frequencies");

  // Windows: a pattern of n means n - 1 sliding layers, then one that sees everything, where the model has no array.
  const int window = number("attention.sliding_window", 0);
  std::vector<int> sliding = file.numbers<int>(key("attention.sliding_window_pattern"));
  if (sliding.size() != std::size_t(layers)) {
    const std::string& a = m.architecture;
    const int pattern = number("attention.sliding_window_pattern", a == "gemma3"                     ? 6
                                                                   : a == "gemma2" || a == "gpt-oss" ? 2
                                                                   : a == "cohere2"                  ? 4
                                                                                                     : 1);
    sliding.clear();
    for (int l = 0; l < layers; ++l) sliding.push_back(pattern > 1 && (l + 1) % pattern != 0);
    if (a == "gpt-oss" || a == "gemma2")
      for (int l = 0; l < layers; ++l) sliding[std::size_t(l)] = l % 2 == 0;
  }
  sluice::model_shape shape;
  shape.ropes = {r};
  if (m.architecture == "gemma3" && window) {  // their sliding layers have a rotary embedding of their own
    shape.ropes.push_back({.pairing = r.pairing, .rotary_dims = r.rotary_dims, .base = 10000});
  }
  for (int l = 0; l < layers; ++l) {
    if (kv_heads[std::size_t(l)] == 0) {
      shape.layers.push_back({});
      continue;
    }
    const int w = window > 0 && sliding[std::size_t(l)] ? window : 0;
    shape.layers.push_back({kv_heads[std::size_t(l)], dim_k, dim_v, w && shape.ropes.size() > 1 ? 1 : 0, w});
  }
  if (validate(sluice::profile::uncalibrated(shape)) != sluice::status::ok)
    return give_up("a cache that profiles know");
  m.shape = std::move(shape);
  return m;
}

}  // namespace slot
