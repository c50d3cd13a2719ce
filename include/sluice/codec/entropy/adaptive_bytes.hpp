// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/rans/one_state.hpp>
#include <sluice/codec/tile_codec.hpp>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// Coder of bytes, for methods that end in one: regions of bytes in, one code out, and back.
/// - `id`; `encode(bytes, regions, out)` appends; `regions` are the sizes of what lies in `bytes` one after the other;
/// - `decode(code, regions, out)` fills `out`, which has the size of all regions; false where the untrusted code
///   is not one of so many bytes.
template <class C>
concept byte_coder = requires(std::span<const std::uint8_t> bytes, std::span<const std::size_t> regions,
                              std::vector<std::uint8_t>& out, std::span<std::uint8_t> to) {
  { C::id } -> std::convertible_to<stage_id>;
  C::encode(bytes, regions, out);
  { C::decode(bytes, regions, to) } -> std::same_as<bool>;
};

/// Coder of bytes that needs nothing: a tree of 255 binary probabilities for each region, which learns as it goes, and
/// rANS with one state. FORMAT.md section 6.9.
struct adaptive_bytes {
  static constexpr stage_id id = stage_id::of(6);

  /// Appends the code of all regions, which follow one another in `bytes`.
  static void encode(std::span<const std::uint8_t> bytes, std::span<const std::size_t> regions,
                     std::vector<std::uint8_t>& out) {
    using namespace detail::one_state_rans;
    std::vector<place> places;
    places.reserve(8 * bytes.size());
    std::size_t at = 0;
    for (const std::size_t size : regions) {
      tree t;
      for (const std::size_t end = at + size; at < end; ++at)
        for (unsigned node = 1, bit = 8; bit-- > 0;) {
          const unsigned b = bytes[at] >> bit & 1u;
          places.push_back(t.of(node, b));
          t.learn(node, b);
          node = 2 * node + b;
        }
    }
    coder c;
    for (std::size_t i = places.size(); i-- > 0;) c.put(places[i]);
    c.finish(out);
  }

  /// Fills `out` with the regions' bytes. False where the code is not whole and sound; `out` is anything then.
  static bool decode(std::span<const std::uint8_t> code, std::span<const std::size_t> regions,
                     std::span<std::uint8_t> out) {
    using namespace detail::one_state_rans;
    uncoder u(code);
    std::size_t at = 0;
    for (const std::size_t size : regions) {
      tree t;
      for (const std::size_t end = at + size; at < end && u.ok(); ++at) {
        unsigned node = 1;
        while (node < 256) {
          const unsigned b = u.slot() >= t.zero[node];
          u.drop(t.of(node, b));
          t.learn(node, b);
          node = 2 * node + b;
        }
        out[at] = std::uint8_t(node);
      }
    }
    return at == out.size() && u.finished();
  }

 private:
  // Slots of a 0 at every node; a step of 1/32 of what is left, so that neither ever has none.
  struct tree {
    std::uint16_t zero[256];
    tree() {
      for (std::uint16_t& z : zero) z = 1u << 15;
    }
    detail::one_state_rans::place of(unsigned node, unsigned bit) const noexcept {
      const std::uint32_t z = zero[node];
      return bit ? detail::one_state_rans::place{z, detail::one_state_rans::slots - z}
                 : detail::one_state_rans::place{0, z};
    }
    void learn(unsigned node, unsigned bit) noexcept {
      const unsigned z = zero[node];
      zero[node] = std::uint16_t(bit ? z - (z >> 5) : z + ((65535 - z) >> 5));
    }
  };
};

static_assert(byte_coder<adaptive_bytes>);

}  // namespace sluice
