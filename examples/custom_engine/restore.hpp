// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "pages.hpp"

#include <sluice/codec/decoder.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>

#include <algorithm>
#include <span>
#include <vector>

namespace custom_engine {

/// Decodes frames into the pages of a sequence, and says what became of each page.
inline std::vector<sluice::status> restore(const sluice::profile& profile,
                                           std::span<const std::span<const std::byte>> frames, page_pool& pool,
                                           std::span<const std::int32_t> table, std::int64_t position,
                                           std::int64_t tokens, int level, const stream&) {
  const sluice::kv_view view = view_of(pool.shape(), pool.data(), pool.pages(), table, position, tokens);
  sluice::decoder<> decoder(profile);
  std::vector<sluice::status> all(table.size(), sluice::status::absent), now(table.size());
  for (const auto frame : frames) {
    decoder.decode(frame, view, {.level = level, .pages = now});
    for (std::size_t i = 0; i < all.size(); ++i)
      // A page that this frame has no tokens of is absent; one that several share is as good as the worst of them.
      if (now[i] != sluice::status::absent && (all[i] == sluice::status::absent || all[i] == sluice::status::ok))
        all[i] = now[i];
  }
  return all;
}

}  // namespace custom_engine
