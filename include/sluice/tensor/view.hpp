// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstddef>
#include <cstdint>

namespace sluice {

/// One of K or V in the engine's memory: a base pointer (or one per layer) and byte strides.
/// All strides are 64-bit bytes and may be negative or interleaved; K and V in one buffer differ only in `base`.
struct plane_view {
  std::byte* base = nullptr;                 ///< layer 0 of the view; null with no layer_bases = the plane is absent
  std::byte* const* layer_bases = nullptr;   ///< one pointer per layer of the view; overrides base and layer_stride
  std::int64_t layer_stride = 0;
  std::int64_t page_stride = 0;              ///< ignored where tokens are contiguous or slots
  std::int64_t token_stride = 0;             ///< within a page; between slots for a slot list
  std::int64_t head_stride = 0;
  std::int64_t element_stride = 0;           ///< larger than the element for a transposed V
  dtype type = dtype::f16;
  std::int32_t head_dim = 0;

  SLUICE_HD constexpr bool present() const noexcept { return base != nullptr || layer_bases != nullptr; }
};

/// How a token index becomes a place: straight, through a page table, or through a slot list.
enum class addressing : std::uint8_t { contiguous = 0, pages = 1, slots = 2 };

/// A borrowed window on the KV cache of one sequence: a plain aggregate, passed by value, owning nothing.
/// Token indices of the view run from 0 to tokens; `position` is the sequence position of token 0.
struct kv_view {
  plane_view k{};
  plane_view v{};
  std::int32_t num_layers = 0;
  std::int32_t num_kv_heads = 0;
  const std::int32_t* layer_ids = nullptr;  ///< model layer of each layer of the view; null = 0, 1, 2, ...

  addressing mode = addressing::contiguous;
  const std::int32_t* indices = nullptr;    ///< page or slot numbers, from the sequence's first token on
  std::int64_t page_size = 1;               ///< tokens a page
  std::int64_t capacity = 0;                ///< pages (or slots, or contiguous tokens) in the pool; indices must be below

  std::int64_t first = 0;                   ///< token 0 of the view within `indices` or the contiguous run
  std::int64_t tokens = 0;
  std::int64_t position = 0;                ///< sequence position of token 0

  /// The same cache, tokens [begin, end) of this view.
  SLUICE_HD constexpr kv_view slice(std::int64_t begin, std::int64_t end) const noexcept {
    kv_view w = *this;
    w.first += begin;
    w.tokens = end - begin;
    w.position += begin;
    return w;
  }

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

  SLUICE_HD constexpr std::byte* layer_base(const plane_view& p, std::int32_t layer) const noexcept {
    return p.layer_bases ? p.layer_bases[layer] : p.base + layer * p.layer_stride;
  }

  /// Address of one element; indices are not checked, see validate().
  SLUICE_HD constexpr std::byte* at(plane which, std::int32_t layer, std::int64_t token, std::int32_t head,
                                    std::int32_t element) const noexcept {
    const plane_view& p = (*this)[which];
    return layer_base(p, layer) + token_offset(p, token) + head * p.head_stride + element * p.element_stride;
  }
};

/// Checks that every token of the view lies inside the pool and that counts and pointers make sense.
/// Errors: invalid_view, page_out_of_range.
constexpr status validate(const kv_view& c) noexcept {
  if (c.num_layers < 0 || c.num_kv_heads <= 0 || c.tokens < 0 || c.first < 0 || c.page_size <= 0 || c.position < 0)
    return status::invalid_view;
  if (!c.k.present() && !c.v.present()) return status::invalid_view;
  for (const plane_view* p : {&c.k, &c.v}) {
    if (!p->present()) continue;
    if (p->head_dim <= 0) return status::invalid_view;
    if (p->layer_bases)
      for (std::int32_t l = 0; l < c.num_layers; ++l)
        if (!p->layer_bases[l]) return status::invalid_view;
  }
  if (c.tokens == 0) return status::ok;
  if (c.mode == addressing::contiguous)
    return c.first > c.capacity - c.tokens ? status::page_out_of_range : status::ok;
  if (!c.indices) return status::invalid_view;
  const std::int64_t unit = c.mode == addressing::pages ? c.page_size : 1;
  for (std::int64_t i = c.first / unit; i <= (c.first + c.tokens - 1) / unit; ++i)
    if (c.indices[i] < 0 || c.indices[i] >= c.capacity) return status::page_out_of_range;
  return status::ok;
}

}  // namespace sluice
