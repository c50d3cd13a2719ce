// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/split_exponent/strip.hpp>
#include <sluice/status.hpp>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace sluice {

/// The most bytes that a tile of rows x n elements takes: as it is, and a byte for every strip of 256 columns (128 of
/// opaque bytes). That is at most raw + raw / 64 where a strip has 64 bytes or more.
constexpr std::size_t lossless_max_size(dtype type, std::int64_t rows, std::int64_t n) noexcept {
  if (rows <= 0 || n <= 0) return 0;
  const std::int64_t strips = (n + detail::strip_columns(type) - 1) / detail::strip_columns(type);
  return static_cast<std::size_t>(rows * n * size_of(type) + strips);
}

namespace detail::inline SLUICE_HOST_ABI {

// --- encoding ---

inline std::uint32_t element_bits(const std::byte* p, int size) noexcept {
  std::uint32_t v = 0;  // a copy of known size is a load
  size == 1 ? std::memcpy(&v, p, 1) : size == 2 ? std::memcpy(&v, p, 2) : std::memcpy(&v, p, 4);
  return v;
}

// Modes and tables of a strip, and about what coding it so takes.
struct strip_plan {
  int symbols = 0, dropped = 0;
  std::uint64_t cost = 0;  // 4096ths of a bit
  std::array<std::uint8_t, strip_lanes> modes{};
  std::array<std::uint32_t, strip_lanes> bases{};
  table_choice tables;
};

inline void plan_strip(const element_format& f, strip_job job, const strip_workspace& w, strip_plan& plan,
                       isa on) noexcept {
  column_fact_table& facts = w.scratch[0]->facts;
  symbol_counts* counts = w.scratch[0]->counts;
  job.bits = f.bits;
  job.dropped = 0;
  strip_facts(on, f.size, job, facts);
  std::uint32_t any = 0;
  for (int c = 0; c < job.columns; ++c) any |= facts.any[c];
  plan.dropped = f.has_sign ? smaller(std::countr_zero(any), f.mantissa) : 0;
  const int mantissa = f.mantissa - plan.dropped, escape_bits = 8 * f.size, cells = 1 << (f.bits - 1 - f.mantissa);
  std::memset(counts, 0, sizeof w.scratch[0]->counts);
  plan.symbols = rans_max_symbols;
  if (f.has_sign) {
    for (int c = 0; c < job.blocks * rans_lanes; ++c)
      c < job.columns ? void(w.scratch[0]->lanes.set(c, mode_split, facts.largest[c] >> f.mantissa, f, plan.dropped,
                                                     rans_max_symbols, 0))
                      : w.scratch[0]->lanes.set_unused(c, 0);
    job.lanes = &w.scratch[0]->lanes;
    job.bits = f.bits - plan.dropped;
    job.dropped = plan.dropped;
    job.alphabet = rans_max_symbols;
    cut_strip(on, f.size, job, nullptr);
    count_strip(on, job, counts);
    plan.symbols = choose_alphabet({counts, static_cast<std::size_t>(job.columns)}, cells, escape_bits);
  }
  std::uint32_t* values = reinterpret_cast<std::uint32_t*>(w.rans);  // idle as yet, and larger than a column
  std::size_t live = 0;
  std::array<std::uint16_t, strip_lanes> column_of{};
  for (int c = 0; c < job.columns; ++c) {
    const auto at = static_cast<std::size_t>(c);
    const std::byte* first = job.elements + std::ptrdiff_t{c} * f.size;
    const auto value = [&](int r) { return element_bits(first + r * job.stride, f.size) >> plan.dropped; };
    if (facts.varies[c] == 0) {
      plan.modes[at] = mode_constant;
      plan.bases[at] = value(0);
      continue;
    }
    column_choice choice;
    if (f.has_sign) {
      fold_tail(counts[c], plan.symbols);
      choice.offer(mode_split, facts.largest[c] >> f.mantissa, counts[c], job.rows, mantissa + 1, 1,
                   cells > plan.symbols ? counts[c].of[plan.symbols - 1] : 0, f.size);
    }
    const auto rows = static_cast<std::uint32_t>(job.rows), few = rows / 16;
    if (!f.has_sign || facts.negative[c] <= few || facts.negative[c] >= rows - few) {
      for (int r = 0; r < job.rows; ++r) values[r] = value(r);
      choose_window(values, job.rows, f, plan.dropped, plan.symbols, choice);
    }
    plan.modes[at] = static_cast<std::uint8_t>(choice.mode);
    plan.bases[at] = choice.base;
    plan.cost += choice.other_cost;
    counts[live] = choice.counts;
    column_of[live++] = static_cast<std::uint16_t>(c);
  }
  plan.tables = choose_tables_of({counts, live}, job.rows, plan.symbols,
                                 [&](const symbol_costs* costs, int tables, std::uint8_t* chosen) {
                                   return choose_tables_on(on, {counts, live}, costs, tables, chosen);
                                 });
  plan.cost += plan.tables.cost * 64;
  for (std::size_t i = live; i-- > 0;)
    plan.modes[column_of[i]] = static_cast<std::uint8_t>(plan.modes[column_of[i]] | plan.tables.chosen[i] << 4);
}

// Writes a coded strip if it takes less than `limit` bytes; returns its size, or 0.
inline std::size_t encode_strip(strip_kind kind, const element_format& f, strip_job job, const strip_plan& plan,
                                std::uint8_t* out, std::size_t limit, const strip_workspace& w, isa on) noexcept {
  strip_lanes_table& lanes = w.scratch[0]->lanes;
  const int tables = plan.tables.tables;
  std::size_t bytes = sizeof(strip_head) + static_cast<std::size_t>(tables * (plan.symbols - 1) + job.columns);
  int first = 0;
  for (int b = 0; b < job.blocks; ++b) set_dead(w.scratch[0]->blocks[b]);
  for (int c = 0; c < job.blocks * rans_lanes; ++c) {
    if (c >= job.columns) {
      lanes.set_unused(c, first);
      continue;
    }
    const auto at = static_cast<std::size_t>(c);
    const int mode = plan.modes[at] & 15;
    bytes += static_cast<std::size_t>(mode == mode_split ? 1 : f.size);
    first += lanes.set(c, mode, plan.bases[at], f, plan.dropped, plan.symbols, first);
    if (mode != mode_constant)
      set_lane(w.scratch[0]->blocks[c / rans_lanes], c % rans_lanes,
               std::span(plan.tables.freq[plan.modes[at] >> 4]).first(static_cast<std::size_t>(plan.symbols)));
  }
  job.lanes = &lanes;
  job.row_bytes = static_cast<std::size_t>(first + 7) / 8;
  job.bits = f.bits - plan.dropped;
  job.dropped = plan.dropped;
  job.alphabet = plan.symbols;
  job.escapes = w.escapes;
  job.escape_limit = w.escape_capacity;
  const std::size_t packed = job.row_bytes * static_cast<std::size_t>(job.rows);
  std::uint32_t escapes = 0;
  if (bytes + packed + rans_state_bytes >= limit || !cut_strip(on, f.size, job, &escapes)) return 0;
  encode_job stream;
  stream.tables = w.scratch[0]->blocks;
  stream.blocks = job.blocks;
  stream.rows = job.rows;
  stream.symbols = w.symbols[0];
  stream.stride = job.blocks * rans_lanes;
  stream.scratch = w.rans;
  stream.capacity = w.rans_capacity;
  encode_symbols({&stream, 1}, on);
  const std::size_t listed = escapes * static_cast<std::size_t>(f.size);
  const std::size_t size = bytes + packed + listed + stream.size;
  if (!stream.ok || size >= limit) return 0;

  const strip_head h{
      static_cast<std::uint8_t>(kind),         static_cast<std::uint8_t>((plan.symbols - 1) | (tables - 1) << 4),
      static_cast<std::uint8_t>(plan.dropped), 0,
      static_cast<std::uint32_t>(size),        escapes};
  const auto put = [&out](const void* from, std::size_t n) {
    std::memcpy(out, from, n);
    out += n;
  };
  put(&h, sizeof h);
  for (int t = 0; t < tables; ++t)
    for (int k = 0; k + 1 < plan.symbols; ++k)
      *out++ = static_cast<std::uint8_t>(plan.tables.freq[static_cast<std::size_t>(t)][static_cast<std::size_t>(k)] -
                                         (k == 0));
  put(plan.modes.data(), static_cast<std::size_t>(job.columns));
  for (std::size_t c = 0; c < static_cast<std::size_t>(job.columns); ++c)
    put(&plan.bases[c], static_cast<std::size_t>((plan.modes[c] & 15) == mode_split ? 1 : f.size));
  job.packed = out;
  pack_strip(on, f.size, job);
  out += packed;
  put(w.escapes, listed);
  put(stream.bytes, stream.size);
  return size;
}

}  // namespace detail::inline SLUICE_HOST_ABI

inline namespace SLUICE_HOST_ABI {

/// Decodes a tile into rows of n elements, `dst_row_bytes` apart. `in` may hold any bytes; where they are not a whole
/// tile, some of the elements have been written. Errors: invalid_argument, truncated, corrupt_tile.
inline status lossless_decode(dtype type, int rows, int n, std::span<const std::byte> in, std::byte* dst,
                              std::size_t dst_row_bytes, std::vector<std::byte>& workspace, isa on = isa::best) {
  using namespace detail;
  if (rows < 0 || rows > lossless_max_rows || n < 0) return status::invalid_argument;
  if (rows == 0 || n == 0) return in.empty() ? status::ok : status::corrupt_tile;
  const int most = strip_columns(type), size = size_of(type);
  const auto stride = static_cast<std::ptrdiff_t>(dst_row_bytes);
  const strip_workspace w = strip_workspace::of(workspace, type, rows, n, false);
  const auto* p = reinterpret_cast<const std::uint8_t*>(in.data());
  std::size_t left = in.size();
  strip_job jobs[2];
  decode_job streams[2];
  std::byte* nibbles_to[2];
  std::size_t open = 0;
  const auto finish = [&] {
    decode_symbols({streams, open}, on);
    for (std::size_t i = 0; i < open; ++i) {
      if (!streams[i].ok || !join_strip(on, size, jobs[i])) return false;
      for (int r = 0; nibbles_to[i] && r < rows; ++r)
        join_nibbles(w.nibbles[i] + r * jobs[i].columns, jobs[i].columns / 2, nibbles_to[i] + r * stride);
    }
    open = 0;
    return true;
  };
  for (int first = 0; first < n; first += most) {
    const int columns = n - first < most ? n - first : most;
    std::byte* const to = dst + std::ptrdiff_t{first} * size;
    if (left == 0) return status::truncated;
    const auto kind = static_cast<strip_kind>(p[0]);
    const std::size_t row = static_cast<std::size_t>(columns) * static_cast<std::size_t>(size);
    std::size_t used = 1 + row * static_cast<std::size_t>(rows);
    if (kind == strip_kind::stored) {
      if (left < used) return status::truncated;
      for (int r = 0; r < rows; ++r) std::memcpy(to + r * stride, p + 1 + static_cast<std::size_t>(r) * row, row);
    } else if (kind == strip_kind::coded || (kind == strip_kind::nibbles && type == dtype::bytes)) {
      strip_head h;
      if (left < sizeof h) return status::truncated;
      std::memcpy(&h, p, sizeof h);
      if (left < h.size) return status::truncated;
      used = h.size;
      const bool halves = kind == strip_kind::nibbles;
      const element_format f = format_of(type, kind);
      nibbles_to[open] = halves ? to : nullptr;
      jobs[open] = halves ? job_of(f, reinterpret_cast<std::byte*>(w.nibbles[open]), 2 * columns, rows, 2 * columns,
                                   w.symbols[open])
                          : job_of(f, to, stride, rows, columns, w.symbols[open]);
      if (!open_strip(f, {p, used}, *w.scratch[open], jobs[open], streams[open])) return status::corrupt_tile;
      if (++open == 2 && !finish()) return status::corrupt_tile;
    } else {
      return status::corrupt_tile;
    }
    p += used;
    left -= used;
  }
  return finish() && left == 0 ? status::ok : status::corrupt_tile;
}

/// Encodes rows of n elements, `src_row_bytes` apart, bit-exactly, at the front of `out`, which must hold
/// lossless_max_size() bytes. Returns the bytes written: 0 for an empty tile, for more than 32767 rows, or for want of
/// room. The bytes are the same on every instruction set.
inline std::size_t lossless_encode(dtype type, int rows, int n, const std::byte* src, std::size_t src_row_bytes,
                                   std::span<std::byte> out, std::vector<std::byte>& workspace, isa on = isa::best) {
  using namespace detail;
  if (rows <= 0 || rows > lossless_max_rows || n <= 0 || out.size() < lossless_max_size(type, rows, n)) return 0;
  const int most = strip_columns(type), size = size_of(type);
  const auto stride = static_cast<std::ptrdiff_t>(src_row_bytes);
  const strip_workspace w = strip_workspace::of(workspace, type, rows, n, true);
  auto* p = reinterpret_cast<std::uint8_t*>(out.data());
  for (int first = 0; first < n; first += most) {
    const int columns = n - first < most ? n - first : most;
    const std::byte* from = src + std::ptrdiff_t{first} * size;
    const std::size_t row = static_cast<std::size_t>(columns) * static_cast<std::size_t>(size);
    const std::size_t stored = 1 + row * static_cast<std::size_t>(rows);
    strip_kind kind = strip_kind::coded;
    strip_job job = job_of(format_of(type), const_cast<std::byte*>(from), stride, rows, columns, w.symbols[0]);
    strip_plan plan;
    plan_strip(format_of(type), job, w, plan, on);
    if (type == dtype::bytes) {
      for (int r = 0; r < rows; ++r) split_nibbles(from + r * stride, columns, w.nibbles[0] + r * 2 * columns);
      const element_format halves = format_of(type, strip_kind::nibbles);
      const strip_job other =
          job_of(halves, reinterpret_cast<std::byte*>(w.nibbles[0]), 2 * columns, rows, 2 * columns, w.symbols[0]);
      strip_plan other_plan;
      plan_strip(halves, other, w, other_plan, on);
      // Two symbols a byte take twice the time of one: not for a few bytes.
      if (other_plan.cost < plan.cost / 100 * 98) kind = strip_kind::nibbles, job = other, plan = other_plan;
    }
    std::size_t used = encode_strip(kind, format_of(type, kind), job, plan, p, stored, w, on);
    if (used == 0) {
      *p = static_cast<std::uint8_t>(strip_kind::stored);
      for (int r = 0; r < rows; ++r) std::memcpy(p + 1 + static_cast<std::size_t>(r) * row, from + r * stride, row);
      used = stored;
    }
    p += used;
  }
  return static_cast<std::size_t>(p - reinterpret_cast<std::uint8_t*>(out.data()));
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
