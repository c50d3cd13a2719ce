// SPDX-License-Identifier: Apache-2.0
#include "quality.hpp"
#include "kept.hpp"
#include "needles.hpp"
#include "session.hpp"
#include "windows.hpp"

#include <presets.hpp>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace engine {

namespace {

struct quality_options : model_options {
  std::vector<std::string> texts, codecs{"standard"};
  std::string profile, level = "all", keep, payload = "kv";
  int context = 1024, suffix = 256, chunk_tokens = coded_cache::chunk_tokens, windows = -1, needles = 0,
      needle_context = 4096;
  int continuations = 0, continuation_tokens = 256;
  bool observe = false, measure = false;
  float coarser = 0;
  double target_kl = 0.010;
  std::size_t offset = 0;
  std::uint64_t seed = 1;
};

void describe(option_list& app, quality_options& o) {
  describe_model(app, o);
  app.add_option("TEXT", o.texts, "files of text, or a folder of files that end with .txt").required();
  describe_profile(app, o.profile);
  app.add_option("--codec", o.codecs, codec_names() + "; or several, parted by commas").delimiter(',');
  app.add_option("--level", o.level, "one level, or all");
  app.add_option("--context", o.context, "tokens whose cache is coded").range(1, 1 << 20);
  app.add_option("--chunk-tokens", o.chunk_tokens,
                 "tokens of a frame; codecs that keep the last tokens of each exact are better off with long ones")
      .range(1, 1 << 20);
  app.add_option("--suffix", o.suffix, "tokens behind them that are predicted").range(1, 1 << 16);
  app.add_option("--windows", o.windows,
                 "places of each text; by default 4 of a single text, the start of each of several; 0 = no predictions "
                 "are judged")
      .range(0, 4096);
  app.add_option("--offset", o.offset, "tokens of each text to leave out first")
      .range(std::size_t{0}, std::size_t{1} << 30);
  app.add_option("--keep", o.keep,
                 "a folder for what the model computes of the contexts, so that it is computed once for all codecs and "
                 "profiles that are judged on them (100 to 300 MB for each)");
  app.add_flag(
      "--observe", o.observe,
      "tell encoders how much the last 32 tokens of a context looked at each token, instead of letting them guess");
  option payload = describe_payload(app, o.payload);
  option coarser =
      app.add_option("--coarser", o.coarser, "quarter octaves by which steps are coarser than the profile's, or finer")
          .range(-24.f, 24.f);
  app.add_flag("--measure", o.measure,
               "choose the steps of each context by what the codec is measured to lose on its first half")
      .excludes(coarser)
      .excludes(payload);
  app.add_option("--target-kl", o.target_kl, "what the level nearest to it is then to lose, in nats").range(1e-6, 10.0);
  app.add_option("--continuations", o.continuations, "contexts that the model continues greedily").range(0, 4096);
  app.add_option("--continuation-tokens", o.continuation_tokens, "tokens of each").range(1, 1 << 16);
  app.add_option("--needles", o.needles, "numbers to hide in the texts and to ask for")
      .range(0, 4096)
      .excludes(payload);
  app.add_option("--needle-context", o.needle_context, "tokens of the longest text that one is hidden in")
      .range(256, 1 << 20);
  app.add_option("--seed", o.seed, "of numbers and places");
  app.footer(codec_descriptions());
}

// What is asked for, checked.
struct request : quality_options {
  int at = -1;  // the level; -1 = all
};

// A run of a text.
struct place {
  std::string text;
  std::vector<std::int32_t> ids;
};

std::vector<place> places_of(const request& r, const tokenizer& t, const std::vector<text_file>& texts) {
  const int each = r.windows >= 0 ? r.windows : texts.size() == 1 ? 4 : 1;
  std::vector<place> out;
  for (const text_file& f : texts)
    for (auto& ids : text_windows(t, f.path, f.text).spread(each, r.context + r.suffix + 1, r.offset))
      out.push_back({f.path, std::move(ids)});
  return out;
}

// Figures of one text or of all, level by level from coarse to fine.
json levels_of(const suffix_quality& q, sluice::dtype kv) {
  const double tokens = double(q.predicted), values = double(q.elements), exact = q.nll / tokens;
  const double gigabytes = double(size_of(kv)) * values / 1e9;
  json levels = json::array();
  for (auto l = q.levels.rbegin(); l != q.levels.rend(); ++l) {
    json& at = levels.emplace_back(json{{"level", l->level},
                                        {"bytes", l->bytes},
                                        {"bits_per_value", 8 * double(l->bytes) / values},
                                        {"ratio", double(size_of(kv)) * values / double(l->bytes)},
                                        {"kl", l->distance.kl()},
                                        {"delta_nll", l->nll / tokens - exact},
                                        {"top1", l->distance.top1()},
                                        {"perplexity", std::exp(l->nll / tokens)},
                                        {"attention_error", l->attention.relative()},
                                        {"decode_gb_per_second", gigabytes / l->decode_seconds}});
    if (l->expected > 0) at["expected_kl"] = l->expected / tokens;
    if (q.continued == 0) continue;
    at["equal_tokens"] = double(l->continued.equal) / double(q.continued);
    at["equal_prefix"] = double(l->continued.prefix) / double(q.continued);
  }
  return levels;
}

// Adds to each level of all texts on which of them it loses most.
void name_worst(json& all, const json& texts) {
  for (std::size_t j = 0; j < all.size(); ++j) {
    const auto kl = [j](const json& t) { return t["levels"][j]["kl"].get<double>(); };
    const auto worst =
        std::max_element(texts.begin(), texts.end(), [&](const json& a, const json& b) { return kl(a) < kl(b); });
    all[j]["worst_kl"] = kl(*worst);
    all[j]["worst"] = (*worst)["text"];
  }
}

// KL, perplexity and bytes.
json judge_suffixes(const request& r) {
  // Exact arithmetic: that of 8 bits moves predictions more (KL 0.003) than a fine level does.
  session s(r, arithmetic::exact);
  const sluice::stream::payload holds = payload_of(r.payload);
  const bool hidden = holds == sluice::stream::payload::hidden;
  const sluice::profile profile = load_profile(r.profile, r.model, s, holds);
  const std::vector<place> places = places_of(r, s.text, read_texts(r.texts));
  const int continued = r.continuations > 0 ? r.continuation_tokens : 0;
  page_pool pages(s.net.config(), kv_type(r), 2 * page_pool::pages_for(r.context + std::max(r.suffix, continued)));
  page_pool hidden_pages(payload_shape(s.net.config(), holds), kv_type(r),
                         hidden ? 2 * page_pool::pages_for(r.context) : 0);
  kept_contexts kept(s.net, s.threads, r.keep);
  std::vector<coded_cache> coded;
  for (const std::string& codec : r.codecs) coded.emplace_back(profile, codec, r.chunk_tokens);
  // [codec], of all texts and of each.
  std::vector<suffix_quality> all(coded.size());
  std::vector<std::map<std::string, suffix_quality>> each(coded.size());
  progress bar("quality");
  for (std::size_t i = 0; i < places.size(); ++i) {
    const place& p = places[i];
    sequence context(pages);
    const computed_context exact = kept.run(p.ids, r.context, context);
    const auto attention = r.observe ? std::span<const float>(exact.attention) : std::span<const float>();
    const attention_probe attended(s.net, std::span(p.ids).subspan(std::size_t(r.context), std::size_t(r.suffix)),
                                   context);
    sequence states(hidden_pages);
    if (hidden) {
      sequence again(pages);
      s.net.forward(std::span(p.ids).first(std::size_t(r.context)), again,
                    {.on_hidden = keep_hidden(s.net, states), .end_layer = s.net.config().layers});
    }
    std::optional<document_probe> probe;
    if (r.measure) probe.emplace(s.net, std::span(p.ids).first(std::size_t(r.context)), context);
    std::vector<std::int32_t> greedy;
    if (int(i) < r.continuations)
      greedy = continue_greedily(s.net, context, p.ids[std::size_t(r.context)], r.continuation_tokens);
    for (std::size_t c = 0; c < coded.size(); ++c) {
      bar.at(i * coded.size() + c, places.size() * coded.size());
      const sluice::document_steps steps =
          probe ? probe->steps(coded[c], r.target_kl) : sluice::document_steps{.coarser = r.coarser};
      const suffix_quality q = judge_window(s.net, p.ids, context, exact.predicted, attention, steps, greedy, r.at,
                                            coded[c], &attended, hidden ? &states : nullptr);
      all[c].add(q);
      each[c][p.text].add(q);
    }
  }
  json codecs = json::array();
  for (std::size_t c = 0; c < coded.size(); ++c) {
    json texts = json::array(), levels = levels_of(all[c], kv_type(r));
    for (const auto& [text, q] : each[c])
      texts.push_back({{"text", name_of(text)},
                       {"perplexity", std::exp(q.nll / double(q.predicted))},
                       {"levels", levels_of(q, kv_type(r))}});
    name_worst(levels, texts);
    codecs.push_back(
        {{"codec", r.codecs[c]},
         {"encode_gb_per_second", double(size_of(kv_type(r))) * double(all[c].elements) / 1e9 / all[c].encode_seconds},
         {"levels", std::move(levels)},
         {"texts", std::move(texts)}});
  }
  return {{"windows", places.size()},         {"context_tokens", r.context},
          {"suffix_tokens", r.suffix},        {"continuations", std::min(r.continuations, int(places.size()))},
          {"continuation_tokens", continued}, {"perplexity", std::exp(all[0].nll / double(all[0].predicted))},
          {"codecs", std::move(codecs)}};
}

// Needles, with the arithmetic the engine answers with.
json seek_needles(const request& r) {
  session s(r);
  const sluice::profile profile = load_profile(r.profile, r.model, s);
  std::string text;
  for (const text_file& f : read_texts(r.texts)) text += f.text + "\n";
  const std::vector<haystack> stacks = make_haystacks(s.text, text, r.needles, r.needle_context, r.seed);
  json codecs = json::array(), each = json::array();
  std::vector<coded_cache> coded;
  for (const std::string& codec : r.codecs) {
    coded.emplace_back(profile, codec, r.chunk_tokens);
    codecs.push_back({{"codec", codec}, {"levels", json::array()}});
  }
  int exact = 0;
  progress bar("needles");
  for (std::size_t i = 0; i < stacks.size(); ++i) {
    bar.at(i, stacks.size());
    const needle_result n = seek(s, stacks[i], r.at, kv_type(r), coded);
    exact += n.exact;
    json found_by = json::array();
    for (std::size_t c = 0; c < codecs.size(); ++c) {
      json &sums = codecs[c]["levels"], &found = found_by.emplace_back(json::array());
      for (auto l = n.codecs[c].rbegin(); l != n.codecs[c].rend(); ++l) {
        if (found.size() == sums.size()) sums.push_back({{"level", l->level}, {"score", 0.0}, {"bytes", 0}});
        json& to = sums[found.size()];
        to["score"] = to["score"].get<double>() + l->found / double(stacks.size());
        to["bytes"] = to["bytes"].get<std::size_t>() + l->bytes;
        found.push_back(l->found);
      }
    }
    each.push_back({{"tokens", n.tokens},
                    {"depth", n.depth},
                    {"secret", stacks[i].secret},
                    {"answer", n.answer},
                    {"exact", n.exact},
                    {"codecs", std::move(found_by)}});
  }
  return {{"needles", stacks.size()},
          {"seed", r.seed},
          {"arithmetic", r.exact ? "exact" : "fast"},
          {"exact_score", exact / double(stacks.size())},
          {"codecs", std::move(codecs)},
          {"each", std::move(each)}};
}

void print_suffixes(const json& s) {
  std::printf("%d contexts of %d tokens, the %d tokens behind each; perplexity %.4f with the exact cache\n",
              s["windows"].get<int>(), s["context_tokens"].get<int>(), s["suffix_tokens"].get<int>(),
              s["perplexity"].get<double>());
  const auto number = [](const json& l, const char* what) { return l[what].get<double>(); };
  for (const json& c : s["codecs"]) {
    std::printf(
        "\n%s\nencodes %.3f GB/s a thread\nlevel  bits/value  smaller        KL  delta NLL   top-1  attention  decode "
        "GB/s  worst KL\n",
        c["codec"].get<std::string>().c_str(), number(c, "encode_gb_per_second"));
    for (const json& l : c["levels"]) {
      std::printf("%5d  %10.3f  %6.2fx  %.6f  %+.6f  %5.1f%%  %8.2f%%  %11.3f  %.6f %s\n", l["level"].get<int>(),
                  number(l, "bits_per_value"), number(l, "ratio"), number(l, "kl"), number(l, "delta_nll"),
                  100 * number(l, "top1"), 100 * number(l, "attention_error"), number(l, "decode_gb_per_second"),
                  number(l, "worst_kl"), l["worst"].get<std::string>().c_str());
    }
    for (const json& l : c["levels"])
      if (l.contains("equal_tokens"))
        std::printf(
            "level %d: %.1f %% of %d x %d continued tokens are the same, %.1f %% before the first that differs\n",
            l["level"].get<int>(), 100 * number(l, "equal_tokens"), s["continuations"].get<int>(),
            s["continuation_tokens"].get<int>(), 100 * number(l, "equal_prefix"));
    if (c["texts"].size() < 2) continue;
    std::printf("bits/value @ KL of each text:\n");
    for (const json& t : c["texts"]) {
      std::printf("%-24s", t["text"].get<std::string>().c_str());
      for (const json& l : t["levels"]) std::printf("  %6.3f @ %.6f", number(l, "bits_per_value"), number(l, "kl"));
      std::printf("\n");
    }
  }
}

void print(const json& report) {
  if (!report["suffix"].is_null()) print_suffixes(report["suffix"]);
  const json& n = report["needles"];
  if (n.is_null()) return;
  std::printf("%d needles: %.0f %% found with the exact cache\n", n["needles"].get<int>(),
              100 * n["exact_score"].get<double>());
  for (const json& c : n["codecs"])
    for (const json& l : c["levels"])
      std::printf("%s, level %d: %.0f %%\n", c["codec"].get<std::string>().c_str(), l["level"].get<int>(),
                  100 * l["score"].get<double>());
}

int quality(const quality_options& o) {
  request r{o, -1};
  if (o.level != "all") {
    const auto [end, error] = std::from_chars(o.level.data(), o.level.data() + o.level.size(), r.at);
    if (error != std::errc{} || *end != 0 || r.at < 0 || r.at >= sluice::max_passes)
      throw usage_error("--level is all, or a number from 0 to " + std::to_string(sluice::max_passes - 1));
  }
  for (const std::string& codec : r.codecs)
    if (!sluice::preset_named(codec.c_str())) throw usage_error("no codec is called " + codec);
  json report = {{"model", name_of(r.model)},      {"kv", r.kv},        {"payload", r.payload},
                 {"chunk_tokens", r.chunk_tokens}, {"suffix", nullptr}, {"needles", nullptr}};
  if (r.windows != 0) report["suffix"] = judge_suffixes(r);
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
