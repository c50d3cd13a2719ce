// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/entropy/split_exponent/lossless.hpp>
#include <sluice/cuda/entropy/split_exponent.cuh>
#include <sluice/cuda/launch.cuh>
#include <sluice/tensor/half.hpp>

#include <doctest/doctest.h>
#include <support/device.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <utility>
#include <vector>

// What the kernel of lossless strips must do, on a GPU and on the emulator alike.

namespace strip_checks {

using namespace sluice;

/// A lossless tile without a frame around it.
struct tile_bytes {
  dtype type;
  int rows, width;
  std::vector<std::byte> bytes;

  std::size_t size() const { return std::size_t(rows * width * size_of(type)); }
};

/// Elements of a tile, and whether it was one.
struct elements {
  status state = status::ok;
  std::vector<std::byte> bytes;
};

inline elements decode_on_host(const tile_bytes& t) {
  elements e;
  e.bytes.resize(t.size());
  std::vector<std::byte> workspace;
  if (lossless_decode(t.type, t.rows, t.width, t.bytes, e.bytes.data(), std::size_t(t.width * size_of(t.type)),
                      workspace) != status::ok)
    e.state = status::corrupt_tile;
  return e;
}

/// All tiles at once, a strand each. Every one ends where its frame's memory does.
inline std::vector<elements> decode_on_device(const std::vector<tile_bytes>& tiles, std::mt19937& random) {
  const std::size_t n = tiles.size();
  std::vector<std::byte> image(sizeof(cuda::model_head) + n * sizeof(cuda::group_model));
  std::vector<device_buffer<std::byte>> frames;
  std::vector<cuda::open_request> requests(n);
  std::vector<cuda::strand> strands(n);
  cuda::model_head head{};
  head.groups_at = sizeof head;
  std::uint64_t used = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const tile_bytes& t = tiles[i];
    std::vector<std::byte> frame(100 + random() % 16);
    strands[i] = {};
    strands[i].state = strands[i].opened = status::ok;
    strands[i].request = strands[i].group = std::int32_t(i);
    strands[i].type[0] = std::uint8_t(t.type);
    strands[i].count = std::uint16_t(t.rows);
    strands[i].entropy[0] = {frame.size(), std::uint32_t(t.bytes.size())};
    strands[i].values_at = used;
    used += (t.size() + 127) / 128 * 128;
    frame.insert(frame.end(), t.bytes.begin(), t.bytes.end());
    frames.emplace_back(frame);
    requests[i] = {};
    requests[i].asked.frame = frames.back().data();
    requests[i].asked.size = frame.size();
    cuda::group_model g{};
    g.width = t.width;
    g.ld = (t.width + 31) / 32 * 32;
    std::memcpy(image.data() + sizeof head + i * sizeof g, &g, sizeof g);
    head.max_width = std::max(head.max_width, g.ld);
  }
  std::memcpy(image.data(), &head, sizeof head);
  const device_buffer<std::byte> on_device(image), workspace(used);
  const device_buffer<cuda::open_request> r(requests);
  const device_buffer<cuda::strand> s(strands);
  const cuda::decode_state d{on_device.data(), workspace.data(), r.data(), s.data(),
                             std::int32_t(n),  std::int32_t(n),  0};
  REQUIRE(cuda::allow_shared(&cuda::split_exponent_kernel<>, cuda::strip_shared) == status::ok);
  REQUIRE(cuda::launch(&cuda::split_exponent_kernel<>, cuda::strip_blocks(head.max_width, std::int32_t(n)),
                       32 * cuda::strip_warps, cuda::strip_shared, nullptr, d) == status::ok);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  const auto out = s.download();
  const auto bytes = workspace.download();
  std::vector<elements> all(n);
  for (std::size_t i = 0; i < n; ++i) {
    all[i].state = out[i].state;
    const auto first = bytes.begin() + std::ptrdiff_t(out[i].values_at);
    all[i].bytes.assign(first, first + std::ptrdiff_t(tiles[i].size()));
  }
  return all;
}

/// Channels of a cache; `what`: 0 ordinary, 1 with rare values, 2 random bits, 3 four-bit codes.
inline std::vector<std::byte> made_elements(dtype t, int rows, int width, int what, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<std::byte> b(std::size_t(rows * width * size_of(t)));
  for (int i = 0; i < rows * width; ++i) {
    const int c = i % width;
    float x = std::ldexp(normal(random), c % 9 - 4) + (c % 8 == 5 ? 40.f : 0.f);
    if (c % 29 == 3) x = 1.5f;
    if (what == 1 && random() % 50 == 0) x = std::ldexp(x, -int(random() % 20));
    std::byte* const to = b.data() + i * size_of(t);
    if (what == 2)
      for (int k = 0; k < size_of(t); ++k) to[k] = std::byte(random());
    else if (t == dtype::bytes)
      *to = what == 3 ? std::byte((std::lround(normal(random)) & 15) | (std::lround(normal(random)) & 15) << 4)
                      : std::byte(std::lround(x * 8));
    else
      store_element(to, t, x);
  }
  return b;
}

inline tile_bytes encode(dtype t, int rows, int width, const std::vector<std::byte>& from) {
  tile_bytes out{t, rows, width, std::vector<std::byte>(lossless_max_size(t, rows, width))};
  std::vector<std::byte> workspace;
  out.bytes.resize(lossless_encode(t, rows, width, from.data(), std::size_t(width * size_of(t)), out.bytes, workspace));
  return out;
}

inline constexpr dtype all_types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2, dtype::bytes};

/// What the device says of tiles is what the host says: the state, and of sound ones the elements.
inline void same_on_device(const std::vector<tile_bytes>& tiles, std::mt19937& random) {
  const auto got = decode_on_device(tiles, random);
  for (std::size_t i = 0; i < tiles.size(); ++i) {
    const elements want = decode_on_host(tiles[i]);
    CAPTURE(i);
    CAPTURE(int(tiles[i].type));
    CAPTURE(tiles[i].rows);
    CAPTURE(tiles[i].width);
    CHECK(got[i].state == want.state);
    if (want.state == status::ok) CHECK(got[i].bytes == want.bytes);
  }
}

inline void lossless_of_every_type(unsigned seed) {
  std::mt19937 random(seed);
  MESSAGE("seed " << seed);
  std::vector<tile_bytes> tiles;
  for (const dtype t : all_types)
    for (const auto& [rows, width] : {std::pair{1, 1}, {3, 64}, {70, 96}, {33, 257}, {40, 300}, {64, 130}, {5, 256}})
      for (int what = 0; what < 4; ++what)
        tiles.push_back(encode(t, rows, width, made_elements(t, rows, width, what, random)));
  same_on_device(tiles, random);
}

/// The same tile with as many tables as a strip can have, copies of those it has; columns name any of the copies.
inline tile_bytes with_more_tables(const tile_bytes& t, int tables, std::mt19937& random) {
  tile_bytes out{t.type, t.rows, t.width, {}};
  const std::byte* p = t.bytes.data();
  for (int first = 0; first < t.width; first += detail::strip_columns(t.type)) {
    const int columns = std::min(t.width - first, detail::strip_columns(t.type));
    detail::strip_head h;
    if (p[0] == std::byte{0}) {
      const int size = 1 + t.rows * columns * size_of(t.type);
      out.bytes.insert(out.bytes.end(), p, p + size);
      p += size;
      continue;
    }
    std::memcpy(&h, p, sizeof h);
    const std::uint32_t size = h.size;
    const int symbols = (h.counts & 15) + 1, had = (h.counts >> 4) + 1, here = columns << (h.kind == 2);
    const std::byte* const freq = p + sizeof h;
    h.counts = std::uint8_t((h.counts & 15) | (tables - 1) << 4);
    h.size += std::uint32_t((tables - had) * (symbols - 1));
    const auto* const head = reinterpret_cast<const std::byte*>(&h);
    out.bytes.insert(out.bytes.end(), head, head + sizeof h);
    for (int i = 0; i < tables; ++i)
      out.bytes.insert(out.bytes.end(), freq + i % had * (symbols - 1), freq + (i % had + 1) * (symbols - 1));
    const std::byte* mode = freq + had * (symbols - 1);
    for (int c = 0; c < here; ++c, ++mode) {
      int table = std::to_integer<int>(*mode >> 4);
      while (table + had < tables && random() % 3) table += had;
      out.bytes.push_back((*mode & std::byte{15}) | std::byte(table << 4));
    }
    out.bytes.insert(out.bytes.end(), mode, p + size);
    p += size;
  }
  return out;
}

/// Tables that shared memory has room for, and more.
inline void lossless_with_many_tables(unsigned seed) {
  std::mt19937 random(seed);
  MESSAGE("seed " << seed);
  std::vector<tile_bytes> tiles;
  for (const dtype t : all_types)
    for (const int tables : {8, 9, 16})
      for (const int what : {0, 1, 3}) {
        const int rows = 20 + int(random() % 50), width = 1 + int(random() % 300);
        tiles.push_back(
            with_more_tables(encode(t, rows, width, made_elements(t, rows, width, what, random)), tables, random));
      }
  same_on_device(tiles, random);
}

/// Damaged tiles are refused where the host refuses them; nothing outside of them is read or written.
inline void damaged_lossless(unsigned seed, int rounds) {
  std::mt19937 random(seed);
  MESSAGE("seed " << seed);
  std::vector<tile_bytes> tiles;
  for (int i = 0; i < rounds; ++i)
    for (const dtype t : all_types) {
      const int rows = 1 + int(random() % 60), width = 1 + int(random() % 280);
      tile_bytes b = encode(t, rows, width, made_elements(t, rows, width, int(random() % 4), random));
      if (random() % 8 == 0) b = with_more_tables(b, 9 + int(random() % 8), random);
      switch (random() % 4) {
        case 0: b.bytes.resize(random() % b.bytes.size()); break;
        case 1: b.bytes.resize(b.bytes.size() + 1 + random() % 40); break;
        default: {
          const std::size_t reach = random() % 2 ? std::min<std::size_t>(b.bytes.size(), 400) : b.bytes.size();
          for (auto n = 1 + random() % 3; n > 0; --n) b.bytes[random() % reach] ^= std::byte(1 + random() % 255);
        }
      }
      tiles.push_back(std::move(b));
    }
  same_on_device(tiles, random);
}

}  // namespace strip_checks
