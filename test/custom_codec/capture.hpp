// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/tensor/half.hpp>
#include <sluice/tensor/view.hpp>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

/// A cache of one model, all layers alike, f16, dense: [layer][K, V][token][head][element].
class cache {
 public:
  int layers = 0, tokens = 0, heads = 0, dim = 0;
  std::vector<std::byte> bytes;
  std::vector<std::int32_t> ids;  ///< of the tokens

  cache() = default;
  /// One of the same shape, filled with a byte that nobody wrote.
  static cache like(const cache& c) {
    cache out;
    out.layers = c.layers, out.tokens = c.tokens, out.heads = c.heads, out.dim = c.dim;
    out.bytes.assign(c.bytes.size(), std::byte{0xa5});
    return out;
  }

  /// Reads K, V and ids of a safetensors capture whose layers are alike; false where it is no such file.
  bool read(const std::string& path, const sluice::model_shape& shape) {
    std::ifstream in(path, std::ios::binary);
    const std::string file{std::istreambuf_iterator<char>(in), {}};
    std::uint64_t header = 0;
    if (file.size() < 8) return false;
    std::memcpy(&header, file.data(), 8);
    if (header > file.size() - 8) return false;
    layers = shape.num_layers();
    heads = shape.layers.at(0).num_kv_heads;
    dim = shape.layers.at(0).head_dim_k;
    const auto tensor = [&](const std::string& name, std::vector<std::byte>& out) {
      std::size_t at = file.find('"' + name + '"');
      if (at == std::string::npos || (at = file.find("data_offsets", at)) >= header) return false;
      char* next = const_cast<char*>(file.data()) + file.find('[', at) + 1;
      const std::uint64_t begin = std::strtoull(next, &next, 10), end = std::strtoull(next + 1, nullptr, 10);
      if (begin > end || end > file.size() - 8 - header) return false;
      const auto* data = reinterpret_cast<const std::byte*>(file.data()) + 8 + header;
      out.insert(out.end(), data + begin, data + end);
      return true;
    };
    for (int l = 0; l < layers; ++l)
      for (const char* p : {"k.", "v."})
        if (!tensor(p + std::to_string(l), bytes)) return false;
    tokens = int(bytes.size() / (std::size_t(layers) * 2 * row_bytes()));
    std::vector<std::byte> raw;
    if (!tensor("ids", raw) || raw.size() < std::size_t(tokens) * 4) return false;
    ids.resize(std::size_t(tokens));
    std::memcpy(ids.data(), raw.data(), ids.size() * 4);
    return true;
  }

  std::size_t row_bytes() const { return std::size_t(heads) * std::size_t(dim) * 2; }
  std::size_t plane_bytes() const { return row_bytes() * std::size_t(tokens); }
  std::size_t offset(int layer, sluice::plane p) const {
    return (std::size_t(layer) * 2 + std::size_t(p)) * plane_bytes();
  }

  sluice::kv_view view() {
    sluice::kv_view v;
    v.num_layers = layers;
    v.num_kv_heads = heads;
    v.tokens = v.capacity = tokens;
    for (sluice::plane_view* p : {&v.k, &v.v}) {
      p->base = bytes.data() + (p == &v.v ? plane_bytes() : 0);
      p->layer_stride = std::int64_t(2 * plane_bytes());
      p->token_stride = std::int64_t(row_bytes());
      p->head_stride = dim * 2;
      p->element_stride = 2;
      p->head_dim = dim;
    }
    return v;
  }

  /// K or V of a layer as floats, from a token on.
  std::vector<float> floats(int layer, sluice::plane p, int first_token = 0) const {
    std::vector<float> out(std::size_t(tokens - first_token) * row_bytes() / 2);
    const std::byte* at = bytes.data() + offset(layer, p) + std::size_t(first_token) * row_bytes();
    for (std::size_t i = 0; i < out.size(); ++i) {
      sluice::f16 h;
      std::memcpy(&h.bits, at + 2 * i, 2);
      out[i] = to_float(h);
    }
    return out;
  }
};
