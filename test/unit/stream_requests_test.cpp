// SPDX-License-Identifier: Apache-2.0
// The readers of link and request traces behind `sluice simulate`, on files that nobody vouches for.
#include <nlohmann/json.hpp>
#include <simulation.hpp>

#include <doctest/doctest.h>

#include <unistd.h>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <tuple>

namespace {

// A folder that is gone at the end of the test.
struct scratch {
  scratch() : path(std::filesystem::temp_directory_path() / ("sluice_requests_" + std::to_string(::getpid()))) {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  ~scratch() { std::filesystem::remove_all(path); }
  std::string write(const std::string& name, const std::string& text) const {
    std::ofstream(path / name, std::ios::binary) << text;
    return (path / name).string();
  }
  std::filesystem::path path;
};

template <class F>
std::string message_of(F&& f) {
  try {
    f();
  } catch (const failure& e) {
    CHECK(e.code == 1);
    return e.what();
  }
  return {};
}

}  // namespace

TEST_CASE("requests: what an earlier one had is stored, up to the first block that none had") {
  const scratch dir;
  const std::string f =
      dir.write("r.jsonl",
                "{\"timestamp\": 0, \"input_length\": 1025, \"output_length\": 3, \"hash_ids\": [1, 2, 3]}\n\r\n"
                "{\"timestamp\": 500, \"input_length\": 2048, \"hash_ids\": [1, 2, 9, 3]}\n");
  const auto r = load_requests(f);
  REQUIRE(r.size() == 2);
  CHECK(r[0].stored == std::vector<bool>{false, false, false});
  CHECK(r[1].arrival_seconds == 0.5);
  CHECK(r[1].stored == std::vector<bool>{true, true, false, false});
  const streamed_model& m = streamed_models[1];
  const auto costs = costs_of(r, m, measured_curve(m.curve), 0.01);
  CHECK(costs[0].num_chunks() == 3);
  CHECK(costs[0].chunk(2).tokens == 1);
  CHECK(costs[1].stored(1));
  CHECK_FALSE(costs[1].stored(2));
  CHECK(load_requests(f, 1).size() == 1);
}

TEST_CASE("traces that are wrong are refused with file, line and reason") {
  const scratch dir;
  const std::string good = "{\"timestamp\": 5, \"input_length\": 600, \"hash_ids\": [1, 2]}\n";
  const std::tuple<std::string, std::string> bad[] = {
      {"", "holds no requests"},
      {"\n\n", "holds no requests"},
      {"x\n", ":1: not a JSON object"},
      {good + "[1]\n", ":2: not a JSON object"},
      {good + "{\"timestamp\": 6, \"input_length\": 600}\n", ":2: no hash_ids"},
      {"{\"timestamp\": \"5\", \"input_length\": 600, \"hash_ids\": []}\n",
       ":1: timestamp, input_length or hash_ids has another type"},
      {"{\"timestamp\": -5, \"input_length\": 600, \"hash_ids\": []}\n", ":1: timestamp out of range"},
      {"{\"timestamp\": 1e400, \"input_length\": 600, \"hash_ids\": []}\n", ":1: not a JSON object"},
      {good + "{\"timestamp\": 4, \"input_length\": 600, \"hash_ids\": []}\n", ":2: timestamps descend"},
      {"{\"timestamp\": 5, \"input_length\": 0, \"hash_ids\": []}\n", ":1: input_length out of range"},
      {"{\"timestamp\": 5, \"input_length\": 99999999999, \"hash_ids\": []}\n", ":1: input_length out of range"},
      {"{\"timestamp\": 5, \"input_length\": 600, \"hash_ids\": [1, 2, 3]}\n",
       ":1: more hash_ids than blocks of 512 tokens"},
      {"{\"timestamp\": 5, \"input_length\": 600, \"hash_ids\": [1, \"a\"]}\n",
       ":1: hash_ids holds what is no integer"},
      {"{\"timestamp\": 5, \"input_length\": 600, \"hash_ids\": " + std::string(100000, '[') + "\n",
       ":1: not a JSON object"},
  };
  for (const auto& row : bad) {
    const std::string &text = std::get<0>(row), &what = std::get<1>(row);
    CAPTURE(what);
    const std::string f = dir.write("bad.jsonl", text);
    const std::string said = message_of([&] { load_requests(f); });
    CHECK(said.starts_with(f + ":"));
    CHECK(said.ends_with(what));
  }
  CHECK(message_of([&] { load_requests(dir.path.string()); }).ends_with("Is a directory"));
  CHECK(message_of([&] { load_requests("/nonexistent/file"); }).ends_with("No such file or directory"));

  const std::filesystem::path links = dir.path / "links";
  std::filesystem::create_directories(links);
  CHECK(message_of([&] { load_links(links.string()); }).ends_with("holds no link traces (*.csv)"));
  CHECK_FALSE(message_of([&] { load_links((dir.path / "none").string()); }).empty());
  dir.write("links/a_1.csv", "duration_s,bandwidth_bps,latency_s\n1,8,0\n");
  dir.write("links/notes.txt", "no trace");
  CHECK(load_links(links.string()).size() == 1);
  CHECK(load_links(links.string())[0].group == "a");
  dir.write("links/b_1.csv", "duration_s,bandwidth_bps,latency_s\n1,0,0\n");
  auto dead = load_links(links.string());
  CHECK(message_of([&] { scale_groups(dead, 1e6); }) == "links b_*: nothing ever passes");
  dir.write("links/b_1.csv", "duration_s,bandwidth_bps,latency_s\n1,8,0\n1,,0\n");
  CHECK(message_of([&] { load_links(links.string()); }).ends_with("b_1.csv:3: not a number"));
}

TEST_CASE("damaged request traces are read or refused, never worse") {
  const scratch dir;
  std::string good;
  for (int i = 0; i < 5; ++i)
    good += "{\"timestamp\": " + std::to_string(i * 100) +
            ", \"input_length\": 1500, \"output_length\": 7, \"hash_ids\": [0, " + std::to_string(i) + ", " +
            std::to_string(i + 1) + "]}\n";
  int read = 0;
  for (unsigned seed = 0; seed < 400; ++seed) {
    CAPTURE(seed);
    std::mt19937 rng(seed);
    std::string text = good;
    for (int i = 0; i < 2; ++i) text[rng() % text.size()] = seed % 2 ? char('0' + rng() % 10) : char(rng());
    const std::string f = dir.write("damaged.jsonl", text);
    try {
      const auto r = load_requests(f);
      ++read;
      for (const traced_request& one : r) CHECK(one.stored.size() == std::size_t(one.tokens + 511) / 512);
    } catch (const failure& e) {
      CHECK(e.code == 1);
    }
  }
  CHECK(read > 0);
  CHECK(read < 400);
}

TEST_CASE("links scale to a mean, and policies are found by name") {
  auto links = made_up_links();
  const auto factors = scale_groups(links, 5e8);
  REQUIRE(factors.size() == 1);
  double bytes = 0, seconds = 0;
  for (const named_link& l : links) {
    bytes += l.trace.mean_bytes_per_second() * l.trace.seconds();
    seconds += l.trace.seconds();
  }
  CHECK(bytes / seconds == doctest::Approx(5e8));
  for (std::string_view name : sluice::stream::policy_names) {
    std::string_view found;
    CHECK(sluice::stream::with_policy(name, [&](auto p) { found = p.name; }));
    CHECK(found == name);
  }
  CHECK_FALSE(sluice::stream::with_policy("none", [](auto) {}));
}
