// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/stream/store/source.hpp>
#include <sluice/stream/store/sources/connection.hpp>
#include <sluice/stream/store/sources/url.hpp>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <deque>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace sluice::stream {

/// Where a Redis (or Valkey) server is, and how patient to be with it.
struct redis_options {
  std::string host = "127.0.0.1";  ///< a name, an IPv4 or an IPv6 address
  int port = 6379;                 ///< of TCP
  std::string unix_socket = {};    ///< a path, instead of host and port
  int database = 0;                ///< as SELECT takes it
  std::string user = {};           ///< of the server's ACL; empty: its default user
  std::string password = {};       ///< empty: none is sent
  bool tls = false;                ///< needs OpenSSL (SLUICE_WITH_TLS); the server's certificate must be one for `host`
  std::string ca_file = {};        ///< who may have signed it, PEM; empty: whom the system or SSL_CERT_FILE trusts
  std::string certificate_file = {};  ///< our own certificate, PEM, for servers that want one
  std::string key_file = {};          ///< the key of that certificate, PEM
  double connect_seconds = 5;         ///< to be connected; a name is looked up with the system's own patience
  double stall_seconds = 10;          ///< a connection on which nothing moves for so long is lost
  double total_seconds = 0;           ///< of a size() or put() with all its retries; 0: as long as bytes flow
  int retries = 4;                    ///< lost connections in a row, without a byte of progress, that are survived
  double retry_budget = 32;           ///< of all calls together; an answer gives a tenth back
  double backoff_seconds = 0.05;      ///< before a retry; doubles, up to 1 s, and up to half of it is left out
  std::uint64_t max_value_bytes = std::uint64_t{512} << 20;  ///< what a string of the server holds (proto-max-bulk-len)
  std::size_t piece_bytes = 1 << 20;                         ///< a range is asked for in pieces of this size
  std::size_t bytes_in_flight = 8 << 20;  ///< asked for and not yet here; bounds what a cancelled read wastes
};

/// The server that a URL of kind redis names.
inline redis_options redis_options_of(const store_url& u) {
  redis_options o;
  o.host = u.host;
  o.port = u.port;
  o.unix_socket = u.unix_socket;
  o.database = u.database;
  o.user = u.user;
  o.password = u.password;
  o.tls = u.tls;
  return o;
}

/// Objects as string values of one Redis server (no cluster), read by pipelined GETRANGE over one connection and written
/// by SET. GETRANGE answers a missing key and a range behind the end alike: both are not_found.
/// Reads, size() and put() survive lost connections; a server that is busy (LOADING, BUSY, TRYAGAIN, MASTERDOWN) is asked
/// again for `stall_seconds`. Other errors of the server are refused or no_space at once, with its own words in detail().
/// Protocol: RESP2, https://redis.io/docs/reference/protocol-spec
class redis_source {
 public:
  /// Connects at the first call.
  explicit redis_source(redis_options options = {})
      : options_(std::move(options)),
        link_({options_.host, options_.port, options_.unix_socket, options_.tls, options_.ca_file,
               options_.certificate_file, options_.key_file}),
        in_(new char[in_bytes]),
        budget_(options_.retry_budget) {}
  redis_source(const redis_source&) = delete;
  redis_source& operator=(const redis_source&) = delete;

  result<std::uint64_t> size(std::string_view key) {
    status s = command({"STRLEN", key}, {});
    const std::uint64_t bytes = std::uint64_t(command_.number);
    if (s == status::ok && bytes == 0) s = command({"EXISTS", key}, {});  // STRLEN of a missing key is 0 as well
    if (s != status::ok) return s;
    if (bytes == 0 && command_.number == 0) return detail_.clear(), status::not_found;
    return bytes;
  }
  status put(std::string_view key, std::span<const std::byte> bytes) {
    if (bytes.size() > options_.max_value_bytes) {
      detail_ = std::to_string(bytes.size()) + " bytes are more than a Redis string holds (" +
                std::to_string(options_.max_value_bytes) + "; proto-max-bulk-len)";
      return status::too_large;
    }
    return command({"SET", key}, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  }

  status erase(std::string_view key) {
    const status s = command({"DEL", key}, {});
    if (s != status::ok) return s;
    return command_.number > 0 ? status::ok : (detail_.clear(), status::not_found);
  }
  /// Of all strings and whatever else the database holds: it should be this store's alone.
  result<std::vector<std::string>> keys() {
    std::vector<std::string> all;
    std::string cursor = "0";
    do {
      const status s = command({"SCAN", cursor, "COUNT", "1000"}, {});
      if (s != status::ok) return s;
      if (command_.list.empty()) return status::parse_error;
      cursor = std::move(command_.list[0]);
      all.insert(all.end(), std::make_move_iterator(command_.list.begin() + 1),
                 std::make_move_iterator(command_.list.end()));
    } while (cursor != "0");
    std::sort(all.begin(), all.end());  // a key may come twice
    all.erase(std::unique(all.begin(), all.end()), all.end());
    return all;
  }

  std::string_view detail() const noexcept { return detail_; }

  ticket submit(const read_request& request) {
    if (reads_.empty() && !command_.open) heard_at_ = now();  // nobody has listened to what is owed of cancelled reads
    reads_.push_back({++last_, std::string(request.key), request.offset, request.buffer, 0, 0});
    if (request.buffer.empty()) finish(last_, status::ok, {});
    return last_;
  }

  std::size_t arrived(ticket t) noexcept {
    const read* r = find(t);
    return r ? r->bytes : 0;
  }

  /// What the server owes of this read would keep the line busy for the others, and a new connection is not free either:
  /// the rest is read and dropped for as long as asking anew would take, then the connection is closed.
  std::size_t cancel(ticket t) {
    if (const read* r = find(t)) {
      const std::size_t bytes = r->bytes;
      reads_.erase(reads_.begin() + (r - reads_.data()));
      if (reads_.empty() && in_flight_ > options_.piece_bytes) disconnect();  // not for a server to keep
      return bytes;
    }
    return done_.cancel(t);
  }

  std::size_t poll(std::span<completion> done, double seconds) {
    return done_.poll(
        done, seconds, detail_, reads_, [&] { return now(); }, [&](double until) { pump(until); });
  }

 private:
  static constexpr std::size_t in_bytes = std::size_t{64} << 10;
  struct read {
    ticket which;
    std::string key;
    std::uint64_t offset;
    std::span<std::byte> buffer;
    std::size_t bytes, asked;  // both from the buffer's first byte on
  };
  // What size() or put() waits for.
  struct waiting {
    bool open = false, asked = false;
    std::string head;
    std::span<const char> value;  // of SET, follows the head
    status state = status::ok;
    long long number = 0;
    std::vector<std::string> list = {};  // what arrays of the answer hold, flat
    long long coming = 0;                // elements of it
  };
  // What the server owes, in order: answers to AUTH and SELECT, to the command, to pieces of reads.
  enum class kind { greeting, command, piece };
  struct owed {
    kind what;
    ticket which = 0;
    std::size_t bytes = 0;
  };
  enum class after { retry, retry_busy, give_up };

  static double now() noexcept {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  }
  read* find(ticket t) noexcept {
    for (read& r : reads_)
      if (r.which == t) return &r;
    return nullptr;
  }
  void finish(ticket t, status s, const std::string& words) {
    const read* r = find(t);
    if (!r) return;
    done_.push({t, s, r->bytes, words});
    reads_.erase(reads_.begin() + (r - reads_.data()));
  }
  void settle_command(status s, long long number = 0) {
    command_.state = s;
    command_.number = number;
    command_.open = false;
  }

  // --- the connection, and what becomes of calls when it is lost ---

  void disconnect() noexcept {
    link_.close();
    owed_.clear();
    out_.clear();
    sent_ = in_begin_ = in_end_ = bulk_left_ = in_flight_ = 0;
    wasted_ = 0;
    value_left_ = {};
    in_bulk_ = false;
    greetings_ = 0;
    command_.asked = false;
    command_.list.clear();
    command_.coming = 0;
    for (read& r : reads_) r.asked = r.bytes;
  }
  // The connection is of no more use: what waits for answers goes on with a new one, or ends.
  void lose(status why, std::string words, after what = after::retry) {
    const bool was_open = link_.now_in() == connection::phase::open;
    disconnect();
    if (reads_.empty() && !command_.open) return;
    detail_ = std::move(words);
    bool again = what != after::give_up && budget_ >= 1;
    if (what == after::retry_busy)
      again = again && now() - progress_at_ < options_.stall_seconds;
    else if (why == status::timed_out)
      again = again && stalls_++ == 0;
    else
      again = again && lost_++ < options_.retries;
    if (!again) {
      stalls_ = lost_ = tries_ = 0;
      retry_at_ = 0;
      if (command_.open) settle_command(why);
      while (!reads_.empty()) finish(reads_.front().which, why, detail_);
      return;
    }
    budget_ -= 1;
    // A connection that has worked is replaced at once; else with growing pauses, of random length so that many clients
    // of a server that comes back do not come back together.
    double pause = was_open && tries_ == 0 && what != after::retry_busy ? 0 : options_.backoff_seconds;
    for (int i = 0; i < tries_ && pause < 1; ++i) pause *= 2;
    random_ = random_ * 6364136223846793005u + 1442695040888963407u;
    retry_at_ = now() + (pause < 1 ? pause : 1) * (0.5 + double(random_ >> 33) / 4294967296.0);
    ++tries_;
  }
  void progress() noexcept {
    progress_at_ = now();
    stalls_ = lost_ = tries_ = 0;
  }

  // --- asking ---

  static void word(std::string& to, std::string_view w) {
    to += '$' + std::to_string(w.size()) + "\r\n";
    to += w;
    to += "\r\n";
  }
  static void words(std::string& to, std::initializer_list<std::string_view> list, std::size_t more = 0) {
    to += '*' + std::to_string(list.size() + more) + "\r\n";
    for (const std::string_view w : list) word(to, w);
  }
  void greet() {
    if (!options_.user.empty())
      words(out_, {"AUTH", options_.user, options_.password});
    else if (!options_.password.empty())
      words(out_, {"AUTH", options_.password});
    if (!out_.empty()) owe({kind::greeting});
    if (!options_.database) return;
    words(out_, {"SELECT", std::to_string(options_.database)});
    owe({kind::greeting});
  }
  void owe(owed o) {
    if (owed_.empty()) heard_at_ = asked_at_ = now();
    if (owed_.empty() && tries_ == 0) progress_at_ = heard_at_;
    owed_.push_back(o);
    greetings_ += o.what == kind::greeting;
    in_flight_ += o.bytes;
  }
  // The command, then pieces of reads, oldest first, as long as there is room in flight; nothing before the server has
  // let us in and taken the right database.
  void ask() {
    if (greetings_ > 0 || !value_left_.empty()) return;
    if (command_.open && !command_.asked) {
      command_.asked = true;
      out_ += command_.head;
      value_left_ = command_.value;
      owe({kind::command});
      if (!value_left_.empty()) return;
    }
    for (read& r : reads_)
      while (r.asked < r.buffer.size()) {
        if (in_flight_ >= options_.bytes_in_flight) return;
        const std::size_t left = r.buffer.size() - r.asked;
        const std::size_t n = left < options_.piece_bytes ? left : options_.piece_bytes;
        const std::uint64_t first = r.offset + r.asked;
        words(out_, {"GETRANGE", r.key, std::to_string(first), std::to_string(first + n - 1)});
        owe({kind::piece, r.which, n});
        r.asked += n;
      }
  }
  // Writes what is to be written as far as that goes. False: the connection is lost.
  bool flush() {
    while (true) {
      const bool head = sent_ < out_.size();
      const std::span<const char> from = head ? std::span<const char>(out_).subspan(sent_) : value_left_;
      if (from.empty()) {
        out_.clear();
        sent_ = 0;
        return true;
      }
      const long n = link_.write(from);
      if (n <= 0) return n == 0;
      heard_at_ = now();
      if (head) {
        sent_ += std::size_t(n);
      } else if (value_left_ = value_left_.subspan(std::size_t(n)); value_left_.empty()) {
        out_ = "\r\n";
        sent_ = 0;
      }
    }
  }

  // --- one round: connect, ask, wait, take what has come ---

  void pump(double until) {
    if (link_.now_in() != connection::phase::open && !connect(until)) return;
    ask();
    const bool writable = flush();
    // As long as bytes lie ready and a piece is not whole; then the caller has its turn.
    const std::size_t owed_before = owed_.size();
    bool heard = false;
    do {
      read* r = bulk_left_ ? find(owed_.front().which) : nullptr;
      const std::span<char> piece =
          r ? std::span(reinterpret_cast<char*>(r->buffer.data()) + r->bytes, bulk_left_) : std::span<char>();
      const long n = link_.read(piece, {in_.get() + in_end_, in_bytes - in_end_});
      if (n < 0 || (n == 0 && !writable)) return lose(link_.state(), link_.words());
      if (n == 0) return heard ? void() : wait(until);
      const double passed = now() - std::exchange(heard_at_, now());
      if (asked_at_ > 0) least(round_trip_, heard_at_ - std::exchange(asked_at_, 0));
      wasted_ =
          bulk_left_ && !r ? wasted_ + std::min(passed, round_trip_) : 0;  // where nothing comes, nothing is wasted
      if (wasted_ > connecting_ + 3 * round_trip_)
        return disconnect();  // a new connection's rate grows for some round trips
      heard = true;
      const std::size_t direct = std::size_t(n) < piece.size() ? std::size_t(n) : piece.size();
      if (direct) {
        r->bytes += direct;
        bulk_left_ -= direct;
        progress();
      }
      in_end_ += std::size_t(n) - direct;
      if (!take()) return;
    } while (owed_.size() == owed_before);
  }
  // Whether the connection is there. If not, it may be later.
  bool connect(double until) {
    using phase = connection::phase;
    if (link_.now_in() == phase::closed) {
      if (const double t = now(); t < retry_at_) {
        const double pause = (retry_at_ < until ? retry_at_ : until) - t;
        ::poll(nullptr, 0, pause < 0 ? 0 : int((pause < 60 ? pause : 60) * 1000 + 0.999));
        return false;
      }
      connect_at_ = now();
      if (tries_ == 0) progress_at_ = connect_at_;
      if (!link_.start(options_.connect_seconds)) return not_connected();
    }
    if (!link_.advance()) return not_connected();
    if (link_.now_in() != phase::open) {
      link_.wait((link_.until() < until ? link_.until() : until) - now());
      return false;
    }
    least(connecting_, now() - connect_at_);
    greet();
    return true;
  }
  // The least that has been seen; 0 = nothing yet.
  static void least(double& seen, double seconds) noexcept { seen = seen > 0 ? std::min(seen, seconds) : seconds; }
  bool not_connected() {
    const bool useless = link_.state() == status::refused || link_.state() == status::invalid_argument;
    lose(link_.state(), link_.words(), useless ? after::give_up : after::retry);
    return false;
  }
  void wait(double until) {
    double silent_until = heard_at_ + options_.stall_seconds;
    if (now() >= silent_until || owed_.empty()) {
      char seconds[32];
      std::snprintf(seconds, sizeof seconds, "%.3g", options_.stall_seconds);
      return lose(status::timed_out, link_.where().words() + ": nothing came or went for " + seconds + " s");
    }
    // What the system has taken from us may still be on its way, at the speed of the link.
    if (const double look = now() + options_.stall_seconds / 4; look < silent_until) silent_until = look;
    link_.wait((silent_until < until ? silent_until : until) - now());
    if (const long unsent = link_.unsent(); unsent != std::exchange(unsent_, unsent)) heard_at_ = now();
  }

  // --- answers ---

  // Hands on what has come. False when the connection is gone.
  bool take() {
    while (true) {
      std::string_view in(in_.get() + in_begin_, in_end_ - in_begin_);
      if (bulk_left_) {
        const std::size_t n = in.size() < bulk_left_ ? in.size() : bulk_left_;
        if (read* r = find(owed_.front().which); r && n) {
          std::memcpy(r->buffer.data() + r->bytes, in.data(), n);
          r->bytes += n;
          progress();
        } else if (owed_.front().what == kind::command) {
          command_.list.back().append(in.data(), n);
        }
        bulk_left_ -= n;
        in_begin_ += n;
        in.remove_prefix(n);
      }
      const std::size_t end = in.find('\n');
      if (bulk_left_ || end == in.npos) {
        if (in_end_ - in_begin_ == in_bytes) return nonsense();
        std::memmove(in_.get(), in.data(), in.size());
        in_begin_ = 0;
        in_end_ = in.size();
        return true;
      }
      in_begin_ += end + 1;
      if (end == 0 || in[end - 1] != '\r') return nonsense();
      if (!line(in.substr(0, end - 1))) return false;
    }
  }
  bool nonsense() {
    return lose(status::parse_error, link_.where().words() + ": the answer is not that of Redis"), false;
  }

  bool line(std::string_view text) {
    if (in_bulk_) {  // behind the bytes of a piece
      if (!text.empty()) return nonsense();
      in_bulk_ = false;
      return owed_.front().what == kind::piece ? piece_is_here() : element_is_here(0);
    }
    if (text.starts_with('-')) return error(text.substr(1));
    if (text.empty() || owed_.empty()) return nonsense();
    const owed o = owed_.front();
    const char type = text[0];
    text.remove_prefix(1);
    long long number = 0;
    if (type == ':' || type == '$' || type == '*') {
      const bool negative = text.starts_with('-');
      text.remove_prefix(negative);
      if (text.empty() || text.size() > 18 || text.find_first_not_of("0123456789") != text.npos) return nonsense();
      for (const char c : text) number = 10 * number + (c - '0');
      if (negative && type == ':') return nonsense();  // lengths and counts
      if (negative) number = -number;
    }
    if (o.what == kind::piece) {
      if (type != '$') return nonsense();
      if (number > (long long)(o.bytes))
        return lose(status::wrong_length, link_.where().words() + ": " + std::to_string(number) + " bytes for the " +
                                              std::to_string(o.bytes) + " that were asked for"),
               false;
      bulk_left_ = bulk_ = number > 0 ? std::size_t(number) : 0;
      in_bulk_ = number >= 0;
      return in_bulk_ || piece_is_here();
    }
    if (o.what == kind::command && type == '*') return element_is_here(number);
    if (o.what == kind::command && type == '$' && number >= 0) {
      command_.list.emplace_back();
      bulk_left_ = std::size_t(number);
      return in_bulk_ = true;
    }
    if ((type != '+' && type != ':') || command_.coming > 0) return nonsense();
    owed_.pop_front();
    if (o.what == kind::greeting) {
      --greetings_;
    } else {
      settle_command(status::ok, number);
      answered();
    }
    return true;
  }
  // Of an array, which may be one of `more` elements itself; the command is done with its last one.
  bool element_is_here(long long more) {
    if (more < 0 || more > 1 << 24) return nonsense();
    if (command_.coming > 0) --command_.coming;
    command_.coming += more;
    progress();
    if (command_.coming > 0) return true;
    owed_.pop_front();
    settle_command(status::ok);
    answered();
    return true;
  }
  void answered() {
    progress();
    budget_ = budget_ + 0.1 < options_.retry_budget ? budget_ + 0.1 : options_.retry_budget;
  }
  bool piece_is_here() {
    const owed o = owed_.front();
    owed_.pop_front();
    in_flight_ -= o.bytes;
    answered();
    const read* r = find(o.which);
    if (!r) return true;
    if (bulk_ == 0)
      finish(o.which, status::not_found, {});
    else if (bulk_ != o.bytes)
      finish(o.which, status::wrong_length, "the value ends " + std::to_string(o.bytes - bulk_) + " bytes too early");
    else if (r->bytes == r->buffer.size())
      finish(o.which, status::ok, {});
    return true;
  }

  // False when the connection is given up. Errors are told by their first word.
  bool error(std::string_view text) {
    const auto is = [&](std::initializer_list<std::string_view> list) {
      for (const std::string_view w : list)
        if (text.starts_with(w)) return true;
      return false;
    };
    // Servers that do not know a command quote what it was given, which of AUTH is a secret.
    const std::string said =
        "Redis says: " + sluice::detail::one_line(text.substr(0, text.find("with args")), options_.password);
    if (is({"LOADING", "BUSY ", "TRYAGAIN", "MASTERDOWN", "ERR max number of clients"}))
      return lose(status::refused, said, after::retry_busy), false;
    if (owed_.empty()) return lose(status::refused, said), false;
    const owed o = owed_.front();
    if (o.what == kind::greeting) return lose(status::refused, said, after::give_up), false;
    owed_.pop_front();
    in_flight_ -= o.bytes;
    status state = is({"OOM", "MISCONF"}) ? status::no_space : status::refused;
    if (is({"ERR Protocol error: invalid bulk length", "ERR string exceeds maximum"})) state = status::too_large;
    detail_ = said;
    if (is({"MOVED", "ASK ", "CLUSTERDOWN", "CROSSSLOT"}))
      detail_ += " (the server is one of a cluster, which is not supported: name a single server)";
    if (o.what == kind::command)
      settle_command(state);
    else
      finish(o.which, state, detail_);
    return true;
  }

  status command(std::initializer_list<std::string_view> list, std::span<const char> value) {
    const double limit = now() + (options_.total_seconds > 0 ? options_.total_seconds : 1e9);
    command_ = {};
    command_.open = true;
    const bool set = list.begin()[0] == "SET";
    words(command_.head, list, set);
    if (set) command_.head += '$' + std::to_string(value.size()) + "\r\n";
    if (set && value.empty()) command_.head += "\r\n";
    command_.value = value;
    while (command_.open && now() < limit) pump(limit);
    if (command_.open) {
      char seconds[32];
      std::snprintf(seconds, sizeof seconds, "%.3g", options_.total_seconds);
      detail_ =
          link_.where().words() + ": no answer within " + seconds + " s" + (detail_.empty() ? "" : "; " + detail_);
      settle_command(status::timed_out);
      disconnect();
    }
    if (!value_left_.empty()) disconnect();  // refused before all was sent
    command_.value = {};
    return command_.state;
  }

  using connection = sluice::detail::connection;
  redis_options options_;
  connection link_;
  std::unique_ptr<char[]> in_;  // what has come and is not yet understood
  std::size_t in_begin_ = 0, in_end_ = 0;
  std::size_t bulk_ = 0, bulk_left_ = 0;  // bytes of the piece that is coming
  bool in_bulk_ = false;
  std::string out_;  // to be written, from `sent_` on; then what is left of the value
  std::size_t sent_ = 0;
  std::span<const char> value_left_;
  std::vector<read> reads_;
  std::deque<owed> owed_;
  detail::ended_reads done_;
  waiting command_;
  std::string detail_;
  int greetings_ = 0, lost_ = 0, stalls_ = 0, tries_ = 0;
  double budget_, retry_at_ = 0;
  double heard_at_ = 0;                     // when a byte came or went
  double asked_at_ = 0, connect_at_ = 0;    // since when an answer, or a connection, is waited for
  double round_trip_ = 0, connecting_ = 0;  // seconds, the least seen
  double wasted_ = 0;                       // seconds in which bytes came that nobody wants any more
  double progress_at_ = 0;                  // when an answer brought something
  long unsent_ = 0;
  std::uint64_t random_ = std::uint64_t(now() * 1e9) ^ std::uint64_t(reinterpret_cast<std::uintptr_t>(this));
  std::size_t in_flight_ = 0;
  ticket last_ = 0;
};

static_assert(tier_source<redis_source>);

}  // namespace sluice::stream
