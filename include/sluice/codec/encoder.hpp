// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/layers.hpp>
#include <sluice/codec/options.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/model_ropes.hpp>
#include <sluice/tensor/rows.hpp>

#include <array>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice {

inline namespace SLUICE_HOST_ABI {

/// Turns tokens of an engine's cache into frames. Borrows the profile; keeps a workspace, so use one per thread.
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
  /// Errors: invalid_argument (no tokens), invalid_view, page_out_of_range, wrong_shape, unsupported_type (opaque bytes
  /// with a lossy codec), output_too_small, corrupt_profile (a singular basis), too_large. Tokens with a NaN or an
  /// infinity are kept exact, as are the first ones of a sequence (profile::sinks).
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
    if (options.levels < 1) return status::invalid_argument;
    if (state_ != status::ok) return state_;
    if (const status s = detail::map_layers(cache, profile_->shape, slots_); s != status::ok) return s;
    std::int64_t end = 0;
    if (!extent(cache, position_, end)) return status::invalid_argument;
    if (end - position_ > max_frame_tokens || position_ > INT64_MAX - max_frame_tokens) return status::too_large;
    tokens_ = int(end - position_);
    tiles_ = (tokens_ + tile_tokens - 1) / tile_tokens;
    made_ = detail::min(options.levels, passes());
    for (const kv_view& v : cache)
      for (plane p : {plane::key, plane::value})
        if (!stored && v[p].present() && v[p].type == dtype::bytes) return status::unsupported_type;
    detail::shape_runs(*profile_, slots_, runs_);
    side_ = options.side;
    ropes_.fill(position_, tokens_, true);
    return status::ok;
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
    plane_ = &v[which];
    base_ = v.layer_base(*plane_, slot.index);
    offsets_.resize(std::size_t(count));
    for (int i = 0; i < count; ++i) offsets_[std::size_t(i)] = v.token_offset(*plane_, from - v.position + i);

    in_.range = {int(from - position_), from, count};
    in_.type = plane_->type;
    flag_tokens();
    if constexpr (!stored) load(layer, which);
    split_tokens(std::size_t(q.width));
    for (int g = 0; g < q.groups(); ++g) {
      in_.place = place_of(profile_->shape, q.group_width, layer, which, g);
      in_.rows = coded_;
      in_.exact = exact_;
      if constexpr (stored) {
        gather(in_.rows);
        in_.elements = elements_.data();
      } else {
        in_.ld = ld_;
        in_.x = values_.data() + in_.place.first_head * in_.place.head_dim;
      }
      if (const status s = encode_group(int(from - start)); s != status::ok) return s;
      close_tile();
    }
    return status::ok;
  }

  // Which tokens the codec wants exact.
  void flag_tokens() {
    flagged_.resize(std::size_t(in_.range.count));
    for (int i = 0; i < in_.range.count; ++i)
      flagged_[std::size_t(i)] = Codec::keeps_exact(*profile_, in_.range.position + i, position_ + tokens_);
  }

  // Tokens as floats in the codec's domain; those that are no numbers are flagged as well.
  void load(int layer, plane which) {
    const layer_shape& l = profile_->shape.layers[std::size_t(layer)];
    const int dim = l.head_dim(which), count = in_.range.count;
    ld_ = detail::padded(l.num_kv_heads * dim);
    values_.resize(std::size_t(count) * std::size_t(ld_));
    const detail::row_layout at{
        offsets_.data(), plane_->head_stride, plane_->element_stride, 0, l.num_kv_heads, dim, plane_->type, false};
    detail::load_rows(isa_, base_, at, count, values_.data(), ld_, flagged_.data());
    if (Codec::domain == value_domain::unrotated && which == plane::key)
      ropes_.rotate(isa_, layer, values_.data(), ld_, count, l.num_kv_heads, in_.range.frame_token);
  }

  // Flagged tokens stand aside; floats of the others close ranks.
  void split_tokens(std::size_t width) {
    coded_.clear();
    exact_.clear();
    for (std::size_t i = 0; i < flagged_.size(); ++i) {
      if (flagged_[i]) {
        exact_.push_back(std::uint16_t(i));
        continue;
      }
      if (!stored && coded_.size() != i)
        std::memmove(&values_[coded_.size() * std::size_t(ld_)], &values_[i * std::size_t(ld_)], width * sizeof(float));
      coded_.push_back(std::uint16_t(i));
    }
  }

  // Codes one tile, or stores it where coding does not pay.
  status encode_group(int first) {
    const std::size_t row_bytes = std::size_t(in_.place.width()) * std::size_t(size_of(in_.type));
    writer_.clear();
    status s = coder_.encode(in_, side_, made_, writer_);
    if (s != status::ok && s != status::too_large) return s;
    const std::size_t most = tile_writer::stored_size(std::size_t(in_.range.count), row_bytes);
    // A lossy codec that coded nothing has nothing to say in any section.
    if (s == status::too_large || in_.rows.empty() || writer_.size(made_, in_.exact.size(), row_bytes) > most) {
      writer_.clear();
      in_.exact.resize(std::size_t(in_.range.count));
      for (std::size_t i = 0; i < in_.exact.size(); ++i) in_.exact[i] = std::uint16_t(i);
    }
    gather(in_.exact);
    for (int p = 0; p < made_; ++p) writer_.finish(p, first, in_.range.count, in_.exact, elements_, payload_[p]);
    return status::ok;
  }

  // Elements of some tokens as the cache holds them, heads of the group in order.
  void gather(std::span<const std::uint16_t> tokens) {
    const std::size_t element = std::size_t(size_of(in_.type)), head = element * std::size_t(in_.place.head_dim);
    elements_.resize(tokens.size() * std::size_t(in_.place.heads) * head);
    std::uint8_t* to = elements_.data();
    for (const std::uint16_t token : tokens)
      for (int h = 0; h < in_.place.heads; ++h, to += head) {
        const std::byte* from = base_ + offsets_[token] + (in_.place.first_head + h) * plane_->head_stride;
        if (plane_->element_stride == std::int64_t(element)) {
          std::memcpy(to, from, head);
          continue;
        }
        for (int d = 0; d < in_.place.head_dim; ++d)
          std::memcpy(to + std::size_t(d) * element, from + d * plane_->element_stride, element);
      }
  }

  // Notes where the tile ends in every pass.
  void close_tile() {
    ends_.emplace_back();
    for (int p = 0; p < made_; ++p) ends_.back()[std::size_t(p)] = payload_[p].size();
  }

  result<std::size_t> assemble(std::span<std::byte> out) {
    const std::size_t tiles = ends_.size(), of_token_tile = tiles / std::size_t(tiles_);
    const std::size_t listed = runs_.size() * sizeof(shape_run) + tiles * std::size_t(made_) * sizeof(tile_entry);
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
    // Encoded by token tile and layer; a frame holds pass -> layer -> plane -> token tile -> group.
    for (std::size_t p = 0; p < std::size_t(made_); ++p) {
      std::size_t first = 0;  // of a plane's groups among those of a token tile
      for (const plane_profile& q : profile_->planes) {
        const std::size_t groups = std::size_t(q.groups());
        for (std::size_t k = 0; k < std::size_t(tiles_) * groups; ++k) {
          const std::size_t i = k / groups * of_token_tile + first + k % groups;
          const std::size_t start = i ? ends_[i - 1][p] : 0, bytes = ends_[i][p] - start;
          if (bytes) std::memcpy(to, payload_[p].data() + start, bytes);
          const tile_entry e{std::uint32_t(bytes), checksum(to, bytes, ordinal++, isa_)};
          std::memcpy(at, &e, sizeof e);
          at += sizeof e;
          to += bytes;
        }
        first += groups;
      }
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
  typename Codec::encoder coder_;
  detail::model_ropes ropes_;
  std::vector<detail::layer_slot> slots_;
  std::vector<std::uint8_t> payload_[max_passes];
  std::vector<std::array<std::size_t, max_passes>> ends_;  // of each tile in each pass, in the order of encoding
  tile_rows in_;
  tile_writer writer_;
  side_info side_;
  const plane_view* plane_ = nullptr;  // of the tile that is encoded
  const std::byte* base_ = nullptr;
  std::vector<std::int64_t> offsets_;  // bytes to head 0, element 0 of each of its tokens
  std::vector<float> values_;
  std::vector<std::uint8_t> flagged_, elements_;
  std::vector<std::uint16_t> coded_, exact_;
  std::int64_t position_ = 0;
  std::ptrdiff_t ld_ = 0;
  int tokens_ = 0, tiles_ = 0, made_ = 1;
};

// What users call is defined outside of the class: sluice::kernels has it, and who links that compiles none of it.

template <tile_codec Codec>
encoder<Codec>::encoder(const profile& p, tuning t)
    : profile_(&p),
      state_(validate(p)),
      isa_(usable_isa(t.isa)),
      fingerprint_(fingerprint_of<Codec>(p)),
      coder_(detail::profile_if(state_, p), isa_),
      ropes_(Codec::domain == value_domain::unrotated ? detail::profile_if(state_, p).shape : model_shape{}) {
  if (state_ == status::ok) state_ = coder_.state();
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
  return sizeof(frame_header) + profile_->shape.layers.size() * sizeof(shape_run) + 16 +
         groups * tiles * std::size_t(passes()) * sizeof(tile_entry) + coded * tiles * tile_writer::stored_size(0, 0) +
         coded * tiles * 16 + coded * tokens * 2 + tokens * row;
}

template <tile_codec Codec>
result<std::size_t> encoder<Codec>::encode(std::span<const kv_view> cache, std::span<std::byte> out,
                                           const encode_options& options) {
  if (const status s = begin(cache, options); s != status::ok) return s;
  ends_.clear();
  for (auto& p : payload_) p.clear();
  // Layers ascend within a token tile, as they do when it is decoded: a predictor has seen the lower ones.
  for (int tile = 0; tile < tiles_; ++tile) {
    if constexpr (Codec::span > 0) coder_.begin_tile();
    for (int layer = 0; layer < profile_->shape.num_layers(); ++layer)
      for (plane which : {plane::key, plane::value})
        if (const status s = encode_tile(layer, which, tile); s != status::ok) return s;
  }
  return assemble(out);
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
