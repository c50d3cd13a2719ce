// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/entropy/strip.cuh>
#include <sluice/cuda/strand.hpp>

#include <cstddef>
#include <cstdint>
#include <type_traits>

// Lossless tiles (FORMAT.md section 6.4) to elements in the workspace, a warp a strip: 32 symbols of a block are decoded
// and joined with their fields at once. Nothing but shared memory is looked up; the code and the fields come through rings.

namespace sluice::cuda {

/// In place of an element's type: two columns make a byte.
struct nibble {
  std::uint8_t bits;
};

/// A code on its way: 32 states, and how far code and fields are taken.
struct strip_cursor {
  std::uint32_t x;       // this lane's state + state_bias
  std::uint32_t before;  // lanes before this one
  std::uint32_t code_at, field_at;
  std::byte* to;  // the row at hand, from the strip's first column on
};

/// What all columns of a strip have in common, for joining.
struct strip_join {
  std::uint32_t kept, sign, stretched;

  __device__ __forceinline__ explicit strip_join(const coded_strip& s)
      : kept(~0u << s.dropped), sign(1u << s.mantissa), stretched(1u << s.stretch) {}

  /// The element of a symbol and of a row whose fields begin at bit row_bit + 32 of shared memory.
  __device__ __forceinline__ std::uint32_t operator()(std::uint32_t base, std::uint32_t cell, std::uint32_t first,
                                                      std::uint32_t word, std::uint32_t row_bit) const {
    const std::uint32_t bit = row_bit + first, at = bit >> 3 & 0x3fffc;
    const std::uint32_t fields = __funnelshift_r(ptx::load_word(at), ptx::load_word(at + 4), bit);
    const std::uint32_t signs = fields & sign & static_cast<std::uint32_t>(static_cast<std::int32_t>(bit) >> 31);
    const std::uint32_t below = base + (signs * stretched + (fields & ~cell & kept));
    return __byte_perm(word, 0, 0x4442) * cell + below;
  }
};

/// The next listed element for every lane that has an escape, `size` bytes; whether this lane got one.
__device__ inline bool take_escape(strip_memory& m, std::uint32_t before, bool yes, std::uint32_t size,
                                   std::uint32_t& value) {
  const std::uint32_t all = __ballot_sync(whole_warp, yes);
  const std::uint32_t mine = m.escapes + static_cast<std::uint32_t>(__popc(all & before));
  __syncwarp();
  if (before == 0) m.escapes += static_cast<std::uint32_t>(__popc(all));
  __syncwarp();
  if (!yes || mine >= m.strip.escapes) return false;
  value = 0;
  for (std::uint32_t i = 0; i < size; ++i)
    value |= std::uint32_t{m.strip.escaped[std::size_t{size} * mine + i]} << 8 * i;
  return true;
}

/// Ends a row that took so much of the code: has what the next one takes in shared memory, and what the one behind it takes
/// on its way.
__device__ __forceinline__ void next_row(strip_memory& m, strip_cursor& c, std::uint32_t taken, unsigned lane) {
  const std::uint32_t code_asked = m.from_code.asked_at(c.code_at), field_asked = m.from_fields.asked_at(c.field_at);
  c.code_at += taken;
  c.field_at += m.strip.row_bytes;
  c.to += m.source.stride;
  __syncwarp();
  m.from_code.ask(code_asked, c.code_at, lane);
  m.from_fields.ask(field_asked, c.field_at, lane);
  ptx::copy_commit();
  ptx::copy_wait<1>();
  __syncwarp();
}

/// Rows [0, rows), before any state settles, by tables. T is as wide as an element.
template <class T>
__device__ __forceinline__ void decode_rows(strip_memory& m, strip_cursor& c, int rows, unsigned lane) {
  constexpr bool halves = std::is_same_v<T, nibble>;
  constexpr int blocks_most = sluice::detail::rans_max_blocks;
  std::uint32_t base[blocks_most], cell[blocks_most], first[blocks_most], table[2] = {}, escapes = 0;
#pragma unroll
  for (int b = 0; b < blocks_most; ++b) {
    const strip_column column = m.columns[32 * b + static_cast<int>(lane)];
    base[b] = column.base;
    cell[b] = column.cell;
    first[b] = column.first;
    table[b / 4] |= (column.table & 255) << 8 * (b % 4);
    escapes |= (column.table >> 8) << b;
  }
  __syncwarp();
  fill_tables(m.strip, lane, m.tables);
  const strip_join join(m.strip);
  const std::uint32_t tables = ptx::shared_address(m.tables);
  const int live = m.strip.columns - static_cast<int>(lane);
  c.to += halves ? lane / 2 : lane * sizeof(T);
#pragma unroll 1
  for (; rows > 0; --rows) {
    const std::uint32_t begin = m.from_code.address(c.code_at);
    const std::uint32_t row_bit = 8 * m.from_fields.address(c.field_at) - 32;
    std::uint32_t next = begin;
    std::uint32_t seen = 0;  // bit 31 of each block's word, the last one in bit 0
#pragma unroll
    for (int b = 0; b < blocks_most; ++b) {
      if ((b == 4 || b == 6) && b >= m.strip.blocks) break;  // those between have no symbols
      // Byte 0 is the slot, byte 1 the table; byte 2 of a state is zero.
      const std::uint32_t at = __byte_perm(c.x, table[b / 4], 0x2200u | (4u + static_cast<unsigned>(b) % 4) << 4);
      const std::uint32_t word = ptx::load_table(tables + 4 * at);
      advance(c.x, word, next, c.before);
      const std::uint32_t value = join(base[b], cell[b], first[b], word, row_bit);
      seen = __funnelshift_l(word, seen, 1);
      if constexpr (halves) {
        const std::uint32_t other = __shfl_down_sync(whole_warp, value, 1);
        if (32 * b < live && lane % 2 == 0) c.to[16 * b] = static_cast<std::byte>((value & 15) | other << 4);
      } else {
        if (32 * b < live) *reinterpret_cast<T*>(c.to + static_cast<int>(sizeof(T)) * 32 * b) = static_cast<T>(value);
      }
    }
    if (__any_sync(whole_warp, seen != 0)) {
      const int done = m.strip.blocks > 6 ? 8 : m.strip.blocks > 4 ? 6 : 4;
#pragma unroll 1
      for (int b = 0; b < done; ++b) {
        std::uint32_t value;
        const bool mine =
            take_escape(m, c.before, (seen >> (done - 1 - b) & 1) && (escapes >> b & 1), sizeof(T), value);
        if constexpr (halves) {  // the even lane writes for both
          const std::uint32_t other = __shfl_down_sync(whole_warp, mine ? value | 256 : 0, 1);
          if (lane % 2 == 0 && (mine || other)) {
            auto both = static_cast<std::uint32_t>(c.to[16 * b]);
            if (mine) both = (both & 0xf0) | (value & 15);
            if (other) both = (both & 15) | other << 4;
            c.to[16 * b] = static_cast<std::byte>(both);
          }
        } else if (mine) {
          *reinterpret_cast<T*>(c.to + static_cast<int>(sizeof(T)) * 32 * b) = static_cast<T>(value);
        }
      }
    }
    next_row(m, c, next - begin, lane);
  }
  c.to -= halves ? lane / 2 : lane * sizeof(T);
}

/// Rows [from, end) one block after the other: the last ones, in which states settle before the last `tail` blocks, or all
/// where tables have no room. The strip's columns are in memory.
__device__ inline void decode_last_rows(strip_memory& m, strip_cursor& c, int from, int tail, unsigned lane) {
  const coded_strip& s = m.strip;
  const bool halves = m.source.halves();
  const auto size = static_cast<std::uint32_t>(size_of(m.source.type));
  const strip_join join(s);
  int left = (s.rows - from) * s.blocks;
  std::uint32_t floor = state_floor;
  const auto settle = [&] {
    c.x = ((c.x - 256) & 0xffff) | state_bias;
    floor = settled_floor;
  };
#pragma unroll 1
  for (int r = from; r < s.rows; ++r) {
    const std::uint32_t begin = m.from_code.address(c.code_at);
    const std::uint32_t row_bit = 8 * m.from_fields.address(c.field_at) - 32;
    std::uint32_t next = begin;
#pragma unroll 1
    for (int column = static_cast<int>(lane); column < 32 * s.blocks; column += 32, --left) {
      if (left == tail) settle();
      const strip_column at = m.columns[column];
      const std::uint32_t word = find_symbol(s, at.table & 255, c.x & 255);
      advance(c.x, word, next, c.before, floor);
      std::uint32_t value = join(at.base, at.cell, at.first, word, row_bit);
      take_escape(m, c.before, word >> 31 != 0 && at.table >> 8 != 0, size, value);
      const std::uint32_t other = __shfl_down_sync(whole_warp, value, 1);
      if (column >= s.columns || (halves && lane % 2 != 0)) continue;
      if (halves)
        c.to[column / 2] = static_cast<std::byte>((value & 15) | other << 4);
      else if (size == 1)
        c.to[column] = static_cast<std::byte>(value);
      else if (size == 2)
        reinterpret_cast<std::uint16_t*>(c.to)[column] = static_cast<std::uint16_t>(value);
      else
        reinterpret_cast<std::uint32_t*>(c.to)[column] = value;
    }
    next_row(m, c, next - begin, lane);
  }
  if (tail == 0) settle();
}

/// Decodes the strip that m.source says; false where its bytes are not one.
__device__ inline bool decode_coded_strip(strip_memory& m, unsigned lane) {
  constexpr std::uint32_t head = sluice::detail::rans_state_bytes + 1;
  if (!open_strip(m, lane) || !sound_frequencies(m.strip, lane)) return false;
  const std::uint8_t* const code = m.strip.code;
  if (m.strip.code_size < head) return false;
  const std::uint32_t state = code[2 * lane] | std::uint32_t{code[2 * lane + 1]} << 8;
  const int tail = code[sluice::detail::rans_state_bytes], steps = m.strip.blocks * m.strip.rows;
  if (__any_sync(whole_warp, state < 256) || tail > steps) return false;

  strip_cursor c{};
  c.x = state | state_bias;
  c.before = ptx::lanes_before();
  c.to = m.source.to;
  const std::uint8_t *const fields = m.strip.fields, *const end = code + m.strip.code_size;
  strip_memory::code_ring from_code;
  strip_memory::field_ring from_fields;
  c.code_at = from_code.open(ptx::shared_address(m.codes), code + head, static_cast<std::uint32_t>(end - code - head));
  c.field_at = from_fields.open(ptx::shared_address(m.fields), fields, static_cast<std::uint32_t>(end - fields));
  from_code.ask(0, c.code_at, lane);
  from_fields.ask(0, c.field_at, lane);
  ptx::copy_commit();
  ptx::copy_wait<0>();
  if (lane == 0) {
    m.from_code = from_code;
    m.from_fields = from_fields;
    m.escapes = 0;
  }
  __syncwarp();

  const int fast = m.strip.tables > strip_memory::most_tables ? 0 : (steps - tail) / m.strip.blocks;
  if (fast != 0) {
    const int size = size_of(m.source.type);
    if (m.source.halves())
      decode_rows<nibble>(m, c, fast, lane);
    else if (size == 1)
      decode_rows<std::uint8_t>(m, c, fast, lane);
    else if (size == 2)
      decode_rows<std::uint16_t>(m, c, fast, lane);
    else
      decode_rows<std::uint32_t>(m, c, fast, lane);
    __syncwarp();
    open_strip(m, lane);  // columns again in place of tables
  }
  decode_last_rows(m, c, fast, m.strip.code[sluice::detail::rans_state_bytes], lane);
  ptx::copy_wait<0>();
  return c.code_at == m.from_code.end && m.escapes == m.strip.escapes && !__any_sync(whole_warp, c.x != state_bias);
}

/// Copies rows that lie behind one another to rows `stride` bytes apart.
__device__ inline void copy_rows(const std::uint8_t* from, int rows, std::uint32_t row_bytes, std::byte* to,
                                 std::uint32_t stride, unsigned lane) {
  for (int r = 0; r < rows; ++r, from += row_bytes, to += stride)
    for (std::uint32_t i = lane; i < row_bytes; i += 32) to[i] = static_cast<std::byte>(from[i]);
}

/// Finds strip `index` of a tile of rows x width elements and decodes it where it is stored; 1 = it is to be decoded, 0 =
/// done, -1 = the tile's bytes are not a tile up to its end.
__device__ inline int find_strip(const std::uint8_t* p, std::uint32_t size, dtype type, int rows, int width, int index,
                                 std::byte* elements, unsigned lane, strip_memory& m) {
  using namespace sluice::detail;
  const int most = strip_columns(type), element = size_of(type);
  int columns = 0;
  std::uint32_t used = 0;
  for (int i = 0; i <= index; ++i) {  // the strips before, which say where this one begins
    p += used;
    size -= used;
    columns = width - i * most < most ? width - i * most : most;
    const std::uint64_t stored = std::uint64_t(rows) * std::uint64_t(columns * element);
    if (size == 0) return -1;
    if (p[0] == static_cast<std::uint8_t>(strip_kind::stored)) {
      if (size <= stored) return -1;
      used = static_cast<std::uint32_t>(1 + stored);
    } else {
      if (size < sizeof(strip_head)) return -1;
      used = p[4] | std::uint32_t{p[5]} << 8 | std::uint32_t{p[6]} << 16 | std::uint32_t{p[7]} << 24;
      if (used < sizeof(strip_head) || used > size) return -1;
    }
  }
  if ((index + 1) * most >= width && used != size) return -1;
  const auto kind = static_cast<strip_kind>(p[0]);
  const auto stride = static_cast<std::uint32_t>(width * element);
  std::byte* const to = elements + std::ptrdiff_t{index} * most * element;
  if (kind == strip_kind::stored) {
    copy_rows(p + 1, rows, static_cast<std::uint32_t>(columns * element), to, stride, lane);
    return 0;
  }
  const bool halves = kind == strip_kind::nibbles;
  if (halves ? type != dtype::bytes : kind != strip_kind::coded) return -1;
  if (lane == 0) m.source = {p, to, used, stride, rows, halves ? 2 * columns : columns, type, kind};
  __syncwarp();
  return 1;
}

inline constexpr int strip_warps = 4;  ///< of a block

/// Blocks for strands whose groups have at most `max_width` columns, whatever their type.
SLUICE_HD constexpr std::int64_t strip_blocks(int max_width, std::int32_t strands) noexcept {
  const int most =
      (max_width + sluice::detail::strip_columns(dtype::bytes) - 1) / sluice::detail::strip_columns(dtype::bytes);
  return (std::int64_t{most} * strands + strip_warps - 1) / strip_warps;
}
/// Shared memory of a block.
inline constexpr std::size_t strip_shared = strip_warps * sizeof(strip_memory);

/// Elements of all strands; a warp a strip, the first strips of all strands before the second ones. strip_warps warps a
/// block, strip_shared bytes of shared memory. A template only so that the header may be included anywhere.
template <int = 0>
__global__ void __launch_bounds__(32 * strip_warps, 8) split_exponent_kernel(decode_state d) {
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const std::int64_t item = std::int64_t{blockIdx.x} * strip_warps + warp;
  const int index = static_cast<int>(item / d.num_strands);
  strand& t = d.strands[item % d.num_strands];
  // Another strip may say meanwhile that the tile is corrupt: all lanes must read the same.
  if (!__all_sync(whole_warp, t.state == status::ok) || t.rows() == 0) return;
  const group_model& g = group_of(d.image, t.group);
  const auto type = static_cast<dtype>(t.type[0]);
  if (index * sluice::detail::strip_columns(type) >= g.width) return;
  const piece& code = t.entropy[0];
  const auto* p = reinterpret_cast<const std::uint8_t*>(d.requests[t.request].asked.frame + code.at);
  strip_memory& m = reinterpret_cast<strip_memory*>(ptx::dynamic_shared())[warp];
  const int found = find_strip(p, code.size, type, t.rows(), g.width, index, d.workspace + t.values_at, lane, m);
  const bool sound = found == 0 || (found > 0 && decode_coded_strip(m, lane));
  __syncwarp();
  if (!sound && lane == 0) d.strands[item % d.num_strands].state = status::corrupt_tile;
}

}  // namespace sluice::cuda
