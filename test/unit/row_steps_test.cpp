// SPDX-License-Identifier: Apache-2.0
// Steps of rows: what their section says, what a codec makes of them, on the real capture.
#include <sluice/codec/decoder.hpp>
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/row_classes.hpp>

#include <doctest/doctest.h>
#include <support/isas.hpp>
#include <support/real_cache.hpp>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace {

using namespace sluice;

// Steps that go by the position; tokens 5 and 6 stand apart.
template <int Finest, int Apart>
struct by_position : profile_steps {
  static constexpr stage_id id = stage_id::of(130);
  static bool keeps_exact(const profile&, std::int64_t) noexcept { return false; }
  static row_class at(std::int64_t position) noexcept {
    if (position == 5 || position == 6) return {Apart, open_spread};
    return {std::int8_t(Finest + 3 * int(position % 5)), 0};
  }
  struct encoder {
    encoder(const profile&, isa) {}
    void rows(const tile_rows& in, std::span<row_class> out) const {
      for (std::size_t r = 0; r < out.size(); ++r) out[r] = at(in.range.position + in.rows[r]);
    }
  };
};

// [layer][plane][token] the error of a token, relative to that of `base`.
struct errors {
  std::vector<double> of;
  std::size_t bytes = 0;
};

template <class Codec>
errors round_trip(real_cache& c, int level) {
  errors out;
  encoder<Codec> e{c.model};
  decoder<Codec> d{c.model};
  std::vector<std::byte> frame(e.max_size(c.view));
  frame.resize(e.encode(c.view, frame).value());
  out.bytes = frame.size();
  std::vector<std::uint16_t> back[2];
  std::vector<std::byte*> bases[2];
  kv_view to = c.view;
  for (const plane p : {plane::key, plane::value}) {
    const plane_view& v = c.view[p];
    const std::size_t n = std::size_t(v.token_stride / 2 * c.view.tokens);
    back[int(p)].resize(n * std::size_t(c.view.num_layers));
    for (int l = 0; l < c.view.num_layers; ++l)
      bases[int(p)].push_back(reinterpret_cast<std::byte*>(back[int(p)].data() + n * std::size_t(l)));
    (p == plane::key ? to.k : to.v).layer_bases = bases[int(p)].data();
  }
  const page_status s = d.decode(frame, to, {.level = level});
  REQUIRE(s.worst == status::ok);
  for (int l = 0; l < c.view.num_layers; ++l)
    for (const plane p : {plane::key, plane::value})
      for (std::int64_t t = 0; t < c.view.tokens; ++t) {
        const auto* a =
            reinterpret_cast<const f16*>(c.view.layer_base(c.view[p], l) + c.view.token_offset(c.view[p], t));
        const auto* b = reinterpret_cast<const f16*>(to.layer_base(to[p], l) + to.token_offset(to[p], t));
        double sum = 0;
        for (std::int64_t i = 0; i < c.view[p].token_stride / 2; ++i)
          sum += std::pow(to_float(a[i]) - to_float(b[i]), 2);
        out.of.push_back(sum);
      }
  return out;
}

}  // namespace

TEST_CASE("row classes: the section says what rows want, in any order of rows") {
  std::mt19937 random(20260);
  for (int n = 0; n < 200; ++n) {
    CAPTURE(n);
    std::vector<row_class> want(1 + random() % 300);
    const int kinds = 1 + int(random() % 20);
    for (row_class& c : want)
      c = {std::int8_t(int(random() % unsigned(kinds)) - 4), std::int8_t(random() % 40 ? 0 : 9)};
    row_classes a, b;
    a.assign(want);
    std::vector<std::uint8_t> bytes;
    a.write(bytes);
    REQUIRE(b.parse(bytes, int(want.size())));
    CHECK(b.classes().size() == a.classes().size());
    CHECK(a.classes().size() <= std::size_t(max_row_classes));
    std::vector<std::uint8_t> seen(want.size());
    int last = 0;
    for (std::size_t r = 0; r < want.size() && !a.empty(); ++r) {
      CHECK(a.of(int(r)) == b.of(int(r)));
      const row_class got = b.classes()[std::size_t(b.of(int(r)))];
      if (kinds < 8) CHECK(got == want[r]);
      CHECK(got.step <= want[r].step);  // never coarser than asked for
      CHECK(b.scale()[r] == doctest::Approx(std::exp2(got.step / 4.0)));
      const int row = b.order()[r];
      CHECK(b.of(row) >= last);
      last = b.of(row);
      ++seen[std::size_t(row)];
    }
    for (const std::uint8_t s : seen) CHECK((a.empty() || s == 1));
  }
}

TEST_CASE("row classes: hostile sections are refused or harmless") {
  std::mt19937 random(7);
  row_classes c;
  CHECK(c.parse({}, 4));
  CHECK(c.empty());
  const std::uint8_t one[] = {0, 4, 0};
  CHECK(c.parse(one, 4));
  CHECK(c.scale()[3] == 2);
  CHECK_FALSE(c.parse(one, 0));
  const std::uint8_t too_coarse[] = {0, 49, 0};
  CHECK_FALSE(c.parse(too_coarse, 4));
  const std::uint8_t beyond[] = {2, 0, 0, 1, 0, 2, 0, 0xff};  // three classes, and rows of a fourth
  CHECK_FALSE(c.parse(beyond, 4));
  const std::uint8_t padded[] = {1, 0, 0, 1, 0, 0x80};
  CHECK_FALSE(c.parse(padded, 7));
  for (int n = 0; n < 20000; ++n) {
    std::vector<std::uint8_t> bytes(random() % 40);
    for (std::uint8_t& b : bytes) b = std::uint8_t(random() % 3 ? random() % 4 : random());
    const int rows = int(random() % 64);
    if (!c.parse(bytes, rows) || c.empty()) continue;
    for (int r = 0; r < rows; ++r) CHECK(c.of(r) < int(c.classes().size()));
  }
}

TEST_CASE("row steps: a row's error follows its step, at every level") {
  real_cache c;
  for (int level : {0, 1, 3}) {
    CAPTURE(level);
    const errors plain = round_trip<codec::standard>(c, level);
    const errors rows = round_trip<codec::standard::with_bit_widths<by_position<-6, -16>>>(c, level);
    double by_step[5] = {}, of_plain[5] = {}, apart = 0, plain_apart = 0, all = 0, all_plain = 0;
    for (std::size_t i = 0; i < rows.of.size(); ++i) {
      const auto t = std::int64_t(i) % c.view.tokens;
      if (t < 4) continue;  // standard keeps these
      if (t == 5 || t == 6) {
        apart += rows.of[i], plain_apart += plain.of[i];
        continue;
      }
      by_step[t % 5] += rows.of[i];
      of_plain[t % 5] += plain.of[i];
      all += rows.of[i], all_plain += plain.of[i];
    }
    for (int k = 1; k < 5; ++k) CHECK(by_step[k] / of_plain[k] > by_step[k - 1] / of_plain[k - 1]);
    CHECK(apart < plain_apart / 8);  // a step of a sixteenth
    if (level == 3) {                // fine steps: the square of the step
      CHECK(by_step[0] / of_plain[0] == doctest::Approx(std::exp2(-3)).epsilon(0.1));
      CHECK(by_step[2] / of_plain[2] == doctest::Approx(1).epsilon(0.1));
      CHECK(by_step[4] / of_plain[4] > 4);  // 8, but for coefficients that are smaller than such a step
    }
  }
}

TEST_CASE("row steps: bytes do not depend on the instruction set, damage is found") {
  real_cache c;
  using steps = codec::standard::with_bit_widths<by_position<-6, -16>>;
  std::vector<std::byte> first;
  for (const isa i : isas::all) {
    if (usable_isa(i) != i) continue;
    encoder<steps> e{c.model, {i}};
    std::vector<std::byte> frame(e.max_size(c.view));
    frame.resize(e.encode(c.view, frame).value());
    if (first.empty()) first = frame;
    CHECK(std::abs(double(frame.size()) / double(first.size()) - 1) <
          1e-3);  // float sums differ before they are rounded
  }
}
