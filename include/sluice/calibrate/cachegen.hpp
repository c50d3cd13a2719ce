// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/layers.hpp>
#include <sluice/codec/preset/cachegen_paper.hpp>
#include <sluice/model/pairs.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/view.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace sluice {

/// Counts the symbols of codec::cachegen_paper in caches of a model and makes the section that its frames need.
/// Every token is counted as an anchor, since any may become one; differences as the encoder groups them.
class cachegen_calibrator {
 public:
  /// `percents`: the scales of bins to make tables for, each from 1 to 1000. Borrows the profile, which says how the
  /// heads are grouped that share a scale; the section fits profiles of this shape and grouping only.
  explicit cachegen_calibrator(const profile& p, std::vector<int> percents = {50, 100, 200})
      : profile_(&p), percents_(std::move(percents)), state_(validate(p)), channels_(p) {
    percents_.insert(percents_.begin(), 0);
    for (std::size_t i = 1; i < percents_.size(); ++i)
      if (percents_[i] < 1 || percents_[i] > 1000) state_ = status::invalid_argument;
    if (state_ == status::ok) counts_.assign(percents_.size(), std::vector<std::uint32_t>(channels_.count * symbols));
  }
  explicit cachegen_calibrator(profile&&, std::vector<int> = {}) = delete;  // it must outlive the calibrator

  /// Counts one context. Errors: corrupt_profile, invalid_argument, those of validate(kv_view), wrong_shape,
  /// unsupported_type. After an error the calibrator is done for.
  status add(const kv_view& cache) {
    if (state_ != status::ok) return state_;
    if (state_ = detail::check_view(cache, profile_->shape); state_ != status::ok) return state_;
    for (plane which : {plane::key, plane::value}) {
      if (!cache[which].present()) continue;
      if (cache[which].type == dtype::bytes) return state_ = status::unsupported_type;
      for (int i = 0; i < cache.num_layers; ++i) {
        const int layer = cache.layer_id(i);
        const plane_profile& q = profile_->of(layer, which);
        for (int g = 0; g < q.groups(); ++g) count(cache, i, place_of(profile_->shape, q.group_width, layer, which, g));
      }
    }
    return status::ok;
  }

  /// The section for profile::set_section(). Errors: those of add().
  result<profile_section> finish() const {
    if (state_ != status::ok) return state_;
    profile_section s{std::uint8_t(profile_stage::entropy), detail::cachegen::section_id, true, {}};
    std::vector<std::byte> block;
    detail::byte_writer out(s.bytes);
    for (std::size_t i = 0; i < percents_.size(); ++i) {
      block.clear();
      detail::byte_writer w(block);
      for (std::size_t c = 0; c < channels_.count; ++c) write(std::span(counts_[i]).subspan(c * symbols, symbols), w);
      out.put(std::uint16_t(percents_[i]));
      out.put(std::uint16_t{0});
      out.put(std::uint32_t(block.size()));
      out.put_bytes(block.data(), block.size());
    }
    return s;
  }

 private:
  static constexpr std::size_t symbols = detail::cachegen::alphabet_size;

  // Adds one group of heads of one layer.
  void count(const kv_view& cache, int index, const group_place& g) {
    using namespace detail::cachegen;
    const int n = g.width();
    const std::size_t channel = channels_.of(g);
    row_.resize(std::size_t(n));
    anchor_.resize(percents_.size() * std::size_t(n));
    values_.resize(std::size_t(n));
    std::vector<int> seen(percents_.size(), 0);
    for (std::int64_t t = 0; t < cache.tokens; ++t) {
      for (int c = 0; c < n; ++c)
        row_[std::size_t(c)] = load_element(cache.at(g.plane, index, t, g.first_head + c / g.head_dim, c % g.head_dim),
                                            cache[g.plane].type);
      for (std::size_t i = 0; i < percents_.size(); ++i) {
        // The first entry takes every token for an anchor.
        const rounding round{bin_width(g.layer, g.num_layers, i ? percents_[i] : 100)};
        if (!round.holds(row_.data(), n)) continue;
        float* const anchor = &anchor_[i * std::size_t(n)];
        if (i == 0 || seen[i] % group_tokens == 0) {
          const f16 scale = round.scale_of(row_.data(), n);
          round.anchor(row_.data(), n, scale, values_.data());
          round.restore_anchor(values_.data(), n, scale, anchor);
        } else {
          round.difference(row_.data(), anchor, n, values_.data());
        }
        if (i == 0 || seen[i]++ % group_tokens)
          for (int c = 0; c < n; ++c) {
            const int q = values_[std::size_t(c)];
            const int s = q < -most || q > most ? int(symbols) - 1 : q + most;
            ++counts_[i][(channel + std::size_t(c)) * symbols + std::size_t(s)];
          }
      }
    }
  }

  // Frequencies out of 65,536, one at least for every symbol; what rounding leaves goes to the most frequent.
  static void write(std::span<const std::uint32_t> counts, detail::byte_writer& w) {
    constexpr std::uint64_t free = detail::cachegen::slots - symbols;
    std::uint64_t total = 0;
    for (const std::uint32_t c : counts) total += c;
    std::uint32_t size[symbols], sum = 0;
    std::size_t best = 0, first = symbols, last = 0;
    for (std::size_t s = 0; s < symbols; ++s) {
      size[s] = 1 + std::uint32_t(total ? counts[s] * free / total : free / symbols);
      sum += size[s];
      if (size[s] > size[best]) best = s;
      if (size[s] > 1) first = std::min(first, s), last = s;
    }
    size[best] += detail::cachegen::slots - sum;
    w.put(std::uint8_t(first));
    w.put(std::uint8_t(last));
    for (std::size_t s = first; s <= last; ++s) w.put(std::uint16_t(size[s]));
  }

  const profile* profile_;
  std::vector<int> percents_;  // 0 = anchors, then those of the tables
  status state_;
  detail::cachegen::channel_index channels_;
  std::vector<std::vector<std::uint32_t>> counts_;  // [percents][channel][symbol]
  std::vector<float> row_, anchor_;
  std::vector<std::int16_t> values_;
};

/// The section from captured caches at once, one view a context. Errors: those of the calibrator.
inline result<profile_section> calibrate_cachegen(const profile& p, std::span<const kv_view> captures,
                                                  std::vector<int> percents = {50, 100, 200}) {
  cachegen_calibrator c(p, std::move(percents));
  for (const kv_view& v : captures)
    if (const status s = c.add(v); s != status::ok) return s;
  return c.finish();
}

/// The section of `p` for a profile that with_pairs() made of it: tables of K's channels move with them.
/// Errors: invalid_argument (`to` is none), corrupt_profile, missing_section.
inline result<profile_section> cachegen_with_pairs(const profile& p, rope_pairing to) {
  if (to != rope_pairing::half && to != rope_pairing::interleaved) return status::invalid_argument;
  if (const status s = validate(p); s != status::ok) return s;
  const profile_section* const section = p.find(profile_stage::entropy, detail::cachegen::section_id);
  if (!section) return status::missing_section;
  const detail::cachegen::channel_index channels(p);
  std::vector<std::size_t> from(channels.count);
  for (std::size_t c = 0; c < from.size(); ++c) from[c] = c;
  for (int l = 0; l < p.shape.num_layers(); ++l) {
    const std::vector<int> order = detail::pair_order(p.shape, l, to);
    const std::size_t first = channels.first[2 * std::size_t(l)];
    for (std::size_t c = 0; !order.empty() && c < std::size_t(p.of(l, plane::key).width); ++c)
      from[first + c] = first + c - c % order.size() + std::size_t(order[c % order.size()]);
  }
  profile_section out = *section;
  std::vector<std::span<const std::byte>> tables(channels.count);  // of each channel in one block
  for (std::size_t at = 0; at < out.bytes.size();) {
    constexpr std::size_t head = 8;  // u16 percent, u16 reserved, u32 bytes that follow
    detail::byte_reader r(std::span(section->bytes).subspan(at));
    r.skip(4);
    const std::size_t size = r.get<std::uint32_t>();
    if (!r.ok() || size > r.left()) return status::corrupt_profile;
    std::span<const std::byte> left = std::span(section->bytes).subspan(at + head, size);
    for (std::span<const std::byte>& t : tables) {
      if (left.size() < 2 || left[1] < left[0]) return status::corrupt_profile;
      const std::size_t bytes = 4 + 2 * (std::size_t(left[1]) - std::size_t(left[0]));
      if (bytes > left.size()) return status::corrupt_profile;
      t = left.first(bytes);
      left = left.subspan(bytes);
    }
    if (!left.empty()) return status::corrupt_profile;
    at += head;
    for (const std::size_t c : from) {
      std::copy(tables[c].begin(), tables[c].end(), out.bytes.begin() + std::ptrdiff_t(at));
      at += tables[c].size();
    }
  }
  return out;
}

}  // namespace sluice
