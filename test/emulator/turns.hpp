// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fiber.hpp>

#include <bit>
#include <cstdint>

namespace cuda_on_host {

/// In which order threads of a block are taken.
enum class order : std::uint8_t { up, down, random };

/// Whose turn it is among some of 32.
struct turns {
  order how = order::up;
  std::uint32_t random = 1;  // not zero

  /// The next after (for `down` before) `from`; the first of them where it wraps. At random: any, and now and then a wrap.
  CUDA_ON_HOST_UNSEEN unsigned next_of(std::uint32_t some, unsigned from, bool& wraps) {
    if (how == order::random) {
      random ^= random << 13, random ^= random >> 17, random ^= random << 5;
      const unsigned by = random >> 8 & 31;
      wraps = (random >> 16) % 8 == 0;
      return (static_cast<unsigned>(std::countr_zero(std::rotr(some, static_cast<int>(by)))) + by) & 31;
    }
    const std::uint32_t below = from >= 32 ? ~0u : (1u << from) - 1;
    const std::uint32_t later = some & (how == order::down ? below : ~below & ~(1u << (from & 31)));
    wraps = later == 0;
    return wraps ? first_of(some) : first_of(later);
  }
  CUDA_ON_HOST_UNSEEN unsigned first_of(std::uint32_t some) {
    bool wraps = false;
    if (how == order::random) return next_of(some, 0, wraps);
    return static_cast<unsigned>(how == order::up ? std::countr_zero(some) : 31 - std::countl_zero(some));
  }
};

}  // namespace cuda_on_host
