// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/calibrate/capture.hpp>
#include <sluice/calibrate/latents.hpp>
#include <sluice/calibrate/plane.hpp>
#include <sluice/calibrate/prediction.hpp>
#include <sluice/calibrate/token_weights.hpp>
#include <sluice/codec/entropy/class_rans/class_choice.hpp>
#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/quantize/ternary.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/tensor/rotate.hpp>
#include <sluice/tensor/rows.hpp>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <thread>

// What a calibrator does; calibrate.hpp includes it, or the program links it.

namespace sluice::detail::inline SLUICE_CALIBRATION_ABI {

template <class F>
void for_each_on(int n, int threads, const F& f) {
  if (threads <= 1 || n <= 1) {
    for (int i = 0; i < n; ++i) f(i);
    return;
  }
  std::atomic<int> next{0};
  std::vector<std::thread> pool;
  for (int t = 0; t < std::min(threads, n); ++t)
    pool.emplace_back([&] {
      for (int i; (i = next++) < n;) f(i);
    });
  for (std::thread& t : pool) t.join();
}

class calibration {
 public:
  calibration(model_shape shape, calibration_options options)
      : shape_(std::move(shape)), options_(std::move(options)), state_(begin()) {}

  status add(const capture& c) {
    if (state_ == status::ok && (fitted_ || (latents_ && !c.tokens))) state_ = status::invalid_argument;
    rows_f embeddings;
    if (state_ == status::ok && latents_) {
      state_ = check(c);
      if (state_ != status::ok) return state_;
      embeddings = latents_->look_up(c.tokens, c.cache.tokens);
      latents_->add(kept(embeddings, sinks_of(c.cache)));
    }
    return sweep(c, [&](int layer, int index, std::array<rows_f, 2>& x, std::span<const std::uint8_t> skip) {
      vector_d gain;
      if (index < static_cast<int>(c.layers.size())) observe(c, layer, index, x, skip, gain);
      unrotate(layer, x[0]);
      if (options_.token_steps && gain.size()) weights_[std::size_t(layer)].add(x[0], gain, skip, c.cache.position);
      for (std::size_t p = 0; p < 2; ++p)
        if (planes_[2 * std::size_t(layer) + p].width) {
          const rows_f rows = kept(x[p], skip);
          planes_[2 * std::size_t(layer) + p].add(rows);
          if (latents_) latents_->add(2 * std::size_t(layer) + p, kept(embeddings, skip), rows);
        }
    });
  }

  status measure(const capture& c) {
    if (state_ == status::ok && (predictions_fitted_ || (needs_tokens() && !c.tokens)))
      state_ = status::invalid_argument;
    if (state_ == status::ok && !fitted_) state_ = fit();
    sampler all(*this, c);
    const status s = sweep(c, [&](int layer, int, std::array<rows_f, 2>& x, std::span<const std::uint8_t> skip) {
      unrotate(layer, x[0]);
      for (std::size_t p = 0; p < 2; ++p)
        if (planes_[2 * std::size_t(layer) + p].width)
          planes_[2 * std::size_t(layer) + p].measure(kept(x[p], skip), options_.passes);
      if (prediction_) all.take(layer, x, skip);
    });
    if (s != status::ok || !prediction_) return s;
    const prediction_sample sample = all.finish();
    for_each_on(shape_.num_layers(), options_.threads, [&](int l) { prediction_->measure(l, sample, sampled_[0]); });
    sampled_[0] += sample.latents.rows();
    return s;
  }

  status predict(const capture& c) {
    if (state_ == status::ok && (!fitted_ || !prediction_ || (needs_tokens() && !c.tokens)))
      state_ = status::invalid_argument;
    if (state_ == status::ok && !predictions_fitted_) state_ = fit_predictions();
    sampler all(*this, c);
    const status s = sweep(c, [&](int layer, int, std::array<rows_f, 2>& x, std::span<const std::uint8_t> skip) {
      unrotate(layer, x[0]);
      all.take(layer, x, skip);
    });
    if (s != status::ok) return s;
    prediction_sample sample = all.finish();
    // Layers decode one after the other, tokens do not know each other.
    std::vector<std::array<rows_f, 2>> decoded(sample.x.size());
    for (std::size_t i = 0; i < 2 * decoded.size(); ++i)
      decoded[i / 2][i % 2].setZero(sample.x[i / 2][i % 2].rows(), sample.x[i / 2][i % 2].cols());
    const std::int64_t tokens = sample.latents.rows(), block = 256;
    for_each_on(static_cast<int>((tokens + block - 1) / block), options_.threads, [&](int i) {
      prediction_->decode(sample, i * block, std::min(block, tokens - i * block), planes_, decoded);
    });
    for_each_on(static_cast<int>(planes_.size()), options_.threads, [&](int i) {
      prediction_->count(i / 2, plane(i % 2), sample, decoded, planes_[std::size_t(i)], sampled_[1]);
    });
    sampled_[1] += tokens;
    return s;
  }

  result<profile> finish() {
    if (state_ != status::ok) return state_;
    if (!fitted_) return status::invalid_argument;
    for (const plane_calibration& p : planes_)
      if (p.width && p.measured != p.seen) return status::invalid_argument;
    if (prediction_ && (!predictions_fitted_ || sampled_[0] != sampled_[1])) return status::invalid_argument;
    const class_chooser chooser(options_.passes);
    for_each_on(static_cast<int>(planes_.size()), options_.threads, [&](int i) {
      plane_calibration& p = planes_[std::size_t(i)];
      p.profile.classes.resize(std::size_t(p.width));
      for (int g = 0; g < p.groups(); ++g) {
        const auto at = std::size_t(p.begin_of(g)), n = std::size_t(p.width_of(g));
        chooser.choose(std::span(p.counts).subspan(at, n), std::span(p.profile.classes).subspan(at, n));
      }
      if (prediction_) prediction_->choose(std::size_t(i), chooser);
      for (std::size_t j = 0; p.width && j < std::size_t(options_.passes); ++j)
        p.profile.loss[j] = static_cast<float>(std::max(p.sensitivity, 0.0) * p.step * p.step * p.squares[j] /
                                               (double(p.measured) * p.width));
    });
    profile out;
    out.shape = shape_;
    out.passes = options_.passes;
    out.sinks = options_.sinks;
    for (const plane_calibration& p : planes_) out.planes.push_back(p.profile);
    if (validate(out) != status::ok) return status::values_out_of_range;
    if (options_.token_steps) {
      token_weight_model weights;
      bool any = false;
      for (std::size_t l = 0; l < weights_.size(); ++l) {
        weights.layers.push_back(weights_[l].fit(shape_.layers[l]));
        any |= weights.layers.back().exponent[0] > 0;
      }
      if (any) weights.put_into(out);
    }
    if (prediction_) out.set_section(prediction_->finish(out));
    return out;
  }

 private:
  status begin() {
    const calibration_options& o = options_;
    const auto layers = std::size_t(shape_.num_layers());
    if (layers == 0 || o.passes < 1 || o.passes > max_passes || o.sinks < 0 || o.sinks > max_sinks ||
        o.heads_per_basis < 0 || !(o.target_kl > 0) || !std::isfinite(o.target_kl) ||
        o.sensitivity_k.size() != o.sensitivity_v.size() ||
        (!o.sensitivity_k.empty() && o.sensitivity_k.size() != layers))
      return status::invalid_argument;
    if (layers > std::size_t(max_model_layers) || shape_.ropes.size() > std::size_t(max_ropes))
      return status::too_large;
    planes_.resize(2 * layers);
    weights_.resize(layers);
    int streams = 0;
    for (std::size_t l = 0; l < layers; ++l) {
      const layer_shape& s = shape_.layers[l];
      if (s.absent()) continue;
      if (s.num_kv_heads < 1 || s.head_dim_k < 1 || s.head_dim_v < 0) return status::invalid_argument;
      if (s.num_kv_heads > max_kv_heads || s.head_dim_k > max_head_dim || s.head_dim_v > max_head_dim)
        return status::too_large;
      for (const plane which : {plane::key, plane::value}) {
        plane_calibration& p = planes_[2 * l + std::size_t(which)];
        p.head_dim = s.head_dim(which);
        if (!p.head_dim) continue;
        p.heads = s.num_kv_heads;
        p.width = p.heads * p.head_dim;
        p.group_width = basis_heads(o.heads_per_basis, p.heads, p.head_dim) * p.head_dim;
        if (p.group_width > std::max(max_group_width, p.head_dim)) return status::invalid_argument;
        if ((streams += p.groups()) > max_streams) return status::too_large;
        for (auto& f : p.folds) f.resize(std::size_t(p.groups()));
      }
    }
    if (!streams || !valid_shape(shape_)) return status::invalid_argument;
    return begin_prediction();
  }

  status begin_prediction() {
    const auto& [kind, embeddings] = options_.prediction;
    if (kind.sources == 0) return status::ok;
    const bool from_tokens = kind.sources & token_embedding<>::id;
    if (kind.sources < 0 || kind.sources > 7 || kind.span < 0 || kind.span > 4095 || (kind.rank > 0) != from_tokens ||
        kind.rank > max_prediction_rank ||
        (from_tokens && (!embeddings.row || embeddings.vocab < 1 || embeddings.dim < 1)))
      return status::invalid_argument;
    if (std::uint32_t(embeddings.vocab) > max_prediction_vocab) return status::too_large;
    prediction_.emplace(shape_, options_.prediction, options_.passes, shape_.layers.size());
    if (from_tokens) latents_.emplace(embeddings, kind.rank, planes_.size());
    return status::ok;
  }

  bool needs_tokens() const noexcept { return options_.prediction.kind.sources & token_embedding<>::id; }

  const rope* rope_of(int layer) const noexcept {
    const auto i = std::size_t(shape_.layers[std::size_t(layer)].rope_index);
    return i < shape_.ropes.size() ? &shape_.ropes[i] : nullptr;
  }

  plane_calibration& at(int layer, plane p) noexcept { return planes_[2 * std::size_t(layer) + std::size_t(p)]; }

  // Loads every layer of the capture and hands it to f; layers run on several threads, each touching its own planes.
  template <class F>
  status sweep(const capture& c, const F& f) {
    if (state_ == status::ok) state_ = check(c);
    if (state_ != status::ok) return state_;
    const kv_view& v = c.cache;
    prepare_angles(c);
    const std::vector<std::uint8_t> sinks = sinks_of(v);
    std::array<std::vector<std::int64_t>, 2> offsets;
    for (const plane p : {plane::key, plane::value})
      if (v[p].present())
        for (std::int64_t t = 0; t < v.tokens; ++t) offsets[std::size_t(p)].push_back(v.token_offset(v[p], t));
    for_each_on(v.num_layers, options_.threads, [&](int i) {
      std::vector<std::uint8_t> skip = sinks;
      std::array<rows_f, 2> x;
      for (const plane p : {plane::key, plane::value}) {
        const int width = at(v.layer_id(i), p).width;
        if (!width) continue;
        x[std::size_t(p)].resize(v.tokens, width);
        row_layout rows;
        rows.offsets = offsets[std::size_t(p)].data();
        rows.head_stride = v[p].head_stride;
        rows.element_stride = v[p].element_stride;
        rows.num_heads = v.num_kv_heads;
        rows.head_dim = v[p].head_dim;
        rows.type = v[p].type;
        load_rows(isa::best, v.layer_base(v[p], i), rows, static_cast<int>(v.tokens), x[std::size_t(p)].data(), width,
                  skip.data());
      }
      f(v.layer_id(i), i, x, skip);
    });
    return status::ok;
  }

  std::vector<std::uint8_t> sinks_of(const kv_view& v) const {
    std::vector<std::uint8_t> sinks(std::size_t(v.tokens));
    for (std::int64_t t = 0; t < v.tokens && v.position + t < options_.sinks; ++t) sinks[std::size_t(t)] = 1;
    return sinks;
  }

  // Gathers the layers of a capture, of tokens that all of them keep.
  class sampler {
   public:
    sampler(const calibration& of, const capture& c) : of_(of), capture_(c), skip_(of.shape_.layers.size()) {
      sample_.x.resize(skip_.size());
      sample_.own.resize(skip_.size());
    }

    void take(int layer, std::array<rows_f, 2>& x, std::span<const std::uint8_t> skip) {
      sample_.x[std::size_t(layer)] = std::move(x);
      skip_[std::size_t(layer)].assign(skip.begin(), skip.end());
    }

    prediction_sample finish() {
      std::vector<std::uint8_t> skip(std::size_t(capture_.cache.tokens));
      for (const auto& s : skip_)
        for (std::size_t t = 0; t < s.size(); ++t) skip[t] |= s[t];
      for_each_on(static_cast<int>(sample_.x.size()), of_.options_.threads, [&](int l) {
        for (std::size_t p = 0; p < 2; ++p) {
          rows_f& x = sample_.x[std::size_t(l)][p];
          if (x.size() == 0) continue;
          x = kept(x, skip);
          sample_.own[std::size_t(l)][p] = of_.planes_[2 * std::size_t(l) + p].coefficients(x);
        }
      });
      std::vector<std::int32_t> tokens;
      for (std::size_t t = 0; t < skip.size(); ++t)
        if (!skip[t]) tokens.push_back(capture_.tokens ? capture_.tokens[t] : -1);
      sample_.latents = of_.prediction_->latents(tokens);
      return std::move(sample_);
    }

   private:
    const calibration& of_;
    const capture& capture_;
    std::vector<std::vector<std::uint8_t>> skip_;  // [model layer]
    prediction_sample sample_;
  };

  status check(const capture& c) const {
    const kv_view& v = c.cache;
    if (const status s = validate(v); s != status::ok) return s;
    if (v.tokens > std::numeric_limits<std::int32_t>::max()) return status::too_large;
    if (!c.layers.empty() && static_cast<std::int64_t>(c.layers.size()) != v.num_layers)
      return status::invalid_argument;
    std::vector<std::uint8_t> seen(shape_.layers.size());
    for (std::int32_t i = 0; i < v.num_layers; ++i) {
      const std::int32_t id = v.layer_id(i);
      if (id < 0 || id >= shape_.num_layers() || seen[std::size_t(id)]++) return status::wrong_shape;
      const layer_shape& s = shape_.layers[std::size_t(id)];
      if (v.num_kv_heads != s.num_kv_heads) return status::wrong_shape;
      for (const plane p : {plane::key, plane::value}) {
        if ((v[p].present() ? v[p].head_dim : 0) != s.head_dim(p)) return status::wrong_shape;
        if (v[p].present() && v[p].type == dtype::bytes) return status::unsupported_type;
      }
      if (c.layers.empty() || !c.layers[std::size_t(i)].queries) continue;
      if (c.query_tokens < 1 || c.query_tokens > v.tokens || c.num_heads < 1 || c.num_heads % v.num_kv_heads)
        return status::invalid_argument;
    }
    return status::ok;
  }

  // Cosines and sines that undo the rotation of every token, for each rotary embedding of the model.
  void prepare_angles(const capture& c) {
    angles_.assign(shape_.ropes.size(), {});
    for (std::int32_t i = 0; i < c.cache.num_layers; ++i) {
      const layer_shape& s = shape_.layers[std::size_t(c.cache.layer_id(i))];
      const rope* r = rope_of(c.cache.layer_id(i));
      if (!r || !angles_[std::size_t(s.rope_index)].cosine.empty()) continue;
      angles& a = angles_[std::size_t(s.rope_index)];
      const int pairs = rotary_dims(*r, s.head_dim_k) / 2;
      std::vector<double> frequencies(std::size_t(pairs), 0.0);
      rope_frequencies(*r, s.head_dim_k, frequencies);
      for (std::int64_t t = 0; t < c.cache.tokens; ++t)
        for (const double f : frequencies) {
          const double angle = double(c.cache.position + t) * f;
          a.cosine.push_back(static_cast<float>(std::cos(angle) / r->attention_factor));
          a.sine.push_back(static_cast<float>(-std::sin(angle) / r->attention_factor));
        }
    }
  }

  void unrotate(int layer, rows_f& x) const {
    const rope* r = rope_of(layer);
    const layer_shape& s = shape_.layers[std::size_t(layer)];
    const int dims = r ? rotary_dims(*r, s.head_dim_k) : 0;
    if (!dims) return;
    const angles& a = angles_[std::size_t(s.rope_index)];
    rotate_rows(isa::best, x.data(), x.cols(), static_cast<int>(x.rows()), s.num_kv_heads, s.head_dim_k, r->pairing,
                dims, a.cosine.data(), a.sine.data(), dims / 2);
  }

  static rows_f kept(const rows_f& x, std::span<const std::uint8_t> skip) {
    rows_f out(x.rows(), x.cols());
    Eigen::Index n = 0;
    for (Eigen::Index r = 0; r < x.rows(); ++r)
      if (!skip[std::size_t(r)]) out.row(n++) = x.row(r);
    out.conservativeResize(n, Eigen::NoChange);
    return out;
  }

  // Metrics, and what attention lets through of an error: x holds K as it is cached (rotated), and V.
  void observe(const capture& c, int layer, int index, const std::array<rows_f, 2>& x,
               std::span<const std::uint8_t> skip, vector_d& gain) {
    const capture_layer& known = c.layers[std::size_t(index)];
    const layer_shape& s = shape_.layers[std::size_t(layer)];
    plane_calibration &k = at(layer, plane::key), &v = at(layer, plane::value);
    const Eigen::Index dk = s.head_dim_k, dv = s.head_dim_v, heads = s.num_kv_heads, all = c.num_heads;
    using rows_of_floats = Eigen::Map<const rows_f>;
    if (known.wo && dv) {
      matrix_d wo(dv, heads * dv);
      for (Eigen::Index h = 0; h < heads; ++h)
        wo.middleCols(h * dv, dv) = rows_to_double(rows_of_floats(known.wo + h * dv * dv, dv, dv));
      if (wo.allFinite()) {
        if (!v.metric.size()) v.metric.setZero(dv, heads * dv);
        v.metric += wo;
        ++v.metrics;
      }
    }
    matrix_d q2;
    if (known.q2) q2 = transposed(rows_to_double(rows_of_floats(known.q2, heads, dk)));
    if (known.queries) {
      const Eigen::Index n = c.query_tokens, group = all / heads;
      rows_f q(n, all * dk);
      for (Eigen::Index i = 0; i < q.size(); ++i) q.data()[i] = to_float(known.queries[i]);
      if ((options_.sensitivity_k.empty() || options_.token_steps) && dv) gain = attend(c, layer, q, x, known.wo, skip);
      if (!known.q2) {  // rotation keeps the energy of a pair, which is all that the metric of K needs
        q2.setZero(dk, heads);
        for (Eigen::Index h = 0; h < all; ++h)
          q2.col(h / group) +=
              rows_to_double(q.middleCols(h * dk, dk)).colwise().squaredNorm().transpose() / double(n * group);
      }
    }
    if (!q2.size() || !q2.allFinite()) return;
    if (!k.metric.size()) k.metric.setZero(dk, heads);
    k.metric += q2;
    ++k.metrics;
  }

  // How much of a unit weighted squared error per coefficient reaches the attention output o = sum a_i v_i:
  // through V sum a_i^2, through K (logits move by q.dk) sum a_i^2 |v_i - o|^2, both relative to |o|^2. Returns the latter
  // of every token that all queries see.
  vector_d attend(const capture& c, int layer, const rows_f& q, const std::array<rows_f, 2>& x, const float* wo,
                  std::span<const std::uint8_t> skip) {
    const layer_shape& s = shape_.layers[std::size_t(layer)];
    const Eigen::Index dk = s.head_dim_k, dv = s.head_dim_v, group = c.num_heads / s.num_kv_heads, tokens = x[0].rows();
    double through_k = 0, through_v = 0, energy = 0;
    vector_d gain = vector_d::Zero(tokens);
    matrix_d values;  // of the KV head that a group of query heads reads
    for (Eigen::Index h = 0; h < c.num_heads; ++h) {
      const Eigen::Index kv = h / group;
      if (h % group == 0) values = rows_to_double(x[1].middleCols(kv * dv, dv));
      if (wo && h % group == 0) {
        const matrix_d w = rows_to_double(Eigen::Map<const rows_f>(wo + kv * dv * dv, dv, dv)) / double(group);
        const auto [squares, axes] = eigen_of(symmetric(w));
        values = product(values, axes * squares.cwiseMax(0).cwiseSqrt().asDiagonal());
      }
      const matrix_d logits = to_double(product(q.middleCols(h * dk, dk), x[0].middleCols(kv * dk, dk).transpose())) /
                              std::sqrt(double(dk));
      for (Eigen::Index t = 0; t < q.rows(); ++t) {
        const Eigen::Index last = tokens - q.rows() + t;
        const Eigen::Index first = s.window ? std::max<Eigen::Index>(0, last - s.window + 1) : 0;
        const vector_d l = logits.row(t).segment(first, last - first + 1);
        vector_d a = (l.array() - l.maxCoeff()).exp();
        a /= a.sum();
        const auto seen = values.middleRows(first, last - first + 1);
        const matrix_d o = product(a.transpose(), seen);
        for (Eigen::Index i = 0; i < a.size(); ++i) {
          const double square = a(i) * a(i);
          gain(first + i) += square * (seen.row(i) - o).squaredNorm();
          if (!skip[std::size_t(first + i)]) through_v += square;
        }
        energy += o.squaredNorm();
      }
    }
    for (Eigen::Index t = 0; t < tokens; ++t) through_k += skip[std::size_t(t)] ? 0 : gain(t);
    if (!std::isfinite(through_k) || !std::isfinite(through_v) || !std::isfinite(energy)) return {};
    at(layer, plane::key).error_gain += through_k * double(dk);
    at(layer, plane::value).error_gain += through_v * double(dv) / double(wo ? group : 1);
    for (const plane p : {plane::key, plane::value}) at(layer, p).energy += energy;
    gain.tail(q.rows()).setZero();
    return gain;
  }

  // Between the sweeps: bases, sensitivities, steps.
  status fit() {
    fitted_ = true;
    for (const plane_calibration& p : planes_)
      if (p.width && p.seen < 2) return status::too_few_tokens;
    for_each_on(static_cast<int>(planes_.size()), options_.threads, [&](int i) {
      if (planes_[std::size_t(i)].width) planes_[std::size_t(i)].fit(plane(i % 2), i % 2 ? nullptr : rope_of(i / 2));
    });
    const bool measured = !options_.sensitivity_k.empty();
    bool varies = false;
    std::vector<double> relative;
    for (std::size_t i = 0; i < planes_.size(); ++i) {
      plane_calibration& p = planes_[i];
      if (!p.width) continue;
      varies |= !(p.variance <= 1e-30);
      p.sensitivity = measured       ? interaction * (i % 2 ? options_.sensitivity_v : options_.sensitivity_k)[i / 2]
                      : p.energy > 0 ? attention_price * p.error_gain / p.energy
                      : p.variance > 1e-30 ? energy_price / p.variance
                                           : 0.0;
      if (!std::isfinite(p.sensitivity)) p.sensitivity = 0;
      if (p.sensitivity > 0) relative.push_back(1 / std::sqrt(p.sensitivity));
    }
    if (!varies) return status::constant_values;
    if (relative.empty()) return status::invalid_argument;
    std::nth_element(relative.begin(), relative.begin() + std::ptrdiff_t(relative.size() / 2), relative.end());
    const double median = relative[relative.size() / 2];
    // A few planes are thousands of times more sensitive than the others, and a finest step would cost all of them a tenth
    // of the bytes; one whose errors nobody noticed is not known well enough for any step.
    constexpr double coarsest = 4.5;
    const auto step_of = [&](const plane_calibration& p, double base) {
      return base * std::min(p.sensitivity > 0 ? 1 / std::sqrt(p.sensitivity) : detail::infinity, coarsest * median);
    };
    // A sensitivity lost in the noise around zero gets the coarsest step and has no say here.
    const auto loss = [&](double base) {
      double sum = 0;
      for (const plane_calibration& p : planes_)
        if (p.width && p.sensitivity > 0) sum += p.sensitivity * p.error_at(step_of(p, base));
      return sum;
    };
    // Where losing everything would hardly cost the target the prediction says nothing; keep three quarters of it.
    double everything = 0;
    for (const plane_calibration& p : planes_)
      if (p.width) everything += std::max(p.sensitivity, 0.0) * p.variance;
    const double target = std::min(options_.target_kl, everything / 4);
    double low = 1e-6, high = 1e3;  // base^2 / 12 is about the loss of one plane, so any model's lies between
    for (int i = 0; i < 40; ++i) {
      const double middle = std::sqrt(low * high);
      (loss(middle) > target ? high : low) = middle;
    }
    const int level = std::min(1, options_.passes - 1);
    std::atomic<bool> fine{true};
    for_each_on(static_cast<int>(planes_.size()), options_.threads, [&](int i) {
      plane_calibration& p = planes_[std::size_t(i)];
      if (p.width && !p.finish_basis(step_of(p, low) / power_of_3(options_.passes - 1 - level))) fine = false;
      if (latents_ && p.width && fine) latents_->weigh(std::size_t(i), p, power_of_3(options_.passes - 1 - level));
    });
    if (!fine) return status::values_out_of_range;
    if (latents_) prediction_->set_latents(latents_->fit());
    latents_.reset();
    return status::ok;
  }

  // Between the second sweep and the third.
  status fit_predictions() {
    predictions_fitted_ = true;
    std::atomic<bool> fine{true};
    prediction_->begin_fit();
    for_each_on(static_cast<int>(planes_.size()), options_.threads, [&](int i) {
      if (!prediction_->fit(i / 2, plane(i % 2), planes_)) fine = false;
    });
    prediction_->end_fit();
    return fine ? status::ok : status::values_out_of_range;
  }

  struct angles {
    std::vector<float> cosine, sine;
  };

  model_shape shape_;
  calibration_options options_;
  std::vector<plane_calibration> planes_;
  std::vector<token_weight_fit> weights_;  // of every layer
  std::vector<angles> angles_;
  std::optional<latent_calibration> latents_;  // until the first fit
  std::optional<prediction_calibration> prediction_;
  std::array<std::int64_t, 2> sampled_{};  // tokens of the second sweep and the third
  bool fitted_ = false, predictions_fitted_ = false;
  status state_ = status::invalid_argument;
};

}  // namespace sluice::detail::inline SLUICE_CALIBRATION_ABI
