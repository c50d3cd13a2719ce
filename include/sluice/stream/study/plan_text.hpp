// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>
#include <sluice/stream/plan/plan.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice::stream {

/// A plan as text, a line a step: `order action chunk begin:end level`.
std::vector<char> to_text(std::span<const step> plan);
/// Reads what to_text() writes, from a source that is not trusted. Errors: parse_error, too_large.
result<std::vector<step>> parse_plan(std::span<const char> text);

}  // namespace sluice::stream

namespace sluice::detail {

inline constexpr const char* action_names[] = {"none", "fetch", "recompute", "text", "patch"};

inline void put_text(std::vector<char>& out, const char* s) {
  while (*s) out.push_back(*s++);
}
inline void put_number(std::vector<char>& out, std::int64_t x, char end) {
  if (x < 0) out.push_back('-');
  std::uint64_t u = x < 0 ? 0 - std::uint64_t(x) : std::uint64_t(x), unit = 1;
  while (u / unit >= 10) unit *= 10;
  for (; unit; unit /= 10) out.push_back(char('0' + u / unit % 10));
  out.push_back(end);
}
// Splits off what stands before the first `end`, which is dropped.
inline std::span<const char> take_word(std::span<const char>& text, char end) noexcept {
  std::size_t i = 0;
  while (i < text.size() && text[i] != end) ++i;
  const std::span<const char> word = text.first(i);
  text = text.subspan(i < text.size() ? i + 1 : i);
  return word;
}
inline bool same_text(std::span<const char> a, const char* b) noexcept {
  for (char c : a)
    if (c == 0 || c != *b++) return false;
  return *b == 0;
}
inline bool take_number(std::span<const char> word, long low, long high, long& out) noexcept {
  const bool negative = !word.empty() && word[0] == '-';
  if (negative) word = word.subspan(1);
  if (word.empty() || word.size() > 9) return false;
  out = 0;
  for (char c : word) {
    if (c < '0' || c > '9') return false;
    out = out * 10 + (c - '0');
  }
  if (negative) out = -out;
  return out >= low && out <= high;
}

}  // namespace sluice::detail

namespace sluice::stream {

inline std::vector<char> to_text(std::span<const step> plan) {
  std::vector<char> out;
  detail::put_text(out, "sluice-plan 1\n");
  for (const step& s : plan) {
    detail::put_number(out, s.order, ' ');
    detail::put_text(out, detail::action_names[int(s.what)]);
    out.push_back(' ');
    detail::put_number(out, s.chunk, ' ');
    detail::put_number(out, s.layers.begin, ':');
    detail::put_number(out, s.layers.end, ' ');
    detail::put_number(out, s.level, '\n');
  }
  return out;
}

inline result<std::vector<step>> parse_plan(std::span<const char> text) {
  if (!detail::same_text(detail::take_word(text, '\n'), "sluice-plan 1")) return status::parse_error;
  std::vector<step> plan;
  constexpr long most = 999'999'999;
  while (!text.empty()) {
    std::span<const char> line = detail::take_word(text, '\n');
    long order = 0, chunk = 0, begin = 0, end = 0, level = 0;
    const bool ordered = detail::take_number(detail::take_word(line, ' '), 0, most, order);
    const std::span<const char> name = detail::take_word(line, ' ');
    int what = 1;
    while (what < 5 && !detail::same_text(name, detail::action_names[what])) ++what;
    if (!ordered || what == 5 || !detail::take_number(detail::take_word(line, ' '), 0, most, chunk) ||
        !detail::take_number(detail::take_word(line, ':'), 0, most, begin) ||
        !detail::take_number(detail::take_word(line, ' '), begin, most, end) ||
        !detail::take_number(line, -1, 100, level))
      return status::parse_error;
    if (plan.size() >= (1u << 24)) return status::too_large;
    plan.push_back({int(chunk), {int(begin), int(end)}, action(what), int(level), std::uint32_t(order)});
  }
  return plan;
}

}  // namespace sluice::stream
