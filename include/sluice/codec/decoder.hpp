// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/decode_worker.hpp>
#include <sluice/codec/layers.hpp>
#include <sluice/codec/options.hpp>
#include <sluice/codec/share_work.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/numeric.hpp>

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace sluice {

inline namespace SLUICE_HOST_ABI {

/// Puts frames back into an engine's pages. Borrows the profile; keeps workspaces, so use one per thread: threads share
/// a call where decode_options::parallel says so.
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
  /// Tiles that were cut from the frame to fit are written at the level it has of them (page_status::coarser).
  /// Errors: those of frame_index::parse; wrong_codec, wrong_profile, corrupt_profile, wrong_side_info, wrong_shape, wrong_positions,
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
    side_ = options.side;
    if constexpr (detail::reads_tokens<Codec>) {
      // Other ids would give other numbers, and nothing else would tell.
      side_.tokens = side_.tokens.first(h.side_checksum ? detail::min(side_.tokens.size(), std::size_t{h.tokens}) : 0);
      if (h.side_checksum && (side_.tokens.size() != h.tokens || side_checksum(side_.tokens) != h.side_checksum))
        return status::wrong_side_info;
    } else if (h.side_checksum) {
      return status::corrupt_header;
    }
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
    return status::ok;
  }

  // Whether this codec can turn what the frame holds of a layer into elements of a type.
  bool writes(dtype type, int layer, plane p) const noexcept {
    return stored ? type == index_.type(layer, p) || !index_.holds(layer, p) : type != dtype::bytes;
  }

  // Records a status for every page that has tokens of a range.
  static void mark(std::span<status> pages, const kv_view& v, const detail::token_range& tokens, status s) noexcept {
    if (pages.empty() || tokens.empty()) return;
    const std::int64_t unit = v.mode == addressing::pages ? v.page_size : 1;
    const std::int64_t origin = v.first / unit;
    const std::int64_t last = detail::min((v.first + tokens.end - 1) / unit - origin, std::int64_t(pages.size()) - 1);
    for (std::int64_t i = (v.first + tokens.begin) / unit - origin; i <= last; ++i) {
      status& page = pages[std::size_t(i)];
      page = s == status::ok ? s : worse(page, s);
    }
  }

  using worker = detail::decode_worker<Codec>;

  // Says what the workers have seen, in the order of the frame.
  void report(std::span<const std::unique_ptr<worker>> workers, const decode_options& options, const kv_view& paged,
              const detail::decode_task& task, page_status& out) {
    for (const auto& w : workers) {
      const page_status& n = w->counts();
      out.tiles += n.tiles, out.damaged += n.damaged, out.degraded += n.degraded;
      out.outside += n.outside, out.coarser += n.coarser;
    }
    said_.assign(workers.size(), 0);
    for (;;) {
      const detail::decode_event* next = nullptr;
      std::size_t from = 0;
      for (std::size_t w = 0; w < workers.size(); ++w)
        if (const auto events = workers[w]->events(); said_[w] < events.size())
          if (!next || events[said_[w]].item < next->item) next = &events[said_[w]], from = w;
      if (!next) return;
      ++said_[from];
      out.worst = worse(out.worst, next->what);
      mark(options.pages, paged, task.within(paged, next->tile, next->first, next->last), next->what);
      if (next->what != status::degraded)
        out.missing.add(position_ + std::int64_t{next->tile} * index_.header().tile_tokens + next->first,
                        next->last - next->first, next->layer, profile_->shape.num_layers());
    }
  }

  const profile* profile_;
  status state_;
  sluice::isa isa_;
  std::uint64_t fingerprint_;
  std::vector<std::unique_ptr<worker>> workers_;  // the first is the caller's
  frame_index index_;
  std::vector<detail::layer_slot> slots_;
  std::vector<std::size_t> said_;  // events of each worker
  std::int64_t position_ = 0, sequence_end_ = 0;
  side_info side_;
  int level_ = 0;
};

// What users call is defined outside of the class: sluice::kernels has it, and who links that compiles none of it.

template <tile_codec Codec>
decoder<Codec>::decoder(const profile& p, tuning t)
    : profile_(&p), state_(validate(p)), isa_(usable_isa(t.isa)), fingerprint_(fingerprint_of<Codec>(p)) {
  workers_.push_back(std::make_unique<worker>(detail::profile_if(state_, p), isa_));
  if (state_ == status::ok) state_ = workers_[0]->state();
}

template <tile_codec Codec>
page_status decoder<Codec>::decode(std::span<const std::byte> frame, std::span<const kv_view> cache,
                                   const decode_options& options) {
  page_status out;
  out.worst = begin(frame, cache, options);
  for (status& s : options.pages) s = out.worst == status::ok ? status::absent : out.worst;
  if (out.worst != status::ok) return out;
  const kv_view& paged = cache.front();
  const int first = detail::max(options.layers.begin, 0);
  const int last = detail::min(options.layers.end, profile_->shape.num_layers());
  const detail::decode_task task{profile_, &index_, frame, slots_, side_, position_, sequence_end_, level_, first};
  mark(options.pages, paged, task.within(paged, 0, 0, int(index_.header().tokens)), status::ok);
  // Work is shared by (token tile, layer), by token tile where layers look at lower ones.
  const int lowest = detail::max(first - Codec::span, 0), layers = detail::max(last - lowest, 0);
  const std::int64_t together = Codec::span > 0 ? layers : 1;
  const std::int64_t items = std::int64_t{index_.token_tiles()} * (together ? layers / together : 0);
  const int workers = detail::workers_for(options.parallel, items);
  while (std::ssize(workers_) < workers) workers_.push_back(std::make_unique<worker>(*profile_, isa_));
  for (const auto& w : workers_) w->begin_frame();
  detail::share_work(options.parallel, workers, items, [&](int of, std::int64_t item) {
    worker& w = *workers_[std::size_t(of)];
    if constexpr (Codec::span > 0) w.begin_tile();
    for (std::int64_t i = item * together; i < (item + 1) * together; ++i) {
      const int layer = lowest + int(i % layers);
      if (slots_[std::size_t(layer)].view || Codec::span > 0) w.decode(task, item, layer, int(i / layers));
    }
    return true;
  });
  report(std::span(workers_).first(std::size_t(workers)), options, paged, task, out);
  return out;
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
