// SPDX-License-Identifier: Apache-2.0
#include "../streamed.hpp"
#include "tiny_model.hpp"

#include <sluice/stream/policies.hpp>
#include <sluice/stream/source/file.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

using namespace engine;

TEST_CASE("stream: every policy ends with every token, whatever the store lost, and the right answer") {
  tiny::temporary_file file(tiny::make_gguf({.arch = "llama", .layers = 4, .seed = 7}));
  thread_pool threads(2);
  model net(file.path(), arithmetic::exact, threads);
  char pattern[] = "/tmp/sluice-store-XXXXXX";
  const std::string folder = ::mkdtemp(pattern);
  sluice::stream::file_source files(folder);
  store_of kept(files);
  prefix_cache prefixes(net, sluice::profile::uncalibrated(kv_shape(net.config())), kept, threads);
  page_pool pages(net.config(), sluice::dtype::f16, 400);
  std::mt19937_64 random(7);
  std::vector<std::int32_t> ids, question;
  for (int i = 0; i < 3 * prefix_cache::chunk_tokens + 60; ++i) ids.push_back(std::int32_t(random() % 256));
  for (int i = 0; i < 5; ++i) question.push_back(std::int32_t(random() % 256));
  const auto ask = [&](sequence& seq) {
    std::vector<float> out;
    net.forward(question, seq, {.on_logits = [&](int, std::span<const float> l) { out.assign(l.begin(), l.end()); }});
    return out;
  };
  sequence exact(pages);
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

  const machine_costs costs{0.1, 1e-4, 1e-9, 1e-9};
  const std::vector<located_chunk> chunks = prefixes.locate(ids, true);
  for (const bool damaged : {false, true}) {
    CAPTURE(damaged);
    if (damaged) {  // one chunk is gone with its exact copy, one is garbage
      std::filesystem::remove(folder + "/" + sluice::stream::to_hex(chunks[1].key));
      std::filesystem::remove(folder + "/" + sluice::stream::to_hex(chunks[1].exact_key));
      for (const sluice::digest& key : {chunks[2].key, chunks[2].exact_key}) {
        const std::string path = folder + "/" + sluice::stream::to_hex(key);
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
      sequence seq(pages);
      const stream_result r =
          stream_prefix(net, prefixes, kept, ids, seq, costs, {.policy = policy, .deadline_seconds = 5});
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
  sequence seq(pages);
  CHECK_THROWS_AS(stream_prefix(net, prefixes, kept, ids, seq, costs, {.policy = "always_raw"}), std::runtime_error);
  sequence other(pages);
  CHECK_THROWS_AS(stream_prefix(net, prefixes, kept, ids, other, costs, {.policy = "none"}), std::runtime_error);
  std::filesystem::remove_all(folder);
}

TEST_CASE("stream: a store that is not there costs nothing but the computing") {
  tiny::temporary_file file(tiny::make_gguf({.arch = "llama", .layers = 2, .seed = 8}));
  thread_pool threads(1);
  model net(file.path(), arithmetic::exact, threads);
  sluice::stream::file_source files(file.path() + "/nowhere");
  store_of kept(files);
  prefix_cache prefixes(net, sluice::profile::uncalibrated(kv_shape(net.config())), kept, threads);
  page_pool pages(net.config(), sluice::dtype::f16, 40);
  sequence seq(pages);
  const std::vector<std::int32_t> ids(300, 65);
  const stream_result r = stream_prefix(net, prefixes, kept, ids, seq, {0.1, 1e-4, 0, 1e-9}, {.deadline_seconds = 1});
  CHECK(r.stored == 0);
  CHECK(r.report.outcome == sluice::status::ok);
  CHECK(r.report.recomputed_tokens == 300);
}
