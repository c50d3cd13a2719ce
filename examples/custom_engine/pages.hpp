// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "memory.hpp"

#include <sluice/tensor/shape.hpp>
#include <sluice/tensor/view.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace custom_engine {

/// What the engine's caches look like: all layers alike, so many tokens a page, its own element type.
struct cache_shape {
  int layers = 0, heads = 0, head_dim = 0;
  sluice::dtype type = sluice::dtype::bf16;
  int page_tokens = 16;

  std::size_t token_bytes() const noexcept {
    return static_cast<std::size_t>(heads * head_dim * sluice::size_of(type));
  }
  /// K or V of one layer in a page.
  std::size_t plane_bytes() const noexcept { return static_cast<std::size_t>(page_tokens) * token_bytes(); }
  std::size_t page_bytes() const noexcept { return 2 * static_cast<std::size_t>(layers) * plane_bytes(); }
};

/// The memory of all sequences: pages [layer][K, V][token][head][element].
class page_pool {
 public:
  page_pool(const cache_shape& shape, int pages)
      : shape_(shape), memory_(static_cast<std::size_t>(pages) * shape.page_bytes()) {
    // A pool that has been in use for a while hands out pages in no order.
    for (int i = 0; i < pages; ++i) free_.push_back(i);
    std::shuffle(free_.begin(), free_.end(), std::minstd_rand(1));
  }

  const cache_shape& shape() const noexcept { return shape_; }
  std::byte* data() const noexcept { return memory_.data(); }
  const memory<std::byte>& bytes() const noexcept { return memory_; }
  int pages() const noexcept { return static_cast<int>(memory_.size() / shape_.page_bytes()); }

  /// Pages for so many tokens: a block table.
  std::vector<std::int32_t> take(std::int64_t tokens) {
    std::vector<std::int32_t> table;
    for (std::int64_t t = 0; t < tokens && !free_.empty(); t += shape_.page_tokens) {
      table.push_back(free_.back());
      free_.pop_back();
    }
    return table;
  }

 private:
  cache_shape shape_;
  memory<std::byte> memory_;
  std::vector<std::int32_t> free_;
};

/// What sluice is told of a sequence: where its values lie, in strides of bytes. `pool` and `table` are addresses of the
/// side that decodes.
inline sluice::kv_view view_of(const cache_shape& c, std::byte* pool, int pages, std::span<const std::int32_t> table,
                               std::int64_t position, std::int64_t tokens) {
  const auto plane = static_cast<std::int64_t>(c.plane_bytes());
  sluice::kv_view v;
  v.k.base = pool;
  v.k.layer_stride = 2 * plane;
  v.k.page_stride = static_cast<std::int64_t>(c.page_bytes());
  v.k.token_stride = static_cast<std::int64_t>(c.token_bytes());
  v.k.element_stride = sluice::size_of(c.type);
  v.k.head_stride = c.head_dim * v.k.element_stride;
  v.k.type = c.type;
  v.k.head_dim = c.head_dim;
  v.v = v.k;
  v.v.layer_offset = plane;
  v.num_layers = c.layers;
  v.num_kv_heads = c.heads;
  v.mode = sluice::addressing::pages;
  v.indices = table.data();
  v.num_indices = static_cast<std::int64_t>(table.size());
  v.page_size = c.page_tokens;
  v.capacity = pages;
  v.tokens = tokens;
  v.position = position;
  return v;
}

}  // namespace custom_engine
