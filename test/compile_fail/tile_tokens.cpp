// expect: sluice::tile_tokens<Tokens>: Tokens must be a multiple of 16 from 16 to 4096
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
constexpr int tokens = 4096;
#else
constexpr int tokens = 100;
#endif
using codec = sluice::codec::standard::with_grouping<sluice::tile_tokens<tokens>>;
int main() { return codec::grouping::tokens == 0; }
