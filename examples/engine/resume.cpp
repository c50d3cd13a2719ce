// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"
#include "distribution.hpp"
#include "predictions.hpp"
#include "prefix_cache.hpp"
#include "sampler.hpp"
#include "session.hpp"

#include <Eigen/Core>

#include <cstdio>
#include <string>
#include <vector>

namespace engine {

namespace {

struct answer {
  std::vector<std::int32_t> tokens;
  double first_seconds = 0;  ///< from the question's tokens to the first of the answer
};

// Computes the tokens that the sequence lacks, then the greedy answer. `on_logits` sees every row of logits from the
// question's first token on.
answer finish(session& s, std::span<const std::int32_t> rest, sequence& seq, int most,
              const std::function<void(std::span<const float>)>& on_logits) {
  answer a;
  sampler sample({.temperature = 0});
  std::int32_t next = tokenizer::none;
  stopwatch clock;
  forward_options options{.on_logits = [&](int, std::span<const float> logits) {
    next = sample(logits);
    if (on_logits) on_logits(logits);
  }};
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

}  // namespace

int resume_command(int argc, char** argv) {
  const arguments args = parse_arguments(
      argc, argv, {"--prompt-file", "--store", "--profile", "--question", "--level", "--tokens", "--max-tokens"},
      {"--compare"});
  const std::string path = args.operand("MODEL"), text = read_text(args.required("--prompt-file"));
  const std::string question = args.required("--question");
  store kept(args.required("--store"));
  const int level = int(args.integer("--level", 1, 0, sluice::max_passes - 1));
  const int most = int(args.integer("--tokens", 64, 1, 1 << 20));

  session s(args, path);
  prefix_cache prefixes(s.net, load_profile(args, path, s.net), kept, s.threads);
  const std::vector<std::int32_t> document = document_of(args, s.text, text);
  const std::vector<std::int32_t> asked = make_prompt(s.text, text, question).question;
  std::vector<std::int32_t> ids = document;
  ids.insert(ids.end(), asked.begin(), asked.end());
  const int room = page_pool::pages_for(int(ids.size()) + most);
  page_pool pages(s.net.config(), kv_type(args), 2 * room);
  sequence seq(pages);

  stopwatch clock;
  const restore_report r = prefixes.restore(document, seq, level);
  const double restore_seconds = clock.seconds();
  compute(s.net, ids, seq, r.missing);
  const double repair_seconds = clock.seconds();
  const answer got = finish(s, std::span(ids).subspan(std::size_t(r.tokens)), seq, most, {});
  const double first_seconds = restore_seconds + repair_seconds + got.first_seconds;
  int repaired = 0;
  json faults = json::array();
  for (const missing_run& m : r.missing) {
    repaired += m.tokens;
    faults.push_back({{"position", m.position}, {"tokens", m.tokens}, {"why", to_string(m.why)}});
  }
  const double ratio = r.bytes ? double(r.raw_bytes) / double(r.bytes) : 0;
  json report = {{"model", path},
                 {"store", kept.folder()},
                 {"level", level},
                 {"document_tokens", document.size()},
                 {"question_tokens", asked.size()},
                 {"restored_tokens", r.tokens - repaired},
                 {"computed_tokens", int(ids.size()) - r.tokens + repaired},
                 {"faults", faults},
                 {"degraded_pages", r.degraded_pages},
                 {"bytes", r.bytes},
                 {"raw_bytes", r.raw_bytes},
                 {"ratio", ratio},
                 {"first_token_seconds", first_seconds},
                 {"seconds",
                  {{"read", r.read_seconds},
                   {"decode", r.decode_seconds},
                   {"repair", repair_seconds},
                   {"question", got.first_seconds}}},
                 {"answer", text_of(s, got)}};
  const auto note = kept.read(prefixes.name_of(document) + ".json");
  const json saved = json::parse(reinterpret_cast<const char*>(note.data()),
                                 reinterpret_cast<const char*>(note.data()) + note.size(), nullptr, false);
  if (saved.is_object() && saved.value("prefill_seconds", json()).is_number())
    report["saved_prefill_seconds"] = saved["prefill_seconds"];

  // The same without sluice, in the same process: what it took, what it answers, and how far the two predictions of the
  // question and of that answer are apart.
  if (args.has("--compare")) {
    sequence exact(pages);
    clock.seconds();
    s.net.forward(document, exact);
    const double document_seconds = clock.seconds();
    const answer expected = finish(s, asked, exact, most, {});
    std::vector<std::int32_t> judged = asked;
    judged.insert(judged.end(), expected.tokens.begin(), expected.tokens.end());
    exact.truncate(int(document.size()));
    const matrix reference = predict(s.net, judged, exact);
    seq.truncate(int(document.size()));
    if (seq.tokens() < int(document.size()))
      throw data_error("the store holds less than the document");  // cannot happen: finish() computed the rest
    const matrix restored = predict(s.net, judged, seq);
    distance_sum d;
    for (Eigen::Index t = 0; t < reference.rows(); ++t)
      d.add(row_of(reference, t), row_of(restored, t));
    report["compare"] = {{"first_token_seconds", document_seconds + expected.first_seconds},
                         {"times_faster", (document_seconds + expected.first_seconds) / first_seconds},
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
  std::fprintf(stderr, "%d of %zu tokens restored at level %d from %.2f MB (%.2f times smaller): first token after %.3f s",
               r.tokens - repaired, ids.size(), level, double(r.bytes) / 1e6, ratio, first_seconds);
  if (report.contains("compare"))
    std::fprintf(stderr, ", %.1f times sooner than the full prefill now (%.3f s); KL %.4f",
                 report["compare"]["times_faster"].get<double>(),
                 report["compare"]["first_token_seconds"].get<double>(), report["compare"]["kl"].get<double>());
  else if (report.contains("saved_prefill_seconds"))
    std::fprintf(stderr, "; the prefill of the document took %.3f s when it was saved",
                 report["saved_prefill_seconds"].get<double>());
  std::fputc('\n', stderr);
  for (const missing_run& m : r.missing)
    std::fprintf(stderr, "computed again: tokens %d to %d: %s\n", m.position, m.position + m.tokens - 1, to_string(m.why));
  if (r.degraded_pages) std::fprintf(stderr, "%d pages restored at a coarser level: damaged or cut refinements\n", r.degraded_pages);
  return 0;
}

}  // namespace engine
