// expect: entropy_model
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using model = sluice::class_rans;
#else
struct model {};
#endif
using codec = sluice::codec::standard::with_entropy<model>;
int main() { return codec::id.entropy == 0; }
