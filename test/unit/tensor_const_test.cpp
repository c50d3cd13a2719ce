// SPDX-License-Identifier: Apache-2.0
// Caches that may only be read.
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/tensor/const_layouts.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <safetensors.hpp>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

using namespace sluice;

static_assert(std::is_convertible_v<kv_view, const_kv_view> && !std::is_convertible_v<const_kv_view, kv_view>);
static_assert(std::is_trivially_copyable_v<const_kv_view>);
// No call means both forms: a list is of one kind.
static_assert(std::is_convertible_v<std::vector<const std::byte*>, layouts::const_pointers>);
static_assert(!std::is_convertible_v<std::vector<std::byte*>, layouts::const_pointers>);
static_assert(!std::is_convertible_v<std::vector<const std::byte*>, layouts::pointers>);

namespace {

// Two views that show the same bytes under the same indices.
void check_same(const const_kv_view& readable, const kv_view& b) {
  const kv_view& a = sluice::detail::readable(readable);
  REQUIRE(validate(readable) == status::ok);
  REQUIRE(validate(b) == status::ok);
  CHECK(a.tokens == b.tokens);
  CHECK(a.position == b.position);
  CHECK(a.num_layers == b.num_layers);
  CHECK(a.num_kv_heads == b.num_kv_heads);
  for (const plane p : {plane::key, plane::value}) {
    REQUIRE(a[p].present() == b[p].present());
    if (!b[p].present()) continue;
    CHECK(a[p].type == b[p].type);
    CHECK(a[p].head_dim == b[p].head_dim);
    for (std::int32_t l = 0; l < b.num_layers; ++l)
      for (std::int64_t t = 0; t < b.tokens; ++t)
        CHECK(a.at(p, l, t, b.num_kv_heads - 1, b[p].head_dim - 1) ==
              b.at(p, l, t, b.num_kv_heads - 1, b[p].head_dim - 1));
  }
}

}  // namespace

TEST_CASE("const caches: every factory shows pointers to const as it shows others") {
  std::vector<std::byte> memory(1 << 16);
  std::byte* const k0 = memory.data();
  std::byte* const v0 = k0 + (1 << 15);
  const std::vector<std::byte*> k{k0, k0 + 8192}, v{v0, v0 + 8192};
  const std::vector<const std::byte*> ck(k.begin(), k.end()), cv(v.begin(), v.end());
  const std::byte *const ck0 = k0, *const cv0 = v0;
  const std::vector<std::int32_t> pages{2, 0, 1}, indptr{0, 3}, last{2};
  namespace at = sluice::layouts;
  const at::paged paged{2, 8, 8, 4, 3, dtype::f16, 0};
  const at::flashinfer_tables tables{indptr, pages, last};

  check_same(at::vllm_nhd(ck, cv, paged, pages, 10), at::vllm_nhd(k, v, paged, pages, 10));
  check_same(at::vllm_nhd(ck, paged, pages, 10), at::vllm_nhd(k, paged, pages, 10));
  check_same(at::vllm_hnd(ck, cv, paged, pages, 10), at::vllm_hnd(k, v, paged, pages, 10));
  check_same(at::vllm_hnd(ck, paged, pages, 10), at::vllm_hnd(k, paged, pages, 10));
  check_same(at::vllm_packed(ck, paged, pages, 10), at::vllm_packed(k, paged, pages, 10));
  check_same(at::vllm_packed(ck0, 2, at::vllm_order::blnhc, paged, pages, 10),
             at::vllm_packed(k0, 2, at::vllm_order::blnhc, paged, pages, 10));
  check_same(at::vllm_cross_layer(ck0, 2, paged, pages, 10), at::vllm_cross_layer(k0, 2, paged, pages, 10));
  check_same(at::flashinfer(ck, paged, tables, 0), at::flashinfer(k, paged, tables, 0));
  check_same(at::flashinfer(ck, cv, paged, tables, 0), at::flashinfer(k, v, paged, tables, 0));
  check_same(at::sglang_slots(ck, cv, {2, 8, 8, 16}, pages, 5), at::sglang_slots(k, v, {2, 8, 8, 16}, pages, 5));
  const at::trtllm_pool pool{2, 2, 8, 8, 4, 3, dtype::f16, false};
  check_same(at::trtllm(ck0, pool, pages, 10), at::trtllm(k0, pool, pages, 10));
  check_same(at::hf(ck, cv, {1, 2, 8, 8, 16}, 0, 9, 3), at::hf(k, v, {1, 2, 8, 8, 16}, 0, 9, 3));
  const at::llama_cpp_cache llama{2, 8, 8, 16, dtype::f16, dtype::f16, true, 1, 0};
  check_same(at::llama_cpp(ck, cv, llama, 2, 9), at::llama_cpp(k, v, llama, 2, 9));
  check_same(at::llama_cpp(ck, cv, llama, pages), at::llama_cpp(k, v, llama, pages));
  const at::dense_cache dense{2, 2, 8, 8, 16};
  check_same(at::dense(ck0, cv0, dense, 9, 4), at::dense(k0, v0, dense, 9, 4));
  const at::byte_strides strides{512, 32, 16, 2};
  check_same(at::dense(ck0, cv0, dense, strides, strides, 9), at::dense(k0, v0, dense, strides, strides, 9));
  check_same(at::lmcache_chunk(ck0, {2, 2, 8, 8, 16}, 9), at::lmcache_chunk(k0, {2, 2, 8, 8, 16}, 9));
  check_same(at::last_tokens(at::dense(ck0, cv0, dense, 9, 4), 3), at::last_tokens(at::dense(k0, v0, dense, 9, 4), 3));
  check_same(at::dense(ck0, cv0, dense, 9, 4).slice(2, 5), at::dense(k0, v0, dense, 9, 4).slice(2, 5));
  check_same(at::dense(ck0, cv0, dense, 9, 4).at_positions(5, 7), at::dense(k0, v0, dense, 9, 4).at_positions(5, 7));

  // Latent attention keeps no V, and a pointer may be to elements of any type.
  check_same(at::vllm_nhd(ck, {}, {1, 16, 0, 4, 3}, pages, 10), at::vllm_nhd(k, {}, {1, 16, 0, 4, 3}, pages, 10));
  const float* const f32 = reinterpret_cast<const float*>(ck0);
  check_same(at::dense(f32, nullptr, {2, 1, 8, 0, 16, dtype::f32}, 9),
             at::dense(k0, nullptr, {2, 1, 8, 0, 16, dtype::f32}, 9));
  CHECK(validate(at::dense(f32, nullptr, dense, 9)) == status::invalid_view);
}

TEST_CASE("const caches: a real cache encodes to the same bytes") {
  safetensors::file file;
  REQUIRE_FALSE(bool(file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")));
  const profile p = profile::load(SLUICE_TEST_DATA "/smollm2.profile").value();
  std::vector<std::byte*> k, v;
  for (int l = 0; l < p.shape.num_layers(); ++l) {
    k.push_back(file.bytes(*file.find("k." + std::to_string(l))).data());
    v.push_back(file.bytes(*file.find("v." + std::to_string(l))).data());
  }
  const std::vector<const std::byte*> ck(k.begin(), k.end()), cv(v.begin(), v.end());
  const layouts::sglang_pool pool{3, 64, 64, 256, dtype::f16};
  std::vector<std::int32_t> slots(64);
  for (int i = 0; i < 64; ++i) slots[std::size_t(i)] = i;
  const kv_view cache = layouts::sglang_slots(k, v, pool, slots);
  const const_kv_view readable = layouts::sglang_slots(ck, cv, pool, slots);
  encoder<codec::exact> e(p);
  REQUIRE(e.max_size(readable) == e.max_size(cache));
  std::vector<std::byte> a(e.max_size(cache)), b(a.size());
  const auto n = e.encode(cache, a), m = e.encode(readable, b);
  REQUIRE(n);
  REQUIRE(m);
  REQUIRE(*n == *m);
  CHECK(a == b);

  // Layers in two views, as a model that mixes layers has them.
  std::vector<std::int32_t> ids(30);
  for (int l = 0; l < 30; ++l) ids[std::size_t(l)] = l;
  const std::span all(ck), values(cv);
  const_kv_view parts[] = {layouts::sglang_slots(all.first(10), values.first(10), pool, slots),
                           layouts::sglang_slots(all.subspan(10), values.subspan(10), pool, slots)};
  parts[0].set_layer_ids(ids.data());
  parts[1].set_layer_ids(ids.data() + 10);
  CHECK(e.max_size(parts) == e.max_size(cache));
  std::fill(b.begin(), b.end(), std::byte{0});
  const auto apart = e.encode(parts, b);
  REQUIRE(apart);
  CHECK(*apart == *n);
  CHECK(a == b);
}
