// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/bitpack.hpp>
#include <sluice/cuda/entropy/packed_codes.cuh>
#include <sluice/cuda/entropy/packed_rows.cuh>
#include <sluice/cuda/store/store.cuh>

#include <cstddef>
#include <cstdint>
#include <type_traits>

// Codecs of a fixed width on a device. Where nothing is done to values but scaling they go from the frame to the pages;
// where a basis follows they become its integers first.

namespace sluice::cuda {

/// Integers of strands whose group has a basis, rounded to whole units (ties to even), into the workspace; a block a
/// strand.
template <class Codec>
__global__ void __launch_bounds__(float_threads) round_groups_kernel(const decode_state d) {
  __shared__ float scratch[group_source<Codec>::most_kept];
  const strand& s = d.strands[blockIdx.x];
  if (!is_shown(s)) return;
  const group_model& g = group_of(d.image, s.group);
  const int rows = s.rows(), pieces = g.ld / 8;
  if (g.basis_at == 0 || rows == 0) return;
  const group_source<Codec> source(d, d.requests[s.request], s, g, scratch);
  __syncthreads();
  auto* const to = reinterpret_cast<std::int16_t*>(d.workspace + s.values_at);
  for (int i = static_cast<int>(threadIdx.x); i < rows * pieces; i += float_threads) {
    const int row = i / pieces, channel = 8 * (i - row * pieces);
    float v[8];
    source.coefficients(row, channel, g.width - channel < 8 ? g.width - channel : 8, v);
    four_words out{};
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const float most = 32767;
      const int q = channel + k < g.width ? __float2int_rn(fminf(fmaxf(v[k], -most), most)) : 0;
      out.w[k / 2] |= (static_cast<std::uint32_t>(q) & 0xffff) << 16 * (k % 2);
    }
    *reinterpret_cast<four_words*>(to + std::ptrdiff_t{row} * g.ld + channel) = out;
  }
}

/// Codecs whose codes of a fixed width are scaled by groups.
template <class Codec>
concept packs_groups = group_quantizer<typename Codec::quantizer> && std::is_same_v<typename Codec::entropy, bitpack>;

/// Nothing of a tile depends on another part of it, so all checks are made when it is opened.
template <packs_groups Codec>
struct codec_stages<Codec> {
  static constexpr bool has_basis = Codec::domain == value_domain::unrotated;

  static status init(const model_sizes& m, const device_limits& limits) {
    if constexpr (has_basis) return allow_store(plan_store(m.max_width, limits.block_shared));
    return status::ok;
  }
  static constexpr std::uint64_t bytes(const model_sizes&, std::int32_t) noexcept { return 0; }

  static status decode(const decode_state& d, const model_sizes& m, const device_limits& limits, cudaStream_t stream) {
    if constexpr (has_basis) {
      const store_plan plan = plan_store(m.max_width, limits.block_shared);
      if (const status s = launch(&round_groups_kernel<Codec>, d.num_strands, float_threads, 0, stream, d);
          s != status::ok)
        return s;
      if (const status s =
              launch(&store_products<false>, d.num_strands, 32 * store_warps, plan.shared, stream, d, plan.columns);
          s != status::ok)
        return s;
      if (const status s = store_floats<group_source<Codec>>(d, stream); s != status::ok) return s;
    } else {
      if (const status s =
              launch(&store_packed_rows<Codec>, d.num_strands, packed_threads, sizeof(packed_block<Codec>), stream, d);
          s != status::ok)
        return s;
    }
    return store_exact(d, stream);
  }

  static __device__ bool open(const opened_tile& t, opened_quantizer& out) {
    if (!transform_stage<typename Codec::transform>::open(t)) return false;
    if (!quantizer_stage<typename Codec::quantizer>::open(t, out)) return false;
    const std::uint32_t size = t.s->entropy[0].size;
    return t.s->rows() == 0 ? size == 0 : size == packed_size(out.bits, t.s->rows(), t.group->ld / 32);
  }
};

}  // namespace sluice::cuda
