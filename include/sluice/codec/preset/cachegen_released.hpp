// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/arithmetic/arithmetic.hpp>
#include <sluice/codec/group/tile_tokens.hpp>
#include <sluice/codec/stages.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/numeric.hpp>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// CacheGen as its public code does it (UChi-JCL/CacheGen 6bed34c, LMCache 0e65d2f: cachegen_basics, cachegen_encoder,
// cal_cdf, ac_enc), which is not what its paper describes: no anchors and no differences, and tables that every chunk
// ships. What the two repositories do differently is decided in its favour: layers are tiered as LMCache does for any
// model, whose first ten layers keep fine keys in models of fewer layers, too; a maximum takes 2 bytes, not 4; and there
// is no pickled container around it. FORMAT.md section 6.8.

namespace sluice {
namespace detail::cachegen_released {

inline constexpr int alphabet = 32;       // symbols that a table has room for, whatever the bins
inline constexpr int run_tokens = 256;    // of one code: what its kernel holds in shared memory
inline constexpr std::size_t table = 33;  // cumulative counts of a channel

/// Bins of a layer at a level from 1 to 3, the finest; the code takes one less, so that one lies at zero.
constexpr int bins_of(int level, int layer, plane which, int num_layers) noexcept {
  if (level == 3 || (level == 2 && num_layers < 10)) return 32;
  const bool first = layer < (which == plane::key ? 10 : 2);
  if (level == 2) return first ? 32 : 16;
  return first || (which == plane::key && layer < 20) ? 16 : 12;
}

/// Values of one token and integers 0 to 2 * half, half = bins / 2 - 1; `most` is the largest magnitude of the token.
struct rounding {
  int half;
  explicit rounding(int bins) noexcept : half(bins / 2 - 1) {}

  void quantize(const float* x, int n, float most, std::uint8_t* q) const noexcept {
    const float by = most > 0 ? float(half) / most : 0;
    for (int i = 0; i < n; ++i) q[i] = std::uint8_t(clamp(lrint(x[i] * by), long(-half), long(half)) + half);
  }
  void restore(const std::uint8_t* q, int n, float most, float* x) const noexcept {
    for (int i = 0; i < n; ++i) x[i] = float(int(q[i]) - half) / float(half) * most;
  }
};

/// Cumulative counts of symbols among `rows` values that are `ld` apart, so that every symbol has a part of 65,536.
inline void count(const std::uint8_t* q, int rows, std::ptrdiff_t ld, std::uint16_t* cumulative) noexcept {
  std::uint32_t counts[alphabet] = {};
  for (int r = 0; r < rows; ++r) ++counts[q[r * ld]];
  std::uint32_t sum = 0;
  for (int s = 0; s <= alphabet; ++s) {
    cumulative[s] = std::uint16_t((65535 - alphabet) * sum / std::uint32_t(rows) + std::uint32_t(s));
    if (s < alphabet) sum += counts[s];
  }
}
constexpr std::uint32_t end_of(const std::uint16_t* cumulative, int symbol) noexcept {
  return symbol == alphabet - 1 ? 65536 : cumulative[symbol + 1];
}

}  // namespace detail::cachegen_released

namespace codec {
inline namespace SLUICE_HOST_ABI {

/// CacheGen's released code: keys as cached, one largest magnitude for each token over all heads of K or V, 31, 15 or 11
/// integers around zero by tier of layers, and an arithmetic coder for each channel, whose table is counted in every tile
/// and stands in it. `Level` 3 (finest), 2 (LMCache's default) or 1. Tiles are LMCache's chunks of 256 tokens; larger ones
/// share a table and keep codes of 256. No token is kept exact; no profile.
template <int Level = 2, grouping_policy Grouping = tile_tokens<256>>
struct cachegen_released {
  static_assert(Level >= 1 && Level <= 3, "sluice::codec::cachegen_released<Level>: 1, 2 or 3");
  /// The same codec with tiles of another size.
  template <class G>
  using with_grouping = cachegen_released<Level, G>;

  static constexpr codec_id id{stage_id::of(3, Grouping::tokens | 1u << 13), {}, {}, {}, stage_id::of(2, Level), {}};
  static constexpr int tile_tokens = Grouping::tokens;
  static constexpr value_domain domain = value_domain::rotated;
  static constexpr int span = 0;
  /// Tiles hold all heads of a plane: a token has one maximum.
  static constexpr bool whole_planes = true;
  static int passes(const profile&) noexcept { return 1; }
  static bool keeps_exact(const profile&, std::int64_t, std::int64_t) noexcept { return false; }
  static bool uses(const profile&) noexcept { return false; }

  class encoder {
   public:
    encoder(const profile&, isa) {}
    status state() const noexcept { return status::ok; }

    status encode(tile_rows& in, const side_info&, int /*passes*/, tile_writer& w) {
      using namespace detail::cachegen_released;
      const int n = in.place.width();
      beyond_.resize(in.rows.size());
      for (int r = 0; r < in.count(); ++r) beyond_[std::size_t(r)] = !detail::isfinite(to_float(most(in, r)));
      in.make_exact(beyond_);
      const int rows = in.count();
      if (rows == 0) return status::ok;
      const int bins = bins_of(Level, in.place.layer, in.place.plane, in.place.num_layers);
      const rounding round(bins);
      q_.resize(std::size_t(rows) * std::size_t(n));
      w.put(0, section::quantizer, std::uint8_t(bins));
      for (int r = 0; r < rows; ++r) {
        const f16 high = most(in, r);
        w.put(0, section::quantizer, high);
        round.quantize(in.x + r * in.ld, n, to_float(high), &q_[std::size_t(r) * std::size_t(n)]);
      }
      tables_.resize(std::size_t(n) * table);
      for (int c = 0; c < n; ++c) count(&q_[std::size_t(c)], rows, n, &tables_[std::size_t(c) * table]);
      codes_.clear();
      sizes_.clear();
      for (int first = 0; first < rows; first += run_tokens)
        for (int c = 0; c < n; ++c) {
          const std::uint16_t* const cumulative = &tables_[std::size_t(c) * table];
          const std::size_t before = codes_.size();
          detail::arithmetic_encoder code(codes_);
          for (int r = first; r < detail::min(first + run_tokens, rows); ++r) {
            const int s = q_[std::size_t(r) * std::size_t(n) + std::size_t(c)];
            code.put(cumulative[s], end_of(cumulative, s));
          }
          code.finish();
          sizes_.push_back(std::uint32_t(codes_.size() - before));
        }
      w.put_bytes(0, section::entropy, tables_.data(), 2 * tables_.size());
      w.put_bytes(0, section::entropy, sizes_.data(), 4 * sizes_.size());
      w.put_bytes(0, section::entropy, codes_.data(), codes_.size());
      return status::ok;
    }

   private:
    static f16 most(const tile_rows& in, int row) noexcept {
      const float* const x = in.x + row * in.ld;
      float high = 0;
      for (int i = 0; i < in.place.width(); ++i) high = detail::max(high, detail::abs(x[i]));
      return from_float<f16>(high);
    }

    std::vector<std::uint8_t> beyond_, q_, codes_;
    std::vector<std::uint16_t> tables_;
    std::vector<std::uint32_t> sizes_;
  };

  class decoder {
   public:
    decoder(const profile&, isa) {}
    status state() const noexcept { return status::ok; }

    void decode(std::span<tile> tiles, const side_info&) {
      for (std::size_t i = 0; i < tiles.size(); ++i) {
        tiles[i].slot = int(i);
        if (!open(tiles[i], open_[i])) tiles[i].state = status::corrupt_tile;
      }
    }

    int rows(const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
      const opened& o = open_[t.slot];
      const int width = t.place.width();
      const detail::cachegen_released::rounding round(o.bins);
      for (int r = first; r < first + n; ++r, out += ld)
        round.restore(&o.q[std::size_t(r) * std::size_t(width)], width, to_float(o.most[std::size_t(r)]), out);
      return n;
    }

   private:
    // One tile as integers.
    struct opened {
      int bins = 0;
      std::vector<f16> most;        // [rows]
      std::vector<std::uint8_t> q;  // [rows][width]
    };

    bool open(const tile& t, opened& o) {
      using namespace detail::cachegen_released;
      const auto scales = t.section(0, section::quantizer), coded = t.section(0, section::entropy);
      const std::size_t rows = std::size_t(t.rows()), n = std::size_t(t.place.width());
      if (rows == 0) return scales.empty() && coded.empty();
      section_reader head(scales), in(coded);
      o.bins = head.get<std::uint8_t>();
      const auto most = head.take(2 * rows);
      const std::size_t runs = (rows + run_tokens - 1) / run_tokens;
      const auto tables = in.take(2 * table * n), sizes = in.take(4 * runs * n);
      if (!head.finished() || !in.ok() || o.bins < 4 || o.bins > alphabet) return false;
      o.most.resize(rows);
      std::memcpy(o.most.data(), most.data(), most.size());
      for (const f16 m : o.most)
        if (m.bits >= 0x7c00) return false;
      tables_.resize(table * n);
      std::memcpy(tables_.data(), tables.data(), tables.size());
      for (std::size_t c = 0; c < n; ++c) {
        const std::uint16_t* const cumulative = &tables_[c * table];
        if (cumulative[0] != 0) return false;
        for (std::size_t s = 1; s < table; ++s)
          if (cumulative[s] <= cumulative[s - 1]) return false;
      }
      o.q.resize(rows * n);
      for (std::size_t run = 0; run < runs; ++run)
        for (std::size_t c = 0; c < n; ++c) {
          std::uint32_t size;
          std::memcpy(&size, &sizes[4 * (run * n + c)], 4);
          const auto code = in.take(size);
          const std::size_t first = run * run_tokens;
          if (!in.ok() ||
              !decode(code, &tables_[c * table], detail::min(first + run_tokens, rows) - first, n, &o.q[first * n + c]))
            return false;
        }
      return in.finished();
    }

    // One code, to values that are `ld` apart.
    static bool decode(std::span<const std::uint8_t> code, const std::uint16_t* cumulative, std::size_t rows,
                       std::size_t ld, std::uint8_t* q) noexcept {
      using namespace detail::cachegen_released;
      detail::arithmetic_decoder d(code);
      for (std::size_t r = 0; r < rows; ++r) {
        const std::uint32_t part = d.part();
        int s = 0;
        for (int half = alphabet / 2; half > 0; half /= 2) s += cumulative[s + half] <= part ? half : 0;
        d.drop(cumulative[s], end_of(cumulative, s));
        q[r * ld] = std::uint8_t(s);
      }
      return d.finished();
    }

    opened open_[tiles_at_once];
    std::vector<std::uint16_t> tables_;
  };
};

/// The preset with one table for 1,024 tokens: what the repository's own runs, which code whole contexts, come near.
using cachegen_released_1024 = cachegen_released<2, tile_tokens<1024>>;

static_assert(tile_codec<cachegen_released<>>);

}  // namespace SLUICE_HOST_ABI
}  // namespace codec
}  // namespace sluice
