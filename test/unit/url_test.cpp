// SPDX-License-Identifier: Apache-2.0
// URLs of stores: what is taken, what is refused and in which words, and that secrets never come out again.
#include <doctest/doctest.h>
#include <sluice/stream/store/sources/memory.hpp>
#include <sluice/stream/store/sources/s3.hpp>
#include <sluice/stream/store/sources/url.hpp>

#include <map>
#include <string>
#include <vector>

namespace {

using namespace sluice;
using namespace sluice::stream;

store_url store(const char* text) {
  CAPTURE(text);
  std::string why;
  const result<store_url> s = parse_store_url(text, &why);
  CHECK_MESSAGE(bool(s), text << ": " << why);
  return s ? *s : store_url{};
}
std::string refusal(std::string_view text) {
  std::string why;
  CHECK(parse_store_url(text, &why).status() == status::invalid_argument);
  return why;
}
bool says(const std::string& text, std::string_view words) { return text.find(words) != text.npos; }

}  // namespace

TEST_CASE("the parts of a URL (RFC 3986)") {
  const url u = parse_url("HTTP://us%65r:p%40ss%2Fw:rd@EXAMPLE.com:8080/a%20b/c?q=1#f").value();
  CHECK(u.scheme == "http");
  CHECK(u.user == "user");
  CHECK(u.password == "p@ss/w:rd");
  CHECK(u.host == "example.com");
  CHECK(u.port == 8080);
  CHECK(u.path == "/a%20b/c");
  CHECK(u.query == "q=1");
  CHECK(u.fragment == "f");
  CHECK(parse_url("http://[2001:DB8::1]:80/").value().host == "2001:db8::1");
  CHECK(parse_url("http://a@b:c@d").value().host == "d");  // the last @ counts
  CHECK(parse_url("http://h:/x").value().port == 0);
  CHECK(parse_url("file:/a").value().path == "/a");
  for (const char* bad : {"",
                          "no-scheme",
                          ":x",
                          "1a:b",
                          "http://h:0",
                          "http://h:65536",
                          "http://h:99999999999999999999",
                          "http://h:8o",
                          "http://[::1",
                          "http://[::g]/",
                          "http://[::1]x",
                          "http://::1/",
                          "http://h/%4",
                          "http://h/%zz",
                          "http://h/%00",
                          "http://u:%@h",
                          "http://h\n",
                          "http://h%0a/",
                          "http://ho st/",
                          "http://h\xc3\xa9/"}) {
    CAPTURE(bad);
    std::string why;
    CHECK(parse_url(bad, &why).status() == status::parse_error);
    CHECK_FALSE(why.empty());
  }
  CHECK(percent_encode("a b/\xc3\xa9+%", "/") == "a%20b/%C3%A9%2B%25");
  CHECK(percent_decode("a%20b%c3%A9+").value() == "a b\xc3\xa9+");
}

TEST_CASE("folders are what does not look like a URL") {
  for (const char* text : {"kv", "/a/b", "./redis:host:1", "a b?#%", "dir/x:y", "../kv@2", "h\xc3\xa9"}) {
    CHECK(store(text).kind == store_kind::folder);
    CHECK(store(text).folder == text);
    CHECK(store(text).printed == text);
  }
  CHECK(store("file:///a%20b/c").folder == "/a b/c");
  CHECK(store("file://localhost/a").folder == "/a");
  CHECK(store("file:/a").folder == "/a");
  CHECK(says(refusal("file://kv/a"), "file: names no host"));
  CHECK(says(refusal("file:kv"), "absolute"));
  CHECK(says(refusal("file:///a?b"), "query"));
  CHECK(says(refusal(""), "empty"));
  // Things that only look like URLs, and would have become folders.
  for (const char* text : {"redis:localhost:6379", "localhost:6379", "127.0.0.1:6379", "redis:/localhost", "http:/h/a",
                           "s3:bucket", "ftp://h/a", "[::1]:6379", "user:pw@host", "gs://bucket"}) {
    CAPTURE(text);
    CHECK(says(refusal(text), "a store is DIR |"));
  }
  CHECK(says(refusal("redis:h:1"), "// is missing"));
  CHECK(says(refusal("gs://b"), "\"gs:\" is no kind of store"));
}

TEST_CASE("Redis: what redis-cli, redis-py and Lettuce take") {
  store_url s = store("redis://");
  CHECK((s.kind == store_kind::redis && s.host == "127.0.0.1" && s.port == 6379 && s.database == 0 && !s.tls));
  s = store("redis://al%40ice:p%3A%2F%40%20%25@h.example:7000/3");
  CHECK(s.user == "al@ice");
  CHECK(s.password == "p:/@ %");
  CHECK((s.host == "h.example" && s.port == 7000 && s.database == 3));
  s = store("redis://:secret@[::1]/");
  CHECK((s.user.empty() && s.password == "secret" && s.host == "::1" && s.port == 6379 && s.database == 0));
  s = store("rediss://token@h");
  CHECK((s.user.empty() && s.password == "token" && s.tls));
  CHECK(s.printed == "rediss://***@h");
  CHECK(store("redis://h?db=5").database == 5);
  CHECK(store("redis://h/?database=5").database == 5);
  for (const char* text : {"unix:///run/redis%20a.sock?db=2", "redis+unix:///run/redis%20a.sock?db=2",
                           "redis-socket://user:pw@/run/redis%20a.sock?database=2"}) {
    s = store(text);
    CHECK((s.kind == store_kind::redis && s.unix_socket == "/run/redis a.sock" && s.host.empty() && s.database == 2));
  }
  CHECK((s.user == "user" && s.password == "pw"));
  CHECK(says(refusal("redis://h/x"), "database"));
  CHECK(says(refusal("redis://h/99999999999"), "database"));
  CHECK(says(refusal("redis://h/1?db=2"), "twice"));
  CHECK(says(refusal("redis://h?db="), "database"));
  CHECK(says(refusal("redis://h?password=hidden"), "?db="));
  CHECK_FALSE(says(refusal("redis://h?password=hidden"), "hidden"));
  CHECK(says(refusal("redis://h#f"), "fragment"));
  CHECK(says(refusal("redis://h:port"), "port"));
  CHECK(says(refusal("redis://::1:6379"), "IPv6"));
  CHECK(says(refusal("unix://host/a.sock"), "no host"));
  CHECK(says(refusal("unix://"), "path"));
}

TEST_CASE("HTTP and S3") {
  store_url s = store("https://user:p%40@h.example/a/b%2Fc//");
  CHECK((s.kind == store_kind::http && s.tls && s.port == 443 && s.path == "/a/b%2Fc" && s.password == "p@"));
  CHECK(address_of(s, {}).value() == "https://h.example/a/b%2Fc");
  CHECK(address_of(store("http://[::1]:8080/kv"), {}).value() == "http://[::1]:8080/kv");
  CHECK(address_of(store("s3+http://127.0.0.1:9000/b/p q"), {}).value() == "http://127.0.0.1:9000/b/p q");
  CHECK(store("s3+https://h/b").kind == store_kind::s3);

  s3_access access;
  access.region = "eu-central-1";
  CHECK(address_of(store("s3://my-bucket/p/q/"), access).value() ==
        "https://my-bucket.s3.eu-central-1.amazonaws.com/p/q");
  CHECK(address_of(store("s3://my.bucket"), access).value() == "https://s3.eu-central-1.amazonaws.com/my.bucket");
  CHECK(address_of(store("s3://My_Bucket/p"), access).value() == "https://s3.eu-central-1.amazonaws.com/My_Bucket/p");
  access.region = "cn-north-1";
  CHECK(address_of(store("s3://bucket/p"), access).value() == "https://bucket.s3.cn-north-1.amazonaws.com.cn/p");
  access.endpoint = "http://localhost:9000/";
  CHECK(address_of(store("s3://bucket/p"), access).value() == "http://localhost:9000/bucket/p");
  for (const char* bad : {"localhost:9000", "ftp://h", "http://h?x", "http://u:hidden@h"}) {
    access.endpoint = bad;
    std::string why;
    CHECK_FALSE(address_of(store("s3://bucket/p"), access, &why));
    CHECK(says(why, "AWS_ENDPOINT_URL"));
    CHECK_FALSE(says(why, "hidden"));
  }
  CHECK(says(refusal("http://h/a?versionId=1"), "query"));
  CHECK(says(refusal("s3://b/a?x"), "query"));
  CHECK(says(refusal("s3://b/a#x"), "fragment"));
  CHECK(says(refusal("s3://"), "bucket is missing"));
  CHECK(says(refusal("s3+http://h/"), "bucket is missing"));
  CHECK(says(refusal("http:///a"), "host is missing"));
  CHECK(says(refusal("http://h/a/../b"), ".."));
  CHECK(says(refusal("http://h/%2e/b"), ".."));
  CHECK(says(refusal("s3://key:hidden@b/p"), "AWS_ACCESS_KEY_ID"));
  CHECK(says(refusal("s3://b:80/p"), "AWS_ENDPOINT_URL"));
  CHECK(says(refusal("http://a%3Ab:c@h/"), "colon"));
}

TEST_CASE("secrets are not printed, whatever characters they are made of") {
  for (const std::string secret :
       {"hunter2", "p@ss", "p:ss:", "p%40ss%2F", "a b", "p\xc3\xa4ss", "'\"&;<", "p+=,", "100%25"})
    for (const std::string head : {"redis://:", "rediss://user:", "redis+unix://u:", "http://user:", "redis://",
                                   "http://", "redis:user:", "gs://u:", "s3://u:"}) {
      const std::string text = head + secret + "@/run/sock";
      CAPTURE(text);
      std::string why;
      const result<store_url> s = parse_store_url(text, &why);
      CHECK_FALSE(says(why, secret));
      CHECK_FALSE(says(redacted(text), secret));
      if (s) CHECK_FALSE(says(s->printed, secret));
    }
  // Characters that should have been encoded make no URL: still nothing of the password is told.
  for (const std::string text :
       {"redis://:pq/zz@h", "redis://12/pq/zz@h", "redis://u:pq@zz/zz@h", "redis://u:pq?zz@h", "redis://u:pq#zz@h",
        "redis://:pq%zz@h", "http://u:pq\nzz@h", "redis://u:pq/zz@h?pass=zz#pq"}) {
    CAPTURE(text);
    CHECK_FALSE(says(refusal(text), "zz"));
    CHECK_FALSE(says(redacted(text), "zz"));
    CHECK_FALSE(says(redacted(text), "pq"));
  }
  CHECK(redacted("http://h/a?X-Amz-Signature=abc") == "http://h/a?***");
  CHECK(redacted("redis://user:pw@[::1]:7/3") == "redis://user:***@[::1]:7/3");
  CHECK(redacted("http://h/a@b") == "http://h/a@b");
}

TEST_CASE("S3: the published examples of signed requests") {
  // "Authenticating Requests: Using the Authorization Header", Amazon S3 API reference.
  const s3_access access{"us-east-1", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"};
  const std::string empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
  std::map<std::string, std::string> headers{{"host", "examplebucket.s3.amazonaws.com"},
                                             {"range", "bytes=0-9"},
                                             {"x-amz-content-sha256", empty},
                                             {"x-amz-date", "20130524T000000Z"}};
  CHECK(s3_authorization(access, "GET", "/test.txt", headers) ==
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41");
  headers = {{"date", "Fri, 24 May 2013 00:00:00 GMT"},
             {"host", "examplebucket.s3.amazonaws.com"},
             {"x-amz-content-sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"},
             {"x-amz-date", "20130524T000000Z"},
             {"x-amz-storage-class", "REDUCED_REDUNDANCY"}};
  CHECK(says(s3_authorization(access, "PUT", s3_path("/test$file.text").value(), headers),
             "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"));
  CHECK(s3_path("/a%3Db=c/d+e/%C3%A9\xc3\xa9/f g").value() == "/a%3Db%3Dc/d%2Be/%C3%A9%C3%A9/f%20g");
}

TEST_CASE("a put is believed when it is read back") {
  struct liar : memory_source {
    int how = 0;
    status put(std::string_view key, std::span<const std::byte> bytes) {
      std::vector<std::byte> b(bytes.begin(), bytes.end());
      if (how == 1) b.clear();
      if (how == 2) b[3] ^= std::byte{1};
      if (how == 3) return status::ok;
      return memory_source::put(key, b);
    }
  } s;
  const std::vector<std::byte> bytes(100, std::byte{7});
  std::string why;
  CHECK(put_checked(s, "a", bytes, 1) == status::ok);
  CHECK(put_checked(s, "none", {}, 1) == status::ok);
  s.how = 1;
  CHECK(put_checked(s, "b", bytes, 1, &why) == status::wrong_length);
  CHECK(why == "100 bytes were put and 0 are there");
  s.how = 2;
  CHECK(put_checked(s, "c", bytes, 1, &why) == status::not_kept);
  CHECK(says(why, "other bytes"));
  s.how = 3;
  CHECK(put_checked(s, "d", bytes, 1, &why) == status::not_kept);
  CHECK(says(why, "no such object"));
}
