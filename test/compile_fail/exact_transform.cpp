// expect: sluice::basic_codec: split_exponent and raw code values as they are: identity_transform and single_level
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

#ifdef SLUICE_GOOD
using transform = sluice::identity_transform;
#else
using transform = sluice::profile_basis;
#endif
using codec = sluice::codec::exact::with_transform<transform>;
int main() { return codec::id.entropy == 0; }
