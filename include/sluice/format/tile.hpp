// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/numeric.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice::detail {

// The payload of one tile (FORMAT.md section 4). Pass 0 opens with tile_head, refinements with refinement_head; then
// come the sections in the order of the fields below. A tile of size zero holds nothing.

struct tile_head {
  std::uint16_t first;  // first token covered, counted from the start of the token tile
  std::uint16_t count;  // tokens covered
  std::uint16_t exact;  // of these, how many are stored as they are
  std::uint16_t exceptions;
  std::uint32_t stream_size;  // bytes of the entropy-coded (or packed, or raw) stream
  std::uint8_t side;          // side_info bits
  std::uint8_t bits;          // width of a code where it is fixed, else 0
  std::uint16_t reserved;     // zero
};
static_assert(sizeof(tile_head) == 16);

enum side_info : std::uint8_t { side_deltas = 1, side_classes = 2, side_mean = 4 };

struct refinement_head {
  std::uint32_t stream_size;
  std::uint16_t exceptions;
  std::uint16_t reserved;  // zero
};
static_assert(sizeof(refinement_head) == 8);

// A value that the coded symbols cannot express: `correction` is added to the coefficient at this pass's step.
struct exception {
  std::uint16_t row;
  std::uint16_t coefficient;
  std::int32_t correction;
};
static_assert(sizeof(exception) == 8);

// What a base tile says, as spans into the frame; everything is bounds-checked.
struct base_tile {
  tile_head head{};
  std::span<const std::uint8_t> stream;
  std::uint32_t delta_blocks = 0;         // bit b: block b has class deltas
  std::span<const std::uint8_t> deltas;   // 16 bytes a block, a nibble a lane, signed
  float step = 1;                         // multiplies the profile's scale (side_classes)
  std::span<const std::uint8_t> classes;  // [width]
  std::span<const std::uint8_t> mean;     // [width] f16 (side_mean)
  std::span<const std::uint8_t> exceptions;
  std::span<const std::uint8_t> exact_index;  // [exact] u16, ascending
  std::span<const std::uint8_t> exact_rows;   // [exact][row_bytes]

  int rows() const noexcept { return head.count - head.exact; }
  std::uint16_t exact_token(int i) const noexcept { return load<std::uint16_t>(exact_index, i); }
  exception exception_at(int i) const noexcept { return load<exception>(exceptions, i); }

  template <class T>
  static T load(std::span<const std::uint8_t> s, int i) noexcept {
    T v;
    std::memcpy(&v, s.data() + std::size_t(i) * sizeof(T), sizeof(T));
    return v;
  }
};

// Takes sections off the front; once one does not fit, all that follow are empty and ok is false.
struct section_reader {
  std::span<const std::uint8_t> left;
  bool ok = true;
  std::span<const std::uint8_t> take(std::size_t n) noexcept {
    if (!ok || n > left.size()) {
      ok = false;
      return {};
    }
    const auto s = left.first(n);
    left = left.subspan(n);
    return s;
  }
  // What remains must be fewer than 16 zero bytes.
  bool only_padding() const noexcept {
    if (!ok || left.size() >= 16) return false;
    for (std::uint8_t b : left)
      if (b) return false;
    return true;
  }
};

inline status parse_tile(std::span<const std::uint8_t> bytes, int tile_tokens, int width, std::size_t row_bytes,
                         base_tile& t) noexcept {
  section_reader r{bytes};
  const auto head = r.take(sizeof(tile_head));
  if (!r.ok) return status::corrupt_tile;
  std::memcpy(&t.head, head.data(), sizeof t.head);
  const tile_head& h = t.head;
  if (h.count == 0 || h.first + h.count > tile_tokens || h.exact > h.count || h.reserved || h.side > 7 || h.bits > 8)
    return status::corrupt_tile;
  const int blocks = (width + 31) / 32;
  t.stream = r.take(h.stream_size);
  t.delta_blocks = 0;
  t.deltas = t.classes = t.mean = {};
  t.step = 1;
  if (h.side & side_deltas) {
    if (blocks > 32) return status::corrupt_tile;
    const auto mask = r.take(4);
    if (!r.ok) return status::corrupt_tile;
    std::memcpy(&t.delta_blocks, mask.data(), 4);
    if (t.delta_blocks == 0 || (blocks < 32 && t.delta_blocks >> blocks)) return status::corrupt_tile;
    t.deltas = r.take(16 * std::size_t(__builtin_popcount(t.delta_blocks)));
  }
  if (h.side & side_classes) {
    const auto step = r.take(4);
    if (!r.ok) return status::corrupt_tile;
    std::memcpy(&t.step, step.data(), 4);
    if (!isfinite(t.step) || !(t.step > 0)) return status::corrupt_tile;
    t.classes = r.take(std::size_t(width));
  }
  if (h.side & side_mean) t.mean = r.take(2 * std::size_t(width));
  t.exceptions = r.take(sizeof(exception) * h.exceptions);
  t.exact_index = r.take(2 * std::size_t{h.exact});
  t.exact_rows = r.take(row_bytes * h.exact);
  if (!r.only_padding()) return status::corrupt_tile;
  for (int i = 0; i < h.exact; ++i)
    if (t.exact_token(i) >= h.count || (i && t.exact_token(i) <= t.exact_token(i - 1))) return status::corrupt_tile;
  for (int i = 0; i < h.exceptions; ++i)
    if (t.exception_at(i).row >= t.rows() || t.exception_at(i).coefficient >= width) return status::corrupt_tile;
  return status::ok;
}

// What a refinement tile says.
struct refinement_tile {
  std::span<const std::uint8_t> stream;
  std::span<const std::uint8_t> exceptions;
  int count = 0;
};

inline status parse_refinement(std::span<const std::uint8_t> bytes, int rows, int width, refinement_tile& t) noexcept {
  t = {};
  if (bytes.empty()) return status::ok;
  section_reader r{bytes};
  const auto head = r.take(sizeof(refinement_head));
  if (!r.ok) return status::corrupt_tile;
  refinement_head h;
  std::memcpy(&h, head.data(), sizeof h);
  t.stream = r.take(h.stream_size);
  t.exceptions = r.take(sizeof(exception) * h.exceptions);
  t.count = h.exceptions;
  if (h.reserved || !r.only_padding()) return status::corrupt_tile;
  for (int i = 0; i < t.count; ++i) {
    const exception e = base_tile::load<exception>(t.exceptions, i);
    if (e.row >= rows || e.coefficient >= width) return status::corrupt_tile;
  }
  return status::ok;
}

// Appends to a byte buffer whose memory is reused from tile to tile.
class section_writer {
 public:
  explicit section_writer(std::vector<std::uint8_t>& out) : out_(out), start_(out.size()) {}
  void put_bytes(const void* p, std::size_t n) {
    const auto* b = static_cast<const std::uint8_t*>(p);
    out_.insert(out_.end(), b, b + n);
  }
  template <class T>
  void put(const T& v) {
    put_bytes(&v, sizeof v);
  }
  // Pads to 16 bytes and returns the size of what was written.
  std::uint32_t finish() {
    out_.resize(start_ + (out_.size() - start_ + 15) / 16 * 16);
    return std::uint32_t(out_.size() - start_);
  }

 private:
  std::vector<std::uint8_t>& out_;
  std::size_t start_;
};

}  // namespace sluice::detail
