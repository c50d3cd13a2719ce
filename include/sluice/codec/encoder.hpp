// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/budget.hpp>
#include <sluice/codec/codec.hpp>
#include <sluice/codec/encode_worker.hpp>
#include <sluice/codec/layers.hpp>
#include <sluice/codec/options.hpp>
#include <sluice/codec/share_work.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/codec/width/document_steps.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/model_ropes.hpp>

#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

namespace sluice {

inline namespace SLUICE_HOST_ABI {

/// Turns tokens of an engine's cache into frames. Borrows the profile; keeps workspaces, so use one per thread: threads
/// share a call where encode_options::parallel says so.
template <tile_codec Codec = codec::standard>
class encoder {
 public:
  /// For caches of the model that the profile describes. What is wrong with it is said by encode().
  explicit encoder(const profile& p, tuning t = {});
  explicit encoder(profile&&, tuning = {}) = delete;  // it must outlive the encoder

  /// Bytes that encode() can need for this view: the cache as stored, plus headers. Never exceeded.
  std::size_t max_size(const kv_view& cache) const { return max_size({&cache, 1}); }
  /// The same for several views.
  std::size_t max_size(std::span<const kv_view> cache) const;

  /// Encodes all tokens of the view as one frame and returns its size.
  /// Errors: invalid_argument (no tokens), invalid_view, page_out_of_range, wrong_shape, wrong_side_info (fewer token ids
  /// than tokens), unsupported_type (opaque bytes with a lossy codec), output_too_small, corrupt_profile (a singular basis), too_large. Tokens with a NaN or an
  /// infinity are kept exact, as are the first ones of a sequence (profile::sinks). Where there is a limit of bytes, `out`
  /// need not be larger.
  result<std::size_t> encode(const kv_view& cache, std::span<std::byte> out, const encode_options& options = {}) {
    return encode({&cache, 1}, out, options);
  }

  /// The same for a model whose layers are shown by several views, which may differ in type and position; the frame
  /// covers the positions that any view has, and holds of each layer what its view has of them.
  result<std::size_t> encode(std::span<const kv_view> cache, std::span<std::byte> out,
                             const encode_options& options = {});

  /// @name Caches that may only be read
  /// @{

  /// The same for caches that may only be read.
  std::size_t max_size(const const_kv_view& cache) const { return max_size(detail::readable(cache)); }
  std::size_t max_size(std::span<const const_kv_view> cache) const { return max_size(detail::readable(cache)); }
  result<std::size_t> encode(const const_kv_view& cache, std::span<std::byte> out, const encode_options& options = {}) {
    return encode(detail::readable(cache), out, options);
  }
  result<std::size_t> encode(std::span<const const_kv_view> cache, std::span<std::byte> out,
                             const encode_options& options = {}) {
    return encode(detail::readable(cache), out, options);
  }
  /// @}

 private:
  static constexpr int tile_tokens = Codec::tile_tokens;
  static constexpr bool stored = Codec::domain == value_domain::stored;
  static constexpr bool reads_tokens = detail::reads_tokens<Codec>;

  int passes() const noexcept { return Codec::passes(*profile_); }
  static bool extent(std::span<const kv_view> cache, std::int64_t& begin, std::int64_t& end) noexcept {
    bool any = false;
    for (const kv_view& v : cache) {
      if (v.tokens <= 0 || v.position < 0 || v.tokens > INT64_MAX - v.position) continue;
      begin = any ? detail::min(begin, v.position) : v.position;
      end = any ? detail::max(end, v.position + v.tokens) : v.position + v.tokens;
      any = true;
    }
    return any;
  }

  status begin(std::span<const kv_view> cache, const encode_options& options) {
    if (options.levels < 1 || !(detail::abs(options.coarser) <= max_row_step)) return status::invalid_argument;
    if (state_ != status::ok) return state_;
    if (const status s = detail::map_layers(cache, profile_->shape, slots_); s != status::ok) return s;
    std::int64_t end = 0;
    if (!extent(cache, position_, end)) return status::invalid_argument;
    if (end - position_ > max_frame_tokens || position_ > INT64_MAX - max_frame_tokens) return status::too_large;
    tokens_ = int(end - position_);
    const token_weights& weights = options.weights;
    if (!weights.attention.empty() &&
        weights.attention.size() != std::size_t(profile_->shape.num_layers()) * std::size_t(tokens_))
      return status::invalid_argument;
    if (!weights.importance.empty() && weights.importance.size() != std::size_t(tokens_))
      return status::invalid_argument;
    tiles_ = (tokens_ + tile_tokens - 1) / tile_tokens;
    made_ = detail::min(options.levels, passes());
    for (const kv_view& v : cache)
      for (plane p : {plane::key, plane::value})
        if (!stored && v[p].present() && v[p].type == dtype::bytes) return status::unsupported_type;
    detail::shape_runs(*profile_, slots_, runs_);
    ropes_.fill(position_, tokens_, true);
    side_ = options.side;
    if (reads_tokens && !side_.tokens.empty()) {
      if (side_.tokens.size() < std::size_t(tokens_)) return status::wrong_side_info;
      side_.tokens = side_.tokens.first(std::size_t(tokens_));
    }
    return status::ok;
  }

  // Encodes every (token tile, layer) into coded_, which is in the order of the index.
  status encode_tiles(const encode_options& options) {
    first_.clear();
    std::size_t tiles = 0;
    for (const plane_profile& q : profile_->planes) {
      first_.push_back(tiles);
      tiles += std::size_t(tiles_) * std::size_t(q.groups());
    }
    coded_.assign(tiles, {});
    const detail::encode_task task{profile_,  slots_,  &ropes_, side_,          options.weights,
                                   position_, tokens_, made_,   options.coarser};
    // Layers ascend within a token tile, as they do when it is decoded: a predictor has seen the lower ones.
    const std::int64_t layers = profile_->shape.num_layers(), together = Codec::span > 0 ? layers : 1;
    const std::int64_t items = layers / detail::max<std::int64_t>(together, 1) * tiles_;
    const int workers = detail::workers_for(options.parallel, items);
    while (std::ssize(workers_) < workers) workers_.push_back(std::make_unique<worker>(*profile_, isa_));
    failures_.assign(std::size_t(workers), {});
    for (const auto& w : workers_) w->begin_frame();
    detail::share_work(options.parallel, workers, items, [&](int of, std::int64_t item) {
      worker& w = *workers_[std::size_t(of)];
      const std::int64_t first = item * together;
      const int tile = int(first / layers);
      if constexpr (Codec::span > 0) w.begin_tile();
      for (std::int64_t i = first; i < first + together; ++i)
        for (plane which : {plane::key, plane::value}) {
          const int layer = int(i % layers);
          const auto groups = std::size_t(profile_->of(layer, which).groups());
          if (groups == 0) continue;
          detail::coded_tile* at =
              &coded_[first_[2 * std::size_t(layer) + std::size_t(which)] + std::size_t(tile) * groups];
          for (std::size_t g = 0; g < groups; ++g) at[g].worker = of;
          if (const status s = w.encode(task, layer, which, tile, at); s != status::ok) {
            failures_[std::size_t(of)] = {s, item};
            return false;
          }
        }
      return true;
    });
    failure first;
    for (const failure& f : failures_)
      if (f.why != status::ok && (first.why == status::ok || f.item < first.item)) first = f;
    return first.why;
  }

  // How many passes of each tile the frame has: all, or what is worth most of what fits.
  status choose(const encode_options& options) {
    kept_.assign(coded_.size(), std::uint8_t(made_));
    listed_ = made_;
    std::size_t size = detail::front_size(runs_.size(), coded_.size(), std::size_t(made_));
    for (const detail::coded_tile& t : coded_)
      for (int p = 0; p < made_; ++p) size += t.size[p];
    if (size <= options.max_bytes) return status::ok;
    std::vector<detail::tile_worth> worth(coded_.size());
    for (std::size_t i = 0; i < worth.size(); ++i) detail::copy(coded_[i].size, coded_[i].size + made_, worth[i].size);
    const auto channels = [&](std::size_t at, int group) {
      const plane_profile& q = profile_->planes[at];
      return group < q.groups() ? q.width_of(group) : 0;
    };
    detail::share_losses(profile_, profile_->planes.size(), tokens_, tile_tokens, channels, worth);
    detail::pass_choice c = detail::pass_chooser(worth, made_, runs_.size()).choose(options.max_bytes);
    if (c.kept.empty()) return status::output_too_small;
    kept_ = std::move(c.kept);
    listed_ = detail::listed_passes(kept_, [&](int p, std::size_t i) { return coded_[i].size[p]; });
    return status::ok;
  }

  result<std::size_t> assemble(std::span<std::byte> out, const encode_options& options) {
    const std::size_t tiles = coded_.size(), entries = tiles * std::size_t(listed_);
    const std::size_t front = detail::front_size(runs_.size(), tiles, std::size_t(listed_));
    ends_.resize(entries);
    std::size_t size = front;
    for (std::size_t k = 0; k < entries; ++k)
      ends_[k] = size += k / tiles < kept_[k % tiles] ? coded_[k % tiles].size[k / tiles] : 0;
    if (front > UINT32_MAX) return status::too_large;
    if (out.size() < size) return status::output_too_small;

    std::byte* const index = out.data() + sizeof(frame_header);
    std::memset(index, 0, front - sizeof(frame_header));
    if (!runs_.empty()) std::memcpy(index, runs_.data(), runs_.size() * sizeof(shape_run));
    const std::int64_t blocks = std::int64_t((entries + block_tiles - 1) / block_tiles);
    const int workers = detail::workers_for(options.parallel, blocks);
    detail::share_work(options.parallel, workers, blocks, [&](int, std::int64_t block) {
      const std::size_t begin = std::size_t(block) * block_tiles;
      for (std::size_t k = begin; k < detail::min(begin + block_tiles, entries); ++k) {
        const detail::coded_tile& t = coded_[k % tiles];
        const std::size_t p = k / tiles;
        tile_entry e{cut_tile, 0};
        if (p < kept_[k % tiles]) {
          std::size_t from = t.begin;
          for (std::size_t i = 0; i < p; ++i) from += t.size[i];
          std::byte* to = out.data() + ends_[k] - t.size[p];
          if (t.size[p]) std::memcpy(to, workers_[std::size_t(t.worker)]->payload().data() + from, t.size[p]);
          e = {t.size[p], checksum(to, t.size[p], std::uint32_t(k), isa_)};
        }
        std::memcpy(index + runs_.size() * sizeof(shape_run) + k * sizeof e, &e, sizeof e);
      }
      return true;
    });

    frame_header h{};
    h.magic = frame_magic;
    h.version_major = SLUICE_FORMAT_VERSION_MAJOR;
    h.version_minor = SLUICE_FORMAT_VERSION_MINOR;
    h.header_size = sizeof h;
    h.fingerprint = fingerprint_;
    h.position = position_;
    h.frame_size = size;
    h.tokens = std::uint32_t(tokens_);
    h.tile_tokens = tile_tokens;
    h.index_size = std::uint32_t(front - sizeof h);
    h.index_checksum = checksum(index, h.index_size, frame_magic);
    h.layers = std::uint16_t(profile_->shape.num_layers());
    h.shape_runs = std::uint16_t(runs_.size());
    h.passes = h.levels_present = std::uint8_t(listed_);
    h.codec = Codec::id;
    if constexpr (reads_tokens)
      if (!side_.tokens.empty()) h.side_checksum = side_checksum(side_.tokens);
    for (int j = 0; j < listed_; ++j)
      if (const double nats = loss_said(options, j); nats > 0) h.loss[j] = frame_header::loss_code(nats);
    h.header_checksum = header_checksum(h);
    std::memcpy(out.data(), &h, sizeof h);
    return size;
  }

  // What the header says that a level loses; 0 = as the profile does.
  double loss_said(const encode_options& options, int level) const noexcept {
    if (!options.loss.empty()) return level < int(options.loss.size()) ? options.loss[std::size_t(level)] : 0;
    const double moved = expected_loss(*profile_, Codec::id, level, double(options.coarser));
    return moved == profile_->loss_of(level) ? 0 : moved;
  }

  using worker = detail::encode_worker<Codec>;
  struct failure {
    status why = status::ok;
    std::int64_t item = 0;
  };
  static constexpr std::size_t block_tiles = 16;  // that are put in their place at a time

  // Of a codec with groups of its own, null where the profile's serve.
  static std::shared_ptr<const profile> regrouped([[maybe_unused]] status sound, [[maybe_unused]] const profile& p) {
    if constexpr (detail::codes_whole_planes<Codec>)
      if (sound == status::ok) return std::make_shared<const profile>(detail::in_whole_planes(p));
    return {};
  }

  status state_;
  std::shared_ptr<const profile> regrouped_;
  const profile* profile_;
  sluice::isa isa_;
  std::uint64_t fingerprint_;
  std::vector<shape_run> runs_;
  detail::model_ropes ropes_;
  std::vector<std::unique_ptr<worker>> workers_;  // the first is the caller's
  std::vector<failure> failures_;                 // of each worker
  std::vector<detail::layer_slot> slots_;
  std::vector<std::size_t> first_;         // tile of each plane
  std::vector<detail::coded_tile> coded_;  // in the order of the index
  std::vector<std::uint8_t> kept_;         // passes of each
  std::vector<std::size_t> ends_;          // in the frame, of every tile in every pass
  std::int64_t position_ = 0;
  side_info side_;
  int tokens_ = 0, tiles_ = 0, made_ = 1, listed_ = 1;
};

// What users call is defined outside of the class: sluice::kernels has it, and who links that compiles none of it.

template <tile_codec Codec>
encoder<Codec>::encoder(const profile& p, tuning t)
    : state_(validate(p)),
      regrouped_(regrouped(state_, p)),
      profile_(regrouped_ ? regrouped_.get() : &p),
      isa_(usable_isa(t.isa)),
      fingerprint_(fingerprint_of<Codec>(p)),
      ropes_(Codec::domain == value_domain::unrotated ? detail::profile_if(state_, p).shape : model_shape{}) {
  workers_.push_back(std::make_unique<worker>(detail::profile_if(state_, *profile_), isa_));
  if (state_ == status::ok) state_ = workers_[0]->state();
}

template <tile_codec Codec>
std::size_t encoder<Codec>::max_size(std::span<const kv_view> cache) const {
  std::int64_t begin = 0, end = 0;
  if (state_ != status::ok || !extent(cache, begin, end)) return 0;
  const std::size_t tiles = std::size_t((end - begin + tile_tokens - 1) / tile_tokens);
  std::size_t coded = 0, row = 0, groups = 0;
  for (const plane_profile& q : profile_->planes) groups += std::size_t(q.groups());
  for (const kv_view& v : cache)
    for (int i = 0; i < v.num_layers; ++i)
      for (plane p : {plane::key, plane::value})
        if (v[p].present() && v.layer_id(i) >= 0 && v.layer_id(i) < profile_->shape.num_layers()) {
          coded += std::size_t(profile_->of(v.layer_id(i), p).groups());
          row += std::size_t(v.num_kv_heads) * std::size_t(v[p].head_dim) * std::size_t(size_of(v[p].type));
        }
  const std::size_t tokens = std::size_t(end - begin);
  return detail::front_size(profile_->shape.layers.size(), groups * tiles, std::size_t(passes())) +
         coded * tiles * tile_writer::stored_size(0, 0) + coded * tokens * 2 + tokens * row;
}

template <tile_codec Codec>
result<std::size_t> encoder<Codec>::encode(std::span<const kv_view> cache, std::span<std::byte> out,
                                           const encode_options& options) {
  if (const status s = begin(cache, options); s != status::ok) return s;
  if (const status s = encode_tiles(options); s != status::ok) return s;
  if (const status s = choose(options); s != status::ok) return s;
  return assemble(out, options);
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
