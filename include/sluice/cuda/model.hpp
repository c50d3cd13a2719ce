// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/config.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/tensor/half.hpp>

#include <cstddef>
#include <cstdint>

// What kernels read of a profile: one image, made on the host once for a profile and a codec (cuda/image.hpp) and copied
// to the device by whoever owns memory there. Plain structures; every `_at` is an offset from the image's first byte, a
// multiple of 16; 0 = absent.

// Names of sluice::detail are to be found in kernels that have details of their own.
namespace sluice::cuda::detail {
using namespace sluice::detail;
}

namespace sluice::cuda {

/// First bytes of an image.
struct model_head {
  codec_id codec;             ///< that frames must be of, but for tile size and bit widths
  std::uint64_t fingerprint;  ///< that frames must carry
  std::uint64_t size;         ///< bytes of the image
  std::int32_t layers;        ///< of the model
  std::int32_t passes;        ///< that frames may have: of the codec and the profile
  std::int32_t depth;         ///< passes of a complete tile: what the finest step is split into
  std::int32_t uses_profile;  ///< whether heads must be grouped as in the profile
  std::int32_t ropes;         ///< entries at ropes_at
  std::int32_t rope_pairs;    ///< of all of them together
  std::int32_t strands;       ///< groups of K and V of all layers: strands of one token tile
  std::int32_t max_width;     ///< of any group, padded to whole blocks of 32
  std::int32_t domain;        ///< a value_domain
  std::uint64_t planes_at;    ///< plane_model[2 * layers], K then V of each layer
  std::uint64_t groups_at;    ///< group_model[strands], in the order of planes
  std::uint64_t ropes_at;     ///< rope_model[ropes]
  std::uint64_t
      class_tables_at;   ///< what class_rans looks up (cuda/entropy/class_tables.hpp); 0 = another entropy model
  std::int64_t columns;  ///< of all groups together, each padded
  std::uint64_t own_at;  ///< what a codec's own stages look up (image_part in cuda/image.hpp)
  std::uint64_t
      encode_tables_at;  ///< what class_rans's encoder looks up (cuda/encode/encode_tables.hpp); 0 = not packed
};

/// K or V of a layer.
struct plane_model {
  std::int32_t heads;        ///< 0 = absent
  std::int32_t head_dim;     ///< elements of a head
  std::int32_t group_width;  ///< channels of a group; the last one may have fewer
  std::int32_t groups;       ///< of this plane
  std::int32_t first_group;  ///< number of the first of them in the model: index into group_model
  std::int32_t rope;         ///< index of the rope_model that rotates it; -1 = none
  std::int32_t window;       ///< of sliding attention, tokens; 0 = full
  float scale;               ///< value of one coefficient unit
};

/// A group of heads that share a basis.
struct group_model {
  std::int32_t layer;        ///< of the model
  std::int32_t plane;        ///< 0 = K, 1 = V
  std::int32_t first_head;   ///< of the layer, where the group begins
  std::int32_t heads;        ///< of the group
  std::int32_t width;        ///< channels
  std::int32_t ld;           ///< the same, padded to whole blocks of 32
  std::uint64_t mean_at;     ///< float[ld], zeros behind the width; 0 = carried in the tiles
  std::uint64_t classes_at;  ///< u8[ld], zeros behind the width; 0 = carried in the tiles
  std::uint64_t matrix_at;   ///< u16[width][width] f16 bits as in the profile; 0 = identity
  std::uint64_t basis_at;    ///< the same as the inverse kernel likes it (cuda/store/basis.hpp); 0 = identity
  std::uint64_t columns_at;  ///< which channel each of its columns is (cuda/store/basis.hpp)
  std::uint64_t
      forward_at;  ///< the encoder's matrix as the forward kernel likes it (cuda/encode/forward.hpp); 0 = not packed
  std::int64_t columns_before;  ///< of the groups before this one, each padded
};

/// One rotary embedding of K heads of one size.
struct rope_model {
  std::int32_t pairing;        ///< a rope_pairing
  std::int32_t pairs;          ///< that rotate, of a head
  std::int32_t pairs_before;   ///< of the ropes before this one
  std::int32_t head_dim;       ///< of the K heads that it rotates
  std::uint64_t frequency_at;  ///< double[pairs], radians a position
  double attention_factor;     ///< cos and sin are multiplied by it
};

/// A part of an image.
template <class T>
SLUICE_HD inline const T* in_image(const std::byte* image, std::uint64_t at) noexcept {
  return reinterpret_cast<const T*>(image + at);
}
/// Its first bytes.
SLUICE_HD inline const model_head& head_of(const std::byte* image) noexcept { return *in_image<model_head>(image, 0); }
/// K (plane 0) or V of a layer.
SLUICE_HD inline const plane_model& plane_of(const std::byte* image, int layer, int plane) noexcept {
  return in_image<plane_model>(image, head_of(image).planes_at)[2 * layer + plane];
}
/// A group by its number in the model, which is that of its strand within a token tile.
SLUICE_HD inline const group_model& group_of(const std::byte* image, int strand) noexcept {
  return in_image<group_model>(image, head_of(image).groups_at)[strand];
}

/// Where the tile of a group and a token tile stands in a pass of the index, counted from the first of the pass: planes, then token tiles,
/// then groups of the plane.
SLUICE_HD inline std::int64_t place_in_pass(const std::byte* image, std::int32_t group, std::int32_t tile,
                                            std::int32_t token_tiles) noexcept {
  const group_model& g = group_of(image, group);
  const plane_model& p = plane_of(image, g.layer, g.plane);
  return std::int64_t{p.first_group} * token_tiles + std::int64_t{tile} * p.groups + (group - p.first_group);
}

/// 3^n, n from 0 to 5. A number instead of an array, which a device would keep in memory.
SLUICE_HD constexpr int power3(int n) noexcept { return static_cast<int>(0xf3511b090301u >> 8 * n & 255); }

}  // namespace sluice::cuda
