// SPDX-License-Identifier: Apache-2.0
// Calls that threads of the caller share: the same bytes, the same values and the same report as one thread makes, whoever
// runs which task when.
#include <sluice/codec/budget.hpp>
#include <sluice/codec/presets.hpp>

#include <doctest/doctest.h>
#include <custom_codec/from_below.hpp>
#include <support/caches.hpp>
#include <support/frames.hpp>
#include <support/real_cache.hpp>

#include <cstdint>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace sluice;
using caches::engine;

constexpr std::uint64_t seed = 424243;

using bytes = std::vector<std::byte>;

// One thread for each task.
struct threads {
  int calls = 0, most = 0;
  template <class Task>
  void operator()(int n, Task task) {
    ++calls, most = std::max(most, n);
    std::vector<std::thread> all;
    for (int i = 1; i < n; ++i) all.emplace_back([&task, i] { task(i); });
    if (n) task(0);
    for (std::thread& t : all) t.join();
  }
};

// The calling thread, last task first: the last worker does everything.
struct backwards {
  int calls = 0, most = 0;
  template <class Task>
  void operator()(int n, Task task) {
    ++calls, most = std::max(most, n);
    while (n-- > 0) task(n);
  }
};

void check_report(const page_status& a, const page_status& b) {
  CHECK(a.worst == b.worst);
  CHECK(a.tiles == b.tiles);
  CHECK(a.damaged == b.damaged);
  CHECK(a.degraded == b.degraded);
  CHECK(a.outside == b.outside);
  CHECK(a.coarser == b.coarser);
}

// Both ways with one thread and with several; damaged frames too.
template <class Codec, class Pool>
void check(const profile& p, std::span<const kv_view> source, const caches::mixed_cache& a,
           const caches::mixed_cache& b, int workers, std::uint64_t number) {
  std::mt19937_64 random(number);
  Pool pool;
  encoder<Codec> e(p);
  bytes alone(e.max_size(source)), shared(alone.size());
  const std::size_t size = *e.encode(source, alone);
  const parallel_for parallel = parallel_for::of(workers, pool);
  REQUIRE(*e.encode(source, shared, {.parallel = parallel}) == size);
  CHECK(pool.calls > 0);
  CHECK(pool.most > 1);
  CHECK(pool.most <= workers);
  CHECK(alone == shared);
  alone.resize(size);
  if (Codec::passes(p) > 1) {
    std::fill(shared.begin(), shared.end(), std::byte{});
    const std::size_t budget = size - size / 5;
    bytes cut = alone;
    const std::size_t fits = *truncate_to(cut, budget, &p);
    CHECK(*e.encode(source, shared, {.max_bytes = budget, .parallel = parallel}) == fits);
    CHECK(std::equal(cut.begin(), cut.begin() + std::ptrdiff_t(fits), shared.begin()));
    if (random() % 2) alone.assign(cut.begin(), cut.begin() + std::ptrdiff_t(fits));
  }
  frame_index index;
  REQUIRE(index.parse(alone) == status::ok);
  decoder<Codec> d(p);
  for (int damage = 0; damage < 6; ++damage) {
    CAPTURE(damage);
    bytes frame = alone;
    for (int n = 0; n < damage; ++n)
      frame[index.payload_offset() + random() % (frame.size() - index.payload_offset())] ^=
          std::byte(1 << random() % 8);
    if (damage == 5) frame.resize(frame.size() - random() % (frame.size() / 2));
    const int pages = int(index.header().tokens) + 3;
    std::vector<status> one(std::size_t(pages), status::io_error), many = one;
    decode_options options;
    options.level = int(random() % 4);
    if (damage > 2) options.layers = {1, 3};
    options.pages = one;
    const page_status x = d.decode(frame, a.views(), options);
    pool = {};
    options.pages = many;
    options.parallel = parallel;
    const page_status y = d.decode(frame, b.views(), options);
    CHECK(pool.most > 1);
    check_report(x, y);
    CHECK(one == many);
    for (std::size_t i = 0; i < a.views().size(); ++i)
      CHECK(caches::elements(a.views()[i]) == caches::elements(b.views()[i]));
  }
}

using predicted = codec::standard::with_predictor<mine::from_below>;

}  // namespace

TEST_CASE("threads: any number of workers makes the same frame and reads it the same way") {
  CAPTURE(seed);
  std::mt19937_64 random(seed);
  for (int round = 0; round < 6; ++round) {
    CAPTURE(round);
    model_shape shape{{{2, 32, 32, 0, 0}, {}, {2, 32, 16, 0, 24}, {4, 32, 32, 0, 0}, {1, 64, 64, 0, 40}}, {rope{}}};
    const std::int64_t tokens = 33 + std::int64_t(random() % 60);
    std::vector<caches::layer_kind> kinds;
    for (const layer_shape& l : shape.layers) {
      const std::int64_t held = l.window ? l.window - 1 : tokens;
      kinds.push_back({dtype::f16, dtype::f16, 50 + tokens - held, held});
    }
    caches::mixed_cache source(shape, kinds), a(shape, kinds, 5), b(shape, kinds, 5);
    for (const kv_view& v : source.views()) caches::fill(v, shape, random());
    const profile p = caches::make_profile(shape, source.views(), 2), plain = profile::uncalibrated(shape);
    const int workers = 2 + int(random() % 7);
    CAPTURE(workers);
    const auto both = [&]<class Codec>(const profile& with) {
      using tiled = typename Codec::template with_grouping<tile_tokens<16>>;
      check<tiled, threads>(with, source.views(), a, b, workers, random());
      check<tiled, backwards>(with, source.views(), a, b, workers, random());
    };
    both.operator()<codec::standard>(p);
    both.operator()<codec::standard>(plain);
    both.operator()<codec::exact>(plain);
    both.operator()<codec::plain<4>>(plain);
    both.operator()<codec::kivi<4>>(plain);
    // Where a predictor looks at lower layers a token tile is one piece of work.
    both.operator()<predicted>(p);
    both.operator()<predicted>(plain);
  }
}

TEST_CASE("threads: a real cache, with more workers than there is work for") {
  const real_cache c;
  const kv_view view = c.view.slice(0, 100);
  const bytes alone = caches::encode(c.model, view);
  encoder<> e(c.model);
  decoder<> d(c.model);
  caches::cache expected = caches::make_cache(c.model.shape, 100);
  REQUIRE(d.decode(alone, expected.view()).worst == status::ok);
  bytes out(e.max_size(view));
  for (const int workers : {2, 3, 8, 1000, 1, 0, -5}) {
    CAPTURE(workers);
    threads pool;
    const parallel_for parallel = parallel_for::of(workers, pool);
    const result<std::size_t> size = e.encode(view, out, {.parallel = parallel});
    REQUIRE(size);
    CHECK(std::equal(alone.begin(), alone.end(), out.begin()));
    CHECK(pool.most <= std::max(workers, 1));
    CHECK(pool.most <= 30);
    caches::cache back = caches::make_cache(c.model.shape, 100);
    CHECK(d.decode(alone, back.view(), {.parallel = parallel}).worst == status::ok);
    CHECK(back.bytes() == expected.bytes());
  }
}

TEST_CASE("threads: an error is that of the first piece of work, and nothing is written") {
  // A view whose types a codec takes, but whose tokens a codec may refuse: output that is too small is found with all workers.
  const real_cache c;
  const kv_view view = c.view.slice(0, 20);
  encoder<> e(c.model);
  threads pool;
  const parallel_for parallel = parallel_for::of(3, pool);
  bytes small(1000, std::byte{0x5a});
  CHECK(e.encode(view, small, {.parallel = parallel}).status() == status::output_too_small);
  CHECK(e.encode(view, small, {.max_bytes = 900, .parallel = parallel}).status() == status::output_too_small);
  for (const std::byte b : small) CHECK(b == std::byte{0x5a});
  CHECK(e.encode(view, small, {.levels = 0, .parallel = parallel}).status() == status::invalid_argument);
  CHECK(e.encode(std::span<const kv_view>(), small, {.parallel = parallel}).status() == status::invalid_argument);
}
