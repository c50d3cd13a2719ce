// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>

#include <cstdint>
#include <span>
#include <vector>

namespace mine {

/// Entropy model: runs of zeros and values as varints; refinement digits five to a byte, of values that are not zero.
/// It loses what is small: a value that the base level sees as zero stays zero at every level.
struct run_length {
  static constexpr sluice::stage_id id = sluice::stage_id::of(129);
  static constexpr bool fixed_width = false;
  static bool uses(const sluice::profile&) { return false; }

  struct encoder {
    encoder(const sluice::profile&, sluice::isa) {}

    sluice::status encode(sluice::symbols& s, sluice::tile_writer& w) {
      std::uint32_t run = 0;
      for (int r = 0; r < s.rows; ++r)
        for (int i = 0; i < s.width; ++i) {
          const int v = s.values[std::size_t(r * s.ld + i)];
          if (v == 0) {
            ++run;
            continue;
          }
          put(w, run);
          put(w, std::uint32_t(v < 0 ? -2 * v - 1 : 2 * v));
          run = 0;
        }
      for (int pass = 1; pass < s.made; ++pass) {
        int packed = 0, scale = 1;
        for (int r = 0; r < s.rows; ++r)
          for (int i = 0; i < s.width; ++i) {
            const std::size_t at = std::size_t(r * s.ld + i);
            if (s.values[at] == 0) continue;
            packed += scale * (s.digits[pass][at] + 1);
            if ((scale *= 3) < 243) continue;
            w.put(pass, sluice::section::entropy, std::uint8_t(packed));
            packed = 0, scale = 1;
          }
        if (scale > 1) w.put(pass, sluice::section::entropy, std::uint8_t(packed));
      }
      return sluice::status::ok;
    }

   private:
    static void put(sluice::tile_writer& w, std::uint32_t v) {
      for (; v >= 128; v >>= 7) w.put(0, sluice::section::entropy, std::uint8_t(v | 128));
      w.put(0, sluice::section::entropy, std::uint8_t(v));
    }
  };

  struct decoder {
    decoder(const sluice::profile&, sluice::isa) {}

    void decode(std::span<sluice::decoded_symbols> batch) {
      for (sluice::decoded_symbols& s : batch)
        if (!decode(s)) s.state = sluice::status::corrupt_tile;
    }

   private:
    bool decode(sluice::decoded_symbols& s) {
      const std::uint64_t width = std::uint64_t(s.tile->place.width()), count = width * std::uint64_t(s.tile->rows());
      const auto place = [&](std::uint64_t n) { return s.values + std::ptrdiff_t(n / width) * s.ld + n % width; };
      sluice::section_reader base(s.tile->section(0, sluice::section::entropy));
      coded_.clear();
      for (std::uint64_t n = 0; base.ok() && !base.finished(); ++n) {
        n += get(base);
        const std::uint32_t v = get(base);
        if (n >= count || v == 0 || v > 65534) return false;
        *place(n) = std::int16_t(v & 1 ? -int(v / 2) - 1 : int(v / 2));
        coded_.push_back(place(n));
      }
      if (!base.finished()) return false;
      for (int pass = 1; pass <= s.tile->level; ++pass) {
        sluice::section_reader digits(s.tile->section(pass, sluice::section::entropy));
        for (std::size_t i = 0, packed = 0; i < coded_.size(); ++i, packed /= 3) {
          if (i % 5 == 0) packed = digits.get<std::uint8_t>();
          const int v = 3 * *coded_[i] + int(packed % 3) - 1;
          if (v < INT16_MIN || v > INT16_MAX) return false;
          *coded_[i] = std::int16_t(v);
        }
        if (!digits.finished()) return false;
      }
      return true;
    }

    static std::uint32_t get(sluice::section_reader& r) {
      std::uint32_t v = 0;
      for (int shift = 0; shift < 28; shift += 7) {
        const auto b = r.get<std::uint8_t>();
        v |= std::uint32_t(b & 127) << shift;
        if (b < 128) break;
      }
      return v;
    }

    std::vector<std::int16_t*> coded_;
  };
};

}  // namespace mine
