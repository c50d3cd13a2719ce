// expect: basic_codec: a predictor with a span must predict
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

struct predictor {
  static constexpr sluice::stage_id id = sluice::stage_id::of(128);
#ifdef SLUICE_GOOD
  static constexpr int span = 0;
#else
  static constexpr int span = 1;
#endif
  static constexpr bool predicts = false;
  void learn(const sluice::group_place&, const sluice::tile_tokens_range&, std::span<const std::uint16_t>, const float*,
             std::ptrdiff_t) {}
  void forget() {}
};
using codec = sluice::codec::standard::with_predictor<predictor>;
int main() { return codec::id.predictor.id == 0; }
