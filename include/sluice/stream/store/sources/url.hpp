// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <sluice/status.hpp>

#include <arpa/inet.h>
#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

// Where stores are, in the words that users write: URLs after RFC 3986, read once, and what each kind of store takes of
// them. What a store has no use for is refused by name; nothing that looks like a URL becomes a folder.

namespace sluice::stream {

/// The parts of a URL. User, password and host are decoded; path, query and fragment stay as they were written.
struct url {
  std::string scheme;          ///< lower case
  std::string user;            ///< decoded
  std::string password;        ///< decoded
  std::string host;            ///< lower case; an IPv6 address without its brackets
  std::string path;            ///< percent-encoded
  std::string query;           ///< percent-encoded, without ?
  std::string fragment;        ///< percent-encoded, without #
  int port = 0;                ///< 0 = not given
  bool has_authority = false;  ///< whether // was there, even with nothing behind it
  bool has_user = false;       ///< whether @ was there
  bool has_password = false;   ///< whether : was there between // and @
  bool has_query = false;      ///< whether ? was there
  bool has_fragment = false;   ///< whether # was there
};

/// Characters that need no encoding anywhere in a URL (RFC 3986, 2.3).
constexpr bool is_unreserved(char c) noexcept {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '.' ||
         c == '_' || c == '~';
}

/// Text with %XX for every byte that is neither unreserved nor in `keep`.
inline std::string percent_encode(std::string_view text, std::string_view keep = {}) {
  constexpr char digits[] = "0123456789ABCDEF";
  std::string out;
  for (const char c : text) {
    if (is_unreserved(c) || keep.find(c) != keep.npos) {
      out += c;
    } else {
      const auto byte = static_cast<unsigned char>(c);
      out += {'%', digits[byte >> 4], digits[byte & 15]};
    }
  }
  return out;
}

/// Text with every %XX replaced by its byte. Errors: parse_error (a % without two hexadecimal digits, or %00).
inline result<std::string> percent_decode(std::string_view text) {
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                  : -1;
  };
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '%') {
      out += text[i];
      continue;
    }
    const int high = i + 2 < text.size() ? digit(text[i + 1]) : -1, low = i + 2 < text.size() ? digit(text[i + 2]) : -1;
    if (high < 0 || low < 0 || high + low == 0) return status::parse_error;
    out += static_cast<char>(high << 4 | low);
    i += 2;
  }
  return out;
}

/// Whether text claims to be a URL: something before its first slash ends in a colon. `./a:b` is a folder, `a:b` is not.
constexpr bool looks_like_url(std::string_view text) noexcept {
  const std::size_t colon = text.find(':');
  return colon != text.npos && colon < text.find('/');
}

/// Reads a URL. Bytes that a URL should have encoded are taken as they are in user, password and path; of several @ the
/// last one ends the password. Errors: parse_error, with what is wrong in `why`, which quotes no secret.
inline result<url> parse_url(std::string_view text, std::string* why = nullptr) {
  const auto wrong = [&](const char* words) {
    if (why) *why = words;
    return status::parse_error;
  };
  for (const char c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) return wrong("a URL holds no control characters");
  url u;
  const std::size_t colon = text.find(':');
  if (colon == text.npos || colon == 0) return wrong("the URL has no scheme");
  for (std::size_t i = 0; i < colon; ++i) {
    const char c = text[i], lower = c >= 'A' && c <= 'Z' ? char(c + 32) : c;
    const bool letter = lower >= 'a' && lower <= 'z';
    if (!letter && (i == 0 || !((c >= '0' && c <= '9') || c == '+' || c == '-' || c == '.')))
      return wrong("what stands before the first colon is no scheme");
    u.scheme += lower;
  }
  text.remove_prefix(colon + 1);
  const auto cut = [&](char mark, std::string& part, bool& has) {
    const std::size_t at = text.find(mark);
    has = at != text.npos;
    if (!has) return;
    part = text.substr(at + 1);
    text = text.substr(0, at);
  };
  cut('#', u.fragment, u.has_fragment);
  cut('?', u.query, u.has_query);

  if (text.starts_with("//")) {
    text.remove_prefix(2);
    u.has_authority = true;
    std::string_view authority = text.substr(0, text.find('/'));
    text.remove_prefix(authority.size());
    if (const std::size_t at = authority.rfind('@'); at != authority.npos) {
      const std::string_view info = authority.substr(0, at);
      const std::size_t end = info.find(':');
      const result<std::string> user = percent_decode(info.substr(0, end));
      const result<std::string> password = percent_decode(end == info.npos ? std::string_view() : info.substr(end + 1));
      if (!user || !password)
        return wrong("a % in the user or the password is not followed by two hexadecimal digits (% itself is %25)");
      u.user = *user;
      u.password = *password;
      u.has_user = true;
      u.has_password = end != info.npos;
      authority.remove_prefix(at + 1);
    }
    std::string_view port;
    if (authority.starts_with('[')) {
      const std::size_t end = authority.find(']');
      if (end == authority.npos) return wrong("the [ of an IPv6 address is not closed");
      u.host = authority.substr(1, end - 1);
      in6_addr address;
      if (::inet_pton(AF_INET6, u.host.c_str(), &address) != 1) return wrong("what stands in [ ] is no IPv6 address");
      authority.remove_prefix(end + 1);
      if (!authority.empty() && authority[0] != ':')
        return wrong("something other than a port follows the IPv6 address");
      port = authority.substr(authority.empty() ? 0 : 1);
    } else {
      const std::size_t end = authority.find(':');
      if (end != authority.npos && authority.find(':', end + 1) != authority.npos)
        return wrong(
            "the host or port holds a further colon (an IPv6 address stands in [ ], a colon in a password is %3A)");
      port = end == authority.npos ? std::string_view() : authority.substr(end + 1);
      const result<std::string> host = percent_decode(authority.substr(0, end));
      if (!host) return wrong("a % in the host is not followed by two hexadecimal digits");
      u.host = *host;
      for (const char c : u.host)
        if (!is_unreserved(c))
          return wrong(
              "the host holds a character that no host name has (names in other scripts are written as xn--...; "
              "/ ? # in a password as %2F %3F %23)");
    }
    for (char& c : u.host)
      if (c >= 'A' && c <= 'Z') c = char(c + 32);
    for (const char c : port) {
      u.port = c >= '0' && c <= '9' && u.port <= 65535 ? 10 * u.port + (c - '0') : 1 << 20;
      if (u.port > 65535) break;
    }
    if (!port.empty() && (u.port < 1 || u.port > 65535))
      return wrong("the port is no number from 1 to 65535 (/ ? # in a password are %2F %3F %23)");
  }
  u.path = text;
  for (const std::string* part : {&u.path, &u.query, &u.fragment})
    if (!percent_decode(*part))
      return wrong("a % in the path is not followed by two hexadecimal digits, or is %00 (% itself is %25)");
  return u;
}

/// A URL for messages: with *** for the password, for a user without one (often a token) and for a query. Of text that is
/// no URL everything that could be a secret is left out.
inline std::string redacted(std::string_view text) {
  if (!looks_like_url(text)) return std::string(text);
  const result<url> u = parse_url(text);
  std::string out;
  // A slash in a password that should have been encoded makes the rest of it a path (? a query), with an @ in it.
  const bool sure = u && ((u->path + u->query + u->fragment).find('@') == std::string::npos ||
                          (u->has_authority && !u->has_user && u->port == 0 &&
                           (u->scheme.starts_with("http") || u->scheme.starts_with("s3"))));
  if (!sure) {
    const std::size_t at = text.rfind('@'), colon = text.find(':');
    const std::string_view rest = text.substr(at == text.npos ? colon + 1 : at);
    out = std::string(text.substr(0, colon + 1)) + (at == text.npos ? "" : "***") +
          std::string(rest.substr(0, rest.find_first_of("?#")));
    for (char& c : out)
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    return out;
  }
  out = u->scheme + (u->has_authority ? "://" : ":");
  if (u->has_user) out += u->has_password ? percent_encode(u->user, "!$&'()*+,;=") + ":***@" : std::string("***@");
  out += u->host.find(':') == u->host.npos ? u->host : "[" + u->host + "]";
  if (u->port) out += ":" + std::to_string(u->port);
  out += u->path;
  if (u->has_query) out += "?***";
  if (u->has_fragment) out += "#***";
  return out;
}

/// What kind of store a name means, and with it which source reads it.
enum class store_kind { folder, redis, http, s3 };

/// What parse_store_url() understands, for usage texts.
inline constexpr char store_url_forms[] =
    "DIR | file:///DIR | redis[s]://[[USER]:PASSWORD@]HOST[:PORT][/DB] | "
    "redis+unix://[[USER]:PASSWORD@]/SOCKET[?db=DB] | "
    "http[s]://[USER:PASSWORD@]HOST[:PORT]/PATH | s3://BUCKET[/PREFIX] | s3+http[s]://HOST[:PORT]/BUCKET[/PREFIX]";

/// Where a store is.
struct store_url {
  store_kind kind = store_kind::folder;  ///< which of the fields below count
  std::string folder;                    ///< of kind folder
  bool tls = false;                      ///< rediss, https, s3+https
  std::string user;                      ///< of redis and http; empty = none was given
  std::string password;                  ///< the same
  std::string host;                      ///< of a server; empty for a Unix socket and for s3://BUCKET
  int port = 0;                          ///< never 0 where there is a host
  std::string unix_socket;               ///< path of the socket of a Redis server on this machine
  int database = 0;                      ///< of a Redis server
  std::string bucket;                    ///< of s3://BUCKET/PREFIX, whose endpoint the environment names
  std::string path;     ///< http and s3: percent-encoded, empty or with a slash in front, none at the end
  std::string printed;  ///< the URL without its secrets
};

/// Reads where a store is: see store_url_forms. For Redis a lone user part is the password, as redis-cli and Lettuce
/// take it (`redis://token@host`), `?db=` is a database as in redis-py, and unix:// means redis+unix://. Text without a
/// colon before its first slash is a folder. Errors: invalid_argument, with what is wrong in `why`, which quotes no
/// secret.
inline result<store_url> parse_store_url(std::string_view text, std::string* why = nullptr) {
  const auto wrong = [&](const std::string& words) {
    if (why) *why = words;
    return status::invalid_argument;
  };
  store_url s;
  s.printed = redacted(text);
  if (text.empty()) return wrong("the name of the store is empty");
  if (!looks_like_url(text)) {
    if (text.find('\0') != text.npos) return wrong("the name of a folder holds no zero byte");
    s.folder = text;
    return s;
  }
  const std::string forms = std::string("; a store is ") + store_url_forms;
  std::string words;
  const result<url> parsed = parse_url(text, &words);
  if (!parsed) return wrong(words + forms + " (a folder with a colon in its name is written ./DIR)");
  const url& u = *parsed;
  const bool redis_socket = u.scheme == "redis+unix" || u.scheme == "unix" || u.scheme == "redis-socket";
  const bool redis = redis_socket || u.scheme == "redis" || u.scheme == "rediss";
  const bool s3 = u.scheme == "s3" || u.scheme == "s3+http" || u.scheme == "s3+https";
  const bool http = u.scheme == "http" || u.scheme == "https";
  if (!redis && !s3 && !http && u.scheme != "file")
    return wrong("\"" + u.scheme + ":\" is no kind of store" + forms +
                 " (a folder with a colon in its name is written ./DIR)");
  if (!u.has_authority && u.scheme != "file") return wrong("// is missing after \"" + u.scheme + ":\"" + forms);
  if (u.has_fragment) return wrong("the URL of a store has no fragment (# in a name is %23)");
  if (u.has_query && !redis) return wrong("the URL of a store has no query (? in a name is %3F)");
  s.user = u.user;
  s.password = u.password;
  s.host = u.host;

  if (u.scheme == "file") {
    if (u.has_user || u.port || (!u.host.empty() && u.host != "localhost"))
      return wrong("file: names no host; an absolute folder is file:///DIR");
    if (!u.path.starts_with('/')) return wrong("file: takes an absolute folder: file:///DIR");
    s.host.clear();
    s.folder = percent_decode(u.path).value();
    return s;
  }

  if (redis) {
    s.kind = store_kind::redis;
    if (u.has_user && !u.has_password) std::swap(s.user, s.password);
    s.tls = u.scheme == "rediss";
    std::string_view database = std::string_view(u.path).substr(u.path.empty() ? 0 : 1);
    if (redis_socket) {
      if (!u.host.empty() || u.port) return wrong("a Unix socket has no host: " + u.scheme + ":///PATH");
      s.unix_socket = percent_decode(u.path).value();
      if (s.unix_socket.size() < 2) return wrong("the path of the Unix socket is missing: " + u.scheme + ":///PATH");
      database = {};
    } else {
      if (s.host.empty()) s.host = "127.0.0.1";
      s.port = u.port ? u.port : 6379;
      while (database.ends_with('/')) database.remove_suffix(1);
    }
    if (u.has_query && !u.query.empty()) {
      const std::size_t equals = u.query.find('=');
      const std::string name = u.query.substr(0, equals);
      if ((name != "db" && name != "database") || u.query.find('&') != u.query.npos)
        return wrong("of a query only ?db=NUMBER is understood; user and password stand before the host");
      if (!database.empty()) return wrong("the database is named twice, in the path and in the query");
      database = std::string_view(u.query).substr(equals == u.query.npos ? u.query.size() : equals + 1);
      if (database.empty()) return wrong("the database is no number from 0 to 1048576");
    }
    for (const char c : database) {
      s.database = c >= '0' && c <= '9' ? 10 * s.database + (c - '0') : 1 << 21;
      if (s.database > 1 << 20) return wrong("the database is no number from 0 to 1048576");
    }
    return s;
  }

  s.path = u.path;
  while (s.path.ends_with('/')) s.path.pop_back();
  for (std::size_t at = 0; at < s.path.size();) {
    const std::size_t end = std::min(s.path.find('/', at + 1), s.path.size());
    const std::string part = percent_decode(std::string_view(s.path).substr(at + 1, end - at - 1)).value();
    if (part == "." || part == "..") return wrong("a path with . or .. means different things to different servers");
    at = end;
  }
  if (s.host.empty())
    return wrong(u.scheme == "s3" ? "the bucket is missing: s3://BUCKET/PREFIX" : "the host is missing");
  s.tls = u.scheme == "https" || u.scheme == "s3+https";
  s.port = u.port ? u.port : s.tls ? 443 : 80;
  if (http) {
    s.kind = store_kind::http;
    if (s.user.find(':') != s.user.npos) return wrong("the name of an HTTP user holds no colon");
    return s;
  }
  s.kind = store_kind::s3;
  if (u.has_user)
    return wrong("keys of S3 are not written into the URL; they come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY");
  if (u.scheme == "s3") {
    if (u.port) return wrong("s3://BUCKET has no port; AWS_ENDPOINT_URL names another server");
    // Buckets may have capitals on servers other than Amazon's; those of hosts do not count.
    const std::size_t begin = text.find("//") + 2;
    s.bucket = percent_decode(text.substr(begin, text.find_first_of("/:", begin) - begin)).value();
    s.host.clear();
    s.port = 0;
  } else if (s.path.empty()) {
    return wrong("the bucket is missing: " + u.scheme + "://HOST/BUCKET/PREFIX");
  }
  return s;
}

}  // namespace sluice::stream
