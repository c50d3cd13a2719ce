// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/split_exponent/format.hpp>
#include <sluice/codec/entropy/split_exponent/plan.hpp>
#include <sluice/codec/rans/rans.hpp>
#include <sluice/warp/targets.hpp>
#if !SLUICE_LINKS_KERNELS
#include <sluice/warp/floats.hpp>
#endif

#include <cstddef>
#include <cstdint>
#include <new>
#include <span>
#include <vector>

// Strips of a lossless tile on their way: what bodies are given, on which instruction set they run, and the workspace.

namespace sluice {

namespace detail {

/// One strip and what a task reads or writes of it.
struct strip_job {
  const strip_lanes_table* lanes = nullptr;
  std::uint8_t* symbols = nullptr;  // [rows][32 blocks]
  std::uint8_t* packed = nullptr;   // [rows][row_bytes]
  std::byte* elements = nullptr;    // the strip's first; rows `stride` bytes apart
  std::byte* escapes = nullptr;
  std::ptrdiff_t stride = 0;
  std::size_t row_bytes = 0;
  std::uint32_t escape_limit = 0;  // join: as many as there are; cut: room for
  std::int32_t rows = 0, columns = 0, blocks = 0;
  std::int32_t stretch = 0;  // from the field's sign to the element's
  std::int32_t bits = 0;     // of an element, less the dropped ones; not for join
  std::int32_t dropped = 0;
  std::int32_t alphabet = 0;  // symbols; cut
};

/// A strip to decode, as lanes, coder and machine want it.
struct strip_tables {
  strip_lanes_table lanes;
  base_block blocks[rans_max_blocks];
};

SLUICE_HD inline strip_job job_of(const element_format& f, std::byte* elements, std::ptrdiff_t stride, int rows,
                                  int columns, std::uint8_t* symbols) noexcept {
  strip_job job;
  job.elements = elements;
  job.stride = stride;
  job.rows = rows;
  job.columns = columns;
  job.blocks = (columns + rans_lanes - 1) / rans_lanes;
  job.symbols = symbols;
  job.stretch = f.bits - 1 - f.mantissa;
  return job;
}

/// The jobs of a parsed strip: the code's symbols, then what they are joined to.
SLUICE_HD inline void set_jobs(const strip_view& s, strip_tables& tables, strip_job& job, decode_job& stream) noexcept {
  for (base_block& t : tables.blocks) t.symbols = static_cast<std::uint8_t>(s.symbols), t.digits = 0;
  job.lanes = &tables.lanes;
  job.packed = const_cast<std::uint8_t*>(s.rows);
  job.escapes = reinterpret_cast<std::byte*>(const_cast<std::uint8_t*>(s.escapes));
  job.escape_limit = s.escape_count;
  job.row_bytes = s.row_bytes;
  job.dropped = s.dropped;
  stream = {};
  stream.tables = tables.blocks;
  stream.bytes = s.stream;
  stream.size = s.stream_size;
  stream.blocks = s.blocks;
  stream.rows = job.rows;
  stream.symbols = job.symbols;
  stream.stride = s.blocks * rans_lanes;
}

}  // namespace detail
}  // namespace sluice

#define SLUICE_FUNCTIONS                                                                                         \
  namespace lossless {                                                                                           \
  SLUICE_KERNEL bool join(int size, const strip_job& job) noexcept;                                              \
  SLUICE_KERNEL void facts(int size, const strip_job& job, column_fact_table& table) noexcept;                   \
  SLUICE_KERNEL bool cut(int size, const strip_job& job, std::uint32_t* escape_count) noexcept;                  \
  SLUICE_KERNEL void count(const strip_job& job, symbol_counts* counts) noexcept;                                \
  SLUICE_KERNEL void pack(int size, const strip_job& job) noexcept;                                              \
  SLUICE_KERNEL std::uint64_t choose_tables(const symbol_counts* counts, int columns, const symbol_costs* costs, \
                                            int tables, std::uint8_t* chosen) noexcept;                          \
  }
#define SLUICE_BODY <sluice/codec/entropy/split_exponent/lossless_body.inl>
#include <sluice/warp/foreach_target.inl>

namespace sluice {

namespace detail::inline SLUICE_HOST_ABI {

// Symbols and fields to elements of `size` bytes; false where the escapes are not as many as were promised.
inline bool join_strip(isa on, int size, const strip_job& job) noexcept {
  SLUICE_RETURN_ON(on, lossless::join(size, job))
}

// What all elements of each column have in common.
inline void strip_facts(isa on, int size, const strip_job& job, column_fact_table& table) noexcept {
  SLUICE_RETURN_ON(on, lossless::facts(size, job, table))
}

// Elements to symbols and, where `escape_count` is not null, to the list of what escapes; false when the list is full.
inline bool cut_strip(isa on, int size, const strip_job& job, std::uint32_t* escape_count) noexcept {
  SLUICE_RETURN_ON(on, lossless::cut(size, job, escape_count))
}

// How often each column has each symbol.
inline void count_strip(isa on, const strip_job& job, symbol_counts* counts) noexcept {
  SLUICE_RETURN_ON(on, lossless::count(job, counts))
}

// Elements to packed rows of fields.
inline void pack_strip(isa on, int size, const strip_job& job) noexcept {
  SLUICE_RETURN_ON(on, lossless::pack(size, job))
}

inline std::uint64_t choose_tables_on(isa on, std::span<const symbol_counts> columns, const symbol_costs* costs,
                                      int tables, std::uint8_t* chosen) noexcept {
  SLUICE_RETURN_ON(on, lossless::choose_tables(columns.data(), static_cast<int>(columns.size()), costs, tables, chosen))
}

// What a coder of strips keeps in the caller's workspace.
struct strip_scratch : strip_tables {
  column_fact_table facts;
  symbol_counts counts[strip_lanes];
};

// Parts of the caller's workspace: for two strips at once, whose codes hide each other's latency, or for encoding one.
struct strip_workspace {
  strip_scratch* scratch[2];
  std::uint8_t* symbols[2];  // [rows][lanes]
  std::uint8_t* nibbles[2];  // likewise
  std::uint8_t* rans;        // encoder's scratch
  std::byte* escapes;        // encoder's list, with room for an eighth of the elements
  std::size_t rans_capacity;
  std::uint32_t escape_capacity;

  static strip_workspace of(std::vector<std::byte>& bytes, dtype type, int rows, int n, bool encode) {
    const int strips = !encode && n > strip_columns(type) ? 2 : 1;
    const int lanes =
        smaller(strip_lanes, (n + rans_lanes - 1) / rans_lanes * rans_lanes * (type == dtype::bytes ? 2 : 1));
    const std::size_t plane = static_cast<std::size_t>(rows) * static_cast<std::size_t>(lanes);
    const std::size_t pair = type == dtype::bytes ? 2 * plane : plane,
                      stream = encode ? encoded_bound(lanes / 32, rows) : 0;
    const std::size_t list = encode ? plane / 8 + 1 : 0;
    const std::size_t needed = static_cast<std::size_t>(strips) * (sizeof(strip_scratch) + pair) + stream +
                               list * static_cast<std::size_t>(size_of(type)) + 64;
    if (bytes.size() < needed) bytes.resize(needed);
    std::byte* p = bytes.data() + (64 - reinterpret_cast<std::uintptr_t>(bytes.data()) % 64) % 64;
    const auto take = [&p](std::size_t size) {
      std::byte* const here = p;
      p += size;
      return here;
    };
    strip_workspace w{};
    for (int i = 0; i < strips; ++i) w.scratch[i] = ::new (take(sizeof(strip_scratch))) strip_scratch;
    for (int i = 0; i < strips; ++i) {
      w.symbols[i] = reinterpret_cast<std::uint8_t*>(take(pair));
      w.nibbles[i] = w.symbols[i] + pair - plane;
    }
    w.rans = reinterpret_cast<std::uint8_t*>(take(stream));
    w.rans_capacity = stream;
    w.escapes = take(list * static_cast<std::size_t>(size_of(type)));
    w.escape_capacity = static_cast<std::uint32_t>(list);
    return w;
  }
};

// Makes a coded strip ready: its lanes, its tables, and what is to be done.
inline bool open_strip(const element_format& f, std::span<const std::uint8_t> in, strip_tables& tables, strip_job& job,
                       decode_job& stream) noexcept {
  strip_view s;
  if (!parse_strip(in.data(), in.size(), f, job.rows, job.columns, s, tables.lanes)) return false;
  for (int c = 0; c < s.blocks * rans_lanes; ++c) strip_thresholds(s, c, tables.blocks[c / rans_lanes]);
  set_jobs(s, tables, job, stream);
  return true;
}

inline void split_nibbles(const std::byte* from, int columns, std::uint8_t* nibbles) noexcept {
  for (int c = 0; c < columns; ++c) {
    nibbles[2 * c] = std::to_integer<std::uint8_t>(from[c] & std::byte{15});
    nibbles[2 * c + 1] = std::to_integer<std::uint8_t>(from[c] >> 4);
  }
}

inline void join_nibbles(const std::uint8_t* nibbles, int columns, std::byte* to) noexcept {
  for (int c = 0; c < columns; ++c) to[c] = static_cast<std::byte>((nibbles[2 * c] & 15) | nibbles[2 * c + 1] << 4);
}

}  // namespace detail::inline SLUICE_HOST_ABI
}  // namespace sluice
