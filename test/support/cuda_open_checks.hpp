// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/format/cut.hpp>
#include <sluice/format/frame.hpp>
#include <sluice/format/tile.hpp>

#include <support/cuda_decode_checks.hpp>
#include <support/frames.hpp>

#include <array>
#include <cmath>
#include <random>
#include <vector>

/// What holds of the kernels that open frames, on a GPU and on the emulator.
namespace cuda_checks {

/// The default codec, of which nothing is decoded.
struct opened_only : codec::standard {};

}  // namespace cuda_checks

namespace sluice::cuda {

template <>
struct codec_stages<cuda_checks::opened_only> {
  static status init(const model_sizes&, const device_limits&) { return status::ok; }
  static constexpr std::uint64_t bytes(const model_sizes&, std::int32_t) noexcept { return 0; }
  static __device__ bool open(const opened_tile& t, opened_quantizer& out) {
    return codec_stages<codec::standard>::open(t, out);
  }
  static status decode(const decode_state&, const model_sizes&, const device_limits&, cudaStream_t) {
    return status::ok;
  }
};

}  // namespace sluice::cuda

namespace cuda_checks {

inline constexpr unsigned seed = 20261129;

template <int = 0>
__global__ void checksum_kernel(const std::uint8_t* p, std::uint64_t size, std::uint32_t start, std::uint32_t* out) {
  const std::uint32_t sum = cuda::warp_checksum(p, size, start, threadIdx.x);
  out[threadIdx.x] = sum;
}

inline void checksums() {
  std::mt19937_64 random(seed);
  for (const std::size_t size : {0, 1, 3, 4, 5, 31, 84, 127, 128, 129, 255, 256, 257, 300, 384, 1000, 5000})
    for (const std::size_t shift : {0, 1, 2, 3, 7, 16}) {
      CAPTURE(size);
      CAPTURE(shift);
      std::vector<std::uint8_t> bytes(shift + size);
      for (auto& b : bytes) b = std::uint8_t(random());
      const device_buffer<std::uint8_t> there(bytes);
      const device_buffer<std::uint32_t> out(32);
      const auto start = std::uint32_t(random());
      REQUIRE(cuda::launch(&checksum_kernel<>, 1, 32, 0, nullptr, there.data() + shift, std::uint64_t{size}, start,
                           out.data()) == status::ok);
      for (const std::uint32_t sum : out.download()) REQUIRE(sum == checksum(bytes.data() + shift, size, start));
    }
}

/// A model of two kinds of layers, a window, a layer without KV and one without V; its cache; a frame of it.
struct small_model {
  model_shape shape{{{2, 24, 24}, {2, 24, 24, 0, 40}, {}, {3, 40, 40, 1}, {1, 32, 0, 1}},
                    {{}, {.pairing = rope_pairing::interleaved, .rotary_dims = 16}}};
  profile model;
  std::vector<std::byte> frame;
  static constexpr std::int64_t position = 300, tokens = 75;

  small_model() {
    const caches::mixed_cache c = pages();
    for (std::size_t i = 0; i < c.views().size(); ++i) caches::fill(c.views()[i], shape, 40 + i);
    model = caches::make_profile(shape, c.views(), 1, 4, 2);
    frame = caches::encode<codec::standard::with_grouping<tile_tokens<32>>>(model, c.views());
    REQUIRE(!frame.empty());
  }
  caches::mixed_cache pages(std::int64_t at = position, std::int64_t n = tokens, dtype type = dtype::f16) const {
    return {shape, std::vector<caches::layer_kind>(5, {type, dtype::f16, at, n})};
  }
};
inline const small_model& small() {
  static const small_model m;
  return m;
}

/// A request for a model's frame, whole.
inline cuda::request request_of(const small_model& m, const device_buffer<std::byte>& frame,
                                const device_cache& there) {
  cuda::request r;
  r.frame = frame.data();
  r.size = m.frame.size();
  r.tokens = m.tokens;
  r.tile_tokens = 32;
  r.cache = there.view();
  return r;
}

/// The strands of a decode as the device left them.
inline void strands_lie_right() {
  const small_model& m = small();
  const cuda::model<opened_only> packed(m.model);
  const device_buffer<std::byte> image(std::vector<std::byte>(packed.image().begin(), packed.image().end()));
  const auto model = packed.at(image.data());
  const caches::mixed_cache pages = m.pages();
  const device_cache there(pages.views()[0]);
  const device_buffer<std::byte> frame(m.frame);
  const cuda::request r = request_of(m, frame, there);
  const std::vector<cuda::request> requests{r};
  const std::size_t bytes = *cuda::decode_workspace_bytes(model, std::span<const cuda::request>(requests));
  device_buffer<std::byte> workspace(bytes + 128);
  const std::size_t skip = (128 - reinterpret_cast<std::uintptr_t>(workspace.data()) % 128) % 128;
  std::byte* const at = workspace.data() + skip;
  CHECK(cuda::decode_async(model, std::span<const cuda::request>(requests), at, bytes - 1, nullptr) ==
        status::workspace_too_small);
  CHECK(cuda::decode_async(model, std::span<const cuda::request>(requests), at + 4, bytes, nullptr) ==
        status::invalid_argument);
  REQUIRE(cuda::decode_async(model, std::span<const cuda::request>(requests), at, bytes, nullptr) == status::ok);
  REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
  const std::vector<std::byte> after = workspace.download();
  const auto layout =
      cuda::lay_out_workspace(model.sizes, std::span<const cuda::request>(requests), [](int) { return 0; });
  frame_index index;
  REQUIRE(index.parse(m.frame) == status::ok);
  std::size_t seen = 0;
  for (int i = 0; i < layout.strands; ++i) {
    cuda::strand s;
    std::memcpy(&s, after.data() + skip + layout.strands_at + std::size_t(i) * sizeof s, sizeof s);
    if (s.slot < 0) continue;
    CAPTURE(i);
    ++seen;
    const cuda::group_model& g = cuda::group_of(packed.image().data(), s.group);
    CHECK(g.layer == pages.views()[0].layer_id(s.slot));
    const int in_plane = s.group - cuda::plane_of(packed.image().data(), g.layer, g.plane).first_group;
    const tile_key key{g.layer, plane(g.plane), s.tile, in_plane};
    CHECK(s.state == status::ok);
    CHECK(s.level == index.levels_of(index.ordinal(0, key)) - 1);
    for (int pass = 0; pass <= s.level; ++pass) {
      const byte_range range = index.range(index.ordinal(pass, key));
      const auto* base = reinterpret_cast<const std::uint8_t*>(m.frame.data());
      const std::span tile(base + range.begin, range.size());
      tile_sections sections;
      tile_envelope e;
      if (pass == 0) {
        REQUIRE(parse_tile(tile, index.tokens_of(s.tile), index.row_bytes(key), e) == status::ok);
        sections = e.base;
        CHECK(s.first == e.first);
        CHECK(s.count == e.count);
        CHECK(s.exact == e.exact);
        CHECK(base + s.exact_index.at == e.exact_index.data());
        CHECK(base + s.exact_rows.at == e.exact_rows.data());
        CHECK(s.exact_rows.size == e.exact_rows.size());
        CHECK(s.transform.size == sections[section::transform].size());
        CHECK(s.quantizer.size == sections[section::quantizer].size());
      } else {
        REQUIRE(parse_refinement(tile, sections) == status::ok);
      }
      CHECK(s.entropy[pass].size == sections[section::entropy].size());
      if (s.entropy[pass].size) CHECK(base + s.entropy[pass].at == sections[section::entropy].data());
    }
    CHECK(s.values_at % 64 == 0);
    CHECK(s.values_at + std::uint64_t(s.rows()) * std::uint64_t(g.ld) * 2 <= bytes);
  }
  CHECK(seen == 3 * 4);  // token tiles; K and V of two heads of one basis each
}

/// A view of the model's layer 3 alone, as no engine has it: contiguous tokens, elements apart from one another.
inline void sound_frames() {
  const small_model& m = small();
  device_codec<opened_only> device(m.model);
  decoder<> host(m.model);
  std::vector<caches::mixed_cache> memory;
  std::vector<job> jobs;
  std::vector<std::vector<std::byte>> frames;
  frames.reserve(16);
  const auto add = [&](std::span<const std::byte> frame, const kv_view& v) -> job& {
    return jobs.emplace_back(job{frame, v});
  };
  const auto fresh = [&](auto... how) -> const caches::mixed_cache& { return memory.emplace_back(m.pages(how...)); };
  memory.reserve(64);
  for (int layer = 0; layer < 4; ++layer) add(m.frame, fresh().views()[std::size_t(layer)]);
  for (int level = 0; level < 6; ++level) add(m.frame, fresh().views()[2]).level = level;
  for (const auto& [begin, end] : {std::pair{0, 0}, {0, 1}, {5, 40}, {31, 33}, {64, 75}, {74, 75}})
    add(m.frame, fresh().views()[0].slice(begin, end));
  for (const auto& [begin, end] : {std::pair{0, 5}, {1, 2}, {1, 1}, {-3, 1}, {4, 2}})
    add(m.frame, fresh().views()[1]).layers = {begin, end};
  // Elsewhere, and where the view shows more than the frame has.
  add(m.frame, fresh(std::int64_t{5}).views()[1]).position = 5;
  add(m.frame, fresh(std::int64_t{290}, std::int64_t{120}).views()[1]);
  add(m.frame, fresh(std::int64_t{290}, std::int64_t{120}).views()[0]);
  add(m.frame, fresh(std::int64_t{320}, std::int64_t{20}).views()[0]).sequence_end = 400;
  // Cut and truncated.
  for (const int level : {0, 2}) {
    auto& cut = frames.emplace_back(m.frame);
    cut.resize(*truncate(cut, level));
    add(cut, fresh().views()[2]);
  }
  frame_index index;
  REQUIRE(index.parse(m.frame) == status::ok);
  std::vector<std::uint8_t> keep(index.tiles_per_pass());
  for (std::size_t i = 0; i < keep.size(); ++i) keep[i] = std::uint8_t(1 + i % 4);
  auto& cut = frames.emplace_back(m.frame);
  cut.resize(*cut_tiles(cut, keep));
  for (int level = 0; level < 4; ++level) add(cut, fresh().views()[0]).level = level;
  for (const std::size_t size : {m.frame.size() - 1, m.frame.size() / 2, index.payload_offset()})
    add(frames.emplace_back(m.frame.begin(), m.frame.begin() + std::ptrdiff_t(size)), fresh().views()[2]);
  // A layer that has tokens of its own, before and behind those that the view shows.
  const std::vector<caches::layer_kind> kept{
      {dtype::f16, dtype::f16, 300, 75}, {dtype::f16, dtype::f16, 340, 20}, {}, {}, {}};
  caches::mixed_cache window(m.shape, kept);
  for (const kv_view& v : window.views())
    if (v.tokens) caches::fill(v, m.shape, 3);
  std::vector<kv_view> shown{window.views()[0], window.views()[1]};
  auto& part = frames.emplace_back(caches::encode<codec::standard::with_grouping<tile_tokens<32>>>(m.model, shown));
  REQUIRE(!part.empty());
  for (const std::int64_t end : {-1, 375, 380, 399, 500}) {
    job& j = add(part, fresh().views()[1]);
    j.sequence_end = end;
  }
  for (std::size_t i = 0; i < jobs.size(); ++i) jobs[i].shift = i % 16;
  const auto outcomes = check(device, host, jobs, values::none);
  CHECK(outcomes[0].all.worst == status::ok);
  page_status all;
  for (const outcome& o : outcomes)
    all.outside += o.all.outside, all.damaged += o.all.damaged, all.degraded += o.all.degraded,
        all.coarser += o.all.coarser;
  CHECK(all.outside > 0);
  CHECK(all.damaged > 0);
  CHECK(all.degraded > 0);
  CHECK(all.coarser > 0);
}

/// A frame with a changed header and right checksums.
template <class T>
std::vector<std::byte> with(std::span<const std::byte> frame, std::size_t at, const T& value, bool fix = true) {
  std::vector<std::byte> out(frame.begin(), frame.end());
  frames::store(out, at, value);
  if (fix) frames::fix_checksums(out);
  return out;
}

inline void refusals() {
  const small_model& m = small();
  device_codec<opened_only> device(m.model);
  decoder<> host(m.model);
  std::vector<std::vector<std::byte>> frames;
  frames.reserve(256);
  std::vector<caches::mixed_cache> memory;
  memory.reserve(256);
  std::vector<std::vector<std::int32_t>> tables;
  tables.reserve(64);
  std::vector<job> jobs;
  const auto frame = [&](std::vector<std::byte> f) -> job& {
    frames.push_back(std::move(f));
    return jobs.emplace_back(job{frames.back(), memory.emplace_back(m.pages()).views()[0]});
  };
  const auto view = [&](auto change) -> job& {
    job& j = frame(m.frame);
    change(j.view);
    return j;
  };
  const auto tile_8 = [&](auto at, auto value) { return with(m.frame, at, std::uint8_t(value)); };

  // The bytes.
  for (const std::size_t size : {0, 3, 4, 87, 88, 200})
    frame({m.frame.begin(), m.frame.begin() + std::ptrdiff_t(size)}).tokens = 75, jobs.back().tile_tokens = 32;
  frame(with(m.frame, 0, std::uint32_t{1}, false));
  frame(with(m.frame, 5, std::uint8_t{99}));
  frame(with(m.frame, 6, std::uint16_t{96}));
  for (const std::size_t at : {52, 53, 80, 83}) frame(tile_8(at, 1));
  for (const int passes : {0, 1, 2, 3, 5, 7}) frame(tile_8(54, passes));
  for (const int levels : {0, 1, 2, 5}) frame(tile_8(55, levels));
  frame(with(m.frame, 16, std::int64_t{-1}));
  frame(with(m.frame, 16, INT64_MAX));
  frame(with(m.frame, 84, std::uint32_t{0}, false));
  frame(with(m.frame, 44, std::uint32_t{0}, false));
  for (const std::uint32_t tokens : {0u, 1u, 74u, 76u, 96u, 97u, (1u << 20) + 1}) frame(with(m.frame, 32, tokens));
  for (const std::uint32_t tokens : {0u, 1u, 31u, 33u, 4096u, 4097u}) frame(with(m.frame, 36, tokens));
  for (const std::uint32_t size : {0u, 8u, 16u, 88u, 1u << 20, UINT32_MAX}) frame(with(m.frame, 40, size));
  for (const int layers : {0, 4, 6, 5000}) frame(with(m.frame, 48, std::uint16_t(layers)));
  for (const int runs : {0, 1, 5, 65535}) frame(with(m.frame, 50, std::uint16_t(runs)));
  frame(with(m.frame, 24, std::uint64_t{m.frame.size() + 1}));
  frame(with(m.frame, 8, std::uint64_t{7}));
  for (const std::size_t at : {56, 60, 64, 68, 69, 72, 76}) frame(tile_8(at, 77));
  frame(with(m.frame, 57, std::uint16_t{512}));  // another tile size in the codec: of no meaning
  for (std::size_t at = 88; at < 88 + 4 * 16; ++at) frame(tile_8(at, 3));
  frame_index index;
  REQUIRE(index.parse(m.frame) == status::ok);
  const std::size_t entries = 88 + index.runs().size() * 16, tiles = index.tiles_per_pass();
  frame(with(m.frame, entries, cut_tile));                        // the base
  frame(with(m.frame, entries + 8 * tiles, cut_tile));            // a pass below one that is there
  frame(with(m.frame, entries + 8 * (4 * tiles - 1), cut_tile));  // the size no longer fits
  frame(with(m.frame, entries + 8, std::uint32_t{UINT32_MAX - 1}));
  frame(with(m.frame, index.payload_offset() - 1, std::uint8_t{1}));
  frame(with(m.frame, index.payload_offset() - 8, std::uint64_t{1}));

  // The view.
  view([](kv_view& v) { v.num_layers = 0; });
  view([](kv_view& v) { v.page_size = 0; });
  view([](kv_view& v) { v.k.element_stride = 1; });
  view([](kv_view& v) { v.k = v.v = {}; });
  view([](kv_view& v) { v.tokens = -1; });
  view([](kv_view& v) { v.first = INT64_MAX; });
  view([](kv_view& v) { v.num_kv_heads = 1; });
  view([](kv_view& v) { v.k.head_dim -= 4; });
  view([](kv_view& v) { v.v = {}; });
  view([](kv_view& v) { v.v.type = dtype::bytes; });
  view([](kv_view& v) { v.position = 375; });
  view([](kv_view& v) { v.position = 225; });
  view([](kv_view& v) { v.tokens = 0; });
  view([](kv_view& v) { v.tokens += 1000; });
  view([](kv_view& v) { v.capacity = 1; });
  view([](kv_view& v) { v.indices = nullptr; });
  for (const std::int32_t id : {-1, 1, 2, 3, 5, INT32_MAX})
    view([&](kv_view& v) { v.layer_ids = tables.emplace_back(1, id).data(); });
  view([&](kv_view& v) {
    v.layer_ids = tables.emplace_back(std::vector<std::int32_t>{0, 0}).data();
    v.num_layers = 2;
    v.tokens = 1;  // so that the second layer, too, lies within what the cache has
    v.k.layer_stride = v.k.element_stride;
    v.v.layer_stride = v.v.element_stride;
  });
  for (const std::int32_t number : {-1, 1 << 20, INT32_MAX})
    for (const int entry : {0, 2})
      view([&](kv_view& v) {
        auto& table = tables.emplace_back(v.indices, v.indices + v.num_indices);
        table[std::size_t(v.first / v.page_size + entry)] = number;
        v.indices = table.data();
      });
  // The options.
  for (const int level : {-1, INT32_MIN}) view([](kv_view&) {}).level = level;
  view([](kv_view&) {}).position = INT64_MAX;
  view([](kv_view&) {}).position = 1 << 20;
  // What a request says and the header does not.
  view([](kv_view&) {}).tokens = 74;
  jobs.back().tile_tokens = 32;
  const std::size_t other_tokens = jobs.size() - 1;
  view([](kv_view&) {}).tokens = 1u << 21;

  for (std::size_t i = 0; i < jobs.size(); ++i) {
    CAPTURE(i);
    job& j = jobs[i];
    j.shift = i % 5;
    read_sizes(j);
    if (i >= other_tokens) continue;
    check(device, host, {j}, values::none);
  }
  std::vector<device_cache> there;
  for (const job& j : jobs) there.emplace_back(j.view);
  const std::vector<outcome> got = device.decode(jobs, there);  // all in one call
  std::vector<int> said(64);
  for (std::size_t i = 0; i < jobs.size(); ++i) {
    CAPTURE(i);
    outcome wanted = decode_on_host(host, jobs[i]);
    if (i >= other_tokens) {
      wanted = {};
      wanted.all.worst = status::wrong_shape;
      wanted.pages.assign(pages_of(jobs[i].view), status::wrong_shape);
    }
    check_same(got[i], wanted);
    ++said[std::size_t(wanted.all.worst)];
  }
  for (const status s :
       {status::not_a_frame, status::wrong_version, status::truncated, status::corrupt_header, status::corrupt_index,
        status::too_large, status::wrong_codec, status::wrong_profile, status::wrong_shape, status::wrong_positions,
        status::unsupported_type, status::level_not_present, status::invalid_argument, status::invalid_view,
        status::page_out_of_range, status::ok}) {
    CAPTURE(to_string(s));
    CHECK(said[std::size_t(s)] > 0);
  }
}

/// Bytes changed at random, several frames a call; without right checksums, so that nothing is left to a decoder.
inline void damaged_frames(int rounds) {
  const small_model& m = small();
  device_codec<opened_only> device(m.model);
  decoder<> host(m.model);
  std::mt19937_64 random(seed);
  MESSAGE("seed ", seed);
  int ok = 0, bad = 0;
  for (int round = 0; round < rounds; ++round) {
    CAPTURE(round);
    std::vector<std::vector<std::byte>> frames;
    std::vector<caches::mixed_cache> memory;
    std::vector<job> jobs;
    memory.reserve(3);
    for (int i = 0; i < 3; ++i) {
      auto& f = frames.emplace_back(m.frame);
      for (std::uint64_t edits = random() % 4; edits > 0; --edits) {
        const std::size_t payload = 88 + random() % 3 * 16;
        const std::size_t at = random() % 8 ? payload + random() % (f.size() - payload) : random() % f.size();
        f[at] ^= std::byte(1u << random() % 8);
      }
      if (random() % 4 == 0) f.resize(random() % f.size());
      if (random() % 8 == 0) frames::fix_checksums(std::span(f).first(std::min<std::size_t>(f.size(), 88)));
      job j{f, memory.emplace_back(m.pages()).views()[random() % 4]};
      const auto begin = std::int64_t(random() % 60);
      if (random() % 2) j.view = j.view.slice(begin, begin + 1 + std::int64_t(random() % 15));
      j.level = int(random() % 5);
      j.tokens = m.tokens;
      j.tile_tokens = 32;
      j.shift = random() % 16;
      jobs.push_back(j);
    }
    for (const outcome& o : check(device, host, jobs, values::none)) (o.all.worst == status::ok ? ok : bad) += 1;
  }
  CHECK(ok > 0);
  CHECK(bad > rounds);
}

inline void rope_tables() {
  const small_model& m = small();
  const cuda::model<opened_only> packed(m.model);
  const device_buffer<std::byte> image(std::vector<std::byte>(packed.image().begin(), packed.image().end()));
  const auto model = packed.at(image.data());
  const auto* ropes =
      cuda::in_image<cuda::rope_model>(packed.image().data(), cuda::head_of(packed.image().data()).ropes_at);
  REQUIRE(cuda::head_of(packed.image().data()).ropes == 3);
  for (const std::int64_t position : {0, 300, 1 << 20, 1 << 30}) {
    const caches::mixed_cache pages = m.pages(position);
    const device_cache there(pages.views()[2]);
    const device_buffer<std::byte> frame(m.frame);
    cuda::request r = request_of(m, frame, there);
    r.position = position;
    const std::span<const cuda::request> requests(&r, 1);
    device_buffer<std::byte> workspace(*cuda::decode_workspace_bytes(model, requests) + 128);
    const std::size_t skip = (128 - reinterpret_cast<std::uintptr_t>(workspace.data()) % 128) % 128;
    REQUIRE(cuda::decode_async(model, requests, workspace.data() + skip, workspace.size() - skip, nullptr) ==
            status::ok);
    REQUIRE(cudaDeviceSynchronize() == cudaSuccess);
    const std::vector<std::byte> after = workspace.download();
    cuda::open_request o;
    std::memcpy(&o, after.data() + skip, sizeof o);
    REQUIRE(o.state == status::ok);
    for (int i = 0; i < 3; ++i) {
      const cuda::rope_model& e = ropes[i];
      const auto* f = cuda::in_image<double>(packed.image().data(), e.frequency_at);
      double worst = 0;
      for (int t = 0; t < m.tokens; ++t)
        for (int p = 0; p < e.pairs; ++p) {
          float x[2];
          const std::size_t at = std::size_t(m.tokens * e.pairs_before + t * e.pairs + p);
          std::memcpy(x, after.data() + skip + o.ropes_at + 8 * at, 8);
          const double a = double(position + t) * f[p];
          worst = std::max({worst, std::fabs(double(x[0]) - e.attention_factor * std::cos(a)),
                            std::fabs(double(x[1]) - e.attention_factor * std::sin(a))});
        }
      CHECK(worst < 1e-6);
    }
  }
}

inline void workspace_sizes() {
  cuda::model_sizes m{4096, 6, 1 << 18, 64 * 8192, 1024, std::int64_t{1} << 32, value_domain::stored};
  cuda::request r;
  r.tokens = max_frame_tokens;
  r.tile_tokens = 1;
  std::vector<cuda::request> requests(100000, r);
  const auto none = [](std::int32_t) { return std::uint64_t{0}; };
  CHECK(cuda::lay_out_workspace(m, std::span<const cuda::request>(requests), none).too_large);  // 2^38 strands
  m.strands = 1;
  CHECK(cuda::lay_out_workspace(m, std::span<const cuda::request>(requests), none).too_large);
  requests.resize(3);
  const auto l = cuda::lay_out_workspace(m, std::span<const cuda::request>(requests), none);
  CHECK(!l.too_large);
  CHECK(l.strands == 3 << 20);
  CHECK(cuda::lay_out_workspace(m, std::span<const cuda::request>(requests), [](int) {
          return ~std::uint64_t{0};
        }).too_large);
  for (const std::uint32_t tokens : {0u, max_frame_tokens + 1}) {
    requests[1].tokens = tokens;
    CHECK(cuda::lay_out_workspace(m, std::span<const cuda::request>(requests), none).strands == 2 << 20);
  }
  static_assert(cuda::strand_blocks(0) == 0 && cuda::strand_blocks(9) == 2 && cuda::report_blocks(129) == 2);
}

}  // namespace cuda_checks
