// SPDX-License-Identifier: Apache-2.0
// Frames of released format versions (test/golden, README.md there) decode to what they always did: integers exactly,
// values within one unit in the last place of f16; the integers encode to the same bytes again, and where all arithmetic
// is said to the bit, the cache does.
// `sluice_tests --test-case="golden: make" --no-skip` writes the frames anew: only with a new format version.
#include <sluice/format/cut.hpp>
#include <sluice/sluice.hpp>

#include <doctest/doctest.h>
#include <support/aatc_model.hpp>
#include <support/cachegen_model.hpp>
#include <support/caches.hpp>
#include <support/isas.hpp>
#include <support/kvquant_model.hpp>
#include <support/kvtc_model.hpp>
#include <support/prediction.hpp>
#include <support/reference_decoder.hpp>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

namespace {

using namespace sluice;

using bytes = std::vector<std::byte>;

const std::string folder = SLUICE_SOURCE_DIR "/test/golden/";

bytes read_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  REQUIRE_MESSAGE(in.good(), path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  const auto* p = reinterpret_cast<const std::byte*>(text.data());
  return {p, p + text.size()};
}

bytes read(const std::string& name) { return read_file(folder + name); }

void write(const std::string& name, std::span<const std::byte> b) {
  std::ofstream out(folder + name, std::ios::binary);
  out.write(reinterpret_cast<const char*>(b.data()), std::streamsize(b.size()));
  REQUIRE(out.good());
}

reference::bytes plain(std::span<const std::byte> b) {
  return {reinterpret_cast<const std::uint8_t*>(b.data()), b.size()};
}

// The classes of a tile: its own, or those of the profile and how the tile moves them.
detail::group_tables tables_of(const profile& p, const tile& t) {
  class_section c;
  REQUIRE(c.parse(t.section(0, section::entropy), 0, t.rows(), t.place.width()));
  detail::group_tables tables = detail::profile_tables(p).of(t.place);
  if (!c.classes.empty()) tables.build(c.classes, p.passes);
  const std::uint8_t* nibbles = c.deltas.data();
  for (std::size_t b = 0; b < tables.base.size(); ++b)
    if (c.delta_blocks >> b & 1) {
      std::uint8_t moved[32];
      detail::apply_deltas(&tables.classes[32 * b], nibbles, moved);
      tables.replace_block(b, moved, p.passes);
      nibbles += 16;
    }
  tables.count_blocks(p.passes);
  return tables;
}

// What a pass of a tile codes, and its code.
struct again {
  int pass, blocks;
  const void* tables;
  std::vector<std::int16_t> values;
  std::vector<std::int8_t> digits;
  bool goes_on;
  reference::bytes code;
};

// Encodes the passes of a tile from the last one on, each before the one that goes on in it: the same code again.
void check_codes(const std::vector<again>& codes, int rows, std::ptrdiff_t ld) {
  for (isa on : isas::all) {
    std::uint8_t states[detail::rans_state_bytes];
    for (std::size_t i = codes.size(); i-- > 0;) {
      const again& c = codes[i];
      const bool cut = c.goes_on && i + 1 == codes.size();  // the pass that it goes on in is not here
      if (cut) continue;
      std::vector<std::uint8_t> scratch(detail::encoded_bound(c.blocks, rows, detail::rans_max_digits)), code;
      detail::encode_job job;
      job.tables = c.tables;
      job.blocks = c.blocks;
      job.rows = rows;
      job.values = c.values.data();
      job.digits = c.digits.data();
      job.stride = ld;
      job.scratch = scratch.data();
      job.capacity = scratch.size();
      job.states = states;
      job.continues = true;
      job.goes_on = c.goes_on;
      c.pass ? detail::encode_ternary({&job, 1}, on) : detail::encode_base({&job, 1}, on);
      REQUIRE(job.ok);
      if (i == 0 || !codes[i - 1].goes_on) detail::pack_states(states, code);
      code.insert(code.end(), job.bytes, job.bytes + job.size);
      REQUIRE(code.size() == c.code.size());
      CHECK(std::memcmp(code.data(), c.code.data(), code.size()) == 0);
    }
  }
}

// The integers of every tile of a frame at every level, from the library's own rooms; checks that they encode to the
// same code, where all rows have one step. Returns a checksum of each level's integers, tile after tile. `left`: the
// profile of what prediction leaves, or null.
std::vector<std::uint32_t> integers(const profile& own, const profile* left, const bytes& frame) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  std::vector<std::vector<std::int16_t>> all(index.header().levels_present);
  class_rans::decoder plain_decoder(own, isa::best), left_decoder(left ? *left : own, isa::best);
  codec::standard::quantizer::decoder quantizer(isa::best);
  const profile& p = own;
  for (int l = 0; l < p.shape.num_layers(); ++l)
    for (plane which : caches::planes)
      for (int k = 0; k < index.token_tiles(); ++k)
        for (int g = 0; g < p.of(l, which).groups(); ++g) {
          tile t;
          t.place = place_of(p.shape, p.of(l, which).group_width, l, which, g);
          const auto payload = [&](int pass) {
            const byte_range r = index.range(index.ordinal(pass, {l, which, k, g}));
            return plain(frame).subspan(r.begin, r.size());
          };
          if (payload(0).empty()) continue;
          const auto row_bytes = std::size_t(t.place.width() * size_of(index.type(l, which)));
          REQUIRE(parse_tile(payload(0), index.tokens_of(k), row_bytes, t.envelope) == status::ok);
          const int levels = index.levels_of(index.ordinal(0, {l, which, k, g}));
          for (int pass = 1; pass < levels; ++pass)
            REQUIRE(parse_refinement(payload(pass), t.refinements[pass - 1]) == status::ok);
          if (t.rows() == 0) continue;
          const bool predicted = left && t.section(0, section::predictor).empty();
          row_classes classes;
          REQUIRE(classes.parse(t.section(0, section::steps), t.rows()));
          const detail::group_tables tables = tables_of(predicted ? *left : p, t);
          const std::ptrdiff_t ld = detail::padded(t.place.width());
          const auto n = std::size_t(t.rows()) * std::size_t(ld);
          std::vector<std::int16_t> coarser(n);
          std::vector<again> codes;
          for (int level = 0; level < levels; ++level) {
            t.level = level;
            std::vector<std::int16_t> values(n);
            decoded_symbols s;
            s.tile = &t;
            s.calibrated = !p.of(l, which).mean.empty();
            s.passes = p.passes;
            s.ld = ld;
            s.live = t.place.width();
            s.values = values.data();
            if (!classes.empty()) s.classes = &classes;
            REQUIRE(quantizer.open(t, 0, s));
            (predicted ? left_decoder : plain_decoder).decode({&s, 1});
            REQUIRE(s.state == status::ok);
            all[std::size_t(level)].insert(all[std::size_t(level)].end(), values.begin(), values.end());

            if (!classes.empty()) continue;
            // The same integers for the entropy coder.
            const int blocks = tables.blocks[level];
            REQUIRE(blocks <= detail::rans_max_blocks);
            class_section c;
            REQUIRE(c.parse(t.section(level, section::entropy), level, t.rows(), t.place.width()));
            CHECK(c.code.empty() == (blocks == 0));
            if (blocks == 0) continue;
            std::vector<std::int8_t> digits(n);
            for (std::size_t i = 0; level && i < n; ++i) digits[i] = std::int8_t(values[i] - 3 * coarser[i]);
            const void* by = level ? static_cast<const void*>(tables.ternary[level - 1].data()) : tables.base.data();
            codes.push_back({level, blocks, by, level ? coarser : values, digits, c.goes_on, c.code});
            coarser = values;
          }
          check_codes(codes, t.rows(), ld);
        }
  std::vector<std::uint32_t> sums;
  for (const auto& level : all) sums.push_back(checksum(level.data(), level.size() * 2, 0));
  return sums;
}

// A frame of the set: the profile it was made with, what decodes it, and where its tokens go.
struct golden {
  const char* name;
  const char* profile;
  const char* preset;
  dtype type;
  std::int64_t tokens, position;
  int level;              // most of what the frame holds
  bool pinned;            // whether NAME.values lists every element at that level
  bool captured = false;  // whether it encodes tokens of the capture in test/data
};
constexpr golden streams[] = {
    {"standard", "small", "standard", dtype::f16, 40, 0, 3, true},
    {"standard_truncated", "small", "standard", dtype::f16, 40, 0, 1, false},
    {"standard_later", "small", "standard", dtype::bf16, 24, 70000, 3, false},
    {"uncalibrated", "plain", "standard", dtype::f16, 24, 0, 3, false},
    {"fixed4", "small", "fixed4", dtype::f16, 20, 0, 0, false},
    {"plain4", "plain", "plain4", dtype::f16, 20, 0, 0, false},
    {"exact_f32", "plain", "exact", dtype::f32, 10, 0, 0, false},
    {"exact_f16", "plain", "exact", dtype::f16, 20, 0, 0, false},
    {"exact_bf16", "plain", "exact", dtype::bf16, 20, 0, 0, false},
    {"exact_e4m3", "plain", "exact", dtype::e4m3, 20, 0, 0, false},
    {"exact_e5m2", "plain", "exact", dtype::e5m2, 20, 0, 0, false},
    {"exact_bytes", "plain", "exact", dtype::bytes, 20, 0, 0, false},
    {"raw", "plain", "raw", dtype::f16, 3, 0, 0, false},
    {"smollm2", "smollm2", "standard", dtype::f16, 16, 64, 3, false},
    {"smollm2_exact", "smollm2", "exact", dtype::f16, 16, 64, 0, false},
    {"hybrid", "hybrid", "standard", dtype::f16, 24, 100, 3, false},
    {"hybrid_exact", "hybrid", "exact", dtype::f16, 24, 100, 0, false},
    {"int4", "smollm2", "int4", dtype::f16, 16, 64, 0, false, true},
    {"int8", "smollm2", "int8", dtype::f16, 16, 64, 0, false, true},
    {"fp8", "smollm2", "fp8", dtype::f16, 16, 64, 0, false, true},
    {"turboquant4", "smollm2", "turboquant4", dtype::f16, 16, 64, 0, false, true},
    {"turboquant3", "narrow", "turboquant3", dtype::f16, 20, 64, 0, false, true},
    {"cachegen_released", "narrow", "cachegen_released", dtype::f16, 173, 64, 0, false, true},
    {"kivi4", "narrow", "kivi4", dtype::f16, 173, 64, 0, false, true},
    {"kivi2", "narrow", "kivi2", dtype::f16, 173, 64, 0, false, true},
    {"cachegen_paper", "tables", "cachegen_paper", dtype::f16, 40, 64, 0, false, true},
    {"kvtc16", "kvtc", "kvtc16", dtype::f16, 173, 2, 0, false, true},
    {"kvquant4", "levels", "kvquant4", dtype::f16, 40, 0, 0, false, true},
    {"kvquant3", "levels", "kvquant3", dtype::f16, 40, 64, 0, false, true},
    {"aatc3", "levels", "aatc3", dtype::f16, 40, 64, 0, false, true},
    {"standard_cut", "small", "standard", dtype::f16, 40, 0, 3, false},
    {"balanced", "steps", "balanced", dtype::f16, 40, 0, 3, true},
    {"smallest", "predicted", "smallest", dtype::f16, 40, 0, 2, true},
    {"smallest_later", "predicted", "smallest", dtype::bf16, 40, 70000, 1, false},
    {"smallest_no_ids", "predicted", "smallest", dtype::f16, 40, 0, 2, false},
};

// Ids of the tokens of every frame, which predictors look at; some of no vocabulary.
constexpr std::uint32_t vocab = 12;
const std::vector<std::int32_t> ids = caches::token_ids(200, vocab);
std::span<const std::int32_t> ids_of(const golden& s) {
  return std::string(s.name) == "smallest_no_ids" ? std::span<const std::int32_t>() : ids;
}

bytes elements_of(const caches::mixed_cache& c) {
  bytes all;
  for (const kv_view& v : c.views()) {
    const bytes some = caches::elements(v);
    all.insert(all.end(), some.begin(), some.end());
  }
  return all;
}

profile load(const std::string& name) {
  const result<profile> p = profile::parse(read(name + ".profile"));
  REQUIRE(p);
  return *p;
}

// Layers of the hybrid model differ: K and V have types of their own, and those with a window hold what lies inside.
caches::mixed_cache pages_for(const profile& p, const golden& s) {
  std::vector<caches::layer_kind> kinds;
  for (const layer_shape& l : p.shape.layers) {
    caches::layer_kind kind{s.type, s.type, s.position, s.tokens};
    if (s.profile == std::string("hybrid")) kind.v = l.window ? dtype::e4m3 : dtype::bf16;
    if (l.window) kind.position += s.tokens - l.window + 1, kind.tokens = l.window - 1;
    kinds.push_back(kind);
  }
  return {p.shape, kinds};
}

// The first heads and channels of layer 7 of the capture, or of layers 0, 14, 28, but for an outlier and a token that is
// no number.
caches::mixed_cache captured(const profile& p, const golden& s) {
  static const bytes file = read_file(SLUICE_TEST_DATA "/smollm2_sample.safetensors");
  constexpr std::size_t header = 8 + 9120, plane_bytes = 256 * 384, layer_bytes = 2 * plane_bytes + 36864;
  caches::mixed_cache c = pages_for(p, s);
  for (const kv_view& v : c.views()) {
    const auto layer = std::size_t(c.views().size() == 1 ? 7 : 14 * v.layer_id(0));
    caches::for_each_element(v, [&](plane which, int, std::int64_t t, int h, int d, std::byte* to) {
      const auto at = std::size_t((v.position + t) * 384 + h * 128 + d * 2);
      std::memcpy(to, &file[header + layer * layer_bytes + std::size_t(which) * plane_bytes + at], 2);
    });
    caches::set(v, plane::value, 0, 5, 0, 1, 300.f);
    caches::set(v, plane::key, 0, 9, 0, 2, NAN);
  }
  return c;
}

// Tiles of 16 tokens, or where more are needed to fill a group, those of the preset.
template <class Codec>
bytes encode(const golden& s, const profile& p, const caches::mixed_cache& source, isa on) {
  const encode_options options{.side = {ids_of(s)}};
  if (s.tokens > 64) return caches::encode<Codec>(p, source.views(), options, on);
  return caches::encode<typename Codec::template with_grouping<tile_tokens<16>>>(p, source.views(), options, on);
}

// What streams.txt pins: checksums of the integers of every level, or of the elements of a lossless frame.
std::string sums_of(const golden& s) {
  const profile p = load(s.profile);
  const bytes frame = read(std::string(s.name) + ".slc");
  std::vector<std::uint32_t> sums;
  codec::with_preset(s.preset, [&]<class Codec>() {
    if constexpr (is_exact<Codec>) {
      caches::mixed_cache back = pages_for(p, s);
      REQUIRE(caches::decode<Codec>(p, frame, back.views()).worst == status::ok);
      const bytes elements = elements_of(back);
      sums.push_back(checksum(elements.data(), elements.size(), 0));
    } else if constexpr (Codec::id.entropy == class_rans::id) {
      std::shared_ptr<const profile> left;
      if constexpr (Codec::id.predictor.id != 0) left = Codec::predictor::residual(p);
      sums = integers(p, left.get(), frame);
    }
  });
  std::string line = s.name;
  for (std::uint32_t sum : sums) {
    char text[16];
    std::snprintf(text, sizeof text, " %08x", sum);
    line += text;
  }
  return line;
}

}  // namespace

TEST_CASE("golden: integers and lossless elements are those pinned, and encode to the same bytes") {
  std::ifstream listed(folder + "streams.txt");
  REQUIRE(listed.good());
  for (const golden& s : streams) {
    std::string line;
    REQUIRE(std::getline(listed, line));
    CHECK(sums_of(s) == line);
  }
}

TEST_CASE("golden: tokens of the capture encode to the same bytes on every instruction set") {
  for (const golden& s : streams) {
    if (!s.captured) continue;
    CAPTURE(std::string(s.name));
    const profile p = load(s.profile);
    const bytes frame = read(std::string(s.name) + ".slc");
    codec::with_preset(s.preset, [&]<class Codec>() {
      for (isa on : isas::all) CHECK(encode<Codec>(s, p, captured(p, s), on) == frame);
    });
  }
}

TEST_CASE("golden: values on every instruction set, as pinned and as the document says") {
  for (const golden& s : streams) {
    CAPTURE(std::string(s.name));
    const profile p = load(s.profile);
    const bytes frame = read(std::string(s.name) + ".slc"), file = read(std::string(s.profile) + ".profile");
    const reference::frame r =
        reference::decode(plain(frame), reference::read_profile(plain(file)), s.level, -1, ids_of(s));
    codec::with_preset(s.preset, [&]<class Codec>() {
      for (isa on : isas::all) {
        caches::mixed_cache back = pages_for(p, s), expected = pages_for(p, s);
        CHECK(caches::decode<Codec>(p, frame, back.views(), {.level = max_passes, .side = {ids_of(s)}}, on).worst ==
              status::ok);
        for (std::size_t i = 0; i < back.views().size(); ++i) {
          const kv_view &got = back.views()[i], &wanted = expected.views()[i];
          caches::for_each_element(wanted, [&](plane which, int, std::int64_t t, int h, int d, std::byte* to) {
            const reference::plane_values& v = r.planes[std::size_t(2 * wanted.layer_id(0) + int(which))];
            const std::int64_t token = t + wanted.position - s.position;
            const auto at = std::size_t(token * v.width + h * wanted[which].head_dim + d);
            const auto size = std::size_t(size_of(wanted[which].type));
            CHECK(v.held[at]);
            if (v.exact[at])
              std::memcpy(to, &v.stored[at * size], size);
            else
              store_element(to, wanted[which].type, float(v.x[at]));
          });
          if (is_exact<Codec>) {
            CHECK(caches::elements(got) == caches::elements(wanted));
          } else {
            kv_view k[] = {wanted, got}, v[] = {wanted, got};  // a step of V may be more units of f16 than one of K
            for (kv_view& w : k) w.v = {};
            for (kv_view& w : v) w.k = {};
            const auto units = [](dtype type) { return type == dtype::bf16 ? 8 : type == dtype::e4m3 ? 128 : 1; };
            CHECK(caches::worst_ulps(k[0], k[1]) <= units(got.k.type));
            CHECK(caches::worst_ulps(v[0], v[1]) <= units(got.v.type));
          }
        }
        if (!s.pinned) continue;
        const bytes values = read(std::string(s.name) + ".values");
        std::size_t at = 0;
        for (std::size_t i = 0; i < back.views().size(); ++i) {
          caches::for_each_element(expected.views()[i], [&](plane, auto, auto, auto, auto, std::byte* to) {
            REQUIRE(at + 2 <= values.size());
            std::memcpy(to, &values[at], 2);
            at += 2;
          });
          CHECK(caches::worst_ulps(expected.views()[i], back.views()[i]) <= 1);
        }
        CHECK(at == values.size());
      }
    });
  }
}

TEST_CASE("golden: make" * doctest::skip()) {
  const model_shape shape = model_shape::uniform(1, 2, 32);
  std::uint32_t state = 12345;  // numbers from integers, so that any machine makes the same caches
  const auto uniform = [&] { return double((state = state * 1664525 + 1013904223) >> 8) / double(1 << 24) - 0.5; };
  const auto normal = [&] { return 1.7 * (uniform() + uniform() + uniform() + uniform()); };

  // Hadamard bases; classes of all shapes over a wide range of widths, one of them wrong by much.
  profile small = profile::uncalibrated(shape, 4, 2);
  small.set_name("golden");
  for (plane_profile& q : small.planes) {
    q.group_width = 64;
    q.step = q.scale = 1.f / 64;
    for (std::size_t level = 0; level < 4; ++level) q.loss[level] = 0.1f / float(1 << 2 * level);
    for (int i = 0; i < 64; ++i) {
      q.classes.push_back(std::uint8_t(i % 4 * 64 + (i == 5 ? 3 : 38 - 36 * i / 64)));
      q.mean.push_back(from_float<f16>(float(i % 7) / 4 - 0.5f).bits);
    }
    for (int k = 0; k < 64; ++k)
      for (int i = 0; i < 64; ++i)
        q.matrix.push_back(from_float<f16>(__builtin_popcount(unsigned(k & i)) % 2 ? -0.125f : 0.125f).bits);
  }
  write("small.profile", small.serialize());
  profile without = profile::uncalibrated(shape, 4, 2);
  without.set_name("golden, uncalibrated");
  write("plain.profile", without.serialize());

  // Two layers of that kind, the second with a window, between two that keep nothing.
  profile hybrid = profile::uncalibrated({{{}, shape.layers[0], shape.layers[0], {}}, shape.ropes}, 4, 2);
  hybrid.shape.layers[2].window = 16;
  for (int l : {1, 2})
    for (plane which : caches::planes) hybrid.of(l, which) = small.of(0, which);
  hybrid.set_name("golden, hybrid");
  write("hybrid.profile", hybrid.serialize());

  profile steps = small;
  caches::add_token_steps(steps, 5);
  steps.set_name("golden, steps of tokens");
  write("steps.profile", steps.serialize());

  // Two layers, narrow ones: features times width make the section.
  profile predicted = profile::uncalibrated(model_shape::uniform(2, 2, 16), 4, 2);
  const caches::mixed_cache like = pages_for(predicted, {"", "predicted", "", dtype::f16, 40, 0, 0, false});
  for (const kv_view& v : like.views()) caches::fill(v, predicted.shape, 8);
  predicted = caches::make_profile(predicted.shape, like.views(), 0, 4, 2);
  predicted.set_name("golden, predicted");
  caches::add_prediction(predicted, 6, vocab);
  write("predicted.profile", predicted.serialize());

  profile smollm2 = profile::uncalibrated(model_shape::uniform(1, 3, 64, {.base = 1e5}), 4, 4);
  smollm2.set_name("SmolLM2-135M, layer 7");
  write("smollm2.profile", smollm2.serialize());

  // Rows of a plane that are one group and a part of one, where groups have 32 channels; few, for a window of 128 tokens.
  profile narrow = profile::uncalibrated({{{1, 4, 36}}, shape.ropes}, 4, 2);
  narrow.set_name("golden, narrow");
  write("narrow.profile", narrow.serialize());

  profile tables = profile::uncalibrated(model_shape::uniform(3, 2, 8), 4, 2);
  tables.set_section(cachegen::peaked_tables(tables, {0, 100}));
  tables.set_name("golden, CacheGen's tables");
  write("tables.profile", tables.serialize());

  // Keys whose pairs turn by a quarter a position: cosines are 0 and 1 to within 1e-13, so that every machine codes them
  // alike without their rotation. Pairs of either kind, and dims that do not turn.
  const rope half{.scaling = rope_scaling::linear, .base = 1, .factor = 0.63661977236758134};
  rope interleaved = half;
  interleaved.pairing = rope_pairing::interleaved;
  interleaved.rotary_dims = 8;

  profile bases = profile::uncalibrated({{{2, 12, 4}}, {half}}, 4, 2);
  bases.of(0, plane::key).group_width = 24;
  bases.of(0, plane::value).group_width = 4;
  bases.set_section(kvtc::made_up_bases(bases, {8, 16}));
  bases.set_name("golden, KVTC's bases");
  write("kvtc.profile", bases.serialize());

  // A plane with a basis, the others without; V of the first layer is wide enough for an outlier a token.
  profile levels = profile::uncalibrated({{{2, 8, 30}, {1, 16, 4, 1}}, {half, interleaved}}, 4, 2);
  plane_profile& basis = levels.of(0, plane::key);
  basis.group_width = 16;
  basis.step = basis.scale = 1.f / 64;
  for (int i = 0; i < 16; ++i) {
    basis.classes.push_back(30);
    basis.mean.push_back(from_float<f16>(float(i % 7) / 4 - 0.5f).bits);
    for (int k = 0; k < 16; ++k)
      basis.matrix.push_back(from_float<f16>(__builtin_popcount(unsigned(k & i)) % 2 ? -0.25f : 0.25f).bits);
  }
  levels.of(0, plane::value).group_width = 60;
  levels.set_section(kvquant::made_up_levels(levels, {3, 4}));
  levels.set_section(aatc::made_up_bits(levels, {200, 300, 400}));
  levels.set_name("golden, KVQuant's levels, AATC's bits");
  write("levels.profile", levels.serialize());

  // The cache such a profile describes, but for a tile that is twice as wide, an outlier and a token that is no number.
  const auto fill = [&](const kv_view& v) {
    std::vector<double> frequency(16);
    rope_frequencies(shape.ropes[0], 32, frequency);
    for (plane which : caches::planes)
      for (std::int64_t t = 0; t < v.tokens; ++t) {
        const plane_profile& q = small.of(0, which);
        double c[64], x[64] = {};
        for (int k = 0; k < 64; ++k)
          c[k] = normal() * std::exp2((q.classes[std::size_t(k)] % 64 - 16) / 4.0 + (t >= 16 && t < 32 ? 1 : 0)) +
                 (t == 35 && k == 3 ? 900 : 0);
        for (int i = 0; i < 64; ++i) {
          for (int k = 0; k < 64; ++k) x[i] += c[k] * (__builtin_popcount(unsigned(k & i)) % 2 ? -0.125 : 0.125);
          x[i] = x[i] / 64 + double(to_float(f16{q.mean[std::size_t(i)]}));
        }
        for (int h = 0; h < 2; ++h) {
          float row[32];
          for (int d = 0; d < 32; ++d) row[d] = float(x[32 * h + d]);
          if (which == plane::key) rotate(row, shape.ropes[0], frequency, v.position + t);
          for (int d = 0; d < 32; ++d) caches::set(v, which, 0, t, h, d, row[d]);
        }
        if (v.tokens > 10 && v.k.type != dtype::bytes && t == 7) caches::set(v, which, 0, t, 1, 9, NAN);
      }
    if (v.k.type == dtype::bytes)
      caches::for_each_element(v, [&](plane, auto, auto, auto, int d, std::byte* at) {
        *at = std::byte(d % 3 ? int(8 * normal()) & 255 : (state >> 20 & 0x13));
      });
  };
  for (const golden& s : streams) {
    const profile p = load(s.profile);
    caches::mixed_cache source = s.captured ? captured(p, s) : pages_for(p, s);
    if (!s.captured && std::string(s.profile) == "smollm2")  // the lossless one is where the other comes from
      REQUIRE(caches::decode<codec::exact>(p, read("smollm2_exact.slc"), source.views()).worst == status::ok);
    else if (!s.captured && std::string(s.profile) == "predicted")
      for (const kv_view& v : source.views()) caches::fill(v, p.shape, 8);  // of no matter on which machine
    else if (!s.captured)
      for (const kv_view& v : source.views()) fill(v);
    codec::with_preset(s.preset, [&]<class Codec>() {
      bytes frame = encode<Codec>(s, p, source, isa::portable);
      REQUIRE(!frame.empty());
      if (std::string(s.name) == "standard_cut") {
        frame = read("standard.slc");
        frame.resize(*cut_tiles(frame, std::vector<std::uint8_t>{3, 2, 3, 3, 2, 2}));
      }
      if (s.level + 1 < Codec::passes(p)) frame.resize(*truncate(frame, s.level));
      write(std::string(s.name) + ".slc", frame);
      if (!s.pinned) return;
      caches::mixed_cache back = pages_for(p, s);
      REQUIRE(caches::decode<Codec>(p, frame, back.views(), {.side = {ids_of(s)}}, isa::portable).worst == status::ok);
      write(std::string(s.name) + ".values", elements_of(back));
    });
  }
  std::string lines;
  for (const golden& s : streams) lines += sums_of(s) + "\n";
  write("streams.txt", std::as_bytes(std::span(lines)));
}
