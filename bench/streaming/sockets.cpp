// SPDX-License-Identifier: Apache-2.0
// sluice-stream-sockets TRACE.csv...: the same requests in the simulator and for real, from a redis-server and a web server
// whose link is slowed down to the trace: as it is, with a first byte after 300 ms, and with outages. Then over packets of
// real TCP connections between two network namespaces (wire.hpp; for root, or under `unshare -Ur`, else left out): at 10, 40
// and 160 Mbit/s, with round trips of 20 and 150 ms, as it is, with a pause in which packets wait, with an outage in which
// they are lost, and with single ones lost. Options are the defaults. Prints JSON: seconds until the cache is usable, by
// policy and link, and how far real ones are from simulated. Fetching, verifying and decoding are real; a decode and a
// computation then last as long as the cost model says.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "wire.hpp"

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
constexpr double wire_deadline_seconds = 1;
constexpr int repeats = 3;          // the median counts
constexpr double most_apart = 0.1;  // of a request's simulated seconds, for the median of its repeats
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

double loss_of(const cost_model& cost, const report& r) {
  double nats = 0;
  for (int c = 0; c < cost.num_chunks(); ++c)
    if (!r.chunks[std::size_t(c)].computed) nats += cost.loss(c, r.chunks[std::size_t(c)].level);
  return nats;
}

template <class Policy, byte_source Source>
report run(const cost_model& cost, Policy policy, Source& source, const link_history& known, double deadline) {
  timed_engine engine(cost);
  link_history link = known;
  const planner<Policy> plan(cost, policy);
  executor<Policy, Source> e(plan, source, context::sample().names, link, deadline);
  return run_threaded(e, engine);
}

// One row: what is simulated, and what `on(source, request)` makes of real ones.
template <class Policy, class On>
json compare(Policy policy, const std::string& name, const std::string& cell, const link_trace& trace, double deadline,
             redis_source& redis, http_source& http, On on) {
  const cost_model cost = costs();
  const double assumed = trace.mean_bytes_per_second();
  const simulated_request request{0, deadline, &cost};
  const outcome simulated = simulate({&request, 1}, trace, policy, {.assumed_bytes_per_second = assumed}).value().at(0);
  json row{{"trace", name}, {"link", cell}, {"policy", Policy::name}, {"simulated_seconds", simulated.seconds}};
  row["simulated_met"] = simulated.met;
  row["simulated_loss_nats"] = simulated.loss;
  row["simulated_bytes"] = simulated.bytes;
  row["simulated_recomputed_tokens"] = simulated.recomputed_tokens;
  const auto measure = [&](const char* what, auto& source) {
    std::vector<std::pair<double, report>> runs;
    for (int i = 0; i < repeats; ++i) {
      report r = on(source, [&](auto& shaped) { return run(cost, policy, shaped, link_history(assumed), deadline); });
      // A policy that refines hands over at the end of what it still improves; both sides are asked for that moment.
      const double seconds = refining_policy<Policy> ? r.seconds : r.usable_seconds;
      runs.emplace_back(seconds, std::move(r));
    }
    std::sort(runs.begin(), runs.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    const auto& [median, r] = runs[runs.size() / 2];
    json samples = json::array();
    for (const auto& [seconds, ignored] : runs) samples.push_back(seconds);
    row[what] = {{"seconds", median},
                 {"ratio", median / simulated.seconds},
                 {"samples", samples},
                 {"loss_nats", loss_of(cost, r)},
                 {"bytes", r.bytes},
                 {"recomputed_tokens", r.recomputed_tokens},
                 {"faults", r.faults.size()},
                 {"met", r.met},
                 {"usable_seconds", r.usable_seconds}};
    std::fprintf(stderr, "%-32s %-10s %-16s %-6s simulated %.3f s %.4f nats, real %.3f s %.4f nats%s\n", name.c_str(),
                 cell.c_str(), Policy::name, what, simulated.seconds, simulated.loss, median, loss_of(cost, r),
                 std::abs(median / simulated.seconds - 1) > most_apart ? " APART" : "");
  };
  measure("redis", redis);
  measure("http", http);
  return row;
}

// How many medians are within the bound, and how far the farthest is.
json summary(const json& rows) {
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
  return {{"cells", cells}, {"cells_within_bound", within}, {"worst_apart", apart}, {"runs", rows}};
}

// What an engine does before it can plan: the first 4 KiB of every chunk, asked for at once. In round trips.
template <byte_source Source>
double lookup(Source& source, double round_trip) {
  const auto& names = context::sample().names;
  std::vector<std::vector<std::byte>> heads(names.size(), std::vector<std::byte>(4096));
  const double begin = steady_clock_seconds{}();
  for (std::size_t i = 0; i < names.size(); ++i) source.submit({to_hex(names[i].key), 0, heads[i]});
  completion done[16];
  for (std::size_t n = 0; n < names.size();) n += source.poll(done, 1);
  return (steady_clock_seconds{}() - begin) / round_trip;
}

// Servers behind a wire: this process moves to the near end for good.
json over_wire(int far, int redis_port, int nginx_port) {
  const int near = wire::enter("10.7.0.1");
  if (near < 0) return {{"left_out", std::strerror(errno)}};
  wire::link link(near, far);
  json rows = json::array(), lookups = json::array();
  for (const double megabits : {10.0, 40.0, 160.0})
    for (const double round_trip : {0.02, 0.15})
      for (const std::string cell : {"as it is", "0.4 s pause", "0.4 s outage", "0.1 % lost"}) {
        const double rate = megabits * 1e6 / 8;
        const auto with_rate = [&](double r) {
          const double meanwhile = cell.starts_with("0.4 s") ? 0 : r;
          return link_trace::make({{0.2, r, round_trip}, {0.4, meanwhile, round_trip}, {60, r, round_trip}}).value();
        };
        // Headers of packets are the wire's, not the simulator's.
        const link_trace packets = with_rate(rate);
        const link_trace trace = with_rate(rate * wire::link::payload_bytes / wire::link::packet_bytes);
        char name[64];
        std::snprintf(name, sizeof name, "%g Mbit/s, %g ms", megabits, 1e3 * round_trip);
        redis_source redis({.host = "10.7.0.2", .port = redis_port});
        http_source http({.url = "http://10.7.0.2:" + std::to_string(nginx_port) + "/objects"});
        const auto on = [&](auto& source, auto request) {
          // Over connections that have been in use, as an engine's: the simulator knows no slow start.
          link.begin(link_trace::constant(rate, round_trip));
          context::fetch_all(source);
          link.begin(packets, cell == "0.1 % lost" ? 1e-3 : 0, cell == "0.4 s outage");
          return request(source);
        };
        if (cell == "as it is")
          lookups.push_back({{"trace", name},
                             {"redis", on(redis, [&](auto& s) { return lookup(s, round_trip); })},
                             {"http", on(http, [&](auto& s) { return lookup(s, round_trip); })}});
        const auto add = [&](auto policy) {
          rows.push_back(compare(policy, name, cell, trace, wire_deadline_seconds, redis, http, on));
        };
        add(policy::fixed_level<1>{});
        add(policy::progressive_cake{});
      }
  json out = summary(rows);
  out["deadline_seconds"] = wire_deadline_seconds;
  out["lookup_round_trips"] = lookups;
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  doctest::Context checks;
  checks.setAsDefaultForAssertsOutOfTestCases();
  if (servers::find_program("redis-server").empty() || servers::find_program("nginx").empty()) {
    std::fprintf(stderr, "skipped: redis-server or nginx is not installed\n");
    return 77;
  }
  const int far = wire::enter("10.7.0.2");
  const char* const left_out = far < 0 ? std::strerror(errno) : nullptr;
  // As a store's host for long ways has it: with BBR a lost packet does not halve the rate.
  if (far >= 0) wire::congestion_control("bbr"), stores::address = "0.0.0.0";
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
      const auto on = [&](auto& source, auto request) {
        shaped_source slow(source, shaped);
        return request(slow);
      };
      const auto add = [&](auto policy) {
        rows.push_back(compare(policy, name, cell, shaped, deadline_seconds, redis, http, on));
      };
      add(policy::always_raw{});
      add(policy::fixed_level<1>{});
      add(policy::cachegen{.estimate = {}, .text_below_tokens = 0});
      add(policy::cake{});
      add(policy::progressive_cake{});
    }
  }
  json out{{"raw_bytes", raw},
           {"raw_seconds_at_mean_rate", raw_seconds},
           {"deadline_seconds", deadline_seconds},
           {"repeats", repeats},
           {"bound", most_apart}};
  out.update(summary(rows));
  out["wire"] =
      far < 0 ? json{{"left_out", left_out}} : over_wire(far, stores::all().redis.port(), stores::all().nginx.port());
  std::printf("%s\n", out.dump(1).c_str());
}
