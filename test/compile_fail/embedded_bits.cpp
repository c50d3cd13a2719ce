// expect: sluice::basic_codec: this quantizer needs a bit-width policy with step.. and measures..
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

struct widths {
  static constexpr sluice::stage_id id = sluice::stage_id::of(128);
  static int bits(int, sluice::plane, int) { return 4; }
#ifdef SLUICE_GOOD
  static bool measures(bool) { return true; }
  static float step(int, sluice::plane, int, const sluice::coefficient_statistics&) { return 1; }
#endif
};
using codec = sluice::codec::standard::with_bit_widths<widths>;
int main() { return codec::id.bit_widths.id == 0; }
