// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/codec/budget.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/cuda/presets.cuh>

#include <support/cuda_decode_checks.hpp>
#include <support/frames.hpp>
#include <support/fuzz_models.hpp>
#include <support/real_cache.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <random>
#include <string>
#include <vector>

/// What holds of whole decodes, on a GPU and on the emulator.
namespace cuda_checks {

inline constexpr unsigned decode_seed = 20261130;

using bytes = std::vector<std::byte>;

inline bytes read_bytes(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path.string());
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}

/// Whether there are kernels for a codec.
template <class Codec>
concept has_kernels = !requires {
  typename cuda::codec_stages<Codec>::entropy;
}
|| requires { sizeof(typename cuda::codec_stages<Codec>::entropy); };

/// Pages for all that a frame of a model holds, of the types that it was made of.
inline caches::mixed_cache pages_like(const profile& p, const frame_index& index) {
  std::vector<caches::layer_kind> kinds;
  for (int l = 0; l < p.shape.num_layers(); ++l)
    kinds.push_back({index.type(l, plane::key), index.type(l, plane::value), index.header().position,
                     std::int64_t(index.header().tokens)});
  return {p.shape, kinds};
}

/// One job for each view of a cache.
inline std::vector<job> jobs_for(std::span<const std::byte> frame, const caches::mixed_cache& c,
                                 int level = max_passes) {
  std::vector<job> jobs;
  for (const kv_view& v : c.views()) jobs.push_back({frame, v, level});
  return jobs;
}

/// Frames of released versions, at every level.
inline void golden_frames() {
  const std::filesystem::path folder = SLUICE_SOURCE_DIR "/test/golden";
  std::vector<profile> profiles;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.path().extension() == ".profile") profiles.push_back(profile::parse(read_bytes(entry.path())).value());
  int decoded = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".slc") continue;
    const std::string name = entry.path().stem().string();
    CAPTURE(name);
    const bytes frame = read_bytes(entry.path());
    frame_index index;
    REQUIRE(index.parse(frame) == status::ok);
    bool known = false;
    codec::with_codec(index.header().codec, [&]<class Codec>() {
      if constexpr (has_kernels<Codec>) {
        for (const profile& p : profiles) {
          if (index.header().layers != p.shape.num_layers()) continue;
          const caches::mixed_cache tried = pages_like(p, index);
          if (decoder<Codec>(p).decode(frame, tried.views()[0]).tiles == 0) continue;  // of another profile
          known = true;
          device_codec<Codec> device(p);
          decoder<Codec> host(p);
          for (int level = 0; level < index.header().passes; ++level) {
            CAPTURE(level);
            const caches::mixed_cache pages = pages_like(p, index);
            check(device, host, jobs_for(frame, pages, level));
            ++decoded;
          }
        }
        CHECK(known);
      }
    });
  }
  CHECK(decoded >= 45);
}

/// The capture of a real model, calibrated for it, to pages of several engines and types.
template <class Codec>
void real_capture(std::initializer_list<int> levels, const encode_options& how = {}) {
  const real_cache real;
  const bytes frame = caches::encode<Codec>(real.model, real.view, how);
  device_codec<Codec> device(real.model);
  decoder<Codec> host(real.model);
  const caches::engine engines[] = {caches::engine::vllm_nhd, caches::engine::vllm_hnd, caches::engine::llama_cpp,
                                    caches::engine::sglang};
  const dtype types[] = {dtype::f16, dtype::bf16, dtype::f32, dtype::e4m3};
  int i = 0;
  for (const int level : levels) {
    CAPTURE(level);
    const caches::cache c = caches::make_cache(real.model.shape, 256, types[i % 4], engines[i % 4]);
    job j{frame, c.view(), level};
    j.shift = std::size_t(i);
    const auto said = check(device, host, {j});
    CHECK(said[0].all.worst == status::ok);
    CHECK(said[0].all.tiles == 60);
    ++i;
  }
}

/// The same, with steps of rows as the profile has them, and as wide apart as a tile may have them.
inline void row_steps(std::initializer_list<int> levels) {
  real_capture<codec::balanced>(levels);
  std::mt19937_64 random(20261201);
  std::vector<float> importance(256);
  for (float& f : importance) f = std::exp2(float(int(random() % 81) - 40));
  real_capture<codec::balanced>(levels, {.weights = {.importance = importance}});
}

/// Moved to other positions, where exact tokens turn on, and shown in part.
inline void moved_frames() {
  const real_cache real;
  const kv_view some = real.view.slice(0, 90);
  encoder<> encoder(real.model);
  bytes frame(encoder.max_size(some));
  frame.resize(*encoder.encode(some, frame));
  device_codec<codec::standard> device(real.model);
  decoder<> host(real.model);
  std::vector<caches::cache> memory;
  memory.reserve(4);
  std::vector<job> jobs;
  for (const std::int64_t position : {0, 17, 70000, 1 << 22}) {
    memory.push_back(caches::make_cache(real.model.shape, 90, position == 17 ? dtype::bf16 : dtype::f16,
                                        caches::engine::vllm_nhd, position));
    job j{frame, position == 70000 ? memory.back().view().slice(20, 71) : memory.back().view(), 2};
    j.layers = {3, 6};
    j.position = position;
    jobs.push_back(j);
  }
  for (const outcome& o : check(device, host, jobs)) CHECK(o.all.worst == status::ok);
}

/// Codecs and profiles as the frame fuzzer has them.
template <class Codec>
struct fuzz_devices {
  std::unique_ptr<device_codec<Codec>> device[3];
  std::unique_ptr<decoder<Codec>> host[3];
  fuzz_devices() {
    const profile* models[] = {&fuzz_models::known().plain, &fuzz_models::known().tuned, &fuzz_models::known().hybrid};
    for (int i = 0; i < 3; ++i) {
      device[i] = std::make_unique<device_codec<Codec>>(*models[i]);
      host[i] = std::make_unique<decoder<Codec>>(*models[i]);
    }
  }
};

/// What the fuzzer makes of inputs: the frames with right checksums where it says so, and where they go.
template <class Codec>
struct fuzz_call {
  std::vector<bytes> frames;
  std::vector<caches::cache> caches;
  std::vector<caches::mixed_cache> hybrid;
  std::vector<job> jobs[3];  // for each model

  explicit fuzz_call(const std::vector<bytes>& inputs) {
    frames.reserve(inputs.size());
    caches.reserve(inputs.size());
    hybrid.reserve(inputs.size());
    for (const bytes& input : inputs) add(input);
  }

 private:
  void add(const bytes& input) {
    if (input.empty()) return;
    const auto how = unsigned(input[0]);
    bytes& frame = frames.emplace_back(input.begin() + 1, input.end());
    const auto& known = fuzz_models::known();
    frame_header h{};
    if (frame.size() >= sizeof h) h = frames::load<frame_header>(frame, 0);
    const int model = h.layers == 4 ? 2 : how & fuzz_models::calibrated ? 1 : 0;
    if (how & fuzz_models::make_right && frame.size() >= sizeof h) {
      const profile* models[] = {&known.plain, &known.tuned, &known.hybrid};
      if (h.fingerprint != 0) h.fingerprint = fingerprint_of<Codec>(*models[model]);
      frames::store(frame, 0, h);
      frames::fix_checksums(frame);
    }
    const std::int64_t to = how & fuzz_models::moved ? 100 : 0;
    const auto put = [&](const kv_view& v) {
      job j{frame, v, int(how / fuzz_models::level_bits & 7)};
      j.position = to ? to : -1;
      j.shift = frames.size() % 16;
      if (frame.size() < sizeof h) j.tokens = 23;
      jobs[model].push_back(j);
    };
    if (model == 2) {
      for (const kv_view& v : hybrid.emplace_back(fuzz_models::hybrid_pages(how)).views()) put(v);
    } else {
      const dtype type = how & fuzz_models::other_type ? dtype::bf16 : dtype::f16;
      caches.push_back(caches::make_cache(known.shape, 23, type, caches::engine::vllm_nhd, to));
      put(how & fuzz_models::some_tokens ? caches.back().view().slice(3, 18) : caches.back().view());
    }
  }
};

/// Decodes inputs of the frame fuzzer on both sides; returns how many tiles were damaged, and how many not.
template <class Codec>
std::pair<int, int> check_inputs(fuzz_devices<Codec>& on, const std::vector<bytes>& inputs, values compared) {
  fuzz_call<Codec> call(inputs);
  std::pair<int, int> tiles;
  for (int i = 0; i < 3; ++i) {
    if (call.jobs[i].empty()) continue;
    CAPTURE(i);
    for (const outcome& o : check(*on.device[i], *on.host[i], call.jobs[i], compared)) {
      tiles.first += int(o.all.damaged + o.all.degraded);
      tiles.second += int(o.all.tiles - o.all.damaged - o.all.degraded);
    }
  }
  return tiles;
}

/// Seeds of the frame fuzzer that are of a codec.
template <class Codec>
std::vector<bytes> fuzz_inputs() {
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(SLUICE_SOURCE_DIR "/test/fuzz/corpus/frame"))
    files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<bytes> inputs;
  for (const auto& file : files) {
    bytes input = read_bytes(file);
    frame_index index;
    const status s = index.parse(std::span<const std::byte>(input).subspan(1));
    if (s == status::ok ? Codec::id.decodes(index.header().codec) : codec::standard::id == Codec::id)
      inputs.push_back(std::move(input));
  }
  return inputs;
}

/// The corpus of the frame fuzzer, in one call for each model.
inline void fuzz_corpus() {
  std::size_t n = 0;
  codec::any_preset([&]<class Codec>(const char* preset, const char*) {
    const std::string name = preset;
    CAPTURE(name);
    if constexpr (has_kernels<Codec>) {
      fuzz_devices<Codec> devices;
      const std::vector<bytes> inputs = fuzz_inputs<Codec>();
      CHECK(!inputs.empty());
      n += inputs.size();
      CHECK(check_inputs(devices, inputs, values::all).second > 0);
    }
    return false;
  });
  CHECK(n >= 38);
}

/// One to four changes of an input.
inline bytes mutate(const std::vector<bytes>& seeds, std::mt19937_64& random) {
  const auto below = [&](std::size_t n) { return n ? std::size_t(random() % n) : 0; };
  bytes data = seeds[below(seeds.size())];
  for (std::size_t edits = 1 + below(4); edits > 0 && data.size() > 1; --edits) {
    // Where most of it happens: in the tiles.
    const std::size_t front = data.size() > 400 && random() % 4 ? 200 : 0, at = front + below(data.size() - front);
    switch (below(6)) {
      case 0: data[at] ^= std::byte(1u << below(8)); break;
      case 1: data[at] = std::byte(random()); break;
      case 2:
        if (below(4) == 0) data.resize(std::max<std::size_t>(at, 1));
        break;
      case 3: {
        static constexpr std::uint64_t all[] = {0,      1,      0x7f,       0x80,       0xff,       0x7fff,
                                                0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, ~0ull};
        const std::uint64_t value = all[below(std::size(all))];
        const std::size_t width = std::size_t{1} << below(4);
        if (data.size() - at >= width) std::memcpy(&data[at], &value, width);
        break;
      }
      case 4: {
        const std::size_t n = below(std::min<std::size_t>(64, data.size() - at)), to = below(data.size() - n);
        std::copy_n(bytes(data.begin() + std::ptrdiff_t(at), data.begin() + std::ptrdiff_t(at + n)).begin(), n,
                    data.begin() + std::ptrdiff_t(to));
        break;
      }
      default: data[at] = std::byte(unsigned(data[at]) + (random() & 1 ? 1 : 255)); break;
    }
  }
  if (random() % 8) data[0] |= std::byte{fuzz_models::make_right};
  return data;
}

/// Changed seeds, most of them with right checksums, a dozen in a call.
template <class Codec>
void mutated_inputs(int n, unsigned seed) {
  MESSAGE("seed ", seed);
  fuzz_devices<Codec> devices;
  const std::vector<bytes> seeds = fuzz_inputs<Codec>();
  std::mt19937_64 random(seed);
  std::pair<int, int> tiles;
  for (int done = 0; done < n; done += 12) {
    CAPTURE(done);
    std::vector<bytes> inputs;
    for (int i = 0; i < 12; ++i) inputs.push_back(mutate(seeds, random));
    const auto more = check_inputs(devices, inputs, values::places);
    tiles.first += more.first;
    tiles.second += more.second;
  }
  MESSAGE(tiles.first, " tiles were damaged, ", tiles.second, " were not");
  CHECK(tiles.first > n / 10);
  CHECK(tiles.second > n / 10);
}

/// The same for every other preset; the coder of CacheGen's paper has one step for all of a tile at a time.
inline void mutated_presets(int n, unsigned seed) {
  codec::any_preset([&]<class Codec>(const char* preset, const char*) {
    const std::string name = preset;
    CAPTURE(name);
    if constexpr (has_kernels<Codec> && !std::is_same_v<Codec, codec::standard>)
      if (name.find("paper_") == std::string::npos) mutated_inputs<Codec>(name == "cachegen_paper" ? n / 4 : n, seed);
    return false;
  });
}

/// Frames whose last bytes are not here, at many places.
inline void early_ends() {
  fuzz_devices<codec::standard> devices;
  int tiles = 0;
  for (const bytes& seed : fuzz_inputs<codec::standard>()) {
    std::vector<bytes> inputs;
    for (std::size_t size = 1; size < seed.size(); size += size < 120 ? 29 : 211)
      inputs.emplace_back(seed.begin(), seed.begin() + std::ptrdiff_t(size));
    tiles += check_inputs(devices, inputs, values::all).first;
  }
  CHECK(tiles > 100);
}

/// More requests than one launch takes, of all sizes, sound ones among others; all in one call.
inline void many_requests() {
  const profile& p = fuzz_models::known().tuned;
  device_codec<codec::standard> device(p);
  decoder<> host(p);
  std::vector<bytes> frames;
  std::vector<caches::cache> memory;
  frames.reserve(64);
  memory.reserve(64);
  std::vector<job> jobs;
  for (int i = 0; i < 3 * cuda::requests_per_launch + 1; ++i) {
    const std::int64_t tokens = 1 + i * 7 % 60, position = i % 3 * 1000;
    caches::cache c = caches::make_cache(p.shape, tokens, dtype::f16, caches::engines[i % 11], position);
    caches::fill(c.view(), p.shape, unsigned(i));
    bytes& frame = frames.emplace_back(caches::encode<codec::standard::with_grouping<tile_tokens<16>>>(p, c.view()));
    REQUIRE(!frame.empty());
    if (i % 5 == 1) frame.resize(frame.size() * 3 / 4);
    if (i % 7 == 2) frame[90] ^= std::byte{1};
    if (i % 13 == 3) frame.clear();
    memory.push_back(
        caches::make_cache(p.shape, tokens, i % 2 ? dtype::f16 : dtype::bf16, caches::engines[i % 11], position));
    job j{frame, memory.back().view(), i % 4};
    if (frame.empty()) j.tokens = std::uint32_t(tokens);
    j.shift = std::size_t(i % 16);
    jobs.push_back(j);
  }
  int sound = 0;
  for (const outcome& o : check(device, host, jobs)) sound += o.all.worst == status::ok;
  CHECK(sound > 10);
  CHECK(sound < int(jobs.size()) - 5);
}

/// Page tables that name one page many times: what is there is anybody's guess, that it is only there is not.
inline void overlapping_pages() {
  const profile& p = fuzz_models::known().tuned;
  device_codec<codec::standard> device(p);
  decoder<> host(p);
  caches::cache c = caches::make_cache(p.shape, 60, dtype::f16, caches::engine::vllm_nhd);
  caches::fill(c.view(), p.shape, 1);
  const bytes frame = caches::encode(p, c.view());
  for (const std::vector<std::int32_t>& table : {std::vector<std::int32_t>{0, 0, 0, 0}, {2, 1, 2, 1}}) {
    caches::cache pages = caches::make_cache(p.shape, 60, dtype::f16, caches::engine::vllm_nhd);
    job j{frame, pages.view()};
    j.view.indices = table.data();
    j.view.num_indices = 4;
    const auto said = check(device, host, {j}, values::places);
    CHECK(said[0].all.worst == status::ok);
  }
}

}  // namespace cuda_checks
