// SPDX-License-Identifier: Apache-2.0
// Frames of predicted tiles: damage spreads to what depends on it and is said, ids of tokens are the writer's or nothing
// is written, and ranges of layers, threads and positions are no matter.
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/isas.hpp>
#include <support/prediction.hpp>

#include <cstdint>
#include <thread>
#include <vector>

namespace {

using namespace sluice;

using bytes = std::vector<std::byte>;
using tiled = codec::smallest::with_grouping<tile_tokens<16>>;

constexpr std::uint64_t seed = 78;
constexpr int layers = 4, heads = 2, dim = 32, tokens = 40;

// Each head is a group.
struct model {
  model_shape shape = model_shape::uniform(layers, heads, dim);
  caches::cache source = caches::make_cache(shape, tokens);
  std::vector<std::int32_t> ids = caches::token_ids(tokens);
  profile p;
  bytes frame;
  model() {
    caches::fill(source.view(), shape, seed);
    p = caches::make_profile(shape, {&source.view(), 1}, 1, 4, 2);
    caches::add_prediction(p, seed);
    frame = caches::encode<tiled>(p, source.view(), {.side = {ids}});
    REQUIRE(!frame.empty());
  }
};

caches::cache decoded(const model& m, const bytes& frame, const decode_options& o, page_status& done) {
  caches::cache back = caches::make_cache(m.shape, tokens);
  decode_options with = o;
  with.side = {m.ids};
  done = caches::decode<tiled>(m.p, frame, back.view(), with);
  return back;
}

// Whether all elements of a head of a token tile are as nobody wrote them, and whether they are those of another cache.
struct state {
  bool untouched = true, same = true;
};
state compare(const caches::cache& a, const caches::cache& b, plane which, int layer, int tile, int head) {
  state s;
  for (int t = 16 * tile; t < std::min(tokens, 16 * tile + 16); ++t)
    for (int d = 0; d < dim; ++d) {
      const std::byte *x = a.view().at(which, layer, t, head, d), *y = b.view().at(which, layer, t, head, d);
      s.untouched &= x[0] == caches::cache::untouched && x[1] == caches::cache::untouched;
      s.same &= x[0] == y[0] && x[1] == y[1];
    }
  return s;
}

}  // namespace

TEST_CASE("smallest: tiles are predicted where a profile serves, and the cache comes back") {
  const model m;
  frame_index index;
  REQUIRE(index.parse(m.frame) == status::ok);
  CHECK(index.header().fingerprint == codec::smallest::fingerprint(m.p));
  CHECK(index.header().side_checksum != 0);
  CHECK(index.header().passes == 3);
  std::size_t predicted = 0;
  for (std::size_t i = 0; i < index.tiles_per_pass(); ++i)
    predicted += (frames::sections_of(&m.frame[index.range(i).begin]) & 9) == 1 << int(section::entropy);
  CHECK(predicted > index.tiles_per_pass() / 2);
  double last = 1;
  for (const int level : {0, 1, 2}) {
    page_status done;
    const caches::cache back = decoded(m, m.frame, {.level = level}, done);
    CHECK(done.worst == status::ok);
    const double error = caches::relative_error(m.source.view(), back.view());
    CHECK(error < last / 1.5);
    last = error;
  }
  CHECK(last < 0.15);
}

TEST_CASE("smallest: what depends on a damaged tile is not written, what does not is sound") {
  const model m;
  frame_index index;
  REQUIRE(index.parse(m.frame) == status::ok);
  page_status done;
  const caches::cache sound = decoded(m, m.frame, {}, done);
  REQUIRE(done.worst == status::ok);
  for (int l = 0; l < layers; ++l)
    for (const plane which : caches::planes)
      for (int k = 0; k < index.token_tiles(); ++k)
        for (int g = 0; g < heads; ++g) {
          CAPTURE(l);
          CAPTURE(int(which));
          CAPTURE(k);
          CAPTURE(g);
          bytes bad = m.frame;
          const byte_range r = index.range(index.ordinal(0, {l, which, k, g}));
          bad[r.begin + r.size() / 2] ^= std::byte{4};
          const caches::cache back = decoded(m, bad, {}, done);
          CHECK(done.worst == status::corrupt_tile);
          std::uint32_t lost = 0;
          for (int other = 0; other < layers; ++other)
            for (const plane p : caches::planes)
              for (int tile = 0; tile < index.token_tiles(); ++tile)
                for (int h = 0; h < heads; ++h) {
                  const state s = compare(back, sound, p, other, tile, h);
                  const bool itself = other == l && p == which && h == g;
                  const bool above = other > l || (other == l && which == plane::key && p == plane::value);
                  lost += s.untouched;
                  if (tile == k && (itself || above))
                    CHECK(s.untouched);
                  else
                    CHECK(s.same);
                }
          CHECK(done.damaged == lost);

          // A damaged refinement costs the levels of its own tile.
          bad = m.frame;
          const byte_range fine = index.range(index.ordinal(1, {l, which, k, g}));
          if (fine.size() == 0) continue;
          bad[fine.begin + fine.size() / 2] ^= std::byte{4};
          const caches::cache coarse = decoded(m, bad, {}, done);
          CHECK(done.worst == status::degraded);
          CHECK(done.degraded == 1);
          for (int other = 0; other < layers; ++other)
            for (const plane p : caches::planes)
              for (int tile = 0; tile < index.token_tiles(); ++tile)
                for (int h = 0; h < heads; ++h)
                  if (other != l || p != which || tile != k || h != g)
                    CHECK(compare(coarse, sound, p, other, tile, h).same);
        }
}

TEST_CASE("smallest: other ids than the writer's are refused before anything is written") {
  const model m;
  const auto refused = [&](std::span<const std::int32_t> ids) {
    caches::cache back = caches::make_cache(m.shape, tokens);
    const page_status done = caches::decode<tiled>(m.p, m.frame, back.view(), {.side = {ids}});
    CHECK(done.worst == status::wrong_side_info);
    CHECK(done.tiles == 0);
    for (const std::byte b : back.bytes()) REQUIRE(b == caches::cache::untouched);
  };
  refused({});
  refused(std::span(m.ids).first(tokens - 1));
  std::vector<std::int32_t> other = m.ids;
  ++other[17];
  refused(other);
  other = m.ids;
  other.push_back(3);  // ids behind the frame's are nobody's business
  caches::cache back = caches::make_cache(m.shape, tokens);
  CHECK(caches::decode<tiled>(m.p, m.frame, back.view(), {.side = {other}}).worst == status::ok);

  encoder<tiled> e(m.p);
  bytes out(e.max_size(m.source.view()));
  CHECK(e.encode(m.source.view(), out, {.side = {std::span(m.ids).first(tokens - 1)}}).status() ==
        status::wrong_side_info);
  CHECK(*e.encode(m.source.view(), out, {.side = {other}}) == m.frame.size());

  // Without ids on one side there need be none on the other, and they change nothing.
  const bytes without = caches::encode<tiled>(m.p, m.source.view());
  REQUIRE(!without.empty());
  CHECK(without != m.frame);
  caches::cache a = caches::make_cache(m.shape, tokens), b = caches::make_cache(m.shape, tokens);
  CHECK(caches::decode<tiled>(m.p, without, a.view()).worst == status::ok);
  CHECK(caches::decode<tiled>(m.p, without, b.view(), {.side = {m.ids}}).worst == status::ok);
  CHECK(a.bytes() == b.bytes());
  CHECK(caches::relative_error(m.source.view(), a.view()) < 0.15);
}

TEST_CASE("smallest: a profile without the section, or with another one, is refused") {
  const model m;
  profile bare = m.p, other = m.p;
  bare.sections.clear();
  caches::add_prediction(other, seed + 1);
  encoder<tiled> e(bare);
  bytes out(m.frame.size() * 4);
  CHECK(e.encode(m.source.view(), out, {.side = {m.ids}}).status() == status::missing_section);
  caches::cache back = caches::make_cache(m.shape, tokens);
  CHECK(caches::decode<tiled>(bare, m.frame, back.view(), {.side = {m.ids}}).worst == status::missing_section);
  CHECK(caches::decode<tiled>(other, m.frame, back.view(), {.side = {m.ids}}).worst == status::wrong_profile);
  const result<profile> read = profile::parse(m.p.serialize());
  REQUIRE(read);
  CHECK(caches::decode<tiled>(*read, m.frame, back.view(), {.side = {m.ids}}).worst == status::ok);
}

TEST_CASE("smallest: ranges of layers, threads and instruction sets give the same values") {
  const model m;
  page_status done;
  const caches::cache sound = decoded(m, m.frame, {}, done);
  auto share = [](int n, auto task) {
    std::vector<std::thread> all;
    for (int i = 0; i < n; ++i) all.emplace_back([&task, i] { task(i); });
    for (std::thread& t : all) t.join();
  };
  const auto parallel = parallel_for::of(3, share);
  for (const auto range : {decode_options::layer_range{0, 2}, {2, 4}, {1, 2}, {3, 9}}) {
    const caches::cache back = decoded(m, m.frame, {.layers = range, .parallel = parallel}, done);
    CHECK(done.worst == status::ok);
    for (int l = 0; l < layers; ++l)
      for (const plane which : caches::planes)
        for (int k = 0; k < 3; ++k)
          for (int h = 0; h < heads; ++h) {
            const state s = compare(back, sound, which, l, k, h);
            CHECK((l >= range.begin && l < range.end ? s.same : s.untouched));
          }
  }
  CHECK(caches::encode<tiled>(m.p, m.source.view(), {.side = {m.ids}, .parallel = parallel}) == m.frame);
  for (const isa on : isas::all) {
    caches::cache back = caches::make_cache(m.shape, tokens);
    CHECK(caches::decode<tiled>(m.p, m.frame, back.view(), {.side = {m.ids}}, on).worst == status::ok);
    CHECK(caches::worst_ulps(sound.view(), back.view()) <= 1);
  }
}

TEST_CASE("smallest: a frame goes to another position, and keys turn with it") {
  const model m;
  constexpr std::int64_t to = 1000;
  caches::cache wanted = caches::make_cache(m.shape, tokens, dtype::f16, caches::engine::dense, to);
  caches::fill(wanted.view(), m.shape, seed);
  caches::cache back = caches::make_cache(m.shape, tokens, dtype::f16, caches::engine::dense, to);
  const page_status moved = caches::decode<tiled>(m.p, m.frame, back.view(), {.position = to, .side = {m.ids}});
  CHECK(moved.worst == status::ok);
  page_status done;
  const caches::cache stayed = decoded(m, m.frame, {}, done);
  const double error = caches::relative_error(m.source.view(), stayed.view());
  CHECK(caches::relative_error(wanted.view(), back.view()) == doctest::Approx(error).epsilon(0.02));
}
