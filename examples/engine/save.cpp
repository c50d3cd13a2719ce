// SPDX-License-Identifier: Apache-2.0
#include "costs.hpp"
#include "prefix_cache.hpp"
#include "quality.hpp"
#include "session.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace engine {

namespace {

struct save_options : document_options {
  int levels = sluice::max_passes;
  bool exact_copies = false, measure = false;
  double target_kl = 0.010;
};

void describe(option_list& app, save_options& o) {
  describe_document(app, o);
  app.add_option("--levels", o.levels,
                 "levels of quality that are kept, from the coarsest on; a finer object that is there stays")
      .range(1, int(sluice::max_passes));
  app.add_flag("--measure", o.measure,
               "choose steps by what is measured to be lost on the document's first half: as long as computing 768 "
               "tokens, and levels that lose what they are meant to");
  app.add_option("--target-kl", o.target_kl, "what the level nearest to it is then to lose, in nats").range(1e-6, 10.0);
  app.add_flag("--exact-copies", o.exact_copies, "keep every bit as well, for policies that fetch it");
}

int save(const save_options& o, store& kept) {
  const sluice::stream::payload holds = payload_of(o.payload);
  const bool hidden = holds == sluice::stream::payload::hidden;
  if (hidden && o.measure) throw usage_error("--measure chooses steps of K and V, not of hidden states");
  session s(o);
  prefix_cache prefixes(s.net, load_profile(o.profile, o.model, s, holds), kept, s.threads,
                        {kv_type(o), o.salt, o.chunk_tokens, holds});
  const std::vector<std::int32_t> ids = document_of(o, s.text, read_text(o.prompt_file));
  s.check_context(ids.size(), 0);
  const int measured = o.measure ? int(ids.size()) / 2 + document_probe::most : 0;
  page_pool pages(s.net.config(), kv_type(o), page_pool::pages_for(int(ids.size())) + page_pool::pages_for(measured));
  sequence seq(pages);
  page_pool hidden_pages(payload_shape(s.net.config(), holds), kv_type(o),
                         hidden ? page_pool::pages_for(int(ids.size())) : 0);
  sequence states(hidden_pages);
  const sequence& stored = hidden ? states : seq;
  batch_times times;
  stopwatch clock;
  double elapsed = 0;
  {
    progress bar("prefill");
    forward_options prefill = with_progress(bar, s.net, ids.size());
    prefill.on_hidden = [&, draw = prefill.on_hidden](int layer, int position, std::span<const float> x) {
      draw(layer, position, x);
      if (layer == 0) times.add(position, elapsed += clock.seconds());
    };
    if (hidden) prefill.on_hidden = keep_hidden(s.net, states, std::move(prefill.on_hidden));
    s.net.forward(ids, seq, prefill);
  }
  const double prefill_seconds = elapsed + clock.seconds();
  sluice::document_steps steps;
  stopwatch measuring;
  if (o.measure) {
    coded_cache coded(prefixes.profile(), "balanced");
    steps = document_probe(s.net, ids, seq).steps(coded, o.target_kl);
  }
  const double measure_seconds = measuring.seconds();
  const save_report r = prefixes.save(ids, stored, o.levels, o.exact_copies, steps);

  // What was left there says what computing and decoding cost.
  machine_costs costs = times.fit(int(ids.size()), prefill_seconds);
  const int measured_tokens = std::min(int(ids.size()), prefixes.tokens_of_chunk());
  if (hidden) costs.project_seconds_per_token = measure_projecting(s.net, states, measured_tokens, seq);
  costs.decode_seconds_per_value = prefixes.measure_decoding(hidden ? states : seq, measured_tokens);
  const std::string note = write_note(prefixes.name_of(ids), ids.size(), prefill_seconds, costs);
  std::string why;
  const sluice::status noted = sluice::stream::put_checked(kept, prefixes.note_of(ids), std::as_bytes(std::span(note)),
                                                           patience{}.silent_seconds, &why);
  if (noted != sluice::status::ok) throw data_error("the store: " + in_words(noted, why));

  // Against the pages of K and V that it stands for.
  const std::size_t raw_bytes = ids.size() * pages.values_of_token() * std::size_t(pages.element_stride());
  const double ratio = double(raw_bytes) / double(r.bytes);
  json repairs = json::array();
  int refined = 0, repaired = 0;
  for (const missing_run& m : r.replaced) {
    const int chunks = prefixes.chunks_of(m.tokens);
    (m.why == sluice::status::level_not_present ? refined : repaired) += chunks;
    repairs.push_back({{"position", m.position}, {"tokens", m.tokens}, {"why", to_string(m.why)}});
  }
  if (o.json) {
    program::print({{"model", o.model},
                    {"payload", o.payload},
                    {"tokens", ids.size()},
                    {"chunks", r.chunks},
                    {"chunks_already_there", r.already_there},
                    {"objects_repaired", repaired},
                    {"objects_refined", refined},
                    {"replaced", repairs},
                    {"bytes", r.bytes},
                    {"exact_bytes", r.exact_bytes},
                    {"raw_bytes", raw_bytes},
                    {"ratio", ratio},
                    {"prefill_seconds", prefill_seconds},
                    {"encode_seconds", r.encode_seconds},
                    {"check_seconds", r.check_seconds},
                    {"measure_seconds", measure_seconds},
                    {"coarser", steps.coarser},
                    {"expected_loss", steps.told()},
                    {"write_seconds", r.write_seconds},
                    {"project_seconds", costs.project_seconds_per_token * double(ids.size())},
                    {"warnings", s.warnings}});
    return 0;
  }
  std::printf("%zu tokens: prefill %.3f s, checking %.3f s, encoding %.3f s, writing %.3f s\n", ids.size(),
              prefill_seconds, r.check_seconds, r.encode_seconds, r.write_seconds);
  std::printf("%d chunks (%d were there and sound), %.2f MB for %.2f MB of pages: %.2f times smaller, all levels\n",
              r.chunks, r.already_there, double(r.bytes) / 1e6, double(raw_bytes) / 1e6, ratio);
  if (!steps.told().empty()) {
    std::printf("measured in %.3f s: steps %.2f octaves %s than usual; expected loss in nats by level:",
                measure_seconds, double(std::abs(steps.coarser)) / 4, steps.coarser < 0 ? "finer" : "coarser");
    for (const double nats : steps.told().first(std::size_t(prefixes.profile().passes))) std::printf(" %.4f", nats);
    std::printf("\n");
  }
  for (const missing_run& m : r.replaced)
    std::printf("tokens %d to %d were there %s: replaced\n", m.position, m.position + m.tokens - 1,
                m.why == sluice::status::level_not_present
                    ? "at a coarser level"
                    : ("but no good (" + std::string(to_string(m.why)) + ")").c_str());
  return 0;
}

int open_and_save(const save_options& o) {
  return open_store(o, true, [&](store& kept) { return save(o, kept); });
}

}  // namespace

void add_save(program& p) {
  p.add<save_options>("save", "computes a document's KV cache and keeps it in a store", describe, open_and_save);
}

}  // namespace engine
