// SPDX-License-Identifier: Apache-2.0
// The arithmetic coder: what it codes comes back, in the bits that probabilities promise, and damage is noticed.
#include <sluice/codec/entropy/arithmetic/arithmetic.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

namespace {

using namespace sluice::detail;
using bytes = std::vector<std::uint8_t>;

constexpr std::uint64_t seed = 61803;

// Where symbols of some probabilities begin among 65,536 parts; one more entry for the end.
std::vector<std::uint32_t> table(std::mt19937_64& random, int symbols) {
  std::vector<std::uint32_t> t{0, 65536};
  while (int(t.size()) < symbols + 1) {
    // Near the ends as well, where a symbol has one part or nearly all of them.
    std::uint32_t at = std::uint32_t(random() % 65535 + 1);
    if (random() % 3 == 0) at = std::uint32_t(random() % 40 + 1);
    if (random() % 3 == 0) at = 65535 - std::uint32_t(random() % 40);
    if (std::find(t.begin(), t.end(), at) == t.end()) t.insert(std::upper_bound(t.begin(), t.end(), at), at);
  }
  return t;
}

// The symbols that a code says, or none where it is not sound.
std::vector<int> decoded(const bytes& code, const std::vector<std::uint32_t>& t, std::size_t n) {
  arithmetic_decoder d(code);
  std::vector<int> out;
  while (out.size() < n) {
    const std::uint32_t part = d.part();
    REQUIRE(part < 65536);
    const auto next = std::upper_bound(t.begin(), t.end(), part);
    d.drop(*(next - 1), *next);
    out.push_back(int(next - t.begin()) - 1);
  }
  return d.finished() ? out : std::vector<int>{};
}

}  // namespace

TEST_CASE("arithmetic coder: symbols come back, in the bits that are due to them") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  double over = 0;
  int codes = 0;
  for (int round = 0; round < 600; ++round) {
    CAPTURE(round);
    const std::vector<std::uint32_t> t = table(random, 1 + int(random() % 40));
    const std::size_t n = std::size_t(random() % 300);
    bytes out{7};  // what is there stays
    arithmetic_encoder e(out);
    std::vector<int> symbols;
    double bits = 0;
    for (std::size_t i = 0; i < n; ++i) {
      // Likely ones mostly, and some that are anything.
      const std::uint32_t part = std::uint32_t(random() % 65536);
      int s = int(std::upper_bound(t.begin(), t.end(), part) - t.begin()) - 1;
      if (random() % 8 == 0) s = int(random() % (t.size() - 1));
      symbols.push_back(s);
      e.put(t[std::size_t(s)], t[std::size_t(s) + 1]);
      bits -= std::log2(double(t[std::size_t(s) + 1] - t[std::size_t(s)]) / 65536);
    }
    e.finish();
    REQUIRE(out[0] == 7);
    out.erase(out.begin());
    CHECK(double(out.size()) * 8 < bits + 12);
    over += double(out.size()) * 8 - bits;
    ++codes;
    CHECK((n == 0 || decoded(out, t, n) == symbols));
  }
  CHECK(over / codes > 3);  // two bits, and half a byte
  CHECK(over / codes < 7);
}

TEST_CASE("arithmetic coder: codes of another length, and most others, do not end as they must") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  int unnoticed = 0, changed = 0;
  for (int round = 0; round < 400; ++round) {
    CAPTURE(round);
    const std::vector<std::uint32_t> t = table(random, 2 + int(random() % 31));
    const std::size_t n = 1 + std::size_t(random() % 256);
    bytes out;
    arithmetic_encoder e(out);
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t s = random() % (t.size() - 1);
      e.put(t[s], t[s + 1]);
    }
    e.finish();
    bytes other = out;
    other.push_back(0);
    CHECK(decoded(other, t, n).empty());
    other = out;
    other.pop_back();
    CHECK(decoded(other, t, n).empty());
    CHECK(decoded({}, t, n).empty());
    other = out;
    other[random() % other.size()] ^= std::uint8_t(1u << random() % 8);
    unnoticed += !decoded(other, t, n).empty();
    for (std::uint8_t& b : other) b = std::uint8_t(random());
    unnoticed += !decoded(other, t, n).empty();
    changed += 2;
  }
  CHECK(unnoticed < changed / 20);
}
