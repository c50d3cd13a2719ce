// SPDX-License-Identifier: Apache-2.0
#include "../streamed.hpp"
#include "tiny_model.hpp"

#include <servers.hpp>

#include <sluice/stream/plan/by_name.hpp>
#include <sluice/stream/store/sources/file.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

using namespace engine;

namespace {

// A model whose prefixes lie in a folder.
struct stored_model {
  stored_model(const tiny::recipe& r, int num_threads, int num_pages)
      : file(tiny::make_gguf(r)), threads(num_threads), pages(net.config(), sluice::dtype::f16, num_pages) {}

  tiny::temporary_file file;
  thread_pool threads;
  model net{file.path(), arithmetic::exact, threads};
  servers::temporary_folder folder;
  sluice::stream::file_source files{folder.path};
  source_of<sluice::stream::file_source> kept{files};
  prefix_cache prefixes{net, sluice::profile::uncalibrated(kv_shape(net.config())), kept, threads};
  page_pool pages;
};

}  // namespace

TEST_CASE("stream: every policy ends with every token, whatever the store lost, and the right answer") {
  stored_model m({.arch = "llama", .layers = 4, .seed = 7}, 2, 400);
  model& net = m.net;
  prefix_cache& prefixes = m.prefixes;
  std::mt19937_64 random(7);
  std::vector<std::int32_t> ids, question;
  for (int i = 0; i < 3 * prefix_cache::chunk_tokens + 60; ++i) ids.push_back(std::int32_t(random() % 256));
  for (int i = 0; i < 5; ++i) question.push_back(std::int32_t(random() % 256));
  const auto ask = [&](sequence& seq) {
    std::vector<float> out;
    net.forward(question, seq, {.on_logits = [&](int, std::span<const float> l) { out.assign(l.begin(), l.end()); }});
    return out;
  };
  sequence exact(m.pages);
  net.forward(ids, exact);
  prefixes.save(ids, exact, sluice::max_passes, true);
  const std::vector<float> expected = ask(exact);
  const auto error = [&](const std::vector<float>& got) {
    double e = 0, size = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      e += std::pow(double(got[i]) - double(expected[i]), 2);
      size += std::pow(double(expected[i]), 2);
    }
    return std::sqrt(e / size);
  };

  const machine_costs costs{1e-4, 1e-9, 1e-9};
  const std::vector<located_chunk> chunks = prefixes.locate(ids, true).chunks;
  for (const bool damaged : {false, true}) {
    CAPTURE(damaged);
    if (damaged) {  // one chunk is gone with its exact copy, one is garbage
      std::filesystem::remove(m.folder.path + "/" + sluice::stream::to_hex(chunks[1].key));
      std::filesystem::remove(m.folder.path + "/" + sluice::stream::to_hex(chunks[1].exact_key));
      for (const sluice::digest& key : {chunks[2].key, chunks[2].exact_key}) {
        const std::string path = m.folder.path + "/" + sluice::stream::to_hex(key);
        const auto size = std::filesystem::file_size(path);
        std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
        out.seekp(std::streamoff(size / 3));
        for (int i = 0; i < 3000; ++i) out.put(char(i * 7));
      }
    }
    for (const std::string_view name : sluice::stream::policy_names) {
      const std::string policy(name);
      if (damaged && policy == "always_raw") continue;  // refused: see below
      CAPTURE(policy);
      sequence seq(m.pages);
      const stream_result r =
          stream_prefix(net, prefixes, m.kept, ids, seq, costs, {.policy = policy, .deadline_seconds = 5});
      CHECK(seq.tokens() == int(ids.size()));
      CHECK(r.report.outcome == sluice::status::ok);
      CHECK(r.chunks == 4);
      CHECK(r.stored == (damaged ? 3 : 4));
      if (damaged) CHECK(r.report.chunks[1].computed);
      int coarsest = 4;  // the exact copy, or computed
      for (const sluice::stream::chunk_report& c : r.report.chunks)
        if (!c.computed) coarsest = std::min(coarsest, c.level);
      CAPTURE(coarsest);
      CHECK(error(ask(seq)) < (coarsest == 4 ? 1e-5 : coarsest == 3 ? 0.15 : 3));
    }
  }
  sequence seq(m.pages);
  CHECK_THROWS_AS(stream_prefix(net, prefixes, m.kept, ids, seq, costs, {.policy = "always_raw"}), std::runtime_error);
  sequence other(m.pages);
  CHECK_THROWS_AS(stream_prefix(net, prefixes, m.kept, ids, other, costs, {.policy = "none"}), std::runtime_error);
}

TEST_CASE(
    "stream: a damaged tile costs its own tokens and the layers up to it, and what comes out is what restore() makes") {
  stored_model m({.arch = "llama", .layers = 4, .seed = 17}, 2, 800);
  prefix_cache prefixes(m.net, m.prefixes.profile(), m.kept, m.threads, {.chunk_tokens = 1024});
  std::mt19937_64 random(17);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 1024 + 300; ++i) ids.push_back(std::int32_t(random() % 256));
  sequence exact(m.pages);
  m.net.forward(ids, exact);
  prefixes.save(ids, exact, sluice::max_passes);
  const std::vector<located_chunk> chunks = prefixes.locate(ids).chunks;
  REQUIRE(chunks.size() == 2);

  const auto ask = [&](sequence& seq) {
    std::vector<float> out;
    m.net.forward(std::vector<std::int32_t>{1, 2, 3}, seq,
                  {.on_logits = [&](int, std::span<const float> l) { out.assign(l.begin(), l.end()); }});
    return out;
  };
  sequence sound(m.pages);
  CHECK(prefixes.restore(ids, sound, 2).missing.empty());
  const std::vector<float> before = ask(sound);

  const sluice::tile_key damaged{2, sluice::plane::value, 1, 0};  // the third layer of the second token tile
  constexpr int tile = prefix_cache::codec::tile_tokens;
  const sluice::frame_index& index = chunks[0].index;
  const std::string path = m.folder.path + "/" + sluice::stream::to_hex(chunks[0].key);
  std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(std::streamoff(sizeof(sluice::stream::object_header) + index.range(index.ordinal(0, damaged)).begin + 20));
  file.put('!').put('?').put('!');
  file.close();

  sequence restored(m.pages);
  const restore_report r = prefixes.restore(ids, restored, 2);
  REQUIRE(r.missing.size() == 1);
  CHECK(r.missing[0].position == tile);
  CHECK(r.missing[0].tokens == tile);
  CHECK(r.missing[0].end_layer == 3);
  compute(m.net, ids, restored, r.missing);

  sequence streamed(m.pages);
  const stream_result s = stream_prefix(m.net, prefixes, m.kept, ids, streamed, {1e-3, 0, 1e-9},
                                        {.policy = "fixed_level_2", .deadline_seconds = 600});
  const sluice::stream::chunk_report& c = s.report.chunks[0];
  CHECK(c.repaired == sluice::gap{tile, tile, 3, 0.75});
  CHECK_FALSE(c.computed);
  CHECK(c.level == 2);
  CHECK(s.report.recomputed_tokens == tile);
  const std::vector<float> got = ask(streamed);
  CHECK(got == ask(restored));
  // What was computed is as near to the exact cache as what it replaces.
  const std::vector<float> expected = ask(exact);
  const auto error = [&](const std::vector<float>& logits) {
    double e = 0;
    for (std::size_t i = 0; i < logits.size(); ++i) e += std::pow(double(logits[i]) - double(expected[i]), 2);
    return std::sqrt(e);
  };
  CHECK(error(got) < 1.2 * error(before));
}

TEST_CASE("stream: layer by layer the question sees what it sees chunk by chunk") {
  stored_model m({.arch = "llama", .layers = 5, .seed = 9}, 2, 400);
  std::mt19937_64 random(9);
  std::vector<std::int32_t> ids, question;
  for (int i = 0; i < 3 * prefix_cache::chunk_tokens + 60; ++i) ids.push_back(std::int32_t(random() % 256));
  for (int i = 0; i < 40; ++i) question.push_back(std::int32_t(random() % 256));
  const auto ask = [&](sequence& seq, const std::function<void(int)>& wait_for = {}) {
    std::vector<float> out;
    forward_options options{.on_logits = [&](int, std::span<const float> l) { out.assign(l.begin(), l.end()); }};
    if (wait_for) options.on_hidden = [&](int layer, int, std::span<const float>) { wait_for(layer); };
    m.net.forward(question, seq, options);
    return out;
  };
  const machine_costs costs{1e-4, 1e-9, 1e-9};
  const auto by_layers = [&](const std::string& policy, int parts, std::vector<float>& logits) {
    sequence seq(m.pages);
    const stream_result r = stream_layers(
        m.net, m.prefixes, m.kept, ids, seq, costs, {.policy = policy, .deadline_seconds = 5, .layer_parts = parts},
        [&](const std::function<void(int)>& wait_for) { logits = ask(seq, wait_for); });
    CHECK(seq.tokens() == int(ids.size() + question.size()));
    CHECK(r.report.outcome == sluice::status::ok);
    CHECK(r.report.chunks.size() == 4);
    return r;
  };
  sequence exact(m.pages);
  m.net.forward(ids, exact);
  std::vector<float> got;

  // Nothing is stored: every part of every chunk is computed, in the middle of the question's own pass.
  for (const int parts : {1, 2, 5}) {
    CAPTURE(parts);
    const stream_result r = by_layers("layerwise", parts, got);
    CHECK(r.report.recomputed_tokens == int(ids.size()));
    sequence whole(m.pages);
    copy_tokens(exact, int(ids.size()), whole);
    const std::vector<float> expected = ask(whole);
    double worst = 0;
    for (std::size_t i = 0; i < got.size(); ++i)
      worst = std::max(worst, std::abs(double(got[i]) - double(expected[i])));
    CHECK(worst < 1e-4);
  }

  m.prefixes.save(ids, exact, sluice::max_passes, true);
  for (const bool damaged : {false, true}) {
    CAPTURE(damaged);
    if (damaged) std::filesystem::remove(m.folder.path + "/" + m.prefixes.name_of(std::span(ids).first(512)));
    sequence seq(m.pages);
    stream_prefix(m.net, m.prefixes, m.kept, ids, seq, costs, {.policy = "fixed_level_1", .deadline_seconds = 5});
    const std::vector<float> expected = ask(seq);
    for (const std::string policy : {"fixed_level_1", "layerwise", "cachegen", "robust_mpc", "cake"})
      for (const int parts : {1, 3, 5, 9}) {
        CAPTURE(policy);
        CAPTURE(parts);
        const stream_result r = by_layers(policy, parts, got);
        CHECK(r.report.chunks[1].computed >= damaged);
        if (policy == "fixed_level_1") CHECK((damaged ? r.report.recomputed_tokens == 256 : got == expected));
      }
  }
  for (const char* policy : {"progressive_cake", "always_raw"})
    CHECK_THROWS_AS(by_layers(policy, 2, got), std::runtime_error);
}

TEST_CASE("stream: a coarse copy to draft from, then the exact one, whatever the store lost") {
  stored_model m({.arch = "llama", .layers = 3, .seed = 21}, 2, 400);
  std::mt19937_64 random(21);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 3 * prefix_cache::chunk_tokens + 60; ++i) ids.push_back(std::int32_t(random() % 256));
  sequence exact(m.pages);
  m.net.forward(ids, exact);
  const auto same = [&](const sequence& a, const sequence& b, int begin, int end) {
    bool equal = true;
    for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
      for (int l = 0; l < m.pages.layers(); ++l)
        for (int t = begin; t < end; ++t)
          equal = equal && !std::memcmp(a.at(p, l, t), b.at(p, l, t), std::size_t(m.pages.token_stride()));
    return equal;
  };
  const int tokens = int(ids.size());
  for (const bool copies : {true, false}) {
    CAPTURE(copies);
    m.prefixes.save(ids, exact, sluice::max_passes, copies);
    sequence finest(m.pages), coarsest(m.pages), seq(m.pages), coarse(m.pages);
    m.prefixes.restore(ids, finest, sluice::max_passes);
    m.prefixes.restore(ids, coarsest, 0);
    int calls = 0;
    const stream_result r = stream_draft(m.net, m.prefixes, m.kept, ids, seq, coarse, {1e-4, 0, 1e-9}, {}, 0,
                                         [&](const std::function<bool()>& there) {
                                           ++calls;
                                           CHECK(coarse.tokens() == tokens);
                                           while (!there()) std::this_thread::yield();
                                           CHECK(same(seq, copies ? exact : finest, 0, tokens));
                                         });
    CHECK(calls == 1);
    CHECK(r.report.recomputed_tokens == 0);
    CHECK(r.report.faults.empty());
    CHECK(same(seq, copies ? exact : finest, 0, tokens));
    for (const sluice::stream::chunk_report& c : r.report.chunks)
      CHECK(c.level == (copies ? m.prefixes.profile().passes : m.prefixes.profile().passes - 1));
    for (const located_chunk& c : m.prefixes.locate(ids).chunks)  // one folder for both rounds
      std::filesystem::remove(m.folder.path + "/" + sluice::stream::to_hex(c.exact_key));
  }
  // One chunk is gone; of another the exact copy is damaged.
  m.prefixes.save(ids, exact, sluice::max_passes, true);
  const std::vector<located_chunk> chunks = m.prefixes.locate(ids, true).chunks;
  std::filesystem::remove(m.folder.path + "/" + sluice::stream::to_hex(chunks[1].key));
  std::fstream file(m.folder.path + "/" + sluice::stream::to_hex(chunks[2].exact_key),
                    std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(std::streamoff(chunks[2].exact_bytes / 2));
  file.put('!').put('?').put('!');
  file.close();
  sequence seq(m.pages), coarse(m.pages);
  const stream_result r = stream_draft(m.net, m.prefixes, m.kept, ids, seq, coarse, {1e-4, 0, 1e-9}, {}, 1,
                                       [](const std::function<bool()>&) {});
  CHECK(r.report.chunks[2].computed);
  CHECK(same(seq, exact, 0, prefix_cache::chunk_tokens));
  CHECK(same(seq, exact, 3 * prefix_cache::chunk_tokens, tokens));
  double error = 0, size = 0;
  for (int t = prefix_cache::chunk_tokens; t < 3 * prefix_cache::chunk_tokens; ++t) {
    std::vector<float> a(std::size_t(m.pages.head_dim())), b(a.size());
    load_row(seq.at(sluice::plane::value, 2, t), m.pages.type(), a.data(), m.pages.head_dim());
    load_row(exact.at(sluice::plane::value, 2, t), m.pages.type(), b.data(), m.pages.head_dim());
    for (std::size_t i = 0; i < a.size(); ++i)
      error += std::pow(double(a[i] - b[i]), 2), size += std::pow(double(b[i]), 2);
  }
  CHECK(error < 1e-4 * size);  // computed from what is exact, in other batches

  sequence other(m.pages), drafts(m.pages);
  CHECK_THROWS_AS(stream_draft(m.net, m.prefixes, m.kept, ids, other, drafts, {1e-4, 0, 1e-9}, {},
                               m.prefixes.profile().passes, [](const std::function<bool()>&) {}),
                  std::runtime_error);
}

namespace {

// A store that takes all questions and answers none, or refuses them in words.
class bad_store final : public store {
 public:
  explicit bad_store(sluice::status s = sluice::status::ok) : state_(s) {}
  sluice::result<std::uint64_t> size(std::string_view) override { return state_; }
  sluice::status put(std::string_view, std::span<const std::byte>) override { return state_; }
  sluice::stream::ticket submit(const sluice::stream::read_request&) override {
    open_.push_back(++last_);
    return last_;
  }
  std::size_t poll(std::span<sluice::stream::completion> done, double seconds) override {
    std::size_t n = 0;
    if (state_ == sluice::status::ok)
      std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
    else
      for (; n < done.size() && !open_.empty(); ++n) {
        done[n] = {open_.back(), state_, 0, "these words"};
        open_.pop_back();
      }
    return n;
  }
  std::size_t arrived(sluice::stream::ticket) override { return 0; }
  std::size_t cancel(sluice::stream::ticket t) override {
    std::erase(open_, t);
    return 0;
  }
  std::string_view detail() const override { return "these words"; }

 private:
  sluice::status state_;
  sluice::stream::ticket last_ = 0;
  std::vector<sluice::stream::ticket> open_;
};

}  // namespace

TEST_CASE("stream: looking for chunks is part of the deadline, and a store that fails is named in its words") {
  tiny::temporary_file file(tiny::make_gguf({.arch = "llama", .layers = 2, .seed = 8}));
  thread_pool threads(1);
  model net(file.path(), arithmetic::exact, threads);
  const sluice::profile profile = sluice::profile::uncalibrated(kv_shape(net.config()));
  page_pool pages(net.config(), sluice::dtype::f16, 80);
  const std::vector<std::int32_t> ids(300, 65);
  for (const sluice::status state : {sluice::status::ok, sluice::status::connection_lost, sluice::status::refused}) {
    CAPTURE(to_string(state));
    bad_store bad(state);
    prefix_cache prefixes(net, profile, bad, threads);
    sequence seq(pages);
    const auto begin = std::chrono::steady_clock::now();
    const stream_result r = stream_prefix(net, prefixes, bad, ids, seq, {1e-4, 0, 1e-9}, {.deadline_seconds = 0.3});
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    CHECK(seconds < 15);
    CHECK(r.locate_seconds <= seconds);
    CHECK(r.stored == 0);
    CHECK(r.report.outcome == sluice::status::ok);
    CHECK(r.report.recomputed_tokens == 300);
    REQUIRE(r.unread.size() == 1);
    CHECK(r.unread[0].tokens == 300);
    CHECK(r.unread[0].why == (state == sluice::status::ok ? sluice::status::timed_out : state));
    CHECK(r.unread[0].detail == "these words");
    if (state == sluice::status::ok) continue;
    CHECK_THROWS_WITH(prefixes.save(ids, seq, 4),
                      ("the store: " + std::string(to_string(state)) + ": these words").c_str());
    sequence other(pages);
    const restore_report restored = prefixes.restore(ids, other, 1);
    CHECK(restored.tokens == 0);
    REQUIRE(restored.unread.size() == 1);
    CHECK(restored.unread[0].detail == "these words");
  }
}

TEST_CASE("stream: levels in the report are those that the objects hold") {
  stored_model m({.arch = "llama", .layers = 2, .seed = 8}, 1, 80);
  model& net = m.net;
  prefix_cache& prefixes = m.prefixes;
  const std::vector<std::int32_t> ids(300, 65);
  sequence seq(m.pages);
  net.forward(ids, seq);
  for (const int levels : {1, 2}) {
    CAPTURE(levels);
    prefixes.save(ids, seq, levels);
    sequence other(m.pages);
    const stream_result r = stream_prefix(net, prefixes, m.kept, ids, other, {10, 0, 1e-9},
                                          {.policy = "fixed_level_2", .deadline_seconds = 60});
    for (const sluice::stream::chunk_report& c : r.report.chunks) {
      CHECK_FALSE(c.computed);
      CHECK(c.level == levels - 1);
    }
  }
}

TEST_CASE("stream: a note is read as it was written, and never required") {
  const std::string name(64, 'a'), text = write_note(name, 300, 0.25, {1e-3, 2e-7, 3e-9});
  const auto read = [&](std::string_view t) { return read_note(std::as_bytes(std::span(t)), name); };
  const auto whole = read(text);
  REQUIRE(whole);
  CHECK(whole->prefill_seconds == 0.25);
  CHECK(whole->costs.seconds_per_token == 1e-3);
  CHECK(whole->costs.seconds_per_token_position == 2e-7);
  CHECK(whole->costs.decode_seconds_per_value == 3e-9);
  for (std::size_t n = 0; n < text.size(); ++n) CHECK_FALSE(read(text.substr(0, n)));
  CHECK_FALSE(read_note(std::as_bytes(std::span(text)), std::string(64, 'b')));  // another document's
  for (const char* bad : {"[1]", "7", "null", "{}", "\xff\xfe"}) CHECK_FALSE(read(bad));
  const auto with = [&](const char* key, const char* value) {
    std::string t = text;
    const std::size_t at = t.find(key) + std::string(key).size() + 2;
    return t.replace(at, t.find_first_of(",}", at) - at, value);
  };
  CHECK(read(with("seconds_per_token", "1")));
  for (const char* bad : {"-1", "0", "1e300", "\"1\"", "null", "[]"}) CHECK_FALSE(read(with("seconds_per_token", bad)));
  for (const char* bad : {"-1e-9", "1e9", "{}"}) CHECK_FALSE(read(with("decode_seconds_per_value", bad)));
}

TEST_CASE("stream: a store that is not there costs nothing but the computing") {
  tiny::temporary_file file(tiny::make_gguf({.arch = "llama", .layers = 2, .seed = 8}));
  thread_pool threads(1);
  model net(file.path(), arithmetic::exact, threads);
  sluice::stream::file_source files(file.path() + "/nowhere");
  source_of kept(files);
  prefix_cache prefixes(net, sluice::profile::uncalibrated(kv_shape(net.config())), kept, threads);
  page_pool pages(net.config(), sluice::dtype::f16, 40);
  sequence seq(pages);
  const std::vector<std::int32_t> ids(300, 65);
  const stream_result r = stream_prefix(net, prefixes, kept, ids, seq, {1e-4, 0, 1e-9}, {.deadline_seconds = 1});
  CHECK(r.stored == 0);
  CHECK(r.report.outcome == sluice::status::ok);
  CHECK(r.report.recomputed_tokens == 300);
}

TEST_CASE("stream: the first layers from the text, the others from the store, also from another model's") {
  stored_model m({.arch = "llama", .layers = 4, .seed = 7}, 2, 400);
  const tiny::temporary_file file(tiny::make_gguf({.arch = "llama", .layers = 4, .seed = 8}));
  model other(file.path(), arithmetic::exact, m.threads);
  std::mt19937_64 random(7);
  std::vector<std::int32_t> ids;
  for (int i = 0; i < 2 * prefix_cache::chunk_tokens + 60; ++i) ids.push_back(std::int32_t(random() % 256));
  sequence own(m.pages), its(m.pages);
  m.net.forward(ids, own);
  other.forward(ids, its);
  prefix_cache foreign(m.net, m.prefixes.profile(), m.kept, m.threads, {.made_by = other.identity()});
  CHECK(model::identity_of(file.path(), arithmetic::exact) == other.identity());
  m.prefixes.save(ids, own, sluice::max_passes, true);
  foreign.save(ids, its, sluice::max_passes, true);
  prefix_cache others(other, m.prefixes.profile(), m.kept, m.threads);
  CHECK(others.name_of(ids) == foreign.name_of(ids));
  // Layers of `seq` against those of a cache, in root mean squares of it.
  const auto error = [&](const sequence& seq, const sequence& of, int first, int end) {
    const int n = seq.pool().width();
    std::vector<float> a(static_cast<std::size_t>(n)), b(a);
    double e = 0, size = 0;
    for (const sluice::plane p : {sluice::plane::key, sluice::plane::value})
      for (int l = first; l < end; ++l)
        for (int t = 0; t < of.tokens(); ++t) {
          load_row(seq.at(p, l, t), seq.pool().type(), a.data(), n);
          load_row(of.at(p, l, t), of.pool().type(), b.data(), n);
          for (std::size_t i = 0; i < a.size(); ++i) {
            e += std::pow(double(a[i]) - double(b[i]), 2);
            size += std::pow(double(b[i]), 2);
          }
        }
    return std::sqrt(e / size);
  };
  const machine_costs costs{1e-4, 1e-9, 1e-9};
  for (const bool from_other : {false, true}) {
    CAPTURE(from_other);
    prefix_cache& p = from_other ? foreign : m.prefixes;
    const sequence& stored = from_other ? its : own;
    std::size_t last = ~std::size_t{0};
    for (const int n : {1, 2, 3}) {
      CAPTURE(n);
      sequence seq(m.pages);
      const stream_result r =
          stream_prefix(m.net, p, m.kept, ids, seq, costs, {.deadline_seconds = 1e3, .compute_layers = n, .level = 3});
      CHECK(r.report.outcome == sluice::status::ok);
      CHECK(r.report.faults.empty());
      CHECK(r.report.recomputed_tokens == 0);
      CHECK(r.report.bytes < last);  // the more is computed, the less is fetched
      last = r.report.bytes;
      CHECK(error(seq, own, 0, n) < 1e-3);
      const double fetched = error(seq, stored, n, 4);
      CHECK(fetched > 1e-3);
      CHECK(fetched < 0.2);
    }
  }
  // Whoever plans, and whatever is damaged: every token ends up there.
  const std::string path = m.folder.path + "/" + sluice::stream::to_hex(m.prefixes.locate(ids).chunks[1].key);
  const auto size = std::filesystem::file_size(path);
  std::fstream out(path, std::ios::in | std::ios::out | std::ios::binary);
  out.seekp(std::streamoff(size / 5));
  for (std::size_t i = 0; i < size / 2; ++i) out.put(char(i * 7));
  out.close();
  for (const std::string_view name : sluice::stream::policy_names) {
    const std::string policy(name);
    CAPTURE(policy);
    sequence seq(m.pages);
    const stream_options options{.policy = policy, .deadline_seconds = 5, .compute_layers = 2};
    if (policy == "always_raw") {
      CHECK_THROWS_AS(stream_prefix(m.net, m.prefixes, m.kept, ids, seq, costs, options), std::runtime_error);
      continue;
    }
    const stream_result r = stream_prefix(m.net, m.prefixes, m.kept, ids, seq, costs, options);
    CHECK(r.report.outcome == sluice::status::ok);
    CHECK(error(seq, own, 0, 2) < 1e-3);
    CHECK(error(seq, own, 2, 4) < 3);
  }
}
