// expect: sluice::embedded<Refinements>: Refinements must be from 0 to 5
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
constexpr int refinements = 5;
#else
constexpr int refinements = 6;
#endif
int main() { return sluice::embedded<refinements>::passes == 0; }
