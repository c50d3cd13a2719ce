// expect: basic_codec: this quantiser policy lacks an encoder.isa. with status quantize.in, step, out, beyond, writer. and split
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

struct quantizer {
  static constexpr sluice::stage_id id = sluice::stage_id::of(128);
  static constexpr int passes = 1;
  static constexpr bool fixed_width = false, rounds = false;
  static int depth(const sluice::profile&) { return 1; }
#ifdef SLUICE_GOOD
  using encoder = sluice::single_level::encoder;
  using decoder = sluice::single_level::decoder;
#endif
};
using codec = sluice::codec::standard::with_quantizer<quantizer>;
int main() { return codec::id.quantizer.id == 0; }
