// SPDX-License-Identifier: Apache-2.0
#include "../model.hpp"
#include "../tokenizer.hpp"
#include "real_model.hpp"
#include "reference.hpp"
#include "tiny_model.hpp"

#include <safetensors.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <fstream>
#include <iterator>
#include <optional>
#include <random>
#include <string>
#include <vector>

using namespace engine;

namespace {

std::vector<std::int32_t> random_ids(int n, int vocab, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < n; ++i) ids.push_back(std::int32_t(random() % std::uint64_t(vocab)));
  return ids;
}

using logits_rows = std::vector<std::vector<float>>;

logits_rows all_logits(model& m, std::span<const std::int32_t> ids, sequence& seq) {
  logits_rows out;
  const int start = seq.tokens();
  m.forward(ids, seq, {.logits_from = 0, .on_logits = [&](int position, std::span<const float> l) {
                         CHECK(position == start + int(out.size()));
                         out.emplace_back(l.begin(), l.end());
                       }});
  return out;
}

template <class A, class B>
double relative_error(const A& got, const B& expected) {
  double error = 0, size = 0;
  REQUIRE(got.size() == expected.size());
  for (std::size_t i = 0; i < got.size(); ++i) {
    REQUIRE(got[i].size() == expected[i].size());
    for (std::size_t j = 0; j < got[i].size(); ++j) {
      const double e = double(got[i][j]) - double(expected[i][j]);
      error += e * e;
      size += double(expected[i][j]) * double(expected[i][j]);
    }
  }
  return std::sqrt(error / size);
}

logits_rows cached(const sequence& seq, sluice::plane p, int layer) {
  logits_rows out;
  const int n = seq.pool().kv_heads() * seq.pool().head_dim();
  for (int t = 0; t < seq.tokens(); ++t) {
    out.emplace_back(std::size_t(n));
    load_row(seq.at(p, layer, t), seq.pool().type(), out.back().data(), n);
  }
  return out;
}

const std::vector<tiny::recipe> recipes = {
    {.arch = "llama", .seed = 1},
    {.arch = "qwen2", .layers = 3, .own_head = true, .seed = 2},
    {.arch = "gemma3", .layers = 7, .heads = 3, .kv_heads = 1, .head_dim = 32, .window = 24, .seed = 3},
    {.arch = "llama", .dim = 96, .ffn_dim = 160, .heads = 6, .kv_heads = 3, .head_dim = 32, .vocab = 301, .seed = 4},
};

}  // namespace

TEST_CASE("exact arithmetic agrees with the plain reference, cache and logits") {
  thread_pool threads(2);
  for (const tiny::recipe& r : recipes) {
    CAPTURE(r.arch);
    const tiny::temporary_file file(tiny::make_gguf(r));
    model m(file.path(), arithmetic::exact, threads);
    const std::vector<std::int32_t> ids = random_ids(70, r.vocab, r.seed);
    const reference::output expected = reference::forward(m.directory(), ids);
    struct {
      sluice::dtype type;
      double logits, rows;
    } const bounds[] = {
        {sluice::dtype::f32, 3e-6, 3e-6}, {sluice::dtype::f16, 1e-3, 1e-3}, {sluice::dtype::bf16, 8e-3, 8e-3}};
    for (const auto& b : bounds) {
      page_pool pages(m.config(), b.type, 8);
      sequence seq(pages);
      CHECK(relative_error(all_logits(m, ids, seq), expected.logits) < b.logits);
      for (int l = 0; l < r.layers; ++l) {
        CHECK(relative_error(cached(seq, sluice::plane::key, l), expected.k[std::size_t(l)]) < b.rows);
        CHECK(relative_error(cached(seq, sluice::plane::value, l), expected.v[std::size_t(l)]) < b.rows);
      }
    }
  }
}

TEST_CASE("8-bit arithmetic stays close, and close to itself however the tokens come") {
  for (const int num_threads : {1, 3}) {
    thread_pool threads(num_threads);
    for (const tiny::recipe& r : recipes) {
      CAPTURE(r.arch);
      const tiny::temporary_file file(tiny::make_gguf(r));
      model fast(file.path(), arithmetic::fast, threads), exact(file.path(), arithmetic::exact, threads);
      const std::vector<std::int32_t> ids = random_ids(45, r.vocab, r.seed);
      page_pool pages(fast.config(), sluice::dtype::f16, 16);
      sequence a(pages), b(pages), c(pages);
      const logits_rows at_once = all_logits(fast, ids, a);
      CHECK(relative_error(at_once, all_logits(exact, ids, b)) < 0.05);
      logits_rows one_by_one;
      for (const std::int32_t t : ids) one_by_one.push_back(all_logits(fast, {&t, 1}, c).back());
      CHECK(relative_error(one_by_one, at_once) < 1e-2);
    }
  }
}

TEST_CASE("tokens of one pass that sums up as steps do are those steps, to the last bit") {
  for (const int num_threads : {1, 3}) {
    thread_pool threads(num_threads);
    for (const tiny::recipe& r : recipes)
      for (const arithmetic mode : {arithmetic::fast, arithmetic::exact}) {
        CAPTURE(r.arch);
        CAPTURE(int(mode));
        const tiny::temporary_file file(tiny::make_gguf(r));
        model m(file.path(), mode, threads);
        const std::vector<std::int32_t> before = random_ids(150, r.vocab, r.seed), ids = random_ids(41, r.vocab, 3);
        page_pool pages(m.config(), sluice::dtype::f16, 32);
        sequence a(pages), b(pages);
        m.forward(before, a);
        copy_tokens(a, a.tokens(), b);
        logits_rows steps, together;
        for (const std::int32_t t : ids) steps.push_back(all_logits(m, {&t, 1}, a).back());
        m.forward(ids, b,
                  {.logits_from = 0,
                   .on_logits = [&](int, std::span<const float> l) { together.emplace_back(l.begin(), l.end()); },
                   .as_steps = true});
        CHECK(steps == together);
        for (int l = 0; l < r.layers; ++l)
          for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
            CHECK(cached(a, p, l) == cached(b, p, l));
      }
  }
}

TEST_CASE("more tokens than a batch, pages shared with another sequence, a pool that is too small") {
  thread_pool threads(2);
  const tiny::recipe r = recipes[2];
  const tiny::temporary_file file(tiny::make_gguf(r));
  model m(file.path(), arithmetic::exact, threads);
  const int n = model::batch + 60;
  const std::vector<std::int32_t> ids = random_ids(n, r.vocab, 9);
  page_pool pages(m.config(), sluice::dtype::f32, 2 * page_pool::pages_for(n));
  sequence whole(pages);
  const logits_rows expected = all_logits(m, ids, whole);
  CHECK(int(expected.size()) == n);

  sequence other(pages), pieces(pages);
  whole.truncate(0);
  logits_rows got;
  for (std::size_t at = 0; at < ids.size(); at += 100) {
    const auto part = std::span(ids).subspan(at, std::min<std::size_t>(100, ids.size() - at));
    for (auto& row : all_logits(m, part, pieces)) got.push_back(std::move(row));
    m.forward(part, other);
  }
  CHECK(relative_error(got, expected) < 1e-5);
  const int before = other.tokens();
  CHECK_THROWS(m.forward(ids, other));
  CHECK(other.tokens() >= before);
  const std::int32_t foreign[] = {r.vocab};
  CHECK_THROWS(m.forward(foreign, whole));
  CHECK(whole.tokens() == 0);
}

TEST_CASE("a pass can start at a later layer") {
  thread_pool threads(1);
  const tiny::recipe r = recipes[1];
  const tiny::temporary_file file(tiny::make_gguf(r));
  model m(file.path(), arithmetic::exact, threads);
  const std::vector<std::int32_t> ids = random_ids(30, r.vocab, 5);
  page_pool pages(m.config(), sluice::dtype::f16, 8);
  sequence seq(pages);
  m.forward(std::span(ids).first(20), seq);
  const auto suffix = std::span(ids).subspan(20);
  std::vector<float> hidden, full, resumed;
  m.forward(suffix, seq,
            {.on_logits = [&](int, std::span<const float> l) { full.assign(l.begin(), l.end()); },
             .on_hidden =
                 [&](int layer, int position, std::span<const float> x) {
                   CHECK(position == 20);
                   if (layer == 1) hidden.assign(x.begin(), x.end());
                 }});
  seq.truncate(20);
  m.forward(suffix, seq,
            {.on_logits = [&](int, std::span<const float> l) { resumed.assign(l.begin(), l.end()); },
             .first_layer = 1,
             .hidden = hidden});
  CHECK(full == resumed);
}

TEST_CASE("tokens in the middle can be computed again") {
  thread_pool threads(2);
  const tiny::recipe r = recipes[2];
  const tiny::temporary_file file(tiny::make_gguf(r));
  model m(file.path(), arithmetic::exact, threads);
  const std::vector<std::int32_t> ids = random_ids(100, r.vocab, 6);
  page_pool pages(m.config(), sluice::dtype::f16, 8);
  sequence seq(pages);
  m.forward(ids, seq);
  const logits_rows expected = cached(seq, sluice::plane::value, 4);
  for (int t = 32; t < 64; ++t)  // a lost chunk
    for (int l = 0; l < r.layers; ++l)
      for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
        std::fill_n(seq.at(p, l, t), pages.token_stride(), std::byte{0x7f});
  m.forward(std::span(ids).subspan(32, 32), seq, {.position = 32});
  CHECK(seq.tokens() == 100);
  CHECK(relative_error(cached(seq, sluice::plane::value, 4), expected) < 1e-5);
  CHECK_THROWS(m.forward(std::span(ids).first(32), seq, {.position = 69}));
}

TEST_CASE("8-bit products of any shape") {
  std::mt19937_64 random(8);
  std::normal_distribution<float> normal;
  for (const int rows : {1, 7, 16, 33, 100})
    for (const int cols : {4, 32, 70, 96})
      for (const int tokens : {1, 2, 5, 6, 13}) {
        int8::packed w;
        w.resize(rows, cols);
        matrix wf(rows, cols), x(tokens, cols), y(tokens, rows), plain(tokens, rows);
        for (int i = 0; i < wf.size(); ++i) wf.data()[i] = normal(random);
        for (int i = 0; i < x.size(); ++i) x.data()[i] = normal(random);
        for (int r = 0; r < rows; ++r)
          for (int b = 0; b < w.blocks; ++b)
            w.set(r, b, int8::packed::quantize(wf.row(r).data() + 32 * b, std::min(32, cols - 32 * b)));
        int8::activations a;
        a.resize(tokens, cols);
        for (int t = 0; t < tokens; ++t) a.set_row(t, x.row(t).data(), cols);
        y.setConstant(NAN);
        int8::multiply(w, 0, w.panels, a, y.data(), rows);
        plain = x * wf.transpose();
        CAPTURE(rows);
        CAPTURE(cols);
        CAPTURE(tokens);
        CHECK((y - plain).norm() < 0.02f * std::sqrt(float(cols * tokens * rows)));
      }
}

TEST_CASE("SmolLM2: the cache equals that of the committed capture") {
  const std::string path = real_model("smol.gguf");
  safetensors::file capture;
  if (path.empty() || capture.open(SLUICE_SOURCE_DIR "/test/data/smollm2_sample.safetensors")) {
    MESSAGE("skipped: no smol.gguf in SLUICE_MODELS or build/models (cmake -P cmake/models.cmake), or no capture");
    return;
  }
  thread_pool threads(2);
  model m(path, arithmetic::exact, threads);
  const tokenizer text(m.directory());
  std::ifstream in(SLUICE_SOURCE_DIR "/test/data/sample.txt", std::ios::binary);
  const std::vector<std::int32_t> ids = text.encode(std::string(std::istreambuf_iterator<char>(in), {}));
  const auto expected_ids = capture.values<std::int32_t>(capture.find("ids"));
  REQUIRE(ids.size() >= expected_ids.size());
  CHECK(std::equal(expected_ids.begin(), expected_ids.end(), ids.begin()));

  constexpr int n = 256;
  page_pool pages(m.config(), sluice::dtype::f32, page_pool::pages_for(n));
  sequence seq(pages);
  m.forward(std::span(ids).first(n), seq);
  for (int l = 0; l < m.config().layers; ++l)
    for (const sluice::plane p : {sluice::plane::key, sluice::plane::value}) {
      const auto values =
          capture.values<std::uint16_t>(capture.find((p == sluice::plane::key ? "k." : "v.") + std::to_string(l)));
      const logits_rows got = cached(seq, p, l);
      logits_rows expected;
      const std::size_t width = got[0].size();
      for (std::size_t t = 0; t < n; ++t) {
        expected.emplace_back();
        for (std::size_t i = 0; i < width; ++i)
          expected.back().push_back(sluice::to_float(sluice::f16{values[t * width + i]}));
      }
      CHECK(relative_error(got, expected) < 5e-4);
    }
}
