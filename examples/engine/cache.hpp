// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "config.hpp"
#include "rows.hpp"

#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <vector>

// The engine's own KV cache. sluice knows nothing of it but what `sequence::view()` says: where K and V lie, the strides
// between layers, pages, tokens and heads, and which pages belong to this sequence.

namespace engine {

/// Pages of `page_size` tokens for all sequences: K and V each [layer][page][token][kv head][element], as vLLM's NHD. With K
/// alone they hold hidden states.
class page_pool {
 public:
  static constexpr int page_size = 16;

  page_pool(const model_config& c, sluice::dtype type, int pages) : page_pool(kv_shape(c), type, pages) {}
  /// For layers that are all alike, with K and V of one size or with K alone.
  page_pool(const sluice::model_shape& s, sluice::dtype type, int pages)
      : type_(type),
        layers_(s.num_layers()),
        kv_heads_(s.layers.at(0).num_kv_heads),
        head_dim_(s.layers[0].head_dim_k),
        num_planes_(s.layers[0].head_dim_v > 0 ? 2 : 1),
        pages_(pages) {
    const std::size_t bytes = std::size_t(layer_stride()) * std::size_t(layers_);
    for (auto& plane : std::span(planes_).first(std::size_t(num_planes_))) {
      plane.reset(static_cast<std::byte*>(std::calloc(std::max<std::size_t>(bytes, 1), 1)));  // touched when used
      if (!plane) throw std::bad_alloc();
    }
    free_.reserve(std::size_t(pages));
    for (int i = pages; i-- > 0;) free_.push_back(i);
  }

  /// Pages for `tokens` tokens.
  static int pages_for(int tokens) noexcept { return (tokens + page_size - 1) / page_size; }

  sluice::dtype type() const noexcept { return type_; }
  int pages() const noexcept { return pages_; }
  int free_pages() const noexcept { return int(free_.size()); }
  int layers() const noexcept { return layers_; }
  int kv_heads() const noexcept { return kv_heads_; }
  int head_dim() const noexcept { return head_dim_; }
  /// 2 with K and V, 1 with K alone.
  int num_planes() const noexcept { return num_planes_; }
  /// Elements of a token in one plane of one layer, and in all.
  int width() const noexcept { return kv_heads_ * head_dim_; }
  std::size_t values_of_token() const noexcept { return std::size_t(num_planes_ * layers_) * std::size_t(width()); }

  // Byte strides; signed 64 bits, as in sluice::plane_view.
  std::int64_t element_stride() const noexcept { return sluice::size_of(type_); }
  std::int64_t head_stride() const noexcept { return element_stride() * head_dim_; }
  std::int64_t token_stride() const noexcept { return head_stride() * kv_heads_; }
  std::int64_t page_stride() const noexcept { return token_stride() * page_size; }
  std::int64_t layer_stride() const noexcept { return page_stride() * pages_; }

  std::byte* plane(sluice::plane p) const noexcept { return planes_[std::size_t(p)].get(); }

 private:
  friend class sequence;

  int take() noexcept {
    const int page = free_.back();
    free_.pop_back();
    return page;
  }
  void give(int page) noexcept { free_.push_back(page); }  // within the reserved capacity

  struct free_memory {
    void operator()(std::byte* p) const noexcept { std::free(p); }
  };

  sluice::dtype type_;
  int layers_, kv_heads_, head_dim_, num_planes_, pages_;
  std::unique_ptr<std::byte, free_memory> planes_[2];
  std::vector<std::int32_t> free_;
};

/// One conversation's tokens in the pool: a block table and a length.
class sequence {
 public:
  explicit sequence(page_pool& pool) : pool_(&pool) { block_table_.reserve(std::size_t(pool.pages())); }
  sequence(const sequence&) = delete;
  sequence& operator=(const sequence&) = delete;
  ~sequence() { truncate(0); }

  page_pool& pool() const noexcept { return *pool_; }
  int tokens() const noexcept { return tokens_; }
  const std::vector<std::int32_t>& block_table() const noexcept { return block_table_; }

  /// Room for `n` more tokens, whose contents the caller writes. Errors: out_of_memory (nothing has changed then).
  sluice::status grow(int n) {
    const int missing = page_pool::pages_for(tokens_ + n) - int(block_table_.size());
    if (missing > pool_->free_pages()) return sluice::status::out_of_memory;
    for (int i = 0; i < missing; ++i) block_table_.push_back(pool_->take());
    tokens_ += n;
    return sluice::status::ok;
  }

  /// Forgets all but the first `n` tokens.
  void truncate(int n) noexcept {
    tokens_ = std::min(tokens_, n);
    while (int(block_table_.size()) > page_pool::pages_for(tokens_)) {
      pool_->give(block_table_.back());
      block_table_.pop_back();
    }
  }

  /// Head `head` of a token; heads of a token follow one another.
  std::byte* at(sluice::plane p, int layer, int token, int head = 0) const noexcept {
    const std::int64_t page = block_table_[std::size_t(token / page_pool::page_size)];
    return pool_->plane(p) + layer * pool_->layer_stride() + page * pool_->page_stride() +
           token % page_pool::page_size * pool_->token_stride() + head * pool_->head_stride();
  }

  /// The whole sequence as sluice sees it, as long as it now is; valid until it shrinks.
  sluice::kv_view view() const noexcept {
    sluice::kv_view c;
    for (const sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
      if (!pool_->plane(p)) continue;
      sluice::plane_view& v = p == sluice::plane::key ? c.k : c.v;
      v.base = pool_->plane(p);
      v.layer_stride = pool_->layer_stride();
      v.page_stride = pool_->page_stride();
      v.token_stride = pool_->token_stride();
      v.head_stride = pool_->head_stride();
      v.element_stride = pool_->element_stride();
      v.type = pool_->type();
      v.head_dim = pool_->head_dim();
    }
    c.num_layers = pool_->layers();
    c.num_kv_heads = pool_->kv_heads();
    c.mode = sluice::addressing::pages;
    c.indices = block_table_.data();
    c.num_indices = std::int64_t(block_table_.size());
    c.page_size = page_pool::page_size;
    c.capacity = pool_->pages();
    c.tokens = tokens_;
    return c;
  }

 private:
  page_pool* pool_;
  std::vector<std::int32_t> block_table_;
  int tokens_ = 0;
};

/// Fills an empty sequence with the first tokens of another of the same pool. Errors: throws std::runtime_error.
inline void copy_tokens(const sequence& from, int tokens, sequence& to) {
  if (to.grow(tokens) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
  for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
    for (int l = 0; from.pool().plane(p) && l < from.pool().layers(); ++l)
      for (int t = 0; t < tokens; ++t)
        std::memcpy(to.at(p, l, t), from.at(p, l, t), std::size_t(from.pool().token_stride()));
}

}  // namespace engine
