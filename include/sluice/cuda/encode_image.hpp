// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/encode/encode_tables.hpp>
#include <sluice/cuda/encode/encode_work.hpp>
#include <sluice/cuda/encode/forward.hpp>
#include <sluice/cuda/image.hpp>
#include <sluice/format/tile.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/status.hpp>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

// What a host knows before an encode on a device: the model's image with what encoders look up besides, and sizes.

namespace sluice::cuda {

/// A model's image on a device, for encodes with a codec. A plain structure: it owns nothing.
template <class Codec>
struct device_encoder {
  const std::byte* image = nullptr;  ///< a copy of encoder_model<Codec>::image() in device memory, at a multiple of 16
  model_head head{};                 ///< its first bytes
  std::int32_t sinks = 0;            ///< first tokens of a sequence that are kept exact, see profile
  device_model<Codec> decodes{};     ///< the same image as decode_async() takes it
};

/// The image of a profile for encodes and decodes with one codec, in host memory. Bases are inverted and packed here, which
/// takes as long as making an encoder of the first profile does.
template <tile_codec Codec>
class encoder_model {
 public:
  /// Packs what kernels look up; the profile need not be kept.
  explicit encoder_model(const profile& p) : decodes_(p), state_(decodes_.state()) {
    if (state_ != status::ok) return;
    sinks_ = p.sinks;
    image_.assign(decodes_.image().begin(), decodes_.image().end());
    if constexpr (Codec::domain != value_domain::stored) state_ = add_forward(p, image_);
    if (state_ != status::ok) {
      image_.clear();
      return;
    }
    std::memcpy(&head_, image_.data(), sizeof head_);
    if (head_.max_width > max_group_width) state_ = status::too_large;
    head_.encode_tables_at = head_.size;
    image_.resize(image_.size() + encode_tables_bytes);
    std::vector<encode_tables> tables(1);
    pack_encode_tables(tables.data());
    std::memcpy(image_.data() + head_.encode_tables_at, tables.data(), encode_tables_bytes);
    head_.size = image_.size();
    std::memcpy(image_.data(), &head_, sizeof head_);
  }

  /// Whether the profile serves. Errors: those of model<Codec>, corrupt_profile (a singular basis), too_large (a group of
  /// more than max_group_width channels).
  status state() const noexcept { return state_; }
  /// What is to be copied to a device, at a multiple of 16; empty where state() is not ok.
  std::span<const std::byte> image() const noexcept { return image_; }
  /// The model behind a copy of image().
  device_encoder<Codec> at(const std::byte* device_copy, const device_limits& limits = {}) const noexcept {
    return {device_copy, head_, sinks_, decodes_.at(device_copy, limits)};
  }

 private:
  model<Codec> decodes_;
  status state_;
  std::vector<std::byte> image_;
  model_head head_{};
  std::int32_t sinks_ = 0;
};

/// Bytes that the frame of a request can need: the cache as stored, plus headers. Never exceeded; 0 where no frame is made.
template <class Codec>
std::size_t max_frame_size(const device_encoder<Codec>& m, const encode_request& r) noexcept {
  const std::int64_t tokens = r.size();
  if (tokens < 1 || tokens > max_frame_tokens) return 0;
  const auto groups = static_cast<std::size_t>(m.head.strands);
  const std::size_t tiles = static_cast<std::size_t>((tokens + Codec::tile_tokens - 1) / Codec::tile_tokens);
  std::size_t row = 0;
  for (const plane_view* p : {&r.cache.k, &r.cache.v})
    if (p->present())
      row += static_cast<std::size_t>(r.cache.num_layers) * static_cast<std::size_t>(r.cache.num_kv_heads) *
             static_cast<std::size_t>(p->head_dim) * static_cast<std::size_t>(size_of(p->type));
  return sluice::detail::front_size(static_cast<std::size_t>(m.head.layers), groups * tiles,
                                    static_cast<std::size_t>(m.head.passes)) +
         groups * tiles * tile_writer::stored_size(0, 0) + static_cast<std::size_t>(tokens) * (2 * groups + row);
}

}  // namespace sluice::cuda
