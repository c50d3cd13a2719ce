// SPDX-License-Identifier: Apache-2.0
#include "../hidden.hpp"
#include "../predictions.hpp"
#include "../quality.hpp"
#include "../streamed.hpp"
#include "../tokenizer.hpp"
#include "real_model.hpp"
#include "tiny_model.hpp"

#include <servers.hpp>

#include <sluice/stream/plan/by_name.hpp>
#include <sluice/stream/store/sources/file.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

using namespace engine;

namespace {

constexpr auto hidden = sluice::stream::payload::hidden;

std::vector<std::int32_t> random_ids(int n, int vocab, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < n; ++i) ids.push_back(std::int32_t(random() % std::uint64_t(vocab)));
  return ids;
}

// A context with its hidden states.
struct states {
  states(model& net, std::span<const std::int32_t> ids, sluice::dtype type)
      : pages(net.config(), type, page_pool::pages_for(int(ids.size()) + 8)),
        hidden_pages(payload_shape(net.config(), hidden), type, page_pool::pages_for(int(ids.size()))) {
    net.forward(ids, kv, {.on_hidden = keep_hidden(net, rows)});
  }
  page_pool pages, hidden_pages;
  sequence kv{pages}, rows{hidden_pages};
};

// Elements of K and V that differ, the largest difference beside the root mean square of a row, and the root mean square of
// all such.
struct difference {
  std::size_t bits = 0;
  double largest = 0, mean = 0;
};
difference compare(const sequence& a, const sequence& b) {
  difference d;
  double squares = 0, count = 0;
  const int n = a.pool().width();
  std::vector<float> x(static_cast<std::size_t>(n)), y(x);
  for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
    for (int l = 0; l < a.pool().layers(); ++l)
      for (int t = 0; t < a.tokens(); ++t) {
        load_row(a.at(p, l, t), a.pool().type(), x.data(), n);
        load_row(b.at(p, l, t), b.pool().type(), y.data(), n);
        double size = 0;
        for (const float v : x) size += double(v) * double(v) / n;
        for (int i = 0; i < n; ++i) {
          const auto at = std::size_t(i);
          d.bits += std::memcmp(&x[at], &y[at], 4) != 0;
          const double e = std::fabs(double(x[at]) - double(y[at])) / std::sqrt(size);
          d.largest = std::max(d.largest, e);
          squares += e * e, ++count;
        }
      }
  d.mean = std::sqrt(squares / count);
  return d;
}

// K and V of hidden states, in runs of so many tokens.
difference projected(model& net, const states& s, int run) {
  page_pool pages(net.config(), s.pages.type(), s.pages.pages());
  sequence seq(pages);
  const int n = s.rows.tokens();
  REQUIRE(seq.grow(n) == sluice::status::ok);
  for (int at = 0; at < n; at += run) project(net, s.rows, at, std::min(run, n - at), seq);
  return compare(s.kv, seq);
}

const std::vector<tiny::recipe> recipes = {
    {.arch = "llama", .seed = 1},
    {.arch = "qwen2", .layers = 3, .own_head = true, .seed = 2},
    {.arch = "gemma3", .layers = 7, .heads = 3, .kv_heads = 1, .head_dim = 32, .window = 24, .seed = 3},
    {.arch = "llama", .dim = 96, .ffn_dim = 160, .heads = 6, .kv_heads = 3, .head_dim = 32, .vocab = 301, .seed = 4},
};

void put_noise(const std::string& path) {
  const auto size = std::filesystem::file_size(path);
  std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
  out.seekp(std::streamoff(size / 3));
  for (int i = 0; i < 3000; ++i) out.put(char(i * 7));
}

}  // namespace

TEST_CASE("hidden: floats of hidden states give K and V back to the last bit") {
  for (const arithmetic mode : {arithmetic::exact, arithmetic::fast})
    for (const int num_threads : {1, 3}) {
      thread_pool threads(num_threads);
      for (const tiny::recipe& r : recipes) {
        CAPTURE(r.arch);
        CAPTURE(r.seed);
        CAPTURE(num_threads);
        CAPTURE(int(mode));
        const tiny::temporary_file file(tiny::make_gguf(r));
        model net(file.path(), mode, threads);
        const states s(net, random_ids(model::batch + 90, r.vocab, r.seed), sluice::dtype::f32);
        REQUIRE(s.rows.tokens() == model::batch + 90);
        CHECK(projected(net, s, 2 * model::batch).bits == 0);
        // In other batches products of floats add up in another order; those of 8 bits do not.
        const difference d = projected(net, s, 100);
        if (mode == arithmetic::fast && int8::accelerated) CHECK(d.bits == 0);
        CHECK(d.largest < 1e-5);
      }
    }
}

TEST_CASE("hidden: rows of f16 lose what f16 does") {
  thread_pool threads(2);
  for (const tiny::recipe& r : recipes) {
    CAPTURE(r.seed);
    const tiny::temporary_file file(tiny::make_gguf(r));
    model net(file.path(), arithmetic::exact, threads);
    const states s(net, random_ids(200, r.vocab, r.seed), sluice::dtype::f16);
    const difference d = projected(net, s, 256);
    CHECK(d.bits > 0);  // they are other bits, or this test could not fail
    CHECK(d.largest < 0.02);
  }
}

TEST_CASE("hidden: a real model's too" * doctest::skip(real_model("smol.gguf").empty())) {
  thread_pool threads(2);
  model net(real_model("smol.gguf"), arithmetic::fast, threads);
  const states s(net, random_ids(64, net.config().vocab, 5), sluice::dtype::f32);
  CHECK(projected(net, s, 64).bits == 0);
}

TEST_CASE("hidden: saved and restored at every level, under names of their own") {
  const tiny::temporary_file file(tiny::make_gguf({.arch = "gemma3", .layers = 7, .dim = 128, .seed = 9}));
  thread_pool threads(2);
  model net(file.path(), arithmetic::exact, threads);
  const servers::temporary_folder folder;
  sluice::stream::file_source files(folder.path);
  source_of kept(files);
  const std::vector<std::int32_t> ids = random_ids(2 * prefix_cache::chunk_tokens + 90, 256, 9);
  const states s(net, ids, sluice::dtype::f16);
  prefix_cache p(net, sluice::profile::uncalibrated(payload_shape(net.config(), hidden)), kept, threads,
                 {.holds = hidden});
  const save_report saved = p.save(ids, s.rows, sluice::max_passes, true);
  CHECK(saved.chunks == 3);
  CHECK(saved.raw_bytes == ids.size() * 7 * 128 * 2);
  CHECK(p.save(ids, s.rows, sluice::max_passes, true).already_there == 3);
  prefix_cache other(net, sluice::profile::uncalibrated(kv_shape(net.config())), kept, threads);
  CHECK_FALSE(other.locate(ids, true).chunks[0].there);
  CHECK(other.locate(ids, true).chunks[0].exact_bytes == 0);
  CHECK(p.locate(ids, true).chunks[0].exact_bytes > 0);
  CHECK_THROWS_AS(prefix_cache(net, p.profile(), kept, threads), std::runtime_error);

  const auto restored = [&](int level) {
    page_pool pages(net.config(), sluice::dtype::f16, 64), hidden_pages(p.profile().shape, sluice::dtype::f16, 64);
    sequence rows(hidden_pages), kv(pages);
    const restore_report r = p.restore(ids, rows, level);
    CHECK(r.tokens == int(ids.size()));
    REQUIRE(kv.grow(r.tokens) == sluice::status::ok);
    project(net, rows, 0, r.tokens, kv);
    compute(net, ids, kv, r.missing);
    return compare(s.kv, kv).mean;
  };
  double last = 1e9;
  for (int level = 0; level < 4; ++level) {
    const double e = restored(level);
    CAPTURE(level);
    CHECK(e < last);
    last = e;
  }
  CHECK(last < 0.1);
  // What is damaged is computed, over what was projected of it.
  put_noise(folder.path + "/" + sluice::stream::to_hex(p.locate(ids).chunks[1].key));
  CHECK(restored(3) < 0.5);
}

TEST_CASE("hidden: every policy ends with every token projected or computed") {
  const tiny::temporary_file file(tiny::make_gguf({.arch = "llama", .layers = 4, .dim = 128, .seed = 7}));
  thread_pool threads(2);
  model net(file.path(), arithmetic::exact, threads);
  const servers::temporary_folder folder;
  sluice::stream::file_source files(folder.path);
  source_of kept(files);
  const std::vector<std::int32_t> ids = random_ids(3 * prefix_cache::chunk_tokens + 60, 256, 7);
  const states s(net, ids, sluice::dtype::f16);
  prefix_cache p(net, sluice::profile::uncalibrated(payload_shape(net.config(), hidden)), kept, threads,
                 {.holds = hidden});
  p.save(ids, s.rows, sluice::max_passes, true);
  const std::vector<located_chunk> chunks = p.locate(ids, true).chunks;
  const machine_costs costs{1e-4, 1e-9, 1e-9, 1e-5};
  page_pool pages(net.config(), sluice::dtype::f16, 64), hidden_pages(p.profile().shape, sluice::dtype::f16, 64);
  for (const bool damaged : {false, true}) {
    CAPTURE(damaged);
    if (damaged) {
      std::filesystem::remove(folder.path + "/" + sluice::stream::to_hex(chunks[1].key));
      std::filesystem::remove(folder.path + "/" + sluice::stream::to_hex(chunks[1].exact_key));
      for (const sluice::digest& key : {chunks[2].key, chunks[2].exact_key})
        put_noise(folder.path + "/" + sluice::stream::to_hex(key));
    }
    for (const std::string_view name : sluice::stream::policy_names) {
      const std::string policy(name);
      if (damaged && policy == "always_raw") continue;  // refused
      CAPTURE(policy);
      sequence seq(pages), rows(hidden_pages);
      const stream_result r =
          stream_prefix(net, p, kept, ids, seq, costs, {.policy = policy, .deadline_seconds = 5, .hidden = &rows});
      CHECK(r.report.outcome == sluice::status::ok);
      CHECK(r.raw_bytes == ids.size() * net.config().layers * 2 * 2 * 16 * 2);
      int coarsest = 4, fetched = 0, patched = 0;
      for (const sluice::stream::chunk_report& c : r.report.chunks)
        if (!c.computed) coarsest = std::min(coarsest, c.level), ++fetched;
      for (const sluice::stream::step& step : r.report.steps) patched += step.what == sluice::stream::action::patch;
      CAPTURE(coarsest);
      CHECK(patched >= fetched);
      CHECK(compare(s.kv, seq).mean < (coarsest == 4 ? 0.005 : coarsest == 3 ? 0.3 : 1.5));
    }
  }
}

TEST_CASE("hidden: judged beside K and V, in bits of a value of these") {
  const tiny::temporary_file file(tiny::make_gguf({.arch = "llama", .layers = 4, .dim = 128, .seed = 3}));
  thread_pool threads(2);
  model net(file.path(), arithmetic::exact, threads);
  const std::vector<std::int32_t> ids = random_ids(300 + 41, 256, 3);
  const auto context = std::span(ids).first(300), suffix = std::span(ids).subspan(300, 40);
  page_pool pages(net.config(), sluice::dtype::f16, 64);
  page_pool hidden_pages(payload_shape(net.config(), hidden), sluice::dtype::f16, 64);
  sequence kv(pages), rows(hidden_pages);
  net.forward(context, kv, {.on_hidden = keep_hidden(net, rows)});
  const matrix exact = predict(net, suffix, kv);
  kv.truncate(300);
  const sluice::profile profile = sluice::profile::uncalibrated(payload_shape(net.config(), hidden));
  double last = -1;
  std::size_t bytes = ~std::size_t{0};
  for (const char* codec : {"exact", "plain8", "int4"}) {
    CAPTURE(codec);
    coded_cache coded(profile, codec);
    const suffix_quality q = judge_window(net, ids, kv, exact, {}, {}, {}, -1, coded, nullptr, &rows);
    CHECK(q.elements == 300 * 4 * 2 * 2 * 16);
    REQUIRE(q.levels.size() == 1);
    CHECK(q.levels[0].bytes < bytes);
    CHECK(q.levels[0].distance.kl() > last);
    bytes = q.levels[0].bytes, last = q.levels[0].distance.kl();
    if (std::string(codec) == "exact") CHECK(last < 1e-4);
  }
}
