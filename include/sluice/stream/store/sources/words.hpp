// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <string>
#include <string_view>

// What completion::detail is made of: one line, printable, never a secret.

namespace sluice::detail {

// strerror_r comes in two kinds, which differ in what they return.
inline const char* error_text(int, const char* buffer) noexcept { return buffer; }
inline const char* error_text(const char* text, const char*) noexcept { return text; }

/// The system's text of an error number: "No such file or directory".
inline std::string errno_words(int error) {
  char buffer[256] = "unknown error";
  return error_text(::strerror_r(error, buffer, sizeof buffer), buffer);
}

/// What comes from outside as one line of at most 300 bytes, cut between characters, with `secret` starred out.
inline std::string one_line(std::string_view text, std::string_view secret = {}) {
  std::string line;
  for (std::size_t i = 0; i < text.size();) {
    if (!secret.empty() && text.substr(i).starts_with(secret)) {
      line += "***";
      i += secret.size();
    } else {
      const unsigned char c = static_cast<unsigned char>(text[i++]);
      line += c < 32 || c == 127 ? ' ' : char(c);
    }
  }
  if (line.size() > 300) {
    std::size_t end = 300;
    while (end > 0 && (static_cast<unsigned char>(line[end]) & 0xC0) == 0x80) --end;
    line.resize(end);
  }
  while (line.ends_with(' ')) line.pop_back();
  return line;
}

/// "name" of "some/folder/name": what a message may tell of a path.
inline std::string_view last_part(std::string_view path) noexcept {
  while (path.size() > 1 && path.ends_with('/')) path.remove_suffix(1);
  const std::size_t slash = path.rfind('/');
  return slash == path.npos || path.size() == 1 ? path : path.substr(slash + 1);
}

}  // namespace sluice::detail
