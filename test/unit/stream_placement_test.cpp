// SPDX-License-Identifier: Apache-2.0
#include <sluice/stream/plan/placement_policies.hpp>
#include <sluice/stream/study/placement.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <string>

using namespace sluice;
using namespace sluice::stream;

namespace {

// Two levels: 40 bytes at a loss of 0.01, 100 bytes without loss.
placed_item item(double recompute_seconds = 1, int depth = 0) {
  return {{40, 100}, {0.01, 0}, recompute_seconds, depth};
}

template <class Policy>
placement_outcome get(placement_simulator<Policy>& p, std::int64_t id, double now, const placed_item& i = item()) {
  return p.access(id, i, now).value();
}

}  // namespace

TEST_CASE("lru: the least recently used moves down a tier, and from the last away") {
  placement_simulator<placement_policies::lru> p({{200, 1000, 0.001}, {100, 100, 0.01}});
  CHECK_FALSE(get(p, 1, 0, item(2)).hit);
  CHECK_FALSE(get(p, 2, 1).hit);
  CHECK(get(p, 1, 2).tier == 0);
  CHECK(get(p, 1, 2).seconds == doctest::Approx(0.001 + 0.1));
  get(p, 3, 3);  // 2 is the oldest: to the second tier
  CHECK(p.used_bytes(0) == 200);
  CHECK(p.used_bytes(1) == 100);
  get(p, 4, 4);  // 1 follows, 2 is dropped
  CHECK(p.totals().dropped == 1);
  const placement_outcome second = get(p, 1, 5, item(2));
  CHECK(second.tier == 1);
  CHECK(second.seconds == doctest::Approx(0.01 + 1));
  CHECK_FALSE(get(p, 2, 6).hit);
}

TEST_CASE("pensieve: the front of an old context goes first, for it is cheap to compute") {
  placement_simulator<placement_policies::pensieve> p({{450, 1000, 0}});
  // A context of three chunks, dearer with position, then another context.
  for (int i = 0; i < 3; ++i) get(p, i, 0, item(0.5 + 0.1 * i, i));
  get(p, 10, 10, item(0.5, 0));
  get(p, 11, 10, item(0.6, 1));  // 500 bytes: one has to go
  CHECK(p.used_bytes(0) == 400);
  CHECK(get(p, 1, 11, item(0.6, 1)).hit);
  CHECK(get(p, 2, 11, item(0.7, 2)).hit);
  CHECK(get(p, 10, 11, item(0.5, 0)).hit);
  CHECK_FALSE(get(p, 0, 11, item(0.5, 0)).hit);
}

TEST_CASE("adaptcache: the least utility per byte is lost") {
  placement_options o;
  o.alpha_seconds_per_nat = 10;
  // Leaving a tier for good loses 1 - 0.1 s for 100 bytes; a level down loses 10 * 0.01 = 0.1 s and gains 0.06 s of delay.
  placement_simulator<placement_policies::adaptcache> p({{150, 1000, 0}}, o);
  get(p, 1, 0);
  get(p, 2, 0);
  CHECK(p.totals().truncated == 1);
  CHECK(p.totals().dropped == 0);
  CHECK(p.totals().transcode_seconds == doctest::Approx(100 / o.transcode_bytes_per_second));
  CHECK(p.used_bytes(0) == 140);
  CHECK(get(p, 1, 1).loss + get(p, 2, 1).loss == doctest::Approx(0.01));
  get(p, 3, 2);
  get(p, 4, 2);  // four at 40 bytes do not fit into 150
  CHECK(p.totals().dropped == 1);
  CHECK(p.used_bytes(0) <= 150);
  // What is used often stays: 5 and 6 come once, 1 a hundred times.
  for (int i = 0; i < 100; ++i) get(p, 1, 3);
  for (int i = 5; i < 30; ++i) get(p, i, 4);
  CHECK(get(p, 1, 5).hit);
}

TEST_CASE("truncating: levels go in place, without decoding") {
  placement_simulator<placement_policies::truncating> p({{150, 1000, 0}});
  get(p, 1, 0);
  get(p, 2, 0);
  CHECK(p.totals().truncated == 1);
  CHECK(p.totals().transcode_seconds == 0);
  CHECK(p.used_bytes(0) == 140);
  // Where quality is dear, the passes that are cut off move down, and a request reads what is worth its delay.
  placement_options dear;
  dear.alpha_seconds_per_nat = 100;
  placement_simulator<placement_policies::truncating> two({{150, 1000, 0}, {1000, 200, 0}}, dear);
  get(two, 1, 0);
  get(two, 2, 0);
  CHECK(two.totals().truncated == 0);
  CHECK(two.used_bytes(0) == 140);
  CHECK(two.used_bytes(1) == 60);
  const placement_outcome a = get(two, 1, 1);
  CHECK(a.loss == 0);  // 0.04 s + 60 / 200 s for a loss worth 1 s
  CHECK(a.tier == 1);
  CHECK(a.seconds == doctest::Approx(0.04 + 0.3));
}

TEST_CASE("evicpress: everything is placed anew now and then, the most useful on the fastest tier") {
  placement_options o;
  o.reoptimise_every = 10;
  placement_simulator<placement_policies::evicpress> p({{100, 1000, 0}, {1000, 100, 0}}, o);
  get(p, 1, 0, item(5));
  for (int i = 2; i < 10; ++i) get(p, i, 0.1 * i, item(0.01));
  get(p, 1, 1, item(5));  // the tenth
  CHECK(get(p, 1, 2, item(5)).tier == 0);
}

namespace {

// Policies from outside: the largest chunk leaves first, and leaves for good ...
struct largest_first {
  static constexpr const char* name = "largest_first";
  static constexpr bool in_place = false;
  placement_move move(const kept_chunk& c, int tier, const storage_state& s) const {
    const auto [first, end] = s.passes_on(c, tier);
    return s.priced(c, {first, end, -1, false, 0});
  }
  double worth(const kept_chunk& c, const placement_move&, const storage_state&) const {
    return -double(c.item.bytes.back());
  }
};
// ... and one whose moves make no sense.
struct confused {
  static constexpr const char* name = "confused";
  static constexpr bool in_place = true;
  placement_move move(const kept_chunk& c, int tier, const storage_state&) const {
    const placement_move moves[] = {{-1, 1, 0}, {0, 0, 1}, {0, 99, 1}, {0, 1, tier}, {0, 1, 7}, {1, 1, -1}, {0, 1, 1}};
    return moves[c.item.bytes.back() % 7];
  }
  double worth(const kept_chunk& c, const placement_move& m, const storage_state&) const {
    return double(c.item.bytes.back() * 7 % 13) - m.lost_per_byte;
  }
};
static_assert(placement_policy<largest_first> && placement_policy<confused> && !placement_policy<storage_tier>);

}  // namespace

TEST_CASE("a placement policy from outside decides") {
  placement_simulator<largest_first> p({{200, 1000, 0}, {1000, 100, 0}});
  get(p, 1, 0, {{120}, {0}, 1, 0});
  get(p, 2, 1, {{60}, {0}, 1, 0});
  get(p, 3, 2, {{50}, {0}, 1, 0});  // 230 bytes: the largest goes, although the next tier has room
  CHECK(p.used_bytes(0) == 110);
  CHECK(p.used_bytes(1) == 0);
  CHECK(p.totals().dropped == 1);
  CHECK_FALSE(get(p, 1, 3, {{120}, {0}, 1, 0}).hit);
  placement_simulator<placement_policies::lru> q({{200, 1000, 0}, {1000, 100, 0}});
  get(q, 1, 0, {{60}, {0}, 1, 0});
  get(q, 2, 1, {{120}, {0}, 1, 0});
  get(q, 3, 2, {{50}, {0}, 1, 0});
  CHECK(q.used_bytes(0) == 170);  // lru: the oldest, to the next tier
  CHECK(q.used_bytes(1) == 60);
}

TEST_CASE("placement keeps its books and its bounds, whatever is asked and whatever a policy says") {
  const auto hold = []<class Policy>() {
    for (unsigned seed = 0; seed < 30; ++seed) {
      CAPTURE(std::string(Policy::name));
      CAPTURE(seed);
      std::mt19937 rng(seed);
      const auto uniform = [&](double a, double b) { return std::uniform_real_distribution<double>(a, b)(rng); };
      placement_options o;
      o.reoptimise_every = 50;
      o.alpha_seconds_per_nat = std::exp(uniform(-3, 8));
      const std::vector<storage_tier> tiers = {{uniform(0, 3000), 1000, 0.001, 2}, {uniform(0, 5000), 100, 0.01, 1}};
      placement_simulator<Policy> p(tiers, o);
      double now = 0;
      std::vector<placed_item> items;
      for (int i = 0; i < 60; ++i) {
        placed_item it;
        double bytes = uniform(1, 50), loss = uniform(0, 1);
        for (int l = 0, n = 1 + int(rng() % 5); l < n; ++l) {
          it.bytes.push_back(std::uint64_t(bytes));
          it.loss.push_back(loss);
          bytes += uniform(0, 60);
          loss *= uniform(0, 1);
        }
        it.recompute_seconds = uniform(0, 2);
        items.push_back(it);
      }
      for (int i = 0; i < 1000; ++i) {
        const std::size_t id = rng() % (rng() % 2 ? 10 : items.size());
        now += uniform(0, 5);
        const placement_outcome out = get(p, std::int64_t(id), now, items[id]);
        CHECK(out.seconds >= 0);
        if (!out.hit)
          CHECK(out.seconds == items[id].recompute_seconds);
        else
          CHECK(out.loss == items[id].loss[std::size_t(out.level)]);
        for (int t : {0, 1}) {
          CHECK(p.used_bytes(t) >= -1e-6);
          CHECK(p.used_bytes(t) <= tiers[std::size_t(t)].capacity_bytes + 1e-6);
        }
      }
      CHECK(p.totals().accesses == 1000);
      CHECK(p.totals().hits <= 1000);
      CHECK(std::isfinite(p.totals().price));
    }
  };
  placement_policies::for_each(hold);
  hold.operator()<largest_first>();
  hold.operator()<confused>();
  placement_simulator<placement_policies::lru> p({{100, 1, 0}});
  CHECK(p.access(1, {}, 0).status() == status::invalid_argument);
  CHECK(p.access(1, {{2, 1}, {0, 0}, 1, 0}, 0).status() == status::invalid_argument);
  CHECK(p.access(1, {{1}, {0, 0}, 1, 0}, 0).status() == status::invalid_argument);
  CHECK(p.access(1, {{1}, {-1}, 1, 0}, 0).status() == status::invalid_argument);
  CHECK(p.access(1, {{1}, {0}, std::nan(""), 0}, 0).status() == status::invalid_argument);
  CHECK(placement_simulator<placement_policies::lru>({}).access(1, item(), 0).status() == status::invalid_argument);
}
