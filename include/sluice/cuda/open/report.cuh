// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/strand.hpp>

#include <cuda_runtime.h>

#include <cstdint>

// The last kernel of a decode: what became of each strand, to the words of pages and to the counts of requests, as
// decoder::decode says it.

namespace sluice::cuda {

inline constexpr int report_threads = 128;
constexpr std::int64_t report_blocks(std::int64_t strands) noexcept {
  return (strands + report_threads - 1) / report_threads;
}

/// Makes words worse; in what order threads come does not show.
__device__ __forceinline__ void worsen(std::uint64_t* word, std::uint64_t by) {
  atomicMax(reinterpret_cast<unsigned long long*>(word), static_cast<unsigned long long>(by));
}

/// What one strand has to say.
struct strand_report {
  const open_request& r;
  const strand& s;
  const plane_model& plane;
  std::uint64_t order;  ///< of what happened when it was opened
  std::uint64_t after;  ///< what is added for what happened when it was decoded
  bool missing = false, outside = false;

  /// Says something of the tokens [first, last) of its token tile.
  __device__ void note(status what, int first, int last, bool decoded) const {
    const std::uint64_t word = status_word(what, order + (decoded ? after : 0));
    if (r.asked.out) worsen(&r.asked.out->worst, word);
    const token_range tokens = r.within(s.tile, first, last);
    if (!r.asked.pages || tokens.empty()) return;
    const kv_view& v = r.asked.cache;
    const std::int64_t unit = v.mode == addressing::pages ? v.page_size : 1, origin = v.first / unit;
    const std::int64_t end = (v.first + tokens.end - 1) / unit - origin;
    for (std::int64_t i = (v.first + tokens.begin) / unit - origin;
         i <= end && static_cast<std::uint64_t>(i) < r.asked.num_pages; ++i)
      worsen(&r.asked.pages[i], word);
  }

  /// Tokens [0, first) and [last, tokens) are not in the frame. Which of them the view shows and needs is damage.
  __device__ void lacks(int first, int last, bool decoded) {
    const int needed = r.first_needed(plane.window, s.tile), tokens = r.tokens_of(s.tile);
    for (int side = 0; side < 2; ++side) {
      const int from = side ? last : 0, to = side ? tokens : first;
      outside = outside || !r.within(s.tile, from, to < needed ? to : needed).empty();
      const int begin = from < needed ? needed : from;
      if (r.within(s.tile, begin, to).empty()) continue;
      missing = true;
      note(status::absent, begin, to, decoded);
    }
  }
};

/// What a strand adds to the counts of its request.
struct strand_counts {
  std::int32_t request = -1;
  bool damaged = false, degraded = false, outside = false, coarser = false;
};

/// Says what became of a strand that was asked for to the words of its pages.
__device__ inline strand_counts report_strand(const decode_state& d, const strand& s) {
  const open_request& r = d.requests[s.request];
  const group_model& g = group_of(d.image, s.group);
  const plane_model &k = plane_of(d.image, g.layer, 0), &v = plane_of(d.image, g.layer, 1);
  // A host opens all tiles of a layer and a token tile, then decodes them.
  const auto groups = static_cast<std::uint64_t>(k.groups + v.groups);
  const auto first = static_cast<std::uint64_t>(k.groups ? k.first_group : v.first_group);
  const auto strands = static_cast<std::uint64_t>(head_of(d.image).strands);
  const std::uint64_t order =
      2 * (static_cast<std::uint64_t>(s.tile) * strands + first) + static_cast<std::uint64_t>(s.group) - first;
  strand_report out{r, s, g.plane ? v : k, order, groups};
  const int tokens = r.tokens_of(s.tile);
  strand_counts n;
  n.request = s.request;
  if (s.opened == status::absent) {
    out.lacks(0, 0, false);
  } else if (s.opened != status::ok && s.opened != status::degraded) {
    n.damaged = true;
    out.note(s.opened, 0, tokens, false);
  } else if (s.state != status::ok) {
    n.damaged = true;
    out.note(status::corrupt_tile, 0, tokens, true);
  } else {
    n.degraded = s.opened == status::degraded;
    n.coarser = !n.degraded && s.level < r.level;
    if (n.degraded) out.note(status::degraded, s.first, s.first + s.count, true);
    out.lacks(s.first, s.first + s.count, true);
  }
  n.damaged = n.damaged || out.missing;
  n.outside = out.outside;
  return n;
}

/// A thread a strand; those of a warp that have one request count together.
template <int = 0>
__global__ void __launch_bounds__(report_threads) report_strands(const decode_state d) {
  const auto index = static_cast<std::int64_t>(blockIdx.x) * report_threads + threadIdx.x;
  strand_counts n;
  if (index < d.num_strands && d.strands[index].slot >= 0) n = report_strand(d, d.strands[index]);
  const unsigned peers = __match_any_sync(0xffffffffu, n.request);
  report* const counts = n.request < 0 ? nullptr : d.requests[n.request].asked.out;
  const bool leads = counts && __ffs(static_cast<int>(peers)) - 1 == static_cast<int>(threadIdx.x % 32u);
  const auto add = [&](bool said, std::uint32_t report::*which) {
    const auto sum = static_cast<unsigned>(__popc(__ballot_sync(0xffffffffu, said) & peers));
    if (leads && sum != 0) atomicAdd(&(counts->*which), sum);
  };
  add(true, &report::tiles);
  add(n.damaged, &report::damaged);
  add(n.degraded, &report::degraded);
  add(n.outside, &report::outside);
  add(n.coarser, &report::coarser);
}

}  // namespace sluice::cuda
