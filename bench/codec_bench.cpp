// SPDX-License-Identifier: Apache-2.0
// The whole way on real KV: engine pages to frame and frame to engine pages, beside memcpy and zstd in the same run.
// bytes_per_second counts bytes of the f16 cache. SLUICE_BENCH_PROFILE names a profile that `engine calibrate --predict`
// made of the context's model, in place of the committed one; `smallest` is measured with such a profile only.

#include <benchmark/benchmark.h>
#include <zstd.h>
#include <capture_file.hpp>
#include <safetensors.hpp>
#include <sluice/calibrate/preset_sections.hpp>
#include <sluice/sluice.hpp>

#include <concepts>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#ifndef SLUICE_TEST_DATA
#define SLUICE_TEST_DATA "test/data"
#endif

namespace {

using sluice::isa;

// Steps of tokens, which one short context is too little to learn: by how late a token stands.
void follow_recency(sluice::profile& p) {
  sluice::detail::token_weight_model m;
  for (int l = 0; l < p.shape.num_layers(); ++l)
    m.layers.push_back({.offset = {4, 2},
                        .exponent = {sluice::detail::usual_exponent, sluice::detail::usual_exponent},
                        .slope = 1,
                        .direction = std::vector<float>(std::size_t(p.of(l, sluice::plane::key).width))});
  m.put_into(p);
}

// The sample context, and paged memory of vLLM's shape to decode into.
struct fixture {
  capture_file file;
  sluice::profile calibrated;  // the committed one: a basis over all heads
  sluice::profile per_head;    // one basis a head, calibrated here
  sluice::profile uncalibrated;
  sluice::kv_view cache;
  std::vector<std::int32_t> tokens;
  std::size_t raw = 0, values = 0;
  std::vector<std::byte> pages[2];
  std::vector<std::byte*> k, v;
  std::vector<std::int32_t> block_table;
  sluice::kv_view paged;

  fixture() {
    const std::string data = SLUICE_TEST_DATA;
    if (const auto wrong = file.open(data + "/smollm2_sample.safetensors")) {
      std::fprintf(stderr, "%s\n", wrong->c_str());
      std::exit(1);
    }
    const char* const own = std::getenv("SLUICE_BENCH_PROFILE");
    auto loaded = sluice::profile::load(own ? own : (data + "/smollm2.profile").c_str());
    if (!loaded) {
      std::fprintf(stderr, "%s: %s\n", own ? own : "smollm2.profile", to_string(loaded.status()));
      std::exit(1);
    }
    calibrated = std::move(*loaded);
    uncalibrated = sluice::profile::uncalibrated(file.shape());
    sluice::calibrator c(file.shape(), {.heads_per_basis = 1});
    for (const sluice::capture& x : file.captures()) (void)c.add(x);
    for (const sluice::capture& x : file.captures()) (void)c.measure(x);
    per_head = c.finish().value();
    // Tables of the context itself: good enough for speed.
    if (sluice::calibrate_presets(calibrated, file.views()) != sluice::status::ok) std::exit(1);
    if (!own) follow_recency(calibrated);
    cache = file.views().at(0);
    safetensors::file ids;
    (void)ids.open(data + "/smollm2_sample.safetensors");
    const std::span<const std::int32_t> known = ids.values<std::int32_t>(ids.find("ids"));
    tokens.assign(known.begin(), known.begin() + std::ptrdiff_t(cache.tokens));
    const sluice::layer_shape& s = file.shape().layers[0];
    values = 2 * std::size_t(cache.tokens) * std::size_t(cache.num_layers) * std::size_t(s.num_kv_heads * s.head_dim_k);
    raw = 2 * values;

    const int page_size = 16, num_pages = int(cache.tokens) / page_size * 2;
    const std::size_t layer = std::size_t(num_pages * page_size * s.num_kv_heads * s.head_dim_k) * 2;
    for (auto& p : pages) p.resize(layer * std::size_t(cache.num_layers));
    for (int l = 0; l < cache.num_layers; ++l) {
      k.push_back(pages[0].data() + std::size_t(l) * layer);
      v.push_back(pages[1].data() + std::size_t(l) * layer);
    }
    block_table.resize(std::size_t(num_pages));
    std::iota(block_table.begin(), block_table.end(), 0);
    std::shuffle(block_table.begin(), block_table.end(), std::mt19937(1));
    paged = sluice::layouts::vllm_nhd(k, v,
                                      {.num_kv_heads = s.num_kv_heads,
                                       .head_dim_k = s.head_dim_k,
                                       .head_dim_v = s.head_dim_v,
                                       .page_size = page_size,
                                       .num_pages = num_pages},
                                      block_table, cache.tokens);
  }
};

fixture& data() {
  static fixture f;
  return f;
}

void count(benchmark::State& state, std::size_t coded) {
  state.SetBytesProcessed(std::int64_t(state.iterations()) * std::int64_t(data().raw));
  if (coded) state.counters["bits_per_value"] = 8 * double(coded) / double(data().values);
}

const sluice::profile& profile_of(int basis) {
  return basis == 0 ? data().uncalibrated : basis == 1 ? data().per_head : data().calibrated;
}

// Threads of the caller's, here ones that are started for each call.
auto pool = [](int n, auto task) {
  std::vector<std::jthread> others;
  for (int i = 1; i < n; ++i) others.emplace_back([&task, i] { task(i); });
  task(0);
};
sluice::parallel_for shared_by(int threads) {
  return threads > 1 ? sluice::parallel_for::of(threads, pool) : sluice::parallel_for{};
}

template <class Codec>
void encode(benchmark::State& state, int basis, int levels, isa on, int threads = 1) {
  sluice::encoder<Codec> encoder(profile_of(basis), {on});
  std::vector<std::byte> out(encoder.max_size(data().cache));
  std::size_t n = 0;
  for (auto _ : state)
    n = encoder.encode(data().cache, out, {.levels = levels, .side = {data().tokens}, .parallel = shared_by(threads)})
            .value();
  count(state, n);
}

template <class Codec>
void decode(benchmark::State& state, int basis, int level, isa on, int threads = 1) {
  sluice::encoder<Codec> encoder(profile_of(basis));
  std::vector<std::byte> frame(encoder.max_size(data().cache));
  frame.resize(encoder.encode(data().cache, frame, {.side = {data().tokens}}).value());
  sluice::decoder<Codec> decoder(profile_of(basis), {on});
  for (auto _ : state)
    if (const auto s = decoder.decode(frame, data().paged,
                                      {.level = level, .side = {data().tokens}, .parallel = shared_by(threads)});
        !s)
      state.SkipWithError(to_string(s.worst));
  sluice::frame_index index;
  (void)index.parse(frame);
  count(state, std::size_t(index.size_at(std::min(level, index.header().passes - 1))));
}

// K and V as one run of bytes: what a general-purpose compressor would be given.
std::vector<std::byte> plain_bytes() {
  std::vector<std::byte> out;
  const sluice::kv_view& c = data().cache;
  for (int l = 0; l < c.num_layers; ++l)
    for (sluice::plane p : {sluice::plane::key, sluice::plane::value})
      out.insert(out.end(), c.layer_base(c[p], l), c.layer_base(c[p], l) + c.tokens * c[p].token_stride);
  return out;
}

void copy(benchmark::State& state) {
  const std::vector<std::byte> from = plain_bytes();
  std::vector<std::byte> to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::ClobberMemory();
  }
  count(state, from.size());
}

void zstd_compress(benchmark::State& state) {
  const std::vector<std::byte> from = plain_bytes();
  std::vector<std::byte> to(ZSTD_compressBound(from.size()));
  std::size_t n = 0;
  for (auto _ : state) n = ZSTD_compress(to.data(), to.size(), from.data(), from.size(), int(state.range(0)));
  count(state, n);
}

void zstd_decompress(benchmark::State& state) {
  const std::vector<std::byte> from = plain_bytes();
  std::vector<std::byte> to(ZSTD_compressBound(from.size())), back(from.size());
  to.resize(ZSTD_compress(to.data(), to.size(), from.data(), from.size(), int(state.range(0))));
  for (auto _ : state) benchmark::DoNotOptimize(ZSTD_decompress(back.data(), back.size(), to.data(), to.size()));
  count(state, to.size());
}

auto* add(const std::string& name, auto f) {
  return benchmark::RegisterBenchmark(name.c_str(), f)->Unit(benchmark::kMillisecond);
}

template <class Codec>
void add_preset(const std::string& name) {
  add("encode/" + name, [](benchmark::State& s) { encode<Codec>(s, 2, 6, isa::best); });
  int levels = 1;
  if constexpr (requires { Codec::quantizer::passes; }) levels = Codec::quantizer::passes;
  for (int level = 0; level < levels; ++level)
    add("decode/" + name + (levels > 1 ? "/level_" + std::to_string(level) : ""),
        [=](benchmark::State& s) { decode<Codec>(s, 2, level, isa::best); });
}

const bool registered = [] {
  const char* bases[] = {"uncalibrated", "basis_64", "basis_192"};
  for (isa on : {isa::avx512, isa::avx2, isa::portable}) {
    if (sluice::usable_isa(on) != on) continue;
    const std::string suffix = std::string("/") + to_string(on);
    for (int basis : {1, 2, 0})
      for (int level = 0; level < 4; ++level)
        add("decode/standard/" + std::string(bases[basis]) + "/level_" + std::to_string(level) + suffix,
            [=](benchmark::State& s) { decode<sluice::codec::standard>(s, basis, level, on); });
    for (int levels : {2, 4})
      add("encode/standard/basis_192/levels_" + std::to_string(levels) + suffix,
          [=](benchmark::State& s) { encode<sluice::codec::standard>(s, 2, levels, on); });
  }
  sluice::codec::any_preset([]<class Codec>(const char* name, const char*) {
    if constexpr (std::same_as<Codec, sluice::codec::standard>) return false;
    if (sluice::detail::reads_tokens<Codec> && !std::getenv("SLUICE_BENCH_PROFILE")) return false;
    add_preset<Codec>(name);
    return false;
  });
  for (int threads : {1, 2}) {  // of the wall clock
    const std::string suffix = "/standard/threads_" + std::to_string(threads);
    add("shared/encode" + suffix, [=](benchmark::State& s) {
      encode<sluice::codec::standard>(s, 2, 2, isa::best, threads);
    })->UseRealTime();
    add("shared/decode" + suffix, [=](benchmark::State& s) {
      decode<sluice::codec::standard>(s, 2, 1, isa::best, threads);
    })->UseRealTime();
  }
  add("memcpy", copy);
  for (int level : {1, 3}) {
    benchmark::RegisterBenchmark("encode/zstd", zstd_compress)->Arg(level)->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark("decode/zstd", zstd_decompress)->Arg(level)->Unit(benchmark::kMillisecond);
  }
  return true;
}();

}  // namespace
