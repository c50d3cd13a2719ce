// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/layouts.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/view.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <vector>

/// Caches of made-up models in the memory of made-up engines, and profiles for them.
namespace caches {

using sluice::dtype;
using sluice::kv_view;
using sluice::plane;

inline constexpr plane planes[] = {plane::key, plane::value};

/// How an engine keeps a cache.
enum class engine {
  dense,
  vllm_nhd,
  vllm_hnd,
  packed,
  flashinfer,
  sglang,
  trtllm,
  hf,
  llama_cpp,
  llama_cpp_cells,
  lmcache
};
inline constexpr engine engines[] = {engine::dense,      engine::vllm_nhd,        engine::vllm_hnd, engine::packed,
                                     engine::flashinfer, engine::sglang,          engine::trtllm,   engine::hf,
                                     engine::llama_cpp,  engine::llama_cpp_cells, engine::lmcache};

/// Memory of like layers, filled with a byte that no decoder may leave behind or overwrite where it has no business.
class cache {
 public:
  static constexpr std::byte untouched{0xa5};

  cache(const sluice::layer_shape& shape, std::vector<std::int32_t> layers, std::int64_t tokens, dtype type,
        engine how = engine::dense, std::int64_t position = 0, std::uint64_t seed = 1)
      : layers_(std::move(layers)) {
    namespace lay = sluice::layouts;
    const auto count = std::int32_t(layers_.size()), heads = shape.num_kv_heads, k = shape.head_dim_k,
               v = shape.head_dim_v;
    const std::int64_t page = 16, pages = (tokens + page - 1) / page + 3, room = pages * page;
    bytes_.assign(std::size_t(count * room * heads) * std::size_t(k + std::max(v, k)) * std::size_t(size_of(type)) + 64,
                  untouched);
    std::mt19937_64 random(seed);
    const bool cells = how == engine::sglang || how == engine::llama_cpp_cells;
    table_.resize(std::size_t(cells ? room : pages));
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), random);
    table_.resize(std::size_t(cells ? tokens : (tokens + page - 1) / page));

    const bool one_pointer = how == engine::packed || how == engine::flashinfer;
    const std::size_t layer_bytes = bytes_.size() / std::size_t(count) / 16 * 16;
    const std::size_t k_bytes = std::size_t(room * heads) * std::size_t(k) * std::size_t(size_of(type));
    for (std::int32_t l = 0; l < count; ++l) {
      k_.push_back(bytes_.data() + std::size_t(l) * layer_bytes);
      if (v && !one_pointer) v_.push_back(k_.back() + k_bytes);
    }
    const lay::paged paged{heads, k, v, page, pages, type};
    indptr_ = {0, std::int32_t(table_.size())};
    last_ = {std::int32_t((tokens - 1) % page + 1)};
    // Factories for K and V of one size only step aside for those that take any.
    if (v && v != k && (how == engine::flashinfer || how == engine::trtllm || how == engine::lmcache))
      how = engine::dense;
    switch (how) {
      case engine::dense:
        view_ = lay::dense(bytes_.data(), v ? bytes_.data() + k_bytes * std::size_t(count) : nullptr,
                           {count, heads, k, v, room, type}, tokens);
        break;
      case engine::vllm_nhd: view_ = lay::vllm_nhd(k_, v_, paged, table_, tokens); break;
      case engine::vllm_hnd: view_ = lay::vllm_hnd(k_, v_, paged, table_, tokens); break;
      case engine::packed: view_ = lay::vllm_packed(k_, paged, table_, tokens); break;
      case engine::flashinfer: view_ = lay::flashinfer(k_, paged, {indptr_, table_, last_}, 0); break;
      case engine::sglang: view_ = lay::sglang_slots(k_, v_, {heads, k, v, room, type}, table_); break;
      case engine::trtllm:
        view_ = lay::trtllm(bytes_.data(), {count, heads, k, v, page, pages, type}, table_, tokens);
        break;
      case engine::hf: view_ = lay::hf(k_, v_, {1, heads, k, v, room, type}, 0, tokens); break;
      case engine::llama_cpp: view_ = lay::llama_cpp(k_, v_, {heads, k, v, room, type, type, true}, 5, tokens); break;
      case engine::llama_cpp_cells:
        view_ = lay::llama_cpp(k_, v_, {heads, k, v, room, type, type, true}, table_);
        break;
      case engine::lmcache: view_ = lay::lmcache_chunk(bytes_.data(), {count, heads, k, v, room, type}, tokens); break;
    }
    view_.layer_ids = layers_.data();
    view_.position = position;
  }
  cache(const cache&) = delete;
  cache(cache&&) = default;

  const kv_view& view() const noexcept { return view_; }
  std::vector<std::byte>& bytes() noexcept { return bytes_; }
  void wipe() { std::fill(bytes_.begin(), bytes_.end(), untouched); }

 private:
  std::vector<std::int32_t> layers_, table_, indptr_, last_;
  std::vector<std::byte> bytes_;
  std::vector<std::byte*> k_, v_;
  kv_view view_;
};

inline std::vector<std::int32_t> all_layers(const sluice::model_shape& s) {
  std::vector<std::int32_t> ids(s.layers.size());
  std::iota(ids.begin(), ids.end(), 0);
  return ids;
}

/// A cache of all layers of a model whose layers are alike.
inline cache make_cache(const sluice::model_shape& s, std::int64_t tokens, dtype type = dtype::f16,
                        engine how = engine::dense, std::int64_t position = 0, std::uint64_t seed = 1) {
  return {s.layers.front(), all_layers(s), tokens, type, how, position, seed};
}

/// What one layer of a mixed_cache keeps.
struct layer_kind {
  dtype k = dtype::f16, v = dtype::f16;
  std::int64_t position = 0, tokens = 0;
};

/// A cache of a model whose layers each have types, a start and a length of their own: a view of pages for each layer that
/// keeps KV. A layer without tokens still has its view.
class mixed_cache {
 public:
  mixed_cache(const sluice::model_shape& s, std::span<const layer_kind> kinds, std::uint64_t seed = 1)
      : ids_(all_layers(s)), layers_(s.layers.size()) {
    constexpr std::int64_t page = 16;
    std::mt19937_64 random(seed);
    for (std::size_t l = 0; l < layers_.size(); ++l) {
      const sluice::layer_shape& shape = s.layers[l];
      const layer_kind& kind = kinds[l];
      if (shape.absent()) continue;
      memory& m = layers_[l];
      m.table.resize(std::size_t(kind.tokens / page + 2));
      std::iota(m.table.begin(), m.table.end(), 0);
      std::shuffle(m.table.begin(), m.table.end(), random);
      kv_view v;
      v.num_layers = 1;
      v.num_kv_heads = shape.num_kv_heads;
      v.layer_ids = &ids_[l];
      v.mode = sluice::addressing::pages;
      v.indices = m.table.data();
      v.num_indices = v.capacity = std::int64_t(m.table.size());
      v.page_size = page;
      v.first = kind.tokens % 7;
      v.tokens = kind.tokens;
      v.position = kind.position;
      for (plane which : planes) {
        if (!shape.head_dim(which)) continue;
        sluice::plane_view& p = which == plane::key ? v.k : v.v;
        p.type = which == plane::key ? kind.k : kind.v;
        p.head_dim = shape.head_dim(which);
        p.element_stride = size_of(p.type);
        p.head_stride = p.element_stride * p.head_dim;
        p.token_stride = p.head_stride * v.num_kv_heads;
        p.page_stride = p.token_stride * page;
        std::vector<std::byte>& bytes = m.bytes[int(which)];
        bytes.assign(std::size_t(p.page_stride * v.capacity), cache::untouched);
        p.base = bytes.data();
      }
      views_.push_back(v);
    }
  }
  mixed_cache(const mixed_cache&) = delete;
  mixed_cache(mixed_cache&&) = default;

  /// Of the layers that keep KV, in order.
  std::span<const kv_view> views() const noexcept { return views_; }

  /// The tokens at positions [begin, end), where the layers have some; layers that have none keep a view without tokens.
  std::vector<kv_view> between(std::int64_t begin, std::int64_t end) const {
    std::vector<kv_view> part;
    for (const kv_view& v : views_) {
      const std::int64_t from = std::clamp<std::int64_t>(begin - v.position, 0, v.tokens);
      part.push_back(v.slice(from, std::clamp<std::int64_t>(end - v.position, from, v.tokens)));
    }
    return part;
  }

 private:
  struct memory {
    std::vector<std::int32_t> table;
    std::vector<std::byte> bytes[2];
  };
  std::vector<std::int32_t> ids_;
  std::vector<memory> layers_;
  std::vector<kv_view> views_;
};

/// Calls f(plane, layer, token, head, element, address) for every element of a view.
template <class F>
void for_each_element(const kv_view& v, F f) {
  for (plane p : planes)
    for (std::int32_t l = 0; l < v.num_layers && v[p].present(); ++l)
      for (std::int64_t t = 0; t < v.tokens; ++t)
        for (std::int32_t h = 0; h < v.num_kv_heads; ++h)
          for (std::int32_t d = 0; d < v[p].head_dim; ++d) f(p, l, t, h, d, v.at(p, l, t, h, d));
}

/// All elements of a view as floats, [plane][layer][token][head][element].
inline std::vector<float> floats(const kv_view& v) {
  std::vector<float> out;
  for_each_element(v, [&](plane p, auto, auto, auto, auto, const std::byte* at) {
    out.push_back(sluice::load_element(at, v[p].type));
  });
  return out;
}

/// All elements of a view as stored.
inline std::vector<std::byte> elements(const kv_view& v) {
  std::vector<std::byte> out;
  for_each_element(v, [&](plane p, auto, auto, auto, auto, const std::byte* at) {
    out.insert(out.end(), at, at + size_of(v[p].type));
  });
  return out;
}

/// Values as a model makes them: channels with a mean of their own, correlated within a head, a wide one now and then; K rotated.
inline void fill(const kv_view& v, const sluice::model_shape& s, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<double> frequency;
  for (plane p : planes)
    for (std::int32_t l = 0; l < v.num_layers && v[p].present(); ++l) {
      const sluice::layer_shape& shape = s.layers[std::size_t(v.layer_id(l))];
      const std::size_t dim = std::size_t(v[p].head_dim);
      const sluice::rope* r = s.ropes.empty() || p == plane::value ? nullptr : &s.ropes[std::size_t(shape.rope_index)];
      if (r) {
        frequency.resize(std::size_t(sluice::rotary_dims(*r, int(dim))) / 2);
        sluice::rope_frequencies(*r, int(dim), frequency);
      }
      std::vector<float> mean(dim), width(dim), row(dim);
      for (std::int32_t h = 0; h < v.num_kv_heads; ++h) {
        for (std::size_t d = 0; d < dim; ++d) {
          mean[d] = normal(random) * (random() % 16 == 0 ? 8.f : 0.5f);
          width[d] = std::exp(normal(random));
        }
        for (std::int64_t t = 0; t < v.tokens; ++t) {
          const float common = normal(random);
          for (std::size_t d = 0; d < dim; ++d)
            row[d] = mean[d] + width[d] * (0.5f * normal(random) + (d % 2 ? common : -common));
          if (r) sluice::rotate(row.data(), *r, frequency, v.position + t);
          for (std::size_t d = 0; d < dim; ++d)
            sluice::store_element(v.at(p, l, t, h, std::int32_t(d)), v[p].type, row[d]);
        }
      }
    }
}

/// Every bit pattern is as likely as any other.
inline void fill_with_noise(const kv_view& v, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  for_each_element(v, [&](plane p, auto, auto, auto, auto, std::byte* at) {
    const std::uint64_t x = random();
    std::memcpy(at, &x, std::size_t(size_of(v[p].type)));
  });
}

/// Sets one element.
inline void set(const kv_view& v, plane p, int layer, std::int64_t token, int head, int element, float x) {
  sluice::store_element(v.at(p, layer, token, head, element), v[p].type, x);
}

/// Root of the squared error over the squared values, of what is finite in the original; the error alone where all is zero.
inline double relative_error(const kv_view& original, const kv_view& decoded) {
  const std::vector<float> a = floats(original), b = floats(decoded);
  double error = 0, power = 0;
  for (std::size_t i = 0; i < a.size() && i < b.size(); ++i) {
    if (!std::isfinite(a[i])) continue;
    error += (double(a[i]) - double(b[i])) * (double(a[i]) - double(b[i]));
    power += double(a[i]) * double(a[i]);
  }
  return a.size() == b.size() ? std::sqrt(power > 0 ? error / power : error) : 1e30;
}

/// Largest difference of two views in units in the last place (of f16) of max(|x|, rms of its token and head).
inline double worst_ulps(const kv_view& a, const kv_view& b) {
  double worst = 0;
  for (plane p : planes)
    for (std::int32_t l = 0; l < a.num_layers && a[p].present(); ++l)
      for (std::int64_t t = 0; t < a.tokens; ++t)
        for (std::int32_t h = 0; h < a.num_kv_heads; ++h) {
          double squares = 0;
          const auto x = [&](const kv_view& v, int d) {
            return double(sluice::load_element(v.at(p, l, t, h, d), v[p].type));
          };
          for (int d = 0; d < a[p].head_dim; ++d) squares += x(a, d) * x(a, d);
          const double rms = std::sqrt(squares / a[p].head_dim);
          for (int d = 0; d < a[p].head_dim; ++d) {
            const double scale = std::max({std::fabs(x(a, d)), rms, 6.2e-5});
            worst = std::max(worst, std::fabs(x(a, d) - x(b, d)) / std::exp2(std::floor(std::log2(scale)) - 10));
          }
        }
  return worst;
}

/// A profile with random rotations for bases and classes from the cache's own statistics: what calibration would make,
/// without its cleverness. `fineness` divides the step.
inline sluice::profile make_profile(const sluice::model_shape& s, std::span<const kv_view> views,
                                    int heads_per_basis = 0, int passes = 4, int sinks = 4, float fineness = 1,
                                    std::uint64_t seed = 7) {
  sluice::profile p = sluice::profile::uncalibrated(s, passes, sinks);
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  for (const kv_view& v : views)
    for (std::int32_t i = 0; i < v.num_layers; ++i)
      for (plane which : planes) {
        if (!v[which].present()) continue;
        const int layer = v.layer_id(i), dim = v[which].head_dim, heads = v.num_kv_heads;
        sluice::plane_profile& q = p.of(layer, which);
        const std::size_t width = std::size_t(q.width);
        // Channels without their rotation.
        std::vector<float> x(std::size_t(v.tokens) * width);
        const sluice::rope* r = nullptr;
        std::vector<double> frequency;
        if (which == plane::key && !s.ropes.empty()) {
          r = &s.ropes[std::size_t(s.layers[std::size_t(layer)].rope_index)];
          frequency.resize(std::size_t(sluice::rotary_dims(*r, dim)) / 2);
          sluice::rope_frequencies(*r, dim, frequency);
        }
        std::vector<double> mean(width);
        double power = 0;
        for (std::int64_t t = 0; t < v.tokens; ++t)
          for (int h = 0; h < heads; ++h) {
            float* row = &x[std::size_t(t) * width + std::size_t(h * dim)];
            for (int d = 0; d < dim; ++d) row[d] = sluice::load_element(v.at(which, i, t, h, d), v[which].type);
            if (r) sluice::rotate(row, *r, frequency, v.position + t, sluice::rotation::inverse);
            for (int d = 0; d < dim; ++d) mean[std::size_t(h * dim + d)] += double(row[d]) / double(v.tokens);
          }
        for (std::size_t c = 0; c < width; ++c) q.mean.push_back(sluice::from_float<sluice::f16>(float(mean[c])).bits);
        for (std::size_t j = 0; j < x.size(); ++j) {
          x[j] -= sluice::to_float(sluice::f16{q.mean[j % width]});
          power += double(x[j]) * double(x[j]) / double(x.size());
        }
        q.group_width = sluice::basis_heads(heads_per_basis, heads, dim) * dim;
        if (!(power > 1e-12)) power = 1;  // of one token nothing is left
        q.step = q.scale =
            float(std::sqrt(power)) / float(sluice::detail::power_of_3(std::max(passes - 2, 0))) / fineness;
        for (int level = 0; level < passes; ++level)
          q.loss[std::size_t(level)] = 0.1f / float(sluice::detail::power_of_3(2 * level));
        for (int g = 0; g < q.groups(); ++g) {
          const std::size_t n = std::size_t(q.width_of(g)), first = std::size_t(g) * std::size_t(q.group_width);
          std::vector<float> m(n * n);
          for (std::size_t k = 0; k < n; ++k) {  // Gram and Schmidt
            for (std::size_t d = 0; d < n; ++d) m[k * n + d] = normal(random);
            for (std::size_t j = 0; j < k; ++j) {
              const float dot = std::inner_product(&m[k * n], &m[k * n] + n, &m[j * n], 0.f);
              for (std::size_t d = 0; d < n; ++d) m[k * n + d] -= dot * m[j * n + d];
            }
            const float norm = std::sqrt(std::inner_product(&m[k * n], &m[k * n] + n, &m[k * n], 0.f));
            double squares = 0;
            for (std::size_t d = 0; d < n; ++d) m[k * n + d] /= norm;
            for (std::int64_t t = 0; t < v.tokens; ++t) {
              const float c =
                  std::inner_product(&m[k * n], &m[k * n] + n, &x[std::size_t(t) * width + first], 0.f) / q.scale;
              squares += double(c) * double(c);
            }
            q.classes.push_back(sluice::detail::class_of(float(std::sqrt(squares / double(v.tokens)))));
          }
          for (float e : m) q.matrix.push_back(sluice::from_float<sluice::f16>(e).bits);
        }
      }
  return p;
}

/// One frame of everything that views show.
template <class Codec = sluice::codec::standard>
std::vector<std::byte> encode(const sluice::profile& p, std::span<const kv_view> views,
                              const sluice::encode_options& o = {}, sluice::isa on = sluice::isa::best) {
  sluice::encoder<Codec> encoder(p, {on});
  std::vector<std::byte> out(encoder.max_size(views));
  const sluice::result<std::size_t> size = encoder.encode(views, out, o);
  out.resize(size ? *size : 0);
  return out;
}
template <class Codec = sluice::codec::standard>
std::vector<std::byte> encode(const sluice::profile& p, const kv_view& view, const sluice::encode_options& o = {},
                              sluice::isa on = sluice::isa::best) {
  return encode<Codec>(p, {&view, 1}, o, on);
}

template <class Codec = sluice::codec::standard>
sluice::page_status decode(const sluice::profile& p, std::span<const std::byte> frame, std::span<const kv_view> views,
                           const sluice::decode_options& o = {}, sluice::isa on = sluice::isa::best) {
  return sluice::decoder<Codec>(p, {on}).decode(frame, views, o);
}
template <class Codec = sluice::codec::standard>
sluice::page_status decode(const sluice::profile& p, std::span<const std::byte> frame, const kv_view& view,
                           const sluice::decode_options& o = {}, sluice::isa on = sluice::isa::best) {
  return sluice::decoder<Codec>(p, {on}).decode(frame, view, o);
}

}  // namespace caches
