// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/warp/lanes.hpp>
#include <sluice/warp/targets.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace sluice::detail {

// Byte shuffles that bring the lanes of a mask of eight together at the upper end.
struct compress_table {
  alignas(64) std::uint8_t order[256][8];
};
constexpr compress_table make_compress_table() noexcept {
  compress_table t{};
  for (unsigned m = 0; m < 256; ++m)
    for (unsigned i = 8, to = 8; i-- > 0;)
      if ((m >> i & 1u) != 0) t.order[m][--to] = static_cast<std::uint8_t>(i);
  return t;
}
inline constexpr compress_table compressed = make_compress_table();

inline namespace SLUICE_HOST_ABI {

// Where a decoder's bytes come from: 32 of them may be read at p while p <= limit. Untrusted codes end where they
// like, so the last bytes are read from a padded copy, and whoever asks for more gets rubbish and `end` null.
struct byte_source {
  const std::uint8_t* p;
  const std::uint8_t* limit;
  const std::uint8_t* end;
  std::uint8_t* tail;  // tail_bytes of the caller's memory, zeroed

  static constexpr std::size_t tail_bytes = 2 * warp_lanes;

  static byte_source of(const std::uint8_t* p, std::size_t size, std::uint8_t* tail) noexcept {
    const byte_source s{p, size < warp_lanes ? nullptr : p + (size - warp_lanes), p + size, tail};
    return size < warp_lanes ? near_end(s) : s;
  }

  /// The source to go on with once p > limit.
  [[gnu::noinline, gnu::cold]] static byte_source near_end(byte_source s) noexcept {
    if (s.end == nullptr || s.limit == s.end) return {s.tail, s.tail, nullptr, s.tail};
    const auto left = static_cast<std::size_t>(s.end - s.p);
    std::memcpy(s.tail, s.p, left);
    return {s.tail, s.tail + left, s.tail + left, s.tail};
  }

  bool used_up() const noexcept { return p == end; }
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice::detail

#define SLUICE_BODY <sluice/warp/host_body.inl>
#include <sluice/warp/foreach_target.inl>
