// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/model.hpp>
#include <sluice/numeric.hpp>
#include <sluice/status.hpp>
#include <sluice/tensor/view.hpp>

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

// Whether a view shows layers of the model: what a host says of it, where its tables lie in device memory.

namespace sluice::cuda {

inline constexpr int open_threads = 256;  ///< of a block that opens a request

/// By all threads of a block.
__device__ __forceinline__ bool any_thread(bool vote) { return __syncthreads_or(vote) != 0; }

/// check_view() and map_layers() of one view whose tables lie in device memory, by one block: slot_of(l) of each model
/// layer that the view shows becomes the number of its layer there; others stay as they are, -1. All threads get the same.
/// Errors: invalid_view, page_out_of_range, wrong_shape.
template <class SlotOf>
__device__ status map_view(const kv_view& v, const std::byte* image, SlotOf slot_of) {
  if (const status s = validate_shape(v); s != status::ok) return s;
  const model_head& head = head_of(image);
  const int first = static_cast<int>(threadIdx.x);
  bool bad = false;
  for (int i = first; i < v.num_layers; i += open_threads) {
    bad = bad || (v.k.layer_bases && !v.k.layer_bases[i]) || (v.v.layer_bases && !v.v.layer_bases[i]);
    bad = bad || v.layer_id(i) < 0;
  }
  if (any_thread(bad)) return status::invalid_view;
  if (v.tokens != 0 && v.mode != addressing::contiguous) {
    const std::int64_t unit = v.mode == addressing::pages ? v.page_size : 1;
    const std::int64_t last = (v.first + v.tokens - 1) / unit;
    for (std::int64_t i = v.first / unit + first; i <= last; i += open_threads)
      bad = bad || v.indices[i] < 0 || v.indices[i] >= v.capacity;
    if (any_thread(bad)) return status::page_out_of_range;
  }
  for (int i = first; i < v.num_layers; i += open_threads) {
    const int l = v.layer_id(i);
    if (l >= head.layers) {
      bad = true;
      continue;
    }
    const plane_model &k = plane_of(image, l, 0), &w = plane_of(image, l, 1);
    bad = bad || sluice::detail::max(k.heads, w.heads) != v.num_kv_heads;
    bad = bad || (v.k.present() ? v.k.head_dim : 0) != k.head_dim;
    bad = bad || (v.v.present() ? v.v.head_dim : 0) != w.head_dim;
  }
  if (any_thread(bad)) return status::wrong_shape;
  // Of two layers of the view that are one of the model, one finds the other's number.
  for (int i = first; i < v.num_layers; i += open_threads) slot_of(v.layer_id(i)) = i;
  __syncthreads();
  for (int i = first; i < v.num_layers; i += open_threads) bad = bad || slot_of(v.layer_id(i)) != i;
  return any_thread(bad) ? status::invalid_view : status::ok;
}

}  // namespace sluice::cuda
