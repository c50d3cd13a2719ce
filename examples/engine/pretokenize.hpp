// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "unicode.hpp"

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

// Cutting a text into words before byte pairs are joined. Each family defines it by a regular expression; here it is by
// hand, alternative by alternative in the expression's order, so that the first that matches wins as it does there.

namespace engine {

enum class split_rules {
  smollm,  ///< every digit alone; then '(s|t|re|ve|m|ll|d)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  qwen2,  ///< (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
};

namespace detail {

class splitter {
 public:
  splitter(std::string_view text, split_rules rules) : rules_(rules) {
    points_.reserve(text.size());
    for (std::size_t i = 0; i < text.size();) {
      const unicode::point p = unicode::decode(text, i);
      points_.push_back({p.code, std::uint32_t(i), unicode::kind_of(p.code)});
      i += p.size;
    }
    points_.push_back({0, std::uint32_t(text.size()), unicode::kind::other});
    end_ = points_.size() - 1;
  }

  template <class Sink>
  void run(std::string_view text, Sink&& sink) {
    const std::size_t all = end_;
    for (std::size_t i = 0; i < all;) {
      end_ = all;
      if (rules_ == split_rules::smollm) {  // what lies between digits is a text of its own to the expression
        end_ = i;
        while (end_ < all && !digit(end_)) ++end_;
        if (end_ == i) ++end_;
      }
      for (std::size_t next; i < end_; i = next) {
        next = rules_ == split_rules::smollm ? smollm(i) : qwen2(i);
        sink(text.substr(points_[i].at, points_[next].at - points_[i].at));
      }
    }
  }

 private:
  struct point {
    std::uint32_t code, at;
    unicode::kind what;
  };

  bool letter(std::size_t i) const { return i < end_ && points_[i].what == unicode::kind::letter; }
  bool number(std::size_t i) const { return i < end_ && points_[i].what == unicode::kind::number; }
  bool digit(std::size_t i) const {
    return points_[i].what == unicode::kind::number || points_[i].what == unicode::kind::digit;
  }
  bool space(std::size_t i) const { return i < end_ && unicode::is_space(points_[i].code); }
  bool newline(std::size_t i) const { return i < end_ && (points_[i].code == '\n' || points_[i].code == '\r'); }
  bool symbol(std::size_t i) const { return i < end_ && !letter(i) && !number(i) && !space(i); }
  bool is(std::size_t i, char c) const { return i < end_ && points_[i].code == std::uint32_t(c); }

  // 's 't 're 've 'm 'll 'd: the end of the match, or i.
  std::size_t contraction(std::size_t i, bool any_case) const {
    if (!is(i, '\'')) return i;
    const auto lower = [&](std::size_t k) -> std::uint32_t {
      if (k >= end_) return 0;
      const std::uint32_t c = points_[k].code;
      if (!any_case) return c;
      return c == 0x17f ? 's' : c >= 'A' && c <= 'Z' ? c + 32 : c;  // the long s folds to s
    };
    const std::uint32_t a = lower(i + 1), b = lower(i + 2);
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return i + 2;
    if (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) return i + 3;
    return i;
  }

  // \s+(?!\S)|\s+ : a run of spaces, but for the last one where a word follows.
  std::size_t spaces(std::size_t i) const {
    std::size_t j = i;
    while (space(j)) ++j;
    return j < end_ && j - i > 1 ? j - 1 : j;
  }

  std::size_t smollm(std::size_t i) const {
    if (const std::size_t j = contraction(i, false); j > i) return j;
    std::size_t j = is(i, ' ') ? i + 1 : i;
    const std::size_t begin = j;
    if (letter(j)) {
      while (letter(j)) ++j;
    } else if (number(j)) {
      while (number(j)) ++j;
    } else {
      while (symbol(j)) ++j;
    }
    return j > begin ? j : spaces(i);
  }

  std::size_t qwen2(std::size_t i) const {
    if (const std::size_t j = contraction(i, true); j > i) return j;
    const bool prefix = !letter(i) && !number(i) && !newline(i);
    if (std::size_t j = prefix ? i + 1 : i; letter(j)) {
      while (letter(j)) ++j;
      return j;
    }
    if (number(i)) return i + 1;
    if (std::size_t j = is(i, ' ') ? i + 1 : i; symbol(j)) {
      while (symbol(j)) ++j;
      while (newline(j)) ++j;
      return j;
    }
    std::size_t after_newline = i;
    for (std::size_t j = i; space(j); ++j)
      if (newline(j)) after_newline = j + 1;
    return after_newline > i ? after_newline : spaces(i);
  }

  split_rules rules_;
  std::vector<point> points_;
  std::size_t end_ = 0;
};

}  // namespace detail

/// Calls sink(word) for the words of a text, in order; together they are the text.
template <class Sink>
void split(std::string_view text, split_rules rules, Sink&& sink) {
  detail::splitter(text, rules).run(text, sink);
}

/// As split(), for text whose spaces are marked: runs of marks go with the word behind them, newlines stand alone.
template <class Sink>
void split_sentencepiece(std::string_view text, Sink&& sink) {
  constexpr std::string_view mark = "\xe2\x96\x81";
  for (std::size_t i = 0, j = 0; i < text.size(); i = j) {
    if (text[i] == '\n') {
      while (j < text.size() && text[j] == '\n') ++j;
    } else {
      while (text.substr(j, mark.size()) == mark) j += mark.size();
      while (j < text.size() && text[j] != '\n' && text.substr(j, mark.size()) != mark) ++j;
    }
    sink(text.substr(i, j - i));
  }
}

}  // namespace engine
