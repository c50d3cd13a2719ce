// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/row_classes.hpp>
#include <sluice/cuda/strand.hpp>
#include <sluice/format/limits.hpp>

#include <cuda_runtime.h>

#include <cstdint>

// Rows with steps of their own on a GPU: what row_classes is on a host, read from the frame wherever it is asked for. Rows
// of one class are found 32 at a time, so nothing about them has to lie in the workspace.

namespace sluice::cuda {

/// The classes of a strand's rows.
struct row_steps {
  const std::uint8_t* classes;  ///< of each, i8 step and i8 spread
  const std::uint8_t* packed;   ///< the class of each row, `width` bits of it
  std::int32_t count;           ///< of classes; 0 = all rows are as the profile says
  std::int32_t width;           ///< bits of a class

  /// The class of a row.
  __device__ __forceinline__ int of(int row) const {
    if (width == 0) return 0;
    const unsigned bit = static_cast<unsigned>(row * width), shift = bit % 8;
    unsigned v = packed[bit / 8];
    if (shift + static_cast<unsigned>(width) > 8) v |= static_cast<unsigned>(packed[bit / 8 + 1]) << 8;
    return static_cast<int>(v >> shift & ((1u << width) - 1));
  }
  /// Of a class, in quarter octaves.
  __device__ __forceinline__ int step(int cls) const { return static_cast<std::int8_t>(classes[2 * cls]); }
  /// The same.
  __device__ __forceinline__ int spread(int cls) const { return static_cast<std::int8_t>(classes[2 * cls + 1]); }
  /// See row_class::shift().
  __device__ __forceinline__ int shift(int cls) const { return spread(cls) - step(cls); }
  /// What a row is multiplied by.
  __device__ __forceinline__ float scale(int row) const { return count == 0 ? 1.f : row_scale(step(of(row))); }
};

/// Of a section of a frame, as far as its first byte says; steps_fit() says whether it is sound.
__device__ __forceinline__ row_steps steps_of(const std::uint8_t* frame, piece section) {
  if (section.size == 0) return {nullptr, nullptr, 0, 0};
  const std::uint8_t* const bytes = frame + section.at;
  const int count = bytes[0] + 1;
  return {bytes + 1, bytes + 1 + 2 * count, count, 32 - __clz(count - 1)};
}

/// As row_classes::parse, by a whole warp: whether a section is one of so many rows.
__device__ inline bool steps_fit(const std::uint8_t* frame, piece section, int rows, unsigned lane) {
  if (section.size == 0) return true;
  const row_steps s = steps_of(frame, section);
  if (s.count > max_row_classes || rows == 0) return false;
  const auto bits = static_cast<std::uint32_t>(rows * s.width), packed = (bits + 7) / 8;
  if (section.size != 1 + 2 * static_cast<std::uint32_t>(s.count) + packed) return false;
  bool fit = true;
  for (int i = static_cast<int>(lane); i < s.count; i += 32)
    fit &= detail::abs(s.step(i)) <= max_row_step && detail::abs(s.spread(i)) <= max_row_spread;
  for (int r = static_cast<int>(lane); r < rows; r += 32) fit &= s.of(r) < s.count;
  if (bits % 8 != 0) fit &= s.packed[packed - 1] >> bits % 8 == 0;
  return __all_sync(0xffffffffu, fit) != 0;
}

}  // namespace sluice::cuda
