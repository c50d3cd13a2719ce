// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/tile_codec.hpp>
#include <sluice/cuda/strand.hpp>
#include <sluice/format/limits.hpp>
#include <sluice/numeric.hpp>

#include <cstddef>
#include <cstdint>
#include <span>

// How much memory a decode takes and where in it things lie: numbers that a host knows before it has seen a byte of a
// frame, from what requests say and from the sizes of a model. None of these functions overflows, whatever they are given.

namespace sluice::cuda {

/// What a host knows of a model's image.
struct model_sizes {
  std::int32_t layers = 0;                        ///< of the model
  std::int32_t passes = 0;                        ///< that frames may have
  std::int32_t strands = 0;                       ///< of one token tile
  std::int32_t rope_pairs = 0;                    ///< of all ropes together
  std::int32_t max_width = 0;                     ///< of any group, padded
  std::int64_t columns = 0;                       ///< of all groups together, each padded
  value_domain domain = value_domain::unrotated;  ///< of the codec
};

/// What kernels adapt to; see limits_of_device() in cuda/decode.cuh. As it stands, what an A100 has and all after it.
struct device_limits {
  std::size_t block_shared = 166912;           ///< most dynamic shared memory of a block, bytes
  std::size_t multiprocessor_shared = 167936;  ///< shared memory of a multiprocessor, bytes
};

/// A model's image on a device, for frames of a codec. A plain structure: it owns nothing.
template <class Codec>
struct device_model {
  const std::byte* image = nullptr;  ///< a copy of model<Codec>::image() in device memory, at a multiple of 16
  model_sizes sizes{};               ///< as the host's model says them
  device_limits limits{};            ///< of the device
};

/// A request, and where its parts lie in the workspace.
struct placed_request {
  request asked;                  ///< as it came
  std::uint64_t offsets_at = 0;   ///< see open_request, as the others
  std::uint64_t layers_at = 0;    ///< table of layers
  std::uint64_t ropes_at = 0;     ///< cos and sin
  std::uint64_t values_at = 0;    ///< values of all strands
  std::int32_t first_strand = 0;  ///< of all requests' strands
  std::int32_t strands = 0;       ///< of this one; 0 where no frame has the sizes that it says
  std::int32_t value_size = 0;    ///< bytes of a value
};

/// Requests that one launch takes in its parameters, which may have 4096 bytes on every device.
inline constexpr int requests_per_launch = (4096 - 256) / int(sizeof(placed_request));
static_assert(requests_per_launch >= 8 && requests_per_launch <= 32);

/// Warps of a block of kernels that take a warp for each strand.
inline constexpr int strands_per_block = 8;
/// Blocks of such a kernel.
SLUICE_HD constexpr std::int64_t strand_blocks(std::int64_t strands) noexcept {
  return (strands + strands_per_block - 1) / strands_per_block;
}

/// Bytes of a value between entropy stage and store: coefficients have 16 bits; elements as stored have those of the
/// wider plane of the view, which no frame that it takes exceeds.
constexpr std::int32_t value_size_of(value_domain domain, const kv_view& v) noexcept {
  if (domain != value_domain::stored) return 2;
  return sluice::detail::max(v.k.present() ? size_of(v.k.type) : 1, v.v.present() ? size_of(v.v.type) : 1);
}

/// Gives one request after the other its place. `bytes` and `strands` say what was given so far.
class workspace_cursor {
 public:
  /// Places things from byte `first` on.
  explicit constexpr workspace_cursor(const model_sizes& m, std::uint64_t first = 0) noexcept
      : model_(m), bytes_(first) {}

  /// Room for `n` things of `size` bytes, at a multiple of 128.
  constexpr std::uint64_t take(std::uint64_t n, std::uint64_t size) noexcept {
    const std::uint64_t at = bytes_;
    if (size != 0 && n > (most - at) / size)
      too_large_ = true;
    else
      bytes_ += (n * size + 127) / 128 * 128;
    return at;
  }

  /// A request of sizes that no frame has gets room for nothing but its answer: it is refused on the device.
  constexpr placed_request place(const request& r) noexcept {
    placed_request p;
    p.asked = r;
    p.first_strand = std::int32_t(strands_);
    p.value_size = value_size_of(model_.domain, r.cache);
    if (r.tokens < 1 || r.tokens > max_frame_tokens || r.tile_tokens < 1 || r.tile_tokens > max_tile_tokens) return p;
    const std::int64_t tiles = (std::int64_t{r.tokens} + r.tile_tokens - 1) / r.tile_tokens;
    if (tiles * model_.strands > INT32_MAX - strands_) {
      too_large_ = true;
      return p;
    }
    p.strands = std::int32_t(tiles * model_.strands);
    strands_ += p.strands;
    p.offsets_at = take(std::uint64_t(p.strands) * std::uint64_t(model_.passes) + 1, sizeof(std::uint64_t));
    p.layers_at = take(std::uint64_t(model_.layers), sizeof(request_layer));
    p.ropes_at = take(std::uint64_t{r.tokens} * std::uint64_t(model_.rope_pairs), 2 * sizeof(float));
    p.values_at = take(std::uint64_t{r.tokens} * std::uint64_t(model_.columns), std::uint64_t(p.value_size));
    return p;
  }

  /// Bytes given so far.
  constexpr std::uint64_t bytes() const noexcept { return bytes_; }
  /// Strands of all requests so far.
  constexpr std::int64_t strands() const noexcept { return strands_; }
  /// Whether something did not fit into 2^62 bytes or into the number of a strand.
  constexpr bool too_large() const noexcept { return too_large_; }

 private:
  static constexpr std::uint64_t most = std::uint64_t{1} << 62;
  model_sizes model_;
  std::uint64_t bytes_ = 0;
  std::int64_t strands_ = 0;
  bool too_large_ = false;
};

/// Where the parts of a workspace lie that all requests share.
struct workspace_layout {
  std::uint64_t requests_at = 0;  ///< open_request of each
  std::uint64_t strands_at = 0;   ///< strand of each
  std::uint64_t stages_at = 0;    ///< what a codec's own stages take
  std::uint64_t parts_at = 0;     ///< the parts of requests: where a cursor begins that places them
  std::uint64_t bytes = 0;        ///< of all
  std::int32_t strands = 0;       ///< of all requests
  bool too_large = false;         ///< whether numbers do not hold it: nothing else counts then
};

/// Lays a workspace out; `stage_bytes` = f(strands) that a codec's own stages take.
template <class StageBytes>
constexpr workspace_layout lay_out_workspace(const model_sizes& m, std::span<const request> requests,
                                             StageBytes stage_bytes) noexcept {
  workspace_layout l;
  workspace_cursor parts(m);
  for (const request& r : requests) (void)parts.place(r);
  workspace_cursor all(m);
  l.strands = std::int32_t(parts.strands());
  l.requests_at = all.take(requests.size(), sizeof(open_request));
  l.strands_at = all.take(std::uint64_t(l.strands), sizeof(strand));
  l.stages_at = all.take(stage_bytes(l.strands), 1);
  l.parts_at = all.take(parts.bytes(), 1);
  l.bytes = all.bytes();
  l.too_large = parts.too_large() || all.too_large() || requests.size() > INT32_MAX;
  return l;
}

}  // namespace sluice::cuda
