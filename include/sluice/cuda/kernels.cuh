// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/decode.cuh>
#include <sluice/cuda/image.hpp>
#include <sluice/cuda/kernels.hpp>

#include <memory>
#include <span>

// What sluice::cuda_kernels compiles of each preset, a source each.

namespace sluice::cuda {

/// Templates of cuda/decode.cuh behind the interface of cuda/kernels.hpp.
template <class Codec>
class compiled_model final : public any_model {
 public:
  /// Errors of model<Codec>.
  static result<std::unique_ptr<any_model>> make(const profile& p) {
    auto m = std::make_unique<compiled_model>(p);
    if (m->host_.state() != status::ok) return m->host_.state();
    return std::unique_ptr<any_model>(std::move(m));
  }
  explicit compiled_model(const profile& p) : host_(p) {}

  std::size_t image_size() const noexcept override { return host_.image().size(); }
  const std::byte* image() const noexcept override { return host_.image().data(); }
  status init() override {
    const auto limits = limits_of_device();
    if (!limits) return limits.status();
    limits_ = *limits;
    return cuda::init(host_.at(nullptr, limits_));
  }
  result<std::size_t> decode_workspace_bytes(const request* requests, std::size_t n) const noexcept override {
    return cuda::decode_workspace_bytes(host_.at(nullptr, limits_), std::span(requests, n));
  }
  status decode_async(const std::byte* image, const request* requests, std::size_t n, std::byte* workspace,
                      std::size_t bytes, CUstream_st* stream) const override {
    return cuda::decode_async(host_.at(image, limits_), std::span(requests, n), workspace, bytes, stream);
  }

 private:
  model<Codec> host_;
  device_limits limits_;
};

}  // namespace sluice::cuda
