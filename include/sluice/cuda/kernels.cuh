// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/cuda/decode.cuh>
#include <sluice/cuda/encode.cuh>
#include <sluice/cuda/image.hpp>
#include <sluice/cuda/kernels.hpp>

#include <memory>
#include <span>

// What sluice::cuda_kernels compiles of each preset, a source for decodes and one for encodes.

namespace sluice::cuda {

/// What both have in common. Model: model<Codec> or encoder_model<Codec>.
template <class Interface, class Model>
class compiled_base : public Interface {
 public:
  explicit compiled_base(const profile& p) : host_(p) {}
  /// Errors: those of Model.
  template <class Derived>
  static result<std::unique_ptr<Interface>> make_as(const profile& p) {
    auto m = std::make_unique<Derived>(p);
    if (m->host_.state() != status::ok) return m->host_.state();
    return std::unique_ptr<Interface>(std::move(m));
  }

  std::size_t image_size() const noexcept override { return host_.image().size(); }
  const std::byte* image() const noexcept override { return host_.image().data(); }
  status init() override {
    const auto limits = limits_of_device();
    if (!limits) return limits.status();
    limits_ = *limits;
    return cuda::init(at(nullptr));
  }

 protected:
  auto at(const std::byte* image) const noexcept { return host_.at(image, limits_); }

 private:
  Model host_;
  device_limits limits_;
};

/// Templates of cuda/decode.cuh behind the interface of cuda/kernels.hpp.
template <class Codec>
class compiled_model final : public compiled_base<any_model, model<Codec>> {
 public:
  using compiled_base<any_model, model<Codec>>::compiled_base;
  static auto make(const profile& p) { return compiled_model::template make_as<compiled_model>(p); }

  result<std::size_t> decode_workspace_bytes(const request* requests, std::size_t n) const noexcept override {
    return cuda::decode_workspace_bytes(this->at(nullptr), std::span(requests, n));
  }
  status decode_async(const std::byte* image, const request* requests, std::size_t n, std::byte* workspace,
                      std::size_t bytes, CUstream_st* stream) const override {
    return cuda::decode_async(this->at(image), std::span(requests, n), workspace, bytes, stream);
  }
};

/// Those of cuda/encode.cuh.
template <class Codec>
class compiled_encoder final : public compiled_base<any_encoder_model, encoder_model<Codec>> {
 public:
  using compiled_base<any_encoder_model, encoder_model<Codec>>::compiled_base;
  static auto make(const profile& p) { return compiled_encoder::template make_as<compiled_encoder>(p); }

  std::size_t max_frame_size(const encode_request& r) const noexcept override {
    return cuda::max_frame_size(this->at(nullptr), r);
  }
  result<std::size_t> encode_workspace_bytes(const encode_request* requests, std::size_t n) const noexcept override {
    return cuda::encode_workspace_bytes(this->at(nullptr), std::span(requests, n));
  }
  status encode_async(const std::byte* image, const encode_request* requests, std::size_t n, std::byte* workspace,
                      std::size_t bytes, CUstream_st* stream) const override {
    return cuda::encode_async(this->at(image), std::span(requests, n), workspace, bytes, stream);
  }
};

}  // namespace sluice::cuda
