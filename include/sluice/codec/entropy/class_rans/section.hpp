// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/states.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/numeric.hpp>

#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// The section that class_rans writes in each pass (FORMAT.md section 5): u8 parts; then, as the parts say, deltas,
// classes and exceptions; the rest is the code, which may leave its states to that of the next pass.

namespace sluice {

/// A value that the coded symbols cannot express: `correction` is added to the coefficient at this pass's step.
struct exception {
  std::uint16_t row;          ///< coded token of the tile
  std::uint16_t coefficient;  ///< column of the tile
  std::int32_t correction;    ///< in steps of the pass
};
static_assert(sizeof(exception) == 8);

/// One pass of class_rans in a tile, as spans into the frame.
struct class_section {
  /// Bits of the section's first byte: which parts follow.
  enum parts : std::uint8_t { with_deltas = 1, with_classes = 2, with_exceptions = 4, with_next = 8 };

  std::uint32_t delta_blocks = 0;            ///< bit b: block b of the profile's classes moves
  std::span<const std::uint8_t> deltas;      ///< 16 bytes a block: a signed nibble a lane
  std::span<const std::uint8_t> classes;     ///< [width], instead of the profile's
  std::span<const std::uint8_t> exceptions;  ///< as they stand in the frame, see exception_at()
  bool goes_on = false;                ///< the code of the next pass begins with the states that this one ends with
  std::span<const std::uint8_t> code;  ///< of the rANS coder

  /// Bytes of the code that coders start from: a set of states for every 256 channels, of which all are taken as coded
  /// and the others as long as the first; none where it `continues` from the pass before.
  std::size_t state_bytes(int width, bool continues) const noexcept {
    if (continues) return 0;
    constexpr int channels = detail::rans_lanes * detail::rans_max_blocks;
    const auto sets = std::size_t((width + channels - 1) / channels);
    return detail::min(code.size(), sets * detail::packed_states_size(
                                               code.subspan(code.size() < 4 * sets || sets == 1 ? 0 : 4 * sets)));
  }
  /// How many exceptions there are.
  int num_exceptions() const noexcept { return int(exceptions.size() / sizeof(exception)); }
  /// One of them, from 0 on.
  exception exception_at(int i) const noexcept {
    exception e;
    std::memcpy(&e, exceptions.data() + sizeof(exception) * std::size_t(i), sizeof e);
    return e;
  }

  /// From untrusted bytes, none where the pass codes nothing. False where they are no section of `rows` x `width`.
  bool parse(std::span<const std::uint8_t> bytes, int pass, int rows, int width) noexcept {
    *this = {};
    if (bytes.empty()) return true;
    section_reader r(bytes);
    const auto with = r.get<std::uint8_t>();
    if (with > 15 || (pass && with & (with_deltas | with_classes))) return false;
    goes_on = with & with_next;
    if (with & with_deltas) {
      const int blocks = (width + 31) / 32;
      delta_blocks = r.get<std::uint32_t>();
      if (blocks > 32 || delta_blocks == 0 || (blocks < 32 && delta_blocks >> blocks)) return false;
      deltas = r.take(16 * std::size_t(std::popcount(delta_blocks)));
    }
    if (with & with_classes) classes = r.take(std::size_t(width));
    if (with & with_exceptions) {
      const auto n = r.get<std::uint16_t>();
      if (n == 0) return false;
      exceptions = r.take(sizeof(exception) * n);
    }
    code = r.left();
    if (!r.ok()) return false;
    for (int i = 0; i < num_exceptions(); ++i)
      if (exception_at(i).row >= rows || exception_at(i).coefficient >= width) return false;
    return true;
  }

  /// Appends what is set, or nothing where nothing is.
  void write(std::vector<std::uint8_t>& out) const {
    const int with = (delta_blocks ? with_deltas : 0) | (classes.empty() ? 0 : with_classes) |
                     (exceptions.empty() ? 0 : with_exceptions) | (goes_on ? with_next : 0);
    if (!with && code.empty()) return;
    const auto append = [&out](const void* p, std::size_t n) {
      const auto* b = static_cast<const std::uint8_t*>(p);
      out.insert(out.end(), b, b + n);
    };
    out.push_back(std::uint8_t(with));
    if (delta_blocks) append(&delta_blocks, 4);
    append(deltas.data(), deltas.size());
    append(classes.data(), classes.size());
    if (!exceptions.empty()) {
      const auto n = std::uint16_t(num_exceptions());
      append(&n, 2);
    }
    append(exceptions.data(), exceptions.size());
    append(code.data(), code.size());
  }
};

}  // namespace sluice
