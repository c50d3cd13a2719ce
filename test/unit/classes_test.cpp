// SPDX-License-Identifier: Apache-2.0
#include <sluice/codec/entropy/class_rans/classes.hpp>
#include <sluice/codec/entropy/class_rans/encode.hpp>

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <random>
#include <vector>

using namespace sluice::detail;

namespace {

// The counts behind thresholds; every symbol has at least one and they sum to 256.
std::vector<int> counts(const std::uint8_t* t, int n) {
  std::vector<int> f;
  int begin = 0;
  for (int s = 0; s < n && t[s] != 255; ++s) {
    f.push_back(t[s] + 1 - begin);
    begin = t[s] + 1;
  }
  f.push_back(256 - begin);
  return f;
}

}  // namespace

TEST_CASE("class tables are distributions over zigzag symbols") {
  for (int c = 0; c < 256; ++c) {
    CAPTURE(c);
    const class_tables& t = class_table[c];
    const auto base = counts(t.base, 15);
    CHECK(base.size() % 2 == 1);  // as many negative symbols as positive ones
    for (std::size_t s = 0; s < base.size(); ++s) CHECK(base[s] >= 1);
    for (std::size_t s = 1; s + 1 < base.size(); s += 2) CHECK(base[s] == base[s + 1]);
    for (std::size_t s = 3; s + 2 < base.size(); s += 2) CHECK(base[s] <= base[s - 2]);  // the outermost holds the tail
    for (std::size_t s = base.size() - 1; s < 15; ++s) CHECK(t.base[s] == 255);
    CHECK(static_cast<int>(base.size()) == base_symbols(t));
    for (const auto* ternary : {t.zero, t.nonzero}) {
      const auto f = counts(ternary, 2);
      CHECK(f.size() == (base.size() == 1 ? 1 : 3));
      for (int x : f) CHECK(x >= 1);
      CHECK(f[0] + (f.size() > 1 ? f[1] + f[2] : 0) == 256);
    }
    CHECK(t.digits <= 4);
    if (base.size() == 1) CHECK(t.digits == 0);
    if (c % 64 == 0) CHECK(base.size() == 1);
    if (c % 64 > 0) {
      // Wider classes stay live and never need fewer digits: block tables rely on neither, but deltas behave.
      const class_tables& narrower = class_table[c - 1];
      CHECK(base_symbols(narrower) <= (base.size() == 1 ? 1 : 15));
      CHECK(narrower.digits <= t.digits);
      CHECK(clip_limit(static_cast<std::uint8_t>(c - 1), 0) <= 7 * 81 + 40);
    }
  }
}

TEST_CASE("a class moves by deltas and passes without leaving its shape") {
  for (int c = 0; c < 256; ++c) {
    const auto cls = static_cast<std::uint8_t>(c);
    CHECK(shift_class(cls, 0) == cls);
    for (int d = -70; d <= 70; ++d) {
      const int moved = shift_class(cls, d);
      CHECK(moved / 64 == c / 64);
      if (c % 64) CHECK(moved % 64 == std::min(63, std::max(1, c % 64 + d)));
    }
    for (int back = 0; back < 6; ++back) {
      CHECK(class_at(cls, back) / 64 == c / 64);
      CHECK(class_at(cls, back) % 64 == std::max(0, c % 64 - class_shift[back]));
      if (back) CHECK((!live(cls, back) || live(cls, back - 1)));
    }
  }
  CHECK(class_of(1.0f) == 64 + 16);
  CHECK(class_of(2.0f, 0) == 20);
  CHECK(class_of(0.0f) == 64 + 1);
  CHECK(class_of(1e30f, 3) == 255);
}

TEST_CASE("live blocks end at the last live coefficient") {
  std::array<std::uint8_t, 96> classes{};
  CHECK(live_blocks(classes, 0) == 0);
  classes[0] = 30;
  CHECK(live_blocks(classes, 0) == 1);
  CHECK(live_blocks(classes, 5) == 0);
  classes[32] = 6;
  CHECK(live_blocks(classes, 0) == 2);
  CHECK(live_blocks(classes, 1) == 1);
  classes[95] = 20;
  CHECK(live_blocks(classes, 0) == 3);
  CHECK(live_blocks(std::span(classes).first(64), 0) == 2);
  CHECK(live_blocks({}, 0) == 0);
}

TEST_CASE("the parent of a value is the nearest third") {
  for (int v = -3000; v <= 3000; ++v) {
    const int r = v - 3 * coarser(v);
    CHECK(std::abs(r) <= 1);
  }
}

TEST_CASE("block tables hold the tables of every lane and pass") {
  const auto seed = std::random_device{}();
  INFO("seed ", seed);
  std::mt19937 rng(seed);
  for (int round = 0; round < 50; ++round) {
    std::array<std::uint8_t, 32> classes{};
    for (auto& c : classes) c = static_cast<std::uint8_t>(rng() % 4 ? rng() % 256 : 0);
    const int back = static_cast<int>(rng() % 6);
    base_block b;
    ternary_block t;
    build_base_block(classes.data(), back, b);
    build_ternary_block(classes.data(), back, t);
    int symbols = 1, digits = 0;
    for (int lane = 0; lane < 32; ++lane) {
      const std::uint8_t cls = class_at(classes[std::size_t(lane)], back);
      const class_tables& e = class_table[cls];
      for (int s = 0; s < 15; ++s) CHECK(b.threshold[s][lane] == e.base[s]);
      CHECK(b.lane_digits[lane] == e.digits);
      symbols = std::max(symbols, base_symbols(e));
      digits = std::max<int>(digits, e.digits);
      for (int k = 0; k < 4; ++k)
        for (int s = 0; s < 2; ++s) {
          const class_tables& d = class_table[class_at(cls, k)];
          CHECK(b.digit[k].zero[s][lane] == (k < e.digits ? d.zero[s] : 255));
          CHECK(b.digit[k].nonzero[s][lane] == (k < e.digits ? d.nonzero[s] : 255));
        }
      for (int s = 0; s < 2; ++s) {
        CHECK(t.zero[s][lane] == e.zero[s]);
        CHECK(t.nonzero[s][lane] == e.nonzero[s]);
      }
    }
    CHECK(b.symbols == symbols);
    CHECK(b.digits == digits);
  }
}

TEST_CASE("code lengths are those of a complete code") {
  // Kraft: over all values that a lane expresses, the probabilities sum to one.
  for (int c = 0; c < 256; ++c) {
    const auto cls = static_cast<std::uint8_t>(c);
    CAPTURE(c);
    const int limit = clip_limit(cls, 0);
    double sum = 0;
    for (int v = -limit; v <= limit; ++v) sum += std::exp2(-double(bits_base(cls, 0, v)));
    CHECK(sum == doctest::Approx(1).epsilon(1e-4));
    CHECK(bits_base(cls, 0, limit + 1) >= exception_bits);
    CHECK(bits_base(cls, 0, -limit - 1) >= exception_bits);
    for (int parent : {-3, 0, 5}) {
      double digits = 0;
      for (int r = -1; r <= 1; ++r) digits += std::exp2(-double(bits_ternary(cls, 0, parent, r)));
      CHECK(digits == doctest::Approx(1).epsilon(1e-4));
    }
  }
  CHECK(bits_ternary(80, 0, 2, -1) == bits_ternary(80, 0, -2, 1));
  CHECK(bits_ternary(80, 0, 2, -1) < bits_ternary(80, 0, 2, 1));
  static_assert(bits_base(80, 0, 0) > 1 && bits_base(80, 0, 0) < 2);
}

TEST_CASE("tables cost little more than the entropy of what they describe") {
  const auto seed = std::random_device{}();
  INFO("seed ", seed);
  std::mt19937 rng(seed);
  std::normal_distribution<double> gauss;
  for (int w : {6, 9, 12, 16, 20, 24, 28, 34, 40}) {
    const auto cls = static_cast<std::uint8_t>(w);
    const double sigma = std::exp2((w - 16) / 4.0);
    double entropy = 0, sum = 0;
    for (int v = -1000; v <= 1000; ++v) {
      const double p =
          0.5 * (std::erfc((v - 0.5) / sigma / std::sqrt(2.0)) - std::erfc((v + 0.5) / sigma / std::sqrt(2.0)));
      if (p > 0) entropy -= p * std::log2(p);
    }
    const int n = 200000;
    for (int i = 0; i < n; ++i) sum += double(bits_base(cls, 0, static_cast<int>(std::lround(gauss(rng) * sigma))));
    CAPTURE(w);
    CHECK(sum / n < entropy * 1.02 + 0.015);
    CHECK(sum / n > entropy * 0.97 - 0.005);

    // Base and refinements together cost what one fine pass costs.
    double split = 0;
    for (int i = 0; i < n; ++i) {
      int v = static_cast<int>(std::lround(gauss(rng) * sigma));
      for (int back = 0; back < 3; ++back) {
        const int parent = coarser(v);
        split += double(bits_ternary(cls, back, parent, v - 3 * parent));
        v = parent;
      }
      split += double(bits_base(cls, 3, v));
    }
    CHECK(split / n < entropy * 1.03 + 0.03);
  }
}

TEST_CASE("counted together, the rows of a block take the bits that their values take one by one") {
  const auto seed = std::random_device{}();
  INFO("seed ", seed);
  std::mt19937 rng(seed);
  block_histogram histogram;
  for (int passes = 1; passes <= sluice::max_passes; ++passes)
    for (int made = 1; made <= passes; ++made) {
      CAPTURE(passes);
      CAPTURE(made);
      const std::size_t rows = 1 + rng() % 40;
      std::vector<std::int16_t> values(32 * rows);
      std::vector<std::int8_t> digits[sluice::max_passes];
      const std::int8_t* pointers[sluice::max_passes] = {};
      for (std::int16_t& v : values) v = std::int16_t(std::lround(std::normal_distribution<double>(0, 3)(rng)));
      for (int p = 1; p < made; ++p) {
        for (std::size_t i = 0; i < values.size(); ++i) digits[p].push_back(std::int8_t(int(rng() % 3) - 1));
        pointers[p] = digits[p].data();
      }
      histogram.clear(made);
      histogram.add(values.data(), pointers, 0, 32, int(rows), [](int) { return true; });
      histogram.count_digits();
      for (int lane = 0; lane < 32; ++lane) {
        const auto cls = std::uint8_t(rng() % 256);
        double sum = 0;
        for (std::size_t at = std::size_t(lane); at < values.size(); at += 32) {
          int v = values[at];
          sum += double(bits_base(cls, passes - 1, v));
          for (int p = 1; p < made; ++p) {
            sum += double(bits_ternary(cls, passes - 1 - p, v, digits[p][at]));
            v = 3 * v + digits[p][at];
          }
        }
        CHECK(double(histogram.bits(lane, cls, passes)) == doctest::Approx(sum).epsilon(1e-4));
      }
    }
}
