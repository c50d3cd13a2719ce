// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/decode.hpp>
#include <sluice/codec/entropy/class_rans/encode.hpp>
#include <sluice/codec/stages.hpp>

namespace sluice {
inline namespace SLUICE_HOST_ABI {

/// Entropy model: 32-lane rANS under static class tables; no table travels in a frame. The profile chooses the class of
/// each coefficient, a tile moves it where that pays, or names all classes where the profile does not describe its
/// coefficients. Section: class_section (FORMAT.md section 5).
struct class_rans {
  static constexpr stage_id id = stage_id::of(1);
  static constexpr bool fixed_width = false;
  static bool uses(const profile&) noexcept { return true; }
  using encoder = detail::class_rans_encoder;
  using decoder = detail::class_rans_decoder;
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
