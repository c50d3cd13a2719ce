// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/tile_codec.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace mine {

/// A whole codec: every byte of a token XOR that of the token before. Lossless for any type.
struct xor_codec {
  static constexpr sluice::codec_id id{sluice::stage_id::of(128, 64), {}, {}, {}, {}, {}};
  static constexpr int tile_tokens = 64;
  static constexpr auto domain = sluice::value_domain::stored;
  static constexpr int span = 0;
  static int passes(const sluice::profile&) { return 1; }
  static bool keeps_exact(const sluice::profile&, std::int64_t, std::int64_t) { return false; }
  static bool uses(const sluice::profile&) { return false; }

  struct encoder {
    encoder(const sluice::profile&, sluice::isa) {}
    sluice::status state() const { return sluice::status::ok; }
    sluice::status encode(sluice::tile_rows& in, const sluice::side_info&, int, sluice::tile_writer& w) {
      const std::size_t row = std::size_t(in.place.width() * size_of(in.type)), n = row * in.rows.size();
      std::vector<std::uint8_t>& out = w.at(0, sluice::section::other5);
      out.assign(in.elements, in.elements + n);
      for (std::size_t i = row; i < n; ++i) out[i] ^= in.elements[i - row];
      return sluice::status::ok;
    }
  };

  struct decoder {
    decoder(const sluice::profile&, sluice::isa) {}
    sluice::status state() const { return sluice::status::ok; }
    void decode(std::span<sluice::tile> tiles, const sluice::side_info&) {
      for (std::size_t t = 0; t < tiles.size(); ++t) {
        const auto in = tiles[t].section(0, sluice::section::other5);
        const std::size_t row = row_bytes(tiles[t]);
        tiles[t].slot = int(t);
        if (in.size() != row * std::size_t(tiles[t].rows())) tiles[t].state = sluice::status::corrupt_tile;
        rows[t].assign(in.begin(), in.end());
        for (std::size_t i = row; i < rows[t].size(); ++i) rows[t][i] ^= rows[t][i - row];
      }
    }
    std::span<const std::uint8_t> elements(const sluice::tile& t, int first, int n) const {
      return std::span(rows[t.slot]).subspan(std::size_t(first) * row_bytes(t), std::size_t(n) * row_bytes(t));
    }

   private:
    static std::size_t row_bytes(const sluice::tile& t) { return std::size_t(t.place.width() * size_of(t.type)); }
    std::vector<std::uint8_t> rows[sluice::tiles_at_once];
  };
};

static_assert(sluice::tile_codec<xor_codec>);

}  // namespace mine
