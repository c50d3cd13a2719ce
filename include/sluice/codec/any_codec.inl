// SPDX-License-Identifier: Apache-2.0
// The functions of any_codec.hpp, which includes this where they are not in sluice::kernels.

#include <sluice/codec/instances.hpp>

#include <array>
#include <string_view>

namespace sluice {

namespace detail::inline SLUICE_HOST_ABI {

template <class Codec>
class encoder_of final : public any_encoder {
 public:
  encoder_of(const profile& p, tuning t) : encoder_(p, t) {}
  std::size_t max_size(std::span<const kv_view> cache) const override { return encoder_.max_size(cache); }
  result<std::size_t> encode(std::span<const kv_view> cache, std::span<std::byte> out,
                             const encode_options& options) override {
    return encoder_.encode(cache, out, options);
  }

 private:
  encoder<Codec> encoder_;
};

template <class Codec>
class decoder_of final : public any_decoder {
 public:
  decoder_of(const profile& p, tuning t) : decoder_(p, t) {}
  page_status decode(std::span<const std::byte> frame, std::span<const kv_view> cache,
                     const decode_options& options) override {
    return decoder_.decode(frame, cache, options);
  }

 private:
  decoder<Codec> decoder_;
};

}  // namespace detail::inline SLUICE_HOST_ABI

inline namespace SLUICE_HOST_ABI {

SLUICE_KERNEL std::span<const preset> presets() noexcept {
  static constexpr auto table = [] {
    std::array<preset, codec::num_presets> all{};
    std::size_t n = 0;
    codec::any_preset([&]<class Codec>(const char* name, const char* what) {
      all[n++] = {name, what, Codec::id, Codec::domain};
      return false;
    });
    return all;
  }();
  return table;
}

SLUICE_KERNEL const preset* preset_named(const char* name) noexcept {
  for (const preset& p : presets())
    if (std::string_view(p.name) == name) return &p;
  return nullptr;
}

SLUICE_KERNEL const preset* preset_reading(const codec_id& id) noexcept {
  for (const preset& p : presets())
    if (p.id.decodes(id)) return &p;
  return nullptr;
}

SLUICE_KERNEL std::uint64_t fingerprint_of(const codec_id& id, const profile& p) {
  std::uint64_t found = 0;
  codec::with_codec(id, [&]<class Codec>() { found = fingerprint_of<Codec>(p); });
  return found;
}

SLUICE_KERNEL std::unique_ptr<any_encoder> make_encoder(const codec_id& id, const profile& p, tuning t) {
  std::unique_ptr<any_encoder> made;
  codec::any_preset([&]<class Codec>(const char*, const char*) {
    if (!(Codec::id == id)) return false;
    made = std::make_unique<detail::encoder_of<Codec>>(p, t);
    return true;
  });
  return made;
}

SLUICE_KERNEL std::unique_ptr<any_decoder> make_decoder(const codec_id& id, const profile& p, tuning t) {
  std::unique_ptr<any_decoder> made;
  codec::with_codec(id, [&]<class Codec>() { made = std::make_unique<detail::decoder_of<Codec>>(p, t); });
  return made;
}

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice
