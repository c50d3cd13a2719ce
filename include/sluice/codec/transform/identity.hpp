// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stages.hpp>
#include <sluice/codec/transform/product.hpp>

#include <cstring>

namespace sluice {

inline namespace SLUICE_HOST_ABI {

/// Transform policy: values are coded as they stand in the cache, keys under their rotary embedding.
struct identity_transform {
  static constexpr stage_id id = stage_id::of(0);
  static constexpr value_domain domain = value_domain::rotated;
  /// Coefficients are the rows: a quantiser may restore them in place (transform_policy).
  static constexpr bool passes_through = true;
  static bool uses(const profile&) noexcept { return false; }

  class encoder {
   public:
    encoder(const profile&, isa) {}
    status state() const noexcept { return status::ok; }
    status forward(const tile_rows& in, coefficients& out, tile_writer&) const noexcept {
      for (int r = 0; r < out.rows; ++r)
        std::memcpy(&out.y[std::size_t(r) * std::size_t(out.ld)], in.x + r * in.ld,
                    std::size_t(out.width) * sizeof(float));
      return status::ok;
    }
  };

  class decoder {
   public:
    decoder(const profile&, isa i) : isa_(i) {}
    status state() const noexcept { return status::ok; }
    bool calibrated(const group_place&) const noexcept { return false; }
    bool open(const tile& t, int /*slot*/) const noexcept { return t.section(0, section::transform).empty(); }
    void inverse(const tile& t, int /*slot*/, const coefficient_rows& c, float* out, std::ptrdiff_t ld) const noexcept {
      const int width = t.place.width();
      if (c.floats) {
        for (int r = 0; r < c.rows; ++r)
          std::memcpy(out + r * ld, c.floats + r * c.ld, std::size_t(width) * sizeof(float));
      } else {
        detail::dequantize_rows(isa_, c.values, c.ld, c.rows, detail::min(c.live, width), c.scale, nullptr, width, out,
                                ld);
      }
      for (const coefficient_correction& e : c.corrections) out[e.row * ld + e.coefficient] += c.scale * e.value;
    }

   private:
    isa isa_;
  };
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
