// SPDX-License-Identifier: Apache-2.0
// Encoders and decoders of every preset.
#include "coded_cache.hpp"

#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/presets.hpp>

namespace engine {

template <class Codec>
struct coded_cache::coder_of final : coder {
  explicit coder_of(const sluice::profile& p) : encoder(p), decoder(p) {}
  sluice::result<std::size_t> encode(const sluice::kv_view& cache, std::vector<std::byte>& frame) override {
    frame.resize(encoder.max_size(cache));
    return encoder.encode(cache, frame);
  }
  sluice::status decode(std::span<const std::byte> frame, const sluice::kv_view& cache) override {
    return decoder.decode(frame, cache).worst;
  }
  sluice::encoder<Codec> encoder;
  sluice::decoder<Codec> decoder;
};

coded_cache::coded_cache(const sluice::profile& p, const std::string& codec) {
  if (!sluice::codec::with_preset(codec.c_str(), [&]<class Codec>() { coder_ = std::make_unique<coder_of<Codec>>(p); }))
    throw std::invalid_argument("no codec is called " + codec);
}

}  // namespace engine
