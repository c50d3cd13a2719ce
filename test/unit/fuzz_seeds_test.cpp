// SPDX-License-Identifier: Apache-2.0
// The seeds of the frame fuzzer are frames of this version of the format, at least one for every preset, that decode.
// `sluice_tests --test-case="fuzz seeds: make" --no-skip` writes them anew: with a new format version or a new preset.
#include <sluice/codec/budget.hpp>
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/fuzz_models.hpp>

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using fuzz_models::known;

using bytes = std::vector<std::byte>;

const std::string folder = SLUICE_SOURCE_DIR "/test/fuzz/corpus/frame/";

constexpr unsigned finest = fuzz_models::make_right | 5 * fuzz_models::level_bits;

void write(const std::string& name, unsigned how, std::span<const std::byte> frame) {
  REQUIRE(!frame.empty());
  std::ofstream out(folder + name, std::ios::binary);
  out.put(char(how));
  out.write(reinterpret_cast<const char*>(frame.data()), std::streamsize(frame.size()));
  REQUIRE(out.good());
}

// Decodes a seed as the fuzzer does.
status decode(std::span<const std::byte> frame, unsigned how) {
  frame_index index;
  if (const status s = index.parse(frame); s != status::ok) return s;
  status out = status::wrong_codec;
  const std::int64_t to = how & fuzz_models::moved ? 100 : 0;
  const decode_options options{
      .level = int(how / fuzz_models::level_bits & 7), .position = to ? to : -1, .side = {known().ids}};
  codec::with_codec(index.header().codec, [&]<class Codec>() {
    if (index.header().layers == 4) {
      const caches::mixed_cache c = fuzz_models::hybrid_pages(how);
      out = caches::decode<Codec>(known().hybrid, frame, c.views(), options).worst;
      return;
    }
    const dtype type = how & fuzz_models::other_type ? dtype::bf16 : dtype::f16;
    const caches::cache c =
        caches::make_cache(known().shape, fuzz_models::models::tokens, type, caches::engine::vllm_nhd, to);
    const profile& p = how & fuzz_models::calibrated ? known().tuned : known().plain;
    out = caches::decode<Codec>(p, frame, how & fuzz_models::some_tokens ? c.view().slice(3, 18) : c.view(), options)
              .worst;
  });
  return out;
}

// Some codecs need more than every profile has.
template <class Codec>
bool serves(const profile& p) {
  return typename Codec::encoder(p, isa::best).state() == status::ok;
}

// Whether a tile of the base has a section of an entropy model.
bool coded(std::span<const std::byte> frame) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  bool any = false;
  for (std::size_t i = 0; i < index.tiles_per_pass(); ++i)
    if (const byte_range r = index.range(i); r.size())
      any |= (frames::sections_of(&frame[r.begin]) >> int(section::entropy) & 1) != 0;
  return any;
}

}  // namespace

TEST_CASE("fuzz seeds: each is sound, and every preset has one") {
  std::vector<std::string> presets;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    const std::string name = entry.path().filename().string();
    CAPTURE(name);
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    REQUIRE(text.size() > 1);
    const auto all = std::as_bytes(std::span(text));
    CHECK(decode(all.subspan(1), unsigned(all[0])) == status::ok);
    CHECK(coded(all.subspan(1)) != name.starts_with("hybrid_kvtc"));  // no captures, no components
    presets.push_back(name);
  }
  for (const std::string name : codec::preset_names) {
    CAPTURE(name);
    const auto seeds = [&](const std::string& of) { return std::count(presets.begin(), presets.end(), of); };
    codec::with_preset(name.c_str(), [&]<class Codec>() {
      CHECK(seeds(name) == serves<Codec>(known().plain));
      CHECK(seeds(name + "_calibrated") == Codec::uses(known().tuned));
      CHECK(seeds("hybrid_" + name) == serves<Codec>(known().hybrid));
    });
  }
}

TEST_CASE("fuzz seeds: make" * doctest::skip()) {
  profile predicted = profile::uncalibrated(model_shape::uniform(2, 1, 4), 3, 2);
  {
    caches::cache c = caches::make_cache(predicted.shape, 20);
    caches::fill(c.view(), predicted.shape, 4242);
    predicted = caches::make_profile(predicted.shape, {&c.view(), 1}, 0, 3, 2);
  }
  caches::add_prediction(predicted, 4242, 2);
  std::ofstream out(folder + "../profile/predicted", std::ios::binary);
  const bytes file = predicted.serialize();
  out.put(1).write(reinterpret_cast<const char*>(file.data()), std::streamsize(file.size()));
  REQUIRE(out.good());

  for (const auto& entry : std::filesystem::directory_iterator(folder)) std::filesystem::remove(entry.path());
  const auto& m = known();
  caches::cache source = caches::make_cache(m.shape, fuzz_models::models::tokens);
  caches::fill(source.view(), m.shape, 4242);
  caches::set(source.view(), plane::value, 1, 5, 1, 3, 300.f);  // an exception
  // Where tables stand in tiles, they pay with wide elements and all tokens in one.
  caches::cache wide = caches::make_cache(m.shape, fuzz_models::models::tokens, dtype::f32);
  caches::fill(wide.view(), m.shape, 4242);
  const caches::mixed_cache wide_hybrid(
      m.hybrid_shape, std::vector<caches::layer_kind>(4, {dtype::f32, dtype::f32, 0, fuzz_models::models::tokens}));
  for (const char* preset : codec::preset_names)
    codec::with_preset(preset, [&]<class Codec>() {
      constexpr bool has_tables = Codec::id.method.id == 3;
      using tiled = typename Codec::template with_grouping<tile_tokens<has_tables ? 32 : 16>>;
      const std::string name = preset;
      const encode_options options{.side = {m.ids}};
      if (serves<Codec>(m.plain))
        write(name, finest, caches::encode<tiled>(m.plain, (has_tables ? wide : source).view(), options));
      if (Codec::uses(m.tuned))
        write(name + "_calibrated", finest | fuzz_models::calibrated,
              caches::encode<tiled>(m.tuned, source.view(), options));
      if (name == "standard") {
        const unsigned how = fuzz_models::make_right | fuzz_models::calibrated | fuzz_models::moved |
                             1 * fuzz_models::level_bits | fuzz_models::some_tokens | fuzz_models::other_type;
        bytes frame = caches::encode<tiled>(m.tuned, source.view());
        frame.resize(*truncate(frame, 1));
        write("moved", how, frame);
        frame = caches::encode<tiled>(m.tuned, source.view());
        frame.resize(*truncate_to(frame, frame.size() * 3 / 4, &m.tuned));
        write("cut", finest | fuzz_models::calibrated, frame);
      }
      for (const unsigned window : {0u, unsigned(fuzz_models::some_tokens)}) {
        if ((window && name != "standard" && name != "exact") || !serves<Codec>(m.hybrid)) continue;
        const caches::mixed_cache usual = fuzz_models::hybrid_pages(window);
        const caches::mixed_cache& pages = has_tables ? wide_hybrid : usual;
        for (const kv_view& v : pages.views()) caches::fill(v, m.hybrid_shape, 77 + std::uint64_t(v.layer_id(0)));
        write("hybrid_" + name + (window ? "_window" : ""), finest | window,
              caches::encode<tiled>(m.hybrid, pages.views()));
        if (name != "standard") continue;
        bytes frame = caches::encode<tiled>(m.hybrid, pages.views());
        frame.resize(*truncate_to(frame, frame.size() * 3 / 4));
        write(window ? "hybrid_cut_window" : "hybrid_cut", finest | window, frame);
      }
    });
}
