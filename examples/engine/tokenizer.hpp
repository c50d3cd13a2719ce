// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "gguf.hpp"
#include "pretokenize.hpp"
#include "unicode.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <queue>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

// Text to token ids and back, with the vocabulary in the model file. Both families join neighbours until nothing can be
// joined: byte-level BPE starts from bytes and takes the pair with the lowest rank in a list of merges; SentencePiece BPE
// starts from characters and takes the pair whose union has the best score, and spells what is not in the vocabulary byte
// by byte. Equal ones from left to right.

namespace engine {

class tokenizer {
 public:
  static constexpr std::int32_t none = -1;

  /// Errors: file_error (missing, malformed, unsupported).
  explicit tokenizer(const gguf& file) : tokens_(file.texts("tokenizer.ggml.tokens")) {
    if (tokens_.empty()) throw file_error(file_errc::missing, "tokenizer.ggml.tokens");
    if (tokens_.size() > (1u << 22)) throw file_error(file_errc::malformed, "tokenizer.ggml.tokens");
    ids_.reserve(tokens_.size());
    for (std::size_t i = 0; i < tokens_.size(); ++i) ids_[tokens_[i]] = std::int32_t(i);
    types_ = file.numbers<std::int32_t>("tokenizer.ggml.token_type");
    types_.resize(tokens_.size(), 1);
    template_ = file.text("tokenizer.chat_template").value_or("");
    eos_ = special(file, "tokenizer.ggml.eos_token_id");
    if (file.number<bool>("tokenizer.ggml.add_bos_token").value_or(false))
      bos_ = special(file, "tokenizer.ggml.bos_token_id");

    const std::string_view model = file.text("tokenizer.ggml.model").value_or("");
    if (model == "gpt2") {
      load_bytes(file);
    } else if (model == "llama") {
      sentencepiece_ = true;
      scores_ = file.numbers<float>("tokenizer.ggml.scores");
      if (scores_.size() != tokens_.size()) throw file_error(file_errc::malformed, "tokenizer.ggml.scores");
      for (unsigned b = 0; b < 256; ++b) {
        const char digits[] = "0123456789ABCDEF";
        byte_ids_[b] = id(std::string("<0x") + digits[b / 16] + digits[b % 16] + ">");
      }
    } else {
      throw file_error(file_errc::unsupported, "tokenizer '" + std::string(model.substr(0, 40)) + "'");
    }
  }

  int size() const noexcept { return int(tokens_.size()); }
  std::int32_t bos() const noexcept { return bos_; }  ///< the token every text starts with, or none
  std::int32_t eos() const noexcept { return eos_; }
  std::string_view chat_template() const noexcept { return template_; }

  /// The id of a token by its exact text, or none.
  std::int32_t id(std::string_view token) const {
    const auto it = ids_.find(token);
    return it == ids_.end() ? none : it->second;
  }

  /// Ids of plain text, appended; what looks like a control token in it is text.
  void encode(std::string_view text, std::vector<std::int32_t>& out) const {
    if (sentencepiece_) {
      std::string marked;
      for (const char c : text) c == ' ' ? marked += space_mark : marked += c;
      split_sentencepiece(marked, [&](std::string_view word) { encode_characters(word, out); });
    } else {
      split(text, rules_, [&](std::string_view word) { encode_bytes(word, out); });
    }
  }

  /// Ids of a whole text, with the token every text starts with where the model wants one.
  std::vector<std::int32_t> encode(std::string_view text) const {
    std::vector<std::int32_t> out;
    if (bos_ != none) out.push_back(bos_);
    encode(text, out);
    return out;
  }

  /// The bytes of a token, which may be a part of a character; control tokens have none.
  std::string decode(std::int32_t token) const {
    std::string out;
    if (token < 0 || token >= size()) return out;
    const std::string_view text = tokens_[std::size_t(token)];
    const int type = types_[std::size_t(token)];
    if (type == 3) return out;
    if (sentencepiece_ && type == 6 && text.size() == 6) {
      const auto digit = [&](std::size_t i) { return text[i] <= '9' ? text[i] - '0' : text[i] - 'A' + 10; };
      return {char(digit(3) * 16 + digit(4))};
    }
    for (std::size_t i = 0; i < text.size();) {
      const unicode::point p = unicode::decode(text, i);
      if (sentencepiece_) {
        p.code == 0x2581 ? out += ' ' : out += text.substr(i, p.size);
      } else {
        const auto it = std::find(byte_points_.begin(), byte_points_.end(), p.code);
        it != byte_points_.end() ? out += char(it - byte_points_.begin()) : out += text.substr(i, p.size);
      }
      i += p.size;
    }
    return out;
  }

 private:
  static constexpr std::string_view space_mark = "\xe2\x96\x81";  // U+2581

  struct symbol {
    std::uint32_t begin, end;  // bytes of the word
    std::int32_t id;
    int before, after;  // neighbours, -1 at an end
  };

  struct candidate {
    double cost;  // the smallest is joined first
    int left;
    std::uint32_t middle, end;
    std::int32_t id;
    bool operator<(const candidate& c) const noexcept { return cost != c.cost ? cost > c.cost : left > c.left; }
  };

  struct joined {
    bool possible;
    double cost;
    std::int32_t id;
  };

  std::int32_t special(const gguf& file, const char* key) const {
    const std::int32_t t = file.number<std::int32_t>(key).value_or(none);
    if (t < none || t >= size()) throw file_error(file_errc::malformed, key);
    return t;
  }

  void load_bytes(const gguf& file) {
    const std::string_view pre = file.text("tokenizer.ggml.pre").value_or("");
    if (pre == "smollm")
      rules_ = split_rules::smollm;
    else if (pre == "qwen2")
      rules_ = split_rules::qwen2;
    else
      throw file_error(file_errc::unsupported, "pre-tokenizer '" + std::string(pre.substr(0, 40)) + "'");

    // GPT-2 writes bytes as printable characters: those that are printable as themselves, the others from U+0100 on.
    std::uint32_t next = 0x100;
    for (std::uint32_t b = 0; b < 256; ++b) {
      const bool printable = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
      byte_points_[b] = printable ? b : next++;
      std::string text;
      unicode::append(text, byte_points_[b]);
      byte_ids_[b] = id(text);
    }

    const std::vector<std::string_view> merges = file.texts("tokenizer.ggml.merges");
    merges_.reserve(merges.size());
    std::string both;
    for (std::size_t rank = 0; rank < merges.size(); ++rank) {
      const std::string_view m = merges[rank];
      const std::size_t gap = std::min(m.find(' '), m.size());
      const std::string_view left = m.substr(0, gap), right = m.substr(std::min(gap + 1, m.size()));
      both.assign(left).append(right);
      const std::int32_t a = id(left), b = id(right), c = id(both);
      if (a == none || b == none || c == none) throw file_error(file_errc::malformed, "merge " + std::to_string(rank));
      merges_[pair(a, b)] = {std::uint32_t(rank), c};
    }
  }

  static std::uint64_t pair(std::int32_t a, std::int32_t b) noexcept {
    return std::uint64_t(std::uint32_t(a)) << 32 | std::uint32_t(b);
  }

  // Joins neighbours of `s`, linked from element 0 on, while `join(left, right)` allows it.
  template <class Join>
  static void join_all(std::vector<symbol>& s, Join join) {
    std::priority_queue<candidate> queue;
    const auto offer = [&](int left) {
      if (left < 0 || s[std::size_t(left)].after < 0) return;
      const symbol &a = s[std::size_t(left)], &b = s[std::size_t(a.after)];
      if (const joined j = join(a, b); j.possible) queue.push({j.cost, left, b.begin, b.end, j.id});
    };
    for (int i = 0; i + 1 < int(s.size()); ++i) offer(i);
    while (!queue.empty()) {
      const candidate c = queue.top();
      queue.pop();
      symbol& a = s[std::size_t(c.left)];
      if (a.begin == a.end || a.after < 0) continue;
      symbol& b = s[std::size_t(a.after)];
      if (b.begin != c.middle || b.end != c.end) continue;  // one of the two has been joined to something else since
      a.end = b.end;
      a.id = c.id;
      a.after = b.after;
      b.begin = b.end;
      if (a.after >= 0) s[std::size_t(a.after)].before = c.left;
      offer(a.before);
      offer(c.left);
    }
  }

  static void link(std::vector<symbol>& s) {
    for (int i = 0; i < int(s.size()); ++i) {
      s[std::size_t(i)].before = i - 1;
      s[std::size_t(i)].after = i + 1 < int(s.size()) ? i + 1 : -1;
    }
  }

  void encode_bytes(std::string_view word, std::vector<std::int32_t>& out) const {
    std::vector<symbol> s;
    for (std::uint32_t i = 0; i < word.size(); ++i) {
      const std::int32_t t = byte_ids_[std::uint8_t(word[i])];
      if (t != none) s.push_back({i, i + 1, t, -1, -1});  // a byte without a token is lost, as in Hugging Face's BPE
    }
    link(s);
    join_all(s, [&](const symbol& a, const symbol& b) {
      const auto it = merges_.find(pair(a.id, b.id));
      return it == merges_.end() ? joined{false, 0, none} : joined{true, double(it->second.rank), it->second.id};
    });
    for (int i = s.empty() ? -1 : 0; i >= 0; i = s[std::size_t(i)].after) out.push_back(s[std::size_t(i)].id);
  }

  void encode_characters(std::string_view word, std::vector<std::int32_t>& out) const {
    std::vector<symbol> s;
    for (std::uint32_t i = 0; i < word.size();) {
      const unicode::point p = unicode::decode(word, i);
      s.push_back({i, i + p.size, id(word.substr(i, p.size)), -1, -1});
      i += p.size;
    }
    link(s);
    join_all(s, [&](const symbol& a, const symbol& b) {
      const std::int32_t t = id(word.substr(a.begin, b.end - a.begin));
      return t == none ? joined{false, 0, none} : joined{true, -double(scores_[std::size_t(t)]), t};
    });
    for (int i = s.empty() ? -1 : 0; i >= 0; i = s[std::size_t(i)].after) {
      const symbol& x = s[std::size_t(i)];
      if (x.id != none) {
        out.push_back(x.id);
        continue;
      }
      for (std::uint32_t b = x.begin; b < x.end; ++b)
        if (const std::int32_t t = byte_ids_[std::uint8_t(word[b])]; t != none) out.push_back(t);
    }
  }

  struct merge {
    std::uint32_t rank;
    std::int32_t id;
  };

  std::vector<std::string_view> tokens_;
  std::unordered_map<std::string_view, std::int32_t> ids_;
  std::vector<std::int32_t> types_;
  std::string_view template_;
  std::int32_t bos_ = none, eos_ = none;
  bool sentencepiece_ = false;
  std::array<std::int32_t, 256> byte_ids_{};
  // byte-level BPE
  split_rules rules_ = split_rules::smollm;
  std::array<std::uint32_t, 256> byte_points_{};
  std::unordered_map<std::uint64_t, merge> merges_;
  // SentencePiece
  std::vector<float> scores_;
};

}  // namespace engine
