// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../gguf.hpp"

#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

// Makes small GGUF files with random weights, so that the engine is tested without any download.

namespace tiny {

using engine::tensor_type;

/// Collects keys and tensors and lays them out as a GGUF file.
class gguf_writer {
 public:
  void text(std::string_view key, std::string_view value) { begin(key, 8), put(value); }
  void number(std::string_view key, std::uint32_t value) { begin(key, 4), put(value); }
  void real(std::string_view key, float value) { begin(key, 6), put(value); }
  void flag(std::string_view key, bool value) { begin(key, 7), put(std::uint8_t(value)); }
  void texts(std::string_view key, const std::vector<std::string>& values) {
    begin(key, 9), put(std::uint32_t{8}), put(std::uint64_t{values.size()});
    for (const std::string& v : values) put(std::string_view(v));
  }
  template <class T>
  void numbers(std::string_view key, std::uint32_t type, const std::vector<T>& values) {
    begin(key, 9), put(type), put(std::uint64_t{values.size()});
    for (const T v : values) put(v);
  }

  void tensor(std::string_view name, tensor_type type, std::vector<std::uint64_t> shape,
              const std::vector<std::uint8_t>& data) {
    std::string& to = tensors_;
    append(to, name), append(to, std::uint32_t(shape.size()));
    for (const std::uint64_t n : shape) append(to, n);
    append(to, std::uint32_t(type)), append(to, std::uint64_t{data_.size()});
    data_.append(reinterpret_cast<const char*>(data.data()), data.size());
    data_.resize((data_.size() + 31) / 32 * 32);
    ++num_tensors_;
  }

  std::string bytes() const {
    std::string out = "GGUF";
    append(out, std::uint32_t{3}), append(out, num_tensors_), append(out, num_keys_);
    out += keys_ + tensors_;
    out.resize((out.size() + 31) / 32 * 32);
    return out + data_;
  }

 private:
  template <class T>
  static void append(std::string& to, T x) {
    if constexpr (std::is_same_v<T, std::string_view>) {
      append(to, std::uint64_t{x.size()});
      to += x;
    } else {
      to.append(reinterpret_cast<const char*>(&x), sizeof x);
    }
  }
  template <class T>
  void put(T x) {
    append(keys_, x);
  }
  void begin(std::string_view key, std::uint32_t type) { put(key), put(type), ++num_keys_; }

  std::string keys_, tensors_, data_;
  std::uint64_t num_keys_ = 0, num_tensors_ = 0;
};

/// A model to make. Sizes are small, odd where that is allowed, and every kind of row occurs.
struct recipe {
  std::string arch = "llama";
  int layers = 2, dim = 64, ffn_dim = 256, heads = 4, kv_heads = 2, head_dim = 16, vocab = 300, window = 24;
  bool own_head = false;
  std::uint64_t seed = 1;
  tensor_type embedding = tensor_type::q8_0;
};

/// Blocks of random integers whose scales make elements of about `size`.
inline std::vector<std::uint8_t> random_weights(tensor_type type, std::size_t elements, float size,
                                                std::mt19937_64& random) {
  const engine::block_size b = engine::block_of(type);
  std::vector<std::uint8_t> out(elements / b.elements * b.bytes);
  for (auto& x : out) x = std::uint8_t(random());
  std::normal_distribution<float> normal(0, size);
  const auto half = [&](std::uint8_t* at, float x) {
    const std::uint16_t bits = sluice::from_float<sluice::f16>(x).bits;
    std::memcpy(at, &bits, 2);
  };
  for (std::size_t i = 0; i < out.size(); i += b.bytes) {
    std::uint8_t* at = out.data() + i;
    switch (type) {
      case tensor_type::f32: {
        const float x = normal(random);
        std::memcpy(at, &x, 4);
        break;
      }
      case tensor_type::f16: half(at, normal(random)); break;
      case tensor_type::bf16: {
        const std::uint16_t bits = sluice::from_float<sluice::bf16>(normal(random)).bits;
        std::memcpy(at, &bits, 2);
        break;
      }
      case tensor_type::q4_0: half(at, size / 5); break;
      case tensor_type::q4_1: half(at, size / 5), half(at + 2, -size * 1.5f); break;
      case tensor_type::q5_0: half(at, size / 10); break;
      case tensor_type::q5_1: half(at, size / 10), half(at + 2, -size * 1.5f); break;
      case tensor_type::q8_0: half(at, size / 74); break;
      case tensor_type::q4_k: half(at, size / 145), half(at + 2, size / 20); break;
      case tensor_type::q5_k: half(at, size / 290), half(at + 2, size / 20); break;
      case tensor_type::q6_k: half(at + 208, size / 1400); break;
    }
  }
  return out;
}

/// The characters GPT-2 writes bytes as, in UTF-8.
inline std::vector<std::string> byte_tokens() {
  std::vector<std::string> out;
  int next = 0x100;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    const int c = printable ? b : next++;
    std::string s;
    if (c < 0x80)
      s += char(c);
    else
      s += char(0xc0 | c >> 6), s += char(0x80 | (c & 63));
    out.push_back(s);
  }
  return out;
}

/// A byte-level vocabulary: 256 bytes, a few merges, control tokens, and unused ones up to `vocab`.
inline void add_tokenizer(gguf_writer& w, int vocab, std::string_view pre) {
  std::vector<std::string> tokens = byte_tokens();
  const std::vector<std::string> merges = {"h e", "l l",          "he ll", "hell o",      "\xc4\xa0 w",
                                           "o r", "\xc4\xa0w or", "i n",   "\xc4\xa0 in", "l o"};
  for (const std::string& m : merges) {
    std::string both = m;
    both.erase(both.find(' '), 1);
    tokens.push_back(both);
  }
  std::vector<std::int32_t> types(tokens.size(), 1);
  for (const char* control : {"<|endoftext|>", "<|im_start|>", "<|im_end|>"})
    tokens.emplace_back(control), types.push_back(3);
  while (int(tokens.size()) < vocab)
    tokens.push_back("<unused" + std::to_string(tokens.size()) + ">"), types.push_back(5);
  w.text("tokenizer.ggml.model", "gpt2");
  w.text("tokenizer.ggml.pre", pre);
  w.texts("tokenizer.ggml.tokens", tokens);
  w.numbers("tokenizer.ggml.token_type", 5, types);
  w.texts("tokenizer.ggml.merges", merges);
  w.number("tokenizer.ggml.eos_token_id", 268);
  w.text("tokenizer.chat_template", "{{ 'You are a test.' }}<|im_start|>");
}

inline std::string make_gguf(const recipe& r) {
  std::mt19937_64 random(r.seed);
  gguf_writer w;
  w.text("general.architecture", r.arch);
  const std::string p = r.arch + ".";
  w.number(p + "block_count", std::uint32_t(r.layers));
  w.number(p + "embedding_length", std::uint32_t(r.dim));
  w.number(p + "feed_forward_length", std::uint32_t(r.ffn_dim));
  w.number(p + "attention.head_count", std::uint32_t(r.heads));
  w.number(p + "attention.head_count_kv", std::uint32_t(r.kv_heads));
  w.number(p + "attention.key_length", std::uint32_t(r.head_dim));
  w.number(p + "context_length", 4096);
  w.real(p + "attention.layer_norm_rms_epsilon", 1e-5f);
  w.real(p + "rope.freq_base", 50000.f);
  if (r.arch == "gemma3") w.number(p + "attention.sliding_window", std::uint32_t(r.window));
  add_tokenizer(w, r.vocab, r.arch == "qwen2" ? "qwen2" : "smollm");

  const auto matrix = [&](const std::string& name, tensor_type type, int rows, int cols) {
    const float size = 1.5f / std::sqrt(float(cols));
    w.tensor(name, type, {std::uint64_t(cols), std::uint64_t(rows)},
             random_weights(type, std::size_t(rows) * std::size_t(cols), size, random));
  };
  const auto vector = [&](const std::string& name, int n, float mean, float spread) {
    std::vector<std::uint8_t> data(4 * std::size_t(n));
    std::normal_distribution<float> normal(mean, spread);
    for (int i = 0; i < n; ++i) {
      const float x = normal(random);
      std::memcpy(data.data() + 4 * i, &x, 4);
    }
    w.tensor(name, tensor_type::f32, {std::uint64_t(n)}, data);
  };
  const int q = r.heads * r.head_dim, kv = r.kv_heads * r.head_dim;
  matrix("token_embd.weight", r.embedding, r.vocab, r.dim);
  vector("output_norm.weight", r.dim, 1, 0.1f);
  if (r.own_head) matrix("output.weight", tensor_type::f16, r.vocab, r.dim);
  for (int l = 0; l < r.layers; ++l) {
    const std::string b = "blk." + std::to_string(l) + ".";
    vector(b + "attn_norm.weight", r.dim, 1, 0.1f);
    matrix(b + "attn_q.weight", tensor_type::q4_1, q, r.dim);
    matrix(b + "attn_k.weight", tensor_type::q5_0, kv, r.dim);
    matrix(b + "attn_v.weight", tensor_type::bf16, kv, r.dim);
    matrix(b + "attn_output.weight", tensor_type::q4_0, r.dim, q);
    if (r.arch == "qwen2") {
      vector(b + "attn_q.bias", q, 0, 0.5f);
      vector(b + "attn_k.bias", kv, 0, 0.5f);
      vector(b + "attn_v.bias", kv, 0, 0.5f);
    }
    if (r.arch == "gemma3") {
      vector(b + "attn_q_norm.weight", r.head_dim, 1, 0.1f);
      vector(b + "attn_k_norm.weight", r.head_dim, 1, 0.1f);
      vector(b + "post_attention_norm.weight", r.dim, 1, 0.1f);
      vector(b + "post_ffw_norm.weight", r.dim, 1, 0.1f);
    }
    vector(b + "ffn_norm.weight", r.dim, 1, 0.1f);
    matrix(b + "ffn_gate.weight", tensor_type::q5_1, r.ffn_dim, r.dim);
    matrix(b + "ffn_up.weight", tensor_type::f32, r.ffn_dim, r.dim);
    const tensor_type down[] = {tensor_type::q4_k, tensor_type::q6_k, tensor_type::q5_k};
    matrix(b + "ffn_down.weight", r.ffn_dim % 256 ? tensor_type::q8_0 : down[l % 3], r.dim, r.ffn_dim);
  }
  return w.bytes();
}

/// A file that is gone when the test is over.
class temporary_file {
 public:
  explicit temporary_file(std::string_view bytes) {
    char name[] = "/tmp/sluice-engine-XXXXXX";
    const int fd = ::mkstemp(name);
    path_ = name;
    if (std::FILE* f = fd < 0 ? nullptr : ::fdopen(fd, "wb")) {
      std::fwrite(bytes.data(), 1, bytes.size(), f);
      std::fclose(f);
    }
  }
  temporary_file(const temporary_file&) = delete;
  temporary_file& operator=(const temporary_file&) = delete;
  ~temporary_file() { std::remove(path_.c_str()); }
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

}  // namespace tiny
