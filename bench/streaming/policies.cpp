// SPDX-License-Identifier: Apache-2.0
// Every planner policy on every link trace, deadline and model shape, simulated; writes JSON for bench/streaming/report.py.
//
//   sluice-stream-policies [--links DIR] [--hostile-only] [--requests FILE] [--quality bench/results/quality.json]
//                          [--cachegen bench/results/cachegen_paper.json] [-o streaming.json]
//
// Without --links the made-up links of the library are used. Rates are scaled, one factor a group of traces, so that the
// group's mean is a stated share of the engine's KV rate (raw bytes of cache it computes a second).

#include "hostile_links.hpp"

#include <simulation.hpp>
#include <sluice/stream/plan/placement_policies.hpp>
#include <sluice/stream/study/placement.hpp>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>

namespace {

using namespace sluice::stream;

constexpr double deadlines[] = {0.25, 0.5, 1, 2};
constexpr double kv_shares[] = {0.05, 0.25, 1};
constexpr double main_share = 0.25;
constexpr int offsets = 3;  // requests begin at thirds of every trace

double seconds_since(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

// Levels as bench/quality.py measured them.
level_curve curve_from(const json& quality, const std::string& model) {
  for (const json& r : quality.at("results"))
    if (r.at("model") == model && r.at("variant") == "standard") {
      level_curve c;
      for (const json& l : r.at("levels")) {
        c.bits_per_value.push_back(l.at("bits_per_value"));
        c.loss.push_back(l.at("kl"));
      }
      return c;
    }
  throw data_error("no standard levels of " + model);
}

// Levels of CacheGen's codec, the coarsest first, as bench/cachegen_paper.py measured them.
level_curve cachegen_curve_from(const json& cachegen, const std::string& model) {
  for (const json& r : cachegen.at("results"))
    if (r.at("model") == model) {
      level_curve c;
      for (const json& l : r.at("levels")) {
        c.bits_per_value.insert(c.bits_per_value.begin(), l.at("bits_per_value_chunks_of_256").get<double>());
        c.loss.insert(c.loss.begin(), l.at("kl").get<double>());
      }
      return c;
    }
  throw data_error("no levels of CacheGen's codec for " + model);
}

// Whose levels a policy chooses among.
struct codecs {
  level_curve ours, cachegen;
};

// What takes part. CacheGen also with the sizes and losses of its own codec, decoded as fast as ours; Cake, which as published
// loads the exact copy, also with a level of ours.
struct contestant {
  std::string name;
  bool own_codec = false;
  std::function<outcome(const simulated_request&, const link_trace&)> run;
};
std::vector<contestant> contestants() {
  const auto named = [](std::string name, std::string policy, bool own_codec) {
    return contestant{std::move(name), own_codec, [policy = std::move(policy)](const auto& r, const auto& trace) {
                        return run_policy(policy, {&r, 1}, trace)[0];
                      }};
  };
  const auto cake_at = [](int level) {
    return contestant{"cake_level_" + std::to_string(level), false, [level](const auto& r, const auto& trace) {
                        const policy::cake p{.level = level};
                        return simulate({&r, 1}, trace, erased(p)).value()[0];
                      }};
  };
  std::vector<contestant> all;
  for (std::string_view name : policy_names) {
    all.push_back(named(std::string(name), std::string(name), false));
    if (name == "cachegen") all.push_back(named("cachegen_own_codec", "cachegen", true));
    if (name == "cake") all.insert(all.end(), {cake_at(0), cake_at(1)});
  }
  all.push_back(named("oracle", "oracle", false));
  return all;
}

// What one policy made of one group of links.
struct cell {
  outcome_sums sums;
  std::size_t slower = 0;  // than the better of raw and recompute by more than one chunk
  std::size_t beaten = 0;  // missed what the bound says could be met
  double regret = 0;       // nats above the bound, where the deadline was met
  std::size_t regretted = 0;
  json to_json() const {
    json j = sums.to_json();
    j["slower_than_raw_and_recompute"] = double(slower) / double(sums.count());
    j["missed_though_bound_meets"] = double(beaten) / double(sums.count());
    j["mean_regret_nats_of_met"] = regretted ? json(regret / double(regretted)) : json(nullptr);
    return j;
  }
};

// One chunk: the longest that any of its ways takes once the better of raw and recompute would be done.
double chunk_seconds(const cost_model& cost, const link_trace& trace, double done) {
  const int last = cost.num_chunks() - 1, exact = cost.exact_level();
  return std::max({cost.recompute_seconds(last), cost.decode_seconds(last, 0, cost.bytes(last, 0)),
                   trace.finish_time(done, double(cost.bytes(last, exact))) - done}) +
         cost.rates().latency_seconds;
}

json run_shape(const streamed_model& m, const codecs& curves, const std::vector<named_link>& unscaled, double share,
               json& cdfs, json& acceptance) {
  std::vector<named_link> links = unscaled;
  const double kv_rate = kv_rate_bytes_per_second(m, m.context_tokens);
  const auto factors = scale_groups(links, share * kv_rate);
  const std::vector<contestant> all_of_them = contestants();
  json rows = json::array();
  for (double deadline : deadlines) {
    std::map<std::string, std::map<std::string, cell>> cells;  // by group, by policy
    double bound_loss = 0;
    std::size_t bound_missed = 0, requests = 0;
    for (const named_link& l : links) {
      const auto cost_of = [&](const level_curve& curve) {
        return make_cost(m, curve, m.context_tokens, m.chunk_tokens, l.trace.latency_at(0)).value();
      };
      const cost_model cost = cost_of(curves.ours), cost_of_cachegen = cost_of(curves.cachegen);
      for (int k = 0; k < offsets; ++k) {
        const double start = l.trace.seconds() * k / offsets;
        const simulated_request r{start, deadline, &cost}, of_cachegen{start, deadline, &cost_of_cachegen};
        const policy::oracle_bound bound = policy::bound(cost, l.trace, start, deadline);
        bound_loss += bound.loss;
        bound_missed += bound.soonest_seconds > deadline;
        ++requests;
        const double better = std::min(run_policy("always_raw", {&r, 1}, l.trace)[0].seconds,
                                       run_policy("always_recompute", {&r, 1}, l.trace)[0].seconds);
        for (const contestant& who : all_of_them) {
          const outcome o = who.run(who.own_codec ? of_cachegen : r, l.trace);
          for (const std::string& group : {l.group, std::string("all")}) {
            cell& c = cells[group][who.name];
            c.sums.add(o);
            c.slower += o.seconds > better + chunk_seconds(cost, l.trace, start + better);
            c.beaten += !o.met && bound.soonest_seconds <= deadline;
            if (o.met) {
              c.regret += std::max(0.0, o.loss - bound.loss);
              ++c.regretted;
            }
          }
        }
      }
    }
    const auto& all = cells["all"];
    for (const auto& [group, policies] : cells)
      for (const contestant& who : all_of_them) {
        if (share != main_share && group != "all") continue;
        json row = {
            {"shape", m.name}, {"kv_share", share}, {"deadline_s", deadline}, {"group", group}, {"policy", who.name}};
        row.update(policies.at(who.name).to_json());
        rows.push_back(row);
      }
    const cell &ours = all.at("progressive_cake"), &cachegen = all.at("cachegen"), &cake = all.at("cake");
    const double best = bound_loss / double(requests);
    acceptance.push_back(
        {{"shape", m.name},
         {"kv_share", share},
         {"deadline_s", deadline},
         {"requests", requests},
         {"misses",
          {{"progressive_cake", ours.sums.missed()},
           {"cachegen", cachegen.sums.missed()},
           {"cake", cake.sums.missed()},
           {"oracle", all.at("oracle").sums.missed()},
           {"bound", bound_missed}}},
         {"mean_loss_nats",
          {{"progressive_cake", ours.sums.mean_loss()},
           {"cachegen", cachegen.sums.mean_loss()},
           {"oracle", all.at("oracle").sums.mean_loss()},
           {"bound", best}}},
         {"slower_share",
          {{"progressive_cake", double(ours.slower) / double(requests)},
           {"cake", double(cake.slower) / double(requests)}}},
         {"misses_no_more", ours.sums.missed() <= std::min(cachegen.sums.missed(), cake.sums.missed())},
         {"loss_at_most_0.7_of_cachegen", ours.sums.mean_loss() <= 0.7 * cachegen.sums.mean_loss() + 1e-12},
         {"loss_within_1.15_of_bound_plus_0.001", ours.sums.mean_loss() <= 1.15 * best + 0.001}});
    if (share == main_share)
      for (const contestant& who : all_of_them) {
        json q = json::array();
        for (int i = 0; i <= 40; ++i) {
          const double s = all.at(who.name).sums.seconds_at(i / 40.0);
          q.push_back(std::isfinite(s) ? json(std::round(s * 1e4) / 1e4) : json(nullptr));
        }
        cdfs.push_back({{"shape", m.name}, {"deadline_s", deadline}, {"policy", who.name}, {"ttft_s_at_fortieths", q}});
      }
    std::fprintf(stderr,
                 "%s, %g of the KV rate, %g s: ours misses %zu of %zu, cachegen %zu, cake %zu, nobody could meet %zu\n",
                 m.name, share, deadline, ours.sums.missed(), requests, cachegen.sums.missed(), cake.sums.missed(),
                 bound_missed);
  }
  return {{"factors", factors}, {"rows", rows}};
}

// What progressive_cake does with other objectives than the least loss by the deadline: a bound of loss, a price of time.
json objectives(const streamed_model& m, const level_curve& curve, std::vector<named_link> links) {
  scale_groups(links, kv_rate_bytes_per_second(m, m.context_tokens));
  json rows = json::array();
  const auto add = [&](const char* objective, double value, const auto& policy) {
    outcome_sums sums;
    for (const named_link& l : links) {
      const cost_model cost = make_cost(m, curve, m.context_tokens, m.chunk_tokens, l.trace.latency_at(0)).value();
      for (int k = 0; k < offsets; ++k) {
        const simulated_request r{l.trace.seconds() * k / offsets, 1, &cost};
        sums.add(simulate({&r, 1}, l.trace, erased(policy)).value()[0]);
      }
    }
    json row = {
        {"policy", policy.name}, {"objective", objective}, {"value", value}, {"median_s", sums.seconds_at(0.5)}};
    row.update(sums.to_json());
    rows.push_back(row);
  };
  add("least loss by the deadline", 0, policy::progressive_cake{});
  for (const double nats : {0.003, 0.01, 0.03}) {
    policy::progressive_cake p;
    p.fetcher.enough_loss = nats;
    add("least time at a loss of", nats, p);
  }
  for (const double price : {0.003, 0.03, 0.3}) {
    policy::progressive_cake p;
    p.fetcher.nats_per_second = price;
    add("nats a second", price, p);
  }
  add("as soon as both ends meet", 0, policy::cake_levels{});
  add("level 1", 0, policy::fixed_level<1>{});
  return {{"shape", m.name}, {"deadline_s", 1}, {"kv_share", 1}, {"rows", rows}};
}

// Every policy on links that mislead, requests beginning with the link: how many miss, what is lost, and whether ours is
// beaten in a cell of ten links by more than one of them.
json hostile_links(const json& quality, const json& cachegen) {
  const std::vector<contestant> all = contestants();
  json rows = json::array();
  std::map<std::string, std::size_t> missed;
  std::size_t cells = 0, beaten = 0, requests = 0;
  for (const hostile::family& f : hostile::families()) {
    std::map<std::string, std::pair<std::size_t, double>> of_family;  // missed, loss
    std::size_t in_family = 0;
    for (const char* shape : {"SmolLM2-135M", "Llama-3.1-8B", "Llama-3.3-70B"})
      for (const double share : kv_shares)
        for (const double deadline : deadlines) {
          const streamed_model& m = *find_streamed_model(shape);
          const codecs curves{curve_from(quality, m.curve), cachegen_curve_from(cachegen, m.curve)};
          std::map<std::string, std::size_t> of_cell;
          for (int i = 0; i < hostile::links_of_family; ++i, ++in_family) {
            const link_trace trace = hostile::make(f, i).scaled(share * kv_rate_bytes_per_second(m, m.context_tokens));
            const auto cost_of = [&](const level_curve& curve) {
              return make_cost(m, curve, m.context_tokens, m.chunk_tokens, trace.latency_at(0)).value();
            };
            const cost_model cost = cost_of(curves.ours), cost_of_cachegen = cost_of(curves.cachegen);
            const simulated_request r{0, deadline, &cost}, of_cachegen{0, deadline, &cost_of_cachegen};
            const policy::oracle_bound bound = policy::bound(cost, trace, 0, deadline);
            of_cell["bound"] += bound.soonest_seconds > deadline;
            of_family["bound"].second += bound.loss;
            for (const contestant& who : all) {
              const outcome o = who.run(who.own_codec ? of_cachegen : r, trace);
              of_cell[who.name] += !o.met;
              of_family[who.name].second += o.loss;
            }
          }
          std::size_t best = hostile::links_of_family;
          for (const auto& [name, misses] : of_cell) {
            of_family[name].first += misses;
            if (name != "progressive_cake" && name != "oracle" && name != "bound") best = std::min(best, misses);
          }
          ++cells;
          beaten += of_cell["progressive_cake"] > best + 1;
        }
    requests += in_family;
    for (const auto& [name, sums] : of_family) {
      missed[name] += sums.first;
      rows.push_back({{"family", f.name},
                      {"policy", name},
                      {"requests", in_family},
                      {"misses", sums.first},
                      {"mean_loss_nats", sums.second / double(in_family)}});
    }
    std::fprintf(stderr, "%s: ours misses %zu of %zu, cachegen %zu, cake_levels %zu, nobody could meet %zu\n",
                 f.name.c_str(), of_family["progressive_cake"].first, in_family, of_family["cachegen"].first,
                 of_family["cake_levels"].first, of_family["bound"].first);
  }
  return {{"requests", requests}, {"links_of_family", hostile::links_of_family},    {"misses", missed},
          {"cells", cells},       {"cells_where_another_misses_two_fewer", beaten}, {"rows", rows}};
}

// Links and decoders on which a planner goes wrong that does not look: every policy, on ten contexts of a tenth of so many
// tokens to all of them, none short enough for CacheGen to take as text whatever the link.
json situations(const json& quality, const json& cachegen) {
  struct situation {
    const char *name, *shape;
    int tokens;
    double deadline, decode_values_per_second;  // 0 = the shape's
    link_trace link;
  };
  const double gigabit = 1e9 / 8;
  const auto pausing =
      link_trace::make({{0.1, 0.1 * gigabit, 0.001}, {0.4, 0, 0.001}, {10, 0.1 * gigabit, 0.001}}).value();
  const situation all[] = {
      {"first byte after 150 ms", "SmolLM2-135M", 10240, 1, 0, link_trace::constant(0.1 * gigabit, 0.15)},
      {"outage of 0.4 s", "SmolLM2-135M", 10240, 1, 0, pausing},
      {"10 Gbit/s, 0.1 s", "Llama-3.1-8B", 32768, 0.1, 0, link_trace::constant(10 * gigabit)},
      {"25 Gbit/s, 50 ms", "Llama-3.1-8B", 32768, 0.5, 0, link_trace::constant(25 * gigabit, 0.05)},
      {"10 Gbit/s, decoder of a CPU", "SmolLM2-135M", 10240, 0.25, 0.2e9, link_trace::constant(10 * gigabit)},
  };
  json rows = json::array();
  for (const situation& x : all) {
    streamed_model m = *find_streamed_model(x.shape);
    if (x.decode_values_per_second > 0) m.decode_seconds_per_value = 1 / x.decode_values_per_second;
    const codecs curves{curve_from(quality, m.curve), cachegen_curve_from(cachegen, m.curve)};
    std::map<std::string, outcome_sums> sums;
    for (int tenths = 1; tenths <= 10; ++tenths) {
      const int tokens = x.tokens * tenths / 10;
      const auto cost_of = [&](const level_curve& curve) {
        return make_cost(m, curve, tokens, m.chunk_tokens, x.link.latency_at(0)).value();
      };
      const cost_model cost = cost_of(curves.ours), cost_of_cachegen = cost_of(curves.cachegen);
      for (const contestant& who : contestants())
        sums[who.name].add(who.run({0, x.deadline, who.own_codec ? &cost_of_cachegen : &cost}, x.link));
    }
    for (const auto& [name, of] : sums) {
      json row = {{"situation", x.name}, {"shape", m.name}, {"deadline_s", x.deadline}, {"policy", name}};
      row.update(of.to_json());
      rows.push_back(row);
    }
  }
  return rows;
}

// Chunks of five levels.
cost_model alike_chunks(int n) {
  std::vector<chunk_cost> chunks;
  for (int c = 0; c < n; ++c)
    chunks.push_back(
        {std::int64_t(c) * 256, 256, 256, {100, 200, 300, 400, 500, 1600}, {0.1, 0.05, 0.02, 0.01, 0.001}, {}});
  cost_rates rates;
  rates.recompute_seconds_per_token = 1e-6;
  return cost_model::make(chunks, rates, 5).value();
}

// Seconds of one decision over 1,000 chunks and 5 levels, halfway through.
json decision_times() {
  const cost_model cost = alike_chunks(1000);
  std::vector<chunk_progress> at(1000);
  for (std::size_t c = 500; c < 1000; ++c) at[c].requested = at[c].arrived = at[c].ready = std::int8_t(c % 5);
  request_progress p;
  p.chunks = at;
  p.deadline_seconds = 0.2;
  link_history h;
  for (int i = 0; i < 64; ++i) h.observe(1000 + std::uint64_t(i), 1e-3);
  json out = json::object();
  for (std::string_view name : policy_names)
    with_policy(name, [&](auto policy) {
      const planner<decltype(policy)> plan(cost, policy);
      std::vector<double> times;
      int finished = 0;
      for (int i = 0; i < 201; ++i) {
        const auto from = std::chrono::steady_clock::now();
        finished += plan.next(h, p).finished;
        times.push_back(seconds_since(from));
      }
      std::nth_element(times.begin(), times.begin() + 100, times.end());
      if (finished) throw data_error("nothing to decide");
      out[std::string(name)] = std::round(times[100] * 1e8) / 100;
    });
  return out;
}

// A trace of requests on one shared link, whose mean is a share of the engine's KV rate, with an engine for each and with one
// for all; whoever comes first is served first, or a scheduler says whose turn it is.
json shared_link(const std::vector<traced_request>& traced, const streamed_model& m, const level_curve& curve) {
  const double kv_rate = kv_rate_bytes_per_second(m, 8192);
  const link_trace trace = synthetic_link(1102).share(100, 16);
  const std::vector<cost_model> costs = costs_of(traced, m, curve, 0.001);
  std::vector<simulated_request> requests;
  for (std::size_t i = 0; i < traced.size(); ++i) requests.push_back({traced[i].arrival_seconds, 1, &costs[i]});
  json rows = json::array();
  const auto add = [&](std::string_view name, double share, simulation_options o) {
    const auto from = std::chrono::steady_clock::now();
    outcome_sums sums;
    const link_trace link = trace.scaled(share * kv_rate / trace.mean_bytes_per_second());
    for (const outcome& r : run_policy(name, requests, link, o)) sums.add(r);
    json row = {{"policy", name},
                {"deadline_s", 1},
                {"kv_share", share},
                {"one_engine", o.one_engine},
                {"scheduled", o.scheduled}};
    row.update(sums.to_json());
    row["decisions"] = sums.decisions();
    row["simulated_in_s"] = std::round(seconds_since(from) * 1000) / 1000;
    rows.push_back(row);
  };
  for (const bool one_engine : {false, true})
    for (const double share : {0.25, 1.0, 4.0}) {
      simulation_options o;
      o.one_engine = one_engine;
      for (std::string_view name : policy_names) add(name, share, o);
      o.scheduled = true;
      for (std::string_view name : {"fixed_level_0", "cake_levels", "progressive_cake"}) add(name, share, o);
    }
  return {
      {"shape", m.name}, {"link", "synthetic share(100, 16), seed 1102"}, {"requests", traced.size()}, {"rows", rows}};
}

// Seconds of a scheduler's decision among 100 requests of 200 chunks, of which half have arrived.
json schedule_time() {
  const cost_model cost = alike_chunks(200);
  std::vector<chunk_progress> at(200);
  for (std::size_t c = 100; c < 200; ++c) at[c].requested = at[c].arrived = at[c].ready = std::int8_t(c % 5);
  const planner<policy::progressive_cake> plan(cost);
  std::vector<contender<policy::progressive_cake>> all(100, {&plan, {}});
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].now.chunks = at;
    all[i].now.deadline_seconds = 0.2 + 0.01 * double(i);
    all[i].now.fetches_in_flight = 64;  // nobody is sent for, so that all are looked at
  }
  link_history h;
  for (int i = 0; i < 64; ++i) h.observe(1000 + std::uint64_t(i), 1e-3);
  scheduler<policy::progressive_cake> schedule;
  std::vector<double> times;
  for (int i = 0; i < 51; ++i) {
    const auto from = std::chrono::steady_clock::now();
    if (schedule.next(h, all, 1).finished >= 0) throw data_error("nothing to decide");
    times.push_back(seconds_since(from));
  }
  std::nth_element(times.begin(), times.begin() + 25, times.end());
  return std::round(times[25] * 1e8) / 100;
}

// The same requests on tiers that hold less than they ask for: memory, and a disk five times its size.
json placements(const std::vector<traced_request>& traced, const streamed_model& m, const level_curve& curve) {
  json rows = json::array();
  double tokens = 0;
  for (const traced_request& r : traced) tokens += r.tokens;
  // A block loses its share of a mean request.
  const chunk_cost block = expected_chunk(m, curve, 0, 512, tokens / double(traced.size()));
  for (double memory : {10e9, 40e9, 160e9})
    placement_policies::for_each([&]<class Policy>() {
      placement_simulator<Policy> store({{memory, 20e9, 1e-4, 0}, {5 * memory, 3e9, 1e-3, 0}});
      const auto from = std::chrono::steady_clock::now();
      for (const traced_request& r : traced)
        for (std::size_t i = 0; i < r.ids.size(); ++i) {
          placed_item item{{block.bytes.begin(), block.bytes.end() - 1}, block.loss};
          item.depth = int(i);
          item.recompute_seconds = 512 * (m.seconds_per_token + m.seconds_per_position * (512.0 * double(i) + 256));
          if (!store.access(r.ids[i], item, r.arrival_seconds)) throw data_error("placement refuses an item");
        }
      const placement_totals& t = store.totals();
      const double n = double(traced.size());
      rows.push_back({{"policy", Policy::name},
                      {"memory_bytes", memory},
                      {"disk_bytes", 5 * memory},
                      {"hit_share", double(t.hits) / double(t.accesses)},
                      {"seconds_per_request", t.seconds / n},
                      {"loss_nats_per_request", t.loss / n},
                      {"truncated", t.truncated},
                      {"dropped", t.dropped},
                      {"transcode_seconds", t.transcode_seconds},
                      {"moved_bytes", t.moved_bytes},
                      {"simulated_in_s", std::round(seconds_since(from) * 1000) / 1000}});
    });
  return {{"shape", m.name},
          {"tiers", "memory 20 GB/s, 0.1 ms; disk 3 GB/s, 1 ms"},
          {"requests", traced.size()},
          {"rows", rows}};
}

double six_digits(double x) {
  char text[32];
  std::snprintf(text, sizeof text, "%.6g", x);
  return std::strtod(text, nullptr);
}

// Six digits are more than any of these figures means.
void round_all(json& j) {
  if (j.is_structured())
    for (json& x : j) round_all(x);
  else if (j.is_number_float())
    j = six_digits(j.get<double>());
}

// One line for each member, and for each element of an array of objects.
std::string lines_of(const json& j) {
  std::string s = "{\n";
  for (const auto& [key, value] : j.items()) {
    s += (s.size() > 2 ? ",\n" : "") + json(key).dump() + ": ";
    if (!value.is_array() || value.empty() || !value[0].is_object()) {
      s += value.dump();
      continue;
    }
    for (std::size_t i = 0; i < value.size(); ++i) s += (i ? ",\n" : "[\n") + value[i].dump();
    s += "\n]";
  }
  return s + "\n}\n";
}

struct inputs {
  std::string links, requests, quality = "bench/results/quality.json", out;
  std::string cachegen = "bench/results/cachegen_paper.json";
  bool hostile_only = false;
};

int run(const inputs& in) {
  const json quality = json::parse(read_text(in.quality)), cachegen = json::parse(read_text(in.cachegen));
  if (in.hostile_only) {
    json only = {{"hostile_links", hostile_links(quality, cachegen)}};
    round_all(only);
    return std::puts(only.dump().c_str()) < 0;
  }
  const std::vector<named_link> links = in.links.empty() ? made_up_links() : load_links(in.links);
  json out = {{"links", links.size()},      {"requests_per_link", offsets}, {"main_kv_share", main_share},
              {"shapes", json::array()},    {"results", json::array()},     {"cdfs", json::array()},
              {"acceptance", json::array()}};
  std::map<std::string, int> groups;
  for (const named_link& l : links) ++groups[l.group];
  out["groups"] = groups;
  for (const streamed_model& m : streamed_models) {
    const codecs curves{curve_from(quality, m.curve), cachegen_curve_from(cachegen, m.curve)};
    const level_curve& curve = curves.ours;
    const cost_model cost = make_cost(m, curve, m.context_tokens, m.chunk_tokens, 0).value();
    json shape = {{"name", m.name},
                  {"config", m.config},
                  {"source", m.source},
                  {"levels_of", m.curve},
                  {"bits_per_value", curve.bits_per_value},
                  {"loss_nats", curve.loss},
                  {"cachegen_bits_per_value", curves.cachegen.bits_per_value},
                  {"cachegen_loss_nats", curves.cachegen.loss},
                  {"context_tokens", m.context_tokens},
                  {"chunk_tokens", m.chunk_tokens},
                  {"values_per_token", m.values_per_token},
                  {"recompute_s", cost.recompute_seconds(0, cost.num_chunks())},
                  {"decode_values_per_s", 1 / m.decode_seconds_per_value},
                  {"decoder_measured", m.decoder_measured},
                  {"kv_rate_bytes_per_s", kv_rate_bytes_per_second(m, m.context_tokens)},
                  {"link_factors", json::object()}};
    for (double share : kv_shares) {
      const json r = run_shape(m, curves, links, share, out["cdfs"], out["acceptance"]);
      shape["link_factors"][std::to_string(share).substr(0, 4)] = r["factors"];
      for (const json& row : r["rows"]) out["results"].push_back(row);
    }
    out["shapes"].push_back(shape);
  }
  {
    const streamed_model& m = *find_streamed_model("Llama-3.1-8B");
    out["objectives"] = objectives(m, curve_from(quality, m.curve), links);
  }
  out["hostile_links"] = hostile_links(quality, cachegen);
  out["situations"] = situations(quality, cachegen);
  out["decision_us_1000_chunks_5_levels"] = decision_times();
  out["schedule_us_100_requests_200_chunks"] = schedule_time();
  if (!in.requests.empty()) {
    const std::vector<traced_request> traced = load_requests(in.requests);
    const streamed_model& m = *find_streamed_model("Llama-3.1-8B");
    out["shared_link"] = shared_link(traced, m, curve_from(quality, m.curve));
    out["placement"] = placements(traced, m, curve_from(quality, m.curve));
  }
  round_all(out);
  const std::string text = lines_of(out);
  if (in.out.empty()) return std::fputs(text.c_str(), stdout) < 0;
  std::ofstream file(in.out);
  if (!(file << text).flush()) throw data_error(in.out + ": cannot be written");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  inputs in;
  CLI::App app("Planner policies simulated on link traces.");
  app.add_option("--links", in.links, "folder of link traces; without, made-up links");
  app.add_option("--requests", in.requests, "requests that share one link (JSON lines)");
  app.add_option("--quality", in.quality, "what levels cost and lose")->capture_default_str();
  app.add_option("--cachegen", in.cachegen, "what levels of CacheGen's codec cost and lose")->capture_default_str();
  app.add_flag("--hostile-only", in.hostile_only, "nothing but the links that mislead");
  app.add_option("-o", in.out, "JSON file; without, stdout");
  CLI11_PARSE(app, argc, argv);
  try {
    return run(in);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sluice-stream-policies: %s\n", e.what());
    return 1;
  }
}
