// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <cstdint>

// What a decode on a device is asked for and what it answers. C++17 is enough for this file and what it includes.

namespace sluice::cuda {

/// One frame into one view. All memory is the device's: the frame, the pages, the tables of the view, the status words.
struct request {
  const std::byte* frame = nullptr;  ///< at any alignment
  std::uint64_t size = 0;            ///< bytes that are here; fewer than the frame has are legal
  std::uint32_t tokens = 0;          ///< of the frame, as its header says
  std::uint32_t tile_tokens = 256;   ///< of its token tiles, as its header says
  kv_view cache{};                   ///< shows some layers, or all
  int level = max_passes - 1;        ///< finest level to decode, see decode_options
  int layer_begin = 0;               ///< half-open range of model layers to write
  int layer_end = INT32_MAX;         ///< behind the last one; what the model does not have is ignored
  std::int64_t position = -1;        ///< where the frame's first token goes; -1 = where it came from
  std::int64_t sequence_end = -1;    ///< see decode_options
  /// Out: a word for each page of the view (each token where it has none), from the one that holds its first token on;
  /// null = not asked for. See status_of().
  std::uint64_t* pages = nullptr;
  std::uint64_t num_pages = 0;   ///< words at pages; what the view does not have is absent
  struct report* out = nullptr;  ///< what became of the whole request; null = not asked for
};

/// What page_status is on a host. `worst` is a word as of pages.
struct report {
  std::uint64_t worst;     ///< status_of() says it
  std::uint32_t tiles;     ///< see page_status, as the others
  std::uint32_t damaged;   ///< not written, or absent
  std::uint32_t degraded;  ///< written below the level asked for, for want of sound bytes
  std::uint32_t outside;   ///< without tokens outside of the layer's window
  std::uint32_t coarser;   ///< written below the level asked for since the frame was cut
  std::uint32_t unused;    ///< zero
};

/// The status in a word, which holds the worst of several: a damaged page outranks an absent one, that a degraded one;
/// among equals the first in the order of the frame.
SLUICE_HD constexpr status status_of(std::uint64_t word) noexcept { return static_cast<status>(word & 0xffffu); }
/// A word to be had by atomicMax; `order` counts what a host would say before.
SLUICE_HD constexpr std::uint64_t status_word(status s, std::uint64_t order = 0) noexcept {
  const std::uint64_t rank = s == status::ok ? 0 : s == status::degraded ? 1 : s == status::absent ? 2 : 3;
  constexpr std::uint64_t most = (std::uint64_t{1} << 44) - 1;
  return rank << 60 | (s == status::ok ? 0 : most - (order < most ? order : most)) << 16 |
         static_cast<std::uint64_t>(s);
}

}  // namespace sluice::cuda
