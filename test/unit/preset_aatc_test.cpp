// SPDX-License-Identifier: Apache-2.0
// codec::aatc on the KV cache of a real model, and what it does with bytes and profiles that are wrong.
#include <sluice/calibrate/aatc.hpp>
#include <sluice/codec/preset/aatc.hpp>

#include <doctest/doctest.h>
#include <support/aatc_model.hpp>
#include <support/rival_checks.hpp>

#include <cstdint>
#include <vector>

using namespace sluice;

namespace {

const profile& fitted() {
  static const profile p = rivals::known().with<aatc_calibrator>(rivals::known().tuned);
  return p;
}

}  // namespace

TEST_CASE("aatc: a real cache comes back, and more bits lose less") {
  const auto fine = rivals::round_trip<codec::aatc<400, 16>>(fitted(), "aatc 4");
  const auto middle = rivals::round_trip<codec::aatc<300, 16>>(fitted(), "aatc 3");
  const auto coarse = rivals::round_trip<codec::aatc<200, 16>>(fitted(), "aatc 2");
  CHECK(fine.error < middle.error);
  CHECK(middle.error < coarse.error);
  // 20 tokens of 256 are exact; each other row has a scale for 192 values.
  for (const auto& [o, rate] : {std::pair{fine, 4.0}, std::pair{middle, 3.0}, std::pair{coarse, 2.0}}) {
    CHECK(o.bits < 1.25 + (rate + 16.0 / 192) * 236 / 256 + 0.05);
    CHECK(o.bits > 1.25 + (rate - 0.1) * 236 / 256);
  }
}

TEST_CASE("aatc: bits follow deviations, and all rates are kept") {
  for (const int rate : {200, 300, 400}) {
    const detail::aatc::model m(fitted(), rate);
    REQUIRE(m.state == status::ok);
    double sum = 0, n = 0;
    for (const auto& a : m.allocations)
      for (std::size_t i = 0; i < a.bits.size(); ++i, ++n) {
        sum += a.bits[i];
        for (std::size_t k = 0; k < a.bits.size(); k += 31)
          if (a.deviation[i] > a.deviation[k]) CHECK(a.bits[i] >= a.bits[k]);
      }
    CHECK(sum / n <= rate / 100.0);
    CHECK(sum / n > rate / 100.0 - 0.05);
  }
}

TEST_CASE("aatc: profiles") {
  rivals::refusals<codec::aatc<300>>(fitted(), rivals::known().tuned);
  std::vector<std::byte> out(1 << 22);
  CHECK(encoder<codec::aatc<250>>(fitted()).encode(rivals::known().view, out).status() == status::missing_section);
  CHECK(aatc_calibrator(fitted(), {5}).finish().status() == status::invalid_argument);
}
TEST_CASE("aatc: sections are untrusted") {
  rivals::hostile_sections<codec::aatc<300, 0>>(aatc::small_model(), 15, 2000);
}
TEST_CASE("aatc: damage is named and stays in its tile") { rivals::damage<codec::aatc<300, 0>>(fitted(), 16, 20); }
TEST_CASE("aatc: what it cannot say is kept") { rivals::outliers<codec::aatc<400>>(fitted()); }
TEST_CASE("aatc: frames move") { rivals::moves<codec::aatc<400, 16>>(fitted()); }

TEST_CASE("aatc: a frame that never changes") {
  profile p = aatc::small_model();
  caches::cache source = caches::make_cache(p.shape, 23);
  for (const plane which : caches::planes)
    for (std::int64_t t = 0; t < 23; ++t)
      for (int d = 0; d < 24; ++d)
        caches::set(source.view(), which, 0, t, 0, d, float((t * 7 + d * 5 + int(which)) % 16 - 8) * 0.25f);
  p.shape.ropes[0].pairing = rope_pairing::none;  // cosines are not the same on all machines
  const auto frame = caches::encode<codec::aatc<300, 0>>(p, source.view());
  CHECK(frame.size() == 1022);
  CHECK(checksum(frame.data(), frame.size(), 0) == 1456578489);
}
