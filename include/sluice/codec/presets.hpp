// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/preset/aatc.hpp>
#include <sluice/codec/preset/balanced.hpp>
#include <sluice/codec/preset/cachegen_paper.hpp>
#include <sluice/codec/preset/cachegen_released.hpp>
#include <sluice/codec/preset/exact.hpp>
#include <sluice/codec/preset/fixed.hpp>
#include <sluice/codec/preset/fp8.hpp>
#include <sluice/codec/preset/int4.hpp>
#include <sluice/codec/preset/kivi.hpp>
#include <sluice/codec/preset/kvquant.hpp>
#include <sluice/codec/preset/kvtc.hpp>
#include <sluice/codec/preset/smallest.hpp>
#include <sluice/codec/preset/turboquant.hpp>
#include <sluice/codec/width/layer_bits.hpp>

#include <array>
#include <cstddef>

// The table of presets: type, name, what it is. The command line, its help, the benchmarks, the tests and sluice::kernels go
// through this table.
// clang-format off
#define SLUICE_PRESETS(row) \
  row(standard, "standard", "weighted basis, four levels in one frame, rANS: the default") \
  row(balanced, "balanced", "standard with steps that know which tokens will be looked at") \
  row(smallest, "smallest", "predicted from text and lower layers as well; three levels; needs token ids") \
  row(exact, "exact", "lossless, any type") \
  row(uncompressed, "raw", "the bytes as they are, with frame and checksums") \
  row(fixed<4>, "fixed4", "4 bits a value in the profile's basis, no entropy coder") \
  row(plain<8>, "plain8", "8 bits a value, range per channel and tile, no profile") \
  row(plain<4>, "plain4", "4 bits a value, range per channel and tile, no profile") \
  row(fp8, "fp8", "a cast to e4m3, no scale, no profile") \
  row(int8, "int8", "8 bits a value, one scale per token and head, no profile") \
  row(int4, "int4", "4 bits a value, one scale per token and head, no profile") \
  row(kivi<4>, "kivi4", "KIVI: 4 bits, K per channel, V per token, last 128 tokens exact") \
  row(kivi<2>, "kivi2", "KIVI: 2 bits, K per channel, V per token, last 128 tokens exact") \
  row(turboquant<4>, "turboquant4", "TurboQuant: rotation, 16 Lloyd-Max levels, a norm per token and head") \
  row(turboquant<3>, "turboquant3", "the same with 8 levels") \
  row(cachegen_released<>, "cachegen_released", "CacheGen's code at level 2: tables in each chunk of 256 tokens") \
  row(cachegen_released<3>, "cachegen_released_fine", "the same at level 3") \
  row(cachegen_released<1>, "cachegen_released_coarse", "the same at level 1") \
  row(cachegen_released_1024, "cachegen_released_1024", "level 2, chunks of 1,024 tokens") \
  row(cachegen_paper<>, "cachegen_paper", "CacheGen's paper; its tables are in the profile") \
  row(cachegen_paper<50>, "cachegen_paper_fine", "the same with bins of half the width") \
  row(cachegen_paper<200>, "cachegen_paper_coarse", "the same with bins of twice the width") \
  row(kvtc<8>, "kvtc8", "KVTC: PCA, widths by dynamic programming, 8 times smaller before its coder; 128 tokens exact") \
  row(kvtc<16>, "kvtc16", "the same, 16 times") \
  row(kvtc<32>, "kvtc32", "the same, 32 times") \
  row(kvquant<4>, "kvquant4", "KVQuant: 4 bits on levels of k-means, one value in a hundred apart") \
  row(kvquant<3>, "kvquant3", "the same with 3 bits") \
  row(aatc<400>, "aatc4", "AATC: 4 bits a coefficient of the profile's basis on average; last 128 tokens exact") \
  row(aatc<300>, "aatc3", "the same with 3 bits") \
  row(aatc<200>, "aatc2", "the same with 2 bits")
// clang-format on

namespace sluice::codec {

/// Calls `f.operator()<Codec>(name, what it is)` for one preset after the other until f returns true, and returns whether
/// it did.
template <class F>
constexpr bool any_preset(F&& f) {
#define SLUICE_CALL(type, name, what) f.template operator()<type>(name, what) ||
  return SLUICE_PRESETS(SLUICE_CALL) false;
#undef SLUICE_CALL
}

/// Calls `f.operator()<Codec>()` for the preset of this name. Returns false where there is none.
template <class F>
bool with_preset(const char* name, F&& f) {
  return any_preset([&]<class Codec>(const char* other, const char*) {
    std::size_t i = 0;
    while (name[i] && name[i] == other[i]) ++i;
    if (name[i] != other[i]) return false;
    f.template operator()<Codec>();
    return true;
  });
}

/// Calls `f.operator()<Codec>()` for a preset whose decoder reads frames with this id. Returns false where there is
/// none.
template <class F>
bool with_codec(const codec_id& id, F&& f) {
  return any_preset([&]<class Codec>(const char*, const char*) {
    if (!Codec::id.decodes(id)) return false;
    f.template operator()<Codec>();
    return true;
  });
}

/// How many there are.
inline constexpr std::size_t num_presets = [] {
  std::size_t n = 0;
  any_preset([&]<class>(const char*, const char*) { return ++n, false; });
  return n;
}();

/// The names with_preset() knows, in the order of the table.
inline constexpr auto preset_names = [] {
  std::array<const char*, num_presets> names{};
  std::size_t n = 0;
  any_preset([&]<class>(const char* name, const char*) { return names[n++] = name, false; });
  return names;
}();

}  // namespace sluice::codec
