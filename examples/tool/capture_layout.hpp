// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <safetensors.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/shape.hpp>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdint>
#include <cstdio>
#include <iterator>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// What the header of a capture says, whoever wrote it: which layers there are, where their tokens stand, how keys were rotated.

/// For --help: the form of a capture.
inline constexpr char capture_form[] =
    "A capture is a safetensors file with k.{layer} and v.{layer} [tokens, kv_heads, head_dim] as the engine caches\n"
    "them (K after its rotary embedding); F32, F16, BF16, F8_E4M3, F8_E5M2 or U8 (opaque), which may differ by layer.\n"
    "A number that is left out is a layer without a cache. Metadata, all of it text:\n"
    "  layers     layers of the model (one more than the highest number)\n"
    "  position   of the first token of the longest layer (0)\n"
    "  window     tokens that sliding-window attention sees (0 = all). A layer with a window may hold only the last\n"
    "             tokens of the sequence, at least window - 1 of them\n"
    "  rope_base  base of the rotary embedding; 0 = none. With it:\n"
    "    rope_pairing           half (rotate-half, Hugging Face), interleaved (GPT-J), none        (half)\n"
    "    rope_dims              leading dims of a head that rotate; 0 = all of them                (0)\n"
    "    rope_scaling           none, linear, ntk, yarn, yarn_untruncated, llama3                  (none)\n"
    "    rope_factor            of the scaling\n"
    "    rope_original_context  tokens the model was trained on (yarn, llama3)\n"
    "    rope_low_freq          llama3: low_freq_factor, yarn: beta_slow                           (1)\n"
    "    rope_high_freq         llama3: high_freq_factor (4), yarn: beta_fast (32)\n"
    "    rope_attention_factor  cos and sin are multiplied by it         (1; yarn: 0.1 ln(rope_factor) + 1)\n"
    "window and rope_* hold for all layers, window.{layer} and rope_*.{layer} for one and before those for all.";

/// The header of a capture, understood and checked. Tensors belong to the header it was read from.
struct capture_layout {
  struct layer {
    const safetensors::tensor* k = nullptr;  ///< null = the layer is absent
    const safetensors::tensor* v = nullptr;  ///< null = it keeps no V
    std::int64_t position = 0;               ///< of its first token
    std::int64_t tokens = 0;
    bool says_rope = false;  ///< whether any rope_* holds for it
  };
  sluice::model_shape shape;
  std::vector<layer> layers;
  std::int64_t position = 0;  ///< of the longest layer's first token
  std::int64_t tokens = 0;    ///< of the longest layer

  /// Reads a header that passed safetensors::parse_header. What it leaves open about windows is as in `model`, if given.
  /// Returns what is wrong, in words.
  std::optional<std::string> read(const safetensors::metadata& meta, std::span<const safetensors::tensor> tensors,
                                  const sluice::model_shape* model = nullptr);
};

/// Furthest position of a capture's first token, and most tokens.
inline constexpr std::int64_t max_capture_position = std::int64_t{1} << 40, max_capture_tokens = std::int64_t{1} << 26;

inline std::optional<sluice::dtype> type_of(safetensors::dtype t) noexcept {
  switch (t) {
    case safetensors::dtype::f32: return sluice::dtype::f32;
    case safetensors::dtype::f16: return sluice::dtype::f16;
    case safetensors::dtype::bf16: return sluice::dtype::bf16;
    case safetensors::dtype::f8_e4m3: return sluice::dtype::e4m3;
    case safetensors::dtype::f8_e5m2: return sluice::dtype::e5m2;
    case safetensors::dtype::u8: return sluice::dtype::bytes;
    default: return std::nullopt;
  }
}
inline safetensors::dtype type_of(sluice::dtype t) noexcept {
  switch (t) {
    case sluice::dtype::f32: return safetensors::dtype::f32;
    case sluice::dtype::f16: return safetensors::dtype::f16;
    case sluice::dtype::bf16: return safetensors::dtype::bf16;
    case sluice::dtype::e4m3: return safetensors::dtype::f8_e4m3;
    case sluice::dtype::e5m2: return safetensors::dtype::f8_e5m2;
    case sluice::dtype::bytes: return safetensors::dtype::u8;
  }
  return safetensors::dtype::u8;
}

namespace capture_detail {

inline constexpr std::string_view rope_keys[] = {"rope_base",      "rope_pairing",          "rope_dims",
                                                 "rope_scaling",   "rope_factor",           "rope_low_freq",
                                                 "rope_high_freq", "rope_original_context", "rope_attention_factor"};
inline constexpr std::string_view pairings[] = {"none", "half", "interleaved"};  // by rope_pairing
inline constexpr std::string_view scalings[] = {"none", "linear", "ntk",         // by rope_scaling
                                                "yarn", "llama3", "yarn_untruncated"};

template <class T>
std::optional<T> number(std::string_view s) {
  T x{};
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), x);
  return error == std::errc{} && end == s.data() + s.size() ? std::optional<T>(x) : std::nullopt;
}

/// The layer that a name such as k.12 ends in: decimal, no zeros in front. Nothing where it is none.
inline std::optional<int> layer_number(std::string_view digits) {
  if (digits.empty() || digits.size() > 9 || (digits.size() > 1 && digits[0] == '0') ||
      digits.find_first_not_of("0123456789") != digits.npos)
    return std::nullopt;
  return number<int>(digits);
}

/// Metadata of one layer: KEY.{layer}, else KEY.
class layer_metadata {
 public:
  layer_metadata(const safetensors::metadata& meta, int layer) : meta_(meta), layer_(std::to_string(layer)) {}

  const std::string* find(std::string_view key) {
    auto m = meta_.find(std::string(key) + "." + layer_);
    if (m == meta_.end()) m = meta_.find(std::string(key));
    if (m == meta_.end()) return nullptr;
    name_ = &m->first;
    return &m->second;
  }

  /// Leaves `x` as it is where nothing is said; says what is wrong where it is out of [low, high].
  template <class T>
  std::optional<std::string> read(std::string_view key, T& x, T low, T high) {
    const std::string* text = find(key);
    if (!text) return std::nullopt;
    const std::optional<T> there = number<T>(*text);
    if (!there || !(*there >= low && *there <= high)) return wrong("no sensible number");
    x = *there;
    return std::nullopt;
  }
  template <class Enum, std::size_t N>
  std::optional<std::string> read(std::string_view key, Enum& x, const std::string_view (&names)[N]) {
    const std::string* text = find(key);
    if (!text) return std::nullopt;
    const auto there = std::find(std::begin(names), std::end(names), *text);
    std::string all;
    for (const std::string_view n : names) all += (all.empty() ? "" : ", ") + std::string(n);
    if (there == std::end(names)) return wrong("none of " + all);
    x = Enum(there - std::begin(names));
    return std::nullopt;
  }

 private:
  std::string wrong(const std::string& what) const {
    return "metadata " + *name_ + ": \"" + meta_.at(*name_) + "\" is " + what;
  }
  const safetensors::metadata& meta_;
  const std::string* name_ = nullptr;
  std::string layer_;
};

/// The rotary embedding of one layer; `said` tells whether the capture says anything about it.
inline std::optional<std::string> read_rope(const safetensors::metadata& meta, int layer, int head_dim, sluice::rope& r,
                                            bool& said) {
  using sluice::rope_pairing;
  using sluice::rope_scaling;
  layer_metadata m(meta, layer);
  const std::string where = "layer " + std::to_string(layer) + ": ";
  r = {};
  said = std::any_of(std::begin(rope_keys), std::end(rope_keys), [&](std::string_view key) { return m.find(key); });
  const bool based = m.find("rope_base");
  double base = 0;
  if (auto e = m.read("rope_base", base, 0.0, 1e30)) return e;
  if (auto e = m.read("rope_pairing", r.pairing, pairings)) return e;
  if (!m.find("rope_pairing") && base == 0) r.pairing = rope_pairing::none;
  if (base > 0 && base < 1) return where + "a rope_base below 1 is none";
  if (base > 0) r.base = base;
  if (r.pairing != rope_pairing::none && base == 0)
    return where + (based ? "rope_base 0 means no rotary embedding, rope_pairing says there is one"
                          : "rope_pairing without rope_base");
  if (auto e = m.read("rope_dims", r.rotary_dims, 0, sluice::max_head_dim)) return e;
  if (auto e = m.read("rope_scaling", r.scaling, scalings)) return e;
  const bool yarn = r.scaling == rope_scaling::yarn || r.scaling == rope_scaling::yarn_untruncated;
  if (yarn) r.high_freq = 32;
  if (auto e = m.read("rope_factor", r.factor, 1e-6, 1e9)) return e;
  if (auto e = m.read("rope_low_freq", r.low_freq, 1e-6, 1e9)) return e;
  if (auto e = m.read("rope_high_freq", r.high_freq, 1e-6, 1e9)) return e;
  if (auto e = m.read("rope_original_context", r.original_context, 0.0, 1e12)) return e;
  if (yarn && r.factor > 0) r.attention_factor = sluice::yarn_attention_factor(r.factor);
  if (auto e = m.read("rope_attention_factor", r.attention_factor, 1e-6, 1e6)) return e;
  if (r.pairing == rope_pairing::none) {
    if (said && !based && !m.find("rope_pairing")) return where + "rope_* without rope_base";
    r = {};
    r.pairing = rope_pairing::none;
    return std::nullopt;
  }
  if (r.scaling == rope_scaling::none && r.factor != 1) return where + "rope_factor without rope_scaling";
  if (r.scaling != rope_scaling::none && !m.find("rope_factor")) return where + "rope_scaling without rope_factor";
  if ((yarn || r.scaling == rope_scaling::llama3) && !(r.original_context > 0))
    return where + "rope_scaling without rope_original_context";
  if (validate(r, head_dim) != sluice::status::ok)
    return where + "its rotary embedding does not fit heads of " + std::to_string(head_dim) +
           " (an odd or too large rope_dims, rope_low_freq not below rope_high_freq, rope_base of 1 or less?)";
  return std::nullopt;
}

// Keys that begin with rope_ and are none of ours: a misspelt one must not pass for silence.
inline std::optional<std::string> check_rope_keys(const safetensors::metadata& meta) {
  for (auto m = meta.lower_bound("rope_"); m != meta.end() && m->first.starts_with("rope_"); ++m) {
    const std::string_view key = m->first;
    const std::size_t dot = key.find('.');
    if (std::find(std::begin(rope_keys), std::end(rope_keys), key.substr(0, dot)) == std::end(rope_keys) ||
        (dot != key.npos && !layer_number(key.substr(dot + 1))))
      return "metadata " + m->first +
             " is not known; there are rope_base, rope_pairing, rope_dims, rope_scaling, "
             "rope_factor, rope_low_freq, rope_high_freq, rope_original_context and rope_attention_factor, each also "
             "with .{layer}";
  }
  return std::nullopt;
}

inline std::string real(double x) {
  char text[32];
  return {text, std::to_chars(text, text + sizeof text, x).ptr};  // the shortest that reads back as x
}

}  // namespace capture_detail

/// Writes window and rotary embedding of one layer, so that capture_layout reads them back.
inline void write_layer_metadata(safetensors::metadata& meta, int layer, const sluice::layer_shape& s,
                                 std::span<const sluice::rope> ropes) {
  using namespace capture_detail;
  const std::string at = "." + std::to_string(layer);
  meta["window" + at] = std::to_string(s.window);
  if (ropes.empty()) return;
  const sluice::rope& r = ropes[std::size_t(s.rope_index)];
  const bool none = r.pairing == sluice::rope_pairing::none;
  meta["rope_base" + at] = none ? "0" : real(r.base);
  meta["rope_pairing" + at] = pairings[std::size_t(r.pairing)];
  if (none) return;
  meta["rope_dims" + at] = std::to_string(r.rotary_dims);
  meta["rope_scaling" + at] = scalings[std::size_t(r.scaling)];
  // Without a scaling a factor does nothing.
  meta["rope_factor" + at] = real(r.scaling == sluice::rope_scaling::none ? 1 : r.factor);
  meta["rope_low_freq" + at] = real(r.low_freq);
  meta["rope_high_freq" + at] = real(r.high_freq);
  meta["rope_original_context" + at] = real(r.original_context);
  meta["rope_attention_factor" + at] = real(r.attention_factor);
}

inline std::optional<std::string> capture_layout::read(const safetensors::metadata& meta,
                                                       std::span<const safetensors::tensor> tensors,
                                                       const sluice::model_shape* model) {
  using namespace capture_detail;
  *this = {};
  if (auto e = check_rope_keys(meta)) return e;

  // Layers by their numbers.
  std::vector<std::pair<int, const safetensors::tensor*>> found[2];
  int count = 0;
  for (const safetensors::tensor& t : tensors) {
    if (!t.name.starts_with("k.") && !t.name.starts_with("v.")) continue;
    const std::string_view digits = std::string_view(t.name).substr(2);
    if (digits.empty() || digits.find_first_not_of("0123456789") != digits.npos) continue;  // another's tensor
    const std::optional<int> l = layer_number(digits);
    if (!l || *l >= sluice::max_model_layers)
      return t.name + " is no layer: they are numbered from 0 to " + std::to_string(sluice::max_model_layers - 1);
    found[t.name[0] == 'v'].push_back({*l, &t});
    count = std::max(count, *l + 1);
  }
  if (!count) return "holds no k.{layer}";
  if (const auto said = meta.find("layers"); said != meta.end()) {
    const std::optional<int> n = number<int>(said->second);
    if (!n || *n < count || *n > sluice::max_model_layers)
      return "metadata layers: \"" + said->second + "\" is no number from " + std::to_string(count) +
             " (one more than the highest layer here) to " + std::to_string(sluice::max_model_layers);
    count = *n;
  }
  layers.resize(std::size_t(count));
  shape.layers.resize(std::size_t(count));
  for (const auto& [l, t] : found[0]) layers[std::size_t(l)].k = t;
  for (const auto& [l, t] : found[1]) layers[std::size_t(l)].v = t;
  if (const auto said = meta.find("position"); said != meta.end()) {
    const auto p = number<std::int64_t>(said->second);
    if (!p || *p < 0 || *p > max_capture_position)
      return "metadata position: \"" + said->second + "\" is no number from 0 to " +
             std::to_string(max_capture_position);
    position = *p;
  }

  for (int l = 0; l < count; ++l) {
    layer& at = layers[std::size_t(l)];
    if (!at.k && !at.v) continue;
    const std::string which = "layer " + std::to_string(l) + ": ";
    if (!at.k) return which + "has v but no k";
    for (const safetensors::tensor* t : {at.k, at.v}) {
      if (!t) continue;
      if (t->shape.size() != 3) return which + t->name + " is not [tokens, kv_heads, head_dim]";
      if (!type_of(t->type))
        return which + t->name + " is of type " + std::string(name_of(t->type)) + ", which no cache is of";
      if (t->shape[0] != at.k->shape[0] || t->shape[1] != at.k->shape[1])
        return which + "k and v disagree on tokens or heads";
      if (t->shape[0] < 0 || t->shape[0] > max_capture_tokens || t->shape[1] < 1 ||
          t->shape[1] > sluice::max_kv_heads || t->shape[2] < 1 || t->shape[2] > sluice::max_head_dim)
        return which + "sizes of " + t->name + " are absurd";
    }
    sluice::layer_shape& s = shape.layers[std::size_t(l)];
    at.tokens = at.k->shape[0];
    tokens = std::max(tokens, at.tokens);
    s.num_kv_heads = std::int32_t(at.k->shape[1]);
    s.head_dim_k = std::int32_t(at.k->shape[2]);
    s.head_dim_v = at.v ? std::int32_t(at.v->shape[2]) : 0;
    if (model && l < model->num_layers()) s.window = model->layers[std::size_t(l)].window;
    if (auto e = layer_metadata(meta, l).read("window", s.window, 0, 1 << 30)) return e;
    sluice::rope r;
    if (auto e = read_rope(meta, l, s.head_dim_k, r, at.says_rope)) return e;
    auto same = std::find(shape.ropes.begin(), shape.ropes.end(), r);
    if (same == shape.ropes.end()) same = shape.ropes.insert(same, r);
    s.rope_index = std::int32_t(same - shape.ropes.begin());
    if (shape.ropes.size() > std::size_t(sluice::max_ropes))
      return "has more than " + std::to_string(sluice::max_ropes) + " different rotary embeddings";
  }

  // All layers end where the sequence ends.
  for (int l = 0; l < count; ++l) {
    layer& at = layers[std::size_t(l)];
    at.position = position + tokens - at.tokens;
    if (!at.k || at.tokens == tokens) continue;
    const sluice::layer_shape& s = shape.layers[std::size_t(l)];
    const std::string held = "layer " + std::to_string(l) + ": holds " + std::to_string(at.tokens) + " of " +
                             std::to_string(tokens) + " tokens";
    if (s.window == 0) return held + " and has no window in the metadata";
    if (at.tokens < s.needed(tokens))
      return held + ", its window of " + std::to_string(s.window) + " sees " + std::to_string(s.needed(tokens));
  }
  return std::nullopt;
}
