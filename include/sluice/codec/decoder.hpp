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

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice {

inline namespace SLUICE_HOST_ABI {

/// Puts frames back into an engine's pages. Borrows the profile; keeps a workspace, so use one per thread.
/// Never reads or writes out of bounds and never throws, whatever the bytes; undamaged tiles of a damaged frame decode.
template <tile_codec Codec = codec::standard>
class decoder {
 public:
  /// For frames that were made with this profile, or with any of this shape where the codec does not use it. What is
  /// wrong with the profile is said by decode().
  explicit decoder(const profile& p, tuning t = {});
  explicit decoder(profile&&, tuning = {}) = delete;  // it must outlive the decoder

  /// Decodes one frame into a view, whose tokens are matched by position; tokens that the view lacks are skipped, and
  /// tokens that the frame lacks are left alone: absent, unless they lie outside of their layer's window.
  /// Errors: those of frame_index::parse; wrong_codec, wrong_profile, corrupt_profile, wrong_shape, wrong_positions,
  /// unsupported_type, level_not_present, invalid_argument, invalid_view, page_out_of_range before anything is written;
  /// truncated, corrupt_tile, degraded and absent per tile.
  page_status decode(std::span<const std::byte> frame, const kv_view& cache, const decode_options& options = {}) {
    return decode(frame, {&cache, 1}, options);
  }

  /// The same for a model whose layers are shown by several views.
  page_status decode(std::span<const std::byte> frame, std::span<const kv_view> cache,
                     const decode_options& options = {});

 private:
  static constexpr bool stored = Codec::domain == value_domain::stored;

  // A damaged page outranks a degraded one.
  static status worse(status a, status b) noexcept {
    const auto rank = [](status s) {
      return s == status::ok ? 0 : s == status::degraded ? 1 : s == status::absent ? 2 : 3;
    };
    return rank(b) > rank(a) ? b : a;
  }

  // Tokens of a view, a half-open range.
  struct token_range {
    std::int64_t begin = 0, end = 0;
    bool empty() const noexcept { return begin >= end; }
  };

  // What a view shows of the tokens [first, last) of a token tile.
  token_range within(const kv_view& v, int tile, int first, int last) const noexcept {
    const std::int64_t start = position_ + std::int64_t{tile} * index_.header().tile_tokens - v.position;
    return {detail::max<std::int64_t>(start + first, 0), detail::min(start + last, v.tokens)};
  }

  // The first token of a token tile that is inside of a layer's sliding window; there may be none.
  int first_needed(int layer, int tile) const noexcept {
    const std::int64_t needed = sequence_end_ - profile_->shape.layers[std::size_t(layer)].needed(sequence_end_);
    const std::int64_t start = position_ + std::int64_t{tile} * index_.header().tile_tokens;
    return int(detail::clamp<std::int64_t>(needed - start, 0, index_.tokens_of(tile)));
  }

  // Whether the frame's shape is the model's. A codec that does not use the profile need not group heads as it does.
  bool same_shape() const noexcept {
    if (index_.header().layers != profile_->shape.num_layers()) return false;
    for (int layer = 0; layer < profile_->shape.num_layers(); ++layer) {
      const shape_run& r = index_.shape_of(layer);
      const layer_shape& s = profile_->shape.layers[std::size_t(layer)];
      if (r.num_kv_heads != s.num_kv_heads) return false;
      for (plane p : {plane::key, plane::value})
        if (r.head_dim[int(p)] != s.head_dim(p) ||
            (Codec::uses(*profile_) && r.group_width[int(p)] != profile_->of(layer, p).group_width))
          return false;
    }
    return true;
  }

  status begin(std::span<const std::byte> frame, std::span<const kv_view> cache, const decode_options& options) {
    if (state_ != status::ok) return state_;
    if (cache.empty()) return status::invalid_argument;
    if (const status s = index_.parse(frame); s != status::ok) return s;
    const frame_header& h = index_.header();
    if (!Codec::id.decodes(h.codec)) return status::wrong_codec;
    if (h.fingerprint != fingerprint_) return status::wrong_profile;
    if (!same_shape()) return status::wrong_shape;
    if (h.passes > Codec::passes(*profile_)) return status::corrupt_header;
    if (h.levels_present == 0 || options.level < 0) return status::level_not_present;
    if (const status s = detail::map_layers(cache, profile_->shape, slots_); s != status::ok) return s;
    level_ = detail::min(options.level, h.levels_present - 1);
    position_ = options.position < 0 ? h.position : options.position;
    if (position_ > INT64_MAX - max_frame_tokens) return status::invalid_argument;
    bool overlaps = false;
    sequence_end_ = options.sequence_end;
    for (const kv_view& v : cache) {
      for (plane p : {plane::key, plane::value})
        for (int i = 0; i < v.num_layers && v[p].present(); ++i)
          if (!writes(v[p].type, v.layer_id(i), p)) return status::unsupported_type;
      overlaps |= v.tokens > 0 && v.position < position_ + h.tokens && position_ < v.position + v.tokens;
      if (options.sequence_end < 0) sequence_end_ = detail::max(sequence_end_, v.position + v.tokens);
    }
    if (!overlaps) return status::wrong_positions;
    // Keys that were coded as they were rotated stay where they are.
    if (Codec::domain != value_domain::unrotated && position_ != h.position) return status::wrong_positions;
    side_ = options.side;
    return status::ok;
  }

  // Whether this codec can turn what the frame holds of a layer into elements of a type.
  bool writes(dtype type, int layer, plane p) const noexcept {
    return stored ? type == index_.type(layer, p) || !index_.holds(layer, p) : type != dtype::bytes;
  }

  void prepare_ropes(int tile) {
    const std::int64_t first = std::int64_t{tile} * index_.header().tile_tokens;
    ropes_.fill(position_ + first, index_.tokens_of(tile), false);
    if (moved()) unropes_.fill(index_.header().position + first, index_.tokens_of(tile), true);
  }
  bool moved() const noexcept { return position_ != index_.header().position; }

  // All tiles of one layer for one token tile: K and V and their groups advance together, which keeps several
  // independent rANS chains in flight.
  void decode_layer(std::span<const std::byte> frame, int layer, int tile, bool wanted, std::span<status> pages,
                    const kv_view& paged, page_status& out) {
    static const kv_view nowhere{};
    const kv_view& view = slots_[std::size_t(layer)].view && wanted ? *slots_[std::size_t(layer)].view : nowhere;
    const int tokens = index_.tokens_of(tile);
    const bool shown = !within(view, tile, 0, tokens).empty();
    if (!shown && Codec::span == 0) return;
    const auto note = [&](status s, int first, int last) {
      if (s == status::ok || !shown) return;
      out.worst = worse(out.worst, s);
      mark(pages, paged, within(paged, tile, first, last), s);
    };
    // Tokens [0, first) and [last, tokens) are not in the frame. Which of them the view shows and needs is damage.
    const int needed = first_needed(layer, tile);
    const auto lacks = [&](int first, int last) {
      bool outside = false, missing = false;
      for (const auto& [from, to] : {std::pair{0, first}, std::pair{last, tokens}}) {
        outside |= !within(view, tile, from, detail::min(to, needed)).empty();
        if (within(view, tile, detail::max(from, needed), to).empty()) continue;
        missing = true;
        note(status::absent, detail::max(from, needed), to);
      }
      out.outside += outside && shown;
      out.damaged += missing && shown;
    };
    const auto damage = [&](status s) {
      out.damaged += shown;
      unsound_ = layer;
      note(s, 0, tokens);
    };
    opened_.clear();
    batch_.clear();
    const shape_run& shape = index_.shape_of(layer);
    const bool built_on_damage = Codec::span > 0 && unsound_ >= layer - Codec::span;
    for (plane which : {plane::key, plane::value})
      for (int g = 0; g < shape.groups(int(which)); ++g) {
        sluice::tile t;
        t.place = place_of(profile_->shape, shape.group_width[int(which)], layer, which, g);
        t.type = index_.type(layer, which);
        t.level = level_;
        out.tiles += shown;
        const status s = open(frame, {layer, which, tile, g}, t);
        if (s == status::ok || s == status::degraded) {
          const int first = tile * int(index_.header().tile_tokens) + t.envelope.first;
          t.range = {first, index_.header().position + first, t.envelope.count};
          batch_.push_back(t);
          opened_.push_back(s);
        } else if (s == status::absent) {
          lacks(0, 0);
        } else {
          damage(s);
        }
      }
    for (std::size_t i = 0; i < batch_.size(); i += tiles_at_once) {
      const auto batch = std::span(batch_).subspan(i, detail::min<std::size_t>(tiles_at_once, batch_.size() - i));
      coder_.decode(batch, side_);
      for (std::size_t k = 0; k < batch.size(); ++k) {
        const sluice::tile& t = batch[k];
        const int first = t.envelope.first, last = first + t.envelope.count;
        if (t.state != status::ok || (shown && !built_on_damage && !store(t, layer, tile))) {
          damage(status::corrupt_tile);
          continue;
        }
        if (built_on_damage) {  // decoded for the sake of what builds on it and not on the damage: a span ends there
          out.damaged += shown;
          note(status::corrupt_tile, 0, tokens);
          continue;
        }
        out.degraded += shown && opened_[i + k] == status::degraded;
        note(opened_[i + k], first, last);
        lacks(first, last);
      }
    }
  }

  // Checks and opens one tile at the finest level that is whole.
  status open(std::span<const std::byte> frame, const tile_key& key, sluice::tile& t) {
    for (int pass = 0; pass <= level_; ++pass) {
      const auto bytes = tile_bytes(index_, frame, index_.ordinal(pass, key), isa_);
      status s = bytes.status();
      if (s == status::ok && pass) s = parse_refinement(*bytes, t.refinements[pass - 1]);
      if (s == status::ok && !pass)
        s = bytes->empty() ? status::absent
                           : parse_tile(*bytes, index_.tokens_of(key.tile), index_.row_bytes(key), t.envelope);
      if (s != status::ok) {
        if (pass == 0) return s;
        t.level = pass - 1;
        return status::degraded;
      }
    }
    return status::ok;
  }

  // Writes one decoded tile into the view that shows its layer; false where the codec gave fewer rows than it has.
  bool store(const sluice::tile& t, int layer, int tile) {
    const detail::layer_slot slot = slots_[std::size_t(layer)];
    const kv_view& v = *slot.view;
    const plane_view& p = v[t.place.plane];
    std::byte* base = v.layer_base(p, slot.index);
    const std::int64_t shift =  // token covered -> token of the view
        position_ + std::int64_t{tile} * index_.header().tile_tokens + t.envelope.first - v.position;

    // Rows in coded order; a token that the view lacks gets no place.
    rows_.clear();
    exact_.clear();
    int next = 0;
    for (int i = 0; i < t.envelope.count; ++i) {
      const bool is_exact = next < t.envelope.exact && t.envelope.exact_token(next) == i;
      next += is_exact;
      const std::int64_t token = shift + i;
      const bool inside = token >= 0 && token < v.tokens;
      (is_exact ? exact_ : rows_).push_back({inside ? v.token_offset(p, token) : no_place, i});
    }
    store_exact(t, base, p, layer);
    if constexpr (stored) {
      const auto elements = coder_.elements(t, 0, int(rows_.size()));
      if (elements.size() != rows_.size() * std::size_t(t.place.width()) * std::size_t(size_of(t.type))) return false;
      for (std::size_t r = 0; r < rows_.size(); ++r) copy_row(t, elements.data(), r, rows_[r].offset, base, p);
      return true;
    } else {
      return store_rows_of(t, base, p, layer);
    }
  }

  struct row {
    std::int64_t offset;
    int token;  // counted from the first one covered
  };
  static constexpr std::int64_t no_place = INT64_MIN;
  static constexpr int block_rows = 64;

  bool store_rows_of(const sluice::tile& t, std::byte* base, const plane_view& p, int layer) {
    const int width = t.place.width();
    const int ld = detail::padded(width);
    values_.resize(std::size_t(block_rows) * std::size_t(ld));
    for (int r = 0; r < int(rows_.size()); r += block_rows) {
      const int n = detail::min(block_rows, int(rows_.size()) - r);
      if constexpr (!stored)
        if (coder_.rows(t, r, n, values_.data(), ld) != n) return false;
      if (rotates(t, layer)) rotate(values_.data(), ld, r, n, t, layer);
      place(values_.data(), ld, r, n, t, base, p);
    }
    return true;
  }

  static detail::row_layout layout_of(const sluice::tile& t, const plane_view& p,
                                      const std::int64_t* offsets) noexcept {
    return {offsets,       p.head_stride,    p.element_stride, t.place.first_head,
            t.place.heads, t.place.head_dim, p.type,           false};
  }

  bool rotates(const sluice::tile& t, int layer) const noexcept {
    return Codec::domain == value_domain::unrotated && t.place.plane == plane::key && ropes_.rotates(layer);
  }

  // Rows of a run of consecutive tokens share one stretch of the table.
  void rotate(float* x, int ld, int r, int n, const sluice::tile& t, int layer) {
    for (int i = 0; i < n;) {
      int run = 1;
      while (i + run < n && rows_[std::size_t(r + i + run)].token == rows_[std::size_t(r + i)].token + run) ++run;
      ropes_.rotate(isa_, layer, x + std::size_t(i) * std::size_t(ld), ld, run, t.place.heads,
                    t.envelope.first + rows_[std::size_t(r + i)].token);
      i += run;
    }
  }

  void place(const float* x, int ld, int r, int n, const sluice::tile& t, std::byte* base, const plane_view& p) {
    offsets_.clear();
    for (int i = 0; i < n;) {
      // Skips tokens without a place; stores runs of the others.
      if (rows_[std::size_t(r + i)].offset == no_place) {
        ++i;
        continue;
      }
      offsets_.clear();
      int run = 0;
      while (i + run < n && rows_[std::size_t(r + i + run)].offset != no_place)
        offsets_.push_back(rows_[std::size_t(r + i + run++)].offset);
      // The error of a coefficient must not make an infinity of a large number: only exact tokens hold those.
      detail::row_layout at = layout_of(t, p, offsets_.data());
      at.finite = true;
      detail::store_rows(isa_, x + std::size_t(i) * std::size_t(ld), ld, run, base, at);
      i += run;
    }
  }

  // Row r of elements as stored, to its token.
  static void copy_row(const sluice::tile& t, const std::uint8_t* elements, std::size_t r, std::int64_t offset,
                       std::byte* base, const plane_view& p) noexcept {
    if (offset == no_place) return;
    const std::size_t element = std::size_t(size_of(p.type)), head = element * std::size_t(t.place.head_dim);
    const std::uint8_t* from = elements + r * head * std::size_t(t.place.heads);
    for (int h = 0; h < t.place.heads; ++h, from += head) {
      std::byte* to = base + offset + (t.place.first_head + h) * p.head_stride;
      if (p.element_stride == std::int64_t(element)) {
        std::memcpy(to, from, head);
        continue;
      }
      for (int d = 0; d < t.place.head_dim; ++d)
        std::memcpy(to + d * p.element_stride, from + std::size_t(d) * element, element);
    }
  }

  // Exact tokens: bit for bit where type and position are unchanged, else converted and rotated on.
  void store_exact(const sluice::tile& t, std::byte* base, const plane_view& p, int layer) {
    const int width = t.place.width();
    const dtype from = t.type;
    const std::size_t element = std::size_t(size_of(from));
    const bool turn = moved() && rotates(t, layer);
    exact_values_.resize(std::size_t(width));
    for (std::size_t i = 0; i < exact_.size(); ++i) {
      if (exact_[i].offset == no_place) continue;
      const std::uint8_t* source = t.envelope.exact_rows.data() + i * std::size_t(width) * element;
      if (from == p.type && !turn) {
        copy_row(t, t.envelope.exact_rows.data(), i, exact_[i].offset, base, p);
        continue;
      }
      const std::int64_t zero = 0;
      const detail::row_layout packed{&zero,
                                      std::int64_t(element) * t.place.head_dim,
                                      std::int64_t(element),
                                      0,
                                      t.place.heads,
                                      t.place.head_dim,
                                      from,
                                      false};
      std::uint8_t not_finite = 0;
      detail::load_rows(isa_, reinterpret_cast<const std::byte*>(source), packed, 1, exact_values_.data(), width,
                        &not_finite);
      if (turn) {
        const int token = t.envelope.first + exact_[i].token;
        for (const detail::model_ropes* r : {&unropes_, &ropes_})
          r->rotate(isa_, layer, exact_values_.data(), width, 1, t.place.heads, token);
      }
      detail::row_layout at = layout_of(t, p, &exact_[i].offset);
      at.finite = !not_finite;
      detail::store_rows(isa_, exact_values_.data(), width, 1, base, at);
    }
  }

  // Records a status for every page that has tokens of a range.
  static void mark(std::span<status> pages, const kv_view& v, const token_range& tokens, status s) noexcept {
    if (pages.empty() || tokens.empty()) return;
    const std::int64_t unit = v.mode == addressing::pages ? v.page_size : 1;
    const std::int64_t origin = v.first / unit;
    const std::int64_t last = detail::min((v.first + tokens.end - 1) / unit - origin, std::int64_t(pages.size()) - 1);
    for (std::int64_t i = (v.first + tokens.begin) / unit - origin; i <= last; ++i) {
      status& page = pages[std::size_t(i)];
      page = s == status::ok ? s : worse(page, s);
    }
  }

  const profile* profile_;
  status state_;
  sluice::isa isa_;
  std::uint64_t fingerprint_;
  typename Codec::decoder coder_;
  detail::model_ropes ropes_, unropes_;
  frame_index index_;
  std::vector<detail::layer_slot> slots_;
  std::vector<sluice::tile> batch_;
  std::vector<status> opened_;
  side_info side_;
  std::vector<row> rows_, exact_;
  std::vector<std::int64_t> offsets_;
  std::vector<float> values_, exact_values_;
  std::int64_t position_ = 0, sequence_end_ = 0;
  int level_ = 0;
  int unsound_ = INT32_MIN;  // the last layer of this token tile that has a damaged tile
};

// What users call is defined outside of the class: sluice::kernels has it, and who links that compiles none of it.

template <tile_codec Codec>
decoder<Codec>::decoder(const profile& p, tuning t)
    : profile_(&p),
      state_(validate(p)),
      isa_(usable_isa(t.isa)),
      fingerprint_(fingerprint_of<Codec>(p)),
      coder_(detail::profile_if(state_, p), isa_),
      ropes_(Codec::domain == value_domain::unrotated ? detail::profile_if(state_, p).shape : model_shape{}),
      unropes_(ropes_) {
  if (state_ == status::ok) state_ = coder_.state();
}

template <tile_codec Codec>
page_status decoder<Codec>::decode(std::span<const std::byte> frame, std::span<const kv_view> cache,
                                   const decode_options& options) {
  page_status out;
  out.worst = begin(frame, cache, options);
  for (status& s : options.pages) s = out.worst == status::ok ? status::absent : out.worst;
  if (out.worst != status::ok) return out;
  const kv_view& paged = cache.front();
  mark(options.pages, paged, within(paged, 0, 0, int(index_.header().tokens)), status::ok);
  const int first = detail::max(options.layers.begin, 0);
  const int last = detail::min(options.layers.end, profile_->shape.num_layers());
  for (int tile = 0; tile < index_.token_tiles(); ++tile) {
    prepare_ropes(tile);
    unsound_ = INT32_MIN;
    if constexpr (Codec::span > 0) coder_.begin_tile();
    // Layers below the range are decoded for a predictor that builds on them, and go nowhere.
    for (int layer = detail::max(first - Codec::span, 0); layer < last; ++layer)
      if (slots_[std::size_t(layer)].view || Codec::span > 0)
        decode_layer(frame, layer, tile, layer >= first, options.pages, paged, out);
  }
  return out;
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
