// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <string>
#include <string_view>

// The little of Unicode that tokenizers need: code points in and out of UTF-8, and three classes.

namespace engine::unicode {

enum class kind : std::uint8_t {
  other,
  letter,  ///< \p{L}
  number,  ///< \p{N}
  digit,   ///< newer than the regular expressions' Unicode: a digit to split at, but not \p{N}
};

namespace detail {

struct range {
  std::uint32_t first, last;
  kind what;
};

inline constexpr kind letter = kind::letter, number = kind::number, digit = kind::digit;
inline constexpr range ranges[] = {
#include "unicode_table.inl"
};

}  // namespace detail

inline kind kind_of(std::uint32_t c) noexcept {
  const auto* r = std::upper_bound(std::begin(detail::ranges), std::end(detail::ranges), c,
                                   [](std::uint32_t x, const detail::range& y) { return x < y.first; });
  return r != std::begin(detail::ranges) && c <= (r - 1)->last ? (r - 1)->what : kind::other;
}

/// \s
constexpr bool is_space(std::uint32_t c) noexcept {
  return (c >= 9 && c <= 13) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200a) ||
         c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f || c == 0x3000;
}

/// A code point and its bytes in the text.
struct point {
  std::uint32_t code;
  std::uint32_t size;
};

/// The code point at `text[at]`; a byte that is not UTF-8 stands for itself, as U+DC80 + byte - 0x80.
inline point decode(std::string_view text, std::size_t at) noexcept {
  const auto byte = [&](std::size_t i) -> std::uint32_t {
    return at + i < text.size() ? std::uint8_t(text[at + i]) : 0u;
  };
  const std::uint32_t lead = byte(0);
  if (lead < 0x80) return {lead, 1};
  const std::uint32_t size = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : 2;
  std::uint32_t code = lead & (0x7fu >> size);
  bool valid = lead >= 0xc2 && lead <= 0xf4;
  for (std::uint32_t i = 1; i < size; ++i) {
    valid = valid && (byte(i) & 0xc0) == 0x80;
    code = code << 6 | (byte(i) & 0x3f);
  }
  constexpr std::uint32_t smallest[] = {0, 0, 0x80, 0x800, 0x10000};
  if (!valid || code < smallest[size] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000))
    return {0xdc00 + lead, 1};
  return {code, size};
}

inline void append(std::string& to, std::uint32_t c) {
  const auto put = [&](std::uint32_t byte) { to += char(byte); };
  if (c < 0x80) return put(c);
  if (c < 0x800) return put(0xc0 | c >> 6), put(0x80 | (c & 63));
  if (c < 0x10000) return put(0xe0 | c >> 12), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
  put(0xf0 | c >> 18), put(0x80 | (c >> 12 & 63)), put(0x80 | (c >> 6 & 63)), put(0x80 | (c & 63));
}

}  // namespace engine::unicode
