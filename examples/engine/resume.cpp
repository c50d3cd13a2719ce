// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"
#include "distribution.hpp"
#include "predictions.hpp"
#include "prefix_cache.hpp"
#include "sampler.hpp"
#include "session.hpp"
#include "streamed.hpp"

#include <store_url.hpp>

#include <Eigen/Core>

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace engine {

namespace {

struct answer {
  std::vector<std::int32_t> tokens;
  double first_seconds = 0;  ///< from the first token computed to the first of the answer
};

// Computes the tokens that the sequence lacks, then the greedy answer.
answer finish(session& s, std::span<const std::int32_t> rest, sequence& seq, int most) {
  answer a;
  sampler sample({.temperature = 0});
  std::int32_t next = tokenizer::none;
  stopwatch clock;
  const forward_options options{.on_logits = [&](int, std::span<const float> logits) { next = sample(logits); }};
  s.net.forward(rest, seq, options);
  a.first_seconds = clock.seconds();
  while (int(a.tokens.size()) < most && !ends_answer(s.text, next)) {
    a.tokens.push_back(next);
    if (int(a.tokens.size()) < most) s.net.forward({&a.tokens.back(), 1}, seq, options);
  }
  return a;
}

std::string text_of(const session& s, const answer& a) {
  std::string text;
  for (const std::int32_t t : a.tokens) text += s.text.decode(t);
  return text;
}

// How the document came back: the tokens that need no computing any more, what that took, and the figures of the way.
struct come_back {
  int tokens = 0, computed = 0;  // in the sequence; of them computed
  std::size_t bytes = 0, raw_bytes = 0;
  double seconds = 0;
  json faults = json::array(), figures = json::object();
};

// All that is stored, at one level, as fast as this machine can; what is damaged is computed again.
come_back at_level(session& s, prefix_cache& prefixes, std::span<const std::int32_t> ids,
                   std::span<const std::int32_t> document, sequence& seq, int level) {
  stopwatch clock;
  const restore_report r = prefixes.restore(document, seq, level);
  come_back out{.tokens = r.tokens, .bytes = r.bytes, .raw_bytes = r.raw_bytes, .seconds = clock.seconds()};
  compute(s.net, ids, seq, r.missing);
  const double repair_seconds = clock.seconds();
  out.seconds += repair_seconds;
  for (const missing_run& m : r.missing) {
    out.computed += m.tokens;
    out.faults.push_back({{"position", m.position}, {"tokens", m.tokens}, {"why", to_string(m.why)}});
  }
  out.figures = {{"level", level},
                 {"degraded_pages", r.degraded_pages},
                 {"seconds", {{"read", r.read_seconds}, {"decode", r.decode_seconds}, {"repair", repair_seconds}}}};
  return out;
}

// Under a deadline, as a policy plans it.
come_back by_plan(session& s, prefix_cache& prefixes, store& kept, std::span<const std::int32_t> document,
                  sequence& seq, const json& saved, const stream_options& options) {
  const auto cost = [&](const char* name) {
    const json value = saved.is_object() ? saved.value(name, json()) : json();
    if (!value.is_number() || !(value.get<double>() >= 0))
      throw data_error("the store does not tell what computing costs; save the document with this engine first");
    return value.get<double>();
  };
  const machine_costs costs{cost("prefill_seconds"), cost("seconds_per_token"), cost("seconds_per_token_position"),
                            cost("decode_seconds_per_value")};
  const stream_result r = stream_prefix(s.net, prefixes, kept, document, seq, costs, options);
  come_back out{.tokens = int(document.size()),
                .computed = int(r.report.recomputed_tokens),
                .bytes = r.report.bytes,
                .raw_bytes = r.raw_bytes,
                .seconds = r.locate_seconds + r.report.seconds};
  for (const sluice::stream::fault& f : r.report.faults)
    out.faults.push_back({{"chunk", f.chunk}, {"level", f.level}, {"why", to_string(f.what)}, {"seconds", f.seconds}});
  json levels = json::array();
  for (const sluice::stream::chunk_report& c : r.report.chunks)
    levels.push_back(c.computed ? json("computed") : json(c.level));
  out.figures = {{"policy", options.policy},
                 {"deadline_seconds", options.deadline_seconds},
                 {"deadline_met", r.report.met},
                 {"chunks", r.chunks},
                 {"chunks_stored", r.stored},
                 {"chunk_levels", levels},
                 {"seconds",
                  {{"locate", r.locate_seconds},
                   {"usable", r.locate_seconds + r.report.usable_seconds},
                   {"stream", r.report.seconds}}}};
  return out;
}

json parse_note(const std::vector<std::byte>& bytes) {
  const char* text = reinterpret_cast<const char*>(bytes.data());
  return json::parse(text, text + bytes.size(), nullptr, false);
}

int resume(const arguments& args, store& kept) {
  const std::string path = args.operand("MODEL"), text = read_text(args.required("--prompt-file"));
  const std::string question = args.required("--question");
  const int level = int(args.integer("--level", 1, 0, sluice::max_passes - 1));
  const int most = int(args.integer("--tokens", 64, 1, 1 << 20));
  stream_options streaming{.policy = args.text("--policy", "progressive_cake"),
                           .deadline_seconds = double(real_option(args, "--deadline", 1, 0.001f, 1e6f))};
  std::optional<sluice::stream::link_trace> link;
  if (args.has("--link")) {
    const auto parsed = sluice::stream::parse_link_trace(read_text(args.text("--link")));
    if (!parsed) throw data_error(args.text("--link") + ": " + to_string(parsed.status()));
    streaming.link = &link.emplace(*parsed);
  }
  const bool planned = args.has("--policy") || args.has("--deadline") || link;
  if (planned && args.has("--level")) throw usage_error("a policy chooses levels itself: leave out --level");

  session s(args, path);
  prefix_cache prefixes(s.net, load_profile(args, path, s.net), kept, s.threads);
  const std::vector<std::int32_t> document = document_of(args, s.text, text);
  const std::vector<std::int32_t> asked = make_prompt(s.text, text, question).question;
  std::vector<std::int32_t> ids = document;
  ids.insert(ids.end(), asked.begin(), asked.end());
  page_pool pages(s.net.config(), kv_type(args), 2 * page_pool::pages_for(int(ids.size()) + most));
  sequence seq(pages);
  const std::string note_name = prefixes.name_of(document) + ".json";
  piece note{note_name, 0, 4096};
  read_all(kept, {&note, 1}, 10);
  const json saved = parse_note(note.bytes);

  const come_back r = planned ? by_plan(s, prefixes, kept, document, seq, saved, streaming)
                              : at_level(s, prefixes, ids, document, seq, level);
  const answer got = finish(s, std::span(ids).subspan(std::size_t(r.tokens)), seq, most);
  const double first_seconds = r.seconds + got.first_seconds;
  const double ratio = r.bytes ? double(r.raw_bytes) / double(r.bytes) : 0;
  json report = {{"model", path},
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
  if (saved.is_object() && saved.contains("prefill_seconds"))
    report["saved_prefill_seconds"] = saved["prefill_seconds"];

  // The same without sluice, in the same process: what it took, what it answers, and how far the two predictions of the
  // question and of that answer are apart.
  if (args.has("--compare")) {
    sequence exact(pages);
    stopwatch clock;
    s.net.forward(document, exact);
    const double document_seconds = clock.seconds();
    const answer expected = finish(s, asked, exact, most);
    std::vector<std::int32_t> judged = asked;
    judged.insert(judged.end(), expected.tokens.begin(), expected.tokens.end());
    exact.truncate(int(document.size()));
    seq.truncate(int(document.size()));
    const matrix reference = predict(s.net, judged, exact), restored = predict(s.net, judged, seq);
    distance_sum d;
    for (Eigen::Index t = 0; t < reference.rows(); ++t) d.add(row_of(reference, t), row_of(restored, t));
    const double full_seconds = document_seconds + expected.first_seconds;
    report["compare"] = {{"first_token_seconds", full_seconds},
                         {"times_faster", full_seconds / first_seconds},
                         {"judged_tokens", judged.size()},
                         {"kl", d.kl()},
                         {"top1", d.top1()},
                         {"answer", text_of(s, expected)}};
  }

  if (args.has("--json")) {
    std::puts(report.dump(2, ' ', false, json::error_handler_t::replace).c_str());
    return 0;
  }
  std::printf("%s\n", report["answer"].get<std::string>().c_str());
  std::fprintf(stderr, "%d of %zu tokens restored from %.2f MB (%.2f times smaller): first token after %.3f s",
               r.tokens - r.computed, ids.size(), double(r.bytes) / 1e6, ratio, first_seconds);
  if (report.contains("compare"))
    std::fprintf(stderr, ", %.1f times sooner than the full prefill now (%.3f s); KL %.4f",
                 report["compare"]["times_faster"].get<double>(),
                 report["compare"]["first_token_seconds"].get<double>(), report["compare"]["kl"].get<double>());
  else if (report.contains("saved_prefill_seconds") && report["saved_prefill_seconds"].is_number())
    std::fprintf(stderr, "; the prefill of the document took %.3f s when it was saved",
                 report["saved_prefill_seconds"].get<double>());
  std::fputc('\n', stderr);
  for (const json& f : r.faults) std::fprintf(stderr, "computed again: %s\n", f.dump().c_str());
  if (const int coarse = report.value("degraded_pages", 0))
    std::fprintf(stderr, "%d pages restored at a coarser level: damaged or cut refinements\n", coarse);
  return 0;
}

}  // namespace

int resume_command(int argc, char** argv) {
  const arguments args = parse_arguments(argc, argv,
                                         {"--prompt-file", "--store", "--profile", "--question", "--level", "--tokens",
                                          "--max-tokens", "--deadline", "--policy", "--link"},
                                         {"--compare"});
  return with_store(args.required("--store"), [&](auto& source) {
    store_of kept(source);
    return resume(args, kept);
  });
}

}  // namespace engine
