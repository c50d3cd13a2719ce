// SPDX-License-Identifier: Apache-2.0
#include "calibration.hpp"
#include "coded_cache.hpp"
#include "quality.hpp"

#include <sluice/calibrate/calibrate.hpp>

#include <cmath>
#include <deque>
#include <stdexcept>
#include <string>
#include <utility>

namespace engine {

namespace {

constexpr int level_rounds = 2;         // of measuring what level 1 loses
constexpr std::size_t most_judged = 6;  // captures that it is measured on

}  // namespace

calibrated calibrate(model& net, std::span<const std::vector<std::int32_t>> windows, const self_calibration& how) {
  const model_config& c = net.config();
  const auto layers = std::size_t(c.layers), context = std::size_t(how.context), n = windows.size();
  const auto check = [](sluice::status s) {
    if (s != sluice::status::ok) throw std::runtime_error(std::string("calibration: ") + to_string(s));
  };
  // Progress counts tokens times layers; a sweep of the calibrator takes about a tenth of a pass of the model.
  const std::size_t suffix = windows.front().size() - context, probes = std::size_t(how.sensitivity_windows);
  const std::size_t judged = probes && suffix > 1 ? std::min(n, most_judged) : 0;
  const std::size_t sweep = std::max<std::size_t>(context * layers / 10, 1);
  const int sweeps = how.prediction.sources ? 3 : 2;
  const std::size_t all = n * (context * layers + std::size_t(sweeps) * sweep) +
                          probes * suffix * layers * (layers + 2) + (1 + level_rounds) * judged * suffix * layers;
  std::size_t done = 0;
  const auto advance = [&](std::size_t work) {
    done += work;
    if (how.on_progress) how.on_progress(done, all);
  };

  struct seen {
    seen(page_pool& pages, model& m, int tokens) : cache(pages), queries(m, tokens) {}
    sequence cache;
    query_statistics queries;
    std::vector<std::vector<float>> q2{};
    std::vector<std::vector<sluice::f16>> last{};
    std::vector<sluice::capture_layer> known{};
  };
  // Room for the captures, for what follows one of them, and for one as it decodes.
  page_pool pages(c, how.kv,
                  int(n) * page_pool::pages_for(how.context) +
                      page_pool::pages_for(int(suffix) + page_pool::page_size) +
                      page_pool::pages_for(how.context + int(suffix)));
  std::deque<seen> captures;  // a sequence does not move
  std::vector<matrix> output_metrics;
  for (int l = 0; l < c.layers; ++l) output_metrics.push_back(output_metric(net, l));
  for (const std::vector<std::int32_t>& ids : windows) {
    seen& s = captures.emplace_back(pages, net, how.context);
    net.forward(std::span(ids).first(context), s.cache,
                {.on_queries = [&](int layer, int position, std::span<const float> queries) {
                  s.queries.add(layer, position, queries);
                  advance(queries.size() / std::size_t(c.heads * c.head_dim));
                }});
    for (int l = 0; l < c.layers; ++l) {
      s.q2.push_back(s.queries.q2(l));
      s.last.push_back(s.queries.last(l));
      s.known.push_back({s.q2.back().data(), output_metrics[std::size_t(l)].data(), s.last.back().data()});
    }
  }

  calibrated out;
  for (std::size_t i = 0; i < probes; ++i) {
    const std::size_t at = i * n / probes;
    seen& s = captures[at];
    const sensitivities one =
        sensitivity_probe(net, s.cache, s.queries, output_metrics)
            .measure(std::span(windows[at]).subspan(context), [&](int ran) { advance(suffix * std::size_t(ran)); });
    for (const auto& [to, from] : {std::pair{&out.measured.k, &one.k}, std::pair{&out.measured.v, &one.v}}) {
      to->resize(layers);
      for (std::size_t l = 0; l < layers; ++l) (*to)[l] += (*from)[l] / double(probes);
    }
  }
  sluice::calibration_options options;
  options.target_kl = how.target_kl;
  options.threads = how.threads;
  options.sensitivity_k = out.measured.k;
  options.sensitivity_v = out.measured.v;
  options.prediction = {
      how.prediction,
      {c.vocab, c.dim, [&net](std::int32_t token, float* row) { net.embedding_row(token, row); }},
  };
  sluice::calibrator calibrator(kv_shape(c), options);
  for (int s = 0; s < sweeps; ++s)
    for (std::size_t i = 0; i < n; ++i) {
      const sluice::capture capture{captures[i].cache.view(), captures[i].known, query_statistics::kept, c.heads,
                                    windows[i].data()};
      check(s == 0 ? calibrator.add(capture) : s == 1 ? calibrator.measure(capture) : calibrator.predict(capture));
      advance(sweep);
    }
  sluice::result<sluice::profile> made = calibrator.finish();
  check(made.status());
  out.profile = *std::move(made);
  // What single planes cost does not say to a factor of two what all of them do: level 1 is measured, and steps follow.
  std::vector<matrix> exact;
  for (std::size_t i = 0; i < judged; ++i) {
    seen& s = captures[i * n / judged];
    exact.push_back(predict(net, std::span(windows[i * n / judged]).subspan(context, suffix - 1), s.cache));
    s.cache.truncate(how.context);
    advance(suffix * layers);
  }
  for (int round = 0; judged && round < level_rounds; ++round) {
    suffix_quality sum;
    coded_cache coded(out.profile, "balanced");
    for (std::size_t i = 0; i < judged; ++i) {
      const std::size_t at = i * n / judged;
      sum.add(judge_window(net, windows[at], captures[at].cache, exact[i], {}, {}, {}, 1, coded));
      advance(suffix * layers);
    }
    const double kl = sum.levels.front().distance.kl();
    if (!(kl > 0) || coarsen_steps(out.profile, sluice::quarters_for(how.target_kl / kl)) != sluice::status::ok) break;
  }
  return out;
}

}  // namespace engine
