// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/warp/lanes.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

namespace sluice::detail {

// The tables of one block of 32 lanes, every lane with its own distribution out of 256. Row k holds, for each lane,
// t = T - 1 where T is the first slot of symbol k + 1: the symbol of a slot is the number of rows with slot > t.
// 255 = the symbol never occurs; a lane whose rows are all 255 is dead: it codes symbol 0 at no cost.
// Rows ascend within a lane, so symbol 0 always has a frequency, and a symbol may have none (equal rows).

inline constexpr int rans_lanes = warp_lanes;
inline constexpr int rans_max_symbols = 16;
inline constexpr int rans_max_digits = 4;
inline constexpr int rans_max_blocks = 8;    // of one code
inline constexpr int rans_state_bytes = 64;  // 32 states of 16 bits, before the tail's steps and the other bytes
inline constexpr int rans_max_tail = 255;    // steps of settled states at the end of a code

/// Ternary digits of a refinement: symbols 0, 1, 2 = digits 0, -1, +1, their sign turned where the value is negative.
struct ternary_block {
  alignas(32) std::uint8_t zero[2][rans_lanes];  ///< where the value so far is 0
  std::uint8_t nonzero[2][rans_lanes];           ///< where it is not

  bool operator==(const ternary_block&) const = default;
};

/// Base symbols (values 0, -1, 1, -2, 2, ...), then up to four ternary digits in the lanes that need a wider range.
struct base_block {
  alignas(32) std::uint8_t threshold[rans_max_symbols - 1][rans_lanes];
  std::uint8_t lane_digits[rans_lanes];  ///< digits of each lane; its symbol stands for a value over 3^digits
  ternary_block digit[rans_max_digits];  ///< digit[k - 1] goes from scale 3^k to 3^(k-1); not read in lanes without it
  std::uint8_t symbols;                  ///< most symbols of any lane, 1..16; rows from symbols - 1 on are not read
  std::uint8_t digits;                   ///< most digits of any lane, 0..4

  bool operator==(const base_block&) const = default;
};

/// Rows of a code that share their tables; the next run goes on where they end.
struct table_run {
  const void* tables = nullptr;  ///< base_block[blocks] or ternary_block[blocks]
  std::int32_t rows = 0;
};

/// A code to decode: `rows` tokens of `blocks` blocks, into values[row * stride + 32 * block + lane].
struct decode_job {
  const void* tables = nullptr;     ///< base_block[blocks] or ternary_block[blocks], where there are no runs
  const table_run* runs = nullptr;  ///< [num_runs], of `rows` rows together, or null
  std::int32_t num_runs = 0;
  const std::uint16_t* order = nullptr;  ///< [rows] which row comes first, second, ..; null = as they are
  const std::uint8_t* bytes = nullptr;   ///< untrusted; nothing outside bytes[0, size) is read
  std::uint32_t size = 0;
  std::int32_t blocks = 0, rows = 0;  ///< at most rans_max_blocks
  std::int16_t* values = nullptr;     ///< ternary: holds c before and 3c + r after
  std::uint8_t* symbols = nullptr;    ///< where decode_symbols writes instead
  std::int64_t stride = 0;
  std::uint8_t* states = nullptr;  ///< [rans_state_bytes] where `continues` or `goes_on`
  bool continues = false;          ///< the code begins with `states`, as another one left them, and has none of its own
  bool goes_on = false;            ///< it leaves its states in `states`, for another code that continues
  bool ok = false;                 ///< out: the bytes ended where the symbols did and every state came home
};

/// A code to encode; the mirror of decode_job.
struct encode_job {
  const void* tables = nullptr;
  const table_run* runs = nullptr;
  std::int32_t num_runs = 0;
  const std::uint16_t* order = nullptr;
  std::int32_t blocks = 0, rows = 0;
  const std::int16_t* values = nullptr;   ///< base: the values; ternary: the parents c
  const std::int8_t* digits = nullptr;    ///< ternary: r of 3c + r, -1..1
  const std::uint8_t* symbols = nullptr;  ///< what encode_symbols reads instead
  std::int64_t stride = 0;                ///< of values, digits and symbols alike
  std::uint8_t* scratch = nullptr;        ///< at least encoded_bound() bytes, of which the last ones become the code
  std::size_t capacity = 0;
  std::uint8_t* states = nullptr;  ///< as decode_job's, but handed on from the code that continues
  bool continues = false, goes_on = false;
  const std::uint8_t* bytes = nullptr;  ///< out: the code, inside scratch
  std::uint32_t size = 0;
  bool ok = false;  ///< out: the tables could express every value and the code is complete
};

/// The runs of a job that names none.
template <class Job>
SLUICE_HD constexpr int runs_of(const Job& job) noexcept {
  return job.runs ? job.num_runs : 1;
}
template <class Job>
SLUICE_HD constexpr table_run run_of(const Job& job, int i) noexcept {
  return job.runs ? job.runs[i] : table_run{job.tables, job.rows};
}

/// Scratch an encoder may touch; `digits` = most ternary digits of any block (0 for symbols and for refinements).
SLUICE_HD constexpr std::size_t encoded_bound(std::int64_t blocks, std::int64_t rows, int digits = 0) noexcept {
  return static_cast<std::size_t>(blocks * rows * (1 + digits) * rans_lanes + rans_state_bytes + 1 + rans_lanes);
}

/// Fills a lane's rows from frequencies that sum to 256 (one or more, the first at least 1); the rest become 255.
constexpr void set_rows(std::uint8_t (*rows)[rans_lanes], int row_count, int lane,
                        std::span<const std::uint16_t> freq) noexcept {
  unsigned next = 0;
  for (std::size_t k = 0; k < static_cast<std::size_t>(row_count); ++k) {
    next = k < freq.size() ? next + freq[k] : 256u;
    rows[k][lane] = static_cast<std::uint8_t>((next > 256u ? 256u : next) - 1u);
  }
}

/// Gives a lane its base distribution; block.symbols grows to hold it, rows beyond stay dead.
constexpr void set_lane(base_block& block, int lane, std::span<const std::uint16_t> freq) noexcept {
  set_rows(block.threshold, rans_max_symbols - 1, lane, freq);
  if (freq.size() > block.symbols) block.symbols = static_cast<std::uint8_t>(freq.size());
}

/// Gives a lane of a ternary table its two distributions (of digits 0, -1, +1).
constexpr void set_lane(ternary_block& block, int lane, std::span<const std::uint16_t> zero,
                        std::span<const std::uint16_t> nonzero) noexcept {
  set_rows(block.zero, 2, lane, zero);
  set_rows(block.nonzero, 2, lane, nonzero);
}

/// All lanes dead: a block that costs nothing and decodes to 0.
constexpr void set_dead(ternary_block& block) noexcept {
  for (int lane = 0; lane < rans_lanes; ++lane) set_lane(block, lane, {}, {});
}
constexpr void set_dead(base_block& block) noexcept {
  for (int lane = 0; lane < rans_lanes; ++lane) set_lane(block, lane, {}), block.lane_digits[lane] = 0;
  for (ternary_block& d : block.digit) set_dead(d);
  block.symbols = 1;
  block.digits = 0;
}

}  // namespace sluice::detail
