// SPDX-License-Identifier: Apache-2.0
#include "chat.hpp"
#include "sampler.hpp"
#include "session.hpp"

#include <cstdio>
#include <string>
#include <vector>

namespace engine {

int run_command(int argc, char** argv) {
  const arguments args = parse_arguments(
      argc, argv,
      {"--prompt", "--prompt-file", "--question", "--tokens", "--temperature", "--top-k", "--top-p", "--seed"},
      {"--raw"});
  const std::string path = args.operand("MODEL");
  const std::string document =
      args.has("--prompt-file") ? read_text(args.text("--prompt-file")) : args.text("--prompt");
  const std::string question = args.text("--question");
  if (document.empty() && question.empty()) throw usage_error("--prompt-file, --prompt or --question is missing");
  const int most = int(args.integer("--tokens", 128, 1, 1 << 20));
  const sampler::options chance{.temperature = float(real_option(args, "--temperature", 0, 0, 100)),
                                .top_k = int(args.integer("--top-k", 40, 0, 1 << 20)),
                                .top_p = float(real_option(args, "--top-p", 0.95, 0, 1)),
                                .seed = std::uint64_t(args.integer("--seed", 1, 0, 1l << 62))};

  stopwatch clock;
  session s(args, path);
  const double load_seconds = clock.seconds();
  std::vector<std::int32_t> ids;
  if (args.has("--raw")) {
    ids = s.text.encode(document + question);
  } else {
    const prompt p = make_prompt(s.text, document, question);
    ids = p.document;
    ids.insert(ids.end(), p.question.begin(), p.question.end());
  }
  if (ids.empty()) throw usage_error("the prompt is empty");

  page_pool pages(s.net.config(), kv_type(args), page_pool::pages_for(int(ids.size()) + most));
  sequence seq(pages);
  sampler sample(chance);
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
  while (generated < most && !ends_answer(s.text, next)) {
    const std::string piece = s.text.decode(next);
    answer += piece;
    if (!args.has("--json")) {
      std::fwrite(piece.data(), 1, piece.size(), stdout);
      std::fflush(stdout);
    }
    if (++generated < most) s.net.forward({&next, 1}, seq, options);
  }
  const double rest_seconds = clock.seconds();
  const double per_token = generated > 1 ? rest_seconds / (generated - 1) : 0;

  if (args.has("--json")) {
    const json report = {{"model", path},
                         {"prompt_tokens", ids.size()},
                         {"load_seconds", load_seconds},
                         {"first_token_seconds", first_seconds},
                         {"prefill_tokens_per_second", double(ids.size()) / first_seconds},
                         {"generated_tokens", generated},
                         {"seconds_per_token", per_token},
                         {"answer", answer}};
    std::puts(report.dump(2, ' ', false, json::error_handler_t::replace).c_str());
  } else {
    std::putchar('\n');
    std::fprintf(stderr, "%zu tokens of prompt in %.3f s (%.0f a second), then %.1f ms a token\n", ids.size(),
                 first_seconds, double(ids.size()) / first_seconds, 1000 * per_token);
  }
  return 0;
}

}  // namespace engine
