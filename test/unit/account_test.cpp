// SPDX-License-Identifier: Apache-2.0
// What the bytes of a real frame are for: every one of them is counted once, also where the frame is cut or damaged.
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/preset/exact.hpp>
#include <sluice/codec/preset/fixed.hpp>
#include <sluice/format/account.hpp>

#include <doctest/doctest.h>

#include <class_account.hpp>
#include <cstddef>
#include <safetensors.hpp>
#include <string>
#include <vector>

namespace {

using namespace sluice;

// A frame of the capture in test/data, and its index.
template <class Codec>
struct real_frame {
  profile made_with;
  std::vector<std::byte> bytes;
  frame_index index;

  real_frame() {
    safetensors::file file;
    REQUIRE_FALSE(bool(file.open(SLUICE_TEST_DATA "/smollm2_sample.safetensors")));
    result<profile> p = profile::load(SLUICE_TEST_DATA "/smollm2.profile");
    REQUIRE(p);
    made_with = std::move(*p);
    const layer_shape& s = made_with.shape.layers[0];  // all are alike
    kv_view view;
    view.num_layers = made_with.shape.num_layers();
    view.num_kv_heads = s.num_kv_heads;
    view.tokens = view.capacity = file.find("k.0")->shape[0];
    std::vector<std::byte*> bases[2];
    for (plane which : {plane::key, plane::value}) {
      for (int l = 0; l < view.num_layers; ++l)
        bases[int(which)].push_back(
            file.bytes(*file.find((which == plane::key ? "k." : "v.") + std::to_string(l))).data());
      plane_view& v = which == plane::key ? view.k : view.v;
      v.layer_bases = bases[int(which)].data();
      v.head_dim = s.head_dim(which);
      v.element_stride = 2;
      v.head_stride = 2 * v.head_dim;
      v.token_stride = v.head_stride * s.num_kv_heads;
    }
    encoder<Codec> encoder(made_with);
    bytes.resize(encoder.max_size(view));
    const result<std::size_t> size = encoder.encode(view, bytes);
    REQUIRE(size);
    bytes.resize(*size);
    REQUIRE(index.parse(bytes) == status::ok);
  }
  byte_account account() const { return sluice::account(index, bytes); }
  int layers() const { return index.header().layers; }
};

template <class Codec>
void check_whole() {
  const real_frame<Codec> f;
  const byte_account a = f.account();
  CHECK(a.total() == f.bytes.size());
  CHECK(a.index == f.index.payload_offset());
  CHECK(a.tiles == f.index.tiles_per_pass() * f.index.header().passes);
  CHECK(a.damaged == 0);
  CHECK(a.missing == 0);
  CHECK(a.values == 2u * 192u * 30u * f.index.header().tokens);
  CHECK(a.raw == 2 * a.values);
  REQUIRE(a.passes.size() == f.index.header().passes);
  for (std::size_t p = 0; p < a.passes.size(); ++p) {
    CHECK(a.passes[p].unread == 0);
    CHECK(a.passes[p].total() == f.index.range(int(p), 0, f.layers()).size());
    for (int l = 0; l < f.layers(); ++l) {
      const auto& [k, v] = a.passes[p].layers[std::size_t(l)];
      CHECK(k + v == f.index.range(int(p), l, l + 1).size());
      CHECK(k > 0);
      CHECK(v > 0);
    }
  }
  const pass_account all = a.all_passes();
  CHECK(all.total() + a.index == f.bytes.size());
}

}  // namespace

TEST_CASE("account: every byte of a frame of any codec is for something") {
  check_whole<codec::standard>();
  check_whole<codec::fixed<4>>();
  check_whole<codec::exact>();
}

TEST_CASE("account: sections are what the codec wrote, and those of class_rans come apart in turn") {
  const real_frame<codec::standard> f;
  const frame_account a = account_of(f.index, f.bytes);
  REQUIRE(a.classes.size() == a.bytes.passes.size());
  for (std::size_t p = 0; p < a.classes.size(); ++p) {
    const pass_account& pass = a.bytes.passes[p];
    const class_bytes& c = a.classes[p];
    CHECK(pass.coded() == pass.sections[int(section::entropy)]);  // the profile is calibrated: nothing else is needed
    CHECK(c.code + c.states + c.deltas + c.classes + c.exceptions + c.flags == pass.coded());
    CHECK(c.classes == 0);
    CHECK((p % 2 == 1) == (c.states == 0));  // two passes share the states of their coder
    CHECK(c.states <= detail::most_packed_states * f.index.tiles_per_pass());
    CHECK(c.flags == f.index.tiles_per_pass());
    CHECK((p == 0) == (pass.exact > 0));  // the first tokens of the sequence
  }
}

TEST_CASE("account: a frame that is cut is counted as far as it goes") {
  const real_frame<codec::standard> f;
  const byte_account whole = f.account();
  const std::span<const std::byte> bytes(f.bytes);
  for (const std::uint64_t size :
       {std::uint64_t{0}, f.index.payload_offset() - 1, f.index.payload_offset(), f.index.payload_offset() + 7,
        f.index.size_at(0) - 1, f.index.size_at(0), f.index.size_at(2) + 1000, f.index.size_at(3) - 1}) {
    CAPTURE(size);
    const byte_account a = account(f.index, bytes.first(std::size_t(size)));
    CHECK(a.total() == size);
    CHECK(a.damaged == 0);
    CHECK(a.missing > 0);
    CHECK(a.tiles == whole.tiles);
    CHECK(a.values == whole.values);  // what is cut off counts as all there
  }
  // Cut after a level, as truncate() does it.
  std::vector<std::byte> cut = f.bytes;
  cut.resize(truncate(cut, 1).value());
  frame_index index;
  REQUIRE(index.parse(cut) == status::ok);
  const byte_account a = account(index, cut);
  CHECK(a.passes.size() == 2);
  CHECK(a.missing == 0);
  CHECK(a.total() == cut.size());
}

TEST_CASE("account: damage stays where it is") {
  const real_frame<codec::standard> f;
  const byte_account whole = f.account();
  for (const int pass : {0, 2}) {
    CAPTURE(pass);
    std::vector<std::byte> damaged = f.bytes;
    const byte_range r = f.index.range(f.index.ordinal(pass, {17, plane::value, 0, 0}));
    damaged[std::size_t(r.begin + r.end) / 2] ^= std::byte{4};
    int seen = 0;
    const byte_account a =
        account(f.index, damaged, [&](const tile_key&, int, const tile_envelope&, const tile_sections&) { ++seen; });
    CHECK(a.total() == damaged.size());
    CHECK(a.damaged == 1);
    CHECK(a.missing == 0);
    for (int p = 0; p < int(a.passes.size()); ++p) {
      CHECK(a.passes[std::size_t(p)].unread == (p == pass ? r.size() : 0));
      CHECK(a.passes[std::size_t(p)].layers == whole.passes[std::size_t(p)].layers);
    }
    CHECK(seen == int(whole.tiles) - (pass == 0 ? int(a.passes.size()) : 1));  // nothing of a tile without its base
    CHECK(a.values == whole.values);
  }
}

TEST_CASE("account: frames of one sequence add up") {
  const real_frame<codec::fixed<4>> f;
  byte_account sum = f.account();
  sum += f.account();
  CHECK(sum.total() == 2 * f.bytes.size());
  CHECK(sum.values == 2 * f.account().values);
  CHECK(sum.passes[0].layers[3][1] == 2 * f.account().passes[0].layers[3][1]);
}
