// expect: sluice::basic_codec: class_rans codes the coefficients of profile_basis
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using transform = sluice::profile_basis;
#else
using transform = sluice::identity_transform;
#endif
using codec = sluice::codec::standard::with_transform<transform>;
int main() { return codec::id.entropy == 0; }
