// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "cuda_memory.cuh"
#include "cuda_model.hpp"
#include "cuda_timing.cuh"

#include <sluice/codec/presets.hpp>
#include <sluice/cuda/image.hpp>
#include <sluice/cuda/presets.cuh>
#include <sluice/format/frame.hpp>
#include <sluice/tensor/layouts.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace cuda_bench {

inline void must(sluice::status s, const char* what) {
  if (s != sluice::status::ok) throw std::runtime_error(std::string(what) + ": " + to_string(s));
}

/// A model's image copied to the device, ready for its kernels.
template <class Model>
auto put_on_device(const Model& packed, device_bytes& image) {
  must(packed.state(), "the model's image");
  image = device_bytes(std::span<const std::byte>(packed.image()));
  const auto limits = sluice::cuda::limits_of_device();
  must(limits.status(), "limits of the device");
  const auto model = packed.at(image.data(), *limits);
  must(init(model), "init");  // of decodes or of encodes
  return model;
}

/// The context of a model on a device, ready to be decoded: a frame for every 256 tokens, each with memory of its own,
/// which go into pages of 16 tokens through a shuffled block table. All frames are one frame that is decoded to other
/// positions.
template <class Codec>
class device_context {
 public:
  device_context(const grown_model& m, int level) : model_(m.profile()) {
    on_device_ = put_on_device(model_, image_);

    const std::vector<std::byte>& frame = m.frame(Codec::id);
    sluice::frame_index index;
    must(index.parse(frame), "the CPU's frame");
    const int passes = index.header().passes;
    bits_ =
        16 * static_cast<double>(index.size_at(std::min(level, passes - 1))) / static_cast<double>(m.bytes().size());
    frames_ = frames_for(m.bytes().size());
    stride_ = (frame.size() + 255) / 256 * 256;
    coded_.resize(stride_ * static_cast<std::size_t>(frames_));
    pages_.resize(m.bytes().size() * static_cast<std::size_t>(frames_));
    lay_out(m, index, level);
    check(m, frame, level);
  }

  std::size_t bytes() const { return pages_.size(); }
  /// The pages of each frame, on the device.
  const std::vector<sluice::cuda::request>& requests() const { return requests_; }
  double bits_per_value() const { return bits_; }

  bool decode(cudaStream_t stream) {
    return sluice::cuda::decode_async(on_device_, std::span<const sluice::cuda::request>(requests_), workspace_.data(),
                                      workspace_.size(), stream) == sluice::status::ok;
  }
  /// One stage alone, over what the last decode has opened.
  bool entropy(cudaStream_t stream) {
    return stages::entropy::launch(state(), on_device_.sizes, on_device_.limits, stream) == sluice::status::ok;
  }
  bool store(cudaStream_t stream) {
    return stages::store::launch(state(), on_device_.sizes, on_device_.limits, stream) == sluice::status::ok;
  }

 private:
  using stages = sluice::cuda::codec_stages<Codec>;

  sluice::cuda::decode_state state() {
    const auto l = sluice::cuda::lay_out_workspace(on_device_.sizes, requests_,
                                                   [&](std::int32_t n) { return stages::bytes(on_device_.sizes, n); });
    std::byte* const w = workspace_.data();
    return {on_device_.image,
            w,
            reinterpret_cast<sluice::cuda::open_request*>(w + l.requests_at),
            reinterpret_cast<sluice::cuda::strand*>(w + l.strands_at),
            static_cast<std::int32_t>(requests_.size()),
            l.strands,
            l.stages_at};
  }

  void lay_out(const grown_model& m, const sluice::frame_index& index, int level) {
    const sluice::kv_view& c = m.cache();
    constexpr std::int64_t page_tokens = 16;
    const std::int64_t pages_of_one = c.tokens / page_tokens, pages = pages_of_one * frames_;
    std::vector<std::int32_t> table(static_cast<std::size_t>(pages));
    std::iota(table.begin(), table.end(), 0);
    std::shuffle(table.begin(), table.end(), std::mt19937(1));
    table_ = device_array<std::int32_t>(std::span<const std::int32_t>(table));
    sluice::kv_view v = c;
    v.k.base = v.v.base = pages_.data();
    for (sluice::plane_view* p : {&v.k, &v.v}) {
      p->page_stride = page_tokens * p->token_stride;
      p->layer_stride = 2 * pages * p->page_stride;
    }
    v.v.layer_offset = pages * v.v.page_stride;
    v.mode = sluice::addressing::pages;
    v.page_size = page_tokens;
    v.capacity = pages;
    v.num_indices = pages_of_one;
    for (int i = 0; i < frames_; ++i) {
      v.indices = table_.data() + i * pages_of_one;
      v.position = c.position + i * c.tokens;
      sluice::cuda::request r;
      r.frame = coded_.data() + stride_ * static_cast<std::size_t>(i);
      r.size = index.size();
      r.tokens = index.header().tokens;
      r.tile_tokens = index.header().tile_tokens;
      r.cache = v;
      r.level = level;
      // Coefficients may go anywhere, elements stay where they were.
      if (Codec::domain == sluice::value_domain::unrotated)
        r.position = v.position;
      else
        r.cache.position = c.position;
      requests_.push_back(r);
    }
    reserve_workspace();
  }

  void reserve_workspace() {
    const auto size =
        sluice::cuda::decode_workspace_bytes(on_device_, std::span<const sluice::cuda::request>(requests_));
    must(size.status(), "workspace");
    workspace_.resize(*size);
  }

  // One frame into contiguous memory, against the CPU's decode of it; then all frames once, so that stages can be run alone.
  void check(const grown_model& m, const std::vector<std::byte>& frame, int level) {
    for (int i = 0; i < frames_; ++i) coded_.put(frame, stride_ * static_cast<std::size_t>(i));
    device_bytes plain(m.bytes().size());
    device_array<sluice::cuda::report> report(1);
    sluice::cuda::request r = requests_.at(0);
    r.cache = m.cache();
    r.cache.k.base = plain.data();
    r.cache.v.base = plain.data() + plain.size() / 2;
    r.out = report.data();
    must(sluice::cuda::decode_async(on_device_, std::span<const sluice::cuda::request>(&r, 1), workspace_.data(),
                                    workspace_.size(), nullptr),
         "decode_async");
    if (cudaDeviceSynchronize() != cudaSuccess) throw std::runtime_error("the first decode did not end");
    must(sluice::cuda::status_of(report.get()[0].worst), "the first decode");
    const std::vector<std::byte> right = m.decoded(frame, level);
    device_array<std::uint16_t> expected(right.size() / 2);
    cudaMemcpy(expected.data(), right.data(), right.size(), cudaMemcpyHostToDevice);
    const bool exact = Codec::domain == sluice::value_domain::stored;
    if (!nearly_same(expected, reinterpret_cast<const std::uint16_t*>(plain.data()), exact ? 0.f : 1.f / 64))
      throw std::runtime_error("the GPU decodes something else than the CPU");
    if (!decode(nullptr) || cudaDeviceSynchronize() != cudaSuccess) throw std::runtime_error("decoding all frames");
  }

  sluice::cuda::model<Codec> model_;
  sluice::cuda::device_model<Codec> on_device_;
  device_bytes image_, coded_, pages_, workspace_;
  device_array<std::int32_t> table_;
  std::vector<sluice::cuda::request> requests_;
  std::size_t stride_ = 0;
  int frames_ = 0;
  double bits_ = 0;
};

/// What of a decode is measured.
enum class part { all, entropy, store };

/// The context that was asked for last, which a run of measurements shares: making it takes longer than any of them.
template <class Codec>
device_context<Codec>& context_of(const model_size& size, int level) {
  static std::unique_ptr<device_context<Codec>> last;
  static std::pair<const model_size*, int> made;
  if (!last || made != std::pair(&size, level)) {
    last.reset();
    last = std::make_unique<device_context<Codec>>(model_of(size), level);
    made = {&size, level};
  }
  return *last;
}

template <class Codec>
void decode(benchmark::State& state, const model_size& size, int level, part what, share s) {
  device_context<Codec>& context = context_of<Codec>(size, level);
  measure(state, s, context.bytes(), [&](cudaStream_t stream) {
    return what == part::all       ? context.decode(stream)
           : what == part::entropy ? context.entropy(stream)
                                   : context.store(stream);
  });
  state.counters["bits_per_value"] = context.bits_per_value();
}

}  // namespace cuda_bench
