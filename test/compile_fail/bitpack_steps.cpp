// expect: sluice::basic_codec: this quantizer needs a bit-width policy with bits.., such as uniform_bits
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using widths = sluice::uniform_bits<4>;
#else
using widths = sluice::profile_steps;
#endif
using codec = sluice::codec::fixed<8>::with_bit_widths<widths>;
int main() { return codec::id.entropy.id == 0; }
