// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/raw.hpp>
#include <sluice/codec/entropy/split_exponent.hpp>
#include <sluice/cuda/entropy/split_exponent.cuh>
#include <sluice/cuda/stages.cuh>
#include <sluice/cuda/store/elements.cuh>

#include <cstdint>

// Codecs of elements as they are stored, on a device: the lossless model to elements, then rows to pages.

namespace sluice::cuda {

/// Elements of all strips into the workspace.
template <>
struct entropy_stage<split_exponent> {
  static constexpr element_source source = element_source::workspace;

  static status init(const model_sizes&, const device_limits&) {
    return allow_shared(&split_exponent_kernel<>, strip_shared);
  }
  static status launch(const decode_state& d, const model_sizes& m, const device_limits&, cudaStream_t stream) {
    return cuda::launch(&split_exponent_kernel<>, strip_blocks(m.max_width, d.num_strands), 32 * strip_warps,
                        strip_shared, stream, d);
  }
};

/// Elements are rows of the frame; only their number is to be checked. A thread a strand.
template <int = 0>
__global__ void __launch_bounds__(256) check_raw_kernel(decode_state d) {
  const int i = static_cast<int>(blockIdx.x * 256 + threadIdx.x);
  if (i >= d.num_strands) return;
  strand& s = d.strands[i];
  if (s.state != status::ok || s.rows() == 0) return;
  const group_model& g = group_of(d.image, s.group);
  const std::uint64_t size =
      std::uint64_t(s.rows()) * std::uint64_t(g.width) * std::uint64_t(size_of(static_cast<dtype>(s.type[0])));
  if (s.entropy[0].size != size) s.state = status::corrupt_tile;
}

template <>
struct entropy_stage<raw> {
  static constexpr element_source source = element_source::frame;

  static status init(const model_sizes&, const device_limits&) { return status::ok; }
  static status launch(const decode_state& d, const model_sizes&, const device_limits&, cudaStream_t stream) {
    return cuda::launch(&check_raw_kernel<>, (std::int64_t{d.num_strands} + 255) / 256, 256, 0, stream, d);
  }
};

/// Rows of elements and exact tokens to pages, from where the model's stage says that they are.
template <class Grouping, class Model>
struct store_stage<codec::stored_codec<Grouping, Model>> {
  static status init(const model_sizes&, const device_limits&) { return status::ok; }
  static status launch(const decode_state& d, const model_sizes&, const device_limits&, cudaStream_t stream) {
    return store_elements<entropy_stage<Model>::source>(d, stream);
  }
};

}  // namespace sluice::cuda
