// SPDX-License-Identifier: Apache-2.0
// Codecs and stages that do not keep their promises: a named status for what they touched, everything else unharmed.
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>

#include <cstdint>
#include <map>
#include <tuple>
#include <utility>
#include <vector>

namespace {

using namespace sluice;
using caches::make_cache;

constexpr std::uint64_t seed = 1702;
// An uncalibrated profile has a basis for each head: two groups of K and two of V in a layer.
constexpr int groups = 2, tile_size = 64, tokens = 150, layers = 6;

const model_shape& shape() {
  static const model_shape s = model_shape::uniform(layers, 2, 32);
  return s;
}
const profile& plain_profile() {
  static const profile p = profile::uncalibrated(shape());
  return p;
}
caches::cache filled() {
  caches::cache c = make_cache(shape(), tokens);
  caches::fill(c.view(), shape(), seed);
  return c;
}

// K and V of one layer of a view.
kv_view layer_of(const kv_view& v, int layer) {
  static constexpr std::int32_t ids[layers] = {0, 1, 2, 3, 4, 5};
  kv_view one = v;
  one.k.base += layer * v.k.layer_stride;
  one.v.base += layer * v.v.layer_stride;
  one.num_layers = 1;
  one.layer_ids = &ids[layer];
  return one;
}
std::vector<std::byte> bytes_of(const kv_view& v, int layer, int first = 0, int last = tokens) {
  return caches::elements(layer_of(v, layer).slice(first, last));
}

// Another codec of the same behaviour, but for its name and what a test puts in its place.
constexpr codec_id renamed(codec_id id) {
  id.method.id = 200;
  return id;
}

// Writes a megabyte behind every tile of a codec.
template <class Base>
struct flood : Base {
  static constexpr codec_id id = renamed(Base::id);
  struct encoder : Base::encoder {
    using base = typename Base::encoder;
    using base::base;
    status encode(tile_rows& in, const side_info& side, int passes, tile_writer& w) {
      const status s = base::encode(in, side, passes, w);
      w.at(0, section::other7).resize(1 << 20, 0xee);
      return s;
    }
  };
};

// Gives a row too few of K of layer 1.
template <class Base>
struct short_rows : Base {
  static constexpr codec_id id = renamed(Base::id);
  struct decoder : Base::decoder {
    using base = typename Base::decoder;
    using base::base;
    static int short_by(const tile& t) { return t.place.layer == 1 && t.place.plane == plane::key; }
    int rows(const tile& t, int first, int n, float* out, std::ptrdiff_t ld) {
      return base::rows(t, first, n, out, ld) - short_by(t);
    }
    std::span<const std::uint8_t> elements(const tile& t, int first, int n) const {
      return base::elements(t, first, n - short_by(t));
    }
  };
};

// A decoder that sets nothing and writes nothing.
template <class Base, bool Boasts>
struct idle : Base {
  static constexpr codec_id id = renamed(Base::id);
  struct decoder {
    decoder(const profile&, isa) {}
    status state() const { return status::ok; }
    void decode(std::span<tile>, const side_info&) {}
    int rows(const tile&, int, int n, float*, std::ptrdiff_t) { return Boasts ? n : 0; }
    std::span<const std::uint8_t> elements(const tile&, int, int) const { return {}; }
  };
};

// Says that the profile does not serve.
template <class Base>
struct unwilling : Base {
  struct encoder : Base::encoder {
    using base = typename Base::encoder;
    using base::base;
    status state() const { return status::missing_section; }
  };
  struct decoder : Base::decoder {
    using base = typename Base::decoder;
    using base::base;
    status state() const { return status::missing_section; }
  };
};

// Odd layers from the one below, as they were decoded.
struct pairs {
  static constexpr stage_id id = stage_id::of(200);
  static constexpr int span = 1;
  static constexpr bool predicts = true;
  explicit pairs(const profile&) {}

  void forget() { learnt_.clear(); }
  bool predict(const group_place& at, const tile_tokens_range& range, std::span<const std::uint16_t> rows,
               const side_info&, float* out, std::ptrdiff_t ld) {
    if (at.layer % 2 == 0) return false;
    for (std::size_t r = 0; r < rows.size(); ++r) {
      const auto row = learnt_.find({at.layer - 1, at.plane, at.group, range.frame_token + rows[r]});
      if (row == learnt_.end()) continue;
      for (int i = 0; i < at.width(); ++i) out[std::ptrdiff_t(r) * ld + i] = row->second[std::size_t(i)];
    }
    return true;
  }
  void learn(const group_place& at, const tile_tokens_range& range, std::span<const std::uint16_t> rows, const float* x,
             std::ptrdiff_t ld) {
    for (std::size_t r = 0; r < rows.size(); ++r, x += ld)
      learnt_[{at.layer, at.plane, at.group, range.frame_token + rows[r]}].assign(x, x + at.width());
  }

 private:
  std::map<std::tuple<int, plane, int, int>, std::vector<float>> learnt_;
};

// Does not say that it needs a profile.
struct modest : class_rans {
  static constexpr stage_id id = stage_id::of(201);
  static bool uses(const profile&) { return false; }
};

using grouped = codec::standard::with_grouping<tile_tokens<tile_size>>;
using predicted = grouped::with_predictor<pairs>;

}  // namespace

TEST_CASE("faults: an encoder that writes more than the tile has it kept exact") {
  caches::cache source = filled();
  const auto check = [&]<class Codec>() {
    const auto frame = caches::encode<Codec>(plain_profile(), source.view());
    REQUIRE(!frame.empty());
    CHECK(frame.size() <= encoder<Codec>(plain_profile()).max_size(source.view()));
    caches::cache back = make_cache(shape(), tokens);
    CHECK(caches::decode<Codec>(plain_profile(), frame, back.view()).worst == status::ok);
    CHECK(caches::elements(back.view()) == caches::elements(source.view()));
  };
  check.operator()<flood<codec::exact>>();
  check.operator()<flood<grouped>>();
  check.operator()<flood<predicted>>();
}

TEST_CASE("faults: a decoder that gives too few rows loses that tile") {
  caches::cache source = filled();
  const auto check = [&]<class Codec, class Sound>() {
    auto frame = caches::encode<Codec>(plain_profile(), source.view());
    caches::cache back = make_cache(shape(), tokens), whole = make_cache(shape(), tokens);
    const page_status s = caches::decode<Codec>(plain_profile(), frame, back.view());
    CHECK(s.worst == status::corrupt_tile);
    const std::uint32_t token_tiles = (tokens + Codec::tile_tokens - 1) / Codec::tile_tokens;
    CHECK(s.damaged == groups * token_tiles);
    CHECK(s.tiles == 2 * groups * layers * token_tiles);
    const auto sound = caches::encode<Sound>(plain_profile(), source.view());
    REQUIRE(caches::decode<Sound>(plain_profile(), sound, whole.view()).worst == status::ok);
    for (int l = 0; l < layers; ++l) {
      CAPTURE(l);
      kv_view a = layer_of(back.view(), l), b = layer_of(whole.view(), l);
      if (l == 1) a.k = b.k = {};
      CHECK(caches::elements(a) == caches::elements(b));
    }
  };
  check.operator()<short_rows<codec::exact>, codec::exact>();
  check.operator()<short_rows<grouped>, grouped>();
}

TEST_CASE("faults: a decoder that sets nothing") {
  caches::cache source = filled();
  const auto check = [&]<class Codec>(status expected) {
    const auto frame = caches::encode<Codec>(plain_profile(), source.view());
    caches::cache back = make_cache(shape(), tokens);
    const page_status s = caches::decode<Codec>(plain_profile(), frame, back.view());
    CHECK(s.worst == expected);
    CHECK(s.damaged == (expected == status::ok ? 0 : s.tiles));
  };
  check.operator()<idle<codec::exact, false>>(status::corrupt_tile);
  check.operator()<idle<codec::plain<4>, false>>(status::corrupt_tile);
  check.operator()<idle<codec::plain<4>, true>>(status::ok);  // it says that it did
}

TEST_CASE("faults: a codec whom the profile does not serve") {
  caches::cache source = filled(), back = make_cache(shape(), tokens);
  const auto frame = caches::encode<codec::exact>(plain_profile(), source.view());
  using codec = unwilling<codec::exact>;
  std::vector<std::byte> out(1 << 20);
  CHECK(encoder<codec>(plain_profile()).encode(source.view(), out).status() == status::missing_section);
  CHECK(encoder<codec>(plain_profile()).max_size(source.view()) == 0);
  CHECK(caches::decode<codec>(plain_profile(), frame, back.view()).worst == status::missing_section);
}

TEST_CASE("faults: how many levels there are is the profile's, whatever the stages say") {
  caches::cache source = filled(), back = make_cache(shape(), tokens);
  using codec = codec::standard::with_transform<identity_transform>::with_entropy<modest>;
  const auto frame = caches::encode<codec>(plain_profile(), source.view());
  CHECK(caches::decode<codec>(plain_profile(), frame, back.view()).worst == status::ok);
  for (int passes : {1, 2, 6}) {
    const profile other = profile::uncalibrated(shape(), passes);
    CHECK(caches::decode<codec>(other, frame, back.view()).worst == status::wrong_profile);
  }
}

TEST_CASE("faults: what a damaged layer costs a predictor's reader") {
  CAPTURE(seed);
  caches::cache source = filled(), whole = make_cache(shape(), tokens);
  const profile& p = plain_profile();
  const auto frame = caches::encode<predicted>(p, source.view());
  REQUIRE(caches::decode<predicted>(p, frame, whole.view()).worst == status::ok);
  CHECK(caches::relative_error(source.view(), whole.view()) < 0.05);
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);

  for (int damaged = 0; damaged < layers; ++damaged)
    for (plane which : caches::planes) {
      CAPTURE(damaged);
      auto bad = frame;
      bad[std::size_t(index.range(index.ordinal(0, {damaged, which, 1, 0})).begin) + 20] ^= std::byte{1};
      caches::cache back = make_cache(shape(), tokens);
      const page_status s = caches::decode<predicted>(p, bad, back.view());
      CHECK(s.worst == status::corrupt_tile);
      // And V of the layer, and the layer within the span.
      CHECK(s.damaged == 1u + (which == plane::key ? groups : 0u) + (damaged + 1 < layers ? 2 * groups : 0u));
      for (int l = 0; l < layers; ++l) {
        CAPTURE(l);
        for (const auto& [first, last] : {std::pair{0, tile_size}, {2 * tile_size, tokens}})
          CHECK(bytes_of(back.view(), l, first, last) == bytes_of(whole.view(), l, first, last));
        if (l != damaged && l != damaged + 1)
          CHECK(bytes_of(back.view(), l, tile_size, 2 * tile_size) ==
                bytes_of(whole.view(), l, tile_size, 2 * tile_size));
      }
      // Who asks for one layer learns of damage below it and of no other.
      for (int l = 0; l < layers; ++l) {
        CAPTURE(l);
        caches::cache one = make_cache(shape(), tokens);
        const page_status t = caches::decode<predicted>(p, bad, one.view(), {.layers = {l, l + 1}});
        CHECK(t.worst == (l == damaged || l == damaged + 1 ? status::corrupt_tile : status::ok));
        if (t) CHECK(bytes_of(one.view(), l) == bytes_of(whole.view(), l));
      }
    }
}

TEST_CASE("faults: what was learnt of one frame is not used in the next") {
  caches::cache source = filled();
  const profile& p = plain_profile();
  // The second frame lacks layer 0: neither side may take it from the first.
  const std::int32_t ids[] = {1, 2, 3, 4, 5};
  kv_view part = source.view();
  part.k.base += part.k.layer_stride;
  part.v.base += part.v.layer_stride;
  part.num_layers = layers - 1;
  part.layer_ids = ids;

  encoder<predicted> used(p);
  std::vector<std::byte> first(used.max_size(source.view())), second(used.max_size(part));
  REQUIRE(bool(used.encode(source.view(), first)));
  const auto size = used.encode(part, second);
  REQUIRE(bool(size));
  second.resize(*size);
  CHECK(second == caches::encode<predicted>(p, part));

  caches::cache a = make_cache(shape(), tokens), b = make_cache(shape(), tokens);
  decoder<predicted> reader(p);
  REQUIRE(reader.decode(first, a.view()).worst == status::ok);
  const auto decode_part = [&](decoder<predicted>& d, caches::cache& to) {
    to.wipe();
    kv_view v = part;
    v.k.base = to.view().k.base + part.k.layer_stride;
    v.v.base = to.view().v.base + part.v.layer_stride;
    CHECK(d.decode(second, v).worst == status::ok);
    CHECK(caches::relative_error(part, v) < 0.05);
  };
  decode_part(reader, a);
  decoder<predicted> fresh(p);
  decode_part(fresh, b);
  CHECK(a.bytes() == b.bytes());
}
