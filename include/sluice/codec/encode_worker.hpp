// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/layers.hpp>
#include <sluice/codec/tile_codec.hpp>
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

// Where the bytes of a tile are until the frame is put together: pass after pass in a worker's payload.
struct coded_tile {
  int worker = 0;
  std::size_t begin = 0;
  std::uint32_t size[max_passes] = {};
};

inline namespace SLUICE_HOST_ABI {

// What the workers of one encode() share, and do not change.
struct encode_task {
  const sluice::profile* profile = nullptr;
  std::span<const layer_slot> slots{};
  const model_ropes* ropes = nullptr;  // for all tokens of the frame
  side_info side{};
  token_weights weights{};
  std::int64_t position = 0;  // of the frame's first token
  int tokens = 0;
  int passes = 1;  // to make
  float coarser = 0;
};

// Turns tokens of one layer and token tile into tiles. One for each thread that works on a frame; keeps its memory.
template <tile_codec Codec>
class encode_worker {
 public:
  encode_worker(const profile& p, isa i) : isa_(i), coder_(p, i) {}
  status state() const noexcept { return coder_.state(); }
  std::span<const std::uint8_t> payload() const noexcept { return payload_; }

  void begin_frame() noexcept { payload_.clear(); }
  void begin_tile() requires(Codec::span > 0) { coder_.begin_tile(); }

  // All groups of one (layer, plane, token tile), to out[0 ..].
  status encode(const encode_task& task, int layer, plane which, int tile, coded_tile* out) {
    task_ = &task;
    const plane_profile& q = task.profile->of(layer, which);
    if (q.groups() == 0) return status::ok;
    const layer_slot slot = task.slots[std::size_t(layer)];
    const std::int64_t start = task.position + std::int64_t{tile} * Codec::tile_tokens;  // of the tile
    const std::int64_t stop = detail::min(start + Codec::tile_tokens, task.position + task.tokens);
    std::int64_t from = start, to = start;
    if (slot.view) {
      from = detail::clamp(slot.view->position, start, stop);
      to = detail::clamp(slot.view->position + slot.view->tokens, from, stop);
    }
    const int count = int(to - from);
    if (count == 0) return status::ok;
    const kv_view& v = *slot.view;
    plane_ = &v[which];
    base_ = v.layer_base(*plane_, slot.index);
    offsets_.resize(std::size_t(count));
    for (int i = 0; i < count; ++i) offsets_[std::size_t(i)] = v.token_offset(*plane_, from - v.position + i);

    in_.range = {int(from - task.position), from, count};
    in_.type = plane_->type;
    in_.weights = &task.weights;
    in_.frame_tokens = task.tokens;
    in_.coarser = task.coarser;
    flag_tokens();
    if constexpr (!stored) load(layer, which);
    split_tokens(std::size_t(q.width));
    if constexpr (requires { coder_.observe(std::as_const(in_)); }) {
      in_.place = place_of(task.profile->shape, q.width, layer, which, 0);
      in_.rows = coded_;
      in_.exact = exact_;
      in_.ld = ld_;
      in_.x = values_.data();
      coder_.observe(std::as_const(in_));
    }
    for (int g = 0; g < q.groups(); ++g) {
      in_.place = place_of(task.profile->shape, q.group_width, layer, which, g);
      in_.rows = coded_;
      in_.exact = exact_;
      if constexpr (stored) {
        gather(in_.rows);
        in_.elements = elements_.data();
      } else {
        in_.ld = ld_;
        in_.x = values_.data() + in_.place.first_head * in_.place.head_dim;
      }
      if (const status s = encode_group(int(from - start), out[g]); s != status::ok) return s;
    }
    return status::ok;
  }

 private:
  static constexpr bool stored = Codec::domain == value_domain::stored;

  // Which tokens the codec wants exact.
  void flag_tokens() {
    flagged_.resize(std::size_t(in_.range.count));
    for (int i = 0; i < in_.range.count; ++i)
      flagged_[std::size_t(i)] =
          Codec::keeps_exact(*task_->profile, in_.range.position + i, task_->position + task_->tokens);
  }

  // Tokens as floats in the codec's domain; those that are no numbers are flagged as well.
  void load(int layer, plane which) {
    const layer_shape& l = task_->profile->shape.layers[std::size_t(layer)];
    const int dim = l.head_dim(which), count = in_.range.count;
    ld_ = detail::padded(l.num_kv_heads * dim);
    values_.resize(std::size_t(count) * std::size_t(ld_));
    const detail::row_layout at{
        offsets_.data(), plane_->head_stride, plane_->element_stride, 0, l.num_kv_heads, dim, plane_->type, false};
    detail::load_rows(isa_, base_, at, count, values_.data(), ld_, flagged_.data());
    if (Codec::domain == value_domain::unrotated && which == plane::key)
      task_->ropes->rotate(isa_, layer, values_.data(), ld_, count, l.num_kv_heads, in_.range.frame_token);
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
  status encode_group(int first, coded_tile& out) {
    const std::size_t row_bytes = std::size_t(in_.place.width()) * std::size_t(size_of(in_.type));
    const int passes = task_->passes;
    writer_.clear();
    status s = coder_.encode(in_, task_->side, passes, writer_);
    if (s != status::ok && s != status::too_large) return s;
    const std::size_t most = tile_writer::stored_size(std::size_t(in_.range.count), row_bytes);
    // A lossy codec that coded nothing has nothing to say in any section.
    if (s == status::too_large || in_.rows.empty() || writer_.size(passes, in_.exact.size(), row_bytes) > most) {
      writer_.clear();
      in_.exact.resize(std::size_t(in_.range.count));
      for (std::size_t i = 0; i < in_.exact.size(); ++i) in_.exact[i] = std::uint16_t(i);
    }
    gather(in_.exact);
    out.begin = payload_.size();
    for (int p = 0; p < passes; ++p) {
      const std::size_t before = payload_.size();
      writer_.finish(p, first, in_.range.count, in_.exact, elements_, payload_);
      out.size[p] = std::uint32_t(payload_.size() - before);
    }
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

  sluice::isa isa_;
  typename Codec::encoder coder_;
  std::vector<std::uint8_t> payload_;
  const encode_task* task_ = nullptr;  // that it works on
  tile_rows in_;
  tile_writer writer_;
  const plane_view* plane_ = nullptr;  // of the tile that is encoded
  const std::byte* base_ = nullptr;
  std::vector<std::int64_t> offsets_;  // bytes to head 0, element 0 of each of its tokens
  std::vector<float> values_;
  std::vector<std::uint8_t> flagged_, elements_;
  std::vector<std::uint16_t> coded_, exact_;
  std::ptrdiff_t ld_ = 0;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::detail
