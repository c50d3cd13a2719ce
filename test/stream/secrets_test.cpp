// SPDX-License-Identifier: Apache-2.0
// Passwords stay inside the commands: everything that put, get, save and resume print is searched for them, with stores
// that let in, that refuse, that do not answer, and with URLs that make no sense.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>
#include <sluice/stream/store/object.hpp>
#include <sluice/stream/store/sources/url.hpp>
#include <stream/servers.hpp>
#include "../../examples/engine/tests/tiny_model.hpp"

#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace {

const std::string tool = SLUICE_BIN "/sluice", engine_command = SLUICE_BIN "/engine",
                  model = SLUICE_MODELS "/smol.gguf";
const std::string data = SLUICE_TEST_DATA;
const std::string password = "p@s5 w/rd%41&#?", wrong = "wr0ng p@ss/%";

std::string quoted(const std::string& word) {
  std::string q = "'";
  for (const char c : word) q += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return q + "'";
}

struct outcome {
  int code;
  std::string text;  // stdout and stderr
};
std::string trusted;  // the file of certificates that the commands trust, where there is one
outcome run(const std::vector<std::string>& words) {
  std::string line;
  for (const std::string& w : words) line += quoted(w) + " ";
  outcome o{-1, ""};
  FILE* p = ::popen(
      ("AWS_SECRET_ACCESS_KEY=" + quoted(password) + " AWS_ACCESS_KEY_ID=AKIAME AWS_SESSION_TOKEN=" + quoted(wrong) +
       (trusted.empty() ? "" : " SSL_CERT_FILE=" + quoted(std::as_const(trusted))) + " timeout 120 " + line + " 2>&1")
          .c_str(),
      "r");
  REQUIRE(p);
  char buffer[4096];
  for (std::size_t n; (n = ::fread(buffer, 1, sizeof buffer, p)) > 0;) o.text.append(buffer, n);
  const int end = ::pclose(p);
  o.code = WIFEXITED(end) ? WEXITSTATUS(end) : -1;
  return o;
}

// Runs a command, looks for secrets in what it says, and returns its exit code.
int quietly(const std::vector<std::string>& words, bool says_something = true) {
  std::string line;
  for (const std::string& w : words) line += w + " ";
  CAPTURE(line);
  const outcome o = run(words);
  CAPTURE(o.text);
  for (const std::string& secret : {password, wrong})
    for (const std::string& form :
         {secret, sluice::stream::percent_encode(secret), secret.substr(0, 5), secret.substr(secret.size() - 5)})
      CHECK_MESSAGE(o.text.find(form) == o.text.npos, form);
  CHECK(o.code >= 0);
  CHECK(o.code != 124);  // the time limit
  if (says_something) CHECK_FALSE(o.text.empty());
  return o.code;
}

std::vector<std::string> operator+(std::vector<std::string> a, const std::vector<std::string>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

struct stores {
  servers::temporary_folder folder;
  int web_port = servers::free_port(), redis_port = servers::free_port();
  servers::server web{(std::ofstream(folder.path + "/users") << "me:{PLAIN}" << password << "\n",
                       servers::nginx_command(folder.path, web_port)),
                      web_port};
  servers::server redis{
      servers::redis_command(folder.path, redis_port,
                             {"--user", "default", "off", "--user", "me", "on", hashed(password), "~*", "+@all"}),
      redis_port};

  // The same with TLS, and an S3 server that knows nobody; each where it is installed.
  int tls_port = servers::free_port(), s3_port = servers::free_port();
  std::unique_ptr<servers::server> tls, s3;
  stores() {
    const std::string& d = folder.path;
    std::vector<std::string> command = servers::redis_command(
        d, 0,
        {"--user", "default", "off", "--user", "me", "on", hashed(password), "~*", "+@all", "--tls-port",
         std::to_string(tls_port), "--tls-cert-file", d + "/server.crt", "--tls-key-file", d + "/server.key",
         "--tls-ca-cert-file", d + "/server.crt", "--tls-auth-clients", "no"});
    if (std::system(("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext "
                     "subjectAltName=DNS:localhost -keyout " +
                     d + "/server.key -out " + d + "/server.crt 2>/dev/null")
                        .c_str()) == 0)
      tls = std::make_unique<servers::server>(command, tls_port);
    std::string moto = servers::find_program("moto_server");
    if (::access(SLUICE_MOTO, X_OK) == 0) moto = SLUICE_MOTO;
    ::setenv("INITIAL_NO_AUTH_ACTION_COUNT", "0", 1);
    if (!moto.empty())
      s3 = std::make_unique<servers::server>(std::vector<std::string>{moto, "-p", std::to_string(s3_port)}, s3_port);
  }

  std::string at_tls(const std::string& secret, const std::string& host = "localhost") const {
    return "rediss://me:" + sluice::stream::percent_encode(secret) + "@" + host + ":" + std::to_string(tls_port) + "/";
  }
  std::string at_web(const std::string& secret, const std::string& place = "/locked") const {
    return "http://me:" + sluice::stream::percent_encode(secret) + "@127.0.0.1:" + std::to_string(web_port) + place;
  }
  std::string at_redis(const std::string& secret) const {
    return "redis://me:" + sluice::stream::percent_encode(secret) + "@127.0.0.1:" + std::to_string(redis_port) + "/";
  }
  // ACLs hold no spaces, but hashes of passwords.
  static std::string hashed(const std::string& secret) {
    return "#" + sluice::stream::to_hex(sluice::sha256().add(std::as_bytes(std::span(secret))).finish());
  }
};

}  // namespace

TEST_CASE("put, get, save and resume print no password") {
  stores s;
  REQUIRE(s.web.up());
  REQUIRE(s.redis.up());
  const std::string scratch = s.folder.path, capture = data + "/smollm2_sample.safetensors",
                    profile = data + "/smollm2.profile";
  REQUIRE(run({tool, "encode", "-p", profile, "--chunk-tokens", "64", capture, "-o", scratch + "/a.slc"}).code == 0);
  const auto put = [&](const std::string& url) {
    return std::vector<std::string>{tool, "put", "--model", "m", "--ids", capture, "--store", url, scratch + "/a.slc"};
  };
  const auto get = [&](const std::string& url) {
    return std::vector<std::string>{tool, "get",   "--model",        "m",  "--ids", capture,           "--store", url,
                                    "-p", profile, "--chunk-tokens", "64", "-o",    scratch + "/b.slc"};
  };
  for (const bool as_json : {false, true}) {
    const std::vector<std::string> extra = as_json ? std::vector<std::string>{"--json"} : std::vector<std::string>{};
    for (const std::string& url : {s.at_web(password), s.at_redis(password)}) {
      CHECK(quietly(put(url) + extra) == 0);
      CHECK(quietly(get(url) + extra) == 0);
    }
    const std::string encoded = sluice::stream::percent_encode(password), nobody = std::to_string(servers::free_port());
    for (const std::string& url :
         {s.at_web(wrong), s.at_redis(wrong), s.at_web(password, "/forbidden"),
          s.at_web(password, "/nowhere?token=" + encoded), s.at_web(password, "/moved#" + encoded),
          "redis://me:" + encoded + "@127.0.0.1:" + nobody, "http://me:" + encoded + "@127.0.0.1:" + nobody + "/kv",
          "redis://me:" + password + "@127.0.0.1:" + nobody, "redis:me:" + password + "@127.0.0.1:" + nobody,
          "gopher://me:" + encoded + "@127.0.0.1", "redis://" + encoded + "@no-such-host.invalid",
          "http://me:" + password + "@[::1/", "s3://me:" + encoded + "@bucket/kv",
          "unix://me:" + encoded + "@/no/such.sock",
          "s3+http://127.0.0.1:" + std::to_string(s.web_port) + "/forbidden/kv"}) {
      CHECK(quietly(put(url) + extra) != 0);
      CHECK(quietly(get(url) + extra) != 0);
    }
  }

  const auto refused = [&](const std::string& url, const std::string& words) {
    CHECK(quietly(get(url)) != 0);
    CHECK(quietly(put(url)) != 0);
    const std::string text = run(put(url)).text;
    CHECK_MESSAGE(text.find(words) != text.npos, text);
  };
#ifdef SLUICE_WITH_TLS
  if (s.tls && s.tls->up()) {
    refused(s.at_tls(password), "certificate is not trusted");
    trusted = scratch + "/server.crt";
    CHECK(quietly(put(s.at_tls(password))) == 0);
    CHECK(quietly(get(s.at_tls(password))) == 0);
    refused(s.at_tls(wrong), "WRONGPASS");
    refused(s.at_tls(password, "127.0.0.1"), "mismatch");
    trusted.clear();
  } else {
    MESSAGE("no redis-server with TLS, or no openssl");
  }
#endif
  if (s.s3)
    refused("s3+http://127.0.0.1:" + std::to_string(s.s3_port) + "/bucket/kv", "HTTP 403 Invalid");
  else
    MESSAGE("no moto_server");

  if (::access(engine_command.c_str(), X_OK) != 0) return;
  std::ofstream(scratch + "/text") << "One two three four five six seven eight nine ten eleven twelve.";
  std::string small = scratch + "/tiny.gguf";  // where the real model is not
  std::ofstream(small, std::ios::binary) << tiny::make_gguf({.arch = "llama", .layers = 2, .seed = 8});
  if (::access(model.c_str(), R_OK) == 0) small = model;
  for (const std::string& url : {s.at_web(password), s.at_redis(password), s.at_web(wrong), s.at_redis(wrong),
                                 s.at_web(password, "/forbidden"), "redis:me:" + password + "@h:1"}) {
    const std::vector<std::string> where{small, "--prompt-file", scratch + "/text", "--store", url};
    quietly(std::vector<std::string>{engine_command, "save"} + where, false);
    for (const char* flag : {"--level=3", "--json"})
      quietly(std::vector<std::string>{engine_command, "resume"} + where +
                  std::vector<std::string>{"--question", "Why?", "--tokens", "2", flag},
              false);
  }
}

int main(int argc, char** argv) {
  if (servers::find_program("redis-server").empty() || servers::find_program("nginx").empty() ||
      ::access(tool.c_str(), X_OK) != 0) {
    std::puts("skipped: redis-server, nginx or the sluice command is not there");
    return 77;
  }
  doctest::Context context(argc, argv);
  return context.run();
}
