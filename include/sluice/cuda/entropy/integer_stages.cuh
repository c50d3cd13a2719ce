// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/class_rans.hpp>
#include <sluice/cuda/entropy/class_rans.cuh>
#include <sluice/cuda/stages.cuh>
#include <sluice/cuda/store/store.cuh>
#include <sluice/cuda/workspace.hpp>

// The stages of codecs whose quantiser makes whole numbers of steps: class_rans to integers, then their product with a
// basis, or their scale, into pages.

namespace sluice::cuda {

namespace detail {

template <bool Steps>
struct class_rans_stage {
  static status init(const model_sizes&, const device_limits& limits) { return allow_class_rans<Steps>(shape(limits)); }
  static status launch(const decode_state& d, const model_sizes& m, const device_limits& limits, cudaStream_t stream) {
    return decode_class_rans<Steps>(d, class_rans_parts(m.max_width), shape(limits), stream);
  }

 private:
  static constexpr class_rans_shape shape(const device_limits& limits) noexcept {
    return shape_class_rans(limits.multiprocessor_shared);
  }
};

}  // namespace detail

template <>
struct entropy_stage<class_rans> : detail::class_rans_stage<false> {};
template <>
struct entropy_stage<row_stepped<class_rans>> : detail::class_rans_stage<true> {};

/// Integers of 16 bits in the workspace, and exact tokens.
template <class Codec>
struct store_stage {
  static status init(const model_sizes& m, const device_limits& limits) {
    return allow_store<detail::steps_rows<Codec>>(plan(m, limits));
  }
  static status launch(const decode_state& d, const model_sizes& m, const device_limits& limits, cudaStream_t stream) {
    return store_rows<detail::steps_rows<Codec>>(d, plan(m, limits), stream);
  }

 private:
  static constexpr store_plan plan(const model_sizes& m, const device_limits& limits) noexcept {
    return plan_store(m.max_width, limits.block_shared);
  }
};

}  // namespace sluice::cuda
