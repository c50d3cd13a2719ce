// SPDX-License-Identifier: Apache-2.0
// sluice-stream-hedge [READS]: reads of a chunk at level 1, one after the other, from a redis-server whose clients are paused
// (CLIENT PAUSE) in a share of the reads, without and with a second server behind it. Prints JSON: how long reads take, how many
// miss a deadline, and what is asked twice.

#include "sample.hpp"

#include <nlohmann/json.hpp>
#include <sluice/sluice.hpp>
#include <sluice/stream/store/object.hpp>
#include <sluice/stream/store/sources/hedged.hpp>
#include <sluice/stream/store/sources/redis.hpp>
#include <stream/servers.hpp>

#include <algorithm>
#include <cstdio>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;
using json = nlohmann::ordered_json;

constexpr double pause_seconds = 0.2, deadline_seconds = 0.05;
constexpr steady_clock_seconds now{};

// The sample's 256 tokens at level 1.
std::vector<std::byte> chunk() {
  const sample s;
  std::vector<std::byte> frame = s.frame(s.view());
  frame_index index;
  if (index.parse(frame) != status::ok) fail("no frame");
  frame.resize(index.size_at(1));
  return frame;
}

struct pausable {
  servers::temporary_folder folder;
  int port = servers::free_port();
  servers::server process{servers::redis_command(folder.path, port), port};
  int control = servers::connect_to(port);
  ~pausable() { ::close(control); }
  void pause() const { ask("CLIENT PAUSE " + std::to_string(int(pause_seconds * 1000)) + " ALL\r\n"); }
  // Is answered when clients are not paused any more, which takes Redis up to a tenth of a second longer.
  void resumed() const { ask("PING\r\n"); }

 private:
  void ask(const std::string& words) const {
    char answer[64];
    if (::send(control, words.data(), words.size(), 0) != ssize_t(words.size()) ||
        ::recv(control, answer, sizeof answer, 0) < 3 || answer[0] != '+')
      fail(words);
  }
};

template <byte_source Source>
json measure(Source& source, const pausable& primary, double share, int reads, std::size_t bytes) {
  std::mt19937 random(1);
  std::vector<double> seconds;
  std::vector<std::byte> buffer(bytes);
  int missed = 0;
  for (int i = 0; i < reads; ++i) {
    const bool stall = std::uniform_real_distribution<double>(0, 1)(random) < share;
    if (stall) primary.pause();
    const double begin = now();
    if (read(source, {"chunk", 0, buffer}, 10) != status::ok) fail("a read went wrong");
    seconds.push_back(now() - begin);
    missed += seconds.back() > deadline_seconds;
    if (stall) primary.resumed();
  }
  std::sort(seconds.begin(), seconds.end());
  const auto at = [&](double q) { return seconds[std::size_t(q * double(seconds.size() - 1))]; };
  return {{"p50_seconds", at(0.5)},
          {"p99_seconds", at(0.99)},
          {"max_seconds", seconds.back()},
          {"missed_share", double(missed) / reads}};
}

}  // namespace

int main(int argc, char** argv) {
  if (servers::find_program("redis-server").empty()) fail("needs redis-server");
  const int reads = argc > 1 ? std::atoi(argv[1]) : 500;
  const std::vector<std::byte> object = chunk();
  const pausable first, second;
  json rows = json::array();
  for (const double share : {0.0, 0.01, 0.05, 0.2}) {
    redis_source a({.port = first.port}), b({.port = second.port});
    hedged_source both(a, b);
    if (both.put("chunk", object) != status::ok) fail("put");
    json row{{"stalled_share", share}};
    row["one"] = measure(a, first, share, reads, object.size());
    row["hedged"] = measure(both, first, share, reads, object.size());
    const hedge_totals& t = both.totals();
    row["hedged"]["asked_twice_share"] = double(t.hedged) / double(t.reads);
    row["hedged"]["unused_bytes_share"] = double(t.unused_bytes) / double(t.reads * object.size());
    row["hedged"]["late_seconds"] = both.late_seconds();
    for (const char* how : {"one", "hedged"})
      std::fprintf(stderr, "%4.0f %% stalled, %-6s p50 %.2f ms, p99 %.2f ms, max %.2f ms, missed %.1f %%\n",
                   100 * share, how, 1e3 * row[how]["p50_seconds"].get<double>(),
                   1e3 * row[how]["p99_seconds"].get<double>(), 1e3 * row[how]["max_seconds"].get<double>(),
                   100 * row[how]["missed_share"].get<double>());
    rows.push_back(row);
  }
  std::printf("%s\n", json{{"cpu", cpu()},
                           {"cores", std::thread::hardware_concurrency()},
                           {"reads", reads},
                           {"bytes", object.size()},
                           {"pause_seconds", pause_seconds},
                           {"deadline_seconds", deadline_seconds},
                           {"rows", rows}}
                          .dump(1)
                          .c_str());
}
