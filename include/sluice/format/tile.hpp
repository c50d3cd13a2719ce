// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// A tile is an envelope: which tokens it covers, those kept exact, and sections whose bytes belong to a codec
// (FORMAT.md section 4). Reader and writer stand side by side.

namespace sluice {

/// Sections that a tile can have in one pass. Those of basic_codec are named for the stage that owns them; a codec of
/// another make uses them as it likes.
enum class section : std::uint8_t { predictor, transform, quantizer, entropy, steps, other5, other6, other7 };
/// How many of them there are.
inline constexpr int max_sections = 8;

/// The name of a section, as in the enumeration; never null.
constexpr const char* to_string(section s) noexcept {
  constexpr const char* names[max_sections] = {"predictor", "transform", "quantizer", "entropy",
                                               "steps",     "other5",    "other6",    "other7"};
  return names[int(s)];
}

/// What one pass of a tile holds, as spans into the frame.
struct tile_sections {
  std::span<const std::uint8_t> bytes[max_sections];  ///< empty where a section is absent
  /// The bytes of one section; empty where it is absent.
  std::span<const std::uint8_t> operator[](section s) const noexcept { return bytes[int(s)]; }
};

/// The envelope of a tile's base pass: its tokens, as spans into the frame.
struct tile_envelope {
  int first = 0;                              ///< first token covered, counted from the start of the token tile
  int count = 0;                              ///< tokens covered
  int exact = 0;                              ///< of these, how many are stored as they are
  std::span<const std::uint8_t> exact_index;  ///< [exact] u16, ascending, counted from `first`
  std::span<const std::uint8_t> exact_rows;   ///< [exact][row_bytes], elements as stored
  tile_sections base;                         ///< of the codec, in the base pass

  /// Coded tokens.
  int rows() const noexcept { return count - exact; }
  /// Token i of the exact ones, counted from `first`.
  int exact_token(int i) const noexcept {
    std::uint16_t v;
    std::memcpy(&v, exact_index.data() + 2 * std::size_t(i), 2);
    return v;
  }
};

namespace detail {

// The base pass opens with a u16: the tokens covered, and whether u16 `first` and u16 `exact` follow or are zero. In all
// passes a u8 mask comes next, bit s: section s is here; then u32 sizes of these but for the last one, which has the rest.
inline constexpr unsigned tile_count = 0x1fff, tile_has_first = 0x2000, tile_has_exact = 0x4000;
static_assert(max_tile_tokens <= tile_count);

// Bytes of all that.
constexpr std::size_t tile_head_size(bool base, bool first, bool exact, int sections) noexcept {
  return (base ? 2u : 0u) + (first ? 2u : 0u) + (exact ? 2u : 0u) + 1u + (sections ? 4 * std::size_t(sections - 1) : 0);
}

}  // namespace detail

/// Takes parts off the front of untrusted bytes; once one does not fit, all that follow are empty and ok() is false.
class section_reader {
 public:
  /// Reads from these bytes, which are borrowed.
  explicit section_reader(std::span<const std::uint8_t> bytes) noexcept : left_(bytes) {}
  /// The next n bytes; none where there are fewer.
  std::span<const std::uint8_t> take(std::size_t n) noexcept {
    if (!ok_ || n > left_.size()) {
      ok_ = false;
      return {};
    }
    const auto s = left_.first(n);
    left_ = left_.subspan(n);
    return s;
  }
  /// A plain little-endian value; zero once the bytes have ended.
  template <class T>
  T get() noexcept {
    T v{};
    if (const auto s = take(sizeof v); ok_) std::memcpy(&v, s.data(), sizeof v);
    return v;
  }
  /// Whether everything asked for so far was there.
  bool ok() const noexcept { return ok_; }
  /// The bytes not yet taken.
  std::span<const std::uint8_t> left() const noexcept { return left_; }
  /// Whether everything was taken.
  bool finished() const noexcept { return ok_ && left_.empty(); }

 private:
  std::span<const std::uint8_t> left_;
  bool ok_ = true;
};

namespace detail {

SLUICE_HD constexpr std::uint32_t load_u16(const std::uint8_t* p) noexcept { return p[0] | std::uint32_t{p[1]} << 8; }
SLUICE_HD constexpr std::uint32_t load_u32(const std::uint8_t* p) noexcept {
  return load_u16(p) | load_u16(p + 2) << 16;
}

// Where the parts of one pass of a tile lie in its bytes. What follows is what hosts and devices read them by; a tile has
// less than 2^32 bytes.
struct tile_layout {
  int first = 0, count = 0, exact = 0;
  std::uint32_t exact_index = 0, exact_rows = 0;
  std::uint32_t at[max_sections] = {}, size[max_sections] = {};  // size 0 = the section is absent
};

// From the mask on, which lies at `at`; `between` bytes that are no section follow the sizes. An empty section is not
// listed, and the last one ends where the bytes do.
SLUICE_HD constexpr bool lay_out_sections(const std::uint8_t* p, std::uint32_t bytes, std::uint32_t at,
                                          std::uint64_t between, tile_layout& t) noexcept {
  if (at >= bytes) return false;
  const unsigned mask = p[at++];
  for (int s = 0; s < max_sections; ++s)
    if (mask >> s > 1 && mask >> s & 1) {
      if (bytes - at < 4) return false;
      t.size[s] = load_u32(p + at);
      if (t.size[s] == 0) return false;
      at += 4;
    }
  t.exact_index = at;
  if (between > bytes - at) return false;
  at += static_cast<std::uint32_t>(between);
  for (int s = 0; s < max_sections; ++s)
    if (mask >> s & 1) {
      if (mask >> s == 1) t.size[s] = bytes - at;
      if (t.size[s] == 0 || t.size[s] > bytes - at) return false;
      t.at[s] = at;
      at += t.size[s];
    }
  return at == bytes;
}

// The base pass of a tile; that its exact tokens ascend is left to be checked.
SLUICE_HD constexpr bool lay_out_tile(const std::uint8_t* p, std::size_t size, int tokens, std::size_t row_bytes,
                                      tile_layout& t) noexcept {
  if (size < 2 || size > UINT32_MAX) return false;
  const auto bytes = static_cast<std::uint32_t>(size);
  const unsigned h = load_u16(p);
  std::uint32_t at = 2;
  if (bytes - at < (h & tile_has_first ? 2u : 0u) + (h & tile_has_exact ? 2u : 0u)) return false;
  t = {};
  t.count = int(h & tile_count);
  if (h & tile_has_first) {
    t.first = int(load_u16(p + at));
    if (t.first == 0) return false;
    at += 2;
  }
  if (h & tile_has_exact) {
    t.exact = int(load_u16(p + at));
    if (t.exact == 0) return false;
    at += 2;
  }
  if (h >> 15 || t.count == 0 || t.first + t.count > tokens || t.exact > t.count) return false;
  const bool whole = lay_out_sections(p, bytes, at, std::uint64_t(t.exact) * (2 + row_bytes), t);
  t.exact_rows = t.exact_index + 2 * std::uint32_t(t.exact);
  return whole;
}

// A refinement; it may have no bytes.
SLUICE_HD constexpr bool lay_out_refinement(const std::uint8_t* p, std::size_t size, tile_layout& t) noexcept {
  t = {};
  return size == 0 || (size <= UINT32_MAX && lay_out_sections(p, static_cast<std::uint32_t>(size), 0, 0, t));
}

inline void sections_of(std::span<const std::uint8_t> bytes, const tile_layout& l, tile_sections& t) noexcept {
  for (int s = 0; s < max_sections; ++s) t.bytes[s] = bytes.subspan(l.at[s], l.size[s]);
}

}  // namespace detail

/// Reads the base pass of a tile from untrusted bytes; `tokens` = of its token tile, `row_bytes` = of a token as stored.
/// Errors: corrupt_tile.
inline status parse_tile(std::span<const std::uint8_t> bytes, int tokens, std::size_t row_bytes,
                         tile_envelope& t) noexcept {
  detail::tile_layout l;
  if (!detail::lay_out_tile(bytes.data(), bytes.size(), tokens, row_bytes, l)) return status::corrupt_tile;
  t.first = l.first;
  t.count = l.count;
  t.exact = l.exact;
  t.exact_index = bytes.subspan(l.exact_index, 2 * std::size_t(l.exact));
  t.exact_rows = bytes.subspan(l.exact_rows, row_bytes * std::size_t(l.exact));
  detail::sections_of(bytes, l, t.base);
  for (int i = 0; i < t.exact; ++i)
    if (t.exact_token(i) >= t.count || (i && t.exact_token(i) <= t.exact_token(i - 1))) return status::corrupt_tile;
  return status::ok;
}

/// Reads a refinement of a tile; no bytes mean that nothing is coded in this pass. Errors: corrupt_tile.
inline status parse_refinement(std::span<const std::uint8_t> bytes, tile_sections& t) noexcept {
  detail::tile_layout l;
  if (!detail::lay_out_refinement(bytes.data(), bytes.size(), l)) return status::corrupt_tile;
  detail::sections_of(bytes, l, t);
  return status::ok;
}

/// Takes what a codec writes of one tile; its memory is reused from tile to tile.
class tile_writer {
 public:
  /// The bytes of a section in a pass, to append to.
  std::vector<std::uint8_t>& at(int pass, section s) noexcept { return sections_[pass][int(s)]; }
  /// Appends n bytes to a section.
  void put_bytes(int pass, section s, const void* p, std::size_t n) {
    std::vector<std::uint8_t>& to = at(pass, s);
    const std::size_t start = to.size();
    to.resize(start + n);
    if (n) std::memcpy(to.data() + start, p, n);
  }
  /// A plain value, little endian.
  template <class T>
  void put(int pass, section s, const T& v) {
    put_bytes(pass, s, &v, sizeof v);
  }

  /// Empties all sections of all passes, for the next tile.
  void clear() noexcept {
    for (auto& pass : sections_)
      for (auto& s : pass) s.clear();
  }
  /// Most bytes of a tile whose tokens are all kept exact.
  static constexpr std::size_t stored_size(std::size_t count, std::size_t row_bytes) noexcept {
    return detail::tile_head_size(true, true, true, 0) + (2 + row_bytes) * count;
  }
  /// Most bytes that finish() would append for the first `passes` passes, wherever the tile begins.
  std::size_t size(int passes, std::size_t exact, std::size_t row_bytes) const noexcept {
    std::size_t sum = 0;
    for (int p = 0; p < passes; ++p) sum += size_of_pass(p, exact, row_bytes);
    return sum;
  }

  /// Appends one pass of the tile to `out`; nothing for a refinement without sections.
  void finish(int pass, int first, int count, std::span<const std::uint16_t> exact,
              std::span<const std::uint8_t> exact_rows, std::vector<std::uint8_t>& out) const {
    const auto append = [&out](const void* p, std::size_t n) {
      const auto* b = static_cast<const std::uint8_t*>(p);
      out.insert(out.end(), b, b + n);
    };
    const auto put_u16 = [&append](std::size_t v) {
      const auto u = std::uint16_t(v);
      append(&u, sizeof u);
    };
    unsigned mask = 0;
    for (int s = 0; s < max_sections; ++s)
      if (!sections_[pass][s].empty()) mask |= 1u << s;
    if (pass && !mask) return;
    if (pass == 0) {
      put_u16(unsigned(count) | (first ? detail::tile_has_first : 0) | (exact.empty() ? 0 : detail::tile_has_exact));
      if (first) put_u16(std::size_t(first));
      if (!exact.empty()) put_u16(exact.size());
    }
    out.push_back(std::uint8_t(mask));
    for (int s = 0; s < max_sections; ++s)
      if (mask >> s > 1 && mask >> s & 1) {
        const auto size = std::uint32_t(sections_[pass][s].size());
        append(&size, sizeof size);
      }
    if (pass == 0) {
      append(exact.data(), 2 * exact.size());
      append(exact_rows.data(), exact_rows.size());
    }
    for (const auto& s : sections_[pass]) append(s.data(), s.size());
  }

 private:
  std::size_t size_of_pass(int pass, std::size_t exact, std::size_t row_bytes) const noexcept {
    std::size_t n = 0;
    int listed = 0;
    for (const auto& s : sections_[pass]) n += s.size(), listed += !s.empty();
    if (pass) return listed ? n + detail::tile_head_size(false, false, false, listed) : 0;
    return n + detail::tile_head_size(true, true, exact > 0, listed) + exact * (2 + row_bytes);
  }

  std::vector<std::uint8_t> sections_[max_passes][max_sections];
};

}  // namespace sluice
