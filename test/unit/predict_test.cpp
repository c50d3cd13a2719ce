// SPDX-License-Identifier: Apache-2.0
// Rows that are predicted from features, against sums written out, and sections that are not what they must be.
#include <sluice/codec/codec.hpp>
#include <sluice/codec/predict/predicted_from.hpp>
#include <sluice/codec/transform/product.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/isas.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

namespace {

using namespace sluice;

using everything = predicted_from<token_embedding<3>, previous_layer<>, same_layer_k_for_v>;
using in_pairs = predicted_from<previous_layer<1>>;
using from_tokens = predicted_from<token_embedding<3>>;
using k_for_v = predicted_from<same_layer_k_for_v>;

static_assert(tile_codec<codec::standard::with_predictor<everything>>);
static_assert(tile_codec<codec::standard::with_predictor<from_tokens>>);
static_assert(everything::id == stage_id::of(7, 3) && in_pairs::id == stage_id::of(2, 1 << 12));
static_assert(from_tokens::span == 0 && k_for_v::span == 1 && in_pairs::span == 1);
static_assert(everything::span >= max_model_layers - 1);
static_assert(everything::reads_tokens && from_tokens::reads_tokens && !in_pairs::reads_tokens);

constexpr unsigned seed = 2024;
constexpr std::uint32_t vocab = 5;
constexpr int layers = 3, heads = 2, dim = 4, width = heads * dim;

// A profile with random matrices for a policy.
template <class P>
profile make(unsigned with = seed) {
  const model_shape shape = model_shape::uniform(layers, heads, dim);
  caches::cache source = caches::make_cache(shape, 40);
  caches::fill(source.view(), shape, with);
  profile p = caches::make_profile(shape, {&source.view(), 1}, 1);
  std::mt19937 random(with);
  const auto number = [&] { return float(int(random() % 200) - 100) / 64; };
  detail::prediction_model m;
  m.residual = std::make_shared<profile>(p);
  m.vocab = P::kind.rank ? vocab : 0;
  for (int i = 0; i < 2 * layers; ++i) {
    detail::plane_prediction& q = m.planes.emplace_back();
    q.features = P::features(shape, i / 2, plane(i % 2));
    q.scale = 0.5f;
    for (int j = 0; j < q.features * width; ++j) q.matrix.push_back(from_float<f16>(number()).bits);
  }
  for (int i = 0; i < P::kind.rank; ++i) m.latent_scale.push_back(number());
  for (std::uint32_t i = 0; i < m.vocab * std::uint32_t(P::kind.rank); ++i)
    m.latents.push_back(std::int8_t(random() % 255 - 127));
  p.set_section(detail::write_prediction(m, P::kind));
  return p;
}

float mean_of(const profile& p, int layer, plane which, int channel) {
  return to_float(f16{p.of(layer, which).mean[std::size_t(channel)]});
}

// Rows of a whole plane, group after group.
template <class P>
std::vector<float> ask(P& policy, const profile& p, int layer, plane which, const tile_tokens_range& range,
                       const std::vector<std::uint16_t>& rows, const side_info& side, int* groups = nullptr) {
  std::vector<float> out(rows.size() * width);
  const plane_profile& q = p.of(layer, which);
  for (int g = 0; g < q.groups(); ++g) {
    const group_place at = place_of(p.shape, q.group_width, layer, which, g);
    std::vector<float> part(rows.size() * 32);
    const bool did = policy.predict(at, range, rows, side, part.data(), 32);
    if (groups) *groups += did;
    for (std::size_t r = 0; r < rows.size(); ++r)
      std::copy_n(&part[r * 32], at.width(), &out[r * width + std::size_t(at.first_head * dim)]);
  }
  return out;
}

template <class P>
void teach(P& policy, const profile& p, int layer, plane which, const tile_tokens_range& range,
           const std::vector<std::uint16_t>& rows, const std::vector<float>& x) {
  const plane_profile& q = p.of(layer, which);
  for (int g = 0; g < q.groups(); ++g)
    policy.learn(place_of(p.shape, q.group_width, layer, which, g), range, rows, x.data() + g * q.group_width, width);
}

}  // namespace

TEST_CASE("predict: rows are the features times the profile's matrix, missing ones count nothing") {
  const profile p = make<everything>();
  REQUIRE(everything::residual(p));
  CHECK(everything::fingerprint(p) != p.fingerprint());
  CHECK(from_tokens::fingerprint(p) == 0);
  detail::prediction_model m;
  REQUIRE(detail::parse_prediction(
      p, p.sections[0].bytes, everything::kind,
      [&](int l, plane which) { return everything::features(p.shape, l, which); }, m));
  everything policy(p);
  policy.forget();
  std::mt19937 random(seed);
  std::normal_distribution<float> gauss;
  const tile_tokens_range range{100, 1000, 40};
  std::vector<std::int32_t> ids(120, 2);
  for (int i = 0; i < 10; ++i) ids[std::size_t(100 + i)] = i - 2;  // some of no vocabulary
  const side_info side{ids};                                       // and some of no token
  std::vector<std::uint16_t> rows;
  for (int i = 0; i < 40; i += 1 + i % 3) rows.push_back(std::uint16_t(i));
  std::vector<std::vector<float>> learnt;  // of each plane so far
  for (int l = 0; l < layers; ++l)
    for (const plane which : {plane::key, plane::value}) {
      const int k = everything::features(p.shape, l, which);
      CHECK(k == 3 + (l ? 2 * width : 0) + (which == plane::value ? width : 0));
      const auto got = ask(policy, p, l, which, range, rows, side);
      const detail::plane_prediction& q = m.planes[std::size_t(2 * l + int(which))];
      double worst = 0;
      for (std::size_t r = 0; r < rows.size(); ++r) {
        std::vector<double> f;
        const std::size_t token = 100u + rows[r];
        for (std::size_t i = 0; i < 3; ++i) {
          const bool known = token < ids.size() && ids[token] >= 0 && ids[token] < int(vocab);
          f.push_back(known ? double(m.latent_scale[i]) * m.latents[std::size_t(ids[token]) * 3 + i] : 0);
        }
        const auto put = [&](int of, plane o) {
          // Every fifth row was not learnt.
          for (int c = 0; c < width; ++c)
            f.push_back(r % 5 ? double(learnt[std::size_t(2 * of + int(o))][r * width + std::size_t(c)]) -
                                    double(mean_of(p, of, o, c))
                              : 0);
        };
        if (l) put(l - 1, plane::key), put(l - 1, plane::value);
        if (which == plane::value) put(l, plane::key);
        REQUIRE(int(f.size()) == k);
        for (int c = 0; c < width; ++c) {
          double sum = 0;
          for (std::size_t i = 0; i < f.size(); ++i)
            sum += f[i] * double(to_float(f16{q.matrix[i * width + std::size_t(c)]}));
          worst = std::max(worst, std::abs(0.5 * sum - double(got[r * width + std::size_t(c)])) / (1 + std::abs(sum)));
        }
      }
      CHECK(worst < 1e-4);
      std::vector<float>& x = learnt.emplace_back(rows.size() * width);
      for (float& v : x) v = 10 * gauss(random);
      std::vector<std::uint16_t> some;
      std::vector<float> of_some;
      for (std::size_t r = 0; r < rows.size(); ++r)
        if (r % 5) {
          some.push_back(rows[r]);
          of_some.insert(of_some.end(), &x[r * width], &x[r * width] + width);
        }
      teach(policy, p, l, which, range, some, of_some);
    }
}

TEST_CASE("predict: a layer predicts the next one of its span, of its own tile") {
  const profile p = make<in_pairs>();
  REQUIRE(in_pairs::residual(p));
  in_pairs policy(p);
  const tile_tokens_range range{0, 0, 8};
  const std::vector<std::uint16_t> rows{1, 5};
  const std::vector<float> x(rows.size() * width, 3.f);
  const auto groups = [&](int layer, plane which, const std::vector<std::uint16_t>& of) {
    int n = 0;
    ask(policy, p, layer, which, range, of, {}, &n);
    return n;
  };
  policy.forget();
  CHECK(groups(1, plane::key, rows) == 0);  // nothing was learnt
  for (const plane which : {plane::key, plane::value}) teach(policy, p, 0, which, range, rows, x);
  CHECK(groups(0, plane::key, rows) == 0);
  CHECK(groups(1, plane::key, rows) == p.of(1, plane::key).groups());
  CHECK(groups(1, plane::value, {5, 6}) > 0);
  CHECK(groups(1, plane::value, {6}) == 0);
  CHECK(groups(1, plane::value, {}) == 0);
  for (const plane which : {plane::key, plane::value}) teach(policy, p, 1, which, range, rows, x);
  CHECK(groups(2, plane::key, rows) == 0);  // stands alone
  policy.forget();
  CHECK(groups(1, plane::key, rows) == 0);
  // A layer that was learnt, but is not the one below.
  for (const plane which : {plane::key, plane::value}) teach(policy, p, 2, which, range, rows, x);
  CHECK(groups(1, plane::key, rows) == 0);
}

TEST_CASE("predict: without a section, or with another policy's, there is no residual and no prediction") {
  profile p = make<everything>();
  for (const profile_section& s : p.sections) CHECK(s.optional);
  const result<profile> read = profile::parse(p.serialize());
  REQUIRE(read);
  CHECK(everything::residual(*read));
  CHECK(everything::residual(p) == everything::residual(p));
  CHECK_FALSE(in_pairs::residual(p));
  using of_rank_4 = predicted_from<token_embedding<4>, previous_layer<>, same_layer_k_for_v>;
  using of_span_2 = predicted_from<token_embedding<3>, previous_layer<2>, same_layer_k_for_v>;
  CHECK_FALSE(of_rank_4::residual(p));
  CHECK_FALSE(of_span_2::residual(p));
  p.sections.clear();
  CHECK_FALSE(everything::residual(p));
  CHECK(everything::fingerprint(p) == 0);
  everything policy(p);
  policy.forget();
  const std::vector<std::uint16_t> rows{0};
  const std::vector<float> x(width);
  teach(policy, p, 0, plane::key, {0, 0, 1}, rows, x);
  int n = 0;
  ask(policy, p, 0, plane::value, {0, 0, 1}, rows, {}, &n);
  CHECK(n == 0);
}

TEST_CASE("predict: sections of any bytes are refused or serve") {
  MESSAGE("seed ", seed);
  const profile sound = make<everything>();
  std::mt19937 random(seed);
  const std::vector<std::uint16_t> rows{0, 1, 7};
  const std::vector<std::int32_t> ids{0, 4, 5, -1, 2147483647, 1, 2, 3};
  const tile_tokens_range range{0, 0, 8};
  int refused = 0, served = 0;
  for (int round = 0; round < 3000; ++round) {
    profile p = sound;
    auto& bytes = p.sections[0].bytes;
    const unsigned kind = random() % 4;
    if (kind == 0) bytes.resize(random() % bytes.size());
    if (kind == 1) bytes.resize(bytes.size() + 1 + random() % 40);
    if (kind >= 2)
      for (unsigned i = 0; i <= random() % 4; ++i)
        bytes[kind == 2 ? random() % 40 : random() % bytes.size()] = std::byte(random());
    const auto left = everything::residual(p);
    (left ? served : refused) += 1;
    if (left) CHECK(validate(*left) == status::ok);
    everything policy(p);
    policy.forget();
    for (int l = 0; l < layers; ++l)
      for (const plane which : {plane::key, plane::value})
        teach(policy, p, l, which, range, rows, ask(policy, p, l, which, range, rows, {ids}));
  }
  CHECK(refused > 1000);
  CHECK(served > 100);
}

TEST_CASE("predict: the product against a plain loop, on every instruction set") {
  MESSAGE("seed ", seed);
  std::mt19937 random(seed);
  std::normal_distribution<float> gauss;
  for (const int n : {1, 7, 64, 80, 192})
    for (const int k : {1, 33, 640})
      for (const int rows : {0, 1, 6, 19, n == 80 ? 500 : 12}) {
        const int ldf = k + 3, ldm = n + 5, ldx = n + 2;
        std::vector<float> f(std::size_t((rows + detail::dense_tail_rows) * ldf));
        for (float& v : f) v = gauss(random);
        std::vector<std::uint16_t> matrix(std::size_t(k * ldm));
        for (auto& v : matrix) v = from_float<f16>(gauss(random)).bits;
        for (const isa i : isas::all) {
          if (usable_isa(i) != i) continue;
          std::vector<float> x(std::size_t(rows * ldx), -5.f), workspace(detail::dense_workspace(0, k, n));
          detail::multiply_rows(i,
                                {.f = f.data(),
                                 .ldf = ldf,
                                 .matrix = matrix.data(),
                                 .ldm = ldm,
                                 .scale = 0.25f,
                                 .x = x.data(),
                                 .ldx = ldx,
                                 .rows = rows,
                                 .k = k,
                                 .n = n},
                                workspace.data());
          double worst = 0;
          int touched = 0;
          for (int r = 0; r < rows; ++r)
            for (int j = 0; j < ldx; ++j) {
              const float got = x[std::size_t(r * ldx + j)];
              if (j >= n) {
                touched += got != -5.f;
                continue;
              }
              double sum = 0;
              for (int c = 0; c < k; ++c)
                sum += double(f[std::size_t(r * ldf + c)]) * double(to_float(f16{matrix[std::size_t(c * ldm + j)]}));
              worst = std::max(worst, std::abs(0.25 * sum - double(got)) / std::sqrt(double(k)));
            }
          CHECK_MESSAGE(worst < 1e-5, to_string(i), " n ", n, " k ", k, " rows ", rows);
          CHECK_MESSAGE(touched == 0, to_string(i), " n ", n, " k ", k, " rows ", rows);
        }
      }
}
