// expect: sluice::layer_bits<Bits...>: give at least one width
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using widths = sluice::layer_bits<1>;
#else
using widths = sluice::layer_bits<>;
#endif
int main() { return widths::bits(1, sluice::plane::key, 4) == 0; }
