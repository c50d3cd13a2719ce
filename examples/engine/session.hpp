// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "chat.hpp"
#include "model.hpp"
#include "tokenizer.hpp"

#include <sluice/model/profile.hpp>

#include <command.hpp>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <utility>

// What every command begins with: options, a model, its tokenizer, threads.

namespace engine {

inline std::string read_text(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw data_error(path + ": cannot be read");
  return {std::istreambuf_iterator<char>(in), {}};
}

/// Options that all commands take, and those of one command.
inline arguments parse_arguments(int argc, char** argv, std::set<std::string> with_value, std::set<std::string> flags) {
  with_value.insert({"--threads", "--kv"});
  flags.insert({"--json", "--exact"});
  return arguments(argc, argv, with_value, flags);
}

inline sluice::dtype kv_type(const arguments& args, const char* otherwise = "f16") {
  const std::string name = args.text("--kv", otherwise);
  for (const sluice::dtype t : {sluice::dtype::f16, sluice::dtype::bf16, sluice::dtype::f32})
    if (name == to_string(t)) return t;
  throw usage_error("--kv is f16, bf16 or f32");
}

inline double real_option(const arguments& args, const std::string& name, double otherwise, double low, double high) {
  if (!args.has(name)) return otherwise;
  const std::string value = args.text(name);
  char* end = nullptr;
  const double x = std::strtod(value.c_str(), &end);
  if (value.empty() || *end != 0 || !(x >= low && x <= high))
    throw usage_error(name + " must be a number from " + json(low).dump() + " to " + json(high).dump());
  return x;
}

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

  session(const arguments& args, const std::string& path, arithmetic mode)
      : threads(int(args.integer("--threads", default_threads(), 1, 256))),
        net(path, mode, threads),
        text(net.directory()) {
    if (text.size() > net.config().vocab) throw file_error(file_errc::malformed, "more tokens than embeddings");
  }
  session(const arguments& args, const std::string& path)
      : session(args, path, args.has("--exact") ? arithmetic::exact : arithmetic::fast) {}

 private:
  static long default_threads() { return std::max(1l, static_cast<long>(std::thread::hardware_concurrency())); }
};

/// Where the profile of a model lies unless told: smol.profile for smol.gguf.
inline std::string profile_beside(std::string model_path) {
  if (model_path.ends_with(".gguf")) model_path.resize(model_path.size() - 5);
  return model_path + ".profile";
}

/// The profile to code this model's cache with: --profile, else the one beside the model, else one that needs no
/// calibration, which costs several times the bytes at equal quality. Throws a data_error where it is another model's.
inline sluice::profile load_profile(const arguments& args, const std::string& model_path, const model& net) {
  std::string path = profile_beside(model_path);
  if (!args.has("--profile") && !std::filesystem::exists(path)) {
    std::fprintf(stderr, "engine: no %s: coding without calibration (see `engine calibrate`)\n", path.c_str());
    return sluice::profile::uncalibrated(kv_shape(net.config()));
  }
  path = args.text("--profile", path);
  auto loaded = sluice::profile::load(path.c_str());
  if (!loaded) throw data_error(path + ": " + to_string(loaded.status()));
  if (loaded->shape != kv_shape(net.config())) throw data_error(path + ": the profile of a model with another shape");
  return *std::move(loaded);
}

/// A forward pass that says how far it is.
inline forward_options with_progress(progress& bar, const model& net, std::size_t tokens) {
  return {.on_hidden = [&bar, tokens, layers = std::size_t(net.config().layers)](int layer, int position,
                                                                                 std::span<const float>) {
    bar.at(std::size_t(position) * layers + std::size_t(layer), tokens * layers);
  }};
}

/// The document's part of the prompt, cut to --max-tokens.
inline std::vector<std::int32_t> document_of(const arguments& args, const tokenizer& text,
                                             const std::string& document) {
  std::vector<std::int32_t> ids = make_prompt(text, document, "").document;
  const auto most = std::size_t(args.integer("--max-tokens", 1 << 30, 1, 1 << 30));
  if (ids.size() > most) ids.resize(most);
  return ids;
}

int run_command(int argc, char** argv);
int save_command(int argc, char** argv);
int resume_command(int argc, char** argv);
int calibrate_command(int argc, char** argv);
int quality_command(int argc, char** argv);
int capture_command(int argc, char** argv);
int tokenize_command(int argc, char** argv);
int perplexity_command(int argc, char** argv);

}  // namespace engine
