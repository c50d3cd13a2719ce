// SPDX-License-Identifier: Apache-2.0
// The inverse basis in integers against double precision: what FORMAT.md section 1 promises, for the bases and the
// coefficients of the sample and for hostile ones.
#include <sluice/codec/transform/integer_bases.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/model/profile.hpp>
#include <sluice/tensor/half.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::detail;

constexpr unsigned seed = 161803;

std::vector<isa> instruction_sets() {
  std::vector<isa> all{isa::portable};
  for (isa i : {isa::avx2, isa::avx512})
    if (usable_isa(i) == i) all.push_back(i);
  return all;
}

double unit_of(double x) { return std::exp2(std::floor(std::log2(std::max(x, 6.2e-5))) - 10); }

// A profile of one layer, K alone, whose basis and classes are random; channels of a head differ in size.
profile random_profile(std::mt19937& random, int heads, int dim) {
  std::normal_distribution<float> normal;
  layer_shape l;
  l.num_kv_heads = heads;
  l.head_dim_k = dim;
  profile p;
  p.shape.layers = {l};
  p.planes.resize(2);
  plane_profile& q = p.planes[0];
  q.width = q.group_width = heads * dim;
  q.scale = std::exp2(normal(random) * 2);
  const auto n = std::size_t(q.width);
  std::vector<float> loud(n);
  for (float& x : loud) x = std::exp2(normal(random));
  for (std::size_t k = 0; k < n; ++k) {
    q.classes.push_back(std::uint8_t(64 * (random() % 3) + 16 + (n - k) * 24 / n));
    q.mean.push_back(from_float<f16>(normal(random) * q.scale).bits);
    for (std::size_t i = 0; i < n; ++i)
      q.matrix.push_back(from_float<f16>(normal(random) * loud[i] / std::sqrt(float(n))).bits);
  }
  return p;
}

struct rows_of {
  int rows, k, ld;
  std::vector<std::int16_t> c;
  std::vector<float> row_scale;
  std::vector<coefficient_correction> corrections;
};

rows_of random_rows(std::mt19937& random, const plane_profile& q, int rows, int k, float loud) {
  std::normal_distribution<float> normal;
  const int ld = dense_round_up(q.width);
  rows_of r{rows, k, ld, std::vector<std::int16_t>(std::size_t(rows * ld), 0), {}, {}};
  for (int row = 0; row < rows; ++row) {
    r.row_scale.push_back(std::exp2(float(random() % 9) / 4 - 1));
    for (int i = 0; i < k; ++i) {
      const float sigma = std::exp2(float(q.classes[std::size_t(i)] % 64) / 4 - 4) * loud;
      r.c[std::size_t(row * ld + i)] = std::int16_t(std::clamp(std::round(normal(random) * sigma), -32768.f, 32767.f));
    }
  }
  return r;
}

struct errors {
  double worst = 0, squares = 0;  // in units of f16 of max(|x|, rms of the head), of the head's rms
  std::size_t n = 0, in_floats = 0;
  double deviation() const { return std::sqrt(squares / double(std::max<std::size_t>(n, 1))); }
};

// Runs a job with the integers and compares; counts the rows that came out as floats have them.
errors compare(isa on, const plane_profile& q, int dim, const rows_of& r, const integer_matrix* integers,
               std::vector<float>* values = nullptr) {
  const int n = q.width;
  std::vector<float> mean, x(std::size_t(r.rows * n)), floats(x.size()), workspace(dense_workspace(r.rows, n, n));
  for (const std::uint16_t m : q.mean) mean.push_back(to_float(f16{m}));
  inverse_job job{.c = r.c.data(),
                  .ldc = r.ld,
                  .matrix = q.matrix.data(),
                  .mean = mean.data(),
                  .scale = q.scale,
                  .row_scale = r.row_scale.data(),
                  .x = x.data(),
                  .ldx = n,
                  .rows = r.rows,
                  .k = r.k,
                  .n = n,
                  .matrix_rows = n,
                  .corrections = r.corrections.data(),
                  .num_corrections = r.corrections.size(),
                  .integers = integers};
  inverse_transform(on, job, workspace.data());
  job.integers = nullptr;
  job.x = floats.data();
  inverse_transform(on, job, workspace.data());
  errors e;
  for (int row = 0; row < r.rows; ++row) {
    std::vector<double> c(std::size_t(n), 0.0), want(std::size_t(n), 0.0);
    for (int k = 0; k < r.k; ++k) c[std::size_t(k)] = r.c[std::size_t(row * r.ld + k)];
    for (const coefficient_correction& s : r.corrections)
      if (s.row == row) c[std::size_t(s.coefficient)] += double(s.value);
    const double scale = double(q.scale) * double(r.row_scale[std::size_t(row)]);
    for (int k = 0; k < n; ++k)
      for (int i = 0; i < n; ++i)
        want[std::size_t(i)] += scale * c[std::size_t(k)] * double(to_float(f16{q.matrix[std::size_t(k * n + i)]}));
    for (int i = 0; i < n; ++i) want[std::size_t(i)] += double(mean[std::size_t(i)]);
    const auto first = std::ptrdiff_t{row} * n;
    e.in_floats += std::equal(x.begin() + first, x.begin() + first + n, floats.begin() + first);
    for (int h = 0; h < n / dim; ++h) {
      double square = 0;
      for (int i = 0; i < dim; ++i) square += std::pow(want[std::size_t(h * dim + i)], 2);
      const double rms = std::sqrt(square / dim);
      for (int i = h * dim; i < (h + 1) * dim; ++i) {
        const double w = want[std::size_t(i)], off = std::abs(double(x[std::size_t(first + i)]) - w);
        e.worst = std::max(e.worst, off / unit_of(std::max(std::abs(w), rms)));
        e.squares += std::pow(off / unit_of(rms), 2);
        ++e.n;
      }
    }
  }
  if (values) *values = x;
  return e;
}

}  // namespace

TEST_CASE("integer product: every basis of the sample's model has one, and its rows keep the promise with room") {
  MESSAGE("seed ", seed);
  const profile p = profile::load(SLUICE_TEST_DATA "/smollm2.profile").value();
  const auto all = integer_bases_of(p);
  CHECK(integer_bases_of(p) == all);
  REQUIRE(all->size() == p.planes.size());
  for (isa on : instruction_sets()) {
    std::mt19937 random(seed);
    errors sum;
    std::size_t rows = 0;
    for (std::size_t at = 0; at < p.planes.size(); at += 7) {
      const plane_profile& q = p.planes[at];
      REQUIRE((*all)[at]->get());
      for (const float level : {1.f, 1 / 9.f}) {
        profile coarser = p;
        coarser.planes[at].scale /= level;
        const rows_of r = random_rows(random, q, 20, q.width, level);
        const errors e = compare(on, coarser.planes[at], 64, r, (*all)[at]->get());
        sum.worst = std::max(sum.worst, e.worst);
        sum.squares += e.squares;
        sum.n += e.n;
        sum.in_floats += e.in_floats;
        rows += 20;
      }
    }
    CAPTURE(std::string(to_string(on)));
    CHECK(sum.worst < 0.5);  // rounding to f16 adds up to as much
    CHECK(sum.deviation() < 1. / 8);
    CHECK(sum.in_floats < rows / 4);
  }
}

TEST_CASE("integer product: a coefficient is worth the same whether a code or an exception says it") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed + 1);
  const profile p = profile::load(SLUICE_TEST_DATA "/smollm2.profile").value();
  const plane_profile& q = p.planes[6];
  const integer_matrix* const m = (*integer_bases_of(p))[6]->get();
  REQUIRE(m);
  for (const float loud : {1 / 9.f, 1.f, 64.f}) {
    const rows_of whole = random_rows(random, q, 90, q.width, loud);
    rows_of parted = whole;
    parted.k = q.width / 2;  // what lies behind is said by exceptions alone
    for (int row = 0; row < 90; ++row)
      for (int k = parted.k; k < q.width; ++k) {
        std::int16_t& c = parted.c[std::size_t(row * parted.ld + k)];
        if (c) parted.corrections.push_back({row, k, float(c)});
        c = 0;
      }
    for (int i = 0; i < 60; ++i) {
      const int row = int(random() % 90), k = int(random() % unsigned(parted.k)), said = int(random() % 40) - 20;
      std::int16_t& c = parted.c[std::size_t(row * parted.ld + k)];
      parted.corrections.push_back({row, k, float(c - said)});
      c = std::int16_t(said);
    }
    for (isa on : instruction_sets()) {
      CAPTURE(std::string(to_string(on)));
      std::vector<float> x, y;
      compare(on, q, 64, whole, m, &x);
      compare(on, q, 64, parted, m, &y);
      CHECK(x == y);
    }
  }
}

TEST_CASE("integer product: random bases and coefficients, with corrections, on all instruction sets alike") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  std::size_t served = 0, integers = 0;
  for (int round = 0; round < 40; ++round) {
    CAPTURE(round);
    const int dims[] = {8, 40, 64, 80, 100, 7}, dim = dims[random() % 6], heads = 1 + int(random() % 3);
    const profile p = random_profile(random, heads, dim);
    const plane_profile& q = p.planes[0];
    const auto all = integer_bases_of(p);
    const integer_matrix* m = (*all)[0]->get();
    if (!m) continue;
    ++served;
    const int rows = 1 + int(random() % 80), k = int(random() % unsigned(q.width + 1));
    rows_of r = random_rows(random, q, rows, k, std::exp2(float(random() % 8) - 3));
    for (int i = 0; i < 6; ++i)
      r.corrections.push_back({int(random() % unsigned(rows)), int(random() % unsigned(q.width)), float(50 * i - 90)});
    std::vector<float> wide;
    for (isa on : instruction_sets()) {
      CAPTURE(std::string(to_string(on)));
      std::vector<float> x;
      const errors e = compare(on, q, dim, r, m, &x);
      CHECK(e.worst < 0.5);
      integers += std::size_t(rows) - e.in_floats;
      if (on == isa::portable) continue;
      if (!wide.empty()) CHECK(x == wide);
      wide = x;
    }
  }
  CHECK(served > 20);
  CHECK(integers > 0);
}

TEST_CASE("integer product: what is too large or too quiet for integers is done in floats") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  const int dim = 32, heads = 2;
  const profile p = random_profile(random, heads, dim);
  const plane_profile& q = p.planes[0];
  const auto all = integer_bases_of(p);
  const integer_matrix* m = (*all)[0]->get();
  REQUIRE(m);
  const std::size_t n = std::size_t(q.width);
  rows_of r = random_rows(random, q, 8, q.width, 1);
  const auto at = [&](int row, int k) -> std::int16_t& { return r.c[std::size_t(row * r.ld + k)]; };
  for (int k = 0; k < q.width; ++k) {
    at(0, k) = std::numeric_limits<std::int16_t>::min();
    at(1, k) = std::numeric_limits<std::int16_t>::max();
    at(2, k) = std::int16_t(random());
    at(3, k) = 0;
  }
  at(4, q.width - 1) = -32768;  // beyond its limit
  // Row 5 takes nearly all of the mean away: corrections say the rest to a 64th.
  const auto inverse = inverse_bases_of(p);
  REQUIRE(inverse);
  for (std::size_t k = 0; k < n; ++k) {
    double c = 0;
    for (std::size_t i = 0; i < n; ++i)
      c -= double(to_float(f16{q.mean[i]})) * double((*inverse)[0][i * n + k]) / double(r.row_scale[5]);
    at(5, int(k)) = std::int16_t(std::clamp(std::round(c), -32767.0, 32767.0));
    r.corrections.push_back({5, int(k), float(std::round(64 * (c - double(at(5, int(k))))) / 64)});
  }
  for (isa on : instruction_sets()) {
    CAPTURE(std::string(to_string(on)));
    const errors e = compare(on, q, dim, r, m);
    CHECK(e.in_floats >= 4);  // rows 0, 1, 4 and 5
    CHECK(e.in_floats < 8);
    // Where a row nearly cancels, sums of floats lose more than half a unit, with integers beside them or alone.
    CHECK(e.worst <= compare(on, q, dim, r, nullptr).worst);
  }
}

TEST_CASE("integer product: a basis of nothing has none") {
  std::mt19937 random(seed);
  profile p = random_profile(random, 1, 16);
  CHECK((*integer_bases_of(p))[0]->get());
  std::fill(p.planes[0].matrix.begin(), p.planes[0].matrix.end(), std::uint16_t{0});
  CHECK_FALSE((*integer_bases_of(p))[0]->get());
  const profile plain = profile::uncalibrated(p.shape);
  CHECK_FALSE((*integer_bases_of(plain))[0]->get());
}
