// SPDX-License-Identifier: Apache-2.0
// Ranges, peaks, codes, values and scales of groups against plain arithmetic, on all instruction sets, bit for bit.
#include <sluice/codec/quantize/groups.hpp>
#include <sluice/tensor/half.hpp>

#include <doctest/doctest.h>
#include <support/isas.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

using namespace sluice;

namespace {

std::vector<float> as_floats(const std::vector<f16>& h) {
  std::vector<float> x;
  for (const f16 e : h) x.push_back(to_float(e));
  return x;
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("groups: ranges, codes and values of many shapes") {
  const unsigned seed = 17;
  MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (const int rows : {1, 2, 7, 64})
    for (const int columns : {1, 3, 8, 15, 16, 17, 64, 70})
      for (const bool shared : {false, true}) {
        const int ldx = columns + 5, ldq = columns + 3;
        const auto n = std::size_t(columns);
        std::vector<float> x(std::size_t(rows * ldx));
        for (float& v : x) v = std::round(8 * normal(random)) / 4;  // halves occur: ties of rounding
        const detail::group_rows of{rows, columns, ldx, ldq, shared};
        const float most = 15;
        std::vector<float> low(n), high(n), step(n), zero(n), inverse(n);
        std::vector<std::int16_t> codes(std::size_t(rows * ldq), -1);
        std::vector<float> values(x.size(), -1.f);
        for (std::size_t i = 0; i < n; ++i) {
          low[i] = high[i] = x[i];
          for (int r = 1; r < rows; ++r) {
            const float v = x[std::size_t(r * ldx) + i];
            low[i] = v < low[i] ? v : low[i];
            high[i] = v > high[i] ? v : high[i];
          }
          step[i] = to_float(from_float<f16>(0.25f + float(i % 5) / 8));
          zero[i] = to_float(from_float<f16>(float(i % 3) - 2));
          inverse[i] = 1 / step[i];
        }
        for (int r = 0; r < rows; ++r)
          for (std::size_t i = 0; i < n; ++i) {
            const std::size_t s = shared ? 0 : i;
            const float above = x[std::size_t(r * ldx) + i] - zero[s], y = above * inverse[s];
            const auto code = std::int16_t(std::nearbyint(std::clamp(y, 0.f, most)));
            codes[std::size_t(r * ldq) + i] = code;
            values[std::size_t(r * ldx) + i] = float(code) * step[s] + zero[s];
          }
        for (const isa on : isas::all) {
          std::vector<float> least(n), greatest(n), back(x.size(), -1.f);
          std::vector<std::int16_t> q(codes.size(), -1);
          detail::group_ranges(on, of, x.data(), least.data(), greatest.data());
          detail::group_codes(on, of, x.data(), inverse.data(), zero.data(), most, q.data());
          detail::group_floats(on, of, q.data(), step.data(), zero.data(), back.data());
          REQUIRE(same(least, low));
          REQUIRE(same(greatest, high));
          REQUIRE(q == codes);
          REQUIRE(same(back, values));
        }
      }
}

TEST_CASE("groups: peaks of rows, and codes around zero with a scale for each row") {
  const unsigned seed = 23;
  MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (const int rows : {1, 3, 64})
    for (const int columns : {1, 3, 8, 15, 16, 17, 64, 70})
      for (const int half : {1, 2, 8, 128})
        for (const int lds : {1, 3}) {
          const int ldx = columns + 5, ldq = columns + 3;
          std::vector<float> x(std::size_t(rows * ldx)), most(std::size_t(rows * lds), -1.f), inverse = most;
          for (float& v : x)
            v = random() % 2 ? std::round(8 * normal(random)) / 4 : 8 * normal(random);  // ties, others
          std::vector<std::int16_t> codes(std::size_t(rows * ldq), -1);
          for (int r = 0; r < rows; ++r) {
            const auto s = std::size_t(r * lds);
            most[s] = 0;
            for (int i = 0; i < columns; ++i) most[s] = std::max(most[s], std::fabs(x[std::size_t(r * ldx + i)]));
            // Steps of a power of two, for ties; those that codes fit in, and too small ones; none.
            inverse[s] = r % 4 == 0 ? 4.f : r % 4 == 3 ? 0.f : float(half * (r % 4)) / (most[s] + 1e-9f);
            for (int i = 0; i < columns; ++i) {
              const float y = x[std::size_t(r * ldx + i)] * inverse[s], above = y + (float(half) + 0.5f);
              codes[std::size_t(r * ldq + i)] = std::int16_t(std::clamp(above, 1.f, float(2 * half - 1)));
            }
          }
          const detail::group_rows of{rows, columns, ldx, ldq, true, lds};
          for (const isa on : isas::all) {
            std::vector<float> peak(most.size(), -1.f);
            std::vector<std::int16_t> q(codes.size(), -1);
            detail::group_peaks(on, of, x.data(), peak.data());
            detail::group_signed_codes(on, of, x.data(), inverse.data(), float(half), q.data());
            REQUIRE(same(peak, most));
            REQUIRE(q == codes);
          }
        }
}

TEST_CASE("groups: every f16 as a step and as a zero") {
  std::vector<f16> steps, zeros;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const f16 step{std::uint16_t(bits)}, zero{std::uint16_t(bits * 40503u)};
    if (std::isnan(to_float(step)) || std::isnan(to_float(zero))) continue;
    steps.push_back(step);
    zeros.push_back(zero);
  }
  std::vector<float> pairs(steps.size());
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const f16 pair[2] = {steps[i], zeros[i]};
    std::memcpy(&pairs[i], pair, sizeof pair);
  }
  for (const isa on : isas::all) {
    std::vector<float> step(pairs.size()), zero(pairs.size());
    detail::group_scales(on, pairs.data(), pairs.size(), step.data(), zero.data());
    CHECK(same(step, as_floats(steps)));
    CHECK(same(zero, as_floats(zeros)));
  }
}
