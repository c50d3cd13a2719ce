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

namespace {

struct tokenize_options {
  std::string model, text;
  bool json = false;
};

void describe(option_list& app, tokenize_options& o) {
  app.add_option("MODEL", o.model, "a model in GGUF").required();
  app.add_option("TEXT", o.text, "a file of text").required();
  app.add_flag("--json", o.json, "the result, and errors, as JSON on stdout");
}

int tokenize(const tokenize_options& o) {
  const mapped_file file(o.model);
  const gguf directory(file.bytes());
  const tokenizer text(directory);
  const std::vector<std::int32_t> ids = text.encode(read_text(o.text));
  if (o.json) {
    std::printf("%s\n", json{{"tokens", ids.size()}, {"ids", ids}}.dump().c_str());  // on one line
  } else {
    for (const std::int32_t t : ids) std::printf("%d\n", t);
  }
  return 0;
}

struct perplexity_options : model_options {
  std::string text, logits;
  int context = 512;
  std::size_t tokens = std::size_t{1} << 30, offset = 0;
};

void describe_perplexity(option_list& app, perplexity_options& o) {
  describe_model(app, o);
  app.add_option("TEXT", o.text, "a file of text").required();
  app.add_option("--context", o.context, "tokens of a window; each is predicted from those before it in there")
      .range(2, 1 << 20);
  app.add_option("--tokens", o.tokens, "tokens to look at in all").range(std::size_t{2}, std::size_t{1} << 30);
  app.add_option("--offset", o.offset, "tokens to leave out first").range(std::size_t{0}, std::size_t{1} << 30);
  app.add_option("--logits", o.logits, "a safetensors file to write all logits to");
}

int perplexity(const perplexity_options& o) {
  const int context = o.context;
  session s(o);

  // A model that wants a begin-of-text token gets it in front of every window.
  const std::vector<std::int32_t> all = s.text.encode(read_text(o.text));
  const bool bos = s.text.bos() != s.text.none;
  const std::size_t begin = std::min<std::size_t>(all.size(), o.offset + bos);
  std::size_t left = std::min<std::size_t>(all.size() - begin, o.tokens);
  if (left < 2) throw data_error(o.text + ": fewer than 2 tokens from the offset on");

  page_pool pages(s.net.config(), kv_type(o), page_pool::pages_for(context + bos));
  const std::string& out_path = o.logits;
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
  if (o.json) {
    program::print({{"model", o.model},
                    {"arithmetic", o.exact ? "exact" : "fast"},
                    {"kv", to_string(pages.type())},
                    {"context", context},
                    {"predicted_tokens", predicted},
                    {"nll", mean},
                    {"perplexity", std::exp(mean)},
                    {"tokens_per_second", speed}});
  } else {
    std::printf("perplexity %.4f over %zu tokens (%.5f nats a token), %.0f tokens a second\n", std::exp(mean),
                predicted, mean, speed);
  }
  return 0;
}

}  // namespace

void add_tokenize(program& p) { p.add<tokenize_options>("tokenize", "token ids of a text", describe, tokenize); }

void add_perplexity(program& p) {
  p.add<perplexity_options>("perplexity", "how well the model predicts a text", describe_perplexity, perplexity);
}

}  // namespace engine
