// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/stored_codec.hpp>

namespace sluice {

/// Lossless model: the bytes themselves, with frame, index and checksums around them.
struct raw {
  static constexpr stage_id id = stage_id::of(4);

  class encoder {
   public:
    explicit encoder(isa) {}
    status encode(const element_block& in, std::vector<std::uint8_t>& out) const {
      out.assign(in.elements, in.elements + in.size());
      return status::ok;
    }
  };
  class decoder {
   public:
    explicit decoder(isa) {}
    std::span<const std::uint8_t> decode(std::span<const std::uint8_t> bytes, const element_block& what,
                                         std::vector<std::uint8_t>& /*memory*/) const noexcept {
      return bytes.size() == what.size() ? bytes : std::span<const std::uint8_t>{};
    }
  };
};

}  // namespace sluice
