// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/tables.hpp>

#include <cstddef>
#include <cstdint>

namespace sluice::cuda {

using detail::alphabet;
using detail::base_block;
using detail::decode_job;
using detail::encode_job;
using detail::encoded_bound;
using detail::rans_lanes;
using detail::rans_max_blocks;
using detail::rans_max_digits;
using detail::rans_max_symbols;
using detail::rans_max_tail;
using detail::rans_state_bytes;
using detail::run_of;
using detail::runs_of;
using detail::table_run;
using detail::ternary_block;

/// The 32-lane machine of warp/host.hpp with a thread as a lane: same members, same bytes. All 32 threads take part in
/// every call; plans and what they point to lie in memory that the warp shares.
struct warp {
  static constexpr unsigned everyone = 0xffffffffu;

  unsigned lane;
  unsigned before;  // lanes before this one

  static __device__ __forceinline__ warp make() {
    const unsigned lane = threadIdx.x % 32u;
    return {lane, (1u << lane) - 1u};
  }
  static __device__ __forceinline__ void sync() { __syncwarp(); }
  __device__ __forceinline__ bool leads() const { return lane == 0; }

  struct words {
    int v;
  };
  struct state {
    unsigned x;
    unsigned floor;  // a lane below it takes a byte when decoding: 256, and 0 once settled
  };
  struct lane_set {
    unsigned m;
  };

  // Every byte is loaded by the lane that needs it, and only where there is one.
  struct source {
    const std::uint8_t* bytes;
    std::uint32_t at, size;

    static __device__ __forceinline__ source of(const std::uint8_t* p, std::uint32_t size, std::uint8_t*) {
      return {p, 0, size};
    }
    __device__ __forceinline__ bool used_up() const { return at == size; }
  };

  // --- decoding tables ---
  // One word a lane: start << 24 | (freq - 1) << 16 | symbol. All ones where a symbol never occurs.
  struct row {
    std::uint32_t entry[rans_lanes];
  };
  struct hit {
    std::uint32_t entry;
  };
  using digit_hit = hit;
  static __device__ __forceinline__ constexpr int rows_of(int count) { return count + 1; }
  static __device__ __forceinline__ constexpr int searched(int n) { return n <= 1 ? 1 : n <= 3 ? 3 : n <= 7 ? 7 : 15; }

  __device__ __forceinline__ void make_rows(row* out, const std::uint8_t (*t)[rans_lanes], int count,
                                            lane_set live) const {
    unsigned start = 0;
    for (int k = 0; k <= count; ++k) {
      const unsigned last = threshold(t, k, count, live);
      const unsigned freq_1 = last < start ? 0 : last - start;
      out[k].entry[lane] = start > 255 ? everyone : start << 24 | freq_1 << 16 | static_cast<unsigned>(k);
      start = last + 1;
    }
  }
  __device__ __forceinline__ unsigned threshold(const std::uint8_t (*t)[rans_lanes], int k, int count,
                                                lane_set live) const {
    return k < count && has(live) ? t[k][lane] : 255u;
  }
  __device__ __forceinline__ void make_dead(row& out) const { out.entry[lane] = everyone; }

  // --- decoding ---
  __device__ __forceinline__ state load_state(const std::uint8_t* p) const {
    return {p[2 * lane] | static_cast<unsigned>(p[2 * lane + 1]) << 8, 256};
  }
  __device__ __forceinline__ bool valid(state s) const { return __all_sync(everyone, s.x >= 256) != 0; }
  __device__ __forceinline__ state settle(state s) const { return {(s.x - 256) & 0xffffu, 0}; }
  __device__ __forceinline__ bool home(state s) const { return __all_sync(everyone, s.x == 0) != 0; }

  /// The last row that starts at or before the slot, by halving; Count + 1 is a power of two.
  template <alphabet A, int Count>
  __device__ __forceinline__ hit search(state s, const row* rows) const {
    const std::uint32_t slot = s.x << 24 | 0xffffffu;
    std::uint32_t found = rows[0].entry[lane];
    for (int half = (Count + 1) / 2; half > 0; half /= 2) {
      const std::uint32_t entry = rows[half].entry[lane];
      const bool reached = slot > entry;
      found = reached ? entry : found;
      rows = reached ? rows + half : rows;
    }
    return {found};
  }
  /// rows = zero[3], nonzero[3], chosen by the lane's parent.
  __device__ __forceinline__ hit search_digit(state s, const row* rows, words parent) const {
    const std::uint32_t slot = s.x << 24 | 0xffffffu;
    rows += parent.v == 0 ? 0 : 3;
    const std::uint32_t minus = rows[1].entry[lane], plus = rows[2].entry[lane];
    const std::uint32_t found = slot > minus ? minus : rows[0].entry[lane];
    return {slot > plus ? plus : found};
  }
  /// x = freq * (x >> 8) + slot - start, then one byte of the code for every lane below 256, in lane order.
  __device__ __forceinline__ void advance(state& s, hit h, source& in) const {
    const unsigned freq_1 = h.entry >> 16 & 255u, high = s.x >> 8;
    unsigned x = freq_1 * high + high + (s.x & 255u) - (h.entry >> 24);
    const bool low = x < s.floor;
    const unsigned takers = __ballot_sync(everyone, low);
    const std::uint32_t at = in.at + static_cast<std::uint32_t>(__popc(takers & before));
    if (low) x = x << 8 | (at < in.size ? in.bytes[at] : 0u);
    in.at = min(in.at + static_cast<std::uint32_t>(__popc(takers)), in.size + 1);  // once beyond, for good
    s.x = x;
  }
  __device__ __forceinline__ words decoded(hit h) const {
    const int symbol = static_cast<int>(h.entry & 255u);
    return {(symbol >> 1) ^ -(symbol & 1)};
  }
  /// 3 * parent + digit, the digit's sign turned where the parent is negative.
  __device__ __forceinline__ words refined(words parent, hit h) const {
    const int symbol = static_cast<int>(h.entry & 255u), digit = (symbol >> 1) - (symbol & 1);
    return {static_cast<std::int16_t>(3 * parent.v + (parent.v < 0 ? -digit : digit))};
  }

  // --- words and lanes ---
  __device__ __forceinline__ words load(const std::int16_t* p) const { return {p[lane]}; }
  __device__ __forceinline__ void store(std::int16_t* p, words v) const { p[lane] = static_cast<std::int16_t>(v.v); }
  __device__ __forceinline__ void store_symbols(std::uint8_t* p, hit h) const {
    p[lane] = static_cast<std::uint8_t>(h.entry);
  }
  __device__ __forceinline__ words load_bytes(const std::uint8_t* p) const { return {p[lane]}; }
  __device__ __forceinline__ words load_signed_bytes(const std::int8_t* p) const { return {p[lane]}; }
  __device__ __forceinline__ words zero() const { return {0}; }
  __device__ __forceinline__ lane_set all() const { return {everyone}; }
  __device__ __forceinline__ lane_set none() const { return {0}; }
  __device__ __forceinline__ lane_set either(lane_set a, lane_set b) const { return {a.m | b.m}; }
  __device__ __forceinline__ bool any(lane_set s) const { return s.m != 0; }
  __device__ __forceinline__ bool has(lane_set s) const { return (s.m >> lane & 1u) != 0; }
  __device__ __forceinline__ lane_set at_least(const std::uint8_t* lanes, int n) const {
    return {__ballot_sync(everyone, lanes[lane] >= n)};
  }
  __device__ __forceinline__ words select(lane_set s, words yes, words no) const { return has(s) ? yes : no; }

  // --- encoding ---
  // (freq - 1) << 8 | start, all ones where a symbol has no frequency.
  struct code_row {
    std::uint16_t word[rans_lanes];
  };
  struct code {
    unsigned word;
  };
  static constexpr unsigned no_code = 0xffffu;

  __device__ __forceinline__ void make_codes(code_row* out, const std::uint8_t (*t)[rans_lanes], int count,
                                             lane_set live) const {
    unsigned start = 0;
    for (int k = 0; k <= count; ++k) {
      const unsigned last = threshold(t, k, count, live);
      out[k].word[lane] = static_cast<std::uint16_t>(last < start ? no_code : (last - start) << 8 | start);
      start = last + 1;
    }
  }
  __device__ __forceinline__ code find(const code_row* rows, int count, words symbol) const {
    const unsigned s = static_cast<std::uint16_t>(symbol.v);
    return {s <= static_cast<unsigned>(count) ? rows[s].word[lane] : no_code};
  }
  __device__ __forceinline__ code find_digit(const code_row* rows, words parent, words digit) const {
    const int r = parent.v < 0 ? -digit.v : digit.v;
    if (r < -1 || r > 1) return {no_code};
    return {rows[(parent.v == 0 ? 0 : 3) + (r == 0 ? 0 : r < 0 ? 1 : 2)].word[lane]};
  }
  __device__ __forceinline__ lane_set impossible(code c) const { return {__ballot_sync(everyone, c.word == no_code)}; }
  __device__ __forceinline__ state first_state() const { return {0, 0}; }
  __device__ __forceinline__ bool liftable(state s) const { return __all_sync(everyone, s.x < 0xff00u) != 0; }
  __device__ __forceinline__ state lift(state s) const { return {s.x + 256, s.floor}; }
  __device__ __forceinline__ void store_state(std::uint8_t* p, state s) const {
    p[2 * lane] = static_cast<std::uint8_t>(s.x);
    p[2 * lane + 1] = static_cast<std::uint8_t>(s.x >> 8);
  }
  /// Lanes at or above 256 * freq put their low byte before p, in lane order; x = 256 * (x / freq) + start + x % freq.
  __device__ __forceinline__ void push(state& s, code c, std::uint8_t*& p) const {
    const unsigned freq_1 = c.word >> 8, freq = freq_1 + 1, start = c.word & 255u;
    const bool full = s.x >> 8 > freq_1;
    const unsigned givers = __ballot_sync(everyone, full);
    p -= __popc(givers);
    if (full) p[__popc(givers & before)] = static_cast<std::uint8_t>(s.x);
    const unsigned x = full ? s.x >> 8 : s.x;
    // The estimate is lowered by more than its error: right or one too small, under any flags for float arithmetic.
    const float estimate = __fmul_rn(__uint2float_rn(x), __frcp_rn(__uint2float_rn(freq)));
    unsigned q = __float2uint_rz(__fadd_rn(estimate, -0.02f));
    unsigned rest = x - q * freq;
    if (rest >= freq) ++q, rest -= freq;
    s.x = ((q << 8) + rest + start) & 0xffffu;
  }
  __device__ __forceinline__ words symbol_of(words v) const {
    return {static_cast<std::uint16_t>(v.v < 0 ? -2 * v.v - 1 : 2 * v.v)};
  }
  __device__ __forceinline__ words third(words v) const { return {(v.v + (v.v < 0 ? -1 : 1)) / 3}; }
  __device__ __forceinline__ words minus_triple(words v, words parent) const {
    return {static_cast<std::int16_t>(v.v - 3 * parent.v)};
  }
};

}  // namespace sluice::cuda
