// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/tile_codec.hpp>
#include <sluice/gap.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

// What encoders and decoders are asked for, and what decoders report.

namespace sluice {

/// Threads of the caller that share the work of a call; the library starts none. What is made does not depend on it.
/// Borrowed for the call.
struct parallel_for {
  int workers = 1;  ///< tasks that may run at once; encoder and decoder keep a workspace for each
  /// Calls task(context, i) once for every i from 0 to n - 1, on any threads, also one after the other, and returns when
  /// all have returned; n is at most `workers`. Null: the calling thread works alone.
  void (*run)(void* pool, int n, void (*task)(void* context, int i), void* context) = nullptr;
  void* pool = nullptr;  ///< handed to run

  /// Of anything that is called as f(n, task), where task(i) is to be called for every i from 0 to n - 1; f is borrowed.
  template <class F>
  static parallel_for of(int workers, F& f) noexcept {
    return {workers,
            [](void* made, int n, void (*task)(void*, int), void* context) {
              (*static_cast<F*>(made))(n, [task, context](int i) { task(context, i); });
            },
            &f};
  }
};

/// What to make.
struct encode_options {
  int levels = max_passes;  ///< passes to make, from the base on; more than the codec has means all
  side_info side{};         ///< what a predictor may use; the decoder must be given the same
  token_weights weights{};  ///< for codecs whose steps differ from token to token
  /// Quarter octaves by which their steps are coarser than the profile's, in the mean of all planes; finer where negative.
  float coarser = 0;
  /// Nats that each level is expected to lose, for the header, from level 0 on; not above 0 = as the profile says. Empty:
  /// as the profile says with `coarser`.
  std::span<const double> loss{};
  /// The frame is never larger. Where all levels are, passes leave tile by tile as truncate_to() takes them; where not
  /// even the base fits, and for a codec of one level, it is output_too_small. SIZE_MAX = no limit.
  std::size_t max_bytes = SIZE_MAX;
  /// Shares layers and token tiles; whole token tiles where a predictor looks at lower layers.
  parallel_for parallel{};
};

/// What to decode, and where it goes.
struct decode_options {
  /// A half-open range of model layers.
  struct layer_range {
    int begin = 0;        ///< first layer
    int end = INT32_MAX;  ///< behind the last one; what the model does not have is ignored
  };
  int level = max_passes;      ///< finest level to decode; above what is present means the finest present
  layer_range layers{};        ///< to write; lower ones are decoded as well where a predictor needs them
  std::int64_t position = -1;  ///< where the frame's first token goes; -1 = where it came from. K is rotated to match.
  /// Where the sequence ends that the views will serve: tokens outside of a layer's sliding window may be missing.
  /// -1 = behind the last position that any view shows; who decodes into a part of a cache has to say where it is.
  std::int64_t sequence_end = -1;
  side_info side{};  ///< what the encoder's predictor was given
  /// Out: the worst status of each page of the first view, from the one that holds its first token on; of each token
  /// where the view has no pages. Pages that the frame does not reach are absent. Entries beyond its last are not used.
  std::span<status> pages{};
  /// Shares layers and token tiles; whole token tiles where a predictor looks at lower layers.
  parallel_for parallel{};
};

/// What a decode did. A page whose status is neither ok nor degraded holds nothing that can be trusted.
struct page_status {
  status worst = status::ok;   ///< why nothing was decoded, or the worst of any tile
  std::uint32_t tiles = 0;     ///< looked at
  std::uint32_t damaged = 0;   ///< not written, or absent for tokens that the view shows
  std::uint32_t degraded = 0;  ///< written below the level asked for, for want of sound bytes
  std::uint32_t outside = 0;   ///< without tokens that the view shows outside of the layer's window, which is no damage
  std::uint32_t coarser = 0;   ///< written below the level asked for since the frame was made or cut to fit: no damage
  gap missing{};               ///< where damaged tiles were to go; empty where nothing was decoded at all
  /// Whether all that was asked for is there, at the level asked for or the finest that the frame has of it.
  explicit operator bool() const noexcept { return worst == status::ok; }
};

}  // namespace sluice
