// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/transform/inverse_bases.hpp>
#include <sluice/config.hpp>
#include <sluice/cuda/model.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

// The encoder's matrix as tensor cores take it, and the sizes of what the forward kernels work in. Plain C++.
//
// A product of floats out of halves: x = hi + lo, both f16, carries 22 bits, and of the four products of two such numbers
// three are made (lo * lo is below the rounding of the others). What f16 lacks is range, so that rows of x and columns of
// the matrix are multiplied by powers of two first, which the sums are divided by afterwards: exact, both.

namespace sluice::cuda {

/// Widest group that has a matrix on a device.
inline constexpr int max_forward_width = 1024;

/// Channels of a group, padded to whole blocks of 32.
SLUICE_HD constexpr int forward_ld(int width) noexcept { return (width + 31) / 32 * 32; }

/// Bytes of a packed matrix: float[ld], what each column was divided by, then its halves.
SLUICE_HD constexpr std::size_t forward_bytes(int width) noexcept {
  const auto ld = static_cast<std::size_t>(forward_ld(width));
  return 4 * ld + 4 * ld * ld;
}

/// Where a part of 16 bytes of the packed halves lies, which is what a thread loads at once: of a panel of 32 columns and
/// a step of 16 rows, part 0 and 1 are hi, 2 and 3 lo, of the 32 threads of a warp.
SLUICE_HD constexpr std::size_t forward_part(int ld, int panel, int step, int part, int lane) noexcept {
  const std::size_t tile =
      static_cast<std::size_t>(panel) * static_cast<std::size_t>(ld / 16) + static_cast<std::size_t>(step);
  return 4 * static_cast<std::size_t>(ld) +
         ((tile * 4 + static_cast<std::size_t>(part)) * 32 + static_cast<std::size_t>(lane)) * 16;
}

/// Column of a panel that stands in column `n` of the 8 of product `j`: a thread's 8 sums of a row are then neighbours.
SLUICE_HD constexpr int forward_column(int j, int n) noexcept { return n / 2 * 8 + 2 * j + n % 2; }

/// The power of two that takes the largest of a column to [2^14, 2^15), as far as a float can hold its inverse.
inline int forward_exponent(const float* matrix, int width, int column) noexcept {
  std::uint32_t most = 0;
  for (int k = 0; k < width; ++k)
    most = sluice::detail::max(
        most,
        std::bit_cast<std::uint32_t>(matrix[std::size_t(k) * std::size_t(width) + std::size_t(column)]) & 0x7fffffffu);
  return most == 0 ? 0 : sluice::detail::min(14 + 127 - int(most >> 23), 126);
}
/// 2^e as a double.
inline double forward_power(int e) noexcept { return std::bit_cast<double>(std::uint64_t(1023 + e) << 52); }

/// Packs the encoder's matrix, f32 [width][width] (codec/transform/inverse_bases.hpp), into forward_bytes(width) bytes.
inline void pack_forward(const float* matrix, int width, std::byte* to) noexcept {
  const int ld = forward_ld(width);
  std::memset(to, 0, forward_bytes(width));
  for (int column = 0; column < ld; ++column) {
    const int e = column < width ? forward_exponent(matrix, width, column) : 0;
    const float back = float(forward_power(-e));
    std::memcpy(to + 4 * column, &back, sizeof back);
    const int panel = column / 32, j = column % 8 / 2, n = column % 32 / 8 * 2 + column % 2;
    for (int k = 0; column < width && k < width; ++k) {
      const float x =
          float(double(matrix[std::size_t(k) * std::size_t(width) + std::size_t(column)]) * forward_power(e));
      const f16 hi = from_float<f16>(x), lo = from_float<f16>(x - to_float(hi));
      const int row = k % 16, lane = n * 4 + row % 8 / 2;  // fragment b of m16n8k16, PTX ISA
      const int half = j % 2 * 4 + row / 8 * 2 + row % 2;  // of the 8 of a part
      std::memcpy(to + forward_part(ld, panel, k / 16, j / 2, lane) + 2 * half, &hi, 2);
      std::memcpy(to + forward_part(ld, panel, k / 16, 2 + j / 2, lane) + 2 * half, &lo, 2);
    }
  }
}

/// Adds the encoder's matrices to the image of a profile (cuda/image.hpp), so that it serves for encodes as well.
/// Errors: corrupt_profile (a singular basis), too_large (one of more than max_forward_width channels).
inline status add_forward(const profile& p, std::vector<std::byte>& image) {
  const auto inverse = sluice::detail::inverse_bases_of(p);
  if (!inverse) return status::corrupt_profile;
  model_head head = head_of(image.data());
  for (std::int32_t i = 0; i < head.strands; ++i) {
    group_model g = group_of(image.data(), i);
    if (g.matrix_at == 0) continue;
    if (g.width > max_forward_width) return status::too_large;
    g.forward_at = image.size();
    image.resize(image.size() + forward_bytes(g.width));
    pack_forward((*inverse)[std::size_t(i)].data(), g.width, image.data() + g.forward_at);
    std::memcpy(image.data() + head.groups_at + std::size_t(i) * sizeof g, &g, sizeof g);
  }
  head.size = image.size();
  std::memcpy(image.data(), &head, sizeof head);
  return status::ok;
}

inline constexpr int forward_threads = 256;

/// Bytes from row to row of floats in shared memory: padded so that eight rows lie on different banks.
SLUICE_HD constexpr int forward_stride(int ld) noexcept { return 4 * ld + 16; }

/// Rows that a block has in shared memory at a time: two blocks share a multiprocessor where that gives at least 32.
SLUICE_HD constexpr int forward_rows(int ld, int most) noexcept {
  const int fit = 100 * 1024 / forward_stride(ld) / 32 * 32;
  const int limit = (most + 31) / 32 * 32;
  return fit < 32 ? 32 : fit < limit ? fit : limit;
}

/// What a block of the forward kernels has in shared memory: offsets from its first byte.
struct forward_shared {
  int rows;     ///< at a time
  int stride;   ///< bytes from row to row
  int places;   ///< i64[rows]: bytes from the source's base to a row's first element
  int scales;   ///< float[rows]: what a row's sums are multiplied by
  int flags;    ///< u32[tile_tokens / 32]: tokens that are kept exact
  int columns;  ///< double[forward_threads], then float[ld]: for groups without a matrix
  int size;
};
SLUICE_HD constexpr forward_shared forward_shared_of(int ld, int tile_tokens, bool measured) noexcept {
  forward_shared s{};
  s.rows = forward_rows(ld, measured ? tile_tokens : tile_tokens < 128 ? tile_tokens : 128);
  s.stride = forward_stride(ld);
  s.places = s.rows * s.stride;
  s.scales = s.places + 8 * s.rows;
  s.flags = s.scales + 4 * s.rows;
  s.columns = s.flags + (tile_tokens + 127) / 128 * 16;
  s.size = s.columns + (measured ? 8 * forward_threads + 4 * ld : 0);
  return s;
}
/// Dynamic shared memory of a launch, whose groups have at most so many channels.
SLUICE_HD constexpr int forward_shared_size(int max_ld, int tile_tokens, bool measured) noexcept {
  int most = 0;
  for (int ld = 32; ld <= max_ld; ld += 32) {
    const int size = forward_shared_of(ld, tile_tokens, measured).size;
    most = size > most ? size : most;
  }
  return most;
}
static_assert(forward_shared_size(max_forward_width, 4096, true) <= 166912);
static_assert(2 * (forward_shared_of(192, 256, false).size + 1024) <= 233472);  // two blocks a multiprocessor

}  // namespace sluice::cuda
