// SPDX-License-Identifier: Apache-2.0
#include "quality.hpp"
#include "needles.hpp"
#include "session.hpp"
#include "windows.hpp"

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace engine {

namespace {

struct request {
  const arguments& args;
  std::string model, text_path, codec;
  int context, suffix, windows, level, needles, longest;
  std::size_t offset;
  std::uint64_t seed;
  sluice::dtype kv;
};

// KL, perplexity and bytes.
json judge_suffixes(const request& r) {
  // Exact arithmetic: that of 8 bits moves predictions more (KL 0.003) than a fine level does.
  session s(r.args, r.model, arithmetic::exact);
  const sluice::profile profile = load_profile(r.args, r.model, s.net);
  const auto windows =
      text_windows(s.text, r.text_path, read_text(r.text_path)).spread(r.windows, r.context + r.suffix + 1, r.offset);
  page_pool pages(s.net.config(), r.kv, 2 * page_pool::pages_for(r.context + r.suffix));
  coded_cache coded(profile, r.codec);
  suffix_quality sum;
  progress bar("quality");
  for (std::size_t i = 0; i < windows.size(); ++i) {
    bar.at(i, windows.size());
    judge_window(s.net, windows[i], r.context, r.level, pages, coded, sum);
  }
  const double tokens = double(sum.predicted), values = double(sum.elements), exact = sum.nll / tokens;
  json levels = json::array();
  for (auto l = sum.levels.rbegin(); l != sum.levels.rend(); ++l)
    levels.push_back({{"level", l->level},
                      {"bytes", l->bytes},
                      {"bits_per_value", 8 * double(l->bytes) / values},
                      {"ratio", double(size_of(r.kv)) * values / double(l->bytes)},
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
  session s(r.args, r.model);
  const sluice::profile profile = load_profile(r.args, r.model, s.net);
  const std::string text = read_text(r.text_path);
  const std::vector<haystack> stacks = make_haystacks(s.text, text, r.needles, r.longest, r.seed);
  coded_cache coded(profile, r.codec);
  std::vector<int> found;
  std::vector<std::size_t> bytes;
  int exact = 0;
  json each = json::array();
  progress bar("needles");
  for (std::size_t i = 0; i < stacks.size(); ++i) {
    bar.at(i, stacks.size());
    const needle_result n = seek(s, stacks[i], r.level, r.kv, coded);
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
        {{"level", r.level < 0 ? levels_there - 1 - int(j) : r.level}, {"score", found[j] / all}, {"bytes", bytes[j]}});
  return {{"needles", stacks.size()},
          {"seed", r.seed},
          {"arithmetic", r.args.has("--exact") ? "exact" : "fast"},
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

}  // namespace

int quality_command(int argc, char** argv) {
  const arguments args = parse_arguments(argc, argv,
                                         {"--profile", "--codec", "--level", "--context", "--suffix", "--windows",
                                          "--offset", "--needles", "--needle-context", "--seed"},
                                         {});
  if (args.operands.size() != 2) throw usage_error("engine quality MODEL TEXT");
  const request r{
      .args = args,
      .model = args.operands[0],
      .text_path = args.operands[1],
      .codec = args.text("--codec", "standard"),
      .context = int(args.integer("--context", 1024, 1, 1 << 20)),
      .suffix = int(args.integer("--suffix", 256, 1, 1 << 16)),
      .windows = int(args.integer("--windows", 4, 0, 4096)),
      .level = args.text("--level", "all") == "all" ? -1 : int(args.integer("--level", 0, 0, sluice::max_passes - 1)),
      .needles = int(args.integer("--needles", 0, 0, 4096)),
      .longest = int(args.integer("--needle-context", 4096, 256, 1 << 20)),
      .offset = std::size_t(args.integer("--offset", 0, 0, 1 << 30)),
      .seed = std::uint64_t(args.integer("--seed", 1, 0, 1l << 62)),
      .kv = kv_type(args)};
  if (!sluice::codec::with_preset(r.codec.c_str(), []<class Codec>() {}))
    throw usage_error("no codec is called " + r.codec);
  json report = {{"model", r.model.substr(r.model.rfind('/') + 1)}, {"codec", r.codec},  {"kv", to_string(r.kv)},
                 {"chunk_tokens", coded_cache::chunk_tokens},       {"suffix", nullptr}, {"needles", nullptr}};
  if (r.windows > 0) report["suffix"] = judge_suffixes(r);
  if (r.needles > 0) report["needles"] = seek_needles(r);
  if (args.has("--json"))
    std::puts(report.dump(2, ' ', false, json::error_handler_t::replace).c_str());
  else
    print(report);
  return 0;
}

}  // namespace engine
