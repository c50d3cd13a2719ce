// SPDX-License-Identifier: Apache-2.0
// codec::kvtc on the KV cache of a real model, and what it does with bytes and profiles that are wrong.
#include <sluice/calibrate/kvtc.hpp>
#include <sluice/codec/preset/kvtc.hpp>

#include <doctest/doctest.h>
#include <support/kvtc_model.hpp>
#include <support/rival_checks.hpp>

#include <cstdint>
#include <random>
#include <vector>

using namespace sluice;

namespace {

const profile& fitted() {
  static const profile p = rivals::known().with<kvtc_calibrator>(rivals::known().bare);
  return p;
}

}  // namespace

TEST_CASE("kvtc: a real cache comes back, and larger ratios take fewer bytes") {
  const auto fine = rivals::round_trip<codec::kvtc<8, 16>>(fitted(), "kvtc 8");
  const auto middle = rivals::round_trip<codec::kvtc<16, 16>>(fitted(), "kvtc 16");
  const auto coarse = rivals::round_trip<codec::kvtc<32, 16>>(fitted(), "kvtc 32");
  CHECK(fine.bits > middle.bits);
  CHECK(middle.bits > coarse.bits);
  CHECK(fine.error < middle.error);
  CHECK(middle.error < coarse.error);
  CHECK(coarse.error < 0.5);
  // 20 tokens of 256 take 1.25 bits; the coder of bytes may not add to what the ratio leaves for the others.
  CHECK(fine.bits < 1.25 + 2.1);
  CHECK(middle.bits < 1.25 + 1.1);
  CHECK(coarse.bits < 1.25 + 0.6);
}

TEST_CASE("kvtc: profiles") {
  rivals::refusals<codec::kvtc<16>>(fitted(), rivals::known().bare);
  std::vector<std::byte> out(1 << 22);
  CHECK(encoder<codec::kvtc<15>>(fitted()).encode(rivals::known().view, out).status() == status::missing_section);
  CHECK(kvtc_calibrator(fitted(), {1}).finish().status() == status::invalid_argument);
}
TEST_CASE("kvtc: sections are untrusted") {
  rivals::hostile_sections<codec::kvtc<16, 0>>(kvtc::small_model(), 11, 2000);
}
TEST_CASE("kvtc: damage is named and stays in its tile") { rivals::damage<codec::kvtc<16, 0>>(fitted(), 12, 60); }
TEST_CASE("kvtc: what it cannot say is kept") { rivals::outliers<codec::kvtc<8>>(fitted()); }
TEST_CASE("kvtc: frames move") { rivals::moves<codec::kvtc<8, 16>>(fitted()); }

TEST_CASE("kvtc: runs are found that take their bits and lose least") {
  // What few components hold takes few components: the others have no runs.
  const profile p = profile::uncalibrated(model_shape::uniform(1, 1, 64));
  caches::cache c = caches::make_cache(p.shape, 600);
  std::mt19937 random(7);
  for (const plane which : caches::planes)
    for (std::int64_t t = 0; t < 600; ++t) {
      const float a = float(int(random() % 2001) - 1000) / 100, b = float(int(random() % 2001) - 1000) / 200;
      for (int d = 0; d < 64; ++d) caches::set(c.view(), which, 0, t, 0, d, d % 2 ? a : b);
    }
  const auto section = calibrate_kvtc(p, {&c.view(), 1}, {16});
  REQUIRE(section);
  profile with = p;
  with.set_section(*section);
  const detail::kvtc::model m(with, 16);
  REQUIRE(m.state == status::ok);
  for (const auto& b : m.bases) {
    CHECK(b.coded() >= 2);
    CHECK(b.coded() <= 17);
    std::size_t bits = 0;
    for (const auto& r : b.runs) bits += 8 * r.code_bytes() + (r.scaled() ? 32 : 0);
    CHECK(bits <= 64);
  }
}

TEST_CASE("adaptive bytes: there and back, and bytes that are no code") {
  constexpr unsigned seed = 21;
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 60; ++round) {
    std::vector<std::size_t> regions(random() % 4);
    std::vector<std::uint8_t> bytes, code, back;
    for (std::size_t& r : regions) {
      r = random() % 700;
      const unsigned spread = 1 + random() % 256;
      for (std::size_t i = 0; i < r; ++i) bytes.push_back(std::uint8_t(random() % spread));
    }
    adaptive_bytes::encode(bytes, regions, code);
    CHECK(code.size() <= bytes.size() + bytes.size() / 16 + 64 * regions.size() + 12);
    back.resize(bytes.size());
    CHECK(adaptive_bytes::decode(code, regions, back));
    CHECK(back == bytes);
    code.resize(random() % code.size());
    CHECK_FALSE(adaptive_bytes::decode(code, regions, back));
  }
  // What repeats is cheap.
  const std::size_t region = 4096;
  const std::vector<std::uint8_t> same(region, 77);
  std::vector<std::uint8_t> code;
  adaptive_bytes::encode(same, {&region, 1}, code);
  CHECK(code.size() < 160);
}

TEST_CASE("kvtc: a frame that never changes") {
  const profile p = kvtc::small_model();
  caches::cache source = caches::make_cache(p.shape, 23);
  for (const plane which : caches::planes)
    for (std::int64_t t = 0; t < 23; ++t)
      for (int d = 0; d < 24; ++d)
        caches::set(source.view(), which, 0, t, 0, d, float((t * 7 + d * 5 + int(which)) % 16 - 8) * 0.25f);
  const kv_view v = source.view();
  profile still = p;
  still.shape.ropes[0].pairing = rope_pairing::none;  // cosines are not the same on all machines
  const auto frame = caches::encode<codec::kvtc<16, 0>>(still, v);
  CHECK(frame.size() == 1186);
  CHECK(checksum(frame.data(), frame.size(), 0) == 3331175607);
}
