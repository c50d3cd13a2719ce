// SPDX-License-Identifier: Apache-2.0
// A second Redis behind a first one that is stopped, paused, lacks objects, or sits behind a bad link: what a request for a
// whole context gets, and what no server ever does to a caller's buffer.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sluice/stream/store/sources/hedged.hpp>
#include <sluice/stream/store/sources/redis.hpp>
#include <stream/context.hpp>
#include <stream/main.hpp>
#include <stream/proxy.hpp>
#include <stream/servers.hpp>

#include <string>
#include <thread>

namespace {

using namespace sluice;
using namespace sluice::stream;

struct redis_server {
  servers::temporary_folder folder;
  int port = servers::free_port();
  servers::server process{servers::redis_command(folder.path, port), port};
  redis_server() { REQUIRE(process.up()); }
};

// Two servers that hold the same context.
struct replicas {
  redis_server first, second;
  replicas() {
    redis_source a({.port = first.port}), b({.port = second.port});
    hedged_source both(a, b);
    context::store(both);
    CHECK(b.size(context::sample().objects[0].name).value() == context::sample().objects[0].bytes.size());
  }
};

struct stopped {
  const servers::server* process;
  explicit stopped(const servers::server& s) : process(&s) { s.signal(SIGSTOP); }
  ~stopped() { process->signal(SIGCONT); }
};

}  // namespace

TEST_CASE("a primary that is stopped: the second gives everything, and nothing is computed") {
  const std::size_t descriptors = servers::open_descriptors();
  {
    const replicas r;
    redis_source a({.port = r.first.port}), b({.port = r.second.port});
    hedged_source s(a, b);
    context::fetch_all(s);
    CHECK(s.totals().failed_over == 0);
    const auto before = s.totals();
    {
      const stopped now(r.first.process);
      context::fetch_all(s);
      CHECK(s.totals().second_won - before.second_won == s.totals().reads - before.reads);
      CHECK(s.size(context::sample().objects[0].name).value() == context::sample().objects[0].bytes.size());
    }
    // And when it goes on it is used again.
    const auto then = s.totals();
    context::fetch_all(s);
    CHECK(s.totals().second_won - then.second_won < s.totals().reads - then.reads);
  }
  CHECK(servers::open_descriptors() <= descriptors);
}

TEST_CASE("a primary that is stopped in the middle of a value") {
  const replicas r;
  const context::object& o = context::sample().objects[0];
  proxy link(r.first.port);
  redis_source a({.port = link.port()}), b({.port = r.second.port});
  hedged_source s(a, b);
  for (const std::size_t passed : {1u, 100u, 20'000u, 100'000u}) {
    CAPTURE(passed);
    link.set(proxy::after(passed, proxy::verdict::stall));
    std::vector<std::byte> buffer(o.bytes.size());
    CHECK(read(s, {o.name, 0, buffer}, 5) == status::ok);
    CHECK(buffer == o.bytes);
  }
  CHECK(s.totals().second_won == 4);
}

TEST_CASE("a primary that is gone, lacks an object or holds less of it") {
  const replicas r;
  const context::object &o = context::sample().objects[0], &p = context::sample().objects[2];
  redis_source a({.port = r.first.port}), b({.port = r.second.port});
  redis_source gone({.port = servers::free_port(), .retries = 0});
  REQUIRE(a.put(o.name, std::span(o.bytes).first(100)) == status::ok);
  REQUIRE(b.put("only here", p.bytes) == status::ok);
  hedged_source s(a, b), t(gone, b);
  std::vector<std::byte> buffer(o.bytes.size());
  CHECK(read(s, {o.name, 0, buffer}, 5) == status::ok);
  CHECK(buffer == o.bytes);
  CHECK(read_object(s, "only here", 5).value() == p.bytes);
  CHECK(read_object(s, "nowhere", 5).status() == status::not_found);
  context::fetch_all(t);
  CHECK(t.put("a", p.bytes) == status::connection_lost);  // and the second has it
  CHECK(read_object(t, "a", 5).value() == p.bytes);
  CHECK(read(t, {"nowhere", 0, buffer}, 5) == status::connection_lost);
}

TEST_CASE("links that break at random places: every read is right, whoever answered") {
  const replicas r;
  const unsigned seed = 11;
  CAPTURE(seed);
  std::mt19937 random(seed);
  proxy first(r.first.port), second(r.second.port);
  const auto bad = [](unsigned s) {
    return [random = std::make_shared<std::mt19937>(s)](std::string& bytes, std::size_t, int) {
      const auto dice = (*random)() % 40;
      if (dice < 2) bytes.resize(bytes.size() / 2);
      return dice == 0 ? proxy::verdict::reset : dice == 1 ? proxy::verdict::stall : proxy::verdict::pass;
    };
  };
  first.set(bad(1));
  second.set(bad(2));
  const auto options = [](int port) {
    return redis_options{
        .port = port, .stall_seconds = 0.2, .retries = 50, .retry_budget = 1e6, .backoff_seconds = 0.001};
  };
  redis_source a(options(first.port())), b(options(second.port()));
  hedged_source s(a, b, {.start_seconds = 0.01});
  int ok = 0;
  for (int i = 0; i < 20; ++i) {
    struct asked {
      const context::object* o;
      std::size_t offset;
      std::vector<std::byte> buffer;
      ticket which = 0;
    };
    std::vector<asked> reads(8);
    for (asked& x : reads) {
      x.o = &context::sample().objects[random() % context::sample().objects.size()];
      x.offset = random() % x.o->bytes.size();
      x.buffer.resize(1 + random() % (x.o->bytes.size() - x.offset));
      x.which = s.submit({x.o->name, x.offset, x.buffer});
    }
    for (std::size_t left = reads.size(); left > 0;) {
      completion done[4];
      const std::size_t n = s.poll(done, 10);
      for (std::size_t k = 0; k < n; ++k, --left)
        for (asked& x : reads) {
          if (x.which != done[k].which) continue;
          ok += done[k].state == status::ok;
          CHECK(std::equal(x.buffer.begin(), x.buffer.begin() + std::ptrdiff_t(done[k].bytes),
                           x.o->bytes.begin() + std::ptrdiff_t(x.offset)));
        }
    }
  }
  CHECK(ok > 140);
}

TEST_CASE("one store over two connections: a pause of its clients is waited for once, and both are right") {
  redis_server only;
  redis_source a({.port = only.port}), b({.port = only.port});
  hedged_source s(a, b);
  context::store(s);
  const stopped now(only.process);
  std::thread later([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
    only.process.signal(SIGCONT);
  });
  context::fetch_all(s);
  later.join();
}

int main(int argc, char** argv) { return servers::run_tests(argc, argv, {"redis-server"}); }
