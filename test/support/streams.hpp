// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/plan/cost.hpp>
#include <sluice/stream/plan/plan.hpp>

#include <random>
#include <vector>

namespace sluice::test {

/// n chunks of `tokens` tokens, all alike: bytes and loss per level, the last figure of bytes being the raw copy.
inline stream::cost_model equal_chunks(int n, int tokens, std::vector<std::uint64_t> bytes, std::vector<double> loss,
                                       stream::cost_rates rates = {}, std::uint64_t values = 0) {
  std::vector<stream::chunk_cost> chunks;
  for (int i = 0; i < n; ++i) chunks.push_back({std::int64_t(i) * tokens, tokens, values, bytes, loss, {}});
  const int levels = int(loss.size());
  return stream::cost_model::make(std::move(chunks), rates, levels).value();
}

/// Chunks of random sizes, levels and losses; the engine and the decoder get random rates.
inline stream::cost_model random_chunks(std::mt19937& rng, int most_chunks = 40) {
  const auto uniform = [&](double a, double b) { return std::uniform_real_distribution<double>(a, b)(rng); };
  const int n = std::uniform_int_distribution<int>(1, most_chunks)(rng),
            levels = std::uniform_int_distribution<int>(1, 5)(rng);
  std::vector<stream::chunk_cost> chunks;
  std::int64_t position = 0;
  for (int i = 0; i < n; ++i) {
    stream::chunk_cost c;
    c.position = position;
    c.tokens = std::uniform_int_distribution<int>(1, 512)(rng);
    position += c.tokens;
    c.values = std::uint64_t(c.tokens) * 100;
    double bytes = uniform(1, 20) * c.tokens, loss = uniform(0, 0.01);
    for (int l = 0; l < levels; ++l) {
      c.bytes.push_back(std::uint64_t(bytes));
      c.loss.push_back(loss);
      bytes *= uniform(1, 3);
      loss *= uniform(0, 1);
    }
    c.bytes.push_back(std::uint64_t(bytes * uniform(1, 3)));
    chunks.push_back(std::move(c));
  }
  stream::cost_rates r;
  r.recompute_seconds_per_token = uniform(0, 1) < 0.1 ? 0 : uniform(1e-5, 1e-3);
  r.recompute_seconds_per_token_position = uniform(0, 1e-7);
  r.decode_seconds_per_value = uniform(0, 1) < 0.5 ? 0 : uniform(0, 1e-7);
  r.latency_seconds = uniform(0, 1) < 0.5 ? 0 : uniform(0, 0.02);
  return stream::cost_model::make(std::move(chunks), r, levels).value();
}

/// The state of a request of which nothing is there yet, and room to change it.
struct fresh_request {
  explicit fresh_request(const stream::cost_model& cost, double deadline = 1) : chunks(std::size_t(cost.num_chunks())) {
    now.deadline_seconds = deadline;
    now.chunks = chunks;
  }
  fresh_request(const fresh_request&) = delete;
  stream::chunk_progress& operator[](int c) { return chunks[std::size_t(c)]; }
  void fetched(int c, int level) {
    chunks[std::size_t(c)].requested = chunks[std::size_t(c)].arrived = chunks[std::size_t(c)].ready =
        std::int8_t(level);
  }
  std::vector<stream::chunk_progress> chunks;
  stream::request_progress now;
};

}  // namespace sluice::test
