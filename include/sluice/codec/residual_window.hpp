// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/tile_codec.hpp>

#include <cstdint>

namespace sluice::codec {

inline namespace SLUICE_HOST_ABI {

/// Any tile codec, except that the last `Tokens` tokens of what is encoded at once, and the first `Sinks` of the
/// sequence, are kept as they are, and no others: 0 and 0 = every token is coded. Sinks that the profile asks for are
/// coded like the rest. Decoders do not need the window, since tiles list their exact tokens; it stands in the codec's
/// id so that stores keep frames with and without it apart: bits 13 to 23 of the method's parameter are Tokens + 1.
/// Sinks do not: they belong to a method. A frame has a window of its own: a sequence that is stored in chunks pays for
/// one in each.
template <tile_codec Codec, int Tokens, int Sinks = 0>
struct residual_window : Codec {
  static_assert(Tokens >= 0 && Tokens < 2047, "sluice::codec::residual_window: Tokens must be from 0 to 2046");
  static constexpr codec_id id = [] {
    codec_id i = Codec::id;
    i.method = stage_id::of(i.method.id, i.method.value() | std::uint32_t(Tokens + 1) << 13);
    return i;
  }();
  static constexpr bool keeps_exact(const profile&, std::int64_t position, std::int64_t end) noexcept {
    return position < Sinks || position >= end - Tokens;
  }
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::codec
