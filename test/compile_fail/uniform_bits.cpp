// expect: sluice::uniform_bits<Bits>: Bits must be from 1 to 8
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
constexpr int bits = 8;
#else
constexpr int bits = 9;
#endif
int main() { return sluice::uniform_bits<bits>::bits(0, sluice::plane::key, 4) == 0; }
