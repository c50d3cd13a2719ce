// expect: sluice::tile_tokens<Tokens, HeadsPerBasis>: HeadsPerBasis must be 0 .as many as fit., 1, 2 or 4
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
constexpr int heads = 4;
#else
constexpr int heads = 3;
#endif
int main() { return sluice::tile_tokens<256, heads>::tokens == 0; }
