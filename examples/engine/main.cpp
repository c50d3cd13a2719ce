// SPDX-License-Identifier: Apache-2.0
#include "session.hpp"

#include <cstdio>
#include <exception>
#include <string_view>

namespace {

constexpr const char usage[] =
    R"(engine: a small LLM engine whose KV cache sluice reads and writes (llama, qwen2 and gemma3 models in GGUF)

  engine run MODEL --prompt-file T [--question Q]     answer, or continue the text
      [--prompt TEXT] [--raw] [--tokens 128] [--temperature 0] [--top-k 40] [--top-p 0.95] [--seed 1]
  engine save MODEL --prompt-file T --store S         compute a document's KV cache and keep it
      [--profile M.profile] [--levels 4] [--max-tokens N] [--exact-copies]
  engine resume MODEL --prompt-file T --store S       fetch the longest stored prefix, compute the rest, answer
      --question Q [--profile M.profile] [--tokens 64] [--max-tokens N] [--compare] [--level 1]
      or under a deadline: [--deadline SECONDS] [--policy P] [--link TRACE.csv]
  engine perplexity MODEL TEXT                        how well the model predicts a text
      [--context 512] [--tokens N] [--offset O] [--logits OUT.safetensors]
  engine calibrate MODEL TEXT [-o M.profile]          what sluice has to know of the model, measured on a text
      [--context 1024] [--captures 12] [--suffix 256] [--target-kl 0.010] [--no-sensitivities]
  engine quality MODEL TEXT [--profile M.profile]     what a decoded cache does to predictions and answers
      [--codec standard|fixed4|plain8|plain4|exact|raw] [--level J|all] [--context 1024] [--suffix 256] [--windows 4]
      [--offset 0] [--needles 0] [--needle-context 4096] [--seed 1]
  engine capture MODEL TEXT OUT.safetensors           KV cache of a text, for `sluice calibrate` and the tests
      [--context 1024] [--suffix 256] [--offset 0] [--stats]
  engine tokenize MODEL TEXT                          token ids of a text

S: DIR | redis://[:PASSWORD@]HOST[:PORT][/DB] | http(s)://HOST/PATH | s3+http(s)://HOST/BUCKET/PATH
P: always_raw | always_recompute | fixed_level_0..2 | cachegen | cachegen_released | cake | cake_levels | kvserve | robust_mpc |
   bola | progressive | progressive_cake

Everywhere: --threads N, --json, --exact (float arithmetic; the default is 8 bits), --kv f16|bf16|f32 (the pages)
)";

struct command {
  std::string_view name;
  int (*run)(int argc, char** argv);
};

constexpr command commands[] = {
    {"run", engine::run_command},
    {"save", engine::save_command},
    {"resume", engine::resume_command},
    {"perplexity", engine::perplexity_command},
    {"calibrate", engine::calibrate_command},
    {"quality", engine::quality_command},
    {"capture", engine::capture_command},
    {"tokenize", engine::tokenize_command},
};

}  // namespace

int main(int argc, char** argv) try {
  const std::string_view name = argc > 1 ? argv[1] : "";
  for (const command& c : commands)
    if (name == c.name) return c.run(argc, argv);
  const bool asked = name == "help" || name == "--help" || name == "-h";
  std::fputs(usage, asked ? stdout : stderr);
  return asked ? 0 : 2;
} catch (const failure& e) {
  std::fprintf(stderr, "engine: %s\n", e.what());
  return e.code;
} catch (const std::exception& e) {  // file_error, out of memory, a full cache
  std::fprintf(stderr, "engine: %s\n", e.what());
  return 1;
}
