// SPDX-License-Identifier: Apache-2.0
// The Redis source against real servers: who may enter and how (users, passwords, TLS, sockets, addresses), what servers
// refuse and in which words, servers that are busy, stopped or restarted, and links that are slow or break.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sluice/stream/store/sources/redis.hpp>
#include <stream/main.hpp>
#include <stream/proxy.hpp>
#include <stream/rivals.hpp>
#include <stream/servers.hpp>

#include <sys/mman.h>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;
using verdict = proxy::verdict;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }
double seconds_of(const auto& work) {
  const double begin = now();
  work();
  return now() - begin;
}

struct redis_server {
  servers::temporary_folder folder;
  int port = servers::free_port();
  servers::server process;
  explicit redis_server(const std::vector<std::string>& extra = {})
      : process(servers::redis_command(folder.path, port, extra), port) {
    REQUIRE(process.up());
  }
};

// What a server answers to a command, through a connection of its own: no client of ours is in the way.
std::string ask(int port, const std::vector<std::string>& words) {
  std::string text = "*" + std::to_string(words.size()) + "\r\n";
  for (const std::string& w : words) text += "$" + std::to_string(w.size()) + "\r\n" + w + "\r\n";
  const int s = servers::connect_to(port);
  if (s < 0) return {};
  std::string answer(4096, 0);
  const bool sent = ::send(s, text.data(), text.size(), MSG_NOSIGNAL) == ssize_t(text.size());
  const ssize_t n = sent ? ::recv(s, answer.data(), answer.size(), 0) : 0;
  ::close(s);
  answer.resize(n > 0 ? std::size_t(n) : 0);
  return answer;
}

redis_options at(int port) {
  redis_options o;
  o.port = port;
  o.connect_seconds = 2;
  o.stall_seconds = 1;
  o.backoff_seconds = 0.01;
  return o;
}

// Whether put, size and read all work, byte by byte.
void works(const redis_options& o, std::size_t bytes = 3'000'000) {
  redis_source s(o);
  const auto value = noise(bytes, 7);
  const status put = s.put("works", value);
  CAPTURE(std::string(s.detail()));
  REQUIRE(put == status::ok);
  REQUIRE(s.size("works").value() == value.size());
  CHECK(read_object(s, "works", 5).value() == value);
}

// Whether size, put and read all fail in this way, with these words, and tell no secret.
void fails(const redis_options& o, status why, std::string_view words) {
  redis_source s(o);
  const auto check = [&](status is) {
    const std::string said(s.detail());
    CAPTURE(said);
    CAPTURE(std::string(words));
    CHECK(is == why);
    CHECK(said.find(words) != said.npos);
    if (!o.password.empty()) CHECK(said.find(o.password) == said.npos);
    CHECK(said.find('\n') == said.npos);
  };
  std::vector<std::byte> buffer(10);
  check(s.size("a").status());
  check(s.put("a", buffer));
  check(read(s, {"a", 0, buffer}, 20));
  const ticket t = s.submit({"a", 0, buffer});
  completion done;
  REQUIRE(s.poll({&done, 1}, 20) == 1);
  CHECK(done.which == t);
  CHECK(done.state == why);
  CHECK(done.detail == s.detail());
}

redis_options of_url(const std::string& url) {
  std::string words;
  const result<store_url> u = parse_store_url(url, &words);
  CAPTURE(words);
  REQUIRE(u);
  redis_options o = redis_options_of(*u);
  o.backoff_seconds = 0.01;
  return o;
}

bool has_ipv6() {
  const int s = ::socket(AF_INET6, SOCK_STREAM, 0);
  sockaddr_in6 a{};
  a.sin6_family = AF_INET6;
  a.sin6_addr = in6addr_loopback;
  const bool bound = s >= 0 && ::bind(s, reinterpret_cast<const sockaddr*>(&a), sizeof a) == 0;
  if (s >= 0) ::close(s);
  return bound;
}

}  // namespace

TEST_CASE("users and passwords, with any characters in them") {
  const redis_server server;
  const std::string odd = "p@:/% s#?[]&'\"x", secret = "another-secret";
  REQUIRE(ask(server.port, {"ACL", "SETUSER", "us:er@x", "on", ">" + odd, "~*", "+@all"}).starts_with("+OK"));
  REQUIRE(ask(server.port, {"ACL", "SETUSER", "reader", "on", ">" + secret, "~*", "+getrange"}).starts_with("+OK"));
  REQUIRE(ask(server.port, {"ACL", "SETUSER", "default", "off"}).starts_with("+OK"));
  redis_options o = at(server.port);
  fails(o, status::refused, "NOAUTH Authentication required");
  o.user = "us:er@x";
  o.password = odd;
  works(o);
  works(of_url("redis://us%3Aer%40x:p%40%3A%2F%25%20s%23%3F%5B%5D%26'%22x@127.0.0.1:" + std::to_string(server.port) +
               "/2"));
  o.password = secret;
  fails(o, status::refused, "WRONGPASS");
  o.user = "nobody";
  fails(o, status::refused, "WRONGPASS");
  o.user = "reader";
  redis_source r(o);
  CHECK(r.put("a", {}) == status::refused);
  CHECK(r.detail().find("NOPERM") != std::string_view::npos);
  CHECK(r.detail().find("set") != std::string_view::npos);
  CHECK(r.size("a").status() == status::refused);
  std::vector<std::byte> buffer(10);
  CHECK(read(r, {"a", 0, buffer}, 5) == status::not_found);
}

TEST_CASE("one password for all, also as a lone token in the URL") {
  const redis_server server({"--requirepass", "se@cret"});
  redis_options o = at(server.port);
  fails(o, status::refused, "NOAUTH");
  o.password = "se@cret";
  works(o);
  const std::string place = "@127.0.0.1:" + std::to_string(server.port);
  works(of_url("redis://:se%40cret" + place));
  works(of_url("redis://se%40cret" + place));
  o.password = "wrong";
  fails(o, status::refused, "WRONGPASS");
  const redis_server open_one;
  o.port = open_one.port;
  fails(o, status::refused, "called without any password configured");
}

TEST_CASE("a server that quotes what AUTH was given makes no secret known") {
  const redis_server server({"--rename-command", "AUTH", "LOGIN"});
  redis_options o = at(server.port);
  o.password = "quoted-secret";
  fails(o, status::refused, "unknown command 'AUTH'");
  o.user = "someone";
  fails(o, status::refused, "unknown command 'AUTH'");
}

TEST_CASE("Unix sockets, IPv6 and names") {
  servers::temporary_folder folder;
  const std::string path = folder.path + "/re dis.sock";
  const bool six = has_ipv6();
  std::vector<std::string> extra{"--unixsocket", path};
  if (six) extra.insert(extra.end(), {"--bind", "127.0.0.1", "::1"});
  const redis_server server(extra);
  redis_options o = at(1);  // the port plays no part
  o.unix_socket = path;
  works(o);
  works(of_url("redis+unix://" + folder.path + "/re%20dis.sock?db=3"));
  o.unix_socket = folder.path + "/nothing";
  fails(o, status::connection_lost, "no connection to socket 'nothing': No such file or directory");
  o.unix_socket = folder.path + "/" + std::string(200, 'x');
  fails(o, status::invalid_argument, "too long for a socket");

  const std::string port = std::to_string(server.port);
  works(of_url("redis://localhost:" + port));
  if (!six) MESSAGE("no IPv6 here");
  if (six) works(of_url("redis://[::1]:" + port));
  o = at(servers::free_port());
  o.host = "::1";
  redis_source nobody(o);
  CHECK(nobody.size("a").status() == status::connection_lost);
  CHECK(nobody.detail().find("[::1]:") != std::string_view::npos);
}

TEST_CASE("what keeps us from a server is told apart") {
  redis_options o = at(servers::free_port());
  fails(o, status::connection_lost, ": Connection refused");
  o.host = "no-such-host.invalid";
  fails(o, status::connection_lost, "the host 'no-such-host.invalid' is not found: ");
  // A queue that is full: the system lets connections wait for ever.
  const int s = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in a = servers::loopback(0);
  socklen_t n = sizeof a;
  REQUIRE(::bind(s, reinterpret_cast<sockaddr*>(&a), n) == 0);
  REQUIRE(::listen(s, 0) == 0);
  REQUIRE(::getsockname(s, reinterpret_cast<sockaddr*>(&a), &n) == 0);
  std::vector<int> taken;
  for (int i = 0; i < 4; ++i) {
    taken.push_back(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    (void)::connect(taken.back(), reinterpret_cast<const sockaddr*>(&a), n);
  }
  o = at(ntohs(a.sin_port));
  o.connect_seconds = 0.3;
  redis_source source(o);
  CHECK(seconds_of([&] { CHECK(source.size("a").status() == status::timed_out); }) < 10);
  CHECK(source.detail().find("within 0.3 s") != std::string_view::npos);
  for (int t : taken) ::close(t);
  ::close(s);
}

TEST_CASE("TLS: whom to trust, and what is wrong where nobody is") {
  if (servers::find_program("openssl").empty()) {
    MESSAGE("skipped: there is no openssl command");
    return;
  }
  servers::temporary_folder folder;
  const std::string d = folder.path;
  std::ofstream(d + "/names") << "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
  const auto run = [&](const std::string& words) {
    REQUIRE(std::system(("cd '" + d + "' && openssl " + words + " >/dev/null 2>&1").c_str()) == 0);
  };
  for (const std::string ca : {"ca", "stranger"})
    run("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=" + ca + " -keyout " + ca + ".key -out " + ca + ".crt");
  for (const std::string who : {"server", "client"}) {
    run("req -newkey rsa:2048 -nodes -subj /CN=" + who + " -keyout " + who + ".key -out " + who + ".csr");
    run("x509 -req -in " + who + ".csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out " + who +
        ".crt");
  }
  const auto with_tls = [&](int port, const std::string& clients) {
    return std::vector<std::string>{"--port",          "0",
                                    "--tls-port",      std::to_string(port),
                                    "--bind",          "127.0.0.1",
                                    "127.0.0.2",       "--tls-cert-file",
                                    d + "/server.crt", "--tls-key-file",
                                    d + "/server.key", "--tls-ca-cert-file",
                                    d + "/ca.crt",     "--tls-auth-clients",
                                    clients,           "--requirepass",
                                    "tls-secret"};
  };
  const int port = servers::free_port();
  const servers::server open_to_all(servers::redis_command(d, port, with_tls(port, "no")), port);
  if (!open_to_all.up()) {
    MESSAGE("skipped: this redis-server has no TLS");
    return;
  }
  redis_options o = of_url("rediss://:tls-secret@localhost:" + std::to_string(port));
  REQUIRE(o.tls);
#ifndef SLUICE_WITH_TLS
  fails(o, status::refused, "TLS is not in this build");
#else
  o.stall_seconds = 1;
  o.connect_seconds = 2;
  o.ca_file = d + "/ca.crt";
  works(o, 20'000'000);
  o.host = "127.0.0.1";
  works(o);
  REQUIRE(::setenv("SSL_CERT_FILE", o.ca_file.c_str(), 1) == 0);
  o.ca_file.clear();
  works(o);
  ::unsetenv("SSL_CERT_FILE");
  fails(o, status::refused, "certificate is not trusted: self");
  o.ca_file = d + "/stranger.crt";
  fails(o, status::refused, "certificate is not trusted: ");
  o.ca_file = d + "/ca.crt";
  o.host = "127.0.0.2";
  fails(o, status::refused, "IP address mismatch");
  o.ca_file = d + "/missing.crt";
  fails(o, status::invalid_argument, "the CA file 'missing.crt' cannot be used");

  o.host = "localhost";
  o.ca_file = d + "/ca.crt";
  const int strict_port = servers::free_port();
  const servers::server strict(servers::redis_command(d, strict_port, with_tls(strict_port, "yes")), strict_port);
  REQUIRE(strict.up());
  o.port = strict_port;
  fails(o, status::connection_lost, "certificate required");
  o.certificate_file = d + "/client.crt";
  o.key_file = d + "/client.key";
  works(o);
  o.key_file = d + "/server.key";
  fails(o, status::invalid_argument, "the key 'server.key' cannot be used");

  o.tls = false;  // plain words to a server of TLS
  redis_source plain(o);
  CHECK(plain.size("a").status() == status::connection_lost);
  const redis_server other;  // and the other way round
  o = at(other.port);
  o.tls = true;
  o.connect_seconds = 0.5;
  redis_source deaf(o);
  const status s = deaf.size("a").status();
  CHECK((s == status::connection_lost || s == status::timed_out));
  CHECK(deaf.detail().find("TLS with 127.0.0.1:") == 0);

  // A link that breaks, and reads that end in the middle of a record.
  o = of_url("rediss://:tls-secret@localhost:" + std::to_string(port));
  o.ca_file = d + "/ca.crt";
  proxy p(port);
  o.port = p.port();
  p.set(proxy::after(200'000, verdict::reset, 1));
  works(o);
  p.set(proxy::honest());
  p.set_upward(proxy::after(300'000, verdict::reset, 1));
  works(o);
#endif
}

TEST_CASE("a database that is not there is refused, and nothing goes to another one") {
  const redis_server server;
  redis_options o = at(server.port);
  o.database = 9999;
  fails(o, status::refused, "DB index is out of range");
  CHECK(ask(server.port, {"EXISTS", "a"}) == ":0\r\n");
  o.database = 3;
  works(o);
  CHECK(ask(server.port, {"EXISTS", "works"}) == ":0\r\n");
}

TEST_CASE("what servers refuse for good ends at once, in their own words") {
  const redis_server master;
  REQUIRE(ask(master.port, {"LPUSH", "list", "x"}).starts_with(":1"));
  redis_source s(at(master.port));
  std::vector<std::byte> buffer(10);
  CHECK(s.size("list").status() == status::refused);
  CHECK(s.detail().find("WRONGTYPE") != std::string_view::npos);
  CHECK(read(s, {"list", 0, buffer}, 5) == status::refused);
  CHECK(s.detail().find("WRONGTYPE") != std::string_view::npos);
  CHECK(s.put("empty", {}) == status::ok);
  CHECK(s.size("empty").value() == 0);
  CHECK(s.size("missing").status() == status::not_found);

  const redis_server replica({"--replicaof", "127.0.0.1", std::to_string(master.port)});
  redis_source r(at(replica.port));
  CHECK(r.put("a", buffer) == status::refused);
  CHECK(r.detail().find("READONLY") != std::string_view::npos);

  const redis_server small({"--maxmemory", "3mb", "--maxmemory-policy", "noeviction"});
  redis_source full(at(small.port));
  status last = status::ok;
  for (int i = 0; i < 8 && last == status::ok; ++i) last = full.put("k" + std::to_string(i), noise(1 << 20, 9));
  CHECK(last == status::no_space);
  CHECK(full.detail().find("OOM command not allowed") != std::string_view::npos);

  redis_server broken({"--save", "3600", "1"});
  std::filesystem::remove_all(broken.folder.path);
  REQUIRE(ask(broken.port, {"SET", "x", "y"}).starts_with("+OK"));
  (void)ask(broken.port, {"BGSAVE"});
  redis_source disk(at(broken.port));
  last = status::ok;
  for (int i = 0; i < 100 && last == status::ok; ++i) {
    last = disk.put("a", buffer);
    ::usleep(50'000);
  }
  CHECK(last == status::no_space);
  CHECK(disk.detail().find("MISCONF") != std::string_view::npos);

  const redis_server cluster({"--cluster-enabled", "yes"});
  fails(at(cluster.port), status::refused, "CLUSTERDOWN");
  fails(at(cluster.port), status::refused, "cluster, which is not supported");
}

TEST_CASE("values that a server cannot hold are refused before they are sent") {
  const redis_server server({"--proto-max-bulk-len", "1mb"});
  redis_source s(at(server.port));
  REQUIRE(s.put("a", noise(1000, 1)) == status::ok);
  // The limit that the server has by default: such a value need not even exist.
  const std::size_t size = (std::size_t{512} << 20) + 1;
  void* nothing = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  REQUIRE(nothing != MAP_FAILED);
  CHECK(s.put("a", {static_cast<const std::byte*>(nothing), size}) == status::too_large);
  CHECK(s.detail().find("proto-max-bulk-len") != std::string_view::npos);
  ::munmap(nothing, size);
  // A smaller one that we are not told of.
  CHECK(s.put("a", noise(3 << 20, 2)) == status::too_large);
  CHECK(s.detail().find("invalid bulk length") != std::string_view::npos);
  CHECK(read_object(s, "a", 5).value() == noise(1000, 1));
}

TEST_CASE("a server that loads its data set is waited for") {
  servers::temporary_folder folder;
  const auto value = noise(100'000, 3);
  {
    const int port = servers::free_port();
    const servers::server before(servers::redis_command(folder.path, port, {"--enable-debug-command", "yes"}), port);
    REQUIRE(redis_source(at(port)).put("a", value) == status::ok);
    REQUIRE(ask(port, {"DEBUG", "POPULATE", "3000"}).starts_with("+OK"));
    REQUIRE(ask(port, {"SAVE"}).starts_with("+OK"));
  }
  const auto loading = [&](int port) {
    return servers::redis_command(folder.path, port,
                                  {"--key-load-delay", "500", "--loading-process-events-interval-bytes", "1024"});
  };
  for (const bool patient : {true, false}) {
    CAPTURE(patient);
    const int port = servers::free_port();
    const servers::server server(loading(port), port);
    REQUIRE(server.up());
    if (ask(port, {"GET", "a"}).find("-LOADING") == std::string::npos) {
      MESSAGE("the server had loaded its data set too soon");
      continue;
    }
    redis_options o = at(port);
    o.stall_seconds = patient ? 60 : 0.1;
    redis_source s(o);
    std::vector<std::byte> buffer(value.size());
    if (patient) {
      CHECK(read(s, {"a", 0, buffer}, 60) == status::ok);
      CHECK(buffer == value);
      CHECK(s.put("b", value) == status::ok);
    } else {
      CHECK(s.put("b", value) == status::refused);
      CHECK(s.detail().find("LOADING Redis is loading the dataset in memory") != std::string_view::npos);
    }
  }
}

TEST_CASE("a server that is busy, or has no place for us yet, is asked again") {
  const redis_server server({"--busy-reply-threshold", "20", "--maxclients", "1"});
  redis_options o = at(server.port);
  o.stall_seconds = 30;
  {
    const int taken = servers::connect_to(server.port);
    REQUIRE(taken >= 0);
    ::usleep(50'000);
    std::jthread leaves([&] {
      ::usleep(300'000);
      ::close(taken);
    });
    works(o);
  }
  {
    const redis_server other({"--busy-reply-threshold", "20"});
    o.port = other.port;
    redis_source s(o);
    REQUIRE(s.put("a", noise(1000, 1)) == status::ok);
    std::jthread busy([&] { ask(other.port, {"EVAL", "while true do end", "0"}); });
    std::jthread killer([&] {
      ::usleep(400'000);
      for (int i = 0; i < 100 && !ask(other.port, {"SCRIPT", "KILL"}).starts_with("+OK"); ++i) ::usleep(50'000);
    });
    ::usleep(150'000);
    CHECK(s.put("a", noise(1000, 2)) == status::ok);
    CHECK(read_object(s, "a", 30).value() == noise(1000, 2));
  }
  // A replica without a master serves nothing, for a while.
  const redis_server lonely(
      {"--replicaof", "127.0.0.1", std::to_string(servers::free_port()), "--replica-serve-stale-data", "no"});
  o = at(lonely.port);
  o.stall_seconds = 0.2;
  std::vector<std::byte> buffer(10);
  redis_source impatient(o);
  CHECK(read(impatient, {"a", 0, buffer}, 20) == status::refused);
  CHECK(impatient.detail().find("MASTERDOWN") != std::string_view::npos);
  std::jthread promoted([&] {
    ::usleep(300'000);
    CHECK(ask(lonely.port, {"REPLICAOF", "NO", "ONE"}).starts_with("+OK"));
  });
  o.stall_seconds = 30;
  redis_source patient(o);
  CHECK(patient.size("a").status() == status::not_found);
  CHECK(read(patient, {"a", 0, buffer}, 20) == status::not_found);
}

TEST_CASE("a stopped server is waited for, twice; what it keeps is not lost") {
  const redis_server server;
  redis_options o = at(server.port);
  o.stall_seconds = 0.3;
  redis_source s(o);
  const auto value = noise(500'000, 4);
  REQUIRE(s.put("a", value) == status::ok);
  server.process.signal(SIGSTOP);
  CHECK(seconds_of([&] { CHECK(s.put("a", noise(500'000, 5)) == status::timed_out); }) < 20);
  CHECK(s.detail().find("nothing came or went for 0.3 s") != std::string_view::npos);
  std::vector<std::byte> buffer(value.size());
  CHECK(read(s, {"a", 0, buffer}, 20) == status::timed_out);
  CHECK_FALSE(s.detail().empty());
  o.total_seconds = 0.2;
  redis_source in_a_hurry(o);
  CHECK(in_a_hurry.size("a").status() == status::timed_out);
  CHECK(in_a_hurry.detail().find("no answer within 0.2 s") != std::string_view::npos);
  server.process.signal(SIGCONT);
  CHECK(s.put("a", value) == status::ok);
  CHECK(read_object(s, "a", 5).value() == value);

  // Stopped for longer than one stall and shorter than two: nobody notices.
  o.total_seconds = 0;
  o.stall_seconds = 2;
  redis_source again(o);
  server.process.signal(SIGSTOP);
  std::jthread wakes([&] {
    ::usleep(2'500'000);
    server.process.signal(SIGCONT);
  });
  CHECK(read(again, {"a", 0, buffer}, 20) == status::ok);
  CHECK(buffer == value);
}

TEST_CASE("a slow link is given all the time it needs, either way") {
  const redis_server server;
  proxy p(server.port);
  p.throttle(1e6);
  redis_options o = at(p.port());
  const auto value = noise(7'000'000, 6);
  redis_source s(o);
  CHECK(seconds_of([&] { CHECK(s.put("a", value) == status::ok); }) > 4);
  CAPTURE(std::string(s.detail()));
  std::vector<std::byte> buffer(value.size());
  const ticket t = s.submit({"a", 0, buffer});
  completion done;
  std::size_t seen = 0, steps = 0;
  while (s.poll({&done, 1}, 0.2) == 0) {
    REQUIRE(s.arrived(t) >= seen);
    steps += s.arrived(t) > seen;
    seen = s.arrived(t);
  }
  CHECK(done.state == status::ok);
  CHECK(buffer == value);
  CHECK(steps > 5);
  CHECK(p.connections() == 1);
}

TEST_CASE("links that break in the middle of a put: it is done again, or nothing has changed") {
  const redis_server server;
  proxy p(server.port);
  redis_source s(at(p.port()));
  const auto old = noise(1'000'000, 7), young = noise(3'000'000, 8);
  REQUIRE(s.put("a", old) == status::ok);
  for (verdict how : {verdict::reset, verdict::close})
    for (std::size_t bytes : {std::size_t{0}, std::size_t{20}, std::size_t{1'500'000}}) {
      CAPTURE(bytes);
      redis_source fresh(at(p.port()));
      p.set_upward(proxy::after(bytes, how));  // always
      CHECK(fresh.put("a", young) == status::connection_lost);
      CHECK_FALSE(fresh.detail().empty());
      CHECK(p.connections() == 5);
      p.set_upward(proxy::honest());
      CHECK(read_object(fresh, "a", 5).value() == old);
      p.set_upward(proxy::after(bytes, how, 2));  // twice
      CHECK(fresh.put("b", young) == status::ok);
      CHECK(fresh.size("b").value() == young.size());
      p.set_upward(proxy::honest());
      p.set(proxy::after(0, how, 2));  // the answer is lost
      redis_source third(at(p.port()));
      CHECK(third.put("b", old) == status::ok);
      p.set(proxy::after(0, how, 1));
      redis_source fourth(at(p.port()));
      CHECK(fourth.size("b").value() == old.size());
      p.set(proxy::honest());
    }
}

TEST_CASE("retries have a budget: a server that is gone costs less and less") {
  const int port = servers::free_port();
  redis_options o = at(port);
  o.retry_budget = 6;
  redis_source s(o);
  for (int i = 0; i < 3; ++i) CHECK(s.size("a").status() == status::connection_lost);
  CHECK(seconds_of([&] {
          for (int i = 0; i < 50; ++i) CHECK(s.size("a").status() == status::connection_lost);
        }) < 5);
  servers::temporary_folder folder;
  const servers::server server(servers::redis_command(folder.path, port), port);  // there it is
  REQUIRE(server.up());
  CHECK(s.put("a", noise(100, 1)) == status::ok);
}

TEST_CASE("a server that is restarted, or closes idle connections, is found again") {
  servers::temporary_folder folder;
  const int port = servers::free_port();
  auto server = std::make_unique<servers::server>(servers::redis_command(folder.path, port), port);
  redis_source s(at(port));
  REQUIRE(s.put("a", noise(1000, 1)) == status::ok);
  server.reset();
  server = std::make_unique<servers::server>(servers::redis_command(folder.path, port), port);
  REQUIRE(server->up());
  CHECK(s.put("a", noise(1000, 2)) == status::ok);
  REQUIRE(ask(port, {"CLIENT", "KILL", "TYPE", "normal"}).starts_with(":"));
  std::vector<std::byte> buffer(1000);
  CHECK(read(s, {"a", 0, buffer}, 5) == status::ok);
  CHECK(buffer == noise(1000, 2));
}

TEST_CASE("two clients put the same key at once") {
  const redis_server server;
  redis_source one(at(server.port)), other(at(server.port));
  rivals(one, other, "a");
}

TEST_CASE("a server that is killed in the middle of a put or a read, and comes back empty") {
  for (const bool reading : {false, true}) {
    CAPTURE(reading);
    servers::temporary_folder folder;
    const int port = servers::free_port();
    auto server = std::make_unique<servers::server>(servers::redis_command(folder.path, port), port);
    const auto value = noise(8'000'000, 12);
    REQUIRE(redis_source(at(port)).put("a", value) == status::ok);
    proxy p(port);
    p.throttle(4e6);  // two seconds for all of it
    redis_source s(at(p.port()));
    std::vector<std::byte> buffer(value.size());
    std::jthread dies([&] {
      ::usleep(700'000);
      server->signal(SIGKILL);
    });
    const ticket t = reading ? s.submit({"a", 0, buffer}) : 0;
    completion done{0, status::ok};
    if (reading)
      for (int i = 0; i < 60 && s.poll({&done, 1}, 1) == 0; ++i) continue;
    const status state = reading ? done.state : s.put("b", value);
    dies.join();
    CHECK(done.which == t);
    CHECK(state == status::connection_lost);
    CAPTURE(std::string(s.detail()));
    CHECK(s.detail().find("127.0.0.1:") != std::string_view::npos);
    if (reading) {
      CHECK(done.bytes > 0);
      CHECK(done.bytes < value.size());
      CHECK(std::equal(buffer.begin(), buffer.begin() + std::ptrdiff_t(done.bytes), value.begin()));
    }
    server.reset();
    server = std::make_unique<servers::server>(servers::redis_command(folder.path, port), port);
    REQUIRE(server->up());
    CHECK(s.size("b").status() == status::not_found);
    CHECK(read(s, {"a", 0, buffer}, 20) == status::not_found);
  }
}

namespace {

// Answers whatever it is told to, to everybody, and closes: no server of its kind can be had.
class liar {
 public:
  explicit liar(std::function<std::string(int)> answer)
      : answer_(std::move(answer)), socket_(servers::listen_somewhere(port)), thread_([this] { run(); }) {}
  ~liar() {
    ::shutdown(socket_, SHUT_RDWR);
    thread_.join();
    ::close(socket_);
  }
  int port = 0;

 private:
  void run() {
    for (int c, i = 0; (c = ::accept(socket_, nullptr, nullptr)) >= 0; ++i) {
      char asked[4096];
      if (::recv(c, asked, sizeof asked, 0) > 0) {
        const std::string text = answer_(i);
        (void)!::send(c, text.data(), text.size(), MSG_NOSIGNAL);
      }
      ::shutdown(c, SHUT_WR);
      while (::recv(c, asked, sizeof asked, 0) > 0) continue;
      ::close(c);
    }
  }
  std::function<std::string(int)> answer_;
  int socket_;
  std::thread thread_;
};

}  // namespace

TEST_CASE("clusters are refused by name") {
  for (const std::string words : {"MOVED 3999 10.0.0.1:6379", "ASK 3999 10.0.0.1:6379", "CROSSSLOT Keys in request"}) {
    liar moved([&](int) { return "-" + words + "\r\n"; });
    fails(at(moved.port), status::refused, words);
    fails(at(moved.port), status::refused, "cluster, which is not supported");
  }
  liar splitting(
      [](int i) { return i < 2 ? "-TRYAGAIN Multiple keys request during rehashing of slot\r\n" : "+OK\r\n"; });
  redis_source s(at(splitting.port));
  CHECK(s.put("a", {}) == status::ok);
}

TEST_CASE("whatever a server answers, only bytes of the right length are taken") {
  const unsigned seed = 11;
  CAPTURE(seed);
  std::mt19937 random(seed);
  const std::string pieces[] = {"$10\r\n",
                                "0123456789",
                                "\r\n",
                                "$-1\r\n",
                                ":5\r\n",
                                "+OK\r\n",
                                "-ERR no\r\n",
                                "*2\r\n",
                                "$0\r\n\r\n",
                                "$99999999999999999999\r\n",
                                "$11\r\n",
                                "$-9\r\n",
                                "%1\r\n",
                                "\n",
                                "\r",
                                std::string("\0\xff", 2),
                                "$10\r\n0123456789\r\n",
                                "$3\r\nabc\r\n",
                                "-",
                                "$",
                                "$10"};
  liar server([&](int) {
    std::string text;
    for (auto i = random() % 6; i-- > 0;) text += pieces[random() % std::size(pieces)];
    if (random() % 50 == 0) text.assign(200'000, 'x');
    return text;
  });
  redis_options o = at(server.port);
  o.retries = 1;
  o.backoff_seconds = 0.001;
  o.retry_budget = 1e9;
  int good = 0;
  for (int i = 0; i < 400; ++i) {
    redis_source s(o);
    std::vector<std::byte> a(10), b(20), guard(10, std::byte{1});
    const ticket first = s.submit({"a", 0, a});
    s.submit({"b", 0, b});
    completion done[2];
    std::size_t n = 0;
    for (int k = 0; k < 20 && n < 2; ++k) n += s.poll(std::span(done).subspan(n), 5);
    REQUIRE(n == 2);
    for (const completion& c : done) {
      CHECK(c.bytes <= (c.which == first ? 10u : 20u));
      if (c.state == status::ok && c.which == first)
        good += std::string_view(reinterpret_cast<const char*>(a.data()), 10) == "0123456789";
    }
    CHECK(guard == std::vector<std::byte>(10, std::byte{1}));
    (void)s.size("a");
    (void)s.put("a", a);
  }
  CHECK(good > 0);
}

TEST_CASE("keys are listed and forgotten, whatever bytes they are made of, also over links that break") {
  const redis_server server;
  redis_options o = at(server.port);
  redis_source s(o);
  CHECK(s.keys().value().empty());
  std::vector<std::string> put;
  for (int i = 0; i < 3000; ++i) put.push_back("key " + std::to_string(i));
  put.push_back("\r\n$5\r\n*3\r\n\n");
  put.push_back(std::string(200'000, 'k'));  // longer than what is read at once
  std::sort(put.begin(), put.end());
  for (const std::string& key : put) REQUIRE(s.put(key, noise(3, 1)) == status::ok);
  CHECK(s.keys().value() == put);
  proxy link(server.port);
  link.set(proxy::after(20'000, verdict::reset, 3));
  o.port = link.port();
  redis_source broken(o);
  CHECK(broken.keys().value() == put);
  CHECK(link.connections() > 1);
  // A read under way stays under way.
  std::vector<std::byte> buffer(3);
  const ticket t = s.submit({put[7], 0, buffer});
  CHECK(s.keys().value().size() == put.size());
  completion done;
  while (s.poll({&done, 1}, 1) == 0) continue;
  CHECK(done.which == t);
  CHECK(buffer == noise(3, 1));
  for (const std::string& key : put) CHECK(s.erase(key) == status::ok);
  CHECK(s.erase(put[0]) == status::not_found);
  CHECK(s.detail().empty());
  CHECK(s.keys().value().empty());
  redis_source nobody(at(servers::free_port()));
  CHECK(nobody.keys().status() == status::connection_lost);
  CHECK(nobody.erase("a") == status::connection_lost);
}

int main(int argc, char** argv) { return servers::run_tests(argc, argv, {"redis-server"}); }
