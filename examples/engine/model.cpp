// SPDX-License-Identifier: Apache-2.0
#include "model.hpp"

#include <sluice/format/checksum.hpp>
#include <sluice/tensor/rope.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>

namespace engine {

namespace {

std::vector<float> floats(const tensor* t) {
  std::vector<float> v;
  if (t) {
    v.resize(std::size_t(t->cols));
    dequantize_row(*t, 0, v.data());
  }
  return v;
}

std::span<const float> flat(const matrix& m) { return {m.data(), std::size_t(m.size())}; }

}  // namespace

model::model(const std::string& path, arithmetic mode, thread_pool& pool)
    : file_(path),
      directory_(file_.bytes()),
      config_(read_config(directory_)),
      mode_(int8::accelerated ? mode : arithmetic::exact),
      pool_(&pool) {
  load();
}

void model::load() {
  const model_tensors tensors = find_tensors(directory_, config_);
  embedding_ = tensors.embedding;
  norm_ = floats(tensors.norm);
  head_ = linear({{tensors.head}}, mode_, *pool_);
  const int interleaved = config_.arch == architecture::llama ? config_.head_dim : 0;
  for (const layer_tensors& t : tensors.layers) {
    layer_weights& w = layers_.emplace_back();
    w.attn_norm = floats(t.attn_norm);
    w.q_norm = floats(t.q_norm);
    w.k_norm = floats(t.k_norm);
    w.post_attn_norm = floats(t.post_attn_norm);
    w.ffn_norm = floats(t.ffn_norm);
    w.post_ffn_norm = floats(t.post_ffn_norm);
    if (t.q_bias) {
      for (const tensor* bias : {t.q_bias, t.k_bias, t.v_bias}) {
        const std::vector<float> b = floats(bias);
        w.qkv_bias.insert(w.qkv_bias.end(), b.begin(), b.end());
      }
    }
    w.qkv = linear({{t.q, interleaved}, {t.k, interleaved}, {t.v, 0}}, mode_, *pool_);
    w.o = linear({{t.o}}, mode_, *pool_);
    w.gate_up = linear({{t.gate}, {t.up}}, mode_, *pool_);
    w.down = linear({{t.down}}, mode_, *pool_);
  }
  shape_ = kv_shape(config_);
  for (const sluice::rope& r : shape_.ropes) {
    rope_table& table = ropes_.emplace_back();
    table.frequencies.resize(std::size_t(config_.head_dim / 2));
    sluice::rope_frequencies(r, config_.head_dim, table.frequencies);
  }
}

// SHA-256 of checksums, two of each MiB: gigabytes of weights are hashed at the speed of memory, and nobody forges weights
// here.
static sluice::digest hash_of(std::span<const std::byte> file, arithmetic mode) noexcept {
  sluice::sha256 hash;
  hash.add(std::uint64_t(mode)).add(file.size());
  for (std::span rest = file; !rest.empty();) {
    const std::size_t n = std::min<std::size_t>(rest.size(), 1 << 20);
    hash.add(std::uint64_t{sluice::checksum(rest.data(), n, 1)} << 32 | sluice::checksum(rest.data(), n, 0));
    rest = rest.subspan(n);
  }
  return hash.finish();
}

sluice::digest model::identity() const noexcept { return hash_of(file_.bytes(), mode_); }

sluice::digest model::identity_of(const std::string& path, arithmetic mode) {
  const mapped_file file(path);
  return hash_of(file.bytes(), int8::accelerated ? mode : arithmetic::exact);
}

matrix model::output_projection(int layer) const {
  const linear& o = layers_[std::size_t(layer)].o;
  matrix m(o.rows(), o.cols());
  for (int r = 0; r < o.rows(); ++r) o.row(r, m.row(r).data());
  return m;
}

void model::rotate(int layer, float* head, int position) {
  rope_table& rope = rope_of(layer);
  rope.grow(position + 1);
  rope.rotate(head, position);
}

void model::forward(std::span<const std::int32_t> ids, sequence& seq, const forward_options& options) {
  const int n = int(ids.size());
  if (options.as_steps && n > 1 &&
      mode_ == arithmetic::exact) {  // products in floats depend on how many rows there are
    for (int t = 0; t < n; ++t) {
      forward_options one = options;
      one.position = options.position < 0 ? -1 : options.position + t;
      if (!options.positions.empty()) one.positions = options.positions.subspan(std::size_t(t), 1);
      if (t < (options.logits_from < 0 ? n - 1 : options.logits_from)) one.on_logits = {};
      if (!options.hidden.empty())
        one.hidden = options.hidden.subspan(std::size_t(t) * std::size_t(config_.dim), std::size_t(config_.dim));
      forward(ids.subspan(std::size_t(t), 1), seq, one);
    }
    return;
  }
  const int logits_from = options.logits_from < 0 ? n - 1 : options.logits_from;
  if (options.position >= 0 && options.position > seq.tokens() - n)
    throw std::runtime_error("tokens to compute again are outside the sequence");
  if (!options.positions.empty() &&
      (options.positions.size() != ids.size() || options.positions.front() < 0 ||
       options.positions.back() >= seq.tokens() ||
       std::ranges::adjacent_find(options.positions, std::greater_equal<>()) != options.positions.end()))
    throw std::runtime_error("positions to compute again do not ascend within the sequence");
  const int end_layer = options.end_layer < 0 ? config_.layers : options.end_layer;
  std::vector<int> at;  // of the tokens of a batch
  matrix x;             // the residual stream, [tokens of a batch][dim]
  for (int begin = 0; begin < n; begin += batch) {
    const int count = std::min(batch, n - begin);
    x.resize(count, config_.dim);
    if (options.first_layer == 0) {
      embed(ids.subspan(std::size_t(begin), std::size_t(count)), x);
    } else {
      const float* from = options.hidden.data() + std::ptrdiff_t(begin) * config_.dim;
      x = Eigen::Map<const matrix>(from, count, config_.dim);
    }
    at.resize(std::size_t(count));
    if (!options.positions.empty()) {
      std::ranges::copy(options.positions.subspan(std::size_t(begin), std::size_t(count)), at.begin());
    } else {
      std::iota(at.begin(), at.end(), options.position < 0 ? seq.tokens() : options.position + begin);
      if (options.position < 0 && seq.grow(count) != sluice::status::ok)
        throw std::runtime_error("the KV cache is full");
    }
    for (int l = options.first_layer; l < end_layer; ++l) run_layer(l, at, x, seq, options);
    if (options.end_layer >= 0 && options.on_hidden) options.on_hidden(end_layer, at[0], flat(x));
    if (options.end_layer < 0 && options.on_logits) logits(std::max(0, logits_from - begin), at, x, options);
  }
}

// In double precision: a float's angle at position 8,000 is off by a thousandth of a turn.
void model::rope_table::grow(int positions) {
  const std::size_t pairs = frequencies.size();
  for (std::size_t p = cosine.size() / pairs; p < std::size_t(positions); ++p)
    for (const double f : frequencies) {
      cosine.push_back(float(std::cos(double(p) * f)));
      sine.push_back(float(std::sin(double(p) * f)));
    }
}

void model::rope_table::rotate(float* head, int position) const noexcept {
  const std::size_t pairs = frequencies.size(), at = std::size_t(position) * pairs;
  for (std::size_t i = 0; i < pairs; ++i) {
    const float a = head[i], b = head[i + pairs], c = cosine[at + i], s = sine[at + i];
    head[i] = a * c - b * s;
    head[i + pairs] = b * c + a * s;
  }
}

// Rows of a matrix, some at a time on each thread.
template <class Body>
void model::for_rows(Eigen::Index rows, Body&& body) {
  constexpr int step = 8;
  pool_->parallel_for(int((rows + step - 1) / step), [&](int i, int) {
    for (Eigen::Index t = i * step; t < std::min<Eigen::Index>(rows, (i + 1) * step); ++t) body(t);
  });
}

// What a row is multiplied with for a mean square of 1.
float model::inverse_root(const float* row, Eigen::Index n) const noexcept {
  return 1 / std::sqrt(Eigen::Map<const Eigen::ArrayXf>(row, n).square().mean() + config_.eps);
}

// Root mean square norm of one row; `to` may be `from`.
void model::rms_norm(const float* from, const std::vector<float>& weight, float* to) const noexcept {
  const auto n = static_cast<Eigen::Index>(weight.size());
  const Eigen::Map<const Eigen::ArrayXf> x(from, n), w(weight.data(), n);
  const float scale = inverse_root(from, n);
  Eigen::Map<Eigen::ArrayXf>(to, n) = x * scale * w;
}

void model::normalize(const float* residual, float* to) const noexcept {
  const float scale = inverse_root(residual, config_.dim);
  Eigen::Map<Eigen::ArrayXf>(to, config_.dim) = Eigen::Map<const Eigen::ArrayXf>(residual, config_.dim) * scale;
}

void model::look_up(std::int32_t token, float* row) const {
  if (token < 0 || token >= config_.vocab)
    throw std::runtime_error("token " + std::to_string(token) + " is outside the vocabulary");
  dequantize_row(*embedding_, std::size_t(token), row);
}

void model::embedding_row(std::int32_t token, float* row) const {
  look_up(token, row);
  Eigen::Map<Eigen::ArrayXf> x(row, config_.dim);
  x /= std::sqrt(x.square().mean() + config_.eps);
}

void model::embed(std::span<const std::int32_t> ids, matrix& x) {
  for (std::size_t t = 0; t < ids.size(); ++t) look_up(ids[t], x.row(static_cast<Eigen::Index>(t)).data());
  if (config_.arch == architecture::gemma3) x *= float(std::sqrt(double(config_.dim)));
}

// One layer on the tokens of x, those of `seq` at these positions.
void model::run_layer(int l, std::span<const int> at, matrix& x, sequence& seq, const forward_options& options) {
  const layer_weights& w = layers_[std::size_t(l)];
  const int n = int(x.rows()), head_dim = config_.head_dim;
  const int q_dim = config_.heads * head_dim;
  if (options.on_hidden) options.on_hidden(l, at[0], flat(x));

  h_.resize(n, config_.dim);
  for_rows(n, [&](Eigen::Index t) { rms_norm(x.row(t).data(), w.attn_norm, h_.row(t).data()); });
  qkv_.resize(n, w.qkv.rows());
  w.qkv.apply(h_.data(), n, qkv_.data(), *pool_);
  queries_.resize(n, q_dim);
  rope_table& rope = rope_of(l);
  rope.grow(at.back() + 1);
  for_rows(n, [&](Eigen::Index t) {
    float* q = queries_.row(t).data();
    queries_.row(t) = qkv_.row(t).head(q_dim);
    if (!w.qkv_bias.empty()) queries_.row(t) += Eigen::Map<const Eigen::RowVectorXf>(w.qkv_bias.data(), q_dim);
    if (!w.q_norm.empty())
      for (int i = 0; i < q_dim; i += head_dim) rms_norm(q + i, w.q_norm, q + i);
  });
  if (options.on_queries) options.on_queries(l, at[0], flat(queries_));
  for_rows(n, [&](Eigen::Index t) {
    float* q = queries_.row(t).data();
    const int position = at[std::size_t(t)];
    for (int i = 0; i < q_dim; i += head_dim) rope.rotate(q + i, position);
    if (l >= options.stores_from) store_kv(l, position, qkv_.row(t).data() + q_dim, seq);
  });

  attended_.resize(n, q_dim);
  for (int t = 0, together; t < n; t += together) {  // neighbours share keys and values
    const int start = at[std::size_t(t)];
    together = 1;
    while (!options.as_steps && t + together < n && at[std::size_t(t + together)] == start + together) ++together;
    attention_(queries_.row(t).data(), seq, l, start, together, config_.heads, config_.layer_window(l),
               attended_.row(t).data(), *pool_);
  }
  if (options.on_attended) options.on_attended(l, at.front(), flat(attended_));
  add(w.o, attended_, w.post_attn_norm, x);

  for_rows(n, [&](Eigen::Index t) { rms_norm(x.row(t).data(), w.ffn_norm, h_.row(t).data()); });
  gate_up_.resize(n, 2 * config_.ffn_dim);
  w.gate_up.apply(h_.data(), n, gate_up_.data(), *pool_);
  activated_.resize(n, config_.ffn_dim);
  for_rows(n, [&](Eigen::Index t) {
    const auto gate = gate_up_.row(t).head(config_.ffn_dim).array(), up = gate_up_.row(t).tail(config_.ffn_dim).array();
    if (config_.arch == architecture::gemma3)  // GELU, tanh form
      activated_.row(t) = 0.5f * gate * (1 + (0.7978845608f * (gate + 0.044715f * gate.cube())).tanh()) * up;
    else  // SiLU
      activated_.row(t) = gate / (1 + (-gate).exp()) * up;
  });
  add(w.down, activated_, w.post_ffn_norm, x);
}

// K and V of one token, which follow one another as the product gave them, into the cache.
void model::store_kv(int l, int position, float* k, sequence& seq) {
  const layer_weights& w = layers_[std::size_t(l)];
  const int head_dim = config_.head_dim, kv_dim = config_.kv_heads * head_dim;
  if (!w.qkv_bias.empty())
    Eigen::Map<Eigen::ArrayXf>(k, 2 * kv_dim) +=
        Eigen::Map<const Eigen::ArrayXf>(w.qkv_bias.data() + config_.heads * head_dim, 2 * kv_dim);
  if (!w.k_norm.empty())
    for (int i = 0; i < kv_dim; i += head_dim) rms_norm(k + i, w.k_norm, k + i);
  for (int i = 0; i < kv_dim; i += head_dim) rope_of(l).rotate(k + i, position);
  store_row(k, seq.pool().type(), seq.at(sluice::plane::key, l, position), kv_dim);
  store_row(k + kv_dim, seq.pool().type(), seq.at(sluice::plane::value, l, position), kv_dim);
}

void model::project(int layer, int position, int tokens, const float* rows, sequence& seq) {
  const layer_weights& w = layers_[std::size_t(layer)];
  const int q_dim = config_.heads * config_.head_dim;
  rope_of(layer).grow(position + tokens);
  for (int begin = 0; begin < tokens; begin += batch) {
    const int n = std::min(batch, tokens - begin);
    h_.resize(n, config_.dim);
    for_rows(n, [&](Eigen::Index t) {
      const float* row = rows + (std::ptrdiff_t(begin) + t) * config_.dim;
      h_.row(t).array() = Eigen::Map<const Eigen::RowVectorXf>(row, config_.dim).array() *
                          Eigen::Map<const Eigen::RowVectorXf>(w.attn_norm.data(), config_.dim).array();
    });
    qkv_.resize(n, w.qkv.rows());
    w.qkv.apply(h_.data(), n, qkv_.data(), *pool_, q_dim);
    for_rows(n, [&](Eigen::Index t) { store_kv(layer, position + begin + int(t), qkv_.row(t).data() + q_dim, seq); });
  }
}

// x += the product, normalised where the model does so.
void model::add(const linear& w, const matrix& input, const std::vector<float>& norm, matrix& x) {
  product_.resize(input.rows(), w.rows());
  w.apply(input.data(), int(input.rows()), product_.data(), *pool_);
  for_rows(input.rows(), [&](Eigen::Index t) {
    if (!norm.empty()) rms_norm(product_.row(t).data(), norm, product_.row(t).data());
    x.row(t) += product_.row(t);
  });
}

// Logits of the batch's tokens from `first` on; a few at a time, a vocabulary is large.
void model::logits(int first, std::span<const int> at, const matrix& x, const forward_options& options) {
  constexpr int step = 32;
  for (int t = first; t < int(x.rows()); t += step) {
    const int n = std::min(step, int(x.rows()) - t);
    h_.resize(n, config_.dim);
    for (int i = 0; i < n; ++i) rms_norm(x.row(t + i).data(), norm_, h_.row(i).data());
    product_.resize(n, config_.vocab);
    head_.apply(h_.data(), n, product_.data(), *pool_);
    for (int i = 0; i < n; ++i)
      options.on_logits(at[std::size_t(t + i)], {product_.row(i).data(), std::size_t(config_.vocab)});
  }
}

}  // namespace engine
