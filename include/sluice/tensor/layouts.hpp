// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>

// Where engines keep KV, by name. Each factory is arithmetic on sizes: it reads no tensor memory and copies nothing, so
// the pointers, the pointer lists and the tables given to it must outlive the view. Shapes are written row-major.
//
//   L layers, B pages (blocks), N tokens a page, H kv heads, D head size, S slots, T tokens, 2 = K then V
//
// Memory that may only be read (and encoded) has the same factories in const_layouts.hpp.
//
// head_dim_v = 0 says that a layer keeps no V (latent attention: num_kv_heads = 1, head_dim_k = 576). Quantised rows
// are described as opaque bytes: type = dtype::bytes and head_dim = bytes of one head's row.
//
// Sizes that make no sense, or whose products leave 64 bits, give a view that validate() refuses; so do a V that is
// given where head_dim_v = 0 or missing where it is not, and pointer lists of different lengths.
//
// Layers of one view are alike. A model that mixes layers (sliding windows beside full attention, other head counts) is
// a span of views, one for each group of layers, each with its own table; set kv_view::layer_ids to say which layers.

namespace sluice::layouts {

using pointers = std::span<std::byte* const>;  ///< one for each layer of the view, rising
using table = std::span<const std::int32_t>;   ///< page or slot numbers, from the sequence's first token on

/// Which of tokens and heads is outside within a page.
enum class kv_layout : std::uint8_t { nhd = 0, hnd = 1 };

/// Orders of one buffer for all layers, as vLLM names them; C is the content of a row, K then V (vllm#42082).
enum class vllm_order : std::uint8_t { lbhnc, lbnhc, blhnc, blnhc, bhlnc, lhbnc };

/// A pool of pages for one layer (vLLM, FlashInfer).
struct paged {
  std::int32_t num_kv_heads = 0;  ///< of one layer
  std::int32_t head_dim_k = 0;    ///< elements of a head of K
  std::int32_t head_dim_v = 0;    ///< elements of a head of V; 0 = the layer keeps no V
  std::int64_t page_size = 0;     ///< tokens a page
  std::int64_t num_pages = 0;     ///< of the pool
  dtype type = dtype::f16;        ///< of K and V
  std::int64_t page_stride = 0;   ///< bytes from page to page where pages are padded; 0 = no padding
};

/// FlashInfer's page tables of a batch.
struct flashinfer_tables {
  table indptr;         ///< [batch + 1]
  table indices;        ///< [indptr[batch]] page numbers
  table last_page_len;  ///< [batch] tokens in each request's last page, 1 to page_size
};

/// SGLang's token pool of one layer: [S, H, D].
struct sglang_pool {
  std::int32_t num_kv_heads = 0;  ///< of one layer
  std::int32_t head_dim_k = 0;    ///< elements of a head of K
  std::int32_t head_dim_v = 0;    ///< elements of a head of V; 0 = the layer keeps no V
  std::int64_t num_slots = 0;     ///< with the dummy slots in front
  dtype type = dtype::f16;        ///< of K and V
};

/// TensorRT-LLM's block pool: [num_blocks, L, kvFactor, H, N, D].
struct trtllm_pool {
  std::int32_t num_layers = 0;        ///< that share the pool
  std::int32_t num_kv_heads = 0;      ///< of one layer
  std::int32_t head_dim_k = 0;        ///< elements of a head of K
  std::int32_t head_dim_v = 0;        ///< 0 (kvFactor 1) or head_dim_k (kvFactor 2)
  std::int64_t tokens_per_block = 0;  ///< N
  std::int64_t num_blocks = 0;        ///< of the pool, primary memory only
  dtype type = dtype::f16;            ///< of K and V
  bool kernel_offsets = false;        ///< the table is the K row that kernels read: block number * L * kvFactor
};

/// Hugging Face transformers: [B, H, Tmax, D] for each layer; DynamicCache has Tmax = T.
struct hf_cache {
  std::int32_t batch_size = 1;    ///< B
  std::int32_t num_kv_heads = 0;  ///< of one layer
  std::int32_t head_dim_k = 0;    ///< elements of a head of K
  std::int32_t head_dim_v = 0;    ///< elements of a head of V; 0 = the layer keeps no V
  std::int64_t max_tokens = 0;    ///< size of the token axis
  dtype type = dtype::f16;        ///< of K and V
};

/// llama.cpp: K is [n_stream, kv_size, n_embd_k_gqa]; V likewise, or [n_stream, n_embd_v_gqa, kv_size] if transposed.
struct llama_cpp_cache {
  std::int32_t num_kv_heads = 0;  ///< of one layer
  std::int32_t head_dim_k = 0;    ///< elements of a head of K
  std::int32_t head_dim_v = 0;    ///< elements of a head of V; 0 = the layer keeps no V
  std::int64_t kv_size = 0;       ///< cells of a stream
  dtype type_k = dtype::f16;      ///< quantised rows: dtype::bytes, see above
  dtype type_v = dtype::f16;      ///< the same for V
  bool v_trans = false;           ///< flash attention off
  std::int32_t n_stream = 1;      ///< sequences with cells of their own; 1 = a unified cache
  std::int32_t stream = 0;        ///< which of them the view shows
};

/// Plain tensors: [L, T, H, D], K and V apart.
struct dense_cache {
  std::int32_t num_layers = 0;    ///< L
  std::int32_t num_kv_heads = 0;  ///< of one layer
  std::int32_t head_dim_k = 0;    ///< elements of a head of K
  std::int32_t head_dim_v = 0;    ///< elements of a head of V; 0 = the layer keeps no V
  std::int64_t max_tokens = 0;    ///< size of the token axis
  dtype type = dtype::f16;        ///< of K and V
};

/// Strides of a plain tensor in bytes (torch and DLPack count elements); may be negative.
struct byte_strides {
  std::int64_t layer = 0;    ///< from layer to layer
  std::int64_t token = 0;    ///< from token to token
  std::int64_t head = 0;     ///< from head to head
  std::int64_t element = 0;  ///< from element to element of a head
};

/// LMCache's memory objects: KV_2LTD, [2, L, T, H * D]; without V KV_MLA_FMT, [1, L, T, aligned D].
struct lmcache_object {
  std::int32_t num_layers = 0;      ///< L
  std::int32_t num_kv_heads = 0;    ///< of one layer
  std::int32_t head_dim_k = 0;      ///< elements of a head of K
  std::int32_t head_dim_v = 0;      ///< 0 or head_dim_k
  std::int64_t chunk_tokens = 256;  ///< size of the token axis
  dtype type = dtype::f16;          ///< of K and V
  std::int64_t token_stride = 0;    ///< bytes from token to token where rows are padded; 0 = no padding
};

namespace detail {

// -1 for a negative factor or a product that is not an extent of memory; -1 as a factor stays -1.
constexpr std::int64_t product(std::initializer_list<std::int64_t> factors) noexcept {
  std::int64_t p = 1;
  for (const std::int64_t f : factors) {
    if (f < 0 || (f > 0 && p > sluice::detail::max_extent / f)) return -1;
    p *= f;
  }
  return p;
}

// Every stride that a factory computes is positive; a negative one is a product that failed.
constexpr bool sound(const plane_view& p) noexcept {
  return !p.present() || (p.layer_stride >= 0 && p.layer_offset >= 0 && p.page_stride >= 0 && p.token_stride >= 0 &&
                          p.head_stride >= 0 && p.element_stride >= 0);
}

constexpr kv_view checked(const kv_view& c) noexcept { return sound(c.k) && sound(c.v) ? c : kv_view{}; }

constexpr bool valid_dims(std::int32_t head_dim_k, std::int32_t head_dim_v) noexcept {
  return head_dim_k > 0 && head_dim_v >= 0;
}

constexpr bool valid_lists(pointers k, pointers v, std::int32_t head_dim_v) noexcept {
  return !k.empty() && k.size() <= sluice::detail::max_layers && v.size() == (head_dim_v > 0 ? k.size() : 0);
}

// The strides of a page of rows, `row` bytes each: [N, H, row] or [H, N, row].
constexpr void set_page(plane_view& p, const paged& s, kv_layout layout, std::int64_t row) noexcept {
  p.token_stride = layout == kv_layout::nhd ? product({s.num_kv_heads, row}) : row;
  p.head_stride = layout == kv_layout::nhd ? row : product({s.page_size, row});
  p.page_stride = product({s.num_kv_heads, s.page_size, row});
}

constexpr plane_view make_plane(std::byte* base, dtype type, std::int32_t head_dim) noexcept {
  plane_view p;
  p.base = base;
  p.type = type;
  p.head_dim = head_dim;
  p.element_stride = size_of(type);
  return p;
}

constexpr plane_view make_plane(pointers bases, dtype type, std::int32_t head_dim) noexcept {
  plane_view p = make_plane(static_cast<std::byte*>(nullptr), type, head_dim);
  p.layer_bases = bases.data();
  return p;
}

constexpr void set_pages(kv_view& c, std::int64_t page_size, std::int64_t num_pages, table pages,
                         std::int64_t tokens) noexcept {
  c.mode = addressing::pages;
  c.page_size = page_size;
  c.capacity = num_pages;
  c.indices = pages.data();
  c.num_indices = static_cast<std::int64_t>(pages.size());
  c.tokens = tokens;
}

constexpr kv_view paged_view(std::size_t num_layers, const paged& s, table pages, std::int64_t tokens) noexcept {
  kv_view c;
  c.num_layers = static_cast<std::int32_t>(num_layers);
  c.num_kv_heads = s.num_kv_heads;
  set_pages(c, s.page_size, s.num_pages, pages, tokens);
  return c;
}

// Lets a padded page take the place of a full one; refuses a stride too short for the page.
constexpr bool pad_page(plane_view& p, const paged& s) noexcept {
  if (s.page_stride == 0) return true;
  if (s.page_stride < p.page_stride) return false;
  p.page_stride = s.page_stride;
  return true;
}

// K and V in tensors of their own.
constexpr kv_view two_tensors(pointers k_ptrs, pointers v_ptrs, const paged& s, kv_layout layout, table pages,
                              std::int64_t tokens) noexcept {
  if (!valid_dims(s.head_dim_k, s.head_dim_v) || !valid_lists(k_ptrs, v_ptrs, s.head_dim_v)) return {};
  kv_view c = paged_view(k_ptrs.size(), s, pages, tokens);
  c.k = make_plane(k_ptrs, s.type, s.head_dim_k);
  set_page(c.k, s, layout, product({s.head_dim_k, size_of(s.type)}));
  if (!pad_page(c.k, s)) return {};
  if (s.head_dim_v > 0) {
    c.v = make_plane(v_ptrs, s.type, s.head_dim_v);
    set_page(c.v, s, layout, product({s.head_dim_v, size_of(s.type)}));
    if (!pad_page(c.v, s)) return {};
  }
  return checked(c);
}

// K and V of one size in one tensor: [2, B, page] or [B, 2, page].
constexpr kv_view one_tensor(pointers kv_ptrs, const paged& s, kv_layout layout, bool pages_outside, table pages,
                             std::int64_t tokens) noexcept {
  if (!valid_dims(s.head_dim_k, s.head_dim_v) || !valid_lists(kv_ptrs, {}, 0)) return {};
  if (s.head_dim_v != 0 && s.head_dim_v != s.head_dim_k) return {};
  kv_view c = paged_view(kv_ptrs.size(), s, pages, tokens);
  c.k = make_plane(kv_ptrs, s.type, s.head_dim_k);
  set_page(c.k, s, layout, product({s.head_dim_k, size_of(s.type)}));
  const std::int64_t half = c.k.page_stride;
  if (s.head_dim_v != 0 && pages_outside) c.k.page_stride = product({2, half});
  if (!pad_page(c.k, s)) return {};
  if (s.head_dim_v != 0) {
    c.v = c.k;
    c.v.layer_offset = pages_outside ? half : product({s.num_pages, c.k.page_stride});
  }
  return checked(c);
}

}  // namespace detail

/// vLLM FlashAttention NHD: K and V each [B, N, H, D] for each layer.
constexpr kv_view vllm_nhd(pointers k_ptrs, pointers v_ptrs, const paged& shape, table block_table,
                           std::int64_t tokens) noexcept {
  return detail::two_tensors(k_ptrs, v_ptrs, shape, kv_layout::nhd, block_table, tokens);
}

/// vLLM FlashAttention NHD, one tensor for each layer: [2, B, N, H, D]; without V (MLA) [B, N, D].
constexpr kv_view vllm_nhd(pointers kv_ptrs, const paged& shape, table block_table, std::int64_t tokens) noexcept {
  return detail::one_tensor(kv_ptrs, shape, kv_layout::nhd, false, block_table, tokens);
}

/// vLLM FlashAttention HND: K and V each [B, H, N, D] for each layer.
constexpr kv_view vllm_hnd(pointers k_ptrs, pointers v_ptrs, const paged& shape, table block_table,
                           std::int64_t tokens) noexcept {
  return detail::two_tensors(k_ptrs, v_ptrs, shape, kv_layout::hnd, block_table, tokens);
}

/// vLLM FlashAttention HND, one tensor for each layer: [2, B, H, N, D] in memory.
constexpr kv_view vllm_hnd(pointers kv_ptrs, const paged& shape, table block_table, std::int64_t tokens) noexcept {
  return detail::one_tensor(kv_ptrs, shape, kv_layout::hnd, false, block_table, tokens);
}

/// vLLM since 0.26: [B, H, N, Dk + Dv] for each layer (or [B, N, H, Dk + Dv]), a row holds K then V.
constexpr kv_view vllm_packed(pointers kv_ptrs, const paged& shape, table block_table, std::int64_t tokens,
                              kv_layout layout = kv_layout::hnd) noexcept {
  if (!detail::valid_dims(shape.head_dim_k, shape.head_dim_v) || !detail::valid_lists(kv_ptrs, {}, 0)) return {};
  kv_view c = detail::paged_view(kv_ptrs.size(), shape, block_table, tokens);
  const std::int64_t row = (std::int64_t{shape.head_dim_k} + shape.head_dim_v) * size_of(shape.type);
  c.k = detail::make_plane(kv_ptrs, shape.type, shape.head_dim_k);
  detail::set_page(c.k, shape, layout, row);
  if (!detail::pad_page(c.k, shape)) return {};
  if (shape.head_dim_v > 0) {
    c.v = c.k;
    c.v.head_dim = shape.head_dim_v;
    c.v.layer_offset = std::int64_t{shape.head_dim_k} * size_of(shape.type);
  }
  return detail::checked(c);
}

/// vLLM's one buffer for all layers of a group, in any of its named orders; C holds K then V.
constexpr kv_view vllm_packed(std::byte* buffer, std::int32_t num_layers, vllm_order order, const paged& shape,
                              table block_table, std::int64_t tokens) noexcept {
  constexpr const char* names[] = {"LBHN", "LBNH", "BLHN", "BLNH", "BHLN", "LHBN"};
  if (!detail::valid_dims(shape.head_dim_k, shape.head_dim_v) || num_layers <= 0 || order > vllm_order::lhbnc ||
      shape.page_stride != 0)  // padding has no place in most of these orders
    return {};
  kv_view c = detail::paged_view(static_cast<std::size_t>(num_layers), shape, block_table, tokens);
  c.k = detail::make_plane(buffer, shape.type, shape.head_dim_k);
  std::int64_t stride = (std::int64_t{shape.head_dim_k} + shape.head_dim_v) * size_of(shape.type);
  for (int axis = 3; axis >= 0; --axis) {
    std::int64_t size = 0;
    switch (names[static_cast<int>(order)][axis]) {
      case 'L': c.k.layer_stride = stride, size = num_layers; break;
      case 'B': c.k.page_stride = stride, size = shape.num_pages; break;
      case 'H': c.k.head_stride = stride, size = shape.num_kv_heads; break;
      default: c.k.token_stride = stride, size = shape.page_size; break;
    }
    stride = detail::product({stride, size});
  }
  if (stride < 0) return {};
  if (shape.head_dim_v > 0) {
    c.v = c.k;
    c.v.head_dim = shape.head_dim_v;
    c.v.layer_offset = std::int64_t{shape.head_dim_k} * size_of(shape.type);
  }
  return detail::checked(c);
}

/// vLLM's cross-layer buffer: [B, L, 2, N, H, D], or head-major [B, H, L, 2, N, D] (one rank's heads are one run).
constexpr kv_view vllm_cross_layer(std::byte* buffer, std::int32_t num_layers, const paged& shape, table block_table,
                                   std::int64_t tokens, kv_layout layout = kv_layout::nhd) noexcept {
  if (!detail::valid_dims(shape.head_dim_k, shape.head_dim_v) || num_layers <= 0) return {};
  if (shape.head_dim_v != 0 && shape.head_dim_v != shape.head_dim_k) return {};
  const std::int64_t planes = shape.head_dim_v != 0 ? 2 : 1;
  const std::int64_t row = std::int64_t{shape.head_dim_k} * size_of(shape.type);
  kv_view c = detail::paged_view(static_cast<std::size_t>(num_layers), shape, block_table, tokens);
  c.k = detail::make_plane(buffer, shape.type, shape.head_dim_k);
  detail::set_page(c.k, shape, layout, row);
  std::int64_t plane_stride = c.k.page_stride;
  if (layout == kv_layout::hnd) {
    plane_stride = detail::product({shape.page_size, row});
    c.k.head_stride = detail::product({num_layers, planes, plane_stride});
  }
  c.k.layer_stride = detail::product({planes, plane_stride});
  c.k.page_stride = detail::product({num_layers, planes, c.k.page_stride});
  if (!detail::pad_page(c.k, shape)) return {};
  if (planes == 2) {
    c.v = c.k;
    c.v.layer_offset = plane_stride;
  }
  return detail::checked(c);
}

namespace detail {

// The pages and the token count of one request; an empty table and -1 tokens where the tables contradict each other.
struct flashinfer_request {
  table pages;
  std::int64_t tokens = -1;
};

constexpr flashinfer_request find_request(const flashinfer_tables& t, std::int64_t request,
                                          std::int64_t page_size) noexcept {
  if (request < 0 || t.indptr.empty() || request >= static_cast<std::int64_t>(t.indptr.size()) - 1) return {};
  if (request >= static_cast<std::int64_t>(t.last_page_len.size()) || page_size <= 0) return {};
  const auto r = static_cast<std::size_t>(request);
  const std::int64_t begin = t.indptr[r], end = t.indptr[r + 1], last = t.last_page_len[r];
  if (begin < 0 || end < begin || end > static_cast<std::int64_t>(t.indices.size())) return {};
  if (begin == end) return {{}, 0};
  if (last < 1 || last > page_size) return {};
  const std::int64_t full = product({end - begin - 1, page_size});
  if (full < 0) return {};
  return {t.indices.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin)), full + last};
}

}  // namespace detail

/// FlashInfer, one tensor for each layer: [B, 2, N, H, D] (NHD) or [B, 2, H, N, D] (HND); the view of one request.
constexpr kv_view flashinfer(pointers kv_ptrs, const paged& shape, const flashinfer_tables& tables,
                             std::int64_t request, kv_layout layout = kv_layout::nhd) noexcept {
  const detail::flashinfer_request r = detail::find_request(tables, request, shape.page_size);
  return detail::one_tensor(kv_ptrs, shape, layout, true, r.pages, r.tokens);
}

/// FlashInfer, a (K, V) pair of tensors for each layer: [B, N, H, D] (NHD) or [B, H, N, D] (HND).
constexpr kv_view flashinfer(pointers k_ptrs, pointers v_ptrs, const paged& shape, const flashinfer_tables& tables,
                             std::int64_t request, kv_layout layout = kv_layout::nhd) noexcept {
  const detail::flashinfer_request r = detail::find_request(tables, request, shape.page_size);
  return detail::two_tensors(k_ptrs, v_ptrs, shape, layout, r.pages, r.tokens);
}

/// SGLang: K and V buffers [S, H, D] for each layer, a slot for each token.
constexpr kv_view sglang_slots(pointers k_ptrs, pointers v_ptrs, const sglang_pool& pool, table slots,
                               std::int64_t position = 0) noexcept {
  // One token a page is the same arithmetic; only how indices are read differs.
  const paged s{pool.num_kv_heads, pool.head_dim_k, pool.head_dim_v, 1, pool.num_slots, pool.type, 0};
  kv_view c = detail::two_tensors(k_ptrs, v_ptrs, s, kv_layout::nhd, slots, static_cast<std::int64_t>(slots.size()));
  c.mode = addressing::slots;
  c.position = position;
  return c;
}

/// TensorRT-LLM: one pool for all layers of a group; blocks in secondary (host) memory are refused by validate().
constexpr kv_view trtllm(std::byte* pool, const trtllm_pool& shape, table block_table, std::int64_t tokens) noexcept {
  if (!detail::valid_dims(shape.head_dim_k, shape.head_dim_v) || shape.num_layers <= 0) return {};
  if (shape.head_dim_v != 0 && shape.head_dim_v != shape.head_dim_k) return {};
  const std::int64_t kv_factor = shape.head_dim_v != 0 ? 2 : 1;
  kv_view c;
  c.num_layers = shape.num_layers;
  c.num_kv_heads = shape.num_kv_heads;
  const std::int64_t slabs = detail::product({shape.num_layers, kv_factor});
  const std::int64_t num_pages = shape.kernel_offsets ? detail::product({shape.num_blocks, slabs}) : shape.num_blocks;
  detail::set_pages(c, shape.tokens_per_block, num_pages, block_table, tokens);
  c.k = detail::make_plane(pool, shape.type, shape.head_dim_k);
  c.k.token_stride = std::int64_t{shape.head_dim_k} * size_of(shape.type);
  c.k.head_stride = detail::product({shape.tokens_per_block, c.k.token_stride});
  const std::int64_t slab = detail::product({shape.num_kv_heads, c.k.head_stride});
  c.k.layer_stride = detail::product({kv_factor, slab});
  c.k.page_stride = shape.kernel_offsets ? slab : detail::product({slabs, slab});
  if (kv_factor == 2) {
    c.v = c.k;
    c.v.layer_offset = slab;
  }
  return detail::checked(c);
}

/// Hugging Face transformers: keys and values [B, H, Tmax, D] for each layer, the sequence at `batch_index`.
/// A sliding layer that holds the last `tokens` of a sequence starts at `position` > 0.
constexpr kv_view hf(pointers k_ptrs, pointers v_ptrs, const hf_cache& cache, std::int32_t batch_index,
                     std::int64_t tokens, std::int64_t position = 0) noexcept {
  if (!detail::valid_dims(cache.head_dim_k, cache.head_dim_v)) return {};
  if (!detail::valid_lists(k_ptrs, v_ptrs, cache.head_dim_v)) return {};
  if (batch_index < 0 || batch_index >= cache.batch_size) return {};
  kv_view c;
  c.num_layers = static_cast<std::int32_t>(k_ptrs.size());
  c.num_kv_heads = cache.num_kv_heads;
  c.capacity = cache.max_tokens;
  c.tokens = tokens;
  c.position = position;
  c.k = detail::make_plane(k_ptrs, cache.type, cache.head_dim_k);
  if (cache.head_dim_v > 0) c.v = detail::make_plane(v_ptrs, cache.type, cache.head_dim_v);
  for (plane_view* p : {&c.k, &c.v}) {
    p->token_stride = std::int64_t{p->head_dim} * size_of(p->type);
    p->head_stride = detail::product({cache.max_tokens, p->token_stride});
    p->layer_offset = detail::product({batch_index, cache.num_kv_heads, p->head_stride});
  }
  return detail::checked(c);
}

namespace detail {

constexpr kv_view llama_cpp_planes(pointers k_ptrs, pointers v_ptrs, const llama_cpp_cache& cache) noexcept {
  if (!valid_dims(cache.head_dim_k, cache.head_dim_v) || !valid_lists(k_ptrs, v_ptrs, cache.head_dim_v)) return {};
  if (cache.stream < 0 || cache.stream >= cache.n_stream) return {};
  kv_view c;
  c.num_layers = static_cast<std::int32_t>(k_ptrs.size());
  c.num_kv_heads = cache.num_kv_heads;
  c.capacity = cache.kv_size;
  c.k = make_plane(k_ptrs, cache.type_k, cache.head_dim_k);
  if (cache.head_dim_v > 0) c.v = make_plane(v_ptrs, cache.type_v, cache.head_dim_v);
  for (plane_view* p : {&c.k, &c.v}) {
    const std::int64_t element = size_of(p->type);
    p->head_stride = std::int64_t{p->head_dim} * element;
    p->token_stride = product({cache.num_kv_heads, p->head_stride});
    p->layer_offset = product({cache.stream, cache.kv_size, p->token_stride});
    if (p == &c.v && cache.v_trans) {
      p->element_stride = product({cache.kv_size, element});
      p->head_stride = product({p->head_dim, p->element_stride});
      p->token_stride = element;
    }
  }
  return checked(c);
}

}  // namespace detail

/// llama.cpp, cells [first_cell, first_cell + tokens) of a stream.
constexpr kv_view llama_cpp(pointers k_ptrs, pointers v_ptrs, const llama_cpp_cache& cache, std::int64_t first_cell,
                            std::int64_t tokens, std::int64_t position = 0) noexcept {
  kv_view c = detail::llama_cpp_planes(k_ptrs, v_ptrs, cache);
  c.first = first_cell;
  c.tokens = tokens;
  c.position = position;
  return c;
}

/// llama.cpp, one cell for each token: a sequence in a unified cache need not be contiguous.
constexpr kv_view llama_cpp(pointers k_ptrs, pointers v_ptrs, const llama_cpp_cache& cache, table cells,
                            std::int64_t position = 0) noexcept {
  kv_view c = detail::llama_cpp_planes(k_ptrs, v_ptrs, cache);
  c.mode = addressing::slots;
  c.indices = cells.data();
  c.num_indices = static_cast<std::int64_t>(cells.size());
  c.tokens = c.num_indices;
  c.position = position;
  return c;
}

/// Tensors of any strides, K and V apart; `v` is null and its strides are not read where head_dim_v = 0.
constexpr kv_view dense(std::byte* k, std::byte* v, const dense_cache& cache, const byte_strides& k_strides,
                        const byte_strides& v_strides, std::int64_t tokens, std::int64_t position = 0) noexcept {
  if (!detail::valid_dims(cache.head_dim_k, cache.head_dim_v) || (v != nullptr) != (cache.head_dim_v > 0)) return {};
  kv_view c;
  c.num_layers = cache.num_layers;
  c.num_kv_heads = cache.num_kv_heads;
  c.capacity = cache.max_tokens;
  c.tokens = tokens;
  c.position = position;
  const auto set = [&](plane_view& p, std::byte* base, std::int32_t head_dim, const byte_strides& s) {
    p = detail::make_plane(base, cache.type, head_dim);
    p.layer_stride = s.layer;
    p.token_stride = s.token;
    p.head_stride = s.head;
    p.element_stride = s.element;
  };
  if (k == nullptr) return {};
  set(c.k, k, cache.head_dim_k, k_strides);
  if (v != nullptr) set(c.v, v, cache.head_dim_v, v_strides);
  return c;
}

/// Plain tensors [L, T, H, D], K and V apart; `v` is null where head_dim_v = 0.
constexpr kv_view dense(std::byte* k, std::byte* v, const dense_cache& cache, std::int64_t tokens,
                        std::int64_t position = 0) noexcept {
  const auto strides = [&](std::int32_t head_dim) {
    byte_strides s;
    s.element = size_of(cache.type);
    s.head = detail::product({head_dim, s.element});
    s.token = detail::product({cache.num_kv_heads, s.head});
    s.layer = detail::product({cache.max_tokens, s.token});
    return s;
  };
  return detail::checked(dense(k, v, cache, strides(cache.head_dim_k), strides(cache.head_dim_v), tokens, position));
}

/// LMCache's chunk in memory: KV_2LTD, or KV_MLA_FMT where head_dim_v = 0.
constexpr kv_view lmcache_chunk(std::byte* chunk, const lmcache_object& object, std::int64_t tokens,
                                std::int64_t position = 0) noexcept {
  if (!detail::valid_dims(object.head_dim_k, object.head_dim_v)) return {};
  if (object.head_dim_v != 0 && object.head_dim_v != object.head_dim_k) return {};
  kv_view c;
  c.num_layers = object.num_layers;
  c.num_kv_heads = object.num_kv_heads;
  c.capacity = object.chunk_tokens;
  c.tokens = tokens;
  c.position = position;
  c.k = detail::make_plane(chunk, object.type, object.head_dim_k);
  c.k.head_stride = std::int64_t{object.head_dim_k} * size_of(object.type);
  c.k.token_stride = detail::product({object.num_kv_heads, c.k.head_stride});
  if (object.token_stride != 0) {
    if (object.token_stride < c.k.token_stride) return {};
    c.k.token_stride = object.token_stride;
  }
  c.k.layer_stride = detail::product({object.chunk_tokens, c.k.token_stride});
  if (object.head_dim_v != 0) {
    c.v = c.k;
    c.v.layer_offset = detail::product({object.num_layers, c.k.layer_stride});
  }
  return detail::checked(c);
}

/// The last `n` tokens of a cache (all, where it holds fewer): what a sliding window of n + 1 tokens still looks at.
constexpr kv_view last_tokens(const kv_view& cache, std::int64_t n) noexcept {
  if (n < 0) return cache.slice(0, -1);
  return cache.slice(n < cache.tokens ? cache.tokens - n : 0, cache.tokens);
}

}  // namespace sluice::layouts
