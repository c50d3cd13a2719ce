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

/// Coded rows of strands whose elements are at hand; a block a strand, a warp a row.
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
  const std::size_t row_bytes = static_cast<std::size_t>(g.width) * static_cast<std::size_t>(size_of(target.type));
  for (int row = static_cast<int>(threadIdx.x / 32); row < s.rows(); row += element_warps) {
    const int token = first_token(r, s) + coded_token(r.asked.frame, s, row);
    const std::int64_t place = place_of(r, plane_of(r, g), token);
    if (place == no_place) continue;
    copy_row(target, target.base + place, from + row_bytes * static_cast<unsigned>(row), g.heads, head_dim);
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
