// expect: sluice::layer_bits<Bits...>: every width must be from 1 to 8
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using widths = sluice::layer_bits<4, 3, 2>;
#else
using widths = sluice::layer_bits<4, 0, 2>;
#endif
int main() { return widths::bits(1, sluice::plane::key, 4) == 0; }
