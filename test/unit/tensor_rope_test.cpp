// SPDX-License-Identifier: Apache-2.0
#include <sluice/tensor/rope.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <random>
#include <vector>

using namespace sluice;

namespace {

std::vector<double> frequencies(const rope& r, int head_dim) {
  std::vector<double> f(static_cast<std::size_t>(rotary_dims(r, head_dim) / 2));
  rope_frequencies(r, head_dim, f);
  return f;
}

struct known {
  std::size_t index;
  double frequency;
};

void check_known(const rope& r, int head_dim, const std::vector<known>& expected) {
  CHECK(validate(r, head_dim) == status::ok);
  const std::vector<double> f = frequencies(r, head_dim);
  for (const known& k : expected) CHECK(f[k.index] == doctest::Approx(k.frequency).epsilon(1e-12));
}

// One of each way to stretch and pair, whole heads and partial ones.
std::vector<rope> all_ropes() {
  std::vector<rope> ropes;
  for (const rope_pairing pairing : {rope_pairing::half, rope_pairing::interleaved})
    for (const int dims : {0, 32}) {
      ropes.push_back({.pairing = pairing, .rotary_dims = dims});
      ropes.push_back({.pairing = pairing, .scaling = rope_scaling::linear, .rotary_dims = dims, .factor = 4});
      ropes.push_back({.pairing = pairing, .scaling = rope_scaling::ntk, .rotary_dims = dims, .factor = 2});
      for (const rope_scaling scaling : {rope_scaling::yarn, rope_scaling::yarn_untruncated})
        ropes.push_back({.pairing = pairing,
                         .scaling = scaling,
                         .rotary_dims = dims,
                         .factor = 4,
                         .low_freq = 1,
                         .high_freq = 32,
                         .original_context = 4096,
                         .attention_factor = yarn_attention_factor(4)});
      ropes.push_back({.pairing = pairing,
                       .scaling = rope_scaling::llama3,
                       .rotary_dims = dims,
                       .base = 5e5,
                       .factor = 8,
                       .original_context = 8192});
    }
  return ropes;
}

double dot(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
  return sum;
}

}  // namespace

// Expected numbers: numpy, in float64, written apart from the header. With w = base^(-2i/d), wavelength = 2 pi / w:
//   llama3: w * (s + (1 - s) / factor), s = clip((original / wavelength - low) / (high - low), 0, 1)
//   yarn:   w / factor * r + w * (1 - r), r = clip((i - a) / (b - a), 0, 1),
//           a = max(floor(c(32)), 0), b = min(ceil(c(1)), d - 1), c(n) = d ln(original / (2 pi n)) / (2 ln base)
//   ntk:    w with base * factor^(d / (d - 2))
TEST_CASE("frequencies of well-known models") {
  // Llama 3.1: pairs 29 to 34 lie in the ramp.
  check_known({.scaling = rope_scaling::llama3,
               .base = 500000,
               .factor = 8,
               .low_freq = 1,
               .high_freq = 4,
               .original_context = 8192},
              128,
              {{0, 1},
               {1, 0.81461723385654472},
               {28, 0.0032114459947525909},
               {29, 0.0021665707635033591},
               {31, 0.00085675141291963208},
               {33, 0.00031269375038406517},
               {34, 0.00017850781276799641},
               {35, 9.5562123539646833e-05},
               {63, 3.0689259889145111e-07}});
  // Qwen2.5 stretched four times: ramp from 23 to 40.
  check_known({.scaling = rope_scaling::yarn,
               .base = 1e6,
               .factor = 4,
               .low_freq = 1,
               .high_freq = 32,
               .original_context = 32768},
              128,
              {{0, 1},
               {23, 0.0069783058485986633},
               {24, 0.0053753214907901019},
               {30, 0.0010643609812470019},
               {39, 6.4903943208370293e-05},
               {40, 4.4456985250973067e-05},
               {63, 3.1023444018792988e-07}});
  // DeepSeek-V3, the 64 rotary dims: ramp from 10 to 23.
  check_known({.pairing = rope_pairing::interleaved,
               .scaling = rope_scaling::yarn,
               .base = 1e4,
               .factor = 40,
               .low_freq = 1,
               .high_freq = 32,
               .original_context = 4096},
              64,
              {{9, 0.074989420933245579},
               {10, 0.056234132519034905},
               {15, 0.0083345089510207769},
               {23, 3.3338035804083099e-05},
               {31, 3.3338035804083097e-06}});
  // gpt-oss: ramp from 8.0928 to 17.398, not rounded to whole dims.
  check_known({.scaling = rope_scaling::yarn_untruncated,
               .base = 150000,
               .factor = 32,
               .low_freq = 1,
               .high_freq = 32,
               .original_context = 4096},
              64,
              {{8, 0.050813274815461475},
               {9, 0.031705696184663769},
               {12, 0.0067949594897322189},
               {17, 0.00012931870124506319},
               {18, 3.8308812373753384e-05}});
  check_known({.scaling = rope_scaling::ntk, .factor = 2}, 64,
              {{0, 1}, {1, 0.73331295077053182}, {16, 0.0069924549921162619}, {31, 6.6676071608166198e-05}});
  check_known({.scaling = rope_scaling::linear, .factor = 4}, 4, {{0, 0.25}, {1, 0.0025}});
  check_known({}, 4, {{0, 1}, {1, 0.01}});
  CHECK(yarn_attention_factor(4) == doctest::Approx(1.1386294361119891).epsilon(1e-15));
  CHECK(yarn_attention_factor(1) == 1.0);
}

TEST_CASE("only the leading dims of a partial rotary head count") {
  CHECK(rotary_dims({}, 128) == 128);
  CHECK(rotary_dims({.rotary_dims = 64}, 128) == 64);
  CHECK(rotary_dims({.rotary_dims = 256}, 128) == 128);
  CHECK(rotary_dims({.pairing = rope_pairing::none}, 128) == 0);
  CHECK(rotary_dims({.rotary_dims = -2}, 128) == 0);
  CHECK(frequencies({.rotary_dims = 64}, 128) == frequencies({}, 64));

  std::vector<double> shorter(3, -1);
  rope_frequencies({}, 128, shorter);
  CHECK(shorter[0] == 1.0);
}

TEST_CASE("inverse undoes forward to float rounding, at any position") {
  const unsigned seed = 20261121;
  MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (const rope& r : all_ropes()) {
    const std::vector<double> f = frequencies(r, 64);
    for (const std::int64_t position : {std::int64_t{0}, std::int64_t{1}, std::int64_t{4095}, std::int64_t{1} << 21}) {
      std::vector<float> row(64);
      for (float& x : row) x = 10 * normal(random);
      const std::vector<float> original = row;
      rotate(row.data(), r, f, position);
      if (position > 0) CHECK(row != original);
      for (std::size_t i = static_cast<std::size_t>(rotary_dims(r, 64)); i < row.size(); ++i)
        CHECK(row[i] == original[i]);
      rotate(row.data(), r, f, position, rotation::inverse);
      for (std::size_t i = 0; i < row.size(); ++i) CHECK(std::fabs(row[i] - original[i]) < 1e-5f);
    }
  }
}

TEST_CASE("position 0 is the identity, but for the attention factor") {
  for (const rope& r : all_ropes()) {
    std::vector<float> row(64, 1.25f);
    rotate(row.data(), r, frequencies(r, 64), 0);
    for (int i = 0; i < 64; ++i)
      CHECK(row[static_cast<std::size_t>(i)] ==
            doctest::Approx(i < rotary_dims(r, 64) ? 1.25 * r.attention_factor : 1.25).epsilon(1e-6));
  }
}

TEST_CASE("scores depend on the distance between positions alone") {
  const unsigned seed = 7;
  MESSAGE("seed " << seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  for (const rope& r : all_ropes()) {
    const std::vector<double> f = frequencies(r, 64);
    std::vector<float> q(64), k(64);
    for (float& x : q) x = normal(random);
    for (float& x : k) x = normal(random);
    const auto score = [&](std::int64_t query, std::int64_t key) {
      std::vector<float> a = q, b = k;
      rotate(a.data(), r, f, query);
      rotate(b.data(), r, f, key);
      return dot(a, b);
    };
    CHECK(score(905, 900) == doctest::Approx(score(5, 0)).epsilon(1e-4).scale(1));
    CHECK(score(100000, 97000) == doctest::Approx(score(3100, 100)).epsilon(1e-4).scale(1));
  }
}

TEST_CASE("pairings rotate the dims they name, in the direction engines do") {
  // A quarter turn takes (x, y) to (-y, x).
  const double quarter[2] = {std::acos(-1.0) / 2, 0};
  float half[5] = {1, 2, 3, 4, 5}, interleaved[5] = {1, 2, 3, 4, 5}, none[5] = {1, 2, 3, 4, 5};
  rotate(half, {.pairing = rope_pairing::half}, quarter, 1);
  rotate(interleaved, {.pairing = rope_pairing::interleaved}, quarter, 1);
  rotate(none, {.pairing = rope_pairing::none}, quarter, 1);
  const float half_want[5] = {-3, 2, 1, 4, 5}, interleaved_want[5] = {-2, 1, 3, 4, 5}, none_want[5] = {1, 2, 3, 4, 5};
  for (int i = 0; i < 5; ++i) {
    CHECK(half[i] == doctest::Approx(half_want[i]));
    CHECK(interleaved[i] == doctest::Approx(interleaved_want[i]));
    CHECK(none[i] == none_want[i]);
  }
}

TEST_CASE("descriptions that cannot be undone are refused") {
  const double nan = std::nan("");
  CHECK(validate(rope{}, 128) == status::ok);
  CHECK(validate(rope{.pairing = rope_pairing::none, .base = -1}, 128) == status::ok);
  CHECK(validate(rope{}, 127) == status::invalid_argument);
  CHECK(validate(rope{.rotary_dims = 130}, 128) == status::invalid_argument);
  CHECK(validate(rope{.rotary_dims = -2}, 128) == status::invalid_argument);
  CHECK(validate(rope{.base = 0}, 128) == status::invalid_argument);
  CHECK(validate(rope{.base = nan}, 128) == status::invalid_argument);
  CHECK(validate(rope{.attention_factor = 0}, 128) == status::invalid_argument);
  CHECK(validate(rope{.scaling = rope_scaling::linear, .factor = 0}, 128) == status::invalid_argument);
  CHECK(validate(rope{.scaling = rope_scaling::ntk, .factor = 2}, 2) == status::invalid_argument);
  CHECK(validate(rope{.scaling = rope_scaling::yarn}, 128) == status::invalid_argument);
  CHECK(validate(rope{.scaling = rope_scaling::llama3, .low_freq = 4, .high_freq = 4, .original_context = 8192}, 128) ==
        status::invalid_argument);
  CHECK(validate(rope{.scaling = static_cast<rope_scaling>(9)}, 128) == status::invalid_argument);
}
