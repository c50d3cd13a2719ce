// SPDX-License-Identifier: Apache-2.0
#include "../blended.hpp"
#include "tiny_model.hpp"

#include <servers.hpp>

#include <sluice/codec/decoder.hpp>
#include <sluice/stream/store/sources/file.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>
#include <set>
#include <string>
#include <vector>

using namespace engine;

namespace {

// Three documents, each saved on its own, and the prompt that they make.
struct fixture {
  fixture() {
    std::mt19937_64 random(21);
    for (const int n : {300, 280, 270}) {
      starts.push_back(int(ids.size()));
      for (int i = 0; i < n; ++i) ids.push_back(std::int32_t(random() % 256));
      sequence alone(pages);
      net.forward(std::span(ids).last(std::size_t(n)), alone);
      prefixes.save(std::span(ids).last(std::size_t(n)), alone, sluice::max_passes);
    }
    net.forward(ids, full);
  }
  blend_result run(sequence& seq, const blend_options& o) {
    return blend(net, prefixes, kept, ids, starts, seq, {1e-4, 1e-9, 1e-9}, o);
  }
  int document_of(int token) const { return token >= starts[2] ? 2 : token >= starts[1] ? 1 : 0; }

  tiny::temporary_file file{tiny::make_gguf({.arch = "llama", .layers = 4, .seed = 21})};
  thread_pool threads{2};
  model net{file.path(), arithmetic::exact, threads};
  servers::temporary_folder folder;
  sluice::stream::file_source files{folder.path};
  source_of<sluice::stream::file_source> kept{files};
  prefix_cache prefixes{net, sluice::profile::uncalibrated(kv_shape(net.config())), kept, threads};
  page_pool pages{net.config(), sluice::dtype::f16, 400};
  sequence full{pages};
  std::vector<std::int32_t> ids;
  std::vector<int> starts;
};

bool same(const sequence& a, const sequence& b, int layer, int token) {
  const auto n = std::size_t(a.pool().token_stride());
  return std::memcmp(a.at(sluice::plane::key, layer, token), b.at(sluice::plane::key, layer, token), n) == 0 &&
         std::memcmp(a.at(sluice::plane::value, layer, token), b.at(sluice::plane::value, layer, token), n) == 0;
}

// Of the documents behind the first, in root mean squares of what `of` holds.
double error(const fixture& f, const sequence& seq, int first_token) {
  const int n = seq.pool().width();
  std::vector<float> a(static_cast<std::size_t>(n)), b(a);
  double e = 0, size = 0;
  for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
    for (int l = 0; l < 4; ++l)
      for (int t = first_token; t < f.full.tokens(); ++t) {
        load_row(seq.at(p, l, t), seq.pool().type(), a.data(), n);
        load_row(f.full.at(p, l, t), f.full.pool().type(), b.data(), n);
        for (std::size_t i = 0; i < a.size(); ++i) {
          e += std::pow(double(a[i]) - double(b[i]), 2);
          size += std::pow(double(b[i]), 2);
        }
      }
  return std::sqrt(e / size);
}

}  // namespace

TEST_CASE("blend: tokens at any positions are computed as a run of them is, to the last bit") {
  fixture f;
  sequence seq(f.pages);
  copy_tokens(f.full, f.full.tokens(), seq);
  // All of them, over what was there before.
  std::vector<int> all(f.ids.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = int(i);
  for (int l = 0; l < 4; ++l)
    for (int t = 0; t < seq.tokens(); ++t) std::memset(seq.at(sluice::plane::key, l, t), 0, 64);
  f.net.forward(f.ids, seq, {.positions = all});
  for (int l = 0; l < 4; ++l)
    for (int t = 0; t < seq.tokens(); ++t) REQUIRE(same(seq, f.full, l, t));
  // Some, with holes between: products of other row counts may round otherwise.
  std::vector<int> some;
  std::vector<std::int32_t> ids;
  for (int t = 5; t < seq.tokens(); t += t % 7 == 0 ? 1 : 3) some.push_back(t), ids.push_back(f.ids[std::size_t(t)]);
  for (const int t : some) std::memset(seq.at(sluice::plane::value, 2, t), 0, 64);
  std::vector<int> told;
  f.net.forward(
      ids, seq,
      {.logits_from = 0, .on_logits = [&](int at, std::span<const float>) { told.push_back(at); }, .positions = some});
  CHECK(told == some);
  CHECK(error(f, seq, 0) < 1e-4);
  const std::vector<std::vector<int>> refused{{3, 3}, {4, 3}, {-1, 3}, {3, 4, 5}, {0, seq.tokens()}};
  for (const std::vector<int>& bad : refused)
    CHECK_THROWS_AS(f.net.forward(std::span(f.ids).first(2), seq, {.positions = bad}), std::runtime_error);
}

TEST_CASE("blend: nothing computed anew is what was stored, moved; everything is what the model computes") {
  fixture f;
  sequence plain(f.pages), moved(f.pages), all(f.pages);
  const blend_result r = f.run(plain, {});
  CHECK(r.computed == 0);
  CHECK(r.checked == 0);
  CHECK(r.tokens == int(f.ids.size()));
  CHECK(r.report.faults.empty());
  REQUIRE(moved.grow(r.tokens) == sluice::status::ok);
  sluice::decoder<prefix_cache::codec> d(f.prefixes.profile());
  for (std::size_t i = 0; i < 3; ++i) {
    const int end = i < 2 ? f.starts[i + 1] : r.tokens;
    const auto document = std::span(f.ids).subspan(std::size_t(f.starts[i]), std::size_t(end - f.starts[i]));
    for (const located_chunk& c : f.prefixes.locate(document).chunks) {
      piece whole{"", 0, 1 << 22};
      const std::string name = sluice::stream::to_hex(c.key);
      whole.key = name;
      read_all(f.kept, {&whole, 1});
      const auto frame = sluice::stream::open_object(whole.bytes, c.key);
      REQUIRE(frame);
      const int at = f.starts[i] + c.begin;
      REQUIRE(d.decode(*frame, moved.view().slice(at, at + c.end - c.begin), {.position = at}).worst ==
              sluice::status::ok);
    }
  }
  for (int l = 0; l < 4; ++l)
    for (int t = 0; t < r.tokens; ++t) REQUIRE(same(plain, moved, l, t));
  CHECK(error(f, plain, f.starts[1]) > 0.05);

  const blend_result whole = f.run(all, {.fraction = 1});
  CHECK(whole.computed == whole.tokens);
  CHECK(error(f, all, 0) < 1e-3);  // batches of a chunk: sums in another order, rounded to f16
}

TEST_CASE("blend: the tokens that deviate, or the first of each document, and no others") {
  fixture f;
  sequence plain(f.pages), blended(f.pages), fronts(f.pages);
  f.run(plain, {});
  const double before = error(f, plain, f.starts[1]);
  const auto changed = [&](const sequence& seq, int layer) {
    std::set<int> out;
    for (int t = 0; t < seq.tokens(); ++t)
      if (!same(plain, seq, layer, t)) out.insert(t);
    return out;
  };
  const blend_result r = f.run(blended, {.fraction = 0.25});
  const int expected = 64 + 6 + 64 + 4;  // a quarter of each chunk, of 256 + 24 and 256 + 14
  CHECK(r.computed == expected);
  CHECK(r.checked == 280 + 270);
  for (const int l : {1, 2, 3}) {
    const std::set<int> tokens = changed(blended, l);
    CHECK(int(tokens.size()) <= expected);
    CHECK(int(tokens.size()) > expected * 9 / 10);
    for (const int t : tokens) CHECK(f.document_of(t) > 0);
  }
  CHECK(error(f, blended, f.starts[1]) < before);

  const blend_result e = f.run(fronts, {.first = 16});
  CHECK(e.computed == 32);
  CHECK(e.checked == 0);
  for (const int t : changed(fronts, 3)) {
    const int d = f.document_of(t);
    CHECK(d > 0);
    CHECK(t < f.starts[std::size_t(d)] + 16);
  }
  CHECK(changed(fronts, 3).size() > 28);
  CHECK(error(f, fronts, f.starts[1]) < before);
}

TEST_CASE("blend: what deviates most is found, and what the store lacks is computed") {
  fixture f;
  sequence seq(f.pages), scratch(f.pages);
  copy_tokens(f.full, f.full.tokens(), seq);
  REQUIRE(scratch.grow(seq.tokens()) == sluice::status::ok);
  std::vector<float> hidden;
  f.net.forward(std::span(f.ids).first(90), seq,
                {.on_hidden =
                     [&](int layer, int, std::span<const float> x) {
                       if (layer == 1) hidden.assign(x.begin(), x.end());
                     },
                 .position = 0,
                 .end_layer = 1});
  for (const int t : {70, 3, 41}) std::memset(seq.at(sluice::plane::value, 1, t), 0, 64);
  CHECK(most_deviating(f.net, seq, 0, hidden, 3, scratch) == std::vector<int>{3, 41, 70});
  CHECK(most_deviating(f.net, seq, 0, hidden, 0, scratch).empty());
  CHECK(most_deviating(f.net, seq, 0, hidden, 1000, scratch).size() == 90);

  const auto second = std::span(f.ids).subspan(300, 280);
  std::filesystem::remove(f.folder.path + "/" + f.prefixes.name_of(second));
  std::filesystem::remove(f.folder.path + "/" + f.prefixes.name_of(second.first(256)));
  sequence lost(f.pages);
  const blend_result r = f.run(lost, {.first = 16});
  CHECK(r.report.outcome == sluice::status::ok);
  CHECK(r.computed == 280 + 16);
  const std::vector<int> backwards{0, 300, 200};
  sequence none(f.pages);
  CHECK_THROWS_AS(blend(f.net, f.prefixes, f.kept, f.ids, backwards, none, {1e-4, 1e-9, 1e-9}, {}), std::runtime_error);
}
