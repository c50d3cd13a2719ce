// SPDX-License-Identifier: Apache-2.0
// simulate: what planner policies would make of link and request traces.

#include <simulation.hpp>

#include <cstdio>

namespace {

using namespace sluice::stream;

std::vector<std::string> split(const std::string& s) {
  std::vector<std::string> parts(1);
  for (char c : s)
    if (c == ',')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

double parse_real(const std::string& name, const std::string& s, double low, double high) {
  double x = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), x);
  if (error != std::errc{} || end != s.data() + s.size() || !(x >= low) || !(x <= high))
    throw usage_error(name + " must be numbers from " + std::to_string(low) + " to " + std::to_string(high));
  return x;
}

std::string names_of_shapes() {
  std::string all;
  for (const streamed_model& m : streamed_models) all += std::string(all.empty() ? "" : ", ") + m.name;
  return all;
}

}  // namespace

int simulate_command(int argc, char** argv) {
  const arguments args(argc, argv,
                       {"--links", "--requests", "--shape", "--policies", "--deadlines", "--kv-share", "--context"},
                       {"--json"});
  if (!args.operands.empty()) throw usage_error("unexpected " + args.operands[0]);
  const std::string shape = args.text("--shape", "Llama-3.1-8B");
  const streamed_model* m = find_streamed_model(shape);
  if (!m) throw usage_error("there is no shape " + shape + "; there are " + names_of_shapes());
  std::vector<std::string> policies(std::begin(policy_names), std::end(policy_names));
  if (!args.has("--requests")) policies.push_back("oracle");
  if (args.has("--policies")) policies = split(args.text("--policies"));
  for (const std::string& p : policies)
    if (!(p == "oracle" && !args.has("--requests")) && !with_policy(p, [](auto) {}))
      throw usage_error(p == "oracle" ? "the oracle needs a link for itself: leave --requests away"
                                      : "there is no policy " + p);
  std::vector<double> deadlines = {0.25, 0.5, 1, 2};
  if (args.has("--deadlines")) {
    deadlines.clear();
    for (const std::string& d : split(args.text("--deadlines")))
      deadlines.push_back(parse_real("--deadlines", d, 0, 1e6));
  }
  const double share = parse_real("--kv-share", args.text("--kv-share", "0.25"), 1e-9, 1e9);
  const int context = int(args.integer("--context", m->context_tokens, 1, 1 << 24));
  const level_curve curve = measured_curve(m->curve);
  const double kv_rate = kv_rate_bytes_per_second(*m, context);

  std::vector<named_link> links = args.has("--links") ? load_links(args.text("--links")) : made_up_links();
  const auto factors = scale_groups(links, share * kv_rate);
  std::vector<traced_request> traced;
  if (args.has("--requests")) traced = load_requests(args.text("--requests"));

  json report = {{"shape", m->name},        {"config", m->config},       {"kv_rate_bytes_per_s", kv_rate},
                 {"kv_share", share},       {"context_tokens", context}, {"links", links.size()},
                 {"link_factors", factors}, {"results", json::array()}};
  ::progress bar("simulating");
  std::size_t done = 0;
  constexpr int offsets = 3;
  for (double deadline : deadlines)
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
        bar.at(++done, deadlines.size() * policies.size() * links.size());
      }
      json row = {{"deadline_s", deadline}, {"policy", name}};
      row.update(sums.to_json());
      report["results"].push_back(row);
    }
  if (args.has("--json")) {
    std::printf("%s\n", report.dump(1).c_str());
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
