// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/store/exact.cuh>
#include <sluice/cuda/store/pages.cuh>
#include <sluice/cuda/strand.hpp>

#include <cstddef>
#include <cstdint>

// Rows of elements to pages, for codecs that keep them as they are.

namespace sluice::cuda {

inline constexpr int element_warps = 8;

/// Where the rows of a strand stand before they go to the pages.
enum class element_source {
  workspace,  ///< at strand::values_at
  frame       ///< in the entropy section of the base pass
};

/// Coded rows of strands whose elements are at hand; a block a strand, a warp a row at a time.
template <element_source Source>
__global__ void __maxnreg__(64) store_element_rows(const decode_state d) {
  const strand& s = d.strands[blockIdx.x];
  if (!is_shown(s)) return;
  const group_model& g = group_of(d.image, s.group);
  const open_request& r = d.requests[s.request];
  const page_target target = target_of(r, s, g);
  const std::byte* from =
      Source == element_source::workspace ? d.workspace + s.values_at : r.asked.frame + s.entropy[0].at;
  const int head_dim = plane_of(d.image, g.layer, g.plane).head_dim;
  const unsigned row_bytes = static_cast<unsigned>(g.width * target.size);
  const bool words = target.element_stride == target.size && target.head_stride == head_dim * target.size &&
                     row_bytes % 16 == 0;  // a row is one run of words of 16 bytes, where it begins with one
  const int warp = static_cast<int>(threadIdx.x / 32), lane = static_cast<int>(threadIdx.x % 32);
  for (int first = warp; first < s.rows(); first += 32 * element_warps) {
    // A lane finds the place of one row, since that takes longer than to copy it.
    std::int64_t place = no_place;
    const int own = first + lane * element_warps;
    if (own < s.rows()) place = place_of(r, plane_of(r, g), first_token(r, s) + coded_token(r.asked.frame, s, own));
    for (int i = 0, row = first; i < 32 && row < s.rows(); ++i, row += element_warps) {
      const std::int64_t at = __shfl_sync(~0u, place, i);
      if (at == no_place) continue;
      std::byte* const to = target.base + at;
      const std::byte* const of = from + row_bytes * static_cast<unsigned>(row);
      if (!words || ((reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(of)) & 15) != 0) {
        copy_row(target, to, of, g.heads, head_dim);
        continue;
      }
      for (unsigned b = 16 * static_cast<unsigned>(lane); b < row_bytes; b += 512)  // what most rows are
        *reinterpret_cast<four_words*>(to + b) = *reinterpret_cast<const four_words*>(of + b);
    }
  }
}

/// Elements of all strands to pages, and their exact tokens; types of view and frame are the same (open says so).
/// Errors: cuda_error.
template <element_source Source>
status store_elements(const decode_state& d, cudaStream_t stream) {
  if (const status s = launch(store_element_rows<Source>, d.num_strands, 32 * element_warps, 0, stream, d);
      s != status::ok)
    return s;
  return store_exact(d, stream);
}

}  // namespace sluice::cuda
