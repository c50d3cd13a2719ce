// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>

#include <cstddef>

namespace sluice::codec {

/// Lossless: exponents entropy-coded, the rest verbatim.
using exact =
    basic_codec<tile_tokens<>, no_prediction, identity_transform, single_level, profile_steps, split_exponent>;

/// The bytes as they are, framed and checksummed: what everything else is measured against.
using uncompressed = exact::with_entropy<raw>;

/// Fixed rate in the profile's basis: N bits a coefficient, no entropy coder; never finer than the profile's finest step.
template <int Bits>
using fixed = basic_codec<tile_tokens<>, no_prediction, profile_basis, single_level, uniform_bits<Bits>, bitpack>;

/// Fixed rate on the cache as it stands: N bits a value, range per channel and tile.
template <int Bits>
using plain = typename fixed<Bits>::template with_transform<identity_transform>;

/// Calls f.operator()<Codec>() for the preset of this name. Returns false where there is none.
template <class F>
bool with_preset(const char* name, F&& f) {
  const auto is = [name](const char* other) {
    std::size_t i = 0;
    while (name[i] && name[i] == other[i]) ++i;
    return name[i] == other[i];
  };
  if (is("standard")) return f.template operator()<standard>(), true;
  if (is("exact")) return f.template operator()<exact>(), true;
  if (is("raw")) return f.template operator()<uncompressed>(), true;
  if (is("fixed4")) return f.template operator()<fixed<4>>(), true;
  if (is("plain8")) return f.template operator()<plain<8>>(), true;
  if (is("plain4")) return f.template operator()<plain<4>>(), true;
  return false;
}

/// The names with_preset() knows.
inline constexpr const char* preset_names[] = {"standard", "exact", "raw", "fixed4", "plain8", "plain4"};

/// Calls f.operator()<Codec>() for a preset that decodes frames with this id and tile size.
template <class F>
bool with_codec(const codec_id& id, F&& f) {
  if (id == standard::id) return f.template operator()<standard>(), true;
  if (id == exact::id) return f.template operator()<exact>(), true;
  if (id == uncompressed::id) return f.template operator()<uncompressed>(), true;
  if (id == fixed<8>::id) return f.template operator()<fixed<8>>(), true;  // widths stand in the tiles
  if (id == plain<8>::id) return f.template operator()<plain<8>>(), true;
  return false;
}

}  // namespace sluice::codec
