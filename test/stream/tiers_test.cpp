// SPDX-License-Identifier: Apache-2.0
// Memory, a redis-server and files as tiers of one store: a whole context through an executor, a server that dies and comes
// back, and a process that finds what the one before has left.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/store/sources/file.hpp>
#include <sluice/stream/store/sources/memory.hpp>
#include <sluice/stream/store/sources/redis.hpp>
#include <sluice/stream/store/sources/tiered.hpp>
#include <stream/context.hpp>
#include <stream/main.hpp>
#include <stream/servers.hpp>

#include <memory>
#include <string>

namespace {

using namespace sluice;
using namespace sluice::stream;

std::uint64_t all_bytes() {
  std::uint64_t n = 0;
  for (const context::object& o : context::sample().objects) n += o.bytes.size();
  return n;
}

redis_options impatient(int port) {
  redis_options o;
  o.port = port;
  o.stall_seconds = 0.5;
  o.retries = 0;
  o.backoff_seconds = 0.01;
  return o;
}

struct places {
  servers::temporary_folder folder;
  int port = servers::free_port();
  std::unique_ptr<servers::server> server = start();
  file_source files{folder.path + "/objects"};
  places() { REQUIRE(files.create() == status::ok); }
  std::unique_ptr<servers::server> start() const {
    auto s = std::make_unique<servers::server>(servers::redis_command(folder.path, port), port);
    REQUIRE(s->up());
    return s;
  }
};

// A quarter of the context fits into memory, a half into Redis, and all of it into files.
struct three_tiers {
  memory_source memory;
  redis_source redis;
  source_of<memory_source> a{memory};
  source_of<redis_source> b{redis};
  source_of<file_source> c;
  tiered_source<placement_policies::lru_levels> all;

  explicit three_tiers(places& p)
      : redis(impatient(p.port)),
        c(p.files),
        all({{&a, {double(all_bytes()) / 4, 1e9, 0, 0}},
             {&b, {double(all_bytes()) / 2, 1e8, 1e-4, 0}},
             {&c, {double(all_bytes()), 1e7, 1e-3, 0}}},
            {.down_seconds = 0.2}) {
    REQUIRE(all.open() == status::ok);
  }
};

}  // namespace

TEST_CASE("a context on three tiers is read as from one store, by this process and the next") {
  places p;
  {
    three_tiers t(p);
    context::store(t.all);
    for (int i : {0, 1, 2}) CHECK(t.all.used_bytes(i) > 0);
    CHECK(t.all.used_bytes(0) <= double(all_bytes()) / 4);
    CHECK(t.all.used_bytes(1) <= double(all_bytes()) / 2);
    for (int i = 0; i < 3; ++i) {
      context::fetch_all(t.all);
      t.all.settle();
      for (const context::object& o : context::sample().objects)
        CHECK(read_object(t.all, o.name, 5).value() == o.bytes);
    }
  }
  // Memory is gone with its process: base passes were there, for they are what was used last.
  three_tiers t(p);
  int whole = 0;
  for (const context::object& o : context::sample().objects)
    if (t.all.levels(o.name) > 0) {
      const auto bytes = read_object(t.all, o.name, 5);
      REQUIRE(bytes);
      whole += *bytes == o.bytes;
    }
  CHECK(whole > 0);
  CHECK(t.all.used_bytes(0) + t.all.used_bytes(1) + t.all.used_bytes(2) > 0);
  context::store(t.all);
  context::fetch_all(t.all);
}

TEST_CASE("a Redis that dies is a miss of what lies on it, and when it is back so are its objects") {
  places p;
  three_tiers t(p);
  context::store(t.all);
  t.all.settle();
  const auto held = [&] {
    int n = 0;
    for (const context::object& o : context::sample().objects) {
      const int levels = t.all.levels(o.name);
      n += levels;
      if (levels == 0) continue;
      const auto bytes = read_object(t.all, o.name, 5);
      if (bytes) CHECK(std::equal(bytes->begin() + 200, bytes->end(), o.bytes.begin() + 200));
    }
    return n;
  };
  const int before = held();
  p.server->signal(SIGSTOP);  // it keeps what it holds
  const cost_model cost = context::sample().cost(1e-3);
  for (int i = 0; i < 2; ++i) {
    context::engine engine(cost);
    link_history link;
    const planner<policy::progressive_cake> plan(cost);
    executor e(plan, t.all, context::sample().names, link, 2);
    engine.check(run_threaded(e, engine));
  }
  CHECK(held() < before);
  p.server->signal(SIGCONT);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  t.all.settle();
  CHECK(held() > 0);
  // Dead for good: everything can be put anew.
  p.server.reset();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  for (const context::object& o : context::sample().objects) CHECK(t.all.put(o.name, o.bytes) == status::ok);
  for (const context::object& o : context::sample().objects)
    if (const int n = t.all.levels(o.name))
      CHECK(read_object(t.all, o.name, 5).value().size() == t.all.size(o.name).value());
  p.server = p.start();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  context::store(t.all);
  context::fetch_all(t.all);
}

int main(int argc, char** argv) { return servers::run_tests(argc, argv, {"redis-server"}); }
