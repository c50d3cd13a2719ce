// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "chat.hpp"
#include "predictions.hpp"
#include "quality.hpp"
#include "sampler.hpp"
#include "session.hpp"

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <string_view>
#include <vector>

// Needle in a haystack (Kamradt 2023): a sentence with a secret hidden in a long text, and a question that only this
// sentence answers. Asks a cache for one exact thing instead of the average of many predictions.

namespace engine {

/// A long text, its secret, and who keeps it.
struct haystack {
  std::string text, question, secret;
  int tokens = 0;    ///< wanted; the text has about as many
  double depth = 0;  ///< of the needle, 0 = first sentence, 1 = last
};

/// Pieces that end with a sentence or a line.
inline std::vector<std::string_view> sentences(std::string_view text) {
  std::vector<std::string_view> out;
  for (std::size_t begin = 0, i = 0; i < text.size(); ++i) {
    const bool end = text[i] == '\n' || (text[i] == '.' && i + 1 < text.size() && text[i + 1] == ' ');
    if (!end && i + 1 < text.size()) continue;
    out.push_back(text.substr(begin, i + 1 - begin));
    begin = i + 1;
  }
  return out;
}

/// `count` haystacks of one to four quarters of `longest` tokens, needles at depths from 0 to 1, filler from all over
/// the text. The same seed gives the same ones.
inline std::vector<haystack> make_haystacks(const tokenizer& t, std::string_view text, int count, int longest,
                                            std::uint64_t seed) {
  constexpr const char* keepers[] = {"Lisbon", "Oslo",   "Nairobi", "Quito",  "Hanoi",   "Tallinn", "Lima",
                                     "Accra",  "Prague", "Kyoto",   "Dublin", "Riga",    "Havana",  "Cairo",
                                     "Bergen", "Turin",  "Odessa",  "Perth",  "Sapporo", "Zagreb"};
  constexpr int quarters = 4, room = 64;  // room for the question and the answer
  const std::vector<std::string_view> pieces = sentences(text);
  std::mt19937_64 random(seed);
  std::vector<haystack> out;
  const int depths = (count + quarters - 1) / quarters;
  for (int i = 0; i < count; ++i) {
    haystack& h = out.emplace_back();
    const std::string keeper = keepers[std::size_t(i) % std::size(keepers)];
    h.tokens = longest * (1 + i % quarters) / quarters;
    h.depth = depths > 1 ? double(i / quarters) / (depths - 1) : 0.5;
    h.secret = std::to_string(10000 + random() % 90000);
    h.question = "What is the secret number of " + keeper + "? Answer with the number only.";
    std::vector<std::string_view> filler;
    std::size_t at = pieces.size() * std::size_t(i) / std::size_t(count);
    for (int tokens = room; tokens < h.tokens && filler.size() < pieces.size(); ++at) {
      filler.push_back(pieces[at % pieces.size()]);
      tokens += int(t.encode(std::string(filler.back())).size()) - (t.bos() != t.none);
    }
    const auto place = std::size_t(h.depth * double(filler.size()) + 0.5);
    for (std::size_t j = 0; j <= filler.size(); ++j) {
      if (j == place) h.text += " The secret number of " + keeper + " is " + h.secret + ". ";
      if (j < filler.size()) h.text += filler[j];
    }
  }
  return out;
}

/// What became of one needle.
struct needle_result {
  int tokens = 0;
  double depth = 0;
  struct at_level {
    int level = 0;
    bool found = false;  ///< with the decoded cache
    std::size_t bytes = 0;
  };
  bool exact = false;                           ///< found with the exact cache
  std::string answer{};                         ///< with it
  std::vector<std::vector<at_level>> codecs{};  ///< of each codec, from fine to coarse
};

/// The greedy answer to a question about what the sequence holds, which is left as it was.
inline std::string ask(session& s, std::span<const std::int32_t> question, sequence& seq, int most) {
  const int before = seq.tokens();
  std::string answer;
  std::int32_t next = tokenizer::none;
  const forward_options options{.on_logits = [&](int, std::span<const float> logits) { next = likeliest(logits); }};
  s.net.forward(question, seq, options);
  for (int i = 0; i < most && !ends_answer(s.text, next); ++i) {
    answer += s.text.decode(next);
    if (i + 1 < most) s.net.forward({&next, 1}, seq, options);
  }
  seq.truncate(before);
  return answer;
}

/// Reads the haystack once, encodes its cache once with each codec, and asks at every level.
inline needle_result seek(session& s, const haystack& h, int level, sluice::dtype kv, std::vector<coded_cache>& coded) {
  constexpr int most = 24;
  const prompt p = make_prompt(s.text, h.text, h.question);
  const int room = int(p.question.size()) + most;
  page_pool pages(s.net.config(), kv, 2 * page_pool::pages_for(int(p.document.size()) + room));
  sequence exact(pages), decoded(pages);
  s.net.forward(p.document, exact);
  needle_result r{.tokens = int(p.document.size()), .depth = h.depth};
  r.answer = ask(s, p.question, exact, most);
  r.exact = r.answer.find(h.secret) != r.answer.npos;
  for (coded_cache& codec : coded) {
    codec.encode(exact.view(), p.document);
    auto& levels = r.codecs.emplace_back();
    for (const int j : levels_of(level, codec.levels())) {
      codec.truncate(j);
      decoded.truncate(0);
      codec.decode(decoded);
      levels.push_back({j, ask(s, p.question, decoded, most).find(h.secret) != std::string::npos, codec.bytes()});
    }
  }
  return r;
}

}  // namespace engine
