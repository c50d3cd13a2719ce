// SPDX-License-Identifier: Apache-2.0
#include "blended.hpp"
#include "everything_at.hpp"

#include <sluice/stream/run/loops.hpp>
#include <sluice/stream/run/page_decoder.hpp>
#include <sluice/stream/store/chunk.hpp>

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <stdexcept>

namespace engine {

namespace {

// One chunk of a document, at its place in the prompt.
struct placed_chunk {
  located_chunk found;
  int document = 0, start = 0;  // of the document
  int begin() const { return start + found.begin; }
};

struct blend_sink {
  model* net;
  sequence* seq;
  sequence* scratch;  // of which layer 1 is used
  std::span<const std::int32_t> ids;
  std::span<const placed_chunk> chunks;
  const blend_options* options;
  blend_result* result;
  sluice::stream::page_decoder<prefix_cache::codec, prefix_cache::exact> pages;

  sluice::page_status decode(int chunk, int level, std::span<const std::byte> frame) {
    sluice::page_status done = pages.decode(chunk, level, frame);
    if (done.outside > 0) done.worst = sluice::status::absent, done.missing = {};  // blending looks at all of it
    return done;
  }
  sluice::status compute(const sluice::stream::step& what, const std::stop_token&) {
    const placed_chunk& c = chunks[std::size_t(what.chunk)];
    const int begin = c.begin(), end = begin + c.found.end - c.found.begin;
    if (what.what != sluice::stream::action::patch || options->fraction >= 1) return run(begin, end);
    if (c.document == 0) return sluice::status::ok;
    if (options->first > 0) return run(begin, std::min(end, c.start + options->first));
    return blend(begin, end);
  }

 private:
  std::span<const std::int32_t> tokens(int begin, int end) const {
    return ids.subspan(std::size_t(begin), std::size_t(end - begin));
  }
  sluice::status run(int begin, int end) {
    if (begin >= end) return sluice::status::ok;
    net->forward(tokens(begin, end), *seq, {.position = begin});
    result->computed += end - begin;
    return sluice::status::ok;
  }
  sluice::status blend(int begin, int end) {
    const int n = end - begin, dim = net->config().dim;
    const int count = std::min(n, int(std::ceil(options->fraction * n)));
    std::vector<float> entering;  // layer 1
    net->forward(tokens(begin, end), *seq,
                 {.on_hidden =
                      [&](int layer, int, std::span<const float> x) {
                        if (layer == 1) entering.insert(entering.end(), x.begin(), x.end());
                      },
                  .position = begin,
                  .end_layer = 1});
    result->checked += n;
    const std::vector<int> chosen = most_deviating(*net, *seq, begin, entering, count, *scratch);
    std::vector<std::int32_t> some;
    std::vector<float> hidden;
    for (const int at : chosen) {
      some.push_back(ids[std::size_t(at)]);
      const auto row = entering.begin() + std::ptrdiff_t(at - begin) * dim;
      hidden.insert(hidden.end(), row, row + dim);
    }
    net->forward(some, *seq, {.positions = chosen, .first_layer = 1, .hidden = hidden});
    result->computed += count;
    return sluice::status::ok;
  }
};

std::vector<placed_chunk> place(prefix_cache& prefixes, std::span<const std::int32_t> ids,
                                std::span<const int> starts) {
  std::vector<placed_chunk> out;
  for (std::size_t d = 0; d < starts.size(); ++d) {
    const int end = d + 1 < starts.size() ? starts[d + 1] : int(ids.size());
    if (end <= starts[d] || (d == 0 && starts[d] != 0)) throw std::runtime_error("documents do not follow one another");
    const auto document = ids.subspan(std::size_t(starts[d]), std::size_t(end - starts[d]));
    for (located_chunk& c : prefixes.locate(document).chunks) out.push_back({std::move(c), int(d), starts[d]});
  }
  return out;
}

}  // namespace

std::vector<int> most_deviating(model& net, const sequence& seq, int position, std::span<const float> hidden, int count,
                                sequence& scratch) {
  const int dim = net.config().dim, n = int(hidden.size()) / dim, width = seq.pool().width();
  matrix rows(n, dim);
  for (int t = 0; t < n; ++t) net.normalize(hidden.data() + std::ptrdiff_t(t) * dim, rows.row(t).data());
  net.project(1, position, n, rows.data(), scratch);
  Eigen::RowVectorXf now(width), stored(width);
  std::vector<float> deviation;
  for (int t = 0; t < n; ++t) {
    load_row(scratch.at(sluice::plane::value, 1, position + t), scratch.pool().type(), now.data(), width);
    load_row(seq.at(sluice::plane::value, 1, position + t), seq.pool().type(), stored.data(), width);
    deviation.push_back((now - stored).squaredNorm());
  }
  std::vector<int> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, std::greater<>(), [&](int t) { return deviation[std::size_t(t)]; });
  order.resize(std::size_t(std::clamp(count, 0, n)));
  for (int& t : order) t += position;
  std::ranges::sort(order);
  return order;
}

blend_result blend(model& net, prefix_cache& prefixes, store& from, std::span<const std::int32_t> ids,
                   std::span<const int> starts, sequence& seq, const machine_costs& costs,
                   const blend_options& options) {
  if (net.config().layers < 2) throw std::runtime_error("a model of one layer has no layer 1 to look at");
  const std::vector<placed_chunk> chunks = place(prefixes, ids, starts);
  page_pool scratch_pages(net.config(), seq.pool().type(), page_pool::pages_for(int(ids.size())));
  sequence scratch(scratch_pages);
  for (sequence* s : {&seq, &scratch})
    if (s->grow(int(ids.size())) != sluice::status::ok) throw std::runtime_error("the KV cache is full");

  blend_result result;
  result.tokens = int(ids.size());
  result.raw_bytes = ids.size() * seq.pool().values_of_token() * std::size_t(seq.pool().element_stride());
  const auto loss = sluice::stream::context_loss::of(prefixes.profile(), double(ids.size()));
  std::vector<sluice::stream::chunk_cost> all;
  std::vector<sluice::stream::stored_chunk> names;
  for (const placed_chunk& c : chunks) {
    const int n = c.found.end - c.found.begin;
    all.push_back(
        c.found.state == sluice::status::ok
            ? sluice::stream::chunk_of(c.found.index, 0, loss)
            : sluice::stream::chunk_of(c.begin(), n, std::uint64_t(n) * seq.pool().values_of_token(), {}, 0, loss));
    all.back().position = c.begin();
    names.push_back({.key = c.found.key, .exact_key = c.found.exact_key, .position = c.found.begin});
  }
  // What a planner knows of it: the tokens through all layers, and the first layer of those that are looked at.
  double anew = options.fraction;
  if (options.first > 0)
    anew = double(options.first) * double(starts.size()) / double(ids.size());
  else if (anew > 0)
    anew += 1.0 / net.config().layers;
  const sluice::stream::cost_rates rates{.recompute_seconds_per_token = costs.seconds_per_token,
                                         .recompute_seconds_per_token_position = costs.seconds_per_token_position,
                                         .decode_seconds_per_value = costs.decode_seconds_per_value,
                                         .token_fraction = std::clamp(anew, 0.0, 1.0)};
  const auto cost = sluice::stream::cost_model::make(std::move(all), rates, loss.levels()).value();
  const sluice::kv_view view = seq.view();
  blend_sink sink{&net, &seq, &scratch, ids, chunks, &options, &result, {prefixes.profile(), cost, {&view, 1}, ids}};
  const sluice::stream::planner<everything_at> plan(cost, {std::min(options.level, cost.num_levels() - 1)});
  sluice::stream::link_history link;
  sluice::stream::executor e(plan, from, names, link, 1e6);
  run_threaded(e, sink);
  result.report = e.result();
  if (result.report.outcome != sluice::status::ok)
    throw std::runtime_error(std::string("computing: ") + to_string(result.report.outcome));
  return result;
}

}  // namespace engine
