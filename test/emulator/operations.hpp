// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <machine.hpp>

#include <cstdint>
#include <cstring>
#include <type_traits>

// What threads of a warp and of a block do together, by CUDA's names.

#define CUDA_ON_HOST_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace cuda_on_host {

/// Calls f(lane) for each of some lanes.
template <class F>
CUDA_ON_HOST_UNSEEN inline void each(std::uint32_t lanes, F f) {
  for (; lanes != 0; lanes &= lanes - 1) f(std::countr_zero(lanes));
}

/// A word of every lane combined to one word of every lane.
inline std::uint32_t meet(operation what, std::uint32_t mask, std::uint32_t word, site where, combination* combine) {
  const quiet q;
  the_machine.in(0) = word;
  the_machine.meet(what, mask, where, combine);
  return the_machine.out(0);
}

inline std::uint32_t votes_of(const warp_state& w, std::uint32_t lanes) {
  std::uint32_t votes = 0;
  for (int i = 0; i < 32; ++i) votes |= (w.in[0][i] & 1) << i;
  return votes & lanes;
}
inline void give(warp_state& w, std::uint32_t lanes, std::uint32_t word) {
  if (lanes == ~0u)
    for (std::uint32_t& out : w.out[0]) out = word;
  else
    each(lanes, [&](int i) { w.out[0][i] = word; });
}

/// A value of T, 4 or 8 bytes, of another lane: `from` is its number, or no lane of 32 for one's own.
template <class T>
T shuffle(std::uint32_t mask, T value, unsigned from, site where) {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  const quiet q;
  machine& m = the_machine;
  std::uint32_t words[2] = {};
  std::memcpy(words, &value, sizeof value);
  m.in(0) = words[0], m.in(1) = words[1], m.in(2) = from;
  m.meet(
      operation::shfl, mask, where, +[](warp_state& w, std::uint32_t lanes) {
        each(lanes, [&](int i) {
          const std::uint32_t source = w.in[2][i];
          const bool there = (lanes >> source & 1) != 0;
          for (int k = 0; k < 2; ++k)
            w.out[k][i] = there ? w.in[k][source] : 0x7f7f7f7fu;  // of a lane that is not here
        });
      });
  words[0] = m.out(0), words[1] = m.out(1);
  std::memcpy(&value, words, sizeof value);
  return value;
}
/// The lane that a shuffle by `delta` within `width` lanes reads, its own where that is another part's.
inline unsigned shuffled_lane(int delta, int width) {
  const int lane = static_cast<int>(the_machine.lane()), part = lane / width, from = lane + delta;
  return static_cast<unsigned>(from >= 0 && from / width == part ? from : lane);
}

template <class T>
using word32 = std::enable_if_t<std::is_integral_v<T> && sizeof(T) == 4, T>;

template <class T, class Combine>
T reduce(std::uint32_t mask, T value, site where, Combine) {
  const auto word = meet(
      operation::reduce, mask, static_cast<std::uint32_t>(value), where, +[](warp_state& w, std::uint32_t lanes) {
        auto all = static_cast<T>(w.in[0][std::countr_zero(lanes)]);
        each(lanes & (lanes - 1), [&](int i) { all = Combine{}(all, static_cast<T>(w.in[0][i])); });
        give(w, lanes, static_cast<std::uint32_t>(all));
      });
  return static_cast<T>(word);
}

}  // namespace cuda_on_host

// NOLINTBEGIN(bugprone-reserved-identifier): these are CUDA's names.

inline void __syncwarp(unsigned mask = 0xffffffffu, CUDA_ON_HOST_SITE) {
  cuda_on_host::the_machine.syncwarp(mask, {file, line});
}
inline unsigned __ballot_sync(unsigned mask, int vote, CUDA_ON_HOST_SITE) {
  using namespace cuda_on_host;
  return meet(
      operation::ballot, mask, vote != 0, {file, line},
      +[](warp_state& w, std::uint32_t lanes) { give(w, lanes, votes_of(w, lanes)); });
}
inline int __all_sync(unsigned mask, int vote, CUDA_ON_HOST_SITE) {
  using namespace cuda_on_host;
  return static_cast<int>(meet(
      operation::all, mask, vote != 0, {file, line},
      +[](warp_state& w, std::uint32_t lanes) { give(w, lanes, votes_of(w, lanes) == lanes); }));
}
inline int __any_sync(unsigned mask, int vote, CUDA_ON_HOST_SITE) {
  using namespace cuda_on_host;
  return static_cast<int>(meet(
      operation::any, mask, vote != 0, {file, line},
      +[](warp_state& w, std::uint32_t lanes) { give(w, lanes, votes_of(w, lanes) != 0); }));
}
template <class T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, CUDA_ON_HOST_SITE) {
  const unsigned lane = cuda_on_host::the_machine.lane(), w = static_cast<unsigned>(width);
  return cuda_on_host::shuffle(mask, value, lane / w * w + static_cast<unsigned>(from) % w, {file, line});
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_HOST_SITE) {
  return cuda_on_host::shuffle(mask, value, cuda_on_host::shuffled_lane(-static_cast<int>(delta), width), {file, line});
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDA_ON_HOST_SITE) {
  return cuda_on_host::shuffle(mask, value, cuda_on_host::shuffled_lane(static_cast<int>(delta), width), {file, line});
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDA_ON_HOST_SITE) {
  const int lane = static_cast<int>(cuda_on_host::the_machine.lane());
  return cuda_on_host::shuffle(mask, value, cuda_on_host::shuffled_lane((lane ^ bits) - lane, width), {file, line});
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value, CUDA_ON_HOST_SITE) {
  using namespace cuda_on_host;
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
  const quiet q;
  std::uint32_t words[2] = {};
  std::memcpy(words, &value, sizeof value);
  the_machine.in(1) = words[1];
  return meet(
      operation::match_any, mask, words[0], {file, line}, +[](warp_state& w, std::uint32_t lanes) {
        each(lanes, [&](int i) {
          w.out[0][i] = 0;
          each(lanes, [&](int k) {
            if (w.in[0][k] == w.in[0][i] && w.in[1][k] == w.in[1][i]) w.out[0][i] |= 1u << k;
          });
        });
      });
}
template <class T>
cuda_on_host::word32<T> __reduce_add_sync(unsigned mask, T value, CUDA_ON_HOST_SITE) {
  return cuda_on_host::reduce(mask, value, {file, line}, [](T a, T b) {
    return static_cast<T>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
  });
}
template <class T>
cuda_on_host::word32<T> __reduce_min_sync(unsigned mask, T value, CUDA_ON_HOST_SITE) {
  return cuda_on_host::reduce(mask, value, {file, line}, [](T a, T b) { return a < b ? a : b; });
}
template <class T>
cuda_on_host::word32<T> __reduce_max_sync(unsigned mask, T value, CUDA_ON_HOST_SITE) {
  return cuda_on_host::reduce(mask, value, {file, line}, [](T a, T b) { return a > b ? a : b; });
}
inline unsigned __reduce_or_sync(unsigned mask, unsigned value, CUDA_ON_HOST_SITE) {
  return cuda_on_host::reduce(mask, value, {file, line}, [](unsigned a, unsigned b) { return a | b; });
}
inline unsigned __reduce_and_sync(unsigned mask, unsigned value, CUDA_ON_HOST_SITE) {
  return cuda_on_host::reduce(mask, value, {file, line}, [](unsigned a, unsigned b) { return a & b; });
}
inline unsigned __reduce_xor_sync(unsigned mask, unsigned value, CUDA_ON_HOST_SITE) {
  return cuda_on_host::reduce(mask, value, {file, line}, [](unsigned a, unsigned b) { return a ^ b; });
}

inline void __syncthreads(CUDA_ON_HOST_SITE) {
  cuda_on_host::the_machine.syncthreads(cuda_on_host::operation::syncthreads, true, {file, line});
}
inline int __syncthreads_and(int vote, CUDA_ON_HOST_SITE) {
  using cuda_on_host::operation;
  return static_cast<int>(cuda_on_host::the_machine.syncthreads(operation::syncthreads_and, vote != 0, {file, line}));
}
inline int __syncthreads_or(int vote, CUDA_ON_HOST_SITE) {
  using cuda_on_host::operation;
  return static_cast<int>(cuda_on_host::the_machine.syncthreads(operation::syncthreads_or, vote != 0, {file, line}));
}
inline int __syncthreads_count(int vote, CUDA_ON_HOST_SITE) {
  using cuda_on_host::operation;
  return static_cast<int>(cuda_on_host::the_machine.syncthreads(operation::syncthreads_count, vote != 0, {file, line}));
}
inline void __nanosleep(unsigned) { cuda_on_host::the_machine.give_way(); }
inline void __threadfence() { cuda_on_host::the_machine.fence(); }
inline void __threadfence_block() { cuda_on_host::the_machine.fence(); }
[[noreturn]] inline void __trap() { cuda_on_host::the_machine.fail("__trap()"); }
// NOLINTEND(bugprone-reserved-identifier)
