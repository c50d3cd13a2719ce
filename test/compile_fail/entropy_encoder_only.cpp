// expect: basic_codec: this entropy model lacks a decoder.profile, isa. with decode.batch.
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

struct model {
  static constexpr sluice::stage_id id = sluice::stage_id::of(128);
  static constexpr bool fixed_width = false;
  static bool uses(const sluice::profile&) { return false; }
  using encoder = sluice::class_rans::encoder;
#ifdef SLUICE_GOOD
  using decoder = sluice::class_rans::decoder;
#endif
};
using codec = sluice::codec::standard::with_entropy<model>;
int main() { return codec::id.entropy.id == 0; }
