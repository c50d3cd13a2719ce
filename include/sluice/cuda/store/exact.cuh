// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/store/pages.cuh>
#include <sluice/cuda/strand.hpp>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>

// Tokens that a frame holds as they were stored: bit for bit where type and position are unchanged, else converted and
// turned on.

namespace sluice::cuda {

inline constexpr int exact_warps = 4;

namespace detail {

// Needs no call on a device, where that costs registers.
__device__ __forceinline__ double inverse(double x) {
  const double near = __frcp_rn(static_cast<float>(x));
  return near * (2 - x * near);
}

/// Where a row of elements stands, and where it goes.
struct exact_row {
  const std::byte* from;
  std::byte* to;
  dtype type;  ///< of what stands there
  float most;  ///< magnitude that elements are cut to; 0 = as they are

  __device__ __forceinline__ float load(int channel) const {
    return load_element(from + channel * size_of(type), type);
  }
  __device__ __forceinline__ void store(const page_target& t, int head, int dim, float x) const {
    if (most > 0) x = x > most ? most : x > -most ? x : -most;
    store_element(to + head * t.head_stride + dim * t.element_stride, t.type, x);
  }
};

/// A token whose type or position is another, by a whole warp. `rope`: what turns it from one position to the one that
/// `table` is of, null = nothing does.
__device__ __forceinline__ void convert_row(const page_target& t, exact_row row, const column_plan& plan,
                                            const rope_model* rope, const double* frequency, double came_from,
                                            const rope_entry* table) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  bool finite = true;
  for (int i = lane; i < plan.width(); i += 32)
    finite &= (sluice::detail::float_bits(row.load(i)) & 0x7f800000u) != 0x7f800000u;
  row.most = __all_sync(~0u, finite) && t.type == dtype::f16 ? 65504.f : 0.f;
  const int pairs = rope ? plan.pairs : 0, of_head = plan.head_dim - pairs;  // pairs, then elements that do not turn
  for (int i = lane; i < plan.heads * of_head; i += 32) {
    const int head = i / of_head, n = i % of_head, channel = head * plan.head_dim;
    if (n >= pairs) {
      row.store(t, head, n + pairs, row.load(channel + n + pairs));
      continue;
    }
    const bool halves = plan.pairing == rope_pairing::half;
    const int first = halves ? n : 2 * n, second = halves ? n + pairs : 2 * n + 1;
    // Few tokens are exact: what undoes their rotation needs no table.
    const rope_entry back = rope_at(came_from, frequency[n], inverse(rope->attention_factor));
    const float c = back.cosine, s = back.sine;
    const float a = row.load(channel + first), b = row.load(channel + second);
    const float x = a * c + b * s, y = b * c - a * s;
    row.store(t, head, first, x * table[n].cosine - y * table[n].sine);
    row.store(t, head, second, y * table[n].cosine + x * table[n].sine);
  }
}

}  // namespace detail

/// Exact tokens; a block a strand, a warp a token. A template only so that the header may be included anywhere.
template <int = 0>
__global__ void __maxnreg__(96) store_exact_rows(const decode_state d) {
  const strand& s = d.strands[blockIdx.x];
  if (!is_shown(s) || s.exact == 0) return;
  const group_model& g = group_of(d.image, s.group);
  const open_request& r = d.requests[s.request];
  const page_target target = target_of(r, s, g);
  const auto type = static_cast<dtype>(s.type[0]);
  const rope_model* rope = r.position != r.came_from ? rope_of(d, g) : nullptr;
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
    detail::convert_row(target, {from, target.base + place, type, 0}, plan, rope,
                        rope ? in_image<double>(d.image, rope->frequency_at) : nullptr,
                        static_cast<double>(r.came_from + token), entries_of(d, r, rope, token));
  }
}

/// Exact tokens of all strands. Errors: cuda_error.
inline status store_exact(const decode_state& d, cudaStream_t stream) {
  return launch(store_exact_rows<>, d.num_strands, 32 * exact_warps, 0, stream, d);
}

}  // namespace sluice::cuda
