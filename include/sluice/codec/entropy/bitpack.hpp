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
      std::vector<std::uint8_t>& out = w.at(0, section::entropy);
      const int blocks = int(s.ld / 32);
      out.resize(packed_size(s.bits, s.rows, blocks));
      return pack_bits(s.bits, s.values.data(), s.ld, s.rows, blocks, std::as_writable_bytes(std::span(out)), isa_);
    }

   private:
    isa isa_;
  };

  class decoder {
   public:
    decoder(const profile&, isa i) : isa_(i) {}
    void decode(std::span<decoded_symbols> batch) {
      for (decoded_symbols& s : batch) {
        const auto bytes = std::as_bytes(s.tile->section(0, section::entropy));
        if (unpack_bits(s.bits, bytes, s.values, s.ld, s.tile->rows(), int(s.ld / 32), isa_) != status::ok)
          s.state = status::corrupt_tile;
      }
    }

   private:
    isa isa_;
  };
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
