// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace sluice {

/// Grouping policy: tokens coded as one tile, and heads that share one basis.
/// Changes in the bytes: tile_tokens and group_width of the frame (FORMAT.md 3.1, 3.3). Longer tiles cost less overhead
/// (about 80 bytes a tile), shorter ones give finer random access. HeadsPerBasis 0 = all heads while they span at most
/// 256 channels, else as many as fit; it must be what the profile was calibrated with.
template <int Tokens = 256, int HeadsPerBasis = 0>
struct tile_tokens {
  static_assert(Tokens >= 16 && Tokens <= 4096 && Tokens % 16 == 0,
                "sluice::tile_tokens<Tokens>: Tokens must be a multiple of 16 from 16 to 4096");
  static_assert(HeadsPerBasis == 0 || HeadsPerBasis == 1 || HeadsPerBasis == 2 || HeadsPerBasis == 4,
                "sluice::tile_tokens<Tokens, HeadsPerBasis>: HeadsPerBasis must be 0 (as many as fit), 1, 2 or 4");
  static constexpr int tokens = Tokens;
  static constexpr int heads_per_basis = HeadsPerBasis;
};

}  // namespace sluice
