// SPDX-License-Identifier: Apache-2.0
#include "../cache.hpp"
#include "../sampler.hpp"
#include "../threads.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <set>
#include <vector>

using namespace engine;

namespace {

model_config small() {
  model_config c;
  c.layers = 3, c.kv_heads = 2, c.head_dim = 8;
  return c;
}

}  // namespace

TEST_CASE("sequences share a pool and give their pages back") {
  page_pool pool(small(), sluice::dtype::f16, 6);
  {
    sequence a(pool), b(pool);
    CHECK(a.grow(17) == sluice::status::ok);
    CHECK(b.grow(16) == sluice::status::ok);
    CHECK(a.grow(20) == sluice::status::ok);
    CHECK(pool.free_pages() == 2);
    CHECK(b.grow(33) == sluice::status::out_of_memory);
    CHECK(b.tokens() == 16);
    std::set<std::int32_t> used(a.block_table().begin(), a.block_table().end());
    used.insert(b.block_table().begin(), b.block_table().end());
    CHECK(used.size() == 4);
    a.truncate(16);
    CHECK(a.tokens() == 16);
    CHECK(pool.free_pages() == 4);
  }
  CHECK(pool.free_pages() == 6);
}

TEST_CASE("the view says where every element lies") {
  for (const sluice::dtype type : {sluice::dtype::f16, sluice::dtype::bf16, sluice::dtype::f32}) {
    page_pool pool(small(), type, 8);
    sequence other(pool), seq(pool);
    for (int i = 0; i < 3; ++i) {  // pages of the two alternate
      REQUIRE(seq.grow(15) == sluice::status::ok);
      REQUIRE(other.grow(9) == sluice::status::ok);
    }
    const sluice::kv_view view = seq.view();
    CHECK(validate(view) == sluice::status::ok);
    CHECK(view.tokens == 45);
    for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
      for (int l = 0; l < 3; ++l)
        for (int t = 0; t < 45; ++t)
          for (int h = 0; h < 2; ++h) CHECK(view.at(p, l, t, h, 3) == seq.at(p, l, t, h) + 3 * size_of(type));
    CHECK(validate(sequence(pool).view()) == sluice::status::ok);
  }
}

TEST_CASE("rows keep their values in every page type") {
  std::vector<float> in(37), out(37);
  for (std::size_t i = 0; i < in.size(); ++i) in[i] = float(i) * 0.37f - 5;
  std::vector<std::byte> bytes(4 * in.size());
  for (const sluice::dtype type : {sluice::dtype::f16, sluice::dtype::bf16, sluice::dtype::f32}) {
    store_row(in.data(), type, bytes.data(), int(in.size()));
    load_row(bytes.data(), type, out.data(), int(out.size()));
    for (std::size_t i = 0; i < in.size(); ++i) {
      std::byte expected[4];
      sluice::store_element(expected, type, in[i]);
      CHECK(out[i] == sluice::load_element(expected, type));
    }
  }
}

TEST_CASE("a pool runs every index once") {
  for (const int threads : {1, 2, 5}) {
    thread_pool pool(threads);
    for (int round = 0; round < 200; ++round) {
      std::vector<std::atomic<int>> seen(std::size_t(round % 23));
      pool.parallel_for(int(seen.size()), [&](int i, int worker) {
        CHECK_UNARY(worker >= 0 && worker < threads);
        ++seen[std::size_t(i)];
      });
      for (const auto& s : seen) CHECK(s == 1);
    }
  }
}

TEST_CASE("sampling: the best at temperature 0, only likely ones above, the same again from the same seed") {
  const std::vector<float> logits = {0, 3, 1, 5, 4.9f, -2};
  CHECK(sampler({})(logits) == 3);
  sampler a({.temperature = 1, .top_k = 2, .top_p = 1, .seed = 5}),
      b({.temperature = 1, .top_k = 2, .top_p = 1, .seed = 5});
  std::set<std::int32_t> seen;
  for (int i = 0; i < 200; ++i) {
    const std::int32_t t = a(logits);
    CHECK(t == b(logits));
    seen.insert(t);
  }
  CHECK(seen == std::set<std::int32_t>{3, 4});
  sampler narrow({.temperature = 1, .top_k = 0, .top_p = 0.3f, .seed = 5});
  for (int i = 0; i < 50; ++i) CHECK(narrow(logits) == 3);
}
