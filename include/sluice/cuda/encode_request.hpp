// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>

#include <cstddef>
#include <cstdint>

// What an encode on a device is asked for and what it answers. C++17 is enough for this file and what it includes.

namespace sluice::cuda {

/// What became of one encode, for whoever gave the memory.
struct encoded {
  std::uint64_t size;  ///< of the frame; 0 where there is none
  status state;        ///< ok, or why there is none; see encoder::encode
};

/// Tokens of one sequence into one frame. All memory is the device's: the pages, the tables of the view, the frame.
struct encode_request {
  kv_view cache{};                      ///< shows some layers, or all; nothing of it is written
  std::byte* frame = nullptr;           ///< out
  std::uint64_t capacity = 0;           ///< bytes at `frame`
  encoded* out = nullptr;               ///< what became of it; null = not asked for
  std::int64_t position = -1;           ///< of the frame's first token; -1 = the view's
  std::int64_t tokens = -1;             ///< of the frame, at most max_frame_tokens; -1 = as many as the view shows
  std::int64_t exact_before = 0;        ///< tokens at positions below are kept exact: attention sinks
  std::int64_t exact_from = INT64_MAX;  ///< so are those from here on: a window of recent tokens
  std::int32_t levels = max_passes;     ///< passes to make; more than the codec has means all
  /// The frame is never larger: where all levels are, the finest ones are left out, and where not even the base fits it
  /// is output_too_small. UINT64_MAX = no limit but `capacity`, which leaves nothing out.
  std::uint64_t max_bytes = UINT64_MAX;

  /// Position of the frame's first token.
  SLUICE_HD constexpr std::int64_t begin() const noexcept { return position < 0 ? cache.position : position; }
  /// Tokens of the frame.
  SLUICE_HD constexpr std::int64_t size() const noexcept { return tokens < 0 ? cache.tokens : tokens; }
};

}  // namespace sluice::cuda
