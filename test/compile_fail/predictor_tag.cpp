// expect: basic_codec: this predictor policy lacks a constructor from a profile or bool predict
// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/presets.hpp>

struct predictor {
  static constexpr sluice::stage_id id = sluice::stage_id::of(128);
  static constexpr int span = 0;
  static constexpr bool predicts = true;
#ifdef SLUICE_GOOD
  explicit predictor(const sluice::profile&) {}
  bool predict(const sluice::group_place&, const sluice::tile_tokens_range&, std::span<const std::uint16_t>,
               const sluice::side_info&, float*, std::ptrdiff_t) {
    return false;
  }
#endif
};
using codec = sluice::codec::standard::with_predictor<predictor>;
int main() { return codec::id.predictor.id == 0; }
