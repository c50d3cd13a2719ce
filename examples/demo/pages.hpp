// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/sluice.hpp>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

/// The KV pool of an engine as vLLM keeps it: K and V of each layer [pages, page_size, heads, head_dim], twice as many
/// pages as one sequence needs, and a block table that names the sequence's pages in no order.
class page_pool {
 public:
  static constexpr std::int64_t page_size = 16;

  page_pool(const sluice::kv_view& like, unsigned seed)
      : shape_{like.num_kv_heads, like.k.head_dim, like.v.head_dim, page_size, 0, like.k.type}, tokens_(like.tokens) {
    const std::int64_t used = (tokens_ + page_size - 1) / page_size;
    shape_.num_pages = 2 * used;
    table_.resize(std::size_t(shape_.num_pages));
    std::iota(table_.begin(), table_.end(), 0);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(seed));
    unused_.assign(table_.begin() + used, table_.end());
    table_.resize(std::size_t(used));
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
      const std::size_t bytes = std::size_t(shape_.num_pages) * page_bytes(p);
      memory_[int(p)].resize(std::size_t(like.num_layers) * bytes);
      for (int l = 0; l < like.num_layers; ++l)
        bases_[int(p)].push_back(memory_[int(p)].data() + std::size_t(l) * bytes);
    }
    clear();
  }

  sluice::kv_view view() const { return sluice::layouts::vllm_nhd(bases_[0], bases_[1], shape_, table_, tokens_); }
  int pages() const { return int(table_.size()); }

  void clear() {
    for (auto& m : memory_) std::fill(m.begin(), m.end(), filler);
  }

  /// Copies the values of another view with the same shape, element by element.
  void fill(const sluice::kv_view& from) {
    const sluice::kv_view to = view();
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value})
      for (int l = 0; l < to.num_layers; ++l)
        for (std::int64_t t = 0; t < tokens_; ++t)
          for (int h = 0; h < to.num_kv_heads; ++h)
            for (int d = 0; d < to[p].head_dim; ++d)
              std::memcpy(to.at(p, l, t, h, d), from.at(p, l, t, h, d), std::size_t(sluice::size_of(to[p].type)));
  }

  /// Whether page `n` of the sequence holds the same bits here and there.
  bool same_page(const page_pool& other, int n) const {
    bool same = true;
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value})
      for (std::size_t l = 0; l < bases_[int(p)].size(); ++l)
        same = same && !std::memcmp(page(p, l, table_[std::size_t(n)]), other.page(p, l, other.table_[std::size_t(n)]),
                                    page_bytes(p));
    return same;
  }
  bool same(const page_pool& other) const {
    bool all = true;
    for (int n = 0; n < pages(); ++n) all = all && same_page(other, n);
    return all;
  }

  /// Whether the pages of other sequences are as clear() left them.
  bool rest_untouched() const {
    bool untouched = true;
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value})
      for (std::size_t l = 0; l < bases_[int(p)].size(); ++l)
        for (std::int32_t n : unused_) {
          const std::byte* first = page(p, l, n);
          untouched = untouched && std::all_of(first, first + page_bytes(p), [](std::byte b) { return b == filler; });
        }
    return untouched;
  }

 private:
  static constexpr std::byte filler{0xa5};

  std::size_t page_bytes(sluice::plane p) const {
    const int dim = p == sluice::plane::key ? shape_.head_dim_k : shape_.head_dim_v;
    return std::size_t(page_size) * std::size_t(shape_.num_kv_heads) * std::size_t(dim) *
           std::size_t(sluice::size_of(shape_.type));
  }
  const std::byte* page(sluice::plane p, std::size_t layer, std::int32_t n) const {
    return bases_[int(p)][layer] + std::size_t(n) * page_bytes(p);
  }

  sluice::layouts::paged shape_;
  std::int64_t tokens_;
  std::vector<std::int32_t> table_, unused_;
  std::vector<std::byte> memory_[2];
  std::vector<std::byte*> bases_[2];
};
