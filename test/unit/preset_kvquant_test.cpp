// SPDX-License-Identifier: Apache-2.0
// codec::kvquant on the KV cache of a real model, and what it does with bytes and profiles that are wrong.
#include <sluice/calibrate/kvquant.hpp>
#include <sluice/codec/preset/kvquant.hpp>

#include <doctest/doctest.h>
#include <support/kvquant_model.hpp>
#include <support/rival_checks.hpp>

#include <cmath>
#include <cstdint>
#include <vector>

using namespace sluice;

namespace {

const profile& fitted() {
  static const profile p = rivals::known().with<kvquant_calibrator>(rivals::known().tuned);
  return p;
}

}  // namespace

TEST_CASE("kvquant: a real cache comes back, and more bits lose less") {
  const auto fine = rivals::round_trip<codec::kvquant<4>>(fitted(), "kvquant 4");
  const auto coarse = rivals::round_trip<codec::kvquant<3>>(fitted(), "kvquant 3");
  CHECK(fine.error < 0.7 * coarse.error);
  CHECK(coarse.error < 0.2);
  // Codes, one outlier in a hundred of 24 bits and its count, ranges of V, one exact token.
  CHECK(fine.bits < 4 + 0.24 + 0.1 + 0.17 + 0.1 + 0.3);
  CHECK(fine.bits - coarse.bits == doctest::Approx(1).epsilon(0.03));
}

TEST_CASE("kvquant: levels from k-means lose less than a grid, and weights of a profile are heard") {
  const profile uniform = [] {
    kvquant_calibrator nothing(rivals::known().tuned);
    profile p = rivals::known().tuned;
    p.set_section(*nothing.finish());
    return p;
  }();
  // Of the same model with the ranges of K that were learnt, but levels of the line.
  const detail::kvquant::model learnt(fitted(), 3), grid(uniform, 3);
  REQUIRE(learnt.state == status::ok);
  REQUIRE(grid.state == status::ok);
  CHECK(grid.tables[0].levels[0] == -0.875f);
  int differ = 0;
  for (std::size_t i = 0; i < learnt.tables.size(); ++i) differ += learnt.tables[i].levels != grid.tables[i].levels;
  CHECK(differ == int(learnt.tables.size()));
  const profile unweighted = rivals::known().with<kvquant_calibrator>(rivals::known().bare);
  const detail::kvquant::model flat(unweighted, 3);
  REQUIRE(flat.state == status::ok);
  CHECK(flat.tables[0].levels != learnt.tables[0].levels);
}

TEST_CASE("kvquant: profiles") {
  rivals::refusals<codec::kvquant<4>>(fitted(), rivals::known().tuned);
  std::vector<std::byte> out(1 << 22);
  CHECK(encoder<codec::kvquant<5>>(fitted()).encode(rivals::known().view, out).status() == status::missing_section);
  CHECK(kvquant_calibrator(fitted(), {7}).finish().status() == status::invalid_argument);
}
TEST_CASE("kvquant: sections are untrusted") {
  rivals::hostile_sections<codec::kvquant<2>>(kvquant::small_model(), 13, 2000);
}
TEST_CASE("kvquant: damage is named and stays in its tile") { rivals::damage<codec::kvquant<4>>(fitted(), 14, 60); }
TEST_CASE("kvquant: what it cannot say is kept") { rivals::outliers<codec::kvquant<4>>(fitted()); }
TEST_CASE("kvquant: frames move") { rivals::moves<codec::kvquant<4>>(fitted()); }

TEST_CASE("kvquant: a token's range leaves the outliers out") {
  std::vector<float> x, order;
  for (int i = 0; i < 192; ++i) x.push_back(float(i % 17) - 8);
  x[3] = 500;
  x[90] = -300;
  f16 center, span;
  detail::kvquant::range_of_token(x.data(), 192, order, center, span);
  CHECK(to_float(center) == 0);
  CHECK(to_float(span) == 8);
  detail::kvquant::range_of_token(x.data(), 64, order, center, span);  // one
  CHECK(to_float(span) == 8);
}

TEST_CASE("kvquant: a frame that never changes") {
  profile p = kvquant::small_model();
  caches::cache source = caches::make_cache(p.shape, 23);
  for (const plane which : caches::planes)
    for (std::int64_t t = 0; t < 23; ++t)
      for (int d = 0; d < 24; ++d)
        caches::set(source.view(), which, 0, t, 0, d, float((t * 7 + d * 5 + int(which)) % 16 - 8) * 0.25f);
  p.shape.ropes[0].pairing = rope_pairing::none;  // cosines are not the same on all machines
  const auto frame = caches::encode<codec::kvquant<2>>(p, source.view());
  CHECK(frame.size() == 966);
  CHECK(checksum(frame.data(), frame.size(), 0) == 67631807);
}
