// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda_decode.cuh"

#include <sluice/cuda/encode.cuh>
#include <sluice/tensor/half.hpp>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <vector>

namespace cuda_bench {

/// The pages of a context on a device, ready to be encoded: a frame for every 256 tokens, out of pages that a lossless
/// decode has filled.
template <class Codec>
class device_encodes {
 public:
  device_encodes(const grown_model& m, const device_context<sluice::codec::exact>& from, int levels)
      : model_(m.profile()), bytes_(from.bytes()) {
    on_device_ = put_on_device(model_, image_);
    answers_.resize(from.requests().size());
    for (const sluice::cuda::request& r : from.requests()) {
      sluice::cuda::encode_request e;
      e.cache = r.cache;
      e.levels = levels;
      requests_.push_back(e);
    }
    const std::size_t room = (sluice::cuda::max_frame_size(on_device_, requests_[0]) + 255) / 256 * 256;
    frames_.resize(room * requests_.size());
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      requests_[i].frame = frames_.data() + i * room;
      requests_[i].capacity = room;
      requests_[i].out = answers_.data() + i;
    }
    const auto size = sluice::cuda::encode_workspace_bytes(on_device_, all());
    must(size.status(), "workspace");
    workspace_.resize(*size);
    check(m, levels);
  }

  std::size_t bytes() const { return bytes_; }
  double bits_per_value() const { return bits_; }
  bool encode(cudaStream_t stream) {
    return sluice::cuda::encode_async(on_device_, all(), workspace_.data(), workspace_.size(), stream) ==
           sluice::status::ok;
  }

 private:
  std::span<const sluice::cuda::encode_request> all() const { return requests_; }

  // How far from the cache a frame's values are, relative to them.
  static double error_of(const grown_model& m, std::span<const std::byte> frame, int level) {
    const std::vector<std::byte> got = m.decoded(frame, level);
    double error = 0, size = 0;
    for (std::size_t i = 0; i < got.size(); i += 2 * 7) {
      const double a = sluice::load_element(got.data() + i, sluice::dtype::bf16);
      const double b = sluice::load_element(m.bytes().data() + i, sluice::dtype::bf16);
      error += (a - b) * (a - b), size += b * b;
    }
    return std::sqrt(error / size);
  }

  // The first frame is one that the CPU reads, about as small and as good as its own.
  void check(const grown_model& m, int levels) {
    if (!encode(nullptr) || cudaDeviceSynchronize() != cudaSuccess) throw std::runtime_error("the first encode");
    const sluice::cuda::encoded answer = answers_.get()[0];
    must(answer.state, "the first encode");
    std::vector<std::byte> frame(answer.size);
    cudaMemcpy(frame.data(), requests_[0].frame, frame.size(), cudaMemcpyDeviceToHost);
    const std::vector<std::byte>& right = m.frame(Codec::id);
    sluice::frame_index index;
    must(index.parse(right), "the CPU's frame");
    const auto expected = static_cast<double>(index.size_at(levels - 1)), size = static_cast<double>(frame.size());
    if (std::abs(size - expected) > expected / 100) throw std::runtime_error("frames of another size than the CPU's");
    if (error_of(m, frame, levels - 1) > 1.01 * error_of(m, right, levels - 1))
      throw std::runtime_error("frames that are worse than the CPU's");
    bits_ = 16 * size / static_cast<double>(m.bytes().size());
  }

  sluice::cuda::encoder_model<Codec> model_;
  sluice::cuda::device_encoder<Codec> on_device_;
  std::size_t bytes_;
  device_bytes image_, frames_, workspace_;
  device_array<sluice::cuda::encoded> answers_;
  std::vector<sluice::cuda::encode_request> requests_;
  double bits_ = 0;
};

template <class Codec>
void encode(benchmark::State& state, const model_size& size, int levels, share s) {
  static std::unique_ptr<device_encodes<Codec>> last;  // as context_of()
  static std::pair<const model_size*, int> made;
  if (!last || made != std::pair(&size, levels)) {
    last.reset();
    last = std::make_unique<device_encodes<Codec>>(model_of(size), context_of<sluice::codec::exact>(size, 0), levels);
    made = {&size, levels};
  }
  measure(state, s, last->bytes(), [&](cudaStream_t stream) { return last->encode(stream); });
  state.counters["bits_per_value"] = last->bits_per_value();
}

}  // namespace cuda_bench
