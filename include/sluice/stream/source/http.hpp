// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/object.hpp>
#include <sluice/stream/source.hpp>

#include <curl/curl.h>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sluice::stream {

/// A web server or an S3 bucket. Objects are at `url` + "/" + key.
struct http_options {
  std::string url;
  std::string sigv4 = {};         ///< "aws:amz:eu-central-1:s3" signs every request; empty = no signature
  std::string user = {};          ///< access key, or the user of basic authentication
  std::string password = {};      ///< secret key, or the password
  int connections = 8;            ///< to the server at once; further reads wait
  double timeout_seconds = 10;    ///< of size() and put(), and of connecting
  double stall_seconds = 5;       ///< a read without a byte for so long starts again where it stopped
  int retries = 3;                ///< of one read, in a row without a byte of progress
  double retry_budget = 32;       ///< of all reads together; a read that ends well gives a tenth back
  double backoff_seconds = 0.05;  ///< before the first retry; doubles
  int redirects = 3;
};

/// Objects of a web server, read by Range requests: several at once, each continued where it broke off. A server that
/// ignores ranges is read from the start of the object or not at all.
class http_source {
 public:
  explicit http_source(http_options options)
      : options_(std::move(options)), budget_(options_.retry_budget), multi_(::curl_multi_init()) {
    while (options_.url.ends_with('/')) options_.url.pop_back();
    ::curl_multi_setopt(multi_.get(), CURLMOPT_MAX_TOTAL_CONNECTIONS, long(options_.connections));
  }
  http_source(const http_source&) = delete;
  http_source& operator=(const http_source&) = delete;
  ~http_source() {
    while (!reads_.empty()) drop(*reads_.back());
  }

  result<std::uint64_t> size(std::string_view key) {
    transfer t = make(0, {key, 0, {}});
    CURL* h = start(t);
    if (!h) return status::out_of_memory;
    ::curl_easy_setopt(h, CURLOPT_NOBODY, 1L);
    const status s = wait(t);
    curl_off_t bytes = -1;
    ::curl_easy_getinfo(h, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &bytes);
    stop(t);
    if (s != status::ok) return s;
    return bytes < 0 ? result<std::uint64_t>(status::wrong_length) : result<std::uint64_t>(std::uint64_t(bytes));
  }

  status put(std::string_view key, std::span<const std::byte> bytes) {
    transfer t = make(0, {key, 0, {}});
    t.body = bytes;
    CURL* h = start(t);
    if (!h) return status::out_of_memory;
    // As a body that is in memory, so that a signature covers it.
    ::curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, curl_off_t(bytes.size()));
    ::curl_easy_setopt(h, CURLOPT_POSTFIELDS, bytes.empty() ? "" : reinterpret_cast<const char*>(bytes.data()));
    ::curl_easy_setopt(h, CURLOPT_CUSTOMREQUEST, "PUT");
    const status s = wait(t);
    stop(t);
    return s;
  }

  std::string_view detail() const noexcept { return {}; }

  ticket submit(const read_request& request) {
    reads_.push_back(std::make_unique<transfer>(make(++last_, request)));
    transfer& t = *reads_.back();
    if (request.buffer.empty())
      finish(t, status::ok);
    else if (!start(t))
      finish(t, status::out_of_memory);
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
      if (!done_.empty() || reads_.empty() || left <= 0) break;
      ::curl_multi_poll(multi_.get(), nullptr, 0, int(std::min(left, until_retry()) * 1000 + 0.999), nullptr);
    }
    std::size_t n = 0;
    for (; n < done.size() && !done_.empty(); ++n) {
      done[n] = done_.front();
      done_.pop_front();
    }
    return n;
  }

 private:
  struct free_list {
    void operator()(curl_slist* l) const noexcept { ::curl_slist_free_all(l); }
  };
  struct transfer {
    ticket which = 0;
    std::string url;
    std::uint64_t offset = 0;
    std::span<std::byte> buffer;
    std::size_t bytes = 0;     // of the buffer
    std::size_t skip = 0;      // to leave out of an answer that begins before the range
    std::size_t progress = 0;  // bytes when the last try began
    int retries = 0;
    double retry_at = 0;  // waits for this moment; 0 = is under way
    bool checked = false, overlong = false, ended = false;
    status fault = status::ok;  // seen in the middle of an answer
    CURLcode code = CURLE_OK;
    CURL* handle = nullptr;
    std::span<const std::byte> body{};
    std::unique_ptr<curl_slist, free_list> headers;
  };

  static double now() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  transfer make(ticket which, const read_request& r) const {
    transfer t;
    t.which = which;
    t.url = options_.url + "/" + std::string(r.key);
    t.offset = r.offset;
    t.buffer = r.buffer;
    t.retries = options_.retries;
    return t;
  }
  transfer* find(ticket t) noexcept {
    for (const auto& r : reads_)
      if (r->which == t) return r.get();
    return nullptr;
  }

  // Begins a request, or begins it anew from the first byte that is missing.
  CURL* start(transfer& t) {
    CURL* h = t.handle = ::curl_easy_init();
    if (!h) return nullptr;
    t.retry_at = 0;
    t.progress = t.bytes;
    t.checked = t.ended = false;
    t.fault = status::ok;
    ::curl_easy_setopt(h, CURLOPT_URL, t.url.c_str());
    ::curl_easy_setopt(h, CURLOPT_PRIVATE, &t);
    ::curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    ::curl_easy_setopt(h, CURLOPT_BUFFERSIZE, 256L << 10);
    ::curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    ::curl_easy_setopt(h, CURLOPT_REDIR_PROTOCOLS_STR, "http,https");
    ::curl_easy_setopt(h, CURLOPT_FOLLOWLOCATION, options_.redirects > 0 ? 1L : 0L);
    ::curl_easy_setopt(h, CURLOPT_MAXREDIRS, long(options_.redirects));
    ::curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, long(options_.timeout_seconds * 1000));
    if (!options_.user.empty()) {
      ::curl_easy_setopt(h, CURLOPT_USERNAME, options_.user.c_str());
      ::curl_easy_setopt(h, CURLOPT_PASSWORD, options_.password.c_str());
    }
    if (!options_.sigv4.empty()) {
      ::curl_easy_setopt(h, CURLOPT_AWS_SIGV4, options_.sigv4.c_str());
      // S3 insists on this header; libcurl signs it, but did not write it before version 8.
      const std::string hash = "x-amz-content-sha256: " + to_hex(sha256().add(t.body).finish());
      t.headers.reset(::curl_slist_append(nullptr, hash.c_str()));
    }
    if (!t.body.empty())
      t.headers.reset(::curl_slist_append(t.headers.release(), "Content-Type: application/octet-stream"));
    ::curl_easy_setopt(h, CURLOPT_HTTPHEADER, t.headers.get());
    ::curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, &write);
    ::curl_easy_setopt(h, CURLOPT_WRITEDATA, &t);
    if (t.which) {
      const long stall = long(options_.stall_seconds);
      ::curl_easy_setopt(h, CURLOPT_LOW_SPEED_LIMIT, 1L);
      ::curl_easy_setopt(h, CURLOPT_LOW_SPEED_TIME, stall < 1 ? 1L : stall);
      char range[48];
      std::snprintf(range, sizeof range, "%llu-%llu", static_cast<unsigned long long>(t.offset + t.bytes),
                    static_cast<unsigned long long>(t.offset + t.buffer.size() - 1));
      ::curl_easy_setopt(h, CURLOPT_RANGE, range);
    } else {
      ::curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, long(options_.timeout_seconds * 1000));
    }
    ::curl_multi_add_handle(multi_.get(), h);
    return h;
  }
  void stop(transfer& t) noexcept {
    if (!t.handle) return;
    ::curl_multi_remove_handle(multi_.get(), t.handle);
    ::curl_easy_cleanup(std::exchange(t.handle, nullptr));
  }
  void drop(transfer& t) {
    stop(t);
    for (std::size_t i = 0; i < reads_.size(); ++i)
      if (reads_[i].get() == &t) {
        reads_.erase(reads_.begin() + std::ptrdiff_t(i));
        return;
      }
  }
  void finish(transfer& t, status s) {
    done_.push_back({t.which, s, t.bytes});
    if (s == status::ok) budget_ = std::min(budget_ + 0.1, options_.retry_budget);
    drop(t);
  }

  // Checks what an answer says about itself before its first byte is taken.
  static status check(transfer& t) {
    long code = 0;
    ::curl_easy_getinfo(t.handle, CURLINFO_RESPONSE_CODE, &code);
    if (code == 200) {
      t.skip = std::size_t(t.offset) + t.bytes;
      return t.skip <= max_skip ? status::ok : status::refused;
    }
    t.skip = 0;
    curl_header* header = nullptr;
    unsigned long long first = 0, last = 0;
    const unsigned long long from = t.offset + t.bytes, to = t.offset + t.buffer.size() - 1;
    if (code != 206 || ::curl_easy_header(t.handle, "Content-Range", 0, CURLH_HEADER, -1, &header) != CURLHE_OK ||
        std::sscanf(header->value, "bytes %llu-%llu", &first, &last) != 2 || first != from || last > to)
      return status::wrong_length;
    return status::ok;
  }
  static std::size_t write(char* data, std::size_t, std::size_t n, void* user) {
    transfer& t = *static_cast<transfer*>(user);
    if (t.which == 0) return n;
    long code = 0;
    ::curl_easy_getinfo(t.handle, CURLINFO_RESPONSE_CODE, &code);
    if (code != 200 && code != 206) return n;  // the words of an error
    if (!t.checked) {
      t.checked = true;
      t.fault = check(t);
      if (t.fault != status::ok) return 0;
    }
    const std::size_t skipped = std::min(n, t.skip);
    t.skip -= skipped;
    const std::size_t room = t.buffer.size() - t.bytes, fits = std::min(n - skipped, room);
    if (fits) std::memcpy(t.buffer.data() + t.bytes, data + skipped, fits);
    t.bytes += fits;
    if (n - skipped <= room) return n;
    if (code == 206) t.fault = status::wrong_length;  // of a whole object, the rest is not wanted
    return 0;
  }

  void pump() {
    for (std::size_t i = 0; i < reads_.size(); ++i)
      if (reads_[i]->retry_at > 0 && now() >= reads_[i]->retry_at && !start(*reads_[i])) {
        finish(*reads_[i], status::out_of_memory);
        break;
      }
    int running = 0;
    ::curl_multi_perform(multi_.get(), &running);
    int left = 0;
    while (const CURLMsg* m = ::curl_multi_info_read(multi_.get(), &left)) {
      if (m->msg != CURLMSG_DONE) continue;
      transfer* t = nullptr;
      ::curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
      t->code = m->data.result;
      t->ended = true;
      if (t->which) settle(*t);
    }
  }
  // A request has ended: well, for good, or to be tried again.
  void settle(transfer& t) {
    const status s = outcome(t);
    if (s == status::ok || !worth_retrying(t)) return finish(t, s);
    if (t.bytes > t.progress) t.retries = options_.retries;
    if (t.retries == 0 || budget_ < 1) return finish(t, s);
    const int before = options_.retries - t.retries--;
    budget_ -= 1;
    stop(t);
    t.retry_at = now() + options_.backoff_seconds * double(1 << std::min(before, 10));
  }
  double until_retry() const noexcept {
    double next = 1;
    for (const auto& r : reads_)
      if (r->retry_at > 0) next = std::min(next, std::max(r->retry_at - now(), 0.0));
    return next;
  }

  static status outcome(const transfer& t) {
    if (t.fault != status::ok) return t.fault;
    long code = 0;
    ::curl_easy_getinfo(t.handle, CURLINFO_RESPONSE_CODE, &code);
    if (t.which && t.bytes == t.buffer.size() && (code == 200 || code == 206)) return status::ok;
    switch (t.code) {
      case CURLE_OK: break;
      case CURLE_OPERATION_TIMEDOUT: return status::timed_out;
      case CURLE_TOO_MANY_REDIRECTS:
      case CURLE_UNSUPPORTED_PROTOCOL:
      case CURLE_LOGIN_DENIED: return status::refused;
      case CURLE_URL_MALFORMAT: return status::invalid_argument;
      case CURLE_OUT_OF_MEMORY: return status::out_of_memory;
      case CURLE_WEIRD_SERVER_REPLY: return status::parse_error;
      default: return status::connection_lost;
    }
    if (code == 404 || code == 410) return status::not_found;
    if (code == 416) return status::wrong_length;
    if (code == 413 || code == 507) return status::no_space;
    if (code < 200 || code >= 300) return status::refused;
    return t.which ? status::wrong_length : status::ok;
  }
  // Only what another try may mend: the line, and a server that is busy.
  static bool worth_retrying(const transfer& t) {
    if (t.fault != status::ok) return false;
    long code = 0;
    ::curl_easy_getinfo(t.handle, CURLINFO_RESPONSE_CODE, &code);
    if (t.code == CURLE_OK) return code == 408 || code == 429 || code >= 500;
    const status s = outcome(t);
    return s == status::timed_out || s == status::connection_lost;
  }

  // Waits for a request that is not a read.
  status wait(const transfer& t) {
    for (pump(); !t.ended; pump()) ::curl_multi_poll(multi_.get(), nullptr, 0, 100, nullptr);
    return outcome(t);
  }

  static constexpr std::size_t max_skip = std::size_t{64} << 20;
  struct free_multi {
    void operator()(CURLM* m) const noexcept { ::curl_multi_cleanup(m); }
  };
  http_options options_;
  double budget_;
  std::unique_ptr<CURLM, free_multi> multi_;
  std::vector<std::unique_ptr<transfer>> reads_;
  std::deque<completion> done_;
  ticket last_ = 0;
};

static_assert(byte_source<http_source>);

}  // namespace sluice::stream
