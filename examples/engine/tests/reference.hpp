// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "../config.hpp"
#include "../quants.hpp"

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

// The decoder written down once more, as plainly as possible: doubles, no tiles, no cache, and llama's rotary pairs left
// interleaved as the file has them.

namespace reference {

using rows = std::vector<std::vector<double>>;

struct output {
  std::vector<rows> k, v;  // [layer][token][kv_heads * head_dim], K rotated, in rotate-half order
  rows logits;             // [token][vocab]
};

inline rows load(const engine::tensor& t) {
  rows m(t.rows, std::vector<double>(t.cols));
  std::vector<float> row(t.cols);
  for (std::size_t r = 0; r < t.rows; ++r) {
    engine::dequantize_row(t, r, row.data());
    m[r].assign(row.begin(), row.end());
  }
  return m;
}

inline std::vector<double> product(const rows& w, const std::vector<double>& x) {
  std::vector<double> y;
  for (const auto& row : w) {
    double sum = 0;
    for (std::size_t i = 0; i < x.size(); ++i) sum += row[i] * x[i];
    y.push_back(sum);
  }
  return y;
}

inline void norm(double* x, const engine::tensor& weight, double eps) {
  const std::vector<double> w = load(weight)[0];
  double sum = 0;
  for (std::size_t i = 0; i < w.size(); ++i) sum += x[i] * x[i];
  for (std::size_t i = 0; i < w.size(); ++i) x[i] *= w[i] / std::sqrt(sum / double(w.size()) + eps);
}

inline void rotate(double* x, int n, double base, int position, bool interleaved) {
  for (int i = 0; i < n / 2; ++i) {
    double &a = x[interleaved ? 2 * i : i], &b = x[interleaved ? 2 * i + 1 : i + n / 2];
    const double angle = position * std::pow(base, -2.0 * i / n), c = std::cos(angle), s = std::sin(angle);
    const double a2 = a * c - b * s;
    b = b * c + a * s;
    a = a2;
  }
}

inline output forward(const engine::gguf& file, std::span<const std::int32_t> ids) {
  engine::model_config c = engine::read_config(file);
  const engine::model_tensors m = engine::find_tensors(file, c);
  const bool llama = c.arch == engine::architecture::llama, gemma = c.arch == engine::architecture::gemma3;
  const int n = int(ids.size()), d = c.head_dim;
  output out;
  rows x;
  const rows embedding = load(*m.embedding);
  for (const std::int32_t t : ids) {
    x.push_back(embedding[std::size_t(t)]);
    for (double& e : x.back()) e *= gemma ? std::sqrt(double(c.dim)) : 1;
  }
  for (int l = 0; l < c.layers; ++l) {
    const engine::layer_tensors& w = m.layers[std::size_t(l)];
    rows q, k, v;
    const rows wq = load(*w.q), wk = load(*w.k), wv = load(*w.v), wo = load(*w.o), gate = load(*w.gate),
               up = load(*w.up), down = load(*w.down);
    for (int t = 0; t < n; ++t) {
      std::vector<double> h = x[std::size_t(t)];
      norm(h.data(), *w.attn_norm, double(c.eps));
      q.push_back(product(wq, h)), k.push_back(product(wk, h)), v.push_back(product(wv, h));
      if (w.q_bias) {
        const auto add = [](std::vector<double>& y, const engine::tensor& bias) {
          const std::vector<double> b = load(bias)[0];
          for (std::size_t i = 0; i < y.size(); ++i) y[i] += b[i];
        };
        add(q.back(), *w.q_bias), add(k.back(), *w.k_bias), add(v.back(), *w.v_bias);
      }
      for (int h0 = 0; h0 < c.heads * d; h0 += d) {
        if (w.q_norm) norm(q.back().data() + h0, *w.q_norm, double(c.eps));
        rotate(q.back().data() + h0, d, c.layer_rope_base(l), t, llama);
      }
      for (int h0 = 0; h0 < c.kv_heads * d; h0 += d) {
        if (w.k_norm) norm(k.back().data() + h0, *w.k_norm, double(c.eps));
        rotate(k.back().data() + h0, d, c.layer_rope_base(l), t, llama);
      }
    }
    for (int t = 0; t < n; ++t) {
      std::vector<double> o(std::size_t(c.heads * d));
      for (int h = 0; h < c.heads; ++h) {
        const int kv = h / (c.heads / c.kv_heads);
        std::vector<double> weight(std::size_t(n), 0.0);
        double sum = 0;
        for (int s = 0; s <= t; ++s) {
          if (c.sliding(l) && s <= t - c.window) continue;
          double dot = 0;
          for (int i = 0; i < d; ++i)
            dot += q[std::size_t(t)][std::size_t(h * d + i)] * k[std::size_t(s)][std::size_t(kv * d + i)];
          sum += weight[std::size_t(s)] = std::exp(dot / std::sqrt(double(d)));
        }
        for (int s = 0; s <= t; ++s)
          for (int i = 0; i < d; ++i)
            o[std::size_t(h * d + i)] += weight[std::size_t(s)] / sum * v[std::size_t(s)][std::size_t(kv * d + i)];
      }
      std::vector<double> attended = product(wo, o), &residual = x[std::size_t(t)];
      if (w.post_attn_norm) norm(attended.data(), *w.post_attn_norm, double(c.eps));
      for (std::size_t i = 0; i < residual.size(); ++i) residual[i] += attended[i];
      std::vector<double> h = residual;
      norm(h.data(), *w.ffn_norm, double(c.eps));
      std::vector<double> g = product(gate, h);
      const std::vector<double> u = product(up, h);
      for (std::size_t i = 0; i < g.size(); ++i)
        g[i] = u[i] * (gemma ? 0.5 * g[i] * (1 + std::tanh(0.7978845608 * (g[i] + 0.044715 * g[i] * g[i] * g[i])))
                             : g[i] / (1 + std::exp(-g[i])));
      std::vector<double> f = product(down, g);
      if (w.post_ffn_norm) norm(f.data(), *w.post_ffn_norm, double(c.eps));
      for (std::size_t i = 0; i < residual.size(); ++i) residual[i] += f[i];
    }
    if (llama)
      for (auto& row : k) {
        const std::vector<double> pairs = row;
        for (int i = 0; i < c.kv_heads * d; ++i) {
          const int head = i / d * d, j = i % d;
          row[std::size_t(head + j % 2 * d / 2 + j / 2)] = pairs[std::size_t(i)];
        }
      }
    out.k.push_back(k), out.v.push_back(v);
  }
  const rows head = load(*m.head);
  for (auto& row : x) {
    norm(row.data(), *m.norm, double(c.eps));
    out.logits.push_back(product(head, row));
  }
  return out;
}

}  // namespace reference
