// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/source.hpp>
#include <sluice/stream/store/sources/http_answer.hpp>
#include <sluice/stream/store/sources/http_request.hpp>
#include <sluice/stream/store/sources/s3.hpp>
#include <sluice/stream/store/sources/url.hpp>

#include <curl/curl.h>
#include <algorithm>
#include <chrono>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace sluice::stream {

/// Objects of a web server, read by Range requests: several at once, each continued where it broke off. A server that
/// ignores ranges is read from the start of the object or not at all.
class http_source {
 public:
  /// Connects at the first call. A URL that is wrong is said by every call, with words in detail().
  explicit http_source(http_options options)
      : options_(std::move(options)), budget_(options_.retry_budget), multi_(::curl_multi_init()) {
    // Idle connections are kept, however few requests are under way: each has learned what its way carries.
    ::curl_multi_setopt(multi_.get(), CURLMOPT_MAXCONNECTS, long(options_.connections) + 2);
    const result<url> u = parse_url(options_.url, &wrong_url_);
    if (!u) return;
    if ((u->scheme != "http" && u->scheme != "https") || u->host.empty() || u->has_query || u->has_fragment) {
      wrong_url_ = "the URL is not http[s]://HOST[:PORT][/PATH]";
      return;
    }
    base_ = detail::place_of(*u);
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
    while (!requests_.empty()) drop(*requests_.back());
  }

  /// Asks for the header, or where that is not allowed for a first byte.
  result<std::uint64_t> size(std::string_view key) {
    detail_.clear();
    for (const verb how : {verb::head, verb::probe}) {
      http_request& t = add(0, how, {key, 0, {}});
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
    detail_ = http_request::no_length;
    return status::wrong_length;
  }

  status put(std::string_view key, std::span<const std::byte> bytes) {
    detail_.clear();
    if (options_.s3 && bytes.size() > std::uint64_t{5} << 30) {
      detail_ = "S3 takes at most 5 GiB in one put";
      return status::too_large;
    }
    http_request& t = add(0, verb::put, {key, 0, {}});
    t.body = bytes;
    const status s = wait(t);
    detail_ = std::move(t.detail);
    drop(t);
    return s;
  }

  std::string_view detail() const noexcept { return detail_; }

  ticket submit(const read_request& request) {
    detail_.clear();
    http_request& t = add(++last_, verb::get, request);
    if (request.buffer.empty())
      finish(t, status::ok);
    else if (t.state != status::ok)
      finish(t, t.state);
    else
      start_waiting();
    return last_;
  }
  std::size_t arrived(ticket t) noexcept {
    const http_request* r = find(t);
    return r ? r->bytes : 0;
  }
  std::size_t cancel(ticket t) {
    if (http_request* r = find(t)) {
      const std::size_t bytes = r->bytes;
      drop(*r);
      return bytes;
    }
    return done_.cancel(t);
  }

  std::size_t poll(std::span<completion> done, double seconds) {
    const double until = now() + seconds;
    while (true) {
      pump();
      const double left = until - now();
      if (!done_.empty() || requests_.empty() || left <= 0) break;
      sleep(left);
    }
    return done_.take(done, detail_);
  }

 private:
  using http_request = detail::http_request;
  using verb = detail::http_verb;

  static double now() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  // A path as this kind of server wants it; what is encoded already stays so.
  std::string encoded(std::string_view path) const {
    if (!options_.s3) return percent_encode(path, "!$&'()*+,;=:@/%");
    const result<std::string> p = s3_path(path);
    return p ? *p : std::string();
  }

  http_request& add(ticket which, verb how, const read_request& r) {
    requests_.push_back(std::make_unique<http_request>());
    http_request& t = *requests_.back();
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
  http_request* find(ticket t) noexcept {
    for (const auto& r : requests_)
      if (t && r->which == t) return r.get();
    return nullptr;
  }

  // Begins a request, or begins it anew from the first byte that is missing.
  bool start(http_request& t) {
    if (!t.open(options_)) return false;
    ::curl_multi_add_handle(multi_.get(), t.handle);
    return true;
  }
  void stop(http_request& t) noexcept {
    if (!t.handle) return;
    ::curl_multi_remove_handle(multi_.get(), t.handle);
    ::curl_easy_cleanup(std::exchange(t.handle, nullptr));
  }
  void drop(http_request& t) {
    stop(t);
    for (std::size_t i = 0; i < requests_.size(); ++i)
      if (requests_[i].get() == &t) {
        requests_.erase(requests_.begin() + std::ptrdiff_t(i));
        return;
      }
  }
  // The end of a request; a read is gone afterwards, others wait to be looked at.
  void finish(http_request& t, status s) {
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
    done_.push({t.which, s, t.bytes, std::move(t.detail)});
    drop(t);
  }
  void fail(http_request& t, status s, const std::string& words) {
    t.state = s;
    t.detail = detail::one_line_without(secrets_, words);
  }
  // Starts what may start now, moves bytes, and looks at what has ended or fallen silent.
  void pump() {
    start_waiting();
    int running = 0;
    ::curl_multi_perform(multi_.get(), &running);
    int left = 0;
    while (const CURLMsg* m = ::curl_multi_info_read(multi_.get(), &left)) {
      if (m->msg != CURLMSG_DONE) continue;
      http_request* t = nullptr;
      ::curl_easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, &t);
      settle(*t, m->data.result);
    }
    // Silence counts while somebody listens: a caller may stay away for long.
    const double at = now(), passed = std::min(at - std::exchange(pumped_, at), 1.0);
    for (std::size_t i = requests_.size(); i-- > 0;) {
      http_request& t = *requests_[i];
      if (t.ended) continue;
      if (options_.total_seconds > 0 && at - t.began > options_.total_seconds) {
        fail(t, status::timed_out, "not done within " + std::to_string(options_.total_seconds).substr(0, 5) + " s");
        finish(t, t.state);
      } else if (t.handle && t.silence_after(passed) > options_.stall_seconds) {
        fail(t, status::timed_out, "no byte for " + std::to_string(options_.stall_seconds).substr(0, 5) + " s");
        settle(t, CURLE_OPERATION_TIMEDOUT);
      }
    }
    start_waiting();  // what was sent elsewhere, and what takes the place of what has ended
  }
  void start_waiting() {
    int under_way = 0;
    for (const auto& t : requests_) under_way += t->handle && t->which;
    for (std::size_t i = 0; i < requests_.size(); ++i) {
      http_request& t = *requests_[i];
      if (t.handle || t.ended || t.retry_at > now() || (t.which && under_way >= options_.connections)) continue;
      under_way += t.which != 0;
      if (start(t)) continue;
      finish(t, status::out_of_memory);
      return;
    }
  }
  void sleep(double most) const noexcept {
    double next = std::min({most, 1.0, options_.stall_seconds / 4});
    for (const auto& t : requests_)
      if (!t->handle && t->retry_at > 0) next = std::min(next, std::max(t->retry_at - now(), 0.0));
    ::curl_multi_poll(multi_.get(), nullptr, 0, int(next * 1000 + 0.999), nullptr);
  }
  // Waits for a request that is not a read.
  status wait(http_request& t) {
    if (t.state != status::ok) return t.state;
    for (pump(); !t.ended; pump()) sleep(1);
    return t.state;
  }

  // A request has ended: well, elsewhere, for good, or to be tried again.
  void settle(http_request& t, CURLcode end) {
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
  bool judge(http_request& t, CURLcode end) {
    if (end == CURLE_OK && !t.header_whole) return lost(t, CURLE_RECV_ERROR);
    if (t.how == verb::get && t.bytes == t.buffer.size() && (t.code == 200 || t.code == 206)) return false;
    if (t.how != verb::get && (t.code == 200 || t.code == 206 || t.code == 416)) (void)t.check();
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
  bool lost(http_request& t, CURLcode end) {
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
  bool follow(http_request& t) {
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
    detail::http_place to = detail::place_of(*u);
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

  struct free_multi {
    void operator()(CURLM* m) const noexcept { ::curl_multi_cleanup(m); }
  };
  http_options options_;
  detail::http_place base_;
  std::string wrong_url_, detail_;
  std::vector<std::string> secrets_;
  double budget_, pumped_ = now();
  std::minstd_rand random_{unsigned(std::chrono::steady_clock::now().time_since_epoch().count())};
  std::unique_ptr<CURLM, free_multi> multi_;
  std::vector<std::unique_ptr<http_request>> requests_;
  detail::ended_reads done_;
  ticket last_ = 0;
};

static_assert(byte_source<http_source>);

}  // namespace sluice::stream
