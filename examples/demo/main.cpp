// SPDX-License-Identifier: Apache-2.0
// The demo: a real KV cache, encoded once, cut to every level, decoded into an engine's pages; a table, a report, a JSON.

#include <facts.hpp>
#include <output_file.hpp>
#include <report.hpp>
#include <resume.hpp>
#include <streaming.hpp>

#include <nlohmann/json.hpp>

#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <span>
#include <string>

namespace {

using json = nlohmann::ordered_json;

json to_json(const facts& f, const conversation& talk, const streaming& sent) {
  json rows = json::array(), links = json::array(), passes = json::array(), layers = json::array();
  for (const codec_row& r : f.rows) {
    json row{{"name", r.name},
             {"what", r.what},
             {"lossless", r.lossless},
             {"bytes", r.bytes},
             {"bits_per_value", f.bits(r.bytes)},
             {"ratio", f.ratio(r.bytes)},
             {"attention_error", r.error},
             {"encode_gb_per_s", r.encode_rate / 1e9},
             {"decode_gb_per_s", r.decode_rate / 1e9}};
    if (r.level >= 0) row["level"] = r.level, row["expected_kl"] = r.expected_kl;
    if (r.level >= 0) row["wins_below_gbit_per_s"] = f.break_even(r);
    if (!r.layer_kl.empty()) row["expected_kl_by_layer_k_v"] = r.layer_kl;
    if (!r.layer_error.empty() && !r.lossless) row["attention_error_by_layer"] = r.layer_error;
    rows.push_back(std::move(row));
  }
  for (const delivery& d : f.links) {
    json seconds = json::object();
    for (std::size_t i = 0; i < f.rows.size(); ++i) seconds[f.rows[i].name] = d.seconds[i];
    links.push_back({{"gbit_per_s", d.gigabits},
                     {"seconds", std::move(seconds)},
                     {"fastest", f.rows[d.fastest].name},
                     {"fastest_lossless", f.rows[d.fastest_lossless].name}});
  }
  const std::vector<sluice::pass_account>& account = f.account.bytes.passes;
  for (std::size_t p = 0; p < account.size(); ++p)
    passes.push_back({{"codes", account[p].coded() - f.account.classes[p].states},
                      {"exact_tokens", account[p].exact},
                      {"coder_states", f.account.classes[p].states},
                      {"tile_heads", account[p].heads}});
  for (std::size_t l = 0; l < std::size_t(f.layers); ++l) {
    json k = json::array(), v = json::array();
    for (const sluice::pass_account& pass : account) {
      k.push_back(pass.layers[l][0]);
      v.push_back(pass.layers[l][1]);
    }
    layers.push_back({{"k_by_pass", std::move(k)}, {"v_by_pass", std::move(v)}});
  }
  json session = nullptr;
  if (!talk.levels.empty()) {
    json levels = json::array();
    for (const resumed& r : talk.levels)
      levels.push_back({{"level", r.level},
                        {"bytes", r.bytes},
                        {"ratio", r.ratio},
                        {"first_token_seconds", r.first_token_seconds},
                        {"full_prefill_first_token_seconds", r.prefill_seconds},
                        {"kl", r.kl},
                        {"top1", r.top1},
                        {"judged_tokens", r.judged_tokens},
                        {"answer", r.answer}});
    session = {{"document", talk.document},
               {"tokens", talk.tokens},
               {"question", talk.question},
               {"question_tokens", talk.question_tokens},
               {"raw_bytes", talk.raw_bytes},
               {"prefill_seconds", talk.prefill_seconds},
               {"encode_seconds", talk.encode_seconds},
               {"exact_answer", talk.exact_answer},
               {"levels", std::move(levels)}};
  }
  json streams = json::array();
  for (const streamed_link& l : sent.links) {
    json policies = json::array();
    for (const streamed& p : l.policies)
      policies.push_back({{"policy", p.policy},
                          {"seconds", p.seconds},
                          {"met", p.met},
                          {"kl", p.loss},
                          {"bytes", p.bytes},
                          {"computed_tokens", p.computed_tokens}});
    streams.push_back({{"link", l.name}, {"policies", std::move(policies)}});
  }
  const checks& c = f.checked;
  return {{"model", f.model},
          {"tokens", f.tokens},
          {"layers", f.layers},
          {"kv_heads", f.kv_heads},
          {"heads", f.heads},
          {"head_dim", f.head_dim},
          {"queries", f.queries},
          {"page_size", f.page_size},
          {"exact_tokens", f.sinks},
          {"raw_bytes", f.raw_bytes},
          {"speeds", "processor time of one thread, codecs in turns, medians; bytes of f16"},
          {"machine", {{"cpu", f.cpu}, {"cores", f.cores}, {"compiler", f.compiler}, {"instructions", f.instructions}}},
          {"codecs", std::move(rows)},
          {"links", std::move(links)},
          {"bytes", {{"index", f.account.bytes.index}, {"passes", std::move(passes)}, {"layers", std::move(layers)}}},
          {"conversation", std::move(session)},
          {"streaming",
           {{"tokens", sent.tokens},
            {"chunks", sent.chunks},
            {"raw_bytes", sent.raw_bytes},
            {"deadline_seconds", sent.deadline},
            {"prefill_tokens_per_second", sent.tokens_per_second},
            {"prefill_measured", sent.measured},
            {"links", std::move(streams)}}},
          {"checks",
           {{"ok", c.ok()},
            {"truncated_file_equals_level", c.truncated_equal},
            {"lossless_is_bit_exact", c.lossless_exact},
            {"other_pages_untouched", c.other_pages_untouched},
            {"damaged_page", c.damaged_page},
            {"damaged_status", c.damaged_status},
            {"only_that_page_reported", c.only_that_page},
            {"other_pages_decode_unchanged", c.others_unchanged},
            {"flips", c.flips},
            {"flips_detected", c.flips_detected},
            {"flips_that_cost_a_level", c.flips_degraded}}}};
}

void print(const facts& f) {
  std::printf("\nThe KV cache of %s over %d tokens: %.2f MB of f16\n", f.model.c_str(), f.tokens,
              double(f.raw_bytes) / 1e6);
  std::printf("(%d layers, K and V, %d heads of %d). Encoded once: each level is the front part of that file.\n",
              f.layers, f.kv_heads, f.head_dim);
  std::printf("Decoded into pages of %d tokens in no order, as vLLM keeps them.\n\n", f.page_size);
  std::printf("SIZE, ERROR, SPEED\n");
  std::printf("error: how far attention outputs move (relative L2, %d queries, average of %d layers);\n", f.queries,
              f.layers);
  std::printf("KL: what calibration expects the next-token distribution to move by, in nats;\n");
  std::printf("GB/s of f16, one core, %s.\n\n", f.instructions.c_str());
  std::printf("              bytes  bits/value   smaller    error       KL   encode   decode\n");
  for (const codec_row& r : f.rows) {
    std::printf("%-9s %9zu %11.2f %8.2fx", r.name.c_str(), r.bytes, f.bits(r.bytes), f.ratio(r.bytes));
    if (r.lossless)
      std::printf("     none        -");
    else if (r.level >= 0)
      std::printf(" %7.2f %% %8.4f", 100 * r.error, r.expected_kl);
    else
      std::printf(" %7.2f %%        -", 100 * r.error);
    std::printf(" %8.2f %8.2f  %s\n", r.encode_rate / 1e9, r.decode_rate / 1e9, r.what.c_str());
  }

  std::printf(
      "\nTIME TO DELIVER\nmilliseconds: all bytes over the link, then decode on one core, nothing overlapped\n\n");
  std::printf("link        ");
  std::vector<std::size_t> shown;
  for (std::size_t i = 0; i < f.rows.size(); ++i)
    if (f.rows[i].level >= 0 || f.rows[i].name == "exact" || f.rows[i].name == "raw") shown.insert(shown.begin(), i);
  for (std::size_t i : shown) std::printf(" %9s", f.rows[i].name.c_str());
  std::printf("  fastest\n");
  for (const delivery& d : f.links) {
    std::printf("%5g Gbit/s", d.gigabits);
    for (std::size_t i : shown) std::printf(" %9.2f", 1e3 * d.seconds[i]);
    std::printf("  %s", f.rows[d.fastest].name.c_str());
    if (d.fastest != d.fastest_lossless) std::printf(" (lossless: %s)", f.rows[d.fastest_lossless].name.c_str());
    std::printf("\n");
  }

  const checks& c = f.checked;
  const auto mark = [](bool fine) { return fine ? "ok    " : "FAILED"; };
  std::printf("\nCHECKS\n\n");
  std::printf("%s  a file cut after a level decodes, bit for bit, to what the whole gives at that level\n",
              mark(c.truncated_equal));
  std::printf("%s  exact and zstd give every bit back; pages of other sequences are untouched\n",
              mark(c.lossless_exact && c.other_pages_untouched));
  std::printf("%s  one byte flipped: detected, page %d to be recomputed, the others decode unchanged\n",
              mark(c.only_that_page && c.others_unchanged), c.damaged_page);
  std::printf("%s  %d bits flipped one at a time all over it: %d detected, %d of them cost only a level\n",
              mark(c.flips == c.flips_detected), c.flips, c.flips_detected, c.flips_degraded);
}

void save(const std::string& path, const std::string& text) {
  output_file file(path);
  file.write(std::as_bytes(std::span(text)));
  if (!file.commit()) throw std::runtime_error(file.error());
}

}  // namespace

int main(int argc, char** argv) {
  std::map<std::string, std::string> options = {
      {"--data", "test/data"}, {"--out", "build/demo"}, {"--engine", ""}, {"--model", ""}, {"--document", ""}};
  for (int i = 1; i < argc; i += 2) {
    const auto option = options.find(argv[i]);
    if (option == options.end() || i + 1 == argc) {
      std::fprintf(stderr,
                   "usage: sluice-demo [--data test/data] [--out build/demo]\n"
                   "                   [--engine ENGINE --model SMOLLM2.gguf --document TEXT]\n");
      return 2;
    }
    option->second = argv[i + 1];
  }
  const std::string out = options["--out"];
  try {
    const facts f = measure(options["--data"]);
    print(f);
    conversation c;
    if (!options["--engine"].empty())
      c = converse({options["--engine"], options["--model"], options["--data"] + "/smollm2.profile",
                    options["--document"], out + "/store"});
    print(c);
    const streaming s = stream(f, c, options["--data"] + "/link_4g.csv");
    print(s);
    std::printf("\n%s, %u cores, %s\n", f.cpu.c_str(), f.cores, f.compiler.c_str());
    std::filesystem::create_directories(out);
    save(out + "/demo.json", to_json(f, c, s).dump(1, ' ', false, json::error_handler_t::replace) + "\n");
    save(out + "/report.html", report(f, c, s));
    std::printf("Figures: %s/demo.json\nReport:  %s/report.html\n", out.c_str(), out.c_str());
    return f.checked.ok() ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "sluice-demo: %s\n", e.what());
    return 1;
  }
}
