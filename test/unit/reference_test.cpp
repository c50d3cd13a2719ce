// SPDX-License-Identifier: Apache-2.0
// The library against a decoder that was written from FORMAT.md alone: the same integers, values within the promise.
#include <sluice/sluice.hpp>

#include <doctest/doctest.h>
#include <support/aatc_model.hpp>
#include <support/cachegen_model.hpp>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/kvquant_model.hpp>
#include <support/kvtc_model.hpp>
#include <support/reference_decoder.hpp>

#include <cmath>
#include <cstdint>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using namespace sluice;

constexpr std::uint64_t seed = 60601;

// Stages in other company than that of the presets.
using identity = codec::standard::with_transform<identity_transform>;
using by_rows = codec::fixed<4>::with_quantizer<ranged<range_along::tokens, 5, range_along::channels, 6>>;
using coded = codec::fixed<5>::with_entropy<class_rans>;
using turned = codec::basic_codec<tile_tokens<>, no_prediction, random_rotation<77>, embedded<2>>;
using leveled = codec::fixed<4>::with_quantizer<lloyd_max>::with_entropy<class_rans>;

// Gives a profile what the presets want that learn tables of their own.
void add_tables(profile& p) {
  p.set_section(cachegen::peaked_tables(p, {37, 0, 100}));
  p.set_section(kvtc::made_up_bases(p, {8, 16}));
  p.set_section(kvquant::made_up_levels(p, {1, 3, 4}));
  p.set_section(aatc::made_up_bits(p, {200, 300}));
}

reference::bytes as_bytes(const std::vector<std::byte>& b) {
  return {reinterpret_cast<const std::uint8_t*>(b.data()), b.size()};
}

// What the frames compared so far held: a comparison of nothing proves nothing.
struct {
  int deltas = 0, exceptions = 0, late_exceptions = 0, exact = 0, parts = 0;
} seen;

void look_into(const profile& p, const std::vector<std::byte>& frame) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  for (int l = 0; l < p.shape.num_layers(); ++l)
    for (plane which : caches::planes)
      for (int t = 0; t < index.token_tiles(); ++t)
        for (int g = 0; g < p.of(l, which).groups(); ++g)
          for (int pass = 0; pass < index.header().passes; ++pass) {
            const byte_range r = index.range(index.ordinal(pass, {l, which, t, g}));
            if (r.size() == 0) continue;
            const auto tile = as_bytes(frame).subspan(r.begin, r.size());
            const int width = p.of(l, which).width_of(g);
            tile_envelope e;
            class_section c;
            if (pass) {
              REQUIRE(parse_refinement(tile, e.base) == status::ok);
              REQUIRE(c.parse(e.base[section::entropy], pass, 4096, width));
              seen.late_exceptions += c.num_exceptions();
              continue;
            }
            REQUIRE(parse_tile(tile, index.tokens_of(t), std::size_t(width * size_of(index.type(l, which))), e) ==
                    status::ok);
            REQUIRE(c.parse(e.base[section::entropy], pass, e.rows(), width));
            seen.deltas += c.delta_blocks != 0;
            seen.exceptions += c.num_exceptions();
            seen.exact += e.exact;
            seen.parts += width > 256 && c.code.size() > 128;
          }
}

// Decodes with both and compares; `back` has the frame's layers, all of them, in f32 or (lossless) in the frame's type.
template <class Codec>
void compare(const profile& p, const std::vector<std::byte>& frame, caches::cache& back, int level,
             std::int64_t position) {
  const kv_view& v = back.view();
  back.wipe();
  const page_status done = caches::decode<Codec>(p, frame, v, {.level = level, .position = position});
  REQUIRE(done.worst == status::ok);
  const std::vector<std::byte> file = p.serialize();
  const reference::profile known = reference::read_profile(as_bytes(file));
  const reference::frame f = reference::decode(as_bytes(frame), known, level, position);
  REQUIRE(f.tokens == v.tokens);
  std::size_t wrong = 0;
  for (std::int32_t l = 0; l < v.num_layers; ++l)
    for (plane which : caches::planes) {
      if (!v[which].present()) continue;
      const reference::plane_values& r = f.planes[std::size_t(2 * l + int(which))];
      const std::size_t dim = std::size_t(v[which].head_dim), size = std::size_t(size_of(v[which].type));
      REQUIRE(r.width == v.num_kv_heads * v[which].head_dim);
      for (std::int64_t t = 0; t < v.tokens; ++t)
        for (std::int32_t h = 0; h < v.num_kv_heads; ++h) {
          const std::size_t first = std::size_t(t) * std::size_t(r.width) + std::size_t(h) * dim;
          double squares = 0;
          for (std::size_t d = 0; d < dim; ++d) squares += r.x[first + d] * r.x[first + d];
          for (std::size_t d = 0; d < dim; ++d) {
            const std::size_t at = first + d;
            const std::byte* got = v.at(which, l, t, h, std::int32_t(d));
            if (!r.held[at]) ++wrong;
            if (r.exact[at] && std::size_t(reference::size_of(r.type)) == size) {
              wrong += std::memcmp(got, &r.stored[at * size], size) != 0;
              continue;
            }
            const double x = double(load_element(got, v[which].type));
            const double scale = std::max({std::fabs(r.x[at]), std::sqrt(squares / double(dim)), 6.2e-5});
            if (std::isnan(r.x[at])
                    ? !std::isnan(x)
                    : !(std::fabs(x - r.x[at]) <= std::exp2(std::floor(std::log2(scale)) - 10)) && x != r.x[at])
              ++wrong;
          }
        }
    }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("reference: frames of every codec mean to the library what FORMAT.md says") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const rope ropes[] = {
      {},
      {.pairing = rope_pairing::interleaved, .base = 5e5},
      {.scaling = rope_scaling::ntk, .factor = 2},
      {.scaling = rope_scaling::linear, .rotary_dims = 8, .factor = 3},
      {.scaling = rope_scaling::yarn, .factor = 8, .high_freq = 32, .original_context = 64, .attention_factor = 1.2},
      {.scaling = rope_scaling::yarn_untruncated,
       .factor = 8,
       .high_freq = 32,
       .original_context = 64,
       .attention_factor = 0.9},
      {.scaling = rope_scaling::llama3, .factor = 8, .high_freq = 4, .original_context = 512},
      {.pairing = rope_pairing::none},
  };
  for (int round = 0; round < 12; ++round) {
    CAPTURE(round);
    const int dims[] = {8, 16, 40, 64, 300};
    model_shape shape = model_shape::uniform(2, 1 + int(random() % 3), dims[random() % 5], ropes[random() % 8]);
    for (layer_shape& l : shape.layers) l.head_dim_v = random() % 5 ? l.head_dim_k : 0;
    shape.layers[1] = shape.layers[0];
    const std::int64_t tokens = 1 + std::int64_t(random() % 60), position = std::int64_t(random() % 2 * 1000);
    const auto type = dtype(random() % 5);
    const int passes = 1 + int(random() % 6);
    caches::cache source = caches::make_cache(shape, tokens, type, caches::engine::dense, position);
    caches::fill(source.view(), shape, random());
    profile tuned = caches::make_profile(shape, {&source.view(), 1}, int(random() % 3), passes, int(random() % 5));
    const profile plain = profile::uncalibrated(shape, passes, int(random() % 5));
    profile tables = round % 2 ? plain : tuned;
    add_tables(tables);
    for (plane_profile& q : tuned.planes)
      if (q.width > 8) q.classes[7] = 1;  // dead in every pass, and wrongly so
    // Something for the exceptions, the deltas and the exact tokens.
    caches::fill(source.view(), shape, random());
    for (std::int64_t t = 3; t < tokens; t += 11) caches::set(source.view(), plane::key, 0, t, 0, int(t % 8), 40.f);
    if (tokens > 20) caches::set(source.view(), plane::key, 1, 20, 0, 3, NAN);
    const auto rounds = [&]<class Codec, class Tiles = tile_tokens<16>>(const profile& p) {
      using tiled = typename Codec::template with_grouping<Tiles>;
      const auto frame = caches::encode<tiled>(p, source.view());
      REQUIRE(!frame.empty());
      if (Codec::id.entropy == class_rans::id) look_into(p, frame);
      const dtype to = is_exact<Codec> ? type : dtype::f32;
      caches::cache back = caches::make_cache(shape, tokens, to, caches::engine::dense, position);
      for (int level = 0; level < Codec::passes(p); ++level) compare<tiled>(p, frame, back, level, -1);
      if (Codec::domain != value_domain::unrotated) return;
      caches::cache moved = caches::make_cache(shape, tokens, to, caches::engine::dense, 77);
      compare<tiled>(p, frame, moved, max_passes, 77);
    };
    rounds.operator()<codec::standard::with_quantizer<embedded<5>>>(tuned);
    rounds.operator()<codec::standard::with_quantizer<embedded<5>>>(plain);
    rounds.operator()<codec::fixed<5>>(tuned);
    rounds.operator()<codec::fixed<7>>(plain);
    rounds.operator()<codec::plain<3>>(plain);
    rounds.operator()<codec::int4>(plain);
    rounds.operator()<codec::int8>(plain);
    rounds.operator()<codec::fp8>(plain);
    rounds.operator()<codec::turboquant<4>>(plain);
    rounds.operator()<codec::turboquant<2>>(tuned);
    rounds.operator()<turned>(plain);
    rounds.operator()<leveled>(tuned);
    rounds.operator()<codec::cachegen_released<1>, tile_tokens<64>>(plain);
    rounds.operator()<codec::kivi<3, 6, 9>>(plain);
    rounds.operator()<identity>(tuned);
    rounds.operator()<identity>(plain);
    rounds.operator()<by_rows>(tuned);
    rounds.operator()<by_rows::with_transform<identity_transform>>(plain);
    rounds.operator()<coded>(tuned);
    rounds.operator()<codec::cachegen_paper<>>(tables);
    rounds.operator()<codec::cachegen_paper<37>>(tables);
    rounds.operator()<codec::kvtc<16>>(tables);
    rounds.operator()<codec::kvtc<8>, tile_tokens<64>>(tables);
    rounds.operator()<codec::kvquant<4>>(tables);
    rounds.operator()<codec::kvquant<1>>(tables);
    rounds.operator()<codec::aatc<300>>(tables);
    rounds.operator()<codec::exact>(plain);
    rounds.operator()<codec::uncompressed>(plain);
  }
  CHECK(seen.deltas > 0);
  CHECK(seen.exceptions > 0);
  CHECK(seen.late_exceptions > 0);
  CHECK(seen.exact > 0);
  CHECK(seen.parts > 0);
}

TEST_CASE("reference: both take and refuse the same hostile bytes behind right checksums") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  constexpr int dim = 24;
  const model_shape shape = model_shape::uniform(1, 2, dim);
  caches::cache source = caches::make_cache(shape, 23);
  caches::fill(source.view(), shape, seed);
  const profile tuned = caches::make_profile(shape, {&source.view(), 1}, 0, 3, 2),
                plain = profile::uncalibrated(shape, 6, 2);
  profile tables = plain;
  add_tables(tables);
  profile with_basis = tuned;
  add_tables(with_basis);
  caches::set(source.view(), plane::value, 0, 5, 1, 3, 300.f);
  // Where tables stand in tiles, these pay with many tokens only.
  caches::cache longer = caches::make_cache(shape, 60);
  caches::fill(longer.view(), shape, seed);
  int both = 0, neither = 0;
  const auto attack = [&]<class Codec, class Tiles = tile_tokens<16>>(const profile& p) {
    const caches::cache& from = Tiles::tokens > 16 ? longer : source;
    const int tokens = int(from.view().tokens);
    const auto sound = caches::encode<typename Codec::template with_grouping<Tiles>>(p, from.view());
    const std::vector<std::byte> file = p.serialize();
    const reference::profile known = reference::read_profile(as_bytes(file));
    decoder<Codec> d(p);
    caches::cache back = caches::make_cache(shape, tokens, is_exact<Codec> ? dtype::f16 : dtype::f32);
    for (int round = 0; round < 3000; ++round) {
      auto b = sound;
      for (std::uint64_t n = 1 + random() % 2; n > 0; --n) {
        const std::size_t at = std::size_t(random() % b.size());
        if (random() % 2)
          b[at] = std::byte(random());
        else
          b[at] ^= std::byte(1 << random() % 8);
      }
      frames::fix_checksums(b);
      const page_status done = d.decode(b, back.view());
      std::string refusal;
      reference::frame r;
      try {
        r = reference::decode(as_bytes(b), known, max_passes);
      } catch (const std::runtime_error& e) {
        refusal = e.what();
      }
      // What lies in the view's hands, not in the bytes.
      if (done.worst == status::wrong_positions || done.worst == status::absent ||
          done.worst == status::level_not_present || done.worst == status::unsupported_type ||
          done.worst == status::wrong_codec)
        continue;
      ++(done.worst == status::ok ? both : neither);
      CAPTURE(round);
      CAPTURE(to_string(done.worst));
      CAPTURE(refusal);
      CAPTURE(int(Codec::id.entropy.id));
      CHECK((done.worst == status::ok) == refusal.empty());
      if (done.worst != status::ok || !refusal.empty() || r.position != 0 || r.tokens != tokens) continue;
      // Whatever nonsense it says, it says the same to both.
      std::size_t wrong = 0;
      caches::for_each_element(
          back.view(), [&](plane which, int l, std::int64_t t, int head, int e, const std::byte* at) {
            const reference::plane_values& v = r.planes[std::size_t(2 * l + int(which))];
            const auto row = std::size_t(t * v.width);
            double most = 1;
            for (std::size_t i = row; i < row + std::size_t(v.width); ++i) most = std::max(most, std::fabs(v.x[i]));
            const double expected = v.x[row + std::size_t(head * dim + e)],
                         got = double(load_element(at, back.view()[which].type));
            wrong += std::fabs(expected) < 3e38 && most < 3e38 && !(std::fabs(expected - got) <= 1e-3 * most);
          });
      CHECK(wrong == 0);
    }
  };
  attack.operator()<codec::standard>(tuned);
  attack.operator()<codec::standard::with_quantizer<embedded<5>>>(plain);
  attack.operator()<codec::fixed<5>>(tuned);
  attack.operator()<codec::fixed<5>>(plain);
  attack.operator()<codec::plain<3>>(plain);
  attack.operator()<codec::int4>(plain);
  attack.operator()<codec::fp8>(plain);
  attack.operator()<codec::turboquant<3>>(plain);
  attack.operator()<leveled>(tuned);
  attack.operator()<codec::cachegen_released<1>, tile_tokens<64>>(plain);
  attack.operator()<codec::kivi<3, 6, 9>>(plain);
  attack.operator()<identity>(tuned);
  attack.operator()<by_rows>(plain);
  attack.operator()<coded>(tuned);
  attack.operator()<codec::cachegen_paper<>>(tables);
  attack.operator()<codec::kvtc<16>>(tables);
  attack.operator()<codec::kvquant<3>>(tables);
  attack.operator()<codec::aatc<200>>(tables);
  attack.operator()<codec::aatc<300>>(with_basis);
  attack.operator()<codec::exact>(plain);
  attack.operator()<codec::uncompressed>(plain);
  CHECK(both > 1000);
  CHECK(neither > 1000);
}

TEST_CASE("reference: lossless tiles of every type, smooth, noisy and constant") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 60; ++round) {
    const auto type = dtype(round % 6);
    CAPTURE(to_string(type));
    const int dims[] = {1, 31, 64, 130, 257, 300};
    const model_shape shape =
        model_shape::uniform(1, 1 + int(random() % 2), dims[random() % 6], {.pairing = rope_pairing::none});
    const std::int64_t tokens = 1 + std::int64_t(random() % 40);
    caches::cache source = caches::make_cache(shape, tokens, type);
    if (type == dtype::bytes || round % 3 == 0)
      caches::fill_with_noise(source.view(), random());
    else
      caches::fill(source.view(), shape, random());
    const std::uint64_t kind = random() % 4;
    caches::for_each_element(source.view(), [&](plane, auto, auto, auto, int d, std::byte* at) {
      if (kind == 0 && d % 3 == 0) std::memset(at, 17, std::size_t(size_of(type)));         // constant columns
      if (kind == 1) at[0] &= std::byte{0xf0};                                              // zero bits below
      if (kind == 2 && type == dtype::bytes) *at = (*at & std::byte{0x33}) | std::byte{4};  // nibbles that differ
    });
    const profile p = profile::uncalibrated(shape);
    const auto frame = caches::encode<codec::exact>(p, source.view());
    caches::cache back = caches::make_cache(shape, tokens, type);
    compare<codec::exact>(p, frame, back, 0, -1);
    CHECK(caches::elements(back.view()) == caches::elements(source.view()));
  }
}
