// expect: basic_codec: this bit-width policy lacks a stage_id `id`
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using widths = sluice::profile_steps;
#else
struct widths {};
#endif
using codec = sluice::codec::standard::with_bit_widths<widths>;
int main() { return codec::id.bit_widths.id != 0; }
