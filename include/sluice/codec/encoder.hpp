// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/transform/dense.hpp>
#include <sluice/codec/entropy/split_exponent/exact_tile.hpp>
#include <sluice/codec/entropy/bitpack/fixed_tile.hpp>
#include <sluice/codec/entropy/class_rans/encode.hpp>
#include <sluice/codec/stream.hpp>
#include <sluice/codec/tile_input.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/numeric.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice {

/// What to make.
struct encode_options {
  int levels = max_passes;  ///< passes to make, from the base on; more than the codec has means all
};

inline namespace SLUICE_HOST_ABI {

/// Turns tokens of an engine's cache into frames. Borrows the profile; keeps a workspace, so use one per thread.
template <class Codec = codec::standard>
class encoder {
 public:
  explicit encoder(const profile& p, tuning t = {})
      : profile_(&p),
        state_(validate(p)),
        isa_(usable_isa(t.isa)),
        fingerprint_(Codec::entropy::exact ? 0 : p.fingerprint()),
        coder_(state_ == status::ok ? p : profile{}, isa_),
        ropes_(state_ == status::ok && Codec::transform::decorrelates ? p.shape : model_shape{}) {}

  /// Bytes that encode() can need for this view: the cache as stored, plus headers. Never exceeded.
  std::size_t max_size(const kv_view& cache) const { return max_size({&cache, 1}); }
  std::size_t max_size(std::span<const kv_view> cache) const {
    std::int64_t begin = 0, end = 0;
    if (state_ != status::ok || !extent(cache, begin, end)) return 0;
    const std::size_t tiles = std::size_t((end - begin + Codec::grouping::tokens - 1) / Codec::grouping::tokens);
    std::size_t streams = 0, row = 0, groups = 0;
    for (const plane_profile& q : profile_->planes) groups += std::size_t(q.groups());
    for (const kv_view& v : cache)
      for (int i = 0; i < v.num_layers; ++i)
        for (plane p : {plane::key, plane::value})
          if (v[p].present() && v.layer_id(i) >= 0 && v.layer_id(i) < profile_->shape.num_layers()) {
            streams += std::size_t(profile_->of(v.layer_id(i), p).groups());
            row += std::size_t(v.num_kv_heads) * std::size_t(v[p].head_dim) * std::size_t(size_of(v[p].type));
          }
    const std::size_t tokens = std::size_t(end - begin);
    return sizeof(frame_header) + profile_->shape.layers.size() * sizeof(shape_run) + 16 +
           groups * tiles * std::size_t(passes()) * sizeof(tile_entry) + streams * tiles * 160 + streams * tokens * 2 +
           tokens * row + tokens * row / 64;
  }

  /// Encodes all tokens of the view as one frame and returns its size.
  /// Errors: invalid_argument (no tokens), invalid_view, page_out_of_range, wrong_shape, unsupported_type (opaque bytes
  /// with a lossy codec), output_too_small, corrupt_profile (a singular basis), too_large. Tokens with a NaN or an
  /// infinity are kept exact, as are the first ones of a sequence (profile::sinks).
  result<std::size_t> encode(const kv_view& cache, std::span<std::byte> out, const encode_options& options = {}) {
    return encode({&cache, 1}, out, options);
  }

  /// The same for a model whose layers are shown by several views, which may differ in type and position; the frame
  /// covers the positions that any view has, and holds of each layer what its view has of them.
  result<std::size_t> encode(std::span<const kv_view> cache, std::span<std::byte> out,
                             const encode_options& options = {}) {
    if (const status s = begin(cache, options); s != status::ok) return s;
    entries_.clear();
    for (auto& p : payload_) p.clear();
    for (int layer = 0; layer < profile_->shape.num_layers(); ++layer)
      for (plane which : {plane::key, plane::value})
        for (int tile = 0; tile < tiles_; ++tile)
          if (const status s = encode_tile(layer, which, tile); s != status::ok) return s;
    return assemble(out);
  }

  /// The same for a cache that may only be read.
  std::size_t max_size(const const_kv_view& cache) const { return max_size(detail::readable(cache)); }
  result<std::size_t> encode(const const_kv_view& cache, std::span<std::byte> out, const encode_options& options = {}) {
    return encode(detail::readable(cache), out, options);
  }

 private:
  static constexpr int tile_tokens = Codec::grouping::tokens;

  int passes() const noexcept {
    return Codec::entropy::id == class_rans::id ? detail::min(Codec::quantizer::passes, profile_->passes) : 1;
  }

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
    if (options.levels < 1) return status::invalid_argument;
    if (state_ != status::ok) return state_;
    if (coder_.state() != status::ok) return coder_.state();
    for (const plane_profile& q : profile_->planes)
      if (q.groups() && q.group_width != group_width_of(q)) return status::wrong_profile;
    if (const status s = detail::map_layers(cache, profile_->shape, slots_); s != status::ok) return s;
    std::int64_t end = 0;
    if (!extent(cache, position_, end)) return status::invalid_argument;
    if (end - position_ > max_frame_tokens || position_ > INT64_MAX - max_frame_tokens) return status::too_large;
    tokens_ = int(end - position_);
    tiles_ = (tokens_ + tile_tokens - 1) / tile_tokens;
    made_ = detail::min(options.levels, passes());
    for (const kv_view& v : cache)
      for (plane p : {plane::key, plane::value})
        if (!Codec::entropy::exact && v[p].present() && v[p].type == dtype::bytes) return status::unsupported_type;
    detail::shape_runs(*profile_, slots_, runs_);
    ropes_.fill(position_, tokens_, true);
    return status::ok;
  }

  // The grouping policy must agree with the basis of the profile, where there is one.
  int group_width_of(const plane_profile& q) const noexcept {
    const std::size_t at = std::size_t(&q - profile_->planes.data());
    const layer_shape& l = profile_->shape.layers[at / 2];
    const int dim = l.head_dim(at % 2 ? plane::value : plane::key);
    if (q.matrix.empty() || Codec::grouping::heads_per_basis == 0) return q.group_width;
    return basis_heads(Codec::grouping::heads_per_basis, l.num_kv_heads, dim) * dim;
  }

  // All groups of one (layer, plane, token tile).
  status encode_tile(int layer, plane which, int tile) {
    const plane_profile& q = profile_->of(layer, which);
    if (q.groups() == 0) return status::ok;
    const detail::layer_slot slot = slots_[std::size_t(layer)];
    const std::int64_t start = position_ + std::int64_t{tile} * tile_tokens;  // of the tile
    const std::int64_t stop = detail::min(start + tile_tokens, position_ + tokens_);
    std::int64_t from = start, to = start;
    if (slot.view) {
      from = detail::clamp(slot.view->position, start, stop);
      to = detail::clamp(slot.view->position + slot.view->tokens, from, stop);
    }
    const int count = int(to - from);
    if (count == 0) {
      for (int g = 0; g < q.groups(); ++g) close_tile();
      return status::ok;
    }
    const kv_view& v = *slot.view;
    const plane_view& p = v[which];
    offsets_.resize(std::size_t(count));
    for (int i = 0; i < count; ++i) offsets_[std::size_t(i)] = v.token_offset(p, from - v.position + i);

    in_.first = int(from - start);
    in_.count = count;
    in_.source = &q;
    in_.base = v.layer_base(p, slot.index);
    in_.offsets = offsets_.data();
    in_.plane = &p;
    if constexpr (!Codec::entropy::exact) load(layer, which, int(from - position_), count);
    for (int g = 0; g < q.groups(); ++g) {
      in_.place = detail::place_of(profile_->shape, q.group_width, layer, which, g);
      if constexpr (!Codec::entropy::exact) {
        in_.rows = coded_;
        in_.exact = exact_;
        in_.ld = ld_;
        in_.x = values_.data() + in_.place.first_head * in_.place.head_dim;
      }
      if (const status s = encode_stream(); s != status::ok) return s;
    }
    return status::ok;
  }

  // Tokens as floats with the rotation undone; sinks and tokens that are no numbers stand aside.
  void load(int layer, plane which, int token, int count) {
    const layer_shape& l = profile_->shape.layers[std::size_t(layer)];
    const int dim = l.head_dim(which), width = l.num_kv_heads * dim;
    ld_ = detail::padded(width);
    values_.resize(std::size_t(count) * std::size_t(ld_));
    flagged_.assign(std::size_t(count), 0);
    for (int i = 0; i < count; ++i) flagged_[std::size_t(i)] = position_ + token + i < profile_->sinks;
    const detail::row_layout at{offsets_.data(),
                                in_.plane->head_stride,
                                in_.plane->element_stride,
                                0,
                                l.num_kv_heads,
                                dim,
                                in_.plane->type,
                                false};
    detail::load_rows(isa_, in_.base, at, count, values_.data(), ld_, flagged_.data());
    if (Codec::transform::decorrelates && which == plane::key)
      ropes_.rotate(isa_, layer, values_.data(), ld_, count, l.num_kv_heads, token);
    coded_.clear();
    exact_.clear();
    for (int i = 0; i < count; ++i) {
      if (flagged_[std::size_t(i)]) {
        exact_.push_back(std::uint16_t(i));
        continue;
      }
      if (int(coded_.size()) != i)
        std::memmove(&values_[coded_.size() * std::size_t(ld_)], &values_[std::size_t(i) * std::size_t(ld_)],
                     std::size_t(width) * sizeof(float));
      coded_.push_back(std::uint16_t(i));
    }
  }

  // Codes one stream, or stores it where coding does not pay.
  status encode_stream() {
    std::size_t before[max_passes];
    for (int p = 0; p < made_; ++p) before[p] = payload_[p].size();
    // One group's exact tokens must not move another's rows: the coder works on its own columns only.
    status s = coder_.encode(in_, made_, {payload_, std::size_t(made_)});
    std::size_t size = 0;
    for (int p = 0; p < made_; ++p) size += payload_[p].size() - before[p];
    if (s == status::ok && !Codec::entropy::exact && in_.rows.empty()) s = status::too_large;  // nothing was coded
    const std::size_t stored =
        (sizeof(detail::tile_head) + (2 + in_.row_bytes()) * std::size_t(in_.count) + 15) / 16 * 16;
    if (s == status::too_large || (s == status::ok && size > stored && !Codec::entropy::exact)) {
      for (int p = 0; p < made_; ++p) payload_[p].resize(before[p]);
      store();
      s = status::ok;
    }
    close_tile();
    return s;
  }

  // Every token exact.
  void store() {
    in_.exact.resize(std::size_t(in_.count));
    for (int i = 0; i < in_.count; ++i) in_.exact[std::size_t(i)] = std::uint16_t(i);
    detail::section_writer w(payload_[0]);
    w.put(
        detail::tile_head{std::uint16_t(in_.first), std::uint16_t(in_.count), std::uint16_t(in_.count), 0, 0, 0, 0, 0});
    w.put_bytes(in_.exact.data(), 2 * in_.exact.size());
    in_.put_exact_rows(w);
    w.finish();
  }

  // Notes where the tile ends in every pass.
  void close_tile() {
    for (int p = 0; p < made_; ++p) entries_.push_back(payload_[p].size());
  }

  result<std::size_t> assemble(std::span<std::byte> out) {
    const std::size_t tiles = entries_.size() / std::size_t(made_);
    const std::size_t listed = runs_.size() * sizeof(shape_run) + entries_.size() * sizeof(tile_entry);
    const std::size_t payload_at = (sizeof(frame_header) + listed + 15) / 16 * 16;
    std::size_t size = payload_at;
    for (int p = 0; p < made_; ++p) size += payload_[p].size();
    if (listed > UINT32_MAX) return status::too_large;
    if (out.size() < size) return status::output_too_small;

    std::byte* at = out.data() + sizeof(frame_header);
    std::memset(at, 0, payload_at - sizeof(frame_header));
    if (!runs_.empty()) std::memcpy(at, runs_.data(), runs_.size() * sizeof(shape_run));
    at += runs_.size() * sizeof(shape_run);
    std::byte* to = out.data() + payload_at;
    std::uint32_t ordinal = 0;
    for (int p = 0; p < made_; ++p) {
      std::size_t start = 0;
      for (std::size_t i = 0; i < tiles; ++i, ++ordinal) {
        const std::size_t end = entries_[i * std::size_t(made_) + std::size_t(p)];
        const tile_entry e{std::uint32_t(end - start),
                           checksum(payload_[p].data() + start, end - start, ordinal, isa_)};
        std::memcpy(at, &e, sizeof e);
        at += sizeof e;
        start = end;
      }
      if (!payload_[p].empty()) std::memcpy(to, payload_[p].data(), payload_[p].size());
      to += payload_[p].size();
    }

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
    h.index_size = std::uint32_t(payload_at - sizeof h);
    h.index_checksum = checksum(out.data() + sizeof h, h.index_size, frame_magic);
    h.layers = std::uint16_t(profile_->shape.num_layers());
    h.shape_runs = std::uint16_t(runs_.size());
    h.passes = h.levels_present = std::uint8_t(made_);
    h.codec = Codec::id;
    h.header_checksum = header_checksum(h);
    std::memcpy(out.data(), &h, sizeof h);
    return size;
  }

  const profile* profile_;
  status state_;
  sluice::isa isa_;
  std::uint64_t fingerprint_;
  std::vector<shape_run> runs_;
  detail::tile_encoder<Codec> coder_;
  detail::model_ropes ropes_;
  std::vector<detail::layer_slot> slots_;
  std::vector<std::uint8_t> payload_[max_passes];
  std::vector<std::size_t> entries_;  // [tile][pass]: where it ends in its pass
  detail::tile_input in_;
  std::vector<std::int64_t> offsets_;
  std::vector<float> values_;
  std::vector<std::uint8_t> flagged_;
  std::vector<std::uint16_t> coded_, exact_;
  std::int64_t position_ = 0;
  std::ptrdiff_t ld_ = 0;
  int tokens_ = 0, tiles_ = 0, made_ = 1;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
