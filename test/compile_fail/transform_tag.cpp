// expect: basic_codec: this transform policy lacks an encoder.profile, isa. with state.. and status forward
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

struct transform {
  static constexpr sluice::stage_id id = sluice::stage_id::of(128);
  static constexpr sluice::value_domain domain = sluice::value_domain::rotated;
  static bool uses(const sluice::profile&) { return false; }
#ifdef SLUICE_GOOD
  using encoder = sluice::identity_transform::encoder;
  using decoder = sluice::identity_transform::decoder;
#endif
};
using codec = sluice::codec::standard::with_transform<transform>;
int main() { return codec::id.transform.id == 0; }
