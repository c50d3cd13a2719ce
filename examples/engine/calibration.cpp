// SPDX-License-Identifier: Apache-2.0
#include "calibration.hpp"
#include "coded_cache.hpp"
#include "quality.hpp"

#include <sluice/calibrate/calibrate.hpp>
#include <sluice/calibrate/preset_sections.hpp>

#include <algorithm>
#include <cmath>
#include <deque>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

namespace engine {

namespace {

constexpr int level_rounds = 2;         // of measuring what level 1 loses
constexpr int usual_looks = 12;         // at bytes, until the balance of K and V is found
constexpr int most_moves = 6;           // of the balance one way
constexpr double worth_moving = 0.003;  // of the bytes
constexpr std::size_t most_judged = 6;  // captures that it is measured on

// Bytes that a nat less in the logarithm of what level 1 loses is worth: what the levels around it differ by.
double bytes_per_log_nat(const suffix_quality& q) {
  const auto end = q.levels.end();
  const auto level = [&](int n) { return std::find_if(q.levels.begin(), end, [n](auto& l) { return l.level == n; }); };
  const auto fine = level(2), coarse = level(0);
  if (fine == end || coarse == end) return 0;
  return (double(fine->bytes) - double(coarse->bytes)) / std::log(coarse->distance.kl() / fine->distance.kl());
}

// Moves the steps of all K against those of all V, and how far they follow attention, for as long as that takes bytes away.
void balance(sluice::profile& p, const std::function<double(const sluice::profile&)>& bytes) {
  const auto known = sluice::detail::token_weight_model::of(p);
  if (!known) return;
  constexpr struct {
    int offset[2], exponent[2];  // of K and V
  } moves[] = {{{-2, 2}, {}}, {{2, -2}, {}}, {{}, {16, 0}}, {{}, {-16, 0}}, {{}, {0, 16}}, {{}, {0, -16}}};
  sluice::detail::token_weight_model now = *known;
  double least = bytes(p);
  for (const auto& move : moves)
    for (int times = 0; times < most_moves; ++times) {
      sluice::detail::token_weight_model next = now;
      for (sluice::detail::layer_weights& l : next.layers)
        for (int i : {0, 1}) {
          l.offset[i] = std::int8_t(l.offset[i] + move.offset[i]);
          l.exponent[i] = std::uint8_t(std::max(l.exponent[i] + move.exponent[i], 0));
        }
      sluice::profile moved = p;
      next.put_into(moved);
      const double there = bytes(moved);
      if (!(there < (1 - worth_moving) * least)) break;
      least = there;
      now = std::move(next);
    }
  now.put_into(p);
}

void check(sluice::status s) {
  if (s != sluice::status::ok) throw std::runtime_error(std::string("calibration: ") + to_string(s));
}

sluice::preset_calibrator asked_for(const self_calibration& how, const sluice::profile& p) {
  sluice::preset_calibrator c(p);
  for (const std::string& name : how.presets)
    if (!c.want(name.c_str())) throw std::runtime_error("no codec is called " + name);
  return c;
}

}  // namespace

calibrated calibrate(model& net, std::span<const std::vector<std::int32_t>> windows, const self_calibration& how) {
  const model_config& c = net.config();
  const auto layers = std::size_t(c.layers), context = std::size_t(how.context), n = windows.size();
  // Progress counts tokens times layers; a sweep of the calibrator takes about a tenth of a pass of the model.
  const std::size_t suffix = windows.front().size() - context, probes = std::size_t(how.sensitivity_windows);
  const std::size_t judged = probes && suffix > 1 ? std::min(n, most_judged) : 0;
  const std::size_t sweep = std::max<std::size_t>(context * layers / 10, 1);
  const int sweeps = how.prediction.sources ? 3 : 2;
  const std::size_t all = n * (context * layers + std::size_t(sweeps) * sweep) +
                          probes * suffix * layers * (layers + 2) +
                          (5 + level_rounds + usual_looks) * judged * suffix * layers;
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
  // What single planes cost does not say to a factor of two what all of them do: bytes are measured where level 1 loses
  // what it is meant to, the balance of K and V is sought, and steps follow.
  std::vector<matrix> exact;
  for (std::size_t i = 0; i < judged; ++i) {
    seen& s = captures[i * n / judged];
    exact.push_back(predict(net, std::span(windows[i * n / judged]).subspan(context, suffix - 1), s.cache));
    s.cache.truncate(how.context);
    advance(suffix * layers);
  }
  const auto judge = [&](const sluice::profile& p, int level) {
    suffix_quality sum;
    coded_cache coded(p, "balanced");
    for (std::size_t i = 0; i < judged; ++i) {
      const std::size_t at = i * n / judged;
      sum.add(judge_window(net, windows[at], captures[at].cache, exact[i], {}, {}, {}, level, coded));
    }
    return sum;
  };
  if (judged) {
    const double worth = bytes_per_log_nat(judge(out.profile, -1));
    advance(4 * judged * suffix * layers);
    int looks = 0;
    balance(out.profile, [&](const sluice::profile& p) {
      const auto level = judge(p, 1).levels.front();
      if (++looks <= usual_looks) advance(judged * suffix * layers);
      return double(level.bytes) + worth * std::log(level.distance.kl() / how.target_kl);
    });
    advance(std::size_t(std::max(usual_looks - looks, 0)) * judged * suffix * layers);
  }
  for (int round = 0; judged && round < level_rounds; ++round) {
    const double kl = judge(out.profile, 1).levels.front().distance.kl();
    advance(judged * suffix * layers);
    if (!(kl > 0) || coarsen_steps(out.profile, sluice::quarters_for(how.target_kl / kl)) != sluice::status::ok) break;
  }
  sluice::preset_calibrator sections = asked_for(how, out.profile);
  for (std::size_t i = 0; i < n && !sections.empty(); ++i) check(sections.add(captures[i].cache.view()));
  check(sections.finish(out.profile));
  return out;
}

void add_sections(model& net, std::span<const std::vector<std::int32_t>> windows, const self_calibration& how,
                  sluice::profile& p) {
  const model_config& c = net.config();
  if (p.shape != kv_shape(c)) throw std::runtime_error("the profile is of a model with another shape");
  sluice::preset_calibrator sections = asked_for(how, p);
  const std::size_t layers = std::size_t(c.layers), all = windows.size() * std::size_t(how.context) * layers;
  std::size_t done = 0;
  page_pool pages(c, how.kv, page_pool::pages_for(how.context));
  for (const std::vector<std::int32_t>& ids : windows) {
    sequence seq(pages);
    net.forward(std::span(ids).first(std::size_t(how.context)), seq,
                {.on_hidden = [&](int, int, std::span<const float> x) {
                  done += x.size() / std::size_t(c.dim);
                  if (how.on_progress) how.on_progress(done, all);
                }});
    check(sections.add(seq.view()));
  }
  check(sections.finish(p));
}

}  // namespace engine
