// SPDX-License-Identifier: Apache-2.0
// Requests to S3 are signed as AWS asks (Signature Version 4): what arrives is signed again here and compared.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>
#include <sluice/stream/object.hpp>
#include <sluice/stream/source/http.hpp>
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

// Takes one connection, answers every request on it with the same four bytes and keeps what was asked.
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
  const std::size_t at = s.find(before);
  return at == s.npos ? "" : s.substr(at + before.size(), s.find(end, at) - at - before.size());
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
  listener server;
  http_options o;
  o.url = "http://127.0.0.1:" + std::to_string(server.port) + "/bucket/prefix";
  o.sigv4 = "aws:amz:eu-central-1:s3";
  o.user = "AKIDEXAMPLE";
  o.password = "a secret that nobody has";
  {
    http_source s(o);
    std::vector<std::byte> buffer(4);
    REQUIRE(read(s, {"0a1b", 4, buffer}, 5) == status::ok);
    CHECK(!std::memcmp(buffer.data(), "abcd", 4));
    const std::string text = "what is put";
    REQUIRE(s.put("0a1b", bytes_of(text)) == status::ok);
    REQUIRE(s.put("empty", {}) == status::ok);
  }
  const std::vector<request> seen = server.seen();
  REQUIRE(seen.size() == 3);
  CHECK(seen[0].method == "GET");
  CHECK(seen[0].headers.at("range") == "bytes=4-7");
  CHECK(seen[1].method == "PUT");
  CHECK(seen[1].body == "what is put");
  for (const request& r : seen) {
    CAPTURE(r.method);
    CHECK(r.path.starts_with("/bucket/prefix/"));
    const std::string& line = r.headers.at("authorization");
    CHECK(line.starts_with("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"));
    CHECK(line.find("/eu-central-1/s3/aws4_request") != line.npos);
    CHECK(line.find("host") != line.npos);
    REQUIRE(r.headers.contains("x-amz-content-sha256"));  // S3 refuses requests without
    CHECK(r.headers.at("x-amz-content-sha256") == hex_of(r.body));
    CHECK(between(line + "\n", "Signature=", '\n') == signature_of(r, o.password, "eu-central-1"));
  }
}
