// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/frame.hpp>
#include <sluice/stream/run/executor.hpp>
#include <sluice/stream/store/object.hpp>
#include <sluice/stream/study/trace.hpp>

#include <cstring>
#include <deque>
#include <limits>
#include <map>
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

  explicit virtual_store(const stream::cost_model& cost) {
    for (int c = 0; c < cost.num_chunks(); ++c) {
      stream::stored_chunk n;
      n.key[0] = n.exact_key[0] = std::byte(c & 255);
      n.key[1] = n.exact_key[1] = std::byte(c >> 8);
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

/// Runs one request from `start` on until it has ended.
template <class Policy>
stream::report run_virtually(const stream::cost_model& cost, const stream::link_trace& trace, Policy policy,
                             double start, double deadline, stream::executor_options options = {},
                             stream::link_history link = {}) {
  constexpr double never = std::numeric_limits<double>::infinity();
  double now = start;
  const virtual_store store(cost);
  virtual_source source(store, trace, cost.rates().latency_seconds, now);
  const stream::planner<Policy> plan(cost, policy);
  stream::executor<Policy, virtual_source, virtual_clock> e(plan, source, store.names, link, deadline, options, {&now});
  double decoded = never, computed = never;
  for (std::size_t turns = 0;; ++turns) {
    if (turns > 1'000'000) std::abort();
    const stream::turn t = e.next(std::max(std::min(decoded, computed) - now, 0.0));
    if (t.finished) return e.result();
    if (t.decode) {
      const int c = t.decode.what.chunk, level = t.decode.what.level;
      const int have = e.state().chunks[std::size_t(c)].ready;
      decoded = now + cost.decode_seconds(c, level, cost.bytes_between(c, have, level));
    }
    if (t.compute)
      computed = now + (t.compute.what.what == stream::action::patch ? cost.patch_seconds(t.compute.what.chunk)
                                                                     : cost.recompute_seconds(t.compute.what.chunk));
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
      e.decoded({});
    }
  }
}

}  // namespace sluice::test
