// SPDX-License-Identifier: Apache-2.0
// sluice-stream-tiers REQUESTS.jsonl [REQUESTS]: the first requests of a trace on a real redis-server and real files as tiers of
// one store, which keep real frames as a placement policy decides: least recently used objects, the same level by level, and the
// policy that truncates. A block of the trace is stood for by 32 tokens of SmolLM2, all levels of `balanced`. What is there is
// read at the level that the policy's costs say, what is not is put. Prints JSON: shares of hits, what reads took, and what they
// lose. Reading and writing are real, computing is what the engine takes for so many tokens; placement sees the trace's times.

#include "sample.hpp"

#include <simulation.hpp>
#include <sluice/sluice.hpp>
#include <sluice/stream/store/sources/file.hpp>
#include <sluice/stream/store/sources/redis.hpp>
#include <sluice/stream/store/sources/tiered.hpp>
#include <stream/servers.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unordered_set>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;

constexpr int block_tokens = 32;
constexpr double seconds_per_token = 6e-4, seconds_per_token_position = 4.4e-7;  // of bench/results/resume.json
constexpr steady_clock_seconds now{};

struct trace_clock {
  const double* seconds;
  double operator()() const noexcept { return *seconds; }
};

template <class Policy>
json replay(const std::vector<traced_request>& requests, const profile& model, const std::vector<std::byte>& frame,
            double fast_bytes, double slow_bytes) {
  servers::temporary_folder folder;
  const int port = servers::free_port();
  const servers::server server(servers::redis_command(folder.path, port), port);
  redis_source redis({.port = port});
  file_source files(folder.path + "/objects");
  if (files.create() != status::ok) fail("no folder");
  source_of<redis_source> fast(redis);
  source_of<file_source> slow(files);
  tiered_options o;
  o.worth = {context_loss::of(model, 2048), seconds_per_token, seconds_per_token_position, 1};
  double time = 0;
  tiered_source<Policy, any_source, trace_clock> store(
      {{&fast, {fast_bytes, 1e9, 2e-4, 0}}, {&slow, {slow_bytes, 5e8, 5e-4, 0}}}, o, {}, {&time});

  double read_seconds = 0, put_seconds = 0, settle_seconds = 0, computed_seconds = 0, loss = 0;
  std::size_t accesses = 0, hits = 0, finest = 0, read_bytes = 0;
  std::vector<std::byte> buffer;
  for (const traced_request& r : requests) {
    time = r.arrival_seconds;
    for (std::size_t i = 0; i < r.ids.size(); ++i, ++accesses) {
      const digest key = sha256().add(std::uint64_t(r.ids[i])).finish();
      const std::string name = to_hex(key);
      const std::vector<std::byte> object = object_at(frame, std::int64_t(i) * block_tokens, key);
      const placed_item item = levels_of(object, object.size(), o.worth).item;
      double begin = now();
      if (const int level = store.best_level(name); level >= 0) {
        buffer.assign(std::size_t(item.bytes[std::size_t(level)]), std::byte{0});
        const ticket t = store.submit({name, 0, buffer});
        completion done;
        while (store.poll({&done, 1}, 1) == 0) continue;
        if (done.which != t || done.state != status::ok) fail("a read went wrong");
        read_seconds += now() - begin;
        const std::size_t head = sizeof(object_header) + sizeof(frame_header);
        if (!std::equal(buffer.begin() + head, buffer.end(), object.begin() + head)) fail("other bytes than were put");
        ++hits;
        finest += std::size_t(level) + 1 == item.bytes.size();
        read_bytes += buffer.size();
        loss += item.loss[std::size_t(level)];
        begin = now();
        store.settle();
        settle_seconds += now() - begin;
        continue;
      }
      computed_seconds += item.recompute_seconds;
      if (const status s = store.put(name, object); s != status::ok && s != status::no_space) fail("a put went wrong");
      put_seconds += now() - begin;
    }
  }
  const placement_moves& m = store.moves();
  const double n = double(requests.size());
  std::fprintf(stderr, "%-12s %4.0f MB + %4.0f MB: hits %.1f %%, %.3f ms a read, loss %.5f nats a request\n",
               std::string(Policy::name).c_str(), fast_bytes / 1e6, slow_bytes / 1e6,
               100 * double(hits) / double(accesses), 1e3 * read_seconds / double(std::max<std::size_t>(hits, 1)),
               loss / n);
  return {{"policy", Policy::name},
          {"redis_bytes", fast_bytes},
          {"file_bytes", slow_bytes},
          {"accesses", accesses},
          {"hit_share", double(hits) / double(accesses)},
          {"finest_share_of_hits", double(finest) / double(std::max<std::size_t>(hits, 1))},
          {"seconds_per_read", read_seconds / double(std::max<std::size_t>(hits, 1))},
          {"bytes_per_read", double(read_bytes) / double(std::max<std::size_t>(hits, 1))},
          {"read_and_compute_seconds_per_request", (read_seconds + computed_seconds) / n},
          {"loss_nats_per_request", loss / n},
          {"put_seconds_per_put", put_seconds / double(std::max<std::size_t>(accesses - hits, 1))},
          {"settle_seconds_per_read", settle_seconds / double(std::max<std::size_t>(hits, 1))},
          {"demoted", m.demoted},
          {"truncated", m.truncated},
          {"dropped", m.dropped},
          {"moved_bytes", m.moved_bytes}};
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || servers::find_program("redis-server").empty()) fail("needs a trace of requests, and redis-server");
  const std::vector<traced_request> requests =
      load_requests(argv[1], argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 2000);
  const sample s;
  const std::vector<std::byte> frame = s.frame(s.view().slice(32, 32 + block_tokens));
  std::unordered_set<std::int64_t> ids;
  for (const traced_request& r : requests) ids.insert(r.ids.begin(), r.ids.end());
  const double all = double(ids.size()) * double(sizeof(object_header) + frame.size());
  json rows = json::array();
  for (const double share : {0.01, 0.03, 0.1}) {
    const double fast = share * all, slow = 3 * fast;
    rows.push_back(replay<placement_policies::lru>(requests, s.model, frame, fast, slow));
    rows.push_back(replay<placement_policies::lru_levels>(requests, s.model, frame, fast, slow));
    rows.push_back(replay<placement_policies::truncating>(requests, s.model, frame, fast, slow));
  }
  std::printf("%s\n", json{{"cpu", cpu()},
                           {"cores", std::thread::hardware_concurrency()},
                           {"trace", std::string(argv[1]).substr(std::string(argv[1]).rfind('/') + 1)},
                           {"requests", requests.size()},
                           {"blocks", ids.size()},
                           {"block_tokens", block_tokens},
                           {"object_bytes", sizeof(object_header) + frame.size()},
                           {"all_bytes", all},
                           {"rows", rows}}
                          .dump(1)
                          .c_str());
}
