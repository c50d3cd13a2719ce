// expect: basic_codec: transforms work on floats; elements as stored are coded by stored_codec
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
constexpr auto codes = sluice::value_domain::rotated;
#else
constexpr auto codes = sluice::value_domain::stored;
#endif

struct transform {
  static constexpr sluice::stage_id id = sluice::stage_id::of(128);
  static constexpr sluice::value_domain domain = codes;
  static bool uses(const sluice::profile&) { return false; }
  using encoder = sluice::identity_transform::encoder;
  using decoder = sluice::identity_transform::decoder;
};
using codec = sluice::codec::standard::with_transform<transform>;
int main() { return codec::id.transform.id == 0; }
