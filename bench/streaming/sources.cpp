// SPDX-License-Identifier: Apache-2.0
// sluice-stream-sources [BYTES]: a context of that many coded bytes, in objects of 4 to 8 MiB, read from a redis-server on
// loopback, beside redis-benchmark's own GET of values of that size in the same run; then with decoding beside it.
// Prints JSON.

#include "sample.hpp"

#include <nlohmann/json.hpp>
#include <sluice/sluice.hpp>
#include <sluice/stream/plan/policy/control.hpp>
#include <sluice/stream/run/loops.hpp>
#include <sluice/stream/run/page_decoder.hpp>
#include <sluice/stream/store/chunk.hpp>
#include <sluice/stream/store/sources/redis.hpp>
#include <stream/servers.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <vector>

#ifndef SLUICE_TEST_DATA
#define SLUICE_TEST_DATA "test/data"
#endif

namespace {

using namespace sluice;
using namespace sluice::stream;
using json = nlohmann::ordered_json;

constexpr int repeats = 9;       // of reading, ours and theirs in turn
constexpr int slow_repeats = 2;  // of what decodes
constexpr steady_clock_seconds now{};

double median(std::vector<double> x) {
  std::sort(x.begin(), x.end());
  return (x[(x.size() - 1) / 2] + x[x.size() / 2]) / 2;
}

// The sample context, again and again: `tokens` tokens whose pages are its 256 tokens in turn.
struct long_context {
  sample of;
  std::vector<std::int32_t> slots;
  kv_view view = of.view();

  explicit long_context(int tokens) : slots(std::size_t(tokens)) {
    for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = std::int32_t(i % std::size_t(view.tokens));
    view.mode = addressing::slots;
    view.indices = slots.data();
    view.num_indices = view.tokens = tokens;
  }
};

// redis-benchmark's best of a few shapes, in bytes per second.
double rival(int port, std::size_t size, std::size_t requests, std::string& shape) {
  double best = 0;
  redis_source redis({.port = port});
  if (redis.put("key:__rand_int__", std::vector<std::byte>(size, std::byte{'x'})) != status::ok) fail("put");
  for (const char* how : {"-c 1 -P 1", "-c 2 -P 1", "-c 4 -P 1", "-c 1 -P 4"}) {
    const std::string command = servers::find_program("redis-benchmark") + " -p " + std::to_string(port) + " -d " +
                                std::to_string(size) + " -n " + std::to_string(requests) + " " + how +
                                " --csv -t get 2>/dev/null";
    std::FILE* out = ::popen(command.c_str(), "r");
    if (!out) fail("redis-benchmark cannot be run");
    char line[512];
    while (std::fgets(line, sizeof line, out)) {
      double per_second = 0;
      if (std::sscanf(line, "\"GET\",\"%lf\"", &per_second) == 1 && per_second * double(size) > best) {
        best = per_second * double(size);
        shape = how;
      }
    }
    ::pclose(out);
  }
  return best;
}

struct engine {
  page_decoder<> decoder;
  page_status decode(int chunk, int level, std::span<const std::byte> frame) {
    return decoder.decode(chunk, level, frame);
  }
  status compute(const step&, const std::stop_token&) { return status::unsupported_type; }
};

json measure(int tokens, std::size_t wanted) {
  const long_context source_context(tokens);
  encoder<> e(source_context.of.model);
  std::vector<std::byte> frame(e.max_size(source_context.view));
  frame.resize(e.encode(source_context.view, frame).value());
  const std::size_t size = sizeof(object_header) + frame.size(), count = (wanted + size - 1) / size;

  servers::temporary_folder folder;
  const int port = servers::free_port();
  const servers::server server(servers::redis_command(folder.path, port), port);
  redis_source redis({.port = port});
  std::vector<stored_chunk> names(count);
  std::vector<chunk_cost> chunks;
  frame_index index;
  if (index.parse(frame) != status::ok) fail("no frame");
  const std::uint64_t values = decoded_size_of(index).values;
  for (std::size_t i = 0; i < count; ++i) {
    names[i].key = sha256().add(i).finish();
    const std::int64_t position = std::int64_t(i) * tokens;
    if (redis.put(to_hex(names[i].key), object_at(frame, position, names[i].key)) != status::ok) fail("put");
    chunks.push_back(chunk_of(index, size, {std::vector<double>(index.header().passes)}));
    chunks.back().position = position;
  }

  std::vector<double> theirs, ours, together, alone;
  std::string shape;
  // The pages of the whole context are those of one object in turn: its memory would be four times the coded bytes.
  const layer_shape& s = source_context.of.model.shape.layers[0];
  const std::size_t row = std::size_t(s.num_kv_heads * s.head_dim_k) * 2;
  std::vector<std::byte> memory(2 * 30 * std::size_t(tokens) * row);
  std::vector<std::byte*> bases;
  for (std::size_t p = 0; p < 60; ++p) bases.push_back(memory.data() + p * std::size_t(tokens) * row);
  std::vector<std::int32_t> slots(count * std::size_t(tokens));
  for (std::size_t i = 0; i < slots.size(); ++i) slots[i] = std::int32_t(i % std::size_t(tokens));
  kv_view view = source_context.view;
  view.indices = slots.data();
  view.num_indices = view.tokens = std::int64_t(slots.size());
  view.capacity = tokens;
  view.k.layer_bases = bases.data();
  view.v.layer_bases = bases.data() + 30;
  const cost_model cost = cost_model::make(chunks, {.recompute_seconds_per_token = 1}, index.header().passes).value();

  for (int r = 0; r < repeats; ++r) {
    theirs.push_back(rival(port, size, 128, shape));

    std::vector<std::vector<std::byte>> buffers(2, std::vector<std::byte>(size));
    double begin = now();
    std::size_t sent = 0, done = 0;
    for (; sent < 2 && sent < count; ++sent) redis.submit({to_hex(names[sent].key), 0, buffers[sent % 2]});
    while (done < count) {
      completion c;
      if (redis.poll({&c, 1}, 10) != 1 || c.state != status::ok) fail("read");
      ++done;
      if (sent < count) {
        redis.submit({to_hex(names[sent].key), 0, buffers[sent % 2]});
        ++sent;
      }
    }
    ours.push_back(double(count * size) / (now() - begin));
    if (r >= slow_repeats) continue;

    engine sink{page_decoder<>(source_context.of.model, cost, {&view, 1})};
    link_history link;
    const planner<policy::fixed_level<9>> plan(cost);
    executor<policy::fixed_level<9>, redis_source> x(plan, redis, names, link, 1000, {.memory_bytes = 64u << 20});
    const report& told = run_threaded(x, sink);
    if (told.outcome != status::ok || !told.faults.empty()) fail("a request went wrong");
    together.push_back(double(told.bytes) / told.seconds);

    const std::vector<std::byte> object = object_at(frame, 0, names[0].key);
    begin = now();
    for (int k = 0; k < 8; ++k)
      if (sink.decode(0, index.header().passes - 1, std::span(object).subspan(sizeof(object_header))).worst !=
          status::ok)
        fail("decode");
    alone.push_back(8 * double(size) / (now() - begin));
  }
  const double fetch = median(ours), both = median(together), decode = median(alone), other = median(theirs);
  std::fprintf(stderr, "%zu objects of %.2f MiB: redis-benchmark %.2f GB/s, fetch %.2f, decode %.2f, both %.2f GB/s\n",
               count, double(size) / (1 << 20), other / 1e9, fetch / 1e9, decode / 1e9, both / 1e9);
  return {
      {"object_bytes", size},
      {"objects", count},
      {"bytes", count * size},
      {"redis_benchmark_bytes_per_second", other},
      {"redis_benchmark_shape", shape},
      {"fetch_bytes_per_second", fetch},
      {"fetch_share_of_redis_benchmark", fetch / other},
      {"decode_bytes_per_second", decode},
      {"decode_values_per_second", decode / double(size) * double(values)},
      {"fetch_and_decode_bytes_per_second", both},
      {"raw_bytes_per_second", both / double(size) * double(values) * 2},
      {"bottleneck", decode < fetch ? "decode" : "fetch"},
      {"samples", {{"redis_benchmark", theirs}, {"fetch", ours}, {"decode", alone}, {"fetch_and_decode", together}}}};
}

}  // namespace

int main(int argc, char** argv) {
  if (servers::find_program("redis-server").empty() || servers::find_program("redis-benchmark").empty())
    fail("needs redis-server and redis-benchmark");
  const std::size_t bytes = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : std::size_t{1} << 30;
  json all = json::array();
  for (int tokens : {544, 896}) all.push_back(measure(tokens, bytes));
  std::printf("%s\n", json{{"cores", std::thread::hardware_concurrency()},
                           {"repeats", repeats},
                           {"repeats_with_decoding", slow_repeats},
                           {"medians", all}}
                          .dump(1)
                          .c_str());
}
