// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/warp/targets.hpp>
#if !SLUICE_LINKS_KERNELS
#include <sluice/warp/floats.hpp>
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

// Fixed-width codes of 1 to 8 bits, and the group quantiser of the fixed-rate codecs. Layout of packed codes, rows r of
// blocks b of 32 lanes i (normative, repeated in FORMAT.md):
//
//   The width w is a sum of distinct parts from {8, 4, 2, 1}. A code is cut into its parts from the lowest bits up, the
//   largest part first: 5 = 4 + 1 is bits 0-3 and bit 4; 7 = 4 + 2 + 1 is bits 0-3, bits 4-5 and bit 6.
//   Rows are taken in groups of eight, the last one may be shorter; for each row group (outer) and each block (inner),
//   the parts follow in that order. A part of p bits is a run of planes of 32 bytes, byte i for lane i. A byte holds
//   8 / p rows, the earliest in its lowest bits: row j of a group stands in plane j / (8 / p) at bit p * (j % (8 / p)).
//   A short group has the ceil(rows * p / 8) planes it needs; bits without a row are zero and ignored.
//
// Quantised groups: `group_rows` rows (a multiple of eight; the last group may be shorter) of one lane share an f16 step
// and an f16 zero, x = code * step + zero, one float rounding. Bytes: for each row group (outer) and block, step of the
// 32 lanes, then zero of the 32 lanes; after all of these, the packed codes of all rows.

namespace sluice {

namespace detail {

struct bitpack_job {
  std::uint8_t* packed = nullptr;
  std::uint8_t* scales = nullptr;  // f16 [row groups][blocks][step, zero][32]
  std::uint8_t* values = nullptr;  // codes [rows][stride]
  std::int16_t* wide = nullptr;    // or codes as 16 bits
  float* floats = nullptr;         // or what they stand for
  std::int64_t stride = 0;
  std::int32_t rows = 0, blocks = 0, group_rows = 8;
};

/// The f16 one step below; not for NaN or -infinity.
SLUICE_HD constexpr f16 next_below(f16 x) noexcept {
  if (x.bits & 0x8000) return {static_cast<std::uint16_t>(x.bits + 1)};
  return {static_cast<std::uint16_t>(x.bits == 0 ? 0x8001 : x.bits - 1)};
}
SLUICE_HD constexpr f16 next_above(f16 x) noexcept {
  const f16 mirrored = next_below({static_cast<std::uint16_t>(x.bits ^ 0x8000)});
  return {static_cast<std::uint16_t>(mirrored.bits ^ 0x8000)};
}

/// Step and zero of a group with values in [low, high], so that the codes 0..levels reach both ends: zero is rounded
/// down and step up. A constant that f16 holds has step 0. False where one of them is beyond f16. The same on a GPU, but
/// for numbers below 2^-126 where flags make it take these for zeros.
SLUICE_HD constexpr bool group_scale(float low, float high, int levels, f16& step, f16& zero) noexcept {
  if (!(low >= -65504.f && high <= 3.4e38f)) return false;
  zero = from_float<f16>(low < 65504.f ? low : 65504.f);
  if (to_float(zero) > low) zero = next_below(zero);
  // Divided as doubles and rounded once more, which gives the same: under -use_fast_math a GPU divides floats inexactly.
  const auto span = static_cast<float>(static_cast<double>(high - to_float(zero)) / levels);
  if (!(span <= 65504.f)) return false;
  step = from_float<f16>(span);
  if (to_float(step) < span) step = next_above(step);
  return true;
}

}  // namespace detail
}  // namespace sluice

#define SLUICE_FUNCTIONS                                                     \
  namespace packing {                                                        \
  SLUICE_KERNEL void pack(int width, const bitpack_job& job) noexcept;       \
  SLUICE_KERNEL void unpack(int width, const bitpack_job& job) noexcept;     \
  SLUICE_KERNEL bool quantize(int width, const bitpack_job& job) noexcept;   \
  SLUICE_KERNEL void dequantize(int width, const bitpack_job& job) noexcept; \
  }
#define SLUICE_BODY <sluice/codec/entropy/bitpack/bitpack_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice {

/// Bytes of `rows` x `blocks` blocks of codes of `width` bits; 0 where an argument is out of range.
SLUICE_HD constexpr std::size_t packed_size(int width, std::int64_t rows, std::int64_t blocks) noexcept {
  if (width < 1 || width > 8 || rows < 0 || blocks < 0) return 0;
  std::int64_t planes = rows / 8 * width;
  for (int part = 1; part <= 8; part *= 2)
    if (width & part) planes += (rows % 8 * part + 7) / 8;
  return static_cast<std::size_t>(32 * planes * blocks);
}

/// Bytes of the same codes with their steps and zeros.
constexpr std::size_t quantized_size(int width, std::int64_t group_rows, std::int64_t rows,
                                     std::int64_t blocks) noexcept {
  if (group_rows < 8 || group_rows % 8 != 0 || rows < 0 || blocks < 0) return 0;
  const std::int64_t groups = (rows + group_rows - 1) / group_rows;
  return static_cast<std::size_t>(groups * blocks * 128) + packed_size(width, rows, blocks);
}

namespace detail::inline SLUICE_HOST_ABI {

inline void pack_job(isa on, int width, const bitpack_job& job) noexcept {
  SLUICE_RETURN_ON(on, packing::pack(width, job))
}
inline void unpack_job(isa on, int width, const bitpack_job& job) noexcept {
  SLUICE_RETURN_ON(on, packing::unpack(width, job))
}
/// False where the range of a group does not fit f16.
inline bool quantize_job(isa on, int width, const bitpack_job& job) noexcept {
  SLUICE_RETURN_ON(on, packing::quantize(width, job))
}
inline void dequantize_job(isa on, int width, const bitpack_job& job) noexcept {
  SLUICE_RETURN_ON(on, packing::dequantize(width, job))
}

constexpr bool bitpack_arguments(int width, int group_rows, std::int64_t stride, int rows, int blocks) noexcept {
  return width >= 1 && width <= 8 && group_rows >= 8 && group_rows % 8 == 0 && rows >= 0 && rows <= 1 << 30 &&
         blocks >= 0 && stride >= 32 * std::int64_t{blocks};
}

inline std::uint8_t* bitpack_bytes(std::span<const std::byte> s) noexcept {
  return const_cast<std::uint8_t*>(reinterpret_cast<const std::uint8_t*>(s.data()));
}

template <class T>
bitpack_job codes_job(std::span<const std::byte> packed, T* values, std::int64_t stride, int rows,
                      int blocks) noexcept {
  bitpack_job job{.packed = bitpack_bytes(packed), .stride = stride, .rows = rows, .blocks = blocks};
  if constexpr (sizeof(T) == 1)
    job.values = values;
  else
    job.wide = values;
  return job;
}

inline status expect_size(std::size_t size, std::size_t expected) noexcept {
  return size < expected ? status::truncated : size > expected ? status::corrupt_tile : status::ok;
}

}  // namespace detail::inline SLUICE_HOST_ABI

inline namespace SLUICE_HOST_ABI {

/// Packs the low `width` bits of values[row * stride + 32 * block + lane] into packed_size() bytes at the front of `out`.
/// Values are 8 or 16 bits wide. Errors: invalid_argument, output_too_small.
template <class T>
requires(std::is_same_v<T, std::uint8_t> || std::is_same_v<T, std::int16_t>) status
    pack_bits(int width, const T* values, std::int64_t stride, int rows, int blocks, std::span<std::byte> out,
              isa on = isa::best)
noexcept {
  if (!detail::bitpack_arguments(width, 8, stride, rows, blocks)) return status::invalid_argument;
  if (out.size() < packed_size(width, rows, blocks)) return status::output_too_small;
  detail::pack_job(on, width, detail::codes_job(out, const_cast<T*>(values), stride, rows, blocks));
  return status::ok;
}

/// The reverse; `in` holds exactly packed_size() bytes, whatever their values.
/// Errors: invalid_argument, truncated, corrupt_tile (too many bytes).
template <class T>
requires(std::is_same_v<T, std::uint8_t> || std::is_same_v<T, std::int16_t>) status
    unpack_bits(int width, std::span<const std::byte> in, T* values, std::int64_t stride, int rows, int blocks,
                isa on = isa::best)
noexcept {
  if (!detail::bitpack_arguments(width, 8, stride, rows, blocks)) return status::invalid_argument;
  if (const status s = detail::expect_size(in.size(), packed_size(width, rows, blocks)); s != status::ok) return s;
  detail::unpack_job(on, width, detail::codes_job(in, values, stride, rows, blocks));
  return status::ok;
}

/// Quantises x[row * stride + 32 * block + lane] by groups of `group_rows` rows of a lane into quantized_size() bytes.
/// Finite values only (others give some code). Errors: invalid_argument, output_too_small; too_large where the range of
/// a group does not fit f16, for the caller to keep these rows as they are.
inline status quantize_groups(int width, int group_rows, const float* x, std::int64_t stride, int rows, int blocks,
                              std::span<std::byte> out, isa on = isa::best) noexcept {
  if (!detail::bitpack_arguments(width, group_rows, stride, rows, blocks)) return status::invalid_argument;
  const std::size_t scales = quantized_size(width, group_rows, rows, blocks) - packed_size(width, rows, blocks);
  if (out.size() < quantized_size(width, group_rows, rows, blocks)) return status::output_too_small;
  detail::bitpack_job job{.packed = detail::bitpack_bytes(out.subspan(scales)),
                          .scales = detail::bitpack_bytes(out),
                          .floats = const_cast<float*>(x),
                          .stride = stride,
                          .rows = rows,
                          .blocks = blocks,
                          .group_rows = group_rows < 1 << 30 ? group_rows : 1 << 30};
  return detail::quantize_job(on, width, job) ? status::ok : status::too_large;
}

/// The reverse: code * step + zero, the same floats on every machine; `in` holds exactly quantized_size() bytes.
/// Errors: invalid_argument, truncated, corrupt_tile (too many bytes). Damaged steps may give non-finite values.
inline status dequantize_groups(int width, int group_rows, std::span<const std::byte> in, float* x, std::int64_t stride,
                                int rows, int blocks, isa on = isa::best) noexcept {
  if (!detail::bitpack_arguments(width, group_rows, stride, rows, blocks)) return status::invalid_argument;
  const std::size_t size = quantized_size(width, group_rows, rows, blocks);
  if (const status s = detail::expect_size(in.size(), size); s != status::ok) return s;
  const std::size_t scales = size - packed_size(width, rows, blocks);
  detail::bitpack_job job{.packed = detail::bitpack_bytes(in.subspan(scales)),
                          .scales = detail::bitpack_bytes(in),
                          .floats = x,
                          .stride = stride,
                          .rows = rows,
                          .blocks = blocks,
                          .group_rows = group_rows < 1 << 30 ? group_rows : 1 << 30};
  detail::dequantize_job(on, width, job);
  return status::ok;
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
