// SPDX-License-Identifier: Apache-2.0
// The NIXL source against NIXL's own libraries, its OBJ backend and an S3 server (moto). stream.cmake says what it needs.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sluice/stream/plan/policy/progressive_cake.hpp>
#include <sluice/stream/store/sources/nixl.hpp>

#include <cstdio>
#if __has_include(<nixl.h>)
#include <stream/context.hpp>
#include <stream/rivals.hpp>
#include <stream/servers.hpp>

#include <memory>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;

std::string moto_program() {
  if (::access(SLUICE_MOTO, X_OK) == 0) return SLUICE_MOTO;
  return servers::find_program("moto_server");
}

// An agent, for one thread, that knows the bucket at a port.
struct client {
  nixlAgent agent{"sluice", nixlAgentConfig()};
  nixlBackendH* backend = nullptr;

  explicit client(int port) {
    REQUIRE(agent.createBackend("OBJ",
                                {{"bucket", "kvcache"},
                                 {"endpoint_override", "http://127.0.0.1:" + std::to_string(port)},
                                 {"scheme", "http"},
                                 {"access_key", "key"},
                                 {"secret_key", "secret"},
                                 {"use_virtual_addressing", "false"},
                                 {"req_checksum", "required"}},
                                backend) == NIXL_SUCCESS);
  }
  nixl_source source(double timeout_seconds = 10) { return {agent, "sluice", backend, timeout_seconds}; }
};

// An S3 server with a bucket, and an agent that knows it.
struct object_store {
  int port = servers::free_port();
  std::unique_ptr<servers::server> server;
  std::unique_ptr<client> agent;

  object_store() {
    start();
    agent = std::make_unique<client>(port);
  }
  void start() {
    server =
        std::make_unique<servers::server>(std::vector<std::string>{moto_program(), "-p", std::to_string(port)}, port);
    REQUIRE(server->up());
    const int s = servers::connect_to(port);
    const std::string text = "PUT /kvcache HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n\r\n";
    REQUIRE(::send(s, text.data(), text.size(), MSG_NOSIGNAL) == ssize_t(text.size()));
    char answer[4096];
    while (::recv(s, answer, sizeof answer, 0) > 0) continue;
    ::close(s);
  }
  nixl_source source(double timeout_seconds = 10) { return agent->source(timeout_seconds); }
};

object_store& store() {
  static object_store s;
  return s;
}

}  // namespace

TEST_CASE("objects and ranges of them") {
  nixl_source s = store().source();
  for (const std::size_t n : {std::size_t{1}, std::size_t{2}, std::size_t{1000}, std::size_t{3'000'001}}) {
    CAPTURE(n);
    const auto value = noise(n, unsigned(n));
    std::string why;
    const status put = put_checked(s, "a", value, 20, &why);
    CHECK_MESSAGE(put == status::ok, why);
    CHECK(s.size("a").value() == n);
    CHECK(read_object(s, "a", 20).value() == value);
    std::vector<std::byte> part(std::min<std::size_t>(n, 70'000));
    REQUIRE(read(s, {"a", n - part.size(), part}, 20) == status::ok);
    CHECK(std::equal(part.begin(), part.end(), value.end() - std::ptrdiff_t(part.size())));
  }
  CHECK(s.put("a", noise(10, 1)) == status::ok);  // over the one that is there
  CHECK(read_object(s, "a", 20).value() == noise(10, 1));
}

TEST_CASE("what is not there is told apart") {
  nixl_source s = store().source();
  const auto value = noise(5000, 3);
  REQUIRE(s.put("b", value) == status::ok);
  std::vector<std::byte> buffer(1000, std::byte{7});
  const auto untouched = buffer;
  const auto fails = [&](std::string_view key, std::uint64_t offset, status expected, std::string_view words) {
    CAPTURE(offset);
    const ticket t = s.submit({key, offset, buffer});
    completion done;
    for (int i = 0; i < 30 && s.poll({&done, 1}, 1) == 0; ++i) continue;
    CHECK(done.which == t);
    CHECK(done.state == expected);
    CHECK(done.detail.find(words) != done.detail.npos);
    CHECK(s.detail() == done.detail);
    CHECK(buffer == untouched);
  };
  fails("b", 4001, status::wrong_length, "the object ends before byte 5001");
  fails("b", 4999, status::wrong_length, "the object ends before byte 5999");
  fails("b", 5000, status::wrong_length, "the object ends before byte 6000");
  fails("b", 1'000'000, status::wrong_length, "the object ends before byte 1001000");
  fails("none", 0, status::not_found, "there is no such object");
  CHECK(s.size("none").status() == status::not_found);
  CHECK(read(s, {"b", 4000, buffer}, 20) == status::ok);
  CHECK(std::equal(buffer.begin(), buffer.end(), value.begin() + 4000));
  // Nothing of an object: only whether it is there.
  CHECK(read(s, {"b", 0, {}}, 20) == status::ok);
  CHECK(read(s, {"none", 0, {}}, 20) == status::not_found);
}

TEST_CASE("sizes are found, also those of objects that others have put") {
  nixl_source writer = store().source();
  for (const std::size_t n :
       {std::size_t{1}, std::size_t{15}, std::size_t{16}, std::size_t{17}, std::size_t{4096}, std::size_t{1'234'567}}) {
    CAPTURE(n);
    REQUIRE(writer.put("c", noise(n, 5)) == status::ok);
    nixl_source reader = store().source();
    CHECK(reader.size("c").value() == n);
    CHECK(writer.size("c").value() == n);
  }
}

TEST_CASE("many reads in flight, and cancelled ones that touch nothing any more") {
  nixl_source s = store().source();
  const auto value = noise(2'000'000, 8);
  REQUIRE(s.put("d", value) == status::ok);
  std::vector<std::vector<std::byte>> buffers(12, std::vector<std::byte>(150'000));
  std::vector<ticket> tickets;
  for (std::size_t i = 0; i < buffers.size(); ++i) tickets.push_back(s.submit({"d", i * 150'000, buffers[i]}));
  for (std::size_t i = 0; i < 4; ++i) {
    CHECK(s.cancel(tickets[i]) == 0);
    std::fill(buffers[i].begin(), buffers[i].end(), std::byte{9});
  }
  std::size_t n = 0;
  for (int i = 0; i < 60 && n < 8; ++i) {
    completion done[3];
    const std::size_t ended = s.poll(done, 1);
    for (std::size_t k = 0; k < ended; ++k) {
      CHECK(done[k].which > tickets[3]);
      CHECK(done[k].state == status::ok);
      CHECK(done[k].bytes == 150'000);
    }
    n += ended;
  }
  REQUIRE(n == 8);
  nixl_source other = store().source();  // same agent, numbers of its own
  CHECK(read_object(other, "d", 20).value() == value);
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    const std::vector<std::byte> expected =
        i < 4 ? std::vector<std::byte>(150'000, std::byte{9})
              : std::vector<std::byte>(value.begin() + std::ptrdiff_t(i * 150'000),
                                       value.begin() + std::ptrdiff_t((i + 1) * 150'000));
    CHECK(buffers[i] == expected);
  }
}

TEST_CASE("two put the same object at once: it is one of the two, whole") {
  client another(store().port);
  nixl_source a = store().source(), b = another.source();
  rivals(a, b, "same");
}

TEST_CASE("frames of the capture are stored and come back") {
  nixl_source s = store().source();
  context::store(s);
  for (const context::object& o : context::sample().objects) CHECK(read_object(s, o.name, 20).value() == o.bytes);
  context::fetch_all(s);
}

// Last: the server does not keep anything.
TEST_CASE("a store that dies, and comes back empty") {
  nixl_source s = store().source(20);
  const auto value = noise(500'000, 12);
  REQUIRE(s.put("e", value) == status::ok);
  std::vector<std::byte> buffer(value.size(), std::byte{7});
  const auto untouched = buffer;
  {
    nixl_source in_flight = store().source();
    store().server->signal(SIGSTOP);
    in_flight.submit({"e", 0, buffer});
    completion done;
    CHECK(in_flight.poll({&done, 1}, 0.3) == 0);
    store().server->signal(SIGCONT);
    store().server.reset();
  }  // waits for what NIXL has begun, and no longer
  CHECK(buffer == untouched);
  CHECK(s.put("e", value) == status::io_error);
  CHECK(s.detail() == "NIXL_ERR_BACKEND");
  CHECK(read(s, {"e", 0, buffer}, 60) == status::io_error);
  CHECK(s.detail() == "NIXL_ERR_BACKEND, also when asked whether the object exists");
  CHECK(s.size("e").status() == status::io_error);
  CHECK(buffer == untouched);
  store().start();
  CHECK(read(s, {"e", 0, buffer}, 20) == status::not_found);
  CHECK(s.put("e", value) == status::ok);
  CHECK(read_object(s, "e", 20).value() == value);
}

int main(int argc, char** argv) {
  if (moto_program().empty()) {
    std::puts("skipped: moto_server is not installed");
    return 77;
  }
  ::setenv("AWS_RETRY_MODE", "standard", 0);  // NIXL's S3 client would try for 25 seconds
  doctest::Context context(argc, argv);
  return context.run();
}
#else
int main() {
  std::puts("skipped: NIXL is not here");
  return 77;
}
#endif
