// expect: basic_codec: this grouping policy lacks tokens or heads_per_basis
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

struct grouping {
  static constexpr int tokens = 64;
#ifdef SLUICE_GOOD
  static constexpr int heads_per_basis = 0;
#endif
};
using codec = sluice::codec::standard::with_grouping<grouping>;
int main() { return codec::id.method.value() == 0; }
