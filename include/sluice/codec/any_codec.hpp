// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/options.hpp>
#include <sluice/codec/tile_codec.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>
#include <sluice/warp/targets.hpp>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

// Presets that are chosen at run time: by a name that a user typed, or by what a frame says. One virtual call a frame.

namespace sluice {

/// What the table of presets says of one of them.
struct preset {
  const char* name;     ///< as users write it
  const char* what;     ///< what it is, in a line
  codec_id id;          ///< stands in its frames
  value_domain domain;  ///< what it codes
  /// Whether what is decoded is what was encoded, bit for bit.
  bool exact() const noexcept { return domain == value_domain::stored; }
};

inline namespace SLUICE_HOST_ABI {

/// All presets, in the order of the table; it lives as long as the program.
std::span<const preset> presets() noexcept;

/// The preset of this name; null where there is none.
const preset* preset_named(const char* name) noexcept;

/// A preset whose decoder reads frames with this id; null where there is none.
const preset* preset_reading(const codec_id& id) noexcept;

/// The fingerprint that frames of a preset have, as fingerprint_of<Codec>(); 0 where no preset has this id.
std::uint64_t fingerprint_of(const codec_id& id, const profile& p);

/// An encoder of any preset; see encoder.
class any_encoder {
 public:
  any_encoder() = default;
  any_encoder(const any_encoder&) = delete;
  any_encoder& operator=(const any_encoder&) = delete;
  virtual ~any_encoder() = default;

  /// As encoder::max_size().
  virtual std::size_t max_size(std::span<const kv_view> cache) const = 0;
  /// As encoder::encode().
  virtual result<std::size_t> encode(std::span<const kv_view> cache, std::span<std::byte> out,
                                     const encode_options& options = {}) = 0;

  /// The same for one view.
  std::size_t max_size(const kv_view& cache) const { return max_size(std::span(&cache, 1)); }
  /// The same for one view.
  result<std::size_t> encode(const kv_view& cache, std::span<std::byte> out, const encode_options& options = {}) {
    return encode(std::span(&cache, 1), out, options);
  }
};

/// A decoder of any preset; see decoder.
class any_decoder {
 public:
  any_decoder() = default;
  any_decoder(const any_decoder&) = delete;
  any_decoder& operator=(const any_decoder&) = delete;
  virtual ~any_decoder() = default;

  /// As decoder::decode().
  virtual page_status decode(std::span<const std::byte> frame, std::span<const kv_view> cache,
                             const decode_options& options = {}) = 0;

  /// The same for one view.
  page_status decode(std::span<const std::byte> frame, const kv_view& cache, const decode_options& options = {}) {
    return decode(frame, std::span(&cache, 1), options);
  }
};

/// An encoder of a preset, which borrows the profile; null where no preset has this id.
std::unique_ptr<any_encoder> make_encoder(const codec_id& id, const profile& p, tuning t = {});
/// A decoder for frames with this id, which borrows the profile; null where no preset reads them.
std::unique_ptr<any_decoder> make_decoder(const codec_id& id, const profile& p, tuning t = {});

std::unique_ptr<any_encoder> make_encoder(const codec_id&, profile&&,
                                          tuning = {}) = delete;  // it must outlive the encoder
std::unique_ptr<any_decoder> make_decoder(const codec_id&, profile&&,
                                          tuning = {}) = delete;  // it must outlive the decoder

}  // namespace SLUICE_HOST_ABI
}  // namespace sluice

// sluice::kernels has these, and who links it compiles no codec for them.
#if !SLUICE_LINKS_KERNELS || defined(SLUICE_KERNELS_SOURCE)
#include <sluice/codec/any_codec.inl>
#endif
