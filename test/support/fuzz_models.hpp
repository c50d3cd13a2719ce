// SPDX-License-Identifier: Apache-2.0
#pragma once

#if defined(__CUDACC__)  // what codecs on a device want; nvcc does not read Eigen
#include <sluice/calibrate/cachegen.hpp>
#else
#include <sluice/calibrate/preset_sections.hpp>
#endif
#include <sluice/model/profile.hpp>

#include <cstdlib>
#include <support/caches.hpp>
#include <support/prediction.hpp>
#include <vector>

/// The models whose frames lie in fuzz/corpus/frame, and the caches that these frames go to.
namespace fuzz_models {

using namespace sluice;

/// Heads are wide enough for tiles to be coded, not kept.
struct models {
  model_shape shape = model_shape::uniform(2, 2, 24);
  model_shape hybrid_shape{{{}, {2, 24, 24, 0, 0}, {2, 24, 24, 0, 8}, {}}, shape.ropes};
  profile plain, tuned, hybrid;
  models() : plain(profile::uncalibrated(shape, 3, 2)), hybrid(profile::uncalibrated(hybrid_shape, 3, 2)) {
    caches::cache c = caches::make_cache(shape, tokens);
    caches::fill(c.view(), shape, 4242);
    tuned = caches::make_profile(shape, {&c.view(), 1}, 0, 3, 2);
    for (profile* p : {&plain, &tuned}) add_sections(*p, {&c.view(), 1});
    caches::add_prediction(tuned, 4242, 6);
    add_sections(hybrid, {});
  }
  static void add_sections(profile& p, std::span<const kv_view> captures) {
#if defined(__CUDACC__)
    p.set_section(*calibrate_cachegen(p, captures));
#else
    if (calibrate_presets(p, captures) != status::ok) std::abort();
#endif
  }
  static constexpr std::int64_t tokens = 23;
  std::vector<std::int32_t> ids = caches::token_ids(tokens, 6);  // of the tokens, for predictors
};

inline const models& known() {
  static const models m;
  return m;
}

/// Bits of the first byte of an input, which says what happens to the frame behind it.
enum how : unsigned {
  make_right = 1,    ///< checksums and fingerprint
  calibrated = 2,    ///< the profile
  moved = 4,         ///< to another position
  level_bits = 8,    ///< three bits: the level
  some_tokens = 64,  ///< only, and of the hybrid model only what lies inside of its window
  other_type = 128   ///< of the pages
};

/// Pages of the hybrid model: two layers between two that keep nothing, one with a window, each with types of its own.
inline caches::mixed_cache hybrid_pages(unsigned h) {
  const std::int64_t at = h & moved ? 100 : 0;
  const dtype k = h & other_type ? dtype::e4m3 : dtype::f16;
  std::vector<caches::layer_kind> kinds(4, {k, dtype::bf16, at, models::tokens});
  if (h & some_tokens) kinds[2] = {dtype::f32, k, at + 16, 7};
  return {known().hybrid_shape, kinds};
}

}  // namespace fuzz_models
