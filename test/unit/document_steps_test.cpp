// SPDX-License-Identifier: Apache-2.0
// Steps of a document go where its measured loss says, frames say what their levels are expected to lose, and planners
// go by it.
#include <sluice/codec/budget.hpp>
#include <sluice/codec/presets.hpp>
#include <sluice/codec/width/document_steps.hpp>
#include <sluice/stream/store/chunk.hpp>

#include <doctest/doctest.h>
#include <support/caches.hpp>
#include <support/captures.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace {

using namespace sluice;

constexpr double near = 0.045;  // of a header's eighths of octaves, half of one

frame_index index_of(std::span<const std::byte> frame) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  return index;
}

}  // namespace

TEST_CASE("document steps: a level that lost too much gets finer steps, and what is nonsense moves nothing") {
  const profile p = captures::known();
  const codec_id& id = codec::balanced::id;
  const double usual = expected_loss(p, id, 1);
  CHECK(usual == doctest::Approx(0.010).epsilon(0.01));
  CHECK(level_losing(0.010, p, id, 4) == 1);
  CHECK(level_losing(p.loss_of(3), p, id, 4) == 3);
  CHECK(level_losing(0.010, p, codec::smallest::id, 3) == 0);
  CHECK(steps_for(usual, usual, p, id, 1).coarser == doctest::Approx(0).epsilon(1e-6));

  double before = 100;
  for (const double measured : {0.004, 0.006, 0.010, 0.030, 0.100}) {
    const document_steps s = steps_for(0.010, measured, p, id, 1);
    CHECK(double(s.coarser) < before);
    before = double(s.coarser);
    // An octave of steps is 1.8 of losses, of which three quarters are believed.
    const double octaves = -0.75 * std::log2(measured / usual) + std::log2(0.010 / usual);
    CHECK(double(s.coarser) == doctest::Approx(std::clamp(4 * octaves / 1.8, -6.0, 2.0)).epsilon(1e-5));
    REQUIRE(s.told().size() == std::size_t(max_passes));
    for (int j = 0; j < 4; ++j) CHECK(s.loss[j] / s.loss[1] == doctest::Approx(p.loss_of(j) / p.loss_of(1)));
    if (s.coarser > -6 && s.coarser < 2) CHECK(s.loss[1] == doctest::Approx(0.010));
  }
  // What loses next to nothing may lose more elsewhere.
  CHECK(steps_for(0.010, 1e-6, p, id, 1).coarser == 2);
  // What cannot be had is not promised.
  CHECK(steps_for(0.010, 10, p, id, 1).loss[1] > 0.05);
  constexpr double infinity = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  for (const double x : {0.0, -1.0, infinity, nan}) {
    CHECK(steps_for(0.010, x, p, id, 1).coarser == 0);
    CHECK(steps_for(x, 0.010, p, id, 1).told().empty());
  }
  CHECK(steps_for(0.010, 0.010, profile::uncalibrated(p.shape), id, 1).told().empty());
  CHECK(steps_for(0.010, 0.010, p, id, -1).told().empty());
}

TEST_CASE("document steps: parts of a quarter octave are a share of the planes") {
  for (const double quarters : {-48.0, -3.7, -0.15, 0.0, 0.3, 2.0, 47.9, 48.0}) {
    double sum = 0;
    for (int plane = 0; plane < 1000; ++plane) {
      const int whole = detail::whole_quarters(quarters, plane);
      CHECK(std::abs(whole - quarters) < 1);
      sum += whole;
    }
    CHECK(sum / 1000 == doctest::Approx(quarters).epsilon(0.003));
  }
}

TEST_CASE("document steps: a real cache is coded as coarsely as it is said to, and the frame says what that costs") {
  const profile p = captures::known();
  const captures::memory source = captures::load(captures::sample);
  const auto frame_with = [&](const encode_options& o) { return caches::encode<codec::balanced>(p, source.view, o); };
  const std::vector<std::byte> usual = frame_with({});
  std::size_t before = usual.size() * 2;
  for (const float coarser : {-2.f, -0.5f, 0.f, 0.4f, 1.f, 3.f}) {
    const std::vector<std::byte> frame = frame_with({.coarser = coarser});
    CHECK(frame.size() < before);
    before = frame.size();
    const frame_index index = index_of(frame);
    for (int j = 0; j < 4; ++j) {
      const double expected = p.loss_of(j) * std::exp2(1.8 / 4 * double(coarser));
      CHECK(*expected_loss(index, p, j) == doctest::Approx(expected).epsilon(near));
      CHECK((index.header().loss_of(j) < 0) == (coarser == 0));
    }
  }
  CHECK(usual == frame_with({.coarser = 0}));
  // Another codec's steps do not move, and it does not say that they did.
  CHECK(caches::encode(p, source.view, {.coarser = 4}) == caches::encode(p, source.view));

  const double said[] = {0.2, 0.03, 0, -1, 5, 5};
  std::vector<std::byte> frame = frame_with({.loss = said});
  REQUIRE(truncate(frame, 2).status() == status::ok);
  const frame_index index = index_of(frame);
  CHECK(index.header().loss_of(0) == doctest::Approx(0.2).epsilon(near));
  CHECK(index.header().loss_of(1) == doctest::Approx(0.03).epsilon(near));
  for (int j = 2; j < max_passes; ++j) CHECK(index.header().loss_of(j) < 0);
  CHECK(*expected_loss(index, p, 2) == doctest::Approx(p.loss_of(2)));

  // A planner goes by it: this chunk is a quarter of its context.
  const auto of = stream::context_loss::of(p, 4 * double(index.header().tokens));
  const stream::chunk_cost c = stream::chunk_of(index, 0, of);
  CHECK(c.loss[0] == doctest::Approx(0.05).epsilon(near));
  CHECK(c.loss[1] == doctest::Approx(0.0075).epsilon(near));
  CHECK(c.loss[2] == doctest::Approx(p.loss_of(2) / 4));
}
