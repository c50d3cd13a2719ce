// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/layers.hpp>
#include <sluice/codec/options.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/model_ropes.hpp>
#include <sluice/tensor/rows.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

namespace sluice::detail {

// Tokens of a view, a half-open range.
struct token_range {
  std::int64_t begin = 0, end = 0;
  bool empty() const noexcept { return begin >= end; }
};

// What the workers of one decode() share, and do not change.
struct decode_task {
  const sluice::profile* profile = nullptr;
  const frame_index* index = nullptr;
  std::span<const std::byte> frame{};
  std::span<const layer_slot> slots{};
  side_info side{};
  std::int64_t position = 0;  // where the frame's first token goes
  std::int64_t sequence_end = 0;
  int level = 0;
  int first_layer = 0;  // to write; those below are decoded for a predictor that builds on them, and go nowhere

  // What a view shows of the tokens [first, last) of a token tile.
  token_range within(const kv_view& v, int tile, int first, int last) const noexcept {
    const std::int64_t start = position + std::int64_t{tile} * index->header().tile_tokens - v.position;
    return {max<std::int64_t>(start + first, 0), min(start + last, v.tokens)};
  }
  // The first token of a token tile that is inside of a layer's sliding window; there may be none.
  int first_needed(int layer, int tile) const noexcept {
    const std::int64_t needed = sequence_end - profile->shape.layers[std::size_t(layer)].needed(sequence_end);
    const std::int64_t start = position + std::int64_t{tile} * index->header().tile_tokens;
    return int(clamp<std::int64_t>(needed - start, 0, index->tokens_of(tile)));
  }
  bool moved() const noexcept { return position != index->header().position; }
};

// What is to be said of the tokens [first, last) of a token tile.
struct decode_event {
  std::int64_t item;  // of the work, which orders events whoever had them
  status what;
  int layer, tile, first, last;
};

inline namespace SLUICE_HOST_ABI {

// Writes tiles of one layer and token tile at a time. One for each thread that works on a frame; keeps its memory.
template <tile_codec Codec>
class decode_worker {
 public:
  decode_worker(const profile& p, isa i)
      : isa_(i),
        coder_(p, i),
        ropes_(Codec::domain == value_domain::unrotated ? p.shape : model_shape{}),
        unropes_(ropes_) {}
  status state() const noexcept { return coder_.state(); }

  void begin_frame() noexcept {
    counts_ = {};
    events_.clear();
    prepared_ = -1;
  }
  // Before the lowest layer of a token tile, where the codec looks at lower layers.
  void begin_tile() noexcept requires(Codec::span > 0) {
    unsound_ = INT32_MIN;
    coder_.begin_tile();
  }
  const page_status& counts() const noexcept { return counts_; }             // without `worst`
  std::span<const decode_event> events() const noexcept { return events_; }  // by ascending item

  // All tiles of one layer for one token tile: K and V and their groups advance together, which keeps several
  // independent rANS chains in flight.
  void decode(const decode_task& task, std::int64_t item, int layer, int tile) {
    task_ = &task;
    static const kv_view nowhere{};
    const kv_view* seen = layer >= task.first_layer ? task.slots[std::size_t(layer)].view : nullptr;
    const kv_view& view = seen ? *seen : nowhere;
    const frame_index& index = *task.index;
    const int tokens = index.tokens_of(tile);
    const bool shown = !task.within(view, tile, 0, tokens).empty();
    if (!shown && Codec::span == 0) return;
    prepare_ropes(tile);
    const auto note = [&](status s, int first, int last) {
      if (s != status::ok && shown) events_.push_back({item, s, layer, tile, first, last});
    };
    // Tokens [0, first) and [last, tokens) are not in the frame. Which of them the view shows and needs is damage.
    const int needed = task.first_needed(layer, tile);
    const auto lacks = [&](int first, int last) {
      bool outside = false, missing = false;
      for (const auto& [from, to] : {std::pair{0, first}, std::pair{last, tokens}}) {
        outside |= !task.within(view, tile, from, min(to, needed)).empty();
        if (task.within(view, tile, max(from, needed), to).empty()) continue;
        missing = true;
        note(status::absent, max(from, needed), to);
      }
      counts_.outside += outside && shown;
      counts_.damaged += missing && shown;
    };
    bool unsound_key = false;
    const auto damage = [&](status s, plane which) {
      counts_.damaged += shown;
      unsound_ = layer;
      unsound_key |= which == plane::key;
      note(s, 0, tokens);
    };
    opened_.clear();
    batch_.clear();
    const shape_run& shape = index.shape_of(layer);
    const bool built_on_damage = Codec::span > 0 && unsound_ >= layer - Codec::span;
    for (plane which : {plane::key, plane::value})
      for (int g = 0; g < shape.groups(int(which)); ++g) {
        sluice::tile t;
        t.place = place_of(task.profile->shape, shape.group_width[int(which)], layer, which, g);
        t.type = index.type(layer, which);
        counts_.tiles += shown;
        const status s = open({layer, which, tile, g}, t);
        if (s == status::ok || s == status::degraded) {
          const int first = tile * int(index.header().tile_tokens) + t.envelope.first;
          t.range = {first, index.header().position + first, t.envelope.count};
          batch_.push_back(t);
          opened_.push_back(s);
        } else if (s == status::absent) {
          lacks(0, 0);
        } else {
          damage(s, which);
        }
      }
    for (std::size_t i = 0; i < batch_.size(); i += tiles_at_once) {
      const auto batch = std::span(batch_).subspan(i, min<std::size_t>(tiles_at_once, batch_.size() - i));
      coder_.decode(batch, task.side);
      for (std::size_t k = 0; k < batch.size(); ++k) {
        const sluice::tile& t = batch[k];
        const int first = t.envelope.first, last = first + t.envelope.count;
        // V may be predicted from all K of its layer.
        const bool built = built_on_damage || (Codec::span > 0 && unsound_key && t.place.plane == plane::value);
        if (t.state != status::ok || (shown && !built && !store(t, layer, tile))) {
          damage(status::corrupt_tile, t.place.plane);
          continue;
        }
        if (built) {  // decoded for the sake of what builds on it and not on the damage: a span ends there
          counts_.damaged += shown;
          note(status::corrupt_tile, 0, tokens);
          continue;
        }
        counts_.degraded += shown && opened_[i + k] == status::degraded;
        counts_.coarser += shown && opened_[i + k] == status::ok && t.level < task.level;
        note(opened_[i + k], first, last);
        lacks(first, last);
      }
    }
  }

 private:
  static constexpr bool stored = Codec::domain == value_domain::stored;

  // The tables of a token tile, once for all of its layers.
  void prepare_ropes(int tile) {
    if (prepared_ == tile) return;
    prepared_ = tile;
    const frame_index& index = *task_->index;
    const std::int64_t first = std::int64_t{tile} * index.header().tile_tokens;
    ropes_.fill(task_->position + first, index.tokens_of(tile), false);
    if (task_->moved()) unropes_.fill(index.header().position + first, index.tokens_of(tile), true);
  }

  // Checks and opens one tile at the finest level that is whole, of those that the frame has of it.
  status open(const tile_key& key, sluice::tile& t) {
    const frame_index& index = *task_->index;
    t.level = min(task_->level, index.levels_of(index.ordinal(0, key)) - 1);
    for (int pass = 0; pass <= t.level; ++pass) {
      const auto bytes = tile_bytes(index, task_->frame, index.ordinal(pass, key), isa_);
      status s = bytes.status();
      if (s == status::ok && pass) s = parse_refinement(*bytes, t.refinements[pass - 1]);
      if (s == status::ok && !pass)
        s = bytes->empty() ? status::absent
                           : parse_tile(*bytes, index.tokens_of(key.tile), index.row_bytes(key), t.envelope);
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
    const layer_slot slot = task_->slots[std::size_t(layer)];
    const kv_view& v = *slot.view;
    const plane_view& p = v[t.place.plane];
    std::byte* base = v.layer_base(p, slot.index);
    const std::int64_t shift =  // token covered -> token of the view
        task_->position + std::int64_t{tile} * task_->index->header().tile_tokens + t.envelope.first - v.position;

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
    const int ld = padded(width);
    values_.resize(std::size_t(block_rows) * std::size_t(ld));
    for (int r = 0; r < int(rows_.size()); r += block_rows) {
      const int n = min(block_rows, int(rows_.size()) - r);
      if constexpr (!stored)
        if (coder_.rows(t, r, n, values_.data(), ld) != n) return false;
      if (rotates(t, layer)) rotate(values_.data(), ld, r, n, t, layer);
      place(values_.data(), ld, r, n, t, base, p);
    }
    return true;
  }

  static row_layout layout_of(const sluice::tile& t, const plane_view& p, const std::int64_t* offsets) noexcept {
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
      row_layout at = layout_of(t, p, offsets_.data());
      at.finite = true;
      store_rows(isa_, x + std::size_t(i) * std::size_t(ld), ld, run, base, at);
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
    const bool turn = task_->moved() && rotates(t, layer);
    exact_values_.resize(std::size_t(width));
    for (std::size_t i = 0; i < exact_.size(); ++i) {
      if (exact_[i].offset == no_place) continue;
      const std::uint8_t* source = t.envelope.exact_rows.data() + i * std::size_t(width) * element;
      if (from == p.type && !turn) {
        copy_row(t, t.envelope.exact_rows.data(), i, exact_[i].offset, base, p);
        continue;
      }
      const std::int64_t zero = 0;
      const row_layout packed{&zero,
                              std::int64_t(element) * t.place.head_dim,
                              std::int64_t(element),
                              0,
                              t.place.heads,
                              t.place.head_dim,
                              from,
                              false};
      std::uint8_t not_finite = 0;
      load_rows(isa_, reinterpret_cast<const std::byte*>(source), packed, 1, exact_values_.data(), width, &not_finite);
      if (turn) {
        const int token = t.envelope.first + exact_[i].token;
        for (const model_ropes* r : {&unropes_, &ropes_})
          r->rotate(isa_, layer, exact_values_.data(), width, 1, t.place.heads, token);
      }
      row_layout at = layout_of(t, p, &exact_[i].offset);
      at.finite = !not_finite;
      store_rows(isa_, exact_values_.data(), width, 1, base, at);
    }
  }

  sluice::isa isa_;
  typename Codec::decoder coder_;
  model_ropes ropes_, unropes_;
  const decode_task* task_ = nullptr;  // that it works on
  page_status counts_;
  std::vector<decode_event> events_;
  std::vector<sluice::tile> batch_;
  std::vector<status> opened_;
  std::vector<row> rows_, exact_;
  std::vector<std::int64_t> offsets_;
  std::vector<float> values_, exact_values_;
  int prepared_ = -1;        // token tile that the tables are for
  int unsound_ = INT32_MIN;  // the last layer of this token tile that has a damaged tile
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::detail
