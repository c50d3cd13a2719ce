// SPDX-License-Identifier: Apache-2.0
#include "quality.hpp"
#include "needles.hpp"
#include "session.hpp"
#include "windows.hpp"

#include <presets.hpp>

#include <charconv>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace engine {

namespace {

struct quality_options : model_options {
  std::string text, profile, codec = "standard", level = "all";
  int context = 1024, suffix = 256, windows = 4, needles = 0, needle_context = 4096;
  std::size_t offset = 0;
  std::uint64_t seed = 1;
};

void describe(option_list& app, quality_options& o) {
  describe_model(app, o);
  app.add_option("TEXT", o.text, "a file of text").required();
  describe_profile(app, o.profile);
  app.add_option("--codec", o.codec, codec_names());
  app.add_option("--level", o.level, "one level, or all");
  app.add_option("--context", o.context, "tokens whose cache is coded").range(1, 1 << 20);
  app.add_option("--suffix", o.suffix, "tokens behind them that are predicted").range(1, 1 << 16);
  app.add_option("--windows", o.windows, "places of the text; 0 = no predictions are judged").range(0, 4096);
  app.add_option("--offset", o.offset, "tokens of the text to leave out first")
      .range(std::size_t{0}, std::size_t{1} << 30);
  app.add_option("--needles", o.needles, "numbers to hide in the text and to ask for").range(0, 4096);
  app.add_option("--needle-context", o.needle_context, "tokens of the longest text that one is hidden in")
      .range(256, 1 << 20);
  app.add_option("--seed", o.seed, "of numbers and places");
  app.footer(codec_descriptions());
}

// What is asked for, checked.
struct request : quality_options {
  int at = -1;  // the level; -1 = all
};

// KL, perplexity and bytes.
json judge_suffixes(const request& r) {
  // Exact arithmetic: that of 8 bits moves predictions more (KL 0.003) than a fine level does.
  session s(r, arithmetic::exact);
  const sluice::profile profile = load_profile(r.profile, r.model, s);
  const auto windows =
      text_windows(s.text, r.text, read_text(r.text)).spread(r.windows, r.context + r.suffix + 1, r.offset);
  page_pool pages(s.net.config(), kv_type(r), 2 * page_pool::pages_for(r.context + r.suffix));
  coded_cache coded(profile, r.codec);
  suffix_quality sum;
  progress bar("quality");
  for (std::size_t i = 0; i < windows.size(); ++i) {
    bar.at(i, windows.size());
    judge_window(s.net, windows[i], r.context, r.at, pages, coded, sum);
  }
  const double tokens = double(sum.predicted), values = double(sum.elements), exact = sum.nll / tokens;
  json levels = json::array();
  for (auto l = sum.levels.rbegin(); l != sum.levels.rend(); ++l)
    levels.push_back({{"level", l->level},
                      {"bytes", l->bytes},
                      {"bits_per_value", 8 * double(l->bytes) / values},
                      {"ratio", double(size_of(kv_type(r))) * values / double(l->bytes)},
                      {"kl", l->distance.kl()},
                      {"delta_nll", l->nll / tokens - exact},
                      {"top1", l->distance.top1()},
                      {"perplexity", std::exp(l->nll / tokens)}});
  return {{"windows", windows.size()},
          {"context_tokens", r.context},
          {"suffix_tokens", r.suffix},
          {"perplexity", std::exp(exact)},
          {"levels", std::move(levels)}};
}

// Needles, with the arithmetic the engine answers with.
json seek_needles(const request& r) {
  session s(r);
  const sluice::profile profile = load_profile(r.profile, r.model, s);
  const std::string text = read_text(r.text);
  const std::vector<haystack> stacks = make_haystacks(s.text, text, r.needles, r.needle_context, r.seed);
  coded_cache coded(profile, r.codec);
  std::vector<int> found;
  std::vector<std::size_t> bytes;
  int exact = 0;
  json each = json::array();
  progress bar("needles");
  for (std::size_t i = 0; i < stacks.size(); ++i) {
    bar.at(i, stacks.size());
    const needle_result n = seek(s, stacks[i], r.at, kv_type(r), coded);
    exact += n.exact;
    found.resize(n.levels.size());
    bytes.resize(n.levels.size());
    json at_levels = json::array();
    for (std::size_t j = n.levels.size(); j-- > 0;) {
      found[j] += n.levels[j];
      bytes[j] += n.bytes[j];
      at_levels.push_back(bool(n.levels[j]));
    }
    each.push_back({{"tokens", n.tokens},
                    {"depth", n.depth},
                    {"secret", stacks[i].secret},
                    {"answer", n.answer},
                    {"exact", n.exact},
                    {"levels", std::move(at_levels)}});
  }
  const double all = double(stacks.size());
  json levels = json::array();
  const int levels_there = coded.levels();
  for (std::size_t j = found.size(); j-- > 0;)
    levels.push_back(
        {{"level", r.at < 0 ? levels_there - 1 - int(j) : r.at}, {"score", found[j] / all}, {"bytes", bytes[j]}});
  return {{"needles", stacks.size()},
          {"seed", r.seed},
          {"arithmetic", r.exact ? "exact" : "fast"},
          {"exact_score", exact / all},
          {"levels", std::move(levels)},
          {"each", std::move(each)}};
}

void print(const json& report) {
  const json& s = report["suffix"];
  if (!s.is_null()) {
    std::printf("perplexity %.4f with the exact cache\n", s["perplexity"].get<double>());
    std::printf("level  bits/value  smaller        KL  delta NLL   top-1  perplexity\n");
    for (const json& l : s["levels"])
      std::printf("%5d  %10.3f  %6.2fx  %.6f  %+.6f  %5.1f%%  %10.4f\n", l["level"].get<int>(),
                  l["bits_per_value"].get<double>(), l["ratio"].get<double>(), l["kl"].get<double>(),
                  l["delta_nll"].get<double>(), 100 * l["top1"].get<double>(), l["perplexity"].get<double>());
  }
  const json& n = report["needles"];
  if (!n.is_null()) {
    std::printf("%d needles: %.0f %% found with the exact cache", n["needles"].get<int>(),
                100 * n["exact_score"].get<double>());
    for (const json& l : n["levels"])
      std::printf(", %.0f %% at level %d", 100 * l["score"].get<double>(), l["level"].get<int>());
    std::printf("\n");
  }
}

int quality(const quality_options& o) {
  request r{o, -1};
  if (o.level != "all") {
    const auto [end, error] = std::from_chars(o.level.data(), o.level.data() + o.level.size(), r.at);
    if (error != std::errc{} || *end != 0 || r.at < 0 || r.at >= sluice::max_passes)
      throw usage_error("--level is all, or a number from 0 to " + std::to_string(sluice::max_passes - 1));
  }
  if (!sluice::preset_named(r.codec.c_str())) throw usage_error("no codec is called " + r.codec);
  json report = {
      {"model", name_of(r.model)}, {"codec", r.codec},  {"kv", r.kv}, {"chunk_tokens", coded_cache::chunk_tokens},
      {"suffix", nullptr},         {"needles", nullptr}};
  if (r.windows > 0) report["suffix"] = judge_suffixes(r);
  if (r.needles > 0) report["needles"] = seek_needles(r);
  if (r.json)
    program::print(report);
  else
    print(report);
  return 0;
}

}  // namespace

void add_quality(program& p) {
  p.add<quality_options>("quality", "what a decoded cache does to predictions and answers", describe, quality);
}

}  // namespace engine
