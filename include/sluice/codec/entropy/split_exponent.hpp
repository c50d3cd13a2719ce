// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/split_exponent/lossless.hpp>
#include <sluice/codec/stored_codec.hpp>

namespace sluice {
inline namespace SLUICE_HOST_ABI {

/// Lossless model: exponents by rANS, signs and mantissas verbatim; bit-exact for every pattern of every type.
/// Section: strips (FORMAT.md section 6.4).
struct split_exponent {
  static constexpr stage_id id = stage_id::of(3);

  class encoder {
   public:
    explicit encoder(isa i) : isa_(i) {}
    status encode(const element_block& in, std::vector<std::uint8_t>& out) {
      out.resize(lossless_max_size(in.type, in.rows, in.width));
      const std::size_t n = lossless_encode(in.type, in.rows, in.width, reinterpret_cast<const std::byte*>(in.elements),
                                            in.row_bytes(), std::as_writable_bytes(std::span(out)), workspace_, isa_);
      out.resize(n);
      return n ? status::ok : status::too_large;
    }

   private:
    isa isa_;
    std::vector<std::byte> workspace_;
  };

  class decoder {
   public:
    explicit decoder(isa i) : isa_(i) {}
    std::span<const std::uint8_t> decode(std::span<const std::uint8_t> bytes, const element_block& what,
                                         std::vector<std::uint8_t>& memory) {
      memory.resize(what.size());
      if (lossless_decode(what.type, what.rows, what.width, std::as_bytes(bytes),
                          reinterpret_cast<std::byte*>(memory.data()), what.row_bytes(), workspace_,
                          isa_) != status::ok)
        return {};
      return memory;
    }

   private:
    isa isa_;
    std::vector<std::byte> workspace_;
  };
};

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
