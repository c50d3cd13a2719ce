// SPDX-License-Identifier: Apache-2.0
#include "costs.hpp"
#include "distribution.hpp"
#include "predictions.hpp"
#include "prefix_cache.hpp"
#include "sampler.hpp"
#include "session.hpp"
#include "streamed.hpp"

#include <sluice/stream/plan/by_name.hpp>
#include <sluice/stream/run/verify.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace engine {

namespace {

struct resume_options : document_options {
  std::string question, policy = "progressive_cake", link, cache_of;
  int level = 1, tokens = 64, layer_parts = 0, draft_level = -1, compute_layers = 0;
  double deadline = 1;
  bool compare = false, strict = false, ignore_end = false;
  option policy_given, deadline_given, link_given;

  bool planned() const {
    return policy_given.count() + deadline_given.count() + link_given.count() + std::size_t(layer_parts) > 0 ||
           draft_level >= 0;
  }
};

using moment = std::chrono::steady_clock::time_point;

struct answer {
  std::vector<std::int32_t> tokens;
  std::vector<moment> when;  ///< of each token, when it was certain
  double first_seconds = 0;  ///< from the first token computed to the first of the answer
  int accepted = 0;          ///< of the draft

  void add(std::int32_t token) {
    tokens.push_back(token);
    when.push_back(std::chrono::steady_clock::now());
  }
};

// Whether an answer goes on with this token.
bool goes_on(const session& s, const resume_options& o, const answer& a, std::int32_t next) {
  return int(a.tokens.size()) < o.tokens && (o.ignore_end || !ends_answer(s.text, next));
}

// Computes the tokens that the sequence lacks, then the greedy answer. `wait_for`: returns when a layer of what the sequence
// has is there. `draft`: what the answer may be; it is what it would be without, to the last token.
answer finish(session& s, std::span<const std::int32_t> rest, sequence& seq, const resume_options& o,
              std::span<const std::int32_t> draft = {}, const std::function<void(int layer)>& wait_for = {}) {
  constexpr std::size_t together = 32;  // drafted tokens that are verified in one pass
  answer a;
  sampler sample({.temperature = 0});
  std::int32_t next = tokenizer::none;
  stopwatch clock;
  const forward_options options{.on_logits = [&](int, std::span<const float> logits) { next = sample(logits); }};
  forward_options first = options;
  if (wait_for) first.on_hidden = [&](int layer, int, std::span<const float>) { wait_for(layer); };
  s.net.forward(rest, seq, first);
  a.first_seconds = clock.seconds();
  while (!draft.empty() && next == draft.front()) {
    const auto block = draft.first(std::min(together, draft.size()));
    const int before = seq.tokens();
    std::vector<std::int32_t> target{next};
    s.net.forward(block, seq,
                  {.logits_from = 0,
                   .on_logits = [&](int, std::span<const float> logits) { target.push_back(sample(logits)); },
                   .as_steps = true});
    const sluice::stream::verified v = *sluice::stream::verify(block, target);
    for (const std::int32_t t : block.first(v.accepted)) a.add(t);
    seq.truncate(before + int(v.accepted));
    a.accepted += int(v.accepted);
    next = v.token;
    draft = v.all ? draft.subspan(v.accepted) : std::span<const std::int32_t>();
  }
  while (goes_on(s, o, a, next)) {
    a.add(next);
    if (int(a.tokens.size()) < o.tokens) s.net.forward({&a.tokens.back(), 1}, seq, options);
  }
  return a;
}

// The greedy answer on a coarse copy of the document's cache, as far as it gets before the fine one is there.
answer write_draft(session& s, std::span<const std::int32_t> asked, sequence& coarse, const resume_options& o,
                   const std::function<bool()>& there) {
  answer a;
  sampler sample({.temperature = 0});
  std::int32_t next = tokenizer::none;
  const forward_options options{.on_logits = [&](int, std::span<const float> logits) { next = sample(logits); }};
  s.net.forward(asked, coarse, options);
  while (goes_on(s, o, a, next) && !there()) {
    a.add(next);
    if (int(a.tokens.size()) < o.tokens) s.net.forward({&a.tokens.back(), 1}, coarse, options);
  }
  return a;
}

std::string text_of(const session& s, const answer& a) {
  std::string text;
  for (const std::int32_t t : a.tokens) text += s.text.decode(t);
  return text;
}

void describe(option_list& app, resume_options& o) {
  describe_document(app, o);
  app.add_option("--question", o.question, "what is asked about the document").required();
  app.add_option("--tokens", o.tokens, "the longest answer").range(1, 1 << 20);
  option level = app.add_option("--level", o.level, "level of quality to restore, where the store has it")
                     .range(0, int(sluice::max_passes) - 1);
  o.deadline_given =
      app.add_option("--deadline", o.deadline,
                     "seconds until the document has to be there, fetched at any level or computed, as a policy "
                     "plans it; without this, --policy or --link everything is fetched at --level")
          .range(0.001, 1e6)
          .excludes(level);
  const std::vector<std::string> names(std::begin(sluice::stream::policy_names),
                                       std::end(sluice::stream::policy_names));
  o.policy_given = app.add_option("--policy", o.policy, "who plans under the deadline").one_of(names).excludes(level);
  o.link_given =
      app.add_option("--link", o.link, "slows the store down to the link of this trace (CSV)").excludes(level);
  option parts =
      app.add_option(
             "--layer-parts", o.layer_parts,
             "layers come in so many parts, while the question is computed on those that are there; policies that "
             "refine cannot do so, layerwise is what plans unless one is given")
          .range(1, 4096)
          .excludes(level);
  option draft =
      app.add_option(
             "--draft-level", o.draft_level,
             "answer from the document at this level while its exact copies come (the finest level where there are "
             "none), then verify: the answer is that of the exact copies, token by token; takes twice the pages")
          .range(0, int(sluice::max_passes) - 1)
          .excludes(level)
          .excludes(o.policy_given)
          .excludes(o.deadline_given)
          .excludes(parts);
  app.add_option(
         "--compute-layers", o.compute_layers,
         "compute the first so many layers from the text while the others are fetched (DroidSpeak), at --level or "
         "as planned")
      .range(1, 4096)
      .excludes(parts)
      .excludes(draft);
  app.add_option(
      "--cache-of", o.cache_of,
      "take the caches that this model left, another fine-tune or quantisation of the same shape; its profile is the "
      "one beside it unless one is given");
  app.add_flag("--ignore-end", o.ignore_end, "go on behind the answer's end, up to --tokens");
  app.add_flag("--compare", o.compare, "compute everything as well, and tell how far the two are apart");
  app.add_flag("--strict", o.strict,
               "exit with 1 where the store failed or held something damaged or coarser, though the answer is right");
}

// How the document came back: the tokens that need no computing any more, what that took, and the figures of the way.
struct come_back {
  int tokens = 0, computed = 0;  // in the sequence; of them computed
  std::size_t bytes = 0, raw_bytes = 0;
  double seconds = 0;
  std::optional<double> saved_prefill_seconds{};
  json faults = json::array(), figures = json::object();
};

json fault_of(const missing_run& m, const std::string& then) {
  json f = {{"position", m.position}, {"tokens", m.tokens}, {"why", to_string(m.why)}};
  if (!m.detail.empty()) f["detail"] = m.detail;
  f["then"] = then;
  return f;
}

// What each chunk is, as JSON: a level, "exact" or "computed". The exact copy counts as the level behind the last.
json levels_of(const std::vector<int>& levels, int chunks, int exact) {
  json out = json::array();
  for (int c = 0; c < chunks; ++c) {
    const int level = c < int(levels.size()) ? levels[std::size_t(c)] : -1;
    out.push_back(level < 0 ? json("computed") : level == exact ? json("exact") : json(level));
  }
  return out;
}

// All that is stored, at one level, as fast as this machine can; what is damaged is computed again.
come_back at_level(session& s, prefix_cache& prefixes, std::span<const std::int32_t> document, sequence& seq, int level,
                   sequence* hidden) {
  stopwatch clock;
  const restore_report r = prefixes.restore(document, hidden ? *hidden : seq, level);
  come_back out{.tokens = r.tokens, .bytes = r.bytes, .raw_bytes = r.raw_bytes, .seconds = clock.seconds()};
  double project_seconds = 0;
  if (hidden) {
    if (seq.grow(r.tokens) != sluice::status::ok) throw std::runtime_error("the KV cache is full");
    project(s.net, *hidden, 0, r.tokens, seq);
    project_seconds = clock.seconds();
    out.seconds += project_seconds;
    out.raw_bytes = std::size_t(r.tokens) * seq.pool().values_of_token() * std::size_t(seq.pool().element_stride());
  }
  compute(s.net, document, seq, r.missing);  // over what was projected of nothing sound
  const double repair_seconds = clock.seconds();
  out.seconds += repair_seconds;
  for (const missing_run& m : r.missing) {
    out.computed += m.tokens;
    out.faults.push_back(fault_of(m, "computed"));
  }
  for (const missing_run& m : r.unread) out.faults.push_back(fault_of(m, "computed"));
  for (const missing_run& m : r.coarser) {
    int coarsest = level;
    for (int c = m.position / prefixes.tokens_of_chunk(); c < prefixes.chunks_of(m.position + m.tokens); ++c)
      coarsest = std::min(coarsest, r.levels[std::size_t(c)]);
    out.faults.push_back(fault_of(m, "restored at level " + std::to_string(coarsest)));
  }
  json held;
  for (const int l : r.levels)
    if (l >= 0) held = held.is_null() ? l : std::min(l, held.get<int>());
  out.figures = {
      {"level", held},
      {"asked_level", level},
      {"chunk_levels", levels_of(r.levels, prefixes.chunks_of(int(document.size())), prefixes.profile().passes)},
      {"degraded_pages", r.degraded_pages},
      {"seconds", {{"read", r.read_seconds}, {"decode", r.decode_seconds}, {"repair", repair_seconds}}}};
  if (hidden) out.figures["seconds"]["project"] = project_seconds;
  if (const auto saved = read_note(r.note, prefixes.name_of(document)))
    out.saved_prefill_seconds = saved->prefill_seconds;
  return out;
}

// Under a deadline, as a policy plans it.
come_back by_plan(session& s, prefix_cache& prefixes, std::span<const std::int32_t> document, const stream_result& r,
                  const stream_options& options) {
  if (r.note_damaged) s.warn("what was noted when the document was saved is damaged: costs were measured instead");
  come_back out{.tokens = int(document.size()),
                .computed = int(r.report.recomputed_tokens),
                .bytes = r.report.bytes,
                .raw_bytes = r.raw_bytes,
                .seconds = r.locate_seconds + r.report.seconds};
  for (const missing_run& m : r.unread) out.faults.push_back(fault_of(m, "computed"));
  std::vector<int> levels;
  for (const sluice::stream::chunk_report& c : r.report.chunks) levels.push_back(c.computed ? -1 : c.level);
  for (const sluice::stream::fault& f : r.report.faults) {
    const int begin = f.chunk * prefixes.tokens_of_chunk();
    const int level = f.chunk < 0 ? -1 : levels[std::size_t(f.chunk)];
    const sluice::gap repaired = f.chunk < 0 ? sluice::gap{} : r.report.chunks[std::size_t(f.chunk)].repaired;
    std::string then = level < 0 ? "computed" : "restored at level " + std::to_string(level);
    if (repaired)
      then += ", tokens " + std::to_string(repaired.position) + " to " +
              std::to_string(repaired.position + repaired.tokens - 1) + " through " +
              std::to_string(repaired.end_layer) + " layers computed";
    json fault =
        fault_of({begin, std::min(prefixes.tokens_of_chunk(), int(document.size()) - begin), f.what, f.detail}, then);
    fault["asked_level"] = f.level;
    fault["seconds"] = f.seconds;
    out.faults.push_back(std::move(fault));
  }
  out.figures = {{"policy", options.policy},
                 {"deadline_seconds", options.deadline_seconds},
                 {"deadline_met", r.report.met},
                 {"chunks", r.chunks},
                 {"chunks_stored", r.stored},
                 {"chunk_levels", levels_of(levels, r.chunks, prefixes.profile().passes)},
                 {"costs", r.saved ? "saved" : "measured"},
                 {"seconds",
                  {{"locate", r.locate_seconds},
                   {"usable", r.locate_seconds + r.report.usable_seconds},
                   {"stream", r.report.seconds}}}};
  if (r.saved) out.saved_prefill_seconds = r.saved->prefill_seconds;
  return out;
}

// "at level 1", "at levels 0 to 3", "exactly": nothing where nothing was restored.
std::string levels_in_words(const json& chunk_levels) {
  int low = -1, high = -1;
  bool exact = false;
  for (const json& l : chunk_levels) {
    exact |= l == "exact";
    if (!l.is_number()) continue;
    low = low < 0 ? l.get<int>() : std::min(low, l.get<int>());
    high = std::max(high, l.get<int>());
  }
  if (low < 0) return exact ? " exactly" : "";
  return (low == high ? " at level " + std::to_string(low)
                      : " at levels " + std::to_string(low) + " to " + std::to_string(high)) +
         (exact ? " or exactly" : "");
}

int resume(const resume_options& o, store& kept) {
  stream_options streaming{.policy = o.layer_parts > 0 && o.policy_given.count() == 0 ? "layerwise" : o.policy,
                           .deadline_seconds = o.deadline,
                           .layer_parts = o.layer_parts};
  std::optional<sluice::stream::link_trace> link;
  if (!o.link.empty()) {
    const auto parsed = sluice::stream::parse_link_trace(read_text(o.link));
    if (!parsed) throw data_error(o.link + ": " + to_string(parsed.status()));
    streaming.link = &link.emplace(*parsed);
  }
  const std::string text = read_text(o.prompt_file);

  const sluice::stream::payload holds = payload_of(o.payload);
  if (holds == sluice::stream::payload::hidden && (o.layer_parts > 0 || o.draft_level >= 0))
    throw usage_error("hidden states come chunk by chunk, and nothing is drafted on them");
  if (o.compute_layers > 0 && holds == sluice::stream::payload::hidden)
    throw usage_error("--compute-layers takes keys and values for the other layers, not hidden states");
  session s(o);
  if (o.compute_layers >= s.net.config().layers && o.compute_layers > 0)
    throw usage_error("the model has " + std::to_string(s.net.config().layers) + " layers: some have to be fetched");
  const std::string& maker = o.cache_of.empty() ? o.model : o.cache_of;
  prefix_options cache{kv_type(o), o.salt, o.chunk_tokens, holds};
  if (!o.cache_of.empty())
    cache.made_by = model::identity_of(o.cache_of, o.exact ? arithmetic::exact : arithmetic::fast);
  prefix_cache prefixes(s.net, load_profile(o.profile, maker, s, holds), kept, s.threads, cache);
  const std::vector<std::int32_t> document = document_of(o, s.text, text);
  const std::vector<std::int32_t> asked = make_prompt(s.text, text, o.question).question;
  std::vector<std::int32_t> ids = document;
  ids.insert(ids.end(), asked.begin(), asked.end());
  s.check_context(ids.size(), o.tokens);
  page_pool pages(s.net.config(), kv_type(o), 2 * page_pool::pages_for(int(ids.size()) + o.tokens));
  sequence seq(pages);
  streaming.compute_layers = o.compute_layers;
  const bool masked = o.compute_layers > 0, planned = o.planned() || masked;
  if (masked && !o.planned()) {
    streaming.level = o.level;
    streaming.policy = "everything";
    streaming.deadline_seconds = 1e6;
  }
  std::optional<page_pool> hidden_pages;
  std::optional<sequence> hidden;
  if (holds == sluice::stream::payload::hidden) {
    hidden_pages.emplace(prefixes.profile().shape, kv_type(o), page_pool::pages_for(int(document.size())));
    hidden.emplace(*hidden_pages);
    streaming.hidden = &*hidden;
  }
  // A server would know these costs before a request comes, so its clock does not run yet.
  const machine_costs costs =
      planned ? measure_costs(s.net, prefixes, pages, document, hidden_pages ? &*hidden_pages : nullptr)
              : machine_costs{};

  come_back r;
  answer got;
  double first_seconds = 0;
  const moment begin = std::chrono::steady_clock::now();
  const auto since = [&](moment t) { return std::chrono::duration<double>(t - begin).count(); };
  json drafted;
  if (o.draft_level >= 0) {
    answer draft;
    {
      sequence coarse(pages);
      const stream_result streamed =
          stream_draft(s.net, prefixes, kept, document, seq, coarse, costs, streaming, o.draft_level,
                       [&](const auto& there) { draft = write_draft(s, asked, coarse, o, there); });
      r = by_plan(s, prefixes, document, streamed, streaming);
    }
    got = finish(s, asked, seq, o, draft.tokens);
    first_seconds = got.when.empty() ? r.seconds + got.first_seconds : since(got.when[0]);
    drafted = {{"level", o.draft_level}, {"tokens", draft.tokens.size()}, {"accepted", got.accepted}};
    if (!draft.when.empty()) drafted["first_token_seconds"] = since(draft.when[0]);
    for (const char* figure : {"policy", "deadline_seconds", "deadline_met"}) r.figures.erase(figure);
  } else if (o.layer_parts > 0) {
    stopwatch clock;
    const stream_result streamed =
        stream_layers(s.net, prefixes, kept, document, seq, costs, streaming, [&](const auto& wait_for) {
          first_seconds = clock.seconds();
          got = finish(s, asked, seq, o, {}, wait_for);
          first_seconds += got.first_seconds;
        });
    r = by_plan(s, prefixes, document, streamed, streaming);
    r.figures["layer_parts"] = o.layer_parts;
  } else {
    r = planned ? by_plan(s, prefixes, document, stream_prefix(s.net, prefixes, kept, document, seq, costs, streaming),
                          streaming)
                : at_level(s, prefixes, document, seq, o.level, streaming.hidden);
    got = finish(s, std::span(ids).subspan(std::size_t(r.tokens)), seq, o);
    first_seconds = r.seconds + got.first_seconds;
  }
  if (masked) r.figures["compute_layers"] = o.compute_layers;
  const double ratio = r.bytes ? double(r.raw_bytes) / double(r.bytes) : 0;
  json report = {{"model", o.model},
                 {"payload", o.payload},
                 {"document_tokens", document.size()},
                 {"question_tokens", asked.size()},
                 {"restored_tokens", r.tokens - r.computed},
                 {"computed_tokens", int(ids.size()) - r.tokens + r.computed},
                 {"faults", r.faults},
                 {"bytes", r.bytes},
                 {"raw_bytes", r.raw_bytes},
                 {"ratio", ratio},
                 {"first_token_seconds", first_seconds}};
  report.update(r.figures);
  report["seconds"]["question"] = got.first_seconds;
  report["answer"] = text_of(s, got);
  report["token_seconds"] = json::array();
  for (const moment t : got.when) report["token_seconds"].push_back(since(t));
  if (!drafted.is_null()) report["draft"] = drafted;
  if (r.saved_prefill_seconds) report["saved_prefill_seconds"] = *r.saved_prefill_seconds;
  // The same without sluice, in the same process: what it took, what it answers, and how far the two predictions of the
  // question and of that answer are apart.
  if (o.compare) {
    sequence exact(pages);
    stopwatch clock;
    s.net.forward(document, exact);
    const double document_seconds = clock.seconds();
    const answer expected = finish(s, asked, exact, o);
    std::vector<std::int32_t> judged = asked;
    judged.insert(judged.end(), expected.tokens.begin(), expected.tokens.end());
    exact.truncate(int(document.size()));
    seq.truncate(int(document.size()));
    const matrix reference = predict(s.net, judged, exact), restored = predict(s.net, judged, seq);
    const distance_sum d = distance(reference, restored);
    const double full_seconds = document_seconds + expected.first_seconds;
    report["compare"] = {{"first_token_seconds", full_seconds},
                         {"times_faster", full_seconds / first_seconds},
                         {"judged_tokens", judged.size()},
                         {"kl", d.kl()},
                         {"top1", d.top1()},
                         {"same_answer", got.tokens == expected.tokens},
                         {"answer", text_of(s, expected)}};
  }

  report["warnings"] = s.warnings;

  if (o.json) {
    program::print(report);
  } else {
    std::printf("%s\n", report["answer"].get<std::string>().c_str());
    std::fprintf(stderr, "%d of %zu tokens restored%s from %.2f MB (%.2f times smaller): first token after %.3f s",
                 r.tokens - r.computed, ids.size(), levels_in_words(report["chunk_levels"]).c_str(),
                 double(r.bytes) / 1e6, ratio, first_seconds);
    if (report.contains("compare"))
      std::fprintf(stderr, ", %.1f times sooner than the full prefill now (%.3f s); KL %.4f",
                   report["compare"]["times_faster"].get<double>(),
                   report["compare"]["first_token_seconds"].get<double>(), report["compare"]["kl"].get<double>());
    else if (r.saved_prefill_seconds)
      std::fprintf(stderr, "; the prefill of the document took %.3f s when it was saved", *r.saved_prefill_seconds);
    std::fputc('\n', stderr);
    if (r.tokens == r.computed && r.faults.empty())
      std::fprintf(stderr,
                   "the store holds nothing of this document for this model, profile, --kv, --salt and arithmetic\n");
  }
  for (const json& f : r.faults) {
    const int position = f["position"], tokens = f["tokens"];
    const std::string detail = f.value("detail", std::string());
    std::fprintf(stderr, "tokens %d to %d: %s%s%s; %s\n", position, position + tokens - 1,
                 f["why"].get<std::string>().c_str(), detail.empty() ? "" : ": ", detail.c_str(),
                 f["then"].get<std::string>().c_str());
  }
  return o.strict && !r.faults.empty() ? 1 : 0;
}

int open_and_resume(const resume_options& o) {
  return open_store(o, false, [&](store& kept) { return resume(o, kept); });
}

}  // namespace

void add_resume(program& p) {
  p.add<resume_options>("resume", "fetches the longest stored prefix of a document, computes the rest, answers",
                        describe, open_and_resume);
}

}  // namespace engine
