// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/config.hpp>
#include <sluice/format/limits.hpp>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

// The 256 distribution classes as the kernel of class_rans looks them up, which part of them a block of threads keeps in
// shared memory, and how much of that it has. The same for every model: an image holds them once (model_head).

namespace sluice::cuda {

/// detail::class_at(), without a table that would lie in local memory.
SLUICE_HD inline std::uint8_t class_in_pass(std::uint8_t cls, int back) noexcept {
  constexpr std::uint64_t shifts = [] {
    std::uint64_t packed = 0;
    for (int i = 0; i < max_passes; ++i) packed |= std::uint64_t(detail::class_shift[i]) << 6 * i;
    return packed;
  }();
  const int w = cls % detail::class_widths, shift = static_cast<int>(shifts >> 6 * back & 63);
  return static_cast<std::uint8_t>(cls - (w < shift ? w : shift));
}

/// Digits of a refinement, of one class under one kind of parent (zero or not); all dead: cc = 0, f = 255.
struct ternary_row {
  std::uint32_t
      cc;  ///< 256 - T in halves, T the first slot of symbols 1 and 2: slot + 256 - T has bit 8 where T is reached
  std::uint32_t f;  ///< bytes: frequencies of symbols 0, 1, 2, each less one; the last is 0
};

/// A digit below the base symbol of a class.
struct digit_row {
  std::uint32_t row;  ///< byte offset of its ternary_row among those of zero parents; 0 = the class has no such digit
  std::uint32_t factor;  ///< what the value so far is worth under it: 3, or 1 where there is no digit
};

/// Base symbols of one class by slot, and what comes below them.
struct class_lut {
  std::uint32_t
      word[256];       ///< byte 0: frequency less one, byte 1: slot less the symbol's first, the high half: the value
  digit_row digit[4];  ///< [k]: from steps of 3^(k + 1) to steps of 3^k
};

/// What class_rans looks up, in an image and in the front of shared memory.
struct class_tables_image {
  ternary_row ternary[2][256];  ///< [parent != 0][class]
  std::uint8_t facts[256];      ///< of each class: bits 0-2 its digits, bit 7 whether it is alive
  class_lut base[256];          ///< [class]
};
static_assert(sizeof(class_lut) == 1056 && sizeof(class_tables_image) == 4096 + 256 + 256 * 1056);

/// Bytes at model_head::class_tables_at.
inline constexpr std::size_t class_tables_bytes = sizeof(class_tables_image);
/// Of these, what every block of threads copies whole.
inline constexpr std::size_t class_facts_bytes = offsetof(class_tables_image, base);

inline constexpr std::uint8_t class_alive = 128, class_digits = 7;

/// The row of a class under a parent that is zero or not.
constexpr ternary_row ternary_row_of(int cls, bool nonzero) noexcept {
  const detail::class_tables& t = detail::class_table[cls];
  const std::uint8_t* last = nonzero ? t.nonzero : t.zero;
  const int begin[4] = {0, last[0] + 1, last[1] + 1, 256};
  ternary_row r{};
  for (int s = 1; s < 3; ++s) r.cc |= std::uint32_t(256 - begin[s]) << 16 * (s - 1);
  for (int s = 0; s < 3; ++s)
    if (begin[s + 1] > begin[s]) r.f |= std::uint32_t(begin[s + 1] - begin[s] - 1) << 8 * s;
  return r;
}

/// Alive in the base pass, and how many digits lie below its symbols.
constexpr std::uint8_t class_facts_of(int cls) noexcept {
  const detail::class_tables& t = detail::class_table[cls];
  return static_cast<std::uint8_t>(t.digits | (t.base[0] != 255 ? class_alive : 0));
}

static_assert(
    [] {
      for (int c = 0; c + 1 < 256; ++c)
        if (c % detail::class_widths + 1 < detail::class_widths && class_facts_of(c) >= class_alive &&
            class_facts_of(c + 1) < class_alive)
          return false;
      return true;
    }(),
    "what is alive stays so where it is wider");

/// The look-up table of a class at its own step.
constexpr class_lut class_lut_of(int cls) noexcept {
  const detail::class_tables& t = detail::class_table[cls];
  class_lut l{};
  int symbol = 0, begin = 0;
  for (int slot = 0; slot < 256; ++slot) {
    while (symbol < 15 && slot > t.base[symbol]) begin = t.base[symbol++] + 1;
    const int end = symbol < 15 ? t.base[symbol] + 1 : 256, value = (symbol >> 1) ^ -(symbol & 1);
    l.word[slot] = std::uint32_t(end - begin - 1) | std::uint32_t(slot - begin) << 8 | std::uint32_t(value) << 16;
  }
  for (int k = 0; k < 4; ++k)
    l.digit[k] = k < t.digits
                     ? digit_row{std::uint32_t(sizeof(ternary_row)) * detail::class_at(std::uint8_t(cls), k), 3}
                     : digit_row{0, 1};
  return l;
}

/// Writes class_tables_bytes, wherever.
inline void pack_class_tables(std::byte* to) noexcept {
  for (int c = 0; c < 256; ++c) {
    const auto at = std::size_t(c);
    for (int nonzero = 0; nonzero < 2; ++nonzero) {
      const ternary_row row = ternary_row_of(c, nonzero);
      std::memcpy(to + (256 * std::size_t(nonzero) + at) * sizeof row, &row, sizeof row);
    }
    to[offsetof(class_tables_image, facts) + at] = std::byte(class_facts_of(c));
    const class_lut lut = class_lut_of(c);
    std::memcpy(to + offsetof(class_tables_image, base) + at * sizeof lut, &lut, sizeof lut);
  }
}

/// A set of classes: bit c % 32 of word c / 32.
struct class_set {
  std::uint32_t word[8];
};
SLUICE_HD constexpr bool has(const class_set& s, int cls) noexcept { return s.word[cls / 32] >> cls % 32 & 1; }
/// The place of a class among those of a set: how many of them are below it.
SLUICE_HD inline int place_in(const class_set& s, int cls) noexcept {
  int n = 0;
  for (int i = 0; i <= cls / 32; ++i) {
    const std::uint32_t below = i < cls / 32 ? s.word[i] : s.word[i] & ((1u << cls % 32) - 1);
#if defined(__CUDA_ARCH__)
    n += __popc(below);
#else
    n += std::popcount(below);
#endif
  }
  return n;
}

// --- compressed bytes on their way: a ring of chunks for each warp, whose front is there twice, so that what a row takes
// lies in one piece ---

inline constexpr int ring_chunk = 256, ring_chunks = 4;
inline constexpr int ring_bytes = ring_chunk * (ring_chunks + 1);
/// Most bytes that the steps between two looks at the ring take: a base row looks before each digit, too.
inline constexpr int most_between_looks = 32 * detail::rans_max_blocks;
static_assert(most_between_looks <= ring_chunk, "one chunk is done with at a look, and the one behind it is there");
/// Most bytes of a code beyond its states, whatever it says.
SLUICE_HD constexpr std::uint32_t most_code_bytes(int rows, int blocks) noexcept {
  return std::uint32_t(rows) * std::uint32_t(blocks) * 32u * (1 + detail::rans_max_digits);
}

// --- shared memory of a block of threads ---

/// Class without a slot.
inline constexpr std::uint8_t no_slot = 255;
/// More than the streams of real models have classes, and as many as a block of threads may have memory for.
inline constexpr int most_slots = 190;

/// Room for what a warp decodes (part_job).
inline constexpr int job_bytes = 128;

/// How the kernel of class_rans is launched.
struct class_rans_shape {
  int warps = 0;           ///< of a block of threads; a warp for each part of a strand
  int slots = 0;           ///< for base tables of classes; a warp with a class that has none looks them up in the image
  std::size_t shared = 0;  ///< bytes of a block of threads

  // Offsets in shared memory.
  static constexpr int slot_of_at = int(class_facts_bytes);          // u8[256]
  static constexpr int used_at = slot_of_at + 256;                   // class_set
  static constexpr int rings_at = used_at + int(sizeof(class_set));  // of each warp a ring and its job
  SLUICE_HD static constexpr int luts_at(int warps) noexcept { return rings_at + warps * (ring_bytes + job_bytes); }
};
static_assert(class_rans_shape::rings_at % 16 == 0 && ring_bytes % 16 == 0 && sizeof(class_lut) % 16 == 0);

inline constexpr int class_rans_warps = 16;  ///< of a block of threads
inline constexpr int class_rans_residents =
    2;  ///< blocks of threads on a multiprocessor, for whose registers there is room
inline constexpr std::size_t reserved_shared = 1024;  ///< that the system takes of each block of threads

/// The shape for a multiprocessor with so much shared memory: H100 233472, A100 167936, others as cudaDeviceProp says.
constexpr class_rans_shape shape_class_rans(std::size_t of_multiprocessor) noexcept {
  class_rans_shape s;
  s.warps = class_rans_warps;
  const std::size_t room = of_multiprocessor / class_rans_residents - reserved_shared;
  const auto fixed = std::size_t(class_rans_shape::luts_at(s.warps));
  if (room > fixed) s.slots = int((room - fixed) / sizeof(class_lut));
  if (s.slots > most_slots) s.slots = most_slots;
  s.shared = fixed + std::size_t(s.slots) * sizeof(class_lut);
  return s;
}

/// The same memory for fewer warps of a block of threads, and so for more classes.
constexpr class_rans_shape with_warps(class_rans_shape s, int warps) noexcept {
  s.warps = warps;
  s.slots = int((s.shared - std::size_t(class_rans_shape::luts_at(warps))) / sizeof(class_lut));
  if (s.slots > most_slots) s.slots = most_slots;
  return s;
}

/// Blocks of threads below which multiprocessors of a large GPU have nothing to do.
inline constexpr int enough_blocks = 128;

/// The shape for so many warps: fewer of them a block where they are few, for all multiprocessors to have some.
constexpr class_rans_shape shape_for(class_rans_shape s, std::int64_t warps) noexcept {
  int n = s.warps;
  while (n > 1 && warps < std::int64_t{n} * enough_blocks) n /= 2;
  return n == s.warps ? s : with_warps(s, n);
}

/// The strand that warps take as their `n`th of `strands`, of which each token tile has `groups`, one after the other: one
/// group of all token tiles after the other, so that the classes of a block of threads are few. Any other order of them
/// will do, too, and where they are not so many they are taken as they stand.
SLUICE_HD constexpr std::int32_t strand_in_turn(std::int32_t n, std::int32_t strands, std::int32_t groups) noexcept {
  if (groups <= 0 || strands % groups != 0) return n;
  const std::int32_t tiles = strands / groups;
  return n % tiles * groups + n / tiles;
}

/// Warps that a strand of so many channels takes.
constexpr int class_rans_parts(int width) noexcept {
  return (width + 32 * detail::rans_max_blocks - 1) / (32 * detail::rans_max_blocks);
}

}  // namespace sluice::cuda
