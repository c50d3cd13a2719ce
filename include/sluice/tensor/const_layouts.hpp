// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/tensor/layouts.hpp>

#include <concepts>

// The factories of layouts.hpp for memory that may only be read: same names, same arguments, pointers to const. What they
// make can be encoded; nothing can be decoded into it.

namespace sluice::layouts {

/// One pointer to const bytes for each layer of the view, rising. A list of pointers to mutable bytes is no such list, so
/// that no call means both.
class const_pointers {
 public:
  constexpr const_pointers() = default;
  /// Any range of `const std::byte*` that std::span takes; borrowed.
  template <class List>
  requires(std::constructible_from<std::span<const std::byte* const>, const List&> &&
           !std::constructible_from<pointers, const List&>) constexpr const_pointers(const List& list) noexcept
      : list_(list) {}

  /// For the factories below, whose views cannot be written through.
  constexpr pointers list() const noexcept { return {const_cast<std::byte* const*>(list_.data()), list_.size()}; }

 private:
  std::span<const std::byte* const> list_;
};

/// A pointer to memory of any type.
class const_pointer {
 public:
  /// Borrows the memory.
  const_pointer(const void* p) noexcept : bytes_(static_cast<std::byte*>(const_cast<void*>(p))) {}
  /// For the factories below, whose views cannot be written through.
  std::byte* bytes() const noexcept { return bytes_; }

 private:
  std::byte* bytes_;
};

/// @name Layouts of memory that may only be read.
/// @{

/// The factory of this name in layouts.hpp, for memory that may only be read.
constexpr const_kv_view vllm_nhd(const_pointers k_ptrs, const_pointers v_ptrs, const paged& shape, table block_table,
                                 std::int64_t tokens) noexcept {
  return vllm_nhd(k_ptrs.list(), v_ptrs.list(), shape, block_table, tokens);
}
constexpr const_kv_view vllm_nhd(const_pointers kv_ptrs, const paged& shape, table block_table,
                                 std::int64_t tokens) noexcept {
  return vllm_nhd(kv_ptrs.list(), shape, block_table, tokens);
}
constexpr const_kv_view vllm_hnd(const_pointers k_ptrs, const_pointers v_ptrs, const paged& shape, table block_table,
                                 std::int64_t tokens) noexcept {
  return vllm_hnd(k_ptrs.list(), v_ptrs.list(), shape, block_table, tokens);
}
constexpr const_kv_view vllm_hnd(const_pointers kv_ptrs, const paged& shape, table block_table,
                                 std::int64_t tokens) noexcept {
  return vllm_hnd(kv_ptrs.list(), shape, block_table, tokens);
}
constexpr const_kv_view vllm_packed(const_pointers kv_ptrs, const paged& shape, table block_table, std::int64_t tokens,
                                    kv_layout layout = kv_layout::hnd) noexcept {
  return vllm_packed(kv_ptrs.list(), shape, block_table, tokens, layout);
}
inline const_kv_view vllm_packed(const_pointer buffer, std::int32_t num_layers, vllm_order order, const paged& shape,
                                 table block_table, std::int64_t tokens) noexcept {
  return vllm_packed(buffer.bytes(), num_layers, order, shape, block_table, tokens);
}
inline const_kv_view vllm_cross_layer(const_pointer buffer, std::int32_t num_layers, const paged& shape,
                                      table block_table, std::int64_t tokens,
                                      kv_layout layout = kv_layout::nhd) noexcept {
  return vllm_cross_layer(buffer.bytes(), num_layers, shape, block_table, tokens, layout);
}
constexpr const_kv_view flashinfer(const_pointers kv_ptrs, const paged& shape, const flashinfer_tables& tables,
                                   std::int64_t request, kv_layout layout = kv_layout::nhd) noexcept {
  return flashinfer(kv_ptrs.list(), shape, tables, request, layout);
}
constexpr const_kv_view flashinfer(const_pointers k_ptrs, const_pointers v_ptrs, const paged& shape,
                                   const flashinfer_tables& tables, std::int64_t request,
                                   kv_layout layout = kv_layout::nhd) noexcept {
  return flashinfer(k_ptrs.list(), v_ptrs.list(), shape, tables, request, layout);
}
constexpr const_kv_view sglang_slots(const_pointers k_ptrs, const_pointers v_ptrs, const sglang_pool& pool, table slots,
                                     std::int64_t position = 0) noexcept {
  return sglang_slots(k_ptrs.list(), v_ptrs.list(), pool, slots, position);
}
inline const_kv_view trtllm(const_pointer pool, const trtllm_pool& shape, table block_table,
                            std::int64_t tokens) noexcept {
  return trtllm(pool.bytes(), shape, block_table, tokens);
}
constexpr const_kv_view hf(const_pointers k_ptrs, const_pointers v_ptrs, const hf_cache& cache,
                           std::int32_t batch_index, std::int64_t tokens, std::int64_t position = 0) noexcept {
  return hf(k_ptrs.list(), v_ptrs.list(), cache, batch_index, tokens, position);
}
constexpr const_kv_view llama_cpp(const_pointers k_ptrs, const_pointers v_ptrs, const llama_cpp_cache& cache,
                                  std::int64_t first_cell, std::int64_t tokens, std::int64_t position = 0) noexcept {
  return llama_cpp(k_ptrs.list(), v_ptrs.list(), cache, first_cell, tokens, position);
}
constexpr const_kv_view llama_cpp(const_pointers k_ptrs, const_pointers v_ptrs, const llama_cpp_cache& cache,
                                  table cells, std::int64_t position = 0) noexcept {
  return llama_cpp(k_ptrs.list(), v_ptrs.list(), cache, cells, position);
}
inline const_kv_view dense(const_pointer k, const_pointer v, const dense_cache& cache, const byte_strides& k_strides,
                           const byte_strides& v_strides, std::int64_t tokens, std::int64_t position = 0) noexcept {
  return dense(k.bytes(), v.bytes(), cache, k_strides, v_strides, tokens, position);
}
inline const_kv_view dense(const_pointer k, const_pointer v, const dense_cache& cache, std::int64_t tokens,
                           std::int64_t position = 0) noexcept {
  return dense(k.bytes(), v.bytes(), cache, tokens, position);
}
inline const_kv_view lmcache_chunk(const_pointer chunk, const lmcache_object& object, std::int64_t tokens,
                                   std::int64_t position = 0) noexcept {
  return lmcache_chunk(chunk.bytes(), object, tokens, position);
}
constexpr const_kv_view last_tokens(const const_kv_view& cache, std::int64_t n) noexcept {
  return last_tokens(sluice::detail::readable(cache), n);
}
/// @}

}  // namespace sluice::layouts
