// expect: sluice::basic_codec: this entropy model packs codes of a fixed width: take a quantizer that makes them
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using quantizer = sluice::ranged<>;
#else
using quantizer = sluice::embedded<1>;
#endif
using codec = sluice::codec::fixed<8>::with_quantizer<quantizer>;
int main() { return codec::id.entropy.id == 0; }
