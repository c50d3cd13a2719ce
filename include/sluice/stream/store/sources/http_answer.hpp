// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>
#include <sluice/stream/store/sources/words.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>
#include <utility>

// What an HTTP server's answer means, and what it says in words.

namespace sluice::detail {

/// A Content-Range header; without a range ("bytes */5") first is behind last.
struct content_range {
  unsigned long long first = 1, last = 0;
  unsigned long long total = UINT64_MAX;  ///< UINT64_MAX = not told
};
/// False where the header makes no sense.
inline bool parse_content_range(const char* text, content_range& r) {
  r = {};
  if (std::sscanf(text, "bytes */%llu", &r.total) == 1) return true;
  return std::sscanf(text, "bytes %llu-%llu/%llu", &r.first, &r.last, &r.total) >= 2 && r.first <= r.last;
}

inline status status_of_http(long code) noexcept {
  if (code >= 200 && code < 300) return status::ok;
  if (code == 404 || code == 410) return status::not_found;
  if (code == 416) return status::wrong_length;
  if (code == 413 || code == 507) return status::no_space;
  return status::refused;
}

/// Whether another try may go better: the server is busy, or gave up waiting. `words` as words_of() gives them.
inline bool is_passing(long code, std::string_view words) noexcept {
  if (code == 400) return words.starts_with("RequestTimeout:") || words == "RequestTimeout";
  return code == 408 || code == 425 || code == 429 || (code >= 500 && code != 501 && code != 505 && code != 507);
}

/// The words of an error's body: <Code> and <Message> of S3, the title of a page, or the first line of a text.
inline std::string words_of(std::string_view body) {
  const auto between = [&](std::string_view name) {
    const std::string open = "<" + std::string(name) + ">", close = "</" + std::string(name) + ">";
    const std::size_t at = body.find(open);
    if (at == body.npos) return std::string();
    const std::size_t begin = at + open.size();
    std::string text(body.substr(begin, std::min(body.find(close, begin), body.size()) - begin));
    constexpr std::pair<std::string_view, std::string_view> entities[] = {
        {"&lt;", "<"}, {"&gt;", ">"}, {"&quot;", "\""}, {"&apos;", "'"}, {"&amp;", "&"}};
    for (const auto& [from, to] : entities)
      for (std::size_t i = 0; (i = text.find(from, i)) != text.npos; ++i) text.replace(i, from.size(), to);
    return text;
  };
  std::string words = between("Code");
  if (const std::string message = between("Message"); !message.empty()) words += (words.empty() ? "" : ": ") + message;
  if (words.empty()) words = between("title");
  const std::size_t text = body.find_first_not_of(" \t\r\n");
  if (words.empty() && text != body.npos && body[text] != '<')
    words = body.substr(text, body.find_first_of("\r\n", text) - text);
  return words;
}

/// Text as one line of at most 300 bytes, in which *** stands for each of these secrets, and for user and password as basic
/// authentication sends them.
inline std::string one_line_without(std::span<const std::string> secrets, std::string text) {
  for (const std::string& secret : secrets)
    for (std::size_t at = 0; (at = text.find(secret, at)) != text.npos; at += 3) text.replace(at, secret.size(), "***");
  for (std::size_t at = 0; (at = text.find("Basic ", at)) != text.npos; at += 9)
    text.replace(at + 6, std::min(text.find_first_of(" \"',;<", at + 6), text.size()) - at - 6, "***");
  return one_line(text);
}

}  // namespace sluice::detail
