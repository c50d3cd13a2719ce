// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/model_ropes.hpp>
#include <sluice/tensor/rope.hpp>
#include <sluice/tensor/rows.hpp>
#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// Where find_position() looks: at first, first + step, ... up to `last`.
struct position_search {
  std::int64_t first = 0;      ///< the first candidate
  std::int64_t last = 131071;  ///< no candidate is beyond
  std::int64_t step = 1;       ///< say an engine's chunk size, where chunks begin at multiples of it
};

namespace detail {

// Tokens that find_position() looks at. The mean of more tells nothing new.
inline constexpr int position_tokens = 256;

// What one rotary pair of one head says of the position p: re * cos(p f) + im * sin(p f) is largest where its mean,
// turned back, points to where the profile's mean points.
struct position_vote {
  std::uint32_t frequency;  // which one
  double re, im;
};

inline namespace SLUICE_HOST_ABI {

class position_finder {
 public:
  explicit position_finder(const profile& p) : profile_(&p), ropes_(p.shape) {}

  // Adds what one view says, whose token 0 stands `ahead` of the position that is looked for.
  status add(const kv_view& v, std::int64_t ahead) {
    if (const status s = validate(v); s != status::ok) return s;
    if (!v.k.present()) return status::invalid_argument;
    if (v.k.type == dtype::bytes) return status::unsupported_type;
    const int tokens = int(min(v.tokens, std::int64_t{position_tokens}));
    ropes_.fill(ahead, tokens, true);
    offsets_.resize(std::size_t(tokens));
    for (int t = 0; t < tokens; ++t) offsets_[std::size_t(t)] = v.token_offset(v.k, t);
    for (int i = 0; i < v.num_layers; ++i) {
      const int layer = v.layer_id(i);
      if (layer < 0 || layer >= profile_->shape.num_layers()) return status::wrong_shape;
      const layer_shape& s = profile_->shape.layers[std::size_t(layer)];
      if (s.num_kv_heads != v.num_kv_heads || s.head_dim_k != v.k.head_dim) return status::wrong_shape;
      if (ropes_.rotates(layer) && !profile_->of(layer, plane::key).mean.empty()) add_layer(v, i, layer, tokens);
    }
    return status::ok;
  }

  result<std::int64_t> search(const position_search& range) const {
    constexpr int block = 256;  // candidates at a time, whose angles to the first of them are in tables
    const std::size_t n = frequencies_.size();
    std::vector<double> cosine(n * block), sine(n * block), re(n), im(n), score(block);
    for (const position_vote& v : votes_) re[v.frequency] += v.re, im[v.frequency] += v.im;
    for (std::size_t i = 0; i < n; ++i) {
      turn(re[i], im[i], double(range.first) * frequencies_[i]);
      const double angle = double(range.step) * frequencies_[i], c = cos(angle), s = sin(angle);
      double* const to_c = &cosine[i * block];
      double* const to_s = &sine[i * block];
      to_c[0] = 1, to_s[0] = 0;
      for (int k = 1; k < block; ++k) {
        to_c[k] = to_c[k - 1] * c - to_s[k - 1] * s;
        to_s[k] = to_s[k - 1] * c + to_c[k - 1] * s;
      }
    }
    const std::int64_t candidates = (range.last - range.first) / range.step + 1;
    double best = -infinity, second = -infinity;
    std::int64_t best_at = 0, second_at = 0;
    for (std::int64_t from = 0; from < candidates; from += block) {
      for (double& x : score) x = 0;
      for (std::size_t i = 0; i < n; ++i) {
        const double* const c = &cosine[i * block];
        const double* const s = &sine[i * block];
        const double a = re[i], b = im[i];
        for (int k = 0; k < block; ++k) score[std::size_t(k)] += a * c[k] + b * s[k];
        turn(re[i], im[i], double(block) * double(range.step) * frequencies_[i]);
      }
      for (std::int64_t k = 0; k < min<std::int64_t>(block, candidates - from); ++k) {
        const double x = score[std::size_t(k)];
        if (x <= second) continue;
        second = x, second_at = range.first + (from + k) * range.step;
        if (x <= best) continue;
        second = best, best = x;
        const std::int64_t at = second_at;
        second_at = best_at, best_at = at;
      }
    }
    if (!clear(best, best_at, candidates > 1 ? second_at : -1)) return status::position_not_found;
    return best_at;
  }

 private:
  // Re and Im of a pair's votes as they are `angle` further on.
  static void turn(double& re, double& im, double angle) noexcept {
    const double c = cos(angle), s = sin(angle), x = re;
    re = x * c + im * s;
    im = im * c - x * s;
  }

  // Where a layer's frequencies begin among all.
  std::uint32_t frequencies_of(const rope& r, int head_dim) {
    for (const known& k : known_)
      if (k.head_dim == head_dim && *k.embedding == r) return k.first;
    known_.push_back({&r, head_dim, std::uint32_t(frequencies_.size())});
    frequencies_.resize(frequencies_.size() + std::size_t(rotary_dims(r, head_dim) / 2));
    rope_frequencies(r, head_dim, std::span(frequencies_).subspan(known_.back().first));
    return known_.back().first;
  }

  void add_layer(const kv_view& v, int index, int layer, int tokens) {
    const layer_shape& shape = profile_->shape.layers[std::size_t(layer)];
    const plane_profile& q = profile_->of(layer, plane::key);
    const rope& r = profile_->shape.ropes[std::size_t(shape.rope_index)];
    const int pairs = rotary_dims(r, v.k.head_dim) / 2;
    const std::uint32_t frequency = frequencies_of(r, v.k.head_dim);
    const auto width = std::size_t(q.width);
    x_.resize(std::size_t(tokens) * width);
    skip_.assign(std::size_t(tokens), 0);
    const row_layout at{offsets_.data(), v.k.head_stride, v.k.element_stride, 0,
                        v.num_kv_heads,  v.k.head_dim,    v.k.type,           false};
    load_rows(isa::best, v.layer_base(v.k, index), at, tokens, x_.data(), q.width, skip_.data());
    ropes_.rotate(isa::best, layer, x_.data(), q.width, tokens, v.num_kv_heads, 0);
    sum_.assign(width, 0);
    square_.assign(width, 0);
    int n = 0;
    for (int t = 0; t < tokens; ++t) {
      if (skip_[std::size_t(t)]) continue;
      ++n;
      const float* const x = &x_[std::size_t(t) * width];
      for (std::size_t c = 0; c < width; ++c) {
        sum_[c] += double(x[c]);
        square_[c] += double(x[c]) * double(x[c]);
      }
    }
    if (n == 0) return;
    const auto mean = [&](std::size_t c) { return double(to_float(f16{q.mean[c]})); };
    for (int h = 0; h < v.num_kv_heads; ++h)
      for (int i = 0; i < pairs; ++i) {
        const auto head = std::size_t(h * v.k.head_dim);
        const std::size_t a = head + std::size_t(r.pairing == rope_pairing::half ? i : 2 * i);
        const std::size_t b = head + std::size_t(r.pairing == rope_pairing::half ? i + pairs : 2 * i + 1);
        const double ux = mean(a), uy = mean(b), u2 = ux * ux + uy * uy;
        // In units of the pair's energy: no head, and no outlier channel, speaks louder than the others.
        const double energy = (square_[a] + square_[b]) / n + u2;
        if (!(u2 > 0) || !detail::isfinite(energy)) continue;
        const double x = sum_[a] / n, y = sum_[b] / n;
        votes_.push_back({frequency + std::uint32_t(i), (x * ux + y * uy) / energy, (y * ux - x * uy) / energy});
        expected_ += u2 / energy;
      }
  }

  // Is the best candidate what the right one would be, and better than the runner-up by more than chance? Right ones
  // of three models, in chunks of 16 tokens and more: 0.64 and more of what the means promise (noise and keys paired
  // wrongly: 0.10 and less), 0.96 of what all pairs could say with one voice (0.77), and votes against the runner-up that
  // sum up to 8.6 deviations (5.1; noise 1.1).
  bool clear(double best, std::int64_t at, std::int64_t other) const {
    std::vector<double> re(frequencies_.size()), im(frequencies_.size());
    double sum = 0, squares = 0, one_voice = 0;
    for (const position_vote& v : votes_) {
      const double f = frequencies_[v.frequency], p = double(at) * f, q = double(other) * f;
      const double x = v.re * (cos(p) - cos(q)) + v.im * (sin(p) - sin(q));
      sum += x, squares += x * x;
      re[v.frequency] += v.re, im[v.frequency] += v.im;
    }
    for (std::size_t i = 0; i < re.size(); ++i) one_voice += sqrt(re[i] * re[i] + im[i] * im[i]);
    return best > 0 && best >= 0.3 * expected_ && best >= 0.85 * one_voice && (other < 0 || sum > 3 * sqrt(squares));
  }

  struct known {
    const rope* embedding;
    int head_dim;
    std::uint32_t first;
  };
  const profile* profile_;
  model_ropes ropes_;
  std::vector<known> known_;
  std::vector<double> frequencies_;
  std::vector<position_vote> votes_;
  double expected_ = 0;
  std::vector<std::int64_t> offsets_;
  std::vector<float> x_;
  std::vector<std::uint8_t> skip_;
  std::vector<double> sum_, square_;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace detail

inline namespace SLUICE_HOST_ABI {

/// Where a chunk of a sequence stands, found from its keys: their mean without rotary embedding is known to the profile,
/// so the right position turns the chunk's mean onto it. For stores that hand over chunks without their position. All
/// layers have a say; V is not looked at and may be absent; kv_view::position is not read. 16 tokens are enough (on
/// three models every chunk was found among 131,072 candidates), fewer may be. Keys that were never rotated look as if
/// they stood near 0: see fit().
/// Errors: position_not_found (no candidate is clearly the best, the profile is not calibrated, or no layer rotates),
/// invalid_argument (an empty range, no tokens, no keys), those of validate(), corrupt_profile, wrong_shape,
/// unsupported_type.
inline result<std::int64_t> find_position(std::span<const kv_view> chunk, const profile& p,
                                          const position_search& range = {}) {
  constexpr std::int64_t most = std::int64_t{1} << 40;
  if (range.first < 0 || range.last < range.first || range.last > most || range.step < 1 || chunk.empty())
    return status::invalid_argument;
  if (const status s = validate(p); s != status::ok) return s;
  std::int64_t start = INT64_MAX;
  for (const kv_view& v : chunk)
    if (v.tokens > 0) start = detail::min(start, v.position);
  if (start == INT64_MAX) return status::invalid_argument;
  detail::position_finder finder(p);
  for (const kv_view& v : chunk)
    if (const status s = finder.add(v, v.position - start); s != status::ok) return s;
  return finder.search(range);
}

/// @name The same for one view, and for caches that may only be read.
/// Several views of one chunk may begin at different positions (layers with windows); what is found is the smallest of
/// them.
/// @{

/// As above.
inline result<std::int64_t> find_position(const const_kv_view& chunk, const profile& p,
                                          const position_search& range = {}) {
  return find_position({&detail::readable(chunk), 1}, p, range);
}
inline result<std::int64_t> find_position(std::span<const const_kv_view> chunk, const profile& p,
                                          const position_search& range = {}) {
  return find_position(detail::readable(chunk), p, range);
}
/// @}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
