// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stream.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/tensor/view.hpp>

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice::detail {

// One tile on its way from the pages to the frame: the tokens that are coded, as floats before the transform, and the
// tokens that are kept exact.
struct tile_input {
  stream_place place;
  const plane_profile* source = nullptr;
  int first = 0;  // of the tokens covered, counted from the start of the token tile
  int count = 0;
  std::vector<std::uint16_t> rows;   // coded tokens, counted from `first`, ascending
  std::vector<std::uint16_t> exact;  // the others
  float* x = nullptr;                // [rows][ld]; this stream's channels
  std::ptrdiff_t ld = 0;

  // Where the engine keeps these tokens.
  const std::byte* base = nullptr;        // of the layer
  const std::int64_t* offsets = nullptr;  // [count], bytes to head 0, element 0
  const plane_view* plane = nullptr;

  std::size_t row_bytes() const noexcept { return std::size_t(place.width()) * std::size_t(size_of(plane->type)); }

  // Moves the flagged rows to the exact tokens and closes the gaps. Returns whether there were any.
  bool make_exact(std::span<const std::uint8_t> flagged) {
    std::size_t kept = 0;
    const std::size_t n = rows.size(), width = std::size_t(place.width());
    for (std::size_t r = 0; r < n; ++r) {
      if (flagged[r]) {
        std::size_t at = exact.size();
        exact.push_back(rows[r]);
        for (; at > 0 && exact[at - 1] > rows[r]; --at) exact[at] = exact[at - 1];
        exact[at] = rows[r];
        continue;
      }
      if (kept != r) {
        std::memmove(x + std::ptrdiff_t(kept) * ld, x + std::ptrdiff_t(r) * ld, width * sizeof(float));
        rows[kept] = rows[r];
      }
      ++kept;
    }
    rows.resize(kept);
    return kept != n;
  }

  // One token's elements as stored, heads in order.
  void copy_row(int token, std::uint8_t* to) const noexcept {
    const std::size_t element = std::size_t(size_of(plane->type));
    const std::byte* row = base + offsets[token];
    for (int h = 0; h < place.heads; ++h) {
      const std::byte* head = row + (place.first_head + h) * plane->head_stride;
      if (plane->element_stride == std::int64_t(element)) {
        std::memcpy(to, head, element * std::size_t(place.head_dim));
        to += element * std::size_t(place.head_dim);
        continue;
      }
      for (int d = 0; d < place.head_dim; ++d, to += element)
        std::memcpy(to, head + d * plane->element_stride, element);
    }
  }

  void put_exact_rows(section_writer& w) {
    row_.resize(row_bytes());
    for (std::uint16_t token : exact) {
      copy_row(token, row_.data());
      w.put_bytes(row_.data(), row_.size());
    }
  }

 private:
  std::vector<std::uint8_t> row_;
};

}  // namespace sluice::detail
