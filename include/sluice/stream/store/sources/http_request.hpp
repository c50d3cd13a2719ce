// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/object.hpp>
#include <sluice/stream/store/source.hpp>
#include <sluice/stream/store/sources/http_answer.hpp>
#include <sluice/stream/store/sources/s3.hpp>
#include <sluice/stream/store/sources/url.hpp>

#include <curl/curl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <ctime>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

// One request to a web server, from its options to the bytes of its answer. Who is asked when, and what is tried again, is
// http.hpp's.

namespace sluice::stream {

/// A web server or an S3 bucket. Objects are at `url` + "/" + key.
struct http_options {
  std::string url;                   ///< http[s]://[USER:PASSWORD@]HOST[:PORT][/PATH]; no query, no fragment
  std::optional<s3_access> s3 = {};  ///< signs every request, and encodes paths as S3 does
  std::string user = {};             ///< of basic authentication; never sent to another host
  std::string password = {};         ///< of basic authentication
  std::string ca_file = {};          ///< certificates (PEM) to trust instead of the system's
  int connections = 8;               ///< to the server at once; further reads wait
  double connect_seconds = 5;        ///< until a connection stands, TLS included
  double stall_seconds = 10;         ///< without a byte for so long, a request starts again (a read where it stopped)
  double total_seconds = 0;          ///< of one request with all its tries; 0 = as long as bytes flow
  int retries = 4;                   ///< of one request, in a row without a byte of progress
  double retry_budget = 32;          ///< of all requests together; one that ends well gives a tenth back
  double backoff_seconds = 0.1;      ///< before the first retry; doubles, and up to half of it is left out at random
  double longest_backoff_seconds = 20;  ///< also where the server asks for more (Retry-After)
  int redirects = 3;              ///< that one request follows: 301, 302, 307 and 308 with method and body, on its host
  bool follow_elsewhere = false;  ///< also to other hosts, other ports and from https to http, without credentials
};

}  // namespace sluice::stream

namespace sluice::detail {

enum class http_verb { get, head, probe, put };  // probe: a GET of one byte that is asked for the object's size

struct http_place {
  bool tls = false;
  std::string host;
  int port = 0;
  std::string path = {};  // as it is sent, with a query after a redirect
  bool same_server(const http_place& o) const { return host == o.host && port == o.port && tls == o.tls; }
};
inline http_place place_of(const stream::url& u) {
  const bool tls = u.scheme == "https";
  return {tls, u.host, u.port ? u.port : tls ? 443 : 80};
}
inline std::string server(const http_place& p) {
  const bool usual = p.port == (p.tls ? 443 : 80);
  return (p.host.find(':') == p.host.npos ? p.host : "[" + p.host + "]") + (usual ? "" : ":" + std::to_string(p.port));
}
inline std::string address(const http_place& p) { return (p.tls ? "https://" : "http://") + server(p); }

/// What is asked, how far it has come, and what is to be said about it. Stays where it is while its handle lives.
struct http_request {
  static constexpr char no_length[] = "the server does not say how long the object is";
  static constexpr std::size_t max_skip = std::size_t{64} << 20;
  struct free_list {
    void operator()(curl_slist* l) const noexcept { ::curl_slist_free_all(l); }
  };

  stream::ticket which = 0;
  http_verb how = http_verb::get;
  http_place to;
  bool trusted = true;  // still at the host that the caller named
  std::uint64_t offset = 0;
  std::span<std::byte> buffer;
  std::span<const std::byte> body{};
  std::size_t bytes = 0;             // of the buffer
  std::size_t skip = 0;              // to leave out of an answer that begins before the range
  std::size_t before = 0;            // bytes when the last try began
  std::uint64_t total = UINT64_MAX;  // of the object
  int retries = 0, redirects = 0, tries = 1;
  double began = 0, retry_at = 0;
  double silent = 0;        // seconds without a byte in either direction
  std::int64_t moved = -1;  // bytes in either direction
  bool header_whole = false, checked = false, ended = false;
  long code = 0;
  status state = status::ok;
  std::string detail;
  std::string words;  // of an error's body
  CURL* handle = nullptr;
  std::unique_ptr<curl_slist, free_list> headers;
  char error[CURL_ERROR_SIZE] = {};

  /// Begins the request, or begins it anew from the first byte that is missing: the caller adds the handle to others. False
  /// where memory is short.
  bool open(const stream::http_options& options) {
    CURL* h = handle = ::curl_easy_init();
    if (!h) return false;
    const bool reads = how == http_verb::get || how == http_verb::probe;
    retry_at = silent = 0;
    before = bytes;
    moved = -1;
    header_whole = checked = false;
    words.clear();
    error[0] = 0;
    ::curl_easy_setopt(h, CURLOPT_URL, (address(to) + to.path).c_str());
    ::curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L);
    ::curl_easy_setopt(h, CURLOPT_PRIVATE, this);
    ::curl_easy_setopt(h, CURLOPT_ERRORBUFFER, error);
    ::curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    ::curl_easy_setopt(h, CURLOPT_BUFFERSIZE, 256L << 10);
    ::curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    ::curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, long(options.connect_seconds * 1000));
    if (!options.ca_file.empty()) ::curl_easy_setopt(h, CURLOPT_CAINFO, options.ca_file.c_str());
    if (trusted && !options.s3 && !options.user.empty()) {
      ::curl_easy_setopt(h, CURLOPT_USERNAME, options.user.c_str());
      ::curl_easy_setopt(h, CURLOPT_PASSWORD, options.password.c_str());
    }
    if (how == http_verb::head) ::curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    if (how == http_verb::put) {
      ::curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(body.size()));
      ::curl_easy_setopt(h, CURLOPT_POSTFIELDS, body.empty() ? "" : reinterpret_cast<const char*>(body.data()));
      ::curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, "PUT");
    }
    std::string range = "0-0";
    if (how == http_verb::get)
      range = std::to_string(offset + bytes) + "-" + std::to_string(offset + buffer.size() - 1);
    if (reads) ::curl_easy_setopt(h, CURLOPT_RANGE, range.c_str());
    headers.reset();
    const auto header = [&](const std::string& line) {
      if (curl_slist* longer = ::curl_slist_append(headers.get(), line.c_str()))
        (void)headers.release(), headers.reset(longer);
    };
    if (how == http_verb::put) header("Content-Type: application/octet-stream");
    if (options.s3 && trusted && !options.s3->access_key.empty()) {
      const std::time_t clock = std::time(nullptr);
      std::tm utc{};
      char date[20];
      std::strftime(date, sizeof date, "%Y%m%dT%H%M%SZ", ::gmtime_r(&clock, &utc));
      std::map<std::string, std::string> signed_headers{
          {"host", server(to)},
          {"x-amz-date", date},
          {"x-amz-content-sha256", stream::to_hex(sha256().add(body).finish())}};
      if (!options.s3->session_token.empty()) signed_headers["x-amz-security-token"] = options.s3->session_token;
      const char* method = how == http_verb::put ? "PUT" : how == http_verb::head ? "HEAD" : "GET";
      for (const auto& [name, value] : signed_headers) header(name + ": " + value);
      header("Authorization: " + stream::s3_authorization(*options.s3, method, to.path, signed_headers));
    }
    ::curl_easy_setopt(h, CURLOPT_HTTPHEADER, headers.get());
    ::curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, &on_header);
    ::curl_easy_setopt(h, CURLOPT_HEADERDATA, this);
    ::curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, &on_bytes);
    ::curl_easy_setopt(h, CURLOPT_WRITEDATA, this);
    ::curl_easy_setopt(h, CURLOPT_SOCKOPTFUNCTION, &keep_little_unsent);
    return true;
  }

  /// Looks at what an answer says about itself before its first byte is taken.
  status check() {
    curl_header* header = nullptr;
    content_range range;
    const bool told = ::curl_easy_header(handle, "Content-Range", 0, CURLH_HEADER, -1, &header) == CURLHE_OK &&
                      parse_content_range(header->value, range);
    if (how != http_verb::get) {
      curl_off_t length = -1;
      ::curl_easy_getinfo(handle, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
      if (code == 200 && length >= 0) total = std::uint64_t(length);
      if (code == 206 || code == 416) total = told ? range.total : UINT64_MAX;
      return status::ok;
    }
    if (code == 200) {
      skip = std::size_t(offset) + bytes;
      if (skip <= max_skip) return status::ok;
      detail = "the server answers ranges with whole objects";
      return status::refused;
    }
    skip = 0;
    if (code == 206 && told && range.first == offset + bytes && range.last <= offset + buffer.size() - 1)
      return status::ok;
    detail = "the answer is another range than was asked for";
    return status::wrong_length;
  }

  /// Seconds without a byte in either direction, after `passed` more of them in which somebody listened.
  double silence_after(double passed) {
    curl_off_t connected = 0, sent = 0, received = 0;
    long header = 0;
    ::curl_easy_getinfo(handle, CURLINFO_PRETRANSFER_TIME_T, &connected);
    ::curl_easy_getinfo(handle, CURLINFO_SIZE_UPLOAD_T, &sent);
    ::curl_easy_getinfo(handle, CURLINFO_SIZE_DOWNLOAD_T, &received);
    ::curl_easy_getinfo(handle, CURLINFO_HEADER_SIZE, &header);
    const std::int64_t now_moved = std::int64_t(sent) + received + header;
    silent = connected == 0 || now_moved != moved ? 0 : silent + passed;
    moved = now_moved;
    return silent;
  }

 private:
  // An empty line ends a header. Of one that breaks off libcurl makes a whole answer without a body.
  static std::size_t on_header(char* data, std::size_t, std::size_t n, void* user) {
    static_cast<http_request*>(user)->header_whole = n > 0 && (data[0] == '\r' || data[0] == '\n');
    return n;
  }
  static std::size_t on_bytes(char* data, std::size_t, std::size_t n, void* user) {
    http_request& t = *static_cast<http_request*>(user);
    ::curl_easy_getinfo(t.handle, CURLINFO_RESPONSE_CODE, &t.code);
    if (t.how == http_verb::put || (t.code != 200 && t.code != 206)) {
      if (t.words.size() < 4096) t.words.append(data, std::min(n, 4096 - t.words.size()));
      return n;
    }
    if (t.how == http_verb::probe) {
      if (t.code == 206) return n;
      (void)t.check();
      if (t.total == UINT64_MAX) t.state = status::wrong_length, t.detail = no_length;
      return 0;  // a whole object is not wanted
    }
    if (!t.checked) {
      t.checked = true;
      t.state = t.check();
      if (t.state != status::ok) return 0;
    }
    const std::size_t skipped = std::min(n, t.skip);
    t.skip -= skipped;
    const std::size_t room = t.buffer.size() - t.bytes, fits = std::min(n - skipped, room);
    if (fits) std::memcpy(t.buffer.data() + t.bytes, data + skipped, fits);
    t.bytes += fits;
    if (n - skipped <= room) return n;
    if (t.code == 206) {  // of a whole object, the rest is not wanted
      t.state = status::wrong_length;
      t.detail = "the answer is longer than the range that was asked for";
    }
    return 0;
  }

  // Megabytes that wait in the system's buffer would look as if they had been sent, and then like silence.
  static int keep_little_unsent(void*, curl_socket_t s, curlsocktype) {
#ifdef TCP_NOTSENT_LOWAT
    const int bytes = 256 << 10;
    (void)::setsockopt(s, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof bytes);
#endif
    return CURL_SOCKOPT_OK;
  }
};

}  // namespace sluice::detail
