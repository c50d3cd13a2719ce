// SPDX-License-Identifier: Apache-2.0
// sluice-stream-sockets TRACE.csv...: the same requests in the simulator and for real, from a redis-server and a web server
// whose link is slowed down to the trace: as it is, with a first byte after 300 ms, and with outages. Options are the
// defaults. Prints JSON: seconds until the cache is usable, by policy and link, and how far real ones are from simulated.
// Fetching, verifying and decoding are real; a decode and a computation then last as long as the cost model says.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <sluice/stream/plan/policy/cachegen.hpp>
#include <sluice/stream/plan/policy/cake.hpp>
#include <sluice/stream/plan/policy/control.hpp>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/store/sources/shaped.hpp>
#include <sluice/stream/study/simulator.hpp>
#include <stream/stores.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

namespace {

using namespace sluice;
using namespace sluice::stream;
using json = nlohmann::ordered_json;

constexpr double deadline_seconds = 1.2;  // less than computing everything takes
constexpr int repeats = 3;                // the median counts
constexpr double most_apart = 0.1;        // of a request's simulated seconds, for the median of its repeats
constexpr double raw_seconds =
    2;  // that the uncompressed cache takes at the mean rate of a trace, which is scaled to this

cost_model costs() {
  cost_rates r;
  r.recompute_seconds_per_token = 0.008;
  r.recompute_seconds_per_token_position = 4e-6;
  r.decode_seconds_per_value = 1e-7;  // several times what decoding takes, so that a busy machine keeps up
  r.exact_decode_seconds_per_value = 1e-7;
  return cost_model::make(context::sample().chunks, r, context::sample().model.passes).value();
}

void sleep_until(double t) {
  const double left = t - steady_clock_seconds{}();
  if (left > 0) std::this_thread::sleep_for(std::chrono::duration<double>(left));
}

struct timed_engine : context::engine {
  using engine::engine;
  page_status decode(int chunk, int level, std::span<const std::byte> frame) {
    const double begin = steady_clock_seconds{}();
    const page_status s = engine::decode(chunk, level, frame);
    sleep_until(begin + cost.decode_seconds(chunk, level, 0));
    return s;
  }
};

// The trace with this latency.
link_trace delayed(const link_trace& trace, double seconds) {
  std::vector<link_segment> s = trace.segments();
  for (link_segment& x : s) x.latency_seconds = seconds;
  return link_trace::make(std::move(s)).value();
}
// The first minute of the trace, with 0.4 s of nothing after 0.2 s and 1.5 s of nothing a second later.
link_trace interrupted(const link_trace& trace) {
  std::vector<link_segment> s;
  const auto part = [&](double from, double to) {
    for (double t = from; t < to - 1e-9; t += 0.1)
      s.push_back({0.1, trace.bytes_between(t, t + 0.1) / 0.1, trace.latency_at(t)});
  };
  part(0, 0.2);
  s.push_back({0.4, 0, trace.latency_at(0.2)});
  part(0.2, 1.2);
  s.push_back({1.5, 0, trace.latency_at(1.2)});
  part(1.2, 60);
  return link_trace::make(std::move(s)).value();
}

template <class Policy, byte_source Source>
report run(const cost_model& cost, Policy policy, Source& source, const link_trace& trace, const link_history& known) {
  shaped_source<Source> shaped(source, trace);
  timed_engine engine(cost);
  link_history link = known;
  const planner<Policy> plan(cost, policy);
  executor<Policy, shaped_source<Source>> e(plan, shaped, context::sample().names, link, deadline_seconds);
  return run_threaded(e, engine);
}

template <class Policy>
void compare(json& out, Policy policy, const std::string& name, const char* cell, const link_trace& trace,
             redis_source& redis, http_source& http) {
  const cost_model cost = costs();
  const double assumed = trace.mean_bytes_per_second();
  const simulated_request request{0, deadline_seconds, &cost};
  const outcome simulated = simulate({&request, 1}, trace, policy, {.assumed_bytes_per_second = assumed}).value().at(0);
  json row{{"trace", name}, {"link", cell}, {"policy", Policy::name}, {"simulated_seconds", simulated.seconds}};
  row["simulated_met"] = simulated.met;
  row["simulated_bytes"] = simulated.bytes;
  row["simulated_recomputed_tokens"] = simulated.recomputed_tokens;
  const auto measure = [&](const char* what, auto& source) {
    std::vector<double> seconds;
    report r;
    for (int i = 0; i < repeats; ++i) {
      r = run(cost, policy, source, trace, link_history(assumed));
      // A policy that refines hands over at the end of what it still improves; both sides are asked for that moment.
      seconds.push_back(refining_policy<Policy> ? r.seconds : r.usable_seconds);
    }
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2];
    row[what] = {{"seconds", median}, {"ratio", median / simulated.seconds},      {"samples", seconds},
                 {"bytes", r.bytes},  {"recomputed_tokens", r.recomputed_tokens}, {"faults", r.faults.size()},
                 {"met", r.met}};
    std::fprintf(stderr, "%-32s %-10s %-16s %-6s simulated %.3f s, real %.3f s%s\n", name.c_str(), cell, Policy::name,
                 what, simulated.seconds, median,
                 std::abs(median / simulated.seconds - 1) > most_apart ? " APART" : "");
  };
  measure("redis", redis);
  measure("http", http);
  out.push_back(row);
}

}  // namespace

int main(int argc, char** argv) {
  doctest::Context checks;
  checks.setAsDefaultForAssertsOutOfTestCases();
  if (servers::find_program("redis-server").empty() || servers::find_program("nginx").empty()) {
    std::fprintf(stderr, "skipped: redis-server or nginx is not installed\n");
    return 77;
  }
  redis_source redis({.port = stores::all().redis.port()});
  http_source http({.url = stores::url(stores::all().nginx.port())});

  const double raw = 256.0 * 30 * 2 * 192 * 2;
  json rows = json::array();
  for (int i = 1; i < argc; ++i) {
    std::ifstream in(argv[i]);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    const auto trace = parse_link_trace(text);
    if (!trace) {
      std::fprintf(stderr, "%s: %s\n", argv[i], to_string(trace.status()));
      return 1;
    }
    const link_trace link = trace->scaled(raw / raw_seconds / trace->mean_bytes_per_second());
    const std::string name = std::filesystem::path(argv[i]).stem().string();
    for (const auto& [cell, shaped] :
         {std::pair("as it is", link), {"300 ms", delayed(link, 0.3)}, {"outages", interrupted(link)}}) {
      compare(rows, policy::always_raw{}, name, cell, shaped, redis, http);
      compare(rows, policy::fixed_level<1>{}, name, cell, shaped, redis, http);
      compare(rows, policy::cachegen{.estimate = {}, .text_below_tokens = 0}, name, cell, shaped, redis, http);
      compare(rows, policy::cake{}, name, cell, shaped, redis, http);
      compare(rows, policy::progressive_cake{}, name, cell, shaped, redis, http);
    }
  }
  double apart = 0;
  int cells = 0, within = 0;
  for (const json& row : rows)
    for (const char* what : {"redis", "http"}) {
      const double off = std::abs(row[what]["ratio"].get<double>() - 1);
      apart = std::max(apart, off);
      ++cells;
      within += off <= most_apart;
    }
  std::fprintf(stderr, "%d of %d cells within %.0f %% of the simulation; the worst is off by %.1f %%\n", within, cells,
               100 * most_apart, 100 * apart);
  std::printf("%s\n", json{{"raw_bytes", raw},
                           {"raw_seconds_at_mean_rate", raw_seconds},
                           {"deadline_seconds", deadline_seconds},
                           {"repeats", repeats},
                           {"bound", most_apart},
                           {"cells", cells},
                           {"cells_within_bound", within},
                           {"worst_apart", apart},
                           {"runs", rows}}
                          .dump(1)
                          .c_str());
}
