// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gguf.hpp"

#include <sluice/tensor/shape.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

// What a model is made of: hyper-parameters and tensors by role, checked against each other, so that everything behind
// this header can trust them.

namespace engine {

enum class architecture { llama, qwen2, gemma3 };

constexpr const char* to_string(architecture a) noexcept {
  switch (a) {
    case architecture::llama: return "llama";
    case architecture::qwen2: return "qwen2";
    case architecture::gemma3: return "gemma3";
  }
  return "?";
}

struct model_config {
  architecture arch = architecture::llama;
  int layers = 0, dim = 0, ffn_dim = 0, heads = 0, kv_heads = 0, head_dim = 0, vocab = 0;
  int context = 0;  ///< tokens the model was trained on
  int window = 0;   ///< of the layers with sliding-window attention
  float eps = 0;
  double rope_base = 10000;

  // Gemma 3: five layers that see a window, then one that sees everything.
  bool sliding(int layer) const noexcept { return arch == architecture::gemma3 && (layer + 1) % 6 != 0; }
  int layer_window(int layer) const noexcept { return sliding(layer) ? window : 0; }
  double layer_rope_base(int layer) const noexcept { return sliding(layer) ? 10000.0 : rope_base; }
};

/// The KV of a model as sluice describes it; rotary embeddings in the order in which layers first use them.
inline sluice::model_shape kv_shape(const model_config& c) {
  sluice::model_shape shape;
  for (int l = 0; l < c.layers; ++l) {
    const sluice::rope r{.base = c.layer_rope_base(l)};
    const auto at = std::find(shape.ropes.begin(), shape.ropes.end(), r) - shape.ropes.begin();
    if (at == std::ssize(shape.ropes)) shape.ropes.push_back(r);
    shape.layers.push_back({c.kv_heads, c.head_dim, c.head_dim, std::int32_t(at), c.layer_window(l)});
  }
  return shape;
}

/// Tensors of one decoder layer; those an architecture lacks are null.
struct layer_tensors {
  const tensor *attn_norm = nullptr, *q = nullptr, *k = nullptr, *v = nullptr, *o = nullptr;
  const tensor *q_bias = nullptr, *k_bias = nullptr, *v_bias = nullptr;
  const tensor *q_norm = nullptr, *k_norm = nullptr, *post_attn_norm = nullptr;
  const tensor *ffn_norm = nullptr, *gate = nullptr, *up = nullptr, *down = nullptr, *post_ffn_norm = nullptr;
};

struct model_tensors {
  const tensor *embedding = nullptr, *norm = nullptr, *head = nullptr;  ///< head may be the embedding
  std::vector<layer_tensors> layers;
};

/// Reads hyper-parameters. Errors: unknown_architecture, missing, malformed, unsupported.
inline model_config read_config(const gguf& file) {
  model_config c;
  const std::string arch(file.text("general.architecture").value_or(""));
  if (arch == "llama")
    c.arch = architecture::llama;
  else if (arch == "qwen2")
    c.arch = architecture::qwen2;
  else if (arch == "gemma3")
    c.arch = architecture::gemma3;
  else
    throw file_error(file_errc::unknown_architecture,
                     file.has("general.architecture") ? "'" + arch.substr(0, 40) + "'" : "no name");

  const auto number = [&](const char* key, int low, int high, int otherwise = -1) {
    const std::string name = arch + "." + key;
    const int x = file.number<int>(name).value_or(file.has(name) ? -1 : otherwise);
    if (x == -1 && !file.has(name)) throw file_error(file_errc::missing, name);
    if (x < low || x > high) throw file_error(file_errc::malformed, name);
    return x;
  };
  c.layers = number("block_count", 1, 1024);
  c.dim = number("embedding_length", 1, 1 << 16);
  c.ffn_dim = number("feed_forward_length", 1, 1 << 18);
  c.heads = number("attention.head_count", 1, 1024);
  c.kv_heads = number("attention.head_count_kv", 1, 1024, c.heads);
  c.head_dim = number("attention.key_length", 2, 1024, c.dim / c.heads);
  c.context = number("context_length", 1, 1 << 30);
  if (c.heads % c.kv_heads) throw file_error(file_errc::malformed, "heads are not a multiple of kv heads");
  if (c.head_dim % 2) throw file_error(file_errc::malformed, "the size of a head is odd");
  if (number("attention.value_length", 1, 1024, c.head_dim) != c.head_dim)
    throw file_error(file_errc::unsupported, "K and V of different sizes");
  if (number("rope.dimension_count", 1, 1024, c.head_dim) != c.head_dim)
    throw file_error(file_errc::unsupported, "rotary embeddings of a part of the head");
  if (file.text(arch + ".rope.scaling.type").value_or("none") != "none" || file.find("rope_freqs.weight"))
    throw file_error(file_errc::unsupported, "scaled rotary embeddings");
  if (file.number<int>(arch + ".expert_count").value_or(0) != 0) throw file_error(file_errc::unsupported, "experts");
  c.eps = file.number<float>(arch + ".attention.layer_norm_rms_epsilon").value_or(-1.f);
  if (!(c.eps > 0 && c.eps < 1)) throw file_error(file_errc::malformed, arch + ".attention.layer_norm_rms_epsilon");
  c.rope_base = file.number<double>(arch + ".rope.freq_base").value_or(10000.0);
  if (!(c.rope_base > 1 && c.rope_base < 1e12)) throw file_error(file_errc::malformed, arch + ".rope.freq_base");
  if (c.arch == architecture::gemma3) c.window = number("attention.sliding_window", 1, 1 << 30);
  return c;
}

/// Finds every tensor the model needs and checks its shape; sets `c.vocab`. Errors: missing, wrong_shape.
inline model_tensors find_tensors(const gguf& file, model_config& c) {
  const auto expect = [](const tensor* t, const std::string& name, int rows, int cols) {
    if (t->rows != std::uint64_t(rows) || t->cols != std::uint64_t(cols))
      throw file_error(file_errc::wrong_shape, name);
    return t;
  };
  const auto optional = [&](const std::string& name, int rows, int cols) -> const tensor* {
    const tensor* t = file.find(name);
    return t ? expect(t, name, rows, cols) : nullptr;
  };
  const auto need = [&](const std::string& name, int rows, int cols) {
    const tensor* t = optional(name, rows, cols);
    if (!t) throw file_error(file_errc::missing, name);
    return t;
  };

  model_tensors m;
  const tensor* embedding = file.find("token_embd.weight");
  if (!embedding) throw file_error(file_errc::missing, "token_embd.weight");
  if (embedding->rows > (1u << 22)) throw file_error(file_errc::malformed, "vocabulary");
  c.vocab = int(embedding->rows);
  m.embedding = expect(embedding, "token_embd.weight", c.vocab, c.dim);
  m.norm = need("output_norm.weight", 1, c.dim);
  m.head = optional("output.weight", c.vocab, c.dim);
  if (!m.head) m.head = m.embedding;

  const int q_dim = c.heads * c.head_dim, kv_dim = c.kv_heads * c.head_dim;
  for (int i = 0; i < c.layers; ++i) {
    const std::string p = "blk." + std::to_string(i) + ".";
    layer_tensors l;
    l.attn_norm = need(p + "attn_norm.weight", 1, c.dim);
    l.q = need(p + "attn_q.weight", q_dim, c.dim);
    l.k = need(p + "attn_k.weight", kv_dim, c.dim);
    l.v = need(p + "attn_v.weight", kv_dim, c.dim);
    l.o = need(p + "attn_output.weight", c.dim, q_dim);
    l.q_bias = optional(p + "attn_q.bias", 1, q_dim);
    l.k_bias = optional(p + "attn_k.bias", 1, kv_dim);
    l.v_bias = optional(p + "attn_v.bias", 1, kv_dim);
    if (!l.q_bias != !l.k_bias || !l.q_bias != !l.v_bias) throw file_error(file_errc::missing, p + "attn_{q,k,v}.bias");
    l.q_norm = optional(p + "attn_q_norm.weight", 1, c.head_dim);
    l.k_norm = optional(p + "attn_k_norm.weight", 1, c.head_dim);
    l.post_attn_norm = optional(p + "post_attention_norm.weight", 1, c.dim);
    l.ffn_norm = need(p + "ffn_norm.weight", 1, c.dim);
    l.gate = need(p + "ffn_gate.weight", c.ffn_dim, c.dim);
    l.up = need(p + "ffn_up.weight", c.ffn_dim, c.dim);
    l.down = need(p + "ffn_down.weight", c.dim, c.ffn_dim);
    l.post_ffn_norm = optional(p + "post_ffw_norm.weight", 1, c.dim);
    m.layers.push_back(l);
  }
  return m;
}

}  // namespace engine
