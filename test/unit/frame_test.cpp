// SPDX-License-Identifier: Apache-2.0
// The frame as bytes: index and truncation, every damage found, and hostile bytes that pass for sound ones.
#include <sluice/codec/presets.hpp>
#include <sluice/format/cut.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/prediction.hpp>

#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using caches::engine;
using caches::make_cache;

constexpr std::uint64_t seed = 4242;

using bytes = std::vector<std::byte>;

// A frame of a few kilobytes with several layers, tiles and groups, exact tokens and (with noise in one token) exceptions.
struct small_frame {
  model_shape shape;
  caches::cache source;
  profile made_with;
  bytes frame;

  template <class Codec>
  static small_frame make(bool calibrated) {
    // Where heads stand alone, blocks of 32 lanes pay for wider ones only: tiles are to be coded, not kept.
    small_frame f(calibrated || is_exact<Codec> ? model_shape::uniform(2, 2, 8) : model_shape::uniform(1, 2, 32));
    f.made_with = calibrated ? caches::make_profile(f.shape, {&f.source.view(), 1}, 0, 3, 2)
                             : profile::uncalibrated(f.shape, 3, 2);
    caches::add_prediction(f.made_with, seed);
    f.frame = caches::encode<typename Codec::template with_grouping<tile_tokens<16>>>(f.made_with, f.source.view());
    REQUIRE(!f.frame.empty());
    return f;
  }

 private:
  explicit small_frame(const model_shape& s) : shape(s), source(make_cache(s, 23)) {
    caches::fill(source.view(), shape, seed);
    caches::set(source.view(), plane::value, s.num_layers() - 1, 5, 1, 3, 300.f);
  }
};

// Base tiles that have a section of an entropy model.
std::size_t coded_tiles(const bytes& frame) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  std::size_t coded = 0;
  for (std::size_t i = 0; i < index.tiles_per_pass(); ++i) {
    const byte_range r = index.range(i);
    coded += (frames::sections_of(&frame[r.begin]) >> int(section::entropy) & 1) != 0;
  }
  return coded;
}

// Runs f.operator()<Codec>(calibrated) for every codec whose payload looks different.
template <class F>
void for_each_codec(F f) {
  for (bool calibrated : {true, false}) {
    CAPTURE(calibrated);
    f.template operator()<codec::standard>(calibrated);
    f.template operator()<codec::fixed<5>>(calibrated);
  }
  f.template operator()<codec::plain<3>>(false);
  f.template operator()<codec::standard::with_transform<identity_transform>>(false);
  f.template operator()<codec::exact>(false);
  f.template operator()<codec::uncompressed>(false);
}

}  // namespace

TEST_CASE("frame: header and index say what is where") {
  const auto f = small_frame::make<codec::standard>(true);
  frame_index index;
  REQUIRE(index.parse(f.frame) == status::ok);
  const frame_header& h = index.header();
  CHECK(h.magic == frame_magic);
  CHECK(std::memcmp(f.frame.data(), "SLCF", 4) == 0);
  CHECK(h.version_major == SLUICE_FORMAT_VERSION_MAJOR);
  CHECK(h.version_minor == SLUICE_FORMAT_VERSION_MINOR);
  CHECK(h.fingerprint == f.made_with.fingerprint());
  CHECK(h.position == 0);
  CHECK(h.frame_size == f.frame.size());
  CHECK(h.tokens == 23);
  CHECK(h.tile_tokens == 16);
  CHECK(h.layers == 2);
  CHECK(h.passes == 3);
  CHECK(h.levels_present == 3);
  CHECK(h.codec == codec::standard::with_grouping<tile_tokens<16>>::id);
  REQUIRE(index.runs().size() == 1);
  CHECK(index.runs()[0] == shape_run{2, 2, {8, 8}, {16, 16}, {1, 1}, 0});
  CHECK(index.token_tiles() == 2);
  CHECK(index.tokens_of(0) == 16);
  CHECK(index.tokens_of(1) == 7);
  CHECK(index.tiles_per_pass() == 2 * 2 * 2);

  // The index needs no payload, and less than all of it is asked for.
  frame_index front;
  CHECK(front.parse(std::span(f.frame).first(std::size_t(index.payload_offset()))) == status::ok);
  for (std::size_t n = 0; n < index.payload_offset(); ++n)
    CHECK(front.parse(std::span(f.frame).first(n)) == status::truncated);

  // Tiles follow one another in the order pass, layer, plane, token tile, group.
  std::uint64_t at = index.payload_offset();
  std::size_t ordinal = 0;
  for (int pass = 0; pass < 3; ++pass) {
    for (int layer = 0; layer < 2; ++layer) {
      CHECK(index.range(pass, layer, layer + 1).begin == at);
      for (plane p : caches::planes)
        for (int tile = 0; tile < 2; ++tile) {
          CHECK(index.ordinal(pass, {layer, p, tile, 0}) == ordinal);
          CHECK(index.range(ordinal).begin == at);
          at = index.range(ordinal++).end;
        }
      CHECK(index.range(pass, layer, layer + 1).end == at);
    }
    CHECK(index.size_at(pass) == at);
  }
  CHECK(at == f.frame.size());
}

TEST_CASE("frame: truncation in place") {
  auto f = small_frame::make<codec::standard>(true);
  frame_index index;
  REQUIRE(index.parse(f.frame) == status::ok);
  bytes cut = f.frame;
  CHECK(truncate(std::span(cut).first(cut.size() - 1), 2).status() == status::truncated);
  REQUIRE(truncate(cut, 1));
  CHECK(cut.size() == f.frame.size());  // whoever owns the bytes drops the tail
  frame_index after;
  REQUIRE(after.parse(cut) == status::ok);
  CHECK(after.header().levels_present == 2);
  CHECK(after.header().passes == 3);
  CHECK(after.header().frame_size == f.frame.size());
  CHECK(after.size() == index.size_at(1));
  CHECK(*truncate(cut, 0) == index.size_at(0));
  std::size_t differ = 0;
  for (std::size_t i = 0; i < cut.size(); ++i) differ += cut[i] != f.frame[i];
  CHECK(differ <= 5);  // levels_present and a checksum
  bytes nothing(10);
  CHECK(truncate(nothing, 0).status() == status::not_a_frame);
}

TEST_CASE("frame: passes that were cut from tiles, as the index says it") {
  const auto f = small_frame::make<codec::standard>(true);
  frame_index whole;
  REQUIRE(whole.parse(f.frame) == status::ok);
  const std::size_t tiles = whole.tiles_per_pass();
  std::vector<std::uint8_t> kept(tiles, 3);
  kept[1] = 1;
  kept[4] = 2;
  bytes cut = f.frame;
  const result<std::size_t> size = cut_tiles(cut, kept);
  REQUIRE(size);
  cut.resize(*size);
  frame_index index;
  REQUIRE(index.parse(cut) == status::ok);
  CHECK(index.any_cut());
  CHECK_FALSE(whole.any_cut());
  CHECK(index.header().passes == 3);
  CHECK(index.header().levels_present == 3);
  CHECK(index.header().frame_size == cut.size());
  CHECK(index.payload_offset() == whole.payload_offset());
  // What is left has moved together, with the checksums that it had.
  std::uint64_t at = index.payload_offset();
  for (std::size_t i = 0; i < 3 * tiles; ++i) {
    CAPTURE(i);
    CHECK(index.range(i).begin == at);
    CHECK(index.is_cut(i) == (i / tiles >= kept[i % tiles]));
    if (index.is_cut(i)) {
      CHECK(index.range(i).size() == 0);
    } else {
      const byte_range from = whole.range(i), to = index.range(i);
      REQUIRE(from.size() == to.size());
      CHECK(index.checksum_of(i) == whole.checksum_of(i));
      CHECK(std::equal(f.frame.begin() + std::ptrdiff_t(from.begin), f.frame.begin() + std::ptrdiff_t(from.end),
                       cut.begin() + std::ptrdiff_t(to.begin)));
    }
    at = index.range(i).end;
  }
  CHECK(at == cut.size());
  for (std::size_t i = 0; i < tiles; ++i) CHECK(index.levels_of(i) == kept[i]);

  // Read at a level it is what the whole frame is at the finest level that each tile has.
  caches::cache back = make_cache(f.shape, 23);
  for (int level = 0; level < 3; ++level) {
    const page_status done = caches::decode(f.made_with, cut, back.view(), {.level = level});
    CHECK(done.worst == status::ok);
    CHECK(done.coarser == std::uint32_t(level));
    CHECK(done.degraded == 0);
  }
  // Cut to a level it is still a cut frame, or none where nothing above the base is left.
  bytes level1 = cut;
  level1.resize(*truncate(level1, 1));
  frame_index shorter;
  REQUIRE(shorter.parse(level1) == status::ok);
  CHECK(shorter.levels_of(4) == 2);
  CHECK(shorter.levels_of(0) == 2);
  CHECK(shorter.levels_of(1) == 1);
  bytes base = cut;
  base.resize(*cut_tiles(base, std::vector<std::uint8_t>(tiles, 1)));
  REQUIRE(shorter.parse(base) == status::ok);
  CHECK(shorter.header().passes == 1);
  CHECK_FALSE(shorter.any_cut());
  CHECK(base.size() == detail::front_size(1, tiles, 1) + whole.range(0, 0, 2).size());

  // Entries that contradict each other, behind right checksums.
  const std::size_t entries = sizeof(frame_header) + sizeof(shape_run);
  const auto verdict = [&](std::size_t ordinal, tile_entry e) {
    bytes b = cut;
    frame_header h = frames::load<frame_header>(b, 0);
    frames::store(b, entries + 8 * ordinal, e);
    h.index_checksum = checksum(b.data() + sizeof h, h.index_size, frame_magic);
    h.header_checksum = header_checksum(h);
    frames::store(b, 0, h);
    frame_index i;
    return i.parse(b);
  };
  CHECK(verdict(tiles + 1, {cut_tile, 0}) == status::ok);  // as it is
  CHECK(verdict(tiles + 1, {cut_tile, 1}) == status::corrupt_index);
  CHECK(verdict(tiles + 1, {0, 0}) == status::ok);                 // nothing coded in a pass that is here
  CHECK(verdict(2 * tiles + 1, {0, 0}) == status::corrupt_index);  // here again above one that was cut
  CHECK(verdict(2 * tiles + 1, {16, 0}) == status::corrupt_index);
  CHECK(verdict(1, {cut_tile, 0}) == status::corrupt_index);      // the base is never cut
  CHECK(verdict(tiles, {cut_tile, 0}) == status::corrupt_index);  // below one that is here
  CHECK(verdict(tiles + 1, {cut_tile - 1, 0}) == status::corrupt_index);
}

TEST_CASE("frame: what does not belong together is refused by name") {
  const auto f = small_frame::make<codec::standard>(true);
  caches::cache back = make_cache(f.shape, 23);
  const auto verdict = [&](const bytes& frame) {
    back.wipe();
    const status s = caches::decode(f.made_with, frame, back.view()).worst;
    if (s != status::ok)
      for (std::byte b : back.bytes())
        if (b != caches::cache::untouched) return status::io_error;  // something was written
    return s;
  };
  const auto changed = [&](auto change) {
    bytes b = f.frame;
    frame_header h = frames::load<frame_header>(b, 0);
    change(h);
    frames::store(b, 0, h);
    frames::fix_checksums(b);
    return verdict(b);
  };
  CHECK(verdict(f.frame) == status::ok);
  CHECK(changed([](frame_header&) {}) == status::ok);
  CHECK(changed([](frame_header& h) { h.magic ^= 1; }) == status::not_a_frame);
  CHECK(changed([](frame_header& h) { ++h.version_major; }) == status::wrong_version);
  CHECK(changed([](frame_header& h) { ++h.version_minor; }) == status::wrong_version);
  CHECK(changed([](frame_header& h) { --h.version_minor; }) == status::wrong_version);  // 0.2 meant other bytes
  CHECK(changed([](frame_header& h) { h.header_size = 72; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { ++h.fingerprint; }) == status::wrong_profile);
  CHECK(changed([](frame_header& h) { h.fingerprint = 0; }) == status::wrong_profile);
  CHECK(changed([](frame_header& h) { h.position = -1; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.position = INT64_MAX - 5; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.position = 23; }) == status::wrong_positions);
  CHECK(changed([](frame_header& h) { ++h.frame_size; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.tokens = 0; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.tokens = 33; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.tokens = max_frame_tokens + 1; }) == status::too_large);
  CHECK(changed([](frame_header& h) { h.tile_tokens = 0; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.tile_tokens = 8; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.tile_tokens = max_tile_tokens + 1; }) == status::too_large);
  CHECK(changed([](frame_header& h) { h.index_size = 1u << 31; }) == status::truncated);
  CHECK(changed([](frame_header& h) { h.index_size = UINT32_MAX; }) == status::truncated);
  CHECK(changed([](frame_header& h) { h.index_size += 16; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.index_size -= 16; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.index_size -= 1; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.index_size = 0; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.layers = 3; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.layers = 0; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.layers = 5000; }) == status::too_large);
  CHECK(changed([](frame_header& h) { h.shape_runs = 0; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.shape_runs = 2; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.shape_runs = 65535; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.unused[0] = 1; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.unused[1] = 255; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.passes = 0; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.passes = 7; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.passes = 2; }) == status::corrupt_header);  // fewer than levels_present
  CHECK(changed([](frame_header& h) { h.passes = 2, h.levels_present = 1; }) == status::corrupt_index);
  CHECK(changed([](frame_header& h) { h.levels_present = 0; }) == status::level_not_present);
  CHECK(changed([](frame_header& h) { h.levels_present = 4; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.codec.method.id = 1; }) == status::wrong_codec);
  CHECK(changed([](frame_header& h) { h.codec.method.id = 200; }) == status::wrong_codec);
  CHECK(changed([](frame_header& h) { h.codec.predictor.id = 1; }) == status::wrong_codec);
  CHECK(changed([](frame_header& h) { h.codec.transform.id = 0; }) == status::wrong_codec);
  CHECK(changed([](frame_header& h) { h.codec.quantizer.id = 7; }) == status::wrong_codec);
  CHECK(changed([](frame_header& h) { h.codec.bit_widths.id = 1; }) == status::wrong_codec);
  CHECK(changed([](frame_header& h) { h.codec.entropy.id = 4; }) == status::wrong_codec);
  for (stage_id codec_id::*stage :
       {&codec_id::predictor, &codec_id::transform, &codec_id::quantizer, &codec_id::entropy})
    CHECK(changed([&](frame_header& h) { ++(h.codec.*stage).parameter[1]; }) == status::wrong_codec);
  // What says how an encoder chose is no matter to a decoder.
  CHECK(changed([](frame_header& h) { h.codec.method.parameter[1] = 3; }) == status::ok);
  CHECK(changed([](frame_header& h) { h.codec.bit_widths.parameter[0] = 3; }) == status::ok);
  CHECK(changed([](frame_header& h) { h.reserved[0] = 1; }) == status::corrupt_header);
  CHECK(changed([](frame_header& h) { h.reserved[1] = 255; }) == status::corrupt_header);

  // More passes than the profile has, each with an index that holds them: all tiles of the added pass are empty.
  bytes more = f.frame;
  const frame_header old = frames::load<frame_header>(more, 0);
  frame_header h = old;
  frame_index index;
  REQUIRE(index.parse(f.frame) == status::ok);
  const std::size_t added = index.tiles_per_pass() * sizeof(tile_entry);
  REQUIRE(added % 16 == 0);
  const std::size_t used = sizeof h + sizeof(shape_run) + 3 * added;
  more.insert(more.begin() + std::ptrdiff_t(used), added, std::byte{0});
  h.index_size += std::uint32_t(added);
  h.passes = h.levels_present = 4;
  h.frame_size += added;
  frames::store(more, 0, h);
  frames::fix_checksums(more);
  frame_index sound;
  CHECK(sound.parse(more) == status::ok);
  CHECK(verdict(more) == status::corrupt_header);

  // The caller's side.
  const profile other = profile::uncalibrated(f.shape, 3, 2);
  CHECK(caches::decode(other, f.frame, back.view()).worst == status::wrong_profile);
  CHECK(caches::decode<codec::exact>(f.made_with, f.frame, back.view()).worst == status::wrong_codec);
  kv_view v = back.view();
  v.num_kv_heads = 1;
  CHECK(caches::decode(f.made_with, f.frame, v).worst == status::wrong_shape);
  v = back.view();
  v.position = 23;
  CHECK(caches::decode(f.made_with, f.frame, v).worst == status::wrong_positions);
  CHECK(caches::decode(f.made_with, f.frame, back.view().slice(9, 9)).worst == status::wrong_positions);
  v = back.view();
  v.k.element_stride = 0;
  CHECK(caches::decode(f.made_with, f.frame, v).worst == status::invalid_view);
  caches::cache paged = make_cache(f.shape, 23, dtype::f16, engine::vllm_nhd);
  const std::int32_t outside[] = {0, 99};
  v = paged.view();
  v.indices = outside;
  CHECK(caches::decode(f.made_with, f.frame, v).worst == status::page_out_of_range);
  bytes out(100000);
  encoder<> e(f.made_with);
  CHECK(e.encode(v, out).status() == status::page_out_of_range);
  CHECK(e.encode(back.view().slice(5, 5), out).status() == status::invalid_argument);
  CHECK(e.encode(back.view().slice(5, 99), out).status() == status::invalid_view);
  CHECK(e.encode(std::span<const kv_view>(), out).status() == status::invalid_argument);
  CHECK(e.max_size(back.view().slice(5, 5)) == 0);
}

TEST_CASE("frame: output too small, at every size") {
  const auto f = small_frame::make<codec::standard>(true);
  encoder<codec::standard::with_grouping<tile_tokens<16>>> e(f.made_with);
  for (std::size_t n = 0; n < f.frame.size(); ++n) {
    bytes out(n + 8, std::byte{0x5a});
    CHECK(e.encode(f.source.view(), std::span(out).first(n)).status() == status::output_too_small);
    for (std::size_t i = n; i < out.size(); ++i) CHECK(out[i] == std::byte{0x5a});
  }
}

TEST_CASE("frame: every single-byte corruption is found, and harms no tile but its own") {
  CAPTURE(seed);
  for_each_codec([&]<class Codec>(bool calibrated) {
    const auto f = small_frame::make<Codec>(calibrated);
    CAPTURE(f.frame.size());
    frame_index index;
    REQUIRE(index.parse(f.frame) == status::ok);
    const frame_header h = index.header();
    caches::cache sound = make_cache(f.shape, 23), coarse = make_cache(f.shape, 23);
    decoder<Codec> d(f.made_with);
    REQUIRE(d.decode(f.frame, sound.view()).worst == status::ok);
    CHECK(coded_tiles(f.frame) >= index.tiles_per_pass() / 2);

    caches::cache back = make_cache(f.shape, 23);
    bytes damaged = f.frame;
    std::size_t missed = 0, wrong_pages = 0, wrong_tiles = 0;
    for (std::size_t at = 0; at < damaged.size(); ++at) {
      // The tile this byte belongs to, if any.
      std::size_t ordinal = 0;
      while (ordinal < h.passes * index.tiles_per_pass() && index.range(ordinal).end <= at) ++ordinal;
      const bool payload = at >= index.payload_offset();
      const int pass = int(ordinal / index.tiles_per_pass());
      for (const unsigned flip : {0x01u, 0x80u, 0xffu, 0x10u}) {
        damaged[at] ^= std::byte(flip);
        std::memset(back.bytes().data(), int(caches::cache::untouched), back.bytes().size());
        const page_status done = d.decode(damaged, back.view());
        missed += done.worst == status::ok;
        if (!payload) {
          wrong_pages += back.bytes() != make_cache(f.shape, 23).bytes();
        } else {
          wrong_tiles += done.damaged + done.degraded != 1;
          missed += done.worst != (pass ? status::degraded : status::corrupt_tile);
          // Everything else is as without the damage; its own elements are untouched or those of a coarser level.
          if (pass) {
            coarse.wipe();
            if (d.decode(f.frame, coarse.view(), {.level = pass - 1}).worst != status::ok) ++wrong_pages;
          }
          bool right = true;
          caches::for_each_element(
              back.view(), [&](plane p, int l, std::int64_t t, int head, int e, const std::byte* x) {
                const int width = index.shape_of(l).group_width[int(p)];
                const tile_key key{l, p, int(t) / 16, head * f.shape.layers[0].head_dim_k / width};
                const bool hit = index.ordinal(pass, key) == ordinal;
                const std::byte* expected = (hit && pass ? coarse : sound).view().at(p, l, t, head, e);
                const std::byte untouched[2] = {caches::cache::untouched, caches::cache::untouched};
                right &= std::memcmp(x, hit && !pass ? untouched : expected, 2) == 0;
              });
          wrong_pages += !right;
        }
        damaged[at] ^= std::byte(flip);
      }
    }
    CHECK(missed == 0);
    CHECK(wrong_pages == 0);
    CHECK(wrong_tiles == 0);
  });
}

TEST_CASE("frame: no value of any byte of header and index passes for another") {
  const auto f = small_frame::make<codec::standard>(true);
  frame_index index;
  REQUIRE(index.parse(f.frame) == status::ok);
  bytes front(f.frame.begin(), f.frame.begin() + std::ptrdiff_t(index.payload_offset()));
  std::size_t missed = 0;
  for (std::byte& b : front)
    for (unsigned flip = 1; flip < 256; ++flip) {
      b ^= std::byte(flip);
      missed += index.parse(front) == status::ok;
      b ^= std::byte(flip);
    }
  CHECK(missed == 0);
}

TEST_CASE("frame: cut at every length") {
  for_each_codec([&]<class Codec>(bool calibrated) {
    const auto f = small_frame::make<Codec>(calibrated);
    frame_index index;
    REQUIRE(index.parse(f.frame) == status::ok);
    caches::cache sound = make_cache(f.shape, 23);
    decoder<Codec> d(f.made_with);
    REQUIRE(d.decode(f.frame, sound.view()).worst == status::ok);
    std::size_t wrong = 0;
    for (std::size_t n = 0; n < f.frame.size(); ++n) {
      caches::cache back = make_cache(f.shape, 23);
      const bytes cut(f.frame.begin(), f.frame.begin() + std::ptrdiff_t(n));  // an end that a sanitizer sees
      std::vector<status> pages(23);
      const page_status done = d.decode(cut, back.view(), {.pages = pages});
      const status expected = n >= index.size_at(0) ? status::degraded : status::truncated;
      wrong += done.worst != expected;
      if (n < index.payload_offset()) continue;
      // Base tiles that are whole are there, at whatever level.
      std::size_t whole = 0;
      for (std::size_t i = 0; i < index.tiles_per_pass(); ++i) whole += index.range(i).end <= n;
      wrong += done.tiles - done.damaged != whole;
    }
    CHECK(wrong == 0);
  });
}

TEST_CASE("frame: tiles that change places are found") {
  const auto f = small_frame::make<codec::uncompressed>(false);  // tiles of one size
  frame_index index;
  REQUIRE(index.parse(f.frame) == status::ok);
  std::size_t pairs = 0;
  for (std::size_t a = 0; a < index.tiles_per_pass(); ++a)
    for (std::size_t b = a + 1; b < index.tiles_per_pass(); ++b) {
      const byte_range x = index.range(a), y = index.range(b);
      if (x.size() != y.size()) continue;
      ++pairs;
      bytes swapped = f.frame;
      std::swap_ranges(swapped.begin() + std::ptrdiff_t(x.begin), swapped.begin() + std::ptrdiff_t(x.end),
                       swapped.begin() + std::ptrdiff_t(y.begin));
      caches::cache back = make_cache(f.shape, 23);
      CHECK(caches::decode<codec::uncompressed>(f.made_with, swapped, back.view()).damaged == 2);
      // Together with their entries: the checksum knows its place, even if that of the index is made right.
      const std::size_t at = sizeof(frame_header) + sizeof(shape_run);
      std::swap_ranges(swapped.begin() + std::ptrdiff_t(at + 8 * a), swapped.begin() + std::ptrdiff_t(at + 8 * a + 8),
                       swapped.begin() + std::ptrdiff_t(at + 8 * b));
      frame_header h = index.header();
      CHECK(caches::decode<codec::uncompressed>(f.made_with, swapped, back.view()).worst == status::corrupt_index);
      h.index_checksum = checksum(swapped.data() + sizeof h, h.index_size, frame_magic);
      h.header_checksum = header_checksum(h);
      frames::store(swapped, 0, h);
      CHECK(caches::decode<codec::uncompressed>(f.made_with, swapped, back.view()).damaged == 2);
    }
  CHECK(pairs > 4);
}

TEST_CASE("frame: an index of absurd sizes allocates nothing and overflows nothing") {
  // A header and an index made by hand, every checksum right.
  const auto verdict = [](const frame_header& like, const std::vector<shape_run>& runs, std::size_t entries) {
    bytes b(sizeof(frame_header) + (runs.size() * sizeof(shape_run) + entries * 8 + 15) / 16 * 16);
    frame_header h = like;
    h.magic = frame_magic;
    h.version_major = SLUICE_FORMAT_VERSION_MAJOR;
    h.version_minor = SLUICE_FORMAT_VERSION_MINOR;
    h.header_size = sizeof h;
    h.index_size = std::uint32_t(b.size() - sizeof h);
    h.frame_size = b.size();
    h.shape_runs = std::uint16_t(runs.size());
    std::memcpy(b.data() + sizeof h, runs.data(), runs.size() * sizeof(shape_run));
    h.index_checksum = checksum(b.data() + sizeof h, h.index_size, frame_magic);
    h.header_checksum = header_checksum(h);
    frames::store(b, 0, h);
    frame_index index;
    return index.parse(b);
  };
  frame_header h{};
  h.tokens = h.tile_tokens = 16;
  h.passes = h.levels_present = 1;
  h.layers = 1;
  CHECK(verdict(h, {{1, 2, {8, 8}, {16, 16}, {1, 1}, 0}}, 2) == status::ok);
  CHECK(verdict(h, {{1, 2, {8, 0}, {16, 0}, {1, 0}, 0}}, 1) == status::ok);
  CHECK(verdict(h, {{1, 2, {0, 0}, {0, 0}, {0, 0}, 0}}, 0) == status::corrupt_index);  // heads of nothing
  CHECK(verdict(h, {{1, 0, {0, 0}, {0, 0}, {0, 0}, 0}}, 0) == status::corrupt_index);  // no layer keeps anything
  CHECK(verdict(h, {{1, 0, {8, 8}, {16, 16}, {1, 1}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, {{1, 2, {8, 8}, {16, 16}, {6, 1}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, {{1, 2, {8, 8}, {16, 16}, {1, 255}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, {{1, 2, {8, 0}, {16, 0}, {1, 1}, 0}}, 1) == status::corrupt_index);  // a type of nothing
  CHECK(verdict(h, {{1, 2, {8, 8}, {16, 16}, {1, 1}, 1}}, 2) == status::corrupt_index);
  h.layers = 3;
  CHECK(verdict(
            h,
            {{1, 0, {0, 0}, {0, 0}, {0, 0}, 0}, {1, 2, {8, 8}, {16, 16}, {0, 5}, 0}, {1, 0, {0, 0}, {0, 0}, {0, 0}, 0}},
            2) == status::ok);
  CHECK(verdict(h, {{3, 0, {0, 0}, {0, 0}, {0, 0}, 0}}, 0) == status::corrupt_index);
  h.layers = 1;
  CHECK(verdict(h, {{1, 2, {8, 8}, {16, 16}, {1, 1}, 0}}, 0) == status::corrupt_index);
  CHECK(verdict(h, {{1, 0, {8, 8}, {16, 16}, {1, 1}, 0}}, 0) == status::corrupt_index);
  CHECK(verdict(h, {{1, 2, {8, 8}, {0, 16}, {1, 1}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, {{1, 2, {8, 8}, {12, 16}, {1, 1}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, {{1, 2, {8, 0}, {16, 16}, {1, 0}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, {{0, 2, {8, 8}, {16, 16}, {1, 1}, 0}, {1, 2, {8, 8}, {16, 16}, {1, 1}, 0}}, 2) ==
        status::corrupt_index);
  CHECK(verdict(h, {{1, 65535, {65535, 65535}, {65535, 65535}, {1, 1}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, {{1, 4096, {16384, 16384}, {16384, 16384}, {1, 1}, 0}}, 2) == status::corrupt_index);
  h.layers = 4096;
  h.tokens = max_frame_tokens;
  h.tile_tokens = 1;
  h.passes = 6;
  CHECK(verdict(h, {{4096, 4096, {16384, 16384}, {1, 1}, {1, 1}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, {{4096, 4096, {16384, 16384}, {16384, 16384}, {1, 1}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, {{65535, 4096, {1, 1}, {1, 1}, {1, 1}, 0}}, 2) == status::corrupt_index);
  CHECK(verdict(h, std::vector<shape_run>(4096, {4096, 4096, {1, 1}, {1, 1}, {1, 1}, 0}), 2) == status::corrupt_index);
  h.layers = 1;
  h.tokens = max_frame_tokens;
  h.tile_tokens = max_tile_tokens;
  h.passes = 1;
  CHECK(verdict(h, {{1, 1, {1, 0}, {1, 0}, {1, 0}, 0}}, 256) == status::ok);
}

TEST_CASE("frame: hostile bytes behind right checksums never harm the decoder") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  const auto all = [&]<class Codec>(bool calibrated) {
    const auto f = small_frame::make<Codec>(calibrated);
    frame_index index;
    REQUIRE(index.parse(f.frame) == status::ok);
    decoder<Codec> d(f.made_with);
    caches::cache back = make_cache(f.shape, 23, dtype::f16, engine::vllm_nhd);
    std::size_t refused = 0, accepted = 0;
    const auto attack = [&](const bytes& b) {
      const bytes exact(b.begin(), b.end());
      const page_status done = d.decode(exact, back.view());
      ++(done.worst == status::ok ? accepted : refused);
    };
    // Every byte of the payload and of the index, with a few values each.
    for (std::size_t at = sizeof(frame_header); at < f.frame.size(); ++at)
      for (const unsigned value : {0x00u, 0x01u, 0x7fu, 0x80u, 0xffu}) {
        bytes b = f.frame;
        b[at] = std::byte(value);
        frames::fix_checksums(b);
        attack(b);
      }
    // Several at once, and pieces moved about.
    for (int round = 0; round < 3000; ++round) {
      bytes b = f.frame;
      for (std::uint64_t n = 1 + random() % 6; n > 0; --n) {
        const std::size_t at = 32 + std::size_t(random() % (b.size() - 32));
        switch (random() % 3) {
          case 0: b[at] = std::byte(random()); break;
          case 1: frames::store(b, std::min(at, b.size() - 4), std::uint32_t(random() >> random() % 33)); break;
          default:
            std::swap_ranges(b.begin() + std::ptrdiff_t(at),
                             b.begin() + std::ptrdiff_t(at + std::min<std::size_t>(16, (b.size() - at) / 2)),
                             b.begin() + std::ptrdiff_t(at + (b.size() - at) / 2));
        }
      }
      frames::fix_checksums(b);
      attack(b);
    }
    CHECK(refused > 0);
    CHECK(accepted > 0);
  };
  for_each_codec(all);
  all.operator()<codec::balanced>(true);
  all.operator()<codec::smallest>(true);
}
