// SPDX-License-Identifier: Apache-2.0
#include "blended.hpp"
#include "predictions.hpp"
#include "quality.hpp"
#include "session.hpp"

#include <cstdio>
#include <string>
#include <vector>

namespace engine {

namespace {

struct blend_command : model_options, store_options {
  std::vector<std::string> documents;
  std::string question, profile, salt;
  std::size_t max_tokens = std::size_t{1} << 30;
  int chunk_tokens = 256, tokens = 64;
  blend_options blend;
  bool compare = false;
};

void describe(option_list& app, blend_command& o) {
  describe_model(app, o);
  app.add_option("--document", o.documents, "a file of text, once for each document, in the order of the prompt")
      .required();
  app.add_option("--question", o.question, "what is asked about them").required();
  app.add_option("--store", o.store, std::string("where chunks are kept: ") + sluice::stream::store_url_forms)
      .required();
  describe_profile(app, o.profile);
  app.add_option("--max-tokens", o.max_tokens, "of each document, counted from its begin")
      .range(std::size_t{1}, std::size_t{1} << 30);
  app.add_option("--salt", o.salt, "goes into every key");
  app.add_option("--chunk-tokens", o.chunk_tokens, "of an object in the store").range(256, 4096);
  app.add_option("--level", o.blend.level, "level of quality to fetch, where the store has it")
      .range(0, int(sluice::max_passes) - 1);
  option fraction =
      app.add_option(
             "--fraction", o.blend.fraction,
             "share of the tokens behind the first document that is computed anew: those that deviate most at layer 1 "
             "(CacheBlend); 0 = none, 1 = all, of the first as well")
          .range(0.0, 1.0);
  app.add_option("--first", o.blend.first, "instead: so many tokens at the front of each document (EPIC)")
      .range(1, 1 << 20)
      .excludes(fraction);
  app.add_option("--tokens", o.tokens, "of the answer").range(1, 1 << 20);
  app.add_flag("--compare", o.compare, "compute everything as well, and tell how far the two are apart");
}

// The tokens of all documents as the prompt has them, and where each begins.
struct documents_of_prompt {
  std::vector<std::int32_t> ids;
  std::vector<int> starts;

  documents_of_prompt(const blend_command& o, const tokenizer& t) {
    for (const std::string& path : o.documents) {
      const std::string text = read_text(path);
      std::vector<std::int32_t> one;
      if (starts.empty())
        one = make_prompt(t, text, "").document;
      else
        t.encode("\n\n" + text, one);
      if (one.empty()) throw data_error(path + ": an empty document");
      if (one.size() > o.max_tokens) one.resize(o.max_tokens);
      starts.push_back(int(ids.size()));
      ids.insert(ids.end(), one.begin(), one.end());
    }
  }
  std::span<const std::int32_t> of(std::size_t d) const {
    const std::size_t begin = std::size_t(starts[d]),
                      end = d + 1 < starts.size() ? std::size_t(starts[d + 1]) : ids.size();
    return std::span(ids).subspan(begin, end - begin);
  }
};

// Computes and keeps the documents that the store lacks, each on its own. Returns how many.
int save_missing(session& s, prefix_cache& prefixes, const documents_of_prompt& documents, page_pool& pages) {
  int saved = 0;
  for (std::size_t d = 0; d < documents.starts.size(); ++d) {
    const auto ids = documents.of(d);
    const std::vector<located_chunk> chunks = prefixes.locate(ids).chunks;
    if (std::ranges::all_of(chunks, [](const located_chunk& c) { return c.state == sluice::status::ok; })) continue;
    sequence alone(pages);
    s.net.forward(ids, alone);
    prefixes.save(ids, alone, sluice::max_passes);
    ++saved;
  }
  return saved;
}

// The likeliest tokens behind the question.
std::vector<std::int32_t> answer(session& s, std::span<const std::int32_t> question, sequence& seq, int count) {
  const int before = seq.tokens();
  std::int32_t next = tokenizer::none;
  s.net.forward(question, seq, {.on_logits = [&](int, std::span<const float> logits) { next = likeliest(logits); }});
  std::vector<std::int32_t> out{next};
  const std::vector<std::int32_t> rest = continue_greedily(s.net, seq, next, count - 1);
  out.insert(out.end(), rest.begin(), rest.end());
  seq.truncate(before);
  return out;
}

std::string text_of(const tokenizer& t, const std::vector<std::int32_t>& tokens) {
  std::string text;
  for (const std::int32_t id : tokens) {
    if (ends_answer(t, id)) break;
    text += t.decode(id);
  }
  return text;
}

int blend_documents(const blend_command& o, store& kept) {
  session s(o);
  prefix_cache prefixes(s.net, load_profile(o.profile, o.model, s), kept, s.threads,
                        {kv_type(o), o.salt, o.chunk_tokens});
  const documents_of_prompt documents(o, s.text);
  const std::vector<std::int32_t> question = make_prompt(s.text, "-", o.question).question;
  s.check_context(documents.ids.size() + question.size(), o.tokens);
  const int room = int(documents.ids.size() + question.size()) + o.tokens;
  page_pool pages(s.net.config(), kv_type(o), 2 * page_pool::pages_for(room));
  const int saved = save_missing(s, prefixes, documents, pages);
  const machine_costs costs = measure_costs(s.net, prefixes, pages, documents.ids);

  sequence seq(pages);
  stopwatch clock;
  const blend_result r = blend(s.net, prefixes, kept, documents.ids, documents.starts, seq, costs, o.blend);
  const double blend_seconds = clock.seconds();
  const std::vector<std::int32_t> got = answer(s, question, seq, o.tokens);
  json report = {{"model", o.model},
                 {"documents", documents.starts.size()},
                 {"documents_saved", saved},
                 {"document_tokens", r.tokens},
                 {"question_tokens", question.size()},
                 {"fraction", o.blend.fraction},
                 {"first", o.blend.first},
                 {"computed_tokens", r.computed},
                 {"checked_tokens", r.checked},
                 {"computed_share", double(r.computed) / r.tokens},
                 {"faults", r.report.faults.size()},
                 {"bytes", r.report.bytes},
                 {"raw_bytes", r.raw_bytes},
                 {"blend_seconds", blend_seconds},
                 {"answer", text_of(s.text, got)}};
  if (o.compare) {
    sequence exact(pages);
    stopwatch again;
    s.net.forward(documents.ids, exact);
    const double seconds = again.seconds();
    const std::vector<std::int32_t> expected = answer(s, question, exact, o.tokens);
    std::vector<std::int32_t> judged = question;
    judged.insert(judged.end(), expected.begin(), expected.end());
    const matrix reference = predict(s.net, judged, exact), blended = predict(s.net, judged, seq);
    const distance_sum d = distance(reference, blended);
    const auto behind = static_cast<Eigen::Index>(question.size()) - 1;
    const distance_sum of_answer =
        distance(reference.bottomRows(reference.rows() - behind), blended.bottomRows(blended.rows() - behind));
    const agreement same = agree(expected, got);
    report["compare"] = {{"compute_seconds", seconds},
                         {"judged_tokens", judged.size()},
                         {"kl", d.kl()},
                         {"top1", d.top1()},
                         {"answer_kl", of_answer.kl()},
                         {"answer_top1", of_answer.top1()},
                         {"same_tokens", double(same.equal) / double(expected.size())},
                         {"answer", text_of(s.text, expected)}};
  }
  report["warnings"] = s.warnings;
  if (o.json) {
    program::print(report);
    return 0;
  }
  std::printf("%s\n", text_of(s.text, got).c_str());
  std::fprintf(stderr, "%zu documents, %d of %d tokens computed anew (%.1f %%) in %.3f s, %.2f MB fetched",
               documents.starts.size(), r.computed, r.tokens, 100.0 * r.computed / r.tokens, blend_seconds,
               double(r.report.bytes) / 1e6);
  if (o.compare)
    std::fprintf(stderr, "; computing everything %.3f s, KL %.4f, top-1 %.1f %%",
                 report["compare"]["compute_seconds"].get<double>(), report["compare"]["kl"].get<double>(),
                 100 * report["compare"]["top1"].get<double>());
  std::fputc('\n', stderr);
  return 0;
}

int open_and_blend(const blend_command& o) {
  return open_store(o, true, [&](store& kept) { return blend_documents(o, kept); });
}

}  // namespace

void add_blend(program& p) {
  p.add<blend_command>("blend",
                       "answers from documents whose caches were made one by one, a part of them computed anew",
                       describe, open_and_blend);
}

}  // namespace engine
