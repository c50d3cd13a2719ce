// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/bitpack/bitpack.hpp>
#include <sluice/codec/stages.hpp>

namespace sluice {
inline namespace SLUICE_HOST_ABI {

/// Entropy model: codes of a fixed width, lane-interleaved; the fastest to decode. Takes unsigned numbers only.
/// Section: packed codes (FORMAT.md section 6.3).
struct bitpack {
  static constexpr stage_id id = stage_id::of(2);
  static constexpr bool fixed_width = true;
  static bool uses(const profile&) noexcept { return false; }

  class encoder {
   public:
    encoder(const profile&, isa i) : isa_(i) {}
    status encode(symbols& s, tile_writer& w) {
      codes_.resize(s.values.size());
      for (std::size_t i = 0; i < codes_.size(); ++i) codes_[i] = std::uint8_t(s.values[i]);
      std::vector<std::uint8_t>& out = w.at(0, section::entropy);
      const int blocks = int(s.ld / 32);
      out.resize(packed_size(s.bits, s.rows, blocks));
      return pack_bits(s.bits, codes_.data(), s.ld, s.rows, blocks, std::as_writable_bytes(std::span(out)), isa_);
    }

   private:
    isa isa_;
    std::vector<std::uint8_t> codes_;
  };

  class decoder {
   public:
    decoder(const profile&, isa i) : isa_(i) {}
    void decode(std::span<decoded_symbols> batch) {
      for (decoded_symbols& s : batch) {
        const int rows = s.tile->rows();
        codes_.resize(std::size_t(rows) * std::size_t(s.ld));
        const auto bytes = std::as_bytes(s.tile->section(0, section::entropy));
        if (unpack_bits(s.bits, bytes, codes_.data(), s.ld, rows, int(s.ld / 32), isa_) != status::ok) {
          s.state = status::corrupt_tile;
          continue;
        }
        for (std::size_t i = 0; i < codes_.size(); ++i) s.values[i] = codes_[i];
      }
    }

   private:
    isa isa_;
    std::vector<std::uint8_t> codes_;
  };
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
