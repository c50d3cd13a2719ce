// SPDX-License-Identifier: Apache-2.0
// KVTC's own coder of bytes, through zlib.
#include <sluice/calibrate/kvtc.hpp>
#include <sluice/codec/entropy/deflate.hpp>
#include <sluice/codec/preset/kvtc.hpp>

#include <doctest/doctest.h>
#include <support/rival_checks.hpp>

#include <cstdint>
#include <random>
#include <vector>

using namespace sluice;

TEST_CASE("deflate: kvtc as its paper has it comes back, and differs from the default in its coder alone") {
  const profile p = rivals::known().with<kvtc_calibrator>(rivals::known().bare);
  using own = codec::kvtc<16, 16>;
  using paper = codec::kvtc<16, 16, deflate_bytes>;
  static_assert(own::id != paper::id && own::id.method == paper::id.method);
  const auto a = rivals::round_trip<own>(p, "kvtc 16"), b = rivals::round_trip<paper>(p, "kvtc 16, DEFLATE");
  CHECK(a.error == b.error);
  CHECK(a.bits < b.bits);
  const auto frame = caches::encode<paper>(p, rivals::known().view);
  caches::cache back = caches::make_cache(rivals::known().shape, 256);
  CHECK(caches::decode<own>(p, frame, back.view()).worst == status::wrong_codec);
  rivals::damage<paper>(p, 22, 40);
}

TEST_CASE("deflate: there and back, and bytes that are no code") {
  constexpr unsigned seed = 23;
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::uint8_t> bytes(random() % 3000), code, back(bytes.size());
    for (std::uint8_t& b : bytes) b = std::uint8_t(random() % 9);
    deflate_bytes::encode(bytes, {}, code);
    CHECK(deflate_bytes::decode(code, {}, back));
    CHECK(back == bytes);
    std::vector<std::uint8_t> more = code;
    more.push_back(0);
    CHECK_FALSE(deflate_bytes::decode(more, {}, back));
    more = code;
    more.resize(random() % code.size());
    CHECK_FALSE(deflate_bytes::decode(more, {}, back));
    back.push_back(0);
    CHECK_FALSE(deflate_bytes::decode(code, {}, back));
  }
}
