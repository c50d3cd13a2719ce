// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/shape.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>

// A decoder's basis as the store kernel reads it. A product of 16 rows by 64 columns leaves a thread with two columns of
// each of eight tiles; columns change places so that these are two runs of eight adjoining channels, which go to the
// pages in one store each, and for keys that turn by halves the channels of the second run are the partners of the first.

namespace sluice::cuda {

/// How a run of channels turns with its token's position.
enum class column_turn : std::uint8_t { none = 0, halves = 1, adjoining = 2 };

/// Up to eight adjoining channels of one head.
struct column_run {
  std::uint16_t head;  ///< of the group
  std::uint16_t dim;   ///< first element of that head
  std::uint16_t pair;  ///< rotary pair that it belongs to
  std::uint8_t count;  ///< channels; 0 = nothing, where a column is only there to fill a chunk
  column_turn turn;    ///< halves: element i of both runs of a pair are a rotary pair
};

/// What a thread owns in a row of 64 columns.
struct alignas(16) column_pair {
  column_run run[2];
};
static_assert(sizeof(column_pair) == 16);

/// Columns of a product that are multiplied together, and pairs of runs among them.
inline constexpr int chunk_columns = 64, chunk_pairs = 4;

/// All channels of a group as pairs of runs: first those that turn by halves, then the others.
struct column_plan {
  std::int32_t heads = 0;
  std::int32_t head_dim = 0;
  std::int32_t pairs = 0;  ///< rotary pairs of a head; 0 = it does not turn
  rope_pairing pairing = rope_pairing::none;

  SLUICE_HD constexpr int width() const noexcept { return heads * head_dim; }
  /// Pairs of runs of all channels.
  SLUICE_HD constexpr int size() const noexcept { return heads * halves() + (heads * singles() + 1) / 2; }
  /// Chunks of 64 columns that hold these.
  SLUICE_HD constexpr int chunks() const noexcept { return (size() + chunk_pairs - 1) / chunk_pairs; }
  /// One of the pairs; nothing where i is not below size().
  SLUICE_HD constexpr column_pair operator[](int i) const noexcept {
    if (i < heads * halves()) {
      const int head = i / halves(), pair = i % halves() * 8;
      return {{run(head, pair, pairs - pair, pair, column_turn::halves),
               run(head, pairs + pair, pairs - pair, pair, column_turn::halves)}};
    }
    const int first = 2 * (i - heads * halves());
    return {{single(first), single(first + 1)}};
  }

 private:
  SLUICE_HD constexpr int rotary() const noexcept { return pairing == rope_pairing::none ? 0 : 2 * pairs; }
  SLUICE_HD constexpr int halves() const noexcept { return pairing == rope_pairing::half ? (pairs + 7) / 8 : 0; }
  SLUICE_HD constexpr int adjoining() const noexcept {
    return pairing == rope_pairing::interleaved ? (2 * pairs + 7) / 8 : 0;
  }
  SLUICE_HD constexpr int singles() const noexcept { return adjoining() + (head_dim - rotary() + 7) / 8; }

  SLUICE_HD static constexpr column_run run(int head, int dim, int left, int pair, column_turn turn) noexcept {
    return {static_cast<std::uint16_t>(head), static_cast<std::uint16_t>(dim), static_cast<std::uint16_t>(pair),
            static_cast<std::uint8_t>(left < 8 ? left : 8), turn};
  }
  // Run i of those that have no partner, of all heads.
  SLUICE_HD constexpr column_run single(int i) const noexcept {
    if (i >= heads * singles()) return {};
    const int head = i / singles(), n = i % singles();
    if (n < adjoining()) return run(head, 8 * n, rotary() - 8 * n, 4 * n, column_turn::adjoining);
    const int dim = rotary() + 8 * (n - adjoining());
    return run(head, dim, head_dim - dim, 0, column_turn::none);
  }
};

/// Bytes of a chunk of a basis with `ld` rows: f16[ld][64], then the means float[64], run by run.
SLUICE_HD constexpr std::size_t chunk_bytes(int ld) noexcept {
  return static_cast<std::size_t>(chunk_columns) * (2 * static_cast<std::size_t>(ld) + sizeof(float));
}
/// Bytes at group_model::basis_at.
SLUICE_HD constexpr std::size_t basis_size(const column_plan& plan, int ld) noexcept {
  return static_cast<std::size_t>(plan.chunks()) * chunk_bytes(ld);
}
/// Bytes at group_model::columns_at: a column_pair for every four channels of a row of all chunks.
SLUICE_HD constexpr std::size_t columns_size(const column_plan& plan) noexcept {
  return static_cast<std::size_t>(plan.chunks()) * chunk_pairs * sizeof(column_pair);
}
/// Where element `i` of run `part` of pair `p` of a chunk stands in the chunk's rows.
SLUICE_HD constexpr int packed_column(int p, int part, int i) noexcept { return 32 * part + i / 2 * 8 + 2 * p + i % 2; }
/// The same in its means.
SLUICE_HD constexpr int packed_mean(int p, int part, int i) noexcept { return 16 * p + 8 * part + i; }

/// Writes columns_size() bytes.
inline void pack_columns(const column_plan& plan, std::byte* to) noexcept {
  for (int i = 0; i < plan.chunks() * chunk_pairs; ++i, to += sizeof(column_pair)) {
    const column_pair p = plan[i];
    std::memcpy(to, &p, sizeof p);
  }
}

/// Writes basis_size() bytes from f16 bits [width][width], row k = coefficient k, and f16 bits of means [width], as in a
/// profile. Rows behind the width and columns of no channel are zero.
inline void pack_basis(const column_plan& plan, const std::uint16_t* matrix, const std::uint16_t* mean, int ld,
                       std::byte* to) noexcept {
  std::memset(to, 0, basis_size(plan, ld));
  const auto width = static_cast<std::size_t>(plan.width());
  for (int i = 0; i < plan.size(); ++i) {
    std::byte* chunk = to + static_cast<std::size_t>(i / chunk_pairs) * chunk_bytes(ld);
    std::byte* means = chunk + static_cast<std::size_t>(2 * chunk_columns) * static_cast<std::size_t>(ld);
    const column_pair pair = plan[i];
    for (int part = 0; part < 2; ++part)
      for (int e = 0; e < pair.run[part].count; ++e) {
        const auto channel = static_cast<std::size_t>(pair.run[part].head * plan.head_dim + pair.run[part].dim + e);
        const float m = to_float(f16{mean[channel]});
        std::memcpy(means + sizeof m * static_cast<std::size_t>(packed_mean(i % chunk_pairs, part, e)), &m, sizeof m);
        std::byte* column = chunk + 2 * packed_column(i % chunk_pairs, part, e);
        for (std::size_t k = 0; k < width; ++k)
          std::memcpy(column + 2 * chunk_columns * k, matrix + k * width + channel, 2);
      }
  }
}

}  // namespace sluice::cuda
