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
#include <chrono>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace sluice::stream {

/// A web server or an S3 bucket. Objects are at `url` + "/" + key.
struct http_options {
  std::string url;                   ///< http[s]://[USER:PASSWORD@]HOST[:PORT][/PATH]; no query, no fragment
  std::optional<s3_access> s3 = {};  ///< signs every request, and encodes paths as S3 does
  std::string user = {};             ///< of basic authentication; never sent to another host
  std::string password = {};
  std::string ca_file = {};      ///< certificates (PEM) to trust instead of the system's
  int connections = 8;           ///< to the server at once; further reads wait
  double connect_seconds = 5;    ///< until a connection stands, TLS included
  double stall_seconds = 10;     ///< without a byte for so long, a request starts again (a read where it stopped)
  double total_seconds = 0;      ///< of one request with all its tries; 0 = as long as bytes flow
  int retries = 4;               ///< of one request, in a row without a byte of progress
  double retry_budget = 32;      ///< of all requests together; one that ends well gives a tenth back
  double backoff_seconds = 0.1;  ///< before the first retry; doubles, and up to half of it is left out at random
  double longest_backoff_seconds = 20;  ///< also where the server asks for more (Retry-After)
  int redirects = 3;              ///< that one request follows: 301, 302, 307 and 308 with method and body, on its host
  bool follow_elsewhere = false;  ///< also to other hosts, other ports and from https to http, without credentials
};

/// Objects of a web server, read by Range requests: several at once, each continued where it broke off. A server that
/// ignores ranges is read from the start of the object or not at all.
class http_source {
 public:
  explicit http_source(http_options options)
      : options_(std::move(options)), budget_(options_.retry_budget), multi_(::curl_multi_init()) {
    const result<url> u = parse_url(options_.url, &wrong_url_);
    if (!u) return;
    if ((u->scheme != "http" && u->scheme != "https") || u->host.empty() || u->has_query || u->has_fragment) {
      wrong_url_ = "the URL is not http[s]://HOST[:PORT][/PATH]";
      return;
    }
    base_ = place_of(*u);
    base_.path = encoded(u->path);
    while (base_.path.ends_with('/')) base_.path.pop_back();
    if (u->has_user) options_.user = u->user, options_.password = u->password;
    for (const std::string& secret : options_.s3
                                         ? std::vector{options_.s3->secret_key, options_.s3->session_token}
                                         : std::vector{options_.password.empty() ? options_.user : options_.password})
      if (!secret.empty()) secrets_.insert(secrets_.end(), {secret, percent_encode(secret)});
  }
  http_source(const http_source&) = delete;
  http_source& operator=(const http_source&) = delete;
  ~http_source() {
    while (!transfers_.empty()) drop(*transfers_.back());
  }

  /// Asks for the header, or where that is not allowed for a first byte.
  result<std::uint64_t> size(std::string_view key) {
    detail_.clear();
    for (const verb how : {verb::head, verb::probe}) {
      transfer& t = add(0, how, {key, 0, {}});
      const status s = wait(t);
      const std::uint64_t total = t.total;
      const bool other_way = how == verb::head && (s == status::ok ? total == UINT64_MAX
                                                                   : t.code == 400 || t.code == 401 || t.code == 403 ||
                                                                         t.code == 405 || t.code == 501);
      if (!other_way) detail_ = std::move(t.detail);
      drop(t);
      if (other_way) continue;
      if (s != status::ok) return s;
      if (total != UINT64_MAX) return total;
    }
    detail_ = no_length;
    return status::wrong_length;
  }

  status put(std::string_view key, std::span<const std::byte> bytes) {
    detail_.clear();
    if (options_.s3 && bytes.size() > std::uint64_t{5} << 30) {
      detail_ = "S3 takes at most 5 GiB in one put";
      return status::too_large;
    }
    transfer& t = add(0, verb::put, {key, 0, {}});
    t.body = bytes;
    const status s = wait(t);
    detail_ = std::move(t.detail);
    drop(t);
    return s;
  }

  std::string_view detail() const noexcept { return detail_; }

  ticket submit(const read_request& request) {
    detail_.clear();
    transfer& t = add(++last_, verb::get, request);
    if (request.buffer.empty())
      finish(t, status::ok);
    else if (t.state != status::ok)
      finish(t, t.state);
    else
      start_waiting();
    return last_;
  }
  std::size_t arrived(ticket t) noexcept {
    const transfer* r = find(t);
    return r ? r->bytes : 0;
  }
  std::size_t cancel(ticket t) {
    if (transfer* r = find(t)) {
      const std::size_t bytes = r->bytes;
      drop(*r);
      return bytes;
    }
    for (std::size_t i = 0; i < done_.size(); ++i)
      if (done_[i].which == t) {
        const std::size_t bytes = done_[i].bytes;
        done_.erase(done_.begin() + std::ptrdiff_t(i));
        return bytes;
      }
    return 0;
  }

  std::size_t poll(std::span<completion> done, double seconds) {
    const double until = now() + seconds;
    while (true) {
      pump();
      const double left = until - now();
      if (!done_.empty() || transfers_.empty() || left <= 0) break;
      sleep(left);
    }
    std::size_t n = 0;
    for (; n < done.size() && !done_.empty(); ++n) {
      done[n] = std::move(done_.front());
      done_.pop_front();
      if (done[n].state != status::ok) detail_ = done[n].detail;
    }
    return n;
  }

 private:
  enum class verb { get, head, probe, put };  // probe: a GET of one byte that is asked for the object's size
  struct place {
    bool tls = false;
    std::string host;
    int port = 0;
    std::string path = {};  // as it is sent, with a query after a redirect
    bool same_server(const place& o) const { return host == o.host && port == o.port && tls == o.tls; }
  };
  struct free_list {
    void operator()(curl_slist* l) const noexcept { ::curl_slist_free_all(l); }
  };
  struct transfer {
    ticket which = 0;
    verb how = verb::get;
    place to;
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
  };

  static double now() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  static place place_of(const url& u) {
    const bool tls = u.scheme == "https";
    return {tls, u.host, u.port ? u.port : tls ? 443 : 80};
  }
  static std::string server(const place& p) {
    const bool usual = p.port == (p.tls ? 443 : 80);
    return (p.host.find(':') == p.host.npos ? p.host : "[" + p.host + "]") +
           (usual ? "" : ":" + std::to_string(p.port));
  }
  static std::string address(const place& p) { return (p.tls ? "https://" : "http://") + server(p); }
  // A path as this kind of server wants it; what is encoded already stays so.
  std::string encoded(std::string_view path) const {
    if (!options_.s3) return percent_encode(path, "!$&'()*+,;=:@/%");
    const result<std::string> p = s3_path(path);
    return p ? *p : std::string();
  }

  transfer& add(ticket which, verb how, const read_request& r) {
    transfers_.push_back(std::make_unique<transfer>());
    transfer& t = *transfers_.back();
    t.which = which;
    t.how = how;
    t.to = base_;
    t.to.path += "/" + percent_encode(r.key, "/");
    t.offset = r.offset;
    t.buffer = r.buffer;
    t.retries = options_.retries;
    t.began = now();
    const std::string segments = "/" + std::string(r.key) + "/";
    if (base_.host.empty()) {
      fail(t, status::invalid_argument, wrong_url_);
    } else if (r.key.empty() || segments.find("//") != segments.npos || segments.find("/./") != segments.npos ||
               segments.find("/../") != segments.npos) {
      fail(t, status::invalid_argument, "no name of an object");
    }
    return t;
  }
  transfer* find(ticket t) noexcept {
    for (const auto& r : transfers_)
      if (t && r->which == t) return r.get();
    return nullptr;
  }

  // Begins a request, or begins it anew from the first byte that is missing.
  bool start(transfer& t) {
    CURL* h = t.handle = ::curl_easy_init();
    if (!h) return false;
    const bool reads = t.how == verb::get || t.how == verb::probe;
    t.retry_at = t.silent = 0;
    t.before = t.bytes;
    t.moved = -1;
    t.header_whole = t.checked = false;
    t.words.clear();
    t.error[0] = 0;
    ::curl_easy_setopt(h, CURLOPT_URL, (address(t.to) + t.to.path).c_str());
    ::curl_easy_setopt(h, CURLOPT_PATH_AS_IS, 1L);
    ::curl_easy_setopt(h, CURLOPT_PRIVATE, &t);
    ::curl_easy_setopt(h, CURLOPT_ERRORBUFFER, t.error);
    ::curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    ::curl_easy_setopt(h, CURLOPT_BUFFERSIZE, 256L << 10);
    ::curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    ::curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, long(options_.connect_seconds * 1000));
    if (!options_.ca_file.empty()) ::curl_easy_setopt(h, CURLOPT_CAINFO, options_.ca_file.c_str());
    if (t.trusted && !options_.s3 && !options_.user.empty()) {
      ::curl_easy_setopt(h, CURLOPT_USERNAME, options_.user.c_str());
      ::curl_easy_setopt(h, CURLOPT_PASSWORD, options_.password.c_str());
    }
    if (t.how == verb::head) ::curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    if (t.how == verb::put) {
      ::curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(t.body.size()));
      ::curl_easy_setopt(h, CURLOPT_POSTFIELDS, t.body.empty() ? "" : reinterpret_cast<const char*>(t.body.data()));
      ::curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, "PUT");
    }
    std::string range = "0-0";
    if (t.how == verb::get)
      range = std::to_string(t.offset + t.bytes) + "-" + std::to_string(t.offset + t.buffer.size() - 1);
    if (reads) ::curl_easy_setopt(h, CURLOPT_RANGE, range.c_str());
    t.headers.reset();
    const auto header = [&](const std::string& line) {
      if (curl_slist* longer = ::curl_slist_append(t.headers.get(), line.c_str()))
        (void)t.headers.release(), t.headers.reset(longer);
    };
    if (t.how == verb::put) header("Content-Type: application/octet-stream");
    if (options_.s3 && t.trusted && !options_.s3->access_key.empty()) {
      const std::time_t clock = std::time(nullptr);
      std::tm utc{};
      char date[20];
      std::strftime(date, sizeof date, "%Y%m%dT%H%M%SZ", ::gmtime_r(&clock, &utc));
      std::map<std::string, std::string> signed_headers{
          {"host", server(t.to)},
          {"x-amz-date", date},
          {"x-amz-content-sha256", to_hex(sha256().add(t.body).finish())}};
      if (!options_.s3->session_token.empty()) signed_headers["x-amz-security-token"] = options_.s3->session_token;
      const char* method = t.how == verb::put ? "PUT" : t.how == verb::head ? "HEAD" : "GET";
      for (const auto& [name, value] : signed_headers) header(name + ": " + value);
      header("Authorization: " + s3_authorization(*options_.s3, method, t.to.path, signed_headers));
    }
    ::curl_easy_setopt(h, CURLOPT_HTTPHEADER, t.headers.get());
    ::curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, &head);
    ::curl_easy_setopt(h, CURLOPT_HEADERDATA, &t);
    ::curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, &write);
    ::curl_easy_setopt(h, CURLOPT_WRITEDATA, &t);
    ::curl_easy_setopt(h, CURLOPT_SOCKOPTFUNCTION, &keep_little_unsent);
    ::curl_multi_add_handle(multi_.get(), h);
    return true;
  }
  void stop(transfer& t) noexcept {
    if (!t.handle) return;
    ::curl_multi_remove_handle(multi_.get(), t.handle);
    ::curl_easy_cleanup(std::exchange(t.handle, nullptr));
  }
  void drop(transfer& t) {
    stop(t);
    for (std::size_t i = 0; i < transfers_.size(); ++i)
      if (transfers_[i].get() == &t) {
        transfers_.erase(transfers_.begin() + std::ptrdiff_t(i));
        return;
      }
  }
  // The end of a request; a read is gone afterwards, others wait to be looked at.
  void finish(transfer& t, status s) {
    stop(t);
    t.ended = true;
    t.state = s;
    if (s == status::ok) {
      t.detail.clear();
      budget_ = std::min(budget_ + 0.1, options_.retry_budget);
    } else if (t.tries > 1) {
      t.detail += " (after " + std::to_string(t.tries) + " tries)";
    }
    if (t.which == 0) return;
    done_.push_back({t.which, s, t.bytes, std::move(t.detail)});
    drop(t);
  }
  void fail(transfer& t, status s, const std::string& words) {
    t.state = s;
    t.detail = detail::one_line_without(secrets_, words);
  }
  // Looks at what an answer says about itself before its first byte is taken.
  static status check(transfer& t) {
    curl_header* header = nullptr;
    detail::content_range range;
    const bool told = ::curl_easy_header(t.handle, "Content-Range", 0, CURLH_HEADER, -1, &header) == CURLHE_OK &&
                      detail::parse_content_range(header->value, range);
    if (t.how != verb::get) {
      curl_off_t length = -1;
      ::curl_easy_getinfo(t.handle, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &length);
      if (t.code == 200 && length >= 0) t.total = std::uint64_t(length);
      if (t.code == 206 || t.code == 416) t.total = told ? range.total : UINT64_MAX;
      return status::ok;
    }
    if (t.code == 200) {
      t.skip = std::size_t(t.offset) + t.bytes;
      if (t.skip <= max_skip) return status::ok;
      t.detail = "the server answers ranges with whole objects";
      return status::refused;
    }
    t.skip = 0;
    if (t.code == 206 && told && range.first == t.offset + t.bytes && range.last <= t.offset + t.buffer.size() - 1)
      return status::ok;
    t.detail = "the answer is another range than was asked for";
    return status::wrong_length;
  }
  // An empty line ends a header. Of one that breaks off libcurl makes a whole answer without a body.
  static std::size_t head(char* data, std::size_t, std::size_t n, void* user) {
    static_cast<transfer*>(user)->header_whole = n > 0 && (data[0] == '\r' || data[0] == '\n');
    return n;
  }
  static std::size_t write(char* data, std::size_t, std::size_t n, void* user) {
    transfer& t = *static_cast<transfer*>(user);
    ::curl_easy_getinfo(t.handle, CURLINFO_RESPONSE_CODE, &t.code);
    if (t.how == verb::put || (t.code != 200 && t.code != 206)) {
      if (t.words.size() < 4096) t.words.append(data, std::min(n, 4096 - t.words.size()));
      return n;
    }
    if (t.how == verb::probe) {
      if (t.code == 206) return n;
      (void)check(t);
      if (t.total == UINT64_MAX) t.state = status::wrong_length, t.detail = no_length;
      return 0;  // a whole object is not wanted
    }
    if (!t.checked) {
      t.checked = true;
      t.state = check(t);
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

  // Starts what may start now, moves bytes, and looks at what has ended or fallen silent.
  void pump() {
    start_waiting();
    int running = 0;
    ::curl_multi_perform(multi_.get(), &running);
    int left = 0;
    while (const CURLMsg* m = ::curl_multi_info_read(multi_.get(), &left)) {
      if (m->msg != CURLMSG_DONE) continue;
      transfer* t = nullptr;
      ::curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
      settle(*t, m->data.result);
    }
    // Silence counts while somebody listens: a caller may stay away for long.
    const double at = now(), passed = std::min(at - std::exchange(pumped_, at), 1.0);
    for (std::size_t i = transfers_.size(); i-- > 0;) {
      transfer& t = *transfers_[i];
      if (t.ended) continue;
      if (options_.total_seconds > 0 && at - t.began > options_.total_seconds) {
        fail(t, status::timed_out, "not done within " + std::to_string(options_.total_seconds).substr(0, 5) + " s");
        finish(t, t.state);
      } else if (t.handle && silence(t, passed) > options_.stall_seconds) {
        fail(t, status::timed_out, "no byte for " + std::to_string(options_.stall_seconds).substr(0, 5) + " s");
        settle(t, CURLE_OPERATION_TIMEDOUT);
      }
    }
    start_waiting();  // what was sent elsewhere, and what takes the place of what has ended
  }
  void start_waiting() {
    int under_way = 0;
    for (const auto& t : transfers_) under_way += t->handle && t->which;
    for (std::size_t i = 0; i < transfers_.size(); ++i) {
      transfer& t = *transfers_[i];
      if (t.handle || t.ended || t.retry_at > now() || (t.which && under_way >= options_.connections)) continue;
      under_way += t.which != 0;
      if (start(t)) continue;
      finish(t, status::out_of_memory);
      return;
    }
  }
  static double silence(transfer& t, double passed) {
    curl_off_t connected = 0, sent = 0, received = 0;
    long header = 0;
    ::curl_easy_getinfo(t.handle, CURLINFO_PRETRANSFER_TIME_T, &connected);
    ::curl_easy_getinfo(t.handle, CURLINFO_SIZE_UPLOAD_T, &sent);
    ::curl_easy_getinfo(t.handle, CURLINFO_SIZE_DOWNLOAD_T, &received);
    ::curl_easy_getinfo(t.handle, CURLINFO_HEADER_SIZE, &header);
    const std::int64_t moved = std::int64_t(sent) + received + header;
    t.silent = connected == 0 || moved != t.moved ? 0 : t.silent + passed;
    t.moved = moved;
    return t.silent;
  }
  // Megabytes that wait in the system's buffer would look as if they had been sent, and then like silence.
  static int keep_little_unsent(void*, curl_socket_t s, curlsocktype) {
#ifdef TCP_NOTSENT_LOWAT
    const int bytes = 256 << 10;
    (void)::setsockopt(s, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &bytes, sizeof bytes);
#endif
    return CURL_SOCKOPT_OK;
  }
  void sleep(double most) const noexcept {
    double next = std::min({most, 1.0, options_.stall_seconds / 4});
    for (const auto& t : transfers_)
      if (!t->handle && t->retry_at > 0) next = std::min(next, std::max(t->retry_at - now(), 0.0));
    ::curl_multi_poll(multi_.get(), nullptr, 0, int(next * 1000 + 0.999), nullptr);
  }
  // Waits for a request that is not a read.
  status wait(transfer& t) {
    if (t.state != status::ok) return t.state;
    for (pump(); !t.ended; pump()) sleep(1);
    return t.state;
  }

  // A request has ended: well, elsewhere, for good, or to be tried again.
  void settle(transfer& t, CURLcode end) {
    t.code = 0;
    ::curl_easy_getinfo(t.handle, CURLINFO_RESPONSE_CODE, &t.code);
    if (t.state == status::ok && t.code >= 300 && t.code < 400 && t.code != 304) {
      if (follow(t)) return stop(t);
      return finish(t, t.state);
    }
    bool again = t.state == status::timed_out;
    if (t.state == status::ok) again = judge(t, end);
    if (t.state == status::ok) return finish(t, status::ok);
    if (t.bytes > t.before) t.retries = options_.retries;
    if (!again || t.retries == 0 || budget_ < 1) return finish(t, t.state);
    const int before = options_.retries - t.retries--;
    ++t.tries;
    budget_ -= 1;
    curl_off_t asked = 0;
    ::curl_easy_getinfo(t.handle, CURLINFO_RETRY_AFTER, &asked);
    stop(t);
    const double share = 0.5 + 0.5 * double(random_() - random_.min()) / double(random_.max() - random_.min());
    const double wait = std::max(options_.backoff_seconds * double(1 << std::min(before, 20)) * share, double(asked));
    t.retry_at = now() + std::min(wait, options_.longest_backoff_seconds);
    t.state = status::ok;
  }
  // What an answer is worth. Returns whether another try may mend it: the line, or a server that is busy.
  bool judge(transfer& t, CURLcode end) {
    if (end == CURLE_OK && !t.header_whole) return lost(t, CURLE_RECV_ERROR);
    if (t.how == verb::get && t.bytes == t.buffer.size() && (t.code == 200 || t.code == 206)) return false;
    if (t.how != verb::get && (t.code == 200 || t.code == 206 || t.code == 416)) (void)check(t);
    if (t.how == verb::probe && t.total != UINT64_MAX) return false;
    if (t.code < 400 && end != CURLE_OK) return lost(t, end);
    const status s = detail::status_of_http(t.code);
    const std::string words = detail::words_of(t.words);
    if (s != status::ok) {
      std::string text = "HTTP " + std::to_string(t.code) + (words.empty() ? "" : " " + words);
      curl_header* region = nullptr;
      if (::curl_easy_header(t.handle, "x-amz-bucket-region", 0, CURLH_HEADER, -1, &region) == CURLHE_OK &&
          options_.s3 && options_.s3->region != region->value)
        text += "; the bucket is in region " + std::string(region->value) + ", AWS_REGION says " + options_.s3->region;
      if ((t.code == 401 || t.code == 403) && (options_.s3 ? options_.s3->access_key.empty() : options_.user.empty()))
        text += options_.s3 ? "; the request was not signed: AWS_ACCESS_KEY_ID is not set"
                            : "; no user and password were given";
      fail(t, s, text);
    } else if (t.how == verb::get) {
      fail(t, status::wrong_length, "the object ends before the range does");
    }
    return detail::is_passing(t.code, words);
  }
  // No answer, or part of one.
  bool lost(transfer& t, CURLcode end) {
    status s = status::connection_lost;
    bool again = true;
    switch (end) {
      case CURLE_OPERATION_TIMEDOUT: s = status::timed_out, again = t.tries < 2; break;  // of connecting
      case CURLE_UNSUPPORTED_PROTOCOL: s = status::refused, again = false; break;
      case CURLE_URL_MALFORMAT: s = status::invalid_argument, again = false; break;
      case CURLE_OUT_OF_MEMORY: s = status::out_of_memory, again = false; break;
      case CURLE_WEIRD_SERVER_REPLY: s = status::parse_error, again = false; break;
      case CURLE_PEER_FAILED_VERIFICATION:
      case CURLE_SSL_CACERT_BADFILE:
      case CURLE_SSL_CERTPROBLEM: again = false; break;
      default: break;
    }
    std::string text = t.error[0] ? t.error : ::curl_easy_strerror(end);
    long number = 0;
    if (end == CURLE_COULDNT_CONNECT && ::curl_easy_getinfo(t.handle, CURLINFO_OS_ERRNO, &number) == CURLE_OK && number)
      text += ": " + detail::errno_words(int(number));
    fail(t, s, text);
    return again;
  }
  // Goes where the server points, if the caller's trust reaches that far. Method and body stay what they are.
  bool follow(transfer& t) {
    const char* where = nullptr;
    ::curl_easy_getinfo(t.handle, CURLINFO_REDIRECT_URL, &where);
    const std::string answer = "HTTP " + std::to_string(t.code);
    const auto no = [&](const std::string& words) {
      fail(t, status::refused, answer + words);
      return false;
    };
    const result<url> u = where ? parse_url(where) : result<url>(status::not_found);
    if (!where) {
      (void)judge(t, CURLE_OK);  // S3 names another region in words
      return false;
    }
    if (!u || (u->scheme != "http" && u->scheme != "https") || u->host.empty() || u->has_user)
      return no(": redirected to what is no HTTP server");
    if (t.code != 301 && t.code != 302 && t.code != 307 && t.code != 308 && !(t.code == 303 && t.how != verb::put))
      return no(t.code == 303 ? " to a PUT: the server wants a GET elsewhere, so nothing was stored" : "");
    place to = place_of(*u);
    const bool safer = to.tls && !t.to.tls && to.host == t.to.host;
    const std::string from_to = ": redirected from " + address(t.to) + " to " + address(to);
    if (!to.same_server(t.to) && !safer) {
      if (!options_.follow_elsewhere) return no(from_to + ", which is not the server that was named");
      t.trusted = false;
    }
    if (t.redirects++ >= options_.redirects)
      return no(": more than " + std::to_string(options_.redirects) + " redirects");
    const bool signs = options_.s3 && t.trusted && !options_.s3->access_key.empty();
    if (signs && u->has_query) return no(from_to + " with a query, which is not signed");
    to.path = signs ? encoded(u->path) : percent_encode(u->path, "!$&'()*+,;=:@/%");
    if (u->has_query) to.path += "?" + percent_encode(u->query, "!$&'()*+,;=:@/%?");
    t.to = std::move(to);
    return true;
  }

  static constexpr char no_length[] = "the server does not say how long the object is";
  static constexpr std::size_t max_skip = std::size_t{64} << 20;
  struct free_multi {
    void operator()(CURLM* m) const noexcept { ::curl_multi_cleanup(m); }
  };
  http_options options_;
  place base_;
  std::string wrong_url_, detail_;
  std::vector<std::string> secrets_;
  double budget_, pumped_ = now();
  std::minstd_rand random_{unsigned(std::chrono::steady_clock::now().time_since_epoch().count())};
  std::unique_ptr<CURLM, free_multi> multi_;
  std::vector<std::unique_ptr<transfer>> transfers_;
  std::deque<completion> done_;
  ticket last_ = 0;
};

static_assert(byte_source<http_source>);

}  // namespace sluice::stream
