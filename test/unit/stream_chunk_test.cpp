// SPDX-License-Identifier: Apache-2.0
#include <sluice/stream/store/chunk.hpp>

#include <doctest/doctest.h>
#include <stream/context.hpp>

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

using namespace sluice;
using namespace sluice::stream;

namespace {

// The frames of a chunk of the committed capture.
std::span<const std::byte> frame_of(int chunk, bool exact) {
  return std::span(context::sample().objects[std::size_t(2 * chunk + exact)].bytes).subspan(sizeof(object_header));
}
frame_index index_of(std::span<const std::byte> frame) {
  frame_index index;
  REQUIRE(index.parse(frame) == status::ok);
  return index;
}

}  // namespace

TEST_CASE("chunk: what it costs is what its frame is") {
  const context::capture& c = context::sample();
  const std::span<const std::byte> frame = frame_of(2, false);
  const frame_index index = index_of(frame);
  const context_loss loss = context_loss::of(c.model, 256);
  REQUIRE(loss.levels() == c.model.passes);
  REQUIRE(loss.nats[0] > loss.nats[1]);
  const std::uint64_t exact = c.objects[5].bytes.size();
  const chunk_cost k = chunk_of(index, exact, loss);
  CHECK(k.position == 64);
  CHECK(k.tokens == 32);
  CHECK(k.values == 32 * 30 * 2 * 192);
  CHECK(k.kinds.empty());
  REQUIRE(k.bytes.size() == std::size_t(loss.levels()) + 1);
  CHECK(k.bytes.back() == exact);
  for (int level = 0; level < loss.levels(); ++level) {
    CAPTURE(level);
    std::vector<std::byte> cut(frame.begin(), frame.end());
    cut.resize(*truncate(cut, level));
    CHECK(k.bytes[std::size_t(level)] == sizeof(object_header) + cut.size());
    CHECK(k.loss[std::size_t(level)] == doctest::Approx(loss.nats[std::size_t(level)] / 8));
    // A frame that has fewer levels costs what it has: its finest stands for what it lacks.
    const chunk_cost less = chunk_of(index_of(cut), 0, loss);
    for (int l = 0; l < loss.levels(); ++l) {
      CHECK(less.bytes[std::size_t(l)] == k.bytes[std::size_t(std::min(l, level))]);
      CHECK(less.loss[std::size_t(l)] == k.loss[std::size_t(std::min(l, level))]);
    }
    CHECK(less.bytes.back() == bytes_of_no_copy);
  }
  CHECK(cost_model::make({k}, {}, loss.levels()));
  // The raw cache: f16.
  CHECK(decoded_size_of(index).bytes == 2 * k.values);
  CHECK(decoded_size_of(index_of(frame_of(2, true))).values == k.values);
}

TEST_CASE("chunk: what is not stored, and what calibration does not know") {
  const context_loss loss{{4, 1}, 400};
  const chunk_cost nothing = chunk_of(100, 50, 7, {}, 0, loss);
  CHECK(nothing.kinds == std::vector{payload::absent});
  CHECK(nothing.bytes == std::vector<std::uint64_t>{0, 0, bytes_of_no_copy});
  CHECK(nothing.loss == std::vector{0.5, 0.125});
  const std::uint64_t sizes[] = {10, 30};
  const chunk_cost sized = chunk_of(100, 50, 7, sizes, 90, loss);
  CHECK(sized.bytes == std::vector<std::uint64_t>{10, 30, 90});
  CHECK(sized.position == 100);
  CHECK(sized.values == 7);
  CHECK(cost_model::make({sized}, {}, 2));

  const context_loss plain = context_loss::of(profile::uncalibrated(model_shape::uniform(2, 2, 64), 3), 10);
  CHECK(plain.nats == std::vector{1.0, 1.0 / 9, 1.0 / 81});
}

TEST_CASE("chunk: the ranges of some layers are enough to decode them, and no more than that") {
  const context::capture& c = context::sample();
  const std::span<const std::byte> frame = frame_of(1, false);
  const frame_index index = index_of(frame);
  decoder<> d(c.model);
  const context::pages blank = c.empty();
  for (const layer_range layers : {layer_range{0, 1}, {7, 12}, {29, 30}, {0, 30}})
    for (int level = 0; level < c.model.passes; ++level) {
      CAPTURE(layers.begin);
      CAPTURE(level);
      const std::vector<byte_range> ranges = ranges_of(index, layers, level);
      REQUIRE_FALSE(ranges.empty());
      if (layers == layer_range{0, 30}) CHECK(ranges.size() == 1);
      std::vector<std::byte> sparse(frame.size());
      std::copy_n(frame.begin(), index.payload_offset(), sparse.begin());
      for (const byte_range& r : ranges)
        std::copy(frame.begin() + std::ptrdiff_t(r.begin), frame.begin() + std::ptrdiff_t(r.end),
                  sparse.begin() + std::ptrdiff_t(r.begin));
      context::pages pages = c.empty();
      const page_status done = d.decode(sparse, pages.view, {.level = level, .layers = {layers.begin, layers.end}});
      CHECK(done.worst == status::ok);
      for (std::size_t p = 0; p < pages.memory.size(); ++p) {
        const bool wanted = int(p / 2) >= layers.begin && int(p / 2) < layers.end;
        const std::size_t at = 32 * 384;
        CHECK(std::memcmp(&pages.memory[p][at],
                          wanted ? &c.levels[std::size_t(level)].memory[p][at] : &blank.memory[p][at], 32 * 384) == 0);
      }
      // A byte less is too little.
      sparse[std::size_t(ranges.back().end) - 1] ^= std::byte{1};
      CHECK(d.decode(sparse, pages.view, {.level = level, .layers = {layers.begin, layers.end}}).worst != status::ok);
    }
}

TEST_CASE("chunk: a predictor's span widens a range of layers downwards") {
  const frame_index index = index_of(frame_of(0, false));
  const auto same = [](const std::vector<byte_range>& a, const std::vector<byte_range>& b) {
    return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                      [](const byte_range& x, const byte_range& y) { return x.begin == y.begin && x.end == y.end; });
  };
  CHECK(same(ranges_of(index, {10, 12}, 1, 3), ranges_of(index, {7, 12}, 1)));
  CHECK(same(ranges_of(index, {2, 12}, 1, 3), ranges_of(index, {0, 12}, 1)));
  CHECK(same(ranges_of(index, {2, 12}, 1, INT32_MAX), ranges_of(index, {0, 12}, 1)));
  CHECK(ranges_of(index, {10, 12}, 1).size() == 2);
  CHECK(ranges_of(index, {10, 12}, 1)[1].begin == index.range(1, 10, 12).begin);
  for (const layer_range none : {layer_range{-1, 2}, {3, 3}, {4, 3}, {29, 31}})
    CHECK(ranges_of(index, none, 0).empty());
  CHECK(ranges_of(index, {0, 1}, 4).empty());
  CHECK(ranges_of(index, {0, 1}, -1).empty());
  CHECK(ranges_of(index, {0, 1}, 0, -1).empty());
}

TEST_CASE("chunk: the upper layers are fetched, the lower ones are left to the engine") {
  const context::capture& c = context::sample();
  const std::span<const std::byte> frame = frame_of(2, false);
  const frame_index index = index_of(frame);
  constexpr int first = 7, layers = 30;
  const chunk_cost k = chunk_above(index, first, c.model, 256), unit = unit_of(index, {first, layers}, c.model, 256);
  cost_rates rates;
  rates.recompute_seconds_per_token = 1e-3;
  const cost_model cost = cost_model::make({k}, rates, c.model.passes, layers).value();
  CHECK(k.values == 32 * (layers - first) * 2 * 192);
  CHECK(cost.patch_seconds(0) == doctest::Approx(32e-3 * first / layers));
  CHECK(cost.patch_again_seconds(0) == 0);
  CHECK(cost.patch_needs_prefix(0));
  CHECK(cost.bytes(0, cost.exact_level()) >= bytes_of_no_copy);
  const std::vector<byte_range> parts = parts_of(index, {first, layers});
  for (int level = 0; level < c.model.passes; ++level) {
    CAPTURE(level);
    CHECK(cost.bytes(0, level) == unit.bytes[std::size_t(level)]);
    CHECK(cost.loss(0, level) == unit.loss[std::size_t(level)]);
    // With nothing but these bytes the upper layers decode, and the lower ones stay as they were.
    std::vector<std::byte> holes(frame.size());
    std::memcpy(holes.data(), frame.data(), index.size_at(-1));
    for (int l = 0; l <= level; ++l) {
      const byte_range r = parts[std::size_t(l)];
      std::memcpy(holes.data() + r.begin - sizeof(object_header), frame.data() + r.begin - sizeof(object_header),
                  r.size());
    }
    context::pages to = c.empty();
    page_decoder<> d(c.model, cost, {&to.view, 1});
    CHECK(d.decode(0, level, holes).worst == status::ok);
    for (int l = 0; l < layers; ++l)
      for (const plane p : {plane::key, plane::value})
        for (int t = 64; t < 96; ++t) {
          const std::byte* const got = to.view.at(p, l, t, 0, 0);
          const std::byte* const want = c.levels[std::size_t(level)].view.at(p, l, t, 0, 0);
          if (l < first)
            REQUIRE(std::all_of(got, got + 384, [](std::byte b) { return b == context::untouched; }));
          else
            REQUIRE(std::memcmp(got, want, 384) == 0);
        }
  }
}
