// SPDX-License-Identifier: Apache-2.0
// simulate: what planner policies would make of link and request traces.

#include <commands.hpp>
#include <simulation.hpp>

#include <cstdio>

namespace {

using namespace sluice::stream;

std::string names_of_shapes() {
  std::string all;
  for (const streamed_model& m : streamed_models) all += std::string(all.empty() ? "" : ", ") + m.name;
  return all;
}

std::string policies_there_are() {
  std::string all = "oracle";
  for (const std::string_view name : policy_names) all += ", " + std::string(name);
  return all;
}

struct simulate_arguments {
  std::string links, requests, shape = "Llama-3.1-8B";
  std::vector<std::string> policies;
  std::vector<double> deadlines = {0.25, 0.5, 1, 2};
  double kv_share = 0.25;
  int context = 0;
  bool as_json = false;
};

void describe_simulate(option_list& c, simulate_arguments& a) {
  c.add_option("--links", a.links,
               "folder of link traces GROUP_NAME.csv (duration_s,bandwidth_bps,latency_s); without, made-up links");
  c.add_option("--requests", a.requests,
               "JSON lines {timestamp, input_length, hash_ids} of requests that share a link");
  c.add_option("--shape", a.shape, "model and machine: " + names_of_shapes());
  c.add_option("--policies", a.policies, "planner policies, parted by commas: " + policies_there_are() + " (all)")
      .delimiter(',');
  c.add_option("--deadlines", a.deadlines, "seconds, parted by commas").delimiter(',').range(0.0, 1e6);
  c.add_option("--kv-share", a.kv_share,
               "mean of each group of links, in parts of the rate at which the engine makes cache")
      .range(1e-9, 1e9);
  c.add_option("--context", a.context, "tokens of a request without --requests; 0 = those of the shape")
      .range(0, 1 << 24);
  c.add_flag("--json", a.as_json, "the result as JSON");
}

int simulate_links(const simulate_arguments& args) {
  const streamed_model* m = find_streamed_model(args.shape);
  if (!m) throw usage_error("there is no shape " + args.shape + "; there are " + names_of_shapes());
  std::vector<std::string> policies = args.policies;
  if (policies.empty()) {
    policies.assign(std::begin(policy_names), std::end(policy_names));
    if (args.requests.empty()) policies.push_back("oracle");
  }
  for (const std::string& p : policies)
    if (!(p == "oracle" && args.requests.empty()) && !with_policy(p, [](auto) {}))
      throw usage_error(p == "oracle" ? "the oracle needs a link for itself: leave --requests away"
                                      : "there is no policy " + p + "; there are " + policies_there_are());
  const double share = args.kv_share;
  const int context = args.context ? args.context : m->context_tokens;
  const level_curve curve = measured_curve(m->curve);
  const double kv_rate = kv_rate_bytes_per_second(*m, context);

  std::vector<named_link> links = args.links.empty() ? made_up_links() : load_links(args.links);
  const auto factors = scale_groups(links, share * kv_rate);
  std::vector<traced_request> traced;
  if (!args.requests.empty()) traced = load_requests(args.requests);

  json report = {{"shape", m->name},        {"config", m->config},       {"kv_rate_bytes_per_s", kv_rate},
                 {"kv_share", share},       {"context_tokens", context}, {"links", links.size()},
                 {"link_factors", factors}, {"results", json::array()}};
  progress bar("simulating");
  std::size_t done = 0;
  constexpr int offsets = 3;
  for (double deadline : args.deadlines)
    for (const std::string& name : policies) {
      outcome_sums sums;
      for (const named_link& l : links) {
        const double latency = l.trace.latency_at(0);
        if (traced.empty()) {
          const cost_model cost = make_cost(*m, curve, context, m->chunk_tokens, latency).value();
          for (int k = 0; k < offsets; ++k) {
            const simulated_request r{l.trace.seconds() * k / offsets, deadline, &cost};
            sums.add(run_policy(name, {&r, 1}, l.trace)[0]);
          }
        } else {
          const std::vector<cost_model> costs = costs_of(traced, *m, curve, latency);
          std::vector<simulated_request> requests;
          for (std::size_t i = 0; i < traced.size(); ++i)
            requests.push_back({traced[i].arrival_seconds, deadline, &costs[i]});
          for (const outcome& o : run_policy(name, requests, l.trace)) sums.add(o);
        }
        bar.at(++done, args.deadlines.size() * policies.size() * links.size());
      }
      json row = {{"deadline_s", deadline}, {"policy", name}};
      row.update(sums.to_json());
      report["results"].push_back(row);
    }
  if (args.as_json) {
    program::print(report);
    return 0;
  }
  std::printf(
      "%s (%s), %d tokens, %zu links scaled so that each group's mean is %g of the engine's KV rate (%.3g MB/s):",
      m->name, m->config, context, links.size(), share, kv_rate / 1e6);
  for (const auto& [group, f] : factors) std::printf(" %s x %.4g", group.c_str(), f);
  std::printf("\n\ndeadline  policy             missed  ttft p50   p99      loss (nats)  MB       computed tokens\n");
  const auto seconds = [](const json& x) {
    return x.is_null() ? std::string("never") : std::to_string(x.get<double>()).substr(0, 7);
  };
  for (const json& r : report["results"])
    std::printf("%-8g  %-17s  %5.1f%%  %-9s  %-7s  %-11.6f  %-7.1f  %.0f\n", r["deadline_s"].get<double>(),
                r["policy"].get<std::string>().c_str(), 100.0 * r["misses"].get<double>() / r["requests"].get<double>(),
                seconds(r["ttft_p50_s"]).c_str(), seconds(r["ttft_p99_s"]).c_str(), r["mean_loss_nats"].get<double>(),
                r["mean_bytes"].get<double>() / 1e6, r["mean_recomputed_tokens"].get<double>());
  return 0;
}

}  // namespace

void add_simulate(program& p) {
  p.add<simulate_arguments>("simulate", "Tells what planner policies make of recorded or made-up links.",
                            describe_simulate, simulate_links);
}
