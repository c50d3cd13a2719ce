// SPDX-License-Identifier: Apache-2.0
// Profiles for ranks of tensor parallelism, and frames that pass between groups of ranks.
#include <sluice/calibrate/calibrate.hpp>
#include <sluice/calibrate/slice.hpp>
#include <sluice/codec/fit.hpp>
#include <sluice/codec/instances.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/captures.hpp>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <safetensors.hpp>
#include <utility>
#include <vector>

namespace {

using namespace sluice;
using captures::known;
using captures::memory;

// What errors weigh: of each head, in units of the finest step of its plane.
class metric {
 public:
  explicit metric(const profile& p) {
    for (std::size_t i = 0; i < p.planes.size(); ++i) {
      const plane_profile& q = p.planes[i];
      const int dim = p.shape.layers[i / 2].head_dim(plane(i % 2));
      heads_.emplace_back();
      for (int g = 0; g < q.groups(); ++g) {
        const detail::group_knowledge k(q, g);
        for (int c = 0; c < q.width_of(g); c += dim) heads_.back().push_back(k.encode.middleRows(c, dim));
      }
    }
  }

  // Mean square over coefficients and tokens; head 0 of the views is the model's head `first`. Rotated keys will do:
  // the metric of K is the same for both channels of a pair.
  double error(const kv_view& a, const kv_view& b, int first) const {
    double sum = 0, n = 0;
    for (const plane which : {plane::key, plane::value}) {
      Eigen::RowVectorXd e(a[which].head_dim);
      for (int l = 0; l < a.num_layers; ++l)
        for (int h = 0; h < a.num_kv_heads; ++h)
          for (std::int64_t t = 4; t < a.tokens; ++t) {
            for (int d = 0; d < e.size(); ++d)
              e(d) = double(load_element(a.at(which, l, t, h, d), a[which].type)) -
                     double(load_element(b.at(which, l, t, h, d), b[which].type));
            sum += (e * heads_[2 * std::size_t(l) + std::size_t(which)][std::size_t(first + h)]).squaredNorm();
            n += double(e.size());
          }
    }
    return sum / n;
  }

 private:
  std::vector<std::vector<Eigen::MatrixXd>> heads_;
};

std::vector<std::size_t> sizes(std::span<const std::byte> frame) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  std::vector<std::size_t> all;
  for (int level = 0; level < index.header().levels_present; ++level) all.push_back(index.size_at(level));
  return all;
}

memory like(const kv_view& v, const model_shape& s) {
  memory m(s, v.tokens);
  m.view.position = v.position;
  return m;
}

void copy(const kv_view& from, const kv_view& to) {
  for (const plane which : {plane::key, plane::value})
    for (int l = 0; l < from.num_layers; ++l)
      for (std::int64_t t = 0; t < from.tokens; ++t)
        for (int h = 0; h < from.num_kv_heads; ++h)
          std::memcpy(to.at(which, l, t, h, 0), from.at(which, l, t, h, 0), 2 * std::size_t(from[which].head_dim));
}

// One group of ranks: each has so many heads, a profile for them and its own cache.
struct ranks {
  std::vector<profile> profiles;
  std::vector<memory> caches;
  int heads;  // of a rank

  ranks(const profile& whole, int degree, const kv_view& like_this) {
    const int all = whole.shape.layers[0].num_kv_heads;
    REQUIRE(all % degree == 0);
    heads = all / degree;
    for (int r = 0; r < degree; ++r) {
      result<profile> p = slice_heads(whole, r * heads, (r + 1) * heads);
      REQUIRE(p.has_value());
      profiles.push_back(std::move(*p));
      caches.push_back(like(like_this, profiles.back().shape));
    }
  }
  // What the ranks' caches hold, as frames.
  std::vector<std::vector<std::byte>> frames() const {
    std::vector<std::vector<std::byte>> all;
    for (std::size_t r = 0; r < caches.size(); ++r) all.push_back(caches::encode(profiles[r], caches[r].view));
    return all;
  }
  // Fills the caches from frames of a group of another degree, each with the profile it was made with.
  void read(const ranks& from, const std::vector<std::vector<std::byte>>& frames, int level = max_passes) {
    for (std::size_t r = 0; r < caches.size(); ++r)
      for (std::size_t f = 0; f < frames.size(); ++f) {
        const int begin = std::max(int(r) * heads, int(f) * from.heads);
        const int end = std::min(int(r + 1) * heads, int(f + 1) * from.heads);
        if (begin >= end) continue;
        const kv_view mine = caches[r].view.heads(begin - int(r) * heads, end - int(r) * heads);
        if (end - begin == from.heads) {  // all of the frame is wanted: straight into its place
          CHECK(caches::decode(from.profiles[f], frames[f], mine, {.level = level}).worst == status::ok);
          continue;
        }
        const memory staging = like(mine, from.profiles[f].shape);
        CHECK(caches::decode(from.profiles[f], frames[f], staging.view, {.level = level}).worst == status::ok);
        copy(staging.view.heads(begin - int(f) * from.heads, end - int(f) * from.heads), mine);
      }
  }
  double error(const metric& m, const kv_view& original) const {
    double sum = 0;
    for (std::size_t r = 0; r < caches.size(); ++r)
      sum += m.error(original.heads(int(r) * heads, int(r + 1) * heads), caches[r].view, int(r) * heads);
    return sum / double(caches.size());
  }
  void hold(const kv_view& original) {
    for (std::size_t r = 0; r < caches.size(); ++r)
      copy(original.heads(int(r) * heads, int(r + 1) * heads), caches[r].view);
  }
};

// Bytes and errors of a group of ranks against those of whole frames.
void compare(const profile& whole, const kv_view& cache, int degree, double most_bytes, double most_error) {
  const metric m(whole);
  const ranks one(whole, 1, cache);
  ranks each(whole, degree, cache);
  CHECK(one.profiles[0].planes == whole.planes);
  each.hold(cache);
  const auto frames = each.frames();
  const auto frame = caches::encode(whole, cache);
  const auto all = sizes(frame);
  for (int level = 0; level < 4; ++level) {
    std::size_t sum = 0;
    for (const auto& f : frames) sum += sizes(f)[std::size_t(level)];
    memory decoded = like(cache, whole.shape);
    REQUIRE(caches::decode(whole, frame, decoded.view, {.level = level}).worst == status::ok);
    ranks back(whole, degree, cache);
    back.read(each, frames, level);
    const double bytes = double(sum) / double(all[std::size_t(level)]),
                 error = back.error(m, cache) / m.error(cache, decoded.view, 0);
    std::printf("%d ranks, level %d: %.3f times the bytes, %.3f times the squared error\n", degree, level, bytes,
                error);
    CHECK(bytes < most_bytes);
    CHECK(error < most_error);
    CHECK(error > 0.95);
  }
}

// Real heads of several layers of a capture as the heads of one: a model of eight KV heads.
memory eight_heads(const memory& from, std::int64_t begin, std::int64_t end) {
  model_shape s = model_shape::uniform(2, 8, 64, from.shape.ropes[0]);
  memory m(s, end - begin);
  m.view.position = begin;
  m.fill([&](plane which, int l, std::int64_t t, int h, int d) {
    return from.get(which, 12 * l + 5 + h / 3, begin + t, h % 3, d);
  });
  return m;
}

}  // namespace

TEST_CASE("slice_heads: one head of each layer of SmolLM2") {
  const profile p = known();
  const memory m = captures::load(captures::sample);
  for (const auto& [begin, end] : {std::pair(0, 1), {1, 3}}) {
    const profile q = slice_heads(p, begin, end).value();
    CHECK(validate(q) == status::ok);
    CHECK(profile::parse(q.serialize())->fingerprint() == q.fingerprint());
    CHECK(q.shape.layers[0].num_kv_heads == end - begin);
    CHECK(q.calibrated());
    CHECK(check_fit(m.view.heads(begin, end), q) == status::ok);
    CHECK(check_fit(m.view.heads(begin ? 0 : 2, begin ? 2 : 3), q) == status::profile_does_not_fit);
    for (std::size_t i = 0; i < q.planes.size(); ++i) {
      CHECK(std::equal(q.planes[i].mean.begin(), q.planes[i].mean.end(), p.planes[i].mean.begin() + begin * 64));
      CHECK(q.planes[i].loss[1] == doctest::Approx(p.planes[i].loss[1] * float(end - begin) / 3));
    }
  }
  CHECK(slice_heads(p, 0, 3)->fingerprint() == p.fingerprint());
  CHECK(slice_heads(p, 0, 3)->sections == p.sections);
  // Guesses of how much a token matters are cut to what the heads say, and still pay.
  const profile middle = *slice_heads(p, 1, 2);
  const auto guesses = detail::token_weight_model::of(middle), all = detail::token_weight_model::of(p);
  REQUIRE(guesses);
  for (std::size_t l = 0; l < 30; ++l)
    CHECK(std::equal(guesses->layers[l].direction.begin(), guesses->layers[l].direction.end(),
                     all->layers[l].direction.begin() + 64));
  CHECK(caches::encode<codec::balanced>(middle, m.view.heads(1, 2)).size() <
        caches::encode(middle, m.view.heads(1, 2)).size());
  // What a slice of a slice knows is what a slice knows.
  const profile direct = *slice_heads(p, 2, 3), twice = *slice_heads(*slice_heads(p, 1, 3), 1, 2);
  const auto a = sizes(caches::encode(direct, m.view.heads(2, 3))),
             b = sizes(caches::encode(twice, m.view.heads(2, 3)));
  for (std::size_t level = 0; level < 4; ++level) CHECK(std::fabs(double(b[level]) / double(a[level]) - 1) < 0.01);
  // The group is cut: what its heads know of each other is lost.
  compare(p, m.view, 3, 1.22, 1.25);
}

TEST_CASE("slice_heads: frames of three ranks make a whole cache, a whole frame fills three ranks") {
  const profile p = known();
  const memory m = captures::load(captures::sample);
  ranks three(p, 3, m.view), whole(p, 1, m.view);
  three.hold(m.view);
  const auto parts = three.frames();
  whole.read(three, parts, 2);
  const metric weights(p);
  CHECK(weights.error(m.view, whole.caches[0].view, 0) <
        1.3);                    // in steps of that level: 9 finest ones, squared, over 12
  for (int r = 0; r < 3; ++r) {  // not a byte other than what the rank itself gets back
    const memory own = like(m.view, three.profiles[std::size_t(r)].shape);
    REQUIRE(caches::decode(three.profiles[std::size_t(r)], parts[std::size_t(r)], own.view, {.level = 2}).worst ==
            status::ok);
    CHECK(caches::elements(own.view) == caches::elements(whole.caches[0].view.heads(r, r + 1)));
  }

  const auto frame = caches::encode(p, m.view);
  three.read(whole, {frame}, 1);
  const memory all = like(m.view, p.shape);
  REQUIRE(caches::decode(p, frame, all.view, {.level = 1}).worst == status::ok);
  for (int r = 0; r < 3; ++r)
    CHECK(caches::elements(three.caches[std::size_t(r)].view) == caches::elements(all.view.heads(r, r + 1)));
  // Other heads than the profile's are refused by name.
  CHECK(caches::decode(three.profiles[0], parts[1], three.caches[1].view).worst == status::wrong_profile);
  CHECK(caches::decode(p, parts[1], all.view).worst == status::wrong_profile);
}

TEST_CASE("slice_heads: eight real heads, from 8 ranks to 4, to 2, and back to 8") {
  const bool longer = captures::there(captures::smol_1024);
  const memory source = captures::load(longer ? captures::smol_1024 : captures::sample);
  const std::int64_t split = longer ? 768 : 0;  // calibrated and judged on different tokens, where there are enough
  const memory learnt = eight_heads(source, 0, longer ? 768 : 256);
  const memory judged = eight_heads(source, split, split + 256);
  const capture c{learnt.view, {}, 0, 0};
  const profile p = calibrate(learnt.shape, {&c, 1}).value();
  REQUIRE(p.planes[0].group_width == 256);

  // Two ranks have a group each: nothing is lost, nothing computed.
  for (int r = 0; r < 2; ++r) {
    const profile q = *slice_heads(p, 4 * r, 4 * r + 4);
    CHECK(std::equal(q.planes[3].matrix.begin(), q.planes[3].matrix.end(), p.planes[3].matrix_of(r)));
    CHECK(std::equal(q.planes[3].classes.begin(), q.planes[3].classes.end(), p.planes[3].classes.begin() + 256 * r));
    CHECK(q.planes[3].scale == p.planes[3].scale);
  }
  compare(p, judged.view, 2, 1.04, 1.000001);  // headers: two layers make small frames
  compare(p, judged.view, 4, longer ? 1.35 : 2, 1.5);
  compare(p, judged.view, 8, longer ? 1.9 : 2.5, 1.5);
  // Heads 2 to 5 are halves of two groups.
  const profile across = *slice_heads(p, 2, 6);
  CHECK(across.planes[0].group_width == 256);
  CHECK(check_fit(judged.view.heads(2, 6), across) == status::ok);
  CHECK_FALSE(caches::encode(across, judged.view.heads(2, 6)).empty());

  const metric weights(p);
  ranks eight(p, 8, judged.view), four(p, 4, judged.view), two(p, 2, judged.view);
  eight.hold(judged.view);
  four.read(eight, eight.frames());
  const double first = four.error(weights, judged.view);
  two.read(four, four.frames());
  const double second = two.error(weights, judged.view);
  ranks again(p, 8, judged.view);
  again.read(two, two.frames());
  const double third = again.error(weights, judged.view);
  std::printf("squared error after 8 -> 4: %.4f, -> 2: %.4f, -> 8: %.4f finest steps\n", first, second, third);
  CHECK(first < 0.12);  // a uniform error of one step: 1/12
  CHECK(second < 2.2 * first);
  CHECK(third < 3.3 * first);
}

TEST_CASE("slice_heads: profiles without calibration, layers of all kinds, and what is refused") {
  model_shape s;
  s.ropes = {rope{}};
  s.layers = {{4, 16, 8, 0, 0}, {}, {6, 32, 0, 0, 64}};
  profile p = profile::uncalibrated(s);
  const profile q = slice_heads(p, 1, 4).value();
  CHECK(q.shape.layers[0] == layer_shape{3, 16, 8, 0, 0});
  CHECK(q.shape.layers[1].absent());
  CHECK(q.shape.layers[2] == layer_shape{3, 32, 0, 0, 64});
  CHECK(q.fingerprint() == profile::uncalibrated(q.shape).fingerprint());
  CHECK(slice_heads(p, 1, 5).status() == status::wrong_shape);
  for (const auto& [begin, end] : {std::pair(0, 0), {-1, 2}, {2, 1}})
    CHECK(slice_heads(p, begin, end).status() == status::invalid_argument);
  profile broken = p;
  broken.planes.pop_back();
  CHECK(slice_heads(broken, 0, 1).status() == status::corrupt_profile);
  broken = known();
  std::fill(broken.planes[9].matrix.begin(), broken.planes[9].matrix.end(), std::uint16_t{0});
  CHECK(slice_heads(broken, 0, 1).status() == status::corrupt_profile);
  std::fill_n(broken.planes[9].matrix.begin(), 5, std::uint16_t{1});
  CHECK(slice_heads(broken, 0, 1).status() == status::corrupt_profile);
}

TEST_CASE("heads: a view of some of them") {
  caches::cache c = caches::make_cache(model_shape::uniform(2, 5, 8), 40, dtype::bf16, caches::engine::vllm_hnd);
  caches::fill(c.view(), model_shape::uniform(2, 5, 8), 1);
  for (const caches::engine how : caches::engines) {
    caches::cache e = caches::make_cache(model_shape::uniform(2, 5, 8), 40, dtype::bf16, how);
    const kv_view v = e.view(), w = v.heads(1, 4);
    CHECK(validate(w) == status::ok);
    CHECK(w.num_kv_heads == 3);
    for (const plane which : {plane::key, plane::value})
      for (int l = 0; l < 2; ++l)
        for (int h = 0; h < 3; ++h) CHECK(w.at(which, l, 13, h, 5) == v.at(which, l, 13, h + 1, 5));
    CHECK(caches::elements(w.heads(2, 3).slice(3, 9)) == caches::elements(v.slice(3, 9).heads(3, 4)));
    CHECK(validate(const_kv_view(v).heads(0, 5)) == status::ok);
    for (const auto& [begin, end] : {std::pair(0, 0), {-1, 2}, {2, 1}, {0, 6}, {5, 6}, {INT32_MIN, INT32_MAX}})
      CHECK(validate(v.heads(begin, end)) == status::invalid_view);
  }
  kv_view far = c.view();
  far.k.head_stride = INT64_MAX / 2;
  CHECK(validate(far.heads(3, 4)) == status::invalid_view);
  far.k.head_stride = INT64_MIN;
  CHECK(validate(far.heads(3, 4)) == status::invalid_view);
  far = c.view();
  far.v.layer_offset = INT64_MIN;
  CHECK(validate(far.heads(3, 4)) == status::invalid_view);
}
