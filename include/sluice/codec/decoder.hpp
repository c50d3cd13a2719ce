// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/dense.hpp>
#include <sluice/codec/exact_tile.hpp>
#include <sluice/codec/fixed_tile.hpp>
#include <sluice/codec/rans_tile.hpp>
#include <sluice/codec/stream.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace sluice {

/// What to decode, and where it goes.
struct decode_options {
  /// A half-open range of model layers.
  struct layer_range {
    int begin = 0;
    int end = std::numeric_limits<int>::max();
  };
  int level = max_passes;       ///< finest level to decode; above what is present means the finest present
  layer_range layers{};
  std::int64_t position = -1;   ///< where the frame's first token goes; -1 = where it came from. K is rotated to match.
  std::span<status> pages{};    ///< out: the worst status of each page of the first view (one per token tile if fewer)
};

/// What a decode did. A page whose status is neither ok nor degraded holds nothing that can be trusted.
struct page_status {
  status worst = status::ok;
  std::uint32_t tiles = 0;     ///< looked at
  std::uint32_t damaged = 0;   ///< not written
  std::uint32_t degraded = 0;  ///< written below the level asked for
  explicit operator bool() const noexcept { return worst == status::ok; }
};

inline namespace SLUICE_HOST_ABI {

/// Puts frames back into an engine's pages. Borrows the profile; keeps a workspace, so use one per thread.
/// Never reads or writes out of bounds and never throws, whatever the bytes; undamaged tiles of a damaged frame decode.
template <class Codec = codec::standard>
class decoder {
 public:
  explicit decoder(const profile& p, tuning t = {})
      : profile_(&p),
        isa_(usable_isa(t.isa)),
        fingerprint_(Codec::entropy::exact ? 0 : p.fingerprint()),
        runs_(detail::shape_runs(p)),
        coder_(p, isa_) {}

  /// Decodes one frame into a view, whose tokens are matched by position; tokens that the view lacks are skipped.
  /// Errors: those of frame_index::parse; wrong_codec, wrong_profile, wrong_shape, wrong_positions, unsupported_type,
  /// level_not_present, invalid_view, page_out_of_range before anything is written; truncated, corrupt_tile, degraded
  /// and absent per tile.
  page_status decode(std::span<const std::byte> frame, const kv_view& cache, const decode_options& options = {}) {
    return decode(frame, {&cache, 1}, options);
  }

  /// The same for a model whose layers are shown by several views.
  page_status decode(std::span<const std::byte> frame, std::span<const kv_view> cache,
                     const decode_options& options = {}) {
    page_status out;
    out.worst = begin(frame, cache, options);
    for (status& s : options.pages) s = out.worst;
    if (out.worst != status::ok) return out;
    const int first = std::max(options.layers.begin, 0);
    const int last = std::min(options.layers.end, profile_->shape.num_layers());
    for (int tile = 0; tile < index_.token_tiles(); ++tile) {
      status worst = status::ok;
      for (int layer = first; layer < last; ++layer)
        if (slots_[std::size_t(layer)].view) worst = worse(worst, decode_layer(frame, layer, tile, out));
      out.worst = worse(out.worst, worst);
      mark(options.pages, cache.front(), tile, worst);
    }
    return out;
  }

 private:
  using task = detail::tile_task;

  // A damaged page outranks a degraded one.
  static status worse(status a, status b) noexcept {
    const auto rank = [](status s) {
      return s == status::ok ? 0 : s == status::degraded ? 1 : s == status::absent ? 2 : 3;
    };
    return rank(b) > rank(a) ? b : a;
  }

  status begin(std::span<const std::byte> frame, std::span<const kv_view> cache, const decode_options& options) {
    if (cache.empty()) return status::invalid_argument;
    if (const status s = index_.parse(frame); s != status::ok) return s;
    const frame_header& h = index_.header();
    if (!(h.codec == Codec::id)) return status::wrong_codec;
    if (h.fingerprint != fingerprint_) return status::wrong_profile;
    if (!std::equal(runs_.begin(), runs_.end(), index_.runs().begin(), index_.runs().end())) return status::wrong_shape;
    if (!Codec::entropy::exact && Codec::bit_widths::id == profile_steps::id && h.passes != profile_->passes)
      return status::wrong_profile;
    if (h.levels_present == 0 || options.level < 0) return status::level_not_present;
    if (const status s = detail::map_layers(cache, profile_->shape, slots_); s != status::ok) return s;
    level_ = std::min(options.level, h.levels_present - 1);
    position_ = options.position < 0 ? h.position : options.position;
    bool overlaps = false;
    for (const kv_view& v : cache) {
      for (plane p : {plane::key, plane::value}) {
        if (!v[p].present()) continue;
        if (Codec::entropy::exact ? v[p].type != type(p) : v[p].type == dtype::bytes) return status::unsupported_type;
      }
      overlaps |= v.position < position_ + h.tokens && position_ < v.position + v.tokens;
    }
    if (!overlaps) return status::wrong_positions;
    if (Codec::entropy::exact && position_ != h.position) return status::wrong_positions;
    if constexpr (Codec::entropy::exact)
      coder_.set_types(type(plane::key), type(plane::value));
    else if constexpr (Codec::transform::decorrelates)
      prepare_ropes();
    else if (position_ != h.position)
      return status::wrong_positions;  // keys are coded as they were rotated
    return status::ok;
  }

  dtype type(plane p) const noexcept { return dtype{index_.header().type[int(p)]}; }

  void prepare_ropes() {
    const model_shape& s = profile_->shape;
    const int tokens = int(index_.header().tokens);
    const std::int64_t from = index_.header().position;
    const bool moved = from != position_;
    rope_.resize(s.ropes.size());
    unrope_.resize(moved ? s.ropes.size() : 0);
    std::vector<bool>& done = rope_done_;
    done.assign(s.ropes.size(), false);
    for (const layer_shape& l : s.layers) {
      if (s.ropes.empty() || done[std::size_t(l.rope_index)] || !l.head_dim_k) continue;
      done[std::size_t(l.rope_index)] = true;
      const std::size_t r = std::size_t(l.rope_index);
      rope_[r].fill(s.ropes[r], l.head_dim_k, position_, tokens, false);
      if (moved) unrope_[r].fill(s.ropes[r], l.head_dim_k, from, tokens, true);
    }
  }

  // All tiles of one layer for one token tile: K and V and their groups advance together, which keeps several
  // independent rANS chains in flight.
  status decode_layer(std::span<const std::byte> frame, int layer, int tile, page_status& out) {
    tasks_.clear();
    status worst = status::ok;
    for (plane which : {plane::key, plane::value}) {
      const plane_profile& q = profile_->of(layer, which);
      for (int g = 0; g < q.groups(); ++g) {
        task t;
        t.place = detail::place_of(*profile_, layer, which, g);
        t.source = &q;
        t.level = level_;
        ++out.tiles;
        const status s = open(frame, {layer, which, tile, g}, t);
        worst = worse(worst, s);
        if (s == status::ok || s == status::degraded)
          tasks_.push_back(t);
        else
          ++out.damaged;
        out.degraded += s == status::degraded;
      }
    }
    for (std::size_t i = 0; i < tasks_.size(); i += detail::tiles_at_once) {
      const auto batch = std::span(tasks_).subspan(i, std::min<std::size_t>(detail::tiles_at_once, tasks_.size() - i));
      coder_.decode(batch);
      for (task& t : batch) {
        if (t.state == status::ok) {
          store(t, layer, tile);
          continue;
        }
        ++out.damaged;
        worst = worse(worst, t.state);
      }
    }
    return worst;
  }

  // Checks and opens one tile at the finest level that is whole.
  status open(std::span<const std::byte> frame, const tile_key& key, task& t) {
    const int tokens = index_.tokens_of(key.tile);
    const int width = t.place.width();
    status s = status::ok;
    for (int pass = 0; pass <= level_; ++pass) {
      const std::size_t ordinal = index_.ordinal(pass, key);
      const byte_range r = index_.range(ordinal);
      std::span<const std::uint8_t> bytes;
      if (r.end > frame.size())
        s = status::truncated;
      else {
        bytes = {reinterpret_cast<const std::uint8_t*>(frame.data()) + r.begin, std::size_t(r.size())};
        if (index_.checksum_of(ordinal) != checksum(bytes.data(), bytes.size(), std::uint32_t(ordinal), isa_))
          s = status::corrupt_tile;
        else if (pass == 0)
          s = bytes.empty() ? status::absent
                            : detail::parse_tile(bytes, tokens, width,
                                                 std::size_t(width) * std::size_t(size_of(type(key.plane))), t.base);
        else
          s = detail::parse_refinement(bytes, t.base.rows(), width, t.refinement[pass - 1]);
      }
      if (s != status::ok) {
        if (pass == 0) return s;
        t.level = pass - 1;
        return status::degraded;
      }
    }
    return status::ok;
  }

  // Writes one decoded tile into the view that shows its layer.
  void store(const task& t, int layer, int tile) {
    const detail::layer_slot slot = slots_[std::size_t(layer)];
    const kv_view& v = *slot.view;
    const plane_view& p = v[t.place.plane];
    std::byte* base = v.layer_base(p, slot.index);
    const int start = tile * int(index_.header().tile_tokens) + t.base.head.first;  // in the frame
    const std::int64_t shift = position_ + start - v.position;                      // frame token -> view token

    // Rows in coded order; a token that the view lacks gets no place.
    rows_.clear();
    exact_.clear();
    int next = 0;
    for (int i = 0; i < t.base.head.count; ++i) {
      const bool is_exact = next < t.base.head.exact && t.base.exact_token(next) == i;
      next += is_exact;
      const std::int64_t token = shift + i;
      const bool inside = token >= 0 && token < v.tokens;
      (is_exact ? exact_ : rows_).push_back({inside ? v.token_offset(p, token) : no_place, i});
    }
    if constexpr (Codec::entropy::exact) {
      for (std::size_t r = 0; r < rows_.size(); ++r) copy_row(t, t.elements, r, rows_[r].offset, base, p);
    } else {
      store_exact(t, base, p, layer, start);
      store_rows_of(t, base, p, layer, start);
    }
  }

  struct row {
    std::int64_t offset;
    int token;  // counted from the first one covered
  };
  static constexpr std::int64_t no_place = std::numeric_limits<std::int64_t>::min();
  static constexpr int block_rows = 64;

  void store_rows_of(const task& t, std::byte* base, const plane_view& p, int layer, int start) {
    const int width = t.place.width();
    const int ld = (width + 31) / 32 * 32;
    values_.resize(std::size_t(block_rows) * std::size_t(ld));
    for (int r = 0; r < int(rows_.size()); r += block_rows) {
      const int n = std::min(block_rows, int(rows_.size()) - r);
      coder_.rows(t, r, n, values_.data(), ld);
      const detail::rope_table* table = rope_of(layer, t.place.plane);
      if (table && Codec::transform::decorrelates) rotate(*table, values_.data(), ld, r, n, t, layer, start);
      place(values_.data(), ld, r, n, t, base, p);
    }
  }

  static detail::row_layout layout_of(const task& t, const plane_view& p, const std::int64_t* offsets) noexcept {
    return {offsets,        p.head_stride,     p.element_stride, t.place.first_head,
            t.place.heads, t.place.head_dim, p.type};
  }

  const detail::rope_table* rope_of(int layer, plane which) const noexcept {
    if (which != plane::key || rope_.empty()) return nullptr;
    const detail::rope_table& r = rope_[std::size_t(profile_->shape.layers[std::size_t(layer)].rope_index)];
    return r.half() ? &r : nullptr;
  }

  rope_pairing pairing_of(int layer) const noexcept {
    return profile_->shape.ropes[std::size_t(profile_->shape.layers[std::size_t(layer)].rope_index)].pairing;
  }

  // Rows of a run of consecutive tokens share one stretch of the table.
  void rotate(const detail::rope_table& table, float* x, int ld, int r, int n, const task& t, int layer, int start) {
    for (int i = 0; i < n;) {
      int run = 1;
      while (i + run < n && rows_[std::size_t(r + i + run)].token == rows_[std::size_t(r + i)].token + run) ++run;
      const int token = start + rows_[std::size_t(r + i)].token;
      detail::rotate_rows(isa_, x + std::size_t(i) * std::size_t(ld), ld, run, t.place.heads, t.place.head_dim,
                          pairing_of(layer), 2 * table.half(), table.cos(token), table.sin(token), table.half());
      i += run;
    }
  }

  void place(const float* x, int ld, int r, int n, const task& t, std::byte* base, const plane_view& p) {
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
      detail::store_rows(isa_, x + std::size_t(i) * std::size_t(ld), ld, run, base, layout_of(t, p, offsets_.data()));
      i += run;
    }
  }

  // Row r of elements as stored, to its token.
  static void copy_row(const task& t, const std::uint8_t* elements, std::size_t r, std::int64_t offset, std::byte* base,
                       const plane_view& p) noexcept {
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
  void store_exact(const task& t, std::byte* base, const plane_view& p, int layer, int start) {
    const int width = t.place.width();
    const dtype from = type(t.place.plane);
    const std::size_t element = std::size_t(size_of(from));
    const detail::rope_table* table = rope_of(layer, t.place.plane);
    const bool turn = table && position_ != index_.header().position && Codec::transform::decorrelates;
    exact_values_.resize(std::size_t(width));
    for (std::size_t i = 0; i < exact_.size(); ++i) {
      if (exact_[i].offset == no_place) continue;
      const std::uint8_t* source = t.base.exact_rows.data() + i * std::size_t(width) * element;
      if (from == p.type && !turn) {
        copy_row(t, t.base.exact_rows.data(), i, exact_[i].offset, base, p);
        continue;
      }
      const std::int64_t zero = 0;
      const detail::row_layout packed{&zero, std::int64_t(element) * t.place.head_dim, std::int64_t(element), 0,
                                      t.place.heads, t.place.head_dim, from};
      detail::load_rows(isa_, reinterpret_cast<const std::byte*>(source), packed, 1, exact_values_.data(), width, nullptr);
      if (turn) {
        const int token = start + exact_[i].token;
        const auto& back = unrope_[std::size_t(profile_->shape.layers[std::size_t(layer)].rope_index)];
        for (const detail::rope_table* r : {&back, table})
          detail::rotate_rows(isa_, exact_values_.data(), width, 1, t.place.heads, t.place.head_dim, pairing_of(layer),
                              2 * r->half(), r->cos(token), r->sin(token), r->half());
      }
      detail::store_rows(isa_, exact_values_.data(), width, 1, base, layout_of(t, p, &exact_[i].offset));
    }
  }

  // Records the worst status of every page that a token tile touches.
  void mark(std::span<status> pages, const kv_view& v, int tile, status s) const {
    if (pages.empty()) return;
    const std::int64_t first = position_ + std::int64_t{tile} * index_.header().tile_tokens - v.position;
    const std::int64_t last = std::min(first + index_.tokens_of(tile), v.tokens);
    const std::int64_t unit = v.mode == addressing::pages ? v.page_size : 1;
    const std::int64_t origin = v.first / unit;
    for (std::int64_t t = std::max<std::int64_t>(first, 0); t < last; t = ((v.first + t) / unit + 1) * unit - v.first) {
      const std::int64_t page = (v.first + t) / unit - origin;
      if (page < std::int64_t(pages.size())) pages[std::size_t(page)] = worse(pages[std::size_t(page)], s);
    }
  }

  const profile* profile_;
  sluice::isa isa_;
  std::uint64_t fingerprint_;
  std::vector<shape_run> runs_;
  detail::tile_decoder<Codec> coder_;
  frame_index index_;
  std::vector<detail::layer_slot> slots_;
  std::vector<detail::rope_table> rope_, unrope_;
  std::vector<bool> rope_done_;
  std::vector<task> tasks_;
  std::vector<row> rows_, exact_;
  std::vector<std::int64_t> offsets_;
  std::vector<float> values_, exact_values_;
  std::int64_t position_ = 0;
  int level_ = 0;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
