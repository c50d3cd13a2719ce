// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/warp/targets.hpp>

// Encoders and decoders of the presets: sluice::kernels has them, and who links it does not compile them again.

// clang-format off
#define SLUICE_FOR_EACH_CODEC_INSTANCE(instance) \
  instance(codec::standard)                      \
  instance(codec::exact)                         \
  instance(codec::uncompressed)                  \
  instance(codec::fixed<4>)                      \
  instance(codec::plain<8>)                      \
  instance(codec::plain<4>)                      \
  instance(codec::int4)                          \
  instance(codec::kivi<4>)                       \
  instance(codec::kivi<2>)                       \
  instance(codec::cachegen_paper<>)              \
  instance(codec::cachegen_paper<50>)            \
  instance(codec::cachegen_paper<200>)
// clang-format on

#if SLUICE_LINKS_KERNELS
namespace sluice {
#define SLUICE_DECLARE_CODEC(name)     \
  extern template class encoder<name>; \
  extern template class decoder<name>;
SLUICE_FOR_EACH_CODEC_INSTANCE(SLUICE_DECLARE_CODEC)
#undef SLUICE_DECLARE_CODEC
}  // namespace sluice
#endif
