// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/encode/forward.cuh>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>

// The forward stage of groups that a profile knows nothing about: the mean of each channel is the tile's own, rounded to
// f16, the step what width/profile_steps.hpp makes of the deviation. Rows that leave the range become exact, and then all
// is measured again, as a host does it.

namespace sluice::cuda {

/// What all threads of a block share while they measure.
struct measurement {
  row_space space;
  int ld, width, tokens;
  bool loaded = false;  // all tokens are in shared memory

  __device__ float* columns() const {
    return reinterpret_cast<float*>(space.memory + space.at.columns + 8 * forward_threads);
  }
  __device__ double* partial() const { return reinterpret_cast<double*>(space.memory + space.at.columns); }

  /// Calls f(first token, tokens) for what fits into shared memory, one after the other. Ends with a barrier.
  template <class F>
  __device__ __forceinline__ void for_tokens(const encode_state& d, const encode_strand& s, F f) {
#pragma unroll 1
    for (int begin = 0; begin < tokens; begin += space.at.rows) {
      const int n = tokens - begin < space.at.rows ? tokens - begin : space.at.rows;
      if (!loaded) load_values(d, s, space, begin, n);
      loaded = tokens <= space.at.rows;
      f(begin, n);
      __syncthreads();
    }
  }
};

/// Flags tokens with a number that is not finite. A warp a row; ends with a barrier.
__device__ inline void flag_not_finite(const measurement& m, int begin, int n) {
  for (int r = static_cast<int>(threadIdx.x / 32); r < n; r += forward_threads / 32) {
    const float* const row = m.space.row(r);
    bool bad = false;
    for (int c = static_cast<int>(threadIdx.x % 32); c < m.width; c += 32)
      bad = bad || (__float_as_uint(row[c]) & 0x7f800000u) == 0x7f800000u;
    if (bad) m.space.flag(begin + r);
  }
  __syncthreads();
}

/// The sums of columns, over coded rows in their order, to means; false where no row is left. Ends with a barrier.
__device__ inline bool measure_mean(measurement& m, const encode_state& d, const encode_strand& s, bool first) {
  for (int c = static_cast<int>(threadIdx.x); c < m.ld; c += forward_threads) m.columns()[c] = 0;
  m.for_tokens(d, s, [&](int begin, int n) {
    if (first) flag_not_finite(m, begin, n);
    for (int c = static_cast<int>(threadIdx.x); c < m.width; c += forward_threads) {
      float sum = m.columns()[c];
      for (int r = 0; r < n; ++r)
        if (!m.space.flagged(begin + r)) sum = __fadd_rn(sum, m.space.row(r)[c]);
      m.columns()[c] = sum;
    }
  });
  int rows = m.tokens;
  for (int w = 0; w < (m.tokens + 31) / 32; ++w) rows -= __popc(m.space.flags()[w]);
  if (rows == 0) return false;
  auto* const bits = reinterpret_cast<std::uint16_t*>(d.workspace + s.mean_at);
  for (int c = static_cast<int>(threadIdx.x); c < m.ld; c += forward_threads) {
    f16 h = from_float<f16>(__fdiv_rn(m.columns()[c], static_cast<float>(rows)));
    if ((h.bits & 0x7c00u) == 0x7c00u) h = f16{0};
    bits[c] = h.bits;
    m.columns()[c] = to_float(h);
  }
  __syncthreads();
  return true;
}

/// Eight coefficients of a row.
__device__ __forceinline__ void coefficients_of(const measurement& m, int row, int c, float scale, float (&y)[8]) {
  const floats4* const x = reinterpret_cast<const floats4*>(m.space.row(row) + 8 * c);
  const floats4* const mean = reinterpret_cast<const floats4*>(m.columns() + 8 * c);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const floats4 a = x[i], b = mean[i];
    y[4 * i] = __fmul_rn(__fsub_rn(a.x, b.x), scale), y[4 * i + 1] = __fmul_rn(__fsub_rn(a.y, b.y), scale);
    y[4 * i + 2] = __fmul_rn(__fsub_rn(a.z, b.z), scale), y[4 * i + 3] = __fmul_rn(__fsub_rn(a.w, b.w), scale);
  }
}

/// The step of the finest of `depth` passes: the root of the mean square, over a power of three. Ends with a barrier.
__device__ inline float measure_step(measurement& m, const encode_state& d, const encode_strand& s, float scale,
                                     int depth) {
  double mine = 0;
  m.for_tokens(d, s, [&](int begin, int n) {
    share_items(m.ld / 8, [&](int c, int first, int by) {
      for (int r = first; r < n; r += by) {
        if (m.space.flagged(begin + r)) continue;
        float y[8];
        coefficients_of(m, r, c, scale, y);
#pragma unroll
        for (int i = 0; i < 8; ++i) mine += static_cast<double>(y[i]) * static_cast<double>(y[i]);
      }
    });
  });
  m.partial()[threadIdx.x] = mine;
  __syncthreads();
  for (int half = forward_threads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half)
      m.partial()[threadIdx.x] += m.partial()[threadIdx.x + static_cast<unsigned>(half)];
    __syncthreads();
  }
  int rows = m.tokens;
  for (int w = 0; w < (m.tokens + 31) / 32; ++w) rows -= __popc(m.space.flags()[w]);
  float power = 1;
  for (int i = 2; i < depth; ++i) power *= 3;
  const float rms = static_cast<float>(::sqrt(m.partial()[0] / (static_cast<double>(rows) * m.width)));
  const float step = __fdiv_rn(rms, power);
  __syncthreads();
  return step > 1e-30f && step < 1e30f ? step : 1.0f;
}

/// Integers of all tokens; true where one leaves the range, which flags it. Ends with a barrier.
__device__ inline bool round_rows(measurement& m, const encode_state& d, const encode_strand& s, float scale,
                                  float step) {
  const float inverse = __fdiv_rn(1.0f, step);
  auto* const values = reinterpret_cast<ptx::quad*>(d.workspace + s.values_at);
  bool beyond = false;
  m.for_tokens(d, s, [&](int begin, int n) {
    share_items(m.ld / 8, [&](int c, int first, int by) {
      for (int r = first; r < n; r += by) {
        float y[8];
        coefficients_of(m, r, c, scale, y);
        bool out = false;
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          y[i] = __fmul_rn(y[i], inverse);
          out = out || (__float_as_uint(y[i]) & 0x7fffffffu) > 0x46fa0000u;  // 32000, or no number
          y[i] = __fadd_rn(y[i], round_to_integer);
        }
        if (out && m.space.flag(begin + r)) beyond = true;
        values[(begin + r) * (m.ld / 8) + c] = {rounded_pair(y[0], y[1]), rounded_pair(y[2], y[3]),
                                                rounded_pair(y[4], y[5]), rounded_pair(y[6], y[7])};
      }
    });
  });
  return __syncthreads_or(beyond) != 0;
}

/// Groups without a matrix: a block a strand, forward_shared_size() bytes of shared memory.
template <int Threads = forward_threads>
__global__ void __launch_bounds__(Threads, 3) measured_forward_kernel(encode_state d) {
  encode_strand& s = d.strands[blockIdx.x];
  if (s.state != status::ok) return;
  const group_model& g = group_of(d.image, s.group);
  if (g.matrix_at != 0) return;
  measurement m{{ptx::dynamic_shared(), forward_shared_of(g.ld, d.tile_tokens, true)}, g.ld, g.width, s.count};
  const float scale = __fdiv_rn(1.0f, plane_of(d.image, g.layer, g.plane).scale);
  const int depth = head_of(d.image).depth;
  float step = 1;
  first_flags(d, s, m.space);
  // Each time around takes a row away, or is the last.
  for (bool first = true; measure_mean(m, d, s, first); first = false) {
    step = measure_step(m, d, s, scale, depth);
    if (!round_rows(m, d, s, scale, step)) break;
  }
  list_tokens(d, s, m.space);
  close_ranks(reinterpret_cast<std::int16_t*>(d.workspace + s.values_at), m.tokens, m.ld, m.space);
  if (threadIdx.x == 0) s.calibrated = false, s.step = step;
}

/// What the forward stage needs for a codec that rounds to a profile's steps. Errors: too_large (groups wider than
/// max_forward_width), cuda_error.
inline status allow_forward(const model_head& head, int tile_tokens) {
  if (head.max_width > max_forward_width) return status::too_large;
  const auto bytes = [&](bool measured) {
    return static_cast<std::size_t>(forward_shared_size(head.max_width, tile_tokens, measured));
  };
  if (const status e = allow_shared(forward_kernel<>, bytes(false)); e != status::ok) return e;
  return allow_shared(measured_forward_kernel<>, bytes(true));
}

/// Pages to integers of the strands that open_encodes() made. Errors: those of allow_forward(), which has been called
/// once for the device.
inline status forward(const encode_state& d, const model_head& head, cudaStream_t stream) {
  if (head.max_width > max_forward_width) return status::too_large;
  const auto bytes = [&](bool measured) {
    return static_cast<std::size_t>(forward_shared_size(head.max_width, d.tile_tokens, measured));
  };
  status e = launch(find_not_finite_kernel<>, d.num_strands, forward_threads, 0, stream, d);
  if (e == status::ok) e = launch(forward_kernel<>, d.num_strands, forward_threads, bytes(false), stream, d);
  if (e == status::ok) e = launch(measured_forward_kernel<>, d.num_strands, forward_threads, bytes(true), stream, d);
  return e;
}

/// The same for a codec of elements.
inline status gather_elements(const encode_state& d, cudaStream_t stream) {
  const std::size_t bytes = static_cast<std::size_t>(8 * d.tile_tokens + (d.tile_tokens + 127) / 128 * 16);
  return launch(elements_kernel<>, d.num_strands, forward_threads, bytes, stream, d);
}

}  // namespace sluice::cuda
