// SPDX-License-Identifier: Apache-2.0
// The float side of the codec against scalar and double-precision references, on every instruction set of this machine.
#include <sluice/codec/quantize/ternary.hpp>
#include <sluice/codec/transform/product.hpp>
#include <sluice/tensor/half.hpp>
#include <sluice/tensor/rotate.hpp>
#include <sluice/tensor/rows.hpp>

#include <doctest/doctest.h>
#include <support/isas.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

using namespace sluice;
using namespace sluice::detail;

namespace {

constexpr unsigned seed = 20250711;

std::vector<isa> instruction_sets() {
  std::vector<isa> all{isa::portable};
  for (isa i : isas::wide)
    if (usable_isa(i) == i) all.push_back(i);
  return all;
}

constexpr dtype all_types[] = {dtype::f32, dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2};

// rows, heads, head_dim
constexpr std::array<int, 3> row_shapes[] = {{0, 2, 32}, {1, 1, 1},    {5, 3, 80}, {33, 2, 96},
                                             {40, 5, 7}, {17, 1, 576}, {18, 4, 64}};

std::vector<std::byte> random_bytes(std::mt19937& random, std::size_t n) {
  std::vector<std::byte> v(n);
  for (auto& b : v) b = static_cast<std::byte>(random() & 0xff);
  return v;
}

std::vector<float> random_floats(std::mt19937& random, std::size_t n, float deviation = 1) {
  std::normal_distribution<float> normal(0, deviation);
  std::vector<float> v(n);
  for (auto& x : v) x = normal(random);
  return v;
}

bool same_bits(float a, float b) { return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b)); }

// One layout of a plane in memory: offsets, strides, and the bytes it needs.
struct plane_case {
  const char* name;
  std::vector<std::int64_t> offsets;
  row_layout at;
  std::int64_t base = 0;  // of head 0, element 0 of the plane
  std::size_t bytes = 0;
};

std::vector<plane_case> plane_cases(dtype t, int rows, int heads, int head_dim) {
  const std::int64_t e = size_of(t), d = head_dim, h = heads, r = rows;
  std::vector<plane_case> all;
  const auto add = [&](const char* name, std::int64_t token, std::int64_t head, std::int64_t element, std::int64_t base,
                       std::int64_t bytes, std::int64_t jump) {
    plane_case c{name, {}, {nullptr, head, element, 0, heads, head_dim, t}, base, static_cast<std::size_t>(bytes)};
    for (std::int64_t i = 0; i < r; ++i) c.offsets.push_back(i * token + i / 16 * jump);
    all.push_back(std::move(c));
  };
  add("nhd", h * d * e, d * e, e, 0, r * h * d * e, 0);
  add("nhd, odd address", h * d * e + 3, d * e + 1, e, 1, r * (h * d * e + 3) + h + 1, 0);
  add("hnd", d * e, r * d * e, e, 0, r * h * d * e, 0);
  add("transposed", e, d * r * e, r * e, 0, r * h * d * e, 0);
  add("transposed in pages of 16", e, d * 16 * e, 16 * e, 0, (r / 16 + 1) * 16 * h * d * e, 16 * (h * d - 1) * e);
  add("interleaved elements", 2 * h * d * e, 2 * d * e, 2 * e, e, 2 * r * h * d * e + e, 0);
  add("backwards", -h * d * e, d * e, e, (r > 0 ? r - 1 : 0) * h * d * e, r * h * d * e, 0);
  return all;
}

double f16_ulp(double magnitude) {
  int e = 0;
  std::frexp(std::max(magnitude, 6.2e-5), &e);
  return std::ldexp(1.0, e - 11);
}

}  // namespace

TEST_CASE("dense: every f16, bf16 and fp8 pattern is read as the scalar reference reads it") {
  for (isa i : instruction_sets())
    for (dtype t : {dtype::f16, dtype::bf16, dtype::e4m3, dtype::e5m2}) {
      const int count = t == dtype::f16 || t == dtype::bf16 ? 65536 : 256;
      std::vector<std::byte> memory(static_cast<std::size_t>(count * size_of(t)));
      for (int b = 0; b < count; ++b) {
        const auto bits = static_cast<std::uint32_t>(b);
        std::memcpy(memory.data() + b * size_of(t), &bits, static_cast<std::size_t>(size_of(t)));
      }
      const std::int64_t zero = 0;
      std::vector<float> got(static_cast<std::size_t>(count));
      load_rows(i, memory.data(), {&zero, 0, size_of(t), 0, 1, count, t}, 1, got.data(), count, nullptr);
      int wrong = 0;
      for (int b = 0; b < count; ++b)
        wrong += !same_bits(got[static_cast<std::size_t>(b)], load_element(memory.data() + b * size_of(t), t));
      CHECK_MESSAGE(wrong == 0, to_string(i), " ", to_string(t));
    }
}

TEST_CASE("dense: rows are gathered from any layout and non-finite rows are named") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (dtype t : all_types)
    for (const auto& shape : row_shapes)
      for (plane_case& c : plane_cases(t, shape[0], shape[1], shape[2])) {
        const int rows = shape[0], heads = shape[1], head_dim = shape[2];
        c.at.offsets = c.offsets.data();
        auto memory = random_bytes(random, c.bytes);
        if (t != dtype::f32)  // random exponents would spoil nearly every row: make non-finite values rare
          for (std::size_t b = 0; b < memory.size(); ++b)
            if (random() % 50) memory[b] &= std::byte{0xb7};
        for (int first = 0; first < heads; first += 2) {
          row_layout at = c.at;
          at.first_head = first;
          at.num_heads = std::min(2, heads - first);
          const int width = at.num_heads * head_dim, ld = width + 3;
          std::vector<float> want(static_cast<std::size_t>(rows * ld), 7.0f);
          std::vector<std::uint8_t> want_bad(static_cast<std::size_t>(rows), 0);
          for (int r = 0; r < rows; ++r)
            for (int j = 0; j < width; ++j) {
              const float x =
                  load_element(memory.data() + c.base + c.offsets[static_cast<std::size_t>(r)] +
                                   (first + j / head_dim) * at.head_stride + j % head_dim * at.element_stride,
                               t);
              want[static_cast<std::size_t>(r * ld + j)] = x;
              if (!std::isfinite(x)) want_bad[static_cast<std::size_t>(r)] = 1;
            }
          for (isa i : instruction_sets()) {
            std::vector<float> got(want.size(), 7.0f);
            std::vector<std::uint8_t> bad(want_bad.size(), 0);
            load_rows(i, memory.data() + c.base, at, rows, got.data(), ld, bad.data());
            const bool same = std::equal(got.begin(), got.end(), want.begin(), same_bits);
            CHECK_MESSAGE(same, to_string(i), " ", to_string(t), " ", c.name, " head_dim ", head_dim);
            CHECK_MESSAGE(bad == want_bad, to_string(i), " ", to_string(t), " ", c.name, " head_dim ", head_dim);
          }
        }
      }
}

TEST_CASE("dense: rows are scattered to any layout with the scalar reference's rounding, and nothing else is touched") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (dtype t : all_types)
    for (const auto& shape : row_shapes)
      for (plane_case& c : plane_cases(t, shape[0], shape[1], shape[2])) {
        const int rows = shape[0], heads = shape[1], head_dim = shape[2];
        c.at.offsets = c.offsets.data();
        const auto before = random_bytes(random, c.bytes);
        const int first = heads > 2 ? 1 : 0;
        row_layout at = c.at;
        at.first_head = first;
        at.num_heads = heads - first;
        const int width = at.num_heads * head_dim, ld = width + 1;
        auto from = random_floats(random, static_cast<std::size_t>(rows * ld), 3);
        for (float& x : from) {
          const unsigned kind = random() % 16;
          if (kind == 0) x = bits_float(static_cast<std::uint32_t>(random()));     // anything, NaN and subnormals too
          if (kind == 1) x = std::ldexp(x, static_cast<int>(random() % 60) - 40);  // around the narrow types' limits
          if (kind == 2) x = bits_float(float_bits(x) & 0xffff0000u);              // ties
          if (kind == 3) x = random() % 2 ? std::numeric_limits<float>::infinity() : -0.0f;
        }
        auto want = before;
        for (int r = 0; r < rows; ++r)
          for (int j = 0; j < width; ++j)
            store_element(want.data() + c.base + c.offsets[static_cast<std::size_t>(r)] +
                              (first + j / head_dim) * at.head_stride + j % head_dim * at.element_stride,
                          t, from[static_cast<std::size_t>(r * ld + j)]);
        for (isa i : instruction_sets()) {
          auto got = before;
          store_rows(i, from.data(), ld, rows, got.data() + c.base, at);
          CHECK_MESSAGE(got == want, to_string(i), " ", to_string(t), " ", c.name, " head_dim ", head_dim);
        }
      }
}

TEST_CASE("dense: every rounding boundary of the narrow types") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  std::vector<float> x;
  for (dtype t : {dtype::f16, dtype::e4m3, dtype::e5m2})
    for (unsigned b = 0; b < (t == dtype::f16 ? 0x7c00u : 0x7cu); b += t == dtype::f16 ? 7 : 1) {
      const std::uint16_t low = static_cast<std::uint16_t>(b), high = static_cast<std::uint16_t>(b + 1);
      std::byte a[2], c[2];
      std::memcpy(a, &low, 2);
      std::memcpy(c, &high, 2);
      const float middle = (load_element(a, t) + load_element(c, t)) / 2;
      for (float s : {1.0f, -1.0f}) {
        x.push_back(s * middle);
        x.push_back(s * std::nextafter(middle, 0.0f));
        x.push_back(s * std::nextafter(middle, 1e30f));
        x.push_back(s * load_element(a, t));
      }
    }
  for (int i = 0; i < 100000; ++i) x.push_back(bits_float(static_cast<std::uint32_t>(random())));
  for (float s : {65504.0f, 65519.99f, 65520.0f, 65536.0f, 448.0f, 464.0f, 480.0f, 57344.0f, 61440.0f, 1e38f})
    for (float y : {s, -s}) x.push_back(y);
  const int n = static_cast<int>(x.size());
  const std::int64_t zero = 0;
  for (isa i : instruction_sets())
    for (dtype t : all_types) {
      std::vector<std::byte> got(x.size() * static_cast<std::size_t>(size_of(t))), want = got;
      for (int j = 0; j < n; ++j) store_element(want.data() + j * size_of(t), t, x[static_cast<std::size_t>(j)]);
      store_rows(i, x.data(), n, 1, got.data(), {&zero, 0, size_of(t), 0, 1, n, t});
      CHECK_MESSAGE(got == want, to_string(i), " ", to_string(t));
    }
}

TEST_CASE("dense: inverse transform, all instruction sets within an f16 ulp of max(|x|, rms of the row)") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int n : {1, 7, 32, 64, 80, 96, 192, 256, 576})
    for (int k : {0, 1, n / 2, n - 1, n})
      for (int rows : {0, 1, 5, n == 192 ? 256 : 19}) {
        const int ldc = k + 5, ldx = n + 3;
        std::vector<std::int16_t> c(static_cast<std::size_t>(rows * ldc));
        for (auto& v : c) v = static_cast<std::int16_t>(static_cast<int>(random() % 19) - 9);
        if (rows > 0 && k > 0) c[0] = 32767;
        std::vector<std::uint16_t> matrix(static_cast<std::size_t>(n * n));
        const auto m = random_floats(random, matrix.size(), 0.3f);
        for (std::size_t i = 0; i < m.size(); ++i) matrix[i] = from_float<f16>(m[i]).bits;
        const auto mean = random_floats(random, static_cast<std::size_t>(n), 10);
        const float scale = 0.037f;
        std::vector<coefficient_correction> extra;
        for (int e = 0; e < 12 && rows > 0; ++e)
          extra.push_back({static_cast<int>(random() % static_cast<unsigned>(rows)),
                           static_cast<int>(random() % static_cast<unsigned>(n)), static_cast<float>(e * 9 - 40)});
        if (!extra.empty()) extra.push_back(extra.front());  // two for one place add up
        extra.push_back({-1, 0, 1e9f});                      // none of these exists
        extra.push_back({rows, 0, 1e9f});
        extra.push_back({0, -1, 1e9f});
        extra.push_back({0, n, 1e9f});

        std::vector<double> want(static_cast<std::size_t>(rows * n));
        for (int r = 0; r < rows; ++r) {
          std::vector<double> coefficient(static_cast<std::size_t>(n), 0.0);
          for (int i = 0; i < k; ++i)
            coefficient[static_cast<std::size_t>(i)] = c[static_cast<std::size_t>(r * ldc + i)];
          for (const auto& e : extra)
            if (e.row == r && e.coefficient >= 0 && e.coefficient < n)
              coefficient[static_cast<std::size_t>(e.coefficient)] += static_cast<double>(e.value);
          for (int j = 0; j < n; ++j) {
            double sum = 0;
            for (int i = 0; i < n; ++i)
              sum += coefficient[static_cast<std::size_t>(i)] *
                     static_cast<double>(to_float(f16{matrix[static_cast<std::size_t>(i * n + j)]}));
            want[static_cast<std::size_t>(r * n + j)] =
                static_cast<double>(scale) * sum + static_cast<double>(mean[static_cast<std::size_t>(j)]);
          }
        }
        std::vector<float> wide;
        for (isa i : instruction_sets()) {
          std::vector<float> x(static_cast<std::size_t>(rows * ldx), -5.0f);
          std::vector<float> workspace(dense_workspace(rows, k, n));
          inverse_transform(i,
                            {.c = c.data(),
                             .ldc = ldc,
                             .matrix = matrix.data(),
                             .mean = mean.data(),
                             .scale = scale,
                             .x = x.data(),
                             .ldx = ldx,
                             .rows = rows,
                             .k = k,
                             .n = n,
                             .matrix_rows = n,
                             .corrections = extra.data(),
                             .num_corrections = extra.size()},
                            workspace.data());
          int wrong = 0, touched = 0;
          for (int r = 0; r < rows; ++r) {
            double square = 0;
            for (int j = 0; j < n; ++j) square += std::pow(want[static_cast<std::size_t>(r * n + j)], 2);
            const double rms = std::sqrt(square / n);
            for (int j = 0; j < n; ++j) {
              const double w = want[static_cast<std::size_t>(r * n + j)];
              const double g = static_cast<double>(x[static_cast<std::size_t>(r * ldx + j)]);
              // an eighth of the promise: two instruction sets may err in opposite directions, and f16 rounding follows
              wrong += !(std::abs(g - w) <= f16_ulp(std::max(std::abs(w), rms)) / 8);
            }
            for (int j = n; j < ldx; ++j) touched += x[static_cast<std::size_t>(r * ldx + j)] != -5.0f;
          }
          CHECK_MESSAGE(wrong == 0, to_string(i), " n ", n, " k ", k, " rows ", rows);
          CHECK_MESSAGE(touched == 0, to_string(i), " n ", n, " k ", k, " rows ", rows);
          if (i != isa::portable) {  // fused sums in one order: the wide ones agree in every bit
            if (!wide.empty()) CHECK(x == wide);
            wide = x;
          }
        }
      }
}

TEST_CASE("dense: a mean is optional and a row does not depend on its neighbours") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  const int n = 80, k = 50, rows = 23;
  std::vector<std::int16_t> c(rows * k);
  for (auto& v : c) v = static_cast<std::int16_t>(random());
  std::vector<std::uint16_t> matrix(n * n);
  for (auto& v : matrix) v = from_float<f16>(static_cast<float>(random() % 100) / 64).bits;
  for (isa i : instruction_sets()) {
    std::vector<float> workspace(dense_workspace(rows, k, n)), all(rows * n), one(n), zero(n, 0.0f);
    inverse_job job{.c = c.data(),
                    .ldc = k,
                    .matrix = matrix.data(),
                    .scale = 1,
                    .x = all.data(),
                    .ldx = n,
                    .rows = rows,
                    .k = k,
                    .n = n,
                    .matrix_rows = n};
    inverse_transform(i, job, workspace.data());
    job.mean = zero.data();
    for (int r = 0; r < rows; ++r) {
      job.c = c.data() + r * k;
      job.x = one.data();
      job.rows = 1;
      inverse_transform(i, job, workspace.data());
      CHECK(std::equal(one.begin(), one.end(), all.begin() + r * n));
    }
  }
}

TEST_CASE("dense: a workspace serves every smaller product") {
  for (int rows : {0, 1, 256, 2000})
    for (int inner = 0; inner < 1100; inner += 11)
      for (int columns : {0, 1, 192, 1024}) {
        const std::size_t size = dense_workspace(rows, inner, columns);
        CHECK(size <= dense_workspace(rows + 1, inner, columns));
        CHECK(size <= dense_workspace(rows, inner + 11, columns));
        CHECK(size <= dense_workspace(rows, inner, columns + 1));
      }
  const int rows = 2100, n = 72;
  std::vector<std::uint16_t> matrix(n * n, from_float<f16>(1).bits);
  std::vector<std::int16_t> c(rows * n, 1);
  for (isa i : instruction_sets())
    for (int k : {1, 33, 65, n}) {
      std::vector<float> x(rows * n), workspace(dense_workspace(rows, n, n));
      inverse_transform(i,
                        {.c = c.data(),
                         .ldc = n,
                         .matrix = matrix.data(),
                         .scale = 2,
                         .x = x.data(),
                         .ldx = n,
                         .rows = rows,
                         .k = k,
                         .n = n,
                         .matrix_rows = n},
                        workspace.data());
      CHECK(std::count(x.begin(), x.end(), static_cast<float>(2 * k)) == rows * n);
    }
}

TEST_CASE("dense: forward transform rounds to nearest even, clamps, and names rows out of range") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (int n : {1, 7, 32, 64, 80, 96, 192, 576})
    for (int k : {1, n / 2, n})
      for (int rows : {0, 1, 5, n == 192 ? 256 : 21}) {
        const int ldx = n + 1, ldm = n + 2, ldc = k + 3;
        auto x = random_floats(random, static_cast<std::size_t>(rows * ldx), 4);
        const auto mean = random_floats(random, static_cast<std::size_t>(n), 2);
        const auto matrix = random_floats(random, static_cast<std::size_t>(n * ldm), 1);
        if (rows > 4) {
          x[static_cast<std::size_t>(ldx * 1)] = std::numeric_limits<float>::quiet_NaN();
          x[static_cast<std::size_t>(ldx * 2 + n - 1)] = -std::numeric_limits<float>::infinity();
          x[static_cast<std::size_t>(ldx * 4)] = 1e6f;
        }
        for (isa i : instruction_sets()) {
          std::vector<std::int16_t> c(static_cast<std::size_t>(rows * ldc), 77);
          std::vector<std::uint8_t> beyond(static_cast<std::size_t>(rows), 0);
          std::vector<float> workspace(dense_workspace(rows, n, k));
          forward_transform(i,
                            {.x = x.data(),
                             .ldx = ldx,
                             .mean = mean.data(),
                             .matrix = matrix.data(),
                             .ldm = ldm,
                             .c = c.data(),
                             .ldc = ldc,
                             .beyond = beyond.data(),
                             .rows = rows,
                             .n = n,
                             .k = k},
                            workspace.data());
          int wrong = 0, touched = 0, flags = 0;
          for (int r = 0; r < rows; ++r) {
            bool out_of_range = false;
            for (int j = 0; j < k; ++j) {
              double sum = 0, size = 0;
              for (int d = 0; d < n; ++d) {
                const double term = (static_cast<double>(x[static_cast<std::size_t>(r * ldx + d)]) -
                                     static_cast<double>(mean[static_cast<std::size_t>(d)])) *
                                    static_cast<double>(matrix[static_cast<std::size_t>(d * ldm + j)]);
                sum += term;
                size += std::abs(term);
              }
              const int got = c[static_cast<std::size_t>(r * ldc + j)];
              if (!(std::abs(sum) <= 32000)) out_of_range = true;
              if (std::isnan(sum)) continue;
              // off by one only where the exact sum lies within float error of a tie
              wrong += std::abs(got - std::clamp(sum, -32767.0, 32767.0)) > 0.5 + 1e-6 * size;
            }
            for (int j = k; j < ldc; ++j) touched += c[static_cast<std::size_t>(r * ldc + j)] != 77;
            flags += beyond[static_cast<std::size_t>(r)] != (out_of_range ? 1 : 0);
          }
          CHECK_MESSAGE(wrong == 0, to_string(i), " n ", n, " k ", k, " rows ", rows);
          CHECK_MESSAGE(touched == 0, to_string(i), " n ", n, " k ", k, " rows ", rows);
          CHECK_MESSAGE(flags == 0, to_string(i), " n ", n, " k ", k, " rows ", rows);
        }
      }
}

TEST_CASE("dense: ties go to even, the range ends at 32000") {
  const std::vector<float> x{0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -2.5f, 31999.5f, 32000.0f, -32000.0f, -0.0f, 1e-30f};
  const std::vector<std::int16_t> want{0, 2, 2, 0, -2, -2, 32000, 32000, -32000, 0, 0};
  const int n = static_cast<int>(x.size());
  std::vector<float> unit(x.size() * x.size(), 0.0f);
  for (std::size_t i = 0; i < x.size(); ++i) unit[i * x.size() + i] = 1;
  for (isa i : instruction_sets()) {
    std::vector<std::int16_t> c(x.size()), q(x.size());
    std::uint8_t beyond[2] = {0, 0};
    std::vector<float> workspace(dense_workspace(1, n, n));
    forward_transform(i,
                      {.x = x.data(),
                       .ldx = n,
                       .matrix = unit.data(),
                       .ldm = n,
                       .c = c.data(),
                       .ldc = n,
                       .beyond = beyond,
                       .rows = 1,
                       .n = n,
                       .k = n},
                      workspace.data());
    quantize_rows(i, x.data(), n, 1, nullptr, 1.0f, n, q.data(), n, beyond + 1);
    CHECK(c == want);
    CHECK(q == want);
    CHECK(beyond[0] == 0);
    CHECK(beyond[1] == 0);
    for (float y : {32000.004f, -32000.004f, 40000.0f, -1e20f, std::numeric_limits<float>::infinity()}) {
      std::uint8_t flag = 0;
      std::int16_t one = 0;
      quantize_rows(i, &y, 1, 1, nullptr, 1.0f, 1, &one, 1, &flag);
      CHECK(flag == 1);
      CHECK(one == static_cast<int>(std::clamp(y, -32767.0f, 32767.0f)));
    }
  }
}

TEST_CASE("dense: the identity transform") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (const auto& shape :
       std::initializer_list<std::array<int, 3>>{{0, 8, 8}, {1, 1, 1}, {5, 80, 80}, {9, 67, 40}, {3, 33, 0}}) {
    const int rows = shape[0], n = shape[1], k = shape[2], ld = n + 2;
    std::vector<std::int16_t> c(static_cast<std::size_t>(rows * ld));
    for (auto& v : c) v = static_cast<std::int16_t>(static_cast<int>(random() % 2001) - 1000);
    const auto mean = random_floats(random, static_cast<std::size_t>(n), 3);
    for (isa i : instruction_sets())
      for (const float* m : {mean.data(), static_cast<const float*>(nullptr)}) {
        std::vector<float> x(static_cast<std::size_t>(rows * ld), -5.0f);
        dequantize_rows(i, c.data(), ld, rows, k, 0.25f, m, n, x.data(), ld);
        std::vector<std::int16_t> back(c.size(), 77);
        std::vector<std::uint8_t> beyond(static_cast<std::size_t>(rows), 0);
        quantize_rows(i, x.data(), ld, rows, m, 4.0f, n, back.data(), ld, beyond.data());
        int wrong = 0;
        for (int r = 0; r < rows; ++r)
          for (int j = 0; j < ld; ++j) {
            const auto at = static_cast<std::size_t>(r * ld + j);
            const int live = j < k ? c[at] : 0;
            const float base = m && j < n ? m[j] : 0.0f;
            wrong += j < n ? std::abs(x[at] - (0.25f * static_cast<float>(live) + base)) > 1e-4f || back[at] != live
                           : x[at] != -5.0f || back[at] != 77;
          }
        CHECK(wrong == 0);
        CHECK(std::count(beyond.begin(), beyond.end(), 0) == rows);
      }
  }
}

TEST_CASE("dense: rotation of whole and partial heads, and back") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (rope_pairing pairing : {rope_pairing::half, rope_pairing::interleaved, rope_pairing::none})
    for (const auto& shape : std::initializer_list<std::array<int, 3>>{
             {1, 64, 64}, {3, 80, 80}, {2, 96, 24}, {2, 128, 64}, {1, 2, 2}, {2, 20, 14}, {1, 576, 576}, {1, 16, 0}})
      for (int rows : {0, 1, 5}) {
        const int heads = shape[0], head_dim = shape[1], dims = shape[2];
        const int ldx = heads * head_dim + 1, half = dims / 2, ldt = half + 3;
        const auto before = random_floats(random, static_cast<std::size_t>(rows * ldx), 5);
        std::vector<float> cosine(static_cast<std::size_t>(rows * ldt)), sine = cosine, minus = cosine;
        for (std::size_t a = 0; a < cosine.size(); ++a) {
          const double angle = static_cast<double>(random() % 100000) / 1000;
          cosine[a] = static_cast<float>(std::cos(angle));
          sine[a] = static_cast<float>(std::sin(angle));
          minus[a] = -sine[a];
        }
        std::vector<double> want(before.begin(), before.end());
        if (pairing != rope_pairing::none)
          for (int r = 0; r < rows; ++r)
            for (int h = 0; h < heads; ++h)
              for (int p = 0; p < half; ++p) {
                const int head = r * ldx + h * head_dim;
                const auto a = static_cast<std::size_t>(head + (pairing == rope_pairing::half ? p : 2 * p));
                const auto b = static_cast<std::size_t>(head + (pairing == rope_pairing::half ? p + half : 2 * p + 1));
                const auto t = static_cast<std::size_t>(r * ldt + p);
                const double c = static_cast<double>(cosine[t]), s = static_cast<double>(sine[t]);
                const double x = want[a], y = want[b];
                want[a] = x * c - y * s;
                want[b] = y * c + x * s;
              }
        for (isa i : instruction_sets()) {
          auto x = before;
          rotate_rows(i, x.data(), ldx, rows, heads, head_dim, pairing, dims, cosine.data(), sine.data(), ldt);
          int wrong = 0;
          for (std::size_t a = 0; a < x.size(); ++a) wrong += std::abs(static_cast<double>(x[a]) - want[a]) > 4e-6;
          CHECK_MESSAGE(wrong == 0, to_string(i), " head_dim ", head_dim, " dims ", dims);
          rotate_rows(i, x.data(), ldx, rows, heads, head_dim, pairing, dims, cosine.data(), minus.data(), ldt);
          wrong = 0;
          for (std::size_t a = 0; a < x.size(); ++a) wrong += std::abs(x[a] - before[a]) > 8e-6f;
          CHECK_MESSAGE(wrong == 0, to_string(i), " head_dim ", head_dim, " dims ", dims, " and back");
        }
      }
}

TEST_CASE("dense: split3 is exact for every 16-bit integer, at any length, in place") {
  std::vector<std::int16_t> all(65536);
  for (int v = 0; v < 65536; ++v) all[static_cast<std::size_t>(v)] = static_cast<std::int16_t>(v - 32768);
  for (isa i : instruction_sets()) {
    std::vector<std::int16_t> c(all.size()), r16(all.size()), in_place = all;
    std::vector<std::int8_t> r(all.size());
    std::int8_t* const digits[] = {nullptr, r.data()};
    split_levels(i, all.data(), c.data(), digits, 2, 2, 65536);
    split3(i, in_place.data(), in_place.data(), r16.data(), 65536);
    CHECK(c == in_place);
    int wrong = 0;
    for (std::size_t v = 0; v < all.size(); ++v) {
      const int want = static_cast<int>(std::floor((all[v] + 1) / 3.0));
      wrong += c[v] != want || r[v] != all[v] - 3 * want || r16[v] != r[v] || std::abs(r[v]) > 1;
    }
    CHECK(wrong == 0);
    for (int n = 0; n < 70; ++n) {
      std::vector<std::int16_t> part(static_cast<std::size_t>(n));
      std::vector<std::int8_t> digit(part.size());
      std::int8_t* const of_part[] = {nullptr, digit.data()};
      split_levels(i, all.data() + 1001, part.data(), of_part, 2, 2, n);
      CHECK(std::equal(part.begin(), part.end(), c.begin() + 1001));
      CHECK(std::equal(digit.begin(), digit.end(), r.begin() + 1001));
    }
  }
}

TEST_CASE("dense: scan_limits finds exactly the entries beyond their coefficient's limit") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  for (const auto& shape :
       std::initializer_list<std::array<int, 2>>{{0, 32}, {1, 1}, {5, 80}, {64, 192}, {3, 33}, {7, 0}}) {
    const int rows = shape[0], n = shape[1], ld = n + 4;
    std::vector<std::int16_t> v(static_cast<std::size_t>(rows * ld)), limit(static_cast<std::size_t>(n));
    for (auto& x : v) x = static_cast<std::int16_t>(random() % 100 ? static_cast<int>(random() % 41) - 20 : -32768);
    for (auto& x : limit) x = static_cast<std::int16_t>(random() % 10 ? 20 : random() % 2 ? 32767 : 0);
    std::vector<std::pair<int, int>> want;
    for (int r = 0; r < rows; ++r)
      for (int j = 0; j < n; ++j)
        if (std::abs(int{v[static_cast<std::size_t>(r * ld + j)]}) > limit[static_cast<std::size_t>(j)])
          want.emplace_back(r, j);
    for (isa i : instruction_sets())
      for (std::size_t cap : {want.size() + 1, want.size(), want.size() / 2}) {
        std::vector<coefficient_place> found(cap);
        CHECK(scan_limits(i, v.data(), ld, rows, n, limit.data(), found.data(), cap) == want.size());
        bool same = true;
        for (std::size_t f = 0; f < std::min(cap, want.size()); ++f)
          same &= found[f].row == want[f].first && found[f].coefficient == want[f].second;
        CHECK(same);
      }
  }
}
