// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"
#include "sampler.hpp"
#include "session.hpp"

#include <cstdio>
#include <string>
#include <vector>

namespace engine {

namespace {

struct run_options : model_options {
  std::string prompt, prompt_file, question;
  bool raw = false;
  int tokens = 128, top_k = 40;
  float temperature = 0, top_p = 0.95f;
  std::uint64_t seed = 1;
};

void describe(option_list& app, run_options& o) {
  describe_model(app, o);
  option prompt = app.add_option("--prompt", o.prompt, "the text to answer about, or to continue");
  app.add_option("--prompt-file", o.prompt_file, "the same from a file").excludes(prompt);
  app.add_option("--question", o.question, "what is asked after the text");
  app.add_flag("--raw", o.raw, "text as it is, without the form of a chat that the model was trained on");
  app.add_option("--tokens", o.tokens, "the longest answer").range(1, 1 << 20);
  app.add_option("--temperature", o.temperature, "0 = the likeliest token each time").range(0.0, 100.0);
  app.add_option("--top-k", o.top_k, "draw from so many of the likeliest tokens; 0 = from all").range(0, 1 << 20);
  app.add_option("--top-p", o.top_p, "draw from the likeliest tokens that have this share together").range(0.0, 1.0);
  app.add_option("--seed", o.seed, "of what is drawn");
}

int run(const run_options& o) {
  const std::string document = o.prompt_file.empty() ? o.prompt : read_text(o.prompt_file);
  if (document.empty() && o.question.empty()) throw usage_error("--prompt-file, --prompt or --question is missing");

  stopwatch clock;
  session s(o);
  const double load_seconds = clock.seconds();
  std::vector<std::int32_t> ids;
  if (o.raw) {
    ids = s.text.encode(document + o.question);
  } else {
    const prompt p = make_prompt(s.text, document, o.question);
    ids = p.document;
    ids.insert(ids.end(), p.question.begin(), p.question.end());
  }
  if (ids.empty()) throw usage_error("the prompt is empty");
  s.check_context(ids.size(), o.tokens);

  page_pool pages(s.net.config(), kv_type(o), page_pool::pages_for(int(ids.size()) + o.tokens));
  sequence seq(pages);
  sampler sample({.temperature = o.temperature, .top_k = o.top_k, .top_p = o.top_p, .seed = o.seed});
  std::int32_t next = tokenizer::none;
  const forward_options options{.on_logits = [&](int, std::span<const float> logits) { next = sample(logits); }};

  progress bar("prefill");
  forward_options prefill = options;
  prefill.on_hidden = [&, layers = s.net.config().layers](int layer, int position, std::span<const float>) {
    if (position > 0)
      bar.at(std::size_t(position) * std::size_t(layers) + std::size_t(layer), ids.size() * std::size_t(layers));
  };
  clock.seconds();
  s.net.forward(ids, seq, prefill);
  const double first_seconds = clock.seconds();
  std::string answer;
  int generated = 0;
  while (generated < o.tokens && !ends_answer(s.text, next)) {
    const std::string piece = s.text.decode(next);
    answer += piece;
    if (!o.json) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    }
    if (++generated < o.tokens) s.net.forward({&next, 1}, seq, options);
  }
  const double rest_seconds = clock.seconds();
  const double per_token = generated > 1 ? rest_seconds / (generated - 1) : 0;

  if (o.json) {
    const json report = {{"model", o.model},
                         {"prompt_tokens", ids.size()},
                         {"load_seconds", load_seconds},
                         {"first_token_seconds", first_seconds},
                         {"prefill_tokens_per_second", double(ids.size()) / first_seconds},
                         {"generated_tokens", generated},
                         {"seconds_per_token", per_token},
                         {"warnings", s.warnings},
                         {"answer", answer}};
    program::print(report);
  } else {
    std::putchar('\n');
    std::fprintf(stderr, "%zu tokens of prompt in %.3f s (%.0f a second), then %.1f ms a token\n", ids.size(),
                 first_seconds, double(ids.size()) / first_seconds, 1000 * per_token);
  }
  return 0;
}

}  // namespace

void add_run(program& p) {
  p.add<run_options>("run", "answers a question about a text, or continues it", describe, run);
}

}  // namespace engine
