// SPDX-License-Identifier: Apache-2.0
#include "../prefix_cache.hpp"
#include "../tokenizer.hpp"
#include "tiny_model.hpp"

#include <servers.hpp>

#include <sluice/stream/store/sources/file.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

using namespace engine;
namespace fs = std::filesystem;

namespace {

using row = std::vector<float>;

std::string contents(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

// A model, a document of two whole chunks and a part of one, and the exact answer to what follows it.
struct fixture {
  static constexpr int tokens = 2 * prefix_cache::chunk_tokens + 90;

  explicit fixture(const tiny::recipe& r = {.arch = "llama", .layers = 4, .seed = 5}) : file(tiny::make_gguf(r)) {
    std::mt19937_64 random(r.seed);
    for (int i = 0; i < tokens; ++i) ids.push_back(std::int32_t(random() % 256));
    for (int i = 0; i < 5; ++i) question.push_back(std::int32_t(random() % 256));
    net.forward(ids, document);
    expected = ask(ids, document);
    document.truncate(tokens);
  }

  prefix_cache prefixes() { return {net, sluice::profile::uncalibrated(kv_shape(net.config())), kept, threads}; }

  // Logits after the question.
  row ask(std::span<const std::int32_t> prefix, sequence& seq) {
    row out;
    std::vector<std::int32_t> rest(prefix.begin() + seq.tokens(), prefix.end());
    rest.insert(rest.end(), question.begin(), question.end());
    net.forward(rest, seq, {.on_logits = [&](int, std::span<const float> l) { out.assign(l.begin(), l.end()); }});
    return out;
  }

  double error(const row& got) const {
    double e = 0, size = 0;
    for (std::size_t i = 0; i < got.size(); ++i) {
      e += std::pow(double(got[i]) - double(expected[i]), 2);
      size += std::pow(double(expected[i]), 2);
    }
    return std::sqrt(e / size);
  }

  std::vector<std::string> objects() const {  // in the order of the chunks
    std::vector<std::string> names;
    prefix_cache p{net, sluice::profile::uncalibrated(kv_shape(net.config())), kept, threads};
    for (int end : {prefix_cache::chunk_tokens, 2 * prefix_cache::chunk_tokens, tokens})
      names.push_back(folder.path + "/" + p.name_of(std::span(ids).first(std::size_t(end))));
    return names;
  }

  // The object of the chunk that ends at `end`, as it is with a profile of three levels.
  std::string of_another_profile(int end) {
    const servers::temporary_folder other;
    sluice::stream::file_source other_files(other.path);
    source_of other_store(other_files);
    prefix_cache p(net, sluice::profile::uncalibrated(kv_shape(net.config()), 3), other_store, threads);
    p.save(ids, document, 4);
    return contents(other.path + "/" + p.name_of(std::span(ids).first(std::size_t(end))));
  }

  servers::temporary_folder folder;
  sluice::stream::file_source files{folder.path};
  mutable source_of<sluice::stream::file_source> kept{files};
  tiny::temporary_file file;
  mutable thread_pool threads{2};
  mutable model net{file.path(), arithmetic::exact, threads};
  page_pool pages{net.config(), sluice::dtype::f16, 400};
  sequence document{pages};
  std::vector<std::int32_t> ids, question;
  row expected;
};

// Where the first tile of an object lies.
std::size_t base_tile(const std::string& object) {
  sluice::frame_index index;
  const auto bytes = std::as_bytes(std::span(object)).subspan(sizeof(sluice::stream::object_header));
  REQUIRE(index.parse(bytes) == sluice::status::ok);
  return sizeof(sluice::stream::object_header) + std::size_t(index.range(0).begin);
}
void overwrite(const std::string& path, const std::string& bytes) {
  std::ofstream(path, std::ios::binary | std::ios::trunc) << bytes;
}

}  // namespace

TEST_CASE("prefix: what was saved is found by its tokens, and a finer level answers better") {
  fixture f;
  prefix_cache p = f.prefixes();
  const save_report saved = p.save(f.ids, f.document, sluice::max_passes);
  CHECK(saved.chunks == 3);
  CHECK(saved.already_there == 0);
  CHECK(saved.bytes < saved.raw_bytes);
  CHECK(p.save(f.ids, f.document, sluice::max_passes).already_there == 3);
  double last = 10;
  std::size_t bytes = 0;
  for (int level = 0; level < 4; ++level) {
    CAPTURE(level);
    sequence seq(f.pages);
    const restore_report r = p.restore(f.ids, seq, level);
    CHECK(r.tokens == fixture::tokens);
    CHECK(r.missing.empty());
    CHECK(r.bytes > bytes);  // a coarser level is not even read
    CHECK(r.bytes <= saved.bytes);
    bytes = r.bytes;
    const double e = f.error(f.ask(f.ids, seq));
    CHECK(e < last);
    last = e;
  }
  CHECK(last < 0.15);
}

TEST_CASE("prefix: a longer prompt continues after the stored chunks it shares, another one where it differs") {
  fixture f;
  prefix_cache p = f.prefixes();
  p.save(f.ids, f.document, sluice::max_passes);
  std::vector<std::int32_t> longer = f.ids;
  longer.resize(fixture::tokens + 500, 3);
  sequence a(f.pages), b(f.pages), c(f.pages);
  CHECK(p.restore(longer, a, 3).tokens == 2 * prefix_cache::chunk_tokens);
  std::vector<std::int32_t> other = f.ids;
  other[prefix_cache::chunk_tokens + 7] ^= 1;
  CHECK(p.restore(other, b, 3).tokens == prefix_cache::chunk_tokens);
  other[0] ^= 1;
  CHECK(p.restore(other, c, 3).tokens == 0);
}

TEST_CASE("prefix: pages that an object fails to fill are named, and computing them gives the right answer") {
  fixture f;
  f.prefixes().save(f.ids, f.document, sluice::max_passes);
  const std::vector<std::string> objects = f.objects();
  std::vector<std::string> sound;
  for (const std::string& o : objects) sound.push_back(contents(o));
  sequence whole(f.pages);
  prefix_cache p = f.prefixes();
  p.restore(f.ids, whole, 3);
  const double usual = f.error(f.ask(f.ids, whole));

  const auto attack = [&](const char* what, sluice::status why, const std::function<void()>& damage) {
    CAPTURE(what);
    damage();
    sequence seq(f.pages);
    const restore_report r = p.restore(f.ids, seq, 3);
    CHECK(r.tokens == fixture::tokens);
    REQUIRE_FALSE(r.missing.empty());
    CHECK(r.missing.front().why == why);
    compute(f.net, f.ids, seq, r.missing);
    CHECK(f.error(f.ask(f.ids, seq)) < 1.5 * usual);
    for (std::size_t i = 0; i < objects.size(); ++i) overwrite(objects[i], sound[i]);
  };
  attack("a flipped bit", sluice::status::corrupt_tile, [&] {
    std::string s = sound[1];
    s[base_tile(s)] = char(s[base_tile(s)] ^ 16);
    overwrite(objects[1], s);
  });
  attack("a flipped bit of the name", sluice::status::corrupt_header, [&] {
    std::string s = sound[1];
    s[20] = char(s[20] ^ 1);
    overwrite(objects[1], s);
  });
  attack("an object of other tokens", sluice::status::wrong_key, [&] { overwrite(objects[0], sound[1]); });
  attack("half of it", sluice::status::truncated, [&] { overwrite(objects[2], sound[2].substr(0, 2000)); });
  attack("nothing", sluice::status::truncated, [&] { overwrite(objects[0], ""); });
  attack("another kind of file", sluice::status::not_a_frame, [&] { overwrite(objects[2], std::string(5000, 'x')); });
  attack("the key's header before garbage", sluice::status::not_a_frame,
         [&] { overwrite(objects[1], sound[1].substr(0, 48) + std::string(5000, 'x')); });

  // A bit of every 97th byte: never unnoticed.
  std::mt19937_64 random(1);
  for (std::size_t at = 0; at < sound[0].size(); at += 97) {
    CAPTURE(at);
    std::string s = sound[0];
    s[at] = char(s[at] ^ (1 << random() % 8));
    overwrite(objects[0], s);
    sequence seq(f.pages);
    const restore_report r = p.restore(f.ids, seq, 3);
    CHECK((!r.missing.empty() || r.degraded_pages > 0));
  }
}

TEST_CASE("prefix: other models, profiles and codecs do not find these objects; an unusable store says why") {
  fixture f;
  f.prefixes().save(f.ids, f.document, sluice::max_passes);
  sluice::profile finer = sluice::profile::uncalibrated(kv_shape(f.net.config()), 3);
  sequence seq(f.pages);
  CHECK(prefix_cache(f.net, finer, f.kept, f.threads).restore(f.ids, seq, 3).tokens == 0);
  fixture other({.arch = "llama", .layers = 4, .seed = 6});
  sequence seq2(other.pages);
  CHECK(prefix_cache(other.net, other.prefixes().profile(), f.kept, f.threads).restore(f.ids, seq2, 3).tokens == 0);
  CHECK_THROWS_WITH(
      prefix_cache(f.net, sluice::profile::uncalibrated(sluice::model_shape::uniform(2, 2, 16)), f.kept, f.threads),
      "the profile is of a model with another shape");
  sluice::stream::file_source below_a_file(f.file.path() + "/store");
  source_of nowhere(below_a_file);
  prefix_cache p(f.net, f.prefixes().profile(), nowhere, f.threads);
  CHECK_THROWS_AS(p.save(f.ids, f.document, 4), std::runtime_error);
  const restore_report r = p.restore(f.ids, seq, 3);
  CHECK(r.tokens == 0);
  REQUIRE(r.unread.size() == 1);
  CHECK(r.unread[0].tokens == fixture::tokens);
  CHECK(r.unread[0].why != sluice::status::not_found);
}

TEST_CASE("prefix: what levels were measured to lose stands in the objects") {
  fixture f;
  prefix_cache p = f.prefixes();
  const sluice::document_steps steps{.coarser = 2, .loss = {0.2, 0.02, 0.002, 0.0002}};
  p.save(f.ids, f.document, sluice::max_passes, true, steps);
  const located_prefix found = p.locate(f.ids, true);
  REQUIRE(found.chunks.size() == 3);
  for (const located_chunk& c : found.chunks)
    for (int j = 0; j < 4; ++j) CHECK(c.index.header().loss_of(j) == doctest::Approx(steps.loss[j]).epsilon(0.05));
}

TEST_CASE("prefix: a second save repairs what is damaged, refines what is coarser, and leaves all else as it is") {
  fixture f;
  prefix_cache p = f.prefixes();
  p.save(f.ids, f.document, sluice::max_passes, true);
  const std::vector<std::string> objects = f.objects();
  std::vector<std::string> sound;
  for (const std::string& o : objects) sound.push_back(contents(o));
  const auto all_sound = [&] {
    for (std::size_t i = 0; i < objects.size(); ++i) CHECK(contents(objects[i]) == sound[i]);
  };
  const auto repair = [&](const char* what, int chunk, sluice::status why, const std::string& damaged, int levels = 4) {
    CAPTURE(what);
    overwrite(objects[std::size_t(chunk)], damaged);
    const save_report r = p.save(f.ids, f.document, levels);
    CHECK(r.already_there == 2);
    REQUIRE(r.replaced.size() == 1);
    CHECK(r.replaced[0].position == chunk * prefix_cache::chunk_tokens);
    CHECK(r.replaced[0].why == why);
    all_sound();
    CHECK(p.save(f.ids, f.document, levels).replaced.empty());
  };
  const auto flipped = [](std::string s, std::size_t at) {
    s[at] = char(s[at] ^ 4);
    return s;
  };
  repair("a byte of the base", 1, sluice::status::corrupt_tile, flipped(sound[1], base_tile(sound[1])));
  repair("the last byte of the finest level", 1, sluice::status::corrupt_tile, flipped(sound[1], sound[1].size() - 1));
  repair("a byte of the header", 0, sluice::status::corrupt_header, flipped(sound[0], 60));
  repair("half of it", 2, sluice::status::truncated, sound[2].substr(0, sound[2].size() / 2));
  repair("all but a byte", 2, sluice::status::truncated, sound[2].substr(0, sound[2].size() - 1));
  repair("nothing", 0, sluice::status::truncated, "");
  repair("another kind of file", 0, sluice::status::not_a_frame, std::string(5000, 'x'));
  repair("an object of another key", 0, sluice::status::wrong_key, sound[1]);
  repair("a frame of other positions", 0, sluice::status::wrong_positions,
         sound[0].substr(0, 48) + sound[1].substr(48));
  repair("a byte of the base, where less is asked for", 1, sluice::status::corrupt_tile,
         flipped(sound[1], base_tile(sound[1])), 1);

  const std::string foreign = f.of_another_profile(prefix_cache::chunk_tokens);
  repair("a frame of another profile", 0, sluice::status::wrong_profile, sound[0].substr(0, 48) + foreign.substr(48));

  // What is there at a coarser level is refined, what is finer than asked for stays.
  for (const std::string& o : objects) fs::remove(o);
  p.save(f.ids, f.document, 1);
  CHECK(contents(objects[0]).size() < sound[0].size());
  const save_report finer = p.save(f.ids, f.document, 4);
  CHECK(finer.already_there == 0);
  REQUIRE(finer.replaced.size() == 1);
  CHECK(finer.replaced[0].tokens == fixture::tokens);
  CHECK(finer.replaced[0].why == sluice::status::level_not_present);
  all_sound();
  CHECK(p.save(f.ids, f.document, 2).already_there == 3);
  all_sound();

  // Exact copies as well.
  for (const located_chunk& c : p.locate(f.ids, true).chunks) {
    const std::string path = f.folder.path + "/" + sluice::stream::to_hex(c.exact_key), whole = contents(path);
    CHECK(whole.size() == c.exact_bytes);
    overwrite(path, flipped(whole, whole.size() / 2));
    CHECK(p.save(f.ids, f.document, 4).replaced.empty());
    CHECK(p.save(f.ids, f.document, 4, true).replaced.size() == 1);
    CHECK(contents(path) == whole);
  }
}

TEST_CASE("prefix: reports name the level that pages hold, and a frame of another profile is refused by name") {
  fixture f;
  prefix_cache p = f.prefixes();
  p.save(f.ids, f.document, 1);
  {
    sequence seq(f.pages);
    const restore_report r = p.restore(f.ids, seq, 3);
    CHECK(r.levels == std::vector<int>{0, 0, 0});
    CHECK(r.degraded_pages == 0);
    REQUIRE(r.coarser.size() == 1);
    CHECK(r.coarser[0].tokens == fixture::tokens);
    CHECK(r.coarser[0].why == sluice::status::level_not_present);
  }
  p.save(f.ids, f.document, 4);
  {
    sequence seq(f.pages);
    const restore_report r = p.restore(f.ids, seq, 3);
    CHECK(r.levels == std::vector<int>{3, 3, 3});
    CHECK(r.coarser.empty());
  }
  const std::vector<std::string> objects = f.objects();
  const std::string sound = contents(objects[1]);
  sluice::frame_index index;
  REQUIRE(index.parse(std::as_bytes(std::span(sound)).subspan(48)) == sluice::status::ok);
  std::string damaged = sound;
  const std::size_t at = 48 + std::size_t(index.range(2, 0, 4).begin);  // a tile of the second refinement
  damaged[at] = char(damaged[at] ^ 1);
  overwrite(objects[1], damaged);
  {
    sequence seq(f.pages);
    const restore_report r = p.restore(f.ids, seq, 3);
    CHECK(r.levels == std::vector<int>{3, 1, 3});
    CHECK(r.degraded_pages > 0);
    REQUIRE(r.coarser.size() == 1);
    CHECK(r.coarser[0].position == prefix_cache::chunk_tokens);
    CHECK(r.coarser[0].why == sluice::status::degraded);
  }
  const std::string foreign = f.of_another_profile(2 * prefix_cache::chunk_tokens);
  overwrite(objects[1], sound.substr(0, 48) + foreign.substr(48));
  {
    sequence seq(f.pages);
    const restore_report r = p.restore(f.ids, seq, 3);
    CHECK(r.levels == std::vector<int>{3, -1, 3});
    REQUIRE(r.missing.size() == 1);
    CHECK(r.missing[0].position == prefix_cache::chunk_tokens);
    CHECK(r.missing[0].tokens == prefix_cache::chunk_tokens);
    CHECK(r.missing[0].why == sluice::status::wrong_profile);
  }
}

TEST_CASE("prefix: sliding windows: chunks in the middle of a sequence are whole, and so are its last tokens") {
  fixture f({.arch = "gemma3", .layers = 7, .seed = 9});
  prefix_cache p = f.prefixes();
  p.save(f.ids, f.document, 4);
  sequence seq(f.pages);
  const restore_report r = p.restore(f.ids, seq, 3);
  CHECK(r.levels == std::vector<int>{3, 3, 3});
  CHECK(r.missing.empty());
  CHECK(f.error(f.ask(f.ids, seq)) < 0.2);
}

TEST_CASE("prefix: weights, their type, tokenizer, arithmetic, pages and salt all tell caches apart") {
  thread_pool threads(1);
  const tiny::recipe usual{.arch = "llama", .seed = 5};
  std::vector<std::string> names;
  const std::vector<std::int32_t> ids(20, 7);
  const auto add = [&](std::string gguf, arithmetic mode, prefix_options options) {
    const tiny::temporary_file file(gguf);
    const model net(file.path(), mode, threads);
    sluice::stream::file_source files("/nowhere");
    source_of kept(files);
    names.push_back(
        prefix_cache(net, sluice::profile::uncalibrated(kv_shape(net.config())), kept, threads, options).name_of(ids));
  };
  const std::string gguf = tiny::make_gguf(usual);
  add(gguf, arithmetic::exact, {});
  add(tiny::make_gguf({.arch = "llama", .seed = 6}), arithmetic::exact, {});
  add(tiny::make_gguf({.arch = "llama", .seed = 5, .embedding = tensor_type::f16}), arithmetic::exact, {});
  std::string other_ids = gguf;  // another text behind one id
  other_ids.replace(other_ids.find("hello"), 5, "hellO");
  add(other_ids, arithmetic::exact, {});
  std::string other_weight = gguf;
  other_weight[gguf.size() - 100] = char(other_weight[gguf.size() - 100] ^ 1);
  add(other_weight, arithmetic::exact, {});
  if (int8::accelerated) add(gguf, arithmetic::fast, {});
  add(gguf, arithmetic::exact, {.kv = sluice::dtype::bf16});
  add(gguf, arithmetic::exact, {.kv = sluice::dtype::f32});
  add(gguf, arithmetic::exact, {.salt = "tenant"});
  add(gguf, arithmetic::exact, {.salt = "tenanu"});
  for (std::size_t i = 0; i < names.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) {
      CAPTURE(i);
      CAPTURE(j);
      CHECK(names[i] != names[j]);
    }
  add(gguf, arithmetic::exact, {.salt = "tenant"});
  CHECK(std::count(names.begin(), names.end(), names.back()) == 2);
}
