// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "tokenizer.hpp"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Prompts in the form a chat model was trained on. The file's template is a Jinja program; these are the two shapes that
// the supported models use, told apart by the tokens the template writes.

namespace engine {

enum class chat_format {
  none,    ///< a base model: text to be continued
  chatml,  ///< <|im_start|>role\n...<|im_end|>\n
  gemma,   ///< <start_of_turn>role\n...<end_of_turn>\n, without a system role
};

inline chat_format chat_format_of(const tokenizer& t) {
  const std::string_view text = t.chat_template();
  if (text.find("<|im_start|>") != text.npos && t.id("<|im_start|>") != t.none && t.id("<|im_end|>") != t.none)
    return chat_format::chatml;
  if (text.find("<start_of_turn>") != text.npos && t.id("<start_of_turn>") != t.none && t.id("<end_of_turn>") != t.none)
    return chat_format::gemma;
  return chat_format::none;
}

/// The system prompt a template puts in where the caller has none: its first sentence "You are ...".
inline std::string_view default_system_prompt(std::string_view chat_template) {
  const std::size_t begin = chat_template.find("You are ");
  if (begin == chat_template.npos) return {};
  const std::string_view rest = chat_template.substr(begin);
  return rest.substr(0, std::min(rest.find('\''), rest.find("<|im_end|>")));
}

/// A prompt in two parts: the tokens of the document never depend on the question, so that they can be kept and reused.
struct prompt {
  std::vector<std::int32_t> document;  ///< from the first token to the document's last
  std::vector<std::int32_t> question;  ///< what follows, up to where the answer begins
};

/// One user turn that holds a document and a question; either may be empty.
inline prompt make_prompt(const tokenizer& t, std::string_view document, std::string_view question) {
  prompt p;
  const chat_format format = chat_format_of(t);
  const bool gemma = format == chat_format::gemma;
  const std::int32_t open = t.id(gemma ? "<start_of_turn>" : "<|im_start|>"),
                     close = t.id(gemma ? "<end_of_turn>" : "<|im_end|>");
  if (t.bos() != t.none) p.document.push_back(t.bos());
  if (const std::string_view system = default_system_prompt(t.chat_template());
      format == chat_format::chatml && !system.empty()) {
    p.document.push_back(open);
    t.encode("system\n" + std::string(system), p.document);
    p.document.push_back(close);
    t.encode("\n", p.document);
  }
  if (format != chat_format::none) p.document.push_back(open);
  t.encode((format == chat_format::none ? "" : "user\n") + std::string(document), p.document);
  if (!question.empty()) t.encode((document.empty() ? "" : "\n\n") + std::string(question), p.question);
  if (format != chat_format::none) {
    p.question.push_back(close);
    t.encode("\n", p.question);
    p.question.push_back(open);
    t.encode(gemma ? "model\n" : "assistant\n", p.question);
  }
  return p;
}

/// Whether a token ends an answer.
inline bool ends_answer(const tokenizer& t, std::int32_t token) {
  return token == t.eos() || token == t.id("<|im_end|>") || token == t.id("<end_of_turn>") ||
         token == t.id("<|endoftext|>");
}

}  // namespace engine
