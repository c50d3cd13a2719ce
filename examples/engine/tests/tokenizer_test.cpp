// SPDX-License-Identifier: Apache-2.0
#include "../tokenizer.hpp"
#include "../chat.hpp"
#include "tiny_model.hpp"

#include <doctest/doctest.h>

#include <string>
#include <string_view>
#include <vector>

using namespace engine;

namespace {

std::vector<std::string> words(std::string_view text, split_rules rules) {
  std::vector<std::string> out;
  split(text, rules, [&](std::string_view w) { out.emplace_back(w); });
  return out;
}

std::vector<std::string> marked_words(std::string_view text) {
  std::vector<std::string> out;
  split_sentencepiece(text, [&](std::string_view w) { out.emplace_back(w); });
  return out;
}

using strings = std::vector<std::string>;

// A byte-level model's vocabulary in a file of its own.
struct byte_level {
  std::string bytes = tiny::make_gguf({});
  gguf file{std::as_bytes(std::span(bytes))};
  tokenizer text{file};
};

}  // namespace

TEST_CASE("words of smollm: digits alone, spaces with the word behind them") {
  CHECK(words("Hello  world's 12x", split_rules::smollm) == strings{"Hello", " ", " world", "'s", " ", "1", "2", "x"});
  CHECK(words("a\n\n b!? ", split_rules::smollm) == strings{"a", "\n\n", " b", "!?", " "});
  CHECK(words("I'LL we'll", split_rules::smollm) == strings{"I", "'", "LL", " we", "'ll"});
  CHECK(words("\xd0\xbf\xd1\x80 \xe4\xb8\xad\xe6\x96\x87", split_rules::smollm) ==
        strings{"\xd0\xbf\xd1\x80", " \xe4\xb8\xad\xe6\x96\x87"});
  CHECK(words("\xc2\xbd\xc2\xb2", split_rules::smollm) == strings{"\xc2\xbd", "\xc2\xb2"});
  CHECK(words("", split_rules::smollm).empty());
}

TEST_CASE("words of qwen2: any one character before letters, newlines with what they end") {
  CHECK(words("Hello  world's 12x", split_rules::qwen2) == strings{"Hello", " ", " world", "'s", " ", "1", "2", "x"});
  CHECK(words("(foo) {\n  bar;\n}\n", split_rules::qwen2) == strings{"(foo", ")", " {\n", " ", " bar", ";\n", "}\n"});
  CHECK(words("I'LL it'\xc5\xbf", split_rules::qwen2) == strings{"I", "'LL", " it", "'\xc5\xbf"});
  CHECK(words("a  \n \n  b", split_rules::qwen2) == strings{"a", "  \n \n", " ", " b"});
  CHECK(words("x \r\n", split_rules::qwen2) == strings{"x", " \r\n"});
}

TEST_CASE("words of sentencepiece") {
  CHECK(marked_words("a\xe2\x96\x81\xe2\x96\x81"
                     "b\n\n\xe2\x96\x81") == strings{"a",
                                                     "\xe2\x96\x81\xe2\x96\x81"
                                                     "b",
                                                     "\n\n", "\xe2\x96\x81"});
}

TEST_CASE("bytes that are not UTF-8 stand for themselves") {
  std::string joined;
  const std::string odd(
      "\xff"
      "a\xc3\xe4\xb8 \xed\xa0\x80\xf4\x90\x80\x80\x80",
      14);
  for (const std::string& w : words(odd, split_rules::qwen2)) joined += w;
  CHECK(joined == odd);
  const byte_level b;
  std::string back;
  for (const std::int32_t t : b.text.encode(odd)) back += b.text.decode(t);
  CHECK(back == odd);
}

TEST_CASE("byte pairs join by rank, from left to right") {
  const byte_level b;
  const auto id = [&](std::string_view s) { return b.text.id(s); };
  CHECK(b.text.encode("hello") == std::vector<std::int32_t>{id("hello")});
  CHECK(b.text.encode("lllo") == std::vector<std::int32_t>{id("ll"), id("lo")});
  CHECK(b.text.encode(" in world") == std::vector<std::int32_t>{id("\xc4\xa0in"), id("\xc4\xa0wor"), id("l"), id("d")});
  CHECK(b.text.decode(id("\xc4\xa0wor")) == " wor");
  CHECK(b.text.decode(id("<|im_end|>")).empty());
}

TEST_CASE("a long word takes no longer than its length allows") {
  const byte_level b;
  CHECK(b.text.encode(std::string(300000, 'l')).size() == 150000);
}

TEST_CASE("sentencepiece joins by score and spells out what it does not know") {
  tiny::gguf_writer w;
  w.text("tokenizer.ggml.model", "llama");
  std::vector<std::string> tokens = {"<bos>",
                                     "\xe2\x96\x81",
                                     "a",
                                     "b",
                                     "ab",
                                     "\xe2\x96\x81"
                                     "a",
                                     "ba"};
  std::vector<float> scores = {0, -10, -10, -10, -2, -3, -2};
  std::vector<std::int32_t> types = {3, 1, 1, 1, 1, 1, 1};
  for (int i = 0; i < 256; ++i) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", unsigned(i));
    tokens.emplace_back(name), scores.push_back(0), types.push_back(6);
  }
  w.texts("tokenizer.ggml.tokens", tokens);
  w.numbers("tokenizer.ggml.scores", 6, scores);
  w.numbers("tokenizer.ggml.token_type", 5, types);
  w.number("tokenizer.ggml.bos_token_id", 0);
  w.flag("tokenizer.ggml.add_bos_token", true);
  const std::string bytes = w.bytes();
  const gguf file(std::as_bytes(std::span(bytes)));
  const tokenizer text(file);
  CHECK(text.encode("ab") == std::vector<std::int32_t>{0, 4});
  CHECK(text.encode("aba") == std::vector<std::int32_t>{0, 4, 2});  // equal scores: the left one
  CHECK(text.encode(" ab") == std::vector<std::int32_t>{0, 1, 4});  // a better score before an earlier place
  CHECK(text.encode("\xc3\xa9") == std::vector<std::int32_t>{0, 7 + 0xc3, 7 + 0xa9});
  CHECK(text.decode(7 + 0xc3) == "\xc3");
  CHECK(text.decode(5) == " a");
}

TEST_CASE("a chat prompt keeps the document's tokens apart from the question's") {
  const byte_level b;
  const prompt p = make_prompt(b.text, "hello", "in?"), q = make_prompt(b.text, "hello", "");
  CHECK(p.document == q.document);
  CHECK(p.question != q.question);
  std::string all;
  for (const auto& part : {p.document, p.question})
    for (const std::int32_t t : part) {
      const std::string s = b.text.decode(t);
      all += s.empty() ? t == b.text.id("<|im_start|>") ? "[" : "]" : s;
    }
  CHECK(all == "[system\nYou are a test.]\n[user\nhello\n\nin?]\n[assistant\n");
  CHECK(ends_answer(b.text, b.text.id("<|im_end|>")));
  CHECK_FALSE(ends_answer(b.text, b.text.id("hello")));
}
