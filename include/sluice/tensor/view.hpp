// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstddef>
#include <cstdint>
#include <vector>
#if __cplusplus > 201703L
#include <span>
#endif

namespace sluice {

/// One of K or V in the engine's memory: a base pointer (or one per layer) and byte strides.
/// All strides are 64-bit bytes and may be negative or interleaved; K and V in one buffer differ only in `base`.
struct plane_view {
  std::byte* base = nullptr;                ///< layer 0 of the view; null with no layer_bases = the plane is absent
  std::byte* const* layer_bases = nullptr;  ///< one pointer per layer of the view; overrides base and layer_stride
  std::int64_t layer_stride = 0;            ///< bytes from layer to layer; ignored where there are layer_bases
  std::int64_t layer_offset = 0;            ///< bytes from a layer's base to the plane: V behind K in one allocation
  std::int64_t page_stride = 0;             ///< ignored where tokens are contiguous or slots
  std::int64_t token_stride = 0;            ///< within a page; between slots for a slot list
  std::int64_t head_stride = 0;             ///< bytes from head to head of a token
  std::int64_t element_stride = 0;          ///< larger than the element for a transposed V
  dtype type = dtype::f16;                  ///< of the elements
  std::int32_t head_dim = 0;                ///< elements of a head

  /// Whether the layers keep this plane.
  SLUICE_HD constexpr bool present() const noexcept { return base != nullptr || layer_bases != nullptr; }
};

/// How a token index becomes a place: straight, through a page table, or through a slot list.
enum class addressing : std::uint8_t { contiguous = 0, pages = 1, slots = 2 };

/// A borrowed window on the KV cache of one sequence: a plain aggregate, passed by value, owning nothing.
/// Token indices of the view run from 0 to tokens; `position` is the sequence position of token 0.
struct kv_view {
  plane_view k{};                           ///< keys, under their rotary embedding
  plane_view v{};                           ///< values; absent where the layers keep none
  std::int32_t num_layers = 0;              ///< of the view; all of one shape
  std::int32_t num_kv_heads = 0;            ///< of each layer
  const std::int32_t* layer_ids = nullptr;  ///< model layer of each layer of the view; null = 0, 1, 2, ...

  addressing mode = addressing::contiguous;  ///< contiguous = `indices` and page_size are not read
  const std::int32_t* indices = nullptr;     ///< page or slot numbers, from the sequence's first token on
  std::int64_t num_indices = 0;              ///< entries of `indices`
  std::int64_t page_size = 1;                ///< tokens a page
  std::int64_t capacity = 0;                 ///< pages, slots or contiguous tokens in the pool; indices must be below

  std::int64_t first = 0;     ///< token 0 of the view within `indices` or the contiguous run
  std::int64_t tokens = 0;    ///< that the view shows; -1 = an impossible slice was asked for
  std::int64_t position = 0;  ///< sequence position of token 0

  /// The same cache, tokens [begin, end) of this view; a range outside it gives a view that validate() refuses.
  SLUICE_HD constexpr kv_view slice(std::int64_t begin, std::int64_t end) const noexcept {
    kv_view w = *this;
    if (begin < 0 || end < begin || end > tokens || first > INT64_MAX - begin || position > INT64_MAX - begin) {
      w.tokens = -1;
      return w;
    }
    w.first += begin;
    w.tokens = end - begin;
    w.position += begin;
    return w;
  }

  /// What this view shows of the sequence positions [begin, end): no tokens where it shows none of them.
  SLUICE_HD constexpr kv_view at_positions(std::int64_t begin, std::int64_t end) const noexcept {
    if (position < 0 || end < 0) return slice(0, 0);
    const std::int64_t from = begin < position ? 0 : begin - position;
    const std::int64_t to = end - position < tokens ? end - position : tokens;
    return from < to ? slice(from, to) : slice(0, 0);
  }

  /// The same tokens, KV heads [begin, end) of this view: what one rank of tensor parallelism keeps. An empty range, or
  /// one outside of the view, gives a view that validate() refuses.
  SLUICE_HD constexpr kv_view heads(std::int32_t begin, std::int32_t end) const noexcept {
    kv_view w = *this;
    bool fits = begin >= 0 && begin < end && end <= num_kv_heads;
    for (int i = 0; fits && i < 2; ++i) {
      plane_view& p = i == 0 ? w.k : w.v;
      const std::int64_t far = INT64_MAX / 4;
      fits =
          p.head_stride <= far / end && p.head_stride >= -far / end && p.layer_offset <= far && p.layer_offset >= -far;
      if (fits) p.layer_offset += begin * p.head_stride;
    }
    if (fits)
      w.num_kv_heads = end - begin;
    else
      w.tokens = -1;
    return w;
  }

  /// Keys or values.
  SLUICE_HD constexpr const plane_view& operator[](plane p) const noexcept { return p == plane::key ? k : v; }

  /// Model layer of layer `i` of the view.
  SLUICE_HD constexpr std::int32_t layer_id(std::int32_t i) const noexcept { return layer_ids ? layer_ids[i] : i; }

  /// Byte offset of head 0, element 0 of a token from the layer's base.
  SLUICE_HD constexpr std::int64_t token_offset(const plane_view& p, std::int64_t token) const noexcept {
    const std::int64_t t = first + token;
    if (mode == addressing::contiguous) return t * p.token_stride;
    if (mode == addressing::slots) return std::int64_t{indices[t]} * p.token_stride;
    return std::int64_t{indices[t / page_size]} * p.page_stride + t % page_size * p.token_stride;
  }

  /// Where a layer of the view (not of the model) begins in plane `p`, which must be present.
  SLUICE_HD constexpr std::byte* layer_base(const plane_view& p, std::int32_t layer) const noexcept {
    return (p.layer_bases ? p.layer_bases[layer] : p.base + layer * p.layer_stride) + p.layer_offset;
  }

  /// Address of one element; indices are not checked, see validate().
  SLUICE_HD constexpr std::byte* at(plane which, std::int32_t layer, std::int64_t token, std::int32_t head,
                                    std::int32_t element) const noexcept {
    const plane_view& p = (*this)[which];
    return layer_base(p, layer) + token_offset(p, token) + head * p.head_stride + element * p.element_stride;
  }
};

class const_kv_view;

namespace detail {

constexpr const kv_view& readable(const const_kv_view& c) noexcept;

}  // namespace detail

/// A borrowed window on a cache that may only be read: what an encoder takes and a decoder does not. Made from any kv_view,
/// and by layouts from pointers to const (const_layouts.hpp).
class const_kv_view {
 public:
  constexpr const_kv_view() = default;
  /// Any view; whoever may write may read.
  constexpr const_kv_view(const kv_view& v) noexcept : view_(v) {}

  /// Tokens that the view shows.
  constexpr std::int64_t tokens() const noexcept { return view_.tokens; }
  /// Sequence position of the first of them.
  constexpr std::int64_t position() const noexcept { return view_.position; }
  /// As kv_view::slice.
  constexpr const_kv_view slice(std::int64_t begin, std::int64_t end) const noexcept { return view_.slice(begin, end); }
  /// As kv_view::at_positions.
  constexpr const_kv_view at_positions(std::int64_t begin, std::int64_t end) const noexcept {
    return view_.at_positions(begin, end);
  }
  /// As kv_view::heads.
  constexpr const_kv_view heads(std::int32_t begin, std::int32_t end) const noexcept { return view_.heads(begin, end); }
  /// Model layers of the layers of the view, as kv_view::layer_ids.
  constexpr void set_layer_ids(const std::int32_t* ids) noexcept { view_.layer_ids = ids; }

 private:
  friend constexpr const kv_view& detail::readable(const const_kv_view&) noexcept;
  kv_view view_{};
};

namespace detail {

// Whoever calls this promises to write nothing.
constexpr const kv_view& readable(const const_kv_view& c) noexcept { return c.view_; }
#if __cplusplus > 201703L
inline std::vector<kv_view> readable(std::span<const const_kv_view> views) {
  std::vector<kv_view> all;
  for (const const_kv_view& c : views) all.push_back(readable(c));
  return all;
}
#endif

inline constexpr std::int64_t max_extent = std::int64_t{1} << 62;  // bytes; no sum of offsets below it can overflow
inline constexpr std::int32_t max_layers = 1 << 16;

// Adds what `last` steps of `stride` reach to `extent`. False where elements would share an address (the stride is
// smaller than one element, say because a caller left it out) or the offset leaves 64 bits.
SLUICE_HD constexpr bool add_axis(std::int64_t last, std::int64_t stride, int element_size,
                                  std::int64_t& extent) noexcept {
  if (last == 0) return true;
  const auto bits = static_cast<std::uint64_t>(stride);
  const std::uint64_t magnitude = stride < 0 ? 0 - bits : bits;
  if (magnitude < static_cast<std::uint64_t>(element_size)) return false;
  if (magnitude > static_cast<std::uint64_t>(max_extent - extent) / static_cast<std::uint64_t>(last)) return false;
  extent += static_cast<std::int64_t>(magnitude) * last;
  return true;
}

}  // namespace detail

/// What validate() checks, but for the contents of tables: for a view whose tables lie in device memory.
/// Errors: invalid_view, page_out_of_range (the run leaves the pool, or `indices` is too short for it).
SLUICE_HD constexpr status validate_shape(const kv_view& c) noexcept {
  if (c.num_layers <= 0 || c.num_layers > detail::max_layers || c.num_kv_heads <= 0 || c.page_size <= 0)
    return status::invalid_view;
  if (c.tokens < 0 || c.first < 0 || c.position < 0 || c.capacity < 0 || c.num_indices < 0) return status::invalid_view;
  if (c.first > INT64_MAX - c.tokens || c.position > INT64_MAX - c.tokens) return status::invalid_view;
  if (c.mode > addressing::slots) return status::invalid_view;
  if (!c.k.present() && !c.v.present()) return status::invalid_view;

  const bool contiguous = c.mode == addressing::contiguous;
  const bool paged = c.mode == addressing::pages;
  const std::int64_t end = c.first + c.tokens;
  const std::int64_t last_index = c.capacity < INT32_MAX ? (c.capacity > 0 ? c.capacity - 1 : 0) : INT32_MAX;
  const std::int64_t last_token = contiguous ? (end > 0 ? end - 1 : 0) : paged ? c.page_size - 1 : last_index;
  for (const plane_view* p : {&c.k, &c.v}) {
    if (!p->present()) continue;
    if (p->head_dim <= 0 || p->type > dtype::bytes) return status::invalid_view;
    const int size = size_of(p->type);
    std::int64_t extent = size;
    const bool addressable = detail::add_axis(p->head_dim - 1, p->element_stride, size, extent) &&
                             detail::add_axis(c.num_kv_heads - 1, p->head_stride, size, extent) &&
                             detail::add_axis(last_token, p->token_stride, size, extent) &&
                             detail::add_axis(paged ? last_index : 0, p->page_stride, size, extent) &&
                             detail::add_axis(p->layer_bases ? 0 : c.num_layers - 1, p->layer_stride, size, extent) &&
                             detail::add_axis(p->layer_offset != 0, p->layer_offset, 0, extent);
    if (!addressable) return status::invalid_view;
  }

  if (c.tokens == 0) return status::ok;
  if (contiguous) return end > c.capacity ? status::page_out_of_range : status::ok;
  if (!c.indices) return status::invalid_view;
  return (end - 1) / (paged ? c.page_size : 1) < c.num_indices ? status::ok : status::page_out_of_range;
}

/// Checks that every token of the view lies inside the pool and that counts, strides and pointers make sense, whatever
/// their values: nothing overflows. What it cannot know is how much memory there is and how long layer tables are.
/// Errors: invalid_view, page_out_of_range.
constexpr status validate(const kv_view& c) noexcept {
  if (const status s = validate_shape(c); s != status::ok) return s;
  for (std::int32_t l = 0; l < c.num_layers; ++l) {
    for (const plane_view* p : {&c.k, &c.v})
      if (p->layer_bases && !p->layer_bases[l]) return status::invalid_view;
    if (c.layer_ids && c.layer_ids[l] < 0) return status::invalid_view;
  }
  if (c.tokens == 0 || c.mode == addressing::contiguous) return status::ok;
  const std::int64_t unit = c.mode == addressing::pages ? c.page_size : 1;
  for (std::int64_t i = c.first / unit; i <= (c.first + c.tokens - 1) / unit; ++i)
    if (c.indices[i] < 0 || c.indices[i] >= c.capacity) return status::page_out_of_range;
  return status::ok;
}

/// The same for a view that may only be read.
constexpr status validate(const const_kv_view& c) noexcept { return validate(detail::readable(c)); }

}  // namespace sluice
