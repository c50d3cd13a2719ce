// SPDX-License-Identifier: Apache-2.0
// Whole requests over real servers that misbehave: the pages hold nothing that was not verified, the report names what
// went wrong, computing stands in, and nothing is left open.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <stream/main.hpp>
#include <stream/proxy.hpp>
#include <stream/stores.hpp>

#include <optional>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;
using verdict = proxy::verdict;

redis_options quick(int port) {
  redis_options o;
  o.port = port;
  o.stall_seconds = 1;
  o.retries = 1;
  o.backoff_seconds = 0.01;
  o.piece_bytes = 16 << 10;
  return o;
}
http_options quick(int port, const std::string& place) {
  http_options o;
  o.url = stores::url(port, place);
  o.stall_seconds = 1;
  o.retries = 1;
  o.backoff_seconds = 0.01;
  return o;
}

// Whether no more is open than before; a proxy's end of a connection may take a moment.
bool closed_again(std::size_t descriptors) {
  for (int i = 0; i < 300 && servers::open_descriptors() > descriptors; ++i) ::usleep(10'000);
  return servers::open_descriptors() <= descriptors;
}

// A request on a source made by `make`, on one thread and on three; afterwards everything is closed.
template <class Policy = policy::fixed_level<2>, class Make, class Check>
void request(Make make, Check check, double deadline = 30, double seconds_per_token = 1e-4) {
  const cost_model cost = context::sample().cost(seconds_per_token);
  for (bool threads : {false, true}) {
    CAPTURE(threads);
    const std::size_t descriptors = servers::open_descriptors();
    {
      auto source = make();
      context::engine engine(cost);
      link_history link;
      const planner<Policy> plan(cost);
      executor e(plan, *source, context::sample().names, link, deadline,
                 executor_options{.patience = {.floor_seconds = 0.2}});
      const report& r = threads ? run_threaded(e, engine) : run(e, engine);
      engine.check(r);
      CHECK(r.met);
      check(r, engine);
      completion none;
      CHECK(source->poll({&none, 1}, 0) == 0);
    }
    CHECK(closed_again(descriptors));
  }
}

const auto via_redis = [](int port) { return [port] { return std::make_unique<redis_source>(quick(port)); }; };
const auto via_http = [](int port, const char* place = "objects") {
  return [port, place] { return std::make_unique<http_source>(quick(port, place)); };
};
const auto all_fetched = [](const report& r, const context::engine& e) {
  CHECK(r.faults.empty());
  CHECK(e.computations == 0);
  for (const chunk_report& c : r.chunks) CHECK(c.level == 2);
};
const auto some_computed_because = [](status why) {
  return [why](const report& r, const context::engine& e) {
    CHECK(context::names(r, why));
    CHECK(e.computations > 0);
  };
};
const auto all_computed_because = [](status why) {
  return [why](const report& r, const context::engine& e) {
    for (int c = 0; c < 8; ++c) CHECK(context::names(r, why, c));
    CHECK(e.computations == 8);
  };
};

}  // namespace

TEST_CASE("sound servers: everything is fetched") {
  request(via_redis(stores::all().redis.port()), all_fetched);
  request(via_http(stores::all().nginx.port()), all_fetched);
  request(via_http(stores::all().nginx.port(), "moved"), all_fetched);  // behind a redirect
  request<policy::progressive_cake>(
      via_redis(stores::all().redis.port()), [](const report& r, auto&) { CHECK(r.faults.empty()); }, 1);
  request<policy::progressive_cake>(
      via_http(stores::all().nginx.port()), [](const report& r, auto&) { CHECK(r.faults.empty()); }, 1);
}

TEST_CASE("nobody listens") {
  const int port = servers::free_port();
  // Chunks that nobody was asked for any more name no fault: a link that broke is asked again only after a while.
  const auto check = [](const report& r, const context::engine& e) {
    CHECK(context::names(r, status::connection_lost));
    CHECK(e.computations == 8);
  };
  request(via_redis(port), check);
  request(via_http(port), check);
}

TEST_CASE("a server that falls silent") {
  for (std::size_t bytes : {std::size_t{0}, std::size_t{100}, std::size_t{100'000}}) {
    CAPTURE(bytes);
    proxy redis(stores::all().redis.port()), http(stores::all().nginx.port());
    for (proxy* p : {&redis, &http}) p->set(proxy::after(bytes, verdict::stall));
    request(via_redis(redis.port()), some_computed_because(status::timed_out));
    request(via_http(http.port()), some_computed_because(status::timed_out));
  }
}

TEST_CASE("a link that drops to nothing for good, under the default policy") {
  proxy redis(stores::all().redis.port());
  redis.set(proxy::after(150'000, verdict::stall));
  request<policy::progressive_cake>(
      via_redis(redis.port()), [](const report&, const context::engine& e) { CHECK(e.computations > 0); }, 30, 1e-3);
}

TEST_CASE("connections that break") {
  for (verdict how : {verdict::reset, verdict::close})
    for (std::size_t bytes : {std::size_t{0}, std::size_t{200}, std::size_t{60'000}}) {
      CAPTURE(bytes);
      proxy redis(stores::all().redis.port()), http(stores::all().nginx.port());
      for (proxy* p : {&redis, &http}) p->set(proxy::after(bytes, how));
      // Every connection breaks. What makes progress on each may still come in whole, in parts.
      const auto check = [&](const report& r, const context::engine& e) {
        CHECK(e.computations + 8 >= 8);
        for (const fault& f : r.faults) CHECK(f.what == status::connection_lost);
        if (bytes < 1000) CHECK(e.computations == 8);
      };
      request(via_redis(redis.port()), check);
      request(via_http(http.port()), check);
      // Only the first breaks: nothing is lost but time.
      for (proxy* p : {&redis, &http}) p->set(proxy::after(bytes, how, 1));
      const auto mended = [&](const report& r, const context::engine&) { CHECK(r.faults.empty()); };
      request(via_redis(redis.port()), [&](const report& r, const context::engine& e) {
        mended(r, e);
        redis.set(proxy::after(bytes, how, 1));
      });
      request(via_http(http.port()), [&](const report& r, const context::engine& e) {
        mended(r, e);
        http.set(proxy::after(bytes, how, 1));
      });
    }
}

TEST_CASE("wrong bytes are found wherever they are") {
  proxy redis(stores::all().redis.port()), http(stores::all().nginx.port());
  for (std::size_t at : {400u, 3000u, 30'000u, 60'001u}) {
    CAPTURE(at);
    for (proxy* p : {&redis, &http}) p->set(proxy::flip(at));
    const auto check = [](const report& r, const context::engine&) { CHECK_FALSE(r.faults.empty()); };
    request(via_redis(redis.port()), check);
    request(via_http(http.port()), check);
  }
}

TEST_CASE("answers that lie about themselves") {
  proxy redis(stores::all().redis.port()), http(stores::all().nginx.port());
  SUBCASE("a range that was not asked for") {
    http.set(proxy::overwrite("Content-Range: bytes ", "9"));
    request(via_http(http.port()), all_computed_because(status::wrong_length));
  }
  SUBCASE("a length that is too long") {
    http.set(proxy::overwrite("Content-Length: ", "9"));
    // The first digit becomes 9: the connection waits for more than comes, or what comes is enough.
    request(via_http(http.port()), [](const report&, auto&) {});
  }
  SUBCASE("a length that is too short") {
    http.set(proxy::overwrite("Content-Length: ", "1"));
    request(via_http(http.port()), [](const report& r, auto&) { CHECK_FALSE(r.faults.empty()); });
  }
  SUBCASE("no protocol at all") {
    redis.set(proxy::overwrite("$", "x"));
    request(via_redis(redis.port()), [](const report& r, const context::engine& e) {
      CHECK(e.computations > 0);
      CHECK_FALSE(r.faults.empty());
    });
    http.set(proxy::overwrite("HT", "XX"));
    request(via_http(http.port()), some_computed_because(status::refused));
  }
  SUBCASE("a huge length") {
    redis.set(proxy::overwrite("$", "99999999"));
    request(via_redis(redis.port()), [](const report& r, const context::engine& e) {
      CHECK(e.computations > 0);
      CHECK_FALSE(r.faults.empty());
    });
  }
}

TEST_CASE("places that refuse") {
  const int port = stores::all().nginx.port();
  request(via_http(port, "nowhere"), all_computed_because(status::not_found));
  request(via_http(port, "busy"), all_computed_because(status::refused));
  request(via_http(port, "forbidden"), all_computed_because(status::refused));
  request(via_http(port, "loop"), all_computed_because(status::refused));
  request(via_http(port, "file"), all_computed_because(status::refused));
  request(via_http(port, "noranges"),
          all_fetched);  // a whole answer to a question for a part: what is before is skipped
}

TEST_CASE("a Redis server with a password and databases") {
  servers::temporary_folder folder;
  const int at = servers::free_port();
  const servers::server locked(servers::redis_command(folder.path, at, {"--requirepass", "secret"}), at);
  REQUIRE(locked.up());
  redis_options o = quick(at);
  const auto make = [&] { return std::make_unique<redis_source>(o); };
  request(make, all_computed_because(status::refused));
  o.password = "wrong";
  request(make, all_computed_because(status::refused));
  CHECK(redis_source(o).size("a").status() == status::refused);
  CHECK(redis_source(o).put("a", {}) == status::refused);
  o.password = "secret";
  o.database = 9999;
  CHECK(redis_source(o).size("a").status() == status::refused);
  o.database = 3;
  {
    redis_source s(o);
    context::store(s);
  }
  request(make, all_fetched);
  o.database = 2;
  request(make, all_computed_because(status::not_found));
}

TEST_CASE("a key that vanishes in the middle") {
  const auto& objects = context::sample().objects;
  proxy redis(stores::all().redis.port());
  const auto rule = [&] {
    return [gone = false](std::string&, std::size_t before, int) mutable {
      if (before < 60'000 || gone) return verdict::pass;
      gone = true;
      const int s = servers::connect_to(stores::all().redis.port());
      const std::string command = "*1\r\n$8\r\nFLUSHALL\r\n";
      CHECK(::send(s, command.data(), command.size(), MSG_NOSIGNAL) == ssize_t(command.size()));
      char answer[16];
      CHECK(::recv(s, answer, sizeof answer, 0) > 0);
      ::close(s);
      return verdict::pass;
    };
  };
  redis.set(rule());
  request(via_redis(redis.port()), [&](const report& r, const context::engine& e) {
    CHECK(context::names(r, status::not_found));
    CHECK(e.computations > 0);
    redis_source s({.port = stores::all().redis.port()});
    context::store(s);
    redis.set(rule());
  });
  // An object that is replaced by that of another key, in another length.
  redis_source s({.port = stores::all().redis.port()});
  REQUIRE(s.put(objects[4].name, objects[6].bytes) == status::ok);
  request(via_redis(stores::all().redis.port()), [](const report& r, const context::engine& e) {
    CHECK((context::names(r, status::wrong_key, 2) || context::names(r, status::wrong_length, 2)));
    CHECK(e.computations == 1);
  });
  context::store(s);
}

TEST_CASE("stores that are full") {
  servers::temporary_folder folder;
  const int port = servers::free_port();
  const servers::server small(
      servers::redis_command(folder.path, port, {"--maxmemory", "3mb", "--maxmemory-policy", "noeviction"}), port);
  REQUIRE(small.up());
  redis_source s({.port = port});
  const std::vector<std::byte> bytes(1 << 20, std::byte{7});
  status last = status::ok;
  int kept = 0;
  for (int i = 0; i < 8 && last == status::ok; ++i)
    if ((last = s.put("k" + std::to_string(i), bytes)) == status::ok) ++kept;
  CHECK(last == status::no_space);
  for (int i = 0; i < kept; ++i) CHECK(read_object(s, "k" + std::to_string(i), 2).value() == bytes);
  http_source h(quick(stores::all().nginx.port(), "full"));
  CHECK(h.put("a", bytes) == status::no_space);
  http_source f(quick(stores::all().nginx.port(), "forbidden"));
  CHECK(f.put("a", bytes) == status::refused);
  CHECK(f.size("a").status() == status::refused);
}

TEST_CASE("reads that are cancelled, at any moment") {
  proxy redis(stores::all().redis.port()), http(stores::all().nginx.port());
  const auto& o = context::sample().objects[1];  // an exact copy: the largest
  const auto check = [&](auto& source) {
    for (int i = 0; i < 60; ++i) {
      CAPTURE(i);
      std::vector<std::byte> a(o.bytes.size()), b(o.bytes.size());
      const ticket first = source.submit({o.name, 0, a}), second = source.submit({o.name, 0, b});
      completion done;
      const double wait = 1e-4 * (i % 20);
      if (source.poll({&done, 1}, wait) == 0) {
        const std::size_t bytes = source.cancel(first);
        REQUIRE(bytes <= a.size());
        CHECK(std::equal(a.begin(), a.begin() + std::ptrdiff_t(bytes), o.bytes.begin()));
        REQUIRE(source.poll({&done, 1}, 5) == 1);
        CHECK(done.which == second);
        CHECK(done.state == status::ok);
        CHECK(b == o.bytes);
      } else {
        source.cancel(done.which == first ? second : first);
      }
      CHECK(source.poll({&done, 1}, 0) == 0);
    }
  };
  const std::size_t descriptors = servers::open_descriptors();
  {
    redis_source r(quick(redis.port()));
    check(r);
    http_source h(quick(http.port(), "objects"));
    check(h);
  }
  CHECK(closed_again(descriptors));
}

TEST_CASE("a cancelled read costs its connection only where a new one is sooner") {
  const auto &small = context::sample().objects[0], &large = context::sample().objects[1];
  const auto read = [](redis_source& s, const context::object& o) {
    std::vector<std::byte> bytes(o.bytes.size());
    const ticket t = s.submit({o.name, 0, bytes});
    completion done;
    REQUIRE(s.poll({&done, 1}, 30) == 1);
    CHECK(done.which == t);
    CHECK(bytes == o.bytes);
  };
  const auto cancelled = [](redis_source& s, const context::object& o) {
    std::vector<std::byte> bytes(o.bytes.size());
    const ticket t = s.submit({o.name, 0, bytes});
    completion done;
    CHECK(s.poll({&done, 1}, 0.01) == 0);
    s.cancel(t);
  };
  proxy far(stores::all().redis.port());
  far.slow(0.05);
  redis_source s({.port = far.port()});
  read(s, small);
  for (int i = 0; i < 5; ++i) {
    cancelled(s, small);
    read(s, small);
  }
  CHECK(far.connections() == 1);

  proxy narrow(stores::all().redis.port());
  narrow.throttle(4e5);
  redis_source t({.port = narrow.port()});
  read(t, small);
  cancelled(t, large);
  read(t, small);
  CHECK(narrow.connections() == 2);
}

TEST_CASE("a slow link's bytes are counted while they come, also inside a piece") {
  proxy redis(stores::all().redis.port());
  redis.set(proxy::after(5000, verdict::stall));
  redis_source s({.port = redis.port(), .piece_bytes = 1 << 20});
  const auto& o = context::sample().objects[1];
  std::vector<std::byte> a(o.bytes.size());
  const ticket t = s.submit({o.name, 0, a});
  completion done;
  CHECK(s.poll({&done, 1}, 0.1) == 0);
  CHECK(s.arrived(t) > 4900);
  const std::size_t bytes = s.cancel(t);
  CHECK(bytes > 4900);
  CHECK(bytes < 5000);
  CHECK(std::equal(a.begin(), a.begin() + std::ptrdiff_t(bytes), o.bytes.begin()));
}

int main(int argc, char** argv) { return servers::run_tests(argc, argv, {"redis-server", "nginx"}); }
