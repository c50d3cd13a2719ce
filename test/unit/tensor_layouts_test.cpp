// SPDX-License-Identifier: Apache-2.0
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/layouts.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

using namespace sluice;

static_assert(std::is_trivially_copyable_v<kv_view> && std::is_standard_layout_v<kv_view>);
static_assert(std::is_trivially_copyable_v<plane_view> && std::is_standard_layout_v<plane_view>);
static_assert(std::is_aggregate_v<kv_view> && std::is_aggregate_v<plane_view>);
static_assert(validate(kv_view{}) == status::invalid_view);

namespace {

using i64 = std::int64_t;

// What the sequence holds, whatever the engine.
struct logical {
  std::int32_t layers, heads, dim_k, dim_v;
  i64 tokens;
  dtype type;

  float value(plane p, i64 layer, i64 token, i64 head, i64 element) const {
    // Few enough significant bits for every type: numbers, not noise, so that a wrong place is seen.
    const i64 n = (((layer * 7 + token) * 5 + head) * 3 + element) * 2 + (p == plane::value);
    return static_cast<float>(n % 15 - 7);
  }
};

struct coordinates {
  plane which;
  i64 layer, token, head, element;
};

template <class Visit>
void for_each(const logical& s, Visit visit) {
  for (const plane which : {plane::key, plane::value})
    for (i64 l = 0; l < s.layers; ++l)
      for (i64 t = 0; t < s.tokens; ++t)
        for (i64 h = 0; h < s.heads; ++h)
          for (i64 e = 0; e < (which == plane::key ? s.dim_k : s.dim_v); ++e) visit(coordinates{which, l, t, h, e});
}

// Position of an element in a row-major array: the definition of a layout, apart from any stride.
i64 flat(std::initializer_list<i64> sizes, std::initializer_list<i64> at) {
  i64 r = 0;
  auto i = at.begin();
  for (const i64 size : sizes) {
    if (*i < 0 || *i >= size) throw std::logic_error("the test's own index");
    r = r * size + *i++;
  }
  return r;
}

// An engine: its buffers and tables, the view under test, and where each element must be: buffer number and element.
struct engine {
  std::string name;
  std::vector<std::vector<std::byte>> buffers;
  std::vector<std::byte*> k_ptrs, v_ptrs;
  std::vector<std::int32_t> indices, more[2];
  kv_view view;
  std::function<std::pair<std::size_t, i64>(const coordinates&)> place;

  std::byte* buffer(i64 elements, dtype t) {
    buffers.emplace_back(static_cast<std::size_t>(elements * size_of(t)), std::byte{0xee});
    return buffers.back().data();
  }
};

using rng = std::mt19937;

i64 between(rng& random, i64 low, i64 high) { return std::uniform_int_distribution<i64>(low, high)(random); }

std::vector<std::int32_t> distinct(rng& random, i64 count, i64 below) {
  std::vector<std::int32_t> all(static_cast<std::size_t>(below));
  std::iota(all.begin(), all.end(), 0);
  std::shuffle(all.begin(), all.end(), random);
  all.resize(static_cast<std::size_t>(count));
  return all;
}

// Every factory over one logical sequence; those that cannot hold it (V of another size) are left out.
std::vector<engine> engines(const logical& s, rng& random) {
  std::vector<engine> all;
  const i64 L = s.layers, H = s.heads, K = s.dim_k, V = s.dim_v, T = s.tokens, C = K + V;
  const bool has_v = V != 0, alike = V == 0 || V == K;
  const i64 kv = has_v ? 2 : 1;
  const i64 N = between(random, 1, 5), used = (T + N - 1) / N, B = used + between(random, 0, 4) + 1;
  const layouts::paged paged{.num_kv_heads = s.heads,
                             .head_dim_k = s.dim_k,
                             .head_dim_v = s.dim_v,
                             .page_size = N,
                             .num_pages = B,
                             .type = s.type};
  const auto plane_of = [](const coordinates& c) { return static_cast<i64>(c.which); };
  const auto dim_of = [=](const coordinates& c) { return c.which == plane::key ? K : V; };

  // `make` fills an engine that has its page table, or slots, already; buffers must not move afterwards.
  const auto add = [&](const char* name, std::vector<std::int32_t> indices, auto make) {
    engine& e = all.emplace_back();
    e.name = name;
    e.indices = std::move(indices);
    make(e);
  };
  const auto pages = [&] { return distinct(random, used, B); };
  // Lists of per-layer tensors: K in buffers 0..L-1, V in L..2L-1; `one` puts both into the first.
  const auto per_layer = [=](engine& e, i64 k_elements, i64 v_elements, dtype type_k, dtype type_v) {
    e.buffers.reserve(static_cast<std::size_t>(2 * L));
    for (i64 l = 0; l < L; ++l) e.k_ptrs.push_back(e.buffer(k_elements, type_k));
    for (i64 l = 0; has_v && v_elements > 0 && l < L; ++l) e.v_ptrs.push_back(e.buffer(v_elements, type_v));
  };
  const auto own_buffer = [=](const coordinates& c) {
    return static_cast<std::size_t>(c.layer + (c.which == plane::value ? L : 0));
  };
  const auto page = [N](const std::vector<std::int32_t>& table, i64 t) {
    return i64{table[static_cast<std::size_t>(t / N)]};
  };

  using layouts::kv_layout;
  for (const bool nhd : {true, false}) {
    const kv_layout layout = nhd ? kv_layout::nhd : kv_layout::hnd;
    // Index within a page of rows, in either order.
    const auto in_page = [=](const coordinates& c, i64 row, i64 e) {
      return nhd ? flat({N, H, row}, {c.token % N, c.head, e}) : flat({H, N, row}, {c.head, c.token % N, e});
    };
    add(nhd ? "vllm_nhd" : "vllm_hnd", pages(), [&](engine& e) {
      per_layer(e, B * N * H * K, B * N * H * V, s.type, s.type);
      e.view = nhd ? layouts::vllm_nhd(e.k_ptrs, e.v_ptrs, paged, e.indices, T)
                   : layouts::vllm_hnd(e.k_ptrs, e.v_ptrs, paged, e.indices, T);
      e.place = [=, table = e.indices](const coordinates& c) {
        return std::pair(own_buffer(c), page(table, c.token) * N * H * dim_of(c) + in_page(c, dim_of(c), c.element));
      };
    });
    add(nhd ? "vllm_packed BNHC" : "vllm_packed BHNC", pages(), [&](engine& e) {
      per_layer(e, B * N * H * C, 0, s.type, s.type);
      e.view = layouts::vllm_packed(e.k_ptrs, paged, e.indices, T, layout);
      e.place = [=, table = e.indices](const coordinates& c) {
        return std::pair(static_cast<std::size_t>(c.layer),
                         page(table, c.token) * N * H * C + in_page(c, C, c.element + (plane_of(c) ? K : 0)));
      };
    });
    add(nhd ? "flashinfer pair NHD" : "flashinfer pair HND", pages(), [&](engine& e) {
      per_layer(e, B * N * H * K, B * N * H * V, s.type, s.type);
      // Our request is the middle one of three; the others use other pages of the same table.
      std::vector<std::int32_t> table = {3, 1};
      table.insert(table.end(), e.indices.begin(), e.indices.end());
      table.push_back(0);
      e.more[0] = {0, 2, static_cast<std::int32_t>(2 + used), static_cast<std::int32_t>(3 + used)};
      e.more[1] = {1, static_cast<std::int32_t>((T - 1) % N + 1), 1};
      const std::vector<std::int32_t> own = e.indices;
      e.indices = table;
      e.view = layouts::flashinfer(e.k_ptrs, e.v_ptrs, paged,
                                   {.indptr = e.more[0], .indices = e.indices, .last_page_len = e.more[1]}, 1, layout);
      e.place = [=](const coordinates& c) {
        return std::pair(own_buffer(c), page(own, c.token) * N * H * dim_of(c) + in_page(c, dim_of(c), c.element));
      };
    });
    if (!alike) continue;
    add(nhd ? "vllm_nhd one tensor" : "vllm_hnd one tensor", pages(), [&](engine& e) {
      per_layer(e, kv * B * N * H * K, 0, s.type, s.type);
      e.view =
          nhd ? layouts::vllm_nhd(e.k_ptrs, paged, e.indices, T) : layouts::vllm_hnd(e.k_ptrs, paged, e.indices, T);
      e.place = [=, table = e.indices](const coordinates& c) {
        return std::pair(static_cast<std::size_t>(c.layer),
                         flat({kv, B}, {plane_of(c), page(table, c.token)}) * N * H * K + in_page(c, K, c.element));
      };
    });
    add(nhd ? "flashinfer NHD" : "flashinfer HND", pages(), [&](engine& e) {
      per_layer(e, kv * B * N * H * K, 0, s.type, s.type);
      e.more[0] = {0, static_cast<std::int32_t>(used)};
      e.more[1] = {static_cast<std::int32_t>((T - 1) % N + 1)};
      e.view = layouts::flashinfer(e.k_ptrs, paged,
                                   {.indptr = e.more[0], .indices = e.indices, .last_page_len = e.more[1]}, 0, layout);
      e.place = [=, table = e.indices](const coordinates& c) {
        return std::pair(static_cast<std::size_t>(c.layer),
                         flat({B, kv}, {page(table, c.token), plane_of(c)}) * N * H * K + in_page(c, K, c.element));
      };
    });
    add(nhd ? "vllm_cross_layer NHD" : "vllm_cross_layer HND", pages(), [&](engine& e) {
      std::byte* pool = e.buffer(B * L * kv * N * H * K, s.type);
      e.view = layouts::vllm_cross_layer(pool, s.layers, paged, e.indices, T, layout);
      e.place = [=, table = e.indices](const coordinates& c) {
        const i64 b = page(table, c.token), n = c.token % N;
        return std::pair(std::size_t{0},
                         nhd ? flat({B, L, kv, N, H, K}, {b, c.layer, plane_of(c), n, c.head, c.element})
                             : flat({B, H, L, kv, N, K}, {b, c.head, c.layer, plane_of(c), n, c.element}));
      };
    });
  }

  const char* orders[] = {"LBHN", "LBNH", "BLHN", "BLNH", "BHLN", "LHBN"};
  for (int o = 0; o < 6; ++o)
    add(orders[o], pages(), [&](engine& e) {
      e.view = layouts::vllm_packed(e.buffer(L * B * H * N * C, s.type), s.layers, static_cast<layouts::vllm_order>(o),
                                    paged, e.indices, T);
      e.place = [=, table = e.indices, order = std::string(orders[o])](const coordinates& c) {
        i64 r = 0;
        for (const char axis : order) {
          const i64 size = axis == 'L' ? L : axis == 'B' ? B : axis == 'H' ? H : N;
          const i64 at = axis == 'L'   ? c.layer
                         : axis == 'B' ? page(table, c.token)
                         : axis == 'H' ? c.head
                                       : c.token % N;
          r = r * size + at;
        }
        return std::pair(std::size_t{0}, r * C + (plane_of(c) ? K : 0) + c.element);
      };
    });

  const i64 S = T + between(random, 0, 9);
  add("sglang_slots", distinct(random, T, S), [&](engine& e) {
    per_layer(e, S * H * K, S * H * V, s.type, s.type);
    e.view = layouts::sglang_slots(
        e.k_ptrs, e.v_ptrs,
        {.num_kv_heads = s.heads, .head_dim_k = s.dim_k, .head_dim_v = s.dim_v, .num_slots = S, .type = s.type},
        e.indices);
    e.place = [=, slots = e.indices](const coordinates& c) {
      const i64 slot = slots[static_cast<std::size_t>(c.token)];
      return std::pair(own_buffer(c), flat({S, H, dim_of(c)}, {slot, c.head, c.element}));
    };
  });

  for (const bool offsets : {false, true}) {
    if (!alike) continue;
    add(offsets ? "trtllm kernel offsets" : "trtllm", pages(), [&](engine& e) {
      const std::vector<std::int32_t> blocks = e.indices;
      if (offsets)
        for (std::int32_t& i : e.indices) i *= static_cast<std::int32_t>(L * kv);
      e.view = layouts::trtllm(e.buffer(B * L * kv * H * N * K, s.type),
                               {.num_layers = s.layers,
                                .num_kv_heads = s.heads,
                                .head_dim_k = s.dim_k,
                                .head_dim_v = s.dim_v,
                                .tokens_per_block = N,
                                .num_blocks = B,
                                .type = s.type,
                                .kernel_offsets = offsets},
                               e.indices, T);
      e.place = [=](const coordinates& c) {
        return std::pair(std::size_t{0}, flat({B, L, kv, H, N, K}, {page(blocks, c.token), c.layer, plane_of(c), c.head,
                                                                    c.token % N, c.element}));
      };
    });
  }

  const i64 batch = between(random, 1, 3), which = between(random, 0, batch - 1), room = T + between(random, 0, 5);
  add("hf", {}, [&](engine& e) {
    per_layer(e, batch * H * room * K, batch * H * room * V, s.type, s.type);
    e.view = layouts::hf(e.k_ptrs, e.v_ptrs,
                         {.batch_size = static_cast<std::int32_t>(batch),
                          .num_kv_heads = s.heads,
                          .head_dim_k = s.dim_k,
                          .head_dim_v = s.dim_v,
                          .max_tokens = room,
                          .type = s.type},
                         static_cast<std::int32_t>(which), T);
    e.place = [=](const coordinates& c) {
      return std::pair(own_buffer(c), flat({batch, H, room, dim_of(c)}, {which, c.head, c.token, c.element}));
    };
  });

  for (const bool v_trans : {false, true})
    for (const bool scattered : {false, true}) {
      const i64 first = between(random, 0, room - T);
      std::vector<std::int32_t> cells = distinct(random, T, room);
      if (!scattered) std::iota(cells.begin(), cells.end(), static_cast<std::int32_t>(first));
      add(v_trans ? "llama_cpp v_trans" : "llama_cpp", cells, [&](engine& e) {
        const layouts::llama_cpp_cache cache{.num_kv_heads = s.heads,
                                             .head_dim_k = s.dim_k,
                                             .head_dim_v = s.dim_v,
                                             .kv_size = room,
                                             .type_k = s.type,
                                             .type_v = s.type,
                                             .v_trans = v_trans,
                                             .n_stream = static_cast<std::int32_t>(batch),
                                             .stream = static_cast<std::int32_t>(which)};
        per_layer(e, batch * room * H * K, batch * room * H * V, s.type, s.type);
        e.view = scattered ? layouts::llama_cpp(e.k_ptrs, e.v_ptrs, cache, e.indices)
                           : layouts::llama_cpp(e.k_ptrs, e.v_ptrs, cache, first, T);
        e.place = [=](const coordinates& c) {
          const i64 cell = cells[static_cast<std::size_t>(c.token)];
          return std::pair(own_buffer(c), v_trans && c.which == plane::value
                                              ? flat({batch, H, V, room}, {which, c.head, c.element, cell})
                                              : flat({batch, room, H, dim_of(c)}, {which, cell, c.head, c.element}));
        };
      });
    }

  const layouts::dense_cache dense{.num_layers = s.layers,
                                   .num_kv_heads = s.heads,
                                   .head_dim_k = s.dim_k,
                                   .head_dim_v = s.dim_v,
                                   .max_tokens = room,
                                   .type = s.type};
  add("dense", {}, [&](engine& e) {
    e.buffers.reserve(2);
    std::byte* k = e.buffer(L * room * H * K, s.type);
    std::byte* v = has_v ? e.buffer(L * room * H * V, s.type) : nullptr;
    e.view = layouts::dense(k, v, dense, T);
    e.place = [=](const coordinates& c) {
      return std::pair(static_cast<std::size_t>(plane_of(c)),
                       flat({L, room, H, dim_of(c)}, {c.layer, c.token, c.head, c.element}));
    };
  });
  add("dense, strided: [H, D, L, T] with tokens backwards", {}, [&](engine& e) {
    e.buffers.reserve(2);
    const i64 z = size_of(s.type);
    const auto strides = [=](i64 dim) {
      return layouts::byte_strides{.layer = room * z, .token = -z, .head = dim * L * room * z, .element = L * room * z};
    };
    std::byte* k = e.buffer(L * room * H * K, s.type) + (room - 1) * z;
    std::byte* v = has_v ? e.buffer(L * room * H * V, s.type) + (room - 1) * z : nullptr;
    e.view = layouts::dense(k, v, dense, strides(K), strides(V), T);
    e.place = [=](const coordinates& c) {
      return std::pair(static_cast<std::size_t>(plane_of(c)),
                       flat({H, dim_of(c), L, room}, {c.head, c.element, c.layer, room - 1 - c.token}));
    };
  });
  if (alike)
    add("lmcache_chunk", {}, [&](engine& e) {
      e.view = layouts::lmcache_chunk(e.buffer(kv * L * room * H * K, s.type),
                                      {.num_layers = s.layers,
                                       .num_kv_heads = s.heads,
                                       .head_dim_k = s.dim_k,
                                       .head_dim_v = s.dim_v,
                                       .chunk_tokens = room,
                                       .type = s.type},
                                      T);
      e.place = [=](const coordinates& c) {
        return std::pair(std::size_t{0},
                         flat({kv, L, room, H * K}, {plane_of(c), c.layer, c.token, c.head * K + c.element}));
      };
    });
  return all;
}

std::byte* at(const kv_view& v, const coordinates& c) {
  return v.at(c.which, static_cast<std::int32_t>(c.layer), c.token, static_cast<std::int32_t>(c.head),
              static_cast<std::int32_t>(c.element));
}

logical random_shape(rng& random) {
  const dtype types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2};
  logical s{};
  s.layers = static_cast<std::int32_t>(between(random, 1, 3));
  s.heads = static_cast<std::int32_t>(between(random, 1, 3));
  s.dim_k = static_cast<std::int32_t>(between(random, 1, 9));
  const i64 kind = between(random, 0, 3);
  s.dim_v = kind == 0 ? 0 : kind == 1 ? static_cast<std::int32_t>(between(random, 1, 9)) : s.dim_k;
  s.tokens = between(random, 1, 12);
  s.type = types[between(random, 0, 4)];
  return s;
}

constexpr unsigned seed = 20261121;
constexpr int rounds = 40;

}  // namespace

TEST_CASE("every element of every layout lies at the address that the layout's definition gives") {
  MESSAGE("seed " << seed);
  rng random(seed);
  for (int round = 0; round < rounds; ++round) {
    const logical s = random_shape(random);
    for (const engine& e : engines(s, random)) {
      CAPTURE(e.name);
      CAPTURE(round);
      REQUIRE(validate(e.view) == status::ok);
      CHECK(e.view.num_layers == s.layers);
      CHECK(e.view.tokens == s.tokens);
      CHECK(e.view.v.present() == (s.dim_v != 0));
      std::vector<const std::byte*> seen;
      int wrong = 0;
      for_each(s, [&](const coordinates& c) {
        const auto [buffer, element] = e.place(c);
        const std::byte* want = e.buffers[buffer].data() + element * size_of(s.type);
        wrong += at(e.view, c) != want || want + size_of(s.type) > e.buffers[buffer].data() + e.buffers[buffer].size();
        seen.push_back(want);
      });
      CHECK(wrong == 0);
      std::sort(seen.begin(), seen.end());
      CHECK(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
    }
  }
}

TEST_CASE("layouts filled from the same values read back the same, whole and in slices") {
  MESSAGE("seed " << seed + 1);
  rng random(seed + 1);
  for (int round = 0; round < rounds; ++round) {
    const logical s = random_shape(random);
    for (const engine& e : engines(s, random)) {
      CAPTURE(e.name);
      CAPTURE(round);
      // Written through the definition, read through the view, whole and in two slices.
      for_each(s, [&](const coordinates& c) {
        const auto [buffer, element] = e.place(c);
        store_element(const_cast<std::byte*>(e.buffers[buffer].data()) + element * size_of(s.type), s.type,
                      s.value(c.which, c.layer, c.token, c.head, c.element));
      });
      const i64 cut = between(random, 0, s.tokens);
      const kv_view head = e.view.slice(0, cut), tail = e.view.slice(cut, s.tokens);
      CHECK(validate(head) == status::ok);
      CHECK(validate(tail) == status::ok);
      CHECK(tail.position == e.view.position + cut);
      int wrong = 0;
      for_each(s, [&](const coordinates& c) {
        const float want = s.value(c.which, c.layer, c.token, c.head, c.element);
        coordinates in_slice = c;
        in_slice.token -= c.token < cut ? 0 : cut;
        wrong += load_element(at(e.view, c), s.type) != want;
        wrong += at(c.token < cut ? head : tail, in_slice) != at(e.view, c);
      });
      CHECK(wrong == 0);
    }
  }
}

TEST_CASE("tables that are too short or point outside the pool are refused") {
  MESSAGE("seed " << seed + 2);
  rng random(seed + 2);
  for (int round = 0; round < rounds; ++round) {
    const logical s = random_shape(random);
    for (engine& e : engines(s, random)) {
      CAPTURE(e.name);
      kv_view v = e.view;
      v.tokens += v.mode == addressing::contiguous ? v.capacity - v.first - v.tokens + 1 : v.page_size;
      CHECK(validate(v) == status::page_out_of_range);
      CHECK(validate(e.view.slice(0, s.tokens + 1)) == status::invalid_view);
      CHECK(validate(e.view.slice(-1, s.tokens)) == status::invalid_view);
      CHECK(validate(e.view.slice(1, 0)) == status::invalid_view);
      CHECK(validate(e.view.slice(std::numeric_limits<i64>::min(), std::numeric_limits<i64>::max())) ==
            status::invalid_view);
      if (e.view.mode == addressing::contiguous) continue;
      v = e.view;
      v.num_indices = (s.tokens - 1) / v.page_size;
      CHECK(validate(v) == status::page_out_of_range);
      v = e.view;
      v.indices = nullptr;
      CHECK(validate(v) == status::invalid_view);
      // One bad entry is found wherever it stands, but only by the slices that read it.
      const i64 bad_token = between(random, 0, s.tokens - 1);
      const i64 unit = e.view.mode == addressing::pages ? e.view.page_size : 1;
      std::int32_t& entry = e.indices[static_cast<std::size_t>(&e.view.indices[bad_token / unit] - e.indices.data())];
      const std::int32_t good = entry;
      const auto capacity = static_cast<std::int32_t>(e.view.capacity);
      for (const std::int32_t bad :
           {-1, capacity, std::numeric_limits<std::int32_t>::max(), std::numeric_limits<std::int32_t>::min()}) {
        entry = bad;
        CHECK(validate(e.view) == status::page_out_of_range);
        CHECK(validate(e.view.slice(0, bad_token / unit * unit)) == status::ok);
        CHECK(validate_shape(e.view) == status::ok);
      }
      entry = good;
      CHECK(validate(e.view) == status::ok);
    }
  }
}

TEST_CASE("addresses are right past 2^31 elements") {
  // Nothing is read: the buffers are only addresses.
  const auto address = [](std::uintptr_t a) { return reinterpret_cast<std::byte*>(a); };
  const std::uintptr_t base = std::uintptr_t{1} << 44;
  std::byte* ptrs[] = {address(base)};
  std::byte* v_ptrs[] = {address(base << 1)};
  const auto offset = [&](const kv_view& v, plane p, std::int32_t l, i64 t, std::int32_t h, std::int32_t e) {
    CHECK(validate(v) == status::ok);
    return reinterpret_cast<std::uintptr_t>(v.at(p, l, t, h, e)) - base;
  };

  const std::int32_t last_page[] = {0, 199999};
  const layouts::paged big{
      .num_kv_heads = 8, .head_dim_k = 128, .head_dim_v = 128, .page_size = 256, .num_pages = 200000};
  const std::uintptr_t page = 256 * 8 * 128 * 2, token = 255;
  CHECK(offset(layouts::vllm_nhd(ptrs, v_ptrs, big, last_page, 512), plane::key, 0, 511, 7, 127) ==
        199999 * page + ((token * 8 + 7) * 128 + 127) * 2);
  CHECK(offset(layouts::vllm_hnd(ptrs, big, last_page, 512), plane::value, 0, 511, 7, 127) ==
        200000 * page + 199999 * page + ((7 * 256 + token) * 128 + 127) * 2);
  CHECK(offset(layouts::vllm_cross_layer(ptrs[0], 80, big, last_page, 512), plane::value, 79, 511, 7, 127) ==
        ((199999 * 80 + 79) * std::uintptr_t{2} + 1) * page + ((token * 8 + 7) * 128 + 127) * 2);
  CHECK(offset(layouts::trtllm(ptrs[0],
                               {.num_layers = 80,
                                .num_kv_heads = 8,
                                .head_dim_k = 128,
                                .head_dim_v = 128,
                                .tokens_per_block = 256,
                                .num_blocks = 200000},
                               last_page, 512),
               plane::value, 79, 511, 7,
               127) == ((199999 * 80 + 79) * std::uintptr_t{2} + 1) * page + ((7 * 256 + token) * 128 + 127) * 2);
  const std::int32_t slot[] = {2000000000};
  CHECK(offset(layouts::sglang_slots(ptrs, {}, {.num_kv_heads = 1, .head_dim_k = 576, .num_slots = 2000000001}, slot),
               plane::key, 0, 0, 0, 575) == (std::uintptr_t{2000000000} * 576 + 575) * 2);
  CHECK(offset(layouts::llama_cpp(
                   v_ptrs, ptrs,
                   {.num_kv_heads = 8, .head_dim_k = 128, .head_dim_v = 128, .kv_size = 4194304, .v_trans = true},
                   4194303, 1),
               plane::value, 0, 0, 7, 127) == ((std::uintptr_t{7} * 128 + 127) * 4194304 + 4194303) * 2);
  CHECK(offset(layouts::dense(
                   ptrs[0], v_ptrs[0],
                   {.num_layers = 80, .num_kv_heads = 8, .head_dim_k = 128, .head_dim_v = 128, .max_tokens = 1048576},
                   1048576),
               plane::key, 79, 1048575, 7, 127) == (std::uintptr_t{80} * 1048576 * 8 * 128 - 1) * 2);
}

TEST_CASE("factories given nonsense make views that are refused") {
  std::byte memory[64] = {};
  std::byte* one[] = {memory};
  std::byte* two[] = {memory, memory};
  std::byte* null[] = {nullptr};
  const std::int32_t pages[] = {0, 1};
  const layouts::paged good{.num_kv_heads = 1, .head_dim_k = 2, .head_dim_v = 2, .page_size = 2, .num_pages = 2};
  const auto refused = [](const kv_view& v) { return validate(v) != status::ok; };
  CHECK_FALSE(refused(layouts::vllm_nhd(one, one, good, pages, 4)));

  CHECK(refused(layouts::vllm_nhd({}, {}, good, pages, 4)));
  CHECK(refused(layouts::vllm_nhd(one, {}, good, pages, 4)));
  CHECK(refused(layouts::vllm_nhd(two, one, good, pages, 4)));
  CHECK(refused(layouts::vllm_nhd(null, one, good, pages, 4)));
  CHECK(refused(layouts::vllm_nhd(one, null, good, pages, 4)));
  CHECK(refused(layouts::vllm_nhd(one, one, good, {}, 1)));
  CHECK(refused(layouts::vllm_nhd(one, one, good, pages, -1)));
  CHECK(refused(layouts::vllm_nhd(one, one, {}, pages, 4)));
  layouts::paged s = good;
  s.head_dim_v = 0;
  CHECK(refused(layouts::vllm_nhd(one, one, s, pages, 4)));
  s.head_dim_v = 1;
  CHECK(refused(layouts::vllm_nhd(one, s, pages, 4)));  // one tensor has one head size
  s = good;
  s.page_stride = 7;  // shorter than a page
  CHECK(refused(layouts::vllm_nhd(one, one, s, pages, 4)));
  s = good;
  s.type = static_cast<dtype>(77);
  CHECK(refused(layouts::vllm_nhd(one, one, s, pages, 4)));
  for (i64 layouts::paged::*count : {&layouts::paged::page_size, &layouts::paged::num_pages})
    for (const i64 n : {i64{-1}, i64{0}, std::numeric_limits<i64>::min()}) {
      s = good;
      s.*count = n;
      CHECK(refused(layouts::vllm_nhd(one, one, s, pages, 4)));
      CHECK(refused(layouts::vllm_packed(one, s, pages, 4)));
      CHECK(refused(layouts::vllm_packed(memory, 1, layouts::vllm_order::bhlnc, s, pages, 4)));
      CHECK(refused(layouts::vllm_cross_layer(memory, 1, s, pages, 4)));
    }
  s = good;
  s.num_pages = std::numeric_limits<i64>::max();
  CHECK(refused(layouts::vllm_hnd(one, s, pages, 4)));  // where would V begin?
  s.num_kv_heads = s.head_dim_k = s.head_dim_v = std::numeric_limits<std::int32_t>::max();
  s.page_size = std::numeric_limits<i64>::max();
  CHECK(refused(layouts::vllm_hnd(one, one, s, pages, 4)));

  // FlashInfer's tables can contradict each other in many ways.
  const std::int32_t indptr[] = {0, 2}, backwards[] = {2, 0}, outside[] = {0, 3}, negative[] = {-1, 1}, last[] = {2},
                     zero[] = {0}, three[] = {3}, empty[] = {1, 1};
  CHECK_FALSE(refused(layouts::flashinfer(one, one, good, {indptr, pages, last}, 0)));
  CHECK(layouts::flashinfer(one, one, good, {empty, pages, zero}, 0).tokens == 0);
  CHECK_FALSE(refused(layouts::flashinfer(one, one, good, {empty, pages, zero}, 0)));
  CHECK(refused(layouts::flashinfer(one, one, good, {indptr, pages, last}, 1)));
  CHECK(refused(layouts::flashinfer(one, one, good, {indptr, pages, last}, -1)));
  CHECK(refused(layouts::flashinfer(one, one, good, {backwards, pages, last}, 0)));
  CHECK(refused(layouts::flashinfer(one, one, good, {outside, pages, last}, 0)));
  CHECK(refused(layouts::flashinfer(one, one, good, {negative, pages, last}, 0)));
  CHECK(refused(layouts::flashinfer(one, one, good, {indptr, pages, zero}, 0)));
  CHECK(refused(layouts::flashinfer(one, one, good, {indptr, pages, three}, 0)));
  CHECK(refused(layouts::flashinfer(one, one, good, {indptr, pages, {}}, 0)));
  CHECK(refused(layouts::flashinfer(one, good, {{}, pages, last}, 0)));

  // A block offset with its sign bit set means TensorRT-LLM's secondary pool.
  const std::int32_t secondary[] = {std::numeric_limits<std::int32_t>::min()};
  const layouts::trtllm_pool pool{.num_layers = 1,
                                  .num_kv_heads = 1,
                                  .head_dim_k = 2,
                                  .head_dim_v = 2,
                                  .tokens_per_block = 2,
                                  .num_blocks = 2,
                                  .kernel_offsets = true};
  CHECK(validate(layouts::trtllm(memory, pool, secondary, 1)) == status::page_out_of_range);
  CHECK(refused(layouts::trtllm(nullptr, pool, pages, 1)));

  const layouts::hf_cache hf{.num_kv_heads = 1, .head_dim_k = 2, .head_dim_v = 2, .max_tokens = 4};
  CHECK_FALSE(refused(layouts::hf(one, one, hf, 0, 4)));
  CHECK(refused(layouts::hf(one, one, hf, 1, 4)));
  CHECK(refused(layouts::hf(one, one, hf, -1, 4)));
  CHECK(refused(layouts::hf(one, one, hf, 0, 5)));
  CHECK(refused(layouts::hf(one, one, hf, 0, 4, -1)));
  CHECK(refused(layouts::hf(one, one, hf, 0, 4, std::numeric_limits<i64>::max())));

  layouts::llama_cpp_cache llama{.num_kv_heads = 1, .head_dim_k = 2, .head_dim_v = 2, .kv_size = 4};
  CHECK_FALSE(refused(layouts::llama_cpp(one, one, llama, 1, 3)));
  CHECK(refused(layouts::llama_cpp(one, one, llama, 2, 3)));
  CHECK(refused(layouts::llama_cpp(one, one, llama, -1, 3)));
  CHECK(refused(layouts::llama_cpp(one, one, llama, std::numeric_limits<i64>::max(), 3)));
  llama.stream = 1;
  CHECK(refused(layouts::llama_cpp(one, one, llama, 1, 3)));

  const layouts::dense_cache dense{
      .num_layers = 2, .num_kv_heads = 2, .head_dim_k = 2, .head_dim_v = 2, .max_tokens = 2};
  CHECK_FALSE(refused(layouts::dense(memory, memory + 32, dense, 2)));
  CHECK(refused(layouts::dense(memory, nullptr, dense, 2)));
  CHECK(refused(layouts::dense(nullptr, memory, dense, 2)));
  CHECK(refused(layouts::dense(memory, memory + 32, dense, {}, {}, 2)));  // strides left out
}

TEST_CASE("validate() and the factories stay within the language for any numbers at all") {
  MESSAGE("seed " << seed + 3);
  rng random(seed + 3);
  std::byte memory[16] = {};
  std::byte* one[] = {memory};
  const std::int32_t pages[] = {0, 1, 2, std::numeric_limits<std::int32_t>::max()};
  const auto wild = [&]() -> i64 {
    switch (between(random, 0, 7)) {
      case 0: return std::numeric_limits<i64>::max() - between(random, 0, 2);
      case 1: return std::numeric_limits<i64>::min() + between(random, 0, 2);
      case 2: return between(random, std::numeric_limits<i64>::min(), std::numeric_limits<i64>::max());
      case 3: return i64{1} << between(random, 0, 62);
      case 4: return -(i64{1} << between(random, 0, 62));
      default: return between(random, -1, 5);
    }
  };
  const auto wild32 = [&] {
    return static_cast<std::int32_t>(
        std::clamp<i64>(wild(), std::numeric_limits<std::int32_t>::min(), std::numeric_limits<std::int32_t>::max()));
  };
  int accepted = 0;
  const auto check = [&](const kv_view& v) {
    if (validate(v) != status::ok || v.tokens == 0) return;
    ++accepted;
    // What is accepted can be addressed: the sanitiser watches the sums at both ends of every axis.
    for (const plane_view* p : {&v.k, &v.v}) {
      if (!p->present()) continue;
      i64 far = v.token_offset(*p, v.tokens - 1);
      far += (v.num_kv_heads - 1) * p->head_stride;
      far += (p->head_dim - 1) * p->element_stride;
      far += p->layer_offset;
      if (!p->layer_bases) far += (v.num_layers - 1) * p->layer_stride;
      CHECK(far != std::numeric_limits<i64>::min());
    }
  };
  for (int i = 0; i < 200000; ++i) {
    const dtype type = static_cast<dtype>(between(random, 0, 6));
    const layouts::paged s{wild32(), wild32(), wild32(), wild(), wild(), type, between(random, 0, 3) ? 0 : wild()};
    const i64 tokens = wild();
    switch (between(random, 0, 11)) {
      case 0: check(layouts::vllm_nhd(one, one, s, pages, tokens)); break;
      case 1: check(layouts::vllm_hnd(one, s, pages, tokens)); break;
      case 2: check(layouts::vllm_packed(one, s, pages, tokens)); break;
      case 3:
        check(layouts::vllm_packed(memory, wild32(), static_cast<layouts::vllm_order>(between(random, 0, 6)), s, pages,
                                   tokens));
        break;
      case 4: check(layouts::vllm_cross_layer(memory, wild32(), s, pages, tokens, layouts::kv_layout::hnd)); break;
      case 5: {
        const std::int32_t indptr[] = {wild32(), wild32()}, last[] = {wild32()};
        check(layouts::flashinfer(one, s, {indptr, pages, last}, between(random, -1, 1)));
        break;
      }
      case 6: check(layouts::sglang_slots(one, one, {s.num_kv_heads, 1, 1, wild(), type}, pages, wild())); break;
      case 7:
        check(layouts::trtllm(memory, {wild32(), wild32(), 2, 2, wild(), wild(), type, wild() > 0}, pages, tokens));
        break;
      case 8: check(layouts::hf(one, one, {wild32(), wild32(), 2, 2, wild(), type}, wild32(), tokens, wild())); break;
      case 9:
        check(layouts::llama_cpp(one, one, {wild32(), 2, 2, wild(), type, type, true, wild32(), wild32()}, wild(),
                                 tokens, wild()));
        break;
      case 10:
        check(layouts::dense(memory, memory, {wild32(), wild32(), 2, 2, wild(), type}, {wild(), wild(), wild(), wild()},
                             {wild(), wild(), wild(), wild()}, tokens, wild()));
        break;
      default: check(layouts::lmcache_chunk(memory, {wild32(), wild32(), 2, 2, wild(), type, wild()}, tokens, wild()));
    }
    // A view filled by hand, and slices of it.
    kv_view v;
    v.num_layers = between(random, 0, 3) ? 1 : wild32();
    v.num_kv_heads = wild32();
    v.mode = static_cast<addressing>(between(random, 0, 3));
    v.indices = pages;
    v.num_indices = between(random, 0, 4);
    v.page_size = wild();
    v.capacity = wild();
    v.first = wild();
    v.tokens = wild();
    v.position = wild();
    v.k = {memory, nullptr, wild(), wild(), wild(), wild(), wild(), wild(), type, wild32()};
    check(v);
    check(v.slice(wild(), wild()));
    check(v.at_positions(wild(), wild()));
    check(layouts::last_tokens(v, wild()));
  }
  CHECK(accepted > 1000);  // else the loop proves little
}

TEST_CASE("a view begins at the position it is given") {
  std::byte memory[64] = {};
  std::byte* one[] = {memory};
  const std::int32_t slots[] = {2, 1, 0};
  const layouts::llama_cpp_cache llama{.num_kv_heads = 1, .head_dim_k = 2, .head_dim_v = 2, .kv_size = 4};
  const layouts::sglang_pool sglang{.num_kv_heads = 1, .head_dim_k = 2, .head_dim_v = 2, .num_slots = 3};
  for (const kv_view& v :
       {layouts::sglang_slots(one, one, sglang, slots, 9), layouts::llama_cpp(one, one, llama, 0, 3, 9),
        layouts::llama_cpp(one, one, llama, slots, 9),
        layouts::hf(one, one, {.num_kv_heads = 1, .head_dim_k = 2, .head_dim_v = 2, .max_tokens = 3}, 0, 3, 9),
        layouts::dense(memory, nullptr, {.num_layers = 1, .num_kv_heads = 1, .head_dim_k = 2, .max_tokens = 3}, 3, 9),
        layouts::lmcache_chunk(memory, {.num_layers = 1, .num_kv_heads = 1, .head_dim_k = 2, .head_dim_v = 2}, 3, 9)}) {
    CHECK(validate(v) == status::ok);
    CHECK(v.position == 9);
    CHECK(v.slice(2, 3).position == 11);
    CHECK(v.at_positions(11, 12).first == v.slice(2, 3).first);
    CHECK(v.at_positions(0, 11).tokens == 2);
    CHECK(v.at_positions(0, 9).tokens == 0);
    CHECK(v.at_positions(9 + v.tokens, 100).tokens == 0);
  }
}

TEST_CASE("pages may be padded") {
  std::vector<std::byte> memory(2 * 3 * 100);
  std::byte* ptrs[] = {memory.data()};
  const std::int32_t pages[] = {2, 0};
  const layouts::paged s{.num_kv_heads = 2,
                         .head_dim_k = 3,
                         .head_dim_v = 3,
                         .page_size = 4,
                         .num_pages = 3,
                         .type = dtype::f16,
                         .page_stride = 100};
  const kv_view separate = layouts::vllm_nhd(ptrs, ptrs, s, pages, 8), one = layouts::vllm_nhd(ptrs, s, pages, 8);
  CHECK(validate(one) == status::ok);
  CHECK(separate.at(plane::key, 0, 0, 0, 0) == memory.data() + 200);
  CHECK(one.at(plane::value, 0, 1, 1, 2) == memory.data() + 300 + 200 + ((1 * 2 + 1) * 3 + 2) * 2);
  CHECK(one.at(plane::value, 0, 4, 0, 0) == memory.data() + 300);

  std::vector<std::byte> chunk(2 * 8 * 128);
  const kv_view latent = layouts::lmcache_chunk(
      chunk.data(), {.num_layers = 2, .num_kv_heads = 1, .head_dim_k = 60, .chunk_tokens = 8, .token_stride = 128}, 8);
  CHECK(validate(latent) == status::ok);
  CHECK(latent.at(plane::key, 1, 7, 0, 59) == chunk.data() + (8 + 7) * 128 + 59 * 2);
}

// Gemma alternates sliding-window and full-attention layers, five to one in Gemma 3. Its cache is two views: the full
// layers hold every token, the sliding ones the last window - 1, so their token 0 is at a position above 0.
TEST_CASE("a model of two kinds of layers is a span of views") {
  constexpr i64 tokens = 20, window = 8;
  constexpr std::int32_t sliding_layers[] = {0, 1, 2, 3, 4, 6, 7}, full_layers[] = {5, 11};
  const layouts::paged s{.num_kv_heads = 2, .head_dim_k = 4, .head_dim_v = 4, .page_size = 4, .num_pages = 8};
  std::vector<std::vector<std::byte>> memory;
  memory.reserve(18);
  const auto tensors = [&](std::size_t n, i64 elements) {
    std::vector<std::byte*> p;
    for (std::size_t i = 0; i < n; ++i) p.push_back(memory.emplace_back(static_cast<std::size_t>(elements * 2)).data());
    return p;
  };

  // Hugging Face: the sliding layers' tensors are themselves window - 1 tokens long.
  const i64 held = window - 1;
  const auto sliding_k = tensors(7, 2 * held * 4), full_k = tensors(2, 2 * tokens * 4);
  layouts::hf_cache hf{.num_kv_heads = 2, .head_dim_k = 4, .head_dim_v = 4, .max_tokens = held};
  kv_view cache[2];
  cache[0] = layouts::hf(sliding_k, sliding_k, hf, 0, held, tokens - held);
  cache[0].layer_ids = sliding_layers;
  hf.max_tokens = tokens;
  cache[1] = layouts::hf(full_k, full_k, hf, 0, tokens);
  cache[1].layer_ids = full_layers;
  for (const kv_view& group : std::span<const kv_view>(cache)) {
    CHECK(validate(group) == status::ok);
    CHECK(group.position + group.tokens == tokens);
  }
  CHECK(cache[0].layer_id(5) == 6);
  CHECK(cache[1].layer_id(1) == 11);
  CHECK(cache[0].at(plane::key, 3, 0, 1, 0) == sliding_k[3] + 1 * held * 4 * 2);

  // vLLM: a group has its own block table of full length, in which blocks that slid out of the window are gone.
  const std::int32_t sliding_table[] = {-1, -1, -1, 5, 6}, full_table[] = {0, 1, 2, 3, 7};
  const auto pool = tensors(7, 2 * 8 * 4 * 2 * 4);
  const kv_view sliding = layouts::last_tokens(layouts::vllm_nhd(pool, s, sliding_table, tokens), window - 1);
  CHECK(validate(layouts::vllm_nhd(pool, s, sliding_table, tokens)) == status::page_out_of_range);
  CHECK(validate(sliding) == status::ok);
  CHECK(sliding.tokens == window - 1);
  CHECK(sliding.position == tokens - (window - 1));
  CHECK(sliding.at(plane::key, 0, 0, 0, 0) == pool[0] + ((5 * 4 + 13 % 4) * 2) * 4 * 2);
  CHECK(validate(layouts::vllm_nhd(pool, s, full_table, tokens)) == status::ok);

  // A sequence shorter than the window is held whole.
  CHECK(layouts::last_tokens(cache[1].slice(0, 3), window - 1).tokens == 3);
  CHECK(layouts::last_tokens(cache[1].slice(0, 3), window - 1).position == 0);
  CHECK(validate(layouts::last_tokens(cache[1], -1)) == status::invalid_view);
}

std::byte static_memory[2 * 16 * 576 * 2];

TEST_CASE("views are arithmetic that a compiler can do") {
  constexpr kv_view v = layouts::dense(
      static_memory, nullptr,
      {.num_layers = 2, .num_kv_heads = 1, .head_dim_k = 576, .max_tokens = 16, .type = dtype::bf16}, 16);
  static_assert(validate(v) == status::ok && !v.v.present());
  static_assert(v.slice(1, 16).at(plane::key, 1, 14, 0, 575) == static_memory + sizeof(static_memory) - 2);
  static_assert(validate(v.slice(0, 17)) == status::invalid_view);
}
