// SPDX-License-Identifier: Apache-2.0
// An HTTP store against nginx: where redirects lead and where they do not, what is tried again and how long, and what a
// caller is told.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sluice/stream/store/sources/http.hpp>
#include <stream/main.hpp>
#include <stream/proxy.hpp>
#include <stream/rivals.hpp>
#include <stream/servers.hpp>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;
using verdict = proxy::verdict;

const std::string password = "p@ss:w/rd %41&<\"";

int run(const std::string& command) { return std::system(("exec 2>/dev/null; " + command).c_str()); }

// One nginx: a plain server, another one that counts as another host, and one with TLS.
struct web {
  servers::temporary_folder folder;
  int plain = servers::free_port(), other = servers::free_port(), tls = servers::free_port();
  bool has_tls = make_certificate();  // not every openssl command can
  servers::server nginx{command(), plain};

  std::string url(const std::string& place) const { return "http://127.0.0.1:" + std::to_string(plain) + place; }
  std::string secure(const std::string& place) const { return "https://127.0.0.1:" + std::to_string(tls) + place; }
  std::string ca() const { return folder.path + "/cert.pem"; }
  std::string file(const std::string& name) const { return folder.path + "/www/objects/" + name; }

 private:
  bool make_certificate() {
    return run("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext "
               "subjectAltName=IP:127.0.0.1 -keyout " +
               folder.path + "/key.pem -out " + ca()) == 0;
  }
  std::vector<std::string> command() {
    const std::string& f = folder.path;
    std::filesystem::create_directories(f + "/www/objects");
    std::ofstream(f + "/password") << password << "\n";
    run("{ printf user: ; openssl passwd -apr1 -in " + f + "/password; } > " + f + "/users");
    std::ofstream c(f + "/nginx.conf");
    c << "daemon off; master_process off; pid " << f << "/pid; error_log " << f
      << "/error.log;\nevents {}\nhttp {\n  access_log off; "
      << "client_max_body_size 64m; limit_req_zone $server_port zone=slow:1m rate=1r/s;\n";
    for (const char* kind : {"body", "proxy", "fastcgi", "uwsgi", "scgi"})
      c << (kind == std::string("body") ? "client_body" : kind) << "_temp_path " << f << "/" << kind << ";\n";
    const std::string objects = " { alias " + f + "/www/objects/; dav_methods PUT; create_full_put_path on; }\n";
    c << "server { listen 127.0.0.1:" << plain << "; root " << f << "/www;\n location /objects/" << objects;
    for (int code : {301, 302, 303, 307, 308})
      c << "location ~ ^/r" << code << "/(.*)$ { return " << code << " /objects/$1; }\n";
    c << "location ~ ^/other/(.*)$ { return 307 http://localhost:" << plain << "/objects/$1; }\n"
      << "location ~ ^/inside/(.*)$ { return 307 /locked/$1; }\n"
      << "location ~ ^/outside/(.*)$ { return 307 http://localhost:" << plain << "/locked/$1; }\n"
      << "location ~ ^/port/(.*)$ { return 307 http://127.0.0.1:" << other << "/objects/$1; }\n"
      << "location ~ ^/up/(.*)$ { return 308 https://127.0.0.1:" << tls << "/objects/$1; }\n"
      << "location /loop/ { return 302 /loop/again; }\n location /file/ { return 302 file:///etc/passwd; }\n"
      << "location /forbidden/ { return 403 'these are the words of the store\\n and more'; }\n"
      << "location /unready/ { add_header Retry-After 1 always; return 503 'SlowDown'; }\n"
      << "location /limited/ { alias " << f
      << "/www/objects/; limit_req zone=slow; add_header Retry-After 1 always; limit_req_status 429; }\n"
      << "location /full/ { return 507; }\n"
      << "location /echo/ { return 403 'you are $remote_user, $http_authorization, $arg_x'; }\n"
      << "location /locked/ { auth_basic locked; auth_basic_user_file " << f << "/users; alias " << f
      << "/www/objects/; dav_methods PUT; }\n";
    for (int code : {403, 405, 501})
      c << "location /nohead" << code << "/ { if ($request_method = HEAD) { return " << code << "; } alias " << f
        << "/www/objects/; }\n";
    c << "}\nserver { listen 127.0.0.1:" << other << ";\n location /objects/" << objects << "}\n";
    if (has_tls)
      c << "server { listen 127.0.0.1:" << tls << " ssl; ssl_certificate " << ca() << "; ssl_certificate_key " << f
        << "/key.pem;\n"
        << "location /objects/" << objects << "location ~ ^/down/(.*)$ { return 307 http://127.0.0.1:" << plain
        << "/objects/$1; }\n}\n";
    c << "}\n";
    return {servers::find_program("nginx"), "-c", f + "/nginx.conf", "-p", f, "-e", f + "/error.log"};
  }
};

web& server() {
  static web w;
  return w;
}

http_options quick(const std::string& url) {
  http_options o;
  o.url = url;
  o.stall_seconds = 1;
  o.backoff_seconds = 0.01;
  return o;
}
bool says(std::string_view text, std::string_view words) { return text.find(words) != text.npos; }
std::string get(http_source& s, const std::string& key) {
  const auto b = read_object(s, key, 5);
  return b ? std::string(reinterpret_cast<const char*>(b->data()), b->size()) : std::string(to_string(b.status()));
}
std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s.data(), s.size())); }
struct stopwatch {
  std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  double seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); }
};

}  // namespace

TEST_CASE("a put follows redirects with its body, or stores nothing and says so") {
  http_source plain(quick(server().url("/objects")));
  for (const char* place : {"/r301", "/r302", "/r307", "/r308"}) {
    CAPTURE(place);
    REQUIRE(plain.put("a", bytes_of("good")) == status::ok);
    http_source s(quick(server().url(place)));
    const auto large = noise(3'000'000);
    for (int twice = 0; twice < 2; ++twice) CHECK(s.put("a", bytes_of("better")) == status::ok);
    CHECK(get(plain, "a") == "better");
    CHECK(get(s, "a") == "better");
    CHECK(s.put("large", large) == status::ok);
    CHECK(read_object(plain, "large", 5).value() == large);
    CHECK(put_checked(s, "empty", {}, 5) == status::ok);
  }
  REQUIRE(plain.put("a", bytes_of("good")) == status::ok);
  http_source see_other(quick(server().url("/r303")));
  CHECK(see_other.put("a", bytes_of("bad")) == status::refused);
  CHECK(says(see_other.detail(), "303"));
  CHECK(says(see_other.detail(), "nothing was stored"));
  CHECK(get(plain, "a") == "good");
  CHECK(get(see_other, "a") == "good");  // a read may
  CHECK(see_other.detail().empty());
}

TEST_CASE("two clients put the same object at once") {
  http_source one(quick(server().url("/objects"))), other(quick(server().url("/r307")));
  rivals(one, other, "both");
}

TEST_CASE("redirects stay at the host that was named and never leave https") {
  http_source plain(quick(server().url("/objects")));
  REQUIRE(plain.put("a", bytes_of("good")) == status::ok);
  for (const char* place : {"/other", "/port"}) {
    CAPTURE(place);
    http_options o = quick(server().url(place));
    http_source s(o);
    std::vector<std::byte> buffer(4);
    CHECK(s.put("a", bytes_of("bad")) == status::refused);
    CHECK(says(s.detail(), "not the server that was named"));
    CHECK(s.size("a").status() == status::refused);
    CHECK(says(s.detail(), "not the server that was named"));
    CHECK(read(s, {"a", 0, buffer}, 5) == status::refused);
    CHECK(says(s.detail(), "307: redirected from http://127.0.0.1:"));
    CHECK(get(plain, "a") == "good");
    o.follow_elsewhere = true;
    http_source anywhere(o);
    CHECK(get(anywhere, "a") == "good");
    CHECK(anywhere.put("a", bytes_of("good")) == status::ok);
  }
  http_source loop(quick(server().url("/loop"))), file(quick(server().url("/file")));
  CHECK(loop.put("a", bytes_of("x")) == status::refused);
  CHECK(says(loop.detail(), "more than 3 redirects"));
  CHECK(file.size("a").status() == status::refused);
  CHECK(says(file.detail(), "no HTTP server"));
  if (!server().has_tls) return;

  http_options o = quick(server().url("/up"));
  o.ca_file = server().ca();
  http_source up(o);
  CHECK(up.put("a", bytes_of("over TLS")) == status::ok);
  CHECK(get(plain, "a") == "over TLS");
  o.url = server().secure("/down");
  http_source down(o);
  CHECK(down.put("a", bytes_of("bad")) == status::refused);
  CHECK(says(down.detail(), "from https://"));
  CHECK(down.size("a").status() == status::refused);
  CHECK(get(plain, "a") == "over TLS");
}

TEST_CASE("credentials do not go to another host") {
  http_options o = quick(server().url("/inside"));
  o.user = "user";
  o.password = password;
  http_source inside(o);
  CHECK(inside.put("secret", bytes_of("x")) == status::ok);
  CHECK(get(inside, "secret") == "x");
  o.url = server().url("/outside");  // the same server by another name, which lets in who shows them
  o.follow_elsewhere = true;
  http_source outside(o);
  CHECK(outside.put("secret", bytes_of("bad")) == status::refused);
  CHECK(says(outside.detail(), "HTTP 401"));
  CHECK(outside.size("secret").status() == status::refused);
  CHECK(get(inside, "secret") == "x");
}

TEST_CASE("a slow link is no dead one") {
  http_source direct(quick(server().url("/objects")));
  proxy slow(server().plain);
  slow.throttle(1.5e6);
  const auto bytes = noise(6'000'000);
  http_options o = quick("http://127.0.0.1:" + std::to_string(slow.port()) + "/objects");
  http_source s(o);
  const stopwatch put;
  CHECK(s.put("slow", bytes) == status::ok);  // four times as long as it may stall
  CHECK(put.seconds() > 2);
  CHECK(read_object(direct, "slow", 5).value() == bytes);
  CHECK(read_object(s, "slow", 1).value() == bytes);
  o.total_seconds = 0.5;
  http_source hurried(o);
  CHECK(hurried.put("slow2", bytes) == status::timed_out);
  CHECK(says(hurried.detail(), "not done within 0.5"));
  CHECK(direct.size("slow2").status() == status::not_found);
}

TEST_CASE("a silent server is given up after the stall, and says so") {
  proxy silent(server().plain);
  silent.set(proxy::after(0, verdict::stall));
  http_options o = quick("http://127.0.0.1:" + std::to_string(silent.port()) + "/objects");
  o.retries = 1;
  http_source s(o);
  const stopwatch time;
  CHECK(s.put("a", bytes_of("x")) == status::timed_out);
  CHECK(says(s.detail(), "no byte for 1"));
  CHECK(says(s.detail(), "after 2 tries"));
  CHECK(s.size("a").status() == status::timed_out);
  CHECK(time.seconds() > 3.5);
  CHECK(time.seconds() < 60);
  // A first byte that takes its time is waited for.
  silent.set([](std::string&, std::size_t before, int) {
    if (before == 0) std::this_thread::sleep_for(std::chrono::milliseconds(600));
    return verdict::pass;
  });
  CHECK(s.put("late", bytes_of("late")) == status::ok);
  CHECK(get(s, "late") == "late");
}

TEST_CASE("puts and sizes are tried again like reads") {
  proxy bad(server().plain);
  const std::string url = "http://127.0.0.1:" + std::to_string(bad.port());
  const auto bytes = noise(500'000, 3);
  for (verdict how : {verdict::reset, verdict::close}) {
    bad.set(proxy::after(0, how, 2));
    http_source s(quick(url + "/objects"));
    CHECK(s.put("again", bytes) == status::ok);
    CHECK(bad.connections() >= 3);
    bad.set(proxy::after(0, how, 2));
    http_source t(quick(url + "/objects"));
    CHECK(t.size("again").value() == bytes.size());
    CHECK(read_object(t, "again", 5).value() == bytes);
  }
  // A server that is busy, and says for how long.
  http_source limited(quick(server().url("/limited")));
  const stopwatch time;
  CHECK(limited.size("again").value() == bytes.size());
  CHECK(limited.size("again").value() == bytes.size());
  CHECK(limited.size("again").value() == bytes.size());
  CHECK(time.seconds() > 0.9);
  http_options o = quick(server().url("/unready"));
  o.retries = 2;
  o.longest_backoff_seconds = 0.3;
  http_source unready(o);
  const stopwatch patience;
  CHECK(unready.put("a", bytes_of("x")) == status::refused);
  CHECK(says(unready.detail(), "HTTP 503 SlowDown"));
  CHECK(says(unready.detail(), "after 3 tries"));
  CHECK(patience.seconds() > 0.5);
  o.retry_budget = 0;
  http_source spent(o);
  CHECK(spent.put("a", bytes_of("x")) == status::refused);
  CHECK_FALSE(says(spent.detail(), "tries"));
}

TEST_CASE("an answer that breaks off in its header is asked for again") {
  proxy bad(server().plain);
  const std::string url = "http://127.0.0.1:" + std::to_string(bad.port()) + "/objects";
  const auto bytes = noise(1000, 4);
  for (std::size_t cut : {20, 60, 100, 150}) {
    CAPTURE(cut);
    bad.set(proxy::after(cut, verdict::close, 1));
    http_source s(quick(url));
    CHECK(s.put("broken", bytes) == status::ok);
    bad.set(proxy::after(cut, verdict::close, 1));
    http_source t(quick(url));
    CHECK(t.size("broken").value() == bytes.size());
    bad.set(proxy::after(cut, verdict::close, 1));
    http_source u(quick(url));
    std::vector<std::byte> back(bytes.size());
    CHECK(read(u, {"broken", 0, back}, 5) == status::ok);
    CHECK(back == bytes);
  }
}

TEST_CASE("sizes where HEAD is not allowed") {
  http_source plain(quick(server().url("/objects")));
  REQUIRE(plain.put("a", noise(12345)) == status::ok);
  REQUIRE(plain.put("empty", {}) == status::ok);
  for (const char* place : {"/nohead403", "/nohead405", "/nohead501"}) {
    CAPTURE(place);
    http_source s(quick(server().url(place)));
    CHECK(s.size("a").value() == 12345);
    CHECK(s.size("empty").value() == 0);
    CHECK(s.size("none").status() == status::not_found);
  }
}

TEST_CASE("names of any characters, in places of any characters") {
  for (const char* prefix :
       {"/a=b", "/a+b", "/a@b:c,d", "/a%20b", "/a b", "/h\xc3\xa9", "/h%C3%A9", "/100%25", "/x%3Fy%23z"}) {
    CAPTURE(prefix);
    http_source s(quick(server().url("/objects") + prefix));
    CHECK(put_checked(s, "key", bytes_of(prefix), 5) == status::ok);
    CHECK(put_checked(s, "k y=+?#%41\xc3\xa9", bytes_of("odd"), 5) == status::ok);
  }
  CHECK(std::filesystem::exists(server().file("a b/key")));
  CHECK(std::filesystem::exists(server().file("h\xc3\xa9/k y=+?#%41\xc3\xa9")));
  CHECK(std::filesystem::exists(server().file("x?y#z/key")));
  http_source s(quick(server().url("/objects")));
  for (const char* bad : {"", ".", "..", "../b", "a//b", "/a", "a/", "a/./b"})
    CHECK(s.put(bad, {}) == status::invalid_argument);
  for (const char* bad : {"http://127.0.0.1/a?b", "http://127.0.0.1/a#b", "ftp://h/", "no url", "http://h:0/"}) {
    http_source t(quick(bad));
    std::vector<std::byte> buffer(4);
    CHECK(t.put("a", {}) == status::invalid_argument);
    CHECK_FALSE(t.detail().empty());
    CHECK(t.size("a").status() == status::invalid_argument);
    CHECK(read(t, {"a", 0, buffer}, 1) == status::invalid_argument);
    CHECK_FALSE(t.detail().empty());
  }
}

TEST_CASE("what is told about a failure") {
  std::vector<std::byte> buffer(4);
  const auto why = [&](http_options o, status expected) {
    o.retries = 0;
    http_source s(o);
    CHECK(s.put("a", bytes_of("x")) == expected);
    const std::string told(s.detail());
    CHECK(s.size("a").status() != status::ok);
    CHECK_FALSE(s.detail().empty());
    CHECK(read(s, {"a", 0, buffer}, 5) != status::ok);
    CHECK_FALSE(s.detail().empty());
    CHECK(told.find('\n') == told.npos);
    return told;
  };
  CHECK(says(why(quick(server().url("/forbidden")), status::refused), "HTTP 403 these are the words of the store"));
  CHECK(says(why(quick(server().url("/forbidden")), status::refused), "no user and password were given"));
  CHECK(says(why(quick(server().url("/full")), status::no_space), "HTTP 507"));
  CHECK(says(why(quick(server().url("/locked")), status::refused), "HTTP 401 401 Authorization Required"));
  CHECK(says(why(quick("http://127.0.0.1:" + std::to_string(servers::free_port())), status::connection_lost),
             "Connection refused"));
  CHECK(says(why(quick("http://no-such-host.invalid/kv"), status::connection_lost), "resolve host"));
  if (server().has_tls) CHECK(says(why(quick(server().secure("/objects")), status::connection_lost), "certificate"));
  if (server().has_tls)
    CHECK(says(why(quick("https://127.0.0.1:" + std::to_string(server().plain)), status::connection_lost), "SSL"));
  http_source s(quick(server().url("/objects")));
  CHECK(s.size("none").status() == status::not_found);
  CHECK(says(s.detail(), "HTTP 404"));
  REQUIRE(s.put("short", bytes_of("ab")) == status::ok);
  CHECK(s.detail().empty());
  CHECK(read(s, {"short", 0, buffer}, 5) == status::wrong_length);
  CHECK(says(s.detail(), "ends before"));
  CHECK(read(s, {"short", 10, buffer}, 5) == status::wrong_length);
  CHECK(says(s.detail(), "HTTP 416"));
}

TEST_CASE("passwords work whatever they are made of, and are never told") {
  http_options o = quick(server().url("/locked"));
  o.user = "user";
  o.password = password;
  http_source s(o);
  CHECK(put_checked(s, "a", bytes_of("x"), 5) == status::ok);
  const std::string inside = "http://user:" + percent_encode(password) + "@" + server().url("/locked").substr(7);
  http_source in_url(quick(inside));
  CHECK(get(in_url, "a") == "x");
  CHECK_FALSE(says(redacted(inside), password));
  CHECK_FALSE(says(redacted(inside), percent_encode(password)));
  // A server that gives back what it was told.
  o.url = server().url("/echo");
  http_source echo(o);
  CHECK(echo.put("a", {}) == status::refused);
  CHECK(says(echo.detail(), "you are user"));
  CHECK(says(echo.detail(), "Basic ***"));
  const std::string b64 = "dXNlcjpwQHNz";  // how user:p@ss begins
  CHECK_FALSE(says(echo.detail(), b64));
  std::vector<std::string> secrets{password};
  CHECK(detail::one_line_without(secrets, "say\n" + password + "!") == "say ***!");
  CHECK(detail::one_line_without(secrets, std::string(290, 'x') + password).find(password.substr(0, 3)) ==
        std::string::npos);
  CHECK(detail::words_of("<Error><Code>SlowDown</Code><Message>a &lt;b&gt; &amp;lt;</Message></Error>") ==
        "SlowDown: a <b> &lt;");
}

TEST_CASE("connections that rest are kept, however few are in use meanwhile") {
  proxy far(server().plain);
  far.slow(0.02);
  http_source s({.url = "http://127.0.0.1:" + std::to_string(far.port()) + "/objects"});
  std::vector<std::vector<std::byte>> buffers(8, std::vector<std::byte>(1000));
  REQUIRE(s.put("kept", buffers[0]) == status::ok);
  const auto read = [&](std::size_t at_once) {
    for (std::size_t i = 0; i < at_once; ++i) s.submit({"kept", 0, buffers[i]});
    completion done[8];
    for (std::size_t n = 0, more; n < at_once; n += more) REQUIRE((more = s.poll(done, 5)) > 0);
  };
  read(8);
  const int connections = far.connections();
  for (int i = 0; i < 10; ++i) read(1);
  read(8);
  CHECK(far.connections() == connections);
}

int main(int argc, char** argv) { return servers::run_tests(argc, argv, {"nginx", "openssl"}); }
