// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <string>
#include <vector>

/// A conversation about a long document, continued by a new process from what an earlier one saved.
struct resumed {
  int level = 0;
  std::size_t bytes = 0;           ///< read from the store
  double ratio = 0;                ///< of the pages' bytes to them
  double first_token_seconds = 0;  ///< fetch, decode, compute the question
  double prefill_seconds = 0;      ///< first token where everything is computed, in the same process
  double kl = 0, top1 = 0;         ///< against the exact cache, on the question and the exact answer
  int judged_tokens = 0;
  std::string answer;
};

struct conversation {
  std::string document, question, exact_answer;
  int tokens = 0, question_tokens = 0, chunks = 0;
  std::size_t raw_bytes = 0;
  double prefill_seconds = 0, encode_seconds = 0;
  std::vector<resumed> levels;  ///< from fine to coarse; empty where there was no model
};

/// Where the engine and what it needs lie.
struct engine_call {
  std::string engine, model, profile, document, store;
};

/// Saves with one process, then resumes with a new one per level. Throws std::runtime_error where a call fails.
conversation converse(const engine_call& call);

/// The answer up to the end of its first sentence.
std::string first_sentence(const std::string& text);

/// For the terminal and for the report.
void print(const conversation& c);
std::string conversation_section(const conversation& c);
