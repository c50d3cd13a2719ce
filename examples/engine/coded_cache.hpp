// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"

#include <sluice/codec/any_codec.hpp>
#include <sluice/codec/budget.hpp>
#include <sluice/codec/width/document_steps.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace engine {

/// A sequence's tokens as frames of any preset codec, which can be cut down level by level and decoded at each.
/// Every member throws std::runtime_error where the library reports an error.
class coded_cache {
 public:
  static constexpr int chunk_tokens = 256;  ///< of a frame, unless told

  /// Borrows the profile. Throws std::invalid_argument where no codec has this name.
  coded_cache(const sluice::profile& p, const std::string& codec, int chunk = chunk_tokens) : chunk_(chunk) {
    const sluice::preset* named = sluice::preset_named(codec.c_str());
    if (!named) throw std::invalid_argument("no codec is called " + codec);
    profile_ = &p;
    codec_ = named->id;
    encoder_ = sluice::make_encoder(named->id, p);
    decoder_ = sluice::make_decoder(named->id, p);
  }

  /// Encodes all tokens, whose ids these are, with all levels. `attention`: [layers][tokens] as observed_attention() gives
  /// it, or empty: the codec guesses.
  void encode(const sluice::kv_view& cache, std::span<const std::int32_t> ids, std::span<const float> attention = {},
              const sluice::document_steps& steps = {}) {
    frames_.clear();
    ids_.assign(ids.begin(), ids.end());
    for (std::int64_t t = 0; t < cache.tokens; t += chunk_) {
      const sluice::kv_view chunk = cache.slice(t, std::min<std::int64_t>(t + chunk_, cache.tokens));
      auto& frame = frames_.emplace_back(encoder_->max_size(chunk));
      std::vector<float> paid;
      for (std::size_t at = std::size_t(t); at < attention.size(); at += std::size_t(cache.tokens)) {
        const auto layer = attention.subspan(at, std::size_t(chunk.tokens));
        paid.insert(paid.end(), layer.begin(), layer.end());
      }
      const sluice::result<std::size_t> size = encoder_->encode(
          chunk, frame,
          {.side = side(t), .weights = {.attention = paid}, .coarser = steps.coarser, .loss = steps.told()});
      check("encoding", size.status());
      frame.resize(*size);
    }
    levels_ = frames_.empty() ? 0 : index_of(frames_.front()).header().passes;
    tokens_ = int(cache.tokens);
  }

  const sluice::profile& profile() const noexcept { return *profile_; }
  const sluice::codec_id& codec() const noexcept { return codec_; }
  /// Those that encode() made.
  int levels() const noexcept { return levels_; }
  /// Nats that a level is expected to lose, of the first frame; 0 where the profile expects nothing of this codec.
  double expected_loss(int level) const {
    if (levels_ < 2 || !(profile_->loss_of(0) > 0)) return 0;
    const sluice::result<double> loss = sluice::expected_loss(index_of(frames_.front()), *profile_, level);
    check("reading", loss.status());
    return *loss;
  }
  std::size_t bytes() const noexcept {
    std::size_t n = 0;
    for (const auto& f : frames_) n += f.size();
    return n;
  }

  /// Cuts off the levels above this one, for good.
  void truncate(int level) {
    for (auto& f : frames_) {
      const sluice::result<std::size_t> size = sluice::truncate(f, level);
      check("truncating", size.status());
      f.resize(*size);
    }
  }

  /// Fills an empty sequence with what the frames hold.
  void decode(sequence& to) {
    check("decoding", to.grow(tokens_));
    for (std::size_t i = 0; i < frames_.size(); ++i) {
      const sluice::side_info ids = side(std::int64_t(i) * chunk_);
      check("decoding", decoder_->decode(frames_[i], to.view(), {.side = ids}).worst);
    }
  }

 private:
  static void check(const char* what, sluice::status s) {
    if (s != sluice::status::ok) throw std::runtime_error(std::string(what) + ": " + to_string(s));
  }

  // What predictors may know of a frame that begins with this token.
  sluice::side_info side(std::int64_t begin) const {
    const auto all = std::span<const std::int32_t>(ids_);
    return {all.subspan(std::size_t(begin), std::min(std::size_t(chunk_), all.size() - std::size_t(begin)))};
  }

  static sluice::frame_index index_of(std::span<const std::byte> frame) {
    sluice::frame_index index;
    check("encoding", index.parse(frame));
    return index;
  }

  const sluice::profile* profile_;
  sluice::codec_id codec_;
  std::unique_ptr<sluice::any_encoder> encoder_;
  std::unique_ptr<sluice::any_decoder> decoder_;
  std::vector<std::vector<std::byte>> frames_;
  std::vector<std::int32_t> ids_;
  int chunk_, levels_ = 0, tokens_ = 0;
};

}  // namespace engine
