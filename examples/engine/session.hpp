// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "chat.hpp"
#include "hidden.hpp"
#include "model.hpp"
#include "store.hpp"
#include "tokenizer.hpp"

#include <sluice/model/profile.hpp>
#include <sluice/stream/store/sources/url.hpp>

#include <command.hpp>
#include <input_file.hpp>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <thread>
#include <utility>
#include <vector>

// What every command begins with: options, a model, its tokenizer, threads.

namespace engine {

inline std::string read_text(const std::string& path) {
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in && text.empty()) throw data_error(path + ": " + (errno ? std::strerror(errno) : "cannot be read"));
  return text;
}

/// What every command takes.
struct model_options {
  std::string model;
  int threads = std::max(1, int(std::thread::hardware_concurrency()));
  bool exact = false, json = false;
  std::string kv = "f16";
};

inline void describe_model(option_list& app, model_options& o) {
  app.add_option("MODEL", o.model, "a llama, qwen2 or gemma3 model in GGUF").required();
  app.add_option("--threads", o.threads, "threads that compute and decode").range(1, 256);
  app.add_flag("--exact", o.exact,
               "compute in floats; the default quantises activations to 8 bits and is several times as fast");
  app.add_option("--kv", o.kv, "type of the pages of the KV cache").one_of({"f16", "bf16", "f32"});
  app.add_flag("--json", o.json, "the result, and errors, as JSON on stdout");
}

/// Of commands that code a cache.
inline void describe_profile(option_list& app, std::string& profile) {
  app.add_option(
      "--profile", profile,
      "what sluice knows of the model (see `engine calibrate`); by default M.profile beside M.gguf, and where there "
      "is none no calibration, which costs twice the bytes");
}

/// Of commands that code what the model made of a text.
inline option describe_payload(option_list& app, std::string& payload) {
  return app
      .add_option(
          "--payload", payload,
          "kv: keys and values; hidden: what each layer takes in, from which keys and values are projected (HCache, "
          "XQuant): smaller where a model has as many key heads as query heads, larger where few share them")
      .one_of({"kv", "hidden"});
}

inline sluice::stream::payload payload_of(const std::string& name) {
  return name == "hidden" ? sluice::stream::payload::hidden : sluice::stream::payload::kv;
}

/// Of commands that keep a document's cache in a store.
struct document_options : model_options, store_options {
  std::string prompt_file, profile, salt, payload = "kv";
  std::size_t max_tokens = std::size_t{1} << 30;
  int chunk_tokens = 256;
};

inline void describe_document(option_list& app, document_options& o) {
  describe_model(app, o);
  app.add_option("--prompt-file", o.prompt_file, "the document, as text").required();
  app.add_option("--store", o.store, std::string("where chunks are kept: ") + sluice::stream::store_url_forms);
  app.add_option(
      "--second", o.second,
      "a second store of the same chunks: `save` writes to both, `resume` asks it for what the first is late "
      "with or has not");
  app.add_option(
      "--tier", o.tiers,
      "instead of a store: tiers of it as URL,BYTES (K, M, G), the fastest first; levels move between them as "
      "they are used, and leave the last one");
  describe_profile(app, o.profile);
  app.add_option("--max-tokens", o.max_tokens, "of the document, counted from its begin")
      .range(std::size_t{1}, std::size_t{1} << 30);
  app.add_option(
      "--salt", o.salt,
      "goes into every key: chunks are found only by who gives the same (a tenant, an adapter over the weights)");
  describe_payload(app, o.payload);
  app.add_option("--chunk-tokens", o.chunk_tokens,
                 "of an object in the store; chunks are found only by who gives the same")
      .range(256, 4096);
}

inline sluice::dtype kv_type(const model_options& o) {
  for (const sluice::dtype t : {sluice::dtype::f16, sluice::dtype::bf16, sluice::dtype::f32})
    if (o.kv == to_string(t)) return t;
  throw usage_error("--kv is f16, bf16 or f32");
}

/// The part of a path behind its last slash.
inline std::string name_of(const std::string& path) { return path.substr(path.rfind('/') + 1); }

/// Seconds since it was made or asked last.
class stopwatch {
 public:
  double seconds() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(begin_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

struct session {
  thread_pool threads;
  model net;
  tokenizer text;
  std::vector<std::string> warnings;  ///< for the report; stderr has had them

  session(const model_options& o, arithmetic mode)
      : threads(o.threads), net(o.model, mode, threads), text(net.directory()) {
    if (text.size() > net.config().vocab) throw file_error(file_errc::malformed, "more tokens than embeddings");
  }
  explicit session(const model_options& o) : session(o, o.exact ? arithmetic::exact : arithmetic::fast) {}

  void warn(std::string what) {
    std::fprintf(stderr, "engine: warning: %s\n", what.c_str());
    warnings.push_back(std::move(what));
  }

  /// Warns where a prompt, or a prompt and its answer, are longer than what the model was trained on.
  void check_context(std::size_t prompt, int answer) {
    const auto context = std::size_t(net.config().context);
    if (prompt + std::size_t(answer) <= context) return;
    const std::string limit = ", the model was trained on " + std::to_string(context) + ": ";
    if (prompt > context)
      warn("the prompt has " + std::to_string(prompt) + " tokens" + limit +
           "expect nonsense, or cut it with --max-tokens");
    else
      warn("the prompt of " + std::to_string(prompt) + " tokens with an answer of up to " + std::to_string(answer) +
           " is longer than the model was trained on (" + std::to_string(context) + ")");
  }
};

/// The profile to code this model's cache with: the one given, else the one beside the model, else one that needs no
/// calibration, which costs twice the bytes at equal quality. Hidden states have none but the one given: nobody calibrates
/// them. Throws a data_error where it is another model's, or of what is not stored.
inline sluice::profile load_profile(const std::string& given, const std::string& model_path, session& s,
                                    sluice::stream::payload holds = sluice::stream::payload::kv) {
  const sluice::model_shape shape = payload_shape(s.net.config(), holds);
  if (given.empty() && holds == sluice::stream::payload::hidden) return sluice::profile::uncalibrated(shape);
  const std::string path = given.empty() ? profile_beside(model_path) : given;
  if (given.empty() && !std::filesystem::exists(path)) {
    s.warn("no " + path + ": coding without calibration (see `engine calibrate`)");
    return sluice::profile::uncalibrated(shape);
  }
  sluice::profile loaded = ::load_profile(path);
  if (loaded.shape != shape) throw data_error(path + ": the profile of a model with another shape");
  return loaded;
}

/// A forward pass that says how far it is.
inline forward_options with_progress(progress& bar, const model& net, std::size_t tokens) {
  return {.on_hidden = [&bar, tokens, layers = std::size_t(net.config().layers)](int layer, int position,
                                                                                 std::span<const float>) {
    bar.at(std::size_t(position) * layers + std::size_t(layer), tokens * layers);
  }};
}

/// The document's part of the prompt, cut to --max-tokens.
inline std::vector<std::int32_t> document_of(const document_options& o, const tokenizer& text,
                                             const std::string& document) {
  std::vector<std::int32_t> ids = make_prompt(text, document, "").document;
  if (ids.size() > o.max_tokens) ids.resize(o.max_tokens);
  return ids;
}

// One for each command.
void add_run(program& p);
void add_save(program& p);
void add_resume(program& p);
void add_blend(program& p);
void add_calibrate(program& p);
void add_quality(program& p);
void add_capture(program& p);
void add_tokenize(program& p);
void add_perplexity(program& p);

}  // namespace engine
