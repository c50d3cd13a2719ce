// expect: sluice::basic_codec: bitpack needs uniform_bits or layer_bits, and single_level
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using quantizer = sluice::single_level;
#else
using quantizer = sluice::embedded<1>;
#endif
using codec = sluice::codec::fixed<8>::with_quantizer<quantizer>;
int main() { return codec::id.entropy == 0; }
