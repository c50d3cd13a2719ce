// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/cuda/encode/encode_tables.hpp>
#include <sluice/cuda/encode/encode_work.hpp>
#include <sluice/cuda/entropy/class_tables.hpp>
#include <sluice/cuda/ptx.cuh>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

// Which classes code a strand: those of the profile, moved in blocks where the strand's own statistics disagree with it, or
// the strand's own. The arithmetic is the host's operation by operation (codec/entropy/class_rans/encode.hpp), so that
// equal integers get equal classes.

namespace sluice::cuda {

namespace detail::encoding {

inline constexpr unsigned everyone = 0xffffffffu;

__device__ __forceinline__ int lane() { return static_cast<int>(threadIdx.x % 32u); }
__device__ __forceinline__ const encode_tables& tables_of(const code_job& j) {
  return *in_image<encode_tables>(j.in.image, head_of(j.in.image).encode_tables_at);
}
__device__ __forceinline__ const std::int16_t* values_of(const code_job& j, const encode_strand& s) {
  return reinterpret_cast<const std::int16_t*>(j.in.workspace + s.values_at);
}
/// The classes that the profile has for a strand; null where it does not describe the coefficients.
__device__ __forceinline__ const std::uint8_t* known_classes(const code_job& j, const encode_strand& s,
                                                             const group_model& g) {
  return s.calibrated && g.classes_at ? in_image<std::uint8_t>(j.in.image, g.classes_at) : nullptr;
}
__device__ __forceinline__ int round_third(int v, const encode_third& t) { return __mulhi(4 * v + t.offset, t.magic); }
__device__ __forceinline__ int clamped(int v, int low, int high) { return v < low ? low : v > high ? high : v; }
__device__ __forceinline__ int magnitude(int v) { return v < 0 ? -v : v; }

/// Sum of the lanes' numbers in the order of lanes, as a host adds them.
__device__ __forceinline__ float sum_in_order(float x) {
  float sum = 0;
  for (int i = 0; i < 32; ++i) sum = __fadd_rn(sum, __shfl_sync(everyone, x, i));
  return sum;
}

/// sluice::detail::class_of(sigma, 0).
__device__ __forceinline__ int width_of(const encode_tables& t, float sigma) {
  int w = 0;
  for (int half = 32; half > 0; half /= 2) w = t.edge[w + half] <= sigma ? w + half : w;
  return w < 1 ? 1 : w;
}

/// How often each symbol of a lane occurs; see sluice::detail::block_histogram. [symbol][lane], digits behind the values.
inline constexpr int histogram_rows = encode_histogram + (max_passes - 1) * encode_digit_rows;
inline constexpr std::size_t histogram_bytes = histogram_rows * 32 * sizeof(std::uint16_t);

/// Bits of everything counted under N classes.
template <int N>
__device__ __forceinline__ void weigh(const encode_tables& t, const std::uint16_t* counts, const std::uint8_t (&cls)[N],
                                      int passes, int made, float (&bits)[N]) {
  for (int i = 0; i < N; ++i) bits[i] = 0;
  for (int v = 0; v < encode_histogram; ++v) {
    const float n = static_cast<float>(counts[32 * v]);
    for (int i = 0; i < N; ++i)
      bits[i] = __fadd_rn(bits[i], __fmul_rn(n, t.base_bits[v][class_in_pass(cls[i], passes - 1)]));
  }
  for (int p = 1; p < made; ++p) {
    const std::uint16_t* const digits = counts + 32 * (encode_histogram + (p - 1) * encode_digit_rows);
    constexpr int order[6] = {1, 4, 0, 3, 2, 5};  // -1, 0, 1 under either parent
    for (int k = 0; k < 6; ++k) {
      const float n = static_cast<float>(digits[32 * order[k]]);
      for (int i = 0; i < N; ++i)
        bits[i] = __fadd_rn(bits[i], __fmul_rn(n, t.digit_bits[order[k]][class_in_pass(cls[i], passes - 1 - p)]));
    }
  }
}

/// Counts a lane's symbols in all passes that are made.
__device__ __forceinline__ void count(const std::int16_t* values, std::ptrdiff_t ld, int rows, int passes, int made,
                                      std::uint16_t* counts) {
  for (int i = 0; i < histogram_rows; ++i) counts[32 * i] = 0;
  constexpr encode_third third = encode_third::of(1);
  for (int r = 0; r < rows; ++r) {
    int v = values[r * ld];
    for (int p = passes - 1; p > 0; --p) {
      const int parent = round_third(v, third), d = v - 3 * parent, away = parent < 0 ? -d : d;
      const int row = encode_histogram + (p - 1) * encode_digit_rows + (parent ? 3 : 0) +
                      (d == 0     ? 0
                       : away < 0 ? 1
                                  : 2);
      if (p < made) ++counts[32 * row];
      v = parent;
    }
    ++counts[32 * (clamped(v, -encode_reach, encode_reach) + encode_reach)];
  }
}

/// encode_third::of() of a number that is not known before.
__device__ inline encode_third third_of(int n) {
  static constexpr encode_third of[max_passes] = {encode_third::of(0), encode_third::of(1), encode_third::of(2),
                                                  encode_third::of(3), encode_third::of(4), encode_third::of(5)};
  return of[n];
}
/// What the codes say of a value, see encode_clip.
__device__ __forceinline__ int coded_value(int v, std::uint32_t word) {
  const encode_clip c = encode_clip::of(word);
  const int t = round_third(v, third_of(c.levels));
  return v - power3(c.levels) * (t - clamped(t, -c.limit, c.limit));
}

/// The correction of a value in a pass, 0 where its class says it; a lane is dead in its first `dead` passes.
__device__ __forceinline__ int correction(int v, int pass, int passes, int dead, int limit) {
  const int at = round_third(v, third_of(passes - 1 - pass));
  if (pass == 0) return at - clamped(at, -limit, limit);
  return pass < dead ? at - 3 * round_third(at, encode_third::of(1)) : 0;
}

/// In how many passes of those made, from the base on, a class is dead.
__device__ __forceinline__ int dead_passes(const encode_tables& t, std::uint8_t cls, int passes, int made) {
  int dead = 0;
  while (dead < made && !t.alive[class_in_pass(cls, passes - 1 - dead)]) ++dead;
  return dead;
}

}  // namespace detail::encoding

/// A warp, which is a block of threads so that all of its branches are seen to be one way, for every block of every strand;
/// histogram_bytes of shared memory.
template <class = void>
__global__ void __launch_bounds__(32, 28) choose_classes_kernel(code_job j) {
  using namespace detail::encoding;
  const int strand = static_cast<int>(blockIdx.x) / j.max_blocks, b = static_cast<int>(blockIdx.x) % j.max_blocks;
  const encode_strand& s = j.in.strands[strand];
  if (s.state != status::ok || s.rows == 0) return;
  const group_model& g = group_of(j.in.image, s.group);
  if (32 * b >= g.ld) return;
  const encode_tables& t = tables_of(j);
  encode_block& out = j.blocks_of(strand)[b];
  const std::int16_t* const values = values_of(j, s) + 32 * b + lane();
  const int passes = head_of(j.in.image).depth, made = j.in.requests[s.request].passes, rows = s.rows;

  float energy = 0;
  int largest = 0;
  for (int r = 0; r < rows; ++r) {
    const int v = values[r * std::ptrdiff_t{g.ld}];
    const float f = static_cast<float>(v);
    energy = __fadd_rn(energy, __fmul_rn(f, f));
    largest = magnitude(v) > largest ? magnitude(v) : largest;
  }
  out.largest[lane()] = static_cast<std::uint16_t>(largest);
  const float sigma = __fsqrt_rn(__fdiv_rn(energy, static_cast<float>(rows)));
  std::uint16_t* const counts = reinterpret_cast<std::uint16_t*>(ptx::dynamic_shared()) + lane();
  const int width = width_of(t, sigma);
  const std::uint8_t* const known = known_classes(j, s, g);
  if (known == nullptr) {
    count(values, g.ld, rows, passes, made, counts);
    // Of every family the class of this deviation and two on either side.
    int best = sluice::detail::class_widths + width;
    float least = 1e30f;
    for (int shape = 0; shape < sluice::detail::class_shapes; ++shape) {
      std::uint8_t cls[5];
      float bits[5];
      for (int d = 0; d < 5; ++d)
        cls[d] =
            sluice::detail::shift_class(static_cast<std::uint8_t>(shape * sluice::detail::class_widths + width), d - 2);
      weigh(t, counts, cls, passes, made, bits);
      for (int d = 0; d < 5; ++d)
        if (bits[d] < least) least = bits[d], best = cls[d];
    }
    out.classes[lane()] = static_cast<std::uint8_t>(32 * b + lane() < g.width ? best : 0);
    if (lane() == 0) out.saved = 0;
    return;
  }

  const std::uint8_t cls = known[32 * b + lane()];
  const int w = cls % sluice::detail::class_widths;
  // A cheap test before counting: is the saving that the deviations promise worth 16 bytes?
  const float d = __fmul_rn(0.1733f, static_cast<float>(width - w));
  const float per_step = __fdiv_rn(sigma, static_cast<float>(power3(passes - made)));
  const float promise =
      __fmul_rn(__fmul_rn(__fmul_rn(static_cast<float>(rows), d), d), per_step < 1.f ? per_step : 1.f);
  float saved = 0;
  int delta = 0;
  if (sum_in_order(w == 0 ? 0.f : promise) > 100.f) {
    count(values, g.ld, rows, passes, made, counts);
    const int guess = clamped(width - w, -7, 6);
    const std::uint8_t tried[4] = {cls, sluice::detail::shift_class(cls, guess - 1),
                                   sluice::detail::shift_class(cls, guess),
                                   sluice::detail::shift_class(cls, guess + 1)};
    float bits[4];
    weigh(t, counts, tried, passes, made, bits);
    float best = bits[0];
    for (int i = 1; i < 4; ++i)
      if (bits[i] < best) best = bits[i], delta = guess + i - 2;
    if (w == 0) delta = 0;
    saved = sum_in_order(w == 0 ? 0.f : __fsub_rn(bits[0], best));
  }
  const int next = __shfl_sync(everyone, delta, lane() | 1);
  if (lane() % 2 == 0) out.nibbles[lane() / 2] = static_cast<std::uint8_t>((delta & 15) | (next & 15) << 4);
  if (lane() == 0) out.saved = saved;
}

/// A warp, which is a block of threads, for every strand.
template <class = void>
__global__ void __launch_bounds__(32) plan_codes_kernel(code_job j) {
  using namespace detail::encoding;
  const int strand = static_cast<int>(blockIdx.x);
  const encode_strand& s = j.in.strands[strand];
  if (s.state != status::ok) return;
  encode_tile& tile = j.tiles[strand];
  if (s.rows == 0) {
    if (lane() == 0) tile.kept = true;
    return;
  }
  const group_model& g = group_of(j.in.image, s.group);
  const encode_tables& t = tables_of(j);
  encode_block* const blocks = j.blocks_of(strand);
  const int passes = head_of(j.in.image).depth, made = j.in.requests[s.request].passes, n = g.ld / 32;
  const std::uint8_t* const known = known_classes(j, s, g);

  // The first block with deltas pays for the mask of blocks as well.
  const float saved = lane() < n && known ? blocks[lane()].saved : 0.f;
  const unsigned pay = __ballot_sync(everyone, saved >= 8 * 16), first = __ballot_sync(everyone, saved >= 8 * 16 + 32);
  const unsigned moved = first ? pay & ~((first & (0u - first)) - 1) : 0;

  // Of every pass, in the lane of its number: blocks that it codes, and exceptions.
  int last = 0;
  std::uint32_t found = 0;
  for (int b = 0; b < n; ++b) {
    encode_block& out = blocks[b];
    std::uint8_t cls = out.classes[lane()];
    if (known) {
      cls = known[32 * b + lane()];
      const int nibble = out.nibbles[lane() / 2] >> (lane() % 2 ? 4 : 0) & 15;
      if (moved >> b & 1) cls = sluice::detail::shift_class(cls, nibble < 8 ? nibble : nibble - 16);
      out.classes[lane()] = cls;
    }
    const int dead = dead_passes(t, cls, passes, made);
    for (int p = 0; p < made; ++p)
      if (__ballot_sync(everyone, dead <= p) != 0 && lane() == p) last = b + 1;
    const int limit = t.limit[class_in_pass(cls, passes - 1)];
    const encode_clip clip = dead ? encode_clip{0, passes - dead} : encode_clip{limit, passes - 1};
    std::uint32_t here = 0;
    if (__ballot_sync(everyone, out.largest[lane()] > clip.largest()) != 0) {
      const std::int16_t* const values = values_of(j, s) + 32 * b + lane();
      for (int r = 0; r < s.rows; ++r) {
        const int v = values[r * std::ptrdiff_t{g.ld}];
        if (__ballot_sync(everyone, magnitude(v) > clip.largest()) == 0) continue;
        for (int p = 0; p < made; ++p) {
          const unsigned beyond = __ballot_sync(everyone, correction(v, p, passes, dead, limit) != 0);
          if (lane() == p) here += static_cast<std::uint32_t>(__popc(beyond));
        }
      }
    }
    out.clip[lane()] = clip.word();
    if (lane() < max_passes) out.exceptions[lane()] = here;
    found += here;
  }
  const bool kept = __ballot_sync(everyone, found > encode_max_exceptions) != 0;
  if (lane() < max_passes) {
    tile.blocks[lane()] = static_cast<std::uint8_t>(last);
    tile.exceptions[lane()] = found;
  }
  if (lane() == 0) {
    tile.kept = kept;
    tile.explicit_classes = known == nullptr;
    tile.delta_blocks = moved;
  }
}

}  // namespace sluice::cuda
