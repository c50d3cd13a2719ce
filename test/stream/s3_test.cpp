// SPDX-License-Identifier: Apache-2.0
// Requests to S3 are signed as AWS asks (Signature Version 4): what arrives is signed again here and compared.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sluice/stream/store/object.hpp>
#include <sluice/stream/store/sources/http.hpp>
#include <stream/proxy.hpp>
#include <stream/rivals.hpp>
#include <stream/servers.hpp>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;

struct request {
  std::string method, path;
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;
};

// Answers every request with the same four bytes, or sends it from /moved/ to another place, and keeps what was asked.
class listener {
 public:
  listener() : socket_(servers::listen_somewhere(port)), thread_([this] { run(); }) {}
  ~listener() {
    ::shutdown(socket_, SHUT_RDWR);
    thread_.join();
    ::close(socket_);
  }
  std::vector<request> seen() {
    const std::lock_guard lock(mutex_);
    return requests_;
  }
  int port = 0;

 private:
  void run() {
    for (int c; (c = ::accept(socket_, nullptr, nullptr)) >= 0; ::close(c)) {
      std::string in;
      char buffer[4096];
      for (ssize_t n; (n = ::recv(c, buffer, sizeof buffer, 0)) > 0;) {
        in.append(buffer, std::size_t(n));
        while (answer(c, in)) continue;
      }
    }
  }
  bool answer(int c, std::string& in) {
    const std::size_t end = in.find("\r\n\r\n");
    if (end == in.npos) return false;
    request r;
    std::size_t at = in.find("\r\n");
    const std::string line = in.substr(0, at);
    r.method = line.substr(0, line.find(' '));
    r.path = line.substr(r.method.size() + 1, line.rfind(' ') - r.method.size() - 1);
    while (at < end) {
      const std::size_t next = in.find("\r\n", at + 2);
      const std::string header = in.substr(at + 2, next - at - 2);
      const std::size_t colon = header.find(':');
      std::string name = header.substr(0, colon);
      std::transform(name.begin(), name.end(), name.begin(), [](unsigned char x) { return char(std::tolower(x)); });
      r.headers[name] = header.substr(header.find_first_not_of(' ', colon + 1));
      at = next;
    }
    const auto length = r.headers.find("content-length");
    const std::size_t body = length == r.headers.end() ? 0 : std::stoul(length->second);
    if (in.size() < end + 4 + body) return false;
    r.body = in.substr(end + 4, body);
    in.erase(0, end + 4 + body);
    std::string out =
        r.method == "GET"
            ? "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 4-7/100\r\nContent-Length: 4\r\n\r\nabcd"
            : "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    if (r.path.find("/moved/") != r.path.npos)
      out = "HTTP/1.1 307 Temporary Redirect\r\nLocation: /bucket/new=place/" + r.path.substr(r.path.rfind('/') + 1) +
            "\r\nContent-Length: 0\r\n\r\n";
    {
      const std::lock_guard lock(mutex_);
      requests_.push_back(r);
    }
    return ::send(c, out.data(), out.size(), MSG_NOSIGNAL) == ssize_t(out.size());
  }

  int socket_;
  std::mutex mutex_;
  std::vector<request> requests_;
  std::thread thread_;
};

std::span<const std::byte> bytes_of(const std::string& s) { return std::as_bytes(std::span(s.data(), s.size())); }
std::string hex_of(const std::string& s) { return to_hex(sha256().add(bytes_of(s)).finish()); }
digest hmac(std::span<const std::byte> key, const std::string& text) {  // RFC 2104; keys of at most a block
  std::vector<std::byte> inner(64, std::byte{0x36}), outer(64, std::byte{0x5c});
  for (std::size_t i = 0; i < key.size(); ++i) inner[i] ^= key[i], outer[i] ^= key[i];
  return sha256().add(outer).add(sha256().add(inner).add(bytes_of(text)).finish()).finish();
}
std::string between(const std::string& s, const std::string& before, char end) {
  const std::size_t at = s.find(before), begin = at + before.size();
  return at == s.npos ? "" : s.substr(begin, s.find(end, begin) - begin);
}

std::string signature_of(const request& r, const std::string& secret, const std::string& region) {
  const std::string names = between(r.headers.at("authorization"), "SignedHeaders=", ',');
  std::string canonical = r.method + "\n" + r.path + "\n\n";
  for (std::size_t at = 0; at < names.size();) {
    const std::size_t end = std::min(names.find(';', at), names.size());
    const std::string name = names.substr(at, end - at);
    canonical += name + ":" + r.headers.at(name) + "\n";
    at = end + 1;
  }
  const auto declared = r.headers.find("x-amz-content-sha256");
  canonical += "\n" + names + "\n" + (declared == r.headers.end() ? hex_of(r.body) : declared->second);
  const std::string time = r.headers.at("x-amz-date"), day = time.substr(0, 8),
                    scope = day + "/" + region + "/s3/aws4_request";
  const std::string text = "AWS4-HMAC-SHA256\n" + time + "\n" + scope + "\n" + hex_of(canonical);
  digest key = hmac(bytes_of("AWS4" + secret), day);
  for (const std::string& part : {region, std::string("s3"), std::string("aws4_request")}) key = hmac(key, part);
  return to_hex(hmac(key, text));
}

}  // namespace

TEST_CASE("reads and puts carry a right signature, and the body's hash") {
  for (const std::string token : {"", "a/session+token=="}) {
    CAPTURE(token);
    listener server;
    http_options o;
    // What S3 calls the canonical URI is the path with everything encoded once: so it has to arrive.
    o.url = "http://127.0.0.1:" + std::to_string(server.port) + "/bucket/pre fix=+@:,/h\xc3\xa9%20%2B";
    const std::string path = "/bucket/pre%20fix%3D%2B%40%3A%2C/h%C3%A9%20%2B/";
    o.s3 = s3_access{"eu-central-1", "AKIDEXAMPLE", "a secret that nobody has", token};
    {
      http_source s(o);
      std::vector<std::byte> buffer(4);
      REQUIRE(read(s, {"0a1b", 4, buffer}, 5) == status::ok);
      CHECK(!std::memcmp(buffer.data(), "abcd", 4));
      const std::string text = "what is put";
      REQUIRE(s.put("0a1b", bytes_of(text)) == status::ok);
      REQUIRE(s.put("empty", {}) == status::ok);
      CHECK(s.size("0a1b").value() == 0);
    }
    const std::vector<request> seen = server.seen();
    REQUIRE(seen.size() == 4);
    CHECK(seen[0].method == "GET");
    CHECK(seen[0].headers.at("range") == "bytes=4-7");
    CHECK(seen[1].method == "PUT");
    CHECK(seen[1].body == "what is put");
    CHECK(seen[3].method == "HEAD");
    for (const request& r : seen) {
      CAPTURE(r.method);
      CHECK(r.path == path + (r.method == "PUT" && r.body.empty() ? "empty" : "0a1b"));
      const std::string& line = r.headers.at("authorization");
      CHECK(line.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"));
      CHECK(line.find("/eu-central-1/s3/aws4_request") != line.npos);
      const std::string names = between(line, "SignedHeaders=", ',');
      CHECK(names ==
            std::string("host;x-amz-content-sha256;x-amz-date") + (token.empty() ? "" : ";x-amz-security-token"));
      CHECK(r.headers.contains("x-amz-security-token") == !token.empty());
      if (!token.empty()) CHECK(r.headers.at("x-amz-security-token") == token);
      REQUIRE(r.headers.contains("x-amz-content-sha256"));  // S3 refuses requests without
      CHECK(r.headers.at("x-amz-content-sha256") == hex_of(r.body));
      CHECK(between(line + "\n", "Signature=", '\n') == signature_of(r, o.s3->secret_key, "eu-central-1"));
    }
  }
}

TEST_CASE("a redirect is signed for where it leads") {
  listener server;
  http_options o;
  o.url = "http://127.0.0.1:" + std::to_string(server.port) + "/bucket/moved";
  o.s3 = s3_access{"eu-central-1", "AKIDEXAMPLE", "a secret that nobody has"};
  http_source s(o);
  REQUIRE(s.put("a", bytes_of("what is put")) == status::ok);
  const std::vector<request> seen = server.seen();
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].path == "/bucket/moved/a");
  CHECK(seen[1].path == "/bucket/new%3Dplace/a");
  for (const request& r : seen) {
    CHECK(r.method == "PUT");
    CHECK(r.body == "what is put");
    CHECK(between(r.headers.at("authorization") + "\n", "Signature=", '\n') ==
          signature_of(r, o.s3->secret_key, "eu-central-1"));
  }
}

TEST_CASE("without keys nothing is signed") {
  listener server;
  http_options o;
  o.url = "http://127.0.0.1:" + std::to_string(server.port) + "/public";
  o.s3 = s3_access{};
  http_source s(o);
  CHECK(s.put("a", bytes_of("x")) == status::ok);
  REQUIRE(server.seen().size() == 1);
  CHECK_FALSE(server.seen()[0].headers.contains("authorization"));
}

namespace {

// moto, an S3 server that checks who asks and how it is signed (with Amazon's own code, botocore).
struct moto {
  int port = servers::free_port();
  servers::server server{{(::setenv("INITIAL_NO_AUTH_ACTION_COUNT", "100", 1), program()), "-p", std::to_string(port)},
                         port};
  s3_access user, role;  // lasting keys, and temporary ones

  static std::string program() {
#ifdef SLUICE_MOTO
    if (::access(SLUICE_MOTO, X_OK) == 0) return SLUICE_MOTO;
#endif
    return servers::find_program("moto_server");
  }

  moto() {
    REQUIRE(server.up());
    const std::string all =
        "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Action"
        "%22%3A%22s3%3A%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";
    const std::string trust = "%7B%22Statement%22%3A%5B%5D%7D";
    const auto iam = [&](const std::string& what) { return ask("iam", "Version=2010-05-08&Action=" + what); };
    iam("CreateUser&UserName=u");
    user = keys(iam("CreateAccessKey&UserName=u"));
    iam("PutUserPolicy&UserName=u&PolicyName=p&PolicyDocument=" + all);
    const std::string arn = between(iam("CreateRole&RoleName=r&AssumeRolePolicyDocument=" + trust), "<Arn>", '<');
    iam("PutRolePolicy&RoleName=r&PolicyName=p&PolicyDocument=" + all);
    role = keys(ask("sts", "Version=2011-06-15&Action=AssumeRole&RoleSessionName=s&RoleArn=" + arn));
    post("PUT", "/bucket", "s3", "");
    check(true);
    REQUIRE_FALSE(user.secret_key.empty());
    REQUIRE_FALSE(role.session_token.empty());
  }
  void check(bool every_request) {
    REQUIRE(post("POST", "/moto-api/reset-auth", "s3", every_request ? "0" : "1000000").find(" 200 ") < 20);
  }
  http_options at(const std::string& path, const s3_access& who) const {
    http_options o;
    o.url = "http://127.0.0.1:" + std::to_string(port) + path;
    o.s3 = who;
    o.retries = 0;
    return o;
  }

 private:
  static s3_access keys(const std::string& answer) {
    return {"us-east-1", between(answer, "<AccessKeyId>", '<'), between(answer, "<SecretAccessKey>", '<'),
            between(answer, "<SessionToken>", '<')};
  }
  std::string ask(const std::string& service, const std::string& body) { return post("POST", "/", service, body); }
  std::string post(const std::string& method, const std::string& path, const std::string& service,
                   const std::string& body) {
    const int s = servers::connect_to(port);
    const std::string text = method + " " + path + " HTTP/1.0\r\nHost: 127.0.0.1:" + std::to_string(port) +
                             "\r\nAuthorization: AWS4-HMAC-SHA256 Credential=x/20200101/us-east-1/" + service +
                             "/aws4_request, SignedHeaders=host, Signature=x\r\nContent-Type: " +
                             (path == "/" ? "application/x-www-form-urlencoded" : "text/plain") +
                             "\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
    REQUIRE(::send(s, text.data(), text.size(), MSG_NOSIGNAL) == ssize_t(text.size()));
    std::string answer;
    char buffer[4096];
    for (ssize_t n; (n = ::recv(s, buffer, sizeof buffer, 0)) > 0;) answer.append(buffer, std::size_t(n));
    ::close(s);
    return answer;
  }
};

bool says(std::string_view text, std::string_view words) { return text.find(words) != text.npos; }

}  // namespace

TEST_CASE("an S3 server that checks signatures") {
  if (moto::program().empty()) {
    MESSAGE("skipped: moto_server is not installed");
    return;
  }
  moto m;
  const std::string text = "some bytes of a chunk";
  const auto keeps = [&](const s3_access& who, const std::string& prefix) {
    CAPTURE(prefix);
    http_source s(m.at("/bucket" + prefix, who));
    std::string why;
    const status put = put_checked(s, "0a1b", bytes_of(text), 5, &why);
    CHECK_MESSAGE(put == status::ok, why);
    CHECK(s.size("0a1b").value() == text.size());
    std::vector<std::byte> part(5);
    CHECK(read(s, {"0a1b", 5, part}, 5) == status::ok);
    CHECK(!std::memcmp(part.data(), "bytes", 5));
    CHECK(s.size("none").status() == status::not_found);
  };
  for (const s3_access* who : {&m.user, &m.role})
    for (const char* prefix : {"", "/kv", "/kv/a/b-c_d.e~f", "/a b", "/a%20b"}) keeps(*who, prefix);
  // It unpacks further characters before it checks, so that boto3's requests fail as well: here it only keeps them.
  m.check(false);
  for (const char* prefix :
       {"/model=a/b", "/a+b", "/a@b:c,d", "/h\xc3\xa9", "/!$&'()*;~_-.", "/100%25", "/x%3Fy%23z", "/[v]|{w}^`\"<>\\"})
    keeps(m.user, prefix);
  http_source encoded(m.at("/bucket/%6dodel%3Da/b", m.user)), decoded(m.at("/bucket/h%C3%A9", m.user));
  CHECK(encoded.size("0a1b").value() == text.size());
  CHECK(decoded.size("0a1b").value() == text.size());
  m.check(true);

  const auto fails = [&](const s3_access& who, const char* path, status expected) {
    http_source s(m.at(path, who));
    CHECK(s.put("a", bytes_of(text)) == expected);
    const std::string why(s.detail());
    CHECK_FALSE(says(why, who.secret_key));
    std::vector<std::byte> part(5);
    CHECK(s.size("a").status() == expected);
    CHECK(says(why, s.detail()));  // words, though a HEAD has none; of what is missing only the code
    CHECK((expected == status::not_found || s.detail() == why));
    CHECK(read(s, {"a", 0, part}, 5) == expected);
    CHECK(s.detail() == why);
    return why;
  };
  s3_access wrong = m.user;
  wrong.secret_key = "not the right one";
  CHECK(says(fails(wrong, "/bucket/kv", status::refused), "HTTP 403 SignatureDoesNotMatch: "));
  wrong = m.user;
  wrong.access_key = "AKIANOBODY";
  CHECK(says(fails(wrong, "/bucket/kv", status::refused), "HTTP 403 InvalidAccessKeyId: "));
  http_source nobody(m.at("/bucket/kv", s3_access{}));  // S3 answers 403; moto 5.2 trips over what is not signed
  CHECK(nobody.put("a", bytes_of(text)) == status::refused);
  CHECK((says(nobody.detail(), "HTTP 403 ") || says(nobody.detail(), "HTTP 500 ")));
  CHECK(http_source(m.at("/bucket/kv", m.user)).size("a").status() == status::not_found);
  wrong = m.role;
  wrong.session_token = "expired";
  CHECK(says(fails(wrong, "/bucket/kv", status::refused), "InvalidToken: "));
  CHECK_FALSE(says(fails(wrong, "/bucket/kv", status::refused), "expired"));
  CHECK(says(fails(m.user, "/no-bucket/kv", status::not_found), "NoSuchBucket: "));

  // It answers some of two puts at once with HTTP 500.
  http_options persistent = m.at("/bucket/rivals", m.user);
  persistent.retries = 5;
  http_source one(persistent);
  persistent.s3 = m.role;
  http_source other(persistent);
  rivals(one, other, "0a1b", 3);

  // A bucket that is part of the host; curl knows that *.localhost is here.
  http_options o = m.at("", m.user);
  o.url = "http://bucket.s3.localhost:" + std::to_string(m.port) + "/virtual";
  http_source in_host(o), in_path(m.at("/bucket/virtual", m.user));
  std::string why;
  const status put = put_checked(in_host, "0a1b", bytes_of(text), 5, &why);
  CHECK_MESSAGE(put == status::ok, why);
  CHECK(in_path.size("0a1b").value() == text.size());
}

TEST_CASE("an S3 server that dies in the middle of a put or a read") {
  if (moto::program().empty()) {
    MESSAGE("skipped: moto_server is not installed");
    return;
  }
  for (const bool reading : {false, true}) {
    CAPTURE(reading);
    moto m;
    const auto value = noise(4'000'000, 5);
    REQUIRE(http_source(m.at("/bucket", m.user)).put("a", value) == status::ok);
    proxy p(m.port);
    p.throttle(2e6);  // two seconds for all of it
    http_options o = m.at("/bucket", m.user);
    o.url = "http://127.0.0.1:" + std::to_string(p.port()) + "/bucket";
    o.stall_seconds = 2;
    http_source s(o);
    std::jthread dies([&] {
      ::usleep(700'000);
      m.server.signal(SIGKILL);
      p.set(proxy::after(0, proxy::verdict::reset));
      p.set_upward(proxy::after(0, proxy::verdict::reset));
    });
    std::vector<std::byte> buffer(value.size());
    const status state = reading ? read(s, {"a", 0, buffer}, 20) : s.put("b", value);
    dies.join();
    CAPTURE(std::string(s.detail()));
    CHECK(state == status::connection_lost);
    CHECK_FALSE(s.detail().empty());
    CHECK_FALSE(says(s.detail(), m.user.secret_key));
    CHECK(s.size("a").status() == status::connection_lost);
    CHECK_FALSE(s.detail().empty());
  }
}
