// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/codec.hpp>
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/cuda/encode.cuh>

#include <doctest/doctest.h>
#include <support/cuda_encode_checks.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <vector>

// Pages to frames on a device in one call, against the encoder of a CPU. The same for the emulator and for a GPU.

namespace cuda_encode_checks {

/// Pages to frames in one call, several requests at once: sound frames of the size and the error of a CPU's.
template <class Codec>
comparison pages(const profile& p, std::span<const kv_view> views, double most_bytes, double most_error) {
  const cuda::encoder_model<Codec> model(p);
  REQUIRE(model.state() == status::ok);
  const device_buffer<std::byte> image(model.image());
  const auto there = model.at(image.data());
  REQUIRE(cuda::init(there) == status::ok);
  encoder<Codec> host(p);
  std::vector<std::unique_ptr<cuda_checks::device_cache>> memory;
  std::vector<device_buffer<std::byte>> frames;
  std::vector<cuda::encode_request> requests;
  device_buffer<cuda::encoded> said(views.size());
  for (std::size_t i = 0; i < views.size(); ++i) {
    memory.push_back(std::make_unique<cuda_checks::device_cache>(views[i]));
    cuda::encode_request r;
    r.cache = memory.back()->view();
    const std::size_t most = cuda::max_frame_size(there, r);
    CHECK(most >= host.max_size(views[i]));
    frames.emplace_back(most);
    r.frame = frames.back().data();
    r.capacity = most;
    r.out = said.data() + i;
    requests.push_back(r);
  }
  const auto bytes = cuda::encode_workspace_bytes(there, requests);
  REQUIRE(bytes.has_value());
  const device_buffer<std::byte> workspace(*bytes);
  CHECK(cuda::encode_async(there, requests, workspace.data(), *bytes - 1, nullptr) == status::workspace_too_small);
  REQUIRE(cuda::encode_async(there, requests, workspace.data(), *bytes, nullptr) == status::ok);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  const auto what = said.download();
  comparison c;
  decoder<Codec> d(p);
  for (std::size_t i = 0; i < views.size(); ++i) {
    REQUIRE(what[i].state == status::ok);
    std::vector<std::byte> mine = frames[i].download(), its(host.max_size(views[i]));
    REQUIRE(what[i].size <= mine.size());
    mine.resize(what[i].size);
    its.resize(host.encode(views[i], its).value());
    frame_index a, b;
    REQUIRE(a.parse(its) == status::ok);
    REQUIRE(b.parse(mine) == status::ok);
    REQUIRE(a.tiles_per_pass() == b.tiles_per_pass());
    for (std::size_t k = 0; k < a.tiles_per_pass() * a.header().passes; ++k) {
      const auto x = tile_bytes(a, its, k), y = tile_bytes(b, mine, k);
      REQUIRE((x.has_value() && y.has_value()));
      ++c.tiles;
      c.equal += std::equal(x->begin(), x->end(), y->begin(), y->end());
    }
    c.bytes[0] += its.size(), c.bytes[1] += mine.size();
    CHECK(double(mine.size()) <= most_bytes * double(its.size()) + 64);
    for (int level = 0; level < b.header().passes; ++level) {
      const dense_copy x(views[i]), y(views[i]);
      CHECK(d.decode(its, x.view, {.level = level}).worst == status::ok);
      CHECK(d.decode(mine, y.view, {.level = level}).worst == status::ok);
      const double error[2] = {caches::relative_error(views[i], x.view), caches::relative_error(views[i], y.view)};
      CHECK(error[1] <= most_error * error[0] + 1e-6);
    }
  }
  return c;
}

/// Caches of made-up models in the layouts of engines and in all types.
inline comparison pages_of_engines(std::uint64_t seed, bool calibrated) {
  comparison all;
  for (const dtype type : {dtype::f16, dtype::bf16, dtype::f32, dtype::e4m3, dtype::e5m2}) {
    std::mt19937_64 random(seed++);
    CAPTURE(seed - 1);
    model_shape shape;
    shape.ropes = {rope{}};
    shape.layers.assign(2, {2, random() % 2 ? 64 : 40, random() % 2 ? 64 : 40, 0, 0});
    std::vector<caches::cache> memory;
    std::vector<kv_view> views;
    for (const caches::engine how : {caches::engine::vllm_nhd, caches::engine::llama_cpp, caches::engine::sglang}) {
      memory.push_back(caches::make_cache(shape, 20 + std::int64_t(random() % 300), type, how,
                                          std::int64_t(random() % 2 ? 0 : 777), random()));
      caches::fill(memory.back().view(), shape, random());
      views.push_back(memory.back().view());
    }
    const profile p = calibrated ? caches::make_profile(shape, {&views[0], 1}) : profile::uncalibrated(shape);
    all += pages<codec::standard>(p, views, calibrated ? 1.002 : 1.02, 1.01);
  }
  return all;
}

}  // namespace cuda_encode_checks
