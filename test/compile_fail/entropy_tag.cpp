// expect: basic_codec: this entropy model lacks an encoder.profile, isa. with status encode.symbols, writer.
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using model = sluice::class_rans;
#else
struct model {
  static constexpr sluice::stage_id id = sluice::stage_id::of(128);
  static constexpr bool fixed_width = false;
  static bool uses(const sluice::profile&) { return false; }
};
#endif
using codec = sluice::codec::standard::with_entropy<model>;
int main() { return codec::id.entropy.id == 0; }
