// SPDX-License-Identifier: Apache-2.0
#pragma once

// What `sluice simulate` and the streaming benchmark share: traces from files, requests, sums over outcomes.

#include <command.hpp>
#include <input_file.hpp>
#include <model_shapes.hpp>
#include <sluice/stream/plan/any_policy.hpp>
#include <sluice/stream/plan/by_name.hpp>
#include <sluice/stream/study/oracle.hpp>
#include <sluice/stream/study/simulator.hpp>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <unordered_set>
#include <vector>

/// A link trace and the group that its file name begins with.
struct named_link {
  std::string name, group;
  sluice::stream::link_trace trace;
};

inline std::string read_text(const std::filesystem::path& path) {
  const std::vector<std::byte> bytes = read_file(path.string());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

/// Every .csv of a folder, by name. Throws data_error with file, line and reason.
inline std::vector<named_link> load_links(const std::string& folder) {
  std::error_code error;
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error))
    if (entry.path().extension() == ".csv") files.push_back(entry.path());
  if (error) throw data_error(folder + ": " + error.message());
  if (files.empty()) throw data_error(folder + ": holds no link traces (*.csv)");
  std::sort(files.begin(), files.end());
  std::vector<named_link> links;
  for (const auto& f : files) {
    sluice::stream::trace_error why;
    auto trace = sluice::stream::parse_link_trace(read_text(f), &why);
    if (!trace) throw data_error(f.string() + ":" + std::to_string(why.line) + ": " + why.what);
    const std::string name = f.stem().string();
    links.push_back({name, name.substr(0, name.find('_')), std::move(*trace)});
  }
  return links;
}

/// Made-up datacentre links, for machines without recorded ones.
inline std::vector<named_link> made_up_links() {
  using sluice::stream::synthetic_link;
  std::vector<named_link> links;
  const auto add = [&](const char* name, sluice::stream::link_trace t) {
    links.push_back({name, "synthetic", std::move(t)});
  };
  for (std::uint64_t seed = 1001; seed <= 1004; ++seed) add("cachegen", synthetic_link(seed).cachegen());
  add("share_25g", synthetic_link(1101).share(25, 8));
  add("share_100g", synthetic_link(1102).share(100, 16));
  add("bucket_10g", synthetic_link(1201).bucket(10, 1.25, 60));
  add("bucket_50g", synthetic_link(1202).bucket(50, 12.5, 250));
  add("lognorm_5g", synthetic_link(1301).lognorm(5, 0.8, 0.8));
  add("lognorm_40g", synthetic_link(1302).lognorm(40, 0.5, 0.9));
  add("incast_25g", synthetic_link(1401).incast(25, 0.1, 0.1, 1));
  add("incast_100g", synthetic_link(1402).incast(100, 0.2, 0.5, 10));
  return links;
}

/// Multiplies every rate so that each group's mean (over all its seconds) is `target` bytes per second; returns the factors.
inline std::map<std::string, double> scale_groups(std::vector<named_link>& links, double target) {
  std::map<std::string, std::pair<double, double>> sums;
  for (const named_link& l : links) {
    sums[l.group].first += l.trace.mean_bytes_per_second() * l.trace.seconds();
    sums[l.group].second += l.trace.seconds();
  }
  std::map<std::string, double> factors;
  for (const auto& [group, s] : sums) {
    if (!(s.first > 0)) throw data_error("links " + group + "_*: nothing ever passes");
    factors[group] = target * s.second / s.first;
  }
  for (named_link& l : links) l.trace = l.trace.scaled(factors[l.group]);
  return factors;
}

/// A request of a Mooncake trace: one id for each block of 512 tokens, equal ids for equal prefixes.
struct traced_request {
  double arrival_seconds = 0;
  int tokens = 0;
  std::vector<std::int64_t> ids;
  std::vector<bool> stored;  ///< blocks that an earlier request of the trace had, up to the first that none had
};

/// Reads JSON lines {timestamp (ms), input_length, hash_ids}, not trusted. Throws data_error with file, line and reason.
inline std::vector<traced_request> load_requests(const std::string& path, std::size_t most = 1'000'000) {
  const std::string text = read_text(path);
  std::vector<traced_request> requests;
  std::unordered_set<std::int64_t> seen;
  std::size_t line = 0;
  for (std::size_t at = 0; at < text.size() && requests.size() < most;) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string_view s(text.data() + at, end - at);
    at = end + 1;
    ++line;
    if (s.find_first_not_of(" \r\t") == std::string_view::npos) continue;
    const auto fail = [&](const char* what) { return data_error(path + ":" + std::to_string(line) + ": " + what); };
    const json j = json::parse(s.begin(), s.end(), nullptr, false);
    if (j.is_discarded() || !j.is_object()) throw fail("not a JSON object");
    for (const char* key : {"timestamp", "input_length", "hash_ids"})
      if (!j.contains(key)) throw fail((std::string("no ") + key).c_str());
    if (!j["timestamp"].is_number() || !j["input_length"].is_number_integer() || !j["hash_ids"].is_array())
      throw fail("timestamp, input_length or hash_ids has another type");
    traced_request r;
    r.arrival_seconds = j["timestamp"].get<double>() / 1000;
    if (!(r.arrival_seconds >= 0) || !(r.arrival_seconds < 1e9)) throw fail("timestamp out of range");
    if (!requests.empty() && r.arrival_seconds < requests.back().arrival_seconds) throw fail("timestamps descend");
    const auto& length = j["input_length"];
    if (!(length >= 1) || !(length <= 1 << 24)) throw fail("input_length out of range");
    r.tokens = length.get<int>();
    const json& ids = j["hash_ids"];
    if (ids.size() > std::size_t(r.tokens + 511) / 512) throw fail("more hash_ids than blocks of 512 tokens");
    for (const json& id : ids) {
      if (!id.is_number_integer()) throw fail("hash_ids holds what is no integer");
      r.stored.push_back(seen.contains(id.get<std::int64_t>()) && (r.stored.empty() || r.stored.back()));
    }
    for (const json& id : ids) {
      r.ids.push_back(id.get<std::int64_t>());
      seen.insert(r.ids.back());
    }
    r.stored.resize(std::size_t(r.tokens + 511) / 512, false);
    requests.push_back(std::move(r));
  }
  if (requests.empty()) throw data_error(path + ": holds no requests");
  return requests;
}

/// The cost of each request for a model.
inline std::vector<sluice::stream::cost_model> costs_of(const std::vector<traced_request>& requests,
                                                        const streamed_model& m, const level_curve& curve,
                                                        double latency_seconds) {
  std::vector<sluice::stream::cost_model> costs;
  costs.reserve(requests.size());
  for (const traced_request& r : requests) {
    const std::unique_ptr<bool[]> stored(new bool[r.stored.size()]);
    std::copy(r.stored.begin(), r.stored.end(), stored.get());
    costs.push_back(make_cost(m, curve, r.tokens, 512, latency_seconds, {stored.get(), r.stored.size()}).value());
  }
  return costs;
}

/// Outcomes of requests over one link, by a policy's name ("oracle" is made for each request, which must have the link alone).
inline std::vector<sluice::stream::outcome> run_policy(std::string_view name,
                                                       std::span<const sluice::stream::simulated_request> requests,
                                                       const sluice::stream::link_trace& trace,
                                                       const sluice::stream::simulation_options& options = {}) {
  using namespace sluice::stream;
  std::vector<outcome> all;
  if (name == "oracle") {
    return simulate_each(
               requests, trace,
               [&](std::size_t i) {
                 return policy::oracle(*requests[i].cost, trace, requests[i].arrival_seconds,
                                       requests[i].deadline_seconds);
               },
               options)
        .value();
  }
  if (!with_policy(name, [&](auto p) { all = simulate(requests, trace, erased(p), options).value(); }))
    throw usage_error("there is no policy " + std::string(name));
  return all;
}

/// Sums over outcomes.
class outcome_sums {
 public:
  void add(const sluice::stream::outcome& o) {
    seconds_.push_back(o.seconds);
    missed_ += !o.met;
    loss_ += o.loss;
    if (o.met) loss_met_ += o.loss;
    bytes_ += o.bytes;
    tokens_ += double(o.recomputed_tokens);
    decisions_ += o.decisions;
  }
  std::size_t count() const { return seconds_.size(); }
  double miss_share() const { return double(missed_) / double(count()); }
  std::size_t missed() const { return missed_; }
  double mean_loss() const { return loss_ / double(count()); }
  double decisions() const { return decisions_; }
  /// Time to the first token at a quantile; infinity where requests never end.
  double seconds_at(double q) const {
    std::vector<double> s = seconds_;
    std::sort(s.begin(), s.end());
    return s[std::min(s.size() - 1, std::size_t(q * double(s.size())))];
  }
  json to_json() const {
    const auto finite = [](double x) { return std::isfinite(x) ? json(x) : json(nullptr); };  // JSON knows no infinity
    const double n = double(count());
    return {{"requests", count()},
            {"misses", missed_},
            {"ttft_p50_s", finite(seconds_at(0.5))},
            {"ttft_p99_s", finite(seconds_at(0.99))},
            {"mean_loss_nats", mean_loss()},
            {"mean_loss_nats_of_met", missed_ < count() ? json(loss_met_ / (n - double(missed_))) : json(nullptr)},
            {"mean_bytes", bytes_ / n},
            {"mean_recomputed_tokens", tokens_ / n}};
  }

 private:
  std::vector<double> seconds_;
  std::size_t missed_ = 0;
  double loss_ = 0, loss_met_ = 0, bytes_ = 0, tokens_ = 0, decisions_ = 0;
};
