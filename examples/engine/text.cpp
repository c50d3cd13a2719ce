// SPDX-License-Identifier: Apache-2.0
#include "predictions.hpp"
#include "session.hpp"

#include <safetensors.hpp>

#include <Eigen/Core>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

namespace engine {

int tokenize_command(int argc, char** argv) {
  const arguments args = parse_arguments(argc, argv, {}, {});
  if (args.operands.size() != 2) throw usage_error("engine tokenize MODEL TEXT");
  const mapped_file file(args.operands[0]);
  const gguf directory(file.bytes());
  const tokenizer text(directory);
  const std::vector<std::int32_t> ids = text.encode(read_text(args.operands[1]));
  if (args.has("--json")) {
    std::puts(json{{"tokens", ids.size()}, {"ids", ids}}.dump().c_str());
  } else {
    for (const std::int32_t t : ids) std::printf("%d\n", t);
  }
  return 0;
}

int perplexity_command(int argc, char** argv) {
  const arguments args = parse_arguments(argc, argv, {"--context", "--tokens", "--offset", "--logits"}, {});
  if (args.operands.size() != 2) throw usage_error("engine perplexity MODEL TEXT");
  const int context = int(args.integer("--context", 512, 2, 1 << 20));
  session s(args, args.operands[0]);

  // A model that wants a begin-of-text token gets it in front of every window.
  const std::vector<std::int32_t> all = s.text.encode(read_text(args.operands[1]));
  const bool bos = s.text.bos() != s.text.none;
  const std::size_t begin =
      std::min<std::size_t>(all.size(), std::size_t(args.integer("--offset", 0, 0, 1 << 30)) + bos);
  std::size_t left =
      std::min<std::size_t>(all.size() - begin, std::size_t(args.integer("--tokens", 1 << 30, 2, 1 << 30)));
  if (left < 2) throw data_error(args.operands[1] + ": fewer than 2 tokens from the offset on");

  page_pool pages(s.net.config(), kv_type(args), page_pool::pages_for(context + bos));
  const std::string out_path = args.text("--logits");
  std::vector<float> kept;  // logits, where they are asked for
  std::vector<std::int32_t> kept_ids;
  double nll = 0, seconds = 0;
  std::size_t predicted = 0, computed = 0;
  progress bar("perplexity");
  const std::size_t total = left;
  for (std::size_t at = begin; left >= 2;) {
    const std::size_t n = std::min<std::size_t>(left, std::size_t(context));
    std::vector<std::int32_t> ids(all.begin() + std::ptrdiff_t(at), all.begin() + std::ptrdiff_t(at + n));
    if (bos) ids.insert(ids.begin(), s.text.bos());
    sequence seq(pages);
    const forward_options options{.logits_from = bos, .on_logits = [&](int position, std::span<const float> logits) {
                                    const auto next = std::size_t(position) + 1;
                                    if (!out_path.empty()) kept.insert(kept.end(), logits.begin(), logits.end());
                                    if (next < ids.size()) nll += surprise(logits, ids[next]), ++predicted;
                                  }};
    if (!out_path.empty()) kept_ids.insert(kept_ids.end(), ids.begin() + bos, ids.end());
    stopwatch clock;
    s.net.forward(ids, seq, options);
    seconds += clock.seconds();
    computed += ids.size();
    at += n;
    left -= n;
    bar.at(total - left, total);
  }
  if (!out_path.empty()) {
    safetensors::writer writer;
    const std::int64_t rows = std::int64_t(kept_ids.size());
    safetensors::problem p =
        writer.add("logits", safetensors::dtype::f32, {rows, s.net.config().vocab}, std::as_bytes(std::span(kept)));
    if (!p) p = writer.add("ids", safetensors::dtype::i32, {rows}, std::as_bytes(std::span(kept_ids)));
    if (!p) p = writer.save(out_path);
    if (p) throw data_error(p.message());
  }

  const double mean = nll / double(predicted);
  const double speed = double(computed) / seconds;
  if (args.has("--json")) {
    std::puts(json{{"model", args.operands[0]},
                   {"arithmetic", args.has("--exact") ? "exact" : "fast"},
                   {"kv", to_string(pages.type())},
                   {"context", context},
                   {"predicted_tokens", predicted},
                   {"nll", mean},
                   {"perplexity", std::exp(mean)},
                   {"tokens_per_second", speed}}
                  .dump(2)
                  .c_str());
  } else {
    std::printf("perplexity %.4f over %zu tokens (%.5f nats a token), %.0f tokens a second\n", std::exp(mean),
                predicted, mean, speed);
  }
  return 0;
}

}  // namespace engine
