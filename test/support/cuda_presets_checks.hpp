// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/presets.hpp>
#include <sluice/cuda/presets.cuh>

#include <doctest/doctest.h>
#include <support/cachegen_model.hpp>
#include <support/caches.hpp>
#include <support/cuda_decode_checks.hpp>
#include <support/frames.hpp>
#include <support/prediction.hpp>
#include <support/real_cache.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <string>
#include <utility>
#include <vector>

// What decodes of the presets must do, on a GPU and on the emulator alike.

namespace presets_checks {

using namespace sluice;

/// One call of the device and one of the host after the other: the same statuses and counts, and the same bits.
template <class Codec>
void same_bits(cuda_checks::device_codec<Codec>& device, decoder<Codec>& host, std::vector<cuda_checks::job> jobs) {
  std::vector<cuda_checks::device_cache> there;
  for (cuda_checks::job& j : jobs) {
    cuda_checks::read_sizes(j);
    there.emplace_back(j.view);
  }
  const auto got = device.decode(jobs, there);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    CAPTURE(i);
    const auto wanted = cuda_checks::decode_on_host(host, jobs[i]);
    cuda_checks::check_same(got[i], wanted);
    CHECK(caches::elements(there[i].download()) == caches::elements(jobs[i].view));
  }
}

/// What two sides may differ in: nothing, or where a product of floats may round otherwise one unit (FORMAT.md section 1).
template <class Codec>
void same_values(cuda_checks::device_codec<Codec>& device, decoder<Codec>& host, std::vector<cuda_checks::job> jobs) {
  if constexpr (Codec::domain == value_domain::unrotated)
    cuda_checks::check(device, host, std::move(jobs));
  else
    same_bits(device, host, std::move(jobs));
}

/// Heads of many sizes; groups narrower and wider than a strip, one of them ragged.
inline const model_shape shapes[] = {model_shape::uniform(2, 2, 32),
                                     {{{3, 24, 40}, {}, {1, 576, 0}}, {{}}},
                                     {{{5, 64, 64}, {2, 20, 12, 0, 50}}, {{.pairing = rope_pairing::interleaved}}}};

/// A profile with bases, but for heads that take long to make one for.
inline void calibrate(profile& p, const caches::mixed_cache& c) {
  if (p.shape.layers[0].head_dim_k == 24) return;
  p = caches::make_profile(p.shape, c.views(), 0, 4, 2, 20);
}

/// The same, with steps of tokens.
inline void give_steps(profile& p, const caches::mixed_cache& c) {
  calibrate(p, c);
  caches::add_token_steps(p, 20261219);
}

/// A profile with CacheGen's tables for all settings, of windows from one symbol to a hundred.
inline void give_tables(profile& p, const caches::mixed_cache&) {
  p.set_section(cachegen::peaked_tables(p, {0, 50, 100, 200}));
}

/// Frames of a preset, made by the host, of every type that it takes: what the device makes of them, whole and damaged, is
/// what the host does. `tokens` in tiles of `Tile`.
template <class Codec, int Tile>
void preset_is_the_same(const char* name, std::int64_t tokens, unsigned seed, int damages,
                        void (*prepare)(profile&, const caches::mixed_cache&) = nullptr) {
  using coded = typename Codec::template with_grouping<tile_tokens<Tile>>;
  std::mt19937 random(seed);
  MESSAGE(std::string(name) << ": seed " << seed);
  for (const model_shape& shape : shapes)
    for (const dtype type : {dtype::bf16, dtype::f16, dtype::f32, dtype::e4m3, dtype::e5m2, dtype::bytes}) {
      if (type == dtype::bytes && !is_exact<Codec>) continue;
      const std::int64_t position = std::int64_t(random() % 1000);
      const auto pages = [&](dtype k, dtype v) {
        return caches::mixed_cache(shape,
                                   std::vector<caches::layer_kind>(shape.layers.size(), {k, v, position, tokens}));
      };
      const caches::mixed_cache source = pages(type, type);
      for (const kv_view& v : source.views())
        type == dtype::bytes ? caches::fill_with_noise(v, seed) : caches::fill(v, shape, random());
      profile p = profile::uncalibrated(shape, 4, 2);
      if (prepare) prepare(p, source);
      const auto frame = caches::encode<coded>(p, source.views());
      REQUIRE(!frame.empty());
      cuda_checks::device_codec<Codec> device(p);
      decoder<Codec> host(p);
      frame_index index;
      REQUIRE(index.parse(frame) == status::ok);
      std::vector<std::vector<std::byte>> damaged;
      for (int i = 0; i < damages; ++i) {
        damaged.push_back(frame);
        std::vector<std::byte>& b = damaged.back();
        for (auto n = 1 + random() % 8; n > 0; --n) {  // at a tile's front, where most can go wrong, or anywhere
          const byte_range t = index.range(random() % index.tiles_per_pass());
          if (t.size() == 0) continue;
          const std::size_t reach = random() % 3 ? std::min<std::size_t>(t.size(), 40) : t.size();
          b[t.begin + random() % reach] ^= std::byte(1 + random() % 255);
        }
        frames::fix_checksums(b);
      }
      // A view of one layer after the other, each with a frame of its own.
      std::vector<caches::mixed_cache> to;
      std::vector<cuda_checks::job> jobs;
      const dtype other = is_exact<Codec> ? type : dtype::f16;
      for (std::size_t i = 0; i <= damaged.size(); ++i) {
        to.push_back(pages(i % 2 ? other : type, type));
        for (const kv_view& v : to.back().views())
          jobs.push_back({.frame = i == 0 ? frame : damaged[i - 1], .view = v, .shift = random() % 32});
      }
      CAPTURE(int(type));
      REQUIRE(cuda_checks::decode_on_host(host, jobs[0]).all.worst == status::ok);
      const auto elements = caches::elements(jobs[0].view);
      CHECK(std::count(elements.begin(), elements.end(), caches::cache::untouched) < std::ssize(elements) / 4);
      same_values(device, host, std::move(jobs));
    }
}

/// The first tokens of a real cache, to pages of an engine.
template <class Codec>
void captured_is_the_same(int tokens, dtype type = dtype::f16, bool tables = false) {
  const real_cache real;
  profile p = real.model;
  if (tables) p.set_section(cachegen::peaked_tables(p, {0, 100}));
  const kv_view some = real.view.slice(0, tokens);
  encoder<Codec> encoder(p);
  std::vector<std::byte> frame(encoder.max_size(some));
  frame.resize(*encoder.encode(some, frame));
  cuda_checks::device_codec<Codec> device(p);
  decoder<Codec> host(p);
  const caches::cache to = caches::make_cache(p.shape, tokens, type, caches::engine::vllm_nhd);
  const cuda_checks::job j{.frame = frame, .view = to.view()};
  REQUIRE(cuda_checks::decode_on_host(host, j).all.worst == status::ok);
  same_values(device, host, {j});
}

}  // namespace presets_checks
