// SPDX-License-Identifier: Apache-2.0
// The Mooncake source against Mooncake's own client, loaded as it is at run time, and a mooncake_master over TCP.
// stream.cmake says what it needs; what to do without a library is tested everywhere.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/store/sources/mooncake.hpp>
#include <stream/context.hpp>
#include <stream/rivals.hpp>
#include <stream/servers.hpp>

#include <cstdio>
#include <memory>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;

mooncake_options at(int port, std::uint64_t segment_bytes = 0) {
  mooncake_options o;
  o.library = SLUICE_MOONCAKE_LIBRARY;
  o.master = "127.0.0.1:" + std::to_string(port);
  o.segment_bytes = segment_bytes;
  return o;
}

struct master {
  int port = servers::free_port();
  servers::server process{{SLUICE_MOONCAKE_MASTER, "-rpc_port=" + std::to_string(port),
                           "-metrics_port=" + std::to_string(servers::free_port())},
                          port};
  master() { REQUIRE(process.up()); }
  static master& get() {
    static master m;
    return m;
  }
};
bool here() { return ::access(SLUICE_MOONCAKE_LIBRARY, R_OK) == 0 && ::access(SLUICE_MOONCAKE_MASTER, X_OK) == 0; }

// One that lends memory, as long as the tests run.
mooncake_source& lender() {
  static mooncake_source s(at(master::get().port, 128 << 20));
  REQUIRE(s.exists("anything"));  // connected
  return s;
}

// Whether size, put and read all fail in this way, with these words.
void fails(mooncake_source& s, status why, std::string_view words) {
  const auto check = [&](status is, std::string_view said) {
    CAPTURE(std::string(said));
    CHECK(is == why);
    CHECK(said.find(words) != said.npos);
    CHECK(said.find('\n') == said.npos);
  };
  std::vector<std::byte> buffer(10);
  const status size = s.size("a").status();
  check(size, s.detail());
  const status put = s.put("a", buffer);
  check(put, s.detail());
  const ticket t = s.submit({"a", 0, buffer});
  completion done;
  REQUIRE(s.poll({&done, 1}, 20) == 1);
  CHECK(done.which == t);
  check(done.state, done.detail);
}

}  // namespace

TEST_CASE("no library, or one that is not Mooncake's") {
  mooncake_options o = at(1);
  o.library = "/nowhere/libmooncake_store.so";
  mooncake_source missing(o);
  fails(missing, status::refused, "Mooncake's library cannot be used: /nowhere/libmooncake_store.so: cannot open");
  o.library = "libm.so.6";
  mooncake_source another(o);
  fails(another, status::refused, "undefined symbol: mooncake_store_create");
}

TEST_CASE("nobody listens" * doctest::skip(!here())) {
  mooncake_source s(at(servers::free_port()));
  fails(s, status::connection_lost, ": Connection refused");
}

TEST_CASE("a master without memory for objects, or with too little" * doctest::skip(!here())) {
  const master empty;
  mooncake_source s(at(empty.port));
  CHECK(s.put("a", noise(1000, 1)) == status::no_space);
  CHECK(s.detail().starts_with("Mooncake: "));
  CHECK(s.size("a").status() == status::not_found);
  mooncake_source lends(at(empty.port, 16 << 20));
  REQUIRE(lends.exists("a"));
  CHECK(s.put("a", noise(1000, 1)) == status::ok);
  CHECK(s.put("large", noise(20 << 20, 1)) == status::no_space);
  CHECK(s.detail() == "Mooncake: no memory left for the object (-200)");
}

TEST_CASE("objects and ranges of them" * doctest::skip(!here())) {
  mooncake_source& lends = lender();
  mooncake_source s(at(master::get().port));
  for (const std::size_t n : {std::size_t{1}, std::size_t{1000}, std::size_t{20'000'001}}) {
    CAPTURE(n);
    const std::string key = "a" + std::to_string(n);
    const auto value = noise(n, unsigned(n));
    CHECK_FALSE(s.exists(key).value());
    std::string why;
    const status put = put_checked(s, key, value, 20, &why);
    CHECK_MESSAGE(put == status::ok, why);
    CHECK(s.exists(key).value());
    CHECK(lends.size(key).value() == n);
    CHECK(read_object(lends, key, 20).value() == value);
  }
  const auto value = noise(1000, 1000);
  std::vector<std::byte> half(500), beyond(501), buffer(10);
  const ticket a = s.submit({"a1000", 500, half}), b = s.submit({"a1000", 500, beyond}),
               c = s.submit({"none", 0, buffer}), d = s.submit({"a1", 0, std::span(buffer).first(1)});
  CHECK(s.cancel(s.submit({"a1000", 0, half})) == 0);
  std::vector<completion> ended;
  for (int i = 0; i < 9 && ended.size() < 4; ++i) {
    completion done[3];
    const std::size_t n = s.poll(done, 1);
    ended.insert(ended.end(), done, done + n);
  }
  REQUIRE(ended.size() == 4);
  CHECK((ended[0].which == a && ended[0].state == status::ok && ended[0].bytes == 500));
  CHECK(std::equal(half.begin(), half.end(), value.begin() + 500));
  CHECK((ended[1].which == b && ended[1].state == status::wrong_length && ended[1].bytes == 500));
  CHECK(ended[1].detail == "the object ends 1 bytes too early");
  CHECK((ended[2].which == c && ended[2].state == status::not_found));
  CHECK(ended[2].detail == "Mooncake: there is no such object (-704)");
  CHECK((ended[3].which == d && ended[3].state == status::ok));

  CHECK(s.put("empty", {}) == status::refused);
  CHECK(s.detail() == "Mooncake holds no empty objects");
}

TEST_CASE("an object that is there stays, which a checked put notices" * doctest::skip(!here())) {
  mooncake_source s(at(master::get().port));
  lender();
  REQUIRE(s.put("kept", noise(1000, 1)) == status::ok);
  CHECK(s.put("kept", noise(1000, 2)) == status::ok);
  std::string why;
  CHECK(put_checked(s, "kept", noise(1000, 2), 5, &why) == status::not_kept);
  CHECK(why == "other bytes were read back than were put");
  CHECK(put_checked(s, "kept", noise(1000, 1), 5) == status::ok);
}

TEST_CASE("two put the same key at once" * doctest::skip(!here())) {
  lender();
  mooncake_source one(at(master::get().port)), other(at(master::get().port));
  for (int i = 0; i < 5; ++i) rivals(one, other, "rivals" + std::to_string(i), 2);
}

TEST_CASE("a context is fetched" * doctest::skip(!here())) {
  context::store(lender());
  mooncake_source s(at(master::get().port));
  REQUIRE(s.exists("anything"));  // connecting takes a while, which the executor's patience does not allow for
  context::fetch_all(s);
}

TEST_CASE("who lent the memory is gone: its objects are, too" * doctest::skip(!here())) {
  const master own;
  mooncake_source s(at(own.port));
  int up[2];
  REQUIRE(::pipe(up) == 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    const std::string port = std::to_string(own.port), out = std::to_string(up[1]);
    ::execl("/proc/self/exe", "mooncake_test", "lend", port.c_str(), out.c_str(), nullptr);
    ::_exit(127);
  }
  ::close(up[1]);
  char ready = 0;
  REQUIRE(::read(up[0], &ready, 1) == 1);
  std::vector<std::byte> buffer(5'000'000);
  const auto value = noise(buffer.size(), 3);
  CHECK(read(s, {"lent", 0, buffer}, 20) == status::ok);
  CHECK(buffer == value);
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ::close(up[0]);
  mooncake_source fresh(at(own.port));
  const status gone = read(fresh, {"lent", 0, buffer}, 60);
  CAPTURE(std::string(fresh.detail()));
  CHECK((gone == status::connection_lost || gone == status::not_found));
  CHECK(fresh.detail().starts_with("Mooncake: "));
}

TEST_CASE("a master that dies in the middle, and comes back empty" * doctest::skip(!here())) {
  auto own = std::make_unique<master>();
  mooncake_source s(at(own->port, 32 << 20));
  REQUIRE(s.put("a", noise(1000, 1)) == status::ok);
  own->process.signal(SIGKILL);
  ::usleep(100'000);
  fails(s, status::connection_lost, "Mooncake: the master does not answer (-900)");
}

int main(int argc, char** argv) {
  if (argc == 4 && argv[1] == std::string("lend")) {
    mooncake_source s(at(std::atoi(argv[2]), 32 << 20));
    if (s.put("lent", noise(5'000'000, 3)) != status::ok) return 1;
    if (::write(std::atoi(argv[3]), "+", 1) != 1) return 1;
    ::pause();
  }
  if (!here()) std::puts("without libmooncake_store.so or mooncake_master: only what needs neither");
  doctest::Context context(argc, argv);
  return context.run();
}
