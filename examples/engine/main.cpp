// SPDX-License-Identifier: Apache-2.0
#include "session.hpp"

int main(int argc, char** argv) {
  program p("engine",
            "a small LLM engine whose KV cache sluice reads and writes (llama, qwen2 and gemma3 models in GGUF)");
  engine::add_run(p);
  engine::add_save(p);
  engine::add_resume(p);
  engine::add_blend(p);
  engine::add_perplexity(p);
  engine::add_calibrate(p);
  engine::add_quality(p);
  engine::add_capture(p);
  engine::add_tokenize(p);
  return p.run(argc, argv);
}
