// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/warp/targets.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sluice::detail {

// Bytes of a part of m elements. Compilers that lose track of m take its copy for an overflow; it never is one.
template <class T>
inline std::size_t part_bytes(int m, int width) noexcept {
  if (m < 0 || m > width) __builtin_unreachable();
  return sizeof(T) * static_cast<std::size_t>(m);
}

}  // namespace sluice::detail

#define SLUICE_BODY <sluice/warp/floats.inl>
#include <sluice/warp/foreach_target.inl>
