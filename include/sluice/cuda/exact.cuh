// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/tile_codec.hpp>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/pages.cuh>
#include <sluice/cuda/strand.hpp>
#include <sluice/tensor/half.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>

// Tokens that a frame holds as they were stored: bit for bit where type and position are unchanged, else converted and
// turned on.

namespace sluice::cuda {

inline constexpr int exact_warps = 4;

namespace detail {

/// What undoes a rotation to a position, from doubles: few tokens are exact, and none need a table.
struct inverse_rotation {
  const double* frequency;
  double position;
  double factor;

  __device__ __forceinline__ rope_entry operator()(int pair) const {
    const double angle = position * frequency[pair];
    return {static_cast<float>(cos(angle) / factor), static_cast<float>(-sin(angle) / factor)};
  }
};

/// One token by a whole warp. `back` undoes the rotation that it has, `table` turns it on; both only where it turns.
__device__ __forceinline__ void convert_row(const page_target& t, std::byte* to, const std::byte* from, dtype type,
                                            const column_plan& plan, const inverse_rotation& back,
                                            const rope_entry* table) {
  const int lane = static_cast<int>(threadIdx.x % 32), size = size_of(type);
  bool finite = true;
  for (int i = lane; i < plan.width(); i += 32)
    finite &= (sluice::detail::float_bits(load_element(from + i * size, type)) & 0x7f800000u) != 0x7f800000u;
  const float most = __all_sync(~0u, finite) && t.type == dtype::f16 ? 65504.f : 0.f;
  for (int i = lane; i < plan.size(); i += 32) {
    const column_pair c = plan[i];
    float v[2][8];
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      const column_run& run = c.run[part];
#pragma unroll
      for (int e = 0; e < 8; ++e)
        v[part][e] = e < run.count ? load_element(from + (run.head * plan.head_dim + run.dim + e) * size, type) : 0;
    }
    if (table) {
      turn(c, v[0], v[1], back);
      turn(c, v[0], v[1], [table](int pair) { return table[pair]; });
    }
#pragma unroll
    for (int part = 0; part < 2; ++part)
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        if (e >= c.run[part].count) break;
        float x = v[part][e];
        if (most > 0) x = x > most ? most : x > -most ? x : -most;
        store_element(to + t.offset(c.run[part]) + e * t.element_stride, t.type, x);
      }
  }
}

}  // namespace detail

/// Exact tokens; a block a strand, a warp a token. A template only so that the header may be included anywhere.
template <int = 0>
__global__ void __launch_bounds__(32 * exact_warps) store_exact_rows(const decode_state d) {
  const strand& s = d.strands[blockIdx.x];
  if (!is_shown(s) || s.exact == 0) return;
  const group_model& g = group_of(d.image, s.group);
  const open_request& r = d.requests[s.request];
  const page_target target = target_of(r, s, g);
  const auto type = static_cast<dtype>(s.type[0]);
  const bool unrotated = static_cast<value_domain>(head_of(d.image).domain) == value_domain::unrotated;
  const rope_model* rope = unrotated && r.position != r.came_from ? rope_of(d, g) : nullptr;
  const column_plan plan = columns_of(d, g);
  const std::size_t row_bytes = static_cast<std::size_t>(g.width) * static_cast<std::size_t>(size_of(type));
  for (int i = static_cast<int>(threadIdx.x / 32); i < s.exact; i += exact_warps) {
    const int token = first_token(r, s) + exact_token(r.asked.frame, s, i);
    const std::int64_t place = place_of(r, plane_of(r, g), token);
    if (place == no_place) continue;
    const std::byte* from = r.asked.frame + s.exact_rows.at + row_bytes * static_cast<unsigned>(i);
    if (type == target.type && !rope) {
      copy_row(target, target.base + place, from, plan.heads, plan.head_dim);
      continue;
    }
    detail::inverse_rotation back{};
    if (rope)
      back = {in_image<double>(d.image, rope->frequency_at), static_cast<double>(r.came_from + token),
              rope->attention_factor};
    detail::convert_row(target, target.base + place, from, type, plan, back, entries_of(d, r, rope, token));
  }
}

/// Exact tokens of all strands. Errors: cuda_error.
inline status store_exact(const decode_state& d, cudaStream_t stream) {
  return launch(store_exact_rows<>, d.num_strands, 32 * exact_warps, 0, stream, d);
}

}  // namespace sluice::cuda
