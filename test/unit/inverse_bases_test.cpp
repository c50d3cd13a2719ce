// SPDX-License-Identifier: Apache-2.0
// The inverse of a profile's bases is made once, whoever encodes with the profile or a copy of it.
#include <sluice/codec/encoder.hpp>
#include <sluice/codec/transform/inverse_bases.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

namespace {

using namespace sluice;

using shared_bases = std::shared_ptr<const detail::inverse_bases>;

constexpr std::uint64_t seed = 5150;

// A cache, and a profile with a basis for each head.
struct setup {
  model_shape shape = model_shape::uniform(1, 2, 16);
  caches::cache source;
  profile p;
  setup() : source(caches::make_cache(shape, 40)) {
    caches::fill(source.view(), shape, seed);
    p = caches::make_profile(shape, {&source.view(), 1}, 1);
  }
};

// Largest element of |inverse * scale * matrix - 1| over all groups.
double worst_product(const profile& p, const detail::inverse_bases& inverse) {
  double worst = 0;
  std::size_t at = 0;
  for (const plane_profile& q : p.planes)
    for (int g = 0; g < q.groups(); ++g, ++at) {
      const std::size_t n = std::size_t(q.width_of(g));
      REQUIRE(inverse[at].size() == n * n);
      for (std::size_t i = 0; i < n; ++i)
        for (std::size_t j = 0; j < n; ++j) {
          double sum = i == j ? -1 : 0;
          for (std::size_t k = 0; k < n; ++k)
            sum += double(q.scale) * double(to_float(f16{q.matrix_of(g)[i * n + k]})) * double(inverse[at][k * n + j]);
          worst = std::max(worst, std::fabs(sum));
        }
    }
  return worst;
}

}  // namespace

TEST_CASE("inverse bases: encoders of a profile and of its copies share one") {
  const setup s;
  const shared_bases first = detail::inverse_bases_of(s.p);
  REQUIRE(first);
  CHECK(worst_product(s.p, *first) < 1e-4);
  const encoder<> one(s.p), two(s.p, {isa::portable});
  CHECK(detail::inverse_bases_of(s.p) == first);
  const profile copy = s.p;
  CHECK(detail::inverse_bases_of(copy) == first);
  const encoder<codec::standard::with_grouping<tile_tokens<64>>> three(copy);
  CHECK(detail::inverse_bases_of(copy) == first);
  profile assigned = profile::uncalibrated(s.shape);
  assigned = copy;
  CHECK(detail::inverse_bases_of(assigned) == first);
  // What does not change the bases does not cost their inverse.
  assigned.sinks = 9;
  assigned.set_name("another");
  assigned.planes[0].classes[0] ^= 1;
  CHECK(detail::inverse_bases_of(assigned) == first);
  // One that was read from bytes knows nothing of the other.
  const result<profile> read = profile::parse(s.p.serialize());
  REQUIRE(read);
  const shared_bases again = detail::inverse_bases_of(*read);
  CHECK(again != first);
  CHECK(*again == *first);
  const profile moved = std::move(assigned);
  CHECK(detail::inverse_bases_of(moved) == first);
}

TEST_CASE("inverse bases: a changed matrix or scale has another inverse, and its frames are right") {
  const setup s;
  const shared_bases first = detail::inverse_bases_of(s.p);
  const auto frame = caches::encode(s.p, s.source.view());
  for (int change = 0; change < 3; ++change) {
    CAPTURE(change);
    profile other = s.p;
    plane_profile& q = other.planes[1];
    if (change == 0)
      q.scale *= 2;
    else if (change == 1)
      for (std::uint16_t& h : q.matrix) h ^= 0x8000;  // -M
    else
      for (std::size_t i = 0; i < 16; ++i) std::swap(q.matrix[i], q.matrix[16 + i]);
    const shared_bases changed = detail::inverse_bases_of(other);
    REQUIRE(changed);
    CHECK(changed != first);
    CHECK(worst_product(other, *changed) < 1e-4);
    caches::cache back = caches::make_cache(s.shape, 40);
    const auto encoded = caches::encode(other, s.source.view());
    CHECK(encoded != frame);
    CHECK(caches::decode(other, encoded, back.view()).worst == status::ok);
    CHECK(caches::relative_error(s.source.view(), back.view()) < 0.15);
    // The one that was not changed has what it had.
    CHECK(*detail::inverse_bases_of(s.p) == *first);
    CHECK(caches::encode(s.p, s.source.view()) == frame);
  }
  // In place, while an encoder made before lives on.
  profile p = s.p;
  encoder<> before(p);
  p.planes[0].scale *= 4;
  CHECK(*detail::inverse_bases_of(p) != *first);
  CHECK(worst_product(p, *detail::inverse_bases_of(p)) < 1e-4);
  p.planes[0].matrix.assign(p.planes[0].matrix.size(), 0);
  CHECK_FALSE(detail::inverse_bases_of(p));
  CHECK_FALSE(detail::inverse_bases_of(p));  // nor is the failure forgotten
}

TEST_CASE("inverse bases: threads that ask at once get the same") {
  const setup s;
  const auto frame = caches::encode(s.p, s.source.view());
  for (int round = 0; round < 20; ++round) {
    const result<profile> fresh = profile::parse(s.p.serialize());
    REQUIRE(fresh);
    constexpr std::size_t n = 8;
    std::vector<shared_bases> got(n);
    std::vector<std::vector<std::byte>> frames(n);
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < n; ++i)
      threads.emplace_back([&, i] {
        const profile mine = *fresh;
        if (i % 2) frames[i] = caches::encode(mine, s.source.view());
        got[i] = detail::inverse_bases_of(mine);
      });
    for (std::thread& t : threads) t.join();
    for (std::size_t i = 0; i < n; ++i) {
      CHECK(got[i]);
      CHECK(got[i] == got[0]);
      if (i % 2) CHECK(frames[i] == frame);
    }
  }
}
