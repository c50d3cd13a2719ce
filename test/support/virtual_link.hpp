// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/stream/run/executor.hpp>
#include <sluice/stream/run/group.hpp>
#include <sluice/stream/store/object.hpp>
#include <sluice/stream/study/simulator.hpp>
#include <sluice/stream/study/trace.hpp>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <vector>

/// An executor in virtual time: a clock that only waiting moves, a store behind a traced link, and a decoder and an engine that
/// take as long as the cost model says. What the simulator says of the same request must come true.
namespace sluice::test {

struct virtual_clock {
  double* now;
  double operator()() const noexcept { return *now; }
};

/// Objects that look like chunks of a cost model, under names that stored_chunk holds.
struct virtual_store {
  std::vector<stream::stored_chunk> names;
  std::map<std::string, std::vector<std::byte>> objects;

  explicit virtual_store(const stream::cost_model& cost, int number = 0) {
    for (int c = 0; c < cost.num_chunks(); ++c) {
      stream::stored_chunk n;
      n.key[0] = n.exact_key[0] = std::byte(c & 255);
      n.key[1] = n.exact_key[1] = std::byte(c >> 8);
      n.key[3] = n.exact_key[3] = std::byte(number);
      n.exact_key[2] = std::byte{1};
      names.push_back(n);
      add(cost, c, n.key, cost.num_levels() - 1);
      add(cost, c, n.exact_key, cost.exact_level());
    }
  }

 private:
  void add(const stream::cost_model& cost, int c, const digest& key, int level) {
    std::vector<std::byte>& bytes = objects[stream::to_hex(key)];
    bytes.resize(std::size_t(cost.bytes(c, level)));
    const stream::object_header o = stream::make_object_header(key);
    frame_header f{};
    f.magic = frame_magic;
    f.position = (cost.chunk(c).position);
    f.tokens = std::uint32_t(cost.chunk(c).tokens);
    if (bytes.size() < sizeof o + sizeof f) std::abort();
    std::memcpy(bytes.data(), &o, sizeof o);
    std::memcpy(bytes.data() + sizeof o, &f, sizeof f);
  }
};

/// Reads one after the other over a traced link, each after the link's latency.
class virtual_source {
 public:
  virtual_source(const virtual_store& store, const stream::link_trace& trace, double latency_seconds, double& now)
      : store_(&store), trace_(&trace), latency_(latency_seconds), now_(&now) {}

  result<std::uint64_t> size(std::string_view) const { return status::not_found; }
  status put(std::string_view, std::span<const std::byte>) { return status::refused; }
  std::string_view detail() const noexcept { return {}; }

  stream::ticket submit(const stream::read_request& r) {
    const double ready = *now_ + std::max(latency_, trace_->latency_at(*now_));
    reads_.push_back({++last_, std::string(r.key), r.offset, r.buffer, ready});
    return last_;
  }
  std::size_t arrived(stream::ticket t) const {
    if (reads_.empty() || reads_[0].which != t) return 0;
    return std::min(reads_[0].buffer.size(), std::size_t(trace_->bytes_between(begin(), *now_)));
  }
  std::size_t cancel(stream::ticket t) {
    const std::size_t bytes = arrived(t);
    for (std::size_t i = 0; i < reads_.size(); ++i)
      if (reads_[i].which == t) {
        if (i == 0) free_ = *now_;
        reads_.erase(reads_.begin() + std::ptrdiff_t(i));
        break;
      }
    return bytes;
  }
  /// Also ends, with nothing, when bytes begin to pass, when the first of a read has, and when they stop.
  std::size_t poll(std::span<stream::completion> done, double wait) {
    const double until = *now_ + wait;
    if (!reads_.empty()) {
      const double end = trace_->finish_time(begin(), double(reads_[0].buffer.size()));
      const double from = std::max(begin(), *now_), flow = trace_->next_moment(from, true);
      const double first = arrived(reads_[0].which) ? end : trace_->finish_time(begin(), 1.01);
      *now_ = std::min({until, end, flow > *now_ ? flow : std::min(first, trace_->next_moment(from, false))});
      if (end <= *now_) {
        const read& r = reads_[0];
        const std::vector<std::byte>& bytes = store_->objects.at(r.key);
        std::memcpy(r.buffer.data(), bytes.data() + r.offset, r.buffer.size());
        done[0] = {r.which, status::ok, r.buffer.size()};
        free_ = *now_;
        reads_.pop_front();
        return 1;
      }
    } else {
      *now_ = until;
    }
    return 0;
  }

 private:
  struct read {
    stream::ticket which;
    std::string key;
    std::uint64_t offset;
    std::span<std::byte> buffer;
    double ready;  // when its first byte may begin to pass
  };
  double begin() const { return std::max(free_, reads_[0].ready); }

  const virtual_store* store_;
  const stream::link_trace* trace_;
  double latency_, *now_;
  std::deque<read> reads_;
  double free_ = 0;
  stream::ticket last_ = 0;
};

/// Up to 30 chunks of up to 4 levels, and an engine whose computing takes a while.
inline stream::cost_model random_context(std::mt19937& rng) {
  const auto uniform = [&](double a, double b) { return std::uniform_real_distribution<double>(a, b)(rng); };
  const int n = 1 + int(rng() % 30), levels = 1 + int(rng() % 4);
  std::vector<stream::chunk_cost> chunks;
  std::int64_t position = 0;
  for (int i = 0; i < n; ++i) {
    stream::chunk_cost c;
    c.position = position;
    c.tokens = 16 + int(rng() % 256);
    position += c.tokens;
    c.values = std::uint64_t(c.tokens) * 100;
    double bytes = 300 + uniform(1, 20) * c.tokens, loss = uniform(0, 0.01);
    for (int l = 0; l < levels; ++l) {
      c.bytes.push_back(std::uint64_t(bytes));
      c.loss.push_back(loss);
      bytes *= uniform(1.1, 3);
      loss *= uniform(0, 1);
    }
    c.bytes.push_back(std::uint64_t(bytes * uniform(1, 3)));
    chunks.push_back(c);
  }
  stream::cost_rates r;
  r.recompute_seconds_per_token = uniform(1e-4, 3e-3);
  r.recompute_seconds_per_token_position = uniform(0, 1e-7);
  r.decode_seconds_per_value = rng() % 2 ? uniform(1e-8, 1e-7) : 1e-9;
  return stream::cost_model::make(std::move(chunks), r, levels).value();
}

/// A quarter of its segments are outages; two thirds of the links have a latency that the cost model does not know.
inline stream::link_trace random_link(std::mt19937& rng, double mean) {
  const auto log_uniform = [&](double a, double b) {
    return std::exp(std::uniform_real_distribution<double>(std::log(a), std::log(b))(rng));
  };
  std::vector<stream::link_segment> s;
  const double latency = rng() % 3 ? log_uniform(0.001, 0.8) : 0;
  const int n = 1 + int(rng() % 20);
  for (int i = 0; i < n; ++i)
    if (rng() % 4 == 0)
      s.push_back({log_uniform(0.05, 3), 0, latency});
    else
      s.push_back({log_uniform(0.05, 1), log_uniform(mean / 10, mean * 10), latency});
  s.push_back({0.5, log_uniform(mean / 10, mean * 10), latency});
  return stream::link_trace::make(std::move(s)).value();
}

/// Runs one request from `start` on until it has ended. `outcome(chunk, level)` says how a decode went; none = well.
template <class Policy>
stream::report run_virtually(const stream::cost_model& cost, const stream::link_trace& trace, Policy policy,
                             double start, double deadline, stream::executor_options options = {},
                             stream::link_history link = {},
                             const std::function<page_status(int chunk, int level)>& outcome = {}) {
  constexpr double never = std::numeric_limits<double>::infinity();
  double now = start;
  const virtual_store store(cost);
  virtual_source source(store, trace, cost.rates().latency_seconds, now);
  const stream::planner<Policy> plan(cost, policy);
  stream::executor<Policy, virtual_source, virtual_clock> e(plan, source, store.names, link, deadline, options, {&now});
  double decoded = never, computed = never;
  page_status pages;
  for (std::size_t turns = 0;; ++turns) {
    if (turns > 1'000'000) std::abort();
    const stream::turn t = e.next(std::max(std::min(decoded, computed) - now, 0.0));
    if (t.finished) return e.result();
    if (t.decode) {
      const int c = t.decode.what.chunk, level = t.decode.what.level;
      const int have = e.state().chunks[std::size_t(c)].ready;
      decoded = now + cost.decode_seconds(c, level, cost.bytes_between(c, have, level));
      pages = outcome ? outcome(c, level) : page_status{};
    }
    if (t.compute) computed = now + engine_seconds(cost, t.compute.what);
    if (t.stop_computing && computed < never) {
      computed = never;
      e.computed(status::cancelled);
      continue;
    }
    if (t.idle) now = std::min({now + t.wait_seconds, decoded, computed});
    if (computed <= now) {
      computed = never;
      e.computed(status::ok);
    }
    if (decoded <= now) {
      decoded = never;
      e.decoded(pages);
    }
  }
}

/// Runs many requests over one link and one engine, each from its arrival on. Reports in their order.
template <class Policy>
std::vector<stream::report> run_virtually(std::span<const stream::simulated_request> requests,
                                          const stream::link_trace& trace, Policy policy,
                                          stream::executor_options options = {}) {
  constexpr double never = std::numeric_limits<double>::infinity();
  double now = 0;
  std::vector<virtual_store> stores;
  std::vector<stream::planner<Policy>> plans;
  virtual_store objects(*requests[0].cost);
  for (std::size_t i = 0; i < requests.size(); ++i) {
    plans.emplace_back(*requests[i].cost, policy);
    virtual_store& s = stores.emplace_back(*requests[i].cost, int(i));
    objects.objects.insert(s.objects.begin(), s.objects.end());
  }
  virtual_source source(objects, trace, 0, now);
  stream::link_history link;
  stream::request_group<Policy, virtual_source, virtual_clock> group(source, link, options, {&now});
  struct member {
    int request = -1;
    double decoded = std::numeric_limits<double>::infinity();
  };
  std::vector<member> members(requests.size());
  std::vector<stream::report> reports(requests.size());
  std::size_t begun = 0, ended = 0;
  double computed = never;
  const auto of = [&](int request) {
    std::size_t i = 0;
    while (members[i].request != request) ++i;
    return i;
  };
  for (std::size_t turns = 0; ended < requests.size(); ++turns) {
    if (turns > 1'000'000) std::abort();
    for (; begun < requests.size() && requests[begun].arrival_seconds <= now; ++begun)
      members[begun].request = group.add(plans[begun], stores[begun].names,
                                         requests[begun].arrival_seconds + requests[begun].deadline_seconds - now);
    double event = computed;
    if (begun < requests.size()) event = std::min(event, requests[begun].arrival_seconds);
    for (const member& m : members) event = std::min(event, m.decoded);
    const stream::group_turn t = group.next(std::max(event - now, 0.0));
    for (const auto& w : t.decode) {
      const std::size_t i = of(w.request);
      const int c = w.what.what.chunk, level = w.what.what.level;
      const int have = group.state(w.request).chunks[std::size_t(c)].ready;
      const stream::cost_model& cost = *requests[i].cost;
      event =
          std::min(event, members[i].decoded = now + cost.decode_seconds(c, level, cost.bytes_between(c, have, level)));
    }
    if (t.compute.request >= 0) {
      const stream::cost_model& cost = *requests[of(t.compute.request)].cost;
      event = std::min(event, computed = now + engine_seconds(cost, t.compute.what.what));
    }
    if (t.stop_computing && computed < never) {
      computed = never;
      group.computed(status::cancelled);
      continue;
    }
    for (const int request : t.finished) {
      reports[of(request)] = group.result(request);
      group.remove(request);
      ++ended;
    }
    if (t.idle) now = std::min(now + t.wait_seconds, event);
    if (computed <= now) {
      computed = never;
      group.computed(status::ok);
    }
    for (member& m : members)
      if (m.decoded <= now) {
        m.decoded = never;
        group.decoded(m.request, {});
      }
  }
  return reports;
}

}  // namespace sluice::test
