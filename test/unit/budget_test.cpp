// SPDX-License-Identifier: Apache-2.0
// Frames that are made or cut to fit a number of bytes: never larger, nearly full, worth at least a whole level, and every
// tile what it is in the whole frame at the level that is left of it.
#include <sluice/codec/budget.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/format/account.hpp>
#include <sluice/stream/store/chunk.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/isas.hpp>
#include <support/prediction.hpp>
#include <support/real_cache.hpp>
#include <support/reference_decoder.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using caches::engine;

constexpr std::uint64_t seed = 970097;

using bytes = std::vector<std::byte>;

frame_index index_of(std::span<const std::byte> frame) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  return index;
}

// The base alone, of a frame of all levels: an encoder that is asked for one level may choose other classes.
bytes base_of(bytes frame) {
  const std::vector<std::uint8_t> one(index_of(frame).tiles_per_pass(), 1);
  const result<std::size_t> size = cut_tiles(frame, one);
  REQUIRE(size);
  frame.resize(*size);
  return frame;
}

double loss_of(std::span<const std::byte> frame, const profile& p, int level = max_passes) {
  const result<double> loss = expected_loss(index_of(frame), p, level);
  REQUIRE(loss);
  return *loss;
}

// Whether every element that a frame has is what the whole frame gives at the level that this tile has left.
template <class Codec>
void check_tiles(const profile& p, const bytes& whole, const bytes& cut, const kv_view& like, isa on = isa::best) {
  const frame_index index = index_of(cut);
  const int levels = index_of(whole).header().levels_present;
  std::vector<caches::cache> at;
  for (int level = 0; level < levels; ++level) {
    at.push_back(caches::make_cache(p.shape, like.tokens, like.k.type, engine::vllm_nhd, like.position));
    REQUIRE(caches::decode<Codec>(p, whole, at.back().view(), {.level = level}, on).worst == status::ok);
  }
  caches::cache back = caches::make_cache(p.shape, like.tokens, like.k.type, engine::vllm_nhd, like.position);
  const page_status done = caches::decode<Codec>(p, cut, back.view(), {}, on);
  CHECK(done.worst == status::ok);
  CHECK(done.degraded == 0);
  CHECK(done.damaged == 0);
  std::size_t coarser = 0, wrong = 0;
  for (std::size_t i = 0; i < index.tiles_per_pass(); ++i)
    coarser += index.levels_of(i) < index.header().levels_present;
  CHECK(done.coarser == coarser);
  caches::for_each_element(back.view(), [&](plane which, int l, std::int64_t t, int h, int e, const std::byte* x) {
    const int group = h * back.view()[which].head_dim / index.shape_of(l).group_width[int(which)];
    const int tile = int(t / int(index.header().tile_tokens));
    const int level = index.levels_of(index.ordinal(0, {l, which, tile, group})) - 1;
    wrong +=
        std::memcmp(x, at[std::size_t(level)].view().at(which, l, t, h, e), std::size_t(size_of(like.k.type))) != 0;
  });
  CHECK(wrong == 0);
}

struct figures {
  std::vector<double> used;
  double least_gain = 1e9;  // over the finest whole level that fits, in nats
  void print(const char* what) {
    std::sort(used.begin(), used.end());
    std::printf(
        "budget: %s: %zu budgets, used at least %.4f, median %.4f; loss below the whole level by at least %.5f\n", what,
        used.size(), used.front(), used[used.size() / 2], least_gain);
  }
};

}  // namespace

TEST_CASE("budget: a real cache in any number of bytes") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const real_cache c;
  const auto rounds = [&]<class Codec>(const char* what, const kv_view& view) {
    CAPTURE(std::string(what));
    encoder<Codec> e(c.model);
    bytes whole(e.max_size(view)), out(whole.size());
    whole.resize(*e.encode(view, whole));
    const bytes least = base_of(whole);
    const frame_index index = index_of(whole);
    figures f;
    for (int round = 0; round < 60; ++round) {
      CAPTURE(round);
      std::size_t budget = least.size() + std::size_t(random() % (whole.size() - least.size()));
      if (round % 3 == 0) budget = least.size() + std::size_t(random() % (least.size() / 4));
      if (round == 1) budget = least.size();
      if (round == 2) budget = whole.size() - 1;
      CAPTURE(budget);
      const result<std::size_t> size = e.encode(view, std::span(out).first(budget), {.max_bytes = budget});
      REQUIRE(size);
      CHECK(*size <= budget);
      const bytes made(out.begin(), out.begin() + std::ptrdiff_t(*size));
      if (round != 1) f.used.push_back(double(*size) / double(budget));
      CHECK(*size >= budget * 97 / 100);
      CHECK(index_of(made).size() == made.size());
      CHECK(index_of(made).header().frame_size == made.size());

      // Cutting the whole frame gives the same.
      bytes cut = whole;
      const result<std::size_t> left = truncate_to(cut, budget, &c.model);
      REQUIRE(left);
      cut.resize(*left);
      CHECK(cut == made);

      const double loss = loss_of(made, c.model);
      for (int level = 0; level < 4; ++level)
        if (index.size_at(level) <= budget) {
          f.least_gain = std::min(f.least_gain, loss_of(whole, c.model, level) - loss);
          CHECK(loss <= loss_of(whole, c.model, level) + 1e-12);
        }
      if (round < 6) check_tiles<Codec>(c.model, whole, made, view);
    }
    f.print(what);
    const result<std::size_t> none = e.encode(view, out, {.max_bytes = least.size() - 1});
    CHECK(none.status() == status::output_too_small);
    CHECK(*e.encode(view, out, {.max_bytes = whole.size()}) == whole.size());
    CHECK(std::equal(whole.begin(), whole.end(), out.begin()));
    // A buffer that is smaller than what was chosen.
    CHECK(e.encode(view, std::span(out).first(least.size()), {.max_bytes = whole.size() / 2}).status() ==
          status::output_too_small);
  };
  rounds.operator()<codec::standard>("256 tokens", c.view);
  rounds.operator()<codec::standard>("32 tokens", c.view.slice(100, 132));
  rounds.operator()<codec::standard::with_grouping<tile_tokens<64>>>("tiles of 64 tokens", c.view.slice(3, 243));
}

TEST_CASE("budget: without a profile's losses, and on every instruction set") {
  CAPTURE(seed);
  std::mt19937_64 random(seed + 1);
  const real_cache c;
  const profile plain = profile::uncalibrated(c.model.shape);
  const kv_view view = c.view.slice(0, 48);
  for (const isa on : isas::all) {
    const bytes whole = caches::encode(plain, view, {}, on), least = base_of(whole);
    for (int round = 0; round < 4; ++round) {
      CAPTURE(round);
      const std::size_t budget = least.size() + std::size_t(random() % (whole.size() - least.size()));
      const bytes made = caches::encode(plain, view, {.max_bytes = budget}, on);
      REQUIRE(!made.empty());
      CHECK(made.size() <= budget);
      CHECK(made.size() >= budget * 97 / 100);
      for (const isa decoded_on : isas::all) check_tiles<codec::standard>(plain, whole, made, view, decoded_on);
      bytes cut = whole;
      cut.resize(*truncate_to(cut, budget, round % 2 ? &plain : nullptr));
      CHECK(cut == made);
    }
  }
}

TEST_CASE("budget: codecs of one level fit or do not") {
  const real_cache c;
  profile model = c.model;
  caches::add_prediction(model, seed);
  for (const char* name : codec::preset_names) {
    CAPTURE(std::string(name));
    codec::with_preset(name, [&]<class Codec>() {
      if (requires { typename Codec::calibrator; }) return;  // needs a section
      if (Codec::passes(model) > 1) return;
      const kv_view view = c.view.slice(0, 40);
      encoder<Codec> e(model);
      bytes out(e.max_size(view) + 8, std::byte{0x5a});
      const std::size_t size = *e.encode(view, out);
      const bytes whole(out.begin(), out.begin() + std::ptrdiff_t(size));
      std::fill(out.begin(), out.end(), std::byte{0x5a});
      CHECK(e.encode(view, out, {.max_bytes = size - 1}).status() == status::output_too_small);
      for (const std::byte b : out) REQUIRE(b == std::byte{0x5a});
      CHECK(*e.encode(view, out, {.max_bytes = size}) == size);
      bytes cut = whole;
      CHECK(*truncate_to(cut, size) == size);
      CHECK(truncate_to(cut, size - 1).status() == status::output_too_small);
      CHECK(cut == whole);
    });
  }
}

TEST_CASE("budget: windows, groups, absent layers and types") {
  CAPTURE(seed);
  std::mt19937_64 random(seed + 2);
  // Between layers that keep nothing: one of everything, one with a window, one of keys only; heads by twos and threes.
  model_shape shape{{{}, {5, 24, 24, 0, 0}, {2, 32, 16, 0, 20}, {1, 64, 0, 0, 0}, {}}, {rope{}}};
  const std::int64_t tokens = 90;
  const std::vector<caches::layer_kind> kinds{{},
                                              {dtype::f16, dtype::bf16, 0, tokens},
                                              {dtype::f32, dtype::f16, tokens - 19, 19},
                                              {dtype::f16, dtype::f16, 30, tokens - 30},
                                              {}};
  caches::mixed_cache source(shape, kinds);
  for (const kv_view& v : source.views()) caches::fill(v, shape, random());
  const profile p = caches::make_profile(shape, source.views(), 2, 5, 3);
  using tiled = codec::standard::with_grouping<tile_tokens<16>>::with_quantizer<embedded<4>>;
  const bytes whole = caches::encode<tiled>(p, source.views()), least = base_of(whole);
  REQUIRE(!whole.empty());
  for (int round = 0; round < 40; ++round) {
    CAPTURE(round);
    const std::size_t budget = least.size() + std::size_t(random() % (whole.size() - least.size()));
    bytes cut = whole;
    cut.resize(*truncate_to(cut, budget, &p));
    CHECK(cut.size() <= budget);
    CHECK(cut.size() >= budget * 97 / 100);
    CHECK(cut == caches::encode<tiled>(p, source.views(), {.max_bytes = budget}));
    caches::mixed_cache back(shape, kinds);
    const page_status done = caches::decode<tiled>(p, cut, back.views(), {.sequence_end = tokens});
    CHECK(done.worst == status::ok);
    CHECK(done.degraded + done.damaged == 0);

    // The decoder that was written from FORMAT.md alone reads the same.
    const bytes file = p.serialize();
    const auto raw = [](const bytes& b) {
      return reference::bytes(reinterpret_cast<const std::uint8_t*>(b.data()), b.size());
    };
    const reference::frame r = reference::decode(raw(cut), reference::read_profile(raw(file)), max_passes);
    std::size_t wrong = 0, seen = 0;
    for (const kv_view& v : back.views())
      caches::for_each_element(v, [&](plane which, int, std::int64_t t, int h, int d, const std::byte* at) {
        if (v[which].type == dtype::bf16) return;
        const reference::plane_values& q = r.planes[std::size_t(2 * v.layer_id(0) + int(which))];
        const double x = q.x[std::size_t((v.position + t) * q.width + h * v[which].head_dim + d)];
        const double y = double(load_element(at, v[which].type));
        ++seen;
        wrong += !(std::fabs(x - y) <= 0.004 * std::max(1.0, std::fabs(x)));
      });
    CHECK(seen > 1000);
    CHECK(wrong == 0);

    // A cut frame is cut again, to a whole level, or to any size.
    bytes again = cut;
    const std::size_t smaller = least.size() + std::size_t(random() % (cut.size() - least.size() + 1));
    again.resize(*truncate_to(again, smaller, &p));
    CHECK(again.size() <= smaller);
    CHECK(caches::decode<tiled>(p, again, back.views(), {.sequence_end = tokens}).worst == status::ok);
    CHECK(loss_of(again, p) >= loss_of(cut, p));
    const frame_index before = index_of(cut), after = index_of(again);
    for (std::size_t i = 0; i < before.tiles_per_pass(); ++i)
      if (before.range(i).size())
        CHECK(after.levels_of(i) <= std::max(before.levels_of(i), int(after.header().passes)));
    again = cut;
    again.resize(*truncate(again, 0));
    CHECK(caches::decode<tiled>(p, again, back.views(), {.sequence_end = tokens}).coarser == 0);
    CHECK(loss_of(again, p) == loss_of(whole, p, 0));
    CHECK(*truncate_to(again, again.size(), &p) == again.size());
  }
}

TEST_CASE("budget: what cannot be cut is left as it is, and said by name") {
  const real_cache c;
  const bytes whole = caches::encode(c.model, c.view.slice(0, 32));
  bytes b = whole;
  CHECK(truncate_to(b, 1000, &c.model).status() == status::output_too_small);
  CHECK(truncate_to(b, 0).status() == status::output_too_small);
  const profile other = profile::uncalibrated(model_shape::uniform(30, 3, 32));
  CHECK(truncate_to(b, whole.size() / 2, &other).status() == status::wrong_shape);
  const profile shallow = profile::uncalibrated(model_shape::uniform(2, 3, 64));
  CHECK(truncate_to(b, whole.size() / 2, &shallow).status() == status::wrong_shape);
  CHECK(truncate_to(std::span(b).first(b.size() - 1), whole.size() / 2).status() == status::truncated);
  CHECK(truncate_to(std::span(b).first(50), 40).status() == status::truncated);
  bytes nothing(100);
  CHECK(truncate_to(nothing, 40).status() == status::not_a_frame);
  std::vector<std::uint8_t> kept(60, 2);
  kept[7] = 0;
  CHECK(cut_tiles(b, kept).status() == status::invalid_argument);
  CHECK(cut_tiles(b, std::span(kept).first(59)).status() == status::invalid_argument);
  CHECK(b == whole);
  kept[7] = 1;
  const result<std::size_t> size = cut_tiles(b, kept);
  REQUIRE(size);
  b.resize(*size);
  const frame_index index = index_of(b);
  CHECK(index.any_cut());
  CHECK(index.header().passes == 2);
  CHECK(index.levels_of(7) == 1);
  CHECK(index.is_cut(60 + 7));
  CHECK_FALSE(index.is_cut(60 + 8));
  frame_header h = index.header();
  h.levels_present = 0;
  frames::store(b, 0, h);
  frames::fix_checksums(b);
  CHECK(truncate_to(b, 10).status() == status::level_not_present);
  CHECK(cut_tiles(b, kept).status() == status::level_not_present);
}

TEST_CASE("budget: a cut frame is whole to whoever looks at bytes") {
  const real_cache c;
  const kv_view view = c.view.slice(0, 64);
  const bytes whole = caches::encode(c.model, view);
  const frame_index full = index_of(whole);
  const std::size_t budget = std::size_t(full.size_at(1) + full.size_at(2)) / 2;
  const bytes cut = caches::encode(c.model, view, {.max_bytes = budget});
  const frame_index index = index_of(cut);
  REQUIRE(index.any_cut());
  const int levels = index.header().levels_present;
  CHECK(sound_level(index, cut, levels - 1) == levels - 1);

  const byte_account a = account(index, cut);
  CHECK(a.total() == cut.size());
  CHECK(a.damaged + a.missing == 0);
  CHECK(a.cut > 0);
  CHECK(a.tiles + a.cut == index.tiles_per_pass() * std::size_t(levels));
  CHECK(a.values == account(full, whole).values);

  // Costs and ranges of a stored chunk.
  const stream::context_loss loss = stream::context_loss::of(c.model, 64);
  const stream::chunk_cost cost = stream::chunk_of(index, 0, loss), finer = stream::chunk_of(full, 0, loss);
  for (int level = 0; level < levels; ++level) {
    CHECK(cost.bytes[std::size_t(level)] == sizeof(stream::object_header) + index.size_at(level));
    CHECK(cost.loss[std::size_t(level)] >= finer.loss[std::size_t(level)]);
    if (level) CHECK(cost.loss[std::size_t(level)] <= cost.loss[std::size_t(level) - 1]);
    // The front and these ranges are enough for some layers.
    bytes sparse(cut.size());
    std::copy_n(cut.begin(), index.payload_offset(), sparse.begin());
    for (const byte_range& r : stream::ranges_of(index, {7, 12}, level))
      std::copy(cut.begin() + std::ptrdiff_t(r.begin), cut.begin() + std::ptrdiff_t(r.end),
                sparse.begin() + std::ptrdiff_t(r.begin));
    caches::cache back = caches::make_cache(c.model.shape, 64), all = caches::make_cache(c.model.shape, 64);
    const decode_options some{.level = level, .layers = {7, 12}};
    CHECK(caches::decode(c.model, sparse, back.view(), some).worst == status::ok);
    CHECK(caches::decode(c.model, cut, all.view(), some).worst == status::ok);
    CHECK(back.bytes() == all.bytes());
  }
  CHECK(cost.loss[0] == doctest::Approx(finer.loss[0]));

  // Prefixes: what ends early is degraded, what was cut is not.
  for (int level = 0; level < levels; ++level) {
    caches::cache back = caches::make_cache(c.model.shape, 64), all = caches::make_cache(c.model.shape, 64);
    const std::span<const std::byte> front = std::span(cut).first(std::size_t(index.size_at(level)));
    CHECK(caches::decode(c.model, front, back.view(), {.level = level}).worst == status::ok);
    CHECK(caches::decode(c.model, cut, all.view(), {.level = level}).worst == status::ok);
    CHECK(back.bytes() == all.bytes());
    if (level + 1 < levels) CHECK(caches::decode(c.model, front, back.view()).worst == status::degraded);
  }
}

TEST_CASE("budget: damage of a cut frame is found and harms no tile but its own") {
  CAPTURE(seed);
  std::mt19937_64 random(seed + 3);
  const real_cache c;
  const kv_view view = c.view.slice(0, 24);
  const bytes whole = caches::encode(c.model, view);
  bytes cut = whole;
  cut.resize(*truncate_to(cut, whole.size() * 5 / 8, &c.model));
  const frame_index index = index_of(cut);
  REQUIRE(index.any_cut());
  decoder<> d(c.model);
  caches::cache sound = caches::make_cache(c.model.shape, 24), back = caches::make_cache(c.model.shape, 24);
  const page_status right = d.decode(cut, sound.view());
  REQUIRE(right.worst == status::ok);
  int payload = 0;
  for (int round = 0; round < 1500; ++round) {
    CAPTURE(round);
    bytes bad = cut;
    const std::size_t at = std::size_t(random() % (round % 4 ? bad.size() : index.payload_offset()));
    bad[at] ^= std::byte(1 + random() % 255);
    back.wipe();
    const page_status done = d.decode(bad, back.view());
    if (at < index.payload_offset()) {
      CHECK(done.tiles == 0);
      CHECK(done.worst != status::ok);
      // Behind right checksums it is whatever it says, and never a crash.
      frames::fix_checksums(bad);
      static_cast<void>(d.decode(bad, back.view()));
      bytes smaller = bad;
      static_cast<void>(truncate_to(smaller, bad.size() / 2, &c.model));
      continue;
    }
    ++payload;
    std::size_t hit = 0;
    while (index.range(hit).end <= at) ++hit;
    CHECK(done.damaged + done.degraded == 1);
    CHECK(done.worst == (hit < index.tiles_per_pass() ? status::corrupt_tile : status::degraded));
    std::size_t wrong = 0;
    const int pass = int(hit / index.tiles_per_pass());
    caches::for_each_element(sound.view(), [&](plane which, int l, std::int64_t t, int h, int e, const std::byte* x) {
      if (index.ordinal(pass, {l, which, 0, 0}) != hit)
        wrong += std::memcmp(x, back.view().at(which, l, t, h, e), 2) != 0;
    });
    CHECK(wrong == 0);
  }
  CHECK(payload > 500);
}
