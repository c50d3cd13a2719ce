// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cache.hpp"
#include "coded_cache.hpp"
#include "distribution.hpp"
#include "model.hpp"

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

// What a decoded cache does to the model's predictions: the suffix of a context is computed on the exact cache and on the
// cache at every level.

namespace engine {

/// The levels to look at: one, or with -1 all there are; from fine to coarse, the order of truncation. Throws
/// std::runtime_error where the one is not there.
inline std::vector<int> levels_of(int wanted, int there) {
  if (wanted >= there) throw std::runtime_error("there is no level " + std::to_string(wanted));
  std::vector<int> out;
  for (int j = there; j-- > 0;)
    if (wanted < 0 || j == wanted) out.push_back(j);
  return out;
}

/// Sums over windows.
struct suffix_quality {
  struct at_level {
    int level = 0;
    std::size_t bytes = 0;
    double nll = 0;
    distance_sum distance{};
  };
  std::size_t elements = 0;        ///< of the contexts' caches
  std::size_t predicted = 0;       ///< tokens
  double nll = 0;                  ///< of them, on the exact cache
  std::vector<at_level> levels{};  ///< from fine to coarse
};

/// Judges one window: a context, a suffix and one token more, the last that is predicted. `pages` has room for two such.
/// Errors: throws std::runtime_error.
void judge_window(model& net, std::span<const std::int32_t> ids, int context, int level, page_pool& pages,
                  coded_cache& coded, suffix_quality& sum);

}  // namespace engine
