// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/tile_codec.hpp>
#include <sluice/cuda/entropy/row_steps.cuh>
#include <sluice/cuda/launch.cuh>
#include <sluice/cuda/ptx.cuh>
#include <sluice/cuda/store/pages.cuh>
#include <sluice/cuda/strand.hpp>

#include <cstddef>
#include <cstdint>

// Strands whose values need no product: whatever says floats row by row goes through rotation and conversion into pages.

namespace sluice::cuda {

inline constexpr int float_threads = 256;    ///< of a block, and rows of a round
inline constexpr int scratch_floats = 1024;  ///< what a source may keep in shared memory

/// Integers times the step, of the tile and of the row, and the mean of the tile where the transform takes it off: strands
/// without a basis.
class coefficient_source {
 public:
  /// By all threads of a block; what they put into `scratch` is there for all after a barrier.
  __device__ __forceinline__ coefficient_source(const decode_state& d, const open_request& r, const strand& s,
                                                const group_model& g, float* scratch)
      : values_(reinterpret_cast<const std::int16_t*>(d.workspace + s.values_at)),
        ld_(g.ld),
        live_(s.live),
        scale_(s.scale),
        bits_(r.asked.frame + s.transform.at),
        steps_(steps_of(reinterpret_cast<const std::uint8_t*>(r.asked.frame), s.steps)) {
    if (static_cast<value_domain>(head_of(d.image).domain) != value_domain::unrotated) return;
    scale_ *= plane_of(d.image, g.layer, g.plane).scale;
    centred_ = true;
    if (g.width > scratch_floats) return;
    means_ = scratch;
    for (int i = static_cast<int>(threadIdx.x); i < g.width; i += static_cast<int>(blockDim.x)) scratch[i] = mean(i);
  }
  /// Values of `count` channels of a row; others are anything.
  __device__ __forceinline__ void operator()(int row, int channel, int count, float (&v)[8]) const {
    const std::int16_t* from = values_ + std::ptrdiff_t{row} * ld_ + channel;
    const float unit = scale(row);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if (i >= count) break;
      const float base = !centred_ ? 0 : means_ ? means_[channel + i] : mean(channel + i);
      v[i] = __fmaf_rn(channel + i < live_ ? static_cast<float>(from[i]) : 0, unit, base);
    }
  }
  /// Of a row and its exceptions.
  __device__ __forceinline__ float scale(int row) const { return scale_ * steps_.scale(row); }

 private:
  __device__ __forceinline__ float mean(int channel) const {
    return float_of_half(sluice::detail::load_as<std::uint16_t>(bits_ + 2 * static_cast<unsigned>(channel)));
  }

  const std::int16_t* values_;
  std::ptrdiff_t ld_;
  int live_;
  float scale_;
  const std::byte* bits_;  // f16[width]
  row_steps steps_;
  const float* means_ = nullptr;
  bool centred_ = false;
};

namespace detail {

/// Where the rows of a round go.
struct alignas(16) row_places {
  page_target target;
  std::byte* to[float_threads];
  const rope_entry* table[float_threads];
  unsigned corrected[float_threads / 32];  // bit of a row: it has exceptions
  float scratch[scratch_floats];
};

/// Adds the exceptions of some channels of a row, in the order of the frame.
__device__ __forceinline__ void correct(const strand& s, const std::byte* frame, float scale, int row, int channel,
                                        int count, float (&v)[8]) {
  for (int p = 0; p <= s.level; ++p) {
    const unsigned n = s.exceptions[p].size / sizeof(exception);
    const auto unit = static_cast<float>(power3(s.level - p));
    for (unsigned j = 0; j < n; ++j) {
      const auto e = sluice::detail::load_as<exception>(frame + s.exceptions[p].at + sizeof(exception) * j);
      const unsigned at = e.coefficient - static_cast<unsigned>(channel);
      if (e.row != row || at >= static_cast<unsigned>(count)) continue;
#pragma unroll
      for (unsigned i = 0; i < 8; ++i)
        if (i == at) v[i] += scale * (static_cast<float>(e.correction) * unit);
    }
  }
}

}  // namespace detail

/// Strands whose groups have no basis; a block a strand. A Source is made as coefficient_source is, says what it says,
/// and is told of nothing but rows and channels of the group.
template <class Source>
__global__ void __maxnreg__(96) store_float_rows(const decode_state d) {
  const strand& s = d.strands[blockIdx.x];
  if (!is_shown(s)) return;
  const group_model& g = group_of(d.image, s.group);
  const int rows = s.rows();
  if (g.basis_at || rows == 0) return;
  const open_request& r = d.requests[s.request];
  const std::byte* frame = r.asked.frame;
  const rope_model* rope = rope_of(d, g);
  const column_plan plan = columns_of(d, g);
  auto& places = *reinterpret_cast<detail::row_places*>(ptx::dynamic_shared());
  if (threadIdx.x == 0) places.target = target_of(r, s, g);
  const Source source(d, r, s, g, places.scratch);
  const int thread = static_cast<int>(threadIdx.x), pairs = plan.size();
  for (int first = 0; first < rows; first += float_threads) {
    const int here = rows - first < float_threads ? rows - first : float_threads;
    __syncthreads();
    if (thread < float_threads / 32) places.corrected[thread] = 0;
    if (thread < here) {
      const int token = first_token(r, s) + coded_token(frame, s, first + thread);
      const std::int64_t place = place_of(r, plane_of(r, g), token);
      places.to[thread] = place == no_place ? nullptr : places.target.base + place;
      places.table[thread] = entries_of(d, r, rope, token);
    }
    __syncthreads();
    for (int p = 0; p <= s.level; ++p)
      for (unsigned i = threadIdx.x; i < s.exceptions[p].size / sizeof(exception); i += float_threads) {
        const std::byte* at = frame + s.exceptions[p].at + sizeof(exception) * i;
        const unsigned row = sluice::detail::load_as<std::uint16_t>(at) - static_cast<unsigned>(first);
        if (row < float_threads) atomicOr(&places.corrected[row / 32], 1u << row % 32);
      }
    __syncthreads();
    for (int i = thread; i < here * pairs; i += float_threads) {
      const int row = i / pairs;
      if (!places.to[row]) continue;
      const column_pair c = plan[i - row * pairs];
      float v[2][8];
      const auto fill = [&](const column_run& run, float(&to)[8]) {
        const int channel = run.head * plan.head_dim + run.dim;
        source(first + row, channel, run.count, to);
        if (places.corrected[row / 32] >> row % 32 & 1)
          detail::correct(s, frame, source.scale(first + row), first + row, channel, run.count, to);
      };
      fill(c.run[0], v[0]);
      fill(c.run[1], v[1]);
      put_pair(places.target, c, offsets_of(places.target, c), in_global(places.to[row]), places.table[row], v[0],
               v[1]);
    }
  }
}

/// Floats of all strands to pages, as a source says them. Errors: cuda_error.
template <class Source>
status store_floats(const decode_state& d, cudaStream_t stream) {
  return launch(store_float_rows<Source>, d.num_strands, float_threads, sizeof(detail::row_places), stream, d);
}

}  // namespace sluice::cuda
